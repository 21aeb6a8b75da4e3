//! What clients were told and what they saw, in plain memory: the truth that the broker is compared with.
//!
//! A batch at an offset is *pinned* once it was acked, or a reader saw it: from then on no other may ever be found
//! there, and it may not disappear unless it was deleted. A batch that was appended and never answered may be
//! found or not, until a restart has decided it.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use seawall_metadata::StreamId;
use seawall_protocol::records;

use crate::life::DELETE_RETENTION_MS;

#[derive(Default)]
pub struct Ledger {
    batches: Vec<Batch>,
    logs: BTreeMap<StreamId, Log>,
    producers: Vec<Producer>,
    producers_made: i64,
    passes: Vec<Pass>,
    pub violations: Vec<String>,
    pub stats: Stats,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stats {
    pub appended: u64,
    pub acked: u64,
    pub duplicates: u64,
    pub batches_read: u64,
    pub lost_unacked: u64,
    pub lives: u64,
    pub power_cuts: u64,
    pub kills: u64,
    pub clean_stops: u64,
    pub crashes_in_start: u64,
    pub lease_losses: u64,
    pub wal_failures: u64,
    pub objects: u64,
    pub trims: u64,
    pub damages: u64,
    pub read_errors: u64,
    pub wal_full: u64,
    pub laps: u64,
    pub topics: u64,
    pub log_rounds: u64,
    pub objects_rewritten: u64,
    pub objects_forgotten: u64,
    pub time_lookups: u64,
    pub expired: u64,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        let Self {
            appended,
            acked,
            duplicates,
            batches_read,
            lost_unacked,
            lives,
            power_cuts,
            kills,
            clean_stops,
            crashes_in_start,
            lease_losses,
            wal_failures,
            objects,
            trims,
            damages,
            read_errors,
            wal_full,
            laps,
            topics,
            log_rounds,
            objects_rewritten,
            objects_forgotten,
            time_lookups,
            expired,
        } = other;
        self.appended += appended;
        self.acked += acked;
        self.duplicates += duplicates;
        self.batches_read += batches_read;
        self.lost_unacked += lost_unacked;
        self.lives += lives;
        self.power_cuts += power_cuts;
        self.kills += kills;
        self.clean_stops += clean_stops;
        self.crashes_in_start += crashes_in_start;
        self.lease_losses += lease_losses;
        self.wal_failures += wal_failures;
        self.objects += objects;
        self.trims += trims;
        self.damages += damages;
        self.read_errors += read_errors;
        self.wal_full += wal_full;
        self.laps += laps;
        self.topics += topics;
        self.log_rounds += log_rounds;
        self.objects_rewritten += objects_rewritten;
        self.objects_forgotten += objects_forgotten;
        self.time_lookups += time_lookups;
        self.expired += expired;
    }
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

/// An idempotent producer of one partition: it repeats in order what it has no answer for.
pub struct Producer {
    pub stream: StreamId,
    pub id: i64,
    pub next_sequence: i32,
    pub queue: Vec<Sent>,
    /// Exclusive end offset of its newest batch.
    pub end: i64,
    /// A restart after a deletion: what was deleted takes the memory of its producers along.
    pub forgotten: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub batch: usize,
    pub state: SentState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentState {
    InFlight,
    /// Failed, or the broker died.
    Repeat,
    Acked,
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

    fn header_seen(&mut self, stream: StreamId, bytes: &[u8]) -> Option<records::BatchHeader> {
        self.stats.batches_read += 1;
        records::BatchHeader::parse(bytes)
            .map_err(|error| self.violation(format!("a reader of stream {stream} got no batch: {error}")))
            .ok()
    }

    /// A reader of `stream` was handed this batch. Answers its end offset.
    pub fn saw(&mut self, stream: StreamId, bytes: &[u8]) -> Option<i64> {
        let header = self.header_seen(stream, bytes)?;
        let base = header.base_offset;
        let tried = self.logs.get(&stream).and_then(|log| log.attempts.get(&base));
        let found = tried.into_iter().flatten().rev().find(|tried| self.expected(tried, base)[..] == *bytes).copied();
        let Some(attempt) = found else {
            self.violation(format!("a reader of stream {stream} got bytes at offset {base} that nobody wrote there"));
            return None;
        };
        if attempt.lost {
            self.violation(format!("batch {} at {base} of stream {stream} came back from the dead", attempt.batch));
        }
        self.pin(stream, base, attempt, "read");
        Some(header.last_offset() + 1)
    }

    /// A reader of a compacted stream was handed this batch: what is in it was written there, and what is missing of it has a
    /// newer record of its key. Answers its end offset.
    pub fn saw_compacted(&mut self, stream: StreamId, bytes: &[u8]) -> Option<i64> {
        let header = self.header_seen(stream, bytes)?;
        let base = header.base_offset;
        let left = contents(&Bytes::copy_from_slice(bytes));
        let tried = self.logs.get(&stream).and_then(|log| log.attempts.get(&base));
        let found = tried.into_iter().flatten().rev().find(|tried| {
            let batch = &self.batches[tried.batch];
            tried.leader_epoch == header.partition_leader_epoch
                && base + batch.records == header.last_offset() + 1
                && left.iter().all(|(at, content)| batch.contents.get(*at) == Some(content))
        });
        let Some(attempt) = found.copied() else {
            self.violation(format!("a reader of stream {stream} got records at offset {base} that nobody wrote there"));
            return None;
        };
        if attempt.lost {
            self.violation(format!("batch {} at {base} of stream {stream} came back from the dead", attempt.batch));
        }
        if let Some(view) = self.logs.get_mut(&stream).and_then(|log| log.view.as_mut()) {
            view.extend(left.iter().map(|(at, (key, ..))| (key.clone(), base + *at as i64)));
        }
        let missing =
            (0..self.batches[attempt.batch].contents.len()).filter(|at| left.iter().all(|(kept, _)| kept != at));
        let live: Vec<usize> = missing.filter(|at| !self.may_be_gone(stream, base, attempt.batch, *at)).collect();
        if !live.is_empty() {
            let batch = attempt.batch;
            self.violation(format!(
                "records {live:?} of batch {batch} at {base} of stream {stream} are the newest and gone"
            ));
        }
        self.pin(stream, base, attempt, "read");
        Some(header.last_offset() + 1)
    }

    /// A reader of a compacted stream found nothing in these offsets.
    pub fn saw_nothing(&mut self, stream: StreamId, from: i64, to: i64) {
        let Some(log) = self.logs.get(&stream) else { return };
        let live = log.pinned.range(from..to).find(|(base, pinned)| {
            let records = self.batches[pinned.batch].contents.len();
            (0..records).any(|at| !self.may_be_gone(stream, **base, pinned.batch, at))
        });
        if let Some((base, pinned)) = live {
            let batch = pinned.batch;
            self.violation(format!("batch {batch} at {base} of stream {stream} has the newest of a key and is gone"));
        }
    }

    /// From here on somebody reads the stream from its start.
    pub fn view_begins(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().view = Some(BTreeMap::new());
    }

    /// Who has read it all has the newest record of each key. A tombstone may be missing: then so is all before it.
    pub fn view_ends(&mut self, stream: StreamId, log_start: i64) {
        let Some(view) = self.logs.get_mut(&stream).and_then(|log| log.view.take()) else { return };
        let mut newest = BTreeMap::new();
        for (base, batch) in self.batches_in(stream, i64::MIN..i64::MAX) {
            for (offset, (key, value, _)) in (base..).zip(&self.batches[batch].contents) {
                if offset >= log_start {
                    newest.insert(key.clone(), (offset, value.is_some()));
                }
            }
        }
        let wrong = newest.iter().find(|(key, (offset, has_value))| match view.get(*key) {
            Some(seen) => seen != offset,
            None => *has_value,
        });
        if let Some((key, (offset, _))) = wrong {
            let seen = view.get(key);
            self.violation(format!(
                "who reads stream {stream} has {seen:?} of a key whose newest record is at {offset}"
            ));
        }
    }

    /// Whether compaction may have taken a record: one with a newer record of its key behind it that is durable, or a tombstone
    /// past its horizon.
    fn may_be_gone(&self, stream: StreamId, base: i64, batch: usize, at: usize) -> bool {
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
    fn may_be_past_horizon(&self, batch: usize) -> bool {
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

    /// The batches that are there, with their base offsets.
    fn batches_in(&self, stream: StreamId, offsets: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, usize)> + '_ {
        let attempts = self.logs.get(&stream).into_iter().flat_map(move |log| log.attempts.range(offsets.clone()));
        attempts.filter_map(|(base, tried)| Some((*base, tried.iter().rfind(|tried| !tried.lost)?.batch)))
    }

    /// The base offset of the batch that an offset lies in.
    fn first_batch(&self, stream: StreamId, offset: i64) -> i64 {
        self.batches_in(stream, i64::MIN..offset + 1).next_back().map_or(offset, |(base, _)| base)
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
            // What compaction may have taken holds nothing back.
            let is_gone = |at: usize| before_ms.is_some() && self.may_be_gone(stream, base, batch, at);
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

    /// A timestamp that somebody has given to a record of the stream.
    pub fn some_timestamp(&self, stream: StreamId, random: u64) -> Option<i64> {
        let log = self.logs.get(&stream)?;
        let attempts: Vec<&Attempt> = log.attempts.range(log.floor..).flat_map(|(_, tried)| tried).collect();
        let attempt = attempts.get(random as usize % attempts.len().max(1))?;
        let contents = &self.batches[attempt.batch].contents;
        Some(contents[random as usize % contents.len()].2)
    }

    /// A look-up by time found this offset and timestamp, or nothing.
    pub fn found_by_time(&mut self, stream: StreamId, time_ms: i64, offsets: Range<i64>, found: Option<(i64, i64)>) {
        let first_batch = self.first_batch(stream, offsets.start);
        let until = found.map_or(offsets.end, |(offset, _)| offset + 1);
        let mut is_there = false;
        let mut passed = None;
        for (base, batch) in self.batches_in(stream, first_batch..until) {
            for (at, (_, _, timestamp_ms)) in self.batches[batch].contents.iter().enumerate() {
                let offset = base + at as i64;
                is_there |= found == Some((offset, *timestamp_ms));
                let fits = *timestamp_ms >= time_ms && offset >= offsets.start && offset < offsets.end;
                let before = found.is_none_or(|(found, _)| offset < found);
                if fits && before && !(self.is_compacted(stream) && self.may_be_gone(stream, base, batch, at)) {
                    passed.get_or_insert(offset);
                }
            }
        }
        if let Some(offset) = passed {
            self.violation(format!("{time_ms} in stream {stream}: found {found:?}, but there is {offset}"));
        }
        if found.is_some_and(|(_, at_ms)| !is_there || at_ms < time_ms) {
            self.violation(format!("{time_ms} in stream {stream}: found {found:?}, which was never there"));
        }
    }

    pub fn compacts(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().compacted = true;
    }

    fn is_compacted(&self, stream: StreamId) -> bool {
        self.logs.get(&stream).is_some_and(|log| log.compacted)
    }

    fn expected(&self, attempt: &Attempt, base: i64) -> BytesMut {
        let mut bytes = BytesMut::from(&self.batches[attempt.batch].bytes[..]);
        records::patch_base_offset_and_epoch(&mut bytes, base, attempt.leader_epoch);
        bytes
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
        let log = self.logs.entry(stream).or_default();
        log.ceiling = log.ceiling.max(to);
    }

    /// A deletion was answered: it holds for good.
    pub fn deleted_to(&mut self, stream: StreamId, to: i64) {
        self.stats.trims += 1;
        let log = self.logs.entry(stream).or_default();
        log.floor = log.floor.max(to);
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

    pub fn add_producer(&mut self, stream: StreamId, next_sequence: i32) -> usize {
        let id = 1_000 + self.producers_made;
        self.producers_made += 1;
        self.producers.push(Producer { stream, id, next_sequence, queue: Vec::new(), end: 0, forgotten: false });
        self.producers.len() - 1
    }

    pub fn producers_of(&self, stream: StreamId) -> Vec<i64> {
        self.producers.iter().filter(|producer| producer.stream == stream).map(|producer| producer.id).collect()
    }

    pub fn producer(&mut self, id: i64) -> Option<&mut Producer> {
        self.producers.iter_mut().find(|producer| producer.id == id)
    }

    /// A producer that the broker need not know any more gives up, as clients do. False: the broker should know it.
    pub fn give_up(&mut self, id: i64) -> bool {
        let forgotten = self.producer(id).is_some_and(|producer| producer.forgotten);
        if forgotten {
            self.producers.retain(|producer| producer.id != id);
        }
        forgotten
    }

    /// An answer to what a producer sent.
    pub fn answered(&mut self, producer: i64, batch: usize, acked: bool) {
        let Some(producer) = self.producer(producer) else { return };
        if let Some(sent) = producer.queue.iter_mut().find(|sent| sent.batch == batch) {
            sent.state = if acked { SentState::Acked } else { SentState::Repeat };
        }
        let done = producer.queue.iter().take_while(|sent| sent.state == SentState::Acked).count();
        producer.queue.drain(..done);
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
