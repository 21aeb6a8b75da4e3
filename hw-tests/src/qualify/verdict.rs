//! Judges what a probe saw by the thresholds. Pure: the same findings give the same verdict, on any machine, years later.
//!
//! Promise: a series passes when each slice of it does, and what was not measured never passes unseen.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::findings::{Findings, Role, name_and_unit, with_unit};
use super::thresholds::{Missing, RoleRules, Rule, Thresholds};

/// Worse is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Pass,
    Warn,
    Fail,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub role: Role,
    pub host: String,
    pub subject: String,
    pub level: Level,
    /// `WAL device: qualified for 350 MiB/s at p99 0.4 ms; limit: flush latency`.
    pub summary: String,
    /// The worst first.
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Of the measure, series or fact.
    pub name: String,
    pub title: String,
    pub level: Level,
    /// As people read it: `0.4 ms`, `not measured`.
    pub seen: String,
    /// `at most 1 ms`.
    pub bound: String,
    /// Slices that did not pass, and which was the worst, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slices: Option<BadSlices>,
    /// How much room there is to the bound: 1 is at it, 2 is twice as good as it must be. Of values alone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub margin: Option<f64>,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSlices {
    pub bad: usize,
    pub of: usize,
    pub worst: usize,
}

pub fn judge(findings: &Findings, thresholds: &Thresholds) -> Verdict {
    let rules = thresholds.of(findings.role);
    let mut checks: Vec<Check> = rules.rules.iter().filter_map(|(name, rule)| check(name, rule, findings)).collect();
    let least = |check: &Check| check.margin.unwrap_or(f64::INFINITY);
    checks.sort_by(|a, b| b.level.cmp(&a.level).then(least(a).total_cmp(&least(b))).then(a.name.cmp(&b.name)));
    let level = checks.iter().map(|check| check.level).max().unwrap_or_default();
    Verdict {
        role: findings.role,
        host: findings.host.clone(),
        subject: findings.subject.clone(),
        level,
        summary: summary(findings, rules, level, &checks),
        checks,
    }
}

/// None when nothing was measured and nobody minds.
fn check(name: &str, rule: &Rule, findings: &Findings) -> Option<Check> {
    let title = rule.title.clone().unwrap_or_else(|| name_and_unit(name).0);
    let blank = Check {
        name: name.to_owned(),
        title,
        level: Level::Pass,
        seen: String::new(),
        bound: bound(name, rule),
        slices: None,
        margin: None,
        why: rule.why.clone(),
    };
    if rule.fail_unless.is_some() || rule.warn_unless.is_some() {
        let Some(fact) = findings.facts.get(name) else { return missing(blank, rule.missing) };
        let level = match (&rule.fail_unless, &rule.warn_unless) {
            (Some(fail), _) if !fail.holds(fact) => Level::Fail,
            (_, Some(warn)) if !warn.holds(fact) => Level::Warn,
            _ => Level::Pass,
        };
        return Some(Check { level, seen: fact.to_string(), ..blank });
    }
    let whole = findings.measures.get(name).copied().map(|value| Judged::of(rule, value));
    let series = findings.series.get(name);
    let slices: Vec<(usize, Judged)> =
        series.iter().flat_map(|series| series.seen()).map(|(slice, value)| (slice, Judged::of(rule, value))).collect();
    let worst_slice = slices.iter().copied().max_by(|a, b| a.1.worse(&b.1));
    let worst = match (whole, worst_slice) {
        (None, None) => return missing(blank, rule.missing),
        (Some(whole), None) => whole,
        (None, Some((_, slice))) => slice,
        (Some(whole), Some((_, slice))) => {
            if whole.worse(&slice).is_gt() {
                whole
            } else {
                slice
            }
        }
    };
    let bad = slices.iter().filter(|(_, judged)| judged.level > Level::Pass).count();
    let bad_slices = worst_slice.filter(|_| bad > 0).map(|(worst, _)| BadSlices { bad, of: slices.len(), worst });
    let seen = with_unit(name, worst.value);
    Some(Check { level: worst.level, seen, slices: bad_slices, margin: worst.margin, ..blank })
}

