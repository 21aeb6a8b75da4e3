//! A consumer group under the consumer protocol (KIP-848), as a pure state machine.
//!
//! Members send heartbeats; the coordinator decides who reads what. The group has an *epoch*, which grows with every
//! change of members, subscriptions or topics; a *target assignment* of an epoch, which an assignor computes; and each
//! member has a *member epoch* and the partitions it holds now, which it moves towards the target on its own: first it
//! gives up, then it gets what others have given up. So nobody waits for all, and no partition has two owners.
//!
//! A request, the topics there are ([`ClusterView`]) and the time go in; the answer and the records to be written come
//! out. A request that is refused changes nothing. The semantics are those of Kafka's group coordinator; regular
//! expressions are resolved at once instead of in the background.
//! The log holds what the maps below the line in [`ConsumerGroup`] do not: those are derived, see [`ConsumerGroup::loaded`].

mod classic_members;
mod embedded;
mod heartbeat;
mod member;
mod migration;
mod reconcile;
mod replay;
mod static_members;
mod subscriptions;
mod timers;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::assignor::Assignor;
use crate::config::Config;
use crate::config_def;
use crate::group::{GroupError, StaticMembers};
use crate::group_records::consumer::{
    Assignment, ConsumerRecord, EpochValue, MemberState, OwnedPartitions, ResolvedRegex,
};
pub use heartbeat::{Heartbeat, HeartbeatAnswer};
pub use member::Member;
pub use migration::Migration;
pub use view::{ClusterView, Topic};

/// A member that joins, or comes back after it was fenced, sends this epoch.
pub const JOIN_EPOCH: i32 = 0;
/// A member that leaves for good sends this epoch.
pub const LEAVE_EPOCH: i32 = -1;
/// A static member that will be back sends this epoch.
pub const LEAVE_STATIC_EPOCH: i32 = -2;

