//! Reading a whole ring, in order and not: verify, salvage and dump; and what recovery makes of devices that were restored,
//! forged upon or spoiled beside the log.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use seawall_wal_device::device::Wait;
use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig};
use seawall_wal_device::engine::{Engine, Turn};
use seawall_wal_device::format::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use seawall_wal_device::format::superblock::Superblock;
use seawall_wal_device::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use seawall_wal_device::look::{Dumped, dump};
use seawall_wal_device::verify::{Span, Verification, verify};
use seawall_wal_device::{
    Completions, Expectation, FormatConfig, LegView, Lsn, OpenError, RecordHeader, RecordPosition, Salt, ScanError,
    ScanFrom, Scanned, SpaceClass, Wal, WalConfig, format_on, salvage, scan_on,
};
use uuid::Uuid;

const RING: u64 = 1 << 20;
const BYTES: u64 = RING_OFFSET + RING;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));
/// A record of 5,000 bytes takes a frame of two blocks.
const FRAME: u64 = 8192;

struct Open {
    wal: Wal,
    completions: Completions,
    engine: Engine,
}

fn new_disk() -> (SimDisk, Superblock) {
    let disk = disk_of(vec![0; BYTES as usize]);
    let superblock = format_on(&mut disk.device(), BYTES, &FormatConfig::new("sim", RING, 1)).unwrap();
    (disk, superblock)
}

fn disk_of(image: Vec<u8>) -> SimDisk {
    let config = SimDiskConfig { bytes: BYTES, sector_bytes: 4096, fua: true, lies_per_mille: 0 };
    SimDisk::with_content(3, config, image)
}

fn image(disk: &SimDisk) -> Vec<u8> {
    disk.peek(0, BYTES as usize)
}

fn try_scan(disk: &SimDisk, from: ScanFrom) -> Result<Scanned, ScanError> {
    let config = WalConfig { record_bytes_max: 20_000, ..WalConfig::new("sim") };
    scan_on(Box::new(disk.device()), BYTES, &config, &Expectation::default(), from)
}

fn scan(disk: &SimDisk, from: ScanFrom) -> Scanned {
    try_scan(disk, from).unwrap()
}

fn from(trim: u64, opened_at: &[(u64, u64)]) -> ScanFrom {
    let opened_at = opened_at.iter().map(|&(epoch, start)| (epoch, Lsn(start))).collect();
    ScanFrom { trim: Lsn(trim), opened_at, ..ScanFrom::default() }
}

fn open(disk: &SimDisk, from: ScanFrom, epoch: u64) -> Open {
    let (wal, completions, engine) = scan(disk, from).open_stepped(epoch, IDENTITY).unwrap();
    Open { wal, completions, engine }
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: 1, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

impl Open {
    /// Records in frames of their own, each durable before the next.
    fn append(&mut self, ids: std::ops::Range<u64>) -> Vec<RecordPosition> {
        let mut positions = Vec::new();
        for i in ids {
            let reservation = self.wal.reserve(5000, SpaceClass::Normal).unwrap();
            self.wal.append(reservation, header(i), bytes::Bytes::from(vec![i as u8 + 1; 5000]), i);
            let before = positions.len();
            while positions.len() == before {
                assert_eq!(self.engine.turn(), Turn::Continue);
                self.engine.wait(Wait::No);
                let done = self.completions.try_next().into_iter().flat_map(|durable| durable.records);
                positions.extend(done.map(|record| record.position));
            }
        }
        positions
    }

    fn crash(self, disk: &SimDisk) {
        disk.kill_process();
        drop(self);
    }

    fn close(mut self) {
        let mut closing = Box::pin(self.wal.close());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while closing.as_mut().poll(&mut context).is_pending() {
            if self.engine.turn() == Turn::Continue {
                self.engine.wait(Wait::No);
            }
        }
    }
}

fn leg(disk: &SimDisk) -> LegView {
    let copies = SUPERBLOCK_OFFSETS.iter().filter_map(|&at| Superblock::decode(&disk.peek(at, 4096)).ok());
    let superblock = copies.max_by_key(|superblock| superblock.generation).unwrap();
    LegView { leg: superblock.leg, superblock, copy_lost: false }
}

fn verified(disk: &SimDisk, from: Option<&ScanFrom>) -> Verification {
    let mut told = 0;
    let found = verify(&mut disk.device(), &[leg(disk)], from, &mut |progress| told = progress.done_bytes).unwrap();
    assert_eq!(told, RING, "progress goes to the end");
    found
}

#[test]
fn a_sound_ring_is_told_apart_into_live_settled_and_nothing_else() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..30);
    wal.wal.trim(records[10].frame());
    wal.append(30..35);
    wal.close();
    for known in [Some(from(records[10].frame().0, &[(1, 0)])), None] {
        let found = verified(&disk, known.as_ref());
        assert_eq!((found.live.from, found.records, found.settled_frames), (records[10].frame(), 25, 10));
        assert!(found.clean_shutdown && found.damage.is_empty() && found.holes.is_empty() && found.stale.is_empty());
        assert!(found.unreadable.is_empty() && found.legs_differ.is_empty());
    }
}

