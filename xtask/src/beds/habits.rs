//! What a store does beyond what a broker needs of it, asked with signed requests by curl: conditions, checksums, refusals. Nothing here
//! passes or fails; it is how one knows one store from another, and what its profile rests on.

use super::BUCKET;
use super::signed::{Client, Keys};

/// A question and what was seen.
pub type Habit = (&'static str, String);

const KEY: &str = "seawall-habits/object";
const BODY: &str = "the object";
/// MD5 of that body, as ETags have it.
const ETAG: &str = "ae295757cd41e8715d851709cee3dd7b";
const OTHER_ETAG: &str = "00000000000000000000000000000000";
const DELETE: &str = "<Delete><Object><Key>seawall-habits/object</Key></Object></Delete>";
const DELETE_MD5: &str = "content-md5: GM0spdhfgqtsOt+g2hnYoQ==";

pub fn observe(client: &Client<'_>) -> Vec<Habit> {
    let object = format!("{BUCKET}/{KEY}");
    let put = |header: &str| seen(client, &["-X", "PUT", "--data-binary", BODY, "-H", header], &object);
    let plain_put = || put("x-none: 0");
    let gone = || drop(seen(client, &["-X", "DELETE"], &object));
    let there = || {
        if seen(client, &[], &object) == "200" { "there afterwards" } else { "not there afterwards" }
    };
    let mut habits: Vec<Habit> = Vec::new();

    gone();
    let both = format!("{}, then {}", put("if-none-match: *"), put("if-none-match: *"));
    habits.push(("two puts with If-None-Match: *", both));
    for (question, etag) in [
        ("put with If-Match, its ETag in quotes", format!("\"{ETAG}\"")),
        ("put with If-Match, its ETag without quotes", ETAG.to_owned()),
        ("put with If-Match, another ETag", format!("\"{OTHER_ETAG}\"")),
    ] {
        gone();
        plain_put();
        habits.push((question, put(&format!("if-match: {etag}"))));
    }
    let delete = seen(client, &["-X", "DELETE", "-H", &format!("if-match: \"{OTHER_ETAG}\"")], &object);
    habits.push(("delete with If-Match, another ETag", format!("{delete}, {}", there())));

    for (question, header) in [
        ("put with a wrong Content-MD5", "content-md5: AAAAAAAAAAAAAAAAAAAAAA=="),
        ("put with a wrong x-amz-checksum-crc32c", "x-amz-checksum-crc32c: AAAAAA=="),
        ("put without a length, in chunks", "transfer-encoding: chunked"),
    ] {
        gone();
        habits.push((question, format!("{}, {}", put(header), there())));
    }

    habits.extend(of_etags(client, &object));
    habits.extend(of_encryption(client, &object));
    habits.extend(of_parts(client, &object).into_iter().flatten());

    let many = format!("{BUCKET}?delete=");
    for (question, header) in
        [("delete of many without Content-MD5", "x-none: 0"), ("delete of many with Content-MD5", DELETE_MD5)]
    {
        plain_put();
        let answer = seen(client, &["-X", "POST", "--data-binary", DELETE, "-H", header], &many);
        habits.push((question, format!("{answer}, {}", there())));
    }

    let other_secret = Keys { secret: "another-secret".to_owned(), ..client.keys.clone() };
    let other_access = Keys { access: "another-key".to_owned(), ..client.keys.clone() };
    habits.push(("another secret key", seen(&Client { keys: &other_secret, ..*client }, &[], &object)));
    habits.push(("another access key", seen(&Client { keys: &other_access, ..*client }, &[], &object)));
    habits.push(("another bucket", seen(client, &[], "no-such-bucket/object")));
    gone();
    habits
}

/// How they are written.
fn of_etags(client: &Client<'_>, object: &str) -> Option<Habit> {
    let (_, put) = client.request(&["-X", "PUT", "--data-binary", BODY, "-D", "-"], object).ok()?;
    let (_, listed) = client.request(&[], &format!("{BUCKET}?list-type=2&prefix=seawall-habits")).ok()?;
    let quoted = |is_so: bool| if is_so { "in quotes" } else { "without quotes" };
    let in_answer = quoted(etag_of(&put)?.starts_with('"'));
    let in_listing = quoted(!listed.contains(&format!("<ETag>{ETAG}")));
    Some(("ETag in the answer to a put, and in a listing", format!("{in_answer}, {in_listing}")))
}

/// A store that does not know it must not take it in silence.
fn of_encryption(client: &Client<'_>, object: &str) -> Option<Habit> {
    let put = ["-X", "PUT", "--data-binary", BODY, "-D", "-", "-H", "x-amz-server-side-encryption: AES256"];
    let (status, answer) = client.request(&put, object).ok()?;
    let said = answer.to_ascii_lowercase().contains("x-amz-server-side-encryption: aes256");
    let said = if said { "said to be encrypted" } else { "not said to be encrypted" };
    Some(("put with SSE-S3", format!("{status}, {said}")))
}

/// A part with a checksum that was not announced, and a condition on the completion of an object that is there already.
fn of_parts(client: &Client<'_>, object: &str) -> Option<[Habit; 2]> {
    let (_, begun) = client.request(&["-X", "POST"], &format!("{object}?uploads=")).ok()?;
    let (_, id) = begun.split_once("<UploadId>")?;
    let (id, _) = id.split_once("</UploadId>")?;
    let id = id.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let part = format!("{object}?partNumber=1&uploadId={id}");
    let put = |header: &str| seen(client, &["-X", "PUT", "--data-binary", BODY, "-H", header], &part);
    let wrong = put("x-amz-checksum-crc32c: AAAAAA==");
    let (_, stored) = client.request(&["-X", "PUT", "--data-binary", BODY, "-D", "-"], &part).ok()?;
    let etag = etag_of(&stored)?;
    let all = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = ["-X", "POST", "--data-binary", &all, "-H", "if-none-match: *"];
    let completed = seen(client, &complete, &format!("{object}?uploadId={id}"));
    let _ = client.request(&["-X", "DELETE"], &format!("{object}?uploadId={id}"));
    Some([
        ("part with a wrong x-amz-checksum-crc32c", wrong),
        ("completion with If-None-Match: *, the object being there", completed),
    ])
}

/// From headers that curl wrote.
fn etag_of(answer: &str) -> Option<&str> {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("etag:"))?;
    Some(line.split_once(':')?.1.trim())
}

/// The status, with the store's word for it.
fn seen(client: &Client<'_>, arguments: &[&str], path: &str) -> String {
    let Ok((status, body)) = client.request(arguments, path) else { return "no answer".to_owned() };
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| status.to_string(), |(code, _)| format!("{status} {code}"))
}
