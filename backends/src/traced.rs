//! A layer that gives each operation a span, at level DEBUG: operation, key or folder, purpose, bytes, and how many attempts it took, which
//! the layer `retry` below says. What happens within, a warning of a retry for one, is logged with it; its end is an event.

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span};

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::observed::Operation;
use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose};

pub struct Traced {
    inner: Arc<dyn Backend>,
}

/// Of a span: how often the store was asked.
pub(crate) const ATTEMPTS: &str = "attempts";

impl Traced {
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner }
    }
}

fn span(operation: Operation, key: &str, purpose: Purpose, bytes: u64) -> Span {
    debug_span!("store", operation = operation.name(), key, purpose = purpose.name(), bytes, attempts = Empty)
}

async fn told<T>(call: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
    let started = Instant::now();
    let outcome = call.await;
    let us = started.elapsed().as_micros() as u64;
    match &outcome {
        Ok(_) => debug!(us, "done"),
        Err(error) => debug!(us, %error, "failed"),
    }
    outcome
}

impl Layer for Traced {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    /// When nobody listens, the call is handed through as it is.
    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        let span = span(call.operation, call.name, call.purpose, call.stored_bytes);
        let call = attempt();
        if span.is_disabled() { call } else { Box::pin(told(call).instrument(span)) }
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        let span = span(Operation::Delete, keys.first().map_or("", ObjectKey::as_str), purpose, 0);
        if span.is_disabled() {
            return self.inner.delete_many(keys, purpose);
        }
        let deleting = async move {
            let started = Instant::now();
            let outcomes = self.inner.delete_many(keys, purpose).await;
            let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).count();
            debug!(us = started.elapsed().as_micros() as u64, keys = outcomes.len(), failed, "done");
            outcomes
        };
        Box::pin(deleting.instrument(span))
    }
}
