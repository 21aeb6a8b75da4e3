//! Stories of the honesty watchdog: a drive that changes its mind about its cache, a kernel that cannot be told, an I/O that
//! hangs.

use std::io;
use std::time::Duration;

use uuid::Uuid;

use crate::config::{Expectation, Fault, Faults, FormatConfig, ScanFrom, WalConfig};
use crate::device::simulated::{SimDisk, SimDiskConfig};
use crate::device::{Wait, WriteCache};
use crate::engine::Engine;
use crate::format::RING_OFFSET;
use crate::format_device::format_on;
use crate::handle::{Completions, Wal};
use crate::open::scan_on;
use crate::status::{AlarmKind, Distrust};
use crate::types::{Lsn, RecordHeader, SpaceClass};
use crate::watchdog::{FactSource, LegFacts, StuckWatch, Watch};

const RING: u64 = 1 << 20;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

/// The disk as its kernel and its controller show it.
struct SimFacts {
    disk: SimDisk,
    kernel_listens: bool,
}

impl FactSource for SimFacts {
    fn read(&mut self, _device: u64) -> LegFacts {
        let (kernel_cache, drive_cache) = (Some(self.disk.kernel_cache()), Some(self.disk.drive_cache()));
        LegFacts { kernel_cache, drive_cache, health: None }
    }

    fn make_kernel_flush(&mut self, _device: u64) -> io::Result<()> {
        if !self.kernel_listens {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.set_kernel_cache(WriteCache::WriteBack);
        Ok(())
    }
}

struct Life {
    disk: SimDisk,
    config: WalConfig,
    wal: Wal,
    completions: Completions,
    engine: Engine,
    watch: Watch<SimFacts>,
    appended: u64,
    acknowledged: u64,
}

impl Life {
    /// On a drive that writes through, to which the kernel sends no flushes.
    fn new(seed: u64, faults: Faults, kernel_listens: bool) -> Self {
        let bytes = RING_OFFSET + RING;
        let disk = SimDisk::new(seed, SimDiskConfig { bytes, sector_bytes: 4096, fua: true, lies_per_mille: 0 });
        format_on(&mut disk.device(), bytes, &FormatConfig::new("simulated", RING, 1)).unwrap();
        disk.set_drive_cache(WriteCache::WriteThrough);
        disk.set_kernel_cache(WriteCache::WriteThrough);
        let config = WalConfig {
            record_bytes_max: 50_000,
            stuck_after: Duration::from_micros(200),
            faults,
            ..WalConfig::new("simulated")
        };
        let scanned =
            scan_on(Box::new(disk.device()), bytes, &config, &Expectation::default(), ScanFrom::default()).unwrap();
        let (wal, completions, engine) = scanned.open_stepped(1, IDENTITY).unwrap();
        let facts = SimFacts { disk: disk.clone(), kernel_listens };
        let mut watch = Watch::new(facts);
        watch.look(wal.shared());
        assert!(wal.status().alarms.is_empty());
        Self { disk, config, wal, completions, engine, watch, appended: 0, acknowledged: 0 }
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let offset = self.appended as i64;
            let header = RecordHeader { stream: 1, leader_epoch: 1, base_offset: offset, last_offset: offset };
            let reservation = self.wal.reserve(1000, SpaceClass::Normal).unwrap();
            self.wal.append(reservation, header, bytes::Bytes::from(vec![offset as u8; 1000]), self.appended);
            self.appended += 1;
            self.steps(60);
        }
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.engine.turn();
            self.engine.wait(Wait::No);
            let durable = self.completions.try_next();
            self.acknowledged += durable.map_or(0, |durable| durable.records.len() as u64);
        }
    }

    /// How many records recovery finds.
    fn recovered_after_a_power_cut(self) -> u64 {
        self.disk.cut_power();
        drop((self.wal, self.engine));
        let from = ScanFrom { opened_at: vec![(1, Lsn(0))], ..ScanFrom::default() };
        let device = Box::new(self.disk.device());
        let scanned = scan_on(device, self.disk.bytes(), &self.config, &Expectation::default(), from).unwrap();
        if scanned.damage.is_some() { 0 } else { scanned.records.len() as u64 }
    }
}

/// The cache turns volatile, records are acknowledged into it, the watchdog looks, one more is acknowledged, the power goes.
fn acknowledged_and_recovered(seed: u64, faults: Faults) -> (u64, u64) {
    let mut life = Life::new(seed, faults, true);
    life.append(5);
    life.disk.set_drive_cache(WriteCache::WriteBack);
    life.append(5);
    life.watch.look(life.wal.shared());
    life.append(1);
    let alarms = life.wal.status().alarms;
    assert!(
        matches!(&alarms[..], [alarm] if alarm.kind == AlarmKind::Distrusted(Distrust::CacheTurnedVolatile)),
        "{alarms:?}"
    );
    assert_eq!(life.acknowledged, life.appended, "acknowledgements go on");
    (life.acknowledged, life.recovered_after_a_power_cut())
}

#[test]
fn what_is_acknowledged_after_a_cache_turned_volatile_was_noticed_survives_with_all_before() {
    for seed in 0..200 {
        let (acknowledged, recovered) = acknowledged_and_recovered(seed, Faults::default());
        assert_eq!(acknowledged, recovered, "seed {seed}");
    }
}

/// The checker can fail.
#[test]
fn a_watchdog_that_is_ignored_is_caught() {
    let caught = (0..200).any(|seed| {
        let (acknowledged, recovered) = acknowledged_and_recovered(seed, Faults::default().with(Fault::IgnoreDistrust));
        recovered < acknowledged
    });
    assert!(caught);
}

#[test]
fn a_device_that_cannot_be_flushed_fails_before_the_next_acknowledgement() {
    let mut life = Life::new(1, Faults::default(), false);
    life.append(5);
    life.disk.set_drive_cache(WriteCache::WriteBack);
    life.watch.look(life.wal.shared());
    life.steps(10);
    assert!(life.wal.failed().is_some() && life.acknowledged == 5);
}

#[test]
fn an_io_that_hangs_is_reported_while_it_hangs() {
    let mut life = Life::new(1, Faults::default(), true);
    let mut watch = StuckWatch::default();
    life.append(5);
    life.disk.stick_next();
    life.append(1);
    life.steps(500);
    watch.look(life.wal.shared());
    let status = life.wal.status();
    assert!(status.stuck.is_some_and(|stuck| stuck.leg == status.legs[0].id), "{status:?}");
    assert_eq!(life.acknowledged, 5);
    life.disk.release_stuck();
    life.append(1);
    watch.look(life.wal.shared());
    assert!(life.wal.status().stuck.is_none() && life.acknowledged == 7);
}

#[test]
fn a_kernel_that_stops_to_flush_again_is_found_again() {
    let mut life = Life::new(1, Faults::default(), true);
    life.disk.set_drive_cache(WriteCache::WriteBack);
    for _ in 0..2 {
        life.disk.set_kernel_cache(WriteCache::WriteThrough);
        life.watch.look(life.wal.shared());
        assert_eq!(life.disk.kernel_cache(), WriteCache::WriteBack, "the kernel was told");
    }
}
