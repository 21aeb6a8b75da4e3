//! A consumer group under the classic protocol, as a pure state machine.
//!
//! An event (a request, or time passing) and the time go in; answers and a wish to be stored come out ([`Effects`]).
//! The semantics are those of Kafka's group coordinator. What this file promises beyond them: each parked JoinGroup or
//! SyncGroup is answered exactly once, and the same events in the same order give the same state.
//! The caller writes the group to the log when asked, and sends no answer of an event before that write is durable;
//! so a restart forgets no assignment. It does forget a rebalance under way: a JoinGroup answer speaks of a generation, and
//! of the new id of a static member, that the log has only when the leader's SyncGroup has come. As in Kafka, members
//! whose generation is gone join again, and a static member whose new id is gone is fenced.
//!
//! There is no `Dead` state in here: a group that was deleted or moved away is simply not held any more.

mod join;
mod member;
mod members;
mod rebalance;
mod static_members;
mod sync;

use std::collections::BTreeSet;

use bytes::Bytes;
use seawall_protocol::records::Compression;

use crate::config::Config;
use crate::consumer_group::ConsumerConfig;
use crate::group_records::GroupValue;
pub use join::{JoinRequest, Protocol};
pub use member::{Member, milliseconds};
use members::{Members, PendingJoins};
pub use rebalance::REBALANCE_TIMEOUT_MS_MIN;
pub use static_members::StaticMembers;
pub use sync::{LeavingMember, SyncRequest};

/// The protocol type of ordinary consumers; for it alone the coordinator looks into subscriptions.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// A small `message.max.bytes` must not keep groups from forming.
const GROUP_RECORD_BYTES_MIN: usize = 1 << 20;

/// Limits and delays of groups; the defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`
    pub session_timeout_min_ms: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_max_ms: i32,
    /// `group.max.size`: members of one group.
    pub members_max: usize,
    /// `offset.metadata.max.bytes`: the text a client may keep with an offset.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: u64,
    /// `offsets.topic.compression.codec`: of the batches in `__consumer_offsets`.
    pub records_codec: Compression,
    /// After this long without room in the log a coordinator gives up and loads anew.
    pub offsets_commit_timeout_ms: u64,
    /// Largest record of one group (all its subscriptions and assignments).
    pub group_record_bytes_max: usize,
    /// `limits.group_bytes`: memory of all groups and offsets together.
    pub bytes_max: usize,
    /// Of groups under the consumer protocol.
    pub consumer: ConsumerConfig,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            session_timeout_min_ms: 6_000,
            session_timeout_max_ms: 1_800_000,
            members_max: i32::MAX as usize,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            records_codec: Compression::None,
            offsets_commit_timeout_ms: 5_000,
            group_record_bytes_max: GROUP_RECORD_BYTES_MIN,
            bytes_max: 128 << 20,
            consumer: ConsumerConfig::default(),
        }
    }
}

impl GroupConfig {
    /// As the configuration file says.
    pub fn of(config: &Config) -> Self {
        let kafka = &config.kafka;
        Self {
            initial_rebalance_delay_ms: kafka.millis("group.initial.rebalance.delay.ms").as_millis() as u64,
            session_timeout_min_ms: kafka.int("group.min.session.timeout.ms"),
            session_timeout_max_ms: kafka.int("group.max.session.timeout.ms"),
            members_max: kafka.size("group.max.size"),
            offset_metadata_bytes_max: kafka.size("offset.metadata.max.bytes"),
            offsets_retention_ms: kafka.long("offsets.retention.minutes").saturating_mul(60_000),
            offsets_retention_check_interval_ms: kafka.millis("offsets.retention.check.interval.ms").as_millis() as u64,
            records_codec: *Compression::ALL
                .get(kafka.size("offsets.topic.compression.codec"))
                .unwrap_or(&Compression::None),
            group_record_bytes_max: kafka.size("message.max.bytes").max(GROUP_RECORD_BYTES_MIN),
            bytes_max: config.limits.group_bytes.as_usize(),
            consumer: ConsumerConfig::of(config),
            ..Self::default()
        }
    }
}

/// The time of an event. Timers use the monotonic clock, records the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub monotonic_ms: u64,
    pub wall_ms: i64,
}

/// Names a parked JoinGroup or SyncGroup request; the caller never uses one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// No members; may hold committed offsets.
    Empty,
    /// Waiting for all members to join.
    PreparingRebalance,
    /// The members know the generation; the leader's assignment is awaited.
    CompletingRebalance,
    /// The assignment is known and stored.
    Stable,
}

