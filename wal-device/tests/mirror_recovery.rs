//! Recovery over the two legs of a mirror: whichever leg has a frame, it counts, and both hold it before anything is served;
//! whatever is not one of the two legs that metadata names is refused by name.

#![allow(clippy::unwrap_used)]

use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig, SimRandom};
use seawall_wal_device::device::{BlockDevice, Medium, Wait};
use seawall_wal_device::engine::Turn;
use seawall_wal_device::format::frame::FrameHeader;
use seawall_wal_device::format::superblock::Superblock;
use seawall_wal_device::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use seawall_wal_device::{
    Expectation, FormatConfig, LegId, LegSet, Lsn, OpenError, RecordHeader, RecordPosition, ScanError, ScanFrom,
    Scanned, SpaceClass, WalConfig, format_legs_on, salvage, scan_legs_on,
};
use uuid::Uuid;

const RING: u64 = 1 << 20;
const BYTES: u64 = RING_OFFSET + RING;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

/// Two disks, each an image.
#[derive(Clone)]
struct Mirror {
    images: [Vec<u8>; 2],
    legs: [LegId; 2],
    records: Vec<RecordPosition>,
}

fn disk(image: &[u8]) -> SimDisk {
    let config = SimDiskConfig { bytes: BYTES, sector_bytes: 4096, fua: true, lies_per_mille: 0 };
    SimDisk::with_content(3, config, image.to_vec())
}

fn both(disks: &[&SimDisk]) -> Box<dyn BlockDevice> {
    let mut device = disks[0].device();
    for (leg, disk) in (0..).zip(disks).skip(1) {
        device.add_leg(leg, Medium::Simulated((*disk).clone())).unwrap();
    }
    Box::new(device)
}

fn config() -> WalConfig {
    WalConfig { record_bytes_max: 20_000, ..WalConfig::new("mirror") }
}

fn scan(disks: &[&SimDisk], from: ScanFrom) -> Result<Scanned, ScanError> {
    scan_legs_on(both(disks), &vec![BYTES; disks.len()], &config(), &Expectation::default(), from)
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: 1, leader_epoch: 1, base_offset: i as i64, last_offset: i as i64 }
}

impl Mirror {
    /// Twenty records, each in a frame of its own, on both legs.
    fn new() -> Self {
        let disks = [disk(&vec![0; BYTES as usize]), disk(&vec![0; BYTES as usize])];
        let format = FormatConfig::new("mirror", RING, 1);
        let superblocks = format_legs_on(both(&[&disks[0], &disks[1]]).as_mut(), &[BYTES; 2], &format).unwrap();
        assert!(superblocks[0].leg != superblocks[1].leg && superblocks[0].wal_id == superblocks[1].wal_id);
        let scanned = scan(&[&disks[0], &disks[1]], ScanFrom::default()).unwrap();
        let (wal, mut completions, mut engine) = scanned.open_stepped(1, IDENTITY).unwrap();
        let mut records = Vec::new();
        for i in 0..20 {
            let reservation = wal.reserve(5000, SpaceClass::Normal).unwrap();
            wal.append(reservation, header(i), bytes::Bytes::from(vec![i as u8 + 1; 5000]), i);
            while records.len() as u64 <= i {
                assert_eq!(engine.turn(), Turn::Continue);
                engine.wait(Wait::No);
                records.extend(completions.try_next().into_iter().flat_map(|durable| durable.records));
            }
        }
        disks.iter().for_each(SimDisk::kill_process);
        let mut images = [0, 1].map(|i| disks[i].peek(0, BYTES as usize));
        // That the engine writes to both is told elsewhere.
        let ring = images[0][RING_OFFSET as usize..].to_vec();
        images[1][RING_OFFSET as usize..].copy_from_slice(&ring);
        let records = records.iter().map(|record| record.position).collect();
        Self { images, legs: [superblocks[0].leg, superblocks[1].leg], records }
    }

    fn disks(&self) -> [SimDisk; 2] {
        [disk(&self.images[0]), disk(&self.images[1])]
    }

    fn from(&self) -> ScanFrom {
        let legs = Some(LegSet { epoch: 1, legs: self.legs.to_vec() });
        ScanFrom { opened_at: vec![(1, Lsn(0))], legs, ..ScanFrom::default() }
    }

    /// This leg never got the frame of this record.
    fn lose(&mut self, leg: usize, record: usize) {
        let at = (RING_OFFSET + self.records[record].frame().0) as usize;
        self.images[leg][at..at + 8192].fill(0);
    }

