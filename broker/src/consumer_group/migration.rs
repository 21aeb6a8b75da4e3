//! A group with members changes its protocol: from classic to consumer when the first member of the new protocol
//! joins, and back when the last one has gone. In between, members of both are in one consumer group, see
//! `classic_members.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::embedded::{read_assignment, read_subscription, write_assignment};
use super::timers::session_deadline;
use super::{ClusterView, ConsumerConfig, ConsumerGroup, Member};
use crate::group::{CONSUMER_PROTOCOL_TYPE, Group, GroupConfig, GroupError, Now};
use crate::group_records::consumer::{
    ClassicMetadata, ConsumerRecord, CurrentAssignment, EpochValue, MemberMetadata, MemberState, OwnedPartitions,
    TargetEpochValue,
};
use crate::group_records::{GroupValue, MemberValue};

/// `group.consumer.migration.policy`: which way groups with members may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migration {
    Disabled,
    Upgrade,
    Downgrade,
    Bidirectional,
}

impl Migration {
    /// What is not known is disabled, as in Kafka.
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "upgrade" => Self::Upgrade,
            "downgrade" => Self::Downgrade,
            "bidirectional" => Self::Bidirectional,
            _ => Self::Disabled,
        }
    }

    fn upgrades(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    fn downgrades(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

impl ConsumerGroup {
    /// The classic group as a consumer group: everybody keeps what it has, and its generation is the epoch.
    pub fn from_classic(
        group: &Group,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<Self, GroupError> {
        let fits = group.is_consumer_group() && group.members().count() <= config.members_max;
        if !config.migration.upgrades() || !fits {
            return Err(GroupError::GroupIdNotFound);
        }
        let mut converted = Self { epoch: group.generation(), target_epoch: group.generation(), ..Self::default() };
        for classic in group.members() {
            let first = classic.protocols.first().map(|protocol| protocol.name.as_str());
            let metadata = classic.metadata(group.protocol_name().or(first).unwrap_or_default());
            let subscription = read_subscription(&metadata, view).ok_or(GroupError::GroupIdNotFound)?;
            // What a custom assignor keeps in its assignments would be lost.
            let assigned = read_assignment(&classic.assignment, view).ok_or(GroupError::GroupIdNotFound)?;
            let since = |partitions: &BTreeSet<i32>| partitions.iter().map(|at| (*at, group.generation())).collect();
            let owned: OwnedPartitions = assigned.iter().map(|(topic, at)| (*topic, since(at))).collect();
            let mut member = Member::new(classic.member_id.clone());
            member.metadata = MemberMetadata {
                instance_id: classic.group_instance_id.clone(),
                rack_id: subscription.rack_id,
                client_id: classic.client_id.clone(),
                client_host: classic.client_host.clone(),
                topic_names: subscription.topics.into_iter().collect(),
                topic_regex: None,
                rebalance_timeout_ms: classic.rebalance_timeout_ms as i32,
                server_assignor: None,
                classic: Some(ClassicMetadata {
                    session_timeout_ms: classic.session_timeout_ms as i32,
                    protocols: (classic.protocols.iter())
                        .map(|protocol| (protocol.name.clone(), protocol.metadata.clone()))
                        .collect(),
                }),
            };
            member.current = CurrentAssignment {
                epoch: group.generation(),
                previous_epoch: group.generation(),
                state: MemberState::Stable,
                assigned: owned,
                revoking: OwnedPartitions::new(),
            };
            member.session_deadline_ms = Some(session_deadline(&member, config, now));
            converted.set_target(&member.member_id, Some(assigned));
            converted.put_member(member);
        }
        converted.metadata_hash = converted.compute_metadata_hash(view);
        converted.seen_version = Some(view.version());
        Ok(converted)
    }

    /// All records of the group as it is.
    pub fn records(&self) -> Vec<ConsumerRecord> {
        let members = || self.members.values();
        let metadata =
            |member: &Member| ConsumerRecord::Member(member.member_id.clone(), Some(member.metadata.clone()));
        let mut records: Vec<ConsumerRecord> = members().map(metadata).collect();
        let epoch = EpochValue { epoch: self.epoch, metadata_hash: self.metadata_hash };
        records.push(ConsumerRecord::Epoch(Some(epoch)));
        records
            .extend(self.targets.iter().map(|(id, target)| ConsumerRecord::Target(id.clone(), Some(target.clone()))));
        let target = TargetEpochValue { epoch: self.target_epoch, timestamp_ms: self.target_timestamp_ms };
        records.push(ConsumerRecord::TargetEpoch(Some(target)));
        records.extend(
            members().map(|member| ConsumerRecord::Current(member.member_id.clone(), Some(member.current.clone()))),
        );
        records
    }

    /// The last member of the consumer protocol has gone, and the others may go back to the classic one.
    pub fn should_downgrade(&self, config: &GroupConfig) -> bool {
        config.consumer.migration.downgrades()
            && !self.members.is_empty()
            && self.members.len() <= config.members_max
            && self.members.values().all(Member::is_classic)
    }

    /// The group as a classic one, in which everybody is assigned its target. None: its members' subscriptions cannot
    /// be read, so it stays what it is.
    pub fn to_classic(&self, view: &ClusterView, now: Now) -> Option<GroupValue> {
        let protocol = self.classic_protocol()?;
        let members: Option<Vec<MemberValue>> = (self.members.values())
            .map(|member| {
                let classic = member.metadata.classic.as_ref()?;
                let (_, metadata) = classic.protocols.iter().find(|(name, _)| *name == protocol)?;
                let version = read_subscription(metadata, view)?.version;
                let target = self.targets.get(&member.member_id).cloned().unwrap_or_default();
                Some(MemberValue {
                    member_id: member.member_id.clone(),
                    group_instance_id: member.metadata.instance_id.clone(),
                    client_id: member.metadata.client_id.clone(),
                    client_host: member.metadata.client_host.clone(),
                    rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
                    session_timeout_ms: classic.session_timeout_ms,
                    subscription: metadata.clone(),
                    assignment: write_assignment(&target, version, view),
                })
            })
            .collect();
        Some(GroupValue {
            protocol_type: CONSUMER_PROTOCOL_TYPE.to_owned(),
            generation: self.epoch,
            protocol: Some(protocol),
            leader: self.members.keys().next().cloned(),
            state_timestamp_ms: Some(now.wall_ms),
            members: members?,
        })
    }

    /// The first protocol of the first classic member that all classic members know.
    fn classic_protocol(&self) -> Option<String> {
        let counts = self.classic_protocols();
        let classic = || self.members.values().filter_map(|member| member.metadata.classic.as_ref());
        let all = classic().count();
        let first = classic().next()?;
        first.protocols.iter().map(|(name, _)| name).find(|name| counts.get(name.as_str()) == Some(&all)).cloned()
    }

    pub(super) fn classic_protocols(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for classic in self.members.values().filter_map(|member| member.metadata.classic.as_ref()) {
            let names: BTreeSet<&str> = classic.protocols.iter().map(|(name, _)| name.as_str()).collect();
            names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
        }
        counts
    }
}
