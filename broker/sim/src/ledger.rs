//! What clients were told and what they saw, in plain memory: the truth that the broker is compared with.
//!
//! A batch at an offset is *pinned* once it was acked, or a reader saw it: from then on no other may ever be found
//! there, and it may not disappear unless it was deleted. A batch that was appended and never answered may be
//! found or not, until a restart has decided it.

mod deletion;
mod disaster;
mod producers;
mod readers;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use seawall_metadata::StreamId;
use seawall_protocol::records;

use crate::stats::Stats;

pub use disaster::{CommittedStream, RestoredStream};
pub use producers::{Producer, Sent, SentState};

#[derive(Default)]
pub struct Ledger {
    batches: Vec<Batch>,
    logs: BTreeMap<StreamId, Log>,
    producers: Vec<Producer>,
    producers_made: i64,
    passes: Vec<Pass>,
    incarnation: u64,
    pub violations: Vec<String>,
    pub stats: Stats,
}

/// A pass of log compaction.
#[derive(Debug, Clone, Copy)]
struct Pass {
    now_ms: i64,
    /// Batches that it may have met: those made before it ended.
    batches: usize,
}

/// Key, value and timestamp of a record.
type Content = (Option<Bytes>, Option<Bytes>, i64);

/// A batch as a client made it. May be appended more than once.
struct Batch {
    stream: StreamId,
    bytes: Bytes,
    records: i64,
    idempotent: bool,
    /// Of its records, in order; no value is a tombstone.
    contents: Vec<Content>,
    /// Where it was found or acked.
    pinned_at: Option<i64>,
}

#[derive(Default)]
struct Log {
    attempts: BTreeMap<i64, Vec<Attempt>>,
    pinned: BTreeMap<i64, Pinned>,
    /// The log start is at least this.
    floor: i64,
    /// The log start is at most this.
    ceiling: i64,
    /// The highest high watermark that was seen.
    high_watermark: i64,
    deleted: bool,
    /// A deletion was asked for: a restart decides.
    may_vanish: bool,
    compacted: bool,
    /// The entry of the metadata log at which it was known.
    known_at: Option<u64>,
    /// An ack means that the batch was committed.
    promises_commits: bool,
    /// Offsets that a restore has left out.
    gaps: Vec<Range<i64>>,
    /// Of an incarnation before this one, and gone.
    buried: bool,
    /// What a reader from the start has for each key: its newest offset so far.
    view: Option<BTreeMap<Option<Bytes>, i64>>,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    batch: usize,
    leader_epoch: i32,
    /// A restart did not find it.
    lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pinned {
    end: i64,
    batch: usize,
    leader_epoch: i32,
}

impl Ledger {
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn new_batch(&mut self, stream: StreamId, bytes: Bytes, records: i64, idempotent: bool) -> usize {
        let contents = contents(&bytes).into_iter().map(|(_, content)| content).collect();
        self.batches.push(Batch { stream, bytes, records, idempotent, contents, pinned_at: None });
        self.batches.len() - 1
    }

    pub fn bytes(&self, batch: usize) -> Bytes {
        self.batches[batch].bytes.clone()
    }

    /// The broker gave `batch` the offset `base`: it may be in the log from now on.
    pub fn appended(&mut self, batch: usize, base: i64, leader_epoch: i32) {
        self.stats.appended += 1;
        let log = self.logs.entry(self.batches[batch].stream).or_default();
        log.attempts.entry(base).or_default().push(Attempt { batch, leader_epoch, lost: false });
    }

    /// The broker says that it has `batch` already, at `base`.
    pub fn repeated(&mut self, batch: usize, base: i64) {
        self.stats.duplicates += 1;
        let log = self.logs.entry(self.batches[batch].stream).or_default();
        let known = log.attempts.get(&base).is_some_and(|tried| tried.iter().any(|t| t.batch == batch && !t.lost));
        if !known {
            self.violation(format!("a repeat of batch {batch} was answered with offset {base}, where it never was"));
        }
    }

    pub fn acked(&mut self, batch: usize, base: i64) {
        self.stats.acked += 1;
        let stream = self.batches[batch].stream;
        let Some(attempt) = self.logs.get(&stream).and_then(|log| {
            let tried = log.attempts.get(&base)?;
            tried.iter().rev().find(|tried| tried.batch == batch && !tried.lost).copied()
        }) else {
            return self.violation(format!("batch {batch} was acked at {base} of stream {stream}, where it never was"));
        };
        self.pin(stream, base, attempt, "acked");
    }

    /// The batches that are there, with their base offsets.
    fn batches_in(&self, stream: StreamId, offsets: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, usize)> + '_ {
        let log = self.logs.get(&stream);
        let attempts = log.into_iter().flat_map(move |log| log.attempts.range(offsets.clone()));
        // After a restore it may be an older one.
        let pinned = move |base: &i64| log.and_then(|log| log.pinned.get(base)).map(|pinned| pinned.batch);
        attempts.filter_map(move |(base, tried)| {
            let newest = tried.iter().rfind(|tried| !tried.lost)?.batch;
            Some((*base, pinned(base).unwrap_or(newest)))
        })
    }

