//! One broker process, from start to death: the storage half of `node.rs`, over the simulated world.
//!
//! What has threads of its own in production is turned here by tasks: the metadata node and the WAL engine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use seawall::backup::RestoreWindow;
use seawall::clock::Clock;
use seawall::compaction::{Compaction, CompactionParts, CompactionSettings};
use seawall::log_cache::LogCache;
use seawall::log_cleaner::{CleanerParts, CleanerSettings, LogCleaner};
use seawall::metrics::Metrics;
use seawall::object_deletion::{DeletionParts, DeletionSettings, ObjectDeletion};
use seawall::object_key::ObjectKeys;
use seawall::object_producers::ObjectProducers;
use seawall::object_reader::ObjectReader;
use seawall::partitions::{self, Partitions};
use seawall::read_path::ReadPath;
use seawall::recovery::{RecoveryError, ScannedWal, recover};
use seawall::retention::PacedClock;
use seawall::storage::{BrokerWal, BrokerWalParts, Storage, StorageParts, StorageSettings};
use seawall::store_marker::StoreMarker;
use seawall::task::{Task, Tasks};
use seawall::topic_config::{SharedTopicConfig, TopicConfig};
use seawall::upload::{UploadParts, UploadSettings, Uploader};
use seawall::wal_opening::{WalOpeningError, WalOwner, commit_opening, scan_from};
use seawall::{completion, dirty_marks};
use seawall_backends::faulty::{Faults as StoreFaults, Faulty};
use seawall_backends::{Backend, Purpose, Segments};
use seawall_metadata::command::supported_features;
use seawall_metadata::{
    BootId, Command, MetadataConfig, MetadataHandle, ProposeError, Registration, Response, SteppedNode, WalId,
};
use seawall_wal_device::device::Wait;
use seawall_wal_device::device::simulated::SimRandom;
use seawall_wal_device::engine::{Engine, Turn};
use seawall_wal_device::{Completions, Expectation, scan_on};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::SimClock;
use crate::meta_log::SharedLog;
use crate::steps::Steps;
use crate::world::{CLUSTER, EPOCH_MS, INCARNATION, NODE, World};

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
    pub wal: Arc<BrokerWal>,
    pub reader: Arc<ObjectReader>,
    pub read_path: Arc<ReadPath>,
    pub uploader: Uploader,
    pub log_cleaner: Arc<LogCleaner>,
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
        let init = Command::InitCluster {
            cluster: CLUSTER,
            incarnation: INCARNATION,
            metadata_level: seawall_metadata::command::METADATA_LEVEL,
        };
        propose(&metadata, init).await?;
        propose(&metadata, Command::AdvanceTime { now_ms: EPOCH_MS as u64 }).await?;
    }
    let registration = register(world, &metadata, &mut random).await?;

    let marker = StoreMarker::new("sim", CLUSTER, INCARNATION);
    let (key, text) = (marker.key(), Bytes::from(marker.text()));
    let mark = world.store.memory.put(&key, Segments::from(text), Purpose::Probe);
    mark.await.map_err(|error| StartError::Bug(error.to_string()))?;
    let store = Arc::new(Faulty::new(world.store.clone(), StoreFaults::default(), random.next_u64()));
    let backend: Arc<dyn Backend> = store.clone();
    let keys = ObjectKeys::new("sim", CLUSTER).map_err(|error| StartError::Bug(error.to_string()))?;
    let reader = Arc::new(ObjectReader::new(backend.clone(), keys.clone(), world.sizes.block_cache_bytes, 64 << 20));

    let owner = WalOwner { cluster: CLUSTER, incarnation: INCARNATION, registration };
    let (scanned, completions, engine) = open_wal(world, &metadata, owner).await?;
    tokio::spawn(turn_wal(engine, switches.clone(), SimRandom::new(random.next_u64())));

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
    let producers = ObjectProducers::new(metadata.clone(), reader.clone());
    let wal = scanned.wal.clone();
    let partitions = recover(storage.clone(), vec![scanned], &producers).await.map_err(recovery_error)?;

    let tasks = Tasks::new(Metrics::new());
    tasks.spawn(Task::WalCompletion, completion::run(partitions.clone(), wal.clone(), completions, tasks.clone()));
    tasks.spawn(Task::PartitionCleaner, dirty_marks::run(partitions.clone(), dirty_requests, tasks.clone()));
    tasks.spawn(Task::MetadataFollower, partitions::follow_metadata(partitions.clone(), tasks.clone()));
    let cleaner_settings = CleanerSettings {
        map_bytes: world.sizes.cleaner_map_bytes,
        map_load_factor: 0.9,
        io_bytes_per_second: f64::MAX,
        backoff: Duration::ZERO,
        group_bytes: world.sizes.cleaner_group_bytes,
    };
    let log_cleaner = Arc::new(LogCleaner::new(CleanerParts {
        partitions: partitions.clone(),
        metadata: metadata.clone(),
        registration,
        incarnation: INCARNATION,
        backend: backend.clone(),
        keys: keys.clone(),
        reader: reader.clone(),
        settings: Arc::new(move || cleaner_settings),
    }));
    let (uploader, upload) = Uploader::new(UploadParts {
        metadata: metadata.clone(),
        registration,
        incarnation: INCARNATION,
        backend: backend.clone(),
        keys: keys.clone(),
        marker: None,
        source: Arc::new(partitions.clone()),
        settings: UploadSettings {
            bytes: world.sizes.upload_bytes,
            interval: world.sizes.upload_interval,
            stream_object_bytes: world.sizes.stream_object_bytes,
            in_flight: world.sizes.uploads_in_flight,
            reservation_ttl: world.sizes.reservation_ttl,
            tick: Duration::from_millis(20),
            ..UploadSettings::default()
        },
    });
    let stopping = tasks.stopping().clone();
    let failing = tasks.clone();
    tasks.spawn(Task::Uploader, async move {
        if let Err(error) = upload.run(stopping).await {
            failing.fail_broker(format!("uploads: {error}"));
        }
    });
    let (deletion, _) = ObjectDeletion::new(DeletionParts {
        storage: storage.clone(),
        backend: backend.clone(),
        keys: keys.clone(),
        incarnation: INCARNATION,
        marker,
        window: RestoreWindow::none(),
        settings: DeletionSettings {
            grace: world.sizes.delete_grace,
            tick: Duration::from_millis(100),
            objects_max: 5,
            ..DeletionSettings::default()
        },
    });
    tasks.spawn_until_stopped(Task::ObjectDeletion, deletion.run());
    let (compaction, _) = Compaction::new(CompactionParts {
        partitions: partitions.clone(),
        reader: reader.clone(),
        backend,
        keys,
        incarnation: INCARNATION,
        log_cleaner: log_cleaner.clone(),
        settings: CompactionSettings {
            limits: world.sizes.compaction,
            rate: 1 << 20,
            tick: world.sizes.compaction_tick,
            reservation_ttl: world.sizes.reservation_ttl,
            ..CompactionSettings::default()
        },
    });
    tasks.spawn_until_stopped(Task::Compaction, compaction.run());
    storage.lease_held().await;
    let read_path = Arc::new(ReadPath::new(metadata.clone(), reader.clone()));
    Ok(Life {
        metadata,
        registration,
        partitions,
        storage,
        wal,
        reader,
        read_path,
        uploader,
        log_cleaner,
        tasks,
        paced_clock: PacedClock::start(clock.clone()),
        clock,
        sim_clock,
        store,
        switches,
    })
}

