//! `power-cut write`: the WAL under several writers, each of whose acknowledgements is told to the ledger.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::format::RING_OFFSET;
use seawall_wal_device::{FormatConfig, format};

use super::ledger::Client;
use super::verify::is_of_the_test;
use crate::qualify::Stop;
use crate::qualify::device::{Told, claim, name_of};
use crate::wal_ledger::{Known, Tell, Writers, config, recover};

/// The node of a WAL that this has made.
pub const NODE: i32 = i32::MIN + 8;
/// A small ring is soon overwritten, which is a part of the test.
pub const RING_BYTES: u64 = 256 << 20;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A block device by its name under /dev/disk/by-id. It keeps its log until `verify --erase`.
    device: PathBuf,
    /// HOST:PORT of `power-cut ledger` on another machine.
    #[arg(long, value_name = "HOST:PORT")]
    ledger: String,
    #[command(flatten)]
    told: Told,
    /// End by itself after so many seconds, without a cut.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// What happens as lines of JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, stop: &Stop) -> Result<bool> {
    let mut ledger = Client::connect(&args.ledger, &name_of(&args.device)?)?;
    let known = match ledger.known.take() {
        Some(known) => {
            is_of_the_test(&args.device).context("nothing was written")?;
            known
        }
        None => {
            claim(&args.device, &args.told)?;
            format_for(&args.device)?;
            Known::default()
        }
    };
    let found = match recover(&config(&args.device), &known) {
        Ok(found) => found,
        Err(error) => {
            say(args, "lost", &format!("the device did not keep what it has acknowledged: {error:#}"), known.acked);
            return Ok(false);
        }
    };
    if known.acked > 0 {
        say(args, "kept", "everything that was acknowledged before is there", known.acked);
    }
    let tell: Tell = Box::new(move |known: &Known| {
        if let Err(error) = ledger.tell(known) {
            // Nothing may go on that nobody writes down: a trim that follows would take what the ledger still counts on.
            eprintln!("the ledger is gone: {error:#}");
            std::process::exit(2);
        }
    });
    let writers = Writers::start(found, &known, tell)?;
    say(args, "writing", "cut the power at any time", known.acked);
    watch(args, &writers, stop)?;
    let known = writers.stop();
    say(args, "stopped", "the log stays on the device: `power-cut verify`, or `write` again", known.acked);
    Ok(true)
}

/// Until it is ended, or the WAL fails.
fn watch(args: &Args, writers: &Writers, stop: &Stop) -> Result<()> {
    let begun = Instant::now();
    let mut told = begun;
    while !stop.is_asked() && args.seconds.is_none_or(|seconds| begun.elapsed().as_secs() < seconds) {
        std::thread::sleep(Duration::from_millis(50));
        let (failed, acked) = {
            let ledger = writers.ledger();
            (ledger.failed.clone(), ledger.known.acked)
        };
        if let Some(why) = failed {
            bail!("the WAL ended: {why}");
        }
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            say(args, "writing", "", acked);
        }
    }
    Ok(())
}

fn say(args: &Args, what: &str, why: &str, acked: u64) {
    if args.json {
        println!("{}", serde_json::json!({"event": what, "acked": acked, "text": why}));
    } else if why.is_empty() {
        eprint!("\r{acked} records acknowledged ");
    } else {
        println!("{what}: {why} ({acked} records acknowledged)");
    }
}

/// Makes an empty log for the test.
pub fn format_for(device: &Path) -> Result<()> {
    let opened = DeviceFile::open(device, Access::Inspect)?;
    let room = opened.bytes.saturating_sub(RING_OFFSET) / 4096 * 4096;
    let block_bytes = opened.sector_bytes.max(4096);
    drop(opened);
    let config = FormatConfig { overwrite: true, block_bytes, ..FormatConfig::new(device, RING_BYTES.min(room), NODE) };
    format(&config).with_context(|| format!("format {}", device.display()))?;
    Ok(())
}
