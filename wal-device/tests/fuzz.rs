//! Bytes from a device are believed in nothing: superblock, frame and record parsers, recovery, verify, salvage and dump meet
//! mutated ones. No panic, no allocation beyond a bound, no frame or record whose CRC (computed here, by other code) is wrong.
//!
//! `FUZZ_SECONDS=n` (3; the long form 600) says how long, `FUZZ_SEED=n` replays one input. What fails is written to
//! `tests/corpus/`, whose files are tried first in every run; with `FUZZ_KEEP=1` also one small input for each way in which a
//! scan ends.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use seawall_wal_device::device::simulated::{SimDisk, SimDiskConfig, SimRandom};
use seawall_wal_device::device::{BlockDevice, Medium, Wait};
use seawall_wal_device::engine::Turn;
use seawall_wal_device::format::frame::{FRAME_HEADER_BYTES, FrameHeader, RECORD_HEADER_BYTES, decode_record};
use seawall_wal_device::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use seawall_wal_device::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use seawall_wal_device::look::dump;
use seawall_wal_device::verify::verify;
use seawall_wal_device::{
    Expectation, FormatConfig, LegView, Lsn, RecordHeader, ScanFrom, SpaceClass, WalConfig, format_on, salvage,
    scan_legs_on, scan_on,
};
use uuid::Uuid;

const RING: u64 = 64 * 4096;
const BYTES: u64 = RING_OFFSET + RING;
/// Bytes of the salt in a superblock: only the tests' own CRCs need it.
const SALT_AT: usize = 136;
const LEG_AT: usize = 144;
/// Above any that an input has.
const POSSIBLE_EPOCH: u64 = (1 << 62) - 1;
/// The reader's chunk is the largest thing that a ring of this size can ask for; the bound is of one allocation.
const ALLOCATION_MAX: u64 = (4 << 20) + RING;

/// Of one thread. Most take a millisecond.
const INPUT_US_MAX: u64 = 2_000_000;

static LARGEST: AtomicU64 = AtomicU64::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator; only a number is kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size() as u64, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn no_bytes_on_a_device_make_a_reader_panic_or_believe_a_wrong_crc() {
    let bases = bases();
    for (name, image) in corpus() {
        judge(&image, 0).unwrap_or_else(|why| panic!("tests/corpus/{name}: {why}"));
    }
    if let Ok(seed) = std::env::var("FUZZ_SEED") {
        let seed = seed.parse().unwrap();
        let judged = judge(&mutated(&bases, seed), seed).and_then(|()| judge_mirror(&bases, seed));
        return judged.unwrap_or_else(|why| panic!("FUZZ_SEED={seed}: {why}"));
    }
    let seconds = std::env::var("FUZZ_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    // Other seeds in every long run, the same in the short one: it must not fail by chance.
    let first = if seconds > 60 { u64::from(std::process::id()) << 32 } else { 1 };
    let slowest = AtomicU64::new(0);
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < end && !failed.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    let image = mutated(&bases, seed);
                    let judge_all = || judge(&image, seed).and_then(|()| judge_mirror(&bases, seed));
                    let before = cpu_us();
                    let judged = catch_unwind(AssertUnwindSafe(judge_all));
                    let took_us = cpu_us() - before;
                    slowest.fetch_max(took_us, Relaxed);
                    // No input makes a reader work without bound.
                    if !matches!(judged, Ok(Ok(()))) || took_us > INPUT_US_MAX {
                        failed.store(true, Relaxed);
                        std::fs::write(corpus_folder().join(format!("found-{seed}.txt")), print(&image)).unwrap();
                        println!(
                            "FUZZ_SEED={seed}: {judged:?} after {took_us} us, kept in tests/corpus/found-{seed}.txt"
                        );
                    }
                }
            });
        }
    });
    if std::env::var("FUZZ_KEEP").is_ok() {
        keep_one_of_each_end(&bases);
    }
    let (inputs, slowest_ms) = (next.load(Relaxed) - first, slowest.load(Relaxed) / 1000);
    println!("{inputs} inputs, the slowest {slowest_ms} ms, largest allocation {} bytes", LARGEST.load(Relaxed));
    assert!(!failed.load(Relaxed), "see FUZZ_SEED above");
}

