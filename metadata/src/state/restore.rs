//! The first state of a new incarnation, made of the last known one of an old one.

use super::commit::Jump;
use super::{ObjectState, State};
use crate::command::{COMMIT_RANGES_MAX, OFFSET_JUMP, RangeCommit, Rejection, Response};
use crate::ids::*;
use crate::invariants;
use crate::restore::RollForward;

/// How far ids and epochs go ahead of what is known: beyond whatever may have been given out since.
const ID_JUMP: u64 = 1 << 32;
const LEADER_EPOCH_JUMP: i32 = 1 << 16;

/// Why a state cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("the backup is of no cluster")]
    NoCluster,
    #[error("exhausted: {0}")]
    Exhausted(&'static str),
    #[error("the restored state contradicts itself: {0}")]
    Inconsistent(String),
}

impl State {
    /// This state with `found` behind it, as the first of `incarnation`, whose only broker is `node`. Each stream goes on
    /// `offset_jump` ([`OFFSET_JUMP`]) beyond the highest offset that was seen; what is not here any more is without a trace: WALs, reservations,
    /// dirty marks. Objects of earlier incarnations are kept until it is declared the only one.
    pub fn restored(
        mut self,
        found: &RollForward,
        incarnation: Incarnation,
        node: NodeId,
        offset_jump: i64,
    ) -> Result<Self, RestoreError> {
        let (cluster, before) = self.cluster.ok_or(RestoreError::NoCluster)?;
        self.reservations.clear();
        // Never committed, and of an incarnation that ends: a scrub finds what is stored of them.
        self.objects.retain(|_, object| object.record.is_some());
        self.derive();
        self.next_object = self.next_object.max(ObjectId(found.last_object.0 + 1));
        self.take_found(found);
        for wal in std::mem::take(&mut self.wals).into_keys() {
            self.wal_legs.remove(&wal);
        }
        for broker in self.brokers.values_mut() {
            broker.fenced = true;
        }
        for partition in self.partitions.values_mut() {
            partition.dirty = None;
            if self.brokers.contains_key(&node) {
                partition.owner = node;
            }
            let epoch = partition.leader_epoch.0.checked_add(LEADER_EPOCH_JUMP);
            partition.leader_epoch = LeaderEpoch(epoch.ok_or(RestoreError::Exhausted("leader epochs"))?);
        }
        for stream in self.streams.values_mut() {
            let from = stream.next;
            let seen_to = found.seen_to.get(&stream.id).copied().unwrap_or_default().max(from);
            let to = seen_to.0.checked_add(offset_jump).filter(|to| *to < i64::MAX - (OFFSET_JUMP << 8));
            let to = Offset(to.ok_or(RestoreError::Exhausted("offsets"))?);
            if to > from {
                stream.jumps.push(Jump { from, to });
                stream.next = to;
            }
        }
        let last_unknown = found.unknown.keys().next_back().map_or(0, |stream| stream.0 + 1);
        let ahead = |id: u64, what| id.checked_add(ID_JUMP).ok_or(RestoreError::Exhausted(what));
        self.next_stream = StreamId(ahead(self.next_stream.0.max(last_unknown), "stream ids")?);
        self.next_object = ObjectId(ahead(self.next_object.0, "object ids")?);
        self.next_broker_epoch = BrokerEpoch(ahead(self.next_broker_epoch.0, "broker epochs")?);
        let producer_id = self.next_producer_id.0.checked_add(ID_JUMP as i64);
        self.next_producer_id = ProducerId(producer_id.ok_or(RestoreError::Exhausted("producer ids"))?);
        self.cluster = Some((cluster, incarnation));
        self.earlier.insert(before);
        self.applied += 1;
        self.topology_index = self.applied;
        self.derive();
        invariants::check(&self).map_err(RestoreError::Inconsistent)?;
        Ok(self)
    }

    /// Commits what was found, as its own commits did.
    fn take_found(&mut self, found: &RollForward) {
        for (object, record) in &found.records {
            let record = Some(*record);
            self.objects.insert(
                *object,
                ObjectState { record, references: 0, ranges: 0, exceptions: Vec::new(), marked_ms: None },
            );
        }
        for (stream, ranges) in &found.extensions {
            for (object, range) in ranges {
                let partition = self.streams[stream].partition;
                let current = &mut self.partitions.get_mut(&partition).expect("a stream has a partition").leader_epoch;
                let newest = range.epochs.last().map_or(*current, |epoch| epoch.epoch);
                *current = newest.max(*current);
                let leader_epoch = *current;
                let commit = RangeCommit {
                    stream: *stream,
                    leader_epoch,
                    base: range.base,
                    end: range.end,
                    bytes: range.bytes,
                    records: range.records,
                    max_timestamp: range.max_timestamp,
                    epochs: range.epochs.clone(),
                };
                let referenced = self.append(*object, commit);
                let state = self.objects.get_mut(object).expect("inserted above");
                state.references += u32::from(referenced);
                state.ranges += 1;
                assert!(state.ranges as usize <= COMMIT_RANGES_MAX, "{object:?} was one commit");
            }
        }
        found.records.keys().for_each(|object| self.mark_unreferenced(*object));
    }

    /// Whether objects of that incarnation are kept whatever refers to them.
    pub fn keeps_objects_of(&self, incarnation: Incarnation) -> bool {
        self.earlier.contains(&incarnation)
    }

    /// Incarnations before this one whose objects are kept until it is declared the only one.
    pub fn earlier_incarnations(&self) -> impl Iterator<Item = Incarnation> + '_ {
        self.earlier.iter().copied()
    }

    pub(super) fn declare_only(&mut self, incarnation: Incarnation) -> Result<Response, Rejection> {
        match self.cluster {
            Some((_, ours)) if ours == incarnation => {
                self.earlier.clear();
                Ok(Response::Done)
            }
            Some((cluster, incarnation)) => Err(Rejection::OtherCluster { cluster, incarnation }),
            None => Err(Rejection::NotInitialised),
        }
    }
}
