//! Starts and stops the storage half of a broker: WALs, recovery, completions, dirty marks, retention.
//!
//! Start: scan and open every WAL, rebuild the partitions, start their tasks, and wait for the lease. Stop, when no
//! request is under way any more: close the WALs clean. Uploads are started and flushed by the node, around it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::{HostClock, MetadataHandle, State, WalId};
use seawall_wal_device::{Completions, FormatError, RECORD_BYTES_LIMIT, WalConfig};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::broker_settings::KafkaSettings;
use crate::clock::Clock;
use crate::config::{BatchValidation, Config};
use crate::config_values::TopicConfigs;
use crate::log_cache::LogCache;
use crate::partitions::Partitions;
use crate::recovery::{ProducerSource, RecoveryError, recover};
use crate::storage::{BrokerWal, DirtyMarkRequests, Storage, StorageParts, StorageSettings};
use crate::task::{Task, Tasks};
use crate::wal_opening::{OpenedWal, WalOpeningError, WalOwner, open_wal};
use crate::wal_passports::NotQualified;
use crate::wal_registration::PreparedWal;
use crate::{completion, dirty_marks, faults, partitions, retention, wal_watch};

/// No record of a WAL may be smaller than this at its largest.
const RECORD_BYTES_MAX_FLOOR: u64 = 2 << 20;
const RECORD_BYTES_MAX_CEILING: u64 = 64 << 20;
/// What a batch may take beyond `message.max.bytes`.
const BATCH_SLACK_BYTES: u64 = 64 << 10;

