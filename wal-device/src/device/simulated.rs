//! A disk in memory that fails as real ones do, from a seed: a volatile cache, writes in flight that finish in any order,
//! torn writes at a power cut, writes and flushes that fail, slow and stuck requests, latent read errors, reads that are
//! wrong once, bit rot, lies about flushes, writes that are lost, cut short or land elsewhere, and a cache that turns
//! volatile.
//!
//! `SimDisk` is the disk, which survives crashes; `SimDevice` is a process's hold on it, which does not.

mod state;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{BlockDevice, Clock, DeviceFacts, Done, Durable, LEGS_MAX, Medium, Request, Wait, Wake, WriteCache};
use state::{DiskState, Once};

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

/// What a disk does wrong with one durable write, and calls it done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
    /// Nothing of it is written.
    Lost,
    /// Only a first part of it is written.
    Short,
    /// It is written elsewhere.
    Misdirected,
}

#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<SimShared>,
}

struct SimShared {
    state: Mutex<DiskState>,
}

impl SimDisk {
    pub fn new(seed: u64, config: SimDiskConfig) -> Self {
        Self::with_content(seed, config, vec![0; config.bytes as usize])
    }

    /// A disk that holds these bytes already.
    pub fn with_content(seed: u64, config: SimDiskConfig, stable: Vec<u8>) -> Self {
        assert_eq!(stable.len() as u64, config.bytes, "the content is as long as the disk");
        let state = DiskState::new(seed, config, stable);
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

    /// Reads that failed or gave other bytes than the disk holds.
    pub fn bad_reads(&self) -> u64 {
        self.lock().bad_reads
    }

    /// Whether the disk holds other bytes here than what was last written, by a fault of its own: rot or a misdeed.
    pub fn is_harmed(&self, offset: u64, bytes: u64) -> bool {
        let state = self.lock();
        let sector = state.config.sector_bytes;
        state.harmed.range(offset / sector..(offset + bytes).div_ceil(sector)).next().is_some()
    }

    /// Cuts the power after this many more steps.
    pub fn cut_power_in(&self, steps: u64) {
        self.plan(|plan, now| plan.cut = Some(now + steps));
    }

    /// Lets the next write after this many more steps fail.
    pub fn fail_write_in(&self, steps: u64) {
        self.plan(|plan, now| plan.failed_write = Some(now + steps));
    }

    /// Lets the next flush, or durable write that flushes, fail after this many more steps. What was in the cache may be
    /// gone then.
    pub fn fail_flush_in(&self, steps: u64) {
        self.plan(|plan, now| plan.failed_flush = Some(now + steps));
    }

    /// From then on nothing works any more, and what is there cannot be read.
    pub fn die_in(&self, steps: u64) {
        self.plan(|plan, now| plan.death = Some(now + steps));
    }

    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.lock().in_flight.is_empty()
    }

    /// Does this to the next durable write after so many more steps.
    pub fn misbehave_in(&self, steps: u64, misdeed: Misdeed) {
        self.plan(|plan, now| plan.misdeed = Some((now + steps, misdeed)));
    }

    /// Misdeeds done so far.
    pub fn misdeeds(&self) -> u64 {
        self.lock().misdeeds
    }

    fn plan(&self, plan: impl FnOnce(&mut state::Plan, u64)) {
        let mut state = self.lock();
        let now = state.steps;
        plan(&mut state.plan, now);
    }

    /// Sets how many of 1,000 flushes are lies; returns what it was.
    pub fn set_lies(&self, per_mille: u64) -> u64 {
        std::mem::replace(&mut self.lock().config.lies_per_mille, per_mille)
    }

    /// So many of 1,000 requests take up to 50 steps before they begin.
    pub fn set_slow(&self, per_mille: u64) {
        self.lock().slow_per_mille = per_mille;
    }

    /// The next request does not begin before `release_stuck`.
    pub fn stick_next(&self) {
        self.lock().stick_next = true;
    }

    /// No request begins before `release_stuck`, of those in flight and those to come.
    pub fn stick_all(&self) {
        self.lock().stick_all();
    }

    pub fn release_stuck(&self) {
        self.lock().release_stuck();
    }

