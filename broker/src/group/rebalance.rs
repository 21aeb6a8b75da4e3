//! The join phase from its start to the next generation, and everything that time does to a group.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};

use super::join::answer_parked;
use super::{Effects, Group, GroupConfig, GroupError, GroupState, JoinAnswer, JoinTimer, Member, Now};

/// Members may allow no time at all. A phase takes longer all the same, or it would be over before its answers are out,
/// and waiting on for static members would never end.
pub const REBALANCE_TIMEOUT_MS_MIN: u64 = 1_000;

/// What runs out first.
enum Due {
    PendingJoin(String),
    Session(String),
    Join(JoinTimer),
    Sync,
}

impl Group {
    /// To be called once after the group was read from the log: from now on its members are expected to be heard of.
    pub fn loaded(&mut self, config: &GroupConfig, now: Now) -> Effects {
        let mut effects = Effects::default();
        self.members.change_all(|member| member.extend_session(now));
        if self.members.len() > config.members_max {
            self.prepare_rebalance(config, now, &mut effects);
        }
        effects
    }

    /// Starts a rebalance of a stable group from outside.
    pub fn rebalance(&mut self, config: &GroupConfig, now: Now) -> Effects {
        let mut effects = Effects::default();
        self.prepare_rebalance(config, now, &mut effects);
        effects
    }

    /// The group goes on under another protocol: whoever waits in it is to join again.
    pub fn dissolve(self) -> Effects {
        let mut effects = Effects::default();
        for member in self.members.into_values() {
            if let Some(request) = member.awaiting_join {
                effects.joins.push((
                    request,
                    JoinAnswer { member_id: member.member_id, result: Err(GroupError::RebalanceInProgress) },
                ));
            }
            if let Some(request) = member.awaiting_sync {
                effects.syncs.push((request, Err(GroupError::RebalanceInProgress)));
            }
        }
        effects
    }