/// How long a WAL may take to write what it has queued, and its clean mark.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Why the storage half did not start.
#[derive(Debug, thiserror::Error)]
pub enum StorageStartError {
    #[error("two of the [[wal]] are WAL {0}: one is a copy, or both are one device")]
    SameWal(WalId),
    #[error("cannot make {path}: {error}")]
    Folder { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Wal(#[from] WalOpeningError),
    #[error(transparent)]
    NotQualified(#[from] NotQualified),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl StorageStartError {
    /// Whether a disk or quota was full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Wal(WalOpeningError::Format(FormatError::NoSpace { .. })) => true,
            Self::Folder { error, .. } => error.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// What the storage half needs of the node.
pub struct StorageContext<'a> {
    pub config: &'a Config,
    pub wals: &'a [PreparedWal],
    pub owner: WalOwner,
    pub metadata: MetadataHandle,
    pub clock: Clock,
    pub topic_configs: TopicConfigs,
    pub tasks: Tasks,
}

/// The WALs are open and the partitions recovered; nothing runs yet.
pub struct StorageEngine {
    pub partitions: Partitions,
    completions: Vec<(Arc<BrokerWal>, Completions)>,
    dirty_marks: DirtyMarkRequests,
}

impl StorageEngine {
    /// Opens the WALs and rebuilds the partitions. `producers` tells what objects remember of them.
    pub async fn open(context: &StorageContext<'_>, producers: &dyn ProducerSource) -> Result<Self, StorageStartError> {
        let mut scanned = Vec::new();
        let mut completions = Vec::new();
        for wal in context.wals {
            let config = wal_config(&context.topic_configs.settings(), wal);
            let opened = open_wal(&context.metadata, context.owner, &wal.found, config).await?;
            let OpenedWal { scanned: wal, completions: of_wal } = opened;
            completions.push((wal.wal.clone(), of_wal));
            scanned.push(wal);
        }
        let (settings, topic_configs) = (context.topic_configs.clone(), context.topic_configs.clone());
        let (storage, dirty_marks) = Storage::new(StorageParts {
            registration: context.owner.registration,
            metadata: context.metadata.clone(),
            cache: LogCache::new(context.config.cache.log_bytes.bytes()),
            clock: context.clock.clone(),
            boot_clock: Arc::new(HostClock::default()),
            settings: StorageSettings {
                producer_expiration_ms: Arc::new(move || settings.settings().long("producer.id.expiration.ms")),
                strict_batches: context.config.produce.batch_validation == BatchValidation::Strict,
            },
            topic_configs: Arc::new(move |topic, _| topic_configs.of(topic)),
        });
        let partitions = recover(storage, scanned, producers).await?;
        Ok(Self { partitions, completions, dirty_marks })
    }

    /// Starts the tasks and waits for the lease; then partitions can be written.
    pub async fn run(self, context: &StorageContext<'_>) -> Partitions {
        let Self { partitions, completions, dirty_marks } = self;
        let tasks = &context.tasks;
        for (wal, completions) in completions {
            let watch =
                wal_watch::run(wal.clone(), context.metadata.clone(), context.owner.registration, tasks.clone());
            let run = completion::run(partitions.clone(), wal, completions, tasks.clone());
            tasks.spawn(Task::WalCompletion, run);
            tasks.spawn(Task::WalWatch, watch);
        }
        tasks.spawn(Task::PartitionCleaner, dirty_marks::run(partitions.clone(), dirty_marks, tasks.clone()));
        tasks.spawn(Task::MetadataFollower, partitions::follow_metadata(partitions.clone(), tasks.clone()));
        let following = follow_ack_classes(partitions.clone(), context.topic_configs.clone());
        tasks.spawn_until_stopped(Task::AckClasses, following);
        let check_ms = context.config.kafka.long("log.retention.check.interval.ms");
        let interval = Duration::from_millis(check_ms.unsigned_abs().max(1));
        tasks.spawn(Task::Retention, retention::run(partitions.clone(), interval, tasks.clone()));
        partitions.storage().lease_held().await;
        partitions
    }
}

/// Lets every partition know when its topic's `seawall.ack` may have changed.
async fn follow_ack_classes(partitions: Partitions, topic_configs: TopicConfigs) {
    let metadata = partitions.storage().metadata.clone();
    let mut applied = metadata.watch();
    let mut seen = None;
    loop {
        let topology = metadata.read(State::topology_index);
        if seen.replace(topology) != Some(topology) {
            topic_configs.refresh();
            partitions.all().iter().for_each(|partition| partition.follow_ack_class());
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Closes every WAL with a clean mark. Nothing is appended from then on; completions end. One whose device hangs is left
/// without the mark, and keeps the others from nothing.
pub async fn close_wals(partitions: &Partitions) {
    let mut closing = JoinSet::new();
    for wal in partitions.wals().iter().cloned() {
        closing.spawn(async move {
            match tokio::time::timeout(CLOSE_WAIT, wal.handle().clone().close()).await {
                Ok(Ok(())) => info!(wal = %wal.id, "write-ahead log closed"),
                Ok(Err(error)) => warn!(wal = %wal.id, %error, "write-ahead log not closed cleanly"),
                Err(_) => error!(wal = %wal.id, "write-ahead log not closed: a device hangs"),
            }
        });
    }
    closing.join_all().await;
}

fn wal_config(kafka: &KafkaSettings, wal: &PreparedWal) -> WalConfig {
    let message_bytes_max = kafka.long("message.max.bytes").unsigned_abs();
    let record_bytes_max = record_bytes_max(wal.found.ring_bytes, message_bytes_max);
    if record_bytes_max < message_bytes_max {
        warn!(
            wal = %wal.found.id, message_bytes_max, record_bytes_max,
            "message.max.bytes is more than this write-ahead log takes: larger batches are refused"
        );
    }
    WalConfig {
        record_bytes_max: u32::try_from(record_bytes_max).unwrap_or(u32::MAX),
        soft_limit_percent: soft_limit_percent(wal.config.soft_limit, wal.found.ring_bytes, record_bytes_max),
        spike_threshold: wal.config.spike_threshold.duration(),
        stuck_after: wal.config.stuck_after.duration(),
        stuck_drop_after: wal.config.stuck_drop_after.map(|after| after.duration()),
        faults: faults::wal_faults(),
        ..WalConfig::new(&wal.found.legs[0].path)
    }
}

/// Topics may allow more than the default; a sixteenth of the ring leaves room for many at once. A config that was altered while
/// the broker ran must not keep it from starting: the ring has to hold four, frames and all.
fn record_bytes_max(ring_bytes: u64, message_bytes_max: u64) -> u64 {
    let fits = (ring_bytes / 4).saturating_sub(BATCH_SLACK_BYTES).min(u64::from(RECORD_BYTES_LIMIT));
    (ring_bytes / 16)
        .clamp(RECORD_BYTES_MAX_FLOOR, RECORD_BYTES_MAX_CEILING)
        .max(message_bytes_max + BATCH_SLACK_BYTES)
        .min(fits.max(RECORD_BYTES_MAX_FLOOR))
}

/// What is asked for, or less: uploads hurry and producers are throttled before clients are refused. They may fill 95 % of the
/// ring, less the room for one pad that is held back.
fn soft_limit_percent(asked: u8, ring_bytes: u64, record_bytes_max: u64) -> u8 {
    let held_back = (record_bytes_max * 100).div_ceil(ring_bytes.max(1));
    let refused_from = 95u64.saturating_sub(held_back);
    asked.min(u8::try_from(refused_from.saturating_sub(2)).unwrap_or(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_message_max_bytes_is_altered_to_the_next_start_opens_the_wal() {
        let of = |ring_mib: u64, message_mib: u64| record_bytes_max(ring_mib << 20, message_mib << 20);
        assert_eq!((of(512, 1), of(16, 1)), (32 << 20, 2 << 20));
        assert_eq!(of(512, 100), (100 << 20) + BATCH_SLACK_BYTES);
        assert_eq!(of(512, 200), (128 << 20) - BATCH_SLACK_BYTES, "as much as the ring takes");
        assert_eq!(of(1 << 20, 2047), u64::from(RECORD_BYTES_LIMIT));
        assert_eq!(of(4, 1), RECORD_BYTES_MAX_FLOOR, "a ring that takes no batch of the default size is refused");
    }

    #[test]
    fn the_soft_limit_lies_below_where_clients_are_refused() {
        let of = |asked, mib: u64, record_mib: u64| soft_limit_percent(asked, mib << 20, record_mib << 20);
        assert_eq!((of(70, 512, 32), of(90, 1 << 20, 64)), (70, 90), "as asked");
        assert_eq!(of(90, 512, 32), 86, "refused from 88.75 %");
        assert_eq!(of(70, 16, 4), 68, "the smallest ring");
    }
}
