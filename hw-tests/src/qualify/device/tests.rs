//! A good part passes, and each kind of bad part gets another verdict.

use std::time::Duration;

use seawall_wal_device::device::WriteCache;

use super::super::progress::Progress;
use super::super::verdict::judge;
use super::super::{Failure, Findings, Level, Report, Role, Slices, Stop, Stopped, Thresholds};
use super::probe::{Plan, Run, curves, qualify};
use super::simulated::{Habits, PART_BYTES, Part};
use super::target::{Device, Target};
use super::{Told, discard};

const MS: Duration = Duration::from_millis(1);

fn plan() -> Plan {
    Plan { curve: 60 * MS, sustain: 2500 * MS, acks: 600 * MS, mixed: 300 * MS, slice: 500 * MS }
}

/// Bounds that a busy machine keeps, and a bad part does not: here a wake-up may come 300 ms late.
fn thresholds() -> Thresholds {
    let mut thresholds = Thresholds::load(None).unwrap();
    let rules = &mut thresholds.wal_device.rules;
    let mut bound = |name: &str, above: Option<f64>, below: Option<f64>| {
        let rule = rules.get_mut(name).unwrap_or_else(|| panic!("no rule for {name}"));
        (rule.fail_above, rule.warn_above) = (above, above);
        (rule.fail_below, rule.warn_below) = (below, below);
    };
    // One write of 512 KiB in a slice, which a busy machine makes, and a part that takes longer than a slice for it does not.
    bound("write_mib_per_s", None, Some(0.75));
    bound("ack_p99_ms", Some(700.0), None);
    bound("ack_p9999_ms", Some(4_000.0), None);
    bound("durable_d1_p99_ms", Some(700.0), None);
    bound("mixed_ack_p99_ms", Some(2_000.0), None);
    bound("write_p99_ms", Some(2_000.0), None);
    for longest in ["durable_d1_max_ms", "ack_max_ms", "mixed_ack_max_ms", "write_max_ms"] {
        bound(longest, Some(4_000.0), None);
    }
    bound("kept_of_best_slice_percent", None, Some(0.5));
    // Of the drive, which a simulated part has not.
    for name in
        ["identified", "wear_percent", "spare_percent", "media_errors", "critical_warning", "smart_passed", "discard"]
    {
        rules.remove(name);
    }
    thresholds
}

fn report(habits: Habits) -> Report {
    report_of(habits, qualify)
}

