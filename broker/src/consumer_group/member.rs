//! One member under the consumer protocol: what it wants, what it has, and how long it may stay silent.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::is_stable;
use crate::group::GroupError;
use crate::group_records::consumer::{CurrentAssignment, MemberMetadata, MemberState, OwnedPartitions};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub member_id: String,
    pub metadata: MemberMetadata,
    pub current: CurrentAssignment,
    /// Without a heartbeat until then it is gone.
    pub(super) session_deadline_ms: Option<u64>,
    /// It has to have given up what it was asked to by then.
    pub(super) rebalance_deadline_ms: Option<u64>,
    /// A classic member that was told to join again has to by then.
    pub(super) join_deadline_ms: Option<u64>,
    /// A classic member that has joined has to ask for its assignment by then.
    pub(super) sync_deadline_ms: Option<u64>,
    /// The earliest of its deadlines, as the group's index knows it.
    pub(super) timer_ms: Option<u64>,
}

impl Member {
    pub(super) fn new(member_id: String) -> Self {
        Self {
            member_id,
            metadata: MemberMetadata { rebalance_timeout_ms: -1, ..MemberMetadata::default() },
            current: CurrentAssignment {
                epoch: 0,
                previous_epoch: 0,
                state: MemberState::Stable,
                assigned: OwnedPartitions::new(),
                revoking: OwnedPartitions::new(),
            },
            session_deadline_ms: None,
            rebalance_deadline_ms: None,
            join_deadline_ms: None,
            sync_deadline_ms: None,
            timer_ms: None,
        }
    }

    /// The regular expression it subscribes to; an empty one is none.
    pub fn regex(&self) -> Option<&str> {
        self.metadata.topic_regex.as_deref().filter(|regex| !regex.is_empty())
    }

    /// It speaks the classic protocol in a group of the consumer protocol.
    pub fn is_classic(&self) -> bool {
        self.metadata.classic.is_some()
    }

    pub fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        is_stable(self) && self.current.epoch == target_epoch
    }

    /// The epoch at which it got a partition that it holds or has yet to give up.
    pub fn assignment_epoch(&self, topic: Uuid, partition: i32) -> Option<i32> {
        let epoch_in = |owned: &OwnedPartitions| owned.get(&topic)?.get(&partition).copied();
        epoch_in(&self.current.assigned).or_else(|| epoch_in(&self.current.revoking))
    }

    /// What a member is told that names an epoch it is not in.
    pub(super) fn stale_epoch(&self) -> GroupError {
        if self.is_classic() { GroupError::IllegalGeneration } else { GroupError::StaleMemberEpoch }
    }

    pub(super) fn enter_epoch(&mut self, epoch: i32) {
        self.current.previous_epoch = self.current.epoch;
        self.current.epoch = epoch;
    }

    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        let classic = [self.join_deadline_ms, self.sync_deadline_ms];
        [self.session_deadline_ms, self.rebalance_deadline_ms].into_iter().chain(classic).flatten().min()
    }

    /// Memory that the member holds, about.
    pub(super) fn bytes(&self) -> usize {
        let metadata = metadata_bytes(&self.metadata);
        let owned = |owned: &OwnedPartitions| owned.values().map(|topic| 64 + 48 * topic.len()).sum::<usize>();
        512 + 4 * self.member_id.len() + metadata + owned(&self.current.assigned) + owned(&self.current.revoking)
    }
}

pub(super) fn metadata_bytes(metadata: &MemberMetadata) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let texts = text(&metadata.instance_id) + text(&metadata.rack_id) + text(&metadata.topic_regex);
    let names: usize = metadata.topic_names.iter().map(|name| 2 * name.len() + 96).sum();
    let classic = metadata
        .classic
        .as_ref()
        .map_or(0, |classic| classic.protocols.iter().map(|(name, metadata)| 64 + name.len() + metadata.len()).sum());
    metadata.client_id.len() + metadata.client_host.len() + 2 * texts + names + classic
}

/// Takes the partitions for which `keep` is false out of `owned`.
pub(super) fn split_off(owned: &mut OwnedPartitions, keep: impl Fn(Uuid, i32) -> bool) -> OwnedPartitions {
    let mut split = OwnedPartitions::new();
    owned.retain(|topic, partitions| {
        let out: BTreeMap<i32, i32> = partitions.extract_if(.., |partition, _| !keep(*topic, *partition)).collect();
        if !out.is_empty() {
            split.insert(*topic, out);
        }
        !partitions.is_empty()
    });
    split
}
