//! The `fs` store on file systems of its own: ext4 on a loop device, and tmpfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::room::Room;
use super::{Bed, Folder, Form, write_config};
use crate::disks::LoopDevice;
use crate::process;
use crate::tools::{self, Tool};

const DISK_BYTES: u64 = 2 << 30;
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Needs root.
pub fn start(folder: Folder) -> Result<Bed> {
    ensure!(tools::is_root(), "file systems of its own need root");
    let (mut forms, mut mounts) = (Vec::new(), Vec::new());
    for name in ["ext4", "tmpfs"] {
        let at = folder.path().join(name);
        mounts.push(if name == "ext4" { Mount::ext4(&at)? } else { Mount::tmpfs(&at)? });
        let section = format!("kind = \"fs\"\npath = {:?}\n", at.join("objects"));
        let config = write_config(folder.path(), name, &section)?;
        // What tmpfs has is gone with the machine: its form of the crash test says nothing that ext4 does not.
        let crash = (name == "ext4").then(|| config.clone());
        forms.push(Form { crash, ..Form::new(name, config) });
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = release.split('.').take(2).collect::<Vec<_>>().join(".");
    Ok(Bed {
        kind: "fs",
        version: format!("Linux {version}"),
        forms,
        daemons: Vec::new(),
        serve: &[],
        room: Room::Unknown,
        _mounts: mounts,
        watched: None,
        keys: None,
        folder,
    })
}

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    at: PathBuf,
    /// Below it; detached after the file system is unmounted.
    _device: Option<LoopDevice>,
}

impl Mount {
    pub fn ext4(at: &Path) -> Result<Self> {
        let device = LoopDevice::attach(DISK_BYTES)?;
        run(Command::new(program(Tool::MakeExt4)?).args(["-q", device.path()]))?;
        let at = mount(at, &["-t", "ext4", device.path()])?;
        Ok(Self { at, _device: Some(device) })
    }

    fn tmpfs(at: &Path) -> Result<Self> {
        let at = mount(at, &["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])?;
        Ok(Self { at, _device: None })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

fn mount(at: &Path, arguments: &[&str]) -> Result<PathBuf> {
    fs::create_dir_all(at)?;
    run(Command::new(program(Tool::Mount)?).args(arguments).arg(at))?;
    Ok(at.to_owned())
}

fn program(tool: Tool) -> Result<PathBuf> {
    tool.find().with_context(|| tool.hint())
}

fn run(command: &mut Command) -> Result<()> {
    let what = command.get_program().display().to_string();
    process::capture(command, Vec::new(), COMMAND_MAX)?.stdout_if_success(&what)?;
    Ok(())
}