    /// What the drive itself does with writes. A write-through drive has no cache to lose.
    pub fn set_drive_cache(&self, cache: WriteCache) {
        self.lock().set_drive_cache(cache);
    }

    pub fn drive_cache(&self) -> WriteCache {
        self.lock().drive_cache
    }

    pub fn kernel_cache(&self) -> WriteCache {
        self.lock().kernel_cache
    }

    /// What the kernel takes the drive for: it sends no flushes to one that it calls write-through.
    pub fn set_kernel_cache(&self, cache: WriteCache) {
        self.lock().kernel_cache = cache;
    }

    /// Writes go through the page cache: a flush that fails is told to one caller only.
    pub fn set_buffered(&self) {
        self.lock().buffered = true;
    }

    pub fn forget_planned_faults(&self) {
        self.lock().plan = state::Plan::default();
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
                state.write_to_cache(&flight.request, flight.progress, usize::MAX);
            }
        }
        state.life += 1;
    }

    /// Flips one bit on the medium (and in the cache).
    pub fn rot(&self, offset: u64, bit: u8) {
        let mut state = self.lock();
        state.stable[offset as usize] ^= 1 << (bit % 8);
        let sector = offset / state.config.sector_bytes;
        state.harmed.insert(sector);
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

    /// It can be read again, and holds what it held.
    pub fn make_readable(&self, offset: u64) {
        let mut state = self.lock();
        let sector = offset / state.config.sector_bytes;
        state.unreadable.remove(&sector);
    }

    /// Whether the sector of this byte could be read now.
    pub fn is_readable(&self, offset: u64) -> bool {
        let state = self.lock();
        !state.dead && !state.unreadable.contains(&(offset / state.config.sector_bytes))
    }

    /// The next read of this byte's sector fails, later ones do not. One such fault waits at a time.
    pub fn fail_one_read(&self, offset: u64) {
        let mut state = self.lock();
        let sector = offset / state.config.sector_bytes;
        state.once = Some((sector, Once::Fails));
    }

    /// The next read of this byte's sector gets other bytes, later ones the right ones. One such fault waits at a time.
    pub fn garble_one_read(&self, offset: u64) {
        let mut state = self.lock();
        let sector = offset / state.config.sector_bytes;
        state.once = Some((sector, Once::Garbles));
    }

    /// What would be left if the power went now, at the least.
    pub fn peek_stable(&self, offset: u64, bytes: usize) -> Vec<u8> {
        self.lock().stable[offset as usize..offset as usize + bytes].to_vec()
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

impl SimDevice {
    /// What was done in one order may be told in another.
    fn shuffle(&self, done: &mut [Done]) {
        let Some(leg) = self.legs.iter().flatten().next().filter(|_| done.len() > 1) else { return };
        let mut state = leg.shared.lock();
        for i in (1..done.len()).rev() {
            done.swap(i, state.random.below(i as u64 + 1) as usize);
        }
    }
}

impl BlockDevice for SimDevice {
    fn submit(&mut self, request: Request) {
        let leg = self.leg(request.leg);
        let mut state = leg.shared.lock();
        if state.life == leg.life {
            state.take(request);
        }
    }

    /// With `Wait::No` a few steps happen, or none.
    fn wait(&mut self, wait: Wait, done: &mut Vec<Done>) -> io::Result<()> {
        let mut steps = if wait == Wait::No { self.a_few() } else { u64::MAX };
        let already_done = done.len();
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
        self.shuffle(&mut done[already_done..]);
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

    fn writes_in_flight_max(&self) -> usize {
        if self.legs.iter().flatten().any(|leg| leg.shared.lock().buffered) { 1 } else { usize::MAX }
    }

    fn facts(&self, leg: u8) -> DeviceFacts {
        let state = self.leg(leg).shared.lock();
        let sector_bytes = state.config.sector_bytes as u32;
        DeviceFacts {
            logical_bytes: sector_bytes,
            physical_bytes: sector_bytes,
            write_cache: Some(state.kernel_cache),
            fua: Some(state.config.fua),
            direct: !state.buffered,
            device: Some(u64::from(leg)),
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
            if state.life == leg.life {
                state.release_stuck();
            }
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
