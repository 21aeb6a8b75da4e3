//! A layer that ends attempts which take too long: a frozen store answers nothing at all. The outcome of a write that
//! was cut off is unknown. It stands below the limiter, so that waiting for a place does not count.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::{Backend, BackendError, BoxFuture, DELETE_BATCH_KEYS, ObjectKey, Purpose};

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

impl Layer for Timeout {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        let transfer = transfer_time(call.stored_bytes, self.config.bytes_per_second_min);
        Box::pin(bound(self.config.attempt_max + transfer, attempt()))
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
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
}
