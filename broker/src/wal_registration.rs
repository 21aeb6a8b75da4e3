//! The ids of this node's WALs, which it registers with. A `file` WAL that is not there yet is formatted first.

use seawall_metadata::WalId;
use seawall_wal_device as device;
use seawall_wal_device::FormatConfig;
use tracing::info;

use crate::{
    config::{Config, WalConfig, WalKind},
    storage_engine::StorageStartError,
    wal_opening::WalOpeningError,
};

/// Blocks for as long as writing a file of that size takes.
pub fn prepare(config: &Config) -> Result<Vec<WalId>, StorageStartError> {
    config.wals().iter().map(|wal| prepare_one(wal, config.node.id)).collect()
}

fn prepare_one(wal: &WalConfig, node: i32) -> Result<WalId, StorageStartError> {
    let (Some(path), Some(size), WalKind::File) = (&wal.path, wal.size, wal.kind) else {
        return Err(StorageStartError::UnsupportedKind(wal.kind));
    };
    if !path.exists() {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| StorageStartError::Folder { path: folder.to_owned(), error })?;
        }
        info!(path = %path.display(), bytes = size.bytes(), "formatting a write-ahead log");
        device::format(&FormatConfig::new(path, size.bytes(), node)).map_err(WalOpeningError::Format)?;
    }
    let inspection = device::inspect(path).map_err(WalOpeningError::Open)?;
    Ok(WalId(inspection.superblock.wal_id.0))
}
