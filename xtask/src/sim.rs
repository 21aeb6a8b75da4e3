//! `cargo xtask sim`: seeds of the simulated storage half, or fresh ones for so many minutes.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use crate::process;

#[derive(clap::Args)]
pub struct Args {
    /// Fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// So many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// Replays one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of it.
    #[arg(long, requires = "seed")]
    trace: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--quiet", "-p", "seawall-sim", "--test", "seeds", "acked", "--", "--nocapture"]);
    match (args.seed, args.minutes) {
        (Some(seed), _) => cargo.env("SIM_SEED", seed.to_string()),
        (None, Some(minutes)) => cargo.env("SIM_MINUTES", minutes.to_string()),
        (None, None) => cargo.env("SIM_SEEDS", args.seeds.to_string()),
    };
    if args.trace {
        cargo.env("SIM_TRACE", "1");
    }
    cargo.current_dir(crate::root());
    // Building takes minutes on a cold machine.
    let time_max = Duration::from_secs(60 * (30 + args.minutes.unwrap_or(0)));
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}