/// Of this thread.
fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, to a variable of that type.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(code, 0);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// The oracle can fail: without the CRC checks spoiled records are believed, and it says so.
#[cfg(feature = "fault-injection")]
#[test]
fn a_reader_that_skips_crcs_is_caught() {
    use seawall_wal_device::{Fault, Faults};
    let bases = bases();
    let caught = (1..2_000).find_map(|seed| {
        let image = mutated(&bases, seed);
        scan_and_check(&image, seed, Faults::default().with(Fault::SkipCrc)).err()
    });
    assert!(caught.is_some());
}

/// Everything that reads, on one image.
fn judge(image: &[u8], seed: u64) -> Result<(), String> {
    // Every block, as a superblock, as a frame's header and as a record.
    for at in SUPERBLOCK_OFFSETS {
        let block = &image[at as usize..][..4096];
        if let Ok(superblock) = Superblock::decode(block) {
            if crc(&[&block[..SUPERBLOCK_BYTES - 4]]) != u32_at(block, SUPERBLOCK_BYTES - 4) {
                return Err("a superblock with a wrong CRC was believed".into());
            }
            if Superblock::decode(&superblock.encode()) != Ok(superblock) {
                return Err("a superblock changes when it is written again".into());
            }
        }
    }
    for block in image[RING_OFFSET as usize..].chunks_exact(512) {
        let Some(superblock) = newest(image) else { break };
        let salt = salt_of(&superblock);
        if FrameHeader::decode(block, superblock.salt, true).is_some()
            && crc(&[&block[..FRAME_HEADER_BYTES - 4], &salt]) != u32_at(block, FRAME_HEADER_BYTES - 4)
        {
            return Err("a frame header with a wrong CRC was believed".into());
        }
        let _ = decode_record(block, Lsn(seed), superblock.salt, true);
    }
    scan_and_check(image, seed, Default::default())?;

    let Some(superblock) = newest(image) else { return Ok(()) };
    if superblock.ring_offset + superblock.ring_bytes > BYTES {
        return Ok(());
    }
    let disk = disk(image, seed);
    let legs = [LegView { leg: superblock.leg, superblock, copy_lost: seed.is_multiple_of(3) }];
    let from = some_from(image, seed);
    let mut device = disk.device();
    let _ = verify(&mut device, &legs, Some(&from).filter(|_| seed.is_multiple_of(2)), &mut |_| {});
    let _ = dump(&mut device, &legs, from.trim, &mut |_| ControlFlow::Continue(()));
    if let Ok(saved) = salvage(&mut device, &legs, &from, &mut |_| {}) {
        for record in saved.records {
            check_record(image, &legs[0].superblock, &record)?;
        }
    }
    let largest = LARGEST.load(Relaxed);
    if largest > ALLOCATION_MAX { Err(format!("an allocation of {largest} bytes")) } else { Ok(()) }
}

fn scan_and_check(image: &[u8], seed: u64, faults: seawall_wal_device::Faults) -> Result<(), String> {
    let disk = disk(image, seed);
    let config = WalConfig { scan_head_bytes: 61, faults, ..config() };
    let from = some_from(image, seed);
    let scanned = scan_on(Box::new(disk.device()), BYTES, &config, &Expectation::default(), from);
    let Ok(scanned) = scanned else { return Ok(()) };
    if scanned.heads.len() != 61 * scanned.records.len() {
        return Err("the heads do not belong to the records".into());
    }
    let superblock = scanned.superblock.clone();
    scanned.records.iter().try_for_each(|record| check_record(image, &superblock, record))?;
    // Opening must not panic on what was believed either.
    if seed.is_multiple_of(4) {
        let epoch = scanned.owner_epoch_seen + 1;
        drop(scanned.open_stepped(epoch, (Uuid::nil(), Uuid::nil())));
    }
    Ok(())
}

