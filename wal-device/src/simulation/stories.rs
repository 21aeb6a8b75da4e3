//! Short stories with a fixed course.

use std::task::Poll;

use uuid::Uuid;

use super::mirror_stories::format_joining;

use crate::config::{Expectation, FormatConfig, LegSet, ScanFrom, WalConfig};
use crate::device::simulated::{SimDisk, SimDiskConfig};
use crate::device::{Medium, Wait};
use crate::engine::{Engine, Turn};
use crate::error::{OpenError, ScanError, WalFull};
use crate::format::superblock::Superblock;
use crate::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use crate::format_device::{new_superblock, write_superblock};
use crate::handle::{Completions, Wal};
use crate::open::{Scanned, scan_on};
use crate::types::{DurableRecord, Lsn, RecordHeader, SpaceClass};

const RING: u64 = 1 << 20;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

fn new_disk() -> SimDisk {
    let bytes = RING_OFFSET + RING;
    let disk = SimDisk::new(1, SimDiskConfig { bytes, sector_bytes: 4096, fua: true, lies_per_mille: 0 });
    let mut superblock = new_superblock(&FormatConfig::new("simulated", RING, 1), RING);
    for generation in [0, 1] {
        superblock.generation = generation;
        write_superblock(&mut disk.device(), &superblock).unwrap();
    }
    disk
}

fn config() -> WalConfig {
    WalConfig { record_bytes_max: 50_000, ..WalConfig::new("simulated") }
}

fn try_scan(disk: &SimDisk, opened_at: &[(u64, Lsn)]) -> Result<Scanned, ScanError> {
    let from = ScanFrom { trim: Lsn(0), opened_at: opened_at.to_vec(), ..ScanFrom::default() };
    scan_on(Box::new(disk.device()), disk.bytes(), &config(), &Expectation::default(), from)
}

fn open(disk: &SimDisk) -> (Wal, Completions, Engine) {
    try_scan(disk, &[]).unwrap().open_stepped(1, IDENTITY).unwrap()
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: 1, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

/// Appends records one by one, each in a frame of its own, and waits for each.
fn append(wal: &Wal, completions: &mut Completions, engine: &mut Engine, count: u64) -> Vec<DurableRecord> {
    let mut records = Vec::new();
    for i in 0..count {
        let reservation = wal.reserve(1000, SpaceClass::Normal).unwrap();
        wal.append(reservation, header(i), bytes::Bytes::from(vec![i as u8; 1000]), i);
        while records.len() as u64 <= i {
            step(engine);
            records.extend(completions.try_next().into_iter().flat_map(|durable| durable.records));
        }
    }
    records
}

fn step(engine: &mut Engine) -> Turn {
    match engine.turn() {
        Turn::Continue => engine.wait(Wait::No),
        Turn::Finished => Turn::Finished,
    }
}

#[test]
fn a_read_that_fails_once_is_repeated_and_nothing_is_called_damaged() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 10);
    disk.kill_process();
    drop((wal, engine));
    disk.fail_one_read(RING_OFFSET + records[5].position.frame().0);
    let scanned = try_scan(&disk, &[(1, Lsn(0))]).unwrap();
    assert_eq!((scanned.records.len(), scanned.damage), (10, None));
}

#[test]
fn one_lost_superblock_copy_is_survived_and_two_are_not() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 10);
    disk.kill_process();
    drop((wal, engine));
    // Generation 2, the open's, lies in the first copy.
    disk.rot(SUPERBLOCK_OFFSETS[0] + 20, 3);
    let scanned = try_scan(&disk, &[(1, Lsn(0))]).unwrap();
    assert_eq!((scanned.records.len(), scanned.damage), (10, None));
    // The older copy's reach is older, so all of the ring is searched for proof.
    disk.rot(RING_OFFSET + records[3].position.lsn.0 + 50, 1);
    let damage = try_scan(&disk, &[(1, Lsn(0))]).unwrap().damage.unwrap();
    assert_eq!(damage.at, records[3].position.frame());
    disk.rot(SUPERBLOCK_OFFSETS[1] + 20, 3);
    assert!(matches!(try_scan(&disk, &[]), Err(ScanError::Open(OpenError::NotAWal { .. }))));
}

