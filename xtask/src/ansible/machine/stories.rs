//! What the collection does where nothing is lacking: kernel, clock, and the drives with their schedulers and caches.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::super::hosts::site::{self, Site};
use super::super::hosts::stories;
use super::super::hosts::{changes, deb};
use super::{CONTAINER, MACHINE};
use crate::process;

const THRESHOLDS: &str = include_str!("thresholds.toml");
/// Besides, what no machine has.
const TOO_MUCH: &str = "[host.rules]
memory_gib = { title = \"memory\", fail_below = 1000000, why = \"to be told\" }
";
/// Of what an emulated machine takes its time for.
const LONG: Duration = Duration::from_secs(300);

/// `qualify` brings the program to a bare host, and stops where it says no.
pub fn below_thresholds(site: &mut Site) -> Result<()> {
    let file = site.folder.join("thresholds.toml");
    fs::write(&file, THRESHOLDS.replace("[host.rules]\n", TOO_MUCH))?;
    *site.variable("qualify_thresholds_src") = json!(file);
    *site.variable("qualify_probes") = json!(["host"]);
    let words = [&format!("{MACHINE} is not qualified (host)"), "lower the threshold"];
    site.play("qualify", &["--limit", MACHINE])?.stopped_saying(&words)?;
    fs::write(&file, THRESHOLDS)?;
    // Bare again.
    site.lab.sh(MACHINE, "apt-get purge --yes --quiet seawall", LONG)?;
    Ok(())
}

/// With passports: a device is measured before it is formatted, with the scheduler and the cache that it will have.
pub fn bare_hosts(site: &mut Site) -> Result<()> {
    let key = site.folder.join("secrets/site.key");
    let public = site.folder.join("secrets/site.pub");
    openssl(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key))?;
    openssl(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public))?;
    *site.variable("qualify_probes") = json!(["host", "network", "device", "backend"]);
    // The shortest one whose passport counts: a minute and a half of other probes goes before it.
    *site.variable("qualify_device_arguments") = json!(["--sustain=10"]);
    *site.variable("qualify_network_seconds") = json!(2);
    *site.variable("device_write_cache") = json!("off");
    for (name, value) in [
        ("qualify_key_src", json!(key)),
        ("seawall_passport_key_src", json!(public)),
        ("seawall_passport_required", json!(true)),
    ] {
        *site.host_variable(MACHINE, name) = value;
    }
    let before = looks(site, "wal")?;
    ensure!(before.contains("[mq-deadline]") && before.contains("Enabled"), "the drive is like that anyway: {before}");
    let checked = site.play("site", &["--check", "--diff", "--limit", MACHINE, "-e", "device_format=true"])?;
    checked.succeeded()?;
    ensure!(looks(site, "wal")? == before, "--check changed the drive");
    stories::bare_hosts(site, MACHINE)?;
    as_the_inventory_says(site, "wal")
}

/// The kernel and the drive have their settings before Ansible comes, and then `changed=0`.
pub fn after_each_boot(site: &Site) -> Result<()> {
    site.lab.reboot(MACHINE)?;
    as_the_inventory_says(site, "wal").context("after a reboot")?;
    // QEMU begins anew, and its drive with its cache on.
    site.lab.kill(MACHINE)?;
    site.lab.start(MACHINE)?;
    as_the_inventory_says(site, "wal").context("after a power cut")?;
    println!("{MACHINE} was restarted, and had its power cut");
    site.play("site", &[])?.changed_nothing(&site.hosts)?;
    stories::ready(site, MACHINE)
}

pub fn qualified_again(site: &Site) -> Result<()> {
    site.play("qualify", &["-e", r#"{"qualify_probes": ["host", "network", "device", "backend"]}"#])?.succeeded()?;
    for report in ["host.html", "network.html", "backend.json"] {
        for host in [CONTAINER, MACHINE] {
            let file = site.folder.join(format!("qualification/{host}-{report}"));
            ensure!(file.is_file(), "there is no {}", file.display());
        }
    }
    has_passport(site)
}

/// A package whose broker does not start, the run after it, which finds the broker stopped and begins with it, and a kernel that refuses a
/// setting. That one is left for the next `site` to correct.
pub fn stopped_and_gone_on(site: &mut Site, package: &Path) -> Result<()> {
    let limit = ["--limit", MACHINE];
    let broken = site.folder.join("broken.deb");
    deb::broken(package, &broken, "later2")?;
    let good = std::mem::replace(site.variable("seawall_package"), json!(broken));
    let ends = [&format!("The broker of {MACHINE} does not serve clients"), "this build does not start"];
    site.play("rolling_upgrade", &limit)?.stopped_saying(&ends)?;
    *site.variable("seawall_package") = good;
    site.lab.sh(MACHINE, "systemctl stop seawall", site::SHORT)?;
    site.play("rolling_upgrade", &limit)?.succeeded()?;
    stories::ready(site, MACHINE)?;
    let refused = r#"{"host_sysctls": {"vm.swappiness": 1000}}"#;
    let words = [&format!("The kernel of {MACHINE} refuses vm.swappiness = 1000"), "correct host_sysctls"];
    site.play("site", &[&limit[..], &["-e", refused]].concat())?.stopped_saying(&words)
}

/// Onto the second drive, which is qualified on its way.
pub fn another_device(site: &mut Site) -> Result<()> {
    changes::replace_device(site, MACHINE)?;
    as_the_inventory_says(site, "spare")?;
    has_passport(site)
}

/// As the kernel and the drive tell it themselves.
fn as_the_inventory_says(site: &Site, drive: &str) -> Result<()> {
    let drive = looks(site, drive)?;
    ensure!(drive.contains("[none]") && drive.contains("Disabled"), "scheduler or cache of the drive: {drive}");
    let kernel = site.lab.sh(MACHINE, "sysctl --values net.core.somaxconn vm.swappiness", site::SHORT)?;
    ensure!(kernel == "4096\n1\n", "somaxconn and swappiness: {kernel}");
    let limits = "systemctl show seawall --property=LimitNOFILE,LimitMEMLOCK --value";
    let limits = site.lab.sh(MACHINE, limits, site::SHORT)?;
    ensure!(limits.contains("infinity") && limits.contains("1048576"), "limits of the broker: {limits}");
    Ok(())
}

/// Scheduler and write cache.
fn looks(site: &Site, drive: &str) -> Result<String> {
    let device = site::by_id(MACHINE, drive);
    let script = format!(
        "cat /sys/block/$(basename $(readlink -f {device}))/queue/scheduler; nvme get-feature {device} -f 6 --human-readable"
    );
    site.lab.sh(MACHINE, &script, site::SHORT)
}

/// The broker has looked at it when it started, or when the device joined.
fn has_passport(site: &Site) -> Result<()> {
    let script = format!(
        "python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://{}:9644/metrics\").read().decode())'",
        site.lab.address(MACHINE)?
    );
    let metrics = site.lab.sh(MACHINE, &script, site::SHORT)?;
    let valid = metrics.lines().find(|line| line.starts_with("seawall_wal_passport_valid")).unwrap_or_default();
    ensure!(valid.ends_with(" 1"), "the broker takes no passport: {valid:?}");
    Ok(())
}

fn openssl(command: &mut Command) -> Result<()> {
    process::capture(command, Vec::new(), site::SHORT)?.stdout_if_success("openssl")?;
    Ok(())
}