    fn refused(&self, disks: &[&SimDisk], from: ScanFrom) -> OpenError {
        match scan(disks, from) {
            Err(ScanError::Open(error)) => error,
            Err(error) => panic!("{error}"),
            Ok(scanned) => panic!("opened with legs {:?}", scanned.legs),
        }
    }
}

#[test]
fn what_any_leg_has_is_recovered_and_both_have_it_before_it_is_served() {
    for seed in 0..30 {
        let mut mirror = Mirror::new();
        let mut random = SimRandom::new(seed);
        let mut lost = [0; 2];
        for record in 0..20 {
            match random.below(3) {
                0 => (),
                leg => {
                    mirror.lose(leg as usize - 1, record);
                    lost[leg as usize - 1] += 1;
                }
            }
        }
        let disks = mirror.disks();
        let scanned = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap();
        assert_eq!(scanned.damage, None);
        let found: Vec<_> = scanned.records.iter().map(|record| record.position).collect();
        assert_eq!(found, mirror.records, "seed {seed}");
        let missing = |leg| scanned.missing.iter().filter(|frame| frame.leg == leg).count();
        assert_eq!([missing(0), missing(1)], lost, "seed {seed}");
        let end = scanned.end.0;
        drop(scanned.open_stepped(2, IDENTITY).unwrap());
        let ring = |disk: &SimDisk| disk.peek(RING_OFFSET, end as usize);
        assert!(ring(&disks[0]) == ring(&disks[1]), "seed {seed}: the legs hold the same log");
        // From here on either of them alone has it all.
        let opened_at = vec![(1, Lsn(0)), (2, Lsn(end))];
        for (disk, leg) in disks.iter().zip(mirror.legs) {
            let legs = Some(LegSet { epoch: 2, legs: vec![leg] });
            let from = ScanFrom { opened_at: opened_at.clone(), legs, ..ScanFrom::default() };
            let alone = scan(&[disk], from).unwrap();
            assert_eq!((alone.records.len(), alone.damage), (20, None), "seed {seed}");
        }
    }
}

#[test]
fn a_crash_while_a_leg_is_brought_up_to_date_is_harmless() {
    let mut mirror = Mirror::new();
    for record in 0..20 {
        mirror.lose(record % 2, record);
    }
    for steps in 0..120 {
        let disks = mirror.disks();
        let scanned = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap();
        disks[steps as usize % 2].cut_power_in(steps);
        let opened = scanned.open_stepped(2, IDENTITY).is_ok();
        disks.iter().for_each(SimDisk::cut_power);
        disks.iter().for_each(SimDisk::forget_planned_faults);
        // The opening was committed before the crash, and may have reached none, one or both of the legs.
        let end = mirror.records[19].frame().0 + 8192;
        let from = ScanFrom { opened_at: vec![(1, Lsn(0)), (2, Lsn(end))], ..mirror.from() };
        let again = scan(&[&disks[0], &disks[1]], from).unwrap();
        assert_eq!((again.records.len(), again.damage), (20, None), "cut after {steps} steps, opened: {opened}");
    }
}

/// The broker goes on with the other one, by the rule for a leg that is absent.
#[test]
fn a_leg_that_fails_while_it_is_opened_is_named_and_the_other_one_alone_has_all() {
    let mut mirror = Mirror::new();
    for record in 0..20 {
        mirror.lose(record % 2, record);
    }
    for (failing, flush) in [(0, false), (0, true), (1, false), (1, true)] {
        let (mut named, mut opened) = ([0; 2], false);
        for steps in 0..400 {
            let disks = mirror.disks();
            let fail = if flush { SimDisk::fail_flush_in } else { SimDisk::fail_write_in };
            let scanned = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap();
            fail(&disks[failing], steps);
            let end = scanned.end;
            // What the copy found is committed in metadata only when it lies on both.
            let committed = scanned.resync().map(|scanned| (scanned.end, scanned.open_stepped(2, IDENTITY).map(drop)));
            let (opened_at, error) = match committed {
                Err(error) => (vec![(1, Lsn(0))], error),
                Ok((end, Err(error))) => (vec![(1, Lsn(0)), (2, end)], error),
                Ok((_, Ok(()))) => {
                    opened = true;
                    break;
                }
            };
            let OpenError::LegFailed { leg, .. } = error else { panic!("{error}") };
            assert_eq!(leg, mirror.legs[failing], "{error}");
            named[opened_at.len() - 1] += 1;
            disks.iter().for_each(SimDisk::cut_power);
            disks.iter().for_each(SimDisk::forget_planned_faults);
            if opened_at.len() == 1 {
                // Nothing was decided: what each leg alone held before still counts, and both together have all.
                let again = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap();
                assert_eq!((again.records.len(), again.damage), (20, None), "step {steps}: {error}");
                continue;
            }
            let other = 1 - failing;
            let legs = Some(LegSet { epoch: 2, legs: vec![mirror.legs[other]] });
            let alone = scan(&[&disks[other]], ScanFrom { opened_at, legs, ..ScanFrom::default() }).unwrap();
            assert_eq!(
                (alone.records.len(), alone.end, alone.damage.clone()),
                (20, end, None),
                "step {steps}: {error}"
            );
            drop(alone.resync().unwrap().open_stepped(3, IDENTITY).unwrap());
        }
        assert!(opened && named[0] > 0 && (flush || named[1] > 0), "leg {failing}, flush {flush}: {named:?}");
    }
}

