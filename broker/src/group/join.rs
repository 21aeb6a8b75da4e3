//! JoinGroup: who may come in, under which id, and whether that starts a rebalance.

use bytes::Bytes;

use super::member::milliseconds;
use super::{
    Effects, Group, GroupConfig, GroupError, GroupState, JoinAnswer, Joined, JoinedMember, Member, Now, RequestId,
};

/// How long the first JoinGroup of a member is parked before the member is taken for gone: it has no id to heartbeat
/// with, and clients whose request timed out come again as somebody else.
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60_000;
/// Ids given out with MEMBER_ID_REQUIRED to newcomers that have not come back with them.
pub(super) const PENDING_JOINS_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub struct JoinRequest {
    pub request: RequestId,
    /// Empty: a newcomer.
    pub member_id: String,
    /// The id that a newcomer gets; made by the caller, unique.
    pub new_member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    /// JoinGroup version 4 and later: a dynamic newcomer has to come back with its id.
    pub requires_known_member_id: bool,
    /// JoinGroup version 9 and later: a leader can be told to keep the assignment.
    pub supports_skipping_assignment: bool,
}

/// An assignor that a member knows, and what it wants that assignor to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

impl Protocol {
    pub(super) fn bytes(&self) -> usize {
        64 + self.name.len() + self.metadata.len()
    }
}

impl Group {
    /// By how much the request makes a member that is there larger. None: it would make a new one.
    pub fn growth(&self, request: &JoinRequest) -> Option<usize> {
        let id = self.static_members.named(request.group_instance_id.as_deref(), &request.member_id)?;
        let member = self.members.get(id)?;
        let offers = |protocols: &[Protocol]| protocols.iter().map(Protocol::bytes).sum::<usize>();
        let before = offers(&member.protocols) + member.client_id.len();
        Some((offers(&request.protocols) + request.client_id.len()).saturating_sub(before))
    }

    pub fn join(&mut self, request: JoinRequest, config: &GroupConfig, now: Now) -> Effects {
        let mut effects = Effects::default();
        if !self.accepts(&request.member_id, config) {
            let member_id = request.member_id.clone();
            self.refuse(&request, "", GroupError::GroupMaxSizeReached, &mut effects);
            self.remove_member(&member_id, GroupError::GroupMaxSizeReached, &mut effects);
            self.maybe_complete_join(now, &mut effects);
        } else if !self.supports(&request.protocol_type, &request.protocols) {
            let member_id = request.member_id.clone();
            self.refuse(&request, &member_id, GroupError::InconsistentGroupProtocol, &mut effects);
        } else if request.member_id.is_empty() {
            self.join_newcomer(request, config, now, &mut effects);
        } else {
            self.join_known(request, config, now, &mut effects);
        }
        effects
    }

    fn join_newcomer(&mut self, request: JoinRequest, config: &GroupConfig, now: Now, effects: &mut Effects) {
        let new_id = request.new_member_id.clone();
        assert!(
            !self.members.contains_key(&new_id) && !self.pending_joins.contains_key(&new_id),
            "member id used twice"
        );
        let previous =
            request.group_instance_id.as_ref().and_then(|instance| self.static_members.get(instance)).cloned();
        match previous {
            Some(previous) => self.replace_static_member(previous, request, config, now, effects),
            None if request.group_instance_id.is_none() && request.requires_known_member_id => {
                if self.pending_joins.len() >= PENDING_JOINS_MAX {
                    return self.refuse(&request, "", GroupError::TooManyJoining, effects);
                }
                let lapses = now.monotonic_ms.saturating_add(milliseconds(request.session_timeout_ms));
                self.pending_joins.insert(&new_id, lapses);
                self.refuse(&request, &new_id, GroupError::MemberIdRequired, effects);
            }
            None => self.add_member(new_id, request, config, now, effects),
        }
    }

