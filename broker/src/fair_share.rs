//! Who fills a WAL (or memory, on a broker without one), pure: bytes of the last seconds by client and by partition, and what follows
//! from them when it gets tight.
//!
//! A producer's weight is its bytes against its fair share, which is the same for all that were active. It is reckoned among clients and
//! among partitions, and the lower one counts: of clients that share a name the modest partition is told apart, and of partitions that many
//! write to the modest client. Throttles grow with the weight, and the last part of the room is for those who take about their share or less.
//! Promises: memory is bounded; a producer that is alone is treated as if there were no shares. Time comes from the caller.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use seawall_metadata::StreamId;
use tokio::time::Instant;

/// Bytes are remembered for one to two of these.
const WINDOW_MS: u64 = 5_000;
/// Clients, and partitions, that are told apart in a window. Further ones count as of fair weight.
const KEYS_MAX: usize = 4_096;
/// Nobody is throttled for longer than this many times as long as a producer that is alone.
const THROTTLE_FACTOR_MAX: f64 = 2.0;
/// Whose weight is higher takes more than its share.
const GREEDY_WEIGHT: f64 = 1.5;
/// The part of the room above the soft limit that greedy ones may not take.
const KEPT_PART: u64 = 4;

/// A client by the hash of its principal and client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(pub u64);

/// What of its fair share a producer takes: 1 is all of it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Weight(f64);

#[derive(Debug, Default)]
pub struct FairShares {
    clients: Recent,
    partitions: Recent,
}

/// The shares of one log, in time since it was opened.
#[derive(Debug)]
pub struct ShareMeter {
    shares: Mutex<FairShares>,
    opened: Instant,
}

impl Default for ShareMeter {
    fn default() -> ShareMeter {
        ShareMeter { shares: Mutex::default(), opened: Instant::now() }
    }
}

impl ShareMeter {
    /// See [`FairShares::note`].
    pub fn note(&self, client: ClientKey, partition: StreamId, bytes: u64, now: Instant) -> Weight {
        let now_ms = now.saturating_duration_since(self.opened).as_millis() as u64;
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).note(client, partition, bytes, now_ms)
    }
}

/// Bytes by key, of this window and the one before.
#[derive(Debug, Default)]
struct Recent {
    window: u64,
    now: HashMap<u64, u64>,
    before: HashMap<u64, u64>,
    bytes: u64,
    /// Keys of either.
    active: usize,
}

impl FairShares {
    /// Counts what a producer wants to append, and answers its weight.
    pub fn note(&mut self, client: ClientKey, partition: StreamId, bytes: u64, now_ms: u64) -> Weight {
        let client = self.clients.note(client.0, bytes, now_ms);
        let partition = self.partitions.note(partition.0, bytes, now_ms);
        Weight(client.min(partition))
    }
}

impl Recent {
    fn note(&mut self, key: u64, bytes: u64, now_ms: u64) -> f64 {
        self.turn_to(now_ms / WINDOW_MS);
        if self.now.len() >= KEYS_MAX && !self.now.contains_key(&key) {
            return 1.0;
        }
        let before = self.before.get(&key);
        let own = self.now.entry(key).or_insert_with(|| {
            self.active += usize::from(before.is_none());
            0
        });
        *own += bytes;
        self.bytes += bytes;
        let own = *own + before.copied().unwrap_or(0);
        own as f64 * self.active as f64 / self.bytes.max(1) as f64
    }

    fn turn_to(&mut self, window: u64) {
        match window.saturating_sub(self.window) {
            0 => return,
            1 => self.before = std::mem::take(&mut self.now),
            _ => (self.now, self.before) = Default::default(),
        }
        self.window = window;
        self.bytes = self.before.values().sum();
        self.active = self.before.len();
    }
}

impl Weight {
    pub const FAIR: Weight = Weight(1.0);

