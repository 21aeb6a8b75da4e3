//! `cargo xtask wal`: what proves the WAL, in a short form for every run and in a long one.

mod vm;

use std::time::Duration;

use anyhow::ensure;
use clap::{Args as ClapArgs, Subcommand};

use crate::tools::Tool;
use crate::{builds, process, tools};

/// Every run of `cargo xtask test` recovers from so many crashes.
const CRASH_POINTS: u64 = 20_000;

#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand)]
enum WalCommand {
    /// Seeded lives of a WAL on simulated disks, on all cores; a table of what was reached.
    Sim {
        /// Fresh seeds for so many minutes.
        #[arg(long, conflicts_with_all = ["points", "seed"])]
        minutes: Option<u64>,
        /// Known seeds until so many crash points were recovered from.
        #[arg(long, default_value_t = CRASH_POINTS, conflicts_with = "seed")]
        points: u64,
        /// Replays one seed.
        #[arg(long)]
        seed: Option<u64>,
        /// In this mode only; a failing seed names it.
        #[arg(long, requires = "seed")]
        mode: Option<String>,
    },
    /// Power cuts, I/O errors and kills under a WAL on block devices of this machine's kernel. Needs root.
    Power {
        #[arg(long, default_value_t = 200)]
        cuts: u64,
        #[arg(long, default_value_t = 30)]
        kills: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Power cuts of a virtual machine, with the nvme driver and null_blk. Long: no part of `cargo xtask test`. Needs root.
    Vm {
        #[arg(long, default_value_t = 20)]
        cuts: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Mutated images for everything that reads a WAL. Finds are kept in wal-device/tests/corpus.
    Fuzz {
        /// More than a minute: seeds of its own.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Replays one input.
        #[arg(long)]
        seed: Option<u64>,
    },
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        WalCommand::Sim { minutes, points, seed, mode } => sim(*minutes, *points, *seed, mode.as_deref()),
        WalCommand::Power { cuts, kills, seed } => power(*cuts, *kills, *seed),
        WalCommand::Vm { cuts, seed } => virtual_machine(*cuts, *seed),
        WalCommand::Fuzz { seconds, seed } => fuzz(*seconds, *seed),
    }
}

fn sim(minutes: Option<u64>, points: u64, seed: Option<u64>, mode: Option<&str>) -> anyhow::Result<()> {
    let mut cargo = builds::tests();
    cargo.args(["--lib", "simulation::a_campaign", "--", "--nocapture"]);
    match (seed, minutes) {
        (Some(seed), _) => {
            cargo.env("SIM_SEED", seed.to_string());
            if let Some(mode) = mode {
                cargo.env("SIM_MODE", mode);
            }
        }
        (None, Some(minutes)) => {
            cargo.env("WAL_SIM_MINUTES", minutes.to_string());
        }
        (None, None) => {
            cargo.env("WAL_CRASH_POINTS", points.to_string());
        }
    }
    // Building takes minutes on a cold machine.
    let time_max = Duration::from_secs(60 * (30 + minutes.unwrap_or(0)));
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}

fn fuzz(seconds: u64, seed: Option<u64>) -> anyhow::Result<()> {
    let mut cargo = builds::tests();
    cargo
        .args(["--test", "fuzz", "--", "--nocapture"])
        .env("FUZZ_SECONDS", seconds.to_string())
        .envs(seed.map(|seed| ("FUZZ_SEED", seed.to_string())));
    let time_max = Duration::from_secs(30 * 60 + seconds);
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}

fn power(cuts: u64, kills: u64, seed: u64) -> anyhow::Result<()> {
    ensure!(tools::is_root(), "loop devices need root");
    let mut cargo = builds::tests();
    cargo
        .args(["--test", "wal_power", "--", "--nocapture"])
        .envs([("WAL_CUTS", cuts), ("WAL_KILLS", kills), ("WAL_SEED", seed)].map(|(name, n)| (name, n.to_string())));
    let time_max = Duration::from_secs(30 * 60 + 2 * (cuts + kills));
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}

fn virtual_machine(cuts: u64, seed: u64) -> anyhow::Result<()> {
    ensure!(tools::is_root(), "loop devices need root");
    ensure!(Tool::Qemu.find().is_some(), "there is no QEMU: {}", Tool::Qemu.hint());
    let kit = vm::make()?;
    let mut cargo = builds::tests();
    cargo
        .args(["--test", "wal_vm", "--", "--nocapture", "--test-threads=1"])
        .env("WAL_VM_KERNEL", kit.kernel)
        .env("WAL_VM_INITRAMFS", kit.initramfs)
        .envs([("WAL_VM_CUTS", cuts), ("WAL_SEED", seed)].map(|(name, n)| (name, n.to_string())));
    let time_max = Duration::from_secs(60 * 60 + 120 * cuts);
    ensure!(process::show(&mut cargo, time_max)?.success, "a test failed");
    Ok(())
}
