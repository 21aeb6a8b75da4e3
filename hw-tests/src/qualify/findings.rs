//! What a probe saw, without any opinion of it: measures, facts, distributions and curves over time.
//!
//! A measure's name ends in its unit (`flush_p99_ms`), so that no number travels without one. What a probe could not
//! find out is not there: the thresholds say what that means.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What is qualified: a table of the thresholds, and a line of the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Host,
    WalDevice,
    Network,
    Backend,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    pub role: Role,
    /// The machine on which the probe ran.
    pub host: String,
    /// What was probed: a device by id, `host a -> host b`, a store's place; the host's name for `host`.
    pub subject: String,
    /// Seconds since 1970.
    pub begun_unix_s: u64,
    pub seconds: f64,
    #[serde(default)]
    pub facts: BTreeMap<String, Fact>,
    #[serde(default)]
    pub measures: BTreeMap<String, f64>,
    #[serde(default)]
    pub distributions: BTreeMap<String, Distribution>,
    #[serde(default)]
    pub series: BTreeMap<String, Series>,
    /// For people: what was left out and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A property that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    Is(bool),
    Number(i64),
    Text(String),
}

/// Latencies, or what else has quantiles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub count: u64,
    /// Quantile from 0 to 1 and value.
    pub quantiles: Vec<(f64, f64)>,
    /// Upper bound and count; the bounds double.
    pub buckets: Vec<(f64, u64)>,
}

/// One value for each slice of the run. Each slice is judged by itself: an average hides the minute that was bad.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub slice_seconds: f64,
    /// None where there was nothing to measure.
    pub values: Vec<Option<f64>>,
}

impl Findings {
    pub fn new(role: Role, host: impl Into<String>, subject: impl Into<String>, begun_unix_s: u64) -> Self {
        Self {
            role,
            host: host.into(),
            subject: subject.into(),
            begun_unix_s,
            seconds: 0.0,
            facts: BTreeMap::new(),
            measures: BTreeMap::new(),
            distributions: BTreeMap::new(),
            series: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    pub fn fact(&mut self, name: &str, fact: impl Into<Fact>) {
        self.facts.insert(name.to_owned(), fact.into());
    }

    /// JSON has no infinities: what is not finite was not measured.
    pub fn measure(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            self.measures.insert(name.to_owned(), value);
        }
    }

    /// A distribution in milliseconds and its usual quantiles as measures: `flush` gives `flush_p50_ms` to `flush_p9999_ms`
    /// and `flush_max_ms`.
    pub fn latencies(&mut self, name: &str, histogram_us: &Histogram<u64>) {
        if histogram_us.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999), ("max", 1.0)] {
            self.measure(&format!("{name}_{label}_ms"), histogram_us.value_at_quantile(quantile) as f64 / 1000.0);
        }
        self.distributions.insert(format!("{name}_ms"), Distribution::of_us(histogram_us));
    }

    pub fn series(&mut self, name: &str, slice: Duration, values: Vec<Option<f64>>) {
        let values = values.into_iter().map(|value| value.filter(|value| value.is_finite())).collect();
        self.series.insert(name.to_owned(), Series { slice_seconds: slice.as_secs_f64(), values });
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Distribution {
    /// Of a histogram in microseconds, in milliseconds.
    pub fn of_us(histogram: &Histogram<u64>) -> Self {
        const QUANTILES: [f64; 9] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999];
        let ms = |us: u64| us as f64 / 1000.0;
        let mut quantiles: Vec<_> = QUANTILES.iter().map(|q| (*q, ms(histogram.value_at_quantile(*q)))).collect();
        quantiles.push((1.0, ms(histogram.max())));
        let mut buckets = Vec::new();
        let (mut below, mut upper) = (0, 1u64);
        while below < histogram.len() {
            let upto = if upper > histogram.max() { histogram.len() } else { histogram.count_between(0, upper) };
            if upto > below || !buckets.is_empty() {
                buckets.push((ms(upper), upto.saturating_sub(below)));
            }
            below = below.max(upto);
            upper = upper.saturating_mul(2);
        }
        Self { count: histogram.len(), quantiles, buckets }
    }
}