#[test]
fn a_device_that_shrank_or_writes_larger_blocks_is_refused() {
    let (disk, _) = new_disk();
    let config = WalConfig { record_bytes_max: 20_000, ..WalConfig::new("sim") };
    let shrunk = scan_on(Box::new(disk.device()), BYTES - 4096, &config, &Expectation::default(), ScanFrom::default());
    let shrunk = shrunk.err().unwrap();
    assert!(matches!(shrunk, ScanError::Open(OpenError::Shrunk { needed_bytes: BYTES, .. })), "{shrunk}");
    let mut image = image(&disk);
    for at in SUPERBLOCK_OFFSETS.map(|at| at as usize) {
        let superblock = Superblock::decode(&image[at..]).unwrap();
        image[at..at + 256].copy_from_slice(&Superblock { block_bytes: 512, ..superblock }.encode());
    }
    let coarse = try_scan(&disk_of(image), ScanFrom::default()).err().unwrap();
    let expected = matches!(coarse, ScanError::Open(OpenError::BlockBelowSector { block_bytes: 512, .. }));
    assert!(expected, "{coarse}");
}

#[test]
fn metadata_that_is_older_than_the_wal_is_refused() {
    let (disk, _) = new_disk();
    open(&disk, ScanFrom::default(), 5).crash(&disk);
    let config = WalConfig { record_bytes_max: 20_000, ..WalConfig::new("sim") };
    let ask = |owner_epoch_max| {
        let expect = Expectation { owner_epoch_max, ..Expectation::default() };
        scan_on(Box::new(disk.device()), BYTES, &config, &expect, ScanFrom::default()).err()
    };
    assert!(matches!(ask(Some(4)), Some(ScanError::EpochAhead { found: 5, known: 4 })));
    assert!(ask(Some(5)).is_none() && ask(None).is_none());
}

#[test]
fn damage_and_unreadable_blocks_are_found_wherever_they_lie() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..30);
    wal.crash(&disk);
    disk.rot(RING_OFFSET + records[12].lsn.0 + 99, 1);
    disk.rot(RING_OFFSET + records[20].lsn.0 + 99, 1);
    disk.make_unreadable(RING_OFFSET + records[3].frame().0 + 4096);
    let found = verified(&disk, Some(&from(records[5].frame().0, &[(1, 0)])));
    let places: Vec<Lsn> = found.damage.iter().map(|damage| damage.at).collect();
    assert_eq!(places, [records[12].frame(), records[20].frame()]);
    let block = Lsn(records[3].frame().0 + 4096 + RING);
    assert_eq!(
        found.unreadable,
        [Span { from: block, to: Lsn(block.0 + 4096) }],
        "of the lap that begins at the trim LSN"
    );
}

#[test]
fn what_a_crash_left_behind_a_hole_is_a_hole_and_a_stale_run() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..10);
    wal.crash(&disk);
    // Frames that were in flight together: the first was lost, the others are there, and none was acknowledged.
    let mut bytes = image(&disk);
    let salt = leg(&disk).superblock.salt;
    for record in &records[6..] {
        let at = (RING_OFFSET + record.frame().0) as usize;
        let header = FrameHeader::decode(&bytes[at..], salt, true).unwrap();
        FrameHeader { durable: records[6].frame(), ..header }.encode_into(salt, &mut bytes[at..]);
    }
    let at = (RING_OFFSET + records[6].frame().0) as usize;
    bytes[at..at + 4096].fill(0);
    let found = verified(&disk_of(bytes), Some(&from(0, &[(1, 0)])));
    assert_eq!((found.live.to, found.damage.len()), (records[6].frame(), 0));
    assert_eq!(found.holes, [Span { from: records[6].frame(), to: records[7].frame() }]);
    assert_eq!(found.stale.len(), 1);
    assert_eq!((found.stale[0].span.from, found.stale[0].frames), (records[7].frame(), 3));
}

