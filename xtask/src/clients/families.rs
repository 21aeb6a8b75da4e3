//! All families, each against a broker of its own, two at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::broker::Start;
use super::family::{self, Check, Family, Outcome};
use super::install::Installed;
use super::{golang, java, node, python};
use crate::tools;

/// Longest that the program of one family may take.
const TIME_MAX: Duration = Duration::from_secs(150);
const AT_ONCE: usize = 2;

/// In the order of the table's columns; applications come last.
fn all() -> Vec<Family> {
    let mut all = java::families();
    all.extend(python::newest());
    all.extend(golang::families());
    all.extend(node::families());
    all.extend(python::others());
    all.extend(java::applications());
    all
}

pub struct FamilyRun {
    pub name: &'static str,
    pub version: &'static str,
    /// Each that was to come, then what else it reported.
    pub expected: &'static [&'static str],
    pub checks: Vec<Check>,
}

/// Those whose name contains `only`. On a machine of a user, a family whose tools are missing is left out.
pub fn run(installed: &Installed, start: &Start, only: &str, records: usize) -> anyhow::Result<Vec<FamilyRun>> {
    let chosen: Vec<Family> = all().into_iter().filter(|family| family.name.contains(only)).collect();
    if tools::is_ci() {
        let needs: Vec<tools::Tool> = chosen.iter().flat_map(|family| family.tools).copied().collect();
        tools::install(&needs)?;
    }
    let count = chosen.len();
    let waiting = Mutex::new(chosen.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((position, family)) = next else { return };
                    if let Some(finished) = run_one(&family, installed, start, records) {
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((position, finished));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(position, _)| *position);
    Ok(done.into_iter().map(|(_, finished)| finished).collect())
}

fn run_one(family: &Family, installed: &Installed, start: &Start, records: usize) -> Option<FamilyRun> {
    let Family { name, version, checks: expected, .. } = *family;
    let missing: Vec<String> =
        family.tools.iter().filter(|tool| tool.find().is_none()).map(|tool| tool.hint()).collect();
    if !missing.is_empty() && !tools::is_ci() {
        println!("left out {name} {version}: {}", missing.join(" && "));
        return None;
    }
    let checks = try_run(family, installed, start, records).unwrap_or_else(|error| {
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

fn try_run(family: &Family, installed: &Installed, start: &Start, records: usize) -> anyhow::Result<Vec<Check>> {
    let Family { name, version, .. } = *family;
    let mut program = (family.prepare)(installed)?;
    let mut broker = start.broker(installed)?;
    program.args(["--bootstrap", broker.bootstrap(), "--prefix", name]);
    program.args(["--records", &records.min(family.records_max).to_string()]);
    let show = |check: &Check| {
        let (mark, text) = match &check.outcome {
            Outcome::Passed(text) => ("ok    ", text),
            Outcome::Absent(text) => ("absent", text),
            Outcome::Failed(text) => ("FAILED", text),
        };
        println!("{mark} {name} {version}: {} ({:.1} s) {text}", check.name, check.elapsed.as_secs_f64());
    };
    let checks = family::run(program, family.checks, TIME_MAX, || broker.kill_and_restart(), show);
    if checks.iter().any(|check| matches!(check.outcome, Outcome::Failed(_))) {
        println!("last lines of the broker of {name} {version}:\n{}", broker.log_tail());
    }
    Ok(checks)
}
