//! Wear and health, as the drive's own tools tell it. A tool that is absent is said: then nothing is known.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use seawall_wal_device::device::file::{Access, DeviceFile};
use serde_json::Value;

use super::super::Findings;
use super::identity::sysfs_folder;

/// A drive that does not answer its tool for so long is told as such.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `nvme` of an NVMe drive, and `smartctl` of all.
pub fn look(path: &Path, findings: &mut Findings) {
    let device = DeviceFile::open(path, Access::Inspect).ok().and_then(|file| file.facts.device);
    let Some(folder) = device.and_then(sysfs_folder) else {
        findings.note("wear: not known, there is no drive that could be asked");
        return;
    };
    let disk = if folder.join("partition").exists() { folder.parent() } else { Some(folder.as_path()) };
    let Some(disk) = disk.and_then(|disk| disk.file_name()).map(|name| Path::new("/dev").join(name)) else { return };
    if disk.to_string_lossy().starts_with("/dev/nvme") {
        ask("nvme", &["smart-log", "-o", "json"], &disk, nvme_log, findings);
        ask("nvme", &["id-ctrl", "-o", "json"], &disk, nvme_controller, findings);
    }
    ask("smartctl", &["--json", "-a"], &disk, smart, findings);
}

fn ask(tool: &str, arguments: &[&str], disk: &Path, take: fn(&Value, &mut Findings) -> bool, findings: &mut Findings) {
    if !is_there(tool) {
        findings.note(format!("{tool} is not installed: what it would tell of wear and health is not known"));
        return;
    }
    // smartctl ends with a code that says what it found, and prints all the same.
    let told = output(Command::new(tool).args(arguments).arg(disk))
        .and_then(|text| serde_json::from_slice::<Value>(&text).context("no JSON"));
    match told {
        Ok(told) if take(&told, findings) => {}
        Ok(_) => findings.note(format!("{tool} {} tells nothing of {}", arguments[0], disk.display())),
        Err(error) => findings.note(format!("{tool} {}: {error:#}", arguments[0])),
    }
}

fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(tool).exists())
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let command = command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().context("a pipe was asked for")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut text).map(|_| text)
    });
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > PATIENCE {
            // A tool that waits for its drive may not even be killed: it is not waited for.
            let _ = child.kill();
            bail!("no answer within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = reader.join().map_err(|_| anyhow::anyhow!("its output could not be read"))??;
    ensure!(!text.is_empty(), "it said nothing");
    Ok(text)
}

/// `nvme smart-log -o json`. False: nothing is in it.
fn nvme_log(log: &Value, findings: &mut Findings) -> bool {
    let number = |name: &str| log.get(name).and_then(number);
    let Some(used) = number("percent_used").or_else(|| number("percentage_used")) else { return false };
    findings.measure("wear_percent", used);
    let measures = [
        ("avail_spare", "spare_percent"),
        ("media_errors", "media_errors"),
        ("unsafe_shutdowns", "unsafe_shutdowns"),
        ("power_on_hours", "power_on_hours"),
    ];
    for (name, measure) in measures {
        if let Some(value) = number(name) {
            findings.measure(measure, value);
        }
    }
    if let Some(warning) = number("critical_warning") {
        findings.fact("critical_warning", warning != 0.0);
    }
    true
}

/// `nvme id-ctrl -o json`.
fn nvme_controller(controller: &Value, findings: &mut Findings) -> bool {
    let Some(cache) = controller.get("vwc").and_then(number) else { return false };
    findings.fact("volatile_cache_present", cache as u64 & 1 == 1);
    if let Some(unit) = controller.get("awupf").and_then(number) {
        findings.fact("atomic_blocks_at_power_fail", unit as i64 + 1);
    }
    true
}

/// `smartctl --json -a`, of any kind of drive.
fn smart(told: &Value, findings: &mut Findings) -> bool {
    let at = |path: &str| told.pointer(path);
    let mut known = false;
    if let Some(passed) = at("/smart_status/passed").and_then(Value::as_bool) {
        findings.fact("smart_passed", passed);
        known = true;
    }
    let measures = [
        ("/nvme_smart_health_information_log/percentage_used", "wear_percent"),
        ("/nvme_smart_health_information_log/available_spare", "spare_percent"),
        ("/nvme_smart_health_information_log/media_errors", "media_errors"),
        ("/endurance_used/current_percent", "wear_percent"),
        ("/scsi_percentage_used_endurance_indicator", "wear_percent"),
        ("/temperature/current", "drive_celsius"),
        ("/power_on_time/hours", "power_on_hours"),
    ];
    for (path, measure) in measures {
        if let Some(value) = at(path).and_then(number) {
            findings.measure(measure, value);
            known = true;
        }
    }
    let attributes = at("/ata_smart_attributes/table").and_then(Value::as_array).into_iter().flatten();
    for attribute in attributes {
        // Reallocated, pending and uncorrectable sectors.
        let counts = attribute.get("id").and_then(Value::as_u64).is_some_and(|id| [5, 187, 197, 198].contains(&id));
        if let Some(value) = attribute.pointer("/raw/value").and_then(number).filter(|_| counts) {
            let before = findings.measures.get("media_errors").copied().unwrap_or(0.0);
            findings.measure("media_errors", before + value);
        }
    }
    known
}

/// Versions of the tools differ in whether large numbers are texts.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim_end_matches('%').parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::qualify::verdict::judge;
    use crate::qualify::{Level, Role, Thresholds};

    fn level(take: impl FnOnce(&mut Findings)) -> (Level, Vec<String>) {
        let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
        take(&mut findings);
        let verdict = judge(&findings, &Thresholds::load(None).unwrap());
        let of_health = ["wear_percent", "spare_percent", "media_errors", "critical_warning", "smart_passed"];
        let checks = verdict.checks.into_iter().filter(|check| of_health.contains(&check.name.as_str()));
        let bad: Vec<_> = checks.filter(|check| check.level > Level::Pass && check.seen != "not measured").collect();
        (bad.iter().map(|check| check.level).max().unwrap_or_default(), bad.into_iter().map(|c| c.name).collect())
    }

    #[test]
    fn a_fresh_drive_passes_and_a_worn_one_does_not() {
        let fresh = json!({"critical_warning": 0, "avail_spare": 100, "percent_used": 3, "media_errors": "0"});
        let worn = json!({"critical_warning": 1, "avail_spare": 4, "percent_used": 101, "media_errors": 7});
        assert_eq!(level(|findings| assert!(nvme_log(&fresh, findings))), (Level::Pass, vec![]));
        let (level, names) = level(|findings| assert!(nvme_log(&worn, findings)));
        assert_eq!((level, names.len()), (Level::Fail, 4), "{names:?}");
    }

    #[test]
    fn smartctl_tells_of_each_kind_of_drive() {
        let sata = json!({"smart_status": {"passed": true}, "ata_smart_attributes": {"table": [
            {"id": 5, "raw": {"value": 2}}, {"id": 9, "raw": {"value": 900}}, {"id": 197, "raw": {"value": 1}}]}});
        let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
        assert!(smart(&sata, &mut findings));
        assert_eq!(findings.measures["media_errors"], 3.0);
        let broken = json!({"smart_status": {"passed": false}, "endurance_used": {"current_percent": 12}});
        assert_eq!(level(|findings| assert!(smart(&broken, findings))).0, Level::Fail);
        assert!(!smart(&json!({"smartctl": {"exit_status": 2}}), &mut findings));
    }

    #[test]
    fn a_tool_that_is_absent_is_said() {
        let mut findings = Findings::new(Role::WalDevice, "h", "d", 0);
        ask("no-such-tool-here", &["x"], Path::new("/dev/null"), smart, &mut findings);
        assert_eq!(findings.notes.len(), 1);
        assert!(findings.notes[0].contains("is not installed"));
    }
}
