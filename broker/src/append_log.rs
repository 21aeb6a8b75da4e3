//! Where a partition's batches wait for their upload: a WAL, or memory alone on a broker that has none.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::StreamId;
use seawall_wal_device::{Reservation, SpaceClass};
use tokio::time::Instant;

use crate::ack_class::AckClass;
use crate::fair_share::{ClientKey, Weight};
use crate::memory_log::{MemoryLog, MemorySpace};
use crate::partition::AppendError;
use crate::storage::BrokerWal;

/// Cheap to clone.
#[derive(Clone)]
pub enum AppendLog {
    Wal(Arc<BrokerWal>),
    Memory(Arc<MemoryLog>),
}

/// Room for one batch.
pub enum AppendSpace {
    Wal(Reservation),
    Memory(MemorySpace),
}

impl AppendLog {
    pub fn wal(&self) -> Option<&Arc<BrokerWal>> {
        match self {
            Self::Wal(wal) => Some(wal),
            Self::Memory(_) => None,
        }
    }

    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Wal(one), Self::Wal(other)) => Arc::ptr_eq(one, other),
            (Self::Memory(one), Self::Memory(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Under which class records are acked whose topic asks for `asked`: memory vouches for nothing.
    pub fn ack_class(&self, asked: AckClass) -> AckClass {
        match self {
            Self::Wal(_) => asked,
            Self::Memory(_) => AckClass::Backend,
        }
    }

    pub fn reserve(&self, batch_bytes: usize, class: SpaceClass) -> Result<AppendSpace, AppendError> {
        match self {
            Self::Wal(wal) => wal.reserve(batch_bytes, class).map(AppendSpace::Wal),
            Self::Memory(log) => log.reserve(batch_bytes, class).map(AppendSpace::Memory),
        }
    }

    /// How long who has just appended should wait before it sends more.
    pub fn throttle(&self) -> Duration {
        match self {
            Self::Wal(wal) => wal.throttle(),
            Self::Memory(log) => log.throttle(),
        }
    }

    /// Counts what a producer wants to append: what it takes of its fair share.
    pub fn note_demand(&self, client: ClientKey, partition: StreamId, bytes: u64, now: Instant) -> Weight {
        let shares = match self {
            Self::Wal(wal) => wal.shares(),
            Self::Memory(log) => log.shares(),
        };
        shares.note(client, partition, bytes, now)
    }

    /// Whether a producer of this weight may append so much now. The last part of the room is for those that take no more than
    /// about their share.
    pub fn has_room_for(&self, weight: Weight, bytes: usize) -> bool {
        match self {
            Self::Wal(wal) => wal.has_room_for(weight, bytes),
            Self::Memory(log) => log.has_room_for(weight, bytes),
        }
    }

    /// Resolves when space may have become free. Create it, try `reserve`, then await it: no wake-up is lost then.
    pub fn space_freed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        match self {
            Self::Wal(wal) => Box::pin(wal.handle().space_freed()),
            Self::Memory(log) => Box::pin(log.space_freed()),
        }
    }

    /// The largest batch that it takes.
    pub fn batch_bytes_max(&self) -> u64 {
        match self {
            Self::Wal(wal) => wal.handle().record_bytes_max(),
            Self::Memory(log) => log.batch_bytes_max(),
        }
    }
}
