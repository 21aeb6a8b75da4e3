//! Partitions on a real WAL in a file and metadata in memory: append, completion, crash, recovery, trim.
//!
//! Completions are taken by hand (`complete`), so that a test decides when something is durable. A crash drops everything
//! but the WAL file and metadata.

mod compactions;
mod mirror;
mod several_wals;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use seawall_metadata::command::{ObjectCommit, ObjectRecord, RangeCommit, WalLeg, WalTrim, supported_features};
use seawall_metadata::*;
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression};
use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig};
use seawall_wal_device::device::{BlockDevice, Medium};
use seawall_wal_device::{self as device, RecordPosition};
use seawall_wal_device::{
    Completions, Expectation, FormatConfig, ScanFrom, SpaceClass, WalConfig, format_legs_on, scan_legs_on,
};
use uuid::Uuid;

use crate::clock::Clock;
use crate::completion;
use crate::dirty_marks;
use crate::log_cache::{LogCache, TailLookup, TailSource};
use crate::metrics::Metrics;
use crate::partition::{AppendError, Origin, Partition, PendingAppend};
use crate::partitions::{PartitionError, Partitions};
use crate::producer_state::SequenceError;
use crate::recovery::{NoProducerState, RecoveryError, ScannedWal, recover};
use crate::retention;
use crate::storage::{BrokerWal, BrokerWalParts, DirtyMarkRequests, Storage, StorageParts, StorageSettings};
use crate::task::Tasks;
use crate::topic_config::SharedTopicConfig;
use crate::wal_legs::LegSet;
use crate::wal_opening::{OpenedWal, WalOpeningError, WalOwner, commit_opening, open_wal};
use crate::wal_registration::find;

const NODE: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(2));
const RECORD_BYTES_MAX: u32 = 16 << 10;
const DISK: SimDiskConfig = SimDiskConfig { bytes: 4 << 20, sector_bytes: 4096, fua: false, lies_per_mille: 0 };

/// A lease clock that can be moved beyond every lease.
#[derive(Default)]
struct LeaseClock {
    host: HostClock,
    ended: AtomicBool,
}

impl MetadataClock for LeaseClock {
    fn boot(&self) -> BootInstant {
        if self.ended.load(Ordering::SeqCst) { BootInstant(u64::MAX) } else { self.host.boot() }
    }

    fn monotonic_ms(&self) -> u64 {
        self.host.monotonic_ms()
    }
}

/// What outlives a crash.
struct Site {
    folder: tempfile::TempDir,
    metadata: MetadataHandle,
    ring_bytes: u64,
    cache_bytes: u64,
    /// One or two.
    wals: usize,
    /// Each WAL lies on two files.
    mirrored: bool,
    mirror_name: &'static str,
    /// Instead of files.
    disks: Vec<SimDisk>,
}

fn device_over(disks: &[SimDisk]) -> Box<dyn BlockDevice> {
    let mut device = disks[0].device();
    for (leg, disk) in (0..).zip(disks).skip(1) {
        device.add_leg(leg, Medium::Simulated(disk.clone())).unwrap();
    }
    Box::new(device)
}

/// A fresh WAL on a simulated disk, or on two.
async fn open_on(disks: &[SimDisk], metadata: &MetadataHandle, owner: WalOwner, config: WalConfig) -> OpenedWal {
    let format = FormatConfig { ring_bytes: None, ..FormatConfig::new("sim", 0, NODE.0) };
    let bytes: Vec<u64> = disks.iter().map(SimDisk::bytes).collect();
    let formatted = format_legs_on(device_over(disks).as_mut(), &bytes, &format).unwrap();
    let id = WalId(formatted[0].wal_id.0);
    let leg = |superblock: &device::Superblock| WalLeg {
        leg: LegId(superblock.leg.0),
        device: "sim".into(),
        bytes: superblock.ring_bytes,
    };
    let legs: Vec<WalLeg> = formatted.iter().map(leg).collect();
    let opened_with = legs.clone();
    let set = (disks.len() > 1).then_some(LegSet { epoch: 1, legs, is_new: true });
    let from = ScanFrom { legs: set.as_ref().map(LegSet::to_device), ..ScanFrom::default() };
    let scanned = scan_legs_on(device_over(disks), &bytes, &config, &Expectation::default(), from).unwrap();
    let owner_epoch = commit_opening(metadata, owner, &scanned, Path::new("sim")).await.unwrap();
    if let Some(LegSet { epoch, legs, .. }) = set {
        command(metadata, Command::SetWalLegs { by: owner.registration, wal: id, set_epoch: epoch, legs }).await;
    }
    let end = scanned.end;
    let (wal, completions) = scanned.open(owner_epoch.0, (CLUSTER.0, INCARNATION.0)).unwrap();
    let wal = BrokerWal::new(BrokerWalParts {
        id,
        owner_epoch,
        wal,
        start: end,
        devices: disks.len(),
        legs: opened_with,
        scan_index_bytes: 0,
    });
    OpenedWal { scanned: ScannedWal { wal, records: vec![], heads: vec![] }, completions }
}

