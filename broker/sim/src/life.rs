//! One broker process, from start to death: the storage half of `node.rs`, over the simulated world.
//!
//! What has threads of its own in production is turned here by tasks: the metadata node and the WAL engine.

mod turned;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seawall::ack_class::AckClass;
use seawall::backup::store::BackupStore;
use seawall::backup::{Backup, BackupSettings, BackupView, RestoreWindow};
use seawall::clock::Clock;
use seawall::compaction::{Compaction, CompactionCounters, CompactionParts, CompactionSettings};
use seawall::log_cache::LogCache;
use seawall::log_cleaner::{CleanerParts, CleanerSettings, LogCleaner};
use seawall::metrics::Metrics;
use seawall::object_deletion::{DeletionParts, DeletionSettings, ObjectDeletion};
use seawall::object_key::ObjectKeys;
use seawall::object_producers::ObjectProducers;
use seawall::object_reader::ObjectReader;
use seawall::partition::Partition;
use seawall::partitions::{self, Partitions};
use seawall::read_path::ReadPath;
use seawall::recovery::{RecoveryError, recover};
use seawall::retention::PacedClock;
use seawall::scrub::{Scrub, ScrubMetrics, ScrubParts};
use seawall::storage::{BrokerWal, Storage, StorageParts, StorageSettings};
use seawall::store_marker::StoreMarker;
use seawall::task::{Task, Tasks};
use seawall::topic_config::{SharedTopicConfig, TopicConfig};
use seawall::upload::{UploadParts, UploadSettings, Uploader};
use seawall::wal_opening::WalOwner;
use seawall::{completion, dirty_marks, incarnation_watch};
use seawall_backends::faulty::{Faults as StoreFaults, Faulty};
use seawall_backends::{Backend, Purpose, Segments};
use seawall_metadata::command::supported_features;
use seawall_metadata::{BootId, Command, Incarnation, MetadataHandle, Registration, Response, WalId};
use seawall_wal_device::device::simulated::SimRandom;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::SimClock;
use crate::scenario::Fault;
use crate::world::{BackupSizes, CLUSTER, EPOCH_MS, NODE, PREFIX, Sizes, World};
use turned::{open_wal, start_metadata, turn_wal};

/// Why a broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// Acked data is missing, and the broker says so.
    Damaged(String),
    /// The power went off meanwhile, or the disk failed.
    Disk(String),
    /// Anything else is a bug.
    Bug(String),
}

/// A running broker.
pub struct Life {
    pub metadata: MetadataHandle,
    pub registration: Registration,
    pub partitions: Partitions,
    pub storage: Arc<Storage>,
    /// None on a broker without one.
    pub wal: Option<Arc<BrokerWal>>,
    pub reader: Arc<ObjectReader>,
    pub read_path: Arc<ReadPath>,
    pub uploader: Uploader,
    pub log_cleaner: Arc<LogCleaner>,
    pub joins: Arc<CompactionCounters>,
    pub backup: Option<Arc<BackupView>>,
    pub scrub: Arc<Scrub>,
    pub tasks: Tasks,
    pub clock: Clock,
    /// What retention and compaction take for the time.
    pub paced_clock: PacedClock,
    pub sim_clock: Arc<SimClock>,
    pub store: Arc<Faulty>,
    pub switches: Arc<Switches>,
}

/// What the scenario does to the parts that are turned here.
#[derive(Default)]
pub struct Switches {
    /// Metadata does not answer until this time (milliseconds).
    node_pauses_until: AtomicU64,
    /// The WAL engine has ended: the power is off, or it was closed.
    pub wal_ended: AtomicBool,
    /// Told when it ends.
    pub dark: Notify,
    pub node_error: Mutex<Option<String>>,
}

impl Life {
    pub fn wal_has_failed(&self) -> bool {
        self.wal.as_ref().is_some_and(|wal| wal.handle().failed().is_some())
    }
}

impl Switches {
    pub fn pause_node(&self, until: Duration) {
        self.node_pauses_until.store(until.as_millis() as u64, Ordering::Relaxed);
    }
}

