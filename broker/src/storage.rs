//! What all partitions of a broker share: its registration and lease, its WALs, the log cache, the metadata handle.
//!
//! [`BrokerWal`] also keeps the first LSN that is not settled, which the WAL may not be trimmed past: completions are
//! applied up to `placed_to`, and above that the partitions know what they still need.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use seawall_metadata::command::WalLeg;
use seawall_metadata::{LeaseView, MetadataClock, MetadataHandle, OwnerEpoch, Registration, TopicId, WalId};
use seawall_wal_device::{Lsn, RecordHeader, Reservation, SpaceClass, Wal, WalFull};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::commit_waits::CommitWaits;
use crate::fair_share::{ShareMeter, Weight};
use crate::log_cache::{BatchBytes, LogCache};
use crate::partition::{AppendError, Partition};
use crate::topic_config::SharedTopicConfig;
use crate::wal_alarms::{WalAlarm, alarms};

/// The longest that a producer is told to wait because its WAL fills.
const THROTTLE_MAX: Duration = Duration::from_secs(1);
/// How often a lease that has ended is looked at again.
const LEASE_POLL: Duration = Duration::from_millis(5);

pub struct Storage {
    pub registration: Registration,
    pub metadata: MetadataHandle,
    pub cache: LogCache,
    pub clock: Clock,
    pub settings: StorageSettings,
    /// Where a topic's configs come from.
    pub topic_configs: TopicConfigs,
    /// Who waits for uploads to be committed.
    pub commit_waits: Arc<CommitWaits>,
    lease: LeaseView,
    boot_clock: Arc<dyn MetadataClock>,
    /// At most one entry per partition waits here.
    dirty_marks: mpsc::UnboundedSender<Arc<Partition>>,
}

/// The configs of a topic, which the giver keeps up to date.
pub type TopicConfigs = Arc<dyn Fn(TopicId, &str) -> SharedTopicConfig + Send + Sync>;

/// What the storage engine takes from the broker's configuration.
#[derive(Clone)]
pub struct StorageSettings {
    /// `producer.id.expiration.ms` as it is now: how long an idle producer is remembered.
    pub producer_expiration_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Parse every record of every batch, whatever its topic asks for.
    pub strict_batches: bool,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self { producer_expiration_ms: Arc::new(|| 86_400_000), strict_batches: false }
    }
}

/// Partitions that ask to be marked dirty; `dirty_marks.rs` serves them.
pub type DirtyMarkRequests = mpsc::UnboundedReceiver<Arc<Partition>>;

/// What a [`Storage`] is made of. The broker is registered.
pub struct StorageParts {
    pub registration: Registration,
    pub metadata: MetadataHandle,
    pub cache: LogCache,
    pub clock: Clock,
    /// The clock that the lease is measured by.
    pub boot_clock: Arc<dyn MetadataClock>,
    pub settings: StorageSettings,
    pub topic_configs: TopicConfigs,
}

impl Storage {
    pub fn new(parts: StorageParts) -> (Arc<Self>, DirtyMarkRequests) {
        #[allow(clippy::disallowed_methods, reason = "a partition asks once until it is marked: bounded by partitions")]
        let (dirty_marks, requests) = mpsc::unbounded_channel();
        let StorageParts { registration, metadata, cache, clock, boot_clock, settings, topic_configs } = parts;
        let lease = metadata.lease();
        let commit_waits = Arc::default();
        let storage = Self {
            registration,
            metadata,
            cache,
            clock,
            settings,
            topic_configs,
            commit_waits,
            lease,
            boot_clock,
            dirty_marks,
        };
        (Arc::new(storage), requests)
    }

    /// Whether this broker may act as leader now: append, move watermarks, wake, ack, answer fetches.
    pub fn lease_valid(&self) -> bool {
        self.lease.valid(self.boot_clock.boot())
    }

    /// Waits until the lease holds (again).
    pub async fn lease_held(&self) {
        while !self.lease_valid() {
            tokio::time::sleep(LEASE_POLL).await;
        }
    }

    pub(crate) fn ask_for_dirty_mark(&self, partition: Arc<Partition>) {
        // A receiver that has gone means that the broker stops: the append is never acked.
        _ = self.dirty_marks.send(partition);
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("registration", &self.registration).finish_non_exhaustive()
    }
}

/// One WAL of this broker, opened under an owner epoch.
pub struct BrokerWal {
    pub id: WalId,
    pub owner_epoch: OwnerEpoch,
    wal: Wal,
    /// Devices that the configuration names for it.
    pub devices: usize,
    /// Those that it was opened with.
    pub legs: Vec<WalLeg>,
    /// Held by whoever changes the set of devices in metadata and in the WAL.
    pub leg_changes: tokio::sync::Mutex<()>,
    /// Memory that the index of recovered records took at the start.
    pub scan_index_bytes: u64,
    /// Every completion below this LSN was applied to its partition.
    placed_to: AtomicU64,
    /// The WAL must be kept from here on, whatever the partitions say: records of streams that this broker does not lead.
    held_from: AtomicU64,
    failed: AtomicBool,
    shares: ShareMeter,
}

