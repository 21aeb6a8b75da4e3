//! The table that a run gives.

use std::process::Command;
use std::time::Duration;

use super::families::FamilyRun;
use super::family::{CHECKS, Check, Outcome};
use super::session::Row;
use crate::process;

/// Ends the run in the form of a test program, so that the sum of all tests counts each row and each family's check. True
/// when none failed.
pub fn print_sum(rows: &[Row], families: &[FamilyRun]) -> bool {
    let (mut passed, mut failed, mut absent) = (0, 0, 0);
    for row in rows {
        *if row.outcome.is_ok() { &mut passed } else { &mut failed } += 1;
    }
    for check in families.iter().flat_map(|family| &family.checks) {
        match check.outcome {
            Outcome::Passed(_) => passed += 1,
            Outcome::Absent(_) => absent += 1,
            Outcome::Failed(_) => failed += 1,
        }
    }
    if absent > 0 {
        println!("{absent} checks are not counted: the client has no such thing");
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    failed == 0
}

/// docs/compatibility.md.
pub fn page(rows: &[Row], families: &[FamilyRun], versions: &str, records: usize) -> String {
    let mut page = format!(
        "# Clients that work\n\n\
         Each line was seen in one run of `cargo xtask clients test --full --write`. CI repeats it against every change, \
         with fewer records for older and slower clients. Log compaction (`cleanup.policy=compact`) works as in Kafka; how that is shown is \
         told in [log-compaction.md](log-compaction.md#compared-with-apache-kafka).\n\n\
         - Commit: {}\n- Tools: {versions}\n- Broker: `seawall`, release build\n- {records} records per codec, for every client\n\n",
        git(&["describe", "--always", "--dirty"]),
    );
    page += "## Client families\n\nEvery family runs the same checks, with unmodified clients from their registries; \
        [TESTING.md](TESTING.md) says how.\n";
    let mut notes = Vec::new();
    let (libraries, applications): (Vec<_>, Vec<_>) = families.iter().partition(|family| family.expected == CHECKS);
    page += &family_table(&libraries, CHECKS, &mut notes);
    for application in applications {
        page += &family_table(&[application], application.expected, &mut notes);
    }
    for (number, note) in notes.iter().enumerate() {
        page += &format!("{}{}. {note}\n", if number == 0 { "\n" } else { "" }, number + 1);
    }
    page += "\n## Tools\n\nSeconds are those of a small shared machine and say nothing about speed.\n\n";
    page += "| client | what | result | s |\n|---|---|---|---|\n";
    for row in rows {
        let text = match &row.outcome {
            Ok(seen) => cell(seen),
            Err(error) => format!("**failed**: {}", cell(error.lines().next().unwrap_or_default())),
        };
        page += &format!("| {} | {} | {text} | {:.1} |\n", row.tool, cell(&row.what), row.elapsed.as_secs_f64());
    }
    page
}

/// A column per family, a row per check. `notes` say why a check is absent, what it leaves out or how it failed.
fn family_table(families: &[&FamilyRun], checks: &[&str], notes: &mut Vec<String>) -> String {
    let mut table = "\n| check |".to_owned();
    for family in families {
        table += &format!(" {} {} |", family.name, family.version);
    }
    table += &format!("\n|---|{}\n", "---|".repeat(families.len()));
    for name in checks {
        table += &format!("| {name} |");
        for family in families {
            let check = family.checks.iter().find(|check| check.name == *name);
            table += &format!(" {} |", mark(family, check, notes));
        }
        table.push('\n');
    }
    for family in families {
        for check in family.checks.iter().filter(|check| !checks.contains(&check.name.as_str())) {
            mark(family, Some(check), notes);
        }
    }
    table
}

fn mark(family: &FamilyRun, check: Option<&Check>, notes: &mut Vec<String>) -> String {
    let (word, text) = match check.map(|check| &check.outcome) {
        Some(Outcome::Passed(text)) if text.starts_with("without ") => ("ok", text.as_str()),
        Some(Outcome::Passed(_)) => return "ok".to_owned(),
        Some(Outcome::Absent(why)) => ("absent", why.as_str()),
        Some(Outcome::Failed(text)) => ("**failed**", text.as_str()),
        None => ("**failed**", "not reported"),
    };
    let name = check.map_or("", |check| &check.name);
    notes.push(format!(
        "{} {}, {name}: {}",
        family.name,
        family.version,
        cell(text.lines().next().unwrap_or_default())
    ));
    format!("{word} ({})", notes.len())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn git(arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(crate::root());
    match process::capture(&mut git, Vec::new(), Duration::from_secs(10)) {
        Ok(finished) if finished.success => finished.stdout.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
