//! One seed: a disk, the metadata that a broker would hold, and the ledger of what was appended and acknowledged.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use uuid::Uuid;

use crate::config::{Expectation, Faults, FormatConfig, ScanFrom, WalConfig};
use crate::device::simulated::{SimDisk, SimDiskConfig, SimRandom};
use crate::engine::{Engine, Turn};
use crate::error::{ScanError, WalFull};
use crate::format::frame::{FrameHeader, FrameKind, RECORD_HEADER_BYTES};
use crate::format::{RING_OFFSET, SUPERBLOCK_OFFSETS};
use crate::format_device::{new_superblock, write_superblock};
use crate::handle::{Completions, Pin, Wal};
use crate::open::{Scanned, scan_on};
use crate::ring::Ring;
use crate::types::{Lsn, RecordHeader, RecordPosition, Segments, SpaceClass};
use crate::{Superblock, WalError};

/// Two do not fit into a frame of two blocks.
const SHORT_LIVES_RECORD_BYTES: u32 = 4000;

const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The disk loses what was never flushed, and nothing else.
    Honest,
    /// Acknowledged frames rot while the WAL is closed.
    Rotting,
    /// Some flushes are not done.
    Lying,
    /// Frames of one length and crashes after a few of them: old frames lie right behind new ends.
    ShortLives,
}

#[derive(Debug, Default)]
pub struct Stats {
    pub records: u64,
    pub crashes: u64,
    pub crashes_in_recovery: u64,
    pub clean_closes: u64,
    pub write_failures: u64,
    pub damages: u64,
    pub ring_full: u64,
    pub pads: u64,
    pub laps: u64,
    /// Unacknowledged records that a crash took.
    pub torn: u64,
    pub reads: u64,
    pub disk_crc: u32,
}

impl Stats {
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.crashes += other.crashes;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.clean_closes += other.clean_closes;
        self.write_failures += other.write_failures;
        self.damages += other.damages;
        self.ring_full += other.ring_full;
        self.pads += other.pads;
        self.laps += other.laps;
        self.torn += other.torn;
        self.reads += other.reads;
    }
}

/// Lives of one WAL until the seed's story ends. `Err` says which promise was broken.
pub fn run(seed: u64, mode: Mode, faults: Faults) -> Result<Stats, String> {
    let mut world = World::new(seed, mode, faults);
    for life in 0..6 {
        if !world.live(life)? {
            break;
        }
    }
    Ok(world.into_stats())
}

/// One short life that ends after `steps` of the disk, then recovery. False when the story was over before.
pub fn run_cut_at(seed: u64, steps: u64) -> Result<bool, String> {
    let mut world = World::new(seed, Mode::ShortLives, Faults::default());
    let end = world.disk.steps() + steps;
    world.disk.cut_power_in(steps);
    let device = Box::new(world.disk.device());
    let scanned = scan_on(device, world.disk.bytes(), &world.config, &Expectation::default(), ScanFrom::default());
    let mut last = None;
    if let Ok(scanned) = scanned
        && scanned.damage.is_none()
    {
        world.opened_at.push((1, Lsn(0)));
        if let Ok((wal, completions, engine)) = scanned.open_stepped(1, IDENTITY) {
            let life = last.insert(Life { wal, completions, engine, pins: Vec::new(), failed: false });
            world.short_story(life)?;
        }
    }
    let cut = world.disk.steps() >= end;
    world.disk.cut_power();
    drop(last);
    world.disk.forget_planned_faults();
    world.recover()?;
    Ok(cut)
}

impl World {
    fn into_stats(mut self) -> Stats {
        self.stats.records = self.next_id;
        self.stats.laps = self.metadata_trim.0 / self.ring.bytes;
        self.stats.disk_crc = crate::format::crc32c(&self.disk.peek(0, self.disk.bytes() as usize));
        self.stats
    }

    /// Appends in three rounds, a trim, a fall into idleness, a close.
    fn short_story(&mut self, life: &mut Life) -> Result<(), String> {
        for round in 0..3 {
            for _ in 0..4 {
                self.append(life);
            }
            for _ in 0..40 {
                if !self.step(life)? || life.failed {
                    return Ok(());
                }
            }
            match round {
                0 => self.trim(life),
                1 => life.engine.fell_idle(),
                _ => life.wal.start_close(),
            }
        }
        while self.step(life)? && !life.failed {}
        Ok(())
    }
}

