//! `seawall wal inspect`: the superblocks, and the facts about the device. Works beside a running broker.

use std::path::PathBuf;
use std::sync::Arc;

use seawall_wal_device as device;
use seawall_wal_device::Superblock;
use seawall_wal_device::device::BlockDevice;
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::device::uring::UringDevice;
use serde_json::{Value, json};
use uuid::Uuid;

use super::WalCliError;
use super::print::{self, Rows};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// Also find out, by a few writes to a block that holds nothing, how writes would become durable; not beside a broker
    #[arg(long)]
    probe: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let inspection = device::inspect(&args.device)?;
    let durability = if args.probe { Some(probe(args)?) } else { None };
    let superblock = &inspection.superblock;
    let facts = &inspection.device;
    if args.json {
        let drive = |drive: &device::device::Drive| json!({"model": drive.model, "serial": drive.serial});
        let drives: Vec<_> = facts.drives.iter().map(drive).collect();
        return print::json_document(&json!({
            "device": args.device,
            "kind": inspection.kind.to_string(),
            "held": inspection.held,
            "superblock_copy_lost": inspection.superblock_copy_lost,
            "superblock": superblock_json(superblock),
            "durability": durability,
            "facts": {
                "device_bytes": inspection.device_bytes,
                "logical_block_bytes": facts.logical_bytes,
                "physical_block_bytes": facts.physical_bytes,
                "write_cache": facts.write_cache.map(|cache| cache.to_string()),
                "fua": facts.fua,
                "atomic_write_bytes": facts.atomic_bytes,
                "direct": facts.direct,
                "in_memory": facts.in_memory,
                "drives": drives,
            },
        }));
    }
    let mut rows = Rows::default();
    rows.row("WAL", superblock.wal_id).row("leg", leg(superblock));
    if superblock.cluster_id.is_nil() {
        rows.row("cluster", "none yet: it was never opened");
    } else {
        rows.row("cluster", superblock.cluster_id).row("incarnation", superblock.incarnation);
    }
    rows.row("node", superblock.node_id)
        .row("owner epoch", format_args!("{}, opened at LSN {}", superblock.owner_epoch, superblock.open_start))
        .row("ring", format_args!("{}, blocks of {}", print::bytes(superblock.ring_bytes), superblock.block_bytes))
        .row("trim, at least", superblock.trim_hint)
        .row("durable, at least", superblock.durable)
        .row("frames end before", superblock.reach)
        .row("closed cleanly", if superblock.clean_shutdown { "yes" } else { "no, or it is open now" })
        .row("superblock", if inspection.superblock_copy_lost { "ONE OF TWO COPIES IS LOST" } else { "both copies" })
        .row("generation", superblock.generation)
        .row("device", format_args!("{}, {}", inspection.kind, print::bytes(inspection.device_bytes)))
        .row("facts", &inspection.facts);
    for drive in facts.drives.iter().filter(|drive| !drive.model.is_empty() || !drive.serial.is_empty()) {
        rows.row("drive", format_args!("{} {}", drive.model, drive.serial));
    }
    if let Some(held) = &inspection.held {
        rows.row("in use", held);
    }
    rows.row("durability", durability.as_deref().unwrap_or("chosen when it is opened, by a probe: see --probe"));
    rows.print()
}

/// As an open would choose.
fn probe(args: &Args) -> Result<String, WalCliError> {
    let file = Arc::new(DeviceFile::open(&args.device, Access::OwnSoon)?);
    let failed = |error| WalCliError::Io { operation: format!("probe {}", args.device.display()), error };
    Ok(UringDevice::new(file).map_err(failed)?.durability(0))
}

/// "WAL 1 of cluster 2 and node 3, ...", for sentences.
pub fn one_line(superblock: &Superblock) -> String {
    let Superblock { wal_id, cluster_id, node_id, .. } = superblock;
    if cluster_id.is_nil() {
        return format!("WAL {wal_id}, which no cluster has opened yet");
    }
    format!(
        "WAL {wal_id} of cluster {cluster_id} and node {node_id}, which was last trimmed at {} and durable up to {} at least",
        superblock.trim_hint, superblock.durable
    )
}

fn leg(superblock: &Superblock) -> String {
    let leg = superblock.leg;
    match (superblock.mirror, superblock.joining) {
        (_, true) => format!("{leg}, joining a mirror: it does not hold everything"),
        (true, false) => format!("{leg} of a mirror, set of legs {}", superblock.set_epoch),
        (false, false) => leg.to_string(),
    }
}

fn superblock_json(superblock: &Superblock) -> Value {
    let known = |id: Uuid| (!id.is_nil()).then(|| id.to_string());
    json!({
        "wal": superblock.wal_id.to_string(),
        "leg": superblock.leg.to_string(),
        "mirror": superblock.mirror,
        "joining": superblock.joining,
        "set_epoch": superblock.set_epoch,
        "cluster": known(superblock.cluster_id),
        "incarnation": known(superblock.incarnation),
        "node": superblock.node_id,
        "owner_epoch": superblock.owner_epoch,
        "open_start": superblock.open_start.0,
        "block_bytes": superblock.block_bytes,
        "ring_offset": superblock.ring_offset,
        "ring_bytes": superblock.ring_bytes,
        "trim_hint": superblock.trim_hint.0,
        "durable": superblock.durable.0,
        "reach": superblock.reach.0,
        "clean_shutdown": superblock.clean_shutdown,
        "generation": superblock.generation,
    })
}
