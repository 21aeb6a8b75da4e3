//! `cargo xtask metrics`: docs/metrics.md, written or checked by a test of the broker, which knows its metrics.

use std::time::Duration;

use crate::{builds, process};

#[derive(clap::Args)]
pub struct Args {
    /// Only say whether the page is as it would be written
    #[arg(long)]
    check: bool,
}

/// True when the page is right.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut test = builds::tests();
    test.args(["--test", "metrics_reference"]);
    if !args.check {
        test.env("SEAWALL_WRITE_METRICS", "1");
    }
    Ok(process::show(&mut test, Duration::from_secs(1_800))?.success)
}
