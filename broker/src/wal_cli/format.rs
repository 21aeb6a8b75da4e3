//! `seawall wal format`: makes an empty WAL. It belongs to no cluster until a broker first opens it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use seawall_wal_device as device;
use seawall_wal_device::{FormatConfig, OpenError};
use serde_json::json;

use super::print::{self, Rows};
use super::{WalCliError, inspect};
use crate::config::Config;
use crate::units::ByteSize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A block device, best by its name under /dev/disk/by-id; or a file that is to be made
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// The second device of a mirror
    #[arg(long, value_name = "DEVICE2")]
    mirror: Option<PathBuf>,
    /// The node that will use it is that of this configuration
    #[arg(long, value_name = "FILE", required_unless_present = "node")]
    config: Option<PathBuf>,
    /// The node that will use it
    #[arg(long, value_name = "N", conflicts_with = "config")]
    node: Option<i32>,
    /// Size of the ring; all of a device if not given
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Smallest write, a power of two; at least the device's
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    block: u32,
    /// Format although something is there
    #[arg(long)]
    overwrite: bool,
    /// Do it; without this, only say what would be lost
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let node_id = match (&args.config, args.node) {
        (Some(file), _) => Config::load(file)?.node.id,
        (None, node) => node.unwrap_or_default(),
    };
    let devices: Vec<&PathBuf> = [Some(&args.device), args.mirror.as_ref()].into_iter().flatten().collect();
    if !args.yes {
        for path in devices {
            eprintln!("{}", what_would_be_lost(path));
        }
        return Err(WalCliError::NeedsYes);
    }
    let superblock = device::format(&FormatConfig {
        path: args.device.clone(),
        mirror: args.mirror.clone(),
        ring_bytes: args.size.map(|size| size.bytes()),
        block_bytes: args.block,
        node_id,
        overwrite: args.overwrite,
    })?;
    if args.json {
        return print::json_document(&json!({
            "wal": superblock.wal_id.to_string(),
            "devices": devices,
            "node": superblock.node_id,
            "ring_bytes": superblock.ring_bytes,
            "block_bytes": superblock.block_bytes,
        }));
    }
    let mut rows = Rows::default();
    rows.row("WAL", superblock.wal_id)
        .row("ring", print::bytes(superblock.ring_bytes))
        .row("for", format_args!("node {node_id}, of the cluster that first opens it"));
    rows.print()
}

pub(super) fn what_would_be_lost(path: &Path) -> String {
    let shown = path.display();
    match device::inspect(path) {
        Ok(inspection) => {
            let superblock = &inspection.superblock;
            let mut text = format!("{shown} holds {}", inspect::one_line(superblock));
            if !superblock.cluster_id.is_nil() {
                let _ = write!(text, "; what it holds and no object store has would be lost");
            }
            text
        }
        Err(OpenError::NotFound(_)) => format!("{shown} does not exist and would be made"),
        Err(OpenError::NotAWal { .. }) => format!("{shown} holds no WAL; what else it holds would be lost"),
        Err(error) => error.to_string(),
    }
}
