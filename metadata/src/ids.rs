//! Identities and counters. Two numbers that must not be swapped are two types.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::wire::{Input, Wire, WireError};

macro_rules! newtype {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }

            fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
                Ok(Self(Wire::take(input)?))
            }
        }
    )+};
}

newtype! {
    /// Drawn once when the cluster is made; part of every object key.
    ClusterId(Uuid);
    /// Drawn when the cluster is made and again by each restore.
    Incarnation(Uuid);
    /// A broker or metadata node, as configured (`node.id`).
    NodeId(i32);
    /// Drawn by each start of a host's process.
    BootId(Uuid);
    /// Grows at each registration and each fencing of any broker; never reused in the cluster.
    BrokerEpoch(u64);
    /// Drawn when a topic is created. A topic of the same name made later has another.
    TopicId(Uuid);
    /// The append-only log of one partition. Never reused.
    StreamId(u64);
    /// An object in the store. Never reused.
    ObjectId(u64);
    /// Grows at each change of a partition's leadership.
    LeaderEpoch(i32);
    /// One WAL device or file, drawn when it is formatted.
    WalId(Uuid);
    /// One device or file under a WAL, drawn when it is formatted. A mirror has two.
    LegId(Uuid);
    /// Grows at each opening of a WAL.
    OwnerEpoch(u64);
    /// Byte position in a WAL since it was formatted; never wraps.
    Lsn(u64);
    /// A Kafka producer id.
    ProducerId(i64);
    /// Position of a record in a partition's log.
    Offset(i64);
}

/// A partition of a topic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct PartitionId {
    pub topic: TopicId,
    pub index: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

/// A broker at one of its epochs. Whatever an older epoch asks for is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Registration {
    pub node: NodeId,
    pub epoch: BrokerEpoch,
}

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at epoch {}", self.node, self.epoch)
    }
}

crate::wire::wire_struct!(PartitionId { topic, index });
crate::wire::wire_struct!(Registration { node, epoch });
