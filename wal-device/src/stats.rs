//! Figures of a running WAL: written by its thread alone, read by anyone, no lock and no allocation.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::device::LEGS_MAX;
use crate::status::WalStats;

const BUCKETS: usize = 32;
/// The first bucket's bound, times the square root of two.
const FIRST_BUCKET_US: f64 = 8.0;
/// Exact latencies are counted up to here.
const EXACT_US_MAX: usize = 100_000;
/// Nothing is in flight.
const NEVER: u64 = u64::MAX;

pub struct Stats {
    frames: AtomicU64,
    device_bytes: AtomicU64,
    payload_bytes: AtomicU64,
    depth_us: AtomicU64,
    write_latency_us: [AtomicU64; BUCKETS],
    spikes: AtomicU64,
    reads_from_other_leg: AtomicU64,
    /// When the oldest write in flight was submitted, and on which leg it hangs.
    oldest_us: AtomicU64,
    oldest_leg: AtomicU64,
    /// Per leg: when something was last done there, while something is in flight.
    waits_since_us: [AtomicU64; LEGS_MAX],
    /// Counts per microsecond, for benches.
    exact: Option<Box<[AtomicU32]>>,
}

impl Stats {
    pub fn new(exact: bool) -> Self {
        let zeros = || (0..EXACT_US_MAX).map(|_| AtomicU32::new(0)).collect();
        Self {
            frames: AtomicU64::new(0),
            device_bytes: AtomicU64::new(0),
            payload_bytes: AtomicU64::new(0),
            depth_us: AtomicU64::new(0),
            write_latency_us: [const { AtomicU64::new(0) }; BUCKETS],
            spikes: AtomicU64::new(0),
            reads_from_other_leg: AtomicU64::new(0),
            oldest_us: AtomicU64::new(NEVER),
            oldest_leg: AtomicU64::new(0),
            waits_since_us: [const { AtomicU64::new(NEVER) }; LEGS_MAX],
            exact: exact.then(zeros),
        }
    }

    pub fn frame(&self, payload_bytes: u64) {
        add(&self.frames, 1);
        add(&self.payload_bytes, payload_bytes);
    }

    pub fn device_write(&self, bytes: u64) {
        add(&self.device_bytes, bytes);
    }

    pub fn depth(&self, writes: u64, for_us: u64) {
        add(&self.depth_us, writes * for_us);
    }

    pub fn write_took(&self, us: u64, spike_threshold_us: u64) {
        add(&self.write_latency_us[bucket(us)], 1);
        if us > spike_threshold_us {
            add(&self.spikes, 1);
        }
        if let Some(exact) = &self.exact {
            exact[(us as usize).min(EXACT_US_MAX - 1)].fetch_add(1, Relaxed);
        }
    }

    /// Any thread may call it.
    pub fn read_from_other_leg(&self) {
        self.reads_from_other_leg.fetch_add(1, Relaxed);
    }

    pub fn oldest_write(&self, oldest: Option<(u64, u8)>) {
        let (since_us, leg) = oldest.unwrap_or((NEVER, 0));
        self.oldest_leg.store(u64::from(leg), Relaxed);
        self.oldest_us.store(since_us, Relaxed);
    }

    pub fn leg_waits(&self, leg: u8, since_us: Option<u64>) {
        self.waits_since_us[leg as usize].store(since_us.unwrap_or(NEVER), Relaxed);
    }

    /// How long a leg has let something wait, without anything done there.
    pub fn leg_wait(&self, leg: u8, now_us: u64) -> Option<u64> {
        let since_us = self.waits_since_us[leg as usize].load(Relaxed);
        (since_us != NEVER).then(|| now_us.saturating_sub(since_us))
    }

    /// The I/O that has waited for the longest: on which leg, for how long.
    pub fn longest_wait(&self, now_us: u64) -> Option<(u8, u64)> {
        let legs = (0..).zip(&self.waits_since_us).map(|(leg, since)| (leg, since.load(Relaxed)));
        let oldest = (self.oldest_leg.load(Relaxed) as u8, self.oldest_us.load(Relaxed));
        let (leg, since_us) = legs.chain([oldest]).min_by_key(|(_, since_us)| *since_us)?;
        (since_us != NEVER).then(|| (leg, now_us.saturating_sub(since_us)))
    }

    pub fn exact_write_latencies(&self) -> Option<Vec<u32>> {
        self.exact.as_ref().map(|exact| exact.iter().map(|count| count.load(Relaxed)).collect())
    }

    pub fn snapshot(&self, now_us: u64) -> WalStats {
        let oldest_us = self.oldest_us.load(Relaxed);
        WalStats {
            frames: self.frames.load(Relaxed),
            device_bytes: self.device_bytes.load(Relaxed),
            payload_bytes: self.payload_bytes.load(Relaxed),
            depth_us: self.depth_us.load(Relaxed),
            write_latency_us: std::array::from_fn(|i| self.write_latency_us[i].load(Relaxed)),
            spikes: self.spikes.load(Relaxed),
            oldest_in_flight_us: if oldest_us == NEVER { 0 } else { now_us.saturating_sub(oldest_us) },
            reads_from_other_leg: self.reads_from_other_leg.load(Relaxed),
        }
    }
}

/// Only the WAL thread writes: no read-modify-write is needed.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Relaxed) + more, Relaxed);
}

fn bucket(us: u64) -> usize {
    let powers = (us.max(1) as f64 / FIRST_BUCKET_US).log2() * 2.0;
    (powers.floor().max(0.0) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_counted_in_the_bucket_that_it_is_below_the_bound_of() {
        let bound = |i: usize| FIRST_BUCKET_US * 2f64.powf((i + 1) as f64 / 2.0);
        for us in [0, 1, 8, 11, 12, 16, 100, 1_000, 99_999, 400_000] {
            let i = bucket(us);
            assert!((us as f64) < bound(i) && (i == 0 || us as f64 >= bound(i - 1)), "{us} us in bucket {i}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_longest_wait_is_the_oldest_write_or_a_leg_without_progress() {
        let stats = Stats::new(false);
        assert_eq!(stats.longest_wait(100), None);
        stats.oldest_write(Some((50, 1)));
        stats.leg_waits(0, Some(70));
        assert_eq!(stats.longest_wait(100), Some((1, 50)));
        stats.leg_waits(0, Some(20));
        assert_eq!(stats.longest_wait(100), Some((0, 80)));
    }
}
