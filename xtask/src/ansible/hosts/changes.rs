//! What changes at a site in the course of time, while producers go on.

use anyhow::{Result, ensure};
use serde_json::json;

use super::site::{self, Site};

/// The WAL moves to the disk `spare`, and its broker never stops.
pub fn replace_device(site: &mut Site, host: &str) -> Result<()> {
    let old = std::mem::replace(site.host_variable(host, "device_serials"), json!([site::serial(host, "spare")]));
    let elsewhere = format!("The broker of {host} has its WAL on");
    site.play("site", &["--limit", host])?
        .stopped_saying(&[&elsewhere, &format!("ansible-playbook seawall.cluster.replace_device -e broker={host}")])?;
    let (replace, only) = (["-e", &format!("broker={host}")], [host.to_owned()]);
    let (played, away) = site.one_at_a_time(|site| site.play("replace_device", &replace))?;
    played.succeeded()?;
    let (again, away_again) = site.one_at_a_time(|site| site.play("replace_device", &replace))?;
    again.changed_nothing(&only)?;
    ensure!(away.is_empty() && away_again.is_empty(), "the broker was restarted for its new device");
    let used =
        site.lab.sh(host, "grep --only-matching '/dev/disk/by-id/[^\"]*' /etc/seawall/seawall.toml", site::SHORT)?;
    ensure!(used.trim() == site::by_id(host, "spare"), "{host} has {used}");
    site.play("site", &["--limit", host])?.changed_nothing(&only)?;
    // The old device holds a leg that is not this WAL's any more, as one does whose copy did not end.
    let new = std::mem::replace(site.host_variable(host, "device_serials"), old);
    site.play("site", &["--limit", host])?.stopped_saying(&[&elsewhere])?;
    let left = ["holds a WAL of this node that the running broker does not use", "Erase it by hand"];
    site.play("replace_device", &replace)?.stopped_saying(&left)?;
    *site.host_variable(host, "device_serials") = new;
    Ok(())
}

/// Out of service and back, with all its records.
pub fn remove_and_add(site: &mut Site, host: &str) -> Result<()> {
    let which = format!("Say which broker: -e broker=HOST, one of {}", site.hosts.join(", "));
    site.play("remove_broker", &[])?.stopped_saying(&[&which])?;
    let broker = ["-e", &format!("broker={host}")];
    site.play("remove_broker", &broker)?.succeeded()?;
    let state = site.lab.sh(host, "systemctl is-active seawall; systemctl is-enabled seawall; true", site::SHORT)?;
    ensure!(state == "inactive\ndisabled\n", "{host} is {state:?} after its removal");
    site.play("remove_broker", &broker)?.succeeded()?;
    site.play("add_broker", &broker)?.succeeded()?;
    site.play("site", &[])?.changed_nothing(&site.hosts)
}
