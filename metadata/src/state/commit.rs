//! Streams and the commit that makes them grow: checked per range, so that one moved partition does not hold up the rest.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{ObjectState, State};
use crate::command::{
    COMMIT_RANGES_MAX, CommitAnswer, EpochStart, OFFSET_JUMP, ObjectCommit, RangeCommit, RangeOutcome, Refused,
    Rejection, Response, Settled, WalTrim,
};
use crate::ids::*;
use crate::wire::{Input, Wire, WireError};

/// Far above any object, and low enough that a stream's sum cannot overflow.
pub(super) const RANGE_BYTES_MAX: u64 = 1 << 40;

/// The log of one partition, as far as it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    pub id: StreamId,
    pub partition: PartitionId,
    /// The log start offset. It may lie above `next` when records were deleted before they were committed.
    pub start: Offset,
    /// Where the next commit begins.
    pub next: Offset,
    /// The first offset of each leader epoch that has committed data at or above `start`; the first one may begin below.
    pub epochs: Vec<EpochStart>,
    /// Offsets that were given up: nothing was ever, and will ever be, committed there.
    pub jumps: Vec<Jump>,
    pub(crate) ranges: BTreeMap<Offset, Range>,
    /// The sum over `ranges`. Derived.
    pub(crate) bytes: u64,
}

/// Offsets from `from` up to, without, `to` that no batch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Jump {
    pub from: Offset,
    pub to: Offset,
}

/// A committed range, stored under its base offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) end: Offset,
    pub(crate) object: ObjectId,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) max_timestamp: i64,
    pub(crate) leader_epoch: LeaderEpoch,
}

/// A committed range of a stream and the object that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RangeRef {
    pub object: ObjectId,
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    pub bytes: u64,
    pub records: u64,
    pub max_timestamp: i64,
    /// The leader epoch that committed it.
    pub leader_epoch: LeaderEpoch,
}

crate::wire::wire_struct!(Jump { from, to });
crate::wire::wire_struct!(Range { end, object, bytes, records, max_timestamp, leader_epoch });

impl Wire for StreamState {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { id, partition, start, next, epochs, jumps, ranges, bytes: _ } = self;
        id.put(out);
        partition.put(out);
        start.put(out);
        next.put(out);
        epochs.put(out);
        jumps.put(out);
        ranges.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok(Self {
            id: Wire::take(input)?,
            partition: Wire::take(input)?,
            start: Wire::take(input)?,
            next: Wire::take(input)?,
            epochs: Wire::take(input)?,
            jumps: Wire::take(input)?,
            ranges: Wire::take(input)?,
            bytes: 0,
        })
    }
}

impl Range {
    pub(crate) fn at(&self, base: Offset) -> RangeRef {
        let Range { end, object, bytes, records, max_timestamp, leader_epoch } = *self;
        RangeRef { object, base, end, bytes, records, max_timestamp, leader_epoch }
    }
}

impl StreamState {
    pub(super) fn new(id: StreamId, partition: PartitionId) -> Self {
        Self {
            id,
            partition,
            start: Offset(0),
            next: Offset(0),
            epochs: Vec::new(),
            jumps: Vec::new(),
            ranges: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The committed ranges that hold offsets at or above `from`, in offset order.
    pub fn ranges_from(&self, from: Offset) -> impl Iterator<Item = RangeRef> + '_ {
        let first = match self.ranges.range(..=from).next_back() {
            Some((base, range)) if range.end > from => *base,
            _ => from,
        };
        self.ranges.range(first..).map(|(base, range)| range.at(*base))
    }

    pub(super) fn derive(&mut self) {
        self.bytes = self.ranges.values().fold(0, |sum, range| sum.saturating_add(range.bytes));
    }

    /// Bytes of all committed ranges, counted whole.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn forget_epochs(&mut self) {
        let below = self.epochs.partition_point(|epoch| epoch.start <= self.start);
        self.epochs.drain(..below.saturating_sub(1));
    }
}