/// Limits and delays of groups under the consumer protocol; the defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// `group.consumer.session.timeout.ms`
    pub session_timeout_ms: u64,
    /// `group.consumer.heartbeat.interval.ms`: told to members.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.assignment.interval.ms`: from one target assignment to the next at least.
    pub assignment_interval_ms: i64,
    /// `group.consumer.max.size`
    pub members_max: usize,
    /// `group.consumer.assignors`; the first is the default.
    pub assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`
    pub migration: Migration,
    /// Largest metadata of one member.
    pub member_bytes_max: usize,
    bounds: Bounds,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            assignment_interval_ms: 1_000,
            members_max: i32::MAX as usize,
            assignors: Assignor::ALL.to_vec(),
            migration: Migration::Bidirectional,
            member_bytes_max: 1 << 20,
            bounds: Bounds {
                session_timeout_ms: (45_000, 60_000),
                heartbeat_interval_ms: (5_000, 15_000),
                assignment_interval_ms: (0, 15_000),
            },
        }
    }
}

impl ConsumerConfig {
    /// As the configuration file says.
    pub fn of(config: &Config) -> Self {
        let kafka = &config.kafka;
        Self {
            session_timeout_ms: kafka.millis("group.consumer.session.timeout.ms").as_millis() as u64,
            heartbeat_interval_ms: kafka.int("group.consumer.heartbeat.interval.ms"),
            assignment_interval_ms: i64::from(kafka.int("group.consumer.assignment.interval.ms")),
            members_max: kafka.size("group.consumer.max.size"),
            migration: Migration::named(kafka.text("group.consumer.migration.policy").unwrap_or_default()),
            assignors: assignors(kafka.text("group.consumer.assignors").unwrap_or_default()),
            bounds: Bounds {
                session_timeout_ms: bounds(
                    kafka.int("group.consumer.min.session.timeout.ms"),
                    kafka.int("group.consumer.max.session.timeout.ms"),
                ),
                heartbeat_interval_ms: bounds(
                    kafka.int("group.consumer.min.heartbeat.interval.ms"),
                    kafka.int("group.consumer.max.heartbeat.interval.ms"),
                ),
                assignment_interval_ms: bounds(
                    kafka.int("group.consumer.min.assignment.interval.ms"),
                    kafka.int("group.consumer.max.assignment.interval.ms"),
                ),
            },
            ..Self::default()
        }
    }

    /// With the group's own configs, as far as the broker's bounds let them.
    pub fn with_overrides(&self, configs: &BTreeMap<String, String>) -> Self {
        let mut config = self.clone();
        let value = |name: &str, (least, most): (i32, i32)| {
            let value: i32 = configs.get(name)?.trim().parse().ok()?;
            Some(value.max(least).min(most))
        };
        if let Some(ms) = value("consumer.session.timeout.ms", self.bounds.session_timeout_ms) {
            config.session_timeout_ms = ms.max(0) as u64;
        }
        if let Some(ms) = value("consumer.heartbeat.interval.ms", self.bounds.heartbeat_interval_ms) {
            config.heartbeat_interval_ms = ms;
        }
        if let Some(ms) = value("consumer.assignment.interval.ms", self.bounds.assignment_interval_ms) {
            config.assignment_interval_ms = i64::from(ms);
        }
        config
    }
}

/// Least and most of what a group may set for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    session_timeout_ms: (i32, i32),
    heartbeat_interval_ms: (i32, i32),
    assignment_interval_ms: (i32, i32),
}

fn bounds(least: i32, most: i32) -> (i32, i32) {
    (least, most.max(least))
}

/// Names that stand for nothing here (class names of plugins) are passed over; nothing left is the default.
fn assignors(list: &str) -> Vec<Assignor> {
    let named: Vec<Assignor> = config_def::list_entries(list).into_iter().filter_map(Assignor::named).collect();
    if named.is_empty() { Assignor::ALL.to_vec() } else { named }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerGroupState {
    Empty,
    /// The target assignment is older than the group's epoch.
    Assigning,
    /// Some member is on its way to the target assignment.
    Reconciling,
    Stable,
}

impl ConsumerGroupState {
    /// The name in ConsumerGroupDescribe and ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// What a commit by a member is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitCheck<'a> {
    /// Any partition.
    Any,
    /// The member named an epoch it has left: good for partitions that it has held since then.
    HeldSince { member: &'a Member, epoch: i32 },
}

impl CommitCheck<'_> {
    pub fn allows(&self, topic: Uuid, partition: i32) -> Result<(), GroupError> {
        match self {
            Self::Any => Ok(()),
            Self::HeldSince { member, epoch } => match member.assignment_epoch(topic, partition) {
                Some(since) if since <= *epoch => Ok(()),
                _ => Err(member.stale_epoch()),
            },
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConsumerGroup {
    epoch: i32,
    /// Of the subscribed topics when the epoch was last looked at.
    metadata_hash: i64,
    target_epoch: i32,
    /// Wall clock; 0 is unknown.
    target_timestamp_ms: i64,
    targets: BTreeMap<String, Assignment>,
    members: BTreeMap<String, Member>,
    /// The topics of each regular expression that some member subscribes to.
    regexes: BTreeMap<String, ResolvedRegex>,

    // --- Derived ---
    static_members: StaticMembers,
    /// Topic name -> members that subscribe to it by name.
    name_counts: BTreeMap<String, usize>,
    /// Regular expression -> members that subscribe to it.
    regex_counts: BTreeMap<String, usize>,
    /// Partitions that members hold or have yet to give up. Each has one owner; more is a log that contradicts itself.
    owners: BTreeMap<(Uuid, i32), usize>,
    /// When each member wants to be looked at.
    deadlines: BTreeSet<(u64, String)>,
    /// The [`ClusterView`] that the metadata hash is of.
    seen_version: Option<u64>,
    /// The [`ClusterView`] that the regular expressions were resolved against, and when.
    resolved_version: Option<(u64, u64)>,
    bytes: usize,
}

impl ConsumerGroup {
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    pub fn target_epoch(&self) -> i32 {
        self.target_epoch
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn member(&self, member_id: &str) -> Option<&Member> {
        self.members.get(member_id)
    }

    pub fn target(&self, member_id: &str) -> Option<&Assignment> {
        self.targets.get(member_id)
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn state(&self) -> ConsumerGroupState {
        if self.members.is_empty() {
            ConsumerGroupState::Empty
        } else if self.epoch > self.target_epoch {
            ConsumerGroupState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.target_epoch)) {
            ConsumerGroupState::Stable
        } else {
            ConsumerGroupState::Reconciling
        }
    }

    /// The assignor that most members ask for; where nobody asks, the default.
    pub fn assignor(&self, config: &ConsumerConfig) -> Assignor {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.metadata.server_assignor.as_deref()) {
            *votes.entry(name).or_default() += 1;
        }
        let votes_for = |assignor: &Assignor| votes.get(assignor.name()).copied().unwrap_or(0);
        let most = config.assignors.iter().map(votes_for).max().unwrap_or(0);
        let first = config.assignors.iter().copied().find(|assignor| votes_for(assignor) == most);
        first.unwrap_or(Assignor::Uniform)
    }

    /// Memory that the group holds, about.
    pub fn bytes(&self) -> usize {
        512 + self.bytes
    }

    /// May this member commit offsets now? `epoch` < 0 and no members: a client without group management.
    /// `speaks_epochs`: the version of the request knows that it carries a member epoch.
    pub fn check_commit(
        &self,
        member_id: &str,
        epoch: i32,
        speaks_epochs: bool,
    ) -> Result<CommitCheck<'_>, GroupError> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(CommitCheck::Any);
        }
        let member = self.members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if !speaks_epochs && !member.is_classic() {
            return Err(GroupError::UnsupportedVersion);
        }
        match epoch.cmp(&member.current.epoch) {
            std::cmp::Ordering::Equal => Ok(CommitCheck::Any),
            std::cmp::Ordering::Greater => Err(member.stale_epoch()),
            std::cmp::Ordering::Less => Ok(CommitCheck::HeldSince { member, epoch }),
        }
    }

    /// May this member read the group's offsets? No member id and `epoch` < 0: an administrator, or a client that does
    /// not say.
    pub fn check_fetch(&self, member_id: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        let Some(member_id) = member_id else {
            return if epoch < 0 { Ok(()) } else { Err(GroupError::UnknownMemberId) };
        };
        let member = self.members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.current.epoch == epoch { Ok(()) } else { Err(member.stale_epoch()) }
    }

    /// Tombstones of all that the log may hold of the group.
    pub fn tombstones(&self) -> Vec<ConsumerRecord> {
        let ids = || self.members.keys().cloned();
        let mut records: Vec<ConsumerRecord> = ids().map(|id| ConsumerRecord::Current(id, None)).collect();
        records.extend(ids().map(|id| ConsumerRecord::Target(id, None)));
        records.push(ConsumerRecord::TargetEpoch(None));
        records.extend(ids().map(|id| ConsumerRecord::Member(id, None)));
        records.extend(self.regexes.keys().map(|regex| ConsumerRecord::Regex(regex.clone(), None)));
        records.push(ConsumerRecord::Epoch(None));
        records
    }

    fn bump_epoch(&mut self, records: &mut Vec<ConsumerRecord>) {
        self.epoch = self.epoch.checked_add(1).expect("2^31 rebalances of one group");
        let value = EpochValue { epoch: self.epoch, metadata_hash: self.metadata_hash };
        records.push(ConsumerRecord::Epoch(Some(value)));
    }

    /// Every change of a member goes through this and `put_member`, so that what is derived from members is right.
    fn take_member(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        if let Some(instance) = &member.metadata.instance_id {
            self.static_members.remove(instance, member_id);
        }
        for name in &member.metadata.topic_names {
            uncount(&mut self.name_counts, name);
        }
        if let Some(regex) = member.regex() {
            uncount(&mut self.regex_counts, &regex.to_owned());
        }
        for key in partitions(&member.current.assigned).chain(partitions(&member.current.revoking)) {
            uncount(&mut self.owners, &key);
        }
        if let Some(at) = member.timer_ms {
            self.deadlines.remove(&(at, member_id.to_owned()));
        }
        self.bytes -= member.bytes();
        Some(member)
    }

    fn put_member(&mut self, mut member: Member) {
        if let Some(instance) = &member.metadata.instance_id {
            self.static_members.insert(instance.clone(), member.member_id.clone());
        }
        for name in &member.metadata.topic_names {
            *self.name_counts.entry(name.clone()).or_default() += 1;
        }
        if let Some(regex) = member.regex() {
            *self.regex_counts.entry(regex.to_owned()).or_default() += 1;
        }
        for key in partitions(&member.current.assigned).chain(partitions(&member.current.revoking)) {
            *self.owners.entry(key).or_default() += 1;
        }
        member.timer_ms = member.next_deadline_ms();
        self.deadlines.extend(member.timer_ms.map(|at| (at, member.member_id.clone())));
        self.bytes += member.bytes();
        let before = self.members.insert(member.member_id.clone(), member);
        assert!(before.is_none(), "a member was put over another");
    }

    /// Changes a member's deadlines, and nothing else.
    fn touch(&mut self, member_id: &str, change: impl FnOnce(&mut Member)) {
        let member = self.members.get_mut(member_id).expect("the caller has it");
        change(member);
        let next = member.next_deadline_ms();
        if member.timer_ms != next {
            if let Some(at) = std::mem::replace(&mut member.timer_ms, next) {
                self.deadlines.remove(&(at, member_id.to_owned()));
            }
            self.deadlines.extend(next.map(|at| (at, member_id.to_owned())));
        }
    }

    fn set_target(&mut self, member_id: &str, target: Option<Assignment>) {
        let before = match target {
            Some(target) => {
                self.bytes += target_bytes(member_id, &target);
                self.targets.insert(member_id.to_owned(), target)
            }
            None => self.targets.remove(member_id),
        };
        if let Some(before) = before {
            self.bytes -= target_bytes(member_id, &before);
        }
    }
}

fn target_bytes(member_id: &str, target: &Assignment) -> usize {
    96 + member_id.len() + target.values().map(|partitions| 64 + 8 * partitions.len()).sum::<usize>()
}

fn partitions(owned: &OwnedPartitions) -> impl Iterator<Item = (Uuid, i32)> {
    owned.iter().flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
}

fn uncount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    let count = counts.get_mut(key).expect("what was counted");
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

fn is_stable(member: &Member) -> bool {
    member.current.state == MemberState::Stable
}

#[cfg(test)]
mod tests;
