//! The storage engine against a model that is a plain list of batches per partition.
//!
//! Seeded runs append, upload, evict, read and restart, over a store that fails and lies, with caches so small that every
//! read crosses memory, WAL and objects. Whatever is read must be the very bytes that were acked, in order and without
//! a gap; an error is allowed only while the store misbehaves. `STORAGE_SEED=n` runs one seed, `STORAGE_SEEDS=n` more of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use seawall::clock::Clock;
use seawall::config::{Config, WalConfig, WalKind};
use seawall::config_values::TopicConfigs;
use seawall::object_storage::{ObjectStorage, Uploads};
use seawall::partition::{AppendError, Origin, Partition};
use seawall::partitions::Partitions;
use seawall::read_path::{Isolation, ReadError, ReadPath};
use seawall::storage_engine::{StorageContext, StorageEngine, close_wals};
use seawall::task::Tasks;
use seawall::units::{ByteSize, Span};
use seawall::wal_opening::WalOwner;
use seawall::wal_registration::{self, PreparedWal};
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{Backend, Purpose, Segments};
use seawall_metadata::command::{Listener, supported_features};
use seawall_metadata::{
    BootId, ClusterId, Command, Incarnation, MetadataConfig, MetadataHandle, NodeId, Offset, Registration, Response,
    TopicId,
};
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression, patch_base_offset_and_epoch, split_batches};
use seawall_wal_device::{FormatConfig, SpaceClass};
use tempfile::TempDir;
use uuid::Uuid;

const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC1));
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(0x1C));
const TOPIC: TopicId = TopicId(Uuid::from_u128(0x70));
const PARTITIONS: i32 = 3;

#[test]
fn reads_are_what_was_acked_through_uploads_evictions_faults_and_restarts() {
    for seed in seeds(3) {
        println!("STORAGE_SEED={seed}");
        runtime().block_on(async { Run::new(seed).await.play(200).await });
    }
}

#[test]
fn a_read_across_memory_wal_and_objects_gives_the_same_bytes() {
    runtime().block_on(async {
        let mut rig = Rig::new(1, |config| {
            config.cache.log_bytes = ByteSize::kib(200);
            config.upload.interval = Span::seconds(3600);
        })
        .await;
        let mut log = Vec::new();
        for part in 0..3 {
            for number in 0..40 {
                log.push(rig.append(0, 10_000, part * 40 + number).await);
            }
            if part == 0 {
                assert!(rig.running().uploads.flush().await);
            }
        }
        // Part one is in objects, part two in the WAL only, the end of part three in memory.
        let expected: Vec<u8> = log.concat();
        assert!(rig.read_all(0, 50_000).await == expected, "small reads differ");
        assert!(rig.read_all(0, 10 << 20).await == expected, "large reads differ");
        let status = rig.running().uploads.status();
        assert!(status.objects_committed > 0, "{status:?}");
        rig.restart(false).await;
        assert!(rig.read_all(0, 1 << 20).await == expected, "the log differs after a restart");
        assert!(rig.running().uploads.flush().await);
        assert!(rig.read_all(0, 1 << 20).await == expected, "the log differs once it is in objects");
        let status = rig.running().uploads.status();
        assert!(status.read_back_batches > 0, "recovered batches are read back from the WAL: {status:?}");
        let usage = rig.running().partitions.wals()[0].handle().usage();
        assert_eq!(usage.trim, usage.durable, "all is settled, so all is trimmed: {usage:?}");
        rig.restart(true).await;
        assert!(rig.read_all(0, 1 << 20).await == expected, "the log differs from a cold cache");
    });
}

