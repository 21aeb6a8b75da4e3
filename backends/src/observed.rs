//! A layer that counts: calls, bytes, errors by kind and latency, by operation and purpose. A call that its caller gives
//! up, as the layer `timeout` does, counts too. It keeps plain atomics and leaves the names and formats of metrics to
//! whoever takes a [`Snapshot`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Put,
    Get,
    Head,
    Delete,
    List,
    BeginParts,
    PutPart,
    CompleteParts,
    AbortParts,
    ListBegun,
}

impl Operation {
    pub const ALL: [Self; 10] = [
        Self::Put,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
        Self::BeginParts,
        Self::PutPart,
        Self::CompleteParts,
        Self::AbortParts,
        Self::ListBegun,
    ];

    /// As in metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::BeginParts => "begin_parts",
            Self::PutPart => "put_part",
            Self::CompleteParts => "complete_parts",
            Self::AbortParts => "abort_parts",
            Self::ListBegun => "list_begun",
        }
    }
}

/// Upper bounds in microseconds of the latency buckets; one more bucket holds what is above.
pub const LATENCY_BUCKETS_US: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// A call that was given up after that long counts as one that the store did not serve.
const NO_ANSWER: Duration = Duration::from_secs(5);

pub const ERROR_KINDS: [&str; 8] =
    ["not_found", "throttled", "transient", "full", "denied", "corrupt", "unsupported", "fatal"];

/// What is known of one operation for one purpose since start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub operation: Operation,
    pub purpose: Purpose,
    /// Calls that ended: well, with an error, or given up.
    pub calls: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Of the calls, those that were given up before the store answered.
    pub abandoned: u64,
    /// Bytes of bodies that were stored or read.
    pub bytes: u64,
    /// In the order of [`ERROR_KINDS`]. A delete counts each key that failed.
    pub errors: [u64; ERROR_KINDS.len()],
    pub latency_us_sum: u64,
    pub latency_us_max: u64,
    /// Not cumulative; in the order of [`LATENCY_BUCKETS_US`], then the rest.
    pub latency_buckets: [u64; LATENCY_BUCKETS_US.len() + 1],
}

#[derive(Debug, Default)]
struct Cell {
    calls: AtomicU64,
    in_flight: AtomicU64,
    abandoned: AtomicU64,
    bytes: AtomicU64,
    errors: [AtomicU64; ERROR_KINDS.len()],
    latency_us_sum: AtomicU64,
    latency_us_max: AtomicU64,
    latency_buckets: [AtomicU64; LATENCY_BUCKETS_US.len() + 1],
}

/// Shared by the layer and by those who report.
#[derive(Debug, Default)]
pub struct Counters {
    cells: [[Cell; Purpose::ALL.len()]; Operation::ALL.len()],
    /// Whether the last call that ended was one that the store did not serve.
    failing: AtomicBool,
}

impl Counters {
    /// Those that were used at least once.
    pub fn snapshot(&self) -> Vec<Snapshot> {
        let mut used = Vec::new();
        for operation in Operation::ALL {
            for purpose in Purpose::ALL {
                let snapshot = self.cell(operation, purpose).snapshot(operation, purpose);
                if snapshot.calls + snapshot.in_flight > 0 {
                    used.push(snapshot);
                }
            }
        }
        used
    }

    /// Whether the store served nothing since a call to it failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }

    fn note_failing(&self, failing: bool) {
        // Mostly nothing changes, and then the line stays shared between the cores.
        if self.failing.load(Relaxed) != failing {
            self.failing.store(failing, Relaxed);
        }
    }

    fn cell(&self, operation: Operation, purpose: Purpose) -> &Cell {
        &self.cells[operation as usize][purpose as usize]
    }
}

