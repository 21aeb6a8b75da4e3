//! SyncGroup, Heartbeat and LeaveGroup.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Effects, Group, GroupConfig, GroupError, GroupState, Now, RequestId, Synced};

#[derive(Debug, Clone, PartialEq)]
pub struct SyncRequest {
    pub request: RequestId,
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub generation: i32,
    /// None: a client older than SyncGroup version 5, which does not say.
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    /// Member id and assignment; only the leader's are looked at.
    pub assignments: Vec<(String, Bytes)>,
}

/// One entry of a LeaveGroup.
#[derive(Debug, Clone, PartialEq)]
pub struct LeavingMember {
    /// Empty: whoever holds the instance id (an administrator's request).
    pub member_id: String,
    pub group_instance_id: Option<String>,
}

impl Group {
    pub fn sync(&mut self, request: SyncRequest, config: &GroupConfig, now: Now) -> Effects {
        let mut effects = Effects::default();
        match self.check_sync(&request) {
            Err(error) => effects.syncs.push((request.request, Err(error))),
            Ok(()) => match self.state {
                GroupState::Empty => unreachable!("an empty group has members"),
                GroupState::PreparingRebalance => {
                    effects.syncs.push((request.request, Err(GroupError::RebalanceInProgress)));
                }
                GroupState::CompletingRebalance => self.sync_completing(request, config, now, &mut effects),
                GroupState::Stable => {
                    self.sync_arrived(&request.member_id);
                    let assignment = self.members[&request.member_id].assignment.clone();
                    effects.syncs.push((request.request, Ok(self.synced(assignment))));
                }
            },
        }
        effects
    }

    /// Ok: all is well. RebalanceInProgress tells a live member to join again.
    pub fn heartbeat(
        &mut self,
        member_id: &str,
        group_instance_id: Option<&str>,
        generation: i32,
        now: Now,
    ) -> Result<(), GroupError> {
        self.check_member(member_id, group_instance_id)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.members.extend_session(member_id, now);
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
            GroupState::Empty => unreachable!("an empty group has members"),
        }
    }

    /// One result per entry, in order.
    pub fn leave(
        &mut self,
        leaving: &[LeavingMember],
        config: &GroupConfig,
        now: Now,
    ) -> (Vec<Result<(), GroupError>>, Effects) {
        let mut effects = Effects::default();
        let results: Vec<_> = leaving.iter().map(|member| self.leave_one(member, &mut effects)).collect();
        if results.iter().any(Result::is_ok) {
            match self.state {
                GroupState::PreparingRebalance => self.maybe_complete_join(now, &mut effects),
                _ => self.members_left(config, now, &mut effects),
            }
        }
        (results, effects)
    }

    fn leave_one(&mut self, leaving: &LeavingMember, effects: &mut Effects) -> Result<(), GroupError> {
        let instance = leaving.group_instance_id.as_deref();
        let id = self.static_members.named(instance, &leaving.member_id).ok_or(GroupError::UnknownMemberId)?.to_owned();
        if !self.pending_joins.contains_key(&id) {
            self.check_member(&id, instance)?;
        }
        self.remove_member(&id, GroupError::UnknownMemberId, effects);
        Ok(())
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |said: &Option<String>, is: &Option<String>| said.is_some() && is.is_some() && said != is;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol_name, &self.protocol_name)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn sync_completing(&mut self, request: SyncRequest, config: &GroupConfig, now: Now, effects: &mut Effects) {
        let superseded =
            self.members.change(&request.member_id, |member| member.awaiting_sync.replace(request.request));
        if let Some(superseded) = superseded.expect("checked by the caller") {
            effects.syncs.push((superseded, Err(GroupError::RebalanceInProgress)));
        }
        self.sync_arrived(&request.member_id);
        if !self.is_leader(&request.member_id) {
            return;
        }
        let mut assignments: BTreeMap<String, Bytes> = request.assignments.into_iter().collect();
        let assigned: usize = assignments.values().map(Bytes::len).sum();
        if self.members.bytes() + assigned > config.group_record_bytes_max {
            self.finish_syncs(Err(GroupError::RecordTooLarge), now, effects);
            return self.prepare_rebalance(config, now, effects);
        }
        self.members.change_all(|member| {
            member.assignment = assignments.remove(&member.member_id).unwrap_or_default();
        });
        self.finish_syncs(Ok(()), now, effects);
        self.enter(GroupState::Stable, now);
        effects.store = true;
    }

    /// Answers all parked SyncGroups: with each one's assignment, or with one error for all, which voids the assignment.
    pub(super) fn finish_syncs(&mut self, outcome: Result<(), GroupError>, now: Now, effects: &mut Effects) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let parked = self.members.change(&id, |member| {
                if outcome.is_err() {
                    member.assignment = Bytes::new();
                }
                let request = member.awaiting_sync.take()?;
                // A session that ended while the request was parked was let pass; here the next one begins.
                member.extend_session(now);
                Some((request, member.assignment.clone()))
            });
            if let Some((request, assignment)) = parked.flatten() {
                effects.syncs.push((request, outcome.map(|()| self.synced(assignment))));
            }
        }
    }

    fn sync_arrived(&mut self, member_id: &str) {
        self.pending_syncs.remove(member_id);
        if self.pending_syncs.is_empty() {
            self.sync_deadline_ms = None;
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol_name: self.protocol_name.clone(), assignment }
    }
}