#[test]
fn all_that_is_whole_is_saved_and_the_log_can_begin_anew_behind_it() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..30);
    wal.crash(&disk);
    for spoiled in [12, 13, 20] {
        disk.rot(RING_OFFSET + records[spoiled].lsn.0 + 99, 1);
    }
    let known = from(records[5].frame().0, &[(1, 0)]);
    let saved = salvage(&mut disk.device(), &[leg(&disk)], &known, &mut |_| {}).unwrap();
    let found: Vec<_> = saved.records.iter().map(|record| record.position).collect();
    let expected: Vec<_> = (5..30).filter(|i| ![12, 13, 20].contains(i)).map(|i| records[i]).collect();
    // The last frame is covered by none, but follows one that is: a recovery would return it, too.
    assert_eq!(found, expected);
    let lost = |a: usize, b: usize| Span { from: records[a].frame(), to: records[b].frame() };
    assert_eq!(saved.lost, [lost(12, 14), lost(20, 21)]);
    assert!(saved.past >= Lsn(records[29].frame().0 + FRAME) && saved.past.0.is_multiple_of(4096));

    let given_up = ScanFrom { given_up: true, ..from(saved.past.0, &[(1, 0)]) };
    let anew = scan(&disk, given_up.clone());
    assert_eq!((anew.end, anew.records.len(), anew.damage.clone()), (saved.past, 0, None));
    let mut wal = open(&disk, given_up, 2);
    let fresh = wal.append(0..3);
    wal.crash(&disk);
    let again = scan(&disk, ScanFrom { given_up: true, ..from(saved.past.0, &[(1, 0), (2, saved.past.0)]) });
    assert_eq!(again.records.iter().map(|record| record.position).collect::<Vec<_>>(), fresh);
}

/// Behind a hole a frame that nothing covers may be one that was in flight at the crash.
#[test]
fn what_no_frame_covers_behind_a_hole_is_no_data_and_what_cannot_be_read_is_told() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..10);
    wal.crash(&disk);
    disk.make_unreadable(RING_OFFSET + records[8].frame().0);
    let saved = salvage(&mut disk.device(), &[leg(&disk)], &from(0, &[(1, 0)]), &mut |_| {}).unwrap();
    let found: Vec<_> = saved.records.iter().map(|record| record.position).collect();
    assert_eq!(found, [&records[..8], &records[9..]].concat(), "the last frame says that the one before was durable");
    assert_eq!(saved.lost, [Span { from: records[8].frame(), to: records[9].frame() }]);
    assert_eq!(saved.unreadable, [Span { from: records[8].frame(), to: Lsn(records[8].frame().0 + 4096) }]);

    disk.make_unreadable(RING_OFFSET + records[9].frame().0);
    let saved = salvage(&mut disk.device(), &[leg(&disk)], &from(0, &[(1, 0)]), &mut |_| {}).unwrap();
    assert_eq!((saved.records.len(), saved.lost), (8, Vec::new()));
    assert_eq!(saved.unreadable.len(), 2, "nobody can tell what lay there");
}

/// The end of a give-up: else what cannot be read would be met again at each start.
#[test]
fn a_wal_that_was_given_up_is_opened_whatever_cannot_be_read() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..30);
    wal.crash(&disk);
    let (end, block) = (records[29].frame().0 + FRAME, 4096);
    disk.make_unreadable(RING_OFFSET + end);
    let damage = scan(&disk, from(0, &[(1, 0)])).damage.unwrap();
    assert_eq!(damage.proof, "it cannot be read");
    assert_eq!(damage.durable, damage.at, "nothing shows that anything was there");
    let saved = salvage(&mut disk.device(), &[leg(&disk)], &from(0, &[(1, 0)]), &mut |_| {}).unwrap();
    for spoiled in [saved.past.0, saved.past.0 + 10 * block] {
        disk.make_unreadable(RING_OFFSET + spoiled % RING);
    }
    let given_up = ScanFrom { given_up: true, ..from(saved.past.0, &[(1, 0)]) };
    let anew = scan(&disk, given_up.clone());
    assert_eq!((anew.end, anew.damage.clone()), (saved.past, None));
    let mut wal = open(&disk, given_up, 2);
    wal.append(0..3);
}