/// Starts a broker on the world; when this returns it leads its partitions under a lease.
pub async fn start(world: &mut World, sim_clock: Arc<SimClock>) -> Result<Life, StartError> {
    let switches = Arc::new(Switches::default());
    let mut random = SimRandom::new(world.random.next_u64());
    let metadata = start_metadata(world, &sim_clock, &switches, &mut random)?;
    if metadata.read(|state| state.cluster().is_none()) {
        let metadata_level = seawall_metadata::command::METADATA_LEVEL;
        let init = Command::InitCluster { cluster: CLUSTER, incarnation: world.incarnation, metadata_level };
        propose(&metadata, init).await?;
        propose(&metadata, Command::AdvanceTime { now_ms: EPOCH_MS as u64 }).await?;
    }
    let registration = register(world, &metadata, &mut random).await?;

    let marker = StoreMarker::new(PREFIX, CLUSTER, world.incarnation);
    let (key, text) = (marker.key(), Bytes::from(marker.text()));
    let mark = world.store.memory.put(&key, Segments::from(text), Purpose::Probe);
    mark.await.map_err(|error| StartError::Bug(error.to_string()))?;
    let store = Arc::new(Faulty::new(world.store.clone(), StoreFaults::default(), random.next_u64()));
    let backend: Arc<dyn Backend> = store.clone();
    let keys = world.keys();
    let reader = Arc::new(ObjectReader::new(backend.clone(), keys.clone(), world.sizes.block_cache_bytes, 64 << 20));

    let opened = match world.has_wal {
        true => {
            let owner = WalOwner { cluster: CLUSTER, incarnation: world.incarnation, registration };
            Some(open_wal(world, &metadata, owner).await?)
        }
        false => None,
    };
    let (scanned, turned) = match opened {
        Some((scanned, completions, engine)) => (vec![scanned], Some((completions, engine))),
        None => (Vec::new(), None),
    };
    let wal = scanned.first().map(|scanned| scanned.wal.clone());

    let clock = Clock::simulated(EPOCH_MS + sim_clock.elapsed().as_millis() as i64);
    let (storage, dirty_requests) = Storage::new(StorageParts {
        registration,
        metadata: metadata.clone(),
        cache: LogCache::new(world.sizes.log_cache_bytes),
        clock: clock.clone(),
        boot_clock: sim_clock.clone(),
        settings: StorageSettings { producer_expiration_ms: Arc::new(|| i64::MAX), strict_batches: false },
        topic_configs: Arc::new(|_, name| SharedTopicConfig::new(topic_config(name))),
    });
    let metrics = Metrics::new();
    let scrub_metrics = metrics.register(ScrubMetrics::register);
    let tasks = Tasks::new(metrics);
    let completions = turned.map(|(completions, engine)| {
        tokio::spawn(turn_wal(engine, switches.clone(), SimRandom::new(random.next_u64())));
        completions
    });
    let producers = ObjectProducers::new(metadata.clone(), reader.clone());
    let partitions = recover(storage.clone(), scanned, &producers).await.map_err(recovery_error)?;

    if let (Some(wal), Some(completions)) = (wal.clone(), completions) {
        tasks.spawn(Task::WalCompletion, completion::run(partitions.clone(), wal, completions, tasks.clone()));
    }
    tasks.spawn(Task::PartitionCleaner, dirty_marks::run(partitions.clone(), dirty_requests, tasks.clone()));
    tasks.spawn(Task::MetadataFollower, partitions::follow_metadata(partitions.clone(), tasks.clone()));
    let incarnation = world.incarnation;
    let over = OverStore { metadata, registration, incarnation, backend, keys, reader, marker, partitions, clock };
    let log_cleaner = over.log_cleaner(&world.sizes);
    let uploader = over.uploads(world, &tasks);
    let watch = incarnation_watch::run(over.backend.clone(), over.marker.clone(), tasks.clone());
    tasks.spawn_until_stopped(Task::IncarnationWatch, watch);
    let (backup, window) = over.backup(&world.sizes, &tasks);
    let window = if world.fault == Some(Fault::DeleteInWindow) { RestoreWindow::none() } else { window };
    over.deletion(&world.sizes, window, &tasks);
    let scrub = over.scrub(scrub_metrics);
    let joins = over.compaction(&world.sizes, &log_cleaner, &tasks);
    storage.lease_held().await;
    let OverStore { metadata, reader, partitions, clock, .. } = over;
    Ok(Life {
        read_path: Arc::new(ReadPath::new(metadata.clone(), reader.clone())),
        metadata,
        registration,
        partitions,
        storage,
        wal,
        reader,
        uploader,
        log_cleaner,
        joins,
        backup,
        scrub,
        tasks,
        paced_clock: PacedClock::start(clock.clone()),
        clock,
        sim_clock,
        store,
        switches,
    })
}

