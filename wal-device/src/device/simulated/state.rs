//! The inside of a simulated disk: what survives a power cut, what only its cache holds, and what is in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::super::{Done, Operation, Request, WriteCache};
use super::{Misdeed, SimDiskConfig, SimRandom};

/// How long a slow request waits, in steps.
const SLOW_STEPS: u64 = 50;

pub struct DiskState {
    pub config: SimDiskConfig,
    pub random: SimRandom,
    /// What survives a power cut.
    pub stable: Vec<u8>,
    /// Sectors that only the cache holds. Reads see them.
    pub cache: BTreeMap<u64, Vec<u8>>,
    pub in_flight: Vec<Flight>,
    pub unreadable: BTreeSet<u64>,
    /// What the next read of a sector meets, once.
    pub once: Option<(u64, Once)>,
    /// Sectors with other bytes than were last written there.
    pub harmed: BTreeSet<u64>,
    pub drive_cache: WriteCache,
    pub kernel_cache: WriteCache,
    pub slow_per_mille: u64,
    pub stick_next: bool,
    pub stuck: bool,
    pub buffered: bool,
    /// Grows with each crash: devices of before are dead.
    pub life: u64,
    pub steps: u64,
    pub plan: Plan,
    pub dead: bool,
    pub misdeeds: u64,
    pub bad_reads: u64,
}

/// Faults to come, each at the first occasion from its step on.
#[derive(Debug, Default)]
pub struct Plan {
    pub cut: Option<u64>,
    pub failed_write: Option<u64>,
    pub failed_flush: Option<u64>,
    pub misdeed: Option<(u64, Misdeed)>,
    pub death: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    Fails,
    Garbles,
}

pub struct Flight {
    pub request: Request,
    /// Sectors that have reached the cache.
    pub progress: usize,
    /// Does not begin before this step.
    pub from_step: u64,
}

impl DiskState {
    pub fn new(seed: u64, config: SimDiskConfig, stable: Vec<u8>) -> Self {
        Self {
            stable,
            config,
            random: SimRandom::new(seed),
            cache: BTreeMap::new(),
            in_flight: Vec::new(),
            unreadable: BTreeSet::new(),
            once: None,
            harmed: BTreeSet::new(),
            drive_cache: WriteCache::WriteBack,
            kernel_cache: WriteCache::WriteBack,
            slow_per_mille: 0,
            stick_next: false,
            stuck: false,
            buffered: false,
            life: 0,
            steps: 0,
            plan: Plan::default(),
            dead: false,
            misdeeds: 0,
            bad_reads: 0,
        }
    }

    pub fn take(&mut self, request: Request) {
        let mut from_step = 0;
        if self.slow_per_mille > 0 && self.random.chance(self.slow_per_mille, 1000) {
            from_step = self.steps + self.random.below(SLOW_STEPS);
        }
        if std::mem::take(&mut self.stick_next) || self.stuck {
            from_step = u64::MAX;
        }
        self.in_flight.push(Flight { request, progress: 0, from_step });
    }

    pub fn stick_all(&mut self) {
        self.stuck = true;
        self.in_flight.iter_mut().for_each(|flight| flight.from_step = u64::MAX);
    }

    pub fn release_stuck(&mut self) {
        (self.stuck, self.stick_next) = (false, false);
        self.in_flight.iter_mut().for_each(|flight| flight.from_step = 0);
    }

    /// A drive that becomes write-through writes its cache back first.
    pub fn set_drive_cache(&mut self, cache: WriteCache) {
        if cache == WriteCache::WriteThrough {
            self.write_back();
        }
        self.drive_cache = cache;
    }

