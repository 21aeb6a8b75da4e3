//! What the S3 client puts on the wire, and what it makes of answers that no store should give.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::config::{PayloadSigning, Sse};
use seawall_backends::s3::S3Backend;
use seawall_backends::{
    Backend, BackendConfig, BackendError, BackendKind, PartBody, PartNumber, PartsId, Purpose, Segments,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use recording_server::{ACCESS, Answer, SECRET, Seen, Server, answer, key, put, refusal, with, write_keys};

mod recording_server;

#[tokio::test]
async fn a_put_has_its_length_and_is_neither_chunked_nor_hashed() {
    let pieces: Segments =
        [&b"head"[..], &[7; 100_000], b"", b"tail"].map(Bytes::copy_from_slice).into_iter().collect();
    for (kind, checksum) in [(BackendKind::CephRgw, None), (BackendKind::Cubefs, None), (BackendKind::S3, Some(()))] {
        let server = Server::start(|_| answer(200, "")).await;
        put(&server.store(kind), pieces.clone()).await.unwrap();
        let seen = server.only();
        assert_eq!((seen.method.as_str(), seen.uri.split('?').next().unwrap()), ("PUT", "/bucket/folder/object"));
        assert_eq!(seen.header("content-length"), Some("100008"));
        assert_eq!(seen.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
        for absent in
            ["transfer-encoding", "content-encoding", "x-amz-trailer", "expect", "x-amz-decoded-content-length"]
        {
            assert_eq!(seen.header(absent), None, "{absent}");
        }
        assert_eq!(seen.header("x-amz-checksum-crc32c").is_some(), checksum.is_some(), "{kind:?}");
        assert_eq!(seen.header("x-amz-sdk-checksum-algorithm"), None);
        assert_eq!(seen.body, pieces.clone().into_bytes());
    }
}

#[tokio::test]
async fn the_checksum_of_a_put_is_that_of_its_body() {
    let server = Server::start(|_| answer(200, "")).await;
    put(&server.store(BackendKind::S3), Bytes::from_static(b"123456789")).await.unwrap();
    // CRC-32C of these nine digits is 0xe3069283.
    assert_eq!(server.only().header("x-amz-checksum-crc32c"), Some("4waSgw=="));
}

#[tokio::test]
async fn a_part_has_a_checksum_where_the_store_verifies_it() {
    for (kind, checksum) in
        [(BackendKind::Minio, Some("4waSgw==")), (BackendKind::S3, None), (BackendKind::CephRgw, None)]
    {
        let server = Server::start(|_| with(answer(200, ""), "etag", "\"tag\"")).await;
        let body = PartBody::Bytes(vec![Bytes::from_static(b"12345"), Bytes::from_static(b"6789")].into());
        let (id, number) = (PartsId("id".into()), PartNumber::new(1).unwrap());
        server.store(kind).put_part(&key("object"), &id, number, body, Purpose::Upload).await.unwrap();
        assert_eq!(server.only().header("x-amz-checksum-crc32c"), checksum, "{kind:?}");
    }
}

#[tokio::test]
async fn over_plain_http_a_body_is_signed_unless_the_site_says_never() {
    let server = Server::start(|_| answer(200, "")).await;
    for signing in [None, Some(PayloadSigning::Always)] {
        let store = S3Backend::open(&BackendConfig { payload_signing: signing, ..server.config(BackendKind::Minio) });
        put(&store.unwrap(), vec![Bytes::from_static(b"in two"), Bytes::from_static(b" pieces")]).await.unwrap();
    }
    for seen in server.seen() {
        let digest = seen.header("x-amz-content-sha256").unwrap();
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
        assert_eq!(seen.header("content-length"), Some("13"));
        assert_eq!(seen.body, "in two pieces");
    }
}

#[tokio::test]
async fn a_call_is_one_request_whatever_the_answer() {
    for (status, code, kind) in [
        (503, "SlowDown", "throttled"),
        (500, "InternalError", "transient"),
        (403, "SignatureDoesNotMatch", "denied"),
        (403, "RequestTimeTooSkewed", "fatal"),
        (404, "NoSuchBucket", "fatal"),
        (403, "QuotaExceeded", "full"),
    ] {
        let server = Server::start(move |_| with(refusal(status, code), "retry-after", "3")).await;
        let error = put(&server.store(BackendKind::CephRgw), Bytes::from_static(b"body")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        server.only();
        if status == 503 {
            assert_eq!(error, BackendError::Throttled { retry_after: Some(Duration::from_secs(3)) });
        }
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_transient_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(|_| answer(200, "")).await;
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    drop(listener);
    let store = S3Backend::open(&BackendConfig { endpoint, ..server.config(BackendKind::Minio) }).unwrap();
    let error = put(&store, Bytes::from_static(b"body")).await.unwrap_err();
    assert!(matches!(&error, BackendError::Transient(text) if text.contains("refused")), "{error}");
}

#[tokio::test]
async fn a_connection_whose_answer_was_not_awaited_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(|_| answer(200, "")).await;
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let store = S3Backend::open(&BackendConfig { endpoint, ..server.config(BackendKind::Minio) }).unwrap();
    let frozen = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.map(|_| rest.len())
    });
    let given_up = tokio::time::timeout(Duration::from_millis(300), put(&store, Bytes::from(vec![1; 1_000]))).await;
    assert!(given_up.is_err());
    let ended = tokio::time::timeout(Duration::from_secs(5), frozen).await;
    assert!(ended.expect("the connection is still open").unwrap().unwrap() > 1_000);
}

async fn get(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Result<Segments, BackendError> {
    let server = Server::start(move |_| answer()).await;
    let read = server.store(BackendKind::S3).get_range(&key("object"), 10..14, Purpose::TailRead).await;
    assert_eq!(server.only().header("range"), Some("bytes=10-13"));
    read
}

/// The kind of error, and the answer that is one.
type Wrong = (&'static str, fn() -> Answer);

fn partial(range: &str, body: &'static [u8]) -> Answer {
    with(answer(206, body), "content-range", range)
}

#[tokio::test]
async fn only_the_bytes_that_were_asked_for_are_an_answer() {
    let read = get(|| partial("bytes 10-13/20", b"body")).await.unwrap();
    assert_eq!(read.into_bytes(), "body");
    let wrong: Vec<Wrong> = vec![
        ("fatal", || answer(200, vec![1; 1_000_000])), // the whole object
        ("corrupt", || partial("bytes 10-12/13", b"bod")),
        ("transient", || partial("bytes 10-12/20", b"bod")), // the object goes on
        ("corrupt", || answer(200, "short")),
        ("corrupt", || refusal(416, "InvalidRange")),
        ("transient", || partial("bytes 11-14/20", b"body")),
        ("transient", || partial("bytes 10-13/20", b"bodies")),
        ("transient", || partial("nonsense", b"body")),
        ("not_found", || refusal(404, "NoSuchKey")),
        ("fatal", || refusal(404, "NoSuchBucket")),
        ("fatal", || answer(404, "<html>not a store</html>")),
    ];
    for (at, (kind, answer)) in wrong.into_iter().enumerate() {
        let error = get(answer).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{at}: {error}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_transient() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(|_| answer(200, "")).await;
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let store = S3Backend::open(&BackendConfig { endpoint, ..server.config(BackendKind::Minio) }).unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        let _ = socket.read(&mut request).await.unwrap();
        let half = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\ncontent-range: bytes 0-3/9\r\n\r\nbo";
        tokio::io::AsyncWriteExt::write_all(&mut socket, half).await.unwrap();
    });
    let error = store.get_range(&key("object"), 0..4, Purpose::TailRead).await.unwrap_err();
    assert!(matches!(&error, BackendError::Transient(text) if text.contains("broke off")), "{error}");
}

#[tokio::test]
async fn a_head_that_finds_nothing_asks_whether_the_bucket_is_there() {
    for (bucket, kind) in [("there", "not_found"), ("missing", "fatal")] {
        let server = Server::start(move |seen| match (seen.method.as_str(), bucket) {
            ("HEAD", _) => answer(404, ""),
            (_, "there") => answer(200, "<ListBucketResult></ListBucketResult>"),
            _ => refusal(404, "NoSuchBucket"),
        })
        .await;
        let error = server.store(BackendKind::Minio).head(&key("object"), Purpose::Scrub).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn deletes_go_with_content_md5_and_each_key_has_its_answer() {
    let server = Server::start(|_| {
        answer(
            200,
            "<DeleteResult><Deleted><Key>a</Key></Deleted>\
             <Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
             <Error><Key>c</Key><Code>NoSuchKey</Code><Message>no</Message></Error></DeleteResult>",
        )
    })
    .await;
    let keys = ["a", "b", "c", "d"].map(key).to_vec();
    let outcomes = server.store(BackendKind::Cubefs).delete_many(keys.clone(), Purpose::Compaction).await;
    assert_eq!(outcomes.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), keys);
    let kinds: Vec<_> = outcomes.iter().map(|(_, outcome)| outcome.as_ref().map_err(BackendError::kind)).collect();
    assert_eq!(kinds, [Ok(&()), Err("denied"), Ok(&()), Err("transient")], "the last has no answer at all");
    let seen = server.only();
    assert_eq!(seen.header("content-md5").map(str::len), Some(24));
    assert_eq!(seen.header("x-amz-sdk-checksum-algorithm"), None);
    assert!(!seen.headers.keys().any(|name| name.as_str().starts_with("x-amz-checksum")), "{seen:?}");
}

fn listing(keys: &[&str], folders: &[&str], truncated: bool) -> Answer {
    let contents: String =
        keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>3</Size></Contents>")).collect();
    let folders: String =
        folders.iter().map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")).collect();
    answer(
        200,
        format!("<ListBucketResult>{contents}{folders}<IsTruncated>{truncated}</IsTruncated></ListBucketResult>"),
    )
}

fn start_after(seen: &Seen) -> String {
    let parameter = seen.uri.split(['?', '&']).find_map(|part| part.strip_prefix("start-after="));
    parameter.unwrap_or_default().replace("%2F", "/")
}

#[tokio::test]
async fn a_listing_goes_past_pages_that_show_no_key_of_ours() {
    let server = Server::start(|seen| match start_after(seen).as_str() {
        "" => listing(&["f/"], &[], true), // the folder's own mark
        "f/" => listing(&[], &["f/a/", "f/b/"], true),
        "f/b/~" => listing(&["f/c", "f/d x"], &[], true),
        after => panic!("asked after {after}"),
    })
    .await;
    let page = server.store(BackendKind::CephRgw).list_folder("f", None, Purpose::Scrub).await.unwrap();
    assert_eq!((page.objects, page.more), (vec![(key("f/c"), 3)], true));
    assert!(server.seen()[0].uri.contains("delimiter=%2F") && server.seen()[0].uri.contains("prefix=f%2F"));
    let stuck = Server::start(|_| listing(&[], &["f/a/"], true)).await;
    let error = stuck.store(BackendKind::CephRgw).list_folder("f", None, Purpose::Scrub).await.unwrap_err();
    assert_eq!(error.kind(), "fatal", "{error}");
}

#[tokio::test]
async fn a_truncated_flag_that_lies_ends_no_listing_of_cubefs() {
    let server = Server::start(|seen| match start_after(seen).as_str() {
        "f/a" => listing(&[], &[], false),
        _ => listing(&["f/a"], &[], false),
    })
    .await;
    let store = server.store(BackendKind::Cubefs);
    let page = store.list_folder("f", None, Purpose::Scrub).await.unwrap();
    assert_eq!((page.objects, page.more), (vec![(key("f/a"), 3)], true));
    let end = store.list_folder("f", Some(&key("f/a")), Purpose::Scrub).await.unwrap();
    assert_eq!((end.objects, end.more), (vec![], false));
}

#[tokio::test]
async fn encryption_at_rest_goes_along_where_bytes_are_written_and_read() {
    let encrypted = || with(answer(200, ""), "x-amz-server-side-encryption", "AES256");
    let server = Server::start(move |_| with(encrypted(), "content-length", "0")).await;
    let key_file = server.folder.path().join("customer");
    std::fs::write(&key_file, "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=\n").unwrap();
    let kms = Some("the-key".to_owned());
    for (sse, sse_kms_key_id, sse_customer_key_file) in
        [(Sse::S3, None, None), (Sse::Kms, kms, None), (Sse::Customer, None, Some(key_file))]
    {
        let config = server.config(BackendKind::S3);
        let sse = Some(sse);
        let store = S3Backend::open(&BackendConfig { sse, sse_kms_key_id, sse_customer_key_file, ..config }).unwrap();
        put(&store, Bytes::from_static(b"body")).await.unwrap();
        store.head(&key("folder/object"), Purpose::Scrub).await.unwrap();
    }
    let kind = "x-amz-server-side-encryption";
    let headers = |name: &str| -> Vec<Option<String>> {
        server.seen().iter().map(|seen| seen.header(name).map(str::to_owned)).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(headers(kind), [some("AES256"), None, some("aws:kms"), None, None, None]);
    let kms = headers(&format!("{kind}-aws-kms-key-id"));
    assert_eq!(kms, [None, None, some("the-key"), None, None, None]);
    let customer = headers(&format!("{kind}-customer-algorithm"));
    assert_eq!(customer, [None, None, None, None, some("AES256"), some("AES256")]);
    let digest = headers(&format!("{kind}-customer-key-MD5"));
    assert!(digest[4].as_ref().is_some_and(|digest| digest.len() == 24) && digest[4] == digest[5], "{digest:?}");
}

#[tokio::test]
async fn a_store_that_takes_a_put_and_does_not_encrypt_it_is_refused() {
    let server = Server::start(|_| answer(200, "")).await;
    let config = BackendConfig { sse: Some(Sse::S3), ..server.config(BackendKind::CephRgw) };
    let error = put(&S3Backend::open(&config).unwrap(), Bytes::from_static(b"body")).await.unwrap_err();
    assert!(matches!(&error, BackendError::Fatal(text) if text.contains("does not encrypt")), "{error}");
}

#[tokio::test]
async fn requests_without_a_body_say_so() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "PUT" => answer(200, "<CopyPartResult><ETag>tag</ETag></CopyPartResult>"),
        _ => answer(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"),
    })
    .await;
    let store = server.store(BackendKind::CephRgw);
    let id = store.begin_parts(&key("object"), Purpose::Upload).await.unwrap();
    let copy = PartBody::Copy { source: key("folder/source"), range: 5..10 };
    let number = PartNumber::new(2).unwrap();
    let part = store.put_part(&key("object"), &id, number, copy, Purpose::Upload).await.unwrap();
    assert_eq!((part.bytes, part.tag.as_str()), (5, "tag"));
    for seen in server.seen() {
        assert_eq!(seen.header("content-length"), Some("0"), "{seen:?}");
    }
    let copied = &server.seen()[1];
    assert_eq!(copied.header("x-amz-copy-source"), Some("bucket/folder/source"));
    assert_eq!(copied.header("x-amz-copy-source-range"), Some("bytes=5-9"));
}

#[tokio::test]
async fn a_completion_whose_upload_is_gone_looks_at_the_object() {
    for (length, kind) in [("7", None), ("8", Some("not_found"))] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => with(answer(200, ""), "content-length", length),
            "PUT" => with(answer(200, ""), "etag", "\"tag\""),
            _ => refusal(404, "NoSuchUpload"),
        })
        .await;
        let store = server.store(BackendKind::S3);
        let (object, id, number) = (key("object"), PartsId("id".into()), PartNumber::new(1).unwrap());
        let body = PartBody::Bytes(Bytes::from_static(b"7 bytes").into());
        let part = store.put_part(&object, &id, number, body, Purpose::Upload).await.unwrap();
        assert_eq!(server.only().header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
        let completed = store.complete_parts(&object, &id, vec![part], Purpose::Upload).await;
        assert_eq!(completed.err().as_ref().map(BackendError::kind), kind);
    }
}

