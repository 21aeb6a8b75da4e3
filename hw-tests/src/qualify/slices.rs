//! Operations of a run, as a whole and slice by slice of its time.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::findings::Findings;

/// Slices of a run at most: further time goes into the last one.
const SLICES_MAX: usize = 100_000;

pub struct Slices {
    slice: Duration,
    all: Histogram<u64>,
    current: Histogram<u64>,
    current_at: usize,
    current_bytes: u64,
    p99_ms: Vec<Option<f64>>,
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
    /// `{name}_mib_per_s`. A slice that the end cut to less than half its length is part of the whole alone.
    pub fn finish(mut self, end: Duration, name: &str, findings: &mut Findings) {
        self.close_before(end);
        let rest = end.saturating_sub(self.begin());
        if rest >= self.slice / 2 || self.p99_ms.is_empty() {
            self.close(rest);
        }
        findings.latencies(name, &self.all);
        let seconds = end.max(self.last).as_secs_f64();
        if self.bytes > 0 {
            findings.measure(&format!("{name}_mib_per_s"), mib(self.bytes) / seconds);
            findings.series(&format!("{name}_mib_per_s"), self.slice, self.mib_per_s);
        }
        findings.series(&format!("{name}_p99_ms"), self.slice, self.p99_ms);
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
        let p99 = (!self.current.is_empty()).then(|| self.current.value_at_quantile(0.99) as f64 / 1000.0);
        self.p99_ms.push(p99);
        self.mib_per_s.push((seconds > 0.0).then(|| mib(self.current_bytes) / seconds));
        self.current.reset();
        self.current_bytes = 0;
        self.current_at += 1;
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
        assert_eq!(findings.series["write_p99_ms"].values[1], None);
        assert!((findings.measures["write_mib_per_s"] - 0.75).abs() < 1e-9);
    }

    #[test]
    fn a_last_slice_that_was_cut_short_is_not_judged_by_itself() {
        let mut slices = Slices::new(Duration::from_secs(10));
        slices.record(Duration::from_secs(5), Duration::from_millis(1), 1 << 20);
        slices.record(Duration::from_secs(11), Duration::from_millis(1), 1 << 20);
        assert_eq!(findings_of(slices, 11.0).series["write_mib_per_s"].values.len(), 1);
        let mut short = Slices::new(Duration::from_secs(10));
        short.record(Duration::from_secs(1), Duration::from_millis(1), 4 << 20);
        assert_eq!(findings_of(short, 2.0).series["write_mib_per_s"].values, [Some(2.0)]);
    }
}
