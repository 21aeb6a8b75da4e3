//! What can go wrong with a store, by what the caller may do about it. The set is closed.

use std::io;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No such object. A reader resolves the object again in metadata before it believes this.
    #[error("object not found")]
    NotFound,
    /// The store asks for less. Repeat after a pause, at least as long as it names.
    #[error("store throttles")]
    Throttled { retry_after: Option<Duration> },
    /// Timeouts, cut connections, I/O errors: repeat with backoff.
    #[error("store failed for now: {0}")]
    Transient(String),
    /// The store has no room. Repeat with long pauses and tell the operator.
    #[error("store is full: {0}")]
    Full(String),
    /// Credentials or permissions. Repeating does not help until someone changes them.
    #[error("store denies access: {0}")]
    Denied(String),
    /// The object is there but not as it was written. Never served, never overwritten.
    #[error("object is corrupt: {0}")]
    Corrupt(String),
    /// This store cannot do this; nothing was attempted.
    #[error("store does not support this: {0}")]
    Unsupported(String),
    /// The store is unusable as configured: missing bucket or folder, a path that is not what it must be.
    #[error("store is unusable: {0}")]
    Fatal(String),
}

impl BackendError {
    /// Whether the same call may succeed later without anyone's help.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Transient(_) | Self::Full(_) => true,
            Self::NotFound | Self::Denied(_) | Self::Corrupt(_) | Self::Unsupported(_) | Self::Fatal(_) => false,
        }
    }

    /// Whether a put or delete that ended so may have happened, or may still happen. Stores were seen to answer
    /// "bad request" and keep the object, so only what was never sent is known not to be there.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Unsupported(_) => false,
            Self::NotFound
            | Self::Throttled { .. }
            | Self::Transient(_)
            | Self::Full(_)
            | Self::Denied(_)
            | Self::Corrupt(_)
            | Self::Fatal(_) => true,
        }
    }

    /// As in metric labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Throttled { .. } => "throttled",
            Self::Transient(_) => "transient",
            Self::Full(_) => "full",
            Self::Denied(_) => "denied",
            Self::Corrupt(_) => "corrupt",
            Self::Unsupported(_) => "unsupported",
            Self::Fatal(_) => "fatal",
        }
    }

    /// An operating system error, met while doing `what`.
    pub(crate) fn from_io(what: &str, error: &io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied(text),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(text),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => {
                Self::Fatal(text)
            }
            _ => Self::Transient(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_can_be_told_from_a_passing_failure() {
        let full = BackendError::from_io("write", &io::Error::from_raw_os_error(28));
        assert!(matches!(&full, BackendError::Full(text) if text.contains("No space left on device")), "{full:?}");
        let passing = BackendError::from_io("write", &io::Error::from_raw_os_error(5));
        assert!(matches!(passing, BackendError::Transient(_)));
        assert!(full.is_retriable() && full.outcome_unknown());
    }
}
