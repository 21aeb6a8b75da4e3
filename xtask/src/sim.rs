//! `cargo xtask sim`: seeds of the simulated storage half, or fresh ones for so many minutes, and a story that is ended at each of
//! its steps.

use std::time::Duration;

use anyhow::ensure;

use crate::{builds, process};

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
    /// Shows one crash point again, as it was printed.
    #[arg(long, conflicts_with = "seed")]
    crash: Option<String>,
    /// Prints every event of the one that is replayed.
    #[arg(long)]
    trace: bool,
}

/// Stories of the long form, each ended at all of its steps.
const STORIES: &str = "20";

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut cargo = builds::tests();
    let (seeds, crash_points) = (["--test", "seeds"], ["--test", "crash_points"]);
    match (args.seed, &args.crash, args.minutes) {
        (Some(seed), ..) => cargo.args(seeds).env("SIM_SEED", seed.to_string()),
        (_, Some(point), _) => cargo.args(crash_points).env("SIM_CRASH", point),
        (.., Some(minutes)) => {
            cargo.args(seeds).args(crash_points).env("SIM_MINUTES", minutes.to_string()).env("SIM_STORIES", STORIES)
        }
        (.., None) => cargo.args(seeds).args(crash_points).env("SIM_SEEDS", args.seeds.to_string()),
    };
    if args.trace {
        cargo.env("SIM_TRACE", "1");
    }
    cargo.args(["--", "--nocapture", "acked_batches_survive", "a_crash_at_every_step"]);
    // Building takes minutes on a cold machine, and the stories a few more.
    let time_max = Duration::from_secs(60 * (40 + args.minutes.unwrap_or(0)));
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}
