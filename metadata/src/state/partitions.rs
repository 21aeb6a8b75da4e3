//! Partitions: who leads, at which epoch, and whether acked data may lie outside of the object store.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{State, commit::Jump};
use crate::command::{OFFSET_JUMP, Rejection, Response};
use crate::ids::*;

/// How many closed epochs a partition remembers. A range of one forgotten is refused where it could be settled: that keeps
/// a WAL from being trimmed, it never loses anything.
const CLOSED_MAX: usize = 16;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionState {
    pub id: PartitionId,
    pub stream: StreamId,
    pub owner: NodeId,
    pub leader_epoch: LeaderEpoch,
    /// Set while WALs may hold acked data that is not committed.
    pub dirty: Option<Dirty>,
    /// The newest dirty generation seen; the next mark needs a higher one.
    pub generation: u64,
    /// Epochs that ended with all acked data committed, by what they ended at. Offsets at or above that, appended under
    /// that epoch or an earlier one, were never acked.
    pub closed: Vec<EpochEnd>,
}

/// Where acked data that is not committed may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dirty {
    pub generation: u64,
    pub wals: BTreeSet<WalId>,
    /// A WAL that this mark named was given up.
    pub given_up: bool,
}

/// The end of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end: Offset,
}

crate::wire::wire_struct!(PartitionState { id, stream, owner, leader_epoch, dirty, generation, closed });
crate::wire::wire_struct!(Dirty { generation, wals, given_up });
crate::wire::wire_struct!(EpochEnd { epoch, end });

impl PartitionState {
    pub(super) fn new(id: PartitionId, stream: StreamId, owner: NodeId) -> Self {
        let leader_epoch = LeaderEpoch(0);
        Self { id, stream, owner, leader_epoch, dirty: None, generation: 0, closed: Vec::new() }
    }

    fn next_epoch(&self) -> Result<LeaderEpoch, Rejection> {
        self.leader_epoch.0.checked_add(1).map(LeaderEpoch).ok_or(Rejection::Exhausted("leader epochs"))
    }
}

impl State {
    /// The partition, if `by` is active and leads it at that epoch.
    pub(super) fn led(
        &mut self,
        by: Registration,
        id: PartitionId,
        leader_epoch: LeaderEpoch,
    ) -> Result<&mut PartitionState, Rejection> {
        self.active(by)?;
        let partition = self.partitions.get_mut(&id).ok_or(Rejection::UnknownPartition(id))?;
        if partition.owner != by.node {
            return Err(Rejection::NotOwner { partition: id, owner: partition.owner });
        }
        if partition.leader_epoch != leader_epoch {
            return Err(Rejection::StaleLeaderEpoch { partition: id, current: partition.leader_epoch });
        }
        Ok(partition)
    }

    pub(super) fn take_partitions(
        &mut self,
        by: Registration,
        partitions: Vec<PartitionId>,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        if !partitions.is_sorted_by(|a, b| a < b) {
            return Err(Rejection::Malformed("partitions must rise"));
        }
        for id in &partitions {
            let partition = self.partitions.get(id).ok_or(Rejection::UnknownPartition(*id))?;
            if partition.owner != by.node {
                return Err(Rejection::NotOwner { partition: *id, owner: partition.owner });
            }
            partition.next_epoch()?;
        }
        let epochs = partitions.into_iter().map(|id| (id, self.begin_epoch(id))).collect();
        Ok(Response::LeaderEpochs(epochs))
    }

    pub(super) fn move_partition(
        &mut self,
        id: PartitionId,
        leader_epoch: LeaderEpoch,
        to: NodeId,
    ) -> Result<Response, Rejection> {
        self.can_own(to)?;
        let partition = self.partitions.get(&id).ok_or(Rejection::UnknownPartition(id))?;
        if partition.leader_epoch != leader_epoch {
            return Err(Rejection::StaleLeaderEpoch { partition: id, current: partition.leader_epoch });
        }
        if partition.dirty.is_some() {
            return Err(Rejection::PartitionDirty(id));
        }
        partition.next_epoch()?;
        let epoch = self.begin_epoch(id);
        self.partition_mut(id).owner = to;
        Ok(Response::LeaderEpochs(vec![(id, epoch)]))
    }