#[test]
fn a_flipped_bit_in_a_stored_object_is_an_error_and_never_data() {
    runtime().block_on(async {
        let mut rig = Rig::new(2, |_| ()).await;
        let first = rig.append(0, 100_000, 0).await;
        assert!(rig.running().uploads.flush().await);
        rig.append(0, 100_000, 1).await;
        assert!(rig.running().uploads.flush().await);
        let (key, bytes) = rig.objects().await.pop().unwrap();
        for at in [1_000, bytes.len() - 3, bytes.len() - 100] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            rig.store.delete_many(vec![key.clone()], Purpose::Probe).await;
            rig.store.put(&key, Segments::new(vec![damaged.into()]), Purpose::Probe).await.unwrap();
            rig.restart(true).await;
            let partition = rig.partition(0);
            let good = rig.running().reads.read(&partition, 0, 1 << 20, Isolation::ReadUncommitted, true).await;
            assert!(good.unwrap().records.to_bytes() == first, "the other object is still served");
            let bad = rig.running().reads.read(&partition, 1, 1 << 20, Isolation::ReadUncommitted, true).await;
            assert!(matches!(bad, Err(ReadError::Corrupt(_))), "{bad:?}");
        }
    });
}

#[test]
fn while_the_store_is_away_acks_go_on_and_afterwards_all_is_uploaded_once() {
    runtime().block_on(async {
        let mut rig = Rig::new(3, |config| config.cache.log_bytes = ByteSize::kib(64)).await;
        rig.faulty.set_faults(Faults { error_before: 1000, ..Faults::default() });
        let mut log = Vec::new();
        for number in 0..300 {
            log.push(rig.append(0, 10_000, number).await);
        }
        let flushing = tokio::spawn({
            let uploads = rig.running().uploads.clone();
            async move { uploads.flush().await }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let status = rig.running().uploads.status();
        assert!(status.put_failures > 0 && status.objects_committed == 0, "{status:?}");
        assert!(rig.read_all(0, 1 << 20).await == log.concat(), "un-uploaded data is read back from the WAL");
        rig.faulty.set_faults(Faults::default());
        assert!(flushing.await.unwrap());
        rig.restart(true).await;
        assert!(rig.read_all(0, 1 << 20).await == log.concat());
    });
}

#[test]
fn a_producers_repeats_are_recognised_after_its_batches_have_left_the_wal() {
    runtime().block_on(async {
        let mut rig = Rig::new(4, |_| ()).await;
        for number in 0..9 {
            rig.append(0, 500, number).await;
            if number % 3 == 2 {
                assert!(rig.running().uploads.flush().await);
            }
        }
        rig.restart(true).await;
        for number in 4..9 {
            let (base, _) = rig.try_append(0, 500, number).await.unwrap();
            assert_eq!(base, number, "the answer of the original");
        }
        let gap = rig.try_append(0, 500, 10).await;
        assert!(matches!(gap, Err(AppendError::Sequence(_))), "{gap:?}");
        assert_eq!(rig.append(0, 500, 9).await[..8], 9i64.to_be_bytes());
    });
}

#[test]
fn a_deleted_topics_records_hold_neither_uploads_nor_the_wal() {
    runtime().block_on(async {
        let rig = Rig::new(5, |config| {
            config.upload.interval = Span::millis(50);
            config.cache.log_bytes = ByteSize::kib(64);
        })
        .await;
        rig.faulty.set_faults(Faults { error_before: 1000, ..Faults::default() });
        for number in 0..400 {
            rig.append(number as i32 % PARTITIONS, 10_000, number / i64::from(PARTITIONS)).await;
        }
        rig.metadata.propose(Command::DeleteTopic { topic: TOPIC }).await.unwrap();
        rig.faulty.set_faults(Faults::default());
        let wal = rig.running().partitions.wals()[0].clone();
        for _ in 0..200 {
            let usage = wal.handle().usage();
            if usage.durable.0 - usage.trim.0 < 1 << 20 {
                assert!(rig.running().uploads.flush().await);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the WAL is held: {:?}, {:?}", wal.handle().usage(), rig.running().uploads.status());
    });
}

#[test]
fn an_object_whose_reservation_has_expired_is_stored_again_under_another_id() {
    runtime().block_on(async {
        let mut rig = Rig::new(6, |config| config.upload.interval = Span::seconds(3600)).await;
        let mut log = vec![rig.append(0, 10_000, 0).await];
        rig.faulty.set_faults(Faults { error_before: 1000, ..Faults::default() });
        let flushing = tokio::spawn({
            let uploads = rig.running().uploads.clone();
            async move { uploads.flush().await }
        });
        until(|| rig.running().uploads.status().put_failures > 0).await;
        let far = rig.metadata.read(|state| state.now_ms()) + 100 * 3_600_000;
        rig.metadata.propose(Command::AdvanceTime { now_ms: far }).await.unwrap();
        rig.faulty.set_faults(Faults::default());
        assert!(tokio::time::timeout(Duration::from_secs(20), flushing).await.unwrap().unwrap());
        log.push(rig.append(0, 10_000, 1).await);
        rig.restart(true).await;
        assert!(rig.read_all(0, 1 << 20).await == log.concat());
    });
}

#[test]
fn a_crash_between_put_and_commit_leaves_an_object_that_no_one_reads() {
    runtime().block_on(async {
        let mut rig = Rig::new(7, |config| config.upload.interval = Span::millis(10)).await;
        // Every put is stored, and none is known to be.
        rig.faulty.set_faults(Faults { error_after: 1000, ..Faults::default() });
        let mut log = Vec::new();
        for number in 0..20 {
            log.push(rig.append(0, 10_000, number).await);
        }
        until(|| rig.running().uploads.status().put_failures > 0).await;
        rig.restart(false).await;
        assert!(rig.objects().await.is_empty());
        assert!(rig.read_all(0, 1 << 20).await == log.concat());
        rig.faulty.set_faults(Faults::default());
        assert!(rig.running().uploads.flush().await);
        rig.restart(false).await;
        assert!(rig.read_all(0, 1 << 20).await == log.concat());
        assert!(!rig.objects().await.is_empty());
    });
}

#[test]
fn a_fenced_brokers_uploads_end_and_it_neither_commits_nor_trims() {
    runtime().block_on(async {
        let mut rig = Rig::new(8, |config| config.upload.interval = Span::seconds(3600)).await;
        let first = rig.append(0, 10_000, 0).await;
        let epoch = rig.metadata.read(|state| state.broker(NODE).unwrap().epoch);
        rig.metadata.propose(Command::FenceBroker { node: NODE, epoch }).await.unwrap();
        assert!(!rig.running().uploads.flush().await, "uploads have stopped");
        let usage = rig.running().partitions.wals()[0].handle().usage();
        assert_eq!(usage.trim.0, 0);
        assert!(rig.objects().await.is_empty());
        rig.restart(false).await;
        assert!(rig.read_all(0, 1 << 20).await == first);
    });
}

#[test]
fn a_flipped_bit_in_the_wal_is_an_error_for_its_stream_and_holds_the_wal_but_not_the_others() {
    runtime().block_on(async {
        let mut rig = Rig::new(9, |config| {
            config.upload.interval = Span::seconds(3600);
            config.cache.log_bytes = ByteSize::kib(1);
        })
        .await;
        let bad = rig.append(0, 10_000, 0).await;
        let good = rig.append(1, 10_000, 0).await;
        // Neither is in memory any more: the cache is tiny. The record's bytes are found by their content.
        let path = rig.config.wal[0].path.clone().unwrap();
        let at = position_of(&path, &bad[5_000..5_100]);
        flip(&path, at);
        let partition = rig.partition(0);
        let read = rig.running().reads.read(&partition, 0, 1 << 20, Isolation::ReadUncommitted, true).await;
        assert!(matches!(read, Err(ReadError::Corrupt(_))), "{read:?}");
        let flush = tokio::time::timeout(Duration::from_secs(2), rig.running().uploads.flush()).await;
        assert!(flush.is_err(), "a stream whose data cannot be read is never taken for settled");
        let status = rig.running().uploads.status();
        assert_eq!(status.damaged_streams, [partition.stream().0]);
        assert_eq!(status.objects_committed, 1, "{status:?}");
        assert!(rig.read_all(1, 1 << 20).await == good, "the other partition is served");
        let usage = rig.running().partitions.wals()[0].handle().usage();
        assert_eq!(usage.trim.0, 0, "the WAL keeps what is not settled");
        rig.running = None;
    });
}

fn position_of(path: &std::path::Path, content: &[u8]) -> u64 {
    let file = std::fs::read(path).unwrap();
    file.windows(content.len()).position(|window| window == content).expect("the record is in the WAL") as u64
}

fn flip(path: &std::path::Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain");
}

/// What one partition should hold.
#[derive(Default)]
struct Model {
    /// Acked batches as they are stored: their base offsets are 0, 1, 2... each batch has one record.
    acked: Vec<Bytes>,
    /// Appended, and not known to be durable: after a restart a prefix of them may be there.
    maybe: Vec<Bytes>,
    /// One past the highest number that was ever appended. A producer has five batches in flight at most, so it repeats none
    /// that lies five or more below.
    sent: i64,
}

struct Run {
    seed: u64,
    rng: Rng,
    rig: Rig,
    models: Vec<Model>,
    lying: bool,
}

/// A WAL on two files.
fn mirror(dir: &Path) -> WalConfig {
    let devices = [dir.join("wal.a"), dir.join("wal.b")];
    let format = FormatConfig::new(&devices[0], 64 << 20, NODE.0);
    seawall_wal_device::format(&FormatConfig { mirror: Some(devices[1].clone()), ..format }).unwrap();
    WalConfig { devices: Some(devices.into()), ..WalConfig::new(WalKind::Mirror) }
}

impl Run {
    async fn new(seed: u64) -> Run {
        let mut rng = Rng(seed);
        let log_kib = [16, 64, 300, 4096][rng.below(4) as usize];
        let upload_kib = [32, 256, 1024][rng.below(3) as usize];
        let interval_ms = [20, 200, 2_000][rng.below(3) as usize];
        let rig = Rig::new(seed, |config| {
            config.cache.log_bytes = ByteSize::kib(log_kib);
            config.cache.block_bytes = ByteSize::kib(700);
            config.upload.bytes = ByteSize::kib(upload_kib);
            config.upload.stream_object_bytes = ByteSize::kib(upload_kib / 2);
            config.upload.interval = Span::millis(interval_ms);
            if seed % 2 == 1 {
                let path = config.node.data_dir.join("wal.1");
                config.wal.push(WalConfig { path: Some(path), ..config.wal[0].clone() });
            }
            if seed % 3 == 2 {
                config.wal = vec![mirror(&config.node.data_dir)];
            }
        })
        .await;
        let models = (0..PARTITIONS).map(|_| Model::default()).collect();
        Run { seed, rng, rig, models, lying: false }
    }

    async fn play(mut self, steps: usize) {
        for step in 0..steps {
            match self.rng.below(100) {
                0..40 => self.append().await,
                40..85 => self.read(step).await,
                85..90 => self.set_faults(),
                90..94 if !self.lying => _ = self.rig.running().uploads.flush().await,
                94..97 => self.restart(step).await,
                _ => tokio::time::sleep(Duration::from_millis(self.rng.below(30))).await,
            }
        }
        self.rig.faulty.set_faults(Faults::default());
        self.rig.restart(false).await;
        assert!(self.rig.running().uploads.flush().await, "seed {}: the last flush", self.seed);
        self.rig.restart(true).await;
        for partition in 0..PARTITIONS {
            self.take_maybes(partition);
            let read = self.rig.read_all(partition, 1 << 20).await;
            let model = &self.models[partition as usize];
            assert!(read == model.acked.concat(), "seed {}: partition {partition} differs at the end", self.seed);
        }
        let status = self.rig.running().uploads.status();
        assert_eq!(status.ranges_refused, 0, "seed {}: {status:?}", self.seed);
    }

    async fn append(&mut self) {
        let partition = self.rng.below(PARTITIONS as u64) as i32;
        let bytes = if self.rng.below(30) == 0 { 600_000 } else { 100 + self.rng.below(20_000) as usize };
        let model = &mut self.models[partition as usize];
        for _ in 0..1 + self.rng.below(6) {
            let number = model.acked.len() as i64;
            model.acked.push(self.rig.append(partition, bytes, number).await);
            model.sent = model.sent.max(number + 1);
        }
        if self.rng.below(5) == 0 {
            // A repeat of one of the last batches answers the original's offset.
            let newest = model.acked.len() as i64 - 1;
            let number = (newest - self.rng.below(5) as i64).max(model.sent - 5).max(0);
            let (base, _) = self.rig.try_append(partition, bytes, number).await.unwrap();
            assert_eq!(base, number, "seed {}: a repeat in partition {partition}", self.seed);
        }
    }

    async fn read(&mut self, step: usize) {
        let partition = self.rng.below(PARTITIONS as u64) as i32;
        let model = &self.models[partition as usize];
        let from = self.rng.below(model.acked.len() as u64 + 1);
        let max_bytes = [1, 30_000, 300_000, 3_000_000][self.rng.below(4) as usize];
        let led = self.rig.partition(partition);
        let read = self.rig.running().reads.read(&led, from as i64, max_bytes, Isolation::ReadUncommitted, true);
        let fetched = match read.await {
            Ok(fetched) => fetched,
            Err(ReadError::Unavailable(_) | ReadError::Corrupt(_)) if self.lying => return,
            Err(error) => panic!("seed {}, step {step}: reading {partition} at {from}: {error}", self.seed),
        };
        let bytes = fetched.records.to_bytes();
        let expected: Bytes = model.acked[from as usize..fetched.next_offset as usize].concat().into();
        assert!(bytes == expected, "seed {}, step {step}: partition {partition} differs from {from} on", self.seed);
        assert!(bytes.len() <= max_bytes || split_batches(bytes.clone()).unwrap().len() == 1);
        assert_eq!(bytes.is_empty(), from as usize == model.acked.len(), "seed {}, step {step}", self.seed);
    }

    fn set_faults(&mut self) {
        let mut pick =
            |per_mille: u32| if self.rng.below(2) == 0 { 0 } else { self.rng.below(u64::from(per_mille)) as u32 };
        let mut faults = Faults {
            error_before: pick(300),
            error_after: pick(300),
            late_success: pick(200),
            slow: pick(300),
            delay_max: Duration::from_millis(20),
            truncated: pick(200),
            corrupted: pick(200),
            foreign: pick(200),
            ..Faults::default()
        };
        if self.lying {
            faults = Faults::default();
        }
        self.lying = !self.lying;
        self.rig.faulty.set_faults(faults);
    }

    async fn restart(&mut self, step: usize) {
        let clean = self.rng.below(2) == 0;
        if !clean {
            for partition in 0..PARTITIONS {
                for ahead in 0..self.rng.below(4) {
                    let model = &mut self.models[partition as usize];
                    let number = model.acked.len() as i64 + ahead as i64;
                    model.maybe.push(self.rig.append_unacked(partition, 700, number));
                    model.sent = model.sent.max(number + 1);
                }
            }
        }
        if self.rng.below(2) == 0 {
            // Recovery needs the store; it waits for one that fails, and here it must not be lied to.
            self.lying = false;
            self.rig.faulty.set_faults(Faults::default());
        } else if self.lying {
            let faults = Faults { error_before: 300, ..Faults::default() };
            self.rig.faulty.set_faults(faults);
        }
        self.rig.restart(clean).await;
        for partition in 0..PARTITIONS {
            self.take_maybes(partition);
            let end = self.rig.partition(partition).offsets().log_end;
            let acked = self.models[partition as usize].acked.len() as i64;
            assert_eq!(end, acked, "seed {}, step {step}: log end of partition {partition}", self.seed);
        }
    }

    /// After a restart: what was not acked and is there has become part of the log.
    fn take_maybes(&mut self, partition: i32) {
        let end = self.rig.partition(partition).offsets().log_end as usize;
        let model = &mut self.models[partition as usize];
        let acked = model.acked.len();
        assert!(end >= acked, "seed {}: partition {partition} lost acked batches", self.seed);
        assert!(end <= acked + model.maybe.len(), "seed {}: partition {partition} grew", self.seed);
        model.acked.extend(model.maybe.drain(..).take(end - acked));
        model.maybe.clear();
    }
}

/// A storage engine over a real WAL file, metadata and a store that outlive its restarts.
struct Rig {
    _dir: TempDir,
    config: Config,
    metadata: MetadataHandle,
    store: Arc<MemoryBackend>,
    faulty: Arc<Faulty>,
    wals: Vec<PreparedWal>,
    running: Option<Running>,
}

struct Running {
    partitions: Partitions,
    reads: Arc<ReadPath>,
    uploads: Uploads,
    tasks: Tasks,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start(
    config: Config,
    metadata: MetadataHandle,
    backend: Arc<dyn Backend>,
    registration: Registration,
) -> (Partitions, Arc<ReadPath>, Uploads, Tasks) {
    let tasks = Tasks::new(seawall::metrics::Metrics::new());
    let wals = wal_registration::prepare(&config).unwrap();
    let context = StorageContext {
        config: &config,
        wals: &wals,
        owner: WalOwner { cluster: CLUSTER, incarnation: INCARNATION, registration },
        metadata: metadata.clone(),
        clock: Clock::system(),
        topic_configs: TopicConfigs::new(config.kafka.clone(), NODE, metadata.clone()),
        tasks: tasks.clone(),
    };
    let objects = ObjectStorage::new(&config, backend, metadata, CLUSTER, INCARNATION).unwrap();
    let mut tries = 0;
    let engine = loop {
        match StorageEngine::open(&context, &objects.producers()).await {
            Ok(engine) => break engine,
            // Tasks of the run before may still hold the WAL for a moment.
            Err(error) if tries < 200 && error.to_string().contains("in use") => tries += 1,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let partitions = engine.run(&context).await;
    let uploads = objects.start_uploads(&config, registration, partitions.clone(), &tasks);
    (partitions, objects.reads, uploads, tasks)
}

impl Rig {
    async fn new(seed: u64, edit: impl FnOnce(&mut Config)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data_dir = dir.path().to_owned();
        config.wal = vec![WalConfig {
            path: Some(dir.path().join("wal.0")),
            size: Some(ByteSize::mib(64)),
            ..WalConfig::new(WalKind::File)
        }];
        config.upload.bytes = ByteSize::mib(1);
        edit(&mut config);
        let mut metadata = MetadataConfig::new(dir.path().join("metadata"), NODE);
        metadata.cluster = Some((CLUSTER, INCARNATION));
        let metadata = MetadataHandle::in_memory(metadata).await.unwrap();
        let store = Arc::new(MemoryBackend::new());
        let faulty = Arc::new(Faulty::new(store.clone(), Faults::default(), seed));
        let wals = wal_registration::prepare(&config).unwrap();
        let mut rig = Rig { _dir: dir, config, metadata, store, faulty, wals, running: None };
        rig.start(true).await;
        rig
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn partition(&self, index: i32) -> Arc<Partition> {
        self.running().partitions.get(TOPIC, index).unwrap()
    }

    async fn start(&mut self, first: bool) {
        let listener = Listener { name: "PLAINTEXT".into(), host: "h".into(), port: 1 };
        let register = Command::RegisterBroker {
            node: NODE,
            boot: BootId(Uuid::new_v4()),
            listeners: vec![listener],
            rack: None,
            wals: self.wals.iter().map(|wal| wal.found.id).collect(),
            features: supported_features(),
        };
        let (_, Response::BrokerEpoch(epoch)) = self.metadata.propose(register).await.unwrap() else { panic!() };
        let registration = Registration { node: NODE, epoch };
        if first {
            let create = Command::CreateTopic {
                name: "t".into(),
                topic: TOPIC,
                internal: false,
                replication_factor: 1,
                owners: vec![NODE; PARTITIONS as usize],
                configs: BTreeMap::new(),
            };
            self.metadata.propose(create).await.unwrap();
        }
        // Its own runtime, so that a crash takes every task with it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let parts = (self.config.clone(), self.metadata.clone(), self.faulty.clone() as Arc<dyn Backend>);
        let started = move || {
            let started = runtime.block_on(start(parts.0, parts.1, parts.2, registration));
            (runtime, started)
        };
        let (runtime, (partitions, reads, uploads, tasks)) = tokio::task::spawn_blocking(started).await.unwrap();
        self.running = Some(Running { partitions, reads, uploads, tasks, runtime: Some(runtime) });
    }

    /// Starts anew with cold caches. Unless `clean`, everything is dropped where it stands.
    async fn restart(&mut self, clean: bool) {
        let running = self.running.take().unwrap();
        if clean {
            tokio::time::timeout(Duration::from_millis(300), running.uploads.flush()).await.ok();
            running.tasks.begin_stop();
            close_wals(&running.partitions).await;
            assert!(running.tasks.stopped(Duration::from_secs(10)).await);
        }
        drop(running);
        self.start(false).await;
    }

    /// Appends the batch with this number and waits for its ack; its bytes as they are stored.
    async fn append(&self, partition: i32, bytes: usize, number: i64) -> Bytes {
        let (base, batch) = self.try_append(partition, bytes, number).await.unwrap();
        assert_eq!(base, number, "offsets are dense");
        batch
    }

    async fn try_append(&self, partition: i32, bytes: usize, number: i64) -> Result<(i64, Bytes), AppendError> {
        let led = self.partition(partition);
        let batch = batch(bytes, number, partition);
        let header = BatchHeader::parse(&batch).unwrap();
        let reservation = loop {
            let freed = led.append_log().space_freed();
            match led.reserve(batch.len(), SpaceClass::Normal) {
                Err(AppendError::WalFull) => {
                    tokio::time::timeout(Duration::from_secs(20), freed).await.expect("the WAL stays full");
                }
                answer => break answer?,
            }
        };
        let stored = stored(&batch, number, led.leader_epoch());
        let pending = led.append_reserved(batch, header, Origin::Client, reservation)?;
        let base = pending.base_offset;
        tokio::time::timeout(Duration::from_secs(20), pending.durable()).await.expect("an ack")?;
        Ok((base, stored))
    }

    fn append_unacked(&self, partition: i32, bytes: usize, number: i64) -> Bytes {
        let led = self.partition(partition);
        let batch = batch(bytes, number, partition);
        let header = BatchHeader::parse(&batch).unwrap();
        let reservation = led.reserve(batch.len(), SpaceClass::Internal).unwrap();
        let stored = stored(&batch, number, led.leader_epoch());
        let pending = led.append_reserved(batch, header, Origin::Client, reservation).unwrap();
        assert_eq!(pending.base_offset, number);
        stored
    }

    /// The whole partition, read from its start in pieces.
    async fn read_all(&self, index: i32, max_bytes: usize) -> Vec<u8> {
        let partition = self.partition(index);
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let read = self.running().reads.read(&partition, from, max_bytes, Isolation::ReadUncommitted, true);
            let fetched = read.await.unwrap();
            if fetched.records.is_empty() {
                assert_eq!(from, partition.offsets().high_watermark);
                return all;
            }
            all.extend_from_slice(&fetched.records.to_bytes());
            from = fetched.next_offset;
        }
    }

    /// The committed objects of partition 0 as they are stored, in offset order.
    async fn objects(&self) -> Vec<(seawall_backends::ObjectKey, Bytes)> {
        let keys = seawall::object_key::ObjectKeys::new(&self.config.backend.prefix, CLUSTER).unwrap();
        let stream = self.partition(0).stream();
        let ids: Vec<_> =
            self.metadata.read(|state| state.ranges(stream, Offset(0)).map(|range| range.object).collect());
        let mut objects = Vec::new();
        for id in ids {
            let key = keys.key(INCARNATION, id);
            let bytes = self.store.head(&key, Purpose::Probe).await.unwrap().bytes;
            let read = self.store.get_range(&key, 0..bytes, Purpose::Probe).await.unwrap();
            objects.push((key, read.into_bytes()));
        }
        objects
    }
}

/// One record of about `bytes`, whose content follows from its number and partition.
fn batch(bytes: usize, number: i64, partition: i32) -> Bytes {
    let mut rng = Rng(number as u64 * 31 + partition as u64);
    let value: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None).producer(1000 + i64::from(partition), 0, number as i32);
    builder.add(None, Some(&value), 1_700_000_000_000 + number, &[]);
    builder.build()
}

fn stored(batch: &Bytes, base: i64, leader_epoch: i32) -> Bytes {
    let mut bytes = BytesMut::from(&batch[..]);
    patch_base_offset_and_epoch(&mut bytes, base, leader_epoch);
    bytes.freeze()
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match number("STORAGE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("STORAGE_SEEDS").unwrap_or(count)).collect(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