#[test]
fn a_superblock_copy_that_can_be_read_after_all_is_not_lost() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    append(&wal, &mut completions, &mut engine, 3);
    disk.kill_process();
    drop((wal, engine));
    let view = || try_scan(&disk, &[(1, Lsn(0))]).unwrap().legs.remove(0);
    for spoil in [SimDisk::fail_one_read, SimDisk::garble_one_read] {
        // Generation 2, the open's, lies in the first copy.
        spoil(&disk, SUPERBLOCK_OFFSETS[0]);
        let view = view();
        assert_eq!((view.superblock.generation, view.copy_lost), (2, false));
    }
    // A superblock takes one block; what lies behind it is never written again.
    disk.make_unreadable(SUPERBLOCK_OFFSETS[0] + 8192);
    let spoiled = view();
    assert_eq!((spoiled.superblock.generation, spoiled.copy_lost), (2, false));
    disk.make_unreadable(SUPERBLOCK_OFFSETS[0]);
    assert!(view().copy_lost);
}

#[test]
fn what_cannot_be_read_at_the_start_of_a_device_is_no_file_system() {
    let disk = new_disk();
    let left = || crate::edges::what_others_left(&mut disk.device(), 0, disk.bytes());
    disk.make_unreadable(SUPERBLOCK_OFFSETS[0]);
    assert_eq!(left(), None);
    // "_BHRfS_M", where btrfs has it.
    let image = [&disk.peek(0, 65_600)[..], b"_BHRfS_M", &disk.peek(65_608, disk.bytes() as usize - 65_608)].concat();
    let config = SimDiskConfig { bytes: disk.bytes(), sector_bytes: 4096, fua: true, lies_per_mille: 0 };
    let foreign = SimDisk::with_content(1, config, image);
    foreign.make_unreadable(SUPERBLOCK_OFFSETS[0]);
    let left = crate::edges::what_others_left(&mut foreign.device(), 0, foreign.bytes());
    assert_eq!(left, Some("a btrfs file system"));
}

#[test]
fn a_log_that_ends_before_its_last_open_is_damaged() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 10);
    disk.kill_process();
    drop((wal, engine));
    let opened_at = [(1, Lsn(0)), (2, Lsn(records[9].position.frame().0 + (64 << 10)))];
    let damage = try_scan(&disk, &opened_at).unwrap().damage.unwrap();
    assert!(damage.proof.contains("opened"), "{damage}");
}

#[test]
fn a_frame_that_an_opening_has_cut_off_proves_nothing() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 10);
    disk.kill_process();
    drop((wal, engine));
    let (end, last) = (records[4].position.frame(), records[9].position.frame());
    let mut content = disk.peek(0, disk.bytes() as usize);
    content[(RING_OFFSET + end.0) as usize..(RING_OFFSET + last.0) as usize].fill(0);
    let config = SimDiskConfig { bytes: disk.bytes(), sector_bytes: 4096, fua: true, lies_per_mille: 0 };
    let holed = SimDisk::with_content(1, config, content);
    let scanned = try_scan(&holed, &[(1, Lsn(0))]).unwrap();
    assert_eq!(scanned.damage.unwrap().durable, last);
    // An earlier start did not see it, and went on from there.
    let scanned = try_scan(&holed, &[(1, Lsn(0)), (2, end)]).unwrap();
    assert_eq!((scanned.end, scanned.records.len(), scanned.damage), (end, 4, None));
}

#[test]
fn a_torn_frame_beyond_the_reach_shows_that_the_device_was_written_there() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 10);
    disk.kill_process();
    drop((wal, engine));
    let (reach, trim) = (records[4].position.frame(), records[5].position.frame());
    let newest = try_scan(&disk, &[(1, Lsn(0))]).unwrap().superblock.clone();
    // All that was written beyond an old reach is lost, but for a frame at the trim LSN or not.
    let found = |keep: u64| {
        let mut content = disk.peek(0, disk.bytes() as usize);
        content[(RING_OFFSET + reach.0) as usize..(RING_OFFSET + trim.0) as usize].fill(0);
        content[(RING_OFFSET + trim.0 + keep) as usize..].fill(0);
        let config = SimDiskConfig { bytes: disk.bytes(), sector_bytes: 4096, fua: true, lies_per_mille: 0 };
        let old = SimDisk::with_content(1, config, content);
        for generation in [newest.generation, newest.generation + 1] {
            let superblock = Superblock { generation, reach, ..newest.clone() };
            write_superblock(&mut old.device(), &superblock).unwrap();
        }
        old.rot(RING_OFFSET + records[5].position.lsn.0 + 50, 1);
        let from = ScanFrom { trim, opened_at: vec![(1, Lsn(0))], ..ScanFrom::default() };
        let config = self::config();
        scan_on(Box::new(old.device()), old.bytes(), &config, &Expectation::default(), from).unwrap()
    };
    let torn = found(4096);
    assert_eq!((torn.end, torn.damage), (trim, None));
    assert!(found(0).damage.unwrap().proof.contains("never written"));
}

