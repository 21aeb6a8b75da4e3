//! What a device is: names, serial number, sizes, caches, the CPU socket that it hangs on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use seawall_wal_device::device::WriteCache;
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::passport::Sighting;

use super::super::{Findings, Role};

pub fn look(path: &Path, begun_unix_s: u64) -> Result<Findings> {
    let sighting = Sighting::of(path).with_context(|| format!("look at {}", path.display()))?;
    let device = DeviceFile::open(path, Access::Inspect)?;
    let facts = &device.facts;
    let mut findings = Findings::new(Role::WalDevice, host_name(), path.display().to_string(), begun_unix_s);
    findings.fact("kind", device.kind.to_string());
    findings.fact("identified", sighting.is_identified());
    for drive in &sighting.drives {
        findings.note(format!("drive {drive}, firmware {}, {} bytes", or_unknown(&drive.firmware), drive.bytes));
    }
    let joined = |part: fn(&seawall_wal_device::passport::PassportDrive) -> &String| {
        sighting.drives.iter().map(|drive| part(drive).as_str()).collect::<Vec<_>>().join(", ")
    };
    findings.fact("model", joined(|drive| &drive.model));
    findings.fact("serial", joined(|drive| &drive.serial));
    findings.fact("firmware", joined(|drive| &drive.firmware));
    findings.fact("capacity_bytes", device.bytes as i64);
    findings.fact("logical_block_bytes", i64::from(facts.logical_bytes));
    findings.fact("physical_block_bytes", i64::from(facts.physical_bytes));
    findings.fact("atomic_write_bytes", facts.atomic_bytes as i64);
    findings.fact("direct_io", facts.direct);
    findings.fact("in_memory", facts.in_memory);
    findings.fact("write_cache", sighting.write_cache_text().unwrap_or_else(|| "not known".into()));
    findings.fact("power_loss_protection", protection(sighting.volatile_cache));
    if sighting.volatile_cache != sighting.write_cache {
        findings.note(
            "the drive says that its write cache is volatile, the kernel takes it for none: flushes do not reach it",
        );
    }
    if let Some(fua) = facts.fua {
        findings.fact("fua", fua && !facts.ignores_fua());
    }
    if let Some(folder) = facts.device.and_then(sysfs_folder) {
        if let Some(node) = upwards(&folder, "numa_node") {
            findings.fact("numa_node", node);
        }
        for (name, file) in [("scheduler", "queue/scheduler"), ("rotational", "queue/rotational")] {
            if let Some(value) = upwards(&folder, file) {
                findings.fact(name, value);
            }
        }
    }
    let names = by_id(path);
    if !names.is_empty() {
        findings.fact("by_id", names.join(", "));
    } else if device.kind == seawall_wal_device::WalKind::Device {
        findings.note("no name under /dev/disk/by-id: after a restart its name may stand for another device");
    }
    Ok(findings)
}

/// What can be said without a power cut.
fn protection(cache: Option<WriteCache>) -> &'static str {
    match cache {
        Some(WriteCache::WriteThrough) => "reported: no cache that loses anything",
        Some(WriteCache::WriteBack) => "not reported: what was not flushed is lost with the power",
        None => "not known",
    }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "not known" } else { text }
}

pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    or_unknown(name.trim()).to_owned()
}

pub fn sysfs_folder(device: u64) -> Option<PathBuf> {
    fs::canonicalize(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device))).ok()
}

/// The file of that name in the folder, or in the nearest one above that has it.
fn upwards(folder: &Path, file: &str) -> Option<String> {
    let found = folder.ancestors().find_map(|folder| fs::read_to_string(folder.join(file)).ok())?;
    Some(found.trim().to_owned())
}

fn by_id(path: &Path) -> Vec<String> {
    let Ok(number) = fs::metadata(path).map(|metadata| metadata.rdev()) else { return Vec::new() };
    let entries = fs::read_dir("/dev/disk/by-id").into_iter().flatten().flatten();
    let same = |path: &PathBuf| number != 0 && fs::metadata(path).is_ok_and(|metadata| metadata.rdev() == number);
    let mut names: Vec<String> =
        entries.map(|entry| entry.path()).filter(same).map(|path| path.display().to_string()).collect();
    names.sort();
    names
}
