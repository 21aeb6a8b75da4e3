//! A node that is lost with its folder and its WAL, and a cluster that is made anew of the store: what was committed is there, what
//! was acked in the WAL alone may not be, and no offset or id is given out twice.

use std::collections::BTreeMap;

use seawall_metadata::StreamId;

use super::Ledger;

/// A stream of the new incarnation.
#[derive(Debug, Clone)]
pub struct RestoredStream {
    pub start: i64,
    /// Where what is restored of it ends.
    pub end: i64,
    /// Where it goes on.
    pub next: i64,
    /// Where leader epochs begin, rising.
    pub epochs: Vec<(i64, i32)>,
}

impl RestoredStream {
    /// Under which leader epoch what is at `offset` was appended.
    fn epoch_at(&self, offset: i64) -> Option<i32> {
        self.epochs.iter().rev().find(|(start, _)| *start <= offset).map(|(_, epoch)| *epoch)
    }
}

/// A stream as metadata had it last.
#[derive(Debug, Clone, Copy)]
pub struct CommittedStream {
    pub start: i64,
    pub next: i64,
}

impl Ledger {
    /// Metadata has `stream` at this entry.
    pub fn is_known(&mut self, stream: StreamId, applied: u64) {
        let log = self.logs.entry(stream).or_default();
        log.known_at.get_or_insert(applied);
        if log.buried {
            self.violation(format!("the id of stream {stream} was given out before a restore"));
        }
    }

    /// Acks of the stream mean that it was committed.
    pub fn promises_commits(&mut self, stream: StreamId) {
        self.logs.entry(stream).or_default().promises_commits = true;
    }

    /// Counts restores.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// An ack of the broker before a restore, which promised the commit.
    pub fn acked_before_restore(&mut self, batch: usize, base: i64) {
        let stream = self.batches[batch].stream;
        let Some(log) = self.logs.get(&stream).filter(|log| !log.deleted) else { return };
        let held = log.attempts.get(&base).is_some_and(|tried| tried.iter().any(|t| t.batch == batch && !t.lost));
        if !held {
            self.violation(format!(
                "batch {batch} at {base} of stream {stream} was acked, and a restore did not find it"
            ));
        }
    }

    /// The cluster was made anew, of a backup that went to entry `backup` at least.
    pub fn restored(
        &mut self,
        restored: &BTreeMap<StreamId, RestoredStream>,
        committed: &BTreeMap<StreamId, CommittedStream>,
        backup: u64,
    ) {
        self.incarnation += 1;
        let mut wrong = Vec::new();
        for (stream, log) in &mut self.logs {
            if restored.contains_key(stream) {
                continue;
            }
            if !log.deleted && !log.may_vanish && log.known_at.is_some_and(|known| known <= backup) {
                wrong.push(format!("stream {stream} is in the backup and was not restored"));
            }
            log.deleted = true;
            log.buried = true;
        }
        self.producers.retain(|producer| restored.contains_key(&producer.stream));
        // What they sent last may be gone.
        self.producers.iter_mut().for_each(|producer| producer.forgotten = true);
        for (stream, of) in restored {
            wrong.extend(self.restore_stream(*stream, of, committed.get(stream).copied()));
        }
        self.violations.append(&mut wrong);
    }

    fn restore_stream(
        &mut self,
        stream: StreamId,
        of: &RestoredStream,
        committed: Option<CommittedStream>,
    ) -> Vec<String> {
        let RestoredStream { start, end, next, .. } = *of;
        let mut wrong = Vec::new();
        let log = self.logs.entry(stream).or_default();
        // A topic that was deleted after the backup comes back.
        let was_deleted = std::mem::take(&mut log.deleted) || log.may_vanish || committed.is_none();
        log.may_vanish = false;
        let certain = committed.map_or(end, |committed| committed.next).min(next);
        if let Some(committed) = committed.filter(|_| !was_deleted) {
            let in_order = start <= committed.start.max(log.floor);
            if end < self.gaps_left_out(stream, committed.next) || !in_order {
                wrong.push(format!("stream {stream} had {committed:?} committed, restored is {of:?}"));
            }
        }
        let Self { logs, batches, .. } = self;
        let log = logs.entry(stream).or_default();
        let gaps = log.gaps.clone();
        let lost: Vec<i64> = match was_deleted {
            true => log.pinned.keys().copied().collect(),
            false => log.pinned.iter().filter(|(_, pinned)| pinned.end > certain.min(end)).map(|(at, _)| *at).collect(),
        };
        for base in lost {
            let Some(pinned) = log.pinned.remove(&base) else { continue };
            batches[pinned.batch].pinned_at = None;
            if log.promises_commits && !was_deleted {
                let batch = pinned.batch;
                wrong.push(format!(
                    "batch {batch} at {base} of stream {stream} was committed when it was acked: it is lost"
                ));
            }
        }
        let mut highest = 0;
        for (base, tried) in &mut log.attempts {
            for attempt in tried {
                highest = highest.max(base + batches[attempt.batch].records);
                // What a restore went past was never taken up, and nothing comes there any more.
                if *base >= end || gaps.iter().any(|gap| gap.contains(base)) {
                    attempt.lost = true;
                } else if *base >= certain || was_deleted {
                    // Stored, maybe never committed, and taken up now: that of the epoch that it was stored under.
                    attempt.lost = of.epoch_at(*base) != Some(attempt.leader_epoch);
                }
            }
        }
        if next < highest {
            wrong.push(format!("stream {stream} goes on at {next}, offsets up to {highest} were given out"));
        }
        log.floor = start;
        log.ceiling = log.ceiling.max(start);
        log.view = None;
        log.gaps.retain(|gap| gap.start != end);
        log.gaps.push(end..next);
        wrong
    }

    /// The offset behind the jump that `offset` is in, if it is in one.
    pub fn behind_gap(&self, stream: StreamId, offset: i64) -> i64 {
        let mut gaps = self.logs.get(&stream).into_iter().flat_map(|log| &log.gaps);
        gaps.find(|gap| gap.contains(&offset)).map_or(offset, |gap| gap.end)
    }

    /// The end of the records below `offset`, without the jump before it.
    fn gaps_left_out(&self, stream: StreamId, offset: i64) -> i64 {
        let mut gaps = self.logs.get(&stream).into_iter().flat_map(|log| &log.gaps);
        gaps.find(|gap| gap.end == offset).map_or(offset, |gap| gap.start)
    }

    /// An offset of a record, or beside one: offsets jump, and most are no record's.
    pub fn some_offset(&self, stream: StreamId, random: u64) -> Option<i64> {
        let log = self.logs.get(&stream).filter(|log| !log.gaps.is_empty())?;
        let bases: Vec<i64> = log.attempts.range(log.floor..).map(|(base, _)| *base).collect();
        bases.get(random as usize % bases.len().max(1)).map(|base| base + random as i64 % 3)
    }
}