async fn register(metadata: &MetadataHandle) -> WalOwner {
    let register = Command::RegisterBroker {
        node: NODE,
        boot: BootId(Uuid::new_v4()),
        listeners: vec![],
        rack: None,
        wals: vec![],
        features: supported_features(),
    };
    let Response::BrokerEpoch(epoch) = command(metadata, register).await else { panic!() };
    let registration = Registration { node: NODE, epoch };
    WalOwner { cluster: CLUSTER, incarnation: INCARNATION, registration }
}

/// A start as far as the opening of the first WAL.
async fn try_open(site: &Site) -> Result<OpenedWal, WalOpeningError> {
    let owner = register(&site.metadata).await;
    let config = WalConfig { record_bytes_max: RECORD_BYTES_MAX, ..WalConfig::new(site.wal_path(0)) };
    let found = find(&site.paths(0), Duration::ZERO)?;
    open_wal(&site.metadata, owner, &found, config).await
}

struct Rig {
    site: Site,
    partitions: Partitions,
    wal: Arc<BrokerWal>,
    completions: Completions,
    second: Option<(Arc<BrokerWal>, Completions)>,
    dirty_marks: Option<DirtyMarkRequests>,
    lease: Arc<LeaseClock>,
    tasks: Tasks,
}

async fn command(metadata: &MetadataHandle, command: Command) -> Response {
    metadata.propose(command).await.unwrap().1
}

impl Site {
    async fn new(ring_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = MetadataConfig::new(folder.path().join("metadata"), NODE);
        config.cluster = Some((CLUSTER, INCARNATION));
        let metadata = MetadataHandle::in_memory(config).await.unwrap();
        Self {
            folder,
            metadata,
            ring_bytes,
            cache_bytes: 8 << 20,
            wals: 1,
            mirrored: false,
            mirror_name: "mirror",
            disks: Vec::new(),
        }
    }

    fn wal_path(&self, nth: usize) -> std::path::PathBuf {
        self.folder.path().join(if nth == 0 { "wal" } else { "wal.1" })
    }

    fn paths(&self, nth: usize) -> Vec<std::path::PathBuf> {
        let path = self.wal_path(nth);
        let mirror = self.mirrored.then(|| path.with_extension(self.mirror_name));
        [Some(path), mirror].into_iter().flatten().collect()
    }

    fn format_if_missing(&self, nth: usize) {
        let paths = self.paths(nth);
        if !paths.iter().any(|path| path.exists()) {
            let mirror = paths.get(1).cloned();
            device::format(&FormatConfig { mirror, ..FormatConfig::new(&paths[0], self.ring_bytes, NODE.0) }).unwrap();
        }
    }

    async fn create_topic(&self, name: &str, partitions: usize) -> TopicId {
        let topic = TopicId(Uuid::new_v4());
        let owners = vec![NODE; partitions];
        let create = Command::CreateTopic {
            name: name.into(),
            topic,
            internal: false,
            replication_factor: 1,
            owners,
            configs: Default::default(),
        };
        command(&self.metadata, create).await;
        topic
    }

