//! Server-side assignors of the consumer protocol: which member of a group shall read which partition.
//!
//! Pure: members come in the order of their ids, topics in the order of theirs, so the same input gives the same
//! assignment. Promises of each: every partition of a topic that somebody reads goes to exactly one of those who read
//! it. `uniform` spreads all partitions evenly and moves as few as that takes; `range` gives each member the same
//! range of every topic, so that topics with equal keys meet, and moves what it must.

mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::group_records::consumer::Assignment;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assignor {
    Uniform,
    Range,
}

impl Assignor {
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// One assignment per member, in their order. `partitions` has the partition count of each topic; what a member
    /// subscribes to and is not in it does not exist.
    pub fn assign(self, members: &[MemberSpec], partitions: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
        match self {
            Self::Uniform => uniform::assign(members, partitions),
            Self::Range => range::assign(members, partitions),
        }
    }
}

/// What an assignor knows of a member.
#[derive(Debug, Clone)]
pub struct MemberSpec<'a> {
    pub id: &'a str,
    pub instance_id: Option<&'a str>,
    /// Members with one subscription share one set.
    pub topics: Arc<BTreeSet<Uuid>>,
    /// The target of the assignment before.
    pub current: &'a Assignment,
}

/// Partition count of a topic, where nobody lies about it.
fn count(partitions: &BTreeMap<Uuid, i32>, topic: &Uuid) -> i32 {
    partitions.get(topic).copied().unwrap_or(0).max(0)
}

fn same_subscription(members: &[MemberSpec]) -> bool {
    members.windows(2).all(|pair| Arc::ptr_eq(&pair[0].topics, &pair[1].topics) || pair[0].topics == pair[1].topics)
}

#[cfg(test)]
mod tests;