impl State {
    pub(super) fn commit_objects(
        &mut self,
        by: Registration,
        objects: Vec<ObjectCommit>,
        trims: Vec<WalTrim>,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        self.check_commit(by, &objects)?;
        trims.iter().try_for_each(|trim| self.check_trim(by, trim))?;
        let outcomes: Vec<Vec<RangeOutcome>> =
            objects.into_iter().map(|object| self.commit_object(by, object)).collect();
        let refused = |outcome: &RangeOutcome| matches!(outcome, RangeOutcome::Refused { .. });
        let trimmed = !outcomes.iter().flatten().any(refused);
        if trimmed {
            trims.iter().for_each(|trim| self.apply_trim(trim));
        }
        Ok(Response::Commit(CommitAnswer { outcomes, trimmed }))
    }

    /// Whatever refuses the command as a whole, before any of it is applied.
    fn check_commit(&self, by: Registration, objects: &[ObjectCommit]) -> Result<(), Rejection> {
        let ranges: usize = objects.iter().map(|object| object.ranges.len()).sum();
        if ranges > COMMIT_RANGES_MAX {
            return Err(Rejection::Malformed("more than 4096 ranges"));
        }
        let mut ids = BTreeSet::new();
        for object in objects {
            if object.ranges.is_empty() || !ids.insert(object.object) {
                return Err(Rejection::Malformed("objects need ranges and must differ"));
            }
            if object.ranges.iter().any(|range| !well_formed(range)) {
                return Err(Rejection::Malformed("a range needs records and rising offsets"));
            }
            match self.objects.get(&object.object) {
                Some(ObjectState { record: Some(record), ranges, .. }) => {
                    let replaced = self.rewritten.contains(&object.object);
                    if replaced || *record != object.record || *ranges as usize != object.ranges.len() {
                        return Err(Rejection::OtherObject(object.object));
                    }
                }
                _ => {
                    let reservation = self.reservations.get(&object.object);
                    if reservation.is_none_or(|reservation| reservation.by != by) {
                        return Err(Rejection::NotReserved(object.object));
                    }
                }
            }
        }
        Ok(())
    }

    fn commit_object(&mut self, by: Registration, commit: ObjectCommit) -> Vec<RangeOutcome> {
        if let Some(object) = self.objects.get(&commit.object) {
            return object.first_answer();
        }
        self.take_reservation(commit.object);
        let mut object = ObjectState {
            record: Some(commit.record),
            references: 0,
            ranges: commit.ranges.len() as u32,
            exceptions: Vec::new(),
            marked_ms: None,
        };
        let mut outcomes = Vec::with_capacity(commit.ranges.len());
        for (index, range) in commit.ranges.into_iter().enumerate() {
            let outcome = self.judge(by, &range);
            if outcome == RangeOutcome::Accepted {
                object.references += u32::from(self.append(commit.object, range));
            } else {
                object.exceptions.push((index as u32, outcome));
            }
            outcomes.push(outcome);
        }
        self.objects.insert(commit.object, object);
        self.mark_unreferenced(commit.object);
        outcomes
    }