#[test]
fn a_trim_that_is_no_frame_is_refused() {
    let disk = new_disk();
    let from = ScanFrom { trim: Lsn(100), ..ScanFrom::default() };
    let scanned = scan_on(Box::new(disk.device()), disk.bytes(), &config(), &Expectation::default(), from);
    assert!(matches!(scanned, Err(ScanError::BadTrim(Lsn(100)))));
}

#[test]
fn a_failed_write_ends_acknowledgements_but_not_reads() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let records = append(&wal, &mut completions, &mut engine, 3);
    disk.fail_write_in(0);
    let reservation = wal.reserve(1000, SpaceClass::Normal).unwrap();
    wal.append(reservation, header(3), bytes::Bytes::from(vec![3; 1000]), 3);
    let failed = loop {
        step(&mut engine);
        if let Some(durable) = completions.try_next() {
            break durable;
        }
    };
    assert!(failed.records.is_empty() && failed.failed.is_some());
    assert!(matches!(wal.reserve(1, SpaceClass::Normal), Err(WalFull::Unusable(_))));
    let mut reading = Box::pin(wal.read(records[2].position, header(2)));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(read) = reading.as_mut().poll(&mut context) {
            assert_eq!(read.unwrap(), vec![2; 1000]);
            break;
        }
        step(&mut engine);
    }
}

#[test]
fn a_full_queue_refuses_until_completions_are_taken() {
    let disk = new_disk();
    let limits = WalConfig { records_outstanding_max: 20, ..config() };
    let scanned = scan_on(Box::new(disk.device()), disk.bytes(), &limits, &Expectation::default(), ScanFrom::default());
    let (wal, mut completions, mut engine) = scanned.unwrap().open_stepped(1, IDENTITY).unwrap();
    let mut appended = 0;
    let refused = loop {
        match wal.reserve(10, SpaceClass::Normal) {
            Ok(reservation) => wal.append(reservation, header(0), bytes::Bytes::from_static(b"0123456789"), 0),
            Err(refused) => break refused,
        }
        appended += 1;
        for _ in 0..20 {
            step(&mut engine);
        }
    };
    assert!(matches!(refused, WalFull::Queue { .. }) && appended == 19, "{refused}");
    assert_eq!(completions.try_next().unwrap().records.len(), 19);
    assert!(wal.reserve(10, SpaceClass::Normal).is_ok());
}

/// Whatever the moment: it is written before the clean mark and acknowledged, or neither.
#[test]
fn nothing_is_acknowledged_behind_the_clean_mark() {
    for steps_between in 0..60 {
        let disk = new_disk();
        let (wal, mut completions, mut engine) = open(&disk);
        let mut acknowledged = append(&wal, &mut completions, &mut engine, 3).len();
        let late = wal.reserve(1000, SpaceClass::Normal).unwrap();
        wal.start_close();
        let mut ends_in = |steps| (0..steps).any(|_| step(&mut engine) == Turn::Finished);
        let ended = ends_in(steps_between);
        wal.append(late, header(3), bytes::Bytes::from(vec![3; 1000]), 3);
        assert!(ended || ends_in(10_000), "it is closed");
        acknowledged += completions.try_next().map_or(0, |durable| durable.records.len());
        drop((wal, engine));
        let scanned = try_scan(&disk, &[(1, Lsn(0))]).unwrap();
        assert!(scanned.clean_shutdown && scanned.damage.is_none(), "appended after {steps_between} steps");
        assert_eq!(scanned.records.len(), acknowledged);
    }
}

#[test]
fn what_is_told_to_be_durable_can_be_read_and_trimmed_at_once() {
    let disk = new_disk();
    let (wal, mut completions, mut engine) = open(&disk);
    let reservation = wal.reserve(1000, SpaceClass::Normal).unwrap();
    wal.append(reservation, header(0), bytes::Bytes::from(vec![0; 1000]), 0);
    assert_eq!(engine.turn(), Turn::Continue);
    (0..1_000).for_each(|_| assert_eq!(engine.wait(Wait::No), Turn::Continue));
    // The frame is written. Whoever asks now is in the middle of the engine's report.
    let inner = wal.shared().lock();
    std::thread::scope(|scope| {
        scope.spawn(|| engine.turn());
        std::thread::sleep(std::time::Duration::from_millis(100));
        let told = wal.shared().completions().records.len();
        let durable = inner.space.durable();
        drop(inner);
        assert_eq!((told, durable), (0, Lsn(0)), "not before the LSN is durable");
    });
    let durable = completions.try_next().unwrap();
    assert_eq!(durable.records.len(), 1);
    wal.trim(durable.durable);
}

