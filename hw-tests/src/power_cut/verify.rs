//! `power-cut verify`: the device against the ledger. Every acknowledged record byte for byte, and the whole ring for what the
//! cut tore.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use seawall_wal_device::look::{Look, LookAccess};
use seawall_wal_device::verify::Span;
use seawall_wal_device::{ScanFrom, blank};
use serde::Serialize;

use super::ledger::load;
use crate::qualify::device::name_of;
use crate::wal_ledger::{Known, config, recover};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The device that `power-cut write` wrote to.
    device: PathBuf,
    /// What `power-cut ledger` wrote down, copied to this host.
    #[arg(long, value_name = "FILE")]
    ledger_file: PathBuf,
    /// Leave the device blank afterwards: the test is over.
    #[arg(long)]
    erase: bool,
    #[arg(long)]
    json: bool,
}

/// What a device kept of what it had acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub device: String,
    /// Records acknowledged over the life of the log, and where the first one lies that was not trimmed.
    pub acked: u64,
    pub first: u64,
    /// Records that recovery finds: what was acknowledged, and maybe some that were on their way.
    pub found: u64,
    /// What of the acknowledged is not there; `None`: all of it is.
    pub lost: Option<String>,
    /// Where an acknowledged block should be, LSN from and to.
    pub damaged: Vec<(u64, u64)>,
    /// Blocks that were on their way and are torn or missing: none of them was acknowledged.
    pub torn: Vec<(u64, u64)>,
    /// The drive refuses to read them.
    pub unreadable: Vec<(u64, u64)>,
}

pub fn run(args: &Args) -> Result<bool> {
    let name = name_of(&args.device)?;
    let (device, known) =
        load(&args.ledger_file)?.with_context(|| format!("{} is not there", args.ledger_file.display()))?;
    ensure!(device == name, "{} is {name}, the ledger is of {device}", args.device.display());
    let known = known.context("the ledger is empty: nothing was written")?;
    let kept = verify(&args.device, &name, &known)?;
    if args.json {
        println!("{}", serde_json::to_string(&kept)?);
    } else {
        print!("{}", kept.text());
    }
    if args.erase {
        blank(&args.device)?;
        eprintln!("{} is blank again", args.device.display());
    }
    Ok(kept.lost.is_none())
}

/// Writes nothing.
pub fn verify(path: &Path, name: &str, known: &Known) -> Result<Kept> {
    let mut kept = Kept {
        device: name.to_owned(),
        acked: known.acked,
        first: known.first,
        found: 0,
        lost: None,
        damaged: Vec::new(),
        torn: Vec::new(),
        unreadable: Vec::new(),
    };
    match recover(&config(path), known) {
        Ok(found) => kept.found = found.next - known.first,
        Err(error) => kept.lost = Some(format!("{error:#}")),
    }
    let from = ScanFrom { trim: known.trim, opened_at: known.opened_at.clone(), ..ScanFrom::default() };
    let looked = Look::open(&[path], LookAccess::Alone)
        .map_err(anyhow::Error::from)
        .and_then(|mut look| Ok(look.verify(Some(&from), &mut |_| ())?));
    match looked {
        Ok(ring) => {
            let spans = |spans: &[Span]| spans.iter().map(|span| (span.from.0, span.to.0)).collect::<Vec<_>>();
            kept.damaged = ring.damage.iter().map(|damage| (damage.at.0, damage.durable.0)).collect();
            kept.torn = spans(&ring.holes);
            kept.unreadable = spans(&ring.unreadable);
        }
        // Then recovery has failed as well, and has said why.
        Err(error) if kept.lost.is_none() => return Err(error),
        Err(_) => {}
    }
    Ok(kept)
}

impl Kept {
    fn text(&self) -> String {
        let mut text = match &self.lost {
            None => format!(
                "{}: kept: every acknowledged record is there ({} since the last trim, {} in all; recovery found {})\n",
                self.device,
                self.acked - self.first,
                self.acked,
                self.found
            ),
            Some(why) => format!("{}: NOT KEPT: {why} ({} acknowledged in all)\n", self.device, self.acked),
        };
        let mut list = |what: &str, spans: &[(u64, u64)]| {
            for (from, to) in spans {
                text += &format!("  {what}: LSN {from} to {to} ({} bytes)\n", to.saturating_sub(*from));
            }
        };
        list("acknowledged and damaged", &self.damaged);
        list("torn, on its way, never acknowledged", &self.torn);
        list("unreadable", &self.unreadable);
        text
    }
}
