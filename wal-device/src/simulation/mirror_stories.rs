//! Short stories of a mirror, with a fixed course.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::{Expectation, Fault, Faults, FormatConfig, LegSet, ScanFrom, WalConfig};
use crate::device::simulated::{SimDisk, SimDiskConfig};
use crate::device::{BlockDevice, Medium, Operation, Wait, run};
use crate::engine::{Engine, Turn};
use crate::error::{ScanError, WalError, WalFull};
use crate::format::frame::FrameHeader;
use crate::format::superblock::Superblock;
use crate::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use crate::format_device::{format_legs_on, write_superblock_to};
use crate::handle::{Completions, Wal};
use crate::open::{Scanned, scan_legs_on};
use crate::status::{AlarmKind, Distrust, LegState};
use crate::types::{DurableRecord, LegId, Lsn, RecordHeader, SpaceClass};

const RING: u64 = 1 << 20;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

pub(super) fn new_disk(seed: u64) -> SimDisk {
    let bytes = RING_OFFSET + RING;
    SimDisk::new(seed, SimDiskConfig { bytes, sector_bytes: 4096, fua: true, lies_per_mille: 0 })
}

fn device(disks: &[&SimDisk]) -> Box<dyn BlockDevice> {
    let mut device = disks[0].device();
    for (leg, disk) in (0..).zip(disks).skip(1) {
        device.add_leg(leg, Medium::Simulated((*disk).clone())).unwrap();
    }
    Box::new(device)
}

pub(super) struct Mirror {
    pub disks: [SimDisk; 2],
    pub legs: [LegId; 2],
    pub config: WalConfig,
}

impl Mirror {
    pub fn new(faults: Faults) -> Self {
        let disks = [new_disk(1), new_disk(2)];
        let format = FormatConfig::new("simulated", RING, 1);
        let bytes = [disks[0].bytes(), disks[1].bytes()];
        let formatted = format_legs_on(device(&[&disks[0], &disks[1]]).as_mut(), &bytes, &format).unwrap();
        let config = WalConfig { record_bytes_max: 50_000, pipeline_bytes: 1, faults, ..WalConfig::new("simulated") };
        Self { legs: [formatted[0].leg, formatted[1].leg], disks, config }
    }

    pub fn open(&self) -> Life {
        let disks = [&self.disks[0], &self.disks[1]];
        let scanned = scan(&disks, &self.config, &[], LegSet { epoch: 1, legs: self.legs.to_vec() }).unwrap();
        let (wal, completions, engine) = scanned.open_stepped(1, IDENTITY).unwrap();
        Life { wal, completions, engine, records: Vec::new(), next: 0 }
    }
}

fn scan(disks: &[&SimDisk], config: &WalConfig, opened_at: &[(u64, Lsn)], set: LegSet) -> Result<Scanned, ScanError> {
    let from = ScanFrom { opened_at: opened_at.to_vec(), legs: Some(set), ..ScanFrom::default() };
    let bytes: Vec<u64> = disks.iter().map(|disk| disk.bytes()).collect();
    scan_legs_on(device(disks), &bytes, config, &Expectation::default(), from)
}

pub(super) struct Life {
    pub wal: Wal,
    pub completions: Completions,
    pub engine: Engine,
    pub records: Vec<DurableRecord>,
    pub next: u64,
}

pub(super) fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: 1, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

impl Life {
    pub fn append(&mut self, count: u64) {
        for _ in 0..count {
            let reservation = self.wal.reserve(1000, SpaceClass::Normal).unwrap();
            self.wal.append(reservation, header(self.next), bytes::Bytes::from(vec![self.next as u8; 1000]), self.next);
            self.next += 1;
        }
    }

    pub fn steps(&mut self, count: usize) {
        for _ in 0..count {
            if self.engine.turn() == Turn::Finished || self.engine.wait(Wait::No) == Turn::Finished {
                return;
            }
            self.records.extend(self.completions.try_next().into_iter().flat_map(|durable| durable.records));
        }
    }

    /// Appends records and steps until all are acknowledged.
    pub fn append_and_wait(&mut self, count: u64) {
        for _ in 0..count {
            self.append(1);
            for _ in 0..1000 {
                if self.records.len() as u64 == self.next {
                    break;
                }
                self.steps(1);
            }
        }
        assert_eq!(self.records.len() as u64, self.next, "all are acknowledged");
    }

