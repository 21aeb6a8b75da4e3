//! The meters of all clients and addresses that have a limit: bounded in number and bytes, forgotten when idle. Pure.
//!
//! A forgotten meter begins anew, with nothing used: that is in the client's favour.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::quota_meter::{RateMeter, TokenBucket};
use crate::quota_table::QuotaKind;

/// A meter that nobody used for so long is forgotten, as in Kafka.
const IDLE_MS_MAX: u64 = 3_600_000;
/// Beyond these the longest idle are forgotten, an eighth at a time.
const METERS_MAX: usize = 10_000;
const KEY_BYTES_MAX: usize = 16 << 20;

/// Whose use a meter adds up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MeterKey {
    Client { kind: QuotaKind, user: Box<str>, client_id: Box<str> },
    Connections(IpAddr),
}

#[derive(Debug)]
pub enum Meter {
    Rate(RateMeter),
    Tokens(TokenBucket),
}

#[derive(Debug, Default)]
pub struct Meters {
    by_key: HashMap<MeterKey, Used>,
    key_bytes: usize,
}

#[derive(Debug)]
struct Used {
    meter: Meter,
    last_ms: u64,
}

impl MeterKey {
    fn bytes(&self) -> usize {
        let text = match self {
            Self::Client { user, client_id, .. } => user.len() + client_id.len(),
            Self::Connections(_) => 0,
        };
        size_of::<Self>() + text
    }
}

impl Meters {
    /// The meter of a key, made by `new` when there is none.
    pub fn get(&mut self, key: MeterKey, now_ms: u64, new: impl FnOnce() -> Meter) -> &mut Meter {
        if !self.by_key.contains_key(&key) {
            self.make_room(key.bytes(), now_ms);
            self.key_bytes += key.bytes();
        }
        let used = self.by_key.entry(key).or_insert_with(|| Used { meter: new(), last_ms: now_ms });
        used.last_ms = now_ms;
        &mut used.meter
    }

    pub fn find(&self, key: &MeterKey) -> Option<&Meter> {
        self.by_key.get(key).map(|used| &used.meter)
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Forgets the meters that nobody used for long.
    pub fn expire(&mut self, now_ms: u64) {
        self.by_key.retain(|_, used| now_ms.saturating_sub(used.last_ms) < IDLE_MS_MAX);
        self.key_bytes = self.by_key.keys().map(MeterKey::bytes).sum();
    }

    fn make_room(&mut self, bytes: usize, now_ms: u64) {
        if self.by_key.len() < METERS_MAX && self.key_bytes + bytes <= KEY_BYTES_MAX {
            return;
        }
        self.expire(now_ms);
        while self.by_key.len() >= METERS_MAX || (self.key_bytes + bytes > KEY_BYTES_MAX && !self.by_key.is_empty()) {
            let mut used: Vec<u64> = self.by_key.values().map(|used| used.last_ms).collect();
            let oldest = used.len() / 8;
            let (_, bound, _) = used.select_nth_unstable(oldest);
            let bound = *bound;
            // Those used at the same moment go together, or the loop would not end.
            self.by_key.retain(|_, used| used.last_ms > bound);
            self.key_bytes = self.by_key.keys().map(MeterKey::bytes).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client_id: &str) -> MeterKey {
        MeterKey::Client { kind: QuotaKind::Produce, user: "".into(), client_id: client_id.into() }
    }

    fn new() -> Meter {
        Meter::Rate(RateMeter::default())
    }

    #[test]
    fn meters_are_bounded_in_number_and_the_longest_idle_go_first() {
        let mut meters = Meters::default();
        for n in 0..3 * METERS_MAX as u64 {
            meters.get(key(&n.to_string()), n, new);
            assert!(meters.len() <= METERS_MAX);
        }
        assert!(meters.len() > METERS_MAX / 2);
        let newest = key(&(3 * METERS_MAX - 1).to_string());
        assert!(meters.by_key.contains_key(&newest) && !meters.by_key.contains_key(&key("0")));
    }

    #[test]
    fn long_names_are_bounded_in_bytes_even_when_all_come_at_once() {
        let mut meters = Meters::default();
        for n in 0..2_000 {
            meters.get(key(&format!("{n:032000}")), 5, new);
            assert!(meters.key_bytes <= KEY_BYTES_MAX);
        }
        assert!(!meters.is_empty());
    }

    #[test]
    fn idle_meters_are_forgotten() {
        let mut meters = Meters::default();
        meters.get(key("idle"), 0, new);
        meters.get(key("used"), IDLE_MS_MAX, new);
        meters.expire(IDLE_MS_MAX);
        assert_eq!(meters.len(), 1);
        assert_eq!(meters.key_bytes, key("used").bytes());
    }
}
