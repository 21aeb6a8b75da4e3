//! ConsumerGroupHeartbeat: joining, staying, and hearing what to give up and what to take.

use std::collections::BTreeSet;

use super::reconcile::Reconciliation;
use super::subscriptions::compile;
use super::timers::{rebalance_deadline, session_deadline};
use super::{
    ClusterView, ConsumerConfig, ConsumerGroup, JOIN_EPOCH, LEAVE_STATIC_EPOCH, Member, member::metadata_bytes,
};
use crate::group::{GroupError, Now};
use crate::group_records::consumer::{Assignment, ConsumerRecord, MemberMetadata, MemberState, OwnedPartitions};

/// A heartbeat of a member that stays or joins. None: the member has not changed it since it last said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heartbeat {
    /// Never empty: who does not bring an id is given one by the caller.
    pub member_id: String,
    pub member_epoch: i32,
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub rebalance_timeout_ms: Option<i32>,
    pub topic_names: Option<BTreeSet<String>>,
    pub topic_regex: Option<String>,
    pub server_assignor: Option<String>,
    /// The partitions that the member has.
    pub owned: Option<Assignment>,
    pub client_id: String,
    pub client_host: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatAnswer {
    pub member_id: String,
    pub member_epoch: i32,
    pub heartbeat_interval_ms: i32,
    /// None: as it was.
    pub assignment: Option<Assignment>,
}

impl Heartbeat {
    /// A member that is not sure what the coordinator knows says everything, and is told everything.
    fn is_full(&self) -> bool {
        self.rebalance_timeout_ms.is_some()
            && (self.topic_names.is_some() || self.topic_regex.is_some())
            && self.owned.is_some()
    }

    fn joins(&self) -> bool {
        self.member_epoch == JOIN_EPOCH
    }

    /// What the member's metadata becomes.
    fn applied_to(&self, before: &MemberMetadata) -> MemberMetadata {
        let or = |new: &Option<String>, before: &Option<String>| new.clone().or_else(|| before.clone());
        MemberMetadata {
            instance_id: or(&self.instance_id, &before.instance_id),
            rack_id: or(&self.rack_id, &before.rack_id),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            topic_names: self.topic_names.clone().unwrap_or_else(|| before.topic_names.clone()),
            topic_regex: or(&self.topic_regex, &before.topic_regex),
            rebalance_timeout_ms: self.rebalance_timeout_ms.unwrap_or(before.rebalance_timeout_ms),
            server_assignor: or(&self.server_assignor, &before.server_assignor),
            classic: None,
        }
    }

    fn changes(&self, before: &MemberMetadata) -> bool {
        let differs = |new: &Option<String>, before: &Option<String>| new.is_some() && new != before;
        before.classic.is_some()
            || differs(&self.instance_id, &before.instance_id)
            || differs(&self.rack_id, &before.rack_id)
            || differs(&self.topic_regex, &before.topic_regex)
            || differs(&self.server_assignor, &before.server_assignor)
            || self.client_id != before.client_id
            || self.client_host != before.client_host
            || self.rebalance_timeout_ms.is_some_and(|timeout| timeout != before.rebalance_timeout_ms)
            || self.topic_names.as_ref().is_some_and(|names| *names != before.topic_names)
    }
}

impl ConsumerGroup {
    /// By how much the request makes a member that is there larger. None: it would make a new one, or names a regular
    /// expression whose topics are not known yet.
    pub fn growth(&self, request: &Heartbeat) -> Option<usize> {
        let holder = request.instance_id.as_ref().and_then(|instance| self.static_members.get(instance));
        let before = &self.members.get(holder.unwrap_or(&request.member_id))?.metadata;
        if !request.changes(before) {
            return Some(0);
        }
        let regex = request.topic_regex.as_ref().filter(|regex| !regex.is_empty());
        if regex.is_some_and(|regex| !self.regexes.contains_key(regex)) {
            return None;
        }
        Some(metadata_bytes(&request.applied_to(before)).saturating_sub(metadata_bytes(before)))
    }

