//! One host: its root file system, its start, its ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::keeper::Keeper;
use super::output;
use crate::tools::Tool;

const PREPARE: &str = include_str!("prepare.sh");
const BOOT: &str = include_str!("boot.sh");
const SHORT: Duration = Duration::from_secs(60);

pub struct Host {
    pub name: String,
    pub address: String,
    pub folder: PathBuf,
    /// As it is called inside of the lab.
    group: String,
}

impl Host {
    pub fn new(lab: &Path, name: &str, address: String, groups: &str) -> Self {
        let folder = lab.join("hosts").join(name);
        Self { name: name.to_owned(), address, folder, group: format!("/sys/fs/cgroup/{groups}/{name}") }
    }

    /// Keys by which it knows others and is known, and a disk of its own over `base`.
    pub fn prepare(&self, keeper: &Keeper, base: &Path, public_key: &Path, others: &str) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join("hosts"), others)?;
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", &self.name, "-f"]).arg(self.folder.join("host_key"));
        output(&mut keygen, SHORT)?;
        let mut script = keeper.inside(PREPARE);
        script.arg(&self.folder).arg(base).arg(public_key).args([&self.name, &self.address]);
        output(&mut script, SHORT).with_context(|| format!("prepare {}", self.name))?;
        Ok(())
    }

    /// Returns while it boots.
    pub fn boot(&self, keeper: &Keeper) -> Result<()> {
        let nspawn = Tool::Nspawn.find().with_context(|| Tool::Nspawn.hint())?;
        let mut script = keeper.inside(BOOT);
        script.arg(&self.folder).args([&self.name, &self.group]).arg(nspawn);
        output(&mut script, SHORT).with_context(|| format!("boot {}", self.name))?;
        Ok(())
    }

    /// SIGKILL to everything on it, and back when all of it has ended.
    pub fn kill(&self, keeper: &Keeper) -> Result<()> {
        const KILL: &str = "cd \"$0\"; echo 1 >cgroup.kill; while ! grep -q 'populated 0' cgroup.events; do sleep 0.05; done; \
                            find . -mindepth 1 -depth -type d -exec rmdir {} +";
        output(keeper.inside(KILL).arg(&self.group), SHORT).with_context(|| format!("kill {}", self.name))?;
        Ok(())
    }

    pub fn is_running(&self, keeper: &Keeper) -> bool {
        let mut script = keeper.inside("grep -q 'populated 1' \"$0/cgroup.events\"");
        output(script.arg(&self.group), SHORT).is_ok()
    }

    /// `name type key`, as known_hosts wants it behind an address.
    pub fn public_key(&self) -> Result<String> {
        let line = fs::read_to_string(self.folder.join("host_key.pub"))?;
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(kind), Some(key)) => Ok(format!("{kind} {key}")),
            _ => bail!("no public key of {}", self.name),
        }
    }

    /// The last lines of what it said while it booted.
    pub fn console(&self) -> String {
        let log = fs::read(self.folder.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