    fn judge(&self, by: Registration, range: &RangeCommit) -> RangeOutcome {
        let settled = |why| RangeOutcome::Settled { why };
        let refused = |why| RangeOutcome::Refused { why };
        let Some(stream) = self.streams.get(&range.stream) else {
            return if self.was_made(range.stream) {
                settled(Settled::StreamDeleted)
            } else {
                refused(Refused::UnknownStream)
            };
        };
        if range.end <= stream.next {
            let given_up = stream.jumps.iter().any(|jump| range.base < jump.to && jump.from < range.end);
            return settled(if given_up { Settled::GivenUp } else { Settled::AlreadyCommitted });
        }
        let partition = &self.partitions[&stream.partition];
        if (partition.closed.iter()).any(|closed| range.leader_epoch <= closed.epoch && closed.end <= range.base) {
            return settled(Settled::EpochClosed);
        }
        if partition.owner != by.node {
            return refused(Refused::NotOwner { owner: partition.owner });
        }
        if partition.leader_epoch != range.leader_epoch {
            return refused(Refused::StaleLeaderEpoch { current: partition.leader_epoch });
        }
        if range.base != stream.next {
            return refused(Refused::NotNext { next: stream.next });
        }
        let newest = stream.epochs.last().map_or(LeaderEpoch(i32::MIN), |epoch| epoch.epoch);
        let in_order = range.epochs.first().map_or(range.leader_epoch, |epoch| epoch.epoch) >= newest
            && range.epochs.last().is_none_or(|epoch| epoch.epoch <= range.leader_epoch);
        if in_order { RangeOutcome::Accepted } else { refused(Refused::EpochOrder) }
    }

    /// Adds an accepted range to its stream. Whether it references the object: not if it was trimmed already.
    pub(super) fn append(&mut self, object: ObjectId, range: RangeCommit) -> bool {
        let stream = self.streams.get_mut(&range.stream).expect("judged before");
        assert!(stream.next == range.base && range.base < range.end, "{range:?} does not continue {:?}", stream.next);
        stream.next = range.end;
        let whole = [EpochStart { epoch: range.leader_epoch, start: range.base }];
        let epochs = if range.epochs.is_empty() { &whole[..] } else { &range.epochs[..] };
        for epoch in epochs {
            if stream.epochs.last().is_none_or(|last| last.epoch < epoch.epoch) {
                stream.epochs.push(*epoch);
            }
        }
        stream.forget_epochs();
        if range.end <= stream.start {
            return false;
        }
        stream.bytes += range.bytes;
        let RangeCommit { base, end, bytes, records, max_timestamp, leader_epoch, .. } = range;
        stream.ranges.insert(base, Range { end, object, bytes, records, max_timestamp, leader_epoch });
        self.uploaded.insert((object, range.stream, base));
        true
    }

    pub(super) fn trim_stream(
        &mut self,
        by: Registration,
        id: StreamId,
        leader_epoch: LeaderEpoch,
        start: Offset,
    ) -> Result<Response, Rejection> {
        let partition = self.streams.get(&id).ok_or(Rejection::UnknownStream(id))?.partition;
        self.led(by, partition, leader_epoch)?;
        let stream = self.streams.get_mut(&id).expect("looked up above");
        let high = Offset(stream.next.0.saturating_add(OFFSET_JUMP - 1));
        if start > high || start.0 < 0 {
            return Err(Rejection::OffsetOutOfRange { offset: start, low: stream.start, high });
        }
        if start <= stream.start {
            return Ok(Response::LogStart(stream.start));
        }
        stream.start = start;
        stream.forget_epochs();
        stream.jumps.retain(|jump| jump.to > start);
        let mut released = Vec::new();
        while let Some(entry) = stream.ranges.first_entry()
            && entry.get().end <= start
        {
            let (base, range) = entry.remove_entry();
            stream.bytes -= range.bytes;
            released.push((range.object, base));
        }
        released.into_iter().for_each(|(object, base)| self.release_range(object, id, base));
        Ok(Response::LogStart(start))
    }
}

fn well_formed(range: &RangeCommit) -> bool {
    let first = range.epochs.first().is_none_or(|epoch| epoch.start == range.base);
    let last = range.epochs.last().is_none_or(|epoch| epoch.start < range.end);
    let rising = range.epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start);
    // The jump keeps away from the end of the offset space, so that no sum of offsets can overflow.
    let offsets = range.base.0 >= 0 && range.base < range.end && range.end.0 < i64::MAX - (OFFSET_JUMP << 8);
    let counts = range.records > 0 && range.bytes > 0 && range.bytes < RANGE_BYTES_MAX;
    first && last && rising && offsets && counts
}
