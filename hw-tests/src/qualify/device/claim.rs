//! Whether a device may be written. One that is in use never is; one that holds anything only when told twice; what an
//! earlier run of ours left behind counts as nothing, as long as nothing else lies beside it. And whether a name still stands for
//! the device that was claimed.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use seawall_wal_device::passport::{PassportDrive, Sighting};
use seawall_wal_device::{FormatConfig, what_else_it_holds};

/// The node of a WAL that a qualification has made.
pub(crate) const NODE: i32 = i32::MIN + 7;

/// The two times that one must be told.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Told {
    /// Destroy what the device holds. That must be said twice: with --confirm too.
    #[arg(long, requires = "confirm")]
    overwrite: bool,
    /// The serial number of the device whose content is to be destroyed.
    #[arg(long, value_name = "SERIAL", requires = "overwrite")]
    confirm: Option<String>,
}

/// What tells a device from another one that takes its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of the block device; of a file those of its file system and its own.
    number: (u64, u64),
    drives: Vec<PassportDrive>,
}

impl Identity {
    pub fn of(device: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(device).with_context(|| format!("look at {}", device.display()))?;
        let is_device = metadata.file_type().is_block_device();
        let number = if is_device { (metadata.rdev(), 0) } else { (metadata.dev(), metadata.ino()) };
        Ok(Self { number, drives: Sighting::of(device)?.drives })
    }

    /// `Err` when the name stands for another device by now.
    pub fn check(&self, device: &Path) -> Result<()> {
        let now = Self::of(device)?;
        ensure!(now == *self, "{} was {self} and is {now} now", device.display());
        Ok(())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (libc::major(self.number.0), libc::minor(self.number.0));
        write!(f, "device {major}:{minor}")?;
        self.drives.iter().try_for_each(|drive| write!(f, " {drive}"))
    }
}

/// Which device it is, when it may be written. Nothing was written.
pub(crate) fn claim(device: &Path, told: &Told) -> Result<Identity> {
    let identity = Identity::of(device)?;
    let Some(what) = what_else_it_holds(device, NODE)? else { return Ok(identity) };
    let name = name_of(device)?;
    match (&told.confirm, told.overwrite) {
        (Some(confirmed), true) if *confirmed == name => Ok(identity),
        (Some(confirmed), true) => bail!("{} is {name}, not {confirmed}: nothing was written", device.display()),
        _ => bail!(
            "{} holds {what}: nothing was written. To destroy it say so twice: --overwrite --confirm '{name}'",
            device.display()
        ),
    }
}

/// The serial number of a device, or its path if it has none.
pub(crate) fn name_of(device: &Path) -> Result<String> {
    let sighting = Sighting::of(device)?;
    if !sighting.is_identified() {
        return Ok(device.display().to_string());
    }
    Ok(sighting.drives.iter().map(|drive| drive.serial.as_str()).collect::<Vec<_>>().join("+"))
}

/// How a qualification formats.
pub(crate) fn format_config(path: PathBuf, ring_bytes: Option<u64>, block_bytes: u32) -> FormatConfig {
    FormatConfig { ring_bytes, block_bytes, overwrite: true, ..FormatConfig::new(path, 0, NODE) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    use seawall_wal_device::format;

    use super::*;

    /// A file in place of a device, as a killed run leaves it.
    fn left_over() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        format(&format_config(path.clone(), Some(4 << 20), 4096)).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
        (folder, path)
    }

    fn put(path: &Path, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_behind_counts_as_nothing() {
        let (_folder, path) = left_over();
        claim(&path, &Told::default()).unwrap();
    }

    #[test]
    fn what_was_put_over_the_remains_of_a_killed_run_is_not_overwritten_without_a_word() {
        // A protective MBR and a GPT, whose writer cleared the first blocks; LVM, which leaves the first sector; md 1.0, which
        // writes to the end alone; the first lines of something that nobody knows.
        let mut gpt = vec![0; 17 << 10];
        gpt[510..520].copy_from_slice(b"\x55\xaaEFI PART");
        let cases: [(&str, u64, &[u8]); 4] = [
            ("holds a GPT partition table", 0, &gpt),
            ("holds an LVM volume beside WAL ", 512, b"LABELONE"),
            ("holds a part of a Linux RAID beside WAL ", (8 << 20) - (8 << 10), &0xa92b_4efc_u32.to_le_bytes()),
            ("holds WAL ", 0, &[1; 4096]),
        ];
        for (why, at, bytes) in cases {
            let (_folder, path) = left_over();
            put(&path, at, bytes);
            let refused = claim(&path, &Told::default()).unwrap_err().to_string();
            assert!(refused.contains(why) && refused.contains("nothing was written"), "{why}: {refused}");
            let told = Told { overwrite: true, confirm: Some(name_of(&path).unwrap()) };
            claim(&path, &told).unwrap();
        }
    }

    #[test]
    fn another_device_under_the_same_name_is_not_the_one_that_was_claimed() {
        let (folder, path) = left_over();
        let identity = claim(&path, &Told::default()).unwrap();
        identity.check(&path).unwrap();
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        std::fs::write(&path, [0; 4096]).unwrap();
        assert!(identity.check(&path).unwrap_err().to_string().contains(" was device "));
    }
}