    /// Drives the engine while something waits for it.
    pub fn until<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..100_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            self.steps(1);
        }
        panic!("it never ends")
    }

    pub fn read(&mut self, i: usize) -> Result<bytes::Bytes, WalError> {
        let (wal, record) = (self.wal.clone(), self.records[i]);
        self.until(wal.read(record.position, header(record.token)))
    }
}

#[test]
fn what_is_acknowledged_lies_on_both_legs() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    let records = life.records.clone();
    mirror.disks.iter().for_each(SimDisk::cut_power);
    drop(life);
    for i in [0, 1] {
        let set = LegSet { epoch: 2, legs: vec![mirror.legs[i]] };
        let scanned = scan(&[&mirror.disks[i]], &mirror.config, &[(1, Lsn(0))], set).unwrap();
        assert_eq!((scanned.records.len(), scanned.damage), (records.len(), None), "leg {i} alone");
    }
}

#[test]
fn nothing_is_acknowledged_between_the_failure_of_a_leg_and_its_drop() {
    for failing in [0, 1] {
        let mirror = Mirror::new(Faults::default());
        let mut life = mirror.open();
        life.append_and_wait(5);
        mirror.disks[failing].fail_write_in(0);
        life.append(3);
        life.steps(300);
        assert_eq!(life.records.len(), 5, "acknowledgements are held");
        let status = life.wal.status();
        assert!(matches!(status.legs[failing].state, LegState::Failed(_)), "{status:?}");
        assert!(status.failed.is_none() && life.wal.reserve(10, SpaceClass::Normal).is_ok());
        life.wal.drop_leg(mirror.legs[failing], 2);
        life.steps(300);
        assert_eq!(life.records.len(), 8, "and come when it is dropped");
        assert_eq!(life.wal.status().legs.len(), 1);
        life.append_and_wait(5);
        // The other one carries on, and knows of the new set; the dropped one is refused.
        mirror.disks.iter().for_each(SimDisk::kill_process);
        drop(life);
        let set = LegSet { epoch: 2, legs: vec![mirror.legs[1 - failing]] };
        let scanned = scan(&[&mirror.disks[1 - failing]], &mirror.config, &[(1, Lsn(0))], set.clone()).unwrap();
        assert_eq!((scanned.records.len(), scanned.superblock.set_epoch), (13, 2));
        drop(scanned);
        let stale = scan(&[&mirror.disks[failing]], &mirror.config, &[(1, Lsn(0))], set);
        assert!(stale.is_err(), "a dropped leg is refused");
    }
}

#[test]
fn a_close_with_a_failed_leg_ends_and_tells() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(2);
    mirror.disks[1].fail_write_in(0);
    life.append(1);
    life.steps(200);
    life.wal.start_close();
    life.steps(200);
    assert!(life.wal.failed().is_some() && life.records.len() == 2);
}

#[test]
fn the_failure_of_the_last_leg_ends_the_wal() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    for failing in [0, 1] {
        mirror.disks[failing].fail_write_in(0);
        life.append(1);
        life.steps(300);
    }
    assert!(life.wal.failed().is_some() && life.records.len() == 5);
    assert!(matches!(life.wal.reserve(10, SpaceClass::Normal), Err(WalFull::Unusable(_))));
    assert_eq!(life.read(3).unwrap(), vec![3; 1000], "reads go on");
}

#[test]
fn a_record_that_one_leg_lost_is_read_from_the_other() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(6);
    let at = |i: usize| RING_OFFSET + life.records[i].position.lsn.0 + 50;
    mirror.disks[0].rot(at(2), 3);
    mirror.disks[0].make_unreadable(at(4));
    for i in [2, 4] {
        assert_eq!(life.read(i).unwrap(), vec![i as u8; 1000]);
    }
    assert_eq!(life.wal.stats().reads_from_other_leg, 2);
    mirror.disks[1].rot(at_of(&life, 2), 3);
    assert!(matches!(life.read(2), Err(WalError::Corrupt { .. })));
}