    /// Starts as the broker does after a crash; nothing runs in the background.
    async fn start(self) -> Result<Rig, (Site, RecoveryError)> {
        let owner = register(&self.metadata).await;
        let mut opened = Vec::new();
        for nth in 0..self.wals {
            let config = WalConfig { record_bytes_max: RECORD_BYTES_MAX, ..WalConfig::new(self.wal_path(nth)) };
            opened.push(match self.disks.get(nth) {
                None => {
                    self.format_if_missing(nth);
                    let found = find(&self.paths(nth), Duration::ZERO).unwrap();
                    open_wal(&self.metadata, owner, &found, config).await.unwrap()
                }
                Some(_) if self.mirrored => open_on(&self.disks, &self.metadata, owner, config).await,
                Some(disk) => open_on(std::slice::from_ref(disk), &self.metadata, owner, config).await,
            });
        }
        let lease = Arc::new(LeaseClock::default());
        let (storage, dirty_marks) = Storage::new(StorageParts {
            registration: owner.registration,
            metadata: self.metadata.clone(),
            cache: LogCache::new(self.cache_bytes),
            clock: Clock::system(),
            boot_clock: lease.clone(),
            settings: StorageSettings::default(),
            topic_configs: Arc::new(|_, _| SharedTopicConfig::default()),
        });
        let (scanned, completions): (Vec<_>, Vec<_>) =
            opened.into_iter().map(|opened| (opened.scanned, opened.completions)).unzip();
        let wals: Vec<_> = scanned.iter().map(|scanned| scanned.wal.clone()).collect();
        let mut open = wals.into_iter().zip(completions);
        let (wal, completions) = open.next().unwrap();
        match recover(storage, scanned, &NoProducerState).await {
            Ok(partitions) => {
                partitions.storage().lease_held().await;
                Ok(Rig {
                    site: self,
                    partitions,
                    wal,
                    completions,
                    second: open.next(),
                    dirty_marks: Some(dirty_marks),
                    lease,
                    tasks: Tasks::new(Metrics::new()),
                })
            }
            Err(error) => Err((self, error)),
        }
    }

    async fn rig(self) -> Rig {
        match self.start().await {
            Ok(rig) => rig,
            Err((_, error)) => panic!("recovery failed: {error}"),
        }
    }
}

impl Rig {
    async fn with_topic(ring_bytes: u64) -> (Self, Arc<Partition>) {
        let mut rig = Site::new(ring_bytes).await.rig().await;
        rig.site.create_topic("t", 1).await;
        rig.serve_dirty_marks();
        let partition = rig.partition();
        (rig, partition)
    }

    fn partition(&self) -> Arc<Partition> {
        self.partitions.by_name("t", 0).unwrap()
    }

    fn serve_dirty_marks(&mut self) {
        let requests = self.dirty_marks.take().unwrap();
        tokio::spawn(dirty_marks::run(self.partitions.clone(), requests, self.tasks.clone()));
    }

    /// Applies what the WAL reports until `partition` is durable up to `to`.
    async fn complete(&mut self, partition: &Partition, to: i64) {
        while partition.offsets().high_watermark < to {
            let (wal, completions) = match &mut self.second {
                Some((wal, completions)) if Arc::ptr_eq(wal, partition.wal().unwrap()) => (&*wal, completions),
                _ => (&self.wal, &mut self.completions),
            };
            let durable = tokio::time::timeout(Duration::from_secs(10), completions.next()).await;
            completion::apply(&self.partitions, wal, &durable.expect("the WAL reports").unwrap());
        }
    }

    /// Lets the completions of both WALs be applied as in a running broker.
    async fn run_completions(&mut self) {
        let none = no_completions(self).await;
        let first = (self.wal.clone(), std::mem::replace(&mut self.completions, none));
        for (wal, completions) in [Some(first), self.second.take()].into_iter().flatten() {
            tokio::spawn(completion::run(self.partitions.clone(), wal, completions, self.tasks.clone()));
        }
    }

    async fn append(&mut self, batch: Bytes) -> i64 {
        let partition = self.partition();
        let pending = append(&partition, batch).unwrap();
        let end = partition.offsets().log_end;
        self.complete(&partition, end).await;
        let base = pending.base_offset;
        pending.durable().await.unwrap();
        base
    }

