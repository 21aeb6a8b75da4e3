//! What goes wrong at a site: each time the play stops with a message that says what to do, and succeeds when that was done.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::deb;
use super::site::{self, Site};
use crate::process;

const SHORT: Duration = Duration::from_secs(90);
const SETTING: &str = "TASK [seawall.cluster.seawall : Wait until it serves clients]";

/// A serial number that no disk has, and one of a disk with a file system.
pub fn wrong_devices(site: &mut Site) -> Result<()> {
    let right = site.host_variable("h1", "device_serials").clone();
    *site.host_variable("h1", "device_serials") = json!(["S5GXNX0T999999"]);
    let stopped = site.play("site", &["--limit", "h1"])?;
    stopped.stopped_saying(&[
        "no disk of this host has this serial number",
        "Put the serial number of one of its disks into the inventory (device_serials)",
    ])?;
    let disk = site.add_disk("h1", "used")?;
    let mut mkfs = Command::new("mkfs.ext4");
    process::capture(mkfs.arg("-q").arg(&disk.device), Vec::new(), SHORT)?.stdout_if_success("mkfs.ext4")?;
    *site.host_variable("h1", "device_serials") = json!([site::serial("h1", "used")]);
    let stopped = site.play("site", &["--limit", "h1", "-e", "device_format=true"])?;
    stopped.stopped_saying(&[
        "it holds something that is not a WAL: ext4",
        "if nobody needs what is on it, erase it by hand on the host",
    ])?;
    let mut check = Command::new("e2fsck");
    process::capture(check.args(["-fn"]).arg(&disk.device), Vec::new(), SHORT)?.stdout_if_success("the file system")?;
    *site.host_variable("h1", "device_serials") = right;
    site.play("site", &["--limit", "h1"])?.changed_nothing(&site.hosts[..1])
}

/// Nothing of a running broker is touched before the store has taken the new ones.
pub fn wrong_store(site: &mut Site) -> Result<()> {
    let words = [
        "cannot use the object store of the inventory",
        "Check endpoint and bucket in seawall_backend and the two keys",
    ];
    let right = std::mem::replace(&mut site.variable("seawall_backend")["bucket"], json!("somebody-elses"));
    let (stopped, away) = site.one_at_a_time(|site| site.play("site", &["--limit", "h1"]))?;
    stopped.stopped_saying(&words)?;
    ensure!(away.is_empty(), "a wrong bucket ended a broker");
    site.variable("seawall_backend")["bucket"] = right;
    let key = site.folder.join("secrets/secret_key");
    let right = fs::read(&key)?;
    fs::write(&key, "not-the-key")?;
    let (stopped, away) = site.one_at_a_time(|site| site.play("site", &["--limit", "h1"]))?;
    stopped.stopped_saying(&words)?;
    ensure!(away.is_empty(), "a wrong key ended a broker");
    fs::write(&key, right)?;
    site.play("site", &["--limit", "h1"])?.changed_nothing(&site.hosts[..1])
}

/// Ansible is killed between two brokers; the next run does the rest, and no more.
pub fn half_done(site: &mut Site) -> Result<()> {
    *site.variable("seawall_settings") = json!({"upload": {"shutdown_wait": "25s"}});
    let mut play = site.begin("site", &[])?;
    // Its configuration is written, and the broker does not have it yet or is starting.
    play.wait_for(SETTING)?;
    play.kill()?;
    let (rest, _) = site.one_at_a_time(|site| site.play("site", &[]))?;
    rest.succeeded()?;
    let set = site.each("grep --count 'shutdown_wait = \"25s\"' /etc/seawall/seawall.toml")?;
    ensure!(set.iter().all(|count| count.trim() == "1"), "a run after one that was cut off left a host out: {set:?}");
    site.play("site", &[])?.changed_nothing(&site.hosts)
}

