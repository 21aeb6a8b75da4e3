//! The name of an object: a path that every store takes, those that are file systems below included.

use std::fmt;

/// A checked key: 1 to 750 bytes of `[A-Za-z0-9._/-]`, segments between slashes of 1 to 255 bytes that do not begin
/// with a dot (so neither `.`, `..` nor the hidden names that stores use themselves).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

pub const KEY_BYTES_MAX: usize = 750;
pub const SEGMENT_BYTES_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid object key {key:?}: {reason}")]
pub struct InvalidKey {
    pub key: String,
    pub reason: &'static str,
}

impl ObjectKey {
    pub fn new(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        match check_path(&key) {
            Ok(()) => Ok(Self(key)),
            Err(reason) => Err(InvalidKey { key, reason }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder that lists this key: all before the last slash, or "".
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKey({})", self.0)
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidKey;
    fn try_from(key: String) -> Result<Self, InvalidKey> {
        Self::new(key)
    }
}

/// A folder is "" or what could be a key.
pub fn check_folder(folder: &str) -> Result<(), InvalidKey> {
    match folder {
        "" => Ok(()),
        _ => check_path(folder).map_err(|reason| InvalidKey { key: folder.to_owned(), reason }),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > KEY_BYTES_MAX {
        return Err("longer than 750 bytes");
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("empty segment");
        }
        if segment.starts_with('.') {
            return Err("segment begins with a dot");
        }
        if segment.len() > SEGMENT_BYTES_MAX {
            return Err("segment longer than 255 bytes");
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err("character outside A-Z a-z 0-9 . _ - /");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_every_store_takes_are_keys() {
        for good in ["a", "a/b", "prefix/3f/0000000000000001", "A-Z_0.9/x.y"] {
            assert_eq!(ObjectKey::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.tmp/b", "a b", "a\0b", "ä", "a\\b", "a\nb"] {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectKey::new("x".repeat(256)).is_err());
        assert!(ObjectKey::new(["x"; 376].join("/")).is_err(), "751 bytes");
        assert!(ObjectKey::new(["x"; 375].join("/")).is_ok(), "749 bytes");
    }

    #[test]
    fn a_key_knows_its_folder() {
        let key = ObjectKey::new("a/b/c").unwrap();
        assert_eq!((key.folder(), key.file_name()), ("a/b", "c"));
        let key = ObjectKey::new("c").unwrap();
        assert_eq!((key.folder(), key.file_name()), ("", "c"));
    }
}
