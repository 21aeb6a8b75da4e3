//! Classic members of a consumer group: JoinGroup, SyncGroup, Heartbeat and LeaveGroup. A member is told by heartbeats to
//! join again when there is something to give up or to get, and is given its part of the target assignment by SyncGroup.

use std::collections::BTreeSet;

use super::embedded::{Subscription, read_subscription, write_assignment};
use super::heartbeat::targets_of;
use super::member::metadata_bytes;
use super::timers::{rebalance_deadline, session_deadline};
use super::{ClusterView, ConsumerConfig, ConsumerGroup, Member, Migration};
use crate::group::{
    CONSUMER_PROTOCOL_TYPE, GroupError, JoinAnswer, JoinRequest, Joined, LeavingMember, Now, SyncRequest, Synced,
};
use crate::group_records::consumer::{ClassicMetadata, ConsumerRecord, MemberMetadata, MemberState};

/// Why a classic member is to join again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rejoin {
    /// To say that it has given up what it must.
    Revoked,
    /// To get another target.
    Behind,
    /// To take what others have given up.
    Released,
}

impl ConsumerGroup {
    /// By how much the request makes a member that is there larger. None: it would make a new one, or cannot be read.
    pub fn classic_growth(&self, request: &JoinRequest, view: &ClusterView) -> Option<usize> {
        let id = self.static_members.named(request.group_instance_id.as_deref(), &request.member_id)?;
        let before = &self.members.get(id)?.metadata;
        let subscription = read_subscription(&request.protocols.first()?.metadata, view)?;
        let after = classic_metadata(request, &subscription, before);
        Some(metadata_bytes(&after).saturating_sub(metadata_bytes(before)))
    }

