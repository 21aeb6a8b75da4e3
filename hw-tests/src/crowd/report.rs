//! What a crowd says at its end.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::neighbours;
use crate::cluster::report::{Cpu, Fairness, Latencies};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub connections: u32,
    pub partitions: i32,
    pub rate: u64,
    pub seconds: f64,
    pub acked: u64,
    /// Answers with an error code.
    pub failed: u64,
    /// Connections that the broker closed or left without an answer.
    pub broken: u64,
    /// By how much the end offsets grew.
    pub in_the_log: i64,
    pub acks_per_s: f64,
    pub produce_ms: Latencies,
    pub fairness: Fairness,
    pub neighbours: neighbours::Done,
    pub cpu_s: Cpu,
}

impl Report {
    /// Without broken connections each request has its ack, so the log holds what was acked and no more.
    pub fn is_right(&self) -> bool {
        let in_the_log = i64::try_from(self.acked) == Ok(self.in_the_log);
        in_the_log && self.failed == 0 && self.broken == 0 && self.acked > 0
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

    fn table(&self) -> String {
        let Latencies { p50, p99, p999, max, .. } = self.produce_ms;
        let Fairness { least, most, jain } = self.fairness;
        let neighbours::Done { sent_without_reading, single_bytes, crashed_members } = self.neighbours;
        format!(
            "{} connections, {} partitions, {}\n\
             acked            {:>12} records {:>10.0} acks/s in {:.1} s, {} in the log\n\
             produce ms       p50 {p50:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}\n\
             acked each       least {least}  most {most}  Jain {jain:.4}\n\
             of requests      {} failed, {} connections broken\n\
             neighbours       {sent_without_reading} bytes sent without reading, {single_bytes} single bytes, \
             {crashed_members} members crashed\n\
             result           {}\n",
            self.connections,
            self.partitions,
            if self.rate == 0 { "each as fast as its acks".to_owned() } else { format!("{} requests/s", self.rate) },
            self.acked,
            self.acks_per_s,
            self.seconds,
            self.in_the_log,
            self.failed,
            self.broken,
            if self.is_right() { "right" } else { "WRONG" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_wrong_when_the_log_and_the_acks_differ_or_a_connection_breaks() {
        let right = Report { acked: 5, in_the_log: 5, ..Report::default() };
        assert!(right.is_right() && right.table().contains("right"));
        for wrong in [
            Report { in_the_log: 4, ..right.clone() },
            Report { in_the_log: 6, ..right.clone() },
            Report { failed: 1, ..right.clone() },
            Report { broken: 1, ..right.clone() },
            Report::default(),
        ] {
            assert!(!wrong.is_right() && wrong.table().contains("WRONG"));
        }
    }
}
