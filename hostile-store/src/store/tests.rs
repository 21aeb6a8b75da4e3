//! What the server does as each of the stores: each row that `docs/backends/seen-in-stores.md` names.

use hyper::Request;

use super::*;
use crate::request::parse;

/// Asks as a client would, `now` being a minute after the start.
struct Asking {
    store: Store,
    like: Like,
    now: Millis,
}

impl Asking {
    fn a(like: Like) -> Self {
        let store = Store { objects: Objects::default(), random: Random::new(1) };
        Self { store, like, now: 60_000 }
    }

    fn with(&mut self, method: &str, uri: &str, header: (&str, &str), body: &str) -> Result<Answer, Problem> {
        let request = Request::builder().method(method).uri(uri).header(header.0, header.1).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let operation = &parse(&parts, "b", self.like == Like::Cubefs)?;
        let body = &Bytes::from(body.to_owned());
        let asked = Asked { operation, parts: &parts, body, like: self.like, now: self.now, behind: 5_000 };
        self.store.apply(&asked, None)
    }

    fn ask(&mut self, method: &str, uri: &str) -> Result<Answer, Problem> {
        self.with(method, uri, ("x-none", ""), "body")
    }

    /// The status and the word for it.
    fn seen(&mut self, method: &str, uri: &str, header: (&str, &str)) -> (u16, &'static str) {
        match self.with(method, uri, header, "body") {
            Ok(answer) => (answer.status, ""),
            Err(problem) => (problem.status, problem.code),
        }
    }

    fn is_there(&mut self, uri: &str) -> bool {
        self.ask("GET", uri).is_ok()
    }

    fn keys(&mut self, uri: &str) -> (Vec<String>, bool) {
        let answer = self.ask("GET", uri).unwrap();
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let keys = texts(&text, "Key").into_iter().map(str::to_owned).collect();
        (keys, texts(&text, "IsTruncated") == ["true"])
    }
}

/// MD5 of "body".
const ETAG: &str = "841a2d689ad86bd1611447453c22c6fc";

#[test]
fn if_none_match_holds_but_for_cubefs() {
    for (like, second) in [(Like::Plain, 412), (Like::CephRgw, 412), (Like::Cubefs, 200)] {
        let mut store = Asking::a(like);
        assert_eq!(store.seen("PUT", "/b/a", ("if-none-match", "*")).0, 200);
        assert_eq!(store.seen("PUT", "/b/a", ("if-none-match", "*")).0, second, "{like:?}");
    }
}

#[test]
fn if_match_in_quotes_is_always_412_for_ceph_and_ignored_by_cubefs() {
    let quoted = format!("\"{ETAG}\"");
    let other = format!("\"{}\"", "0".repeat(32));
    for (like, etag, status) in [
        (Like::Plain, quoted.as_str(), 200),
        (Like::Plain, other.as_str(), 412),
        (Like::CephRgw, quoted.as_str(), 412),
        (Like::CephRgw, ETAG, 200),
        (Like::Cubefs, other.as_str(), 200),
    ] {
        let mut store = Asking::a(like);
        store.ask("PUT", "/b/a").unwrap();
        store.now += 60_000;
        assert_eq!(store.seen("PUT", "/b/a", ("if-match", etag)).0, status, "{like:?} {etag}");
    }
}

#[test]
fn who_loses_a_race_by_if_match_is_often_told_500_by_ceph() {
    let mut store = Asking::a(Like::CephRgw);
    store.ask("PUT", "/b/a").unwrap();
    let seen: Vec<_> = (0..32).map(|_| store.seen("PUT", "/b/a", ("if-match", "0")).0).collect();
    assert!(seen.contains(&500) && seen.contains(&412), "{seen:?}");
}

#[test]
fn conditions_of_deletes_and_completions_are_kept_by_the_api_and_ignored_by_ceph_and_cubefs() {
    for (like, kept) in [(Like::Plain, true), (Like::CephRgw, false), (Like::Cubefs, false)] {
        let mut store = Asking::a(like);
        store.ask("PUT", "/b/a").unwrap();
        let begun = store.ask("POST", "/b/a?uploads").unwrap();
        let id = texts(std::str::from_utf8(&begun.body).unwrap(), "UploadId")[0].to_owned();
        let completed = store.seen("POST", &format!("/b/a?uploadId={id}"), ("if-none-match", "*")).0;
        assert_eq!(completed == 412, kept, "{like:?}");
        assert_eq!(store.seen("DELETE", "/b/a", ("if-match", "\"0\"")).0 == 412, kept, "{like:?}");
        assert_eq!(store.is_there("/b/a"), kept, "{like:?}");
    }
}

