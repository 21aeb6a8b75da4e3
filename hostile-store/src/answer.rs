//! Answers: problems with their codes, documents in XML, and bodies that may break off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};

use crate::objects::Millis;

/// A refusal, in S3's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
}

impl Problem {
    pub const ACCESS_DENIED: Self = Self { status: 403, code: "AccessDenied" };
    pub const INVALID_ACCESS_KEY: Self = Self { status: 403, code: "InvalidAccessKeyId" };
    pub const WRONG_SIGNATURE: Self = Self { status: 403, code: "SignatureDoesNotMatch" };
    pub const SKEWED: Self = Self { status: 403, code: "RequestTimeTooSkewed" };
    pub const WRONG_SHA256: Self = Self { status: 400, code: "XAmzContentSHA256Mismatch" };
    pub const WRONG_MD5: Self = Self { status: 400, code: "BadDigest" };
    pub const WRONG_CRC: Self = Self { status: 400, code: "XAmzContentChecksumMismatch" };
    pub const NO_MD5: Self = Self { status: 400, code: "MissingContentMD5" };
    pub const NO_LENGTH: Self = Self { status: 411, code: "MissingContentLength" };
    pub const NO_BUCKET: Self = Self { status: 404, code: "NoSuchBucket" };
    pub const NO_KEY: Self = Self { status: 404, code: "NoSuchKey" };
    pub const NO_UPLOAD: Self = Self { status: 404, code: "NoSuchUpload" };
    pub const INVALID_RANGE: Self = Self { status: 416, code: "InvalidRange" };
    pub const INVALID_PART: Self = Self { status: 400, code: "InvalidPart" };
    pub const TOO_SMALL: Self = Self { status: 400, code: "EntityTooSmall" };
    pub const BAD_REQUEST: Self = Self { status: 400, code: "InvalidRequest" };
    pub const CONDITION: Self = Self { status: 412, code: "PreconditionFailed" };
    pub const IN_THE_WAY: Self = Self { status: 409, code: "Conflict" };
    pub const NOT_IMPLEMENTED: Self = Self { status: 501, code: "NotImplemented" };
    pub const INTERNAL: Self = Self { status: 500, code: "InternalError" };
    pub const SLOW_DOWN: Self = Self { status: 503, code: "SlowDown" };
}

/// What goes back.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// The body ends after so many bytes, and the connection with it.
    pub cut_at: Option<usize>,
    /// For HEAD: what would be the length.
    pub length: Option<usize>,
}

impl Answer {
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn xml(body: String) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "application/xml".into())],
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn json(body: String) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "application/json".into())],
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn problem(problem: Problem) -> Self {
        let Problem { status, code } = problem;
        let text =
            format!("<Error><Code>{code}</Code><Message>as told</Message><RequestId>hostile</RequestId></Error>");
        Self { status, ..Self::xml(text) }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn into_response(self) -> Response<AnswerBody> {
        let length = self.length.unwrap_or(self.body.len());
        let mut response = Response::builder().status(self.status).header("content-length", length);
        response = response.header("x-amz-request-id", "hostile");
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        let breaks = self.cut_at.is_some();
        let body = self.body.slice(..self.cut_at.unwrap_or(self.body.len()).min(self.body.len()));
        let pieces: VecDeque<Bytes> = if body.is_empty() { VecDeque::new() } else { VecDeque::from([body]) };
        response.body(AnswerBody { pieces, breaks }).unwrap_or_else(|_| {
            let mut response = Response::new(AnswerBody { pieces: VecDeque::new(), breaks: false });
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self::problem(problem)
    }
}

pub struct AnswerBody {
    pieces: VecDeque<Bytes>,
    breaks: bool,
}

/// A body that breaks off: hyper closes the connection.
#[derive(Debug)]
pub struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body breaks off")
    }
}

impl std::error::Error for BrokenOff {}

impl From<Infallible> for BrokenOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.pieces.pop_front() {
            Some(piece) => {
                // What was said so far goes out before it breaks.
                cx.waker().wake_by_ref();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            None if self.breaks => Poll::Ready(Some(Err(BrokenOff))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && !self.breaks
    }

    fn size_hint(&self) -> SizeHint {
        // The length is in the headers.
        SizeHint::default()
    }
}

/// `2026-11-21T13:00:00.000Z`.
pub fn iso_time(at: Millis) -> String {
    let (days, seconds) = (at / 86_400_000, at / 1_000 % 86_400);
    // The civil calendar from days, with years that begin in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", at % 1_000)
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(iso_time(1_369_353_600_000), "2013-05-24T00:00:00.000Z");
        assert_eq!(iso_time(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
    }
}
