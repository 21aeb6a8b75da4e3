//! A cluster made anew from what its store holds: which stored objects continue the streams of a backup, and the state of the
//! incarnation that follows. Pure; finding and reading objects is left to others.
//!
//! Promises: only ranges that continue a stream without a gap are taken, and none of an epoch that a later one has overtaken; whatever an
//! earlier incarnation may have given out beyond what is known here (offsets, epochs, ids), the new one does not give out
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use raft::eraftpb::{ConfState, HardState};
use uuid::Uuid;

use crate::backup::LogPoint;
use crate::command::{COMMIT_RANGES_MAX, EpochStart, OFFSET_JUMP, ObjectRecord};
use crate::ids::*;
use crate::log_store::{LogError, LogIdentity, RaftStorage, RedbLog, StoredSnapshot};
use crate::node::FIRST_RAFT_ID;
use crate::snapshot;
use crate::state::State;

pub use crate::state::RestoreError;

/// A stored object that the state does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    pub object: ObjectId,
    pub record: ObjectRecord,
    pub ranges: Vec<FoundRange>,
}

/// What an object says that it holds of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRange {
    pub stream: StreamId,
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    pub bytes: u64,
    pub records: u64,
    pub max_timestamp: i64,
    /// Rising, the first at `base`.
    pub epochs: Vec<EpochStart>,
    /// Offsets follow each other without a gap, as an upload has them; a compacted log has gaps.
    pub dense: bool,
}

/// What continues the streams of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollForward {
    /// By stream, in offset order.
    pub extensions: BTreeMap<StreamId, Vec<(ObjectId, FoundRange)>>,
    /// The objects that those are in.
    pub records: BTreeMap<ObjectId, ObjectRecord>,
    /// The highest end that any object names, taken or not.
    pub seen_to: BTreeMap<StreamId, Offset>,
    /// Records beyond the next offset of a known stream that nothing leads up to.
    pub unreached: BTreeMap<StreamId, u64>,
    /// Records of streams that were made after the backup, or deleted before it.
    pub unknown: BTreeMap<StreamId, u64>,
    /// The highest object id that was seen.
    pub last_object: ObjectId,
}

impl FoundRange {
    fn first_epoch(&self) -> LeaderEpoch {
        self.epochs.first().map_or(LeaderEpoch(0), |epoch| epoch.epoch)
    }

    fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(LeaderEpoch(0), |epoch| epoch.epoch)
    }
}

/// Picks what continues each stream.
pub fn roll_forward(state: &State, found: &[FoundObject]) -> RollForward {
    let mut plan = RollForward::default();
    let mut by_stream: BTreeMap<StreamId, Vec<(ObjectId, &FoundRange)>> = BTreeMap::new();
    for object in found {
        plan.last_object = plan.last_object.max(object.object);
        if object.ranges.len() > COMMIT_RANGES_MAX {
            // No upload makes such.
            continue;
        }
        for range in &object.ranges {
            by_stream.entry(range.stream).or_default().push((object.object, range));
        }
    }
    for (id, candidates) in by_stream {
        let Some(stream) = state.stream(id) else {
            plan.unknown.insert(id, candidates.iter().map(|(_, range)| range.records).sum());
            continue;
        };
        let ends = candidates.iter().map(|(_, range)| range.end);
        let seen_to = ends.filter(|end| end.0 < i64::MAX - (OFFSET_JUMP << 9)).max().unwrap_or_default();
        plan.seen_to.insert(id, seen_to);
        let newest = stream.epochs.last().map_or(LeaderEpoch(i32::MIN), |epoch| epoch.epoch);
        let taken = continue_stream(stream.next, newest, candidates.clone());
        let end = taken.last().map_or(stream.next, |(_, range)| range.end);
        let beyond = candidates.iter().filter(|(_, range)| range.base >= end).map(|(_, range)| range.records).sum();
        if beyond > 0 {
            plan.unreached.insert(id, beyond);
        }
        if !taken.is_empty() {
            plan.extensions.insert(id, taken.into_iter().map(|(object, range)| (object, range.clone())).collect());
        }
    }
    let used: BTreeSet<ObjectId> = plan.extensions.values().flatten().map(|(object, _)| *object).collect();
    plan.records = found
        .iter()
        .filter(|object| used.contains(&object.object))
        .map(|object| (object.object, object.record))
        .collect();
    plan
}

