//! What changes at a site in the course of time, while producers go on.

use anyhow::{Result, ensure};
use serde_json::json;

use super::site::{self, Site};

/// The WAL moves to another device, and its broker never stops.
pub fn replace_device(site: &mut Site) -> Result<()> {
    site.add_disk("h2", "spare")?;
    let old = std::mem::replace(site.host_variable("h2", "device_serials"), json!([site::serial("h2", "spare")]));
    site.play("site", &["--limit", "h2"])?.stopped_saying(&[
        "The broker of h2 has its WAL on",
        "ansible-playbook seawall.cluster.replace_device -e broker=h2",
    ])?;
    let replace = ["-e", "broker=h2"];
    let (played, away) = site.one_at_a_time(|site| site.play("replace_device", &replace))?;
    played.succeeded()?;
    let (again, away_again) = site.one_at_a_time(|site| site.play("replace_device", &replace))?;
    again.changed_nothing(&site.hosts[1..2])?;
    ensure!(away.is_empty() && away_again.is_empty(), "the broker was restarted for its new device");
    let used = site.lab.sh("h2", "grep --only-matching 'lab-h2-[a-z0-9]*' /etc/seawall/seawall.toml", site::SHORT)?;
    ensure!(site::by_id("h2", "spare").ends_with(used.trim()), "h2 has {used}");
    site.play("site", &["--limit", "h2"])?.changed_nothing(&site.hosts[1..2])?;
    // The old device holds a leg that is not this WAL's any more.
    let new = std::mem::replace(site.host_variable("h2", "device_serials"), old);
    site.play("site", &["--limit", "h2"])?.stopped_saying(&["The broker of h2 has its WAL on"])?;
    *site.host_variable("h2", "device_serials") = new;
    Ok(())
}

/// Out of service and back, with all its records.
pub fn remove_and_add(site: &mut Site) -> Result<()> {
    site.play("remove_broker", &[])?.stopped_saying(&["Say which broker: -e broker=HOST, one of h1, h2, h3"])?;
    let h3 = ["-e", "broker=h3"];
    site.play("remove_broker", &h3)?.succeeded()?;
    let state = site.lab.sh("h3", "systemctl is-active seawall; systemctl is-enabled seawall; true", site::SHORT)?;
    ensure!(state == "inactive\ndisabled\n", "h3 is {state:?} after its removal");
    site.play("remove_broker", &h3)?.succeeded()?;
    site.play("add_broker", &h3)?.succeeded()?;
    site.play("site", &[])?.changed_nothing(&site.hosts)
}
