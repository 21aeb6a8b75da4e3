//! Judges that cannot fail say nothing: a role that always changes something, and a play that restarts two brokers at a time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::site::Site;
use crate::ansible::collection::Collection;
use crate::process;

const COPY_MAX: Duration = Duration::from_secs(30);
/// The role that is spoilt.
const HOST_ONLY: &str = "- hosts: h1\n  roles: [seawall.cluster.host]\n";
/// Restarted at the same time, as a play without `serial` would.
const TWO_AT_A_TIME: &str =
    "- hosts: h2:h3\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: systemctl restart seawall\n";

pub fn are_found(site: &Site) -> Result<()> {
    let spoilt = Spoilt::new(site)?;
    let file = site.folder.join("spoilt.yml");
    fs::write(&file, HOST_ONLY)?;
    let always = site.play_of(&spoilt.collection, &file.display().to_string(), &[])?;
    always.succeeded()?;
    let found = always.changed_nothing(&site.hosts[..1]);
    ensure!(
        found.as_ref().is_err_and(|error| error.to_string().contains("The user of the broker")),
        "a task that always says changed was not found: {found:?}"
    );
    let file = site.folder.join("two.yml");
    fs::write(&file, TWO_AT_A_TIME)?;
    let found =
        site.one_at_a_time(|site| site.play_of(&site.collection, &file.display().to_string(), &[])?.succeeded());
    ensure!(
        found.as_ref().is_err_and(|error| error.to_string().contains("two brokers were away at a time")),
        "two brokers that were restarted at a time were not found"
    );
    Ok(())
}

/// A copy of the collection with a task that is never content.
struct Spoilt {
    collection: Collection,
    copy: PathBuf,
}

impl Spoilt {
    fn new(site: &Site) -> Result<Self> {
        const TASK: &str = "- name: The user of the broker\n";
        let copy = site.folder.join("spoilt");
        let mut cp = Command::new("cp");
        cp.arg("-r").arg(crate::root().join("ansible")).arg(&copy);
        process::capture(&mut cp, Vec::new(), COPY_MAX)?.stdout_if_success("copy the collection")?;
        let file = copy.join("roles/host/tasks/main.yml");
        let tasks = fs::read_to_string(&file)?;
        ensure!(tasks.contains(TASK), "the role host has no such task");
        fs::write(&file, tasks.replace(TASK, &format!("{TASK}  changed_when: true\n"))).context("spoil a role")?;
        Ok(Self { collection: Collection::new(&copy)?, copy })
    }
}

impl Drop for Spoilt {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.copy);
    }
}
