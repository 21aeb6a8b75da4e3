//! Images of the on-device format that every later version must still read. A file of `tests/golden/` is never changed.
//!
//! `WRITE_GOLDEN=name` writes `tests/golden/name.txt` anew from this build, for a new format version. A file holds what a
//! scan must find and the image: each line of 512 bytes that is not all zeros, its zeros at the end left out.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::PathBuf;

use bytes::Bytes;
use seawall_wal_device::device::simulated::{SimDevice, SimDisk, SimDiskConfig};
use seawall_wal_device::device::{BlockDevice, Medium, Wait};
use seawall_wal_device::engine::{Engine, Turn};
use seawall_wal_device::format::RING_OFFSET;
use seawall_wal_device::format::superblock::Superblock;
use seawall_wal_device::{
    Completions, DurableRecord, Expectation, FormatConfig, LegSet, Lsn, RecordHeader, RecordPosition, ScanFrom,
    Scanned, SpaceClass, Wal, WalConfig, format_legs_on, format_on, scan_legs_on, scan_on,
};
use uuid::Uuid;

const RING: u64 = 1 << 20;
const LINE: usize = 512;
const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(0xc1), Uuid::from_u128(0x17));

/// What a golden file says.
#[derive(Debug, Default, PartialEq)]
struct Golden {
    trim: u64,
    opened_at: Vec<(u64, u64)>,
    end: u64,
    frames: u64,
    owner_epoch: u64,
    records: Vec<(RecordHeader, RecordPosition)>,
    image: Vec<u8>,
}

#[test]
fn version_2_is_read() {
    check("v2-small");
}

/// Two legs with holes in different places.
#[test]
fn a_mirror_of_version_2_is_read() {
    let names = ["v2-mirror-a", "v2-mirror-b"];
    if std::env::var("WRITE_GOLDEN").is_ok_and(|asked| asked == "v2-mirror") {
        for (name, golden) in names.iter().zip(mirror_story()) {
            std::fs::write(path(name), golden.print()).unwrap();
        }
    }
    let golden = names.map(|name| Golden::parse(&std::fs::read_to_string(path(name)).unwrap()));
    let disks = golden.each_ref().map(Golden::disk);
    let legs = golden.each_ref().map(|golden| Superblock::decode(&golden.image).unwrap().leg);
    let from = ScanFrom { legs: Some(LegSet { epoch: 1, legs: legs.to_vec() }), ..golden[0].from() };
    let scanned = scan_both(&disks, from);
    assert_eq!((scanned.damage.clone(), scanned.missing.len()), (None, 3));
    assert_eq!((scanned.end.0, scanned.frames), (golden[0].end, golden[0].frames));
    let found: Vec<_> = scanned.records.iter().map(|record| (record.header, record.position)).collect();
    assert_eq!(found, golden[0].records);
    let end = scanned.end.0 as usize;
    drop(scanned.open_stepped(golden[0].owner_epoch + 1, IDENTITY).unwrap());
    assert!(disks[0].peek(RING_OFFSET, end) == disks[1].peek(RING_OFFSET, end), "both hold it all");
}

#[test]
fn version_1_is_read() {
    check("v1-small");
}

fn check(name: &str) {
    if std::env::var("WRITE_GOLDEN").is_ok_and(|asked| asked == name) {
        std::fs::write(path(name), small_story().print()).unwrap();
    }
    let golden = Golden::parse(&std::fs::read_to_string(path(name)).unwrap());
    assert!(golden.records.len() > 10 && golden.opened_at.len() == 2, "{name} holds a story");
    let scanned = golden.scan();
    assert_eq!(scanned.damage, None);
    assert_eq!(
        (scanned.end.0, scanned.frames, scanned.owner_epoch_seen),
        (golden.end, golden.frames, golden.owner_epoch)
    );
    let found: Vec<_> = scanned.records.iter().map(|record| (record.header, record.position)).collect();
    assert_eq!(found, golden.records);

    // This version goes on where that one stopped, and still reads its records.
    let (wal, mut completions, mut engine) = scanned.open_stepped(golden.owner_epoch + 1, IDENTITY).unwrap();
    for (header, position) in &golden.records {
        let read = drive(&mut engine, wal.read(*position, *header)).unwrap();
        assert_eq!(read, payload(header.base_offset as u64, position.bytes as usize));
    }
    append(&wal, &mut completions, &mut engine, golden.records.len() as u64 + 100, &[77]);
}

impl Golden {
    fn disk(&self) -> SimDisk {
        SimDisk::with_content(1, disk_config(), self.image.clone())
    }

