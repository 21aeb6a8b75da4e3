//! A WAL on two devices: what metadata knows of them decides which of them are used.

use super::*;
use crate::wal_alarms::WalAlarmKind;
use crate::wal_watch;

impl Rig {
    async fn with_mirror() -> Self {
        let site = Site { mirrored: true, ..Site::new(1 << 20).await };
        let mut rig = site.rig().await;
        rig.site.create_topic("t", 1).await;
        rig.serve_dirty_marks();
        rig
    }

    /// Set epoch and number of legs in metadata.
    fn set(&self) -> (u64, usize) {
        self.site.metadata.read(|state| state.wal_legs(self.wal.id).map_or((0, 0), |set| (set.epoch, set.legs.len())))
    }

    fn alarms(&self) -> Vec<WalAlarmKind> {
        self.wal.alarms().into_iter().map(|alarm| alarm.kind).collect()
    }

    async fn crashed(self) -> Site {
        let site = self.crash();
        tokio::time::sleep(Duration::from_millis(20)).await;
        site
    }
}

#[tokio::test]
async fn a_mirror_whose_device_is_away_goes_on_with_the_other_and_refuses_it_when_it_comes_back() {
    let mut rig = Rig::with_mirror().await;
    assert_eq!((rig.set(), rig.alarms()), ((1, 2), vec![]), "recorded before the first append");
    for _ in 0..3 {
        rig.append(batch(2)).await;
    }
    let mut rig = rig.crash_and_recover().await;
    assert_eq!(rig.partition().offsets().log_end, 6);
    assert_eq!(rig.set(), (1, 2), "both are there: nothing is to be said");
    rig.append(batch(2)).await;

    let site = rig.crashed().await;
    let (first, away) = (site.paths(0)[0].clone(), site.folder.path().join("away"));
    std::fs::rename(&first, &away).unwrap();
    let mut rig = site.rig().await;
    rig.serve_dirty_marks();
    assert_eq!(rig.partition().offsets().log_end, 8, "the other one held all that was acked");
    assert_eq!((rig.set(), rig.alarms()), ((2, 1), vec![WalAlarmKind::LegMissing]));
    rig.append(batch(1)).await;

    let site = rig.crashed().await;
    std::fs::rename(&away, &first).unwrap();
    let mut rig = site.rig().await;
    rig.serve_dirty_marks();
    assert_eq!(rig.partition().offsets().log_end, 9, "the one that came back lacks the last batch and is not asked");
    assert_eq!((rig.set(), rig.alarms()), ((2, 1), vec![WalAlarmKind::LegMissing]));
    rig.append(batch(1)).await;

    let site = rig.crashed().await;
    std::fs::remove_file(&site.paths(0)[1]).unwrap();
    let refused = try_open(&site).await.err().expect("it alone is behind for good");
    assert!(matches!(refused, WalOpeningError::NoLegOfSet { .. }), "{refused}");
}

/// Nothing is acked between the failure of a device and metadata's word that the mirror goes on without it.
#[tokio::test]
async fn a_device_that_fails_holds_every_ack_until_metadata_has_dropped_it() {
    let disks = vec![SimDisk::new(7, DISK), SimDisk::new(8, DISK)];
    let mut rig = Site { mirrored: true, disks, ..Site::new(0).await }.rig().await;
    rig.site.create_topic("t", 1).await;
    rig.serve_dirty_marks();
    rig.append(batch(3)).await;
    rig.run_completions().await;
    let partition = rig.partition();
    rig.site.disks[1].fail_write_in(1);
    let mut pending = Box::pin(append(&partition, batch(2)).unwrap().durable());
    not_yet(&mut pending).await;
    assert_eq!((rig.set(), partition.offsets().high_watermark), ((1, 2), 3));
    assert_eq!(rig.alarms(), [WalAlarmKind::LegFailed, WalAlarmKind::LegMissing]);

    let by = rig.partitions.storage().registration;
    let watch = wal_watch::run(rig.wal.clone(), rig.site.metadata.clone(), by, rig.tasks.clone());
    let watch = tokio::spawn(watch);
    let answer = tokio::time::timeout(Duration::from_secs(10), pending).await.expect("an answer");
    assert_eq!((answer, rig.set()), (Ok(()), (2, 1)));
    assert_eq!(partition.offsets().high_watermark, 5);
    until("the failed device is gone", || rig.alarms() == [WalAlarmKind::LegMissing]).await;
    append(&partition, batch(1)).unwrap().durable().await.unwrap();
    rig.tasks.stopping().cancel();
    watch.await.unwrap();
}

/// Damage on the only device that is there: the other one may hold what cannot be read, so it is not dropped.
#[tokio::test]
async fn a_device_that_is_away_is_dropped_only_if_the_other_one_is_whole() {
    let mut rig = Rig::with_mirror().await;
    for _ in 0..3 {
        rig.append(batch(2)).await;
    }
    let wal = rig.wal.id;
    let site = rig.crashed().await;
    let (first, second) = (site.paths(0)[0].clone(), site.paths(0)[1].clone());
    let away = site.folder.path().join("away");
    std::fs::rename(&first, &away).unwrap();
    let ring = device::inspect(&second).unwrap().superblock.ring_offset as usize;
    let mut bytes = std::fs::read(&second).unwrap();
    bytes[ring..ring + 100].fill(0);
    std::fs::write(&second, &bytes).unwrap();
    let refused = try_open(&site).await.err().expect("acked data cannot be read");
    assert!(matches!(refused, WalOpeningError::Damaged { .. }), "{refused}");
    let set = |site: &Site| site.metadata.read(|state| state.wal_legs(wal).map(|set| (set.epoch, set.legs.len())));
    assert_eq!(set(&site), Some((1, 2)));
    std::fs::rename(&away, &first).unwrap();
    let rig = site.rig().await;
    assert_eq!(rig.partition().offsets().log_end, 6, "together they hold everything");
    assert_eq!((rig.set(), rig.alarms()), ((1, 2), vec![]));
}

#[tokio::test]
async fn a_new_mirror_is_not_opened_with_one_of_its_devices() {
    let site = Site { mirrored: true, ..Site::new(1 << 20).await };
    site.format_if_missing(0);
    std::fs::remove_file(&site.paths(0)[1]).unwrap();
    let refused = try_open(&site).await.err().expect("it takes both to know that nothing was acked");
    let expected =
        WalOpeningError::Scan(device::ScanError::Open(device::OpenError::OneOfTwo { path: site.wal_path(0) }));
    assert_eq!(refused.to_string(), expected.to_string());
}