/// The commit of an opening says that all below its start is valid: that must be true of each leg alone.
#[test]
fn after_a_resync_either_leg_alone_holds_all_that_was_found() {
    let mut mirror = Mirror::new();
    for record in 0..20 {
        mirror.lose(record % 2, record);
    }
    let disks = mirror.disks();
    let scanned = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap().resync().unwrap();
    assert_eq!((scanned.missing.len(), scanned.records.len()), (0, 20));
    let opened_at = vec![(1, Lsn(0)), (2, scanned.end)];
    drop(scanned);
    disks.iter().for_each(SimDisk::cut_power);
    for (disk, leg) in disks.iter().zip(mirror.legs) {
        let legs = Some(LegSet { epoch: 2, legs: vec![leg] });
        let alone = scan(&[disk], ScanFrom { opened_at: opened_at.clone(), legs, ..ScanFrom::default() }).unwrap();
        assert_eq!((alone.records.len(), alone.damage), (20, None));
    }
}

#[test]
fn damage_on_one_leg_is_healed_by_the_other_and_on_both_it_is_reported() {
    let mirror = Mirror::new();
    let disks = mirror.disks();
    let place = |record: usize| RING_OFFSET + mirror.records[record].lsn.0 + 100;
    disks[0].rot(place(3), 1);
    disks[0].make_unreadable(place(7));
    disks[1].make_unreadable(place(12));
    disks[1].rot(SUPERBLOCK_OFFSETS[0] + 20, 3);
    let scanned = scan(&[&disks[0], &disks[1]], mirror.from()).unwrap();
    assert_eq!((scanned.records.len(), scanned.damage.clone(), scanned.missing.len()), (20, None, 3));
    drop(scanned.open_stepped(2, IDENTITY).unwrap());
    let from =
        ScanFrom { opened_at: vec![(1, Lsn(0)), (2, Lsn(mirror.records[19].frame().0 + 8192))], ..mirror.from() };
    assert_eq!(scan(&[&disks[0], &disks[1]], from.clone()).unwrap().missing, []);

    disks[0].rot(place(5), 1);
    disks[1].rot(place(5), 2);
    let damage = scan(&[&disks[0], &disks[1]], from).unwrap().damage.unwrap();
    assert_eq!(damage.at, mirror.records[5].frame());
}

#[test]
fn a_leg_that_is_not_in_the_set_is_refused_and_one_that_is_absent_is_missed() {
    let mirror = Mirror::new();
    let disks = mirror.disks();
    let (a, b) = (&disks[0], &disks[1]);
    let set = |epoch, legs: &[LegId]| ScanFrom { legs: Some(LegSet { epoch, legs: legs.to_vec() }), ..mirror.from() };
    let dropped = set(2, &mirror.legs[..1]);
    assert!(matches!(mirror.refused(&[b], dropped.clone()), OpenError::StaleLeg { set_epoch: 2, .. }));
    assert!(matches!(mirror.refused(&[a, b], dropped.clone()), OpenError::StaleLeg { .. }));
    assert_eq!(scan(&[a], dropped).unwrap().records.len(), 20);
    assert!(matches!(mirror.refused(&[a], mirror.from()), OpenError::LegAbsent { leg, .. } if leg == mirror.legs[1]));
    let unknown = ScanFrom { legs: None, ..mirror.from() };
    assert!(matches!(mirror.refused(&[b], unknown), OpenError::OneOfTwo { .. }));
}

