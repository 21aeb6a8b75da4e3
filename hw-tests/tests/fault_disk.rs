//! The faulty disk is faulty in the way it says: flushed bytes stay, unflushed ones may go.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use seawall_qualify::fault_disk::{FaultDisk, Operation, possible};

fn write(path: &Path, bytes: &[u8], sync: bool) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    if sync {
        file.sync_all().unwrap();
        File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
    }
}

#[test]
fn a_power_cut_keeps_what_was_flushed_and_loses_what_was_not() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flushed = vec![7u8; 1 << 20];
    let cut = {
        let mut disk = FaultDisk::create(&dir.path().join("a"), 64 << 20).unwrap();
        disk.make_ext4().unwrap();
        let mount = dir.path().join("mount");
        disk.mount(&mount).unwrap();
        write(&mount.join("flushed"), &flushed, true);
        write(&mount.join("unflushed"), &flushed, false);
        disk.power_cut(1, &dir.path().join("image")).unwrap()
    };
    assert!(cut.flushes > 0, "{cut:?}");

    let mut disk = FaultDisk::from_image(&dir.path().join("b"), &dir.path().join("image")).unwrap();
    let mount = dir.path().join("mount2");
    disk.mount(&mount).unwrap();
    let mut found = Vec::new();
    File::open(mount.join("flushed")).unwrap().read_to_end(&mut found).unwrap();
    assert!(found == flushed, "flushed bytes are gone");
    let unflushed = fs::read(mount.join("unflushed")).unwrap_or_default();
    assert!(unflushed != flushed, "bytes that no flush covered survived the cut");
}

#[test]
fn a_sector_written_but_not_flushed_is_kept_or_lost_by_seed() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::create(&dir.path().join("a"), 16 << 20).unwrap();
    let device =
        std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().write(true), 0o40000 /* O_DIRECT */)
            .open(disk.device())
            .unwrap();
    let mut buffer = vec![0u8; 128 << 10];
    let start = buffer.as_ptr().align_offset(4096);
    buffer[start..].fill(9);
    std::os::unix::fs::FileExt::write_all_at(&device, &buffer[start..start + (64 << 10)], 0).unwrap();
    let cuts: Vec<_> =
        (0..8).map(|seed| disk.power_cut(seed, &dir.path().join(format!("image{seed}"))).unwrap()).collect();
    assert!(cuts.iter().any(|cut| cut.sectors_lost > 0 && cut.sectors_kept > 0), "{cuts:?}");
    let again = disk.power_cut(3, &dir.path().join("again")).unwrap();
    assert_eq!(again, cuts[3], "the same seed is the same cut");
}

#[test]
fn an_asked_for_error_reaches_the_writer_once() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultDisk::create(&dir.path().join("a"), 16 << 20).unwrap();
    let device = File::options().write(true).open(disk.device()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &[1u8; 4096], 0).unwrap();
    disk.fail_next(Operation::Flush, 1);
    assert!(device.sync_all().is_err(), "a failed flush was answered as good");
    std::os::unix::fs::FileExt::write_all_at(&device, &[2u8; 4096], 0).unwrap();
    assert!(device.sync_all().is_ok(), "the error came more often than asked for");
}