/// Two legs, each spoiled in its own way. What is believed is right on one of them, and after an open on both.
fn judge_mirror(bases: &[Vec<u8>], seed: u64) -> Result<(), String> {
    let mut random = SimRandom::new(seed ^ 0x1e95);
    let base = &bases[random.below(bases.len() as u64) as usize];
    let images = [1u8, 2].map(|leg| {
        let mut image = base.clone();
        for at in SUPERBLOCK_OFFSETS.map(|at| at as usize) {
            image[at + LEG_AT] ^= leg;
            set_crc(&mut image[at..], SUPERBLOCK_BYTES - 4, &[]);
        }
        mutate(&mut image, &mut random);
        image
    });
    let disks = [disk(&images[0], seed), disk(&images[1], seed + 1)];
    let mut device = disks[0].device();
    device.add_leg(1, Medium::Simulated(disks[1].clone())).unwrap();
    let from = some_from(&images[0], seed);
    let scanned = scan_legs_on(Box::new(device), &[BYTES; 2], &config(), &Expectation::default(), from);
    let Ok(scanned) = scanned else { return Ok(()) };
    let (superblock, records) = (scanned.superblock.clone(), scanned.records.clone());
    for record in &records {
        if !images.iter().any(|image| check_record(image, &superblock, record).is_ok()) {
            return Err(format!("{record:?} is right on no leg"));
        }
    }
    if scanned.open_stepped(POSSIBLE_EPOCH, (Uuid::nil(), Uuid::nil())).is_ok() {
        for disk in &disks {
            let after = disk.peek(0, BYTES as usize);
            records.iter().try_for_each(|record| check_record(&after, &superblock, record))?;
        }
    }
    Ok(())
}

fn check_record(
    image: &[u8],
    superblock: &Superblock,
    record: &seawall_wal_device::ScannedRecord,
) -> Result<(), String> {
    let lsn = record.position.lsn;
    let at = (superblock.ring_offset + lsn.0 % superblock.ring_bytes) as usize;
    let (head, payload) = (&image[at..][..RECORD_HEADER_BYTES], &image[at + RECORD_HEADER_BYTES..]);
    let payload = &payload[..record.position.bytes as usize];
    let right = crc(&[&head[..32], &lsn.0.to_le_bytes(), &salt_of(superblock), payload]);
    if right == u32_at(head, 32) { Ok(()) } else { Err(format!("{record:?} was believed with a wrong CRC")) }
}

// ---- inputs ----

/// Sound images to start from: of two block sizes, short and wrapped, closed and crashed.
fn bases() -> Vec<Vec<u8>> {
    let mut bases = Vec::new();
    for (i, (block_bytes, count)) in [(512, 6), (4096, 5), (4096, 40), (512, 5), (512, 120)].into_iter().enumerate() {
        let disk = SimDisk::new(i as u64, disk_config());
        let format = FormatConfig { block_bytes, ..FormatConfig::new("fuzz", RING, 1) };
        format_on(&mut disk.device(), BYTES, &format).unwrap();
        let device = Box::new(disk.device());
        let scanned = scan_on(device, BYTES, &config(), &Expectation::default(), ScanFrom::default()).unwrap();
        let (wal, mut completions, mut engine) = scanned.open_stepped(1, (Uuid::nil(), Uuid::nil())).unwrap();
        let mut random = SimRandom::new(i as u64);
        for id in 0..count {
            // The first image is small enough to be kept.
            let longest = if i == 0 {
                100
            } else if id % 7 == 0 {
                18_000
            } else {
                900
            };
            let bytes = random.below(longest);
            while let Err(refused) = wal.reserve(bytes, SpaceClass::Normal).map(|reservation| {
                let header = RecordHeader { stream: id, leader_epoch: 1, base_offset: 0, last_offset: 0 };
                wal.append(reservation, header, bytes::Bytes::from(vec![id as u8; bytes as usize]), id);
            }) {
                assert!(wal.usage().used_bytes > RING / 4, "{refused}");
                wal.trim(wal.usage().durable);
            }
            for _ in 0..4 + random.below(20) {
                assert_eq!(engine.turn(), Turn::Continue);
                engine.wait(Wait::No);
                completions.try_next();
            }
            if id % 9 == 0 {
                engine.fell_idle();
            }
        }
        bases.push(disk.peek(0, BYTES as usize));
        drop((wal, engine));
    }
    bases
}

