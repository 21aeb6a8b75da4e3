//! The WALs of the configuration as they are found before anything is opened: their ids, with which this node registers.
//!
//! A `file` WAL that is not there yet is formatted. A device never is: whatever lies on it may be somebody's data, so that is
//! asked for on purpose (`seawall wal format`). One device of a mirror may be away: what follows is decided at the opening.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall_metadata::{LegId, WalId};
use seawall_wal_device as device;
use seawall_wal_device::{FormatConfig, OpenError};
use tracing::{info, warn};

use crate::{
    config::{Config, DEFAULT_FILE_WAL_BYTES, WalConfig, WalKind},
    storage_engine::StorageStartError,
    units::ByteSize,
    wal_opening::WalOpeningError,
};

/// How long a start waits for a device of a mirror to show up, before it goes on without it.
const DEVICE_WAIT: Duration = Duration::from_secs(10);
const DEVICE_POLL: Duration = Duration::from_millis(200);

/// A WAL that is there.
#[derive(Debug, Clone)]
pub struct PreparedWal {
    pub config: WalConfig,
    pub found: FoundWal,
}

/// The devices of a WAL as they were found.
#[derive(Debug, Clone)]
pub struct FoundWal {
    pub id: WalId,
    pub ring_bytes: u64,
    /// At least one.
    pub legs: Vec<FoundLeg>,
    /// Devices of a mirror that are not there, cannot be read or written, or hold nothing.
    pub absent: Vec<AbsentLeg>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLeg {
    pub leg: LegId,
    pub path: PathBuf,
}

#[derive(Debug, Clone)]
pub struct AbsentLeg {
    pub path: PathBuf,
    pub why: String,
}

impl FoundWal {
    /// As if that device were not there.
    pub fn without(&self, leg: &FoundLeg, why: String) -> Self {
        let mut rest = self.clone();
        rest.legs.retain(|other| other != leg);
        rest.absent.push(AbsentLeg { path: leg.path.clone(), why });
        rest
    }

    /// How many devices it was looked for on.
    pub fn devices(&self) -> usize {
        self.legs.len() + self.absent.len()
    }
}

/// Blocks for as long as writing a file of that size takes, or until the devices of mirrors are there.
pub fn prepare(config: &Config) -> Result<Vec<PreparedWal>, StorageStartError> {
    let mut prepared: Vec<PreparedWal> = Vec::new();
    for wal in config.wals() {
        let wal = prepare_one(wal, config.node.id)?;
        if prepared.iter().any(|before| before.found.id == wal.found.id) {
            return Err(StorageStartError::SameWal(wal.found.id));
        }
        prepared.push(wal);
    }
    Ok(prepared)
}

fn prepare_one(config: WalConfig, node: i32) -> Result<PreparedWal, StorageStartError> {
    let paths: Vec<PathBuf> = config.paths().map(Path::to_owned).collect();
    match config.kind {
        WalKind::File => format_missing(&paths[0], config.size.unwrap_or(DEFAULT_FILE_WAL_BYTES), node)?,
        WalKind::Device | WalKind::Mirror => paths.iter().for_each(|path| warn_of_name(path)),
        WalKind::None => unreachable!("it is none of the WALs of a configuration"),
    }
    let found = find(&paths, DEVICE_WAIT)?;
    Ok(PreparedWal { config, found })
}

fn warn_of_name(device: &Path) {
    if device.parent() == Some(Path::new("/dev")) {
        let device = device.display();
        warn!(%device, "this name may stand for another device after a restart: use one under /dev/disk/by-id");
    }
}

fn format_missing(path: &Path, size: ByteSize, node: i32) -> Result<(), StorageStartError> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| StorageStartError::Folder { path: folder.to_owned(), error })?;
    }
    info!(path = %path.display(), bytes = size.bytes(), "formatting a write-ahead log");
    device::format(&FormatConfig::new(path, size.bytes(), node)).map_err(WalOpeningError::Format)?;
    Ok(())
}

/// Looks at one device, or at the two of a mirror, of which one may be away for longer than `wait`.
pub fn find(paths: &[PathBuf], wait: Duration) -> Result<FoundWal, WalOpeningError> {
    let until = Instant::now() + if paths.len() > 1 { wait } else { Duration::ZERO };
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for path in paths {
        match inspect(path, until) {
            Ok(inspection) => found.push((path, inspection.superblock)),
            Err(error) if paths.len() > 1 && absent_device(&error).is_some() && !is_forbidden(&error) => {
                absent.push((path, error))
            }
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_empty() {
        return Err(absent.remove(0).1.into());
    }
    let (first_path, first) = &found[0];
    if let Some((path, _)) = found.iter().find(|(_, superblock)| superblock.wal_id != first.wal_id) {
        return Err(WalOpeningError::TwoWals { path: first_path.to_path_buf(), other: path.to_path_buf() });
    }
    let leg = |(path, superblock): &(&PathBuf, device::Superblock)| FoundLeg {
        leg: LegId(superblock.leg.0),
        path: path.to_path_buf(),
    };
    Ok(FoundWal {
        id: WalId(first.wal_id.0),
        ring_bytes: first.ring_bytes,
        legs: found.iter().map(leg).collect(),
        absent: (absent.into_iter())
            .map(|(path, error)| AbsentLeg { path: path.clone(), why: error.to_string() })
            .collect(),
    })
}

/// A device that is not there may be late: it is looked for until then.
fn inspect(path: &Path, until: Instant) -> Result<device::Inspection, OpenError> {
    loop {
        match device::inspect(path) {
            Err(OpenError::NotFound(_)) if Instant::now() < until => std::thread::sleep(DEVICE_POLL),
            answer => return answer,
        }
    }
}

/// The device without which a mirror may go on. One that holds something else, or that another process uses, is a mistake of
/// the configuration; what this process or the machine has too little of is no device's fault.
pub fn absent_device(error: &OpenError) -> Option<&Path> {
    let is_ours = |error: &device::IoError| {
        let errors = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOLCK, libc::EAGAIN, libc::EINTR];
        error.error.raw_os_error().is_some_and(|number| errors.contains(&number))
    };
    match error {
        OpenError::Io { error, .. } | OpenError::LegFailed { error, .. } if is_ours(error) => None,
        OpenError::NotFound(path)
        | OpenError::NotAWal { path, .. }
        | OpenError::Io { path, .. }
        | OpenError::LegFailed { path, .. } => Some(path),
        _ => None,
    }
}

/// This process may not even look at it: a mistake of whoever set it up. One that was left out would be behind for good.
fn is_forbidden(error: &OpenError) -> bool {
    matches!(error, OpenError::Io { error, .. } if error.error.kind() == std::io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_device_that_may_not_be_looked_at_is_not_taken_for_one_that_is_gone() {
        let failed = |kind: io::ErrorKind| OpenError::Io {
            path: "/dev/x".into(),
            error: device::IoError { operation: "open", error: Arc::new(kind.into()) },
        };
        let gone = |error: &OpenError| absent_device(error).is_some() && !is_forbidden(error);
        assert!(gone(&failed(io::ErrorKind::Other)) && gone(&OpenError::NotFound("/dev/x".into())));
        assert!(!gone(&failed(io::ErrorKind::PermissionDenied)));
        assert!(!gone(&OpenError::Locked("/dev/x".into())));
    }
}
