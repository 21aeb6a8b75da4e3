//! The hosts of a rack. Own TOML for whoever has nothing else; everything else is read by Ansible's own `ansible-inventory`, so
//! that one inventory serves both.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As the report calls it.
    pub name: String,
    /// HOST or USER@HOST for ssh.
    pub ssh: String,
    pub ssh_port: Option<u16>,
    pub ssh_key: Option<String>,
    /// Where the other hosts reach it.
    pub address: String,
    pub devices: Vec<String>,
}

pub fn read(file: &Path) -> Result<Vec<Host>> {
    let read = || fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    let hosts = match file.extension().and_then(|ending| ending.to_str()) {
        Some("toml") => of_toml(&read()?),
        Some("json") => of_ansible(&read()?),
        _ => of_ansible(&ask_ansible(file)?),
    };
    let hosts = hosts.with_context(|| format!("inventory {}", file.display()))?;
    ensure!(!hosts.is_empty(), "inventory {} has no hosts", file.display());
    Ok(hosts)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hosts: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    ssh: Option<String>,
    port: Option<u16>,
    key: Option<String>,
    address: Option<String>,
    #[serde(default)]
    devices: Vec<String>,
}

fn of_toml(text: &str) -> Result<Vec<Host>> {
    let File { hosts } = toml::from_str(text)?;
    let hosts = hosts.into_iter().map(|(name, entry)| {
        let ssh = entry.ssh.unwrap_or_else(|| name.clone());
        let address = entry.address.unwrap_or_else(|| host_of(&ssh).to_owned());
        Host { name, ssh, ssh_port: entry.port, ssh_key: entry.key, address, devices: entry.devices }
    });
    checked(hosts.collect())
}

fn host_of(ssh: &str) -> &str {
    ssh.rsplit_once('@').map_or(ssh, |(_, host)| host)
}

fn ask_ansible(file: &Path) -> Result<String> {
    let mut command = Command::new("ansible-inventory");
    command.arg("-i").arg(file).arg("--list");
    let output = command.output().context("ansible-inventory, which reads everything but .toml, cannot be run")?;
    if !output.status.success() {
        bail!("ansible-inventory: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "_meta")]
    meta: Meta,
    #[serde(flatten)]
    groups: BTreeMap<String, Group>,
}

/// Has the hosts that have variables, and not the others.
#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    hostvars: BTreeMap<String, Vars>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    hosts: Vec<String>,
}

/// The variables that count here; the others are for the roles.
#[derive(Default, Deserialize)]
struct Vars {
    ansible_host: Option<String>,
    ansible_port: Option<u16>,
    ansible_user: Option<String>,
    ansible_ssh_private_key_file: Option<String>,
    /// Where the other hosts reach it, if that is another network than ssh's.
    seawall_address: Option<String>,
    #[serde(default)]
    seawall_qualify_devices: Vec<String>,
}

fn of_ansible(json: &str) -> Result<Vec<Host>> {
    let Listed { meta, groups } = serde_json::from_str(json).context("not what `ansible-inventory --list` prints")?;
    let mut vars_of = meta.hostvars;
    for host in groups.into_values().flat_map(|group| group.hosts) {
        vars_of.entry(host).or_default();
    }
    let hosts = vars_of.into_iter().map(|(name, vars)| {
        let place = vars.ansible_host.unwrap_or_else(|| name.clone());
        let address = vars.seawall_address.unwrap_or_else(|| place.clone());
        let ssh = vars.ansible_user.map_or(place.clone(), |user| format!("{user}@{place}"));
        let (ssh_port, ssh_key) = (vars.ansible_port, vars.ansible_ssh_private_key_file);
        Host { name, ssh, ssh_port, ssh_key, address, devices: vars.seawall_qualify_devices }
    });
    checked(hosts.collect())
}

fn checked(hosts: Vec<Host>) -> Result<Vec<Host>> {
    for host in &hosts {
        // ssh would take it for an option.
        ensure!(!host.ssh.starts_with('-') && !host.ssh.is_empty(), "{}: {:?} is no host", host.name, host.ssh);
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toml_file_needs_no_more_than_names() {
        let text =
            "[hosts]\nr1 = {}\nr2 = { ssh = \"ops@10.0.0.2\", port = 2222, devices = [\"/dev/disk/by-id/x\"] }\n";
        let hosts = of_toml(text).unwrap();
        assert_eq!((hosts[0].ssh.as_str(), hosts[0].address.as_str()), ("r1", "r1"));
        assert_eq!((hosts[1].ssh.as_str(), hosts[1].address.as_str()), ("ops@10.0.0.2", "10.0.0.2"));
        assert_eq!((hosts[1].ssh_port, hosts[1].devices.len()), (Some(2222), 1));
        assert!(of_toml("[hosts]\nr1 = { shs = \"x\" }\n").is_err());
        assert!(of_toml("[hosts]\nr1 = { ssh = \"-oProxyCommand=x\" }\n").is_err());
    }

    #[test]
    fn what_ansible_lists_gives_the_same_hosts() {
        let json = r#"{"_meta": {"hostvars": {
            "r1": {"ansible_host": "10.0.0.1", "ansible_user": "root", "seawall_address": "10.1.0.1", "other": [1]},
            "r2": {"seawall_qualify_devices": ["/dev/disk/by-id/x"]}}}, "all": {"children": []}}"#;
        let hosts = of_ansible(json).unwrap();
        assert_eq!((hosts[0].ssh.as_str(), hosts[0].address.as_str()), ("root@10.0.0.1", "10.1.0.1"));
        assert_eq!((hosts[1].ssh.as_str(), hosts[1].devices.len()), ("r2", 1));
    }

    /// As it prints an inventory of four hosts, of which one has a variable.
    #[test]
    fn a_host_without_variables_is_a_host() {
        let json = r#"{"_meta": {"hostvars": {"r2": {"ansible_host": "10.0.0.2"}}, "profile": "inventory_legacy"},
            "all": {"children": ["ungrouped", "brokers"]}, "ungrouped": {"hosts": ["r9"]},
            "brokers": {"hosts": ["r1", "r2"], "children": ["new"]}, "new": {"hosts": ["r3"]}}"#;
        let hosts = of_ansible(json).unwrap();
        let reached: Vec<_> = hosts.iter().map(|host| (host.name.as_str(), host.ssh.as_str())).collect();
        assert_eq!(reached, [("r1", "r1"), ("r2", "10.0.0.2"), ("r3", "r3"), ("r9", "r9")]);
    }
}
