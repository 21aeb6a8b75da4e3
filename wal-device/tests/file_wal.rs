//! The WAL on a file, from outside: what is appended is acknowledged in order, read back, recovered and trimmed.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use seawall_wal_device::{
    Completions, DurableRecord, Expectation, FormatConfig, Lsn, OpenError, RecordHeader, ScanError, ScanFrom, Scanned,
    SpaceClass, Wal, WalConfig, WalError, WalFull,
};
use tempfile::TempDir;
use uuid::Uuid;

const RING: u64 = 4 << 20;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

fn new_wal(ring_bytes: u64) -> (TempDir, WalConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal.0");
    seawall_wal_device::format(&FormatConfig::new(&path, ring_bytes, 1)).unwrap();
    let config = WalConfig { record_bytes_max: 256 << 10, ..WalConfig::new(path) };
    (folder, config)
}

fn scan(config: &WalConfig, trim: Lsn, opened_at: &[(u64, Lsn)]) -> Scanned {
    let from = ScanFrom { trim, opened_at: opened_at.to_vec() };
    let scanned = seawall_wal_device::scan(config, &Expectation::default(), from).unwrap();
    assert_eq!(scanned.damage, None);
    scanned
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

#[tokio::test]
async fn what_is_appended_is_acknowledged_in_order_read_back_and_recovered() {
    let (_folder, config) = new_wal(RING);
    let (wal, mut completions) = scan(&config, Lsn(0), &[]).open(1, IDENTITY).unwrap();
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

    let scanned = scan(&config, Lsn(0), &[(1, Lsn(0))]);
    assert!(scanned.clean_shutdown);
    assert_eq!(scanned.owner_epoch_seen, 1);
    let found: Vec<_> = scanned.records.iter().map(|record| (record.header, record.position)).collect();
    let expected: Vec<_> = records.iter().map(|record| (header(record.token), record.position)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_ring_is_used_round_and_round_and_nothing_untrimmed_is_lost() {
    let (_folder, config) = new_wal(RING);
    let (mut trim, mut opened, mut kept) = (Lsn(0), Vec::new(), Vec::<DurableRecord>::new());
    let mut i = 0;
    for epoch in 1..=4 {
        let scanned = scan(&config, trim, &opened);
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

#[tokio::test]
async fn a_full_ring_refuses_and_goes_on_after_a_trim() {
    let (_folder, config) = new_wal(RING);
    let (wal, mut completions) = scan(&config, Lsn(0), &[]).open(1, IDENTITY).unwrap();
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

#[tokio::test]
async fn a_reader_keeps_its_slot_and_trimmed_records_are_refused() {
    let (_folder, config) = new_wal(RING);
    let (wal, mut completions) = scan(&config, Lsn(0), &[]).open(1, IDENTITY).unwrap();
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

#[tokio::test]
async fn a_wal_has_one_owner_at_a_time_and_epochs_only_rise() {
    let (_folder, config) = new_wal(RING);
    let (wal, _completions) = scan(&config, Lsn(0), &[]).open(5, IDENTITY).unwrap();
    let second = seawall_wal_device::scan(&config, &Expectation::default(), ScanFrom::default());
    assert!(matches!(second, Err(ScanError::Open(OpenError::Locked(_)))));
    assert!(seawall_wal_device::inspect(&config.path).is_ok(), "looking is always possible");
    drop(wal);
    let stale = scan(&config, Lsn(0), &[(5, Lsn(0))]).open(5, IDENTITY);
    assert!(matches!(stale, Err(OpenError::StaleEpoch { asked: 5, seen: 5 })));
    let other = Expectation { cluster_id: Some(Uuid::from_u128(9)), ..Expectation::default() };
    let other = seawall_wal_device::scan(&config, &other, ScanFrom::default());
    assert!(matches!(other, Err(ScanError::OtherCluster { .. })));
}

#[test]
fn formatting_is_refused_where_something_is_and_where_space_is_short() {
    let (_folder, config) = new_wal(RING);
    let again = seawall_wal_device::format(&FormatConfig::new(&config.path, RING, 1));
    assert!(matches!(again, Err(seawall_wal_device::FormatError::InUse { .. })), "{again:?}");
    let huge = FormatConfig::new(config.path.with_file_name("huge"), 1 << 45, 1);
    let huge = seawall_wal_device::format(&huge);
    assert!(matches!(huge, Err(seawall_wal_device::FormatError::NoSpace { .. })), "{huge:?}");
}
