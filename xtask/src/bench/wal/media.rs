//! What the WAL and fio write to in turn: a loop device, or a file. Each block was written once before, so that neither pays
//! for the file system's allocation.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::bench::machine::Scratch;
use crate::process;
use crate::tools;

const RING_BYTES: u64 = 256 << 20;
const RING_BYTES_TINY: u64 = 32 << 20;
/// The superblocks and what lies around them.
const RING_OFFSET: u64 = 64 << 10;
const TIME_MAX: Duration = Duration::from_secs(60);

pub struct Medium {
    path: PathBuf,
    pub ring_bytes: u64,
    on: On,
}

/// What goes away with the medium.
enum On {
    Device(#[allow(dead_code, reason = "held for its drop")] LoopDevice),
    File(#[allow(dead_code, reason = "held for its drop")] Scratch),
}

impl Medium {
    /// A loop device where that is allowed, and a file; each is made when its turn comes.
    pub fn all(tiny: bool) -> Result<impl Iterator<Item = Result<Self>>> {
        let with_device = tools::is_root();
        if !with_device {
            println!("left out: the loop device, it needs root");
        }
        let kinds: &[bool] = if with_device { &[true, false] } else { &[false] };
        Ok(kinds.iter().map(move |&is_device| if is_device { Self::loop_device(tiny, "") } else { Self::file(tiny) }))
    }

    fn file(tiny: bool) -> Result<Self> {
        let folder = Scratch::new("wal-file")?;
        // The WAL makes it, written once.
        let path = folder.path().join("wal");
        Ok(Self { path, ring_bytes: ring_bytes(tiny), on: On::File(folder) })
    }

    pub fn loop_device(tiny: bool, name: &str) -> Result<Self> {
        let ring_bytes = ring_bytes(tiny);
        let device = LoopDevice::new(&format!("wal-device{name}"), ring_bytes + RING_OFFSET)?;
        Ok(Self { path: device.path.clone(), ring_bytes, on: On::Device(device) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_device(&self) -> bool {
        matches!(self.on, On::Device(_))
    }

    pub fn name(&self) -> &'static str {
        if self.is_device() { "loop device" } else { "file" }
    }

    pub fn describe(&self) -> String {
        let mib = self.ring_bytes >> 20;
        match self.is_device() {
            true => {
                format!("loop device (direct I/O, sectors of 4096) on a file that was written once, ring of {mib} MiB")
            }
            false => format!("file that was written once, ring of {mib} MiB"),
        }
    }
}

/// A block device over a file that was written once; gone when dropped.
pub struct LoopDevice {
    pub path: PathBuf,
    _folder: Scratch,
}

impl LoopDevice {
    pub fn new(name: &str, bytes: u64) -> Result<Self> {
        let folder = Scratch::new(name)?;
        let file = folder.path().join("disk");
        write_once(&file, bytes)?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]).arg(&file);
        let device = process::capture(&mut losetup, Vec::new(), TIME_MAX)?.stdout_if_success("losetup")?;
        Ok(Self { path: device.trim().into(), _folder: folder })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn ring_bytes(tiny: bool) -> u64 {
    if tiny { RING_BYTES_TINY } else { RING_BYTES }
}

fn write_once(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let step = left.min(zeros.len() as u64);
        file.write_all(&zeros[..step as usize])?;
        left -= step;
    }
    file.sync_all()?;
    Ok(())
}
