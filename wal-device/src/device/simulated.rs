//! A disk in memory that fails as real ones do, from a seed: a volatile cache, writes in flight that finish in any order,
//! torn and lost writes at a power cut, short I/O, latent read errors, bit rot, failing writes, and lies about flushes.
//!
//! `SimDisk` is the disk, which survives crashes; `SimDevice` is a process's hold on it, which does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{BlockDevice, Clock, DeviceFacts, Done, Durable, LEGS_MAX, Medium, Operation, Request, Wait, Wake};

/// How a simulated disk behaves.
#[derive(Debug, Clone, Copy)]
pub struct SimDiskConfig {
    pub bytes: u64,
    /// What a power cut keeps or loses as one: 512 or 4096.
    pub sector_bytes: u64,
    /// A durable write makes only itself durable (FUA); otherwise everything in the cache (a flush).
    pub fua: bool,
    /// Of 1,000 flushes and durable writes this many are answered without being done.
    pub lies_per_mille: u64,
}

#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<SimShared>,
}

struct SimShared {
    state: Mutex<DiskState>,
}

struct DiskState {
    config: SimDiskConfig,
    random: SimRandom,
    /// What survives a power cut.
    stable: Vec<u8>,
    /// Sectors that only the cache holds. Reads see them.
    cache: BTreeMap<u64, Vec<u8>>,
    in_flight: Vec<Flight>,
    unreadable: BTreeSet<u64>,
    /// These fail one read.
    unreadable_once: BTreeSet<u64>,
    /// Grows with each crash: devices of before are dead.
    life: u64,
    steps: u64,
    cut_at_step: Option<u64>,
    fail_write_at_step: Option<u64>,
}

struct Flight {
    request: Request,
    /// Sectors that have reached the cache.
    progress: usize,
}

impl SimDisk {
    pub fn new(seed: u64, config: SimDiskConfig) -> Self {
        Self::with_content(seed, config, vec![0; config.bytes as usize])
    }

    /// A disk that holds these bytes already.
    pub fn with_content(seed: u64, config: SimDiskConfig, stable: Vec<u8>) -> Self {
        assert_eq!(stable.len() as u64, config.bytes, "the content is as long as the disk");
        let state = DiskState {
            stable,
            config,
            random: SimRandom::new(seed),
            cache: BTreeMap::new(),
            in_flight: Vec::new(),
            unreadable: BTreeSet::new(),
            unreadable_once: BTreeSet::new(),
            life: 0,
            steps: 0,
            cut_at_step: None,
            fail_write_at_step: None,
        };
        Self { shared: Arc::new(SimShared { state: Mutex::new(state) }) }
    }

    /// A new hold on the disk, valid until the next crash.
    pub fn device(&self) -> SimDevice {
        let mut device =
            SimDevice { legs: [const { None }; LEGS_MAX], waker: Arc::default(), steps: Arc::default(), turns: 0 };
        device.add_disk(0, self);
        device
    }

    pub fn bytes(&self) -> u64 {
        self.lock().config.bytes
    }

    /// Steps taken so far: each moves one request a little.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Power cuts and process deaths so far.
    pub fn crashes(&self) -> u64 {
        self.lock().life
    }

    /// Some sector cannot be read.
    pub fn anything_unreadable(&self) -> bool {
        !self.lock().unreadable.is_empty()
    }

    /// Cuts the power after this many more steps.
    pub fn cut_power_in(&self, steps: u64) {
        let mut state = self.lock();
        state.cut_at_step = Some(state.steps + steps);
    }

    /// Lets the next write after this many more steps fail.
    pub fn fail_write_in(&self, steps: u64) {
        let mut state = self.lock();
        state.fail_write_at_step = Some(state.steps + steps);
    }

    /// Sets how many of 1,000 flushes are lies; returns what it was.
    pub fn set_lies(&self, per_mille: u64) -> u64 {
        std::mem::replace(&mut self.lock().config.lies_per_mille, per_mille)
    }