    /// Moves one request a little. Some when it is done.
    pub fn step(&mut self) -> Option<Done> {
        self.steps += 1;
        if due(&mut self.plan.cut, self.steps) {
            self.cut_power();
            return None;
        }
        self.dead |= due(&mut self.plan.death, self.steps);
        let ready = |flight: &Flight| flight.from_step <= self.steps;
        let count = self.in_flight.iter().filter(|flight| ready(flight)).count() as u64;
        if count == 0 {
            return None;
        }
        let nth = self.random.below(count) as usize;
        let index = (0..self.in_flight.len()).filter(|&i| self.in_flight[i].from_step <= self.steps).nth(nth)?;
        if self.dead {
            return Some(self.finish(index, Err(io::Error::from_raw_os_error(libc::EIO))));
        }
        match self.in_flight[index].request.operation {
            Operation::Write { .. } if due(&mut self.plan.failed_write, self.steps) => {
                Some(self.finish(index, Err(io::Error::other("simulated write error"))))
            }
            Operation::Write { durable } => self.step_write(index, durable),
            Operation::Read => {
                let mut flight = self.in_flight.swap_remove(index);
                let result = self.read(&mut flight.request);
                Some(done(flight.request, result))
            }
            Operation::Flush => {
                let result = self.flush();
                Some(self.finish(index, result))
            }
        }
    }

    /// First the sectors reach the cache, in one or several parts; then they are made durable; then it is done.
    fn step_write(&mut self, index: usize, durable: bool) -> Option<Done> {
        let sectors = self.in_flight[index].request.bytes / self.config.sector_bytes as usize;
        if durable && self.in_flight[index].progress == 0 {
            self.misbehave(index, sectors);
        }
        let progress = self.in_flight[index].progress;
        if progress < sectors {
            let left = sectors - progress;
            let part = if self.random.chance(1, 4) { 1 + self.random.below(left as u64) as usize } else { left };
            let flight = self.in_flight.swap_remove(index);
            self.write_to_cache(&flight.request, progress, part);
            self.in_flight.push(Flight { progress: progress + part, ..flight });
            return None;
        }
        let mut result = Ok(());
        let flushes_reach_the_drive = self.kernel_cache == WriteCache::WriteBack;
        if durable && flushes_reach_the_drive && self.config.fua {
            let first = self.in_flight[index].request.offset / self.config.sector_bytes;
            if !self.lies() {
                (first..first + sectors as u64).for_each(|sector| self.make_stable(sector));
            }
        } else if durable {
            result = self.flush();
        }
        Some(self.finish(index, result))
    }

    /// Does what was planned to the write that is about to begin.
    fn misbehave(&mut self, index: usize, sectors: usize) {
        let Some((_, misdeed)) = self.plan.misdeed.filter(|(at, _)| *at <= self.steps) else { return };
        self.plan.misdeed = None;
        self.misdeeds += 1;
        let sector_bytes = self.config.sector_bytes;
        let first = self.in_flight[index].request.offset / sector_bytes;
        let written = match misdeed {
            Misdeed::Lost | Misdeed::Misdirected => 0,
            Misdeed::Short => self.random.below(sectors as u64),
        };
        let flight = &self.in_flight[index].request;
        let part: Vec<u8> = flight.buffer.as_ref().expect("a write carries a buffer")[..flight.bytes].to_vec();
        for (sector, bytes) in (first..).zip(part.chunks_exact(sector_bytes as usize)).take(written as usize) {
            self.put(sector, bytes);
        }
        // A write of the same bytes as are there does no harm by being lost.
        for (sector, bytes) in (first..).zip(part.chunks_exact(sector_bytes as usize)).skip(written as usize) {
            let mut there = vec![0; bytes.len()];
            self.read_cached(sector * sector_bytes, &mut there);
            if there != bytes {
                self.harmed.insert(sector);
            }
        }
        if misdeed == Misdeed::Misdirected {
            let places = self.stable.len() as u64 / sector_bytes - sectors as u64 + 1;
            let elsewhere = self.random.below(places);
            for (sector, bytes) in (elsewhere..).zip(part.chunks_exact(sector_bytes as usize)) {
                self.put(sector, bytes);
                self.make_stable(sector);
                self.harmed.insert(sector);
            }
        }
        self.in_flight[index].progress = sectors;
    }

    fn finish(&mut self, index: usize, result: io::Result<()>) -> Done {
        done(self.in_flight.swap_remove(index).request, result)
    }

