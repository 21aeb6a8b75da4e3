//! One seed: a disk, the metadata that a broker would hold, and the ledger of what was appended and acknowledged.
//!
//! A world lives several lives (`life.rs`), each ended by a crash or a close; after each it recovers and compares.

use bytes::Bytes;
use uuid::Uuid;

use super::mirror::LegsOfLife;
use super::stats::Stats;
use crate::Superblock;
use crate::config::{Expectation, Faults, FormatConfig, LegSet, ScanFrom, WalConfig};
use crate::device::simulated::{Misdeed, SimDisk, SimDiskConfig, SimRandom};
use crate::device::{BlockDevice, Medium, WriteCache};
use crate::engine::Engine;
use crate::error::{Damage, OpenError, ScanError};
use crate::format::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, RECORD_HEADER_BYTES, decode_record, record_bytes,
};
use crate::format::{RING_OFFSET, SUPERBLOCK_OFFSETS, Salt};
use crate::format_device::{new_superblock, write_superblock};
use crate::handle::{Completions, Pin, Wal};
use crate::open::{Scanned, scan_legs_on};
use crate::ring::{Ring, reach_bytes};
use crate::types::{LegId, Lsn, RecordHeader, RecordPosition};

/// Two do not fit into a frame of two blocks.
pub const SHORT_LIVES_RECORD_BYTES: u32 = 4000;

pub const IDENTITY: (Uuid, Uuid) = (Uuid::from_u128(1), Uuid::from_u128(2));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The disk loses what was never flushed, and nothing else.
    Honest,
    /// Frames of one length and crashes after a few of them: old frames lie right behind new ends.
    ShortLives,
    /// Acknowledged frames rot while the WAL is closed: one that a later frame covers, or the last one.
    Rotting,
    /// Some flushes are not done.
    Lying,
    /// In each life one write is lost, cut short or lands elsewhere, and is called done.
    Careless,
    /// Sectors become unreadable, and some reads fail or are wrong once.
    Latent,
    /// The drive's cache turns volatile behind the kernel's back, and the watchdog sees it a little later.
    Volatile,
    /// Two legs on honest disks: legs fail, die, are absent at a start, are dropped and replaced, and come back stale.
    Mirror,
    /// Two legs, one of them careless and latent: the other one has all.
    MirrorRot,
}

impl Mode {
    pub const ALL: [Self; 9] = [
        Self::Honest,
        Self::ShortLives,
        Self::Rotting,
        Self::Lying,
        Self::Careless,
        Self::Latent,
        Self::Volatile,
        Self::Mirror,
        Self::MirrorRot,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::ShortLives => "short-lives",
            Self::Rotting => "rotting",
            Self::Lying => "lying",
            Self::Careless => "careless",
            Self::Latent => "latent",
            Self::Volatile => "volatile",
            Self::Mirror => "mirror",
            Self::MirrorRot => "mirror-rot",
        }
    }

    pub fn is_mirror(self) -> bool {
        matches!(self, Self::Mirror | Self::MirrorRot)
    }

    /// The only disk breaks its own promises: what it spoils is reported, or nothing that is left on it could tell.
    pub fn disk_is_faulty(self) -> bool {
        matches!(self, Self::Rotting | Self::Lying | Self::Careless | Self::Latent)
    }
}

/// Lives of one WAL until the seed's story ends. `Err` says which promise was broken.
pub fn run(seed: u64, mode: Mode, faults: Faults) -> Result<Stats, String> {
    run_to_the_end(seed, mode, faults).map(World::into_stats)
}

/// As `run`; the CRC of the disk and the count of records, to compare two runs.
pub fn run_traced(seed: u64, mode: Mode) -> Result<(u32, Stats), String> {
    let world = run_to_the_end(seed, mode, Faults::default())?;
    let crc = crate::format::crc32c(&world.disk().peek(0, world.disk().bytes() as usize));
    Ok((crc, world.into_stats()))
}

fn run_to_the_end(seed: u64, mode: Mode, faults: Faults) -> Result<World, String> {
    let mut world = World::new(seed, mode, faults);
    for life in 0..6 {
        if !world.live(life)? {
            break;
        }
    }
    Ok(world)
}

