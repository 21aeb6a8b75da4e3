//! What every WAL does, from outside, on every device: io_uring, pwritev2, both while the kernel interrupts them and cuts
//! them short (with the cargo feature `fault-injection`), a simulated disk.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bytes::Bytes;
use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig};
use seawall_wal_device::{
    Completions, DurableRecord, EngineChoice, Expectation, FormatConfig, FormatError, Lsn, OpenError, RecordHeader,
    ScanError, ScanFrom, Scanned, SpaceClass, Wal, WalConfig, WalError, WalFull,
};
use tempfile::TempDir;
use uuid::Uuid;

const RING: u64 = 4 << 20;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

macro_rules! on_every_device {
    ($($name:ident),* $(,)?) => {
        mod io_uring {
            $(#[tokio::test] async fn $name() { super::$name(super::Bed::file(super::EngineChoice::Auto)).await })*
        }
        mod pwrite {
            $(#[tokio::test] async fn $name() { super::$name(super::Bed::file(super::EngineChoice::Pwrite)).await })*
        }
        #[cfg(feature = "fault-injection")]
        mod io_uring_interrupted {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Bed::file(super::EngineChoice::Auto).interrupted()).await
            })*
        }
        #[cfg(feature = "fault-injection")]
        mod pwrite_interrupted {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Bed::file(super::EngineChoice::Pwrite).interrupted()).await
            })*
        }
        mod simulated {
            $(#[tokio::test] async fn $name() { super::$name(super::Bed::simulated()).await })*
        }
    };
}

on_every_device!(
    what_is_appended_is_acknowledged_in_order_read_back_and_recovered,
    the_ring_is_used_round_and_round_and_nothing_untrimmed_is_lost,
    a_full_ring_refuses_and_goes_on_after_a_trim,
    a_reader_keeps_its_slot_and_trimmed_records_are_refused,
    epochs_only_rise_and_identities_are_checked,
    many_appenders_and_readers_at_once,
);

/// A formatted WAL and what it lies on.
struct Bed {
    config: WalConfig,
    disk: Option<SimDisk>,
    _folder: TempDir,
}

impl Bed {
    fn file(engine: EngineChoice) -> Self {
        let (folder, path) = formatted();
        Self {
            config: WalConfig { engine, record_bytes_max: 256 << 10, ..WalConfig::new(path) },
            disk: None,
            _folder: folder,
        }
    }

    /// The kernel does not do all at once.
    #[cfg(feature = "fault-injection")]
    fn interrupted(mut self) -> Self {
        self.config.faults = seawall_wal_device::Faults::default().with(seawall_wal_device::Fault::Mishaps);
        self
    }

    fn simulated() -> Self {
        let (folder, path) = formatted();
        let image = std::fs::read(&path).unwrap();
        let config = SimDiskConfig { bytes: image.len() as u64, sector_bytes: 4096, fua: false, lies_per_mille: 0 };
        let disk = SimDisk::with_content(7, config, image);
        let config = WalConfig { record_bytes_max: 256 << 10, ..WalConfig::new(path) };
        Self { config, disk: Some(disk), _folder: folder }
    }

    fn try_scan(&self, expect: &Expectation, trim: Lsn, opened_at: &[(u64, Lsn)]) -> Result<Scanned, ScanError> {
        let from = ScanFrom { trim, opened_at: opened_at.to_vec(), ..ScanFrom::default() };
        match &self.disk {
            Some(disk) => {
                seawall_wal_device::scan_on(Box::new(disk.device()), disk.bytes(), &self.config, expect, from)
            }
            None => seawall_wal_device::scan(&self.config, expect, from),
        }
    }

    fn scan(&self, trim: Lsn, opened_at: &[(u64, Lsn)]) -> Scanned {
        let scanned = self.try_scan(&Expectation::default(), trim, opened_at).unwrap();
        assert_eq!(scanned.damage, None);
        scanned
    }

    fn open_new(&self) -> (Wal, Completions) {
        self.scan(Lsn(0), &[]).open(1, IDENTITY).unwrap()
    }
}

fn formatted() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal.0");
    seawall_wal_device::format(&FormatConfig::new(&path, RING, 1)).unwrap();
    (folder, path)
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: i % 3, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

fn payload(i: u64, bytes: usize) -> Bytes {
    (0..bytes).map(|k| (i as usize * 31 + k) as u8).collect::<Vec<u8>>().into()
}

fn append(wal: &Wal, i: u64, bytes: usize) {
    let reservation = wal.reserve(bytes as u64, SpaceClass::Normal).unwrap();
    wal.append(reservation, header(i), payload(i, bytes), i);
}