/// What stands between the partitions and the store.
struct OverStore {
    metadata: MetadataHandle,
    registration: Registration,
    incarnation: Incarnation,
    backend: Arc<dyn Backend>,
    keys: ObjectKeys,
    reader: Arc<ObjectReader>,
    marker: StoreMarker,
    partitions: Partitions,
    clock: Clock,
}

impl OverStore {
    fn log_cleaner(&self, sizes: &Sizes) -> Arc<LogCleaner> {
        let settings = CleanerSettings {
            map_bytes: sizes.cleaner_map_bytes,
            map_load_factor: 0.9,
            io_bytes_per_second: f64::MAX,
            backoff: Duration::ZERO,
            group_bytes: sizes.cleaner_group_bytes,
        };
        Arc::new(LogCleaner::new(CleanerParts {
            partitions: self.partitions.clone(),
            metadata: self.metadata.clone(),
            registration: self.registration,
            incarnation: self.incarnation,
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            reader: self.reader.clone(),
            settings: Arc::new(move || settings),
        }))
    }

    fn uploads(&self, world: &World, tasks: &Tasks) -> Uploader {
        let sizes = &world.sizes;
        let (uploader, upload) = Uploader::new(UploadParts {
            metadata: self.metadata.clone(),
            registration: self.registration,
            incarnation: self.incarnation,
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            marker: (world.fault != Some(Fault::CommitAfterEnd)).then(|| self.marker.clone()),
            source: Arc::new(self.partitions.clone()),
            settings: UploadSettings {
                bytes: sizes.upload_bytes,
                interval: sizes.upload_interval,
                stream_object_bytes: sizes.stream_object_bytes,
                ack_interval: sizes.ack_interval,
                ack_bytes: sizes.ack_bytes,
                in_flight: sizes.uploads_in_flight,
                reservation_ttl: sizes.reservation_ttl,
                tick: Duration::from_millis(20),
            },
        });
        let (stopping, failing) = (tasks.stopping().clone(), tasks.clone());
        tasks.spawn(Task::Uploader, async move {
            if let Err(error) = upload.run(stopping).await {
                failing.fail_broker(format!("uploads: {error}"));
            }
        });
        uploader
    }

    fn backup(&self, sizes: &Sizes, tasks: &Tasks) -> (Option<Arc<BackupView>>, Arc<RestoreWindow>) {
        let Some(BackupSizes { interval, snapshot_interval, kept }) = sizes.backup else {
            return (None, RestoreWindow::none());
        };
        let (window, view) = (RestoreWindow::unknown(), BackupView::new(self.metadata.clone(), true));
        let store = BackupStore::new(self.backend.clone(), &self.keys, CLUSTER, self.incarnation);
        let settings = BackupSettings { interval, snapshot_interval, snapshots_kept: kept };
        let (metadata, clock) = (self.metadata.clone(), self.clock.clone());
        let backup = Backup::new(metadata, store, clock, settings, window.clone(), view.clone());
        tasks.spawn(Task::Backup, backup.run(tasks.stopping().clone()));
        (Some(view), window)
    }

    fn deletion(&self, sizes: &Sizes, window: Arc<RestoreWindow>, tasks: &Tasks) {
        let (deletion, _) = ObjectDeletion::new(DeletionParts {
            storage: self.partitions.storage().clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            marker: self.marker.clone(),
            window,
            settings: DeletionSettings {
                grace: sizes.delete_grace,
                tick: Duration::from_millis(100),
                objects_max: 5,
                ..DeletionSettings::default()
            },
        });
        tasks.spawn_until_stopped(Task::ObjectDeletion, deletion.run());
    }

