//! What the cleaner has done and what waits for it, for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::compaction::WAITS_FOR_LEVEL;
use crate::log_compaction::CleanStatistics;

#[derive(Debug, Default)]
pub struct CleanerStatus {
    rounds: AtomicU64,
    failures: AtomicU64,
    records_read: AtomicU64,
    records_kept: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    round_us: AtomicU64,
    map_bytes: AtomicU64,
    uncleanable: AtomicU64,
    uncleanable_bytes: AtomicU64,
    dirty_bytes: AtomicU64,
    dirty_percent_max: AtomicU64,
    waits_for_level: AtomicBool,
}

/// Totals since start, and the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanerMetrics {
    pub rounds: u64,
    pub failures: u64,
    pub records_read: u64,
    pub records_kept: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Of the last round.
    pub round_us: u64,
    /// While a round is under way.
    pub map_bytes: u64,
    pub uncleanable: u64,
    pub uncleanable_bytes: u64,
    pub dirty_bytes: u64,
    pub dirty_percent_max: u64,
    /// Why nothing is cleaned at all.
    pub waits_for: Option<&'static str>,
}

impl CleanerStatus {
    pub fn metrics(&self) -> CleanerMetrics {
        CleanerMetrics {
            rounds: self.rounds.load(Relaxed),
            failures: self.failures.load(Relaxed),
            records_read: self.records_read.load(Relaxed),
            records_kept: self.records_kept.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            round_us: self.round_us.load(Relaxed),
            map_bytes: self.map_bytes.load(Relaxed),
            uncleanable: self.uncleanable.load(Relaxed),
            uncleanable_bytes: self.uncleanable_bytes.load(Relaxed),
            dirty_bytes: self.dirty_bytes.load(Relaxed),
            dirty_percent_max: self.dirty_percent_max.load(Relaxed),
            waits_for: self.waits_for_level.load(Relaxed).then_some(WAITS_FOR_LEVEL),
        }
    }

    pub(super) fn note_waits_for_level(&self, waits: bool) {
        self.waits_for_level.store(waits, Relaxed);
    }

    pub(super) fn note_round(&self, statistics: &CleanStatistics, took: Duration) {
        self.rounds.fetch_add(1, Relaxed);
        self.records_read.fetch_add(statistics.records_read, Relaxed);
        self.records_kept.fetch_add(statistics.records_kept, Relaxed);
        self.round_us.store(took.as_micros() as u64, Relaxed);
    }

    pub(super) fn note_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn note_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn note_written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Relaxed);
    }

    pub(super) fn note_map(&self, bytes: usize) {
        self.map_bytes.store(bytes as u64, Relaxed);
    }

    pub(super) fn note_look(&self, uncleanable: u64, uncleanable_bytes: u64, dirty_bytes: u64, ratio_max: f64) {
        self.uncleanable.store(uncleanable, Relaxed);
        self.uncleanable_bytes.store(uncleanable_bytes, Relaxed);
        self.dirty_bytes.store(dirty_bytes, Relaxed);
        self.dirty_percent_max.store((ratio_max * 100.0) as u64, Relaxed);
    }
}