#[test]
fn readers_that_give_up_leave_their_share_of_memory_to_the_device_until_it_is_done() {
    let disk = new_disk();
    let limits = WalConfig { read_bytes_max: 16 << 10, ..config() };
    let scanned = scan_on(Box::new(disk.device()), disk.bytes(), &limits, &Expectation::default(), ScanFrom::default());
    let (wal, mut completions, mut engine) = scanned.unwrap().open_stepped(1, IDENTITY).unwrap();
    let records = append(&wal, &mut completions, &mut engine, 3);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..100 {
        // Polled once, and dropped.
        assert!(std::pin::pin!(wal.read(records[1].position, header(1))).poll(&mut context).is_pending());
    }
    assert_eq!(wal.shared().lock().reads.len(), 4, "as many as fit into 16 KiB");
    (0..100).for_each(|_| assert_eq!(step(&mut engine), Turn::Continue));
    let mut reading = std::pin::pin!(wal.read(records[1].position, header(1)));
    let read = (0..1_000).find_map(|_| {
        step(&mut engine);
        match reading.as_mut().poll(&mut context) {
            std::task::Poll::Ready(read) => Some(read),
            std::task::Poll::Pending => None,
        }
    });
    assert_eq!(read.unwrap().unwrap(), vec![1; 1000]);
}

#[test]
fn through_the_page_cache_nothing_is_acknowledged_while_a_superblock_may_take_the_error() {
    let disk = new_disk();
    disk.set_buffered();
    let (wal, mut completions, mut engine) = open(&disk);
    append(&wal, &mut completions, &mut engine, 3);
    disk.stick_next();
    // Of no leg that is there: all that it does is that the superblock is written.
    wal.finish_join(crate::LegId(Uuid::nil()), 0);
    step(&mut engine);
    let reservation = wal.reserve(1000, SpaceClass::Normal).unwrap();
    wal.append(reservation, header(3), bytes::Bytes::from(vec![3; 1000]), 3);
    (0..500).for_each(|_| assert_eq!(step(&mut engine), Turn::Continue));
    assert!(completions.try_next().is_none());
    disk.release_stuck();
    (0..500).for_each(|_| assert_eq!(step(&mut engine), Turn::Continue));
    assert_eq!(completions.try_next().unwrap().records.len(), 1);
}

/// The WAL was never mirrored, so metadata holds no set of legs. Until it holds one the first device is opened alone and the
/// other one is not; from the end of the join on either of them holds all that was acknowledged.
#[test]
fn every_step_of_a_join_can_be_the_last() {
    let (mut steps, mut after_the_join) = (0, 0);
    while after_the_join < 20 {
        let (disk, second) = (new_disk(), new_disk());
        let (wal, mut completions, mut engine) = open(&disk);
        let mut acknowledged = append(&wal, &mut completions, &mut engine, 10).len();
        let like = Superblock::decode(&disk.peek(SUPERBLOCK_OFFSETS[0], 4096)).unwrap();
        let leg = format_joining(&second, &like);
        let mut joining = Box::pin(wal.join_medium(leg, Medium::Simulated(second.clone()), |_, _| ()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut joined = false;
        for i in 0..steps {
            joined = joined || matches!(joining.as_mut().poll(&mut context), Poll::Ready(Ok(())));
            if i % 20 == 10 {
                let reservation = wal.reserve(1000, SpaceClass::Normal).unwrap();
                wal.append(reservation, header(i), bytes::Bytes::from(vec![i as u8; 1000]), i);
            }
            assert_eq!(step(&mut engine), Turn::Continue);
            acknowledged += completions.try_next().map_or(0, |durable| durable.records.len());
        }
        [&disk, &second].into_iter().for_each(SimDisk::cut_power);
        drop(joining);
        drop((wal, engine));
        let scanned = try_scan(&disk, &[(1, Lsn(0))]).unwrap();
        assert!(scanned.damage.is_none() && scanned.records.len() >= acknowledged, "cut after {steps} steps");
        let alone = try_scan(&second, &[(1, Lsn(0))]);
        assert!(matches!(alone, Err(ScanError::Open(OpenError::OneOfTwo { .. }))), "cut after {steps} steps");
        if joined {
            let legs = Some(LegSet { epoch: 1, legs: vec![leg] });
            let from = ScanFrom { opened_at: vec![(1, Lsn(0))], legs, ..ScanFrom::default() };
            let device = Box::new(second.device());
            let scanned = scan_on(device, second.bytes(), &config(), &Expectation::default(), from).unwrap();
            assert!(scanned.damage.is_none() && scanned.records.len() >= acknowledged, "cut after {steps} steps");
            after_the_join += 1;
        }
        steps += 1;
    }
}
