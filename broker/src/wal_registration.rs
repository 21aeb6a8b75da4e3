//! The WALs of the configuration as they are found before anything is opened: their ids, with which this node registers.
//!
//! A `file` WAL that is not there yet is formatted. A device never is: whatever lies on it may be somebody's data, so that is
//! asked for on purpose (`seawall wal format`).

use std::path::Path;

use seawall_metadata::WalId;
use seawall_wal_device as device;
use seawall_wal_device::FormatConfig;
use tracing::{info, warn};

use crate::{
    config::{Config, DEFAULT_FILE_WAL_BYTES, WalConfig, WalKind},
    storage_engine::StorageStartError,
    units::ByteSize,
    wal_opening::WalOpeningError,
};

/// A WAL that is there.
#[derive(Debug, Clone)]
pub struct PreparedWal {
    pub id: WalId,
    pub config: WalConfig,
    pub ring_bytes: u64,
}

/// Blocks for as long as writing a file of that size takes.
pub fn prepare(config: &Config) -> Result<Vec<PreparedWal>, StorageStartError> {
    let mut prepared: Vec<PreparedWal> = Vec::new();
    for wal in config.wals() {
        let wal = prepare_one(wal, config.node.id)?;
        if prepared.iter().any(|before| before.id == wal.id) {
            return Err(StorageStartError::SameWal(wal.id));
        }
        prepared.push(wal);
    }
    Ok(prepared)
}

fn prepare_one(wal: WalConfig, node: i32) -> Result<PreparedWal, StorageStartError> {
    let path = match (wal.kind, &wal.path, &wal.device) {
        (WalKind::File, Some(path), _) => {
            format_missing(path, wal.size.unwrap_or(DEFAULT_FILE_WAL_BYTES), node)?;
            path
        }
        (WalKind::Device, _, Some(device)) => {
            if device.parent() == Some(Path::new("/dev")) {
                let device = device.display();
                warn!(%device, "this name may stand for another device after a restart: use one under /dev/disk/by-id");
            }
            device
        }
        _ => return Err(StorageStartError::UnsupportedKind(wal.kind)),
    };
    let superblock = device::inspect(path).map_err(WalOpeningError::Open)?.superblock;
    Ok(PreparedWal { id: WalId(superblock.wal_id.0), ring_bytes: superblock.ring_bytes, config: wal })
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