impl GroupState {
    /// The name in DescribeGroups and ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// Why a group refuses a request. `error_code.rs` says which Kafka code that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("the member is not known to the group")]
    UnknownMemberId,
    #[error("another member uses this group instance id now")]
    FencedInstanceId,
    #[error("the generation is not the group's")]
    IllegalGeneration,
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    #[error("no protocol in common with the other members")]
    InconsistentGroupProtocol,
    #[error("the group is full")]
    GroupMaxSizeReached,
    #[error("join again with the member id given")]
    MemberIdRequired,
    #[error("the group's record would be too large")]
    RecordTooLarge,
    #[error("the request contradicts itself")]
    InvalidRequest,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("the session timeout is outside the broker's limits")]
    InvalidSessionTimeout,
    #[error("the group does not exist")]
    GroupIdNotFound,
    #[error("the group has members")]
    NonEmptyGroup,
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    #[error("the offset metadata is too long")]
    OffsetMetadataTooLarge,
    #[error("the topic or partition does not exist")]
    UnknownTopicOrPartition,
    #[error("the topic id does not exist")]
    UnknownTopicId,
    #[error("the memory for groups and offsets, limits.group_bytes, is used up, try again")]
    MemoryFull,
    #[error("too many members are about to join the group, try again")]
    TooManyJoining,
    #[error("the coordinator is reading its log, try again")]
    CoordinatorLoadInProgress,
    #[error("this broker is not the group's coordinator")]
    NotCoordinator,
    #[error("the member's epoch is not the one it is in: it must give up its partitions and join again")]
    FencedMemberEpoch,
    #[error("the member epoch is not the one the member is in")]
    StaleMemberEpoch,
    #[error("another member uses this group instance id, and has not left")]
    UnreleasedInstanceId,
    #[error("the assignor is not supported")]
    UnsupportedAssignor,
    #[error("the regular expression is not valid")]
    InvalidRegularExpression,
    #[error("the version of the request does not know member epochs")]
    UnsupportedVersion,
}