impl Series {
    pub fn seen(&self) -> impl Iterator<Item = (usize, f64)> {
        self.values.iter().enumerate().filter_map(|(slice, value)| value.map(|value| (slice, value)))
    }
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Host, Self::WalDevice, Self::Network, Self::Backend];

    /// As a verdict says it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::WalDevice => "WAL device",
            Self::Network => "network",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(true) => f.write_str("yes"),
            Self::Is(false) => f.write_str("no"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<bool> for Fact {
    fn from(is: bool) -> Self {
        Self::Is(is)
    }
}

impl From<i64> for Fact {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Of a limit that is none.
pub const UNLIMITED: f64 = 1e15;

/// Endings of names, the unit they stand for and its digits after the point.
const UNITS: [(&str, &str, usize); 12] = [
    ("_mib_per_s", "MiB/s", 0),
    ("_gib_per_s", "GiB/s", 1),
    ("_per_s", "/s", 0),
    ("_percent", "%", 2),
    ("_per_million", "per million", 0),
    ("_bytes", "bytes", 0),
    ("_gib", "GiB", 1),
    ("_mib", "MiB", 0),
    ("_ms", "ms", 3),
    ("_us", "us", 1),
    ("_s", "s", 1),
    ("_celsius", "°C", 0),
];

/// `flush_p99_ms` is ("flush p99", "ms").
pub fn name_and_unit(name: &str) -> (String, &'static str) {
    match unit(name) {
        Some((ending, unit, _)) => (name[..name.len() - ending.len()].replace('_', " "), unit),
        None => (name.replace('_', " "), ""),
    }
}

/// The value as people read it, with its unit.
pub fn with_unit(name: &str, value: f64) -> String {
    if value >= UNLIMITED {
        return "unlimited".to_owned();
    }
    let (unit, digits) = match unit(name) {
        Some((_, unit, digits)) => (unit, digits),
        None if value.fract() == 0.0 => ("", 0),
        None => ("", 2),
    };
    // Three digits say enough of a large value, and a small one needs them.
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => digits.min(1),
        value if value >= 1.0 || value == 0.0 => digits.min(2),
        _ if digits == 0 => 2,
        _ => digits,
    };
    let number = format!("{value:.digits$}");
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    if unit.is_empty() { number.to_owned() } else { format!("{number} {unit}") }
}

fn unit(name: &str) -> Option<(&'static str, &'static str, usize)> {
    UNITS.into_iter().find(|(ending, _, _)| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_unit_and_a_value_is_short() {
        assert_eq!(name_and_unit("flush_p99_ms"), ("flush p99".to_owned(), "ms"));
        assert_eq!(name_and_unit("write_mib_per_s"), ("write".to_owned(), "MiB/s"));
        assert_eq!(name_and_unit("cpus"), ("cpus".to_owned(), ""));
        assert_eq!(with_unit("flush_p99_ms", 0.4), "0.4 ms");
        assert_eq!(with_unit("flush_p99_ms", 0.0634), "0.063 ms");
        assert_eq!(with_unit("write_mib_per_s", 350.4), "350 MiB/s");
        assert_eq!(with_unit("write_mib_per_s", 100.0), "100 MiB/s");
        assert_eq!(with_unit("mtu_bytes", 9000.0), "9000 bytes");
        assert_eq!(with_unit("cpus", 2.0), "2");
    }

    #[test]
    fn the_buckets_of_a_distribution_hold_each_value_once() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for us in [3, 50, 51, 900, 900, 40_000] {
            histogram.record(us).unwrap();
        }
        let distribution = Distribution::of_us(&histogram);
        assert_eq!(distribution.buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!(distribution.buckets.first(), Some(&(0.004, 1)));
        assert!(distribution.quantiles.iter().any(|(quantile, ms)| *quantile == 0.5 && (*ms - 0.051).abs() < 0.001));
    }

    #[test]
    fn what_is_not_finite_was_not_measured() {
        let mut findings = Findings::new(Role::Host, "a", "a", 0);
        findings.measure("rate_per_s", f64::INFINITY);
        findings.series("write_mib_per_s", Duration::from_secs(1), vec![Some(f64::NAN), Some(1.0)]);
        assert!(findings.measures.is_empty());
        assert_eq!(findings.series["write_mib_per_s"].values, [None, Some(1.0)]);
        let line = serde_json::to_string(&findings).unwrap();
        assert_eq!(serde_json::from_str::<Findings>(&line).unwrap(), findings);
    }
}
