//! How long a WAL lasts while nothing is uploaded, pure: what may still be appended, and the rate at which that happens.
//!
//! Two ends are told: where producers begin to be throttled, and where they are refused. From the first one on what is appended says
//! how far producers are held back, not what they have; so the rate does not fall there.

use std::time::Duration;

use seawall_wal_device::WalUsage;
use serde::Serialize;
use tokio::time::Instant;

/// What is left of a WAL for producers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Until producers are refused.
    pub bytes: u64,
    /// The same at the rate of the last seconds; `None` while nothing is appended.
    pub seconds: Option<f64>,
    /// Until producers are throttled.
    pub throttle_seconds: Option<f64>,
}

impl Budget {
    pub fn new(usage: &WalUsage, bytes_per_second: f64) -> Budget {
        let room_to = |limit: u64| limit.saturating_sub(usage.taken_bytes());
        let lasts = |room: u64| match room {
            0 => Some(0.0),
            room => (bytes_per_second >= 1.0).then(|| room as f64 / bytes_per_second),
        };
        let bytes = room_to(usage.normal_bytes_max);
        Budget { bytes, seconds: lasts(bytes), throttle_seconds: lasts(room_to(usage.soft_bytes)) }
    }
}

/// Bytes appended per second, smoothed over some seconds. It rises faster than it falls: a budget that is too short is the better error.
#[derive(Debug)]
pub struct Rate {
    at: Instant,
    durable: u64,
    pub bytes_per_second: f64,
}

const STEP: Duration = Duration::from_secs(1);
/// Of a second's rate in the smoothed one.
const SHARE_RISING: f64 = 0.5;
const SHARE_FALLING: f64 = 0.2;

impl Rate {
    pub fn new(usage: &WalUsage, at: Instant) -> Rate {
        Rate { at, durable: usage.durable.0, bytes_per_second: 0.0 }
    }

    pub fn note(&mut self, usage: &WalUsage, at: Instant) {
        let elapsed = at - self.at;
        if elapsed < STEP {
            return;
        }
        let appended = usage.durable.0.saturating_sub(self.durable) as f64 / elapsed.as_secs_f64();
        (self.at, self.durable) = (at, usage.durable.0);
        let share = if appended > self.bytes_per_second { SHARE_RISING } else { SHARE_FALLING };
        if appended > self.bytes_per_second || usage.taken_bytes() < usage.soft_bytes {
            self.bytes_per_second += share * (appended - self.bytes_per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_wal_device::Lsn;

    /// `used` bytes of a ring of 1,000, throttled from 700 on, refused from 900 on; `durable` were appended so far.
    fn usage(used_bytes: u64, durable: u64) -> WalUsage {
        WalUsage {
            ring_bytes: 1_000,
            used_bytes,
            reserved_bytes: 0,
            queued_bytes: 0,
            soft_bytes: 700,
            normal_bytes_max: 900,
            trim: Lsn(0),
            durable: Lsn(durable),
            next: Lsn(durable),
        }
    }

    #[test]
    fn both_ends_are_where_producers_feel_them_and_not_at_the_end_of_the_ring() {
        let budget = |used, rate| Budget::new(&usage(used, 0), rate);
        let expected = Budget { bytes: 600, seconds: Some(6.0), throttle_seconds: Some(4.0) };
        assert_eq!(budget(300, 100.0), expected);
        let expected = Budget { bytes: 150, seconds: Some(1.5), throttle_seconds: Some(0.0) };
        assert_eq!(budget(750, 100.0), expected);
        let idle = Budget { bytes: 900, seconds: None, throttle_seconds: None };
        assert_eq!(budget(0, 0.0), idle);
        let full = Budget { bytes: 0, seconds: Some(0.0), throttle_seconds: Some(0.0) };
        assert_eq!((budget(900, 0.0), budget(990, 0.0)), (full, full));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_right_after_some_seconds_and_does_not_fall_while_producers_are_held_back() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = Rate::new(&usage(0, 0), start);
        for second in 1..=5 {
            rate.note(&usage(100, 100 * second), at(second));
            rate.note(&usage(100, 100 * second), at(second) + Duration::from_millis(300));
        }
        assert!((95.0..=100.0).contains(&rate.bytes_per_second), "{rate:?}");
        let before = rate.bytes_per_second;
        (6..60).for_each(|second| rate.note(&usage(800, 500), at(second)));
        assert!((rate.bytes_per_second - before).abs() < f64::EPSILON, "{rate:?}");
        (60..120).for_each(|second| rate.note(&usage(100, 500), at(second)));
        assert!(rate.bytes_per_second < 1.0, "{rate:?}");
    }
}