    /// The time at which [`Group::tick`] has something to do.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let members = [self.pending_joins.deadlines().first_ms(), self.members.sessions().first_ms()];
        let phases = [self.join_timer.map(JoinTimer::at_ms), self.sync_deadline_ms];
        members.into_iter().chain(phases).flatten().min()
    }

    /// Lets everything happen whose time has come, in the order of its times. All that is due is found at once, however
    /// many fell silent together.
    pub fn tick(&mut self, config: &GroupConfig, now: Now) -> Effects {
        let mut effects = Effects::default();
        loop {
            let due = self.due(now);
            if due.is_empty() {
                return effects;
            }
            for (at_ms, due) in due {
                // What came before may have moved it.
                if self.deadline_of(&due) != Some(at_ms) {
                    continue;
                }
                match due {
                    Due::PendingJoin(id) => {
                        self.pending_joins.remove(&id);
                        if self.state == GroupState::PreparingRebalance && self.all_joined() {
                            self.complete_join(now, &mut effects);
                        }
                    }
                    Due::Session(id) => self.session_expired(&id, config, now, &mut effects),
                    Due::Join(timer) => self.join_timer_fired(timer, config, now, &mut effects),
                    Due::Sync => self.sync_timer_fired(config, now, &mut effects),
                }
            }
        }
    }

    fn due(&self, now: Now) -> Vec<(u64, Due)> {
        let pending = self.pending_joins.deadlines().due(now).map(|(at_ms, id)| (at_ms, Due::PendingJoin(id)));
        let sessions = self.members.sessions().due(now).map(|(at_ms, id)| (at_ms, Due::Session(id)));
        let join = self.join_timer.map(|timer| (timer.at_ms(), Due::Join(timer)));
        let sync = self.sync_deadline_ms.map(|at_ms| (at_ms, Due::Sync));
        let all = pending.chain(sessions).chain(join).chain(sync);
        let mut due: Vec<(u64, Due)> = all.filter(|(at_ms, _)| *at_ms <= now.monotonic_ms).collect();
        // At the same time in the order of above: the sort is stable.
        due.sort_by_key(|(at_ms, _)| *at_ms);
        due
    }

    fn deadline_of(&self, due: &Due) -> Option<u64> {
        match due {
            Due::PendingJoin(id) => self.pending_joins.get(id).copied(),
            Due::Session(id) => self.members.get(id)?.session_deadline_ms,
            Due::Join(timer) => self.join_timer.filter(|current| current == timer).map(JoinTimer::at_ms),
            Due::Sync => self.sync_deadline_ms,
        }
    }

    fn session_expired(&mut self, id: &str, config: &GroupConfig, now: Now, effects: &mut Effects) {
        if self.members[id].shows_life() {
            // The next session begins when its request is answered.
            self.members.change(id, |member| member.session_deadline_ms = None);
        } else {
            self.remove_member(id, GroupError::UnknownMemberId, effects);
            self.members_left(config, now, effects);
        }
    }

    fn join_timer_fired(&mut self, timer: JoinTimer, config: &GroupConfig, now: Now, effects: &mut Effects) {
        self.join_timer = None;
        match timer {
            JoinTimer::Initial { delay_ms, remaining_ms, .. } if self.new_member_added && remaining_ms > 0 => {
                self.new_member_added = false;
                let next_delay_ms = config.initial_rebalance_delay_ms.min(remaining_ms);
                self.join_timer = Some(JoinTimer::Initial {
                    at_ms: now.monotonic_ms.saturating_add(next_delay_ms),
                    delay_ms: next_delay_ms,
                    remaining_ms: remaining_ms.saturating_sub(delay_ms),
                });
            }
            JoinTimer::Initial { .. } | JoinTimer::Rebalance { .. } => self.complete_join(now, effects),
        }
    }

    /// Members that got the generation but never asked for their assignment hold up the others: they go.
    fn sync_timer_fired(&mut self, config: &GroupConfig, now: Now, effects: &mut Effects) {
        self.sync_deadline_ms = None;
        let silent = std::mem::take(&mut self.pending_syncs);
        if silent.is_empty() {
            return;
        }
        for id in &silent {
            self.remove_member(id, GroupError::UnknownMemberId, effects);
        }
        self.prepare_rebalance(config, now, effects);
    }

    /// After one or more members have gone.
    pub(super) fn members_left(&mut self, config: &GroupConfig, now: Now, effects: &mut Effects) {
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(config, now, effects),
            GroupState::PreparingRebalance if self.all_joined() => self.complete_join(now, effects),
            GroupState::PreparingRebalance | GroupState::Empty => {}
        }
    }

    pub(super) fn rebalance_or_complete_join(&mut self, config: &GroupConfig, now: Now, effects: &mut Effects) {
        match self.state {
            GroupState::PreparingRebalance => self.maybe_complete_join(now, effects),
            _ => self.prepare_rebalance(config, now, effects),
        }
    }

    pub(super) fn prepare_rebalance(&mut self, config: &GroupConfig, now: Now, effects: &mut Effects) {
        if self.state == GroupState::CompletingRebalance {
            self.finish_syncs(Err(GroupError::RebalanceInProgress), now, effects);
        }
        self.pending_syncs.clear();
        self.sync_deadline_ms = None;
        self.initial_rebalance = self.state == GroupState::Empty;
        self.new_member_added = false;
        self.enter(GroupState::PreparingRebalance, now);
        if self.initial_rebalance {
            let delay_ms = config.initial_rebalance_delay_ms;
            self.join_timer = Some(JoinTimer::Initial {
                at_ms: now.monotonic_ms.saturating_add(delay_ms),
                delay_ms,
                remaining_ms: self.rebalance_timeout_ms().saturating_sub(delay_ms),
            });
        } else if self.all_joined() {
            self.complete_join(now, effects);
        } else {
            self.schedule_join_timeout(now);
        }
    }

    pub(super) fn maybe_complete_join(&mut self, now: Now, effects: &mut Effects) {
        if self.state == GroupState::PreparingRebalance && !self.initial_rebalance && self.all_joined() {
            self.complete_join(now, effects);
        }
    }

    fn all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.members.joined() == self.members.len()
    }

    fn schedule_join_timeout(&mut self, now: Now) {
        let at_ms = now.monotonic_ms.saturating_add(self.rebalance_timeout_ms());
        self.join_timer = Some(JoinTimer::Rebalance { at_ms });
    }

    /// Ends the join phase: whoever is here makes up the next generation.
    fn complete_join(&mut self, now: Now, effects: &mut Effects) {
        assert_eq!(self.state, GroupState::PreparingRebalance, "a join phase ended that had not begun");
        self.join_timer = None;
        let absent: Vec<String> = (self.members.values())
            .filter(|member| member.awaiting_join.is_none() && member.group_instance_id.is_none())
            .map(|member| member.member_id.clone())
            .collect();
        for id in &absent {
            self.remove_member(id, GroupError::UnknownMemberId, effects);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Static members only, none of them back yet: wait on, until they come or their sessions end.
            return self.schedule_join_timeout(now);
        }
        self.initial_rebalance = false;
        self.pending_syncs.clear();
        self.generation = self.generation.checked_add(1).expect("2^31 rebalances of one group");
        if self.members.is_empty() {
            self.protocol_name = None;
            self.enter(GroupState::Empty, now);
            self.subscribed_topics = self.compute_subscribed_topics();
            effects.store = true;
        } else {
            self.protocol_name = Some(self.select_protocol());
            self.enter(GroupState::CompletingRebalance, now);
            self.subscribed_topics = self.compute_subscribed_topics();
            self.announce_generation(now, effects);
        }
    }

    fn announce_generation(&mut self, now: Now, effects: &mut Effects) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.joined(&id, self.is_leader(&id));
            self.answer_join(&id, answer, effects);
            self.members.change(&id, |member| {
                member.is_new = false;
                member.extend_session(now);
            });
            self.pending_syncs.insert(id);
        }
        self.sync_deadline_ms = Some(now.monotonic_ms.saturating_add(self.rebalance_timeout_ms()));
    }

    /// A leader must be among those who joined. False: nobody joined.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        let leader = self.leader.as_ref().expect("a group with members has a leader");
        if joined(&self.members[leader]) {
            return true;
        }
        match self.members.values().find(|member| joined(member)) {
            Some(member) => {
                self.leader = Some(member.member_id.clone());
                true
            }
            None => false,
        }
    }

    /// Takes a member or a pending member out and answers what it had parked. The caller lets the group react.
    pub(super) fn remove_member(&mut self, id: &str, parked: GroupError, effects: &mut Effects) {
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        let Some(mut member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.group_instance_id {
            self.static_members.remove(instance, id);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        answer_parked(&mut member, parked, effects);
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).fold(REBALANCE_TIMEOUT_MS_MIN, u64::max)
    }

    /// None where the coordinator cannot know: other protocols, or a subscription that it cannot read.
    pub(super) fn compute_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.is_consumer_group() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscription_topics(member.metadata(self.protocol_name.as_deref()?))?);
        }
        Some(topics)
    }
}

/// The topics of a ConsumerProtocolSubscription. Version 0 is a prefix of every later version.
fn subscription_topics(mut metadata: Bytes) -> Option<Vec<String>> {
    let _version = metadata.try_get_i16().ok()?;
    let count = metadata.try_get_i32().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        if length > metadata.len() {
            return None;
        }
        topics.push(String::from_utf8(metadata.split_to(length).to_vec()).ok()?);
    }
    Some(topics)
}
