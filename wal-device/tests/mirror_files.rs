//! A mirror on two files with its own thread: a third file joins while appends go on, an old leg goes, and what was
//! acknowledged is found on the new one alone. And a WAL that is opened for reading only.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use seawall_wal_device::{
    Completions, DurableRecord, EngineChoice, Expectation, FormatConfig, LegSet, LegState, Lsn, RecordHeader, ScanFrom,
    Scanned, SpaceClass, Wal, WalConfig, WalError, WalFull,
};
use uuid::Uuid;

const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

fn config(paths: &[PathBuf], engine: EngineChoice) -> WalConfig {
    WalConfig { mirror: paths.get(1).cloned(), record_bytes_max: 256 << 10, engine, ..WalConfig::new(&paths[0]) }
}

fn scan(config: &WalConfig, from: ScanFrom) -> Scanned {
    seawall_wal_device::scan(config, &Expectation::default(), from).unwrap()
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: 1, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

fn payload(i: u64) -> Bytes {
    vec![i as u8; 3000 + (i as usize * 37) % 20_000].into()
}

/// Appends and trims until told to stop; answers what was acknowledged.
async fn append_until(
    wal: Wal,
    mut completions: Completions,
    stop: Arc<AtomicBool>,
) -> (Vec<DurableRecord>, Completions) {
    let (mut records, mut next): (Vec<DurableRecord>, u64) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) || (records.len() as u64) < next {
        while !stop.load(Ordering::Relaxed) && next < records.len() as u64 + 16 {
            let payload = payload(next);
            let Ok(reservation) = wal.reserve(payload.len() as u64, SpaceClass::Normal) else { break };
            wal.append(reservation, header(next), payload, next);
            next += 1;
        }
        let durable = completions.next().await.unwrap();
        assert!(durable.failed.is_none(), "{durable:?}");
        records.extend(&durable.records);
        let usage = wal.usage();
        if usage.used_bytes > usage.ring_bytes / 2 {
            wal.trim(records[records.len() - records.len().min(40)].position.frame());
        }
    }
    (records, completions)
}

async fn a_file_joins_and_a_leg_goes(engine: EngineChoice) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let both = [path("a"), path("b")];
    let mirror = Some(both[1].clone());
    seawall_wal_device::format(&FormatConfig { mirror, ..FormatConfig::new(&both[0], 4 << 20, 1) }).unwrap();
    let scanned = scan(&config(&both, engine), ScanFrom::default());
    let (wal, completions) = scanned.open(1, IDENTITY).unwrap();
    let legs: Vec<_> = wal.status().legs.iter().map(|leg| leg.id).collect();
    assert_eq!(legs.len(), 2);
    let stop = Arc::new(AtomicBool::new(false));
    let appending = tokio::spawn(append_until(wal.clone(), completions, stop.clone()));
    let mut durable = wal.durable_watch();
    durable.wait_for(|lsn| lsn.0 > 6 << 20).await.unwrap();

    let in_use = wal.join_leg(&both[1], false, |_, _| ()).await;
    assert!(in_use.is_err(), "a file that holds something is refused");
    let mut last = (0, 0);
    let joined = wal.join_leg(&path("c"), false, |done, all| last = (done, all)).await.unwrap();
    assert!(last.0 == last.1 && last.0 > 0, "{last:?}");
    let mut status = wal.watch();
    wal.finish_join(joined, 2);
    wal.drop_leg(legs[0], 3);
    wal.drop_leg(legs[1], 4);
    let status = status.wait_for(|status| status.legs.len() == 1).await.unwrap().clone();
    assert!(status.legs[0].id == joined && matches!(status.legs[0].state, LegState::InSet), "{status:?}");
    let now = wal.usage().durable.0;
    durable.wait_for(|lsn| lsn.0 > now + (1 << 20)).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let (records, mut completions) = appending.await.unwrap();
    let trim = records[records.len() - 60].position.frame();
    wal.trim(trim);
    let trim = wal.usage().trim;
    let stats = wal.stats();
    assert!(stats.frames > 0 && stats.device_bytes > stats.payload_bytes, "{stats:?}");
    wal.close().await.unwrap();
    assert!(completions.next().await.is_none());

    let set = LegSet { epoch: 4, legs: vec![joined] };
    let from = ScanFrom { trim, opened_at: vec![(1, Lsn(0))], legs: Some(set), ..ScanFrom::default() };
    let alone = config(&[path("c")], engine);
    let expected: Vec<_> = records.iter().filter(|record| record.position.frame() >= trim).collect();
    let scanned = scan(&alone, from.clone());
    assert!(scanned.damage.is_none() && scanned.clean_shutdown, "{:?}", scanned.damage);
    assert_eq!(scanned.records.len(), expected.len());
    for (scanned, expected) in scanned.records.iter().zip(&expected) {
        assert_eq!(scanned.position, expected.position);
    }
    let old = seawall_wal_device::scan(&config(&both[..1], engine), &Expectation::default(), from.clone());
    assert!(old.is_err(), "a leg that was dropped is refused");
    drop(scanned);
    reads_only(&alone, from, &expected).await;
}

async fn reads_only(config: &WalConfig, from: ScanFrom, records: &[&DurableRecord]) {
    let image = |path: &Path| std::fs::read(path).unwrap();
    let before = image(&config.path);
    let wal = scan(config, from).seal().unwrap();
    assert!(matches!(wal.reserve(10, SpaceClass::Normal), Err(WalFull::Unusable(WalError::Sealed))));
    for record in records.iter().take(20) {
        assert_eq!(wal.read(record.position, header(record.token)).await.unwrap(), payload(record.token));
    }
    wal.close().await.unwrap();
    assert!(image(&config.path) == before, "nothing is written");
}

#[tokio::test]
async fn a_file_joins_a_mirror_and_an_old_leg_goes_with_io_uring() {
    a_file_joins_and_a_leg_goes(EngineChoice::Auto).await;
}

#[tokio::test]
async fn a_file_joins_a_mirror_and_an_old_leg_goes_with_pwrite() {
    a_file_joins_and_a_leg_goes(EngineChoice::Pwrite).await;
}
