//! What `/proc` and `/sys` say of a machine. A file that is not there gives no finding.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::super::findings::{Findings, UNLIMITED};

pub fn read(root: &Path, findings: &mut Findings) {
    kernel(root, findings);
    limits(root, findings);
    cpus(root, findings);
    memory(root, findings);
    devices(root, findings);
}

fn kernel(root: &Path, findings: &mut Findings) {
    if let Some(release) = text(root, "proc/sys/kernel/osrelease") {
        if let Some(version) = version(&release) {
            findings.fact("kernel_at_least_6_1", version >= (6, 1));
        }
        findings.fact("kernel", release);
    }
    // 0: everybody; 1: nobody without CAP_SYS_ADMIN and outside of kernel.io_uring_group; 2: nobody. The kernel is asked as well.
    match text(root, "proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("0") => findings.fact("io_uring", "allowed"),
        Some("1") => findings.fact("io_uring", "for a group only: kernel.io_uring_disabled=1"),
        Some(_) => findings.fact("io_uring", "off: kernel.io_uring_disabled=2"),
        None => {}
    }
    if let Some(source) = text(root, "sys/devices/system/clocksource/clocksource0/current_clocksource") {
        findings.fact("clocksource", source);
    }
    if let Some(pages) = text(root, "sys/kernel/mm/transparent_hugepage/enabled") {
        findings.fact("transparent_huge_pages", chosen(&pages));
    }
    if let Some(swappiness) = text(root, "proc/sys/vm/swappiness").and_then(|text| text.parse::<i64>().ok()) {
        findings.fact("swappiness", swappiness);
    }
}

fn limits(root: &Path, findings: &mut Findings) {
    let limits = text(root, "proc/self/limits").unwrap_or_default();
    for (line, name, unit) in
        [("Max open files", "nofile_max", 1.0), ("Max locked memory", "memlock_max_mib", 1_048_576.0)]
    {
        let Some(rest) = limits.lines().find_map(|text| text.strip_prefix(line)) else { continue };
        match rest.split_whitespace().nth(1) {
            Some("unlimited") => findings.measure(name, UNLIMITED),
            Some(hard) => {
                if let Ok(hard) = hard.parse::<f64>() {
                    findings.measure(name, hard / unit);
                }
            }
            None => {}
        }
    }
}

fn cpus(root: &Path, findings: &mut Findings) {
    let info = text(root, "proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim())
    };
    let count = info.lines().filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor")).count();
    if count > 0 {
        findings.measure("cpus", count as f64);
    }
    if let Some(model) = field("model name") {
        findings.fact("cpu_model", model);
    }
    // x86 lists flags, ARM features.
    if let Some(flags) = field("flags").or(field("Features")) {
        let flags: BTreeSet<&str> = flags.split_whitespace().collect();
        let any = |names: &[&str]| names.iter().any(|name| flags.contains(name));
        findings.fact("cpu_crc32c", any(&["sse4_2", "crc32"]));
        findings.fact("cpu_clmul", any(&["pclmulqdq", "pmull"]));
        findings.fact("cpu_aes", any(&["aes"]));
    }
    let governors: BTreeSet<String> = entries(root, "sys/devices/system/cpu")
        .iter()
        .filter(|name| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .filter_map(|cpu| text(root, &format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")))
        .collect();
    match governors.len() {
        // The firmware or the hypervisor decides.
        0 => findings.fact("cpu_governor", "none"),
        _ => findings.fact("cpu_governor", governors.into_iter().collect::<Vec<_>>().join(", ")),
    }
    let nodes = entries(root, "sys/devices/system/node");
    let nodes =
        nodes.iter().filter(|name| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok())).count();
    findings.fact("numa_nodes", nodes.max(1) as i64);
}

fn memory(root: &Path, findings: &mut Findings) {
    let info = text(root, "proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    if let Some(total) = kib("MemTotal") {
        findings.measure("memory_gib", total / 1_048_576.0);
    }
    let Some(swaps) = text(root, "proc/swaps") else { return };
    let swapped: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    findings.fact("swap_on", !swapped.is_empty());
    if !swapped.is_empty() {
        findings.fact("swap_devices", swapped.join(", "));
    }
}

/// Which whole devices hold something, and which do not: only those may become a WAL.
fn devices(root: &Path, findings: &mut Findings) {
    let mounts = text(root, "proc/self/mounts").or(text(root, "proc/mounts")).unwrap_or_default();
    let swaps = text(root, "proc/swaps").unwrap_or_default();
    let used: BTreeSet<&str> = mounts
        .lines()
        .chain(swaps.lines().skip(1))
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/"))
        .collect();
    let (mut busy, mut free) = (Vec::new(), Vec::new());
    for device in entries(root, "sys/block") {
        let virtual_kind = ["ram", "zram", "loop", "sr", "fd", "dm-"].iter().any(|kind| device.starts_with(kind));
        let sectors = text(root, &format!("sys/block/{device}/size")).and_then(|text| text.parse::<u64>().ok());
        if virtual_kind && !used.contains(device.as_str()) || sectors.unwrap_or(0) == 0 {
            continue;
        }
        let inside = entries(root, &format!("sys/block/{device}"));
        let parts: Vec<&String> = inside.iter().filter(|name| name.starts_with(device.as_str())).collect();
        // A volume manager, a RAID or an encryption holds it.
        let held = parts
            .iter()
            .map(|part| format!("sys/block/{device}/{part}/holders"))
            .chain([format!("sys/block/{device}/holders")])
            .any(|folder| !entries(root, &folder).is_empty());
        let mounted = used.contains(device.as_str()) || parts.iter().any(|part| used.contains(part.as_str()));
        let list = if mounted || held || !parts.is_empty() { &mut busy } else { &mut free };
        list.push(device);
    }
    findings.fact("devices_in_use", if busy.is_empty() { "none".to_owned() } else { busy.join(", ") });
    findings.fact("devices_without_partitions", if free.is_empty() { "none".to_owned() } else { free.join(", ") });
}

fn text(root: &Path, file: &str) -> Option<String> {
    fs::read_to_string(root.join(file)).ok().map(|text| text.trim().to_owned())
}

fn entries(root: &Path, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The word in brackets of `always [madvise] never`.
fn chosen(words: &str) -> &str {
    words.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(words, |(chosen, _)| chosen)
}