    /// Commits everything durable up to `to` as one object and trims the WAL, as the uploader does.
    async fn commit(&self, partition: &Partition, to: i64) {
        let by = self.partitions.storage().registration;
        let metadata = &self.site.metadata;
        let reserve = Command::ReserveObjects { by, count: 1, ttl_ms: 60_000 };
        let Response::ObjectIds { first: object, .. } = command(metadata, reserve).await else { panic!() };
        let base = metadata.read(|state| state.stream(partition.stream()).unwrap().next);
        let range = RangeCommit {
            stream: partition.stream(),
            leader_epoch: LeaderEpoch(partition.leader_epoch()),
            base,
            end: Offset(to),
            bytes: 100,
            records: (to - base.0) as u64,
            max_timestamp: 0,
            epochs: vec![],
        };
        let record = ObjectRecord { bucket: 0, incarnation: INCARNATION, format_version: 1, bytes: 100 };
        let commit = |trims| Command::CommitObjects {
            by,
            objects: vec![ObjectCommit { object, record, ranges: vec![range.clone()] }],
            trims,
        };
        let Response::Commit(answer) = command(metadata, commit(vec![])).await else { panic!() };
        assert_eq!(answer.outcomes, [[seawall_metadata::command::RangeOutcome::Accepted]]);
        partition.committed(to);
        let lsn = self.partitions.first_unsettled(&self.wal);
        let trim = WalTrim { wal: self.wal.id, owner_epoch: self.wal.owner_epoch, lsn: Lsn(lsn.0) };
        command(metadata, Command::TrimWal { by, trim }).await;
        self.wal.handle().trim(lsn);
    }

    /// Everything but the file and metadata is gone; what was not yet reported durable may be.
    fn crash(self) -> Site {
        self.tasks.stopping().cancel();
        let Self { site, partitions, wal, completions, second, .. } = self;
        for partition in partitions.all() {
            partition.end(AppendError::NotLeader);
        }
        drop((partitions, wal, completions, second));
        site
    }

    async fn crash_and_recover(self) -> Rig {
        let site = self.crash();
        // The WAL is locked until its last handle is gone.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut rig = site.rig().await;
        rig.serve_dirty_marks();
        rig
    }
}

fn batch(records: usize) -> Bytes {
    sized(records, 10)
}

fn sized(records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for i in 0..records {
        builder.add(None, Some(&vec![i as u8; value_bytes]), 1_000 + i as i64, &[]);
    }
    builder.build()
}

fn sequenced(base_sequence: i32, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None).producer(7, 0, base_sequence);
    for _ in 0..records {
        builder.add(None, Some(b"v"), 1_000, &[]);
    }
    builder.build()
}

fn append(partition: &Arc<Partition>, batch: Bytes) -> Result<PendingAppend, AppendError> {
    let header = BatchHeader::parse(&batch).unwrap();
    let reservation = partition.reserve(batch.len(), SpaceClass::Normal)?;
    partition.append_reserved(batch, header, Origin::Client, reservation)
}

/// Where a durable record lies in the WAL. Behind the last one there may be the empty frame that an idle device gets: the durable
/// LSN says nothing of what is kept.
fn lsn_of(partition: &Partition, offset: i64) -> device::Lsn {
    partition.with_tail(|tail, _| tail.first_record(offset)).expect("it is durable and not committed")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

async fn not_yet(pending: &mut std::pin::Pin<Box<impl Future<Output = Result<(), AppendError>>>>) {
    let waited = tokio::time::timeout(Duration::from_millis(50), pending).await;
    assert!(waited.is_err(), "answered too early: {waited:?}");
}

#[tokio::test]
async fn offsets_are_dense_and_the_watermark_follows_durability() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    let first = append(&partition, batch(3)).unwrap();
    let second = append(&partition, batch(2)).unwrap();
    assert_eq!((first.base_offset, second.base_offset), (0, 3));
    assert_eq!((partition.offsets().log_end, partition.offsets().high_watermark), (5, 0));
    let mut first = Box::pin(first.durable());
    not_yet(&mut first).await;
    let watched = partition.watch_high_watermark();
    rig.complete(&partition, 5).await;
    assert_eq!(first.await, Ok(()));
    assert_eq!(second.durable().await, Ok(()));
    assert_eq!(*watched.borrow(), 5);
}