    fn from(&self) -> ScanFrom {
        let opened_at = self.opened_at.iter().map(|&(epoch, start)| (epoch, Lsn(start))).collect();
        ScanFrom { trim: Lsn(self.trim), opened_at, ..ScanFrom::default() }
    }

    fn scan(&self) -> Scanned {
        scan(&self.disk(), self.from())
    }

    fn print(&self) -> String {
        let mut out = String::new();
        writeln!(out, "trim {}\nend {}\nframes {}\nepoch {}", self.trim, self.end, self.frames, self.owner_epoch)
            .unwrap();
        for (epoch, start) in &self.opened_at {
            writeln!(out, "opened {epoch} {start}").unwrap();
        }
        for (header, at) in &self.records {
            let RecordHeader { stream, leader_epoch, base_offset, last_offset } = header;
            let (lsn, bytes, frame_offset) = (at.lsn, at.bytes, at.frame_offset);
            writeln!(out, "record {stream} {leader_epoch} {base_offset} {last_offset} {lsn} {bytes} {frame_offset}")
                .unwrap();
        }
        for (line, i) in self.image.chunks(LINE).zip(0..) {
            if let Some(last) = line.iter().rposition(|&byte| byte != 0) {
                let hex: String = line[..=last].iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(out, "{} {hex}", i * LINE).unwrap();
            }
        }
        out
    }

    fn parse(text: &str) -> Self {
        let mut golden = Self { image: vec![0; (RING_OFFSET + RING) as usize], ..Self::default() };
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap();
            let number = |i: usize| rest.split(' ').nth(i).unwrap().parse::<u64>().unwrap();
            match word {
                "trim" => golden.trim = number(0),
                "end" => golden.end = number(0),
                "frames" => golden.frames = number(0),
                "epoch" => golden.owner_epoch = number(0),
                "opened" => golden.opened_at.push((number(0), number(1))),
                "record" => {
                    let header = RecordHeader {
                        stream: number(0),
                        leader_epoch: number(1) as i32,
                        base_offset: number(2) as i64,
                        last_offset: number(3) as i64,
                    };
                    let (bytes, frame_offset) = (number(5) as u32, number(6) as u32);
                    golden.records.push((header, RecordPosition { lsn: Lsn(number(4)), bytes, frame_offset }));
                }
                offset => {
                    let at: usize = offset.parse().unwrap();
                    for i in 0..rest.len() / 2 {
                        golden.image[at + i] = u8::from_str_radix(&rest[2 * i..2 * i + 2], 16).unwrap();
                    }
                }
            }
        }
        golden
    }
}

/// Two lives: records alone, together, empty and larger than a frame; trims; a pad and a second lap; an empty frame; a clean
/// close, then an end without one.
fn small_story() -> Golden {
    let disk = SimDisk::new(1, disk_config());
    let format = FormatConfig { block_bytes: 512, ..FormatConfig::new("golden", RING, 7) };
    format_on(&mut disk.device(), disk.bytes(), &format).unwrap();

    let mut records = Vec::new();
    let (wal, mut completions, mut engine) = scan(&disk, ScanFrom::default()).open_stepped(3, IDENTITY).unwrap();
    for lengths in [&[20, 300][..], &[0], &[100, 200, 300], &[40_000], &[200_000], &[200_000], &[200_000]] {
        let first = records.len() as u64;
        records.extend(append(&wal, &mut completions, &mut engine, first, lengths));
    }
    let trim = records[8].1.frame();
    wal.trim(trim);
    for lengths in [&[200_000][..], &[150_000], &[40_000], &[9_000], &[200_000], &[10]] {
        let first = records.len() as u64;
        records.extend(append(&wal, &mut completions, &mut engine, first, lengths));
        wal.trim(records[(records.len() - 2).min(11)].1.frame());
    }
    let trim = wal.usage().trim;
    drive(&mut engine, wal.close()).unwrap();
    drop(engine);

    let opened_at = vec![(3, Lsn(0))];
    let scanned = scan(&disk, ScanFrom { trim, opened_at, ..ScanFrom::default() });
    assert!(scanned.clean_shutdown && scanned.end.0 > RING);
    let second_start = scanned.end.0;
    let (wal, mut completions, mut engine) = scanned.open_stepped(4, IDENTITY).unwrap();
    for lengths in [&[500][..], &[1, 2, 3], &[3000, 40], &[0, 0], &[17], &[5, 5, 5, 5]] {
        let first = records.len() as u64;
        records.extend(append(&wal, &mut completions, &mut engine, first, lengths));
    }
    let covered = wal.usage().next;
    while wal.usage().durable == covered {
        engine.fell_idle();
        step(&mut engine);
    }
    disk.cut_power();
    drop((wal, engine));

    let opened_at = vec![(3, 0), (4, second_start)];
    let mut golden = Golden {
        trim: trim.0,
        opened_at,
        records: records.into_iter().filter(|(_, position)| position.frame() >= trim).collect(),
        image: disk.peek(0, disk.bytes() as usize),
        ..Golden::default()
    };
    let found = golden.scan();
    (golden.end, golden.frames, golden.owner_epoch) = (found.end.0, found.frames, found.owner_epoch_seen);
    golden
}

