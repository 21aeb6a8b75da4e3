//! What an answer of an S3 store means: one pure function, one table.

use std::time::Duration;

use crate::BackendError;

/// An answer that is not a success, as far as it is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    pub(super) operation: &'static str,
    pub(super) status: u16,
    /// The store's word for it, if its answer had one that could be read.
    pub(super) code: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) request_id: Option<&'a str>,
    pub(super) retry_after: Option<Duration>,
    /// Our clock minus the store's.
    pub(super) clock_ahead_seconds: Option<i64>,
}

const MESSAGE_CHARS_MAX: usize = 200;

pub(super) fn classify(refusal: &Refusal<'_>) -> BackendError {
    let text = || describe(refusal);
    let throttled = || BackendError::Throttled { retry_after: refusal.retry_after };
    match refusal.code.unwrap_or_default() {
        "NoSuchKey" | "NoSuchUpload" => return BackendError::NotFound,
        "NoSuchBucket" | "PermanentRedirect" | "AuthorizationHeaderMalformed" => return BackendError::Fatal(text()),
        "RequestTimeTooSkewed" => return BackendError::Fatal(text()),
        "QuotaExceeded" | "ServiceQuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
            return BackendError::Full(text());
        }
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "AccountProblem" => return BackendError::Denied(text()),
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "Busy" => return throttled(),
        // The body was damaged or cut on its way.
        "BadDigest"
        | "IncompleteBody"
        | "RequestTimeout"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "InternalError"
        | "OperationAborted"
        | "XMinioServerNotInitialized" => {
            return BackendError::Transient(text());
        }
        "InvalidRange" | "InvalidPart" | "InvalidPartOrder" => return BackendError::Corrupt(text()),
        "EntityTooLarge" | "EntityTooSmall" | "NotImplemented" => return BackendError::Unsupported(text()),
        _ => {}
    }
    match refusal.status {
        // A HEAD has no body that could say what is missing; every other 404 of a store has.
        404 if refusal.operation == "head" => BackendError::NotFound,
        401 | 403 => BackendError::Denied(text()),
        408 | 409 => BackendError::Transient(text()),
        413 | 501 => BackendError::Unsupported(text()),
        416 => BackendError::Corrupt(text()),
        429 | 503 => throttled(),
        507 => BackendError::Full(text()),
        0 | 200 | 500..=599 => BackendError::Transient(text()),
        _ => BackendError::Fatal(text()),
    }
}

