//! Whether a device may be written. One that is in use never is; one that holds anything only when told twice; what an
//! earlier run of ours left behind counts as nothing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use seawall_wal_device::passport::Sighting;
use seawall_wal_device::{FormatConfig, inspect, what_it_holds};

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

/// Fine when the device may be written. Nothing was written.
pub(crate) fn claim(device: &Path, told: &Told) -> Result<()> {
    let Some(what) = what_it_holds(device)? else { return Ok(()) };
    if is_left_over(device) {
        return Ok(());
    }
    let name = name_of(device)?;
    match (&told.confirm, told.overwrite) {
        (Some(confirmed), true) if *confirmed == name => Ok(()),
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

fn is_left_over(device: &Path) -> bool {
    inspect(device).is_ok_and(|found| found.superblock.node_id == NODE)
}

/// How a qualification formats.
pub(crate) fn format_config(path: PathBuf, ring_bytes: Option<u64>, block_bytes: u32) -> FormatConfig {
    FormatConfig { ring_bytes, block_bytes, overwrite: true, ..FormatConfig::new(path, 0, NODE) }
}
