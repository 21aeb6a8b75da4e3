//! `seawall-wal-ledger DEVICE KNOWN`: recovers the WAL on a device, checks it, and appends until it is killed.
//!
//! Every line of its output is what someone outside knows from then on: the next run's second argument.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use seawall_qualify::wal_ledger::{Known, Writers, config, recover};

fn main() -> ExitCode {
    let outcome = run();
    if let Err(error) = outcome {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: seawall-wal-ledger DEVICE KNOWN";
    let (device, known) = (arguments.next().context(usage)?, arguments.next().context(usage)?);
    let known: Known = known.parse()?;
    let found = recover(&config(Path::new(&device)), &known)?;
    let tell = |known: &Known| {
        let mut out = std::io::stdout().lock();
        // Nobody listens any more: then nobody judges either.
        let _ = writeln!(out, "{known}").and_then(|()| out.flush());
    };
    let writers = Writers::start(found, &known, Box::new(tell))?;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let failed = writers.ledger().failed.clone();
        if let Some(why) = failed {
            anyhow::bail!("the WAL ended: {why}");
        }
    }
}