/// Never the body: some stores echo what was signed. Of what concerns keys not even the message.
fn describe(refusal: &Refusal<'_>) -> String {
    let code = refusal.code.unwrap_or("no code");
    let mut text = format!("{}: {code}, status {}", refusal.operation, refusal.status);
    match (code, refusal.message) {
        ("RequestTimeTooSkewed", _) => {
            if let Some(seconds) = refusal.clock_ahead_seconds {
                let which = if seconds < 0 { "behind" } else { "ahead of" };
                text += &format!(": this machine's clock is {} s {which} the store's", seconds.abs());
            }
        }
        ("NoSuchBucket", _) => text += ": the bucket does not exist",
        ("PermanentRedirect" | "AuthorizationHeaderMalformed", _) => {
            text += ": the bucket is in another region or at another endpoint";
        }
        ("InvalidAccessKeyId", _) => text += ": the store does not know the access key",
        ("SignatureDoesNotMatch", _) => text += ": the secret key is not the one of the access key",
        (_, Some(message)) if !message.is_empty() && !matches!(refusal.status, 401 | 403) => {
            let cut = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX);
            text += ": ";
            text.extend(cut);
        }
        _ => {}
    }
    if let Some(id) = refusal.request_id {
        text += ", request ";
        text.extend(id.chars().filter(char::is_ascii_graphic).take(64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(operation: &'static str, status: u16, code: &str) -> BackendError {
        let code = (!code.is_empty()).then_some(code);
        let retry_after = Some(Duration::from_secs(7));
        classify(&Refusal {
            operation,
            status,
            code,
            message: Some("words of the store"),
            request_id: Some("tx1"),
            retry_after,
            clock_ahead_seconds: Some(-1_000),
        })
    }

    #[test]
    fn each_answer_that_stores_were_seen_to_give_has_its_meaning() {
        let rows = [
            // Any store.
            ("get", 404, "NoSuchKey", "not_found"),
            ("head", 404, "", "not_found"),
            ("get", 404, "NoSuchBucket", "fatal"),
            ("get", 404, "", "fatal"), // a proxy, not a store
            ("put", 403, "InvalidAccessKeyId", "denied"),
            ("put", 403, "SignatureDoesNotMatch", "denied"),
            ("get", 403, "AccessDenied", "denied"),
            ("head", 403, "", "denied"),
            ("put", 400, "ExpiredToken", "denied"),
            ("put", 403, "RequestTimeTooSkewed", "fatal"),
            ("put", 301, "PermanentRedirect", "fatal"),
            ("put", 400, "AuthorizationHeaderMalformed", "fatal"),
            ("get", 416, "InvalidRange", "corrupt"),
            ("put", 500, "InternalError", "transient"),
            ("put", 502, "", "transient"),
            ("put", 504, "", "transient"),
            ("put", 503, "SlowDown", "throttled"),
            ("put", 503, "", "throttled"),
            ("put", 429, "", "throttled"),
            ("put", 400, "RequestTimeout", "transient"),
            ("put", 400, "EntityTooLarge", "unsupported"),
            ("put", 413, "", "unsupported"),
            ("put", 501, "NotImplemented", "unsupported"),
            ("put", 400, "BadDigest", "transient"),
            ("put", 400, "InvalidRequest", "fatal"),
            ("put", 412, "PreconditionFailed", "fatal"), // no condition is ever sent
            // Answers of 200 that hold an error, and single keys of a delete.
            ("complete", 200, "InternalError", "transient"),
            ("delete", 0, "AccessDenied", "denied"),
            ("delete", 0, "SlowDown", "throttled"),
            ("delete", 0, "SomethingNew", "transient"),
            // Parts.
            ("complete", 404, "NoSuchUpload", "not_found"),
            ("complete", 400, "InvalidPart", "corrupt"),
            ("complete", 400, "EntityTooSmall", "unsupported"),
            // Ceph RGW.
            ("put", 411, "MissingContentLength", "fatal"),
            ("put", 403, "QuotaExceeded", "full"),
            ("put", 409, "", "transient"),
            // CubeFS: no Content-MD5 at a delete of many; a new bucket.
            ("delete", 400, "MissingContentMD5", "fatal"),
            ("put", 403, "", "denied"),
            // MinIO.
            ("put", 507, "XMinioStorageFull", "full"),
            ("put", 507, "", "full"),
            ("put", 503, "SlowDownWrite", "throttled"),
            ("put", 503, "XMinioServerNotInitialized", "transient"),
        ];
        for (operation, status, code, kind) in rows {
            let error = answer(operation, status, code);
            assert_eq!(error.kind(), kind, "{operation} {status} {code}: {error}");
        }
        let retry_after = Some(Duration::from_secs(7));
        assert_eq!(answer("put", 503, "SlowDown"), BackendError::Throttled { retry_after });
    }

    #[test]
    fn texts_name_the_code_and_the_request_and_say_nothing_of_the_store_about_keys() {
        let text = answer("put", 400, "InvalidRequest").to_string();
        assert!(text.contains("put: InvalidRequest, status 400: words of the store, request tx1"), "{text}");
        let text = answer("put", 403, "AccessDenied").to_string();
        assert!(!text.contains("words"), "{text}");
        let text = answer("put", 403, "RequestTimeTooSkewed").to_string();
        assert!(text.contains("clock is 1000 s behind the store's"), "{text}");
    }
}
