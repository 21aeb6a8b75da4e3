//! `cargo xtask disks`: the tests that need a block device or a small disk of their own, with a loop device made for them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use crate::{builds, process, tools};

const DEVICE_BYTES: u64 = 256 << 20;
const TIME_MAX: Duration = Duration::from_secs(600);

/// Needs root.
pub fn run() -> anyhow::Result<()> {
    ensure!(tools::is_root(), "a loop device needs root");
    let device = LoopDevice::attach(DEVICE_BYTES)?;
    let mut cargo = builds::tests();
    cargo.args(["--test", "full_disk", "--test", "block_device"]).env("WAL_TEST_DEVICE", device.path());
    ensure!(process::show(&mut cargo, TIME_MAX)?.success, "a test failed");
    Ok(())
}

/// A block device over a file, with the block size of today's drives; gone when dropped.
pub struct LoopDevice {
    path: String,
    file: PathBuf,
}

impl LoopDevice {
    pub fn attach(bytes: u64) -> anyhow::Result<Self> {
        let file = PathBuf::from(format!("/var/tmp/seawall-loop-{}", std::process::id()));
        File::create(&file)?.set_len(bytes)?;
        let mut device = Self { path: String::new(), file };
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]).arg(&device.file);
        let output = process::capture(&mut losetup, Vec::new(), TIME_MAX)?.stdout_if_success("losetup")?;
        device.path = output.trim().to_owned();
        Ok(device)
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if !self.path.is_empty() {
            let _ = Command::new("losetup").args(["--detach", &self.path]).status();
        }
        let _ = fs::remove_file(&self.file);
    }
}