    /// JoinGroup of a classic member to a group with members. It is answered at once: the assignment comes by
    /// SyncGroup, and what is not there yet by joining again.
    pub fn classic_join(
        &mut self,
        request: &JoinRequest,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> JoinAnswer {
        let is_newcomer = request.member_id.is_empty();
        let id = if is_newcomer { &request.new_member_id } else { &request.member_id };
        let refused = |error| JoinAnswer { member_id: request.member_id.clone(), result: Err(error) };
        let subscription = match self.check_classic_join(request, id, view, config) {
            Ok(subscription) => subscription,
            Err(error) => return refused(error),
        };
        if is_newcomer && request.requires_known_member_id && request.group_instance_id.is_none() {
            return JoinAnswer { member_id: id.clone(), result: Err(GroupError::MemberIdRequired) };
        }
        self.replace_static_member(request.group_instance_id.as_deref(), id, records);
        let subscription_changed = self.update_classic_member(id, request, &subscription, config, now, records);
        self.update_epoch(subscription_changed, view, now, records);
        self.update_target(view, config, now, records);
        self.reconcile(id, subscription_changed, Some(&subscription.owned), view, now, records);
        let joined = Joined {
            generation: self.members[id].current.epoch,
            protocol_type: Some(CONSUMER_PROTOCOL_TYPE.to_owned()),
            protocol_name: request.protocols.first().map(|protocol| protocol.name.clone()),
            // Nobody: the assignment is the coordinator's.
            leader: String::new(),
            skip_assignment: false,
            members: Vec::new(),
        };
        JoinAnswer { member_id: id.clone(), result: Ok(joined) }
    }

    fn check_classic_join(
        &self,
        request: &JoinRequest,
        id: &str,
        view: &ClusterView,
        config: &ConsumerConfig,
    ) -> Result<Subscription, GroupError> {
        if config.migration == Migration::Disabled {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        if self.members.len() >= config.members_max && !self.members.contains_key(id) {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let counts = self.classic_protocols();
        let classic = self.members.values().filter(|member| member.is_classic()).count();
        let known_to_all = |name: &str| counts.get(name).copied().unwrap_or(0) == classic;
        let common = request.protocols.iter().any(|protocol| known_to_all(&protocol.name));
        if request.protocol_type != CONSUMER_PROTOCOL_TYPE || !common {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        if !request.member_id.is_empty() {
            self.static_members.check(request.group_instance_id.as_deref(), id)?;
        }
        let bytes: usize = request.protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len()).sum();
        if bytes > config.member_bytes_max {
            return Err(GroupError::RecordTooLarge);
        }
        let first = request.protocols.first().ok_or(GroupError::InconsistentGroupProtocol)?;
        read_subscription(&first.metadata, view).ok_or(GroupError::InconsistentGroupProtocol)
    }

    fn update_classic_member(
        &mut self,
        id: &str,
        request: &JoinRequest,
        subscription: &Subscription,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> bool {
        let known = self.take_member(id);
        let is_new = known.is_none();
        let mut member = known.unwrap_or_else(|| Member::new(id.to_owned()));
        let before = std::mem::take(&mut member.metadata);
        member.metadata = classic_metadata(request, subscription, &before);
        member.session_deadline_ms = Some(session_deadline(&member, config, now));
        member.join_deadline_ms = None;
        member.sync_deadline_ms = Some(rebalance_deadline(&member, now));
        if is_new || member.metadata != before {
            records.push(ConsumerRecord::Member(id.to_owned(), Some(member.metadata.clone())));
        }
        let had_regex = before.topic_regex.as_deref().is_some_and(|regex| !regex.is_empty());
        let changed = is_new || had_regex || member.metadata.topic_names != before.topic_names;
        self.put_member(member);
        self.drop_unused_regexes(records);
        changed
    }

    /// SyncGroup of a classic member: its part of the assignment, for as long as that is the target's.
    pub fn classic_sync(
        &mut self,
        request: &SyncRequest,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<Synced, GroupError> {
        let instance = request.group_instance_id.as_deref();
        let member = self.classic_member(&request.member_id, instance, request.generation)?;
        let classic = member.metadata.classic.as_ref().expect("checked");
        let (name, metadata) = classic.protocols.first().ok_or(GroupError::InconsistentGroupProtocol)?;
        let differs = |said: &Option<String>, is: &str| said.as_deref().is_some_and(|said| said != is);
        if differs(&request.protocol_type, CONSUMER_PROTOCOL_TYPE) || differs(&request.protocol_name, name) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        let version = read_subscription(metadata, view).map_or(0, |subscription| subscription.version);
        let assignment = write_assignment(&targets_of(&member.current.assigned), version, view);
        let is_behind = self.reason_to_rejoin(member, config, now) == Some(Rejoin::Behind);
        let name = name.clone();
        self.touch(&request.member_id, |member| {
            if is_behind {
                member.join_deadline_ms = member.join_deadline_ms.or(Some(rebalance_deadline(member, now)));
            } else {
                member.sync_deadline_ms = None;
                member.session_deadline_ms = Some(session_deadline(member, config, now));
            }
        });
        if is_behind {
            return Err(GroupError::RebalanceInProgress);
        }
        let protocol_type = request.protocol_type.as_ref().map(|_| CONSUMER_PROTOCOL_TYPE.to_owned());
        Ok(Synced { protocol_type, protocol_name: request.protocol_name.as_ref().map(|_| name), assignment })
    }

    /// Heartbeat of a classic member.
    pub fn classic_heartbeat(
        &mut self,
        member_id: &str,
        group_instance_id: Option<&str>,
        generation: i32,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<(), GroupError> {
        let member = self.classic_member(member_id, group_instance_id, generation)?;
        let rejoins = self.reason_to_rejoin(member, config, now).is_some();
        self.touch(member_id, |member| {
            member.session_deadline_ms = Some(session_deadline(member, config, now));
            if rejoins {
                member.join_deadline_ms = member.join_deadline_ms.or(Some(rebalance_deadline(member, now)));
            }
        });
        if rejoins { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// LeaveGroup, which an administrator may send for members of either protocol. One result per entry, in order.
    pub fn classic_leave(
        &mut self,
        leaving: &[LeavingMember],
        view: &ClusterView,
        records: &mut Vec<ConsumerRecord>,
    ) -> Vec<Result<(), GroupError>> {
        let mut gone = BTreeSet::new();
        let results = (leaving.iter())
            .map(|one| {
                let instance = one.group_instance_id.as_deref();
                let id = self.static_members.named(instance, &one.member_id).ok_or(GroupError::UnknownMemberId)?;
                self.static_members.check(instance, id)?;
                if !self.members.contains_key(id) {
                    return Err(GroupError::UnknownMemberId);
                }
                gone.insert(id.to_owned());
                Ok(())
            })
            .collect();
        self.fence(&gone, view, records);
        results
    }

    fn classic_member(
        &self,
        member_id: &str,
        group_instance_id: Option<&str>,
        generation: i32,
    ) -> Result<&Member, GroupError> {
        self.static_members.check(group_instance_id, member_id)?;
        let member = self.members.get(member_id).filter(|member| member.is_classic());
        let member = member.ok_or(GroupError::UnknownMemberId)?;
        if member.current.epoch == generation { Ok(member) } else { Err(GroupError::IllegalGeneration) }
    }

    /// What a classic member would get by joining again. It has to where no member of the consumer protocol is left: the
    /// next target of the group is only computed when somebody comes.
    fn reason_to_rejoin(&self, member: &Member, config: &ConsumerConfig, now: Now) -> Option<Rejoin> {
        let is_behind = member.current.epoch < self.target_epoch || self.is_target_due(config, now);
        match member.current.state {
            // It has joined for this rebalance already, so it may ask for what it keeps.
            MemberState::UnrevokedPartitions => Some(Rejoin::Revoked),
            _ if is_behind => Some(Rejoin::Behind),
            MemberState::UnreleasedPartitions if !self.waits_for_others(member) => Some(Rejoin::Released),
            MemberState::UnreleasedPartitions | MemberState::Stable | MemberState::Unknown => None,
        }
    }

    /// Some partition of the member's target is still somebody else's.
    fn waits_for_others(&self, member: &Member) -> bool {
        let Some(target) = self.targets.get(&member.member_id) else { return false };
        target.iter().any(|(topic, partitions)| {
            let held = member.current.assigned.get(topic);
            partitions.iter().any(|partition| {
                !held.is_some_and(|held| held.contains_key(partition))
                    && self.owners.contains_key(&(*topic, *partition))
            })
        })
    }
}

/// What the metadata of a classic member becomes when it joins.
fn classic_metadata(request: &JoinRequest, subscription: &Subscription, before: &MemberMetadata) -> MemberMetadata {
    MemberMetadata {
        instance_id: request.group_instance_id.clone().or_else(|| before.instance_id.clone()),
        rack_id: subscription.rack_id.clone().or_else(|| before.rack_id.clone()),
        client_id: request.client_id.clone(),
        client_host: request.client_host.clone(),
        topic_names: subscription.topics.iter().cloned().collect(),
        topic_regex: None,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        server_assignor: before.server_assignor.clone(),
        classic: Some(ClassicMetadata {
            session_timeout_ms: request.session_timeout_ms,
            protocols: (request.protocols.iter())
                .map(|protocol| (protocol.name.clone(), protocol.metadata.clone()))
                .collect(),
        }),
    }
}