    fn scrub(&self, metrics: ScrubMetrics) -> Arc<Scrub> {
        Arc::new(Scrub::new(ScrubParts {
            storage: self.partitions.storage().clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            marker: self.marker.clone(),
            data_dir: None,
            metrics,
        }))
    }

    fn compaction(&self, sizes: &Sizes, log_cleaner: &Arc<LogCleaner>, tasks: &Tasks) -> Arc<CompactionCounters> {
        let (compaction, counters) = Compaction::new(CompactionParts {
            partitions: self.partitions.clone(),
            reader: self.reader.clone(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            incarnation: self.incarnation,
            log_cleaner: log_cleaner.clone(),
            settings: CompactionSettings {
                limits: sizes.compaction,
                rate: 1 << 20,
                tick: sizes.compaction_tick,
                reservation_ttl: sizes.reservation_ttl,
                merge_bytes: sizes.merge_bytes,
                merge_tick: sizes.compaction_tick * 2,
            },
        });
        tasks.spawn_until_stopped(Task::Compaction, compaction.run());
        counters
    }
}

pub const RETENTION_MS: i64 = 5_000;
pub const RETENTION_BYTES: u64 = 20_000;
pub const DELETE_RETENTION_MS: i64 = 2_000;

/// Whether an ack means that metadata has committed the object.
pub fn needs_commit(partition: &Partition) -> bool {
    partition.append_log().ack_class(partition.config().ack) == AckClass::Backend
}

/// The name says what a topic keeps of its records, and what an ack means: `safe-keyed-3`.
fn topic_config(name: &str) -> TopicConfig {
    let mut config = TopicConfig { retention_ms: None, retention_bytes: None, ..TopicConfig::default() };
    let safe = name.strip_prefix("safe-");
    if safe.is_some() {
        config.ack = AckClass::Backend;
    }
    let name = safe.unwrap_or(name);
    if name.starts_with("small") {
        config.retention_bytes = Some(RETENTION_BYTES);
    } else if name.starts_with("short") {
        config.retention_ms = Some(RETENTION_MS);
    } else if name.starts_with("keyed") || name.starts_with("both") {
        config.cleanup_compact = true;
        config.cleanup_delete = name.starts_with("both");
        config.retention_ms = Some(RETENTION_MS);
        config.min_cleanable_dirty_ratio = 0.0;
        config.segment_bytes = 0;
        config.delete_retention_ms = DELETE_RETENTION_MS;
    }
    config
}

async fn propose(metadata: &MetadataHandle, command: Command) -> Result<Response, StartError> {
    let name = command.name();
    match metadata.propose(command).await {
        Ok((_, response)) => Ok(response),
        Err(error) => Err(StartError::Bug(format!("{name}: {error}"))),
    }
}

async fn register(
    world: &World,
    metadata: &MetadataHandle,
    random: &mut SimRandom,
) -> Result<Registration, StartError> {
    let command = Command::RegisterBroker {
        node: NODE,
        boot: BootId(Uuid::from_u128(u128::from(random.next_u64()))),
        listeners: vec![],
        rack: None,
        wals: world.has_wal.then_some(WalId(world.wal_id.0)).into_iter().collect(),
        features: supported_features(),
    };
    match propose(metadata, command).await? {
        Response::BrokerEpoch(epoch) => Ok(Registration { node: NODE, epoch }),
        other => Err(StartError::Bug(format!("RegisterBroker answered {other:?}"))),
    }
}

fn recovery_error(error: RecoveryError) -> StartError {
    match error {
        error @ (RecoveryError::Gap { .. }
        | RecoveryError::Overlap { .. }
        | RecoveryError::EpochOrder { .. }
        | RecoveryError::Batch { .. }) => StartError::Damaged(error.to_string()),
        error => StartError::Bug(error.to_string()),
    }
}
