//! How far this machine's clock and the store's are apart: each answer says when it was made, to the second.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::SystemTime;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

#[derive(Debug)]
pub(super) struct StoreClock(AtomicI64);

const UNKNOWN: i64 = i64::MIN;

impl Default for StoreClock {
    fn default() -> Self {
        Self(AtomicI64::new(UNKNOWN))
    }
}

impl StoreClock {
    /// An answer came just now with this `Date`.
    pub(super) fn note(&self, date: &str) {
        if let Some(ahead) = clock_ahead_of(date) {
            self.0.store(ahead, Relaxed);
        }
    }

    pub(super) fn ahead_seconds(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }
}

/// Our clock minus the store's.
#[expect(clippy::disallowed_methods, reason = "a fact for people about this machine's clock")]
pub(super) fn clock_ahead_of(date: &str) -> Option<i64> {
    let theirs = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?.secs();
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(ours).ok()?.checked_sub(theirs)
}
