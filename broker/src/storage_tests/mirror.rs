//! A WAL on two devices: what metadata knows of them decides which of them are used.

use super::*;
use crate::wal_alarms::WalAlarmKind;
use crate::wal_replace::{Replace, ReplaceError, replace};
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

    /// Ends the tasks that take completions, too: they hold the WAL.
    async fn closed(self) -> Site {
        self.wal.handle().clone().close().await.unwrap();
        self.crashed().await
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

/// Metadata knows nothing of it, and never recorded a set: acks need not wait for a word about it.
#[tokio::test]
async fn a_device_that_fails_between_its_copy_and_its_commit_is_let_go() {
    let mut rig = Site::new(1 << 20).await.rig().await;
    rig.site.create_topic("t", 1).await;
    rig.serve_dirty_marks();
    rig.append(batch(3)).await;
    rig.run_completions().await;
    let joined = rig.wal.handle().join_leg(&rig.site.folder.path().join("joins"), false, |_, _| ()).await.unwrap();
    rig.wal.handle().distrust(joined, device::Distrust::FlushesAreStripped);
    until("it has failed", || rig.alarms().contains(&WalAlarmKind::LegFailed)).await;
    let partition = rig.partition();
    let mut pending = Box::pin(append(&partition, batch(2)).unwrap().durable());
    not_yet(&mut pending).await;

    let by = rig.partitions.storage().registration;
    let watch = wal_watch::run(rig.wal.clone(), rig.site.metadata.clone(), by, rig.tasks.clone());
    let watch = tokio::spawn(watch);
    let answer = tokio::time::timeout(Duration::from_secs(10), pending).await.expect("an answer");
    assert_eq!((answer, rig.set()), (Ok(()), (0, 0)));
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

/// While a device is copied appends go on; afterwards the new one alone holds everything, and the old one is refused.
#[tokio::test]
async fn a_device_is_replaced_while_appends_go_on() {
    let mut rig = Rig::with_mirror().await;
    for _ in 0..20 {
        rig.append(sized(1, 10_000)).await;
    }
    rig.run_completions().await;
    let partition = rig.partition();
    let (by, metadata) = (rig.partitions.storage().registration, rig.site.metadata.clone());
    let legs = metadata.read(|state| state.wal_legs(rig.wal.id).unwrap().legs.clone());
    let third = rig.site.wal_path(0).with_extension("third");
    let which = Replace { device: third.clone(), leg: None, overwrite: false };
    let unclear = replace(&rig.wal, &metadata, by, &which, |_, _| ()).await.unwrap_err();
    assert!(matches!(unclear, ReplaceError::WhichLeg(..)), "{unclear}");
    assert!(!third.exists(), "nothing was begun");

    let asked = Replace { leg: Some(legs[1].leg), ..which };
    let mut told = Vec::new();
    let copying = replace(&rig.wal, &metadata, by, &asked, |done, all| told.push((done, all)));
    let appending = async {
        for _ in 0..20 {
            append(&partition, sized(1, 1_000)).unwrap().durable().await.unwrap();
        }
    };
    let (replaced, ()) = tokio::join!(copying, appending);
    let replaced = replaced.unwrap();
    assert_eq!((replaced.set_epoch, rig.set()), (2, (2, 2)));
    let set = metadata.read(|state| state.wal_legs(rig.wal.id).unwrap().clone());
    assert!(set.holds(replaced.leg) && set.holds(legs[0].leg) && !set.holds(legs[1].leg));
    let (done, all) = *told.last().unwrap();
    assert!(done == all && all > 200_000, "the progress was told: {told:?}");
    until("the replaced device is gone", || rig.alarms().is_empty()).await;
    append(&partition, batch(1)).unwrap().durable().await.unwrap();
    drop(partition);

    let site = rig.closed().await;
    let refused = try_open(&site).await.err().expect("the configuration still names the old device");
    assert!(refused.to_string().contains(&replaced.leg.to_string()), "{refused}");
    let site = Site { mirror_name: "third", ..site };
    let rig = site.rig().await;
    assert_eq!((rig.partition().offsets().log_end, rig.set(), rig.alarms()), (41, (2, 2), vec![]));
    let site = rig.crashed().await;
    std::fs::remove_file(site.wal_path(0)).unwrap();
    let rig = site.rig().await;
    assert_eq!((rig.partition().offsets().log_end, rig.set()), (41, (3, 1)), "the new one holds everything");
}

/// A WAL on one device moves to another one.
#[tokio::test]
async fn the_only_device_is_replaced_by_way_of_a_mirror() {
    let (mut rig, partition) = Rig::with_topic(1 << 20).await;
    for _ in 0..5 {
        rig.append(batch(2)).await;
    }
    rig.run_completions().await;
    let (by, metadata) = (rig.partitions.storage().registration, rig.site.metadata.clone());
    let third = rig.site.wal_path(0).with_extension("third");
    let only = rig.wal.legs[0].leg;
    let asked = Replace { device: third.clone(), leg: Some(only), overwrite: false };
    let replaced = replace(&rig.wal, &metadata, by, &asked, |_, _| ()).await.unwrap();
    assert_eq!((replaced.set_epoch, rig.set()), (2, (2, 1)));
    append(&partition, batch(1)).unwrap().durable().await.unwrap();
    until("the replaced device is gone", || rig.wal.handle().status().legs.len() == 1).await;
    drop(partition);
    let site = rig.closed().await;
    let refused = try_open(&site).await.err().expect("the old device is behind");
    assert!(matches!(refused, WalOpeningError::NoLegOfSet { .. }), "{refused}");
    std::fs::rename(&third, site.wal_path(0)).unwrap();
    assert_eq!(site.rig().await.partition().offsets().log_end, 11);
}
