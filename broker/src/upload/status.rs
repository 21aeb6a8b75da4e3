//! How uploads are doing: totals, lag, and how long the WAL lasts while the store is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use seawall_backends::pace::{Pace, Paced};
use seawall_metadata::{StreamId, WalId};
use seawall_wal_device::WalUsage;
use serde::Serialize;
use tokio::time::Instant;

use super::budget::{Budget, Rate};
use super::put::PreparedCut;
use crate::commit_waits::CommitBacklog;
use crate::metrics::Part;
use crate::upload_plan::Backlog;

/// A picture of the uploader, for the admin page and for tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UploadStatus {
    /// Durable WAL bytes that are in no cut yet.
    pub waiting_bytes: u64,
    pub waiting_age_ms: u64,
    pub cuts_in_flight: usize,
    /// Bytes whose acks wait for a commit and that are in no cut yet.
    pub ack_waiting_bytes: u64,
    pub ack_waiting_ms: u64,
    /// Cuts made for such.
    pub ack_cuts: u64,
    /// Bytes per second at which uploads go; 0: as fast as the store takes them.
    pub pace: u64,
    /// What went at a pace, and how often it waited.
    pub paced_bytes: u64,
    pub pauses: u64,
    /// How long each WAL lasts.
    pub budgets: BTreeMap<WalId, Budget>,
    pub objects_committed: u64,
    pub object_bytes_committed: u64,
    pub put_failures: u64,
    pub commit_failures: u64,
    pub ranges_refused: u64,
    /// Batches read back from the WAL because memory had let them go.
    pub read_back_batches: u64,
    /// Streams whose WAL records cannot be read back. They are not uploaded any more and hold the WAL.
    pub damaged_streams: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    now: Mutex<Now>,
    ack_cuts: AtomicU64,
    objects_committed: AtomicU64,
    object_bytes_committed: AtomicU64,
    put_failures: AtomicU64,
    commit_failures: AtomicU64,
    ranges_refused: AtomicU64,
    read_back_batches: AtomicU64,
}

#[derive(Debug, Default)]
struct Now {
    waiting_bytes: u64,
    waiting_age: Duration,
    cuts_in_flight: usize,
    ack_waiting_bytes: u64,
    ack_waiting: Duration,
    budgets: BTreeMap<WalId, Budget>,
    rates: BTreeMap<WalId, Rate>,
    pace: u64,
    paced: Paced,
    damaged: BTreeSet<StreamId>,
}

impl Shared {
    pub(super) fn status(&self) -> UploadStatus {
        let now = self.now();
        UploadStatus {
            waiting_bytes: now.waiting_bytes,
            waiting_age_ms: now.waiting_age.as_millis() as u64,
            cuts_in_flight: now.cuts_in_flight,
            ack_waiting_bytes: now.ack_waiting_bytes,
            ack_waiting_ms: now.ack_waiting.as_millis() as u64,
            ack_cuts: self.ack_cuts.load(Ordering::Relaxed),
            pace: now.pace,
            paced_bytes: now.paced.bytes,
            pauses: now.paced.pauses,
            budgets: now.budgets.clone(),
            objects_committed: self.objects_committed.load(Ordering::Relaxed),
            object_bytes_committed: self.object_bytes_committed.load(Ordering::Relaxed),
            put_failures: self.put_failures.load(Ordering::Relaxed),
            commit_failures: self.commit_failures.load(Ordering::Relaxed),
            ranges_refused: self.ranges_refused.load(Ordering::Relaxed),
            read_back_batches: self.read_back_batches.load(Ordering::Relaxed),
            damaged_streams: now.damaged.iter().map(|stream| stream.0).collect(),
        }
    }

    /// Reckons until when this WAL is full if nothing is uploaded, and gives the bytes per second that are appended to it.
    pub(super) fn note_wal(&self, wal: WalId, usage: &WalUsage, at: Instant) -> f64 {
        let mut now = self.now();
        let now = &mut *now;
        let rate = now.rates.entry(wal).or_insert_with(|| Rate::new(usage, at));
        rate.note(usage, at);
        now.budgets.insert(wal, Budget::new(usage, rate.bytes_per_second));
        rate.bytes_per_second
    }

    pub(super) fn note_pace(&self, pace: &Pace) {
        let mut now = self.now();
        (now.pace, now.paced) = (pace.bytes_per_second().unwrap_or(0), pace.paced());
    }