fn missing(blank: Check, missing: Missing) -> Option<Check> {
    let level = match missing {
        Missing::Ignore => return None,
        Missing::Warn => Level::Warn,
        Missing::Fail => Level::Fail,
    };
    Some(Check { level, seen: "not measured".to_owned(), ..blank })
}

#[derive(Debug, Clone, Copy)]
struct Judged {
    value: f64,
    level: Level,
    margin: Option<f64>,
}

impl Judged {
    fn of(rule: &Rule, value: f64) -> Self {
        let beyond = |above: Option<f64>, below: Option<f64>| {
            above.is_some_and(|bound| value > bound) || below.is_some_and(|bound| value < bound)
        };
        let level = if beyond(rule.fail_above, rule.fail_below) {
            Level::Fail
        } else if beyond(rule.warn_above, rule.warn_below) {
            Level::Warn
        } else {
            Level::Pass
        };
        // Room to the bound at which it fails; where nothing fails, to the one at which it warns.
        let above = rule.fail_above.or(rule.warn_above).and_then(|bound| ratio(bound, value));
        let below = rule.fail_below.or(rule.warn_below).and_then(|bound| ratio(value, bound));
        let margin = match (above, below) {
            (Some(above), Some(below)) => Some(above.min(below)),
            (one, other) => one.or(other),
        };
        Self { value, level, margin }
    }

