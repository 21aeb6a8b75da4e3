//! What is probed: a device of this machine, or a simulated part in tests. Both are driven through the WAL's own code.

use std::cell::Cell;
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
use seawall_wal_device::{Expectation, FormatError, ScanFrom, Scanned, WalConfig, blank, format, scan};

use super::claim::{Identity, Told, claim, format_config};
use super::passport::Extent;

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

/// A block device, or a file that was made for this. Dropped, it is blank if it was written, or gone.
pub struct Device {
    pub path: PathBuf,
    /// Of a block device: which it is, and what was said of its content.
    claimed: Option<(Identity, Told)>,
    device_bytes: u64,
    ring_bytes: u64,
    block_bytes: u32,
    write_cache: Option<WriteCache>,
    /// Whether a byte of it may have changed.
    written: Cell<bool>,
}

impl Device {
    pub fn claim(path: &Path, told: &Told, span: Option<u64>) -> Result<Self> {
        let is_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        if !is_device {
            return Self::make_file(path, span.unwrap_or(FILE_BYTES));
        }
        let claimed = Some((claim(path, told)?, told.clone()));
        let device = DeviceFile::open(path, Access::Inspect)?;
        let block_bytes = device.facts.physical_bytes.clamp(4096, BLOCK_BYTES_MAX).max(device.sector_bytes);
        let all = device.bytes.saturating_sub(RING_OFFSET);
        let ring_bytes = span.map_or(all, |span| span.min(all)) / u64::from(block_bytes) * u64::from(block_bytes);
        ensure!(ring_bytes >= SPAN_BYTES_MIN, "{ring_bytes} bytes are too little: {SPAN_BYTES_MIN} are the least");
        let write_cache = Sighting::of(path)?.volatile_cache;
        let (path, device_bytes, written) = (path.to_owned(), device.bytes, Cell::new(false));
        Ok(Self { path, claimed, device_bytes, ring_bytes, block_bytes, write_cache, written })
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
        let (path, device_bytes, written) = (path.to_owned(), RING_OFFSET + ring_bytes, Cell::new(false));
        let mut made = Self { path, claimed: None, device_bytes, ring_bytes, block_bytes, write_cache: None, written };
        made.write_cache = Sighting::of(&made.path)?.volatile_cache;
        Ok(made)
    }

    pub fn is_file(&self) -> bool {
        self.claimed.is_none()
    }

    /// Which block device was claimed.
    pub fn identity(&self) -> Option<&Identity> {
        self.claimed.as_ref().map(|(identity, _)| identity)
    }

    /// `Err` when its name stands for another device by now.
    pub fn check(&self) -> Result<()> {
        self.identity().map_or(Ok(()), |identity| identity.check(&self.path))
    }

    /// How much of it is written, over and over.
    pub fn extent(&self) -> Extent {
        Extent { ring_bytes: self.ring_bytes, device_bytes: self.device_bytes }
    }
}

impl Target for Device {
    fn format(&self) -> Result<()> {
        self.check()?;
        // It was looked at for a minute since it was claimed: somebody may have put something there.
        if let (Some((_, told)), false) = (&self.claimed, self.written.get()) {
            claim(&self.path, told)?;
        }
        let formatted = format(&format_config(self.path.clone(), Some(self.ring_bytes), self.block_bytes));
        // Any other error comes before the first byte.
        if matches!(formatted, Ok(_) | Err(FormatError::Io { .. })) {
            self.written.set(true);
        }
        formatted?;
        Ok(())
    }

    fn ring(&self) -> (u64, u64) {
        (RING_OFFSET, self.ring_bytes)
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes as usize
    }

    fn raw(&self) -> Result<Box<dyn BlockDevice>> {
        self.check()?;
        let file = Arc::new(DeviceFile::open(&self.path, Access::OwnSoon)?);
        match UringDevice::new(file.clone()) {
            Ok(device) => Ok(Box::new(device)),
            Err(_) => Ok(Box::new(PwriteDevice::with_threads(file, THREADS)?)),
        }
    }

    fn scan(&self, config: &WalConfig, from: ScanFrom) -> Result<Scanned> {
        self.check()?;
        Ok(scan(&WalConfig { path: self.path.clone(), ..config.clone() }, &Expectation::default(), from)?)
    }

    fn write_cache(&self) -> Option<WriteCache> {
        self.write_cache
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let cleaned = match &self.claimed {
            None => std::fs::remove_file(&self.path).map_err(anyhow::Error::from),
            Some(_) if !self.written.get() => return,
            Some((identity, _)) => identity.check(&self.path).and_then(|()| Ok(blank(&self.path)?)),
        };
        if let Err(error) = cleaned {
            eprintln!("{} was left as it is: {error:#}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in place of a block device that was claimed while it was empty.
    fn claimed(path: &Path, written: bool) -> Device {
        std::fs::write(path, vec![0; 4 << 20]).unwrap();
        let told = Told::default();
        Device {
            path: path.to_owned(),
            claimed: Some((claim(path, &told).unwrap(), told)),
            device_bytes: 4 << 20,
            ring_bytes: 2 << 20,
            block_bytes: 4096,
            write_cache: None,
            written: Cell::new(written),
        }
    }

    #[test]
    fn a_device_that_was_not_written_is_not_blanked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = claimed(&path, false);
        // By whoever, meanwhile.
        let theirs = vec![7; 4 << 20];
        std::fs::write(&path, &theirs).unwrap();
        let refused = device.format().unwrap_err().to_string();
        assert!(refused.contains("holds data: nothing was written"), "{refused}");
        drop(device);
        assert!(std::fs::read(&path).unwrap() == theirs, "it was written");
    }

    #[test]
    fn a_device_that_was_written_is_blanked_unless_another_one_took_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let device = claimed(&path, true);
        std::fs::write(&path, vec![7; 4 << 20]).unwrap();
        drop(device);
        assert!(std::fs::read(&path).unwrap()[..1 << 20].iter().all(|byte| *byte == 0));

        let device = claimed(&path, true);
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        let theirs = vec![7; 4 << 20];
        std::fs::write(&path, &theirs).unwrap();
        assert!(device.format().is_err() && device.raw().is_err());
        drop(device);
        assert!(std::fs::read(&path).unwrap() == theirs, "it was written");
    }
}