#[test]
fn a_dump_shows_frames_records_and_what_is_neither() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..10);
    wal.crash(&disk);
    disk.rot(RING_OFFSET + records[4].lsn.0 + 99, 1);
    disk.make_unreadable(RING_OFFSET + records[7].frame().0);
    let (mut seen, mut nothing, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    dump(&mut disk.device(), &[leg(&disk)], records[2].frame(), &mut |dumped| {
        match dumped {
            Dumped::Frame { records, .. } => assert_eq!(records, 1),
            Dumped::Record { record, payload } => {
                assert!(payload.iter().all(|&byte| i64::from(byte) == record.header.base_offset + 1));
                seen.push(record.position);
            }
            Dumped::Nothing(span) => nothing.push(span),
            Dumped::Unreadable(span) => unreadable.push(span),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(seen, [2, 3, 5, 6, 8, 9].map(|i| records[i]));
    assert_eq!(unreadable, [Span { from: records[7].frame(), to: Lsn(records[7].frame().0 + 4096) }]);
    assert_eq!(nothing[0], Span { from: records[4].frame(), to: records[5].frame() });
    let mut frames = 0;
    dump(&mut disk.device(), &[leg(&disk)], Lsn(0), &mut |dumped| {
        frames += u32::from(matches!(dumped, Dumped::Frame { .. }));
        if frames == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(frames, 3);
}

/// A volume put back to an older snapshot, under newer metadata.
#[test]
fn a_device_that_was_restored_from_before_an_opening_is_damaged_and_not_empty() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let first = wal.append(0..10);
    wal.close();
    let end = scan(&disk, from(0, &[(1, 0)])).end;
    let snapshot = image(&disk);
    let mut wal = open(&disk, from(0, &[(1, 0)]), 2);
    let second = wal.append(10..20);
    wal.crash(&disk);
    let opened = [(1, 0), (2, end.0)];
    let trimmed = from(second[5].frame().0, &opened);
    assert_eq!(scan(&disk, trimmed.clone()).records.len(), 5);

    let restored = disk_of(snapshot.clone());
    let damage = scan(&restored, trimmed.clone()).damage.unwrap();
    assert!(damage.proof.contains("trimmed past an opening"), "{damage}");
    // Where an operator moved the trim LSN by hand it proves nothing.
    assert_eq!(scan(&restored, ScanFrom { given_up: true, ..trimmed.clone() }).damage, None);
    // A crash between the commit of an opening and its superblock leaves the same picture, but nothing is trimmed.
    assert_eq!(scan(&restored, from(first[3].frame().0, &opened)).damage, None);
    assert_eq!(scan(&restored, from(end.0, &opened)).damage, None);

    // A lost superblock copy is no restored snapshot: the frames of the opening show it.
    let mut wounded = image(&disk);
    let newest = leg(&disk).superblock.generation;
    wounded[SUPERBLOCK_OFFSETS[(newest % 2) as usize] as usize + 20] ^= 1;
    let everything_trimmed = from(second[9].frame().0 + FRAME, &opened);
    assert_eq!(scan(&disk_of(wounded), everything_trimmed).damage, None);
}

/// As above, from within the newest opening: no owner epoch tells.
#[test]
fn a_device_that_was_restored_from_before_its_reach_was_raised_is_damaged_and_not_empty() {
    let (disk, _) = new_disk();
    let config = || WalConfig {
        record_bytes_max: 20_000,
        reach_bytes: 64 << 10,
        frame_bytes_max: 8192,
        ..WalConfig::new("sim")
    };
    let scan = |disk: &SimDisk, from: ScanFrom| {
        scan_on(Box::new(disk.device()), BYTES, &config(), &Expectation::default(), from).unwrap()
    };
    let (wal, completions, engine) = scan(&disk, ScanFrom::default()).open_stepped(1, IDENTITY).unwrap();
    let mut wal = Open { wal, completions, engine };
    wal.append(0..5);
    let snapshot = image(&disk);
    let reach = leg(&disk).superblock.reach;
    let records = wal.append(5..60);
    wal.crash(&disk);
    assert!(records[50].frame() > reach && leg(&disk).superblock.reach > records[54].frame());
    let trimmed = from(records[50].frame().0, &[(1, 0)]);
    let damage = scan(&disk_of(snapshot.clone()), trimmed.clone()).damage.unwrap();
    assert!(damage.proof.contains("beyond which this device was never written"), "{damage}");
    let given_up = ScanFrom { given_up: true, ..trimmed.clone() };
    assert_eq!(scan(&disk_of(snapshot.clone()), given_up).damage, None);
    // An opening that was committed, and whose superblock was not written: nothing was trimmed since.
    let opened = from(records[50].frame().0, &[(1, 0), (2, records[50].frame().0)]);
    assert_eq!(scan(&disk_of(snapshot.clone()), opened).damage, None);

    // The ring is there, and only superblocks were lost: its frames show it.
    let mut wounded = image(&disk);
    wounded[..RING_OFFSET as usize].copy_from_slice(&snapshot[..RING_OFFSET as usize]);
    assert_eq!(scan(&disk_of(wounded.clone()), trimmed).records.len(), 5);
    let everything = from(records[54].frame().0 + FRAME, &[(1, 0)]);
    assert_eq!(scan(&disk_of(wounded), everything).damage, None);
}

#[test]
fn a_block_that_cannot_be_read_behind_a_clean_end_is_no_damage() {
    let (disk, _) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    wal.append(0..10);
    wal.close();
    let end = scan(&disk, from(0, &[(1, 0)])).end;
    disk.make_unreadable(RING_OFFSET + end.0);
    disk.make_unreadable(RING_OFFSET + end.0 + 40_960);
    let scanned = scan(&disk, from(0, &[(1, 0)]));
    assert!(scanned.damage.is_none() && scanned.clean_shutdown && scanned.records.len() == 10);
    // But where metadata knows of a later opening, that mark is old.
    assert!(scan(&disk, from(0, &[(1, 0), (2, end.0)])).damage.is_some());
}

/// A producer knows the WAL's id and can foretell LSNs; its payload lies where the log ends a lap later.
#[test]
fn a_payload_that_looks_like_a_frame_is_not_taken_for_one() {
    let (disk, superblock) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..10);
    wal.crash(&disk);
    let end = Lsn(records[9].frame().0 + FRAME);
    let forged = |salt: Salt, lsn: Lsn, durable: Lsn| {
        let mut bytes = image(&disk);
        let header = FrameHeader {
            kind: FrameKind::Empty,
            wal_id: superblock.wal_id,
            incarnation: IDENTITY.1,
            owner_epoch: 9,
            lsn,
            durable,
            trim: Lsn(0),
            length: 4096,
            payload_bytes: 0,
            record_count: 0,
            payload_crc: 0,
        };
        header.encode_into(salt, &mut bytes[(RING_OFFSET + lsn.0) as usize..][..FRAME_HEADER_BYTES]);
        let scanned = scan(&disk_of(bytes), from(0, &[(1, 0)]));
        (scanned.end, scanned.damage.is_some())
    };
    let behind = Lsn(end.0 + FRAME);
    assert_eq!(forged(Salt::NONE, end, end), (end, false), "not taken for the next frame");
    assert_eq!(forged(Salt::NONE, behind, behind), (end, false), "not taken for proof of damage");
    // Who knew the salt could: that is what it is for.
    assert_eq!(forged(superblock.salt, end, end), (Lsn(end.0 + 4096), false));
    assert_eq!(forged(superblock.salt, behind, behind), (end, true));
}

#[test]
fn a_frame_longer_than_the_wal_ever_writes_is_not_read() {
    let (disk, superblock) = new_disk();
    let mut wal = open(&disk, ScanFrom::default(), 1);
    let records = wal.append(0..10);
    wal.crash(&disk);
    let bound = leg(&disk).superblock.frame_bytes_max;
    assert!(bound >= 1 << 20, "frames of 1 MiB are grouped");
    let mut bytes = image(&disk);
    let at = (RING_OFFSET + records[9].frame().0) as usize;
    let mut newest = leg(&disk).superblock;
    newest.frame_bytes_max = 4096;
    let newest_at = SUPERBLOCK_OFFSETS[(newest.generation % 2) as usize] as usize;
    bytes[newest_at..newest_at + 256].copy_from_slice(&newest.encode());
    assert!(FrameHeader::decode(&bytes[at..], superblock.salt, true).is_some());
    let scanned = scan(&disk_of(bytes), from(0, &[(1, 0)]));
    assert_eq!(scanned.records.len(), 0, "frames of two blocks where the superblock allows one");
}