pub const RETENTION_MS: i64 = 5_000;
pub const RETENTION_BYTES: u64 = 20_000;
pub const DELETE_RETENTION_MS: i64 = 2_000;

/// The name says what a topic keeps of its records.
fn topic_config(name: &str) -> TopicConfig {
    let mut config = TopicConfig { retention_ms: None, retention_bytes: None, ..TopicConfig::default() };
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

fn start_metadata(
    world: &World,
    clock: &Arc<SimClock>,
    switches: &Arc<Switches>,
    random: &mut SimRandom,
) -> Result<MetadataHandle, StartError> {
    let config = MetadataConfig {
        lease: world.sizes.lease,
        heartbeat: world.sizes.lease / 5,
        log_bytes_max: world.sizes.metadata_log_bytes,
        clock: clock.clone(),
        ..MetadataConfig::new("simulated", NODE)
    };
    let (metadata, node) = MetadataHandle::stepped(config, world.log.clone())
        .map_err(|error| StartError::Bug(format!("metadata does not start: {error}")))?;
    let (steps, random) = (world.steps.clone(), SimRandom::new(random.next_u64()));
    tokio::spawn(turn_node(node, clock.clone(), switches.clone(), steps, random));
    Ok(metadata)
}

async fn turn_node(
    mut node: SteppedNode<SharedLog>,
    clock: Arc<SimClock>,
    switches: Arc<Switches>,
    steps: Steps,
    mut random: SimRandom,
) {
    loop {
        let now_ms = clock.elapsed().as_millis() as u64;
        if now_ms >= switches.node_pauses_until.load(Ordering::Relaxed) {
            match node.step() {
                Ok(true) => {}
                Ok(false) => return,
                // Of a process that has ended nobody hears anything.
                Err(_) if steps.is_dead() => std::future::pending().await,
                Err(error) => {
                    let mut told = switches.node_error.lock().unwrap_or_else(PoisonError::into_inner);
                    told.get_or_insert_with(|| error.to_string());
                    return;
                }
            }
        }
        pause(&mut random).await;
    }
}

async fn turn_wal(mut engine: Box<Engine>, switches: Arc<Switches>, mut random: SimRandom) {
    let mut turns_without_news = 0;
    loop {
        if engine.turn() == Turn::Finished || engine.wait(Wait::No) == Turn::Finished {
            break;
        }
        turns_without_news += 1;
        if turns_without_news > 20 && random.chance(1, 20) {
            engine.fell_idle();
            turns_without_news = 0;
        }
        pause(&mut random).await;
    }
    switches.wal_ended.store(true, Ordering::Relaxed);
    switches.dark.notify_one();
}

/// Lets others run, for no time or for a little.
async fn pause(random: &mut SimRandom) {
    match random.below(4) {
        0 => tokio::task::yield_now().await,
        few => tokio::time::sleep(Duration::from_millis(few)).await,
    }
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
        wals: vec![WalId(world.wal_id.0)],
        features: supported_features(),
    };
    match propose(metadata, command).await? {
        Response::BrokerEpoch(epoch) => Ok(Registration { node: NODE, epoch }),
        other => Err(StartError::Bug(format!("RegisterBroker answered {other:?}"))),
    }
}

