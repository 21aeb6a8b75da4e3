//! What readers saw, beside what was written: bytes as they were sent, or under compaction what may be left of them.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use seawall_metadata::StreamId;
use seawall_protocol::records;

use super::{Attempt, Ledger, contents};

impl Ledger {
    pub(super) fn header_seen(&mut self, stream: StreamId, bytes: &[u8]) -> Option<records::BatchHeader> {
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

    /// Who has read it all, up to the watermark `end`, has the newest record of each key. A tombstone may be missing: then so is all before it.
    pub fn view_ends(&mut self, stream: StreamId, log_start: i64, end: i64) {
        let Some(view) = self.logs.get_mut(&stream).and_then(|log| log.view.take()) else { return };
        let mut newest = BTreeMap::new();
        for (base, batch) in self.batches_in(stream, i64::MIN..end) {
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

    pub(super) fn expected(&self, attempt: &Attempt, base: i64) -> BytesMut {
        let mut bytes = BytesMut::from(&self.batches[attempt.batch].bytes[..]);
        records::patch_base_offset_and_epoch(&mut bytes, base, attempt.leader_epoch);
        bytes
    }
}