/// A copy: what a group keeps must not hold on to the buffer of its request.
pub fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// What an event asks of the caller.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// The group changed in a way that must survive: write [`Group::to_record`], and send the answers when it is durable.
    pub store: bool,
    pub joins: Vec<(RequestId, JoinAnswer)>,
    pub syncs: Vec<(RequestId, Result<Synced, GroupError>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JoinAnswer {
    pub member_id: String,
    pub result: Result<Joined, GroupError>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: String,
    pub skip_assignment: bool,
    /// Empty for all but the leader.
    pub members: Vec<JoinedMember>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JoinedMember {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub metadata: Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Synced {
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    /// The very bytes that the leader sent.
    pub assignment: Bytes,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    state: GroupState,
    generation: i32,
    protocol_type: Option<String>,
    protocol_name: Option<String>,
    leader: Option<String>,
    members: Members,
    static_members: StaticMembers,
    pending_joins: PendingJoins,
    /// Members of this generation that have not sent SyncGroup yet.
    pending_syncs: BTreeSet<String>,
    join_timer: Option<JoinTimer>,
    sync_deadline_ms: Option<u64>,
    /// This rebalance began in an empty group: it ends by its timer only.
    initial_rebalance: bool,
    /// A member came during the initial delay, which is then extended.
    new_member_added: bool,
    /// Wall clock of the last change of state; None for groups stored before Kafka 2.1.
    state_timestamp_ms: Option<i64>,
    /// Topics of all members; None when not a consumer group or not readable.
    subscribed_topics: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JoinTimer {
    /// The initial delay ends at `at_ms`; it may still be extended by `remaining_ms`.
    Initial { at_ms: u64, delay_ms: u64, remaining_ms: u64 },
    /// Members that have not joined by then are dropped.
    Rebalance { at_ms: u64 },
}

impl JoinTimer {
    fn at_ms(self) -> u64 {
        match self {
            Self::Initial { at_ms, .. } | Self::Rebalance { at_ms } => at_ms,
        }
    }
}

impl Group {
    /// An empty group without a protocol: what a first join or a plain offset commit creates.
    pub fn new(now: Now) -> Self {
        Self {
            state: GroupState::Empty,
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: Members::default(),
            static_members: StaticMembers::default(),
            pending_joins: PendingJoins::default(),
            pending_syncs: BTreeSet::new(),
            join_timer: None,
            sync_deadline_ms: None,
            initial_rebalance: false,
            new_member_added: false,
            state_timestamp_ms: Some(now.wall_ms),
            subscribed_topics: None,
        }
    }

    /// All that a member offered: its record has the protocol that was picked only.
    pub fn set_protocols(&mut self, member_id: &str, protocols: Vec<Protocol>) {
        self.members.change(member_id, |member| member.protocols = protocols);
    }

    /// The group as the log describes it. Its members get a session's time to be heard of, from [`Group::loaded`] on.
    pub fn from_record(value: GroupValue) -> Self {
        let protocol = value.protocol.clone().unwrap_or_default();
        let mut members = Members::default();
        for member in value.members {
            members.insert(Member::from_record(member, &value.protocol_type, &protocol));
        }
        let mut static_members = StaticMembers::default();
        for member in members.values() {
            if let Some(instance) = &member.group_instance_id {
                static_members.insert(instance.clone(), member.member_id.clone());
            }
        }
        let leader = value.leader.filter(|leader| members.contains_key(leader));
        let mut group = Self {
            state: if members.is_empty() { GroupState::Empty } else { GroupState::Stable },
            generation: value.generation,
            protocol_type: Some(value.protocol_type).filter(|name| !name.is_empty()),
            protocol_name: value.protocol,
            leader: leader.or_else(|| members.keys().next().cloned()),
            members,
            static_members,
            pending_joins: PendingJoins::default(),
            pending_syncs: BTreeSet::new(),
            join_timer: None,
            sync_deadline_ms: None,
            initial_rebalance: false,
            new_member_added: false,
            state_timestamp_ms: value.state_timestamp_ms,
            subscribed_topics: None,
        };
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// The group as the log shall describe it. Only empty and stable groups are written.
    pub fn to_record(&self) -> GroupValue {
        let members = match self.state {
            GroupState::Stable => self.members.values().map(|member| self.member_record(member)).collect(),
            _ => Vec::new(),
        };
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol_name.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members,
        }
    }

    pub fn state(&self) -> GroupState {
        self.state
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    pub fn protocol_name(&self) -> Option<&str> {
        self.protocol_name.as_deref()
    }

    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn state_timestamp_ms(&self) -> Option<i64> {
        self.state_timestamp_ms
    }

    /// Nobody is in the group nor about to be: without offsets it need not be kept.
    pub fn is_vacant(&self) -> bool {
        self.state == GroupState::Empty && self.pending_joins.is_empty()
    }

    pub fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    /// The topics of all members, where the coordinator can tell.
    pub fn subscribed_topics(&self) -> Option<&BTreeSet<String>> {
        self.subscribed_topics.as_ref()
    }

    /// Offsets of a topic that a live consumer group reads are neither expired nor deleted. When the subscriptions
    /// cannot be read, every topic counts as read.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.is_consumer_group(),
        }
    }

    /// Memory that the group holds, about.
    pub fn bytes(&self) -> usize {
        512 + self.members.bytes() + self.pending_joins.bytes()
    }

    /// Whether what its members said and were assigned fits in one record.
    pub fn fits_in_a_record(&self, config: &GroupConfig) -> bool {
        self.members.bytes() <= config.group_record_bytes_max
    }

    /// May this member commit offsets now? `generation` < 0 and no member id: a client without group management.
    pub fn check_offset_commit(
        &self,
        member_id: &str,
        group_instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && group_instance_id.is_none() {
            // No member speaks, and the group has members: their offsets are theirs.
            return Err(GroupError::UnknownMemberId);
        }
        self.check_member(member_id, group_instance_id)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if self.state == GroupState::CompletingRebalance {
            // The member knows the generation already but has no assignment to commit for.
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// A commit by a member is a sign of life.
    pub fn offset_committed(&mut self, member_id: &str, now: Now) {
        if matches!(self.state, GroupState::Stable | GroupState::PreparingRebalance) {
            self.members.extend_session(member_id, now);
        }
    }

    fn check_member(&self, member_id: &str, group_instance_id: Option<&str>) -> Result<(), GroupError> {
        self.static_members.check(group_instance_id, member_id)?;
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn enter(&mut self, state: GroupState, now: Now) {
        use GroupState::*;
        let allowed = match state {
            Empty | CompletingRebalance => self.state == PreparingRebalance,
            PreparingRebalance => matches!(self.state, Stable | CompletingRebalance | Empty),
            Stable => self.state == CompletingRebalance,
        };
        assert!(allowed, "a group went from {:?} to {state:?}", self.state);
        self.state = state;
        self.state_timestamp_ms = Some(now.wall_ms);
    }

    fn member_record(&self, member: &Member) -> crate::group_records::MemberValue {
        let protocol = self.protocol_name.as_deref().expect("a stable group has a protocol");
        member.to_record(protocol)
    }
}

#[cfg(test)]
mod tests;