type OpenedWal = (ScannedWal, Completions, Box<Engine>);

async fn open_wal(world: &World, metadata: &MetadataHandle, owner: WalOwner) -> Result<OpenedWal, StartError> {
    let wal_id = WalId(world.wal_id.0);
    let expect = Expectation {
        cluster_id: Some(CLUSTER.0),
        incarnation: Some(INCARNATION.0),
        node_id: Some(NODE.0),
        wal_id: Some(world.wal_id),
        ..Expectation::default()
    };
    let device = Box::new(world.disk.device());
    let mut scanned = scan_on(device, world.disk.bytes(), &world.wal, &expect, scan_from(metadata, wal_id))
        .map_err(|error| StartError::Disk(format!("scan: {error}")))?;
    let start = scanned.end;
    let epoch = commit_opening(metadata, owner, &scanned, "simulated".as_ref()).await.map_err(|error| match error {
        WalOpeningError::Damaged { damage, .. } => StartError::Damaged(damage.to_string()),
        WalOpeningError::Metadata(ProposeError::Rejected(why)) => StartError::Bug(format!("OpenWal: {why}")),
        other => StartError::Bug(other.to_string()),
    })?;
    let (records, heads) = (std::mem::take(&mut scanned.records), std::mem::take(&mut scanned.heads));
    let (wal, completions, engine) = scanned
        .open_stepped(epoch.0, (CLUSTER.0, INCARNATION.0))
        .map_err(|error| StartError::Disk(format!("open: {error}")))?;
    let wal = BrokerWal::new(BrokerWalParts {
        id: wal_id,
        owner_epoch: epoch,
        wal,
        start,
        devices: 1,
        legs: Vec::new(),
        scan_index_bytes: 0,
    });
    Ok((ScannedWal { wal, records, heads }, completions, Box::new(engine)))
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