    fn join_known(&mut self, request: JoinRequest, config: &GroupConfig, now: Now, effects: &mut Effects) {
        let id = request.member_id.clone();
        if self.pending_joins.contains_key(&id) {
            if request.group_instance_id.is_some() {
                // Pending ids are given to dynamic members only.
                return self.refuse(&request, &id, GroupError::InvalidRequest, effects);
            }
            return self.add_member(id, request, config, now, effects);
        }
        if let Err(error) = self.check_member(&id, request.group_instance_id.as_deref()) {
            return self.refuse(&request, &id, error, effects);
        }
        let unchanged = self.members[&id].protocols == request.protocols;
        let rebalances = match self.state {
            GroupState::PreparingRebalance => true,
            // The answer to the first JoinGroup may have been lost: the same request gets the same answer.
            GroupState::CompletingRebalance => !unchanged,
            // The leader rejoins when it saw something change that is not in the subscriptions, such as partitions.
            GroupState::Stable => !unchanged || self.is_leader(&id),
            GroupState::Empty => unreachable!("an empty group has members"),
        };
        if rebalances {
            self.update_member(&id, &request, effects);
            self.rebalance_or_complete_join(config, now, effects);
        } else {
            let with_members = self.state == GroupState::CompletingRebalance && self.is_leader(&id);
            effects.joins.push((request.request, self.joined(&id, with_members)));
        }
    }

