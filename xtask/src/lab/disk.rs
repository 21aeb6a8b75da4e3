//! A disk of a host: a loop device over a file of the lab, with 4 KiB sectors and direct I/O. On its host it has the name that the kernel
//! gave it and one by id, as drives have. Or a drive of a virtual machine, which QEMU makes of such a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::output;

const SHORT: Duration = Duration::from_secs(60);

pub struct Disk {
    /// The same on the host and on the machine.
    pub device: String,
    /// On the host.
    pub by_id: String,
    /// On the machine: what the disk holds, whoever wrote it.
    pub image: PathBuf,
}

impl Disk {
    pub fn attach(lab: &Path, host: &str, name: &str, bytes: u64) -> Result<Self> {
        let image = image(lab, host, name, bytes)?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]).arg(&image);
        let device = output(&mut losetup, SHORT)?.trim().to_owned();
        Ok(Self { device, by_id: format!("/dev/disk/by-id/lab-{host}-{name}"), image })
    }

    /// For systemd-tmpfiles, which makes its nodes when the host boots.
    pub fn nodes(&self) -> Result<String> {
        let name = self.device.trim_start_matches("/dev/");
        let numbers = fs::read_to_string(format!("/sys/class/block/{name}/dev"))?;
        let (device, by_id) = (&self.device, &self.by_id);
        Ok(format!(
            "b {device} 0660 root disk - {}\nd /dev/disk/by-id 0755 root root\nL+ {by_id} - - - - ../../{name}\n",
            numbers.trim()
        ))
    }
}

pub struct Drive {
    /// No two drives of one host have the same; at most 20 letters.
    pub serial: String,
    pub image: PathBuf,
}

impl Drive {
    pub fn new(lab: &Path, host: &str, name: &str, bytes: u64) -> Result<Self> {
        Ok(Self { serial: format!("{host}-{name}"), image: image(lab, host, name, bytes)? })
    }
}

fn image(lab: &Path, host: &str, name: &str, bytes: u64) -> Result<PathBuf> {
    let image = folder(lab).join(format!("{host}-{name}.img"));
    fs::create_dir_all(folder(lab))?;
    File::create_new(&image)?;
    output(Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(&image), SHORT)?;
    Ok(image)
}

/// Frees the loop devices of a lab whose hosts have ended.
pub fn detach_all(lab: &Path) {
    let Ok(images) = fs::read_dir(folder(lab)) else { return };
    for image in images.flatten() {
        let found =
            output(Command::new("losetup").args(["--noheadings", "--output", "NAME", "-j"]).arg(image.path()), SHORT);
        for device in found.unwrap_or_default().split_whitespace() {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

fn folder(lab: &Path) -> PathBuf {
    lab.join("disks")
}
