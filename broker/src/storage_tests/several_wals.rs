//! Two WALs under one broker, and WALs that must not be opened.

use std::collections::BTreeSet;

use seawall_backends::memory::MemoryBackend;
use seawall_metadata::state::WalLife;

use super::*;
use crate::object_key::ObjectKeys;
use crate::storage_engine;
use crate::upload::{UploadParts, UploadSettings, Uploader};

impl Rig {
    /// Two WALs, and a topic of four partitions over both.
    async fn with_two_wals(site: Site) -> Self {
        let mut rig = Site { wals: 2, ..site }.rig().await;
        rig.site.create_topic("t", 4).await;
        rig.serve_dirty_marks();
        rig
    }

    fn of(&self, index: i32) -> Arc<Partition> {
        self.partitions.by_name("t", index).unwrap()
    }

    /// Appends and waits until it is acked.
    async fn append_to(&mut self, index: i32, batch: Bytes) {
        let partition = self.of(index);
        let pending = append(&partition, batch).unwrap();
        let end = partition.offsets().log_end;
        self.complete(&partition, end).await;
        pending.durable().await.unwrap();
    }
}

#[tokio::test]
async fn partitions_lie_on_both_wals_and_each_finds_its_own_after_a_crash() {
    let mut rig = Rig::with_two_wals(Site::new(1 << 20).await).await;
    let used: BTreeSet<WalId> = (0..4).map(|index| rig.of(index).wal().unwrap().id).collect();
    assert_eq!(used.len(), 2);
    let wal_of: Vec<WalId> = (0..4).map(|index| rig.of(index).wal().unwrap().id).collect();
    for round in 0..5 {
        for index in 0..4 {
            rig.append_to(index, batch(1 + (index as usize + round) % 3)).await;
        }
    }
    let ends: Vec<i64> = (0..4).map(|index| rig.of(index).offsets().log_end).collect();
    let mut rig = rig.crash_and_recover().await;
    for index in 0..4 {
        let offsets = rig.of(index).offsets();
        assert_eq!((offsets.log_end, offsets.high_watermark), (ends[index as usize], ends[index as usize]));
        assert_eq!(rig.of(index).wal().unwrap().id, wal_of[index as usize], "a tail stays where it is");
        rig.append_to(index, batch(1)).await;
    }
}

#[tokio::test]
async fn a_wal_that_fails_ends_its_own_partitions_and_new_ones_lie_on_the_other() {
    let mut site = Site::new(0).await;
    site.disks = vec![SimDisk::new(7, DISK), SimDisk::new(8, DISK)];
    let mut rig = Rig::with_two_wals(site).await;
    for index in 0..4 {
        rig.append_to(index, batch(2)).await;
    }
    let (first, second) = (rig.wal.clone(), rig.second.as_ref().unwrap().0.clone());
    let on = |wal: &Arc<BrokerWal>| {
        (0..4).filter(|index| Arc::ptr_eq(rig.of(*index).wal().unwrap(), wal)).collect::<Vec<_>>()
    };
    let (healthy, failing) = (on(&first), on(&second));
    rig.run_completions().await;
    // What fails may be the empty frame of a device that fell idle: not before the append is in.
    rig.site.disks[1].stick_all();
    let lost = append(&rig.of(failing[0]), batch(1)).unwrap().durable();
    rig.site.disks[1].fail_write_in(0);
    rig.site.disks[1].release_stuck();
    let lost = tokio::time::timeout(Duration::from_secs(10), lost).await.expect("an answer");
    assert!(matches!(lost, Err(AppendError::WalFailed(_))), "{lost:?}");
    until("every partition of the WAL has ended", || {
        failing.iter().all(|index| append(&rig.of(*index), batch(1)).is_err())
    })
    .await;
    for index in &healthy {
        append(&rig.of(*index), batch(1)).unwrap().durable().await.unwrap();
    }
    assert!(second.has_failed() && !first.has_failed());
    rig.site.create_topic("later", 4).await;
    for index in 0..4 {
        let partition = rig.partitions.by_name("later", index).unwrap();
        assert!(Arc::ptr_eq(partition.wal().unwrap(), &first), "a new partition lies on the WAL that works");
        append(&partition, batch(1)).unwrap().durable().await.unwrap();
    }
    let stopped = tokio::time::timeout(Duration::from_millis(50), rig.tasks.failed()).await;
    assert!(stopped.is_err(), "one WAL is left: {stopped:?}");
}