#[tokio::test]
async fn a_completion_that_answers_200_with_an_error_has_failed() {
    let server = Server::start(|_| refusal(200, "InternalError")).await;
    let store = server.store(BackendKind::S3);
    let completed = store.complete_parts(&key("object"), &PartsId("id".into()), vec![], Purpose::Upload).await;
    assert_eq!(completed.unwrap_err().kind(), "transient");
}

#[tokio::test]
async fn keys_that_were_replaced_are_used_without_a_restart() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(by) if by.contains("NEWACCESSKEY") => answer(200, ""),
        _ => refusal(403, "InvalidAccessKeyId"),
    })
    .await;
    let store = server.store(BackendKind::Minio);
    let error = put(&store, Bytes::from_static(b"body")).await.unwrap_err();
    assert_eq!((error.kind(), server.seen().len()), ("denied", 1));
    write_keys(server.folder.path(), "NEWACCESSKEY", "new");
    put(&store, Bytes::from_static(b"body")).await.unwrap();
    assert_eq!(server.seen().len(), 3, "refused, then sent again with the new keys");
}

/// What the process logs, at the finest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_that_is_secret_is_in_errors_debug_forms_or_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    // 32 bytes of 'k'.
    let customer_key = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";
    // As real stores do: they show what they were sent.
    let server = Server::start(|seen| {
        let echo = format!("{:?}", seen.headers).replace(['<', '&', '"'], "'");
        let code = if seen.uri.contains("denied") { (403, "SignatureDoesNotMatch") } else { (400, "InvalidRequest") };
        let body = format!(
            "<Error><Code>{}</Code><Message>{ACCESS} {SECRET} {echo}</Message><AWSAccessKeyId>{ACCESS}</AWSAccessKeyId>\
             <StringToSign>{echo}</StringToSign></Error>",
            code.1
        );
        answer(code.0, body)
    })
    .await;
    let customer_file = server.folder.path().join("customer");
    std::fs::write(&customer_file, customer_key).unwrap();
    let config = BackendConfig {
        sse: Some(Sse::Customer),
        sse_customer_key_file: Some(customer_file),
        ..server.config(BackendKind::S3)
    };
    let store = S3Backend::open(&config).unwrap();
    let mut shown = format!("{config:?} {store:?}");
    let (plain, denied, id) = (key("object"), key("denied"), PartsId("id".into()));
    for object in [&plain, &denied] {
        let mut tell = |error: BackendError| {
            tracing::warn!(%error, ?error, "failed");
            shown += &format!("{error} {error:?} ");
        };
        tell(store.put(object, Bytes::from_static(b"b").into(), Purpose::Upload).await.unwrap_err());
        tell(store.get_range(object, 0..1, Purpose::Upload).await.unwrap_err());
        tell(store.head(object, Purpose::Upload).await.unwrap_err());
        tell(store.list_folder("", None, Purpose::Upload).await.unwrap_err());
        tell(store.begin_parts(object, Purpose::Upload).await.unwrap_err());
        tell(store.complete_parts(object, &id, vec![], Purpose::Upload).await.unwrap_err());
        for (_, outcome) in store.delete_many(vec![object.clone()], Purpose::Upload).await {
            tell(outcome.unwrap_err());
        }
    }
    assert!(server.seen().iter().any(|seen| seen.header("x-amz-server-side-encryption-customer-key").is_some()));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("failed") && shown.contains("InvalidRequest"), "the test sees something:\n{log}\n{shown}");
    for (place, text) in [("errors", &shown), ("log", &log)] {
        for secret in [ACCESS, SECRET, customer_key] {
            assert!(!text.contains(secret), "{secret} in the {place}:\n{text}");
        }
    }
}

#[tokio::test]
async fn each_answer_tells_how_far_the_clocks_are_apart() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "PUT" => answer(200, ""),
        _ => with(refusal(404, "NoSuchKey"), "date", "Wed, 21 Oct 2015 07:28:00 GMT"),
    })
    .await;
    let store = server.store(BackendKind::CephRgw);
    assert_eq!(store.clock_ahead_seconds(), None);
    put(&store, Bytes::from_static(b"x")).await.unwrap();
    assert!(store.clock_ahead_seconds().unwrap().abs() < 60, "{:?}", store.clock_ahead_seconds());
    assert_eq!(store.get_range(&key("a"), 0..1, Purpose::Probe).await.err(), Some(BackendError::NotFound));
    assert!(store.clock_ahead_seconds().unwrap() > 300_000_000);
}
