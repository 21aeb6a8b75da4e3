//! From a request to the operation that it asks for.

use std::collections::HashMap;
use std::ops::Range;

use hyper::Method;
use hyper::http::request::Parts;

use crate::answer::Problem;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Make, look for or ask where the bucket is.
    Bucket,
    List {
        prefix: String,
        delimited: bool,
        after: String,
        keys_max: usize,
    },
    ListBegun {
        prefix: String,
        delimited: bool,
    },
    DeleteMany,
    Put {
        key: String,
    },
    Get {
        key: String,
    },
    Head {
        key: String,
    },
    Delete {
        key: String,
    },
    Begin {
        key: String,
    },
    PutPart {
        key: String,
        id: String,
        number: u32,
    },
    Complete {
        key: String,
        id: String,
    },
    Abort {
        key: String,
        id: String,
    },
}

impl Operation {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::List { .. } => "list",
            Self::ListBegun { .. } => "list_begun",
            Self::DeleteMany => "delete_many",
            Self::Put { .. } => "put",
            Self::Get { .. } => "get",
            Self::Head { .. } => "head",
            Self::Delete { .. } => "delete",
            Self::Begin { .. } => "begin",
            Self::PutPart { .. } => "put_part",
            Self::Complete { .. } => "complete",
            Self::Abort { .. } => "abort",
        }
    }

    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Bucket | Self::List { .. } | Self::ListBegun { .. } | Self::Get { .. } | Self::Head { .. }
        )
    }
}

/// `as_paths`: keys are paths of files, in which slashes in a row are one.
pub fn parse(parts: &Parts, bucket: &str, as_paths: bool) -> Result<Operation, Problem> {
    let mut path = decode(parts.uri.path().trim_start_matches('/'));
    while as_paths && path.contains("//") {
        path = path.replace("//", "/");
    }
    let (named, key) = path.split_once('/').unwrap_or((&path, ""));
    if named != bucket {
        return Err(Problem::NO_BUCKET);
    }
    let query = query(parts.uri.query().unwrap_or_default());
    let value = |name: &str| query.get(name).cloned();
    let is = |name: &str| query.contains_key(name);
    let key = key.to_owned();
    let upload = value("uploadId");
    if key.is_empty() {
        return match parts.method {
            Method::GET if is("location") => Ok(Operation::Bucket),
            Method::GET if is("uploads") => {
                Ok(Operation::ListBegun { prefix: value("prefix").unwrap_or_default(), delimited: is("delimiter") })
            }
            Method::GET => Ok(Operation::List {
                prefix: value("prefix").unwrap_or_default(),
                delimited: is("delimiter"),
                after: value("continuation-token").or(value("start-after")).unwrap_or_default(),
                keys_max: value("max-keys").and_then(|max| max.parse().ok()).unwrap_or(1_000).min(1_000),
            }),
            Method::PUT | Method::HEAD => Ok(Operation::Bucket),
            Method::POST if is("delete") => Ok(Operation::DeleteMany),
            _ => Err(Problem::NOT_IMPLEMENTED),
        };
    }
    match (&parts.method, upload) {
        (&Method::PUT, Some(id)) => {
            let number = value("partNumber").and_then(|number| number.parse().ok()).ok_or(Problem::BAD_REQUEST)?;
            Ok(Operation::PutPart { key, id, number })
        }
        (&Method::PUT, None) => Ok(Operation::Put { key }),
        (&Method::GET, None) => Ok(Operation::Get { key }),
        (&Method::HEAD, None) => Ok(Operation::Head { key }),
        (&Method::DELETE, Some(id)) => Ok(Operation::Abort { key, id }),
        (&Method::DELETE, None) => Ok(Operation::Delete { key }),
        (&Method::POST, Some(id)) => Ok(Operation::Complete { key, id }),
        (&Method::POST, None) if is("uploads") => Ok(Operation::Begin { key }),
        _ => Err(Problem::NOT_IMPLEMENTED),
    }
}

/// `bytes=0-9` of an object as 0..10; none without the header.
pub fn range(parts: &Parts, header: &str, bytes: usize) -> Result<Option<Range<usize>>, Problem> {
    let Some(text) = parts.headers.get(header).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let bounds = text.strip_prefix("bytes=").and_then(|text| text.split_once('-'));
    let (first, last) = bounds.ok_or(Problem::INVALID_RANGE)?;
    let first: usize = first.parse().map_err(|_| Problem::INVALID_RANGE)?;
    let end = last.parse::<usize>().map_or(bytes, |last| bytes.min(last.saturating_add(1)));
    if first >= end { Err(Problem::INVALID_RANGE) } else { Ok(Some(first..end)) }
}

/// The texts of all `<name>`; documents that clients send are flat enough for that.
pub fn texts<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let found = document.split(open.as_str()).skip(1);
    found.filter_map(|rest| rest.split(close.as_str()).next()).map(|text| text.trim()).collect()
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn parsed(method: &str, uri: &str) -> Result<Operation, Problem> {
        parse(&Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0, "b", false)
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(parsed("PUT", "/b/a/c"), Ok(Operation::Put { key: "a/c".into() }));
        let list = Operation::List { prefix: "a/".into(), delimited: true, after: "a/b".into(), keys_max: 1_000 };
        assert_eq!(parsed("GET", "/b/?list-type=2&prefix=a%2F&delimiter=%2F&start-after=a%2Fb"), Ok(list));
        assert_eq!(parsed("POST", "/b/a?uploads"), Ok(Operation::Begin { key: "a".into() }));
        assert_eq!(parsed("POST", "/b/?delete"), Ok(Operation::DeleteMany));
        let part = Operation::PutPart { key: "a".into(), id: "u".into(), number: 3 };
        assert_eq!(parsed("PUT", "/b/a?partNumber=3&uploadId=u&x-id=UploadPart"), Ok(part));
        assert_eq!(parsed("GET", "/other/a"), Err(Problem::NO_BUCKET));
    }

    #[test]
    fn texts_of_a_document_are_found() {
        assert_eq!(texts("<D><O><Key>a</Key></O><O><Key>b</Key></O></D>", "Key"), ["a", "b"]);
    }
}