#[tokio::test]
async fn record_bytes_are_handed_out_as_they_came_without_a_copy() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    rig.append(batch(1)).await;
    let sent = batch(4);
    rig.append(sent.clone()).await;
    let TailLookup::Hits(hits) = partition.tail_lookup(1, 1 << 20, true, 5) else { panic!() };
    let TailSource::Memory(bytes) = &hits[0].source else { panic!() };
    let pieces: Vec<Bytes> = bytes.segments().collect();
    assert_eq!(pieces[1].as_ptr(), sent[61..].as_ptr(), "the very bytes of the request");
    let whole = bytes.to_contiguous();
    seawall_protocol::records::verify_crc(&whole).unwrap();
    let header = BatchHeader::parse(&whole).unwrap();
    assert_eq!((header.base_offset, header.partition_leader_epoch), (1, partition.leader_epoch()));
}

#[tokio::test]
async fn trap_20_a_duplicate_is_answered_with_the_original_offset_but_not_before_it_is_durable() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    rig.append(batch(5)).await;
    let original = append(&partition, sequenced(0, 2)).unwrap();
    let duplicate = append(&partition, sequenced(0, 2)).unwrap();
    assert_eq!((original.base_offset, duplicate.base_offset), (5, 5));
    assert_eq!(partition.offsets().log_end, 7);
    let mut duplicate = Box::pin(duplicate.durable());
    not_yet(&mut duplicate).await;
    rig.complete(&partition, 7).await;
    assert_eq!(duplicate.await, Ok(()));
    assert_eq!(append(&partition, sequenced(0, 2)).unwrap().durable().await, Ok(()), "durable already");
    let gap = append(&partition, sequenced(5, 1)).unwrap_err();
    assert!(matches!(gap, AppendError::Sequence(SequenceError::OutOfOrder { last: 1, given: 5, .. })));
}

#[tokio::test]
async fn after_the_lease_has_ended_nothing_is_appended_acked_or_moved() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    let pending = append(&partition, batch(1)).unwrap();
    let none = no_completions(&rig).await;
    let completions = std::mem::replace(&mut rig.completions, none);
    let run = completion::run(rig.partitions.clone(), rig.wal.clone(), completions, rig.tasks.clone());
    rig.lease.ended.store(true, Ordering::SeqCst);
    tokio::spawn(run);
    let mut pending = Box::pin(pending.durable());
    not_yet(&mut pending).await;
    assert_eq!(partition.offsets().high_watermark, 0);
    assert_eq!(append(&partition, batch(1)).unwrap_err(), AppendError::NotLeader);
    assert!(partition.check_leads().is_err());
    rig.lease.ended.store(false, Ordering::SeqCst);
    assert_eq!(pending.await, Ok(()), "renewed");
    assert_eq!(partition.offsets().high_watermark, 1);
}

/// The completions of another WAL that is closed: they never report anything.
async fn no_completions(rig: &Rig) -> Completions {
    let path = rig.site.folder.path().join("other");
    let format = seawall_wal_device::FormatConfig::new(&path, 1 << 20, 1);
    seawall_wal_device::format(&format).unwrap();
    let config = WalConfig { record_bytes_max: RECORD_BYTES_MAX, ..WalConfig::new(path) };
    let scanned = seawall_wal_device::scan(&config, &Default::default(), Default::default()).unwrap();
    let (wal, completions) = scanned.open(1, (CLUSTER.0, INCARNATION.0)).unwrap();
    wal.close().await.unwrap();
    completions
}