    pub(super) fn note_ack_cut(&self) {
        self.ack_cuts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_backlog(&self, backlog: &Backlog, for_acks: &CommitBacklog, cuts_in_flight: usize) {
        let mut now = self.now();
        now.ack_waiting_bytes = for_acks.bytes;
        now.ack_waiting = for_acks.since.map_or(Duration::ZERO, |since| since.elapsed());
        now.waiting_bytes = backlog.bytes;
        now.waiting_age = backlog.age;
        now.cuts_in_flight = cuts_in_flight;
    }

    pub(super) fn note_commit(&self, cut: &PreparedCut) {
        self.objects_committed.fetch_add(cut.objects.len() as u64, Ordering::Relaxed);
        let bytes = cut.objects.iter().map(|object| object.bytes).sum();
        self.object_bytes_committed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn note_put_failure(&self) {
        self.put_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_commit_failure(&self) {
        self.commit_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_refusal(&self) {
        self.ranges_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_read_back(&self, batches: usize) {
        self.read_back_batches.fetch_add(batches as u64, Ordering::Relaxed);
    }

    pub(super) fn note_damage(&self, stream: StreamId) {
        self.now().damaged.insert(stream);
    }

    pub(super) fn is_damaged(&self, stream: StreamId) -> bool {
        self.now().damaged.contains(&stream)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uploader's metrics. Refreshed from a status before they are shown.
#[derive(Debug, Clone)]
pub struct UploadMetrics {
    waiting_bytes: Gauge,
    waiting_seconds: Gauge<f64, AtomicU64>,
    wal_seconds_left: Gauge<f64, AtomicU64>,
    cuts_in_flight: Gauge,
    ack_waiting_bytes: Gauge,
    ack_waiting_seconds: Gauge<f64, AtomicU64>,
    ack_cuts: Counter,
    pace: Gauge,
    paced: Counter,
    pauses: Counter,
    objects: Counter,
    object_bytes: Counter,
    put_failures: Counter,
    commit_failures: Counter,
    ranges_refused: Counter,
    read_back_batches: Counter,
    damaged_streams: Gauge,
}

impl UploadMetrics {
    pub fn register(registry: &mut Registry) -> UploadMetrics {
        let mut part = Part::new(registry, "upload");
        UploadMetrics {
            waiting_bytes: part.bytes("waiting", "Durable WAL bytes in no upload yet"),
            waiting_seconds: part.seconds("waiting_age", "How long the oldest of them has waited"),
            wal_seconds_left: part.seconds(
                "wal_left",
                "How long the fullest WAL takes producers at the present rate if nothing is uploaded; -1 while nothing is appended",
            ),
            cuts_in_flight: part.metric("in_flight", "Uploads under way"),
            ack_waiting_bytes: part
                .bytes("ack_waiting", "Bytes whose acks wait for the object store and that are in no upload yet"),
            ack_waiting_seconds: part.seconds("ack_waiting_age", "How long the oldest of them has waited"),
            ack_cuts: part.metric("ack_cuts", "Uploads made because acks waited for them"),
            pace: part.bytes("pace", "Bytes a second at which uploads go out; 0 as fast as the store takes them"),
            paced: part.bytes("paced", "Bytes that went out at such a pace"),
            pauses: part.metric("pauses", "How often an upload paused for it"),
            objects: part.metric("objects", "Objects committed"),
            object_bytes: part.bytes("objects", "Bytes of objects committed"),
            put_failures: part.metric("put_failures", "Puts that failed and were repeated"),
            commit_failures: part.metric("commit_failures", "Commits that metadata did not answer or rejected"),
            ranges_refused: part.metric("ranges_refused", "Ranges that a commit refused"),
            read_back_batches: part
                .metric("read_back_batches", "Batches read back from the WAL because memory had let them go"),
            damaged_streams: part.metric("damaged_streams", "Streams whose WAL records cannot be read back"),
        }
    }

    /// Takes over the figures of `status`.
    pub fn refresh(&self, status: &UploadStatus) {
        self.waiting_bytes.set(status.waiting_bytes as i64);
        self.waiting_seconds.set(status.waiting_age_ms as f64 / 1000.0);
        let shortest = status.budgets.values().filter_map(|budget| budget.seconds).reduce(f64::min);
        self.wal_seconds_left.set(shortest.unwrap_or(-1.0));
        self.cuts_in_flight.set(status.cuts_in_flight as i64);
        self.ack_waiting_bytes.set(status.ack_waiting_bytes as i64);
        self.ack_waiting_seconds.set(status.ack_waiting_ms as f64 / 1000.0);
        raise(&self.ack_cuts, status.ack_cuts);
        self.pace.set(status.pace as i64);
        raise(&self.paced, status.paced_bytes);
        raise(&self.pauses, status.pauses);
        raise(&self.objects, status.objects_committed);
        raise(&self.object_bytes, status.object_bytes_committed);
        raise(&self.put_failures, status.put_failures);
        raise(&self.commit_failures, status.commit_failures);
        raise(&self.ranges_refused, status.ranges_refused);
        raise(&self.read_back_batches, status.read_back_batches);
        self.damaged_streams.set(status.damaged_streams.len() as i64);
    }
}

fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