/// One life on two legs; then one frame is missing on the first and the last two on the second.
fn mirror_story() -> [Golden; 2] {
    let disks = [1, 2].map(|seed| SimDisk::new(seed, disk_config()));
    let format = FormatConfig { block_bytes: 512, ..FormatConfig::new("golden", RING, 7) };
    format_legs_on(&mut both(&disks), &[RING_OFFSET + RING; 2], &format).unwrap();
    let (wal, mut completions, mut engine) = scan_both(&disks, ScanFrom::default()).open_stepped(1, IDENTITY).unwrap();
    let mut records = Vec::new();
    for lengths in [&[20, 300][..], &[0], &[100, 200, 300], &[4_000], &[700], &[30, 30], &[80]] {
        let first = records.len() as u64;
        records.extend(append(&wal, &mut completions, &mut engine, first, lengths));
    }
    disks.iter().for_each(SimDisk::cut_power);
    drop((wal, engine));
    let mut images = disks.each_ref().map(|disk| disk.peek(0, disk.bytes() as usize));
    for (leg, record) in [(0, 3), (1, 8), (1, 10)] {
        let at = (RING_OFFSET + records[record].1.frame().0) as usize;
        images[leg][at..at + LINE].fill(0);
    }
    images.map(|image| Golden {
        opened_at: vec![(1, 0)],
        end: records[10].1.frame().0 + LINE as u64,
        frames: 7,
        owner_epoch: 1,
        records: records.clone(),
        image,
        ..Golden::default()
    })
}

fn both(disks: &[SimDisk; 2]) -> SimDevice {
    let mut device = disks[0].device();
    device.add_leg(1, Medium::Simulated(disks[1].clone())).unwrap();
    device
}

fn scan_both(disks: &[SimDisk; 2], from: ScanFrom) -> Scanned {
    let device = Box::new(both(disks));
    scan_legs_on(device, &[RING_OFFSET + RING; 2], &config(), &Expectation::default(), from).unwrap()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"))
}

fn disk_config() -> SimDiskConfig {
    SimDiskConfig { bytes: RING_OFFSET + RING, sector_bytes: 512, fua: true, lies_per_mille: 0 }
}

fn config() -> WalConfig {
    WalConfig { record_bytes_max: 200_000, frame_bytes_max: 16 << 10, ..WalConfig::new("golden") }
}

fn scan(disk: &SimDisk, from: ScanFrom) -> Scanned {
    scan_on(Box::new(disk.device()), disk.bytes(), &config(), &Expectation::default(), from).unwrap()
}

/// Short payloads are text, long ones zeros: they cost nothing in the file.
fn payload(i: u64, bytes: usize) -> Vec<u8> {
    match bytes {
        0..5_000 => format!("record {i}, ").into_bytes().into_iter().cycle().take(bytes).collect(),
        _ => vec![0; bytes],
    }
}

fn header(i: u64) -> RecordHeader {
    RecordHeader { stream: i % 3 + 1, leader_epoch: 2, base_offset: i as i64, last_offset: i as i64 + 4 }
}

/// Appends these together and waits until they are durable.
fn append(
    wal: &Wal,
    completions: &mut Completions,
    engine: &mut Engine,
    first: u64,
    lengths: &[usize],
) -> Vec<(RecordHeader, RecordPosition)> {
    for (&bytes, i) in lengths.iter().zip(first..) {
        let reservation = wal.reserve(bytes as u64, SpaceClass::Normal).unwrap();
        wal.append(reservation, header(i), Bytes::from(payload(i, bytes)), i);
    }
    let mut durable: Vec<DurableRecord> = Vec::new();
    while durable.len() < lengths.len() {
        step(engine);
        durable.extend(completions.try_next().into_iter().flat_map(|durable| durable.records));
    }
    durable.into_iter().map(|record| (header(record.token), record.position)).collect()
}

fn step(engine: &mut Engine) {
    if engine.turn() == Turn::Continue {
        engine.wait(Wait::No);
    }
}

fn drive<T>(engine: &mut Engine, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(ready) = future.as_mut().poll(&mut context) {
            return ready;
        }
        step(engine);
    }
}