    /// The base offset of the batch that an offset lies in. Between batches it is the offset.
    fn first_batch(&self, stream: StreamId, offset: i64) -> i64 {
        let before = self.batches_in(stream, i64::MIN..offset + 1).next_back();
        before.filter(|(base, batch)| base + self.batches[*batch].records > offset).map_or(offset, |(base, _)| base)
    }

    fn pin(&mut self, stream: StreamId, base: i64, attempt: Attempt, how: &str) {
        let batch = &mut self.batches[attempt.batch];
        let log = self.logs.get_mut(&stream).expect("it has attempts");
        let pin = Pinned { end: base + batch.records, batch: attempt.batch, leader_epoch: attempt.leader_epoch };
        let mut wrong = Vec::new();
        // What was deleted may be forgotten together with its producer's state.
        if let Some(other) = batch.pinned_at.replace(base)
            && other != base
            && batch.idempotent
            && other >= log.ceiling
        {
            wrong.push(format!("batch {} of stream {stream} is there twice: at {other} and {base}", attempt.batch));
        }
        match log.pinned.insert(base, pin) {
            Some(before) if (before.batch, before.leader_epoch) != (pin.batch, pin.leader_epoch) => {
                wrong.push(format!("stream {stream} had batch {} at {base}, now {}", before.batch, pin.batch));
            }
            Some(_) => {}
            None => {
                let before = log.pinned.range(..base).next_back();
                let after = log.pinned.range(base + 1..).next();
                if before.is_some_and(|(_, before)| before.end > base) || after.is_some_and(|(at, _)| *at < pin.end) {
                    wrong.push(format!("batch at {base} of stream {stream} ({how}) overlaps one that was there"));
                }
            }
        }
        self.violations.append(&mut wrong);
    }

    /// A restarted broker opened the log of `stream` so.
    pub fn recovered(&mut self, stream: StreamId, log_start: i64, log_end: i64) {
        let log = self.logs.entry(stream).or_default();
        log.may_vanish = false;
        let mut wrong = Vec::new();
        if let Some((base, pinned)) = log.pinned.last_key_value()
            && pinned.end > log_end
        {
            let batch = pinned.batch;
            wrong.push(format!(
                "batch {batch} at {base} of stream {stream} is lost: the log was recovered to {log_end}"
            ));
        }
        if log_end < log.high_watermark {
            wrong.push(format!("stream {stream} was readable to {}, recovered to {log_end}", log.high_watermark));
        }
        for tried in log.attempts.range_mut(log_end..).flat_map(|(_, tried)| tried) {
            self.stats.lost_unacked += u64::from(!tried.lost);
            tried.lost = true;
        }
        let deleted = |batch: usize| log.attempts.range(..log.ceiling).flat_map(|(_, t)| t).any(|t| t.batch == batch);
        for producer in self.producers.iter_mut().filter(|producer| producer.stream == stream) {
            producer.forgotten |= producer.end <= log.ceiling || producer.queue.iter().any(|sent| deleted(sent.batch));
        }
        self.violations.append(&mut wrong);
        self.log_start(stream, log_start);
    }

    pub fn high_watermark(&mut self, stream: StreamId, high_watermark: i64) {
        let log = self.logs.entry(stream).or_default();
        let before = log.high_watermark;
        log.high_watermark = before.max(high_watermark);
        if high_watermark < before {
            self.violation(format!(
                "the high watermark of stream {stream} went back from {before} to {high_watermark}"
            ));
        }
    }

    pub fn topic_deleted(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().deleted = true;
        self.producers.retain(|producer| producer.stream != stream);
    }

    pub fn may_vanish(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().may_vanish = true;
    }

    /// After a restart: whether `stream`, which is not there any more, may be missing.
    pub fn vanished(&mut self, stream: StreamId) -> bool {
        let expected = self.logs.get(&stream).is_some_and(|log| log.may_vanish);
        if expected {
            self.topic_deleted(stream);
        }
        expected
    }

    pub fn is_deleted(&self, stream: StreamId) -> bool {
        self.logs.get(&stream).is_some_and(|log| log.deleted)
    }

    /// Streams of topics that still exist.
    pub fn streams(&self) -> Vec<StreamId> {
        self.logs.iter().filter(|(_, log)| !log.deleted).map(|(stream, _)| *stream).collect()
    }

    /// Nothing that was in flight is answered any more.
    pub fn broker_died(&mut self) {
        let made = self.batches.len();
        self.passes.iter_mut().for_each(|pass| pass.batches = pass.batches.min(made));
        for producer in &mut self.producers {
            for sent in &mut producer.queue {
                if sent.state == SentState::InFlight {
                    sent.state = SentState::Repeat;
                }
            }
        }
    }
}

/// The records of a batch, by their places in it.
fn contents(batch: &Bytes) -> Vec<(usize, Content)> {
    const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;
    let Ok(header) = records::BatchHeader::parse(batch) else { return Vec::new() };
    let Ok(all) = records::records(&header, batch, DECOMPRESSED_BYTES_MAX) else { return Vec::new() };
    let content = |record: records::Record| {
        let at = usize::try_from(record.offset - header.base_offset).unwrap_or(usize::MAX);
        (at, (record.key, record.value, record.timestamp))
    };
    all.map_while(Result::ok).map(content).collect()
}
