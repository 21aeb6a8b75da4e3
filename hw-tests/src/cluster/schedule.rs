//! When each record is to be sent. Pure.
//!
//! Open loop: the times follow from the rate alone, never from how fast the broker answers, and latency counts from
//! them. A record that had to wait because the broker was slow so shows the wait: no coordinated omission.
//! Records come in ticks, all records of a tick at its beginning, so that a sender sleeps between them.

use std::time::Duration;

/// The records of one sender out of several that share a rate.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Records per second of all senders; 0 for as fast as possible.
    rate: u64,
    tick: Duration,
    sender: u64,
    senders: u64,
}

impl Schedule {
    pub fn new(rate: u64, tick: Duration, sender: u64, senders: u64) -> Self {
        assert!(sender < senders && !tick.is_zero());
        Self { rate, tick, sender, senders }
    }

    pub fn is_open_loop(&self) -> bool {
        self.rate > 0
    }

    /// When this sender's record number `n` is due, counted from the start.
    pub fn due(&self, n: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        // Senders take the records of the common schedule in turn.
        let of_all = u128::from(n) * u128::from(self.senders) + u128::from(self.sender);
        let exact_ns = of_all * 1_000_000_000 / u128::from(self.rate);
        let tick_ns = self.tick.as_nanos();
        Duration::from_nanos(u64::try_from(exact_ns / tick_ns * tick_ns).unwrap_or(u64::MAX))
    }

    /// How many records of this sender are due before `end`.
    pub fn due_before(&self, end: Duration) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        // The due time never falls with n, so the first one at or after the end is found by bisection.
        let (mut low, mut high) = (0u64, end.as_secs().saturating_add(2).saturating_mul(self.rate));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.due(middle) < end { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn all_senders_together_keep_the_rate() {
        for rate in [1, 7, 999, 10_000, 123_457] {
            for senders in [1, 2, 3, 8] {
                let total: u64 =
                    (0..senders).map(|n| Schedule::new(rate, MS, n, senders).due_before(Duration::from_secs(10))).sum();
                // A record of the next tick may already belong to the last one.
                let slack = rate / 1000 + 1;
                assert!(total.abs_diff(rate * 10) <= slack, "{total} of {rate} by {senders}");
            }
        }
    }

    #[test]
    fn times_never_fall_and_are_whole_ticks() {
        let schedule = Schedule::new(12_345, MS, 1, 3);
        let mut last = Duration::ZERO;
        for n in 0..50_000 {
            let due = schedule.due(n);
            assert!(due >= last && due.as_nanos().is_multiple_of(MS.as_nanos()));
            last = due;
        }
    }

    #[test]
    fn a_slow_broker_does_not_move_later_records() {
        // The time of a record is a function of its number alone: nothing that happened before enters.
        let schedule = Schedule::new(1_000, MS, 0, 1);
        assert_eq!(schedule.due(5_000), Duration::from_secs(5));
        assert_eq!(schedule.due_before(Duration::from_secs(5)), 5_000);
    }

    #[test]
    fn without_a_rate_everything_is_due_at_once() {
        let schedule = Schedule::new(0, MS, 0, 2);
        assert!(!schedule.is_open_loop());
        assert_eq!((schedule.due(1_000_000), schedule.due_before(MS)), (Duration::ZERO, u64::MAX));
    }
}