#[tokio::test]
async fn the_wal_gets_nothing_before_metadata_knows_that_the_partition_is_dirty() {
    let mut rig = Site::new(1 << 20).await.rig().await;
    rig.site.create_topic("t", 1).await;
    let partition = rig.partition();
    let before = rig.wal.handle().usage().next;
    let first = append(&partition, batch(1)).unwrap();
    let second = append(&partition, batch(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(rig.wal.handle().usage().next, before, "held back");
    rig.serve_dirty_marks();
    rig.complete(&partition, 2).await;
    let dirty = rig.site.metadata.read(|state| state.partition(partition.id()).unwrap().dirty.clone());
    assert!(dirty.unwrap().wals.contains(&rig.wal.id));
    assert_eq!((first.base_offset, second.base_offset), (0, 1));
    assert_eq!((first.durable().await, second.durable().await), (Ok(()), Ok(())));
}

#[tokio::test]
async fn an_idle_committed_partition_becomes_clean_and_dirty_again_before_its_next_batch() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    let dirty = |rig: &Rig| rig.site.metadata.read(|state| state.partitions().any(|p| p.dirty.is_some()));
    rig.append(batch(2)).await;
    let mut seen = HashMap::new();
    for _ in 0..2 {
        dirty_marks::clean_idle(&rig.partitions, &mut seen).await;
    }
    assert!(dirty(&rig), "not committed");
    rig.commit(&partition, 2).await;
    dirty_marks::clean_idle(&rig.partitions, &mut seen).await;
    assert!(!dirty(&rig));
    rig.append(batch(1)).await;
    assert!(dirty(&rig));
}

#[tokio::test]
async fn what_was_acked_is_there_after_a_crash_and_duplicates_are_still_known() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    let epoch = partition.leader_epoch();
    for i in 0..10 {
        assert_eq!(rig.append(sequenced(i * 3, 3)).await, i64::from(i) * 3);
    }
    drop(partition);
    let mut rig = rig.crash_and_recover().await;
    let partition = rig.partition();
    let offsets = partition.offsets();
    assert_eq!((offsets.log_start, offsets.high_watermark, offsets.log_end), (0, 30, 30));
    assert_eq!(partition.leader_epoch(), epoch + 1);
    assert_eq!(partition.end_of_epoch(epoch), Some((epoch, 30)));
    let duplicate = append(&partition, sequenced(27, 3)).unwrap();
    assert_eq!(duplicate.base_offset, 27);
    duplicate.durable().await.unwrap();
    assert_eq!(rig.append(sequenced(30, 1)).await, 30);
    let TailLookup::Hits(hits) = partition.tail_lookup(4, 1 << 20, true, 31) else { panic!() };
    let TailSource::Wal(position) = hits[0].source else { panic!("recovery loads no bytes") };
    let expect = seawall_wal_device::RecordHeader {
        stream: partition.stream().0,
        leader_epoch: hits[0].entry.leader_epoch,
        base_offset: 3,
        last_offset: 5,
    };
    let read = rig.wal.handle().read(position, expect).await.unwrap();
    assert_eq!(BatchHeader::parse(&read).unwrap().base_offset, 3);
}

#[tokio::test]
async fn recovery_goes_on_from_what_is_committed_and_the_wal_keeps_the_rest() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    for _ in 0..6 {
        rig.append(batch(2)).await;
    }
    let kept = lsn_of(&partition, 8);
    rig.commit(&partition, 8).await;
    assert!(rig.wal.handle().usage().trim <= kept, "offsets 8 to 11 are kept");
    drop(partition);
    let mut rig = rig.crash_and_recover().await;
    let partition = rig.partition();
    assert_eq!((partition.offsets().committed_end, partition.offsets().log_end), (8, 12));
    assert_eq!(rig.append(batch(1)).await, 12);
    let last = lsn_of(&partition, 12);
    rig.commit(&partition, 13).await;
    assert!(rig.wal.handle().usage().trim > last, "all is settled");
    drop(partition);
    let rig = rig.crash_and_recover().await;
    assert_eq!(rig.partition().offsets().log_end, 13);
}

