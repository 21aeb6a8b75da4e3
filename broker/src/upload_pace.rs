//! How fast uploads go, pure: slowly enough that a burst of them is not felt, and never so slowly that the WAL fills.
//!
//! A WAL is given the time that it has: half of `upload.interval`, or half of what is left until producers are throttled, if that is less, and
//! ten seconds at most: a put must end well within the time limit of an attempt, however many there are. In that time all that it holds is to be in the store; and never is less asked for than what comes in and a quarter more. So the rate
//! rises by itself with the WAL's fill, until at the soft limit there is none. Compaction is given what gathered its work.

use std::time::Duration;

/// One WAL.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fill {
    /// Appended per second of late.
    pub bytes_per_second: f64,
    /// What it holds.
    pub unsettled_bytes: u64,
    /// Until producers are throttled.
    pub room_bytes: u64,
}

/// Nothing feels this, and nothing goes more slowly.
pub const RATE_MIN: u64 = 8 << 20;
/// Above it there is no point in pauses.
const RATE_MAX: u64 = 1 << 30;
/// Of what comes in.
const HEADROOM: f64 = 1.25;
/// Of the time that there is.
const TIME_SHARE: f64 = 0.5;
const SECONDS_MAX: f64 = 10.0;

/// Bytes per second for all uploads of the WALs together; `None`: as fast as the store takes them.
pub fn upload_rate(fills: &[Fill], interval: Duration, hurry: bool) -> Option<u64> {
    if hurry || fills.is_empty() {
        return None;
    }
    let wanted: f64 = fills.iter().map(|fill| rate_of(fill, interval)).sum();
    (wanted < RATE_MAX as f64).then(|| (wanted as u64).max(RATE_MIN))
}

fn rate_of(fill: &Fill, interval: Duration) -> f64 {
    let until_throttled = match fill.bytes_per_second {
        rate if rate >= 1.0 => fill.room_bytes as f64 / rate,
        _ => f64::INFINITY,
    };
    let seconds = interval.as_secs_f64().min(until_throttled) * TIME_SHARE;
    let seconds = seconds.min(SECONDS_MAX);
    (fill.unsettled_bytes as f64 / seconds).max(fill.bytes_per_second * HEADROOM)
}