/// One short life that ends after `steps` of the disk, then recovery. False when the story was over before.
pub fn run_cut_at(seed: u64, steps: u64) -> Result<bool, String> {
    let mut world = World::new(seed, Mode::ShortLives, Faults::default());
    let end = world.disk().steps() + steps;
    world.disk().cut_power_in(steps);
    let mut last = None;
    if let Ok(scanned) = world.scan()
        && scanned.damage.is_none()
    {
        world.opened_at.push((1, Lsn(0)));
        if let Ok(opened) = scanned.open_stepped(1, IDENTITY) {
            let life = last.insert(Life::new(opened));
            world.short_story(life)?;
        }
    }
    let cut = world.disk().steps() >= end;
    world.disk().cut_power();
    drop(last);
    world.disk().forget_planned_faults();
    world.recover()?;
    Ok(cut)
}

pub struct World {
    pub random: SimRandom,
    pub mode: Mode,
    disk_config: SimDiskConfig,
    /// Those of the WAL and those that once were.
    pub disks: Vec<(LegId, SimDisk)>,
    /// The disks that are opened now, in the order of the device's legs.
    pub in_use: Vec<usize>,
    pub ring: Ring,
    pub config: WalConfig,
    pub superblock: Superblock,
    pub metadata_trim: Lsn,
    pub metadata_legs: Option<LegSet>,
    opened_at: Vec<(u64, Lsn)>,
    /// Everything appended that may still be there, in order; trimmed ones stay.
    pub ledger: Vec<Appended>,
    /// So many of the ledger were acknowledged or recovered.
    pub acknowledged: usize,
    /// The engine or a recovery has called everything below durable.
    pub durable: Lsn,
    pub next_id: u64,
    pub cache: CacheStory,
    /// Of the disk, counted already.
    crashes_seen: u64,
    pub stats: Stats,
}

/// What is true of a drive's cache, and who knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStory {
    WriteThrough,
    /// It is volatile, and nobody knows.
    Turned,
    /// The WAL was told when so many records were acknowledged: with the next one all before it are safe again.
    Distrusted {
        acknowledged: usize,
    },
    /// The kernel has known since before the WAL was opened, or all that was at risk is safe.
    Told,
}

#[derive(Debug, Clone)]
pub struct Appended {
    pub header: RecordHeader,
    pub payload_bytes: usize,
    /// Once acknowledged or recovered.
    pub position: Option<RecordPosition>,
}

impl Appended {
    pub fn payload(&self) -> Bytes {
        let id = self.header.base_offset as u64;
        let start = id.wrapping_mul(0x9e37_79b9) >> 3;
        (0..self.payload_bytes as u64).map(|k| start.wrapping_add(k * 7) as u8).collect()
    }
}

/// An open WAL and what this life remembers.
pub struct Life {
    pub wal: Wal,
    pub completions: Completions,
    pub engine: Engine,
    pub pins: Vec<(Pin, usize)>,
    pub failed: bool,
    pub legs: LegsOfLife,
}

impl Life {
    pub fn new((wal, completions, engine): (Wal, Completions, Engine)) -> Self {
        Self { wal, completions, engine, pins: Vec::new(), failed: false, legs: LegsOfLife::default() }
    }
}

impl World {
    fn new(seed: u64, mode: Mode, faults: Faults) -> Self {
        let mut random = SimRandom::new(seed ^ 0x5ea_3a11);
        let block_bytes = if random.chance(1, 4) && mode != Mode::ShortLives { 512 } else { 4096 };
        let ring_bytes = (64 + random.below(200)) * 4096;
        let disk_config = SimDiskConfig {
            bytes: RING_OFFSET + ring_bytes,
            sector_bytes: if random.chance(1, 2) { 512 } else { u64::from(block_bytes) },
            fua: random.chance(1, 2),
            lies_per_mille: if mode == Mode::Lying { 30 } else { 0 },
        };
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
        superblock.mirror = mode.is_mirror();
        // The same seed gives the same bytes.
        superblock.salt = Salt(seed);
        let mut world = Self {
            ring: Ring::of(&superblock),
            random,
            mode,
            disk_config,
            disks: Vec::new(),
            in_use: Vec::new(),
            config,
            superblock,
            metadata_trim: Lsn(0),
            metadata_legs: None,
            opened_at: Vec::new(),
            ledger: Vec::new(),
            acknowledged: 0,
            durable: Lsn(0),
            next_id: 0,
            cache: CacheStory::Told,
            crashes_seen: 0,
            stats: Stats { seeds: 1, ..Stats::default() },
        };
        for leg in 0..1 + usize::from(mode.is_mirror()) {
            world.add_disk(&world.superblock.clone());
            world.in_use.push(leg);
        }
        world
    }