async fn take(completions: &mut Completions, count: usize) -> Vec<DurableRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let durable = completions.next().await.expect("the WAL is open");
        assert!(durable.failed.is_none());
        records.extend(&durable.records);
        completions.recycle(durable);
    }
    records
}

async fn what_is_appended_is_acknowledged_in_order_read_back_and_recovered(bed: Bed) {
    let (wal, mut completions) = bed.open_new();
    let sizes = [10usize, 1000, 70_000, 256 << 10, 0, 4096];
    for (i, &bytes) in sizes.iter().enumerate() {
        append(&wal, i as u64, bytes);
    }
    let records = take(&mut completions, sizes.len()).await;
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.token, i as u64);
        let bytes = wal.read(record.position, header(i as u64)).await.unwrap();
        assert_eq!(bytes, payload(i as u64, sizes[i]));
    }
    let wrong = wal.read(records[0].position, header(1)).await;
    assert!(matches!(wrong, Err(WalError::Corrupt { .. })), "{wrong:?}");
    println!("{}", wal.durability());
    wal.close().await.unwrap();
    assert!(completions.next().await.is_none());

    let scanned = bed.scan(Lsn(0), &[(1, Lsn(0))]);
    assert!(scanned.clean_shutdown);
    assert_eq!(scanned.owner_epoch_seen, 1);
    let found: Vec<_> = scanned.records.iter().map(|record| (record.header, record.position)).collect();
    let expected: Vec<_> = records.iter().map(|record| (header(record.token), record.position)).collect();
    assert_eq!(found, expected);
}

async fn the_ring_is_used_round_and_round_and_nothing_untrimmed_is_lost(bed: Bed) {
    let (mut trim, mut opened, mut kept) = (Lsn(0), Vec::new(), Vec::<DurableRecord>::new());
    let mut i = 0;
    for epoch in 1..=4 {
        let scanned = bed.scan(trim, &opened);
        let found: Vec<_> = scanned.records.iter().map(|r| r.position).collect();
        assert_eq!(found, kept.iter().map(|r| r.position).collect::<Vec<_>>());
        opened.push((epoch, scanned.end));
        let (wal, mut completions) = scanned.open(epoch, IDENTITY).unwrap();
        for _ in 0..300 {
            append(&wal, i, (i as usize * 7919) % 50_000);
            i += 1;
            kept.extend(take(&mut completions, 1).await);
            if kept.len() > 20 {
                trim = kept[10].position.frame();
                wal.trim(trim);
                kept.retain(|record| record.position.frame() >= trim);
            }
        }
        for record in &kept {
            let bytes = wal.read(record.position, header(record.token)).await.unwrap();
            assert_eq!(bytes, payload(record.token, (record.token as usize * 7919) % 50_000));
        }
        if epoch % 2 == 0 {
            wal.close().await.unwrap();
        }
    }
    assert!(kept.last().unwrap().position.lsn.0 > 5 * RING);
}

async fn a_full_ring_refuses_and_goes_on_after_a_trim(bed: Bed) {
    let (wal, mut completions) = bed.open_new();
    let mut i = 0;
    let refused = loop {
        match wal.reserve(100_000, SpaceClass::Normal) {
            Ok(reservation) => wal.append(reservation, header(i), payload(i, 100_000), i),
            Err(refused) => break refused,
        }
        i += 1;
        take(&mut completions, 1).await;
    };
    assert!(matches!(refused, WalFull::Ring { .. }), "{refused}");
    assert!(wal.soft_limit_reached());
    assert!(wal.reserve(100_000, SpaceClass::Internal).is_ok(), "a part is kept for internal topics");
    let freed = wal.space_freed();
    wal.trim(wal.usage().durable);
    freed.await;
    append(&wal, i, 100_000);
    take(&mut completions, 1).await;
    assert!(matches!(wal.reserve(300 << 10, SpaceClass::Normal), Err(WalFull::RecordTooLarge { .. })));
}

async fn a_reader_keeps_its_slot_and_trimmed_records_are_refused(bed: Bed) {
    let (wal, mut completions) = bed.open_new();
    append(&wal, 0, 1000);
    let first = take(&mut completions, 1).await[0].position;
    let pin = wal.pin(first.frame()).unwrap();
    append(&wal, 1, 1000);
    take(&mut completions, 1).await;
    wal.trim(wal.usage().durable);
    let used = wal.usage().used_bytes;
    assert!(used > 0, "the pin holds the slot");
    assert_eq!(wal.read(first, header(0)).await.unwrap(), payload(0, 1000));
    drop(pin);
    assert!(matches!(wal.read(first, header(0)).await, Err(WalError::Trimmed { .. })));
    assert!(wal.usage().used_bytes < used);
    assert!(wal.pin(first.frame()).is_none());
}