pub(super) fn at_of(life: &Life, i: usize) -> u64 {
    RING_OFFSET + life.records[i].position.lsn.0 + 50
}

/// What a leg that joins is formatted as.
pub(super) fn format_joining(disk: &SimDisk, like: &Superblock) -> LegId {
    let leg = LegId(Uuid::from_u128(77));
    for offset in [0, 1] {
        let generation = like.generation + offset;
        let superblock = Superblock { leg, joining: true, mirror: true, generation, ..like.clone() };
        write_superblock_to(&mut disk.device(), 0, &superblock).unwrap();
    }
    leg
}

/// Appends while a third device joins, drops the first leg, and recovers from the new one alone.
fn join_under_load(faults: Faults, trim: bool) -> (usize, Option<Scanned>) {
    let mirror = Mirror::new(faults);
    let mut life = mirror.open();
    // More than a lap, so that the copy wraps.
    for _ in 0..6 {
        life.append_and_wait(30);
        let trim = life.records[life.records.len() - 20].position.frame();
        life.wal.trim(trim);
    }
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    life.append(10);
    let joining = wal.clone();
    let mut progress = Vec::new();
    life.until(joining.join_medium(leg, Medium::Simulated(third.clone()), |done, all| progress.push((done, all))))
        .unwrap();
    life.append_and_wait(10);
    wal.finish_join(leg, 2);
    life.append_and_wait(10);
    for (i, old) in mirror.legs.iter().enumerate() {
        wal.drop_leg(*old, 3 + i as u64);
    }
    life.append_and_wait(10);
    assert!(progress.is_sorted(), "{progress:?}");
    let first = usize::from(trim) * (life.records.len() - 25);
    let from = life.records[life.records.len() - 50 + first / 100].position.frame();
    let expected = life.records.iter().filter(|record| record.position.frame() >= from).count();
    third.cut_power();
    drop((life, wal, joining));
    let set = LegSet { epoch: 4, legs: vec![leg] };
    let from = ScanFrom { trim: from, opened_at: vec![(1, Lsn(0))], legs: Some(set), ..ScanFrom::default() };
    let scanned = scan_legs_on(device(&[&third]), &[third.bytes()], &mirror.config, &Expectation::default(), from);
    (expected, scanned.ok())
}

#[test]
fn a_device_joins_while_appends_go_on_and_then_holds_all() {
    let (expected, scanned) = join_under_load(Faults::default(), false);
    let scanned = scanned.unwrap();
    assert_eq!((scanned.records.len(), scanned.damage), (expected, None));
}

#[test]
fn a_join_without_its_copy_is_seen() {
    let (expected, scanned) = join_under_load(Faults::default().with(Fault::JoinWithoutCopy), false);
    assert!(scanned.is_none_or(|scanned| scanned.damage.is_some() || scanned.records.len() < expected));
}

/// It was formatted long before: a start with it alone would take newer frames for lost ones. Whichever of its requests hangs.
#[test]
fn a_device_that_has_joined_knows_how_far_the_frames_go() {
    let mut joined = 0;
    for after in 0..80 {
        let mut mirror = Mirror::new(Faults::default());
        (mirror.config.record_bytes_max, mirror.config.frame_bytes_max, mirror.config.reach_bytes) = (4000, 8192, 0);
        let mut life = mirror.open();
        life.append_and_wait(20);
        let third = new_disk(after);
        let wal = life.wal.clone();
        let like = life.until(wal.template()).unwrap();
        let leg = format_joining(&third, &like);
        third.stick_next();
        let mut joining = Box::pin(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..60 {
            assert!(joining.as_mut().poll(&mut context).is_pending());
            life.append_and_wait(1);
        }
        third.release_stuck();
        for step in 0..after + 1000 {
            if step == after {
                third.stick_next();
            }
            if joining.as_mut().poll(&mut context).is_ready() {
                let newest = SUPERBLOCK_OFFSETS.map(|offset| Superblock::decode(&third.peek_stable(offset, 4096)));
                let reach = newest.into_iter().flatten().map(|superblock| superblock.reach).max().unwrap();
                assert!(reach > like.reach && reach >= life.wal.usage().next, "{reach}, as formatted {}", like.reach);
                joined += 1;
                break;
            }
            life.steps(1);
        }
    }
    assert!(joined > 10, "{joined}");
}

#[test]
fn a_device_that_fails_while_it_joins_changes_nothing() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    third.fail_write_in(1);
    let joined = life.until(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
    assert!(joined.is_err());
    life.append_and_wait(20);
    assert_eq!(life.wal.status().legs.len(), 2);
    // And it may be tried again.
    let leg = format_joining(&third, &like);
    life.until(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ())).unwrap();
    assert_eq!(life.wal.status().legs.len(), 3);
}