    fn flush(&mut self) -> io::Result<()> {
        if due(&mut self.plan.failed_flush, self.steps) {
            // The drive gives up what it could not write, and says so once.
            let sectors: Vec<u64> = self.cache.keys().copied().collect();
            for sector in sectors {
                if self.random.chance(1, 2) {
                    self.cache.remove(&sector);
                }
            }
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.kernel_cache == WriteCache::WriteBack && !self.lies() {
            self.write_back();
        }
        Ok(())
    }

    fn lies(&mut self) -> bool {
        self.config.lies_per_mille > 0 && self.random.chance(self.config.lies_per_mille, 1000)
    }

    fn write_back(&mut self) {
        while let Some((sector, bytes)) = self.cache.pop_first() {
            self.write_stable(sector, &bytes);
        }
    }

    fn make_stable(&mut self, sector: u64) {
        if let Some(bytes) = self.cache.remove(&sector) {
            self.write_stable(sector, &bytes);
        }
    }

    fn write_stable(&mut self, sector: u64, bytes: &[u8]) {
        let at = (sector * self.config.sector_bytes) as usize;
        self.stable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// `parts` sectors of a write, from its sector `from` on.
    pub fn write_to_cache(&mut self, request: &Request, from: usize, parts: usize) {
        let (Operation::Write { .. }, Some(buffer)) = (request.operation, &request.buffer) else { return };
        let sector_bytes = self.config.sector_bytes;
        let first = request.offset / sector_bytes;
        let sectors = buffer[..request.bytes].chunks_exact(sector_bytes as usize);
        for (sector, bytes) in (first..).zip(sectors).skip(from).take(parts) {
            self.put(sector, bytes);
        }
    }

    fn put(&mut self, sector: u64, bytes: &[u8]) {
        self.unreadable.remove(&sector);
        self.harmed.remove(&sector);
        match self.drive_cache {
            WriteCache::WriteBack => {
                self.cache.insert(sector, bytes.to_vec());
            }
            WriteCache::WriteThrough => self.write_stable(sector, bytes),
        }
    }

    fn read(&mut self, request: &mut Request) -> io::Result<()> {
        let sector = self.config.sector_bytes;
        let sectors = request.offset / sector..(request.offset + request.bytes as u64).div_ceil(sector);
        let once = self.once.take_if(|(at, _)| sectors.contains(at));
        self.bad_reads += u64::from(once.is_some());
        if matches!(once, Some((_, Once::Fails))) || self.unreadable.range(sectors).next().is_some() {
            self.bad_reads += 1;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let offset = request.offset;
        let buffer = &mut request.buffer.as_mut().expect("a read carries a buffer").exclusive()[..request.bytes];
        self.read_cached(offset, buffer);
        if let Some((garbled, Once::Garbles)) = once {
            let from = (garbled * sector).saturating_sub(offset) as usize;
            let to = (from + sector as usize).min(buffer.len());
            buffer[from..to].iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(())
    }

    pub fn read_cached(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        out.copy_from_slice(&self.stable[offset as usize..end as usize]);
        let sector_bytes = self.config.sector_bytes;
        for (sector, bytes) in self.cache.range(offset / sector_bytes..end.div_ceil(sector_bytes)) {
            let start = sector * sector_bytes;
            let (from, to) = (start.max(offset), (start + sector_bytes).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
    }

    pub fn cut_power(&mut self) {
        for flight in std::mem::take(&mut self.in_flight) {
            if self.random.chance(2, 3) {
                self.write_to_cache(&flight.request, flight.progress, usize::MAX);
            }
        }
        // One power cut loses much, another little.
        let kept_of_four = self.random.below(5);
        while let Some((sector, bytes)) = self.cache.pop_first() {
            if self.random.chance(kept_of_four, 4) {
                self.write_stable(sector, &bytes);
            }
        }
        self.life += 1;
    }
}

fn done(request: Request, result: io::Result<()>) -> Done {
    let Request { tag, leg, operation, buffer, .. } = request;
    Done { tag, leg, operation, buffer, result }
}

fn due(planned: &mut Option<u64>, now: u64) -> bool {
    let due = planned.is_some_and(|at| at <= now);
    if due {
        *planned = None;
    }
    due
}