/// What a [`BrokerWal`] is made of.
pub struct BrokerWalParts {
    pub id: WalId,
    pub owner_epoch: OwnerEpoch,
    pub wal: Wal,
    /// Where this opening starts: everything below was recovered.
    pub start: Lsn,
    pub devices: usize,
    pub legs: Vec<WalLeg>,
    pub scan_index_bytes: u64,
}

impl BrokerWal {
    pub fn new(parts: BrokerWalParts) -> Arc<Self> {
        let BrokerWalParts { id, owner_epoch, wal, start, devices, legs, scan_index_bytes } = parts;
        Arc::new(Self {
            id,
            owner_epoch,
            wal,
            devices,
            legs,
            leg_changes: tokio::sync::Mutex::new(()),
            scan_index_bytes,
            placed_to: AtomicU64::new(start.0),
            held_from: AtomicU64::new(u64::MAX),
            failed: AtomicBool::new(false),
            shares: ShareMeter::default(),
        })
    }

    pub fn handle(&self) -> &Wal {
        &self.wal
    }

    pub fn reserve(&self, payload_bytes: usize, class: SpaceClass) -> Result<Reservation, AppendError> {
        if self.has_failed() {
            return Err(AppendError::WalFailed("an earlier write or flush failed".into()));
        }
        self.wal.reserve(payload_bytes as u64, class).map_err(|refused| match refused {
            WalFull::Ring { .. } | WalFull::Queue { .. } => AppendError::WalFull,
            WalFull::RecordTooLarge { .. } => AppendError::TooLarge { bytes: payload_bytes },
            WalFull::Unusable(error) => AppendError::WalFailed(error.to_string()),
        })
    }

    /// Queues one batch. The caller holds its partition's lock: queue order is offset order.
    pub fn append(&self, reservation: Reservation, header: RecordHeader, batch: &BatchBytes, token: u64) {
        let mut segments = batch.segments();
        let pair = [segments.next().unwrap_or_default(), segments.next().unwrap_or_default()];
        debug_assert!(segments.next().is_none(), "a batch has at most two pieces");
        self.wal.append(reservation, header, pair, token);
    }

    /// How long who has just appended should wait before it sends more: nothing below the soft limit, then the longer the closer
    /// the ring is to where clients are refused.
    pub fn throttle(&self) -> Duration {
        let usage = self.wal.usage();
        throttle(usage.taken_bytes(), usage.soft_bytes, usage.normal_bytes_max)
    }

    /// Who fills it.
    pub fn shares(&self) -> &ShareMeter {
        &self.shares
    }

    /// Whether a producer of this weight may append so much now. The last part of the room is for those that take no more than
    /// about their share.
    pub fn has_room_for(&self, weight: Weight, bytes: usize) -> bool {
        let usage = self.wal.usage();
        self.has_failed()
            || usage.taken_bytes() + bytes as u64 <= weight.bytes_max(usage.soft_bytes, usage.normal_bytes_max)
    }

    /// What of it a person must look at, as it is now.
    pub fn alarms(&self) -> Vec<WalAlarm> {
        alarms(&self.wal.status(), self.devices)
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// It has ended: nothing is acked by it from here on.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Every completion below `to` was applied.
    pub(crate) fn placed_to(&self, to: Lsn) {
        let before = self.placed_to.fetch_max(to.0, Ordering::AcqRel);
        assert!(before <= to.0, "completions went back from {before} to {to:?}");
    }

    /// Keeps the WAL from `from` on until the process ends.
    pub(crate) fn hold_from(&self, from: Lsn) {
        self.held_from.fetch_min(from.0, Ordering::AcqRel);
    }

    /// The lowest LSN that is not settled, given the partitions of this WAL: below it the WAL may be trimmed once what was
    /// committed up to now is in metadata. Reads the cursor first: what completes meanwhile lies above it.
    pub fn first_unsettled<'a>(&self, partitions: impl Iterator<Item = &'a Arc<Partition>>) -> Lsn {
        let placed_to = self.placed_to.load(Ordering::Acquire);
        let upper = placed_to.min(self.held_from.load(Ordering::Acquire));
        let first = partitions.filter_map(|partition| partition.first_unsettled()).map(|lsn| lsn.0).min();
        Lsn(first.map_or(upper, |first| first.min(upper)))
    }
}

pub(crate) fn throttle(taken: u64, soft_bytes: u64, bytes_max: u64) -> Duration {
    if taken <= soft_bytes {
        return Duration::ZERO;
    }
    let room = bytes_max.saturating_sub(soft_bytes).max(1);
    THROTTLE_MAX.mul_f64(((taken - soft_bytes) as f64 / room as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_are_throttled_from_the_soft_limit_on_and_the_more_the_fuller_the_ring_is() {
        let at = |taken| throttle(taken, 700, 900).as_millis();
        assert_eq!((at(0), at(700)), (0, 0));
        assert_eq!((at(750), at(800), at(900), at(1_000)), (250, 500, 1_000, 1_000));
    }
}
