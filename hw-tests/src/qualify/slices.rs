//! Operations of a run, as a whole and slice by slice of its time.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::findings::Findings;

/// Slices of a run at most: further time goes into the last one.
const SLICES_MAX: usize = 100_000;
/// A rest shorter than this part of a slice holds one or two operations: their worst says nothing of a hundredth.
const REST_MIN: u32 = 100;

pub struct Slices {
    slice: Duration,
    all: Histogram<u64>,
    current: Histogram<u64>,
    current_at: usize,
    current_bytes: u64,
    p99_ms: Vec<f64>,
    mib_per_s: Vec<Option<f64>>,
    bytes: u64,
    last: Duration,
}

impl Slices {
    pub fn new(slice: Duration) -> Self {
        assert!(!slice.is_zero(), "slices of no length");
        Self {
            slice,
            all: histogram_us(),
            current: histogram_us(),
            current_at: 0,
            current_bytes: 0,
            p99_ms: Vec::new(),
            mib_per_s: Vec::new(),
            bytes: 0,
            last: Duration::ZERO,
        }
    }

    /// An operation that ended `at` this time of the run. Times do not run backwards; one that does counts for the
    /// slice that is open.
    pub fn record(&mut self, at: Duration, latency: Duration, bytes: u64) {
        self.close_before(at);
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.all.saturating_record(us);
        self.current.saturating_record(us);
        self.current_bytes += bytes;
        self.bytes += bytes;
        self.last = self.last.max(at);
    }

    pub fn all(&self) -> &Histogram<u64> {
        &self.all
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts the run into findings: `{name}_p50_ms` and so on, `{name}_mib_per_s`, and by slices `{name}_p99_ms` and
    /// `{name}_mib_per_s`. A slice that the end cut to less than half its length has no rate of its own; it has a latency if
    /// that is worse than the last one's: what came too late to be in a slice is in no other.
    pub fn finish(mut self, end: Duration, name: &str, findings: &mut Findings) {
        self.close_before(end);
        let rest = end.saturating_sub(self.begin());
        if rest >= self.slice / 2 || self.p99_ms.is_empty() {
            self.close(rest);
        } else if rest >= self.slice / REST_MIN && !self.current.is_empty() {
            let late = self.p99_of(rest);
            if self.p99_ms.last().is_some_and(|last| late > *last) {
                self.p99_ms.push(late);
            }
        }
        findings.latencies(name, &self.all);
        let seconds = end.max(self.last).as_secs_f64();
        if self.bytes > 0 {
            findings.measure(&format!("{name}_mib_per_s"), mib(self.bytes) / seconds);
            findings.series(&format!("{name}_mib_per_s"), self.slice, self.mib_per_s);
        }
        // Where nothing came through at all, nothing was measured.
        let measured = !self.all.is_empty();
        let p99_ms = self.p99_ms.into_iter().map(|p99| measured.then_some(p99)).collect();
        findings.series(&format!("{name}_p99_ms"), self.slice, p99_ms);
    }

    fn begin(&self) -> Duration {
        self.slice.saturating_mul(u32::try_from(self.current_at).unwrap_or(u32::MAX))
    }

    fn close_before(&mut self, at: Duration) {
        while self.current_at < SLICES_MAX && at >= self.begin().saturating_add(self.slice) {
            self.close(self.slice);
        }
    }

    fn close(&mut self, length: Duration) {
        let seconds = length.as_secs_f64();
        self.p99_ms.push(self.p99_of(length));
        self.mib_per_s.push((seconds > 0.0).then(|| mib(self.current_bytes) / seconds));
        self.current.reset();
        self.current_bytes = 0;
        self.current_at += 1;
    }

    /// Of the slice that is open. Whoever waits for each operation before the next one has none that ends while the part stands
    /// still: then one is on its way all the time, and takes that long at least.
    fn p99_of(&self, length: Duration) -> f64 {
        if self.current.is_empty() {
            length.as_secs_f64() * 1000.0
        } else {
            self.current.value_at_quantile(0.99) as f64 / 1000.0
        }
    }
}

/// In microseconds up to ten minutes, at three digits.
pub fn histogram_us() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 600_000_000, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("fixed bounds: {error}"),
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::super::findings::Role;
    use super::*;

    fn findings_of(slices: Slices, end_s: f64) -> Findings {
        let mut findings = Findings::new(Role::WalDevice, "a", "d", 0);
        slices.finish(Duration::from_secs_f64(end_s), "write", &mut findings);
        findings
    }

    #[test]
    fn a_slice_in_which_nothing_came_through_is_a_slice_of_no_throughput() {
        let mut slices = Slices::new(Duration::from_secs(1));
        for at in [0.1, 0.9, 3.5] {
            slices.record(Duration::from_secs_f64(at), Duration::from_millis(1), 1 << 20);
        }
        let findings = findings_of(slices, 4.0);
        let rates = &findings.series["write_mib_per_s"].values;
        assert_eq!(rates, &[Some(2.0), Some(0.0), Some(0.0), Some(1.0)]);
        // Whoever waited through the second one waited for all of it.
        let waits = &findings.series["write_p99_ms"].values;
        assert_eq!(waits, &[Some(1.0), Some(1000.0), Some(1000.0), Some(1.0)]);
        assert!((findings.measures["write_mib_per_s"] - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_last_slice_that_was_cut_short_is_not_judged_by_itself() {
        let mut slices = Slices::new(Duration::from_secs(10));
        slices.record(Duration::from_secs(5), Duration::from_millis(1), 1 << 20);
        slices.record(Duration::from_secs(11), Duration::from_millis(1), 1 << 20);
        let findings = findings_of(slices, 11.0);
        assert_eq!(findings.series["write_mib_per_s"].values.len(), 1);
        assert_eq!(findings.series["write_p99_ms"].values.len(), 1);
        let mut short = Slices::new(Duration::from_secs(10));
        short.record(Duration::from_secs(1), Duration::from_millis(1), 4 << 20);
        assert_eq!(findings_of(short, 2.0).series["write_mib_per_s"].values, [Some(2.0)]);
    }

    #[test]
    fn what_came_late_behind_the_last_slice_is_seen() {
        let late = |at_ms: u64, latency_ms: u64| {
            let mut slices = Slices::new(Duration::from_secs(10));
            slices.record(Duration::from_secs(5), Duration::from_millis(1), 1 << 20);
            slices.record(Duration::from_millis(at_ms), Duration::from_millis(latency_ms), 1 << 20);
            findings_of(slices, at_ms as f64 / 1000.0)
        };
        let frozen = late(14_000, 8_000);
        let waits: Vec<_> = frozen.series["write_p99_ms"].seen().map(|(_, ms)| (ms / 100.0).round()).collect();
        assert_eq!(waits, [0.0, 80.0]);
        assert_eq!(frozen.series["write_mib_per_s"].values, [Some(0.1)]);
        // What was on its way when the time was over is one of many.
        assert_eq!(late(10_040, 45).series["write_p99_ms"].values, [Some(1.0)]);
    }

    #[test]
    fn a_run_in_which_nothing_came_through_has_measured_nothing() {
        let findings = findings_of(Slices::new(Duration::from_secs(1)), 3.0);
        assert_eq!(findings.series["write_p99_ms"].seen().count(), 0);
        assert!(findings.measures.is_empty());
    }
}
