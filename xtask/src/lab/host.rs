//! One host: its root file system, its start, its ends.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::disk::Drive;
use super::keeper::Keeper;
use super::output;
use crate::tools::Tool;

const PREPARE_CONTAINER: &str = concat!(include_str!("container.sh"), include_str!("identity.sh"));
const PREPARE_MACHINE: &str = concat!(include_str!("machine.sh"), include_str!("identity.sh"), "umount \"$0/root\"\n");
const BOOT_CONTAINER: &str = include_str!("boot_container.sh");
const BOOT_MACHINE: &str = include_str!("boot_machine.sh");
const SHORT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// systemd-nspawn. Called h1 to h99.
    Container,
    /// QEMU, with a kernel of its own. Called v1 to v99.
    Machine,
}

impl Kind {
    /// What the host of this name is.
    pub fn of(host: &str) -> Option<Self> {
        [Self::Container, Self::Machine].into_iter().find(|kind| host.starts_with(kind.letter()))
    }

    fn letter(self) -> char {
        match self {
            Self::Container => 'h',
            Self::Machine => 'v',
        }
    }

    /// In a network of the lab: containers first, then machines.
    fn address(self, number: u8) -> String {
        let first = match self {
            Self::Container => 10,
            Self::Machine => 110,
        };
        format!("10.77.0.{}", first + u16::from(number))
    }

    /// A kernel that is emulated takes a minute on a busy machine.
    pub fn boot_max(self) -> Duration {
        match self {
            Self::Container => Duration::from_secs(90),
            Self::Machine => Duration::from_secs(300),
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Machine => "virtual machine",
        })
    }
}

pub struct Host {
    pub kind: Kind,
    number: u8,
    pub name: String,
    pub address: String,
    pub folder: PathBuf,
    /// As it is called inside of the lab.
    group: String,
}

impl Host {
    pub fn new(lab: &Path, kind: Kind, number: u8) -> Self {
        let name = format!("{}{number}", kind.letter());
        let folder = lab.join("hosts").join(&name);
        let groups = lab.file_name().unwrap_or_default().to_string_lossy();
        let group = format!("/sys/fs/cgroup/{groups}/{name}");
        Self { kind, number, name, address: kind.address(number), folder, group }
    }

    /// By its name, as `new` gives it.
    pub fn named(lab: &Path, name: &str) -> Result<Self> {
        let kind = Kind::of(name);
        let number = name.get(1..).and_then(|number| number.parse().ok());
        let (kind, number) = kind.zip(number).with_context(|| format!("\"{name}\" is no host's name"))?;
        Ok(Self::new(lab, kind, number))
    }

    /// Keys by which it knows others and is known, and a disk of its own that begins as `base`.
    pub fn prepare(&self, keeper: &Keeper, base: &Path, public_key: &Path, others: &str) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join("hosts"), others)?;
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", &self.name, "-f"]).arg(self.folder.join("host_key"));
        output(&mut keygen, SHORT)?;
        let mut script = keeper.inside(match self.kind {
            Kind::Container => PREPARE_CONTAINER,
            Kind::Machine => PREPARE_MACHINE,
        });
        script.arg(&self.folder).arg(base).arg(public_key).args([&self.name, &self.address]);
        output(&mut script, SHORT).with_context(|| format!("prepare {}", self.name))?;
        Ok(())
    }

    /// Returns while it boots.
    pub fn boot(&self, keeper: &Keeper) -> Result<()> {
        let (script, tool) = match self.kind {
            Kind::Container => (BOOT_CONTAINER, Tool::Nspawn),
            Kind::Machine => (BOOT_MACHINE, Tool::Qemu),
        };
        let program = tool.find().with_context(|| tool.hint())?;
        let mut script = keeper.inside(script);
        script.arg(&self.folder).args([&self.name, &self.group]).arg(program).arg(self.number.to_string());
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

    /// NVMe drives of a virtual machine, which are there when it boots.
    pub fn set_drives(&self, drives: &[Drive]) -> Result<()> {
        let lines = drives.iter().map(|drive| format!("{} {}\n", drive.serial, drive.image.display()));
        fs::create_dir_all(&self.folder)?;
        Ok(fs::write(self.folder.join("drives"), lines.collect::<String>())?)
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