#[test]
fn a_join_that_is_given_up_lets_the_device_go() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    {
        let mut joining = pin!(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
        let mut context = Context::from_waker(Waker::noop());
        while life.wal.status().legs.len() < 3 {
            assert!(joining.as_mut().poll(&mut context).is_pending());
            life.steps(1);
        }
    }
    life.append_and_wait(5);
    assert_eq!(life.wal.status().legs.len(), 2);
}

#[test]
fn a_distrusted_leg_is_flushed_before_the_next_acknowledgement() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    life.append(1);
    life.wal.distrust(mirror.legs[0], Distrust::CacheTurnedVolatile);
    life.steps(300);
    assert_eq!(life.records.len(), 6);
    let alarms = life.wal.status().alarms;
    assert!(matches!(alarms[..], [ref alarm] if alarm.kind == AlarmKind::Distrusted(Distrust::CacheTurnedVolatile)));
    life.append_and_wait(5);
    life.wal.distrust(mirror.legs[1], Distrust::FlushesAreStripped);
    life.append(1);
    life.steps(300);
    assert_eq!(life.records.len(), 11, "a leg that cannot be flushed has failed");
    assert!(matches!(life.wal.status().legs[1].state, LegState::Failed(_)));
}

#[test]
fn superblocks_name_their_legs() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(3);
    life.wal.start_close();
    life.steps(500);
    for (disk, leg) in mirror.disks.iter().zip(mirror.legs) {
        for offset in SUPERBLOCK_OFFSETS {
            let superblock = Superblock::decode(&disk.peek(offset, 4096)).unwrap();
            assert!(superblock.leg == leg && superblock.mirror && !superblock.joining, "{superblock:?}");
        }
    }
}

#[test]
fn a_leg_that_hangs_holds_acknowledgements_until_it_is_dropped_by_hand() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    mirror.disks[1].stick_next();
    life.append(2);
    life.steps(300);
    assert_eq!(life.records.len(), 5);
    assert!(life.wal.stats().oldest_in_flight_us > 0 && life.wal.status().legs.len() == 2);
    life.wal.drop_leg(mirror.legs[1], 2);
    life.append_and_wait(30);
    // What hung comes back late, and is no news.
    mirror.disks[1].release_stuck();
    life.append_and_wait(30);
    assert_eq!(life.wal.status().legs.len(), 1);
}

#[test]
fn a_read_that_hangs_on_a_leg_is_asked_of_the_other_when_it_is_dropped() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    life.steps(100);
    let (wal, record) = (life.wal.clone(), life.records[2]);
    let mut reading = Box::pin(wal.read(record.position, header(2)));
    let mut context = Context::from_waker(Waker::noop());
    mirror.disks[0].stick_next();
    assert!(reading.as_mut().poll(&mut context).is_pending());
    life.steps(200);
    assert!(reading.as_mut().poll(&mut context).is_pending(), "it hangs");
    life.wal.drop_leg(mirror.legs[0], 2);
    assert_eq!(life.until(reading).unwrap(), vec![2; 1000]);
    mirror.disks[0].release_stuck();
    life.append_and_wait(5);
    assert_eq!(life.read(2).unwrap(), vec![2; 1000]);
}

#[test]
fn a_leg_that_hangs_and_was_dropped_does_not_hide_that_another_one_hangs() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(5);
    mirror.disks[0].stick_next();
    life.append(1);
    life.steps(200);
    life.wal.drop_leg(mirror.legs[0], 2);
    life.steps(200);
    let hangs = |life: &Life| {
        let longest = life.wal.shared().stats.longest_wait((life.wal.shared().clock)());
        longest.and_then(|(number, _)| life.wal.shared().leg_at(number))
    };
    assert_eq!(hangs(&life), None);
    mirror.disks[1].stick_next();
    life.append(1);
    life.steps(200);
    assert_eq!(hangs(&life), Some(mirror.legs[1]));
}

