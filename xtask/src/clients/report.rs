//! The table that a run gives.

use std::process::Command;
use std::time::Duration;

use super::session::Row;
use crate::process;

/// Ends the run in the form of a test program, so that the sum of all tests counts each row. True when none failed.
pub fn print_sum(rows: &[Row]) -> bool {
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", rows.len() - failed);
    failed == 0
}

/// docs/compatibility.md.
pub fn page(rows: &[Row], versions: &str, records: usize) -> String {
    let mut page = format!(
        "# Clients that work\n\n\
         Each line was seen in a run of `cargo xtask clients test --write`, which CI repeats against every change.\n\n\
         - Commit: {}\n- Clients: {versions}\n- Broker: `seawall dev`, release build; {records} records per codec\n\n\
         Seconds are those of a small shared machine and say nothing about speed.\n\n\
         | client | what | result | s |\n|---|---|---|---|\n",
        git(&["describe", "--always", "--dirty"]),
    );
    for row in rows {
        let text = match &row.outcome {
            Ok(seen) => seen.clone(),
            Err(error) => format!("**failed**: {}", error.lines().next().unwrap_or_default()),
        };
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        page +=
            &format!("| {} | {} | {} | {:.1} |\n", row.tool, cell(&row.what), cell(&text), row.elapsed.as_secs_f64());
    }
    page
}

fn git(arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(crate::root());
    match process::capture(&mut git, Vec::new(), Duration::from_secs(10)) {
        Ok(finished) if finished.success => finished.stdout.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