    pub fn forget_planned_faults(&self) {
        let mut state = self.lock();
        (state.cut_at_step, state.fail_write_at_step) = (None, None);
    }

    /// What is only in the cache, and what is in flight, is kept or lost sector by sector. Devices of before are dead.
    pub fn cut_power(&self) {
        self.lock().cut_power();
    }

    /// The process dies: the disk keeps its cache, and of what was in flight each request happens or does not.
    pub fn kill_process(&self) {
        let mut state = self.lock();
        for flight in std::mem::take(&mut state.in_flight) {
            if state.random.chance(1, 2) {
                state.write_to_cache(&flight.request, 0, usize::MAX);
            }
        }
        state.life += 1;
    }

    /// Flips one bit on the medium (and in the cache).
    pub fn rot(&self, offset: u64, bit: u8) {
        let mut state = self.lock();
        state.stable[offset as usize] ^= 1 << (bit % 8);
        let sector_bytes = state.config.sector_bytes;
        if let Some(sector) = state.cache.get_mut(&(offset / sector_bytes)) {
            sector[(offset % sector_bytes) as usize] ^= 1 << (bit % 8);
        }
    }

    /// The sector of this byte cannot be read until it is written again.
    pub fn make_unreadable(&self, offset: u64) {
        let mut state = self.lock();
        let sector = offset / state.config.sector_bytes;
        state.unreadable.insert(sector);
    }

    /// The next read of this byte's sector fails, later ones do not.
    pub fn fail_one_read(&self, offset: u64) {
        let mut state = self.lock();
        let sector = offset / state.config.sector_bytes;
        state.unreadable_once.insert(sector);
    }

    /// What a reader would see now.
    pub fn peek(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.lock().read_cached(offset, &mut out);
        out
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.shared.lock()
    }
}

impl SimShared {
    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process's hold on one or several disks.
pub struct SimDevice {
    legs: [Option<SimLeg>; LEGS_MAX],
    waker: Arc<SimWaker>,
    /// Of all legs: the device's clock.
    steps: Arc<AtomicU64>,
    /// Picks the leg of the next step.
    turns: u64,
}

struct SimLeg {
    shared: Arc<SimShared>,
    life: u64,
}

impl SimDevice {
    fn add_disk(&mut self, leg: u8, disk: &SimDisk) {
        let life = disk.lock().life;
        let before = self.legs[leg as usize].replace(SimLeg { shared: disk.shared.clone(), life });
        assert!(before.is_none(), "a leg is added under a free number");
    }

    fn leg(&self, leg: u8) -> &SimLeg {
        self.legs[leg as usize].as_ref().expect("requests name a leg that was added")
    }

    /// A leg with something in flight. `Err`: one has lost its power.
    fn busy_leg(&mut self) -> io::Result<Option<&SimLeg>> {
        let mut busy = 0u8;
        for (i, leg) in self.legs.iter().enumerate() {
            let Some(leg) = leg else { continue };
            let state = leg.shared.lock();
            if state.life != leg.life {
                return Err(io::Error::other("power cut"));
            }
            busy |= u8::from(!state.in_flight.is_empty()) << i;
        }
        let legs = u64::from(busy.count_ones());
        if legs == 0 {
            return Ok(None);
        }
        let mut nth = 0;
        if legs > 1 {
            self.turns += 1;
            nth = SimRandom::new(self.turns ^ self.steps.load(Ordering::Relaxed)).below(legs);
        }
        let mut of_busy = self.legs.iter().enumerate().filter(|(i, _)| busy & (1 << i) != 0);
        Ok(of_busy.nth(nth as usize).and_then(|(_, leg)| leg.as_ref()))
    }

    /// How many steps a look without waiting takes: few, or none.
    fn a_few(&self) -> u64 {
        let first = self.legs.iter().flatten().next();
        first.map_or(0, |leg| leg.shared.lock().random.below(8))
    }
}

impl BlockDevice for SimDevice {
    fn submit(&mut self, request: Request) {
        let leg = self.leg(request.leg);
        let mut state = leg.shared.lock();
        if state.life == leg.life {
            state.in_flight.push(Flight { request, progress: 0 });
        }
    }

