//! A group under either protocol, as far as both are the same.

use std::fmt::Debug;

use bytes::Bytes;

use crate::consumer_group::{ClusterView, ConsumerGroup};
use crate::group::{Group, GroupState, JoinRequest, Now};
use crate::offsets::Retention;

/// Which protocol a group is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    Classic,
    Consumer,
}

impl GroupKind {
    /// The name in ListGroups.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

#[derive(Debug)]
pub(super) enum AnyGroup {
    /// Also what only keeps offsets.
    Classic(Box<Group>),
    Consumer(Box<ConsumerGroup>),
}

impl AnyGroup {
    pub(super) fn classic(now: Now) -> Self {
        Self::Classic(Box::new(Group::new(now)))
    }

    pub(super) fn kind(&self) -> GroupKind {
        match self {
            Self::Classic(_) => GroupKind::Classic,
            Self::Consumer(_) => GroupKind::Consumer,
        }
    }

    pub(super) fn protocol_type(&self) -> &str {
        match self {
            Self::Classic(group) => group.protocol_type().unwrap_or_default(),
            Self::Consumer(_) => crate::group::CONSUMER_PROTOCOL_TYPE,
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state().name(),
            Self::Consumer(group) => group.state().name(),
        }
    }

    /// Nobody is in the group nor about to be: without offsets it need not be kept.
    pub(super) fn is_vacant(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_vacant(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    /// A group without members may be deleted.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.state() == GroupState::Empty,
            Self::Consumer(group) => group.is_empty(),
        }
    }

    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    pub(super) fn retention(&self) -> Retention {
        match self {
            Self::Classic(group) => classic_retention(group),
            Self::Consumer(_) => Retention::SinceCommit,
        }
    }

    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        match self {
            Self::Classic(group) => group.next_deadline_ms(),
            Self::Consumer(group) => group.next_deadline_ms(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.bytes(),
            Self::Consumer(group) => group.bytes(),
        }
    }

    /// By how much a JoinGroup makes a member that is there larger. None: it would make a new one.
    pub(super) fn growth(&self, request: &JoinRequest, view: &ClusterView) -> Option<usize> {
        match self {
            Self::Classic(group) => group.growth(request),
            Self::Consumer(group) => group.classic_growth(request, view),
        }
    }

    pub(super) fn as_classic(&self) -> Option<&Group> {
        match self {
            Self::Classic(group) => Some(group),
            Self::Consumer(_) => None,
        }
    }

    pub(super) fn as_classic_mut(&mut self) -> Option<&mut Group> {
        match self {
            Self::Classic(group) => Some(group),
            Self::Consumer(_) => None,
        }
    }

    pub(super) fn as_consumer(&self) -> Option<&ConsumerGroup> {
        match self {
            Self::Classic(_) => None,
            Self::Consumer(group) => Some(group),
        }
    }

    pub(super) fn as_consumer_mut(&mut self) -> Option<&mut ConsumerGroup> {
        match self {
            Self::Classic(_) => None,
            Self::Consumer(group) => Some(group),
        }
    }
}

fn classic_retention(group: &Group) -> Retention {
    match (group.protocol_type(), group.state()) {
        // A client that only keeps its offsets here.
        (None, _) => Retention::SinceCommit,
        (Some(_), GroupState::Empty) => group.state_timestamp_ms().map_or(Retention::SinceCommit, Retention::Since),
        (Some(_), GroupState::Stable) if group.subscribed_topics().is_some() => Retention::SinceCommit,
        (Some(_), _) => Retention::Keep,
    }
}

/// What DescribeGroups shows of a classic group.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribedGroup {
    pub state: GroupState,
    pub protocol_type: String,
    /// Empty unless the group is stable.
    pub protocol: String,
    pub members: Vec<DescribedMember>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DescribedMember {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl DescribedGroup {
    pub(super) fn of(group: &Group) -> Self {
        let stable = group.state() == GroupState::Stable;
        let protocol = if stable { group.protocol_name().unwrap_or_default() } else { "" };
        let members = group.members().map(|member| DescribedMember {
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable { member.metadata(protocol) } else { Bytes::new() },
            assignment: member.assignment.clone(),
        });
        Self {
            state: group.state(),
            protocol_type: group.protocol_type().unwrap_or_default().to_owned(),
            protocol: protocol.to_owned(),
            members: members.collect(),
        }
    }
}
