//! The page: what is in it, and that it asks nothing of anybody.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;
use std::time::Duration;

use seawall_qualify::qualify::{Findings, Level, Report, Role, Slices, Thresholds, html};

fn device(host: &str, dip: bool) -> Findings {
    let mut findings = Findings::new(Role::WalDevice, host, "nvme-<b>x</b>", 1_795_302_240);
    let mut slices = Slices::new(Duration::from_secs(60));
    for second in 0..1200u64 {
        let slow = dip && (600..720).contains(&second);
        for write in 0..8u64 {
            let us = if slow { 9_000 } else { 180 + (second * 31 + write * 17) % 240 };
            let at = Duration::from_millis(second * 1000 + write * 100);
            slices.record(at, Duration::from_micros(us), if slow { 5 << 20 } else { 56 << 20 });
        }
    }
    slices.finish(Duration::from_secs(1200), "write", &mut findings);
    findings.measure("ack_p99_ms", 0.4);
    findings
}

#[test]
fn the_page_needs_nothing_else_and_shows_what_was_seen() {
    let findings = vec![device("r1-07", false), device("r1-08", true)];
    let report = Report::new(findings, Vec::new(), &Thresholds::load(None).unwrap(), 1_795_302_240);
    let page = html::page(&report).unwrap();
    for word in ["src=", "@import", "url(", "<script", "<link"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.matches("<svg").count() >= 4);
    assert!(!page.contains("<b>x</b>"), "a name is not markup");
    assert!(page.contains("2026-11-21 23:04 UTC") && page.contains("r1-08"));
    assert_eq!(report.verdicts[1].level, Level::Fail, "{}", report.table());
    assert_eq!(report.verdicts[1].checks[0].slices.map(|slices| slices.bad), Some(2));
}

#[test]
fn saved_reports_become_one_and_are_judged_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = Command::new(env!("CARGO_BIN_EXE_seawall-qualify"));
    report.arg("report");
    for (at, dip) in [false, true].into_iter().enumerate() {
        let thresholds = Thresholds::load(None).unwrap();
        let one = Report::new(vec![device(&format!("r{at}"), dip)], Vec::new(), &thresholds, 0);
        let file = folder.path().join(format!("{at}.json"));
        std::fs::write(&file, serde_json::to_string(&one).unwrap()).unwrap();
        report.arg(file);
    }
    let (page, own) = (folder.path().join("page.html"), folder.path().join("mine.toml"));
    let printed = Command::new(env!("CARGO_BIN_EXE_seawall-qualify")).arg("thresholds").output().unwrap();
    std::fs::write(&own, printed.stdout).unwrap();
    report.arg("--thresholds").arg(own);
    let output = report.arg("--html").arg(&page).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("r0") && table.contains("r1"), "{table}");
    assert!(std::fs::read_to_string(page).unwrap().contains("</html>"));
}