    /// With `Wait::No` a few steps happen, or none.
    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let mut steps = if wait == Wait::No { self.a_few() } else { u64::MAX };
        while steps > 0 {
            let clock = self.steps.clone();
            match self.busy_leg()? {
                Some(leg) => {
                    let finished = leg.shared.lock().step();
                    clock.fetch_add(1, Ordering::Relaxed);
                    if let Some(finished) = finished {
                        done.push(finished);
                        if wait != Wait::No {
                            break;
                        }
                    }
                    steps -= 1;
                    continue;
                }
                None if wait == Wait::No => break,
                None => {}
            }
            if !self.waker.pause(wait) {
                break;
            }
        }
        self.waker.take();
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn add_leg(&mut self, leg: u8, medium: Medium) -> io::Result<()> {
        match medium {
            Medium::Simulated(disk) => self.add_disk(leg, &disk),
            Medium::File(_) => return Err(io::Error::new(io::ErrorKind::Unsupported, "a file is no simulated disk")),
        }
        Ok(())
    }

    fn remove_leg(&mut self, leg: u8) {
        self.legs[leg as usize] = None;
    }

    fn facts(&self, leg: u8) -> DeviceFacts {
        let state = self.leg(leg).shared.lock();
        let sector_bytes = state.config.sector_bytes as u32;
        DeviceFacts {
            logical_bytes: sector_bytes,
            physical_bytes: sector_bytes,
            fua: Some(state.config.fua),
            direct: true,
            ..DeviceFacts::default()
        }
    }

    fn set_flush(&mut self, _leg: u8, _how: Durable) {}

    fn durability(&self, _leg: u8) -> String {
        "simulated disk".into()
    }

    fn clock(&self) -> Clock {
        let steps = self.steps.clone();
        Arc::new(move || steps.load(Ordering::Relaxed))
    }
}

impl Drop for SimDevice {
    /// What is in flight is finished, unless a crash came first.
    fn drop(&mut self) {
        for leg in self.legs.iter().flatten() {
            let mut state = leg.shared.lock();
            while state.life == leg.life && !state.in_flight.is_empty() {
                state.step();
            }
        }
    }
}

#[derive(Default)]
struct SimWaker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl SimWaker {
    /// Waits until it is used. False: it was used before, or the time is over.
    fn pause(&self, wait: Wait) -> bool {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        if *woken {
            return false;
        }
        let pause = if let Wait::For(time) = wait { time } else { Duration::from_secs(1) };
        let (_woken, paused) = self.changed.wait_timeout(woken, pause).unwrap_or_else(PoisonError::into_inner);
        !paused.timed_out() || wait == Wait::Forever
    }