/// A third device, and the join of it until it waits for every acknowledgement.
fn joined_third(mirror: &Mirror, life: &mut Life) -> (SimDisk, LegId) {
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    let mut joining = Box::pin(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
    let mut context = Context::from_waker(Waker::noop());
    let is_in_set = |life: &Life| {
        let status = life.wal.status();
        status.legs.iter().any(|known| known.id == leg && matches!(known.state, LegState::InSet))
    };
    for _ in 0..10_000 {
        if is_in_set(life) {
            // Given up at the last moment: nobody has heard that it is done.
            drop(joining);
            assert_eq!(life.wal.status().legs.len(), mirror.legs.len() + 1);
            return (third, leg);
        }
        assert!(joining.as_mut().poll(&mut context).is_pending());
        life.steps(1);
    }
    panic!("it never joins")
}

#[test]
fn a_join_that_is_given_up_at_its_last_moment_lets_the_device_go() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    joined_third(&mirror, &mut life);
    life.append_and_wait(5);
    assert_eq!(life.wal.status().legs.len(), 2);
}

#[test]
fn a_wal_whose_last_leg_of_the_set_failed_fails_when_the_one_that_joined_goes() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    life.wal.drop_leg(mirror.legs[1], 2);
    life.steps(50);
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    life.until(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ())).unwrap();
    mirror.disks[0].fail_write_in(0);
    life.append(1);
    life.steps(200);
    assert!(life.wal.failed().is_none(), "metadata may still take it into the set");
    // It did not.
    life.wal.drop_leg(leg, 2);
    life.steps(200);
    assert!(life.wal.failed().is_some() && life.records.len() == 20);
}

#[test]
fn a_join_ends_when_the_device_that_hangs_is_dropped_by_hand() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(20);
    let third = new_disk(3);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let leg = format_joining(&third, &like);
    let mut joining = Box::pin(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ()));
    let mut context = Context::from_waker(Waker::noop());
    while life.wal.status().legs.len() < 3 {
        assert!(joining.as_mut().poll(&mut context).is_pending());
        life.steps(1);
    }
    third.stick_all();
    for _ in 0..300 {
        assert!(joining.as_mut().poll(&mut context).is_pending(), "it hangs");
        life.steps(1);
    }
    life.wal.drop_leg(leg, 1);
    assert!(life.until(joining).is_err());
    life.append_and_wait(5);
}

/// A leg lost a frame's write, and an older owner's frame lies there with the same LSN: the other leg's is copied.
#[test]
fn a_device_that_joins_gets_no_frame_of_an_older_owner() {
    let mirror = Mirror::new(Faults::default());
    let mut life = mirror.open();
    life.append_and_wait(10);
    let wal = life.wal.clone();
    let like = life.until(wal.template()).unwrap();
    let at = RING_OFFSET + life.records[4].position.frame().0;
    let stale = FrameHeader::decode(&mirror.disks[0].peek(at, 4096), like.salt, true).unwrap();
    let mut block = SharedBuf::new(4096);
    block.exclusive().copy_from_slice(&mirror.disks[0].peek(at, 4096));
    FrameHeader { owner_epoch: stale.owner_epoch - 1, ..stale }.encode_into(like.salt, block.exclusive());
    let write = Operation::Write { durable: true };
    run(&mut mirror.disks[0].device(), 0, write, at, Some(block), 4096).1.unwrap();

    let third = new_disk(3);
    let leg = format_joining(&third, &like);
    life.until(wal.join_medium(leg, Medium::Simulated(third.clone()), |_, _| ())).unwrap();
    wal.finish_join(leg, 2);
    life.steps(100);
    third.cut_power();
    drop((life, wal));
    let set = LegSet { epoch: 2, legs: vec![leg] };
    let scanned = scan(&[&third], &mirror.config, &[(1, Lsn(0))], set).unwrap();
    assert_eq!((scanned.records.len(), scanned.damage), (10, None));
}