    /// A new disk, formatted as a leg of this superblock's WAL.
    pub fn add_disk(&mut self, like: &Superblock) -> LegId {
        let number = self.disks.len() as u64;
        let disk = SimDisk::new(self.random.next_u64(), SimDiskConfig { lies_per_mille: 0, ..self.disk_config });
        let leg = LegId(Uuid::from_u128(self.superblock.wal_id.0.as_u128() << 8 | u128::from(number)));
        for generation in [0, 1] {
            let superblock = Superblock { leg, generation: like.generation + generation, ..like.clone() };
            write_superblock(&mut disk.device(), &superblock).expect("the disk is sound");
        }
        if self.mode == Mode::Volatile {
            disk.set_drive_cache(WriteCache::WriteThrough);
            disk.set_kernel_cache(WriteCache::WriteThrough);
            self.cache = CacheStory::WriteThrough;
        }
        // Formatting is not the story here: it meets no lie.
        disk.set_lies(self.disk_config.lies_per_mille);
        if self.random.chance(1, 4) {
            disk.set_slow(100);
        }
        self.disks.push((leg, disk));
        leg
    }

    /// The only disk, or the first leg.
    pub fn disk(&self) -> &SimDisk {
        &self.disks[self.in_use[0]].1
    }

    /// Any of those in use.
    pub fn some_disk(&mut self) -> SimDisk {
        let at = self.random.below(self.in_use.len() as u64) as usize;
        self.disks[self.in_use[at]].1.clone()
    }

    /// Power cuts and process deaths of any disk so far.
    pub fn crashes(&self) -> u64 {
        self.disks.iter().map(|(_, disk)| disk.crashes()).sum()
    }

    /// Reads that failed or were wrong so far, of any disk in use.
    pub fn bad_reads(&self) -> u64 {
        self.in_use.iter().map(|&disk| self.disks[disk].1.bad_reads()).sum()
    }

    pub fn forget_planned_faults(&self) {
        for (_, disk) in &self.disks {
            disk.forget_planned_faults();
            disk.release_stuck();
        }
    }

    fn into_stats(mut self) -> Stats {
        self.stats.records = self.next_id;
        self.stats.misdeeds += self.disks.iter().map(|(_, disk)| disk.misdeeds()).sum::<u64>();
        self.stats.laps = self.metadata_trim.0 / self.ring.bytes;
        self.stats
    }