    fn add_member(
        &mut self,
        member_id: String,
        request: JoinRequest,
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) {
        if self.state == GroupState::PreparingRebalance && self.initial_rebalance {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        self.pending_joins.remove(&member_id);
        if let Some(instance) = &request.group_instance_id {
            let before = self.static_members.insert(instance.clone(), member_id.clone());
            assert!(before.is_none(), "two members with the instance id {instance}");
        }
        self.leader.get_or_insert_with(|| member_id.clone());
        let member = Member {
            member_id,
            group_instance_id: request.group_instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            rebalance_timeout_ms: milliseconds(request.rebalance_timeout_ms),
            session_timeout_ms: milliseconds(request.session_timeout_ms),
            protocol_type: request.protocol_type,
            protocols: request.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(request.request),
            awaiting_sync: None,
            is_new: true,
            session_deadline_ms: Some(now.monotonic_ms.saturating_add(NEW_MEMBER_JOIN_TIMEOUT_MS)),
        };
        self.members.insert(member);
        self.rebalance_or_complete_join(config, now, effects);
    }

    /// A static member came back without its member id: it takes the old one's place and assignment.
    fn replace_static_member(
        &mut self,
        old_id: String,
        request: JoinRequest,
        config: &GroupConfig,
        now: Now,
        effects: &mut Effects,
    ) {
        let new_id = request.new_member_id.clone();
        let leader_before = self.leader.clone().expect("a group with members has a leader");
        let mut member = self.members.remove(&old_id).expect("static members are members");
        answer_parked(&mut member, GroupError::FencedInstanceId, effects);
        member.member_id = new_id.clone();
        member.client_id.clone_from(&request.client_id);
        member.client_host.clone_from(&request.client_host);
        member.is_new = false;
        let instance = member.group_instance_id.clone().expect("only static members are replaced");
        self.static_members.insert(instance, new_id.clone());
        self.members.insert(member);
        if leader_before == old_id {
            self.leader = Some(new_id.clone());
        }
        if self.pending_syncs.remove(&old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        self.update_member(&new_id, &request, effects);
        self.members.extend_session(&new_id, now);

        match self.state {
            GroupState::Stable
                if Some(self.select_protocol()) == self.protocol_name
                    && self.bytes() <= config.group_record_bytes_max =>
            {
                // Nothing changes for the others; only the new id must be stored.
                effects.store = true;
                self.subscribed_topics = self.compute_subscribed_topics();
                let mut answer = if request.supports_skipping_assignment {
                    self.joined(&new_id, self.is_leader(&new_id))
                } else {
                    // An old client that learnt it leads would compute an assignment from no members at all.
                    self.joined_under(&new_id, leader_before)
                };
                if let Ok(joined) = &mut answer.result {
                    joined.skip_assignment = request.supports_skipping_assignment && self.is_leader(&new_id);
                }
                self.answer_join(&new_id, answer, effects);
            }
            // The old id may be in the leader's hands already, and the new one would be left without an assignment.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(config, now, effects),
            GroupState::PreparingRebalance => self.maybe_complete_join(now, effects),
            GroupState::Empty => unreachable!("an empty group has members"),
        }
    }

    fn update_member(&mut self, member_id: &str, request: &JoinRequest, effects: &mut Effects) {
        let superseded = self.members.change(member_id, |member| {
            member.protocols.clone_from(&request.protocols);
            member.rebalance_timeout_ms = milliseconds(request.rebalance_timeout_ms);
            member.session_timeout_ms = milliseconds(request.session_timeout_ms);
            member.awaiting_join.replace(request.request)
        });
        if let Some(superseded) = superseded.expect("checked by the caller") {
            let result = Err(GroupError::RebalanceInProgress);
            effects.joins.push((superseded, JoinAnswer { member_id: member_id.to_owned(), result }));
        }
    }

    /// Room for one more? Those who wait in the join phase are counted there, so that a group over a lowered limit
    /// shrinks at its next rebalance.
    fn accepts(&self, member_id: &str, config: &GroupConfig) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|member| member.awaiting_join.is_some())
                    || self.members.joined() < config.members_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < config.members_max
            }
        }
    }

    fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|offer| self.members.all_offer(&offer.name))
    }

    /// Each member votes for the first protocol on its list that all know; most votes win, then the earlier in the
    /// list of the first member.
    pub(super) fn select_protocol(&self) -> String {
        let common = |name: &str| self.members.all_offer(name);
        let mut votes: Vec<(&str, usize)> = Vec::new();
        let first = self.members.values().next().expect("only groups with members choose a protocol");
        votes.extend(first.protocols.iter().filter(|offer| common(&offer.name)).map(|offer| (offer.name.as_str(), 0)));
        for member in self.members.values() {
            let choice = member.protocols.iter().find(|offer| common(&offer.name));
            let choice = choice.expect("members without a common protocol are not let in");
            let vote = votes.iter_mut().find(|(name, _)| *name == choice.name).expect("common to all, so to the first");
            vote.1 += 1;
        }
        let most = votes.iter().map(|(_, count)| *count).max().unwrap_or_default();
        votes.iter().find(|(_, count)| *count == most).expect("there is a most").0.to_owned()
    }

    /// The current generation as `member_id` is told of it.
    pub(super) fn joined(&self, member_id: &str, with_members: bool) -> JoinAnswer {
        let leader = self.leader.clone().expect("a group with members has a leader");
        let mut answer = self.joined_under(member_id, leader);
        if let (true, Ok(joined)) = (with_members, &mut answer.result) {
            let protocol = self.protocol_name.as_deref().unwrap_or_default();
            joined.members = (self.members.values())
                .map(|member| JoinedMember {
                    member_id: member.member_id.clone(),
                    group_instance_id: member.group_instance_id.clone(),
                    metadata: member.metadata(protocol),
                })
                .collect();
        }
        answer
    }

    fn joined_under(&self, member_id: &str, leader: String) -> JoinAnswer {
        let joined = Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader,
            skip_assignment: false,
            members: Vec::new(),
        };
        JoinAnswer { member_id: member_id.to_owned(), result: Ok(joined) }
    }

    /// Answers the member's parked JoinGroup, if there is one.
    pub(super) fn answer_join(&mut self, member_id: &str, answer: JoinAnswer, effects: &mut Effects) {
        let parked = self.members.change(member_id, |member| member.awaiting_join.take());
        if let Some(request) = parked.expect("only members are answered") {
            effects.joins.push((request, answer));
        }
    }

    fn refuse(&self, request: &JoinRequest, member_id: &str, error: GroupError, effects: &mut Effects) {
        let answer = JoinAnswer { member_id: member_id.to_owned(), result: Err(error) };
        effects.joins.push((request.request, answer));
    }
}

/// Ends what the member waits for, because it is no longer a member.
pub(super) fn answer_parked(member: &mut Member, error: GroupError, effects: &mut Effects) {
    if let Some(request) = member.awaiting_join.take() {
        let member_id = if error == GroupError::FencedInstanceId { member.member_id.clone() } else { String::new() };
        effects.joins.push((request, JoinAnswer { member_id, result: Err(error) }));
    }
    if let Some(request) = member.awaiting_sync.take() {
        effects.syncs.push((request, Err(error)));
    }
}