/// Bytes per second that compaction reads and writes to rewrite `planned_bytes` that came together in `gathered_in`, within
/// `rate_max`: in two thirds of that time, so that its debt does not grow.
pub fn compaction_rate(planned_bytes: u64, gathered_in: Duration, rate_max: u64) -> u64 {
    let moved_bytes = 2.0 * planned_bytes as f64;
    let wanted = 1.5 * moved_bytes / gathered_in.as_secs_f64().max(0.001);
    (wanted.min(rate_max as f64) as u64).max(RATE_MIN.min(rate_max)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1u64 << 20) as f64;
    const INTERVAL: Duration = Duration::from_secs(10);
    const STEP_S: f64 = 0.1;

    /// A WAL whose soft limit is at 700 MiB, cut every 64 MiB or after the interval, two cuts under way at a time.
    struct Model {
        durable: f64,
        cut_to: f64,
        settled: f64,
        /// Cuts under way: where each ends.
        cuts: std::collections::VecDeque<f64>,
        sent: f64,
        waited_s: f64,
        inflow: f64,
        most: f64,
    }

    const SOFT: f64 = 700.0 * MIB;

    impl Model {
        fn new() -> Self {
            let cuts = std::collections::VecDeque::new();
            Self { durable: 0.0, cut_to: 0.0, settled: 0.0, cuts, sent: 0.0, waited_s: 0.0, inflow: 0.0, most: 0.0 }
        }

        /// `None`: the store is away.
        fn step(&mut self, inflow: f64, store: Option<f64>) {
            self.durable += inflow * STEP_S;
            // As smoothed as the measured rate.
            self.inflow += (inflow - self.inflow) * if inflow > self.inflow { 0.07 } else { 0.02 };
            let waiting = self.durable - self.cut_to;
            self.waited_s = if waiting > 0.0 { self.waited_s + STEP_S } else { 0.0 };
            let used = self.durable - self.settled;
            let due = waiting >= 64.0 * MIB || self.waited_s >= 10.0 || used > SOFT;
            if waiting > 0.0 && due && self.cuts.len() < 2 {
                self.cut_to += waiting.min(80.0 * MIB);
                self.cuts.push_back(self.cut_to);
                self.waited_s = 0.0;
            }
            let fill = Fill {
                bytes_per_second: self.inflow,
                unsettled_bytes: used as u64,
                room_bytes: (SOFT - used).max(0.0) as u64,
            };
            let rate = upload_rate(&[fill], INTERVAL, used > SOFT).map_or(f64::INFINITY, |rate| rate as f64);
            self.sent = (self.sent + rate.min(store.unwrap_or(0.0)) * STEP_S).min(self.cut_to);
            while self.cuts.front().is_some_and(|end| *end <= self.sent) {
                self.settled = self.cuts.pop_front().unwrap_or_default();
            }
            self.most = self.most.max(self.durable - self.settled);
        }
    }

    #[test]
    fn a_wal_never_fills_while_the_store_could_take_what_comes_in() {
        for inflow in [0.1, 1.0, 4.0, 12.0, 50.0, 100.0, 150.0] {
            let mut wal = Model::new();
            (0..6_000).for_each(|_| wal.step(inflow * MIB, Some(200.0 * MIB)));
            // Two cuts, what waits for the next, and the time that it takes to see a rate.
            let bound = 80.0 * 3.0 + inflow * 2.0;
            assert!(wal.most < bound * MIB, "{inflow} MiB/s: {} MiB", wal.most / MIB);
            assert!(wal.most < SOFT);
        }
    }

    #[test]
    fn bursts_and_rates_that_jump_do_not_fill_it_either() {
        let mut wal = Model::new();
        for step in 0..20_000 {
            let inflow = match step / 100 % 7 {
                0 | 3 => 180.0,
                1 | 5 => 0.0,
                _ => 3.0,
            };
            wal.step(inflow * MIB, Some(200.0 * MIB));
        }
        assert!(wal.most < SOFT, "{} MiB", wal.most / MIB);
    }

    #[test]
    fn after_the_store_was_away_it_catches_up() {
        let mut wal = Model::new();
        (0..300).for_each(|_| wal.step(20.0 * MIB, None));
        assert!(wal.durable - wal.settled > 500.0 * MIB);
        (0..300).for_each(|_| wal.step(20.0 * MIB, Some(100.0 * MIB)));
        assert!(wal.durable - wal.settled < 300.0 * MIB, "{} MiB", (wal.durable - wal.settled) / MIB);
    }

    #[test]
    fn a_steady_load_is_uploaded_steadily_and_little_of_it_slowly() {
        let fill = |rate: f64, held: f64| Fill {
            bytes_per_second: rate * MIB,
            unsettled_bytes: (held * MIB) as u64,
            room_bytes: SOFT as u64,
        };
        let rate = |fill| upload_rate(&[fill], INTERVAL, false).unwrap() as f64 / MIB;
        assert!((rate(fill(4.0, 40.0)) - 8.0).abs() < 0.01);
        assert!((rate(fill(100.0, 100.0)) - 125.0).abs() < 0.01);
        assert!((rate(fill(0.1, 1.0)) - 8.0).abs() < 0.01);
        assert!((rate(Fill::default()) - 8.0).abs() < 0.01);
        let two = upload_rate(&[fill(20.0, 64.0), fill(40.0, 64.0)], INTERVAL, false).unwrap() as f64 / MIB;
        assert!((two - 75.0).abs() < 0.01, "WALs add up");
    }

    #[test]
    fn who_hurries_is_not_held_up_and_neither_is_a_wal_with_no_room() {
        assert_eq!(upload_rate(&[Fill::default()], INTERVAL, true), None);
        assert_eq!(upload_rate(&[], INTERVAL, false), None);
        let full = Fill { bytes_per_second: 10.0, unsettled_bytes: 1 << 30, room_bytes: 0 };
        assert_eq!(upload_rate(&[full], INTERVAL, false), None);
        let idle = Fill { bytes_per_second: 0.0, unsettled_bytes: 1 << 30, room_bytes: 1 << 30 };
        let hour = upload_rate(&[idle], Duration::from_secs(3600), false).unwrap();
        assert!(hour * 10 >= (1 << 30) - 10, "in ten seconds, however long the interval");
    }

    #[test]
    fn compaction_keeps_up_with_what_gathers_and_stays_within_its_budget() {
        const BUDGET: u64 = 64 << 20;
        let rate = |planned: f64, seconds| {
            compaction_rate((planned * MIB) as u64, Duration::from_secs(seconds), BUDGET) as f64 / MIB
        };
        assert!((rate(48.0, 9) - 16.0).abs() < 0.01);
        assert!((rate(48.0, 1) - 64.0).abs() < 0.01, "its budget");
        assert!((rate(1.0, 3600) - 8.0).abs() < 0.01);
        assert_eq!(compaction_rate(1, Duration::ZERO, 1 << 20), 1 << 20, "a budget below that is kept");
        // So much is read and written before as much comes again.
        for (planned, seconds) in [(48.0, 9), (100.0, 100), (2.0, 1)] {
            assert!(2.0 * planned / rate(planned, seconds) < seconds as f64);
        }
    }
}
