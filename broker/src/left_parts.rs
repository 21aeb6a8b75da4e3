//! Objects that were begun in parts, and neither completed nor aborted: found by their age, and aborted by who may delete.
//!
//! Age is told by the store's clock. What has no time is left alone: it may be under way.

use std::time::{Duration, SystemTime};

use seawall_backends::{Backend, BackendError, BegunObject, Purpose};

use crate::delete_guard::{MayNotDelete, may_delete};
use crate::storage::Storage;
use crate::store_marker::StoreMarker;

/// What is begun in parts and older than this is nobody's any more.
const OLDER_THAN: Duration = Duration::from_secs(24 * 3600);

/// Looks for them, and aborts them.
pub struct LeftParts<'a> {
    pub storage: &'a Storage,
    pub backend: &'a dyn Backend,
    pub marker: &'a StoreMarker,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    pub begun: BegunObject,
    pub age: Duration,
}

/// Why one was not aborted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AbortError {
    #[error(transparent)]
    MayNot(#[from] MayNotDelete),
    #[error(transparent)]
    Store(BackendError),
}

impl LeftParts<'_> {
    /// Those of a folder, at a time of this machine's clock; none where the store sweeps by itself.
    pub async fn find(&self, folder: &str, now_ms: i64) -> Result<Vec<Left>, BackendError> {
        if !self.backend.capabilities().lists_begun {
            return Ok(Vec::new());
        }
        let begun = self.backend.list_begun(folder, Purpose::Scrub).await?;
        let ahead_ms = self.backend.clock_ahead_seconds().unwrap_or_default().saturating_mul(1_000);
        let now_ms = now_ms.saturating_sub(ahead_ms).max(0).unsigned_abs();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
        let left = |begun: BegunObject| {
            let age = now.duration_since(begun.begun_at?).ok()?;
            (age > OLDER_THAN).then_some(Left { begun, age })
        };
        Ok(begun.into_iter().filter_map(left).collect())
    }

    pub async fn abort(&self, left: &Left) -> Result<(), AbortError> {
        may_delete(self.storage, self.backend, self.marker).await?;
        let BegunObject { key, id, .. } = &left.begun;
        self.backend.abort_parts(key, id, Purpose::Scrub).await.map_err(AbortError::Store)
    }
}
