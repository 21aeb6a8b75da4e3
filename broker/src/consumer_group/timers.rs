//! Silent members, members that do not give up what they must, and members that leave.

use std::collections::BTreeSet;

use super::{ClusterView, ConsumerConfig, ConsumerGroup, LEAVE_STATIC_EPOCH, Member};
use crate::group::{GroupError, Now, REBALANCE_TIMEOUT_MS_MIN, milliseconds};
use crate::group_records::consumer::{ConsumerRecord, MemberState, OwnedPartitions};

impl ConsumerGroup {
    /// To be called once after the last `replay`: from now on the members are expected to be heard of.
    pub fn loaded(&mut self, config: &ConsumerConfig, now: Now) {
        let members: Vec<Member> = std::mem::take(&mut self.members).into_values().collect();
        let targets = std::mem::take(&mut self.targets);
        // Only what was put in is taken out again, so nothing derived is there yet.
        assert!(self.owners.is_empty() && self.deadlines.is_empty() && self.bytes == 0, "loaded twice");
        for mut member in members {
            member.session_deadline_ms = Some(session_deadline(&member, config, now));
            if member.current.state == MemberState::UnrevokedPartitions {
                member.rebalance_deadline_ms = Some(rebalance_deadline(&member, now));
            }
            self.put_member(member);
        }
        for (id, target) in targets.into_iter().filter(|(id, _)| self.members.contains_key(id)).collect::<Vec<_>>() {
            self.set_target(&id, Some(target));
        }
        self.bytes += self
            .regexes
            .iter()
            .map(|(regex, resolved)| super::subscriptions::regex_bytes(regex, resolved))
            .sum::<usize>();
    }

    /// The time at which [`ConsumerGroup::tick`] has something to do.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Fences all whose time is over, at once, so that there is one new epoch for all of them.
    pub fn tick(&mut self, view: &ClusterView, now: Now, records: &mut Vec<ConsumerRecord>) {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now.monotonic_ms);
        let ids: BTreeSet<String> = due.map(|(_, id)| id.clone()).collect();
        self.fence(&ids, view, records);
    }

    /// A member goes, for good or (a static one) for a while.
    pub fn leave(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        epoch: i32,
        view: &ClusterView,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<(), GroupError> {
        self.static_members.check(instance_id, member_id)?;
        if !self.members.contains_key(member_id) {
            return Err(GroupError::UnknownMemberId);
        }
        if epoch == LEAVE_STATIC_EPOCH {
            self.leave_for_a_while(member_id, records);
        } else {
            self.fence(&BTreeSet::from([member_id.to_owned()]), view, records);
        }
        Ok(())
    }

    /// The member keeps its partitions for as long as its session would have lasted.
    fn leave_for_a_while(&mut self, id: &str, records: &mut Vec<ConsumerRecord>) {
        let mut member = self.take_member(id).expect("checked by the caller");
        member.current.epoch = LEAVE_STATIC_EPOCH;
        member.current.revoking = OwnedPartitions::new();
        // Whoever comes back under the instance id has held these from the start.
        member.current.assigned.values_mut().flat_map(|topic| topic.values_mut()).for_each(|epoch| *epoch = 0);
        member.rebalance_deadline_ms = None;
        records.push(ConsumerRecord::Current(id.to_owned(), Some(member.current.clone())));
        self.put_member(member);
    }

    pub(super) fn fence(&mut self, ids: &BTreeSet<String>, view: &ClusterView, records: &mut Vec<ConsumerRecord>) {
        if ids.is_empty() {
            return;
        }
        for id in ids {
            self.remove_member(id, records);
        }
        self.drop_unused_regexes(records);
        self.metadata_hash = self.compute_metadata_hash(view);
        self.seen_version = Some(view.version());
        self.bump_epoch(records);
    }

    pub(super) fn remove_member(&mut self, id: &str, records: &mut Vec<ConsumerRecord>) -> Member {
        let member = self.take_member(id).expect("only members are removed");
        self.set_target(id, None);
        records.push(ConsumerRecord::Current(id.to_owned(), None));
        records.push(ConsumerRecord::Target(id.to_owned(), None));
        records.push(ConsumerRecord::Member(id.to_owned(), None));
        member
    }
}

pub(super) fn session_deadline(member: &Member, config: &ConsumerConfig, now: Now) -> u64 {
    let own = member.metadata.classic.as_ref().map(|classic| milliseconds(classic.session_timeout_ms));
    now.monotonic_ms.saturating_add(own.unwrap_or(config.session_timeout_ms))
}

/// When the member's rebalance timeout ends that begins now.
pub(super) fn rebalance_deadline(member: &Member, now: Now) -> u64 {
    let timeout_ms = milliseconds(member.metadata.rebalance_timeout_ms).max(REBALANCE_TIMEOUT_MS_MIN);
    now.monotonic_ms.saturating_add(timeout_ms)
}