    fn take(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Wake for SimWaker {
    fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

impl DiskState {
    /// Moves one request a little. Some when it is done.
    fn step(&mut self) -> Option<Done> {
        self.steps += 1;
        if self.cut_at_step.is_some_and(|at| self.steps >= at) {
            self.cut_power();
            return None;
        }
        let index = self.random.below(self.in_flight.len() as u64) as usize;
        if matches!(self.in_flight[index].request.operation, Operation::Write { .. }) {
            if self.fail_write_at_step.is_some_and(|at| self.steps >= at) {
                self.fail_write_at_step = None;
                return Some(self.finish(index, Err(io::Error::other("simulated write error"))));
            }
            return self.step_write(index);
        }
        let mut flight = self.in_flight.swap_remove(index);
        let result = match flight.request.operation {
            Operation::Read => self.read(&mut flight.request),
            _ => {
                self.flush();
                Ok(())
            }
        };
        Some(Self::done(flight.request, result))
    }

    /// First the sectors reach the cache, in one or several parts; then they are made durable; then it is done.
    fn step_write(&mut self, index: usize) -> Option<Done> {
        let sector = self.config.sector_bytes as usize;
        let sectors = self.in_flight[index].request.bytes / sector;
        let progress = self.in_flight[index].progress;
        if progress < sectors {
            let left = sectors - progress;
            let part = if self.random.chance(1, 4) { 1 + self.random.below(left as u64) as usize } else { left };
            let flight = self.in_flight.swap_remove(index);
            self.write_to_cache(&flight.request, progress, part);
            self.in_flight.push(Flight { progress: progress + part, ..flight });
            return None;
        }
        if self.in_flight[index].request.operation == (Operation::Write { durable: true }) {
            if self.config.fua {
                let first = self.in_flight[index].request.offset / self.config.sector_bytes;
                if !self.lies() {
                    (first..first + sectors as u64).for_each(|sector| self.make_stable(sector));
                }
            } else {
                self.flush();
            }
        }
        Some(self.finish(index, Ok(())))
    }

    fn finish(&mut self, index: usize, result: io::Result<()>) -> Done {
        let flight = self.in_flight.swap_remove(index);
        Self::done(flight.request, result)
    }

    fn done(request: Request, result: io::Result<()>) -> Done {
        let Request { tag, leg, operation, buffer, .. } = request;
        Done { tag, leg, operation, buffer, result }
    }

    fn flush(&mut self) {
        if !self.lies() {
            let sectors: Vec<u64> = self.cache.keys().copied().collect();
            sectors.into_iter().for_each(|sector| self.make_stable(sector));
        }
    }

    fn lies(&mut self) -> bool {
        self.config.lies_per_mille > 0 && self.random.chance(self.config.lies_per_mille, 1000)
    }

    fn make_stable(&mut self, sector: u64) {
        if let Some(bytes) = self.cache.remove(&sector) {
            let at = (sector * self.config.sector_bytes) as usize;
            self.stable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// `parts` sectors of a write, from its sector `from` on.
    fn write_to_cache(&mut self, request: &Request, from: usize, parts: usize) {
        let (Operation::Write { .. }, Some(buffer)) = (request.operation, &request.buffer) else { return };
        let sector_bytes = self.config.sector_bytes as usize;
        let first = request.offset / self.config.sector_bytes;
        for (i, bytes) in buffer[..request.bytes].chunks_exact(sector_bytes).enumerate().skip(from).take(parts) {
            self.cache.insert(first + i as u64, bytes.to_vec());
            self.unreadable.remove(&(first + i as u64));
        }
    }

    fn read(&mut self, request: &mut Request) -> io::Result<()> {
        let sector = self.config.sector_bytes;
        let sectors = request.offset / sector..(request.offset + request.bytes as u64).div_ceil(sector);
        let once = self.unreadable_once.range(sectors.clone()).next().copied();
        if once.is_some_and(|sector| self.unreadable_once.remove(&sector))
            || self.unreadable.range(sectors).next().is_some()
        {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let buffer = request.buffer.as_mut().expect("a read carries a buffer");
        self.read_cached(request.offset, &mut buffer.exclusive()[..request.bytes]);
        Ok(())
    }

    fn read_cached(&self, offset: u64, out: &mut [u8]) {
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

    fn cut_power(&mut self) {
        for flight in std::mem::take(&mut self.in_flight) {
            if self.random.chance(2, 3) {
                self.write_to_cache(&flight.request, flight.progress, usize::MAX);
            }
        }
        // One power cut loses much, another little.
        let kept_of_four = self.random.below(5);
        let sectors: Vec<u64> = self.cache.keys().copied().collect();
        for sector in sectors {
            if self.random.chance(kept_of_four, 4) {
                self.make_stable(sector);
            }
        }
        self.cache.clear();
        self.life += 1;
        self.cut_at_step = None;
    }
}

/// A small seeded random source (splitmix64), for simulations only.
#[derive(Debug, Clone)]
pub struct SimRandom(u64);

impl SimRandom {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True in `of` out of `all` cases.
    pub fn chance(&mut self, of: u64, all: u64) -> bool {
        self.below(all) < of
    }
}
