//! What may be gone: below a log start, by retention, by log compaction.

use seawall_metadata::StreamId;

use super::{Ledger, Pass};
use crate::life::DELETE_RETENTION_MS;

impl Ledger {
    /// Whether compaction may have taken a record: one with a newer record of its key behind it that is durable, or a tombstone
    /// past its horizon.
    pub(super) fn may_be_gone(&self, stream: StreamId, base: i64, batch: usize, at: usize) -> bool {
        let (key, value, _) = &self.batches[batch].contents[at];
        let offset = base + at as i64;
        let Some(log) = self.logs.get(&stream) else { return false };
        let mut attempts = log.attempts.range(base..log.high_watermark.max(base)).flat_map(|(base, tried)| {
            let tried = tried.iter().filter(|tried| !tried.lost);
            tried.flat_map(|tried| (*base..).zip(&self.batches[tried.batch].contents))
        });
        (value.is_none() && self.may_be_past_horizon(batch))
            || attempts.any(|(newer, content)| newer > offset && content.0 == *key)
    }

    /// The horizon of a tombstone is set by a pass that meets it, and over for a later one.
    pub(super) fn may_be_past_horizon(&self, batch: usize) -> bool {
        let mut set_ms = i64::MAX;
        self.passes.iter().filter(|pass| batch < pass.batches).any(|pass| {
            let over = set_ms.saturating_add(DELETE_RETENTION_MS) <= pass.now_ms;
            set_ms = set_ms.min(pass.now_ms);
            over
        })
    }

    /// Log compaction goes over the logs with this time for now. Answers the pass's number.
    pub fn pass_begins(&mut self, now_ms: i64) -> usize {
        self.passes.push(Pass { now_ms, batches: usize::MAX });
        self.passes.len() - 1
    }

    pub fn pass_ends(&mut self, pass: usize) {
        self.passes[pass].batches = self.batches.len();
    }

    /// Retention may take what is older than `before_ms`, and what lies below `bytes` of newer records.
    pub fn may_expire(&mut self, stream: StreamId, before_ms: Option<i64>, bytes: Option<u64>) {
        let Some(log) = self.logs.get(&stream) else { return };
        let mut to = log.floor;
        let floor = self.first_batch(stream, to);
        // What is not durable yet may be by the time that it is looked at.
        for (base, batch) in self.batches_in(stream, floor..i64::MAX) {
            let known = &self.batches[batch];
            let is_old = |at: usize| before_ms.is_some_and(|before_ms| known.contents[at].2 < before_ms);
            // What log compaction may have taken holds nothing back.
            let is_gone = |at: usize| {
                before_ms.is_some() && self.is_compacted(stream) && self.may_be_gone(stream, base, batch, at)
            };
            if !(0..known.contents.len()).all(|at| is_old(at) || is_gone(at)) {
                break;
            }
            to = base + known.records;
        }
        let mut left = 0;
        for (base, batch) in self.batches_in(stream, floor..i64::MAX).rev() {
            let known = &self.batches[batch];
            if bytes.is_some_and(|bytes| left >= bytes) {
                to = to.max(base + known.records);
                break;
            }
            left += known.bytes.len() as u64;
        }
        self.may_delete(stream, to);
    }

    pub fn compacts(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().compacted = true;
    }

    pub(super) fn is_compacted(&self, stream: StreamId) -> bool {
        self.logs.get(&stream).is_some_and(|log| log.compacted)
    }

    /// The log start as the broker shows it.
    pub fn log_start(&mut self, stream: StreamId, log_start: i64) {
        let log = self.logs.entry(stream).or_default();
        let (floor, ceiling) = (log.floor, log.ceiling);
        log.floor = floor.max(log_start);
        self.stats.expired += u64::from(log_start > floor);
        if log_start < floor || log_start > ceiling {
            self.violation(format!("stream {stream} starts at {log_start}, which should be in {floor}..={ceiling}"));
        }
    }

    /// Records below `to` may be deleted from now on.
    pub fn may_delete(&mut self, stream: StreamId, to: i64) {
        let to = self.behind_gap(stream, to);
        let log = self.logs.entry(stream).or_default();
        log.ceiling = log.ceiling.max(to);
    }

    /// A deletion was answered: it holds for good.
    pub fn deleted_to(&mut self, stream: StreamId, to: i64) {
        self.stats.trims += 1;
        let log = self.logs.entry(stream).or_default();
        log.floor = log.floor.max(to);
    }
}