#[tokio::test]
async fn a_full_wal_refuses_clients_first_and_takes_them_again_after_a_trim() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    let mut end = 0;
    let refused = loop {
        match append(&partition, sized(1, 10_000)) {
            Ok(pending) => {
                end += 1;
                rig.complete(&partition, end).await;
                pending.durable().await.unwrap();
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::WalFull);
    assert!(partition.reserve(10_000, SpaceClass::Internal).is_ok(), "5 % are kept");
    let freed = rig.wal.handle().space_freed();
    rig.commit(&partition, end).await;
    tokio::time::timeout(Duration::from_secs(5), freed).await.expect("waiters wake");
    assert_eq!(rig.append(sized(1, 10_000)).await, end);
    drop(partition);
    let rig = rig.crash_and_recover().await;
    assert_eq!(rig.partition().offsets().log_end, end + 1);
}

#[tokio::test]
async fn trap_28_deleted_records_stay_deleted_over_a_crash_even_if_they_were_never_uploaded() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    for _ in 0..5 {
        rig.append(batch(2)).await;
    }
    let storage = rig.partitions.storage().clone();
    let beyond = retention::delete_records(&storage, &partition, 11).await.unwrap_err();
    assert!(matches!(beyond, retention::TrimError::OffsetOutOfRange { high_watermark: 10, .. }));
    assert_eq!(retention::delete_records(&storage, &partition, 3).await.unwrap(), 3);
    assert_eq!(retention::delete_records(&storage, &partition, 2).await.unwrap(), 3, "it never moves back");
    assert_eq!(partition.offsets().log_start, 3);
    drop((partition, storage));
    let rig = rig.crash_and_recover().await;
    let partition = rig.partition();
    assert_eq!((partition.offsets().log_start, partition.offsets().log_end), (3, 10));
    let storage = rig.partitions.storage().clone();
    assert_eq!(retention::delete_records(&storage, &partition, -1).await.unwrap(), 10);
    drop((partition, storage));
    let mut rig = rig.crash_and_recover().await;
    assert_eq!((rig.partition().offsets().log_start, rig.partition().offsets().log_end), (10, 10));
    assert_eq!(rig.append(batch(1)).await, 10);
}

#[tokio::test]
async fn retention_drops_whole_committed_ranges_that_are_too_old_and_keeps_the_tail() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    for end in [2, 4] {
        rig.append(batch(2)).await;
        // The commits of these tests say that the newest record is of 1970.
        rig.commit(&partition, end).await;
    }
    rig.append(batch(3)).await;
    let week_ms = 7 * 24 * 3_600_000;
    retention::pass(&rig.partitions, week_ms).await;
    assert_eq!(partition.offsets().log_start, 0);
    retention::pass(&rig.partitions, week_ms + 1).await;
    assert_eq!((partition.offsets().log_start, partition.offsets().log_end), (4, 7));
    let kept = rig.site.metadata.read(|state| state.ranges(partition.stream(), Offset(0)).count());
    assert_eq!(kept, 0, "metadata has dropped the ranges");
    drop(partition);
    let rig = rig.crash_and_recover().await;
    assert_eq!((rig.partition().offsets().log_start, rig.partition().offsets().log_end), (4, 7));
}

#[tokio::test]
async fn a_deleted_topic_answers_its_waiters_and_frees_the_wal() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    rig.append(batch(1)).await;
    let waiting = append(&partition, batch(1)).unwrap();
    command(&rig.site.metadata, Command::DeleteTopic { topic: partition.id().topic }).await;
    rig.partitions.sync();
    assert_eq!(waiting.durable().await, Err(AppendError::Deleted));
    partition.placed(RecordPosition { lsn: device::Lsn(1 << 20), bytes: 80, frame_offset: 0 });
    partition.advance();
    assert_eq!(partition.offsets().high_watermark, 1, "a late completion moves nothing");
    assert_eq!(append(&partition, batch(1)).unwrap_err(), AppendError::Deleted);
    let gone = rig.partitions.get(partition.id().topic, 0).err();
    assert_eq!(gone, Some(PartitionError::UnknownTopicId));
    // A late completion of the deleted stream is settled like the rest.
    rig.site.create_topic("t", 1).await;
    rig.append(batch(1)).await;
    let fresh = rig.partition();
    let last = lsn_of(&fresh, 0);
    rig.commit(&fresh, 1).await;
    assert!(rig.wal.handle().usage().trim > last, "all is settled");
    drop((partition, fresh));
    let rig = rig.crash_and_recover().await;
    assert_eq!(rig.partition().offsets().log_end, 1, "the new topic of that name");
}

