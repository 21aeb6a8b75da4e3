//! A write that the kernel cuts short is continued, and the error that cut it is told and ends the WAL. In a process of its
//! own: the limit on file sizes, which does the cutting, holds for all of it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use nix::sys::resource::{Resource, setrlimit};
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::device::pwrite::PwriteDevice;
use seawall_wal_device::device::uring::UringDevice;
use seawall_wal_device::device::{BlockDevice, Operation, Request, Wait};
use seawall_wal_device::{
    EngineChoice, Expectation, FormatConfig, Lsn, RecordHeader, ScanFrom, SharedBuf, SpaceClass, WalConfig, WalError,
};
use uuid::Uuid;

const LIMIT: u64 = 1 << 20;
const HALF: usize = 32 << 10;

const HEADER: RecordHeader = RecordHeader { stream: 1, leader_epoch: 1, base_offset: 0, last_offset: 0 };

/// One test, because the limit can only be lowered.
#[tokio::test]
async fn cut_short_writes_are_continued_and_their_error_ends_the_wal() {
    // SAFETY: ignoring a signal touches no memory.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let folder = tempfile::tempdir().unwrap();
    for name in ["uring", "pwrite"] {
        seawall_wal_device::format(&FormatConfig::new(folder.path().join(name), 4 << 20, 1)).unwrap();
    }
    a_durable_write_goes_on_until_its_error_is_known();
    a_failed_write_ends_the_wal(WalConfig::new(folder.path().join("uring"))).await;
    let pwrite = WalConfig { engine: EngineChoice::Pwrite, ..WalConfig::new(folder.path().join("pwrite")) };
    a_failed_write_ends_the_wal(pwrite).await;
}

async fn a_failed_write_ends_the_wal(config: WalConfig) {
    let config = WalConfig { record_bytes_max: 64 << 10, ..config };
    let scan = |opened_at| {
        let from = ScanFrom { opened_at, ..ScanFrom::default() };
        seawall_wal_device::scan(&config, &Expectation::default(), from).unwrap()
    };
    let (wal, mut completions) = scan(Vec::new()).open(1, (Uuid::nil(), Uuid::nil())).unwrap();
    let (mut acknowledged, mut appended) = (Vec::new(), 0);
    let failed = loop {
        if let Ok(reservation) = wal.reserve(5000, SpaceClass::Normal) {
            wal.append(reservation, HEADER, bytes::Bytes::from(vec![appended as u8; 5000]), appended);
            appended += 1;
        }
        let durable = completions.next().await.unwrap();
        acknowledged.extend(durable.records);
        if let Some(failed) = durable.failed {
            break failed;
        }
    };
    assert!(failed.to_string().contains("File too large"), "{failed}");
    assert!(completions.next().await.is_none() && acknowledged.len() > 100);
    let last = acknowledged.last().unwrap();
    assert_eq!(wal.read(last.position, HEADER).await.unwrap(), vec![last.token as u8; 5000], "reads go on");
    let handle = wal.clone();
    assert!(matches!(wal.close().await, Err(WalError::Failed(_))));
    drop(handle);
    let scanned = scan(vec![(1, Lsn(0))]);
    assert!(scanned.damage.is_none() && scanned.records.len() >= acknowledged.len() && !scanned.clean_shutdown);
}

fn a_durable_write_goes_on_until_its_error_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device");
    std::fs::write(&path, vec![0; 2 * LIMIT as usize]).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, LIMIT).unwrap();
    for (byte, uring) in [(1u8, true), (2, false)] {
        let file = Arc::new(DeviceFile::open(&path, Access::Own).unwrap());
        let mut device: Box<dyn BlockDevice> = match uring {
            true => match UringDevice::new(file) {
                Ok(device) => Box::new(device),
                Err(error) => {
                    println!("left out: io_uring is refused here: {error}");
                    continue;
                }
            },
            false => Box::new(PwriteDevice::inline(file)),
        };
        let mut buffer = SharedBuf::new(2 * HALF);
        buffer.exclusive().fill(byte);
        let (operation, bytes) = (Operation::Write { durable: true }, 2 * HALF);
        let offset = LIMIT - HALF as u64;
        device.submit(Request { tag: 3, leg: 0, operation, offset, buffer: Some(buffer), bytes });
        let mut done = Vec::new();
        while done.is_empty() {
            device.wait(Wait::Forever, &mut done).unwrap();
        }
        assert_eq!(done[0].result.as_ref().unwrap_err().raw_os_error(), Some(libc::EFBIG), "{}", device.durability(0));
        drop(device);
        let written = std::fs::read(&path).unwrap();
        let (first, second) = written[offset as usize..][..2 * HALF].split_at(HALF);
        assert!(first.iter().all(|&b| b == byte) && second.iter().all(|&b| b == 0));
    }
}
