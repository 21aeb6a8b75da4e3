//! A good machine, and one on which about everything is wrong: as trees of files.

use std::fs;
use std::path::Path;

use super::super::thresholds::Thresholds;
use super::super::verdict::{Level, judge};
use super::*;

const GOOD: &[(&str, &str)] = &[
    ("proc/sys/kernel/hostname", "r1-07\n"),
    ("proc/sys/kernel/osrelease", "6.12.9-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/vm/swappiness", "1\n"),
    (
        "proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  8388608  unlimited  bytes\nMax open files  1024  1048576  files\n",
    ),
    ("proc/self/mounts", "/dev/nvme0n1p2 / ext4 rw 0 0\nproc /proc proc rw 0 0\n"),
    ("proc/swaps", "Filename Type Size Used Priority\n"),
    ("proc/meminfo", "MemTotal:       65798140 kB\nMemFree: 1 kB\n"),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu sse4_2 pclmulqdq aes\n\nprocessor\t: 1\nflags\t\t: fpu\n\nprocessor\t: 2\n\nprocessor\t: 3\n",
    ),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/devices/system/node/node1/cpulist", "2-3\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("sys/block/nvme0n1/size", "1000\n"),
    ("sys/block/nvme0n1/nvme0n1p2/size", "900\n"),
    ("sys/block/nvme1n1/size", "1000\n"),
    ("sys/block/nvme2n1/size", "1000\n"),
    ("sys/block/nvme2n1/holders/dm-0/size", "1000\n"),
    ("sys/block/loop0/size", "0\n"),
];

/// Each with the rule that must see it.
const BAD: &[(&str, &str, &str, Level)] = &[
    ("proc/sys/kernel/osrelease", "5.15.0-generic\n", "kernel_at_least_6_1", Level::Fail),
    ("proc/sys/kernel/io_uring_disabled", "2\n", "io_uring", Level::Fail),
    ("proc/sys/kernel/io_uring_disabled", "1\n", "io_uring", Level::Fail),
    (
        "proc/self/limits",
        "Max locked memory  65536  65536  bytes\nMax open files  1024  1048576  files\n",
        "memlock_max_mib",
        Level::Warn,
    ),
    (
        "proc/self/limits",
        "Max locked memory  8388608  unlimited  bytes\nMax open files  1024  4096  files\n",
        "nofile_max",
        Level::Warn,
    ),
    ("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p3 partition 100 0 -2\n", "swap_on", Level::Warn),
    ("proc/meminfo", "MemTotal: 1048576 kB\n", "memory_gib", Level::Fail),
    (
        "proc/cpuinfo",
        "processor : 0\nflags : fpu sse4_2\nprocessor : 1\nprocessor : 2\nprocessor : 3\n",
        "cpu_aes",
        Level::Fail,
    ),
    ("proc/cpuinfo", "processor : 0\nflags : aes sse4_2 pclmulqdq\n", "cpus", Level::Fail),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n", "cpu_governor", Level::Warn),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n", "clocksource", Level::Warn),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n", "transparent_huge_pages", Level::Warn),
];

fn write(root: &Path, file: &str, text: &str) {
    let file = root.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// With what only a running kernel knows, for a machine that is well.
fn findings(changed: Option<(&str, &str)>) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in GOOD.iter().copied().chain(changed) {
        write(folder.path(), file, text);
    }
    let args = Args { root: Some(folder.path().to_owned()), seconds: 1.0, output: OutputArgs::default() };
    let mut findings = probe(&args, &Stop::never()).unwrap();
    findings.fact("clock_synchronized", true);
    findings.measure("clock_offset_ms", 0.1);
    findings.measure("clock_error_max_ms", 20.0);
    findings.measure("memory_copy_gib_per_s", 20.0);
    findings
}

#[test]
fn a_good_machine_is_qualified_without_a_warning() {
    let findings = findings(None);
    let verdict = judge(&findings, &Thresholds::load(None).unwrap());
    assert_eq!(verdict.level, Level::Pass, "{verdict:#?}");
    assert_eq!(findings.host, "r1-07");
    assert_eq!(findings.measures["cpus"], 4.0);
    assert_eq!(findings.facts["numa_nodes"].to_string(), "2");
    assert_eq!(findings.facts["devices_in_use"].to_string(), "nvme0n1, nvme2n1");
    assert_eq!(findings.facts["devices_without_partitions"].to_string(), "nvme1n1");
}

#[test]
fn each_thing_that_is_wrong_with_a_machine_is_seen_by_its_rule() {
    let thresholds = Thresholds::load(None).unwrap();
    for (file, text, name, level) in BAD.iter().copied() {
        let verdict = judge(&findings(Some((file, text))), &thresholds);
        let worst: Vec<_> = verdict.checks.iter().filter(|check| check.level > Level::Pass).collect();
        assert_eq!((verdict.level, worst[0].name.as_str()), (level, name), "{file}: {worst:#?}");
    }
}

#[test]
fn a_clock_that_nobody_keeps_is_not_qualified() {
    let thresholds = Thresholds::load(None).unwrap();
    let mut alone = findings(None);
    alone.fact("clock_synchronized", false);
    assert_eq!(judge(&alone, &thresholds).level, Level::Fail);
    let mut ahead = findings(None);
    ahead.measure("clock_offset_ms", 900.0);
    assert_eq!(judge(&ahead, &thresholds).level, Level::Fail);
}

#[test]
fn this_machine_can_be_asked() {
    let args = Args { root: None, seconds: 0.2, output: OutputArgs::default() };
    let findings = probe(&args, &Stop::never()).unwrap();
    assert!(findings.measures["memory_copy_gib_per_s"] > 0.0);
    assert!(findings.facts.contains_key("io_uring") && findings.facts.contains_key("clock_synchronized"));
}