struct World {
    random: SimRandom,
    mode: Mode,
    disk: SimDisk,
    ring: Ring,
    config: WalConfig,
    superblock: Superblock,
    metadata_trim: Lsn,
    opened_at: Vec<(u64, Lsn)>,
    /// Everything appended that may still be there, in order; trimmed ones stay.
    ledger: Vec<Appended>,
    /// So many of the ledger were acknowledged or recovered.
    acknowledged: usize,
    next_id: u64,
    stats: Stats,
}

#[derive(Debug, Clone)]
struct Appended {
    header: RecordHeader,
    payload_bytes: usize,
    /// Once acknowledged or recovered.
    position: Option<RecordPosition>,
}

impl Appended {
    fn payload(&self) -> Vec<u8> {
        let id = self.header.base_offset as u64;
        (0..self.payload_bytes as u64).map(|k| (id.wrapping_mul(0x9e37_79b9) >> 3).wrapping_add(k * 7) as u8).collect()
    }
}

/// An open WAL and what this life remembers.
struct Life {
    wal: Wal,
    completions: Completions,
    engine: Engine,
    pins: Vec<(Pin, usize)>,
    failed: bool,
}

impl World {
    fn new(seed: u64, mode: Mode, faults: Faults) -> Self {
        let mut random = SimRandom::new(seed ^ 0x5ea_3a11);
        let block_bytes = if random.chance(1, 4) && mode != Mode::ShortLives { 512 } else { 4096 };
        let ring_bytes = (64 + random.below(200)) * 4096;
        let disk = SimDisk::new(
            seed,
            SimDiskConfig {
                bytes: RING_OFFSET + ring_bytes,
                sector_bytes: if random.chance(1, 2) { 512 } else { u64::from(block_bytes) },
                fua: random.chance(1, 2),
                lies_per_mille: if mode == Mode::Lying { 30 } else { 0 },
            },
        );
        let mut config = WalConfig {
            record_bytes_max: [2_000, 9_000, 40_000][random.below(3) as usize],
            frame_bytes_max: [8 << 10, 16 << 10, 64 << 10][random.below(3) as usize],
            frames_in_flight_max: 1 + random.below(4) as u32,
            pipeline_bytes: [1, 4096, 20_000][random.below(3) as usize],
            reach_bytes: if random.chance(1, 2) { 0 } else { 64 << 20 },
            queue_bytes_max: 200_000,
            records_outstanding_max: 1_000,
            faults,
            ..WalConfig::new("simulated")
        };
        if mode == Mode::ShortLives {
            config.record_bytes_max = SHORT_LIVES_RECORD_BYTES;
            (config.frame_bytes_max, config.pipeline_bytes, config.frames_in_flight_max) = (8192, 1, 4);
        }
        let format = FormatConfig { block_bytes, ..FormatConfig::new("simulated", ring_bytes, 1) };
        let mut superblock = new_superblock(&format, ring_bytes);
        superblock.wal_id = crate::WalId(Uuid::from_u128(u128::from(seed) + 1));
        // Formatting is not the story here: it meets no lie.
        let lies = disk.set_lies(0);
        for generation in [0, 1] {
            superblock.generation = generation;
            write_superblock(&mut disk.device(), &superblock).unwrap();
        }
        disk.set_lies(lies);
        Self {
            ring: Ring::of(&superblock),
            random,
            mode,
            disk,
            config,
            superblock,
            metadata_trim: Lsn(0),
            opened_at: Vec::new(),
            ledger: Vec::new(),
            acknowledged: 0,
            next_id: 0,
            stats: Stats::default(),
        }
    }