/// A few changes to a sound image; half of the time CRCs are made right again, so that what lies behind them is reached.
fn mutated(bases: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = SimRandom::new(seed);
    let mut image = bases[random.below(bases.len() as u64) as usize].clone();
    mutate(&mut image, &mut random);
    image
}

fn mutate(image: &mut [u8], random: &mut SimRandom) {
    let superblock = newest(image).unwrap();
    let (block, salt) = (u64::from(superblock.block_bytes), salt_of(&superblock));
    for _ in 0..1 + random.below(5) {
        let any_block = |random: &mut SimRandom| (RING_OFFSET + random.below(RING / block) * block) as usize;
        let frames: Vec<usize> = (RING_OFFSET..BYTES)
            .step_by(block as usize)
            .map(|at| at as usize)
            .filter(|&at| image[at..].starts_with(b"SWFR"))
            .collect();
        let any_frame = |random: &mut SimRandom| {
            if frames.is_empty() { RING_OFFSET as usize } else { frames[random.below(frames.len() as u64) as usize] }
        };
        let fix = random.chance(3, 4);
        match random.below(8) {
            0 | 1 => {
                let at = SUPERBLOCK_OFFSETS[random.below(2) as usize] as usize;
                spoil(&mut image[at..at + SUPERBLOCK_BYTES - 4], random);
                if fix {
                    set_crc(&mut image[at..], SUPERBLOCK_BYTES - 4, &[]);
                }
            }
            2..=4 => {
                let at = any_frame(random);
                spoil(&mut image[at..at + 88], random);
                if fix {
                    set_crc(&mut image[at..], FRAME_HEADER_BYTES - 4, &salt);
                }
            }
            5 => {
                let at = any_frame(random) + FRAME_HEADER_BYTES;
                spoil(&mut image[at..at + RECORD_HEADER_BYTES], random);
            }
            6 => {
                let (from, to) = (any_block(random), any_block(random));
                image.copy_within(from..from + block as usize, to);
            }
            _ => {
                let at = any_block(random);
                image[at..at + block as usize].fill(random.below(2) as u8 * 255);
            }
        }
    }
}