/// A broker that is stopped since a run was cut off between drain and start is the first one; where two are, the upgrade does not begin.
pub fn upgrade_cut_off(site: &mut Site, package: &Path) -> Result<()> {
    let later = site.folder.join("later1b.deb");
    deb::later(package, &later, "later1b")?;
    *site.variable("seawall_package") = json!(later);
    let before = site.versions()?;
    for host in ["h2", "h3"] {
        site.lab.sh(host, "systemctl stop seawall", SHORT)?;
    }
    site.play("rolling_upgrade", &[])?.stopped_saying(&[
        "The brokers of h2 and h3 are stopped, and no more than one may be away",
        "seawall.cluster.site --limit h2,h3",
    ])?;
    ensure!(site.versions()? == before, "an upgrade began with two brokers away");
    for host in ["h2", "h3"] {
        site.lab.sh(host, "systemctl start seawall", SHORT)?;
    }
    let (played, away) = site.one_at_a_time(|site| {
        site.lab.sh("h3", "systemctl stop seawall", SHORT)?;
        site.play("rolling_upgrade", &[])
    })?;
    played.succeeded()?;
    let order: Vec<&str> = away.iter().map(|away| away.host.as_str()).collect();
    ensure!(order == ["h3", "h1", "h2"], "the one that was stopped comes first, and these were away: {order:?}");
    let versions = site.versions()?;
    ensure!(versions.iter().all(|version| version.ends_with("+later1b")), "not all were upgraded: {versions:?}");
    Ok(())
}

/// The upgrade ends at the first host; the older package brings it back.
pub fn broken_package(site: &mut Site, package: &Path) -> Result<()> {
    let broken = site.folder.join("broken.deb");
    deb::broken(package, &broken, "later2")?;
    let good = std::mem::replace(site.variable("seawall_package"), json!(broken));
    let before = site.versions()?;
    let stopped = site.play("rolling_upgrade", &[])?;
    stopped.stopped_saying(&[
        "The broker of h1 does not serve clients",
        "this build does not start",
        "No further host is touched; correct the cause and run the play again",
    ])?;
    ensure!(site.versions()?[1..] == before[1..], "a broken package came further than the first host");
    *site.variable("seawall_package") = good;
    let stopped = site.play("rolling_upgrade", &[])?;
    stopped.stopped_saying(&["The broker of h1 is not well", "seawall.cluster.site --limit h1"])?;
    site.play("site", &["--limit", "h1"])?.succeeded()?;
    ensure!(site.versions()? == before, "the older package is not back");
    site.play("site", &[])?.changed_nothing(&site.hosts)
}

/// The second host loses its power while it is being upgraded.
pub fn failing_host(site: &mut Site, package: &Path) -> Result<()> {
    let later = site.folder.join("later3.deb");
    deb::later(package, &later, "later3")?;
    *site.variable("seawall_package") = json!(later);
    let before = site.versions()?;
    let mut play = site.begin("rolling_upgrade", &[])?;
    play.wait_for("changed: [h2]")?;
    site.lab.kill("h2")?;
    let stopped = play.finish()?;
    println!("{stopped}");
    stopped.stopped_saying(&["h2", "UNREACHABLE"])?;
    let last = site.version("h3")?;
    ensure!(last == before[2], "the upgrade went on to h3, although h2 had failed");
    // Again, and the host is still away.
    site.play("rolling_upgrade", &[])?.stopped_saying(&[
        "h2 does not answer over SSH",
        "Switch it on, or take it out of the inventory, and run the play again",
    ])?;
    site.lab.start("h2")?;
    let (rest, _) = site.one_at_a_time(|site| site.play("rolling_upgrade", &[]))?;
    rest.succeeded()?;
    let versions = site.versions()?;
    ensure!(versions.iter().all(|version| version.ends_with("+later3")), "not all were upgraded: {versions:?}");
    site.play("site", &[])?.changed_nothing(&site.hosts)
}