    /// From recovery to the next crash or close. False when the story ends in damage, as it should.
    fn live(&mut self, number: u64) -> Result<bool, String> {
        let Some(scanned) = self.recover()? else { return Ok(false) };
        let Some(mut life) = self.open(scanned)? else { return Ok(true) };
        if self.random.chance(1, 8) {
            self.disk.fail_write_in(self.random.below(300));
        }
        let cut_planned = self.random.chance(1, 2);
        if cut_planned {
            self.disk.cut_power_in(self.random.below(600));
        }
        let mut alive = true;
        let acts = if self.mode == Mode::ShortLives { self.random.below(4) } else { 20 + self.random.below(120) };
        for _ in 0..acts {
            self.act(&mut life)?;
            alive = self.step(&mut life)?;
            if !alive || life.failed {
                break;
            }
        }
        self.take_completions(&mut life)?;
        if life.failed {
            self.stats.write_failures += 1;
            self.check_that_nothing_goes_on(&mut life)?;
        }
        if alive && !life.failed && self.random.chance(1, 4) {
            return self.close(life);
        }
        if self.mode == Mode::Rotting && number >= 2 && !life.failed && alive {
            return self.rot(life);
        }
        self.crash();
        drop(life);
        Ok(true)
    }

    fn crash(&mut self) {
        self.stats.crashes += 1;
        if self.random.chance(1, 3) {
            self.disk.kill_process()
        } else {
            self.disk.cut_power()
        }
        self.disk.forget_planned_faults();
    }

    // ---- recovery ----

    /// Scans until a scan was not crashed, and compares. `None`: damage, rightly reported.
    fn recover(&mut self) -> Result<Option<Scanned>, String> {
        loop {
            if self.random.chance(1, 4) {
                self.disk.cut_power_in(self.random.below(12));
            }
            let from = ScanFrom { trim: self.metadata_trim, opened_at: self.opened_at.clone() };
            let device = Box::new(self.disk.device());
            let scanned = match scan_on(device, self.disk.bytes(), &self.config, &Expectation::default(), from) {
                Ok(scanned) => scanned,
                Err(ScanError::Io(_) | ScanError::Open(_)) => {
                    self.stats.crashes_in_recovery += 1;
                    self.crash();
                    continue;
                }
                Err(error) => return Err(format!("scan: {error}")),
            };
            self.disk.forget_planned_faults();
            if let Some(damage) = &scanned.damage {
                // A power cut within the scan looks like an unreadable device.
                if damage.found.contains("power cut") || damage.proof.contains("cannot be read") {
                    self.stats.crashes_in_recovery += 1;
                    self.crash();
                    continue;
                }
                self.stats.damages += 1;
                return if self.mode == Mode::Lying {
                    Ok(None)
                } else {
                    Err(format!("damage without a cause: {damage}"))
                };
            }
            self.compare(&scanned)?;
            if self.random.chance(1, 10) {
                drop(scanned);
                self.stats.crashes_in_recovery += 1;
                self.crash();
                continue;
            }
            return Ok(Some(scanned));
        }
    }

    /// What was recovered is a prefix of what was appended and holds all that was acknowledged.
    fn compare(&mut self, scanned: &Scanned) -> Result<(), String> {
        let first = self.first_untrimmed();
        let expected = &self.ledger[first..];
        for (i, record) in scanned.records.iter().enumerate() {
            let Some(appended) = expected.get(i) else {
                return Err(format!("recovered a record that was never appended: {record:?}"));
            };
            if record.header != appended.header || record.position.bytes as usize != appended.payload_bytes {
                return Err(format!("recovered {record:?} in place of {appended:?}"));
            }
            if appended.position.is_some_and(|position| position != record.position) {
                return Err(format!("{appended:?} moved to {:?}", record.position));
            }
            let at = self.ring.device_offset(record.position.lsn) + RECORD_HEADER_BYTES as u64;
            if self.disk.peek(at, appended.payload_bytes) != appended.payload() {
                return Err(format!("the bytes of {appended:?} are others"));
            }
        }
        let recovered = first + scanned.records.len();
        if recovered < self.acknowledged {
            if self.mode == Mode::Lying && !self.anything_proves(scanned) {
                // Nothing that survived could show it: the docs say so.
            } else {
                return Err(format!(
                    "{} of {} acknowledged records are lost, end {}",
                    self.acknowledged - recovered,
                    self.acknowledged,
                    scanned.end
                ));
            }
        }
        self.stats.torn += (self.ledger.len() - recovered) as u64;
        self.ledger.truncate(recovered);
        for (appended, record) in self.ledger[first..].iter_mut().zip(&scanned.records) {
            appended.position = Some(record.position);
        }
        self.acknowledged = recovered;
        Ok(())
    }