    /// From recovery to the next crash or close. False when the story ends in damage, as it should.
    fn live(&mut self, number: u64) -> Result<bool, String> {
        let Some(scanned) = self.recover()? else { return Ok(false) };
        let Some(mut life) = self.open(scanned)? else { return Ok(true) };
        self.plan_faults();
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
            self.close(life)?;
            return Ok(true);
        }
        if self.mode == Mode::Rotting && !life.failed && alive && (number >= 2 || self.random.chance(1, 4)) {
            return if self.random.chance(1, 2) { self.rot_covered(life) } else { self.rot_last(life) };
        }
        self.crash();
        drop(life);
        Ok(true)
    }

    /// What the disks do in this life.
    fn plan_faults(&mut self) {
        let misdeed = [Misdeed::Lost, Misdeed::Short, Misdeed::Misdirected][self.random.below(3) as usize];
        if self.mode == Mode::MirrorRot {
            // The other leg is sound: nothing may be lost.
            if self.random.chance(1, 2)
                && let Some(disk) = self.faulty_leg()
            {
                disk.misbehave_in(self.random.below(200), misdeed);
            }
        } else {
            if self.random.chance(1, 8) {
                self.some_disk().fail_write_in(self.random.below(300));
            }
            if self.random.chance(1, 10) {
                self.some_disk().fail_flush_in(self.random.below(300));
            }
        }
        if self.mode == Mode::Careless {
            self.some_disk().misbehave_in(self.random.below(200), misdeed);
        }
        if self.mode == Mode::Mirror && self.in_use.len() == 2 && self.random.chance(1, 6) {
            self.some_disk().die_in(self.random.below(500));
        }
        if self.random.chance(1, 2) {
            self.some_disk().cut_power_in(self.random.below(600));
        }
    }

    /// Ends what holds the disks, by a power cut or by the death of the process, unless a planned cut came first.
    pub fn crash(&mut self) {
        let by_cut = self.crashes() != self.crashes_seen || !self.random.chance(1, 3);
        for (_, disk) in &self.disks {
            // A planned cut has taken one of them; the host's power is all of theirs.
            match by_cut {
                true => disk.cut_power(),
                false => disk.kill_process(),
            }
        }
        self.count_crash();
    }

    fn count_crash(&mut self) {
        self.stats.crashes += 1;
        if self.at_risk() {
            // The next start asks the drive.
            self.disk().set_kernel_cache(WriteCache::WriteBack);
        }
        self.crashes_seen = self.crashes();
        self.forget_planned_faults();
    }

    fn crashed_in_recovery(&mut self) {
        self.stats.crashes_in_recovery += 1;
        self.crash();
    }

    /// A read that fails, or is wrong, once: in a superblock or in the ring.
    fn spoil_one_read(&mut self) {
        let at = match self.random.below(4) {
            0 => SUPERBLOCK_OFFSETS[self.random.below(2) as usize],
            _ => RING_OFFSET + self.random.below(self.ring.bytes),
        };
        self.stats.misdeeds += 1;
        let disk = if self.mode == Mode::MirrorRot { self.faulty_leg() } else { Some(self.disk().clone()) };
        let fails = self.random.chance(1, 2);
        match disk {
            Some(disk) if fails => disk.fail_one_read(at),
            Some(disk) => disk.garble_one_read(at),
            None => {}
        }
    }

    /// What was acknowledged lately may lie in a cache of which nobody knew.
    pub fn at_risk(&self) -> bool {
        matches!(self.cache, CacheStory::Turned | CacheStory::Distrusted { .. })
    }

    fn loss_is_possible(&self) -> bool {
        self.mode.disk_is_faulty() || self.at_risk()
    }

    // ---- recovery ----

    pub fn scan(&self) -> Result<Scanned, ScanError> {
        self.scan_disks(&self.in_use)
    }

    pub fn scan_disks(&self, disks: &[usize]) -> Result<Scanned, ScanError> {
        let from = ScanFrom {
            trim: self.metadata_trim,
            opened_at: self.opened_at.clone(),
            legs: self.metadata_legs.clone(),
            ..ScanFrom::default()
        };
        let newest = self.opened_at.last().map_or(0, |(epoch, _)| *epoch);
        let expect = Expectation { owner_epoch_max: Some(newest), ..Expectation::default() };
        let mut device = self.disks[disks[0]].1.device();
        for (leg, &disk) in (0..).zip(disks).skip(1) {
            let added = device.add_leg(leg, Medium::Simulated(self.disks[disk].1.clone()));
            added.expect("the number is free");
        }
        let bytes = vec![self.disk_config.bytes; disks.len()];
        scan_legs_on(Box::new(device), &bytes, &self.config, &expect, from)
    }

    /// Scans until a scan was not crashed, and compares. `None`: damage, rightly reported.
    fn recover(&mut self) -> Result<Option<Scanned>, String> {
        loop {
            if !self.choose_legs()? {
                return Ok(None);
            }
            if self.random.chance(1, 4) {
                self.some_disk().cut_power_in(self.random.below(12));
            }
            let flush_fails = self.random.chance(1, 20);
            if flush_fails {
                self.some_disk().fail_flush_in(0);
            }
            if matches!(self.mode, Mode::Latent | Mode::MirrorRot) && self.random.chance(1, 2) {
                self.spoil_one_read();
            }
            let (before, bad_reads) = (self.crashes(), self.bad_reads());
            let scanned = self.scan();
            if self.crashes() != before {
                if let Ok(scanned) = scanned {
                    return Err(format!("a scan got through a power cut: end {}", scanned.end));
                }
                self.crashed_in_recovery();
                continue;
            }
            self.forget_planned_faults();
            match (flush_fails, &scanned) {
                (true, Err(ScanError::Open(OpenError::LegFailed { leg, .. }))) => {
                    self.leg_failed_at_start(*leg);
                    continue;
                }
                // One superblock copy was overwritten earlier, and the other one could not be read this once.
                (_, Err(ScanError::Open(OpenError::NotAWal { .. })))
                    if !self.lost_superblocks() && self.bad_reads() > bad_reads =>
                {
                    continue;
                }
                (_, Err(ScanError::Open(OpenError::NotAWal { .. }))) if self.lost_superblocks() => {
                    if self.drop_leg_without_superblocks() {
                        continue;
                    }
                    self.stats.damages += 1;
                    return Ok(None);
                }
                (true, Ok(scanned)) => return Err(format!("a scan's flush failed: {:?}", scanned.end)),
                _ => {}
            }
            let scanned = scanned.map_err(|error| format!("scan: {error}"))?;
            self.compare(&scanned)?;
            if let Some(damage) = &scanned.damage {
                self.judge_damage(damage)?;
                self.stats.damages += 1;
                return Ok(None);
            }
            if self.random.chance(1, 10) {
                drop(scanned);
                self.crash();
                self.stats.crashes_in_recovery += 1;
                continue;
            }
            if self.random.chance(1, 20) {
                self.some_disk().cut_power_in(self.random.below(6));
            }
            let leg_fails = self.plan_a_failure_at_start();
            match scanned.resync() {
                Ok(scanned) => {
                    self.forget_planned_faults();
                    self.settle(&scanned)?;
                    return Ok(Some(scanned));
                }
                Err(_) if self.crashes() != before => self.crashed_in_recovery(),
                Err(OpenError::LegFailed { leg, .. }) if leg_fails => {
                    self.forget_planned_faults();
                    self.leg_failed_at_start(leg);
                }
                Err(error) => return Err(format!("resync: {error}")),
            }
        }
    }

    /// What was recovered is a prefix of what was appended, with the same bytes at the same places.
    fn compare(&self, scanned: &Scanned) -> Result<(), String> {
        let expected = &self.ledger[self.first_untrimmed()..];
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
            let payload = appended.payload();
            if !self.in_use.iter().any(|&disk| self.disks[disk].1.peek(at, appended.payload_bytes) == payload) {
                return Err(format!("the bytes of {appended:?} are others"));
            }
        }
        Ok(())
    }

    /// Takes what was recovered for the log from now on: it holds all that was acknowledged, or nothing could tell.
    fn settle(&mut self, scanned: &Scanned) -> Result<(), String> {
        let first = self.first_untrimmed();
        let recovered = first + scanned.records.len();
        if recovered < self.acknowledged {
            if !self.loss_is_possible() || self.anything_proves(scanned.end) {
                let legs = self.in_use.iter().map(|&disk| &self.disks[disk]);
                let whole: Vec<(LegId, bool)> =
                    legs.map(|(leg, disk)| (*leg, self.whole_frame_on(disk, scanned.end))).collect();
                return Err(format!(
                    "{} of {} acknowledged records are lost, end {}, a whole frame lies there: {whole:?}",
                    self.acknowledged - recovered,
                    self.acknowledged,
                    scanned.end
                ));
            }
            // Nothing that survived could show it: the docs say so.
            self.stats.silent_tails += 1;
        }
        self.stats.torn += (self.ledger.len() - recovered.max(self.acknowledged)) as u64;
        self.ledger.truncate(recovered);
        for (appended, record) in self.ledger[first..].iter_mut().zip(&scanned.records) {
            appended.position = Some(record.position);
        }
        self.acknowledged = recovered;
        self.durable = scanned.end;
        if self.at_risk() {
            self.cache = CacheStory::Told;
        }
        Ok(())
    }

    pub fn first_untrimmed(&self) -> usize {
        self.ledger_from(self.metadata_trim)
    }

    /// The first record of the ledger that does not lie below this frame.
    pub fn ledger_from(&self, frame: Lsn) -> usize {
        self.ledger.partition_point(|record| record.position.is_some_and(|position| position.frame() < frame))
    }

    fn open(&mut self, scanned: Scanned) -> Result<Option<Life>, String> {
        let epoch = self.opened_at.last().map_or(0, |(epoch, _)| *epoch).max(scanned.owner_epoch_seen) + 1;
        // The open is committed first; the WAL may never hear of it.
        self.opened_at.push((epoch, scanned.end));
        if self.metadata_legs.is_none() && self.mode.is_mirror() {
            let legs = self.in_use.iter().map(|&disk| self.disks[disk].0).collect();
            self.metadata_legs = Some(LegSet { epoch: 1, legs });
        }
        if self.random.chance(1, 10) {
            self.crash();
            self.stats.crashes_in_recovery += 1;
            drop(scanned);
            return Ok(None);
        }
        if self.random.chance(1, 10) {
            self.some_disk().cut_power_in(self.random.below(6));
        }
        let before = self.crashes();
        let leg_fails = self.plan_a_failure_at_start();
        match scanned.open_stepped(epoch, IDENTITY) {
            Ok(opened) => {
                self.check_that_legs_agree()?;
                Ok(Some(Life::new(opened)))
            }
            Err(_) if self.crashes() != before => {
                self.crashed_in_recovery();
                Ok(None)
            }
            Err(OpenError::LegFailed { leg, .. }) if leg_fails => {
                self.forget_planned_faults();
                self.leg_failed_at_start(leg);
                Ok(None)
            }
            Err(error) => Err(format!("open: {error}")),
        }
    }

    // ---- oracles of their own, over the bytes of the disk ----

    /// Does anything prove that more than `end` was durable, of what a recovery must look at?
    fn anything_proves(&self, end: Lsn) -> bool {
        let opened = self.opened_at.iter().any(|(_, start)| *start > end);
        let superblock = self.newest_superblock();
        opened || superblock.is_some_and(|newest| newest.durable > end) || self.a_frame_proves(end)
    }

    /// The search goes one reach beyond that of the superblock, and as far again from each frame that it meets; if something
    /// shows that superblocks were lost, over the whole ring.
    fn a_frame_proves(&self, end: Lsn) -> bool {
        let limit = Lsn(self.metadata_trim.0 + self.ring.bytes);
        let of_this_lap = |(place, header): &(u64, FrameHeader)| {
            self.ring.device_offset(header.lsn) == *place && header.lsn > end && header.lsn < limit
        };
        let mut behind: Vec<FrameHeader> = self.frame_headers().filter(of_this_lap).map(|(_, header)| header).collect();
        behind.sort_by_key(|header| header.lsn);
        let step = reach_bytes(&self.ring, &self.config);
        let reach = self.newest_superblock().map_or(limit, |newest| newest.reach);
        let all = self.lost_a_superblock_copy() || end > reach || self.newest_opening_was_lost(end);
        let mut until = if all { limit } else { Lsn(reach.0 + step) };
        for header in behind {
            if header.lsn >= until {
                return false;
            }
            let cut_off =
                self.opened_at.iter().any(|(epoch, start)| *epoch > header.owner_epoch && *start <= header.lsn);
            if header.durable > end && !cut_off {
                return true;
            }
            until = until.max(Lsn(header.lsn.0 + step));
        }
        false
    }

    fn lost_a_superblock_copy(&self) -> bool {
        let lost =
            |at: &u64| !self.disk().is_readable(*at) || Superblock::decode(&self.disk().peek(*at, 4096)).is_err();
        SUPERBLOCK_OFFSETS.iter().any(lost)
    }

    /// Metadata trimmed past the start of its newest opening, of which neither superblock nor log know.
    fn newest_opening_was_lost(&self, end: Lsn) -> bool {
        let Some((epoch, start)) = self.opened_at.iter().copied().max() else { return false };
        let in_log = |(place, header): (u64, FrameHeader)| {
            let accepted = header.lsn >= self.metadata_trim && header.lsn < end;
            accepted && self.ring.device_offset(header.lsn) == place && header.owner_epoch >= epoch
        };
        let in_superblock = self.newest_superblock().is_some_and(|newest| newest.owner_epoch >= epoch);
        self.metadata_trim > start && !in_superblock && !self.frame_headers().any(in_log)
    }

    fn newest_superblock(&self) -> Option<Superblock> {
        self.newest_superblock_of(self.disk())
    }

    pub fn newest_superblock_of(&self, disk: &SimDisk) -> Option<Superblock> {
        let copy = |at: &u64| Superblock::decode(&disk.peek(*at, 4096)).ok();
        SUPERBLOCK_OFFSETS.iter().filter_map(copy).max_by_key(|superblock| superblock.generation)
    }

    /// All whole frame headers of this WAL, with their places.
    fn frame_headers(&self) -> impl Iterator<Item = (u64, FrameHeader)> {
        let (block, wal_id, salt) = (self.ring.block, self.superblock.wal_id, self.superblock.salt);
        let ring = self.disk().peek(RING_OFFSET, self.ring.bytes as usize);
        let headers: Vec<_> = ring
            .chunks_exact(block as usize)
            .zip(0..)
            .filter_map(|(chunk, i)| Some((RING_OFFSET + i * block, FrameHeader::decode(chunk, salt, true)?)))
            .filter(|(_, header)| header.wal_id == wal_id)
            .collect();
        headers.into_iter()
    }

    /// Damage must be real: the disk does such things, the frame there is not whole or not readable, and what is called
    /// durable had been.
    fn judge_damage(&self, damage: &Damage) -> Result<(), String> {
        if !self.loss_is_possible() {
            return Err(format!("damage without a cause: {damage}"));
        }
        let proven = damage.durable > damage.at;
        if proven && damage.durable > self.durable {
            return Err(format!("only {} was ever durable: {damage}", self.durable));
        }
        let unreadable = self.disk().anything_unreadable();
        if !proven && !unreadable && !self.newest_opening_left_nothing() && !self.newest_reach_left_nothing() {
            return Err(format!("everything can be read and nothing proves it: {damage}"));
        }
        if self.whole_frame_at(damage.at) && !unreadable {
            return Err(format!("a whole frame lies there: {damage}"));
        }
        Ok(())
    }

    /// Metadata trimmed past the start of its newest opening, and nothing on the disk is of that opening.
    fn newest_opening_left_nothing(&self) -> bool {
        let Some((epoch, start)) = self.opened_at.iter().copied().max() else { return false };
        let in_superblock = self.newest_superblock().is_some_and(|newest| newest.owner_epoch >= epoch);
        let in_frames = || self.frame_headers().any(|(_, header)| header.owner_epoch >= epoch);
        self.metadata_trim > start && !in_superblock && !in_frames()
    }

    /// Metadata trimmed past the reach of the newest superblock that is left, and no frame on the disk lies beyond it.
    fn newest_reach_left_nothing(&self) -> bool {
        let Some(reach) = self.newest_superblock().map(|newest| newest.reach) else { return false };
        let ends_beyond = |header: &FrameHeader| header.lsn.0 + u64::from(header.length) > reach.0;
        self.metadata_trim > reach && !self.frame_headers().any(|(_, header)| ends_beyond(&header))
    }

    fn whole_frame_at(&self, lsn: Lsn) -> bool {
        self.whole_frame_on(self.disk(), lsn)
    }

    fn whole_frame_on(&self, disk: &SimDisk, lsn: Lsn) -> bool {
        let read = |bytes: u64| disk.peek(self.ring.device_offset(lsn), bytes as usize);
        let Some(header) = FrameHeader::decode(&read(self.ring.block), self.superblock.salt, true) else {
            return false;
        };
        let opens = self.opened_at.iter().filter(|(_, start)| *start <= lsn);
        let floor = opens.map(|(epoch, _)| *epoch).max().unwrap_or(0);
        if header.wal_id != self.superblock.wal_id || header.lsn != lsn || header.owner_epoch < floor {
            return false;
        }
        if u64::from(header.length) > self.ring.bytes_to_end(lsn) || header.kind != FrameKind::Data {
            return header.kind != FrameKind::Data;
        }
        let (bytes, mut at) = (read(u64::from(header.length)), FRAME_HEADER_BYTES);
        for _ in 0..header.record_count {
            match decode_record(&bytes[at.min(bytes.len())..], Lsn(lsn.0 + at as u64), self.superblock.salt, true) {
                Ok(record) => at += record_bytes(record.payload_bytes as usize),
                Err(_) => return false,
            }
        }
        true
    }

    pub fn count_pads(&mut self) {
        self.stats.pads += self.frame_headers().filter(|(_, header)| header.kind == FrameKind::Pad).count() as u64;
    }
}