#[test]
fn a_recursive_listing_of_cubefs_walks_folders_and_loses_keys() {
    for (like, keeps) in [(Like::Plain, true), (Like::Cubefs, false)] {
        let mut store = Asking::a(like);
        for at in 0..30 {
            store.ask("PUT", &format!("/b/f/a/{at:02}")).unwrap();
        }
        store.ask("PUT", "/b/f/a-b").unwrap();
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().cloned().unwrap_or_default();
            let (keys, _) = store.keys(&format!("/b/?list-type=2&prefix=f/&max-keys=7&start-after={after}"));
            if keys.is_empty() {
                break;
            }
            all.extend(keys);
        }
        assert_eq!(all.len() == 31, keeps, "{like:?}: {all:?}");
        let mut at = |key: &str| store_order(&mut store, key);
        assert_eq!(at("f/a-b") < at("f/a/00"), keeps, "{like:?}: bytes have the file first");
    }

    fn store_order(store: &mut Asking, key: &str) -> Option<usize> {
        let (keys, _) = store.keys("/b/?list-type=2&prefix=f/&max-keys=1000");
        keys.iter().position(|listed| listed == key).or(Some(usize::MAX))
    }
}

#[test]
fn a_page_of_cubefs_says_that_it_is_the_last_when_it_is_not() {
    for (like, truncated) in [(Like::Plain, true), (Like::Cubefs, false)] {
        let mut store = Asking::a(like);
        for at in 0..5 {
            store.ask("PUT", &format!("/b/f/{at}")).unwrap();
        }
        let (keys, more) = store.keys("/b/?list-type=2&prefix=f/&delimiter=/&max-keys=2");
        assert_eq!((keys.len(), more), (2, truncated), "{like:?}");
    }
}

#[test]
fn keys_of_cubefs_are_paths_of_files() {
    let mut store = Asking::a(Like::Cubefs);
    store.ask("PUT", "/b/x/y").unwrap();
    assert_eq!(store.seen("PUT", "/b/x", ("x-none", "")).0, 409);
    assert_eq!(store.seen("PUT", "/b/x/y/z", ("x-none", "")).0, 409);
    store.ask("PUT", "/b/a//b").unwrap();
    assert!(store.is_there("/b/a/b"));
    let mut store = Asking::a(Like::Plain);
    store.ask("PUT", "/b/x/y").unwrap();
    store.ask("PUT", "/b/x").unwrap();
    store.ask("PUT", "/b/a//b").unwrap();
    assert!(!store.is_there("/b/a/b"));
}

#[test]
fn a_delete_of_many_without_md5_is_400_for_cubefs() {
    for (like, status) in [(Like::Plain, 200), (Like::CephRgw, 200), (Like::Cubefs, 400)] {
        assert_eq!(Asking::a(like).seen("POST", "/b/?delete", ("x-none", "")).0, status, "{like:?}");
    }
}

#[test]
fn a_wrong_md5_is_400_and_cubefs_stores_the_object_all_the_same() {
    for (like, stored) in [(Like::Plain, false), (Like::CephRgw, false), (Like::Cubefs, true)] {
        let mut store = Asking::a(like);
        let wrong = ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
        assert_eq!(store.seen("PUT", "/b/a", wrong), (400, "BadDigest"), "{like:?}");
        assert_eq!(store.is_there("/b/a"), stored, "{like:?}");
    }
}

#[test]
fn a_wrong_crc_is_found_by_the_api_and_ignored_by_ceph_and_cubefs() {
    for (like, status) in [(Like::Plain, 400), (Like::CephRgw, 200), (Like::Cubefs, 200)] {
        let seen = Asking::a(like).seen("PUT", "/b/a", ("x-amz-checksum-crc32c", "AAAAAA=="));
        assert_eq!(seen.0, status, "{like:?}");
    }
}

#[test]
fn parts_of_cubefs_begin_at_a_mebibyte() {
    for (like, completes) in [(Like::Plain, false), (Like::Cubefs, true)] {
        let mut store = Asking::a(like);
        let begun = store.ask("POST", "/b/a?uploads").unwrap();
        let id = texts(std::str::from_utf8(&begun.body).unwrap(), "UploadId")[0].to_owned();
        let (large, small) = ("x".repeat(1 << 20), "end");
        let mut document = String::new();
        for (number, body) in [(1, large.as_str()), (2, small)] {
            let uri = format!("/b/a?partNumber={number}&uploadId={id}");
            let stored = store.with("PUT", &uri, ("x-none", ""), body).unwrap();
            document += &format!("<PartNumber>{number}</PartNumber><ETag>{}</ETag>", stored.headers[0].1);
        }
        let completed = store.with("POST", &format!("/b/a?uploadId={id}"), ("x-none", ""), &document);
        assert_eq!(completed.is_ok(), completes, "{like:?}");
    }
}

#[test]
fn base64_is_that_of_the_standard() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
}
