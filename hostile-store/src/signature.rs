//! AWS Signature Version 4, checked as a store checks it: a client whose signature is wrong would be let in by a server that does
//! not look, and its bug would hide.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use hyper::http::request::Parts;
use sha2::{Digest, Sha256};

use crate::answer::Problem;
use crate::objects::{Millis, hex};

/// Who is let in.
#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: String,
}

const SKEW_MAX: Millis = 15 * 60 * 1_000;
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

pub fn check(parts: &Parts, body: &Bytes, keys: &Keys, now: Millis) -> Result<(), Problem> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let words = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ").ok_or(Problem::ACCESS_DENIED)?;
    let field =
        |name: &str| words.split(',').find_map(|word| word.trim().strip_prefix(name)).ok_or(Problem::ACCESS_DENIED);
    let (credential, signed, signature) = (field("Credential=")?, field("SignedHeaders=")?, field("Signature=")?);
    let (access, scope) = credential.split_once('/').ok_or(Problem::ACCESS_DENIED)?;
    if access != keys.access {
        return Err(Problem::INVALID_ACCESS_KEY);
    }
    let date = header("x-amz-date");
    let sent = millis_of(date).ok_or(Problem::ACCESS_DENIED)?;
    if sent.abs_diff(now) > SKEW_MAX {
        return Err(Problem::SKEWED);
    }
    let payload = header("x-amz-content-sha256");
    if payload.starts_with("STREAMING-") {
        return Err(Problem::NO_LENGTH);
    }
    let canonical = canonical_request(parts, signed, payload);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut key = mac(format!("AWS4{}", keys.secret).as_bytes(), scope.split('/').next().unwrap_or_default());
    for part in scope.split('/').skip(1) {
        key = mac(&key, part);
    }
    if hex(&mac(&key, &to_sign)) != signature {
        return Err(Problem::WRONG_SIGNATURE);
    }
    // The hash is signed: only now is it worth a look.
    if payload != UNSIGNED && payload != hex(&Sha256::digest(body)) {
        return Err(Problem::WRONG_SHA256);
    }
    Ok(())
}

fn canonical_request(parts: &Parts, signed: &str, payload: &str) -> String {
    let pairs = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut query: Vec<(&str, &str)> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    query.sort_unstable();
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = String::new();
    for name in signed.split(';') {
        let values = parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default().trim());
        headers += &format!("{name}:{}\n", values.collect::<Vec<_>>().join(","));
    }
    format!("{}\n{}\n{}\n{headers}\n{signed}\n{payload}", parts.method, parts.uri.path(), query.join("&"))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `20261121T130000Z`.
fn millis_of(date: &str) -> Option<Millis> {
    let number = |range: std::ops::Range<usize>| date.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    // Days from the civil calendar, with years that begin in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok().map(|seconds| seconds * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    /// The example "GET Object" of AWS's page on signature version 4.
    fn example() -> Parts {
        let credential = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        let signed = "host;range;x-amz-content-sha256;x-amz-date";
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let request = Request::get("/test.txt")
            .header("host", "examplebucket.s3.amazonaws.com")
            .header("range", "bytes=0-9")
            .header("x-amz-content-sha256", empty)
            .header("x-amz-date", "20130524T000000Z")
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={signed},Signature={signature}"),
            );
        request.body(()).unwrap().into_parts().0
    }

    fn keys() -> Keys {
        Keys { access: "AKIAIOSFODNN7EXAMPLE".into(), secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into() }
    }

    const THEN: Millis = 1_369_353_600_000;

    #[test]
    fn the_published_example_is_let_in_and_a_change_of_it_is_not() {
        check(&example(), &Bytes::new(), &keys(), THEN).unwrap();
        let mut other = example();
        other.headers.insert("range", "bytes=0-8".parse().unwrap());
        assert_eq!(check(&other, &Bytes::new(), &keys(), THEN), Err(Problem::WRONG_SIGNATURE));
        assert_eq!(check(&example(), &Bytes::from_static(b"x"), &keys(), THEN), Err(Problem::WRONG_SHA256));
        assert_eq!(check(&example(), &Bytes::new(), &keys(), THEN + 2 * SKEW_MAX), Err(Problem::SKEWED));
        let stranger = Keys { access: "other".into(), ..keys() };
        assert_eq!(check(&example(), &Bytes::new(), &stranger, THEN), Err(Problem::INVALID_ACCESS_KEY));
    }
}