    fn first_untrimmed(&self) -> usize {
        let trim = self.metadata_trim;
        self.ledger_from(trim)
    }

    /// The first record of the ledger that does not lie below this frame.
    fn ledger_from(&self, frame: Lsn) -> usize {
        self.ledger.partition_point(|record| record.position.is_some_and(|position| position.frame() < frame))
    }

    /// An oracle of its own: does any block of the disk prove that more than the recovered end was durable?
    fn anything_proves(&self, scanned: &Scanned) -> bool {
        let bytes = self.disk.peek(0, self.disk.bytes() as usize);
        let superblocks = SUPERBLOCK_OFFSETS.iter().filter_map(|&at| Superblock::decode(&bytes[at as usize..]).ok());
        let newest = superblocks.max_by_key(|superblock| superblock.generation).unwrap();
        let block = self.ring.block as usize;
        let in_frames = bytes[RING_OFFSET as usize..].chunks_exact(block).zip(0..).any(|(chunk, i)| {
            FrameHeader::decode(chunk, true).is_some_and(|header| {
                header.wal_id == self.superblock.wal_id
                    && self.ring.device_offset(header.lsn) == RING_OFFSET + i * self.ring.block
                    && header.lsn.0 < self.metadata_trim.0 + self.ring.bytes
                    && header.durable > scanned.end
            })
        });
        let opened = self.opened_at.iter().any(|(_, start)| *start > scanned.end);
        in_frames || opened || newest.durable > scanned.end
    }

    fn open(&mut self, scanned: Scanned) -> Result<Option<Life>, String> {
        let epoch = self.opened_at.last().map_or(0, |(epoch, _)| *epoch).max(scanned.owner_epoch_seen) + 1;
        // The open is committed first; the WAL may never hear of it.
        self.opened_at.push((epoch, scanned.end));
        if self.random.chance(1, 10) {
            self.stats.crashes_in_recovery += 1;
            self.crash();
            drop(scanned);
            return Ok(None);
        }
        if self.random.chance(1, 10) {
            self.disk.cut_power_in(self.random.below(6));
        }
        match scanned.open_stepped(epoch, IDENTITY) {
            Ok((wal, completions, engine)) => {
                Ok(Some(Life { wal, completions, engine, pins: Vec::new(), failed: false }))
            }
            Err(_) => {
                self.stats.crashes_in_recovery += 1;
                self.crash();
                Ok(None)
            }
        }
    }

    // ---- a life ----

