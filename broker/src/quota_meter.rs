//! How much of a quota was used: a rate over sliding windows, and a token bucket. Pure; time is an argument.
//!
//! Both follow Kafka: the same amounts at the same times give the same throttle times.

use std::collections::VecDeque;

/// The windows that a rate is measured over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub count: u32,
    pub size_ms: u64,
}

impl Windows {
    fn span_ms(self) -> u64 {
        u64::from(self.count).saturating_mul(self.size_ms)
    }
}

/// Amounts in the last windows. A window begins with the first amount after the one before is over, so idle times cost
/// nothing; at most `count + 1` are kept.
#[derive(Debug, Clone, Default)]
pub struct RateMeter {
    windows: VecDeque<Window>,
    /// When the wait is over that was told last.
    owing_until_ms: u64,
    /// The limit that this wait is of.
    owing_limit: f64,
}

#[derive(Debug, Clone)]
struct Window {
    start_ms: u64,
    last_ms: u64,
    sum: f64,
}

impl RateMeter {
    /// Counts an amount. Returns how long to wait, in ms, until the rate is back at `limit` per second: 0 while it is within.
    pub fn record(&mut self, amount: f64, limit: f64, windows: Windows, now_ms: u64) -> u64 {
        self.add(amount, windows, now_ms);
        let span_ms = self.span_ms(windows, now_ms) as f64;
        let sum: f64 = self.windows.iter().map(|window| window.sum).sum();
        let rate = sum / (span_ms / 1_000.0);
        let throttle_ms = if rate <= limit { 0 } else { ((rate - limit) / limit * span_ms).round() as u64 };
        let until_ms = now_ms.saturating_add(throttle_ms);
        self.owing_until_ms = if self.owing_limit == limit { self.owing_until_ms.max(until_ms) } else { until_ms };
        self.owing_limit = limit;
        throttle_ms
    }

    /// What is left of the wait that was told last: nothing, if the limit is another one now.
    pub fn owed_ms(&self, limit: f64, now_ms: u64) -> u64 {
        if self.owing_limit == limit { self.owing_until_ms.saturating_sub(now_ms) } else { 0 }
    }

    /// Takes an amount back that was counted and did not come to pass.
    pub fn unrecord(&mut self, amount: f64) {
        if let Some(window) = self.windows.back_mut() {
            window.sum -= amount;
        }
    }

    fn add(&mut self, amount: f64, windows: Windows, now_ms: u64) {
        self.windows.retain(|window| now_ms.saturating_sub(window.last_ms) < windows.span_ms());
        match self.windows.back_mut() {
            Some(window) if now_ms.saturating_sub(window.start_ms) < windows.size_ms => {
                window.sum += amount;
                window.last_ms = now_ms;
            }
            _ => {
                self.windows.push_back(Window { start_ms: now_ms, last_ms: now_ms, sum: amount });
                while self.windows.len() > windows.count as usize + 1 {
                    self.windows.pop_front();
                }
            }
        }
    }

    /// The time that the amounts were spread over: since the oldest window began, and at least all windows but one.
    fn span_ms(&self, windows: Windows, now_ms: u64) -> u64 {
        let elapsed = self.windows.front().map_or(0, |oldest| now_ms.saturating_sub(oldest.start_ms));
        let whole = elapsed / windows.size_ms;
        let missing = u64::from(windows.count).saturating_sub(1).saturating_sub(whole);
        (elapsed + missing * windows.size_ms).max(1)
    }
}

/// Tokens that come at the limit's rate, up to those of all windows together, and may be owed.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: f64,
    refilled_ms: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(limit: f64, windows: Windows, now_ms: u64) -> Self {
        Self { tokens: burst(limit, windows), refilled_ms: now_ms }
    }

    /// Takes tokens unless some are owed already: then nothing is taken, and the time until none are owed is the error.
    pub fn take_unless_owing(&mut self, tokens: f64, limit: f64, windows: Windows, now_ms: u64) -> Result<(), u64> {
        self.refill(limit, windows, now_ms);
        if self.tokens < 0.0 {
            return Err(owed_ms(self.tokens, limit));
        }
        self.tokens -= tokens;
        Ok(())
    }

    /// Takes tokens in any case. Returns the time until none are owed, in ms.
    pub fn take(&mut self, tokens: f64, limit: f64, windows: Windows, now_ms: u64) -> u64 {
        self.refill(limit, windows, now_ms);
        self.tokens -= tokens;
        if self.tokens < 0.0 { owed_ms(self.tokens, limit) } else { 0 }
    }

    fn refill(&mut self, limit: f64, windows: Windows, now_ms: u64) {
        let seconds = now_ms.saturating_sub(self.refilled_ms) as f64 / 1_000.0;
        self.tokens = (self.tokens + limit * seconds).min(burst(limit, windows));
        self.refilled_ms = self.refilled_ms.max(now_ms);
    }
}

fn burst(limit: f64, windows: Windows) -> f64 {
    windows.span_ms() as f64 / 1_000.0 * limit
}