async fn epochs_only_rise_and_identities_are_checked(bed: Bed) {
    let (wal, _completions) = bed.scan(Lsn(0), &[]).open(5, IDENTITY).unwrap();
    drop(wal);
    let stale = bed.scan(Lsn(0), &[(5, Lsn(0))]).open(5, IDENTITY);
    assert!(matches!(stale, Err(OpenError::StaleEpoch { asked: 5, seen: 5 })));
    let refuse = |expect: Expectation| bed.try_scan(&expect, Lsn(0), &[]).err().unwrap();
    let other = Uuid::from_u128(9);
    let expect = Expectation { cluster_id: Some(other), ..Expectation::default() };
    assert!(matches!(refuse(expect), ScanError::OtherCluster { .. }));
    let expect = Expectation { incarnation: Some(other), ..Expectation::default() };
    assert!(matches!(refuse(expect), ScanError::OtherIncarnation { .. }));
    let expect = Expectation { node_id: Some(2), ..Expectation::default() };
    assert!(matches!(refuse(expect), ScanError::OtherNode { found: 1, expected: 2 }));
    let expect = Expectation { wal_id: Some(seawall_wal_device::WalId(other)), ..Expectation::default() };
    assert!(matches!(refuse(expect), ScanError::OtherWal { .. }));
}

async fn many_appenders_and_readers_at_once(bed: Bed) {
    let (wal, mut completions) = bed.open_new();
    let appenders: Vec<_> = (0..8u64)
        .map(|a| {
            let wal = wal.clone();
            tokio::spawn(async move {
                for k in 0..50 {
                    let (i, bytes) = (a * 50 + k, 500 * (a as usize + 1));
                    let reservation = loop {
                        let freed = wal.space_freed();
                        match wal.reserve(bytes as u64, SpaceClass::Normal) {
                            Ok(reservation) => break reservation,
                            Err(_) => freed.await,
                        }
                    };
                    wal.append(reservation, header(i), payload(i, bytes), i);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let records = take(&mut completions, 400).await;
    for appender in appenders {
        appender.await.unwrap();
    }
    let readers: Vec<_> = records
        .chunks(40)
        .map(|records| {
            let (wal, records) = (wal.clone(), records.to_vec());
            tokio::spawn(async move {
                for record in records {
                    let bytes = 500 * (record.token as usize / 50 + 1);
                    let read = wal.read(record.position, header(record.token)).await.unwrap();
                    assert_eq!(read, payload(record.token, bytes));
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    for a in 0..8 {
        let of_one: Vec<u64> = records.iter().map(|record| record.token).filter(|token| token / 50 == a).collect();
        assert!(of_one.is_sorted(), "an appender's records keep their order");
    }
    wal.close().await.unwrap();
    assert_eq!(bed.scan(Lsn(0), &[(1, Lsn(0))]).records.len(), 400);
}

#[tokio::test]
async fn a_file_has_one_owner_at_a_time() {
    let bed = Bed::file(EngineChoice::Auto);
    let (wal, _completions) = bed.open_new();
    let second = bed.try_scan(&Expectation::default(), Lsn(0), &[]);
    assert!(matches!(second, Err(ScanError::Open(OpenError::Locked(_)))));
    assert!(seawall_wal_device::inspect(&bed.config.path).is_ok(), "looking is always possible");
    drop(wal);
    bed.scan(Lsn(0), &[]);
}

#[test]
fn formatting_is_refused_where_something_is_and_where_space_is_short() {
    let (_folder, path) = formatted();
    let again = seawall_wal_device::format(&FormatConfig::new(&path, RING, 1));
    assert!(matches!(again, Err(FormatError::InUse { .. })), "{again:?}");
    let huge = FormatConfig::new(path.with_file_name("huge"), 1 << 45, 1);
    let huge = seawall_wal_device::format(&huge);
    assert!(matches!(huge, Err(FormatError::NoSpace { .. })), "{huge:?}");
    let odd = seawall_wal_device::format(&FormatConfig::new(path.with_file_name("odd"), RING + 1, 1));
    assert!(matches!(odd, Err(FormatError::BadSize { .. })), "{odd:?}");
    let missing = seawall_wal_device::inspect(&path.with_file_name("missing"));
    assert!(matches!(missing, Err(OpenError::NotFound(_))), "{missing:?}");
    std::fs::write(path.with_file_name("other"), vec![1; 200_000]).unwrap();
    let other = seawall_wal_device::inspect(&path.with_file_name("other"));
    assert!(matches!(other, Err(OpenError::NotAWal { .. })), "{other:?}");
}
