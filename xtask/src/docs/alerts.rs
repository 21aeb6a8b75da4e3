//! The alert rules that the Ansible role deploys, the runbooks and the metrics: each names only what the others have.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{Found, Page};
use crate::process;
use crate::tools::Tool;

const RULES: &str = "ansible/roles/monitoring/files/alerts.yml";
const TESTS: &str = "xtask/docs/alerts.test.yml";
const RUNBOOKS: &str = "docs/runbooks/README.md";

pub fn check(pages: &[Page], found: &mut Found) -> anyhow::Result<()> {
    let text_of = |path: &str| pages.iter().find(|page| page.path.as_os_str() == path).map(|page| page.text.as_str());
    let metrics = known_metrics(text_of("docs/metrics.md").unwrap_or_default());
    let rules = fs::read_to_string(crate::root().join(RULES)).context(RULES)?;
    let tests = fs::read_to_string(crate::root().join(TESTS)).context(TESTS)?;
    let alerts = alerts(&rules);
    for alert in &alerts {
        let table = text_of(RUNBOOKS).unwrap_or_default();
        for problem in problems(alert, text_of(&alert.runbook), table, &tests) {
            found.problem(&format!("{RULES}: {}: {problem}", alert.name));
        }
    }
    found.fine(alerts.len());
    let sources = pages
        .iter()
        .filter(|page| !OF_VARIABLES.iter().any(|path| page.path.as_os_str() == *path))
        .map(|page| (page.path.display().to_string(), page.text.as_str()));
    for (path, text) in sources.chain([(RULES.to_owned(), rules.as_str())]) {
        for name in metric_names(text).into_iter().filter(|name| !is_metric(name, &metrics)) {
            found.problem(&format!("{path}: there is no metric {name}"));
        }
    }
    promtool(&["check", "rules", RULES], found)?;
    promtool(&["test", "rules", TESTS], found)?;
    println!("{} alerts, {} metrics", alerts.len(), metrics.len());
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Alert {
    name: String,
    severity: String,
    runbook: String,
}

/// As they stand in the file, whose form promtool checks.
fn alerts(rules: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert { name: name.to_owned(), severity: String::new(), runbook: String::new() });
        } else if let (Some(severity), Some(alert)) = (line.strip_prefix("labels: {severity: "), alerts.last_mut()) {
            alert.severity = severity.trim_end_matches('}').to_owned();
        } else if let (Some(runbook), Some(alert)) = (line.strip_prefix("runbook: "), alerts.last_mut()) {
            alert.runbook = runbook.to_owned();
        }
    }
    alerts
}

/// `table` is the page that lists all runbooks.
fn problems(alert: &Alert, runbook: Option<&str>, table: &str, tests: &str) -> Vec<String> {
    let mut problems = Vec::new();
    match runbook {
        None => problems.push(format!("its runbook \"{}\" is no page", alert.runbook)),
        Some(page) if !page.contains(&format!("`{}`", alert.name)) => {
            problems.push(format!("{} does not name it", alert.runbook));
        }
        Some(_) => {}
    }
    let Alert { name, severity, runbook } = alert;
    let file = runbook.rsplit('/').next().unwrap_or_default();
    let is_row = |row: &str| {
        row.contains(&format!("`{name}`"))
            && row.contains(&format!("| {severity} |"))
            && row.contains(&format!("({file})"))
    };
    if severity.is_empty() || !table.lines().any(is_row) {
        problems.push(format!("{RUNBOOKS} has no row with it, its severity \"{severity}\" and its page"));
    }
    if !tests.contains(&format!("alertname=\"{}\"", alert.name)) {
        problems.push(format!("{TESTS} does not show that it fires"));
    }
    problems
}

/// From the page that is generated from the broker; of histograms also the series that are stored.
fn known_metrics(page: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `seawall_")) {
        let Some((name, rest)) = row.split_once('`') else { continue };
        let name = format!("seawall_{name}");
        if rest.starts_with(" | histogram") {
            names.extend(["_bucket", "_sum", "_count"].map(|suffix| name.clone() + suffix));
        }
        names.insert(name);
    }
    names
}

/// Words that begin like a metric. One that ends in `_` stands for all that begin so.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    // `seawall_0.1.0-1_amd64.deb` is a file.
    let is_name = |word: &&str| {
        word.strip_prefix("seawall_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    text.split(|c| !is_part(c)).filter(|word| is_name(word) && !IS_CRATE.contains(word)).collect()
}

/// Pages whose `seawall_` names are Ansible's variables.
const OF_VARIABLES: [&str; 3] = ["docs/ansible.md", "docs/deploy.md", "docs/qualification.md"];

/// Crates, named as Rust does.
const IS_CRATE: [&str; 5] =
    ["seawall_backends", "seawall_metadata", "seawall_protocol", "seawall_qualify", "seawall_wal_device"];

fn is_metric(name: &str, metrics: &BTreeSet<String>) -> bool {
    metrics.contains(name) || (name.ends_with('_') && metrics.iter().any(|metric| metric.starts_with(name)))
}

fn promtool(arguments: &[&str], found: &mut Found) -> anyhow::Result<()> {
    let program = Tool::Promtool.find().with_context(|| format!("promtool is missing: {}", Tool::Promtool.hint()))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(crate::root());
    let finished = process::capture(&mut command, Vec::new(), Duration::from_secs(60))?;
    if finished.success {
        found.fine(1);
    } else {
        found.problem(&format!("promtool {}:\n{}\n{}", arguments.join(" "), finished.stdout, finished.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "| `seawall_a_total` | counter |\n| `seawall_b_seconds` | histogram | seconds |\n";

    #[test]
    fn an_alert_needs_its_page_which_names_it_and_a_test_in_which_it_fires() {
        let rules = "  - alert: A\n    labels: {severity: page}\n    annotations:\n      runbook: docs/runbooks/a.md\n";
        let alerts = alerts(rules);
        let a = Alert { name: "A".into(), severity: "page".into(), runbook: "docs/runbooks/a.md".into() };
        assert_eq!(alerts, [a]);
        let (row, test) = ("| `B`, `A` | page | [a](a.md) |", "{alertname=\"A\"}");
        assert!(problems(&alerts[0], Some("on `A`"), row, test).is_empty());
        assert_eq!(problems(&alerts[0], Some("on `B`"), row, "").len(), 2);
        assert_eq!(problems(&alerts[0], None, row, test).len(), 1);
        for other in ["| `A` | ticket | [a](a.md) |", "| `A` | page | [b](b.md) |", "| `B` | page | [a](a.md) |"] {
            assert_eq!(problems(&alerts[0], Some("on `A`"), other, test).len(), 1, "{other}");
        }
    }

    #[test]
    fn a_metric_that_the_broker_does_not_have_is_found() {
        let metrics = known_metrics(PAGE);
        let text = "rate(seawall_a_total[5m]) seawall_b_seconds_bucket `seawall_b_*` seawall_c seawall_backends=debug seawall_0.1.0-1_amd64.deb";
        let unknown: Vec<&str> = metric_names(text).into_iter().filter(|name| !is_metric(name, &metrics)).collect();
        assert_eq!(unknown, ["seawall_c"]);
    }
}
