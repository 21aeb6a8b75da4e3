//! Parts that are far worse than their like. A part may pass each threshold and still be the one that is about to break.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::findings::{Findings, Role, name_and_unit, with_unit};
use super::thresholds::{Rule, Thresholds};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlier {
    pub role: Role,
    pub host: String,
    pub subject: String,
    pub name: String,
    pub value: f64,
    pub median: f64,
    /// `r1-07's flush latency is 6x the rack's median (2.4 ms, median 0.4 ms)`.
    pub sentence: String,
}

/// The longest of many is chance: between equal parts it differs by more than any factor.
const LONGEST: &str = "_max_ms";

/// Of each value that a rule bounds on one side, whoever is `factor` times worse than the median.
pub fn find(findings: &[Findings], thresholds: &Thresholds) -> Vec<Outlier> {
    let mut groups: BTreeMap<(Role, &str), Vec<(&Findings, f64)>> = BTreeMap::new();
    for part in findings {
        for (name, value) in &part.measures {
            groups.entry((part.role, name)).or_default().push((part, *value));
        }
    }
    let mut outliers = Vec::new();
    for ((role, name), parts) in groups {
        let Some(rule) = thresholds.of(role).rules.get(name) else { continue };
        let Some(larger_is_worse) = rule.larger_is_worse() else { continue };
        if parts.len() < thresholds.outliers.least.max(2) || name.ends_with(LONGEST) {
            continue;
        }
        let median = median(parts.iter().map(|(_, value)| *value).collect());
        for (part, value) in parts {
            let times = if larger_is_worse { value / median } else { median / value };
            // Where most have nothing at all, any value would be far above: there the threshold alone speaks.
            if median > 0.0 && times >= thresholds.outliers.factor {
                let sentence = sentence(part, name, rule, value, median);
                let (host, subject) = (part.host.clone(), part.subject.clone());
                outliers.push(Outlier { role, host, subject, name: name.to_owned(), value, median, sentence });
            }
        }
    }
    outliers
}

fn sentence(part: &Findings, name: &str, rule: &Rule, value: f64, median: f64) -> String {
    let title = rule.title.clone().unwrap_or_else(|| name_and_unit(name).0);
    let times = match value / median {
        times if times >= 10.0 => format!("{times:.0}x"),
        times if times >= 1.0 => format!("{times:.1}x").replace(".0x", "x"),
        times => format!("{:.0}% of", times * 100.0),
    };
    let (seen, usual) = (with_unit(name, value), with_unit(name, median));
    let place = if part.subject == part.host || part.subject.contains(&part.host) {
        part.subject.clone()
    } else {
        format!("{} ({})", part.host, part.subject)
    };
    format!("{place}: {title} is {times} the rack's median ({seen}, median {usual})")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rack(flush_ms: &[f64], write: &[f64]) -> Vec<Findings> {
        let parts = flush_ms.iter().zip(write).enumerate();
        let parts = parts.map(|(at, (flush, write))| {
            let mut part = Findings::new(Role::WalDevice, format!("host-{at}"), format!("nvme-{at}"), 0);
            part.measure("ack_p99_ms", *flush);
            part.measure("write_mib_per_s", *write);
            part
        });
        parts.collect()
    }

    #[test]
    fn the_one_that_is_far_worse_is_named_whichever_way_worse_is() {
        let thresholds = Thresholds::load(None).unwrap();
        let outliers = find(&rack(&[0.4, 0.41, 2.4, 0.39, 0.4], &[900.0, 100.0, 890.0, 910.0, 900.0]), &thresholds);
        let sentences: Vec<_> = outliers.iter().map(|outlier| outlier.sentence.as_str()).collect();
        assert_eq!(
            sentences,
            [
                "host-2 (nvme-2): flush latency is 6x the rack's median (2.4 ms, median 0.4 ms)",
                "host-1 (nvme-1): sustained write is 11% of the rack's median (100 MiB/s, median 900 MiB/s)",
            ]
        );
    }

    #[test]
    fn the_longest_wait_of_a_part_is_not_compared() {
        let mut rack = rack(&[0.4; 4], &[900.0; 4]);
        for (part, ms) in rack.iter_mut().zip([8.0, 9.0, 70.0, 7.0]) {
            part.measure("ack_max_ms", ms);
        }
        let thresholds = Thresholds::load(None).unwrap();
        assert!(thresholds.wal_device.rules.contains_key("ack_max_ms"));
        assert!(find(&rack, &thresholds).is_empty());
    }

    #[test]
    fn better_than_the_others_and_too_few_to_compare_are_no_outliers() {
        let thresholds = Thresholds::load(None).unwrap();
        assert!(find(&rack(&[0.4, 0.4, 0.01, 0.4], &[100.0, 100.0, 900.0, 100.0]), &thresholds).is_empty());
        assert!(find(&rack(&[0.4, 4.0], &[100.0, 100.0]), &thresholds).is_empty());
    }
}