/// One field, byte or bit; numbers at their edges more often than by chance.
fn spoil(bytes: &mut [u8], random: &mut SimRandom) {
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(3) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u64() as u8,
        _ => {
            let width = if random.chance(1, 2) { 4 } else { 8 };
            let at = (at / width * width).min(bytes.len() - width);
            let powers = 1u64.checked_shl(random.below(65) as u32).unwrap_or(0);
            let near = powers.wrapping_add(random.below(3)).wrapping_sub(1);
            let value = if random.chance(1, 4) { random.below(BYTES) / 512 * 512 } else { near };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
}

/// What metadata might say: from nothing to the right thing to nonsense.
fn some_from(image: &[u8], seed: u64) -> ScanFrom {
    let mut random = SimRandom::new(!seed);
    let Some(superblock) = newest(image) else { return ScanFrom::default() };
    let block = u64::from(superblock.block_bytes);
    let trim = match random.below(4) {
        0 => Lsn(0),
        1 => superblock.trim_hint,
        2 => Lsn(random.below(4 * RING) / block * block),
        _ => Lsn(random.next_u64() >> random.below(64)),
    };
    let opened_at = (0..random.below(3)).map(|i| (i + 1, Lsn(random.below(2 * RING)))).collect();
    ScanFrom { trim, opened_at, given_up: random.chance(1, 4), ..ScanFrom::default() }
}

// ---- an independent reading of the format ----

fn newest(image: &[u8]) -> Option<Superblock> {
    let copies = SUPERBLOCK_OFFSETS.iter().filter_map(|&at| Superblock::decode(&image[at as usize..]).ok());
    copies.max_by_key(|superblock| superblock.generation)
}

/// As it goes into a CRC: nothing if there is none.
fn salt_of(superblock: &Superblock) -> Vec<u8> {
    let salt = superblock.encode()[SALT_AT..SALT_AT + 8].to_vec();
    if salt == [0; 8] { Vec::new() } else { salt }
}

fn set_crc(block: &mut [u8], at: usize, salt: &[u8]) {
    let right = crc(&[&block[..at], salt]);
    block[at..at + 4].copy_from_slice(&right.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// CRC-32C byte by byte, by its definition.
fn crc(parts: &[&[u8]]) -> u32 {
    static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|byte| {
            (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
        })
    });
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)];
    !parts.iter().copied().flatten().fold(u32::MAX, step)
}

fn config() -> WalConfig {
    WalConfig { record_bytes_max: 20_000, frame_bytes_max: 16 << 10, ..WalConfig::new("fuzz") }
}

fn disk_config() -> SimDiskConfig {
    SimDiskConfig { bytes: BYTES, sector_bytes: 512, fua: true, lies_per_mille: 0 }
}

fn disk(image: &[u8], seed: u64) -> SimDisk {
    let disk = SimDisk::with_content(seed, disk_config(), image.to_vec());
    if seed.is_multiple_of(5) {
        disk.make_unreadable(RING_OFFSET + SimRandom::new(seed).below(RING));
    }
    disk
}

// ---- the corpus: each line of 512 bytes that is not all zeros ----

fn corpus_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// For each way in which a scan ends, one input.
fn keep_one_of_each_end(bases: &[Vec<u8>]) {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 1..20_000 {
        let mut image = bases[0].clone();
        mutate(&mut image, &mut SimRandom::new(seed));
        let from = ScanFrom::default();
        let scanned = scan_on(Box::new(disk(&image, 1).device()), BYTES, &config(), &Expectation::default(), from);
        let end = match &scanned {
            Err(error) => error.to_string(),
            Ok(scanned) => match &scanned.damage {
                Some(damage) => format!("damage {} {}", damage.found, damage.proof),
                None => format!("sound clean {}", scanned.clean_shutdown),
            },
        };
        let words: Vec<&str> = end.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty()).collect();
        let name = words.join("-");
        if seen.insert(name.clone()) {
            std::fs::write(corpus_folder().join(format!("{name}.txt")), print(&image)).unwrap();
        }
    }
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(corpus_folder()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".txt") {
            continue;
        }
        let mut image = vec![0; BYTES as usize];
        for line in std::fs::read_to_string(entry.path()).unwrap().lines() {
            let (at, hex) = line.split_once(' ').unwrap();
            let at: usize = at.parse().unwrap();
            for i in 0..hex.len() / 2 {
                image[at + i] = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
            }
        }
        found.push((name, image));
    }
    found.sort();
    found
}

fn print(image: &[u8]) -> String {
    let mut out = String::new();
    for (line, i) in image.chunks(512).zip(0..) {
        if let Some(last) = line.iter().rposition(|&byte| byte != 0) {
            let hex: String = line[..=last].iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{} {hex}", i * 512).unwrap();
        }
    }
    out
}