/// The thread of one WAL is gone, so that nothing can be read back from it; the other one is uploaded all the same.
#[tokio::test]
async fn a_wal_that_cannot_be_read_back_does_not_hold_up_the_uploads_of_the_other() {
    let mut site = Site::new(0).await;
    site.disks = vec![SimDisk::new(7, DISK), SimDisk::new(8, DISK)];
    site.cache_bytes = 64 << 10;
    let mut rig = Rig::with_two_wals(site).await;
    for _ in 0..20 {
        for index in 0..4 {
            rig.append_to(index, sized(1, 10_000)).await;
        }
    }
    let second = rig.second.as_ref().unwrap().0.clone();
    rig.run_completions().await;
    rig.site.disks[1].cut_power();
    let of_second = |partition: &&Arc<Partition>| Arc::ptr_eq(partition.wal().unwrap(), &second);
    let all = rig.partitions.all();
    _ = append(all.iter().find(of_second).unwrap(), batch(1));
    until("the WAL has failed", || second.has_failed()).await;
    let storage = rig.partitions.storage();
    let (uploader, task) = Uploader::new(UploadParts {
        metadata: storage.metadata.clone(),
        registration: storage.registration,
        incarnation: INCARNATION,
        backend: Arc::new(MemoryBackend::new()),
        keys: ObjectKeys::new("t", CLUSTER).unwrap(),
        marker: None,
        source: Arc::new(rig.partitions.clone()),
        settings: UploadSettings { interval: Duration::from_millis(10), ..UploadSettings::default() },
    });
    let running = tokio::spawn(task.run(rig.tasks.stopping().clone()));
    until("the other WAL is uploaded", || {
        all.iter().filter(|partition| !of_second(partition)).all(|partition| partition.offsets().committed_end == 20)
    })
    .await;
    let damaged: BTreeSet<u64> = uploader.status().damaged_streams.into_iter().collect();
    let expected = all.iter().filter(of_second).map(|partition| partition.stream().0).collect();
    assert_eq!(damaged, expected, "and the streams of the first are named");
    rig.tasks.stopping().cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_device_that_hangs_keeps_neither_the_broker_from_stopping_nor_the_other_wal_from_its_clean_mark() {
    let mut site = Site::new(0).await;
    site.disks = vec![SimDisk::new(7, DISK), SimDisk::new(8, DISK)];
    let rig = Rig::with_two_wals(site).await;
    rig.site.disks[0].stick_all();
    // From here on time passes when nothing else happens.
    tokio::time::pause();
    storage_engine::close_wals(&rig.partitions).await;
    tokio::time::resume();
    let is_clean = |disk: &SimDisk| {
        let copies = device::format::SUPERBLOCK_OFFSETS.map(|at| disk.peek(at, 4096));
        let copies = copies.iter().filter_map(|copy| device::Superblock::decode(copy).ok());
        copies.max_by_key(|superblock| superblock.generation).is_some_and(|newest| newest.clean_shutdown)
    };
    until("the other one is closed", || is_clean(&rig.site.disks[1])).await;
    assert!(!is_clean(&rig.site.disks[0]));
    rig.site.disks[0].release_stuck();
}

#[tokio::test]
async fn a_wal_that_is_newer_than_metadata_is_refused() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    rig.append(batch(1)).await;
    drop(partition);
    let site = rig.crash();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut config = MetadataConfig::new(site.folder.path().join("metadata"), NODE);
    config.cluster = Some((CLUSTER, INCARNATION));
    let site = Site { metadata: MetadataHandle::in_memory(config).await.unwrap(), ..site };
    let refused = try_open(&site).await.err().expect("metadata was lost");
    assert!(
        matches!(refused, WalOpeningError::Scan(device::ScanError::EpochAhead { found: 1, known: 0 })),
        "{refused}"
    );
}

/// The end cannot be read: damage as long as that lasts, but metadata must take the same end later.
#[tokio::test]
async fn where_nothing_shows_that_anything_was_there_a_wal_is_opened_at_the_same_place_once_it_can_be_read() {
    let mut rig = Site { disks: vec![SimDisk::new(7, DISK)], ..Site::new(0).await }.rig().await;
    rig.site.create_topic("t", 1).await;
    rig.serve_dirty_marks();
    rig.append(batch(3)).await;
    let (id, end) = (rig.wal.id, rig.wal.handle().usage().next.0);
    let owner =
        WalOwner { cluster: CLUSTER, incarnation: INCARNATION, registration: rig.partitions.storage().registration };
    let site = rig.crash();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let disk = &site.disks[0];
    disk.kill_process();
    let (bytes, config) = (disk.bytes(), WalConfig { record_bytes_max: RECORD_BYTES_MAX, ..WalConfig::new("sim") });
    let healed = SimDisk::with_content(8, DISK, disk.peek(0, bytes as usize));
    disk.make_unreadable(device::format::RING_OFFSET + end);
    let scan = |disk: &SimDisk| {
        let from = crate::wal_opening::scan_from(&site.metadata, id);
        device::scan_on(Box::new(disk.device()), bytes, &config, &Expectation::default(), from).unwrap()
    };
    let refused = commit_opening(&site.metadata, owner, &scan(disk), Path::new("sim")).await.err();
    assert!(matches!(refused, Some(WalOpeningError::Damaged { .. })), "{refused:?}");
    let scanned = scan(&healed);
    assert_eq!((scanned.end.0, scanned.damage.clone()), (end, None));
    commit_opening(&site.metadata, owner, &scanned, Path::new("sim")).await.unwrap();
}

#[tokio::test]
async fn damage_is_recorded_in_metadata_and_a_wal_that_can_be_read_after_all_is_opened_again() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    for _ in 0..5 {
        rig.append(batch(3)).await;
    }
    drop(partition);
    let id = rig.wal.id;
    let at = rig.wal.handle().usage().trim.0;
    let site = rig.crash();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let path = site.wal_path(0);
    let whole = std::fs::read(&path).unwrap();
    let inspected = device::inspect(&path).unwrap();
    let first = (inspected.superblock.ring_offset + at) as usize;
    let mut damaged = whole.clone();
    damaged[first..first + 100].fill(0);
    std::fs::write(&path, &damaged).unwrap();
    let refused = try_open(&site).await.err().expect("acked data cannot be read");
    assert!(matches!(refused, WalOpeningError::Damaged { .. }), "{refused}");
    let life = || site.metadata.read(|state| state.wal(id).unwrap().life);
    assert_eq!(life(), WalLife::Damaged { at: Lsn(at) });
    assert!(try_open(&site).await.is_err(), "it stays so");
    // It was the cable.
    std::fs::write(&path, &whole).unwrap();
    let opened = try_open(&site).await.unwrap();
    assert_eq!(opened.scanned.records.len(), 5);
    assert!(matches!(life(), WalLife::Open { .. }));
}
