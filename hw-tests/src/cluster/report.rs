//! What a run says at its end: a table for people, one line of JSON for programs.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::ledger::Verdict;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub topic: String,
    pub partitions: usize,
    pub record_bytes: usize,
    /// As asked, in records per second; 0 for as fast as possible.
    pub rate: u64,
    pub connections: u32,
    pub sent: u64,
    /// Given up by the client: their outcome is unknown.
    pub failed: u64,
    pub errors: u64,
    /// Acked records.
    pub produced: Side,
    pub consumed: Side,
    /// Each acked record was to be read.
    pub reads_expected: bool,
    /// From the scheduled time to the ack.
    pub produce_ms: Latencies,
    /// From the scheduled time to the consumer.
    pub end_to_end_ms: Latencies,
    /// How late records left the sender itself: the generator's own part of the latencies.
    pub sender_late_ms: Latencies,
    pub fairness: Fairness,
    pub ledger: Option<Verdict>,
    pub cpu_s: Cpu,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub records: u64,
    pub bytes: u64,
    /// From the beginning to the last of them.
    pub seconds: f64,
    pub records_per_s: f64,
    pub mib_per_s: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Acked records per connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Fairness {
    pub least: u64,
    pub most: u64,
    /// Jain's index: 1 when all got the same, 1/n when one got everything.
    pub jain: f64,
}

/// CPU seconds of the generator itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Report {
    /// False for lost, doubled or moved records, for acked records that were not read, and when nothing was acked.
    pub fn is_right(&self) -> bool {
        let clean = self.ledger.is_none_or(|verdict| verdict.is_clean());
        // Failed records may have been written all the same, so there may be more reads than acks.
        let read = !self.reads_expected || self.consumed.records >= self.produced.records;
        let acked = self.sent == 0 || self.produced.records > 0;
        clean && read && acked
    }

    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            eprint!("{}", self.table());
            println!("{}", serde_json::to_string(self)?);
        } else {
            print!("{}", self.table());
        }
        Ok(())
    }

    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "topic {}, {} partitions, {} connections, records of {} bytes, {}",
            self.topic,
            self.partitions,
            self.connections,
            self.record_bytes,
            if self.rate == 0 { "as fast as possible".to_owned() } else { format!("{} records/s asked", self.rate) }
        )];
        for (name, side) in [("produced", &self.produced), ("consumed", &self.consumed)] {
            if side.records > 0 || name == "produced" && self.sent > 0 {
                lines.push(format!(
                    "{name:<16} {:>12} records {:>12.0} records/s {:>10.1} MiB/s in {:.1} s",
                    side.records, side.records_per_s, side.mib_per_s, side.seconds
                ));
            }
        }
        for (name, latencies) in [
            ("produce ms", &self.produce_ms),
            ("end to end ms", &self.end_to_end_ms),
            ("sender late ms", &self.sender_late_ms),
        ] {
            if latencies.count > 0 {
                let Latencies { p50, p99, p999, max, .. } = latencies;
                lines.push(format!("{name:<16} p50 {p50:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}"));
            }
        }
        if self.connections > 1 {
            let Fairness { least, most, jain } = self.fairness;
            lines.push(format!("{:<16} least {least}  most {most}  Jain {jain:.3}", "acked each"));
        }
        lines.push(format!("{:<16} {} failed, {} errors", "of sent", self.failed, self.errors));
        if let Some(verdict) = &self.ledger {
            let Verdict { acked, read, lost, doubled, moved, unacked_read, unchecked } = verdict;
            lines.push(format!(
                "{:<16} {acked} acked, {read} read: {lost} lost, {doubled} doubled, {moved} moved \
                 ({unacked_read} read without an ack, {unchecked} unchecked)",
                "ledger"
            ));
        }
        lines.push(format!("{:<16} {:.2} user, {:.2} system", "generator CPU s", self.cpu_s.user, self.cpu_s.system));
        lines.push(format!("{:<16} {}", "result", if self.is_right() { "right" } else { "WRONG" }));
        lines.join("\n") + "\n"
    }
}

impl Side {
    pub fn of(records: u64, bytes: u64, last_ns: u64) -> Self {
        let seconds = Duration::from_nanos(last_ns).as_secs_f64();
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Self {
            records,
            bytes,
            seconds,
            records_per_s: per_second(records as f64),
            mib_per_s: per_second(bytes as f64 / (1 << 20) as f64),
        }
    }
}

/// In microseconds up to ten minutes, at three digits.
pub fn latency_histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, 600_000_000, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("fixed bounds: {error}"),
    }
}

pub fn record_latency(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.saturating_record((nanoseconds / 1000).max(1));
}

impl Latencies {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            p50: ms(0.5),
            p99: ms(0.99),
            p999: ms(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

impl Fairness {
    pub fn of(counts: &[u64]) -> Self {
        let sum: f64 = counts.iter().map(|count| *count as f64).sum();
        let squares: f64 = counts.iter().map(|count| (*count as f64).powi(2)).sum();
        Self {
            least: counts.iter().copied().min().unwrap_or(0),
            most: counts.iter().copied().max().unwrap_or(0),
            jain: if squares > 0.0 { sum * sum / (counts.len() as f64 * squares) } else { 0.0 },
        }
    }
}

impl Cpu {
    pub fn of_this_process() -> Self {
        let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        match getrusage(UsageWho::RUSAGE_SELF) {
            Ok(usage) => Self { user: seconds(usage.user_time()), system: seconds(usage.system_time()) },
            Err(_) => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Report {
        Report {
            connections: 2,
            sent: 10,
            produced: Side::of(10, 10_240, 2_000_000_000),
            consumed: Side::of(10, 10_240, 2_000_000_000),
            reads_expected: true,
            ledger: Some(Verdict { acked: 10, read: 10, ..Verdict::default() }),
            ..Report::default()
        }
    }

    #[test]
    fn a_report_is_wrong_for_anything_lost_doubled_moved_unread_or_never_acked() {
        assert!(fine().is_right());
        let verdicts = [(1, 0, 0), (0, 1, 0), (0, 0, 1)];
        for (lost, doubled, moved) in verdicts {
            let ledger = Some(Verdict { lost, doubled, moved, ..Verdict::default() });
            let report = Report { ledger, ..fine() };
            assert!(!report.is_right() && report.table().contains("WRONG"));
        }
        assert!(!Report { consumed: Side::of(9, 9_216, 1), ..fine() }.is_right());
        assert!(!Report { produced: Side::default(), consumed: Side::default(), ..fine() }.is_right());
    }

    #[test]
    fn rates_latencies_and_fairness_are_what_they_say() {
        let side = Side::of(2048, 2 << 20, 2_000_000_000);
        assert_eq!((side.records_per_s, side.mib_per_s), (1024.0, 1.0));
        let mut histogram = latency_histogram();
        for ms in 1..=1000u64 {
            record_latency(&mut histogram, ms * 1_000_000);
        }
        let latencies = Latencies::of(&histogram);
        assert!((latencies.p50 - 500.0).abs() < 1.0 && (latencies.p99 - 990.0).abs() < 1.0, "{latencies:?}");
        assert!((latencies.max - 1000.0).abs() < 1.0);
        assert_eq!(Fairness::of(&[5, 5, 5, 5]).jain, 1.0);
        assert_eq!(Fairness::of(&[8, 0, 0, 0]), Fairness { least: 0, most: 8, jain: 0.25 });
    }

    #[test]
    fn the_json_line_comes_back() {
        let report = fine();
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