    /// Whether [`ConsumerGroup::heartbeat`] may be called.
    pub fn check_heartbeat(&self, request: &Heartbeat, config: &ConsumerConfig) -> Result<(), GroupError> {
        let member = self.members.get(&request.member_id);
        if member.is_none() && self.members.len() >= config.members_max {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let static_member = request.instance_id.as_ref().map(|instance| {
            let id = self.static_members.get(instance)?;
            self.members.get(id)
        });
        let before = match static_member {
            None if request.joins() => member,
            None => Some(member.ok_or(GroupError::UnknownMemberId)?),
            Some(None) if request.joins() => member,
            Some(None) => return Err(GroupError::UnknownMemberId),
            Some(Some(holder)) if holder.member_id == request.member_id => Some(holder),
            Some(Some(_)) if !request.joins() => return Err(GroupError::FencedInstanceId),
            Some(Some(holder)) if !holder.is_classic() && holder.current.epoch != LEAVE_STATIC_EPOCH => {
                return Err(GroupError::UnreleasedInstanceId);
            }
            Some(Some(holder)) => Some(holder),
        };
        if let Some(member) = before.filter(|member| member.member_id == request.member_id) {
            check_epoch(member, request)?;
        }
        if let Some(regex) = request.topic_regex.as_deref().filter(|regex| !regex.is_empty())
            && !self.regexes.contains_key(regex)
        {
            compile(regex)?;
        }
        let metadata = before.map(|member| &member.metadata);
        if request.changes(metadata.unwrap_or(&MemberMetadata::default())) {
            let after = request.applied_to(metadata.unwrap_or(&MemberMetadata::default()));
            if metadata_bytes(&after) > config.member_bytes_max {
                return Err(GroupError::RecordTooLarge);
            }
        }
        Ok(())
    }

    /// Takes in a heartbeat that [`ConsumerGroup::check_heartbeat`] allows.
    pub fn heartbeat(
        &mut self,
        request: &Heartbeat,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> HeartbeatAnswer {
        let id = request.member_id.as_str();
        if !self.is_quiet(request, view) {
            return self.change(request, view, config, now, records);
        }
        let mut answer = self.answer(id, config);
        if request.joins() || request.is_full() {
            answer.assignment = Some(targets_of(&self.members[id].current.assigned));
        }
        self.touch(id, |member| member.session_deadline_ms = Some(session_deadline(member, config, now)));
        answer
    }

    /// Nothing has changed: most heartbeats.
    pub(super) fn is_quiet(&self, request: &Heartbeat, view: &ClusterView) -> bool {
        let Some(member) = self.members.get(&request.member_id) else { return false };
        self.seen_version == Some(view.version())
            && self.resolved_version.is_none_or(|(version, _)| version == view.version())
            && self.target_epoch >= self.epoch
            && member.is_reconciled_to(self.target_epoch)
            && !request.changes(&member.metadata)
    }

    fn change(
        &mut self,
        request: &Heartbeat,
        view: &ClusterView,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> HeartbeatAnswer {
        let id = request.member_id.as_str();
        let subscription_changed = self.update_member(request, config, now, records);
        self.update_epoch(subscription_changed, view, now, records);
        self.update_target(view, config, now, records);
        let assignment_changed = self.reconcile(id, subscription_changed, request.owned.as_ref(), view, now, records);
        let mut answer = self.answer(id, config);
        if request.joins() || request.is_full() || assignment_changed {
            answer.assignment = Some(targets_of(&self.members[id].current.assigned));
        }
        answer
    }

    /// Makes the member, or lets it say what is new. True: that calls for a new assignment.
    fn update_member(
        &mut self,
        request: &Heartbeat,
        config: &ConsumerConfig,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> bool {
        let id = request.member_id.as_str();
        self.replace_static_member(request.instance_id.as_deref(), id, records);
        let known = self.take_member(id);
        let is_new = known.is_none();
        let mut member = known.unwrap_or_else(|| Member::new(id.to_owned()));
        let before = std::mem::take(&mut member.metadata);
        member.metadata = request.applied_to(&before);
        member.session_deadline_ms = Some(session_deadline(&member, config, now));
        member.join_deadline_ms = None;
        member.sync_deadline_ms = None;
        if is_new || member.metadata != before {
            records.push(ConsumerRecord::Member(id.to_owned(), Some(member.metadata.clone())));
        }
        let subscription_changed = is_new
            || member.metadata.topic_names != before.topic_names
            || member.metadata.topic_regex != before.topic_regex;
        self.put_member(member);
        self.drop_unused_regexes(records);
        subscription_changed
    }

    /// A new epoch, if subscriptions or the topics behind them have changed.
    pub(super) fn update_epoch(
        &mut self,
        subscription_changed: bool,
        view: &ClusterView,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) {
        let mut bump = subscription_changed;
        if !self.regex_counts.is_empty() {
            bump |= self.resolve_regexes(view, now, records);
        }
        if bump || self.seen_version != Some(view.version()) {
            let hash = self.compute_metadata_hash(view);
            bump |= hash != self.metadata_hash;
            self.metadata_hash = hash;
            self.seen_version = Some(view.version());
        }
        if bump {
            self.bump_epoch(records);
        }
    }

    /// Moves the member towards its target. True: what it is to have is not what it had.
    pub(super) fn reconcile(
        &mut self,
        id: &str,
        subscription_changed: bool,
        owned: Option<&Assignment>,
        view: &ClusterView,
        now: Now,
        records: &mut Vec<ConsumerRecord>,
    ) -> bool {
        let mut member = self.take_member(id).expect("the caller has it");
        if !subscription_changed && member.is_reconciled_to(self.target_epoch) {
            self.put_member(member);
            return false;
        }
        let before = member.current.clone();
        let subscribed = self.topic_ids(&member, view);
        let nothing = Assignment::new();
        let reconciliation = Reconciliation {
            target_epoch: self.target_epoch,
            target: self.targets.get(id).unwrap_or(&nothing),
            subscribed: &subscribed,
            subscription_changed,
            owned,
        };
        reconciliation.advance(&mut member, |topic, partition| self.owners.contains_key(&(topic, partition)));
        let changed = member.current != before;
        if changed {
            records.push(ConsumerRecord::Current(id.to_owned(), Some(member.current.clone())));
            let revokes = member.current.state == MemberState::UnrevokedPartitions && !member.is_classic();
            member.rebalance_deadline_ms = revokes.then(|| rebalance_deadline(&member, now));
        }
        let assignment_changed = targets_of(&member.current.assigned) != targets_of(&before.assigned);
        self.put_member(member);
        assignment_changed
    }

    fn answer(&self, id: &str, config: &ConsumerConfig) -> HeartbeatAnswer {
        HeartbeatAnswer {
            member_id: id.to_owned(),
            member_epoch: self.members[id].current.epoch,
            heartbeat_interval_ms: config.heartbeat_interval_ms,
            assignment: None,
        }
    }
}

/// A member that names the epoch before its current one may not have got the answer with that: it is believed when it
/// owns no more than it should.
fn check_epoch(member: &Member, request: &Heartbeat) -> Result<(), GroupError> {
    if member.current.state == MemberState::Unknown && request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
        return Err(GroupError::FencedMemberEpoch);
    }
    let (received, current) = (request.member_epoch, &member.current);
    let answer_was_lost = || {
        received == current.previous_epoch
            && request.owned.as_ref().is_some_and(|owned| is_subset(owned, &current.assigned))
    };
    if request.joins() || received == current.epoch || (received < current.epoch && answer_was_lost()) {
        Ok(())
    } else {
        Err(GroupError::FencedMemberEpoch)
    }
}

fn is_subset(owned: &Assignment, assigned: &OwnedPartitions) -> bool {
    owned.iter().all(|(topic, partitions)| {
        partitions.is_empty()
            || assigned.get(topic).is_some_and(|held| partitions.iter().all(|partition| held.contains_key(partition)))
    })
}

pub(super) fn targets_of(owned: &OwnedPartitions) -> Assignment {
    owned.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}