/// Never zero, so that it is not taken for "nothing owed".
fn owed_ms(tokens: f64, limit: f64) -> u64 {
    ((-tokens / limit * 1_000.0).round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KAFKAS: Windows = Windows { count: 11, size_ms: 1_000 };

    #[test]
    fn a_burst_is_spread_over_all_windows_but_one() {
        let mut meter = RateMeter::default();
        // 10 s of the quota at once are within it.
        assert_eq!(meter.record(10_000.0, 1_000.0, KAFKAS, 5), 0);
        // (1,500 - 1,000) / 1,000 of 10 s.
        assert_eq!(meter.record(5_000.0, 1_000.0, KAFKAS, 5), 5_000);
        assert_eq!([5, 4_005, 5_005].map(|now_ms| meter.owed_ms(1_000.0, now_ms)), [5_000, 1_000, 0]);
    }

    #[test]
    fn what_kafkas_test_of_its_quota_manager_sees() {
        // 500 bytes a second; 10 rounds of 400 bytes a second are within it, 2,300 more are 600 above 5,000.
        let windows = KAFKAS;
        let mut meter = RateMeter::default();
        let mut now_ms = 0;
        for _ in 0..10 {
            assert_eq!(meter.record(400.0, 500.0, windows, now_ms), 0);
            now_ms += 1_000;
        }
        now_ms += 500;
        // (4,000 + 2,300) bytes in 10.5 s: 600 a second, a fifth of 10.5 s too much.
        assert_eq!(meter.record(2_300.0, 500.0, windows, now_ms), 2_100);
        for _ in 0..10 {
            now_ms += 1_000;
            meter.record(400.0, 500.0, windows, now_ms);
        }
        now_ms += 1_000;
        assert_eq!(meter.record(0.0, 500.0, windows, now_ms), 0, "the burst has left the windows");
    }

    #[test]
    fn old_amounts_are_forgotten_and_amounts_can_be_taken_back() {
        let mut meter = RateMeter::default();
        meter.record(50_000.0, 1_000.0, KAFKAS, 0);
        assert_eq!(meter.record(1.0, 1_000.0, KAFKAS, 11_000), 0);
        assert!(meter.record(20_000.0, 1_000.0, KAFKAS, 11_000) > 0);
        meter.unrecord(20_000.0);
        assert_eq!(meter.record(0.0, 1_000.0, KAFKAS, 11_000), 0);
    }

    #[test]
    fn a_wait_ends_when_the_limit_changes() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.record(1_000_000.0, 1_000.0, KAFKAS, 0), 990_000);
        assert_eq!(meter.owed_ms(1_000.0, 10), 989_990);
        assert_eq!(meter.owed_ms(1_000_000.0, 10), 0);
        assert_eq!(meter.record(1.0, 1_000_000.0, KAFKAS, 10), 0);
        assert_eq!(meter.owed_ms(1_000_000.0, 10), 0, "the wait of the old limit is forgotten");
        assert_eq!(meter.owed_ms(1_000.0, 10), 0);
    }

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let windows = Windows { count: 100, size_ms: 1_000 };
        let mut bucket = TokenBucket::new(5.0, windows, 0);
        // The example of KIP-599: 560 of a burst of 500 are 12 s too many.
        assert_eq!(bucket.take(560.0, 5.0, windows, 0), 12_000);
        assert_eq!(bucket.take_unless_owing(1.0, 5.0, windows, 1_000), Err(11_000));
        assert_eq!(bucket.take_unless_owing(100.0, 5.0, windows, 12_000), Ok(()), "none owed: any number may be taken");
        assert_eq!(bucket.take_unless_owing(1.0, 5.0, windows, 12_000), Err(20_000));
    }

    proptest! {
        /// Whoever waits as told stays near the rate over any length of time: at most all windows' worth and one amount more.
        #[test]
        fn a_client_that_waits_as_told_keeps_to_the_rate(
            amounts in prop::collection::vec(1.0f64..20_000.0, 1..200),
            pauses in prop::collection::vec(0u64..1_500, 200),
            limit in 100.0f64..5_000.0,
            count in 2u32..12,
        ) {
            let windows = Windows { count, size_ms: 1_000 };
            let mut meter = RateMeter::default();
            let (mut now_ms, mut total, mut largest) = (0u64, 0.0, 0.0f64);
            for (amount, pause) in amounts.iter().zip(&pauses) {
                total += amount;
                largest = largest.max(*amount);
                let allowed = limit * (now_ms as f64 / 1_000.0 + f64::from(count)) * 1.5 + largest;
                prop_assert!(total <= allowed, "{total} in {now_ms} ms, {allowed} allowed");
                now_ms += meter.record(*amount, limit, windows, now_ms) + pause;
                prop_assert!(meter.windows.len() <= count as usize + 1);
            }
        }

        #[test]
        fn a_bucket_never_gives_more_than_its_burst_and_its_rate(
            amounts in prop::collection::vec(1.0f64..50.0, 1..200),
            pauses in prop::collection::vec(0u64..3_000, 200),
            limit in 0.5f64..20.0,
        ) {
            let windows = KAFKAS;
            let mut bucket = TokenBucket::new(limit, windows, 0);
            let (mut now_ms, mut total) = (0u64, 0.0);
            for (amount, pause) in amounts.iter().zip(&pauses) {
                now_ms += pause;
                if bucket.take_unless_owing(*amount, limit, windows, now_ms).is_ok() {
                    total += amount;
                }
                let allowed = limit * (now_ms as f64 / 1_000.0 + 11.0) + 50.0;
                prop_assert!(total <= allowed, "{total} in {now_ms} ms, {allowed} allowed");
            }
        }
    }
}
