//! All families, and how each runs against a broker of its own.

use std::time::Duration;

use super::broker::{Broker, Start};
use super::family::{self, Check, Family, Outcome};
use super::install::Installed;
use super::{golang, java, node, python, verify};
use crate::tools;

/// In the order of the table's columns; applications come last.
pub fn all() -> Vec<Family> {
    let mut all = java::families();
    all.extend(python::newest());
    all.push(python::kcat());
    all.extend(golang::families());
    all.extend(node::families());
    all.extend(python::others());
    all.extend(java::applications());
    all
}

/// How much each family does.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Of each codec's run; most families take fewer in the short form.
    pub records: usize,
    pub full: bool,
    /// A family whose tools are missing on a user's machine is left out, but not from the table.
    pub may_leave_out: bool,
}

impl Extent {
    /// Longest that the program of one family may take.
    fn time_max(self) -> Duration {
        Duration::from_secs(if self.full { 300 } else { 150 })
    }

    fn records_of(self, family: &Family) -> usize {
        if self.full { self.records } else { self.records.min(family.records_max) }
    }
}

pub struct FamilyRun {
    pub name: &'static str,
    pub version: &'static str,
    /// Each that was to come, then what else it reported.
    pub expected: &'static [&'static str],
    pub checks: Vec<Check>,
}

/// None when it is left out.
pub fn run(family: &Family, installed: &Installed, start: &Start, extent: Extent) -> Option<FamilyRun> {
    let Family { name, version, checks: expected, .. } = *family;
    let missing: Vec<String> =
        family.tools.iter().filter(|tool| tool.find().is_none()).map(|tool| tool.hint()).collect();
    if !missing.is_empty() && extent.may_leave_out && !tools::is_ci() {
        println!("left out {name} {version}: {}", missing.join(" && "));
        return None;
    }
    let checks = try_run(family, installed, start, extent).unwrap_or_else(|error| {
        let text = format!("{error:#}");
        println!("FAILED {name} {version}: {text}");
        let failed = |check: &&str| Check {
            name: (*check).to_owned(),
            outcome: Outcome::Failed(text.clone()),
            elapsed: Duration::ZERO,
        };
        expected.iter().map(failed).collect()
    });
    Some(FamilyRun { name, version, expected, checks })
}

fn try_run(family: &Family, installed: &Installed, start: &Start, extent: Extent) -> anyhow::Result<Vec<Check>> {
    let Family { name, version, .. } = *family;
    let mut program = (family.prepare)(installed)?;
    let mut broker = start.broker(installed)?;
    program.args(["--bootstrap", broker.bootstrap(), "--prefix", name]);
    program.args(["--records", &extent.records_of(family).to_string()]);
    let show = |check: &Check| {
        let (mark, text) = match &check.outcome {
            Outcome::Passed(text) => ("ok    ", text),
            Outcome::Absent(text) => ("absent", text),
            Outcome::Failed(text) => ("FAILED", text),
        };
        println!("{mark} {name} {version}: {} ({:.1} s) {text}", check.name, check.elapsed.as_secs_f64());
    };
    let restart = || broker.kill_and_restart();
    let mut checks = family::run(program, family.checks, family.absent, extent.time_max(), restart, show);
    verify::against_broker(family, broker.bootstrap(), &mut checks);
    checks.extend(broken_end(&mut broker));
    if checks.iter().any(|check| matches!(check.outcome, Outcome::Failed(_))) {
        println!("last lines of the broker of {name} {version}:\n{}", broker.log_tail());
    }
    Ok(checks)
}

/// A broker that ended by itself, or not cleanly when asked to, is a failed check too.
fn broken_end(broker: &mut Broker) -> Option<Check> {
    let error = broker.stop().err()?;
    println!("FAILED {error:#}");
    Some(Check { name: "broker".to_owned(), outcome: Outcome::Failed(format!("{error:#}")), elapsed: Duration::ZERO })
}