#[test]
fn devices_that_are_not_legs_of_one_wal_are_refused() {
    let (mirror, other) = (Mirror::new(), Mirror::new());
    let (disks, others) = (mirror.disks(), other.disks());
    let mixed = mirror.refused(&[&disks[0], &others[1]], mirror.from());
    assert!(matches!(mixed, OpenError::LegMismatch { what: "the WAL id", .. }), "{mixed}");
    let copy = disk(&mirror.images[0]);
    let twice = mirror.refused(&[&disks[0], &copy], mirror.from());
    assert!(matches!(twice, OpenError::LegTwice { .. }), "{twice}");
}

/// A leg that saw a later set than metadata knows: metadata is the older one.
#[test]
fn a_set_that_metadata_does_not_know_is_refused() {
    let mirror = Mirror::new();
    let disks = mirror.disks();
    let end = {
        let from = ScanFrom { legs: Some(LegSet { epoch: 5, legs: mirror.legs.to_vec() }), ..mirror.from() };
        let scanned = scan(&[&disks[0], &disks[1]], from).unwrap();
        let end = scanned.end;
        drop(scanned.open_stepped(2, IDENTITY).unwrap());
        end
    };
    let from = ScanFrom { opened_at: vec![(1, Lsn(0)), (2, end)], ..mirror.from() };
    assert!(matches!(mirror.refused(&[&disks[0], &disks[1]], from), OpenError::SetAhead { found: 5, known: 1, .. }));
}

/// One leg lost a write, and still holds what an older owner wrote there and nobody acknowledged.
#[test]
fn what_one_leg_lost_is_salvaged_from_the_other_whatever_lies_in_its_place() {
    let mirror = Mirror::new();
    let (cut, place) = (mirror.records[10].frame(), |record: usize| RING_OFFSET + mirror.records[record].frame().0);
    // A crash left the frames from `cut` on behind a hole. The next owner goes on there.
    let mut begun = mirror.clone();
    (0..2).for_each(|leg| begun.lose(leg, 10));
    for leg in 0..2 {
        for record in 11..20 {
            let at = (RING_OFFSET + mirror.records[record].frame().0) as usize;
            let salt = superblock(&begun.images[leg]).salt;
            let header = FrameHeader::decode(&begun.images[leg][at..], salt, true).unwrap();
            FrameHeader { durable: cut, ..header }.encode_into(salt, &mut begun.images[leg][at..]);
        }
    }
    let disks = begun.disks();
    let scanned = scan(&[&disks[0], &disks[1]], begun.from()).unwrap();
    assert_eq!((scanned.end, scanned.damage.clone()), (cut, None));
    let (wal, mut completions, mut engine) = scanned.open_stepped(2, IDENTITY).unwrap();
    let mut records = Vec::new();
    for i in 10..15 {
        let reservation = wal.reserve(5000, SpaceClass::Normal).unwrap();
        wal.append(reservation, header(i), bytes::Bytes::from(vec![0xee; 5000]), i);
        while records.len() as u64 <= i - 10 {
            assert_eq!(engine.turn(), Turn::Continue);
            engine.wait(Wait::No);
            records.extend(completions.try_next().into_iter().flat_map(|durable| durable.records));
        }
    }
    disks.iter().for_each(SimDisk::kill_process);
    let mut images = disks.each_ref().map(|disk| disk.peek(0, BYTES as usize));
    // The first leg lost one of the new frames, and both are damaged before it.
    let lost = records[2].position.frame();
    assert_eq!(lost, mirror.records[12].frame(), "an old frame lay there");
    let at = (RING_OFFSET + lost.0) as usize;
    let stale = begun.images[0][at..at + 8192].to_vec();
    images[0][at..at + 8192].copy_from_slice(&stale);
    for image in &mut images {
        image[place(3) as usize + 4200] ^= 1;
    }
    let disks = images.each_ref().map(|image| disk(image));
    let from = ScanFrom { opened_at: vec![(1, Lsn(0)), (2, cut)], ..mirror.from() };
    let scanned = scan(&[&disks[0], &disks[1]], from.clone()).unwrap();
    assert_eq!(scanned.damage.as_ref().map(|damage| damage.at), Some(mirror.records[3].frame()));
    let saved = salvage(both(&[&disks[0], &disks[1]]).as_mut(), &scanned.legs, &from, &mut |_| {}).unwrap();
    let offsets: Vec<i64> = saved.records.iter().map(|record| record.header.base_offset).collect();
    assert_eq!(offsets, (0..15).filter(|offset| *offset != 3).collect::<Vec<_>>());
}

fn superblock(image: &[u8]) -> Superblock {
    Superblock::decode(&image[SUPERBLOCK_OFFSETS[0] as usize..]).unwrap()
}