fn report_of(
    habits: Habits,
    probe: impl Fn(&dyn Target, &Plan, &Run<'_>, &mut Findings) -> anyhow::Result<()>,
) -> Report {
    let mut findings = Findings::new(Role::WalDevice, "host", "part", 0);
    findings.fact("in_memory", false);
    findings.fact("direct_io", true);
    let part = Part::new(habits);
    let probed = probe(&part, &plan(), &Run::new(&Stop::never(), Progress::hidden()), &mut findings);
    let failed =
        |error: anyhow::Error| Failure { host: "host".into(), probe: "device".into(), error: format!("{error:#}") };
    Report::new(vec![findings], probed.err().map(failed).into_iter().collect(), &thresholds(), 0)
}

/// The names of what did not pass.
fn bad(report: &Report) -> Vec<&str> {
    let checks = report.verdicts[0].checks.iter().filter(|check| check.level > Level::Pass);
    checks.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_good_part_passes() {
    let report = report(Habits::default());
    assert_eq!((report.level, bad(&report)), (Level::Pass, vec![]), "{}", report.table());
    assert!(report.verdicts[0].summary.starts_with("WAL device: qualified for "), "{}", report.table());
    for name in ["write_d1_p50_ms", "durable_d16_p9999_ms", "mixed_read_p99_ms", "written_gib"] {
        assert!(report.findings[0].measures.contains_key(name), "{name} was not measured");
    }
}

#[test]
fn a_slow_part_fails_for_its_latency() {
    let report = report(Habits { durable: 800 * MS, ..Habits::default() });
    assert_eq!(report.level, Level::Fail, "{}", report.table());
    assert!(bad(&report).contains(&"ack_p99_ms"), "{}", report.table());
}

#[test]
fn a_part_that_falls_off_its_cache_fails_for_the_slices_behind_it() {
    let report = report(Habits { cache: Some((40 << 20, 1500 * MS)), ..Habits::default() });
    let sustained = report.verdicts[0].checks.iter().find(|check| check.name == "write_mib_per_s").unwrap();
    assert_eq!(sustained.level, Level::Fail, "{}", report.table());
    assert!(sustained.slices.is_some_and(|slices| slices.bad > 0), "{}", report.table());
    // The average would have passed.
    assert!(report.findings[0].measures["write_mib_per_s"] > 4.0, "{}", report.table());
}

#[test]
fn a_part_that_gets_slow_behind_its_cache_fails_for_its_latency() {
    let report = report(Habits { cache: Some((8 << 20, Duration::ZERO)), behind_cache: 800 * MS, ..Habits::default() });
    assert_eq!(report.level, Level::Fail, "{}", report.table());
    assert!(bad(&report).contains(&"ack_p99_ms"), "{}", report.table());
    assert!(report.findings[0].measures["durable_d1_p99_ms"] < 700.0, "it is fast at first: {}", report.table());
}

#[test]
fn a_part_that_stands_still_once_fails_however_fast_it_is_else() {
    let report = report(Habits { stall: Some((10, 5000 * MS)), ..Habits::default() });
    assert_eq!(report.level, Level::Fail, "{}", report.table());
    assert!(bad(&report).contains(&"ack_max_ms"), "{}", report.table());
    assert!(report.findings[0].measures["ack_p50_ms"] < 700.0, "{}", report.table());
}

/// As many acks as a drive gives in its 30 s, by the bounds that hold: of four that waited no quantile knows.
#[test]
fn a_pause_of_seconds_among_half_a_million_acks_is_seen() {
    let acks = |pause_s: u64| {
        let mut slices = Slices::new(Duration::from_secs(15));
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(30) {
            let paused = at == Duration::from_secs(16) && pause_s > 0;
            at += if paused { Duration::from_secs(pause_s) } else { MS / 4 };
            (0..4).for_each(|_| slices.record(at, if paused { Duration::from_secs(pause_s) } else { MS / 4 }, 4096));
        }
        let mut findings = Findings::new(Role::WalDevice, "host", "part", 0);
        slices.finish(at, "ack", &mut findings);
        let verdict = judge(&findings, &Thresholds::load(None).unwrap());
        let level = |name: &str| verdict.checks.iter().find(|check| check.name == name).unwrap().level;
        [level("ack_p99_ms"), level("ack_p9999_ms"), level("ack_max_ms")]
    };
    assert_eq!(acks(0), [Level::Pass; 3]);
    assert_eq!(acks(2), [Level::Pass, Level::Pass, Level::Warn]);
    assert_eq!(acks(12), [Level::Pass, Level::Pass, Level::Fail]);
    // One that is longer than a slice has a slice in which nothing came back, too.
    assert_eq!(acks(40), [Level::Fail, Level::Pass, Level::Fail]);
}

#[test]
fn a_volatile_cache_whose_flush_costs_nothing_is_not_believed() {
    // Times far apart, as the machine adds its own to each; how close they may be, the judgement's own test says.
    let volatile = Habits { write_cache: WriteCache::WriteBack, ..Habits::default() };
    let liar = report_of(Habits { write: 200 * MS, durable: 10 * MS, ..volatile.clone() }, curves);
    assert!(bad(&liar).contains(&"flush"), "{}", liar.table());
    let honest = report_of(Habits { durable: 200 * MS, ..volatile }, curves);
    assert!(!bad(&honest).contains(&"flush"), "{}", honest.table());
}

#[test]
fn a_part_with_less_room_than_it_says_fails() {
    let report = report(Habits { room_bytes: PART_BYTES / 3, ..Habits::default() });
    assert_eq!(report.level, Level::Fail);
    assert!(bad(&report).contains(&"keeps_every_place"), "{}", report.table());
}

#[test]
fn a_part_that_fails_is_told_with_its_error() {
    let report = report(Habits { writes_left: 50, ..Habits::default() });
    assert_eq!(report.level, Level::Fail);
    assert!(report.failures[0].error.contains("Input/output error"), "{:?}", report.failures);
}

#[test]
fn a_run_that_is_stopped_before_its_first_write_writes_nothing() {
    let part = Part::new(Habits::default());
    let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
    let probed = qualify(&part, &plan(), &Run::new(&Stop::already(), Progress::hidden()), &mut findings);
    assert!(probed.unwrap_err().is::<Stopped>() && part.is_blank());
}

#[test]
fn an_interrupted_run_ends_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe");
    let target = Device::claim(&path, &Told::default(), Some(96 << 20)).unwrap();
    target.format().unwrap();
    let stop = Stop::already();
    let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
    let probed = qualify(&target, &plan(), &Run::new(&stop, Progress::hidden()), &mut findings);
    assert_eq!(probed.unwrap_err().to_string(), "stopped");
    assert!(discard::look(&target, &Stop::never(), &mut findings).is_ok());
    drop(target);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_there_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine");
    std::fs::write(&path, "data").unwrap();
    assert!(Device::claim(&path, &Told::default(), None).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}
