//! A report: findings and verdicts of one or many hosts. A table for people, JSON for machines.
//!
//! The JSON's `schema` grows when a field changes its meaning or goes away; new fields may come at any time.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::findings::{Findings, with_unit};
use super::outliers::{self, Outlier};
use super::thresholds::Thresholds;
use super::verdict::{BadSlices, Level, Verdict, judge};

pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    /// Of the program that judged.
    pub version: String,
    pub made_unix_s: u64,
    /// The worst of the verdicts.
    pub level: Level,
    /// One for each of the findings, in the same order.
    pub verdicts: Vec<Verdict>,
    #[serde(default)]
    pub outliers: Vec<Outlier>,
    /// Hosts and probes that did not come to their end: none of them is qualified.
    #[serde(default)]
    pub failures: Vec<Failure>,
    pub findings: Vec<Findings>,
}

/// A probe that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub host: String,
    pub probe: String,
    pub error: String,
}

impl Report {
    pub fn new(findings: Vec<Findings>, failures: Vec<Failure>, thresholds: &Thresholds, made_unix_s: u64) -> Self {
        let verdicts: Vec<Verdict> = findings.iter().map(|findings| judge(findings, thresholds)).collect();
        let mut level = verdicts.iter().map(|verdict| verdict.level).max().unwrap_or_default();
        if !failures.is_empty() || findings.is_empty() {
            level = Level::Fail;
        }
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made_unix_s,
            level,
            verdicts,
            outliers: outliers::find(&findings, thresholds),
            failures,
            findings,
        }
    }

    pub fn table(&self) -> String {
        let many = self.findings.iter().any(|findings| findings.host != self.findings[0].host);
        let mut text = String::new();
        for (verdict, findings) in self.verdicts.iter().zip(&self.findings) {
            text += &section(verdict, findings, many);
        }
        for Failure { host, probe, error } in &self.failures {
            text += &format!("\n{host}: {probe} did not end: {error}\n");
        }
        if !self.outliers.is_empty() {
            text += "\nOutliers:\n";
            for outlier in &self.outliers {
                text += &format!("  {}\n", outlier.sentence);
            }
        }
        text += "\n";
        for verdict in &self.verdicts {
            text += &format!("{:<8} {}\n", verdict.level, Self::line(verdict, many));
        }
        for Failure { host, probe, .. } in &self.failures {
            text += &format!("{:<8} {host}: {probe}: no result\n", Level::Fail);
        }
        text.trim_start().to_owned()
    }

    fn line(verdict: &Verdict, many: bool) -> String {
        if verdict.subject != verdict.host {
            let host = if many && !verdict.subject.contains(&verdict.host) {
                format!("{}, ", verdict.host)
            } else {
                String::new()
            };
            return format!("{} [{host}{}]", verdict.summary, verdict.subject);
        }
        format!("{} [{}]", verdict.summary, verdict.host)
    }
}

fn section(verdict: &Verdict, findings: &Findings, many: bool) -> String {
    let on = if many && findings.subject != findings.host { format!(" on {}", findings.host) } else { String::new() };
    let mut text = format!("\n{} {}{on} ({:.0} s)\n", findings.role, findings.subject, findings.seconds);
    let width = verdict.checks.iter().map(|check| check.title.chars().count()).max().unwrap_or(0);
    for check in &verdict.checks {
        text += &format!("  {:<8} {:<width$}  {:<14} {}", check.level, check.title, check.seen, check.bound);
        if let Some(BadSlices { bad, of, worst }) = check.slices {
            text += &format!("; {bad} of {of} slices, the worst is slice {}", worst + 1);
        }
        text += "\n";
        if check.level > Level::Pass {
            text += &format!("  {:<8} {}\n", "", check.why);
        }
    }
    let judged = |name: &String| verdict.checks.iter().any(|check| check.name == *name);
    let facts = findings.facts.iter().filter(|(name, _)| !judged(name));
    let facts = facts.map(|(name, fact)| format!("{} {fact}", name.replace('_', " ")));
    let measures = findings.measures.iter().filter(|(name, _)| !judged(name));
    let measures =
        measures.map(|(name, value)| format!("{} {}", super::findings::name_and_unit(name).0, with_unit(name, *value)));
    for also in facts.chain(measures) {
        text += &format!("  {:<8} {also}\n", "");
    }
    for note in &findings.notes {
        text += &format!("  note     {note}\n");
    }
    text
}

#[allow(clippy::disallowed_methods, reason = "a report of real hardware bears its date")]
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::super::findings::Role;
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_part_and_comes_back_from_json() {
        let thresholds = Thresholds::load(None).unwrap();
        let mut findings = Findings::new(Role::Network, "a", "a -> b", 7);
        for (name, value) in [
            ("bandwidth_mib_per_s", 1100.0),
            ("round_trip_p50_ms", 0.1),
            ("round_trip_p99_ms", 0.2),
            ("round_trip_max_ms", 1.0),
            ("retransmits_per_million", 0.0),
            ("path_mtu_bytes", 9000.0),
        ] {
            findings.measure(name, value);
        }
        findings.fact("mtu_agrees", true);
        let good = Report::new(vec![findings.clone()], Vec::new(), &thresholds, 9);
        assert_eq!(good.level, Level::Pass, "{}", good.table());
        assert!(good.table().contains("network: qualified for 1100 MiB/s at p99 0.2 ms"), "{}", good.table());
        let failure = Failure { host: "c".into(), probe: "host".into(), error: "no route".into() };
        let bad = Report::new(vec![findings], vec![failure], &thresholds, 9);
        assert_eq!(bad.level, Level::Fail);
        assert!(bad.table().contains("c: host did not end: no route"));
        let line = serde_json::to_string(&bad).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), bad);
    }
}