impl Cell {
    fn record(&self, started: Instant) {
        let us = started.elapsed().as_micros() as u64;
        self.calls.fetch_add(1, Relaxed);
        self.latency_us_sum.fetch_add(us, Relaxed);
        self.latency_us_max.fetch_max(us, Relaxed);
        self.latency_buckets[LATENCY_BUCKETS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
    }

    fn record_error(&self, error: &BackendError) {
        let kind = ERROR_KINDS.iter().position(|kind| *kind == error.kind());
        self.errors[kind.expect("every kind is listed")].fetch_add(1, Relaxed);
    }

    fn snapshot(&self, operation: Operation, purpose: Purpose) -> Snapshot {
        Snapshot {
            operation,
            purpose,
            calls: self.calls.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.each_ref().map(|count| count.load(Relaxed)),
            latency_us_sum: self.latency_us_sum.load(Relaxed),
            latency_us_max: self.latency_us_max.load(Relaxed),
            latency_buckets: self.latency_buckets.each_ref().map(|count| count.load(Relaxed)),
        }
    }
}

pub struct Observed {
    inner: Arc<dyn Backend>,
    counters: Arc<Counters>,
}

impl Observed {
    pub fn new(inner: Arc<dyn Backend>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

/// What says something of the store, not of one object.
fn is_failure(error: &BackendError) -> bool {
    match error {
        BackendError::Throttled { .. }
        | BackendError::Transient(_)
        | BackendError::Full(_)
        | BackendError::Denied(_)
        | BackendError::Fatal(_) => true,
        BackendError::NotFound | BackendError::Corrupt(_) | BackendError::Unsupported(_) => false,
    }
}

/// A call from its begin to its end, whatever that is.
struct UnderWay<'a> {
    cell: &'a Cell,
    counters: &'a Counters,
    started: Instant,
    answered: bool,
}

impl<'a> UnderWay<'a> {
    fn begin(cell: &'a Cell, counters: &'a Counters) -> Self {
        cell.in_flight.fetch_add(1, Relaxed);
        Self { cell, counters, started: Instant::now(), answered: false }
    }

    fn answered(mut self, failed: bool) {
        self.answered = true;
        self.counters.note_failing(failed);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.cell.in_flight.fetch_sub(1, Relaxed);
        self.cell.record(self.started);
        if !self.answered {
            self.cell.abandoned.fetch_add(1, Relaxed);
            // A caller who goes away earlier says nothing of the store.
            if self.started.elapsed() >= NO_ANSWER {
                self.counters.note_failing(true);
            }
        }
    }
}

impl Layer for Observed {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        Box::pin(async move {
            let cell = self.counters.cell(call.operation, call.purpose);
            let under_way = UnderWay::begin(cell, &self.counters);
            let outcome = attempt().await;
            under_way.answered(outcome.as_ref().is_err_and(is_failure));
            match &outcome {
                Ok(done) => {
                    cell.bytes.fetch_add(done.body_bytes().unwrap_or(call.bytes), Relaxed);
                }
                Err(error) => cell.record_error(error),
            }
            outcome
        })
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        Box::pin(async move {
            let cell = self.counters.cell(Operation::Delete, purpose);
            let under_way = UnderWay::begin(cell, &self.counters);
            let outcomes = self.inner.delete_many(keys, purpose).await;
            under_way.answered(outcomes.iter().any(|(_, outcome)| outcome.as_ref().is_err_and(is_failure)));
            for error in outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
                cell.record_error(error);
            }
            outcomes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_counter() {
        let text = String::new;
        let cell = Cell::default();
        for error in [
            BackendError::NotFound,
            BackendError::Throttled { retry_after: None },
            BackendError::Transient(text()),
            BackendError::Full(text()),
            BackendError::Denied(text()),
            BackendError::Corrupt(text()),
            BackendError::Unsupported(text()),
            BackendError::Fatal(text()),
        ] {
            cell.record_error(&error);
        }
        assert_eq!(cell.snapshot(Operation::Put, Purpose::Upload).errors, [1; ERROR_KINDS.len()]);
    }
}