    /// Ends the partition's leader epoch and begins the next. The ended one is closed only if the partition is clean: a dirty
    /// one's tail may still be committed under the new epoch.
    fn begin_epoch(&mut self, id: PartitionId) -> LeaderEpoch {
        let partition = self.partitions.get_mut(&id).expect("looked up by the caller");
        if partition.dirty.is_none() {
            let end = self.streams[&partition.stream].next;
            partition.closed.push(EpochEnd { epoch: partition.leader_epoch, end });
            if partition.closed.len() > CLOSED_MAX {
                partition.closed.remove(0);
            }
        }
        partition.leader_epoch = partition.next_epoch().expect("checked by the caller");
        partition.leader_epoch
    }

    fn partition_mut(&mut self, id: PartitionId) -> &mut PartitionState {
        self.partitions.get_mut(&id).expect("looked up by the caller")
    }

    pub(super) fn mark_dirty(
        &mut self,
        by: Registration,
        id: PartitionId,
        leader_epoch: LeaderEpoch,
        wals: BTreeSet<WalId>,
        generation: u64,
    ) -> Result<Response, Rejection> {
        if wals.is_empty() {
            return Err(Rejection::Malformed("a dirty mark names at least one WAL"));
        }
        for wal in &wals {
            self.open_by(by, *wal)?;
        }
        let earlier = self.partitions.get(&id).and_then(|partition| partition.dirty.as_ref());
        if earlier.is_some_and(|dirty| dirty.wals.iter().any(|wal| self.open_by(by, *wal).is_err())) {
            // Its tail may lie in a WAL that this process did not read: appending now would reuse offsets.
            return Err(Rejection::PartitionDirty(id));
        }
        let partition = self.led(by, id, leader_epoch)?;
        let repeated = partition.dirty.as_ref().is_some_and(|dirty| dirty.generation == generation);
        if generation <= partition.generation && !repeated {
            return Err(Rejection::StaleGeneration { partition: id, current: partition.generation });
        }
        partition.generation = generation;
        let dirty = partition.dirty.get_or_insert_with(|| Dirty { generation, wals: BTreeSet::new(), given_up: false });
        dirty.generation = generation;
        dirty.wals.extend(wals);
        Ok(Response::Done)
    }

    pub(super) fn mark_clean(
        &mut self,
        by: Registration,
        id: PartitionId,
        leader_epoch: LeaderEpoch,
        generation: u64,
    ) -> Result<Response, Rejection> {
        let partition = self.led(by, id, leader_epoch)?;
        if generation != partition.generation {
            return Err(Rejection::StaleGeneration { partition: id, current: partition.generation });
        }
        if partition.dirty.as_ref().is_some_and(|dirty| dirty.given_up) {
            return Err(Rejection::PartitionDirty(id));
        }
        partition.dirty = None;
        Ok(Response::Done)
    }

    /// Takes a WAL off every dirty mark, because all of it is committed or because it was given up. A partition whose mark
    /// is empty then is clean; if part of its tail was given up, it continues beyond a jump under a new leader epoch.
    pub(super) fn clear_dirty(&mut self, wal: WalId, given_up: bool) -> Vec<(PartitionId, LeaderEpoch)> {
        let mut jumped = Vec::new();
        let named: Vec<PartitionId> = (self.partitions.values())
            .filter(|partition| partition.dirty.as_ref().is_some_and(|dirty| dirty.wals.contains(&wal)))
            .map(|partition| partition.id)
            .collect();
        for id in named {
            let partition = self.partition_mut(id);
            let dirty = partition.dirty.as_mut().expect("filtered above");
            dirty.wals.remove(&wal);
            dirty.given_up |= given_up;
            let jump = dirty.given_up;
            if dirty.wals.is_empty() {
                partition.dirty = None;
                if jump {
                    jumped.push((id, self.jump(id)));
                }
            }
        }
        jumped
    }

    /// Whether `clear_dirty` can give every partition that names the WAL a next epoch and a jump.
    pub(super) fn check_clear_dirty(&self, wal: WalId) -> Result<(), Rejection> {
        let named =
            |partition: &&PartitionState| partition.dirty.as_ref().is_some_and(|dirty| dirty.wals.contains(&wal));
        for partition in self.partitions.values().filter(named) {
            partition.next_epoch()?;
            let next = self.streams[&partition.stream].next;
            next.0.checked_add(OFFSET_JUMP).ok_or(Rejection::Exhausted("offsets"))?;
        }
        Ok(())
    }

    fn jump(&mut self, id: PartitionId) -> LeaderEpoch {
        let epoch = self.begin_epoch(id);
        let stream = self.partitions[&id].stream;
        let stream = self.streams.get_mut(&stream).expect("a partition has a stream");
        let from = stream.next;
        let to = Offset(from.0 + OFFSET_JUMP);
        stream.jumps.push(Jump { from, to });
        stream.next = to;
        epoch
    }
}
