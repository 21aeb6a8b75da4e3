//! `seawall wal verify`: the whole ring, every CRC; what is the log, what is left over, what is missing.

use std::path::{Path, PathBuf};

use seawall_wal_device::look::{Look, LookAccess};
use seawall_wal_device::verify::Verification;
use serde_json::{Value, json};

use super::WalCliError;
use super::print::{self, ProgressLine, Rows, span, span_json};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// The other device of a mirror
    #[arg(value_name = "DEVICE2")]
    mirror: Option<PathBuf>,
    /// Although a broker may have it open: the end of its log then looks torn
    #[arg(long)]
    while_open: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), WalCliError> {
    let access = if args.while_open { LookAccess::WhileOpen } else { LookAccess::Alone };
    let paths: Vec<&Path> = [Some(&args.device), args.mirror.as_ref()].into_iter().flatten().map(|p| &**p).collect();
    let mut look = Look::open(&paths, access)?;
    let mut line = ProgressLine::new("verify");
    let found = look.verify(None, &mut |progress| line.tell(progress))?;
    let wal = look.legs()[0].superblock.wal_id.to_string();
    let copies_lost: Vec<String> =
        look.legs().iter().filter(|leg| leg.copy_lost).map(|leg| leg.leg.to_string()).collect();
    if args.json {
        print::json_document(&to_json(&wal, &copies_lost, &found))?;
    } else {
        let one_of_two = look.legs().len() == 1 && look.legs()[0].superblock.mirror;
        print_text(&wal, one_of_two, &copies_lost, &found)?;
    }
    // Half a frame at the end is what a broker is writing just now.
    if found.damage.is_empty() { Ok(()) } else { Err(WalCliError::Damaged) }
}

fn to_json(wal: &str, copies_lost: &[String], found: &Verification) -> Value {
    let damage = found.damage.iter().map(
        |damage| json!({"at": damage.at.0, "durable": damage.durable.0, "found": damage.found, "proof": damage.proof}),
    );
    let stale = found.stale.iter().map(|run| {
        json!({"from": run.span.from.0, "to": run.span.to.0, "owner_epoch": run.owner_epoch, "frames": run.frames})
    });
    let differ = found
        .legs_differ
        .iter()
        .map(|(leg, span)| json!({"leg": leg.to_string(), "from": span.from.0, "to": span.to.0}));
    json!({
        "wal": wal,
        "live": span_json(&found.live),
        "frames": found.frames,
        "records": found.records,
        "settled_frames": found.settled_frames,
        "clean_shutdown": found.clean_shutdown,
        "owner_epoch_seen": found.owner_epoch_seen,
        "damage": damage.collect::<Vec<_>>(),
        "holes": found.holes.iter().map(span_json).collect::<Vec<_>>(),
        "stale": stale.collect::<Vec<_>>(),
        "unreadable": found.unreadable.iter().map(span_json).collect::<Vec<_>>(),
        "legs_differ": differ.collect::<Vec<_>>(),
        "superblock_copies_lost": copies_lost,
    })
}

fn print_text(wal: &str, one_of_two: bool, copies_lost: &[String], found: &Verification) -> Result<(), WalCliError> {
    let mut rows = Rows::default();
    rows.row("WAL", wal);
    if one_of_two {
        rows.row("mirror", "only one of its devices was read: the other may hold what this one lacks");
    }
    rows.row("log", format_args!("LSN {}, {} frames, {} records", span(&found.live), found.frames, found.records))
        .row("settled", format_args!("{} frames whose place nobody needed yet", found.settled_frames))
        .row("closed cleanly", if found.clean_shutdown { "yes" } else { "no" })
        .row("owner epoch", found.owner_epoch_seen);
    for hole in &found.holes {
        rows.row("hole", format_args!("LSN {}: never acknowledged", span(hole)));
    }
    for run in &found.stale {
        rows.row(
            "stale",
            format_args!(
                "LSN {}, {} frames of owner epoch {}: not part of the log",
                span(&run.span),
                run.frames,
                run.owner_epoch
            ),
        );
    }
    for (leg, part) in &found.legs_differ {
        rows.row("legs differ", format_args!("leg {leg} lacks LSN {}: an open copies it", span(part)));
    }
    for leg in copies_lost {
        rows.row("superblock", format_args!("leg {leg} has lost one of its two copies"));
    }
    for part in &found.unreadable {
        rows.row("UNREADABLE", format_args!("LSN {}", span(part)));
    }
    for damage in &found.damage {
        rows.row("DAMAGE", damage);
    }
    if found.damage.is_empty() {
        rows.row("result", "whole: every acknowledged byte is there");
    }
    rows.print()
}