    /// Greater is worse.
    fn worse(&self, other: &Self) -> std::cmp::Ordering {
        let least = |judged: &Self| judged.margin.unwrap_or(f64::INFINITY);
        self.level.cmp(&other.level).then(least(other).total_cmp(&least(self)))
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (part >= 0.0 && whole > 0.0).then(|| part / whole)
}

fn bound(name: &str, rule: &Rule) -> String {
    let mut words = Vec::new();
    match (&rule.fail_unless, &rule.warn_unless) {
        (Some(facts), _) => words.push(facts.to_string()),
        (None, Some(facts)) => words.push(format!("{facts} (else a warning)")),
        (None, None) => {}
    }
    let mut side = |word: &str, fail: Option<f64>, warn: Option<f64>| match (fail, warn) {
        (Some(fail), Some(warn)) if fail != warn => {
            words.push(format!("{word} {}, better {}", with_unit(name, fail), with_unit(name, warn)));
        }
        (Some(bound), _) => words.push(format!("{word} {}", with_unit(name, bound))),
        (None, Some(warn)) => words.push(format!("{word} {} (else a warning)", with_unit(name, warn))),
        (None, None) => {}
    };
    side("at least", rule.fail_below, rule.warn_below);
    side("at most", rule.fail_above, rule.warn_above);
    words.join(", ")
}

fn summary(findings: &Findings, rules: &RoleRules, level: Level, checks: &[Check]) -> String {
    let mut text = match level {
        Level::Fail => format!("{}: not qualified", findings.role),
        Level::Pass | Level::Warn => format!("{}: qualified", findings.role),
    };
    let worst = |name: &Option<String>| name.as_ref().and_then(|name| worst_value(name, rules, findings));
    let measured = |name: &Option<String>| name.clone().zip(worst(name));
    if let Some((name, value)) = measured(&rules.headline.rate) {
        text += &if level == Level::Fail {
            format!(" ({})", with_unit(&name, value))
        } else {
            format!(" for {}", with_unit(&name, value))
        };
    }
    if let Some((name, value)) = measured(&rules.headline.latency).filter(|_| level != Level::Fail) {
        let (words, _) = name_and_unit(&name);
        let quantile = words.rsplit(' ').next().filter(|word| word.starts_with('p')).unwrap_or_default();
        text += &format!(" at {quantile} {}", with_unit(&name, value)).replace("  ", " ");
    }
    match level {
        Level::Fail => {
            let bad: Vec<String> = checks.iter().filter(|check| check.level == Level::Fail).map(told).collect();
            text + "; " + &bad.join("; ")
        }
        Level::Warn => {
            let warned = checks.iter().filter(|check| check.level == Level::Warn).count();
            text += &limit(checks);
            text + &format!("; {warned} warning{}", if warned == 1 { "" } else { "s" })
        }
        Level::Pass => text + &limit(checks),
    }
}

/// What would fail first.
fn limit(checks: &[Check]) -> String {
    let values = checks.iter().filter_map(|check| Some((check.margin?, check)));
    let nearest = values.min_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or(String::new(), |(_, check)| format!("; limit: {}", check.title))
}

fn told(check: &Check) -> String {
    let slices = check.slices.map_or(String::new(), |BadSlices { bad, of, worst }| {
        format!(" in slice {} ({bad} of {of} slices)", worst + 1)
    });
    format!("{} {}{slices}, must be {}", check.title, check.seen, check.bound)
}

/// What one may count on: the worst slice, or without slices the whole.
fn worst_value(name: &str, rules: &RoleRules, findings: &Findings) -> Option<f64> {
    let larger_is_worse = rules.rules.get(name).and_then(Rule::larger_is_worse).unwrap_or(name.ends_with("_ms"));
    let slices = findings.series.get(name).into_iter().flat_map(|series| series.seen()).map(|(_, value)| value);
    let all = slices.chain(findings.measures.get(name).copied());
    if larger_is_worse { all.reduce(f64::max) } else { all.reduce(f64::min) }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "ok",
            Self::Warn => "warning",
            Self::Fail => "FAILED",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn thresholds() -> Thresholds {
        let text = r#"
            version = 1
            outliers = { factor = 3, least = 3 }
            host = {}
            network = {}
            backend = {}
            [wal_device]
            headline = { for = "write_mib_per_s", at = "flush_p99_ms" }
            [wal_device.rules]
            write_mib_per_s = { title = "sustained write", fail_below = 100, why = "w" }
            flush_p99_ms = { title = "flush latency", warn_above = 1, fail_above = 2, why = "w" }
            volatile_cache = { fail_unless = false, missing = "fail", why = "w" }
            wear_percent = { warn_above = 80, missing = "ignore", why = "w" }
        "#;
        toml::from_str(text).unwrap()
    }

    fn good() -> Findings {
        let mut findings = Findings::new(Role::WalDevice, "a", "nvme-1", 0);
        findings.measure("flush_p99_ms", 0.4);
        findings.series("write_mib_per_s", Duration::from_secs(60), vec![Some(900.0), Some(850.0), Some(870.0)]);
        findings.fact("volatile_cache", false);
        findings
    }

    #[test]
    fn a_good_part_is_qualified_for_its_worst_slice_and_its_limit_is_named() {
        let verdict = judge(&good(), &thresholds());
        assert_eq!(verdict.level, Level::Pass);
        let summary = "WAL device: qualified for 850 MiB/s at p99 0.4 ms; limit: flush latency";
        assert_eq!(verdict.summary, summary);
    }

    #[test]
    fn one_bad_slice_fails_what_is_good_on_average() {
        let mut findings = good();
        findings.measure("write_mib_per_s", 800.0);
        findings.series("write_mib_per_s", Duration::from_secs(60), vec![Some(900.0), Some(12.0), None, Some(900.0)]);
        let verdict = judge(&findings, &thresholds());
        assert_eq!(verdict.level, Level::Fail);
        assert_eq!(verdict.checks[0].slices, Some(BadSlices { bad: 1, of: 3, worst: 1 }));
        assert!(verdict.summary.contains("sustained write 12 MiB/s in slice 2 (1 of 3 slices)"), "{}", verdict.summary);
    }

    #[test]
    fn what_was_not_measured_passes_only_where_the_rule_says_so() {
        let mut findings = good();
        findings.facts.clear();
        let verdict = judge(&findings, &thresholds());
        assert_eq!((verdict.level, verdict.checks[0].seen.as_str()), (Level::Fail, "not measured"));
        let mut findings = good();
        findings.measures.clear();
        let verdict = judge(&findings, &thresholds());
        assert_eq!(verdict.level, Level::Warn);
        assert!(verdict.summary.ends_with("; 1 warning"), "{}", verdict.summary);
    }

    #[test]
    fn a_value_between_the_bounds_warns_and_a_wrong_fact_fails() {
        let mut findings = good();
        findings.measure("flush_p99_ms", 1.5);
        assert_eq!(judge(&findings, &thresholds()).level, Level::Warn);
        findings.fact("volatile_cache", true);
        let verdict = judge(&findings, &thresholds());
        assert_eq!((verdict.level, verdict.checks[0].name.as_str()), (Level::Fail, "volatile_cache"));
    }
}