/// The ranges from `next` on that reach furthest.
fn continue_stream(
    next: Offset,
    newest: LeaderEpoch,
    mut candidates: Vec<(ObjectId, &FoundRange)>,
) -> Vec<(ObjectId, &FoundRange)> {
    let sound = |range: &FoundRange| {
        let epochs = range.epochs.first().is_some_and(|first| first.start == range.base)
            && range.epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start)
            && range.epochs.last().is_some_and(|last| last.start < range.end);
        let possible = range.base.0 >= 0 && range.end.0 < i64::MAX - (OFFSET_JUMP << 8) && range.bytes < 1 << 40;
        epochs && possible && range.dense && range.base < range.end && range.records > 0 && range.bytes > 0
    };
    candidates.retain(|(_, range)| range.base >= next && range.first_epoch() >= newest && sound(range));
    // A later epoch began within it: what it holds from there on was never committed, and maybe never acked.
    let overtaken = |range: &FoundRange| {
        let mut later = candidates.iter().filter(|(_, other)| other.first_epoch() > range.last_epoch());
        later.any(|(_, other)| other.base < range.end)
    };
    let mut usable: Vec<_> = candidates.iter().filter(|(_, range)| !overtaken(range)).copied().collect();
    // From the end: how far each one leads, and over which.
    usable.sort_by_key(|(object, range)| (range.base, range.last_epoch(), range.end, *object));
    let mut leads: Vec<(Offset, Option<usize>)> = vec![(Offset(0), None); usable.len()];
    for at in (0..usable.len()).rev() {
        let range = usable[at].1;
        let first = usable.partition_point(|(_, other)| other.base < range.end);
        let last = usable.partition_point(|(_, other)| other.base <= range.end);
        let next = (first..last).filter(|other| usable[*other].1.first_epoch() >= range.last_epoch());
        let best = next.max_by_key(|other| (leads[*other].0, *other));
        leads[at] = (best.map_or(range.end, |best| leads[best].0), best);
    }
    let begins = 0..usable.partition_point(|(_, range)| range.base <= next);
    let mut at = begins.max_by_key(|at| (leads[*at].0, *at));
    let mut taken = Vec::new();
    while let Some(this) = at {
        taken.push(usable[this]);
        at = leads[this].1;
    }
    taken
}

/// The snapshot that the metadata log of a restored cluster begins with.
pub fn first_snapshot(state: &State, term: u64) -> (LogPoint, Vec<u8>) {
    (LogPoint { index: state.applied(), term }, snapshot::encode(state))
}

/// Makes the metadata log of a restored cluster, of one voter, in a folder that has none. Durable on `Ok`.
pub fn write_log(dir: &Path, node: NodeId, at: LogPoint, data: Vec<u8>) -> Result<(), LogError> {
    begin_log(&mut RedbLog::open(dir)?, node, at, data)
}

/// The same in any store of a log.
pub fn begin_log<S: RaftStorage>(store: &mut S, node: NodeId, at: LogPoint, data: Vec<u8>) -> Result<(), LogError> {
    if store.load()?.is_some() {
        return Err(LogError::Damaged("there is a log already".to_owned()));
    }
    let mut conf_state = ConfState::default();
    conf_state.set_voters(vec![FIRST_RAFT_ID]);
    let snapshot = StoredSnapshot { index: at.index, term: at.term, conf_state, data };
    let mut hard_state = HardState::default();
    hard_state.set_term(at.term);
    hard_state.set_commit(at.index);
    store.create(LogIdentity { node, raft_id: FIRST_RAFT_ID, store: Uuid::new_v4() }, &snapshot, &hard_state)
}

#[cfg(test)]
mod tests;