#[tokio::test]
async fn a_coordinator_of_an_older_leader_epoch_is_fenced() {
    let (rig, partition) = Rig::with_topic(1 << 20).await;
    let appended = batch(1);
    let header = BatchHeader::parse(&appended).unwrap();
    let current = partition.leader_epoch();
    let old = Origin::Coordinator { expected_leader_epoch: current - 1 };
    let fenced = partition.append(appended.clone(), header, old).unwrap_err();
    assert_eq!(fenced, AppendError::FencedLeaderEpoch { expected: current - 1, current });
    let pending = partition.append(appended, header, Origin::Coordinator { expected_leader_epoch: current }).unwrap();
    assert_eq!(pending.base_offset, 0);
    drop(rig);
}

#[tokio::test]
async fn a_wal_that_may_hold_acked_data_is_never_left_out() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    rig.append(batch(1)).await;
    drop(partition);
    let site = rig.crash();
    tokio::time::sleep(Duration::from_millis(20)).await;
    std::fs::remove_file(site.folder.path().join("wal")).unwrap();
    let Err((_, error)) = site.start().await else { panic!("a broker started without its acked data") };
    assert!(matches!(error, RecoveryError::MissingWal { .. }), "{error}");
}

#[tokio::test]
async fn a_failed_wal_acks_nothing_more_keeps_what_was_durable_and_stops_the_broker() {
    let mut site = Site::new(0).await;
    site.disks = vec![SimDisk::new(7, DISK)];
    let mut rig = site.rig().await;
    rig.site.create_topic("t", 1).await;
    rig.serve_dirty_marks();
    assert_eq!(rig.append(batch(3)).await, 0);
    let partition = rig.partition();
    let none = no_completions(&rig).await;
    let completions = std::mem::replace(&mut rig.completions, none);
    tokio::spawn(completion::run(rig.partitions.clone(), rig.wal.clone(), completions, rig.tasks.clone()));
    // What fails may be the empty frame of a device that fell idle: not before the append is in.
    rig.site.disks[0].stick_all();
    let lost = append(&partition, batch(2)).unwrap();
    rig.site.disks[0].fail_write_in(0);
    rig.site.disks[0].release_stuck();
    let answer = tokio::time::timeout(Duration::from_secs(10), lost.durable()).await.expect("an answer");
    assert!(matches!(answer, Err(AppendError::WalFailed(_))), "{answer:?}");
    let next = append(&partition, batch(1)).unwrap_err();
    assert!(matches!(next, AppendError::WalFailed(_)), "{next:?}");
    let offsets = partition.offsets();
    assert_eq!(offsets.high_watermark, 3, "what was acked stays");
    assert_eq!(partition.with_tail(|tail, durable_end| tail.pending(0, durable_end).count()), 1, "and can be uploaded");
    let reason = tokio::time::timeout(Duration::from_secs(10), rig.tasks.failed()).await.expect("the broker stops");
    assert!(reason.contains("no write-ahead log is left"), "{reason}");
}

/// Seeded: appends, completions, commits and crashes in any order; after every crash all that was acked is there, dense.
#[tokio::test]
async fn acked_offsets_survive_any_sequence_of_appends_commits_and_crashes() {
    let seeds: u64 = std::env::var("SIM_SEEDS").map_or(4, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let (mut rig, mut partition) = Rig::with_topic(1 << 20).await;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (mut acked, mut sequence) = (0, 0);
        for _ in 0..60 {
            match next(10) {
                0..=5 => {
                    let records = 1 + next(4) as usize;
                    let pending = append(&partition, sequenced(sequence, records)).unwrap();
                    sequence += records as i32;
                    if next(2) == 0 {
                        let end = partition.offsets().log_end;
                        rig.complete(&partition, end).await;
                        pending.durable().await.unwrap();
                        acked = end;
                    }
                }
                6 | 7 => {
                    let durable = partition.offsets().high_watermark;
                    if durable > partition.offsets().committed_end {
                        rig.commit(&partition, durable).await;
                    }
                }
                _ => {
                    drop(partition);
                    rig = rig.crash_and_recover().await;
                    partition = rig.partition();
                    let offsets = partition.offsets();
                    assert!(offsets.log_end >= acked, "seed {seed}: acked {acked}, recovered {offsets:?}");
                    assert_eq!(offsets.log_end, offsets.high_watermark, "seed {seed}");
                    // What was not acked may be lost: the producer goes on from what is there.
                    sequence = offsets.log_end as i32;
                    acked = offsets.log_end;
                }
            }
        }
    }
}