    /// Something that callers do.
    fn act(&mut self, life: &mut Life) -> Result<(), String> {
        match self.random.below(20) {
            0..=11 => {
                for _ in 0..1 + self.random.below(4) {
                    self.append(life);
                }
                Ok(())
            }
            12 | 13 => {
                self.trim(life);
                Ok(())
            }
            14 => self.read_one(life),
            15 => {
                if let Some(index) = self.some_acknowledged(life)
                    && let Some(pin) = life.wal.pin(self.position(index).frame())
                {
                    life.pins.push((pin, index));
                }
                Ok(())
            }
            16 if !life.pins.is_empty() => {
                let at = self.random.below(life.pins.len() as u64) as usize;
                let index = life.pins[at].1;
                // Pinned, so it can be read, whatever was trimmed.
                self.read(life, index)?;
                life.pins.swap_remove(at);
                Ok(())
            }
            17 => {
                life.engine.fell_idle();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn append(&mut self, life: &mut Life) {
        let payload_bytes = match self.random.below(4) {
            _ if self.mode == Mode::ShortLives => u64::from(SHORT_LIVES_RECORD_BYTES),
            0 => self.random.below(u64::from(self.config.record_bytes_max) + 1),
            1 => self.random.below(3_000).min(u64::from(self.config.record_bytes_max)),
            _ => self.random.below(200),
        } as usize;
        let class = if self.random.chance(1, 10) { SpaceClass::Internal } else { SpaceClass::Normal };
        match life.wal.reserve(payload_bytes as u64, class) {
            Ok(reservation) if self.random.chance(1, 20) => drop(reservation),
            Ok(reservation) => {
                let id = self.next_id as i64;
                self.next_id += 1;
                let header = RecordHeader { stream: 7, leader_epoch: 1, base_offset: id, last_offset: id };
                let appended = Appended { header, payload_bytes, position: None };
                let payload = Bytes::from(appended.payload());
                let cut = self.random.below(payload_bytes as u64 + 1) as usize;
                let segments = Segments::from([payload.slice(..cut), payload.slice(cut..)]);
                life.wal.append(reservation, header, segments, self.ledger.len() as u64);
                self.ledger.push(appended);
            }
            Err(WalFull::Ring { .. }) => {
                self.stats.ring_full += 1;
                if self.random.chance(1, 2) {
                    self.trim(life);
                }
            }
            Err(_) => {}
        }
    }

    /// Metadata commits a trim LSN, then the WAL hears of it, or a crash comes first.
    fn trim(&mut self, life: &mut Life) {
        let first = self.first_untrimmed();
        if self.acknowledged == 0 || first >= self.acknowledged {
            return;
        }
        let index = first + self.random.below((self.acknowledged - first) as u64) as usize;
        let all = index + 1 == self.acknowledged && self.ledger.len() == self.acknowledged;
        let to = if all { life.wal.usage().durable } else { self.position(index).frame() };
        self.metadata_trim = self.metadata_trim.max(to);
        if !self.random.chance(1, 10) {
            life.wal.trim(self.metadata_trim);
        }
    }

    fn read_one(&mut self, life: &mut Life) -> Result<(), String> {
        match self.some_acknowledged(life) {
            Some(index) => self.read(life, index),
            None => Ok(()),
        }
    }

    /// An acknowledged record that the WAL has not been told to trim.
    fn some_acknowledged(&mut self, life: &Life) -> Option<usize> {
        let trim = life.wal.usage().trim;
        let first = self.ledger_from(trim);
        (first < self.acknowledged).then(|| first + self.random.below((self.acknowledged - first) as u64) as usize)
    }

    fn position(&self, index: usize) -> RecordPosition {
        self.ledger[index].position.expect("acknowledged records have a position")
    }

    fn read(&mut self, life: &mut Life, index: usize) -> Result<(), String> {
        let appended = self.ledger[index].clone();
        let wal = life.wal.clone();
        let mut reading = pin!(wal.read(self.position(index), appended.header));
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(read) = reading.as_mut().poll(&mut context) {
                self.stats.reads += 1;
                return match read {
                    Ok(bytes) if bytes == appended.payload() => Ok(()),
                    Ok(_) => Err(format!("read other bytes than {appended:?}")),
                    Err(WalError::Closed | WalError::Read(_)) => Ok(()),
                    Err(error) => Err(format!("{appended:?} cannot be read: {error}")),
                };
            }
            if !self.step(life)? || life.failed {
                return Ok(());
            }
        }
    }

    /// One turn of the engine. False when the power is gone or the engine has ended.
    fn step(&mut self, life: &mut Life) -> Result<bool, String> {
        let mut alive = life.engine.turn() == Turn::Continue;
        alive = alive && life.engine.wait(crate::device::Wait::No) == Turn::Continue;
        if self.random.chance(1, 2) || !alive {
            self.take_completions(life)?;
        }
        Ok(alive)
    }

    fn take_completions(&mut self, life: &mut Life) -> Result<(), String> {
        while let Some(durable) = life.completions.try_next() {
            for record in &durable.records {
                if record.token != self.acknowledged as u64 {
                    return Err(format!("token {} acknowledged, expected {}", record.token, self.acknowledged));
                }
                if record.position.lsn >= durable.durable {
                    return Err(format!("{record:?} acknowledged, but only {} is durable", durable.durable));
                }
                self.ledger[self.acknowledged].position = Some(record.position);
                self.acknowledged += 1;
            }
            life.failed |= durable.failed.is_some();
            life.completions.recycle(durable);
        }
        Ok(())
    }

    /// After a failed write nothing is acknowledged and nothing is accepted.
    fn check_that_nothing_goes_on(&mut self, life: &mut Life) -> Result<(), String> {
        let acknowledged = self.acknowledged;
        if life.wal.failed().is_none() || life.wal.reserve(1, SpaceClass::Internal).is_ok() {
            return Err("a failed WAL still takes records".into());
        }
        for _ in 0..50 {
            life.engine.turn();
            life.engine.wait(crate::device::Wait::No);
        }
        self.take_completions(life)?;
        if self.acknowledged == acknowledged { Ok(()) } else { Err("a failed WAL acknowledged a record".into()) }
    }

    fn close(&mut self, mut life: Life) -> Result<bool, String> {
        life.pins.clear();
        self.disk.forget_planned_faults();
        life.wal.start_close();
        let mut steps = 0;
        while self.step(&mut life)? && !life.failed {
            steps += 1;
            if steps > 100_000 {
                return Err("closing does not end".into());
            }
        }
        if life.failed {
            // A write had failed already when the close began.
            self.check_that_nothing_goes_on(&mut life)?;
            self.crash();
            drop(life);
            return Ok(true);
        }
        if self.acknowledged != self.ledger.len() {
            return Err("closed with records that were neither written nor refused".into());
        }
        self.crash();
        drop(life);
        let from = ScanFrom { trim: self.metadata_trim, opened_at: self.opened_at.clone() };
        let device = Box::new(self.disk.device());
        let scanned = scan_on(device, self.disk.bytes(), &self.config, &Expectation::default(), from);
        let scanned = scanned.map_err(|error| format!("scan after close: {error}"))?;
        self.stats.clean_closes += 1;
        if self.mode == Mode::Honest && !scanned.clean_shutdown {
            return Err(format!("no clean mark after close, damage {:?}", scanned.damage));
        }
        if scanned.damage.is_none() {
            self.count_pads();
        }
        Ok(true)
    }

    fn count_pads(&mut self) {
        let bytes = self.disk.peek(RING_OFFSET, self.ring.bytes as usize);
        let block = self.ring.block as usize;
        let is_pad = |chunk: &[u8]| FrameHeader::decode(chunk, true).is_some_and(|h| h.kind == FrameKind::Pad);
        self.stats.pads += bytes.chunks_exact(block).filter(|chunk| is_pad(chunk)).count() as u64;
    }

    /// Lets everything settle, covers it with a later frame, then spoils one acknowledged record: it must be reported.
    fn rot(&mut self, mut life: Life) -> Result<bool, String> {
        self.disk.forget_planned_faults();
        for _ in 0..400 {
            life.engine.fell_idle();
            self.step(&mut life)?;
        }
        self.take_completions(&mut life)?;
        let Some(index) = self.some_acknowledged(&life) else { return Ok(false) };
        let first = self.first_untrimmed();
        if index < first || life.failed {
            return Ok(false);
        }
        let appended = self.ledger[index].clone();
        let position = self.position(index);
        let in_record = self.random.below((RECORD_HEADER_BYTES - 4 + appended.payload_bytes) as u64);
        let skip_reserved = if in_record < 36 { in_record } else { in_record + 4 };
        let at = self.ring.device_offset(position.lsn) + skip_reserved;
        let unreadable = self.random.chance(1, 3);
        if unreadable {
            self.disk.make_unreadable(at)
        } else {
            self.disk.rot(at, self.random.below(8) as u8)
        }
        if self.random.chance(1, 2) {
            let wal = life.wal.clone();
            let mut reading = pin!(wal.read(position, appended.header));
            let mut context = Context::from_waker(Waker::noop());
            let read = loop {
                if let Poll::Ready(read) = reading.as_mut().poll(&mut context) {
                    break read;
                }
                self.step(&mut life)?;
            };
            match read {
                Err(WalError::Corrupt { .. } | WalError::Read(_)) => {}
                other => return Err(format!("a rotten record was read as {other:?}")),
            }
        }
        self.crash();
        drop(life);
        let from = ScanFrom { trim: self.metadata_trim, opened_at: self.opened_at.clone() };
        let device = Box::new(self.disk.device());
        let scanned = scan_on(device, self.disk.bytes(), &self.config, &Expectation::default(), from);
        let scanned = scanned.map_err(|error| format!("scan of a rotten WAL: {error}"))?;
        match &scanned.damage {
            Some(damage) if damage.at == position.frame() && damage.durable >= damage.at => {}
            other => return Err(format!("rot at {position:?}, reported {other:?}, end {}", scanned.end)),
        }
        self.stats.damages += 1;
        match scanned.open_stepped(1_000_000, IDENTITY) {
            Err(crate::OpenError::Damaged(_)) => Ok(false),
            _ => Err("a damaged WAL was opened".into()),
        }
    }
}