    /// What of a throttle that is right for one who takes its fair share goes for this one.
    pub fn of_throttle(self, fair: Duration) -> Duration {
        fair.mul_f64(self.0.clamp(0.0, THROTTLE_FACTOR_MAX))
    }

    /// Up to how many taken bytes this one may append, where the soft limit lies at `soft` and all are refused from `max` on.
    pub fn bytes_max(self, soft: u64, max: u64) -> u64 {
        if self.0 > GREEDY_WEIGHT { max - max.saturating_sub(soft) / KEPT_PART } else { max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn weight(shares: &mut FairShares, client: u64, partition: u64, bytes: u64) -> f64 {
        shares.note(ClientKey(client), StreamId(partition), bytes, 0).0
    }

    #[test]
    fn who_is_alone_has_the_weight_of_a_fair_share_however_much_it_writes() {
        let mut shares = FairShares::default();
        for _ in 0..100 {
            assert_eq!(weight(&mut shares, 1, 1, MIB), 1.0);
        }
        let second = Duration::from_secs(1);
        assert_eq!(Weight::FAIR.of_throttle(second), second);
        assert_eq!(Weight::FAIR.bytes_max(75, 95), 95);
    }

    #[test]
    fn of_one_greedy_and_ten_modest_producers_the_greedy_one_is_throttled_and_stopped_first() {
        let mut shares = FairShares::default();
        let (mut greedy, mut modest) = (0.0, 0.0);
        for _ in 0..10 {
            greedy = weight(&mut shares, 1, 1, 10 * MIB);
            (2..12).for_each(|n| modest = weight(&mut shares, n, n, 10 << 10));
        }
        assert!(greedy > 10.0 && modest < 0.02, "{greedy} {modest}");
        let base = Duration::from_secs(1);
        assert_eq!(Weight(greedy).of_throttle(base), 2 * base);
        assert!(Weight(modest).of_throttle(base) < Duration::from_millis(20));
        assert_eq!((Weight(greedy).bytes_max(75, 95), Weight(modest).bytes_max(75, 95)), (90, 95));
    }

    #[test]
    fn the_modest_one_is_told_apart_by_its_partition_or_by_its_client() {
        // All clients have one name: the partitions tell.
        let mut shares = FairShares::default();
        weight(&mut shares, 1, 1, 10 * MIB);
        assert!(weight(&mut shares, 1, 2, 1_000) < 0.01);
        assert_eq!(weight(&mut shares, 1, 1, MIB), 1.0, "among clients it is alone");
        // All write to one partition: the clients tell.
        let mut shares = FairShares::default();
        weight(&mut shares, 1, 1, 10 * MIB);
        assert!(weight(&mut shares, 2, 1, 1_000) < 0.01);
        // One client on many partitions.
        let mut shares = FairShares::default();
        (1..100).for_each(|partition| _ = weight(&mut shares, 1, partition, MIB));
        assert!(weight(&mut shares, 2, 100, 1_000) < 0.01);
    }

    #[test]
    fn what_was_written_long_ago_does_not_count_and_what_was_written_just_before_does() {
        let mut shares = FairShares::default();
        shares.note(ClientKey(1), StreamId(1), 10 * MIB, 4_999);
        assert!(shares.note(ClientKey(2), StreamId(2), MIB, 5_001).0 < 0.2);
        let later = shares.note(ClientKey(2), StreamId(2), MIB, 10_001);
        assert_eq!(later, Weight::FAIR, "the first is forgotten");
        assert_eq!(shares.note(ClientKey(3), StreamId(3), 1, 1_000_000), Weight::FAIR);
    }

    #[test]
    fn those_who_do_not_fit_into_memory_count_as_fair() {
        let mut shares = FairShares::default();
        (0..10_000).for_each(|n| _ = weight(&mut shares, n, n, MIB));
        assert_eq!(shares.clients.now.len(), KEYS_MAX);
        assert_eq!(weight(&mut shares, 20_000, 20_000, MIB), 1.0);
    }
}
