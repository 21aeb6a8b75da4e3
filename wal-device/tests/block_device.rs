//! The WAL on a real block device. `WAL_TEST_DEVICE=/dev/... cargo test -p seawall-wal-device --test block_device`: its content
//! is destroyed. Without that variable the test says so and passes.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use seawall_wal_device::{
    Expectation, FormatConfig, FormatError, Lsn, RecordHeader, ScanError, ScanFrom, SpaceClass, WalConfig, WalKind,
};
use uuid::Uuid;

#[tokio::test]
async fn a_block_device_is_formatted_on_purpose_only_and_keeps_what_was_acknowledged() {
    let Ok(device) = std::env::var("WAL_TEST_DEVICE") else {
        println!("left out: set WAL_TEST_DEVICE to a block device that may be overwritten");
        return;
    };
    let format = FormatConfig { ring_bytes: None, overwrite: true, ..FormatConfig::new(&device, 0, 1) };
    let superblock = seawall_wal_device::format(&format).unwrap();
    let again = seawall_wal_device::format(&FormatConfig { overwrite: false, ..format });
    let Err(FormatError::InUse { what, .. }) = again else { panic!("{again:?}") };
    assert!(what.contains(&superblock.wal_id.to_string()), "{what}");

    let config = WalConfig::new(&device);
    let scanned = seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom::default()).unwrap();
    assert_eq!(scanned.kind, WalKind::Device);
    let (wal, mut completions) = scanned.open(1, (Uuid::nil(), Uuid::nil())).unwrap();
    println!("{}", wal.durability());
    let second = seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom::default());
    assert!(matches!(second, Err(ScanError::Open(seawall_wal_device::OpenError::Locked(_)))));
    let header = RecordHeader { stream: 1, leader_epoch: 1, base_offset: 0, last_offset: 0 };
    for i in 0..200 {
        let reservation = wal.reserve(5000, SpaceClass::Normal).unwrap();
        wal.append(reservation, header, bytes::Bytes::from(vec![i as u8; 5000]), i);
    }
    let mut records = Vec::new();
    while records.len() < 200 {
        records.extend(completions.next().await.unwrap().records);
    }
    assert_eq!(wal.read(records[77].position, header).await.unwrap(), vec![77; 5000]);
    wal.close().await.unwrap();
    assert!(seawall_wal_device::inspect(Path::new(&device)).unwrap().superblock.clean_shutdown);
    let from = ScanFrom { opened_at: vec![(1, Lsn(0))], ..ScanFrom::default() };
    let scanned = seawall_wal_device::scan(&config, &Expectation::default(), from).unwrap();
    assert_eq!((scanned.records.len(), scanned.damage.clone()), (200, None));
    drop(scanned);
    what_others_made_of_it_is_named_when_it_is_refused(&device);
}

fn what_others_made_of_it_is_named_when_it_is_refused(device: &str) {
    let refused =
        || match seawall_wal_device::scan(&WalConfig::new(device), &Expectation::default(), ScanFrom::default()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("opened"),
        };
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).status();
        status.is_ok_and(|status| status.success())
    };
    if !run("mkfs.ext4", &["-q", "-F", device]) {
        println!("left out: mkfs.ext4 is not here");
        return;
    }
    assert!(refused().contains("an ext file system"), "{}", refused());
    let folder = tempfile::tempdir().unwrap();
    let mount_point = folder.path().to_str().unwrap();
    if run("mount", &[device, mount_point]) {
        let (message, start) = (refused(), std::time::Instant::now());
        let format = FormatConfig { ring_bytes: None, overwrite: true, ..FormatConfig::new(device, 0, 1) };
        let formatted = seawall_wal_device::format(&format);
        let held = seawall_wal_device::inspect(Path::new(device)).is_err();
        assert!(run("umount", &[mount_point]));
        assert!(message.contains(&format!("is mounted at {mount_point}")), "{message}");
        assert!(matches!(formatted, Err(FormatError::Held { .. })), "{formatted:?}");
        assert!(held && start.elapsed().as_secs() < 5, "nobody waits for a mount to go away");
    } else {
        println!("left out: mounting is not allowed here");
    }
    let format = FormatConfig { ring_bytes: None, overwrite: true, ..FormatConfig::new(device, 0, 1) };
    seawall_wal_device::format(&format).unwrap();
    assert!(seawall_wal_device::scan(&WalConfig::new(device), &Expectation::default(), ScanFrom::default()).is_ok());
}
