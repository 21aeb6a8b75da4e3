//! What playbooks do when all goes well.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::deb;
use super::load::Load;
use super::site::{self, Site};

/// `site` formats only what it was told to, which `one` of them is enough to see, and makes a broker of each.
pub fn bare_hosts(site: &mut Site, one: &str) -> Result<()> {
    let refused = site.play("site", &["--limit", one])?;
    refused.stopped_saying(&[
        "is empty and stays as it is: it is formatted with -e device_format=true",
        "has to be formatted as the WAL of node",
        "run the play again with -e device_format=true",
    ])?;
    for host in &site.hosts {
        site.lab.sh(host, &format!("cmp --bytes=1048576 {} /dev/zero", site::by_id(host, "wal")), SHORT)?;
    }
    let (made, away) = site.one_at_a_time(|site| site.play("site", &["-e", "device_format=true"]))?;
    made.succeeded()?;
    let plan = format!("WILL BE FORMATTED as the WAL of node {}", site.hosts.len());
    ensure!(made.output.contains(&plan), "no plan was shown");
    ensure!(away.is_empty(), "brokers were restarted by the first run");
    for host in &site.hosts {
        ready(site, host)?;
    }
    Ok(())
}

/// `changed=0`, again and after all hosts were away.
pub fn nothing_to_do(site: &Site, long: bool) -> Result<()> {
    let still = |site: &Site| site.play("site", &[])?.changed_nothing(&site.hosts);
    let ((), away) = site.one_at_a_time(still)?;
    ensure!(away.is_empty(), "a run with nothing to do restarted brokers");
    // In the short form one run judges both: two hosts come from a reboot, one from a power cut.
    let cut = if long { site.hosts.len() } else { 1 };
    for host in &site.hosts {
        site.lab.reboot(host)?;
    }
    println!("all hosts were restarted");
    if long {
        still(site)?;
    }
    for host in &site.hosts[..cut] {
        site.lab.kill(host)?;
    }
    for host in &site.hosts[..cut] {
        site.lab.start(host)?;
    }
    println!("{cut} of them had their power cut");
    still(site)?;
    site.hosts.iter().try_for_each(|host| ready(site, host))
}

/// Each broker is restarted once, one after the other, and then runs the new package.
pub fn rolling_upgrade(site: &mut Site, package: &Path) -> Result<()> {
    let later = site.folder.join("later.deb");
    deb::later(package, &later, "later1")?;
    *site.variable("seawall_package") = json!(later);
    let (played, away) = site.one_at_a_time(|site| site.play("rolling_upgrade", &[]))?;
    played.succeeded()?;
    let order: Vec<&str> = away.iter().map(|away| away.host.as_str()).collect();
    ensure!(order == site.hosts, "each broker once and in order, and these were away: {order:?}");
    for host in &site.hosts {
        let version = site.version(host)?;
        ensure!(version.ends_with("+later1"), "{host} has version {version} after the upgrade");
    }
    Ok(())
}

/// `--check --diff` shows it and changes nothing; `site` restarts the brokers one after the other, and begins with one that does not run.
pub fn another_setting(site: &mut Site) -> Result<()> {
    *site.variable("seawall_settings") = json!({"upload": {"shutdown_wait": "20s"}});
    let (looked, away) = site.one_at_a_time(|site| site.play("site", &["--check", "--diff"]))?;
    looked.succeeded()?;
    ensure!(looked.output.contains("+shutdown_wait = \"20s\""), "--check --diff did not show the new setting");
    ensure!(away.is_empty(), "--check restarted brokers");
    for host in &site.hosts {
        let set = site.lab.sh(host, "grep --count shutdown_wait /etc/seawall/seawall.toml || true", SHORT)?;
        ensure!(set.trim() == "0", "--check changed the configuration of {host}");
    }
    let last = site.hosts.last().context("a site has hosts")?;
    let (played, away) = site.one_at_a_time(|site| {
        // As a run leaves it that was cut off between drain and start.
        site.lab.sh(last, "systemctl stop seawall", SHORT)?;
        site.play("site", &[])
    })?;
    played.succeeded()?;
    let order: Vec<&str> = away.iter().map(|away| away.host.as_str()).collect();
    let others = site.hosts.iter().filter(|host| *host != last);
    let expected: Vec<&str> = std::iter::once(last).chain(others).map(String::as_str).collect();
    ensure!(order == expected, "each broker once, and first the one that did not run; these were away: {order:?}");
    Ok(())
}

pub fn ready(site: &Site, host: &str) -> Result<()> {
    let script = format!(
        "for try in $(seq 300); do python3 -c 'import urllib.request; urllib.request.urlopen(\"http://{}:9644/readyz\")' 2>/dev/null && exit 0; \
         sleep 0.2; done; exit 1",
        site.lab.address(host)?
    );
    site.lab.sh(host, &script, SHORT)?;
    Ok(())
}

const SHORT: std::time::Duration = std::time::Duration::from_secs(90);

/// One for each broker.
pub struct Loads {
    loads: Vec<Load>,
    generator: std::path::PathBuf,
}

impl Loads {
    pub fn start(site: &Site, generator: &Path) -> Result<Self> {
        let mut loads = site
            .hosts
            .iter()
            .map(|host| Load::start(&site.lab, generator, host, &site.folder))
            .collect::<Result<Vec<_>>>()?;
        loads.iter_mut().try_for_each(Load::wait_until_acked)?;
        println!("a load on each broker");
        Ok(Self { loads, generator: generator.to_owned() })
    }

    pub fn finish(self, site: &Site) -> Result<()> {
        let mut acked = 0;
        for load in self.loads {
            acked += load.finish(&site.lab, &self.generator)?.acked;
        }
        println!("{acked} records acked, none lost, doubled or moved");
        Ok(())
    }
}
