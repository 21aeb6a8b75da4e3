//! A layer that gives each operation a span, at level DEBUG: operation, key or folder, purpose, bytes, and how many attempts it took, which
//! the layer `retry` below says. What happens within, a warning of a retry for one, is logged with it; its end is an event.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span};

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart,
};

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

fn span(operation: &'static str, key: &str, purpose: Purpose, bytes: u64) -> Span {
    debug_span!("store", operation, key, purpose = purpose.name(), bytes, attempts = Empty)
}

/// When nobody listens, the call is handed through as it is.
fn within<'a, T: Send + 'a>(
    span: Span,
    call: BoxFuture<'a, Result<T, BackendError>>,
) -> BoxFuture<'a, Result<T, BackendError>> {
    if span.is_disabled() { call } else { Box::pin(told(call).instrument(span)) }
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

impl Backend for Traced {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let span = span("put", key.as_str(), purpose, body.total_bytes());
        within(span, self.inner.put(key, body, purpose))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let span = span("get", key.as_str(), purpose, crate::range_bytes(&range));
        within(span, self.inner.get_range(key, range, purpose))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        within(span("head", key.as_str(), purpose, 0), self.inner.head(key, purpose))
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        let span = span("delete", keys.first().map_or("", ObjectKey::as_str), purpose, 0);
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

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        within(span("list", folder, purpose, 0), self.inner.list_folder(folder, start_after, purpose))
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        within(span("begin_parts", key.as_str(), purpose, 0), self.inner.begin_parts(key, purpose))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        let span = span("put_part", key.as_str(), purpose, body.part_bytes());
        within(span, self.inner.put_part(key, id, number, body, purpose))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let span = span("complete_parts", key.as_str(), purpose, parts.iter().map(|part| part.bytes).sum());
        within(span, self.inner.complete_parts(key, id, parts, purpose))
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        within(span("abort_parts", key.as_str(), purpose, 0), self.inner.abort_parts(key, id, purpose))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        within(span("list_begun", folder, purpose, 0), self.inner.list_begun(folder, purpose))
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
