//! A layer that ends attempts which take too long: a frozen store answers nothing at all. The outcome of a write that
//! was cut off is unknown. It stands below the limiter, so that waiting for a place does not count.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, DELETE_BATCH_KEYS, ListPage, ObjectKey, ObjectMeta,
    PartBody, PartNumber, PartsId, Purpose, Segments, StoredPart, range_bytes,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeoutConfig {
    /// Longest one attempt may take, besides the time for its bytes. A delete has as much for each batch of keys.
    pub attempt_max: Duration,
    /// Slowest transfer that is not cut off: a body adds its length over this to `attempt_max`.
    pub bytes_per_second_min: u64,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self { attempt_max: Duration::from_secs(15), bytes_per_second_min: 1 << 20 }
    }
}

pub struct Timeout {
    inner: Arc<dyn Backend>,
    config: TimeoutConfig,
}

impl Timeout {
    pub fn new(inner: Arc<dyn Backend>, config: TimeoutConfig) -> Self {
        assert!(config.bytes_per_second_min > 0, "a transfer may not be granted forever");
        Self { inner, config }
    }

    async fn bound<T>(
        &self,
        body_bytes: u64,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let transfer = transfer_time(body_bytes, self.config.bytes_per_second_min);
        bound(self.config.attempt_max + transfer, call).await
    }
}

/// Slowest that a body of so many bytes may be.
pub(crate) fn transfer_time(bytes: u64, bytes_per_second_min: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / bytes_per_second_min)
}

async fn bound<T>(most: Duration, call: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
    match tokio::time::timeout(most, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(BackendError::Transient(format!("no answer for {most:?}"))),
    }
}

impl Backend for Timeout {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.bound(body.total_bytes(), self.inner.put(key, body, purpose)).await })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        Box::pin(async move { self.bound(range_bytes(&range), self.inner.get_range(key, range, purpose)).await })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move { self.bound(0, self.inner.head(key, purpose)).await })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            let asked = keys.clone();
            let batches = keys.len().div_ceil(DELETE_BATCH_KEYS).max(1) as u32;
            let most = self.config.attempt_max * batches;
            match bound(most, async { Ok(self.inner.delete_many(keys, purpose).await) }).await {
                Ok(outcomes) => outcomes,
                Err(error) => asked.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            }
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move { self.bound(0, self.inner.list_folder(folder, start_after, purpose)).await })
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(async move { self.bound(0, self.inner.begin_parts(key, purpose)).await })
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        Box::pin(
            async move { self.bound(body.part_bytes(), self.inner.put_part(key, id, number, body, purpose)).await },
        )
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let bytes = parts.iter().map(|part| part.bytes).sum();
            self.bound(bytes, self.inner.complete_parts(key, id, parts, purpose)).await
        })
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.bound(0, self.inner.abort_parts(key, id, purpose)).await })
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async move { self.bound(0, self.inner.list_begun(folder, purpose)).await })
    }

    fn clock_ahead_seconds(&self) -> Option<i64> {
        self.inner.clock_ahead_seconds()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
