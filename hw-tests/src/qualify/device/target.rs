//! What is probed: a device of this machine, or a simulated part in tests. Both are driven through the WAL's own code.

use std::fs::OpenOptions;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::device::pwrite::PwriteDevice;
use seawall_wal_device::device::uring::UringDevice;
use seawall_wal_device::device::{BlockDevice, WriteCache};
use seawall_wal_device::format::{BLOCK_BYTES_MAX, RING_OFFSET};
use seawall_wal_device::passport::Sighting;
use seawall_wal_device::{Expectation, ScanFrom, Scanned, WalConfig, blank, format, scan};

use super::claim::{Told, claim, format_config};

/// Less holds no ring worth a measurement.
pub const SPAN_BYTES_MIN: u64 = 96 << 20;
const FILE_BYTES: u64 = 1 << 30;
const THREADS: usize = 16;

pub trait Target {
    /// Makes a WAL of it, without which nothing below it may be written.
    fn format(&self) -> Result<()>;

    /// The part that a ring lies in: offset, bytes.
    fn ring(&self) -> (u64, u64);

    fn block_bytes(&self) -> usize;

    /// As the WAL drives it, with how it makes writes durable. It must stay on the calling thread.
    fn raw(&self) -> Result<Box<dyn BlockDevice>>;

    fn scan(&self, config: &WalConfig, from: ScanFrom) -> Result<Scanned>;

    /// What the kernel and the drive say of its cache, the most careful answer.
    fn write_cache(&self) -> Option<WriteCache>;
}

/// A block device, or a file that was made for this. Dropped, it is blank, or gone.
pub struct Device {
    pub path: PathBuf,
    is_file: bool,
    ring_bytes: u64,
    block_bytes: u32,
    write_cache: Option<WriteCache>,
}

impl Device {
    pub fn claim(path: &Path, told: &Told, span: Option<u64>) -> Result<Self> {
        let is_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        if !is_device {
            return Self::make_file(path, span.unwrap_or(FILE_BYTES));
        }
        claim(path, told)?;
        let device = DeviceFile::open(path, Access::Inspect)?;
        let block_bytes = device.facts.physical_bytes.clamp(4096, BLOCK_BYTES_MAX).max(device.sector_bytes);
        let all = device.bytes.saturating_sub(RING_OFFSET);
        let ring_bytes = span.map_or(all, |span| span.min(all)) / u64::from(block_bytes) * u64::from(block_bytes);
        ensure!(ring_bytes >= SPAN_BYTES_MIN, "{ring_bytes} bytes are too little: {SPAN_BYTES_MIN} are the least");
        let write_cache = Sighting::of(path)?.volatile_cache;
        Ok(Self { path: path.to_owned(), is_file: false, ring_bytes, block_bytes, write_cache })
    }

    fn make_file(path: &Path, ring_bytes: u64) -> Result<Self> {
        if path.exists() {
            bail!("{} is there: name a block device, or a file that is not there yet", path.display());
        }
        ensure!(!path.starts_with("/dev"), "there is no device {}", path.display());
        let block_bytes = 4096;
        let ring_bytes = ring_bytes / u64::from(block_bytes) * u64::from(block_bytes);
        ensure!(ring_bytes >= SPAN_BYTES_MIN, "{ring_bytes} bytes are too little: {SPAN_BYTES_MIN} are the least");
        // It has its name from here on, so that its drive can be looked at.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("make {}", path.display()))?;
        let mut made = Self { path: path.to_owned(), is_file: true, ring_bytes, block_bytes, write_cache: None };
        made.write_cache = Sighting::of(path)?.volatile_cache;
        Ok(made)
    }

    pub fn is_file(&self) -> bool {
        self.is_file
    }
}

impl Target for Device {
    fn format(&self) -> Result<()> {
        format(&format_config(self.path.clone(), Some(self.ring_bytes), self.block_bytes))?;
        Ok(())
    }

    fn ring(&self) -> (u64, u64) {
        (RING_OFFSET, self.ring_bytes)
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes as usize
    }

    fn raw(&self) -> Result<Box<dyn BlockDevice>> {
        let file = Arc::new(DeviceFile::open(&self.path, Access::OwnSoon)?);
        match UringDevice::new(file.clone()) {
            Ok(device) => Ok(Box::new(device)),
            Err(_) => Ok(Box::new(PwriteDevice::with_threads(file, THREADS)?)),
        }
    }

    fn scan(&self, config: &WalConfig, from: ScanFrom) -> Result<Scanned> {
        Ok(scan(&WalConfig { path: self.path.clone(), ..config.clone() }, &Expectation::default(), from)?)
    }

    fn write_cache(&self) -> Option<WriteCache> {
        self.write_cache
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let cleaned = if self.is_file {
            std::fs::remove_file(&self.path).map_err(anyhow::Error::from)
        } else {
            blank(&self.path).map_err(anyhow::Error::from)
        };
        if let Err(error) = cleaned {
            eprintln!("{} was left as it is: {error:#}", self.path.display());
        }
    }
}
