//! `cargo xtask check`: what every commit passes. Format, lints, dependencies, generated files, simulations.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::process;
use crate::steps::Step;
use crate::tools::Tool;

pub fn steps() -> Vec<Step> {
    vec![
        Step { needs: &[Tool::Rustfmt], ..Step::new("format", "cargo fmt --all -- --check", 2) },
        Step {
            // librdkafka is built on the way. The peers of the store bench are checked only: nothing else needs them. Tests of power cuts
            // exist with fault injection only.
            needs: &[Tool::Clippy, Tool::Cmake],
            ..Step::new(
                "lints",
                "cargo clippy --quiet --workspace --all-targets --features seawall-store-bench/peers,seawall-qualify/backend,seawall-qualify/fault-injection -- -D warnings",
                30,
            )
        },
        Step { needs: &[Tool::CargoDeny], ..Step::new("dependencies", "cargo xtask deny", 5) },
        Step {
            needs: &[Tool::Maven, Tool::Java, Tool::Unzip, Tool::Rustfmt],
            ..Step::new("generated protocol", "cargo xtask protocol --check", 5)
        },
        Step { needs: &[Tool::Maven, Tool::Java], ..Step::new("generated configs", "cargo xtask configs --check", 10) },
        Step {
            needs: &[Tool::Cmake],
            environment: &[("SIM_SEEDS", "100")],
            ..Step::new(
                "simulations",
                "cargo test-all --quiet --no-fail-fast --lib --test random -- simulation random_commands hostile_bytes_are_errors",
                20,
            )
        },
        Step {
            needs: &[Tool::Cmake],
            long: Some(("cargo xtask wal sim --minutes 30", 45)),
            ..Step::new("WAL simulation", "cargo xtask wal sim", 10)
        },
        Step {
            needs: &[Tool::Cmake],
            long: Some(("cargo xtask sim --minutes 30", 45)),
            ..Step::new("storage simulation", "cargo xtask sim", 10)
        },
    ]
}

const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

/// Licences, bans and sources always; advisories when their database can be reached from here.
pub fn deny() -> anyhow::Result<()> {
    let program =
        Tool::CargoDeny.find().with_context(|| format!("cargo-deny is missing: {}", Tool::CargoDeny.hint()))?;
    let mut checks = vec!["licenses", "bans", "sources"];
    let mut probe = Command::new("git");
    probe.args(["ls-remote", "--quiet", ADVISORIES, "HEAD"]).env("GIT_TERMINAL_PROMPT", "0");
    if process::capture(&mut probe, Vec::new(), Duration::from_secs(15)).is_ok_and(|finished| finished.success) {
        checks.push("advisories");
    } else {
        println!("advisories: not checked, {ADVISORIES} cannot be reached from here");
    }
    let mut command = Command::new(program);
    command.args(["--log-level", "warn", "check"]).args(&checks).current_dir(crate::root());
    let finished = process::show(&mut command, Duration::from_secs(240))?;
    ensure!(finished.success, "cargo-deny refuses a dependency");
    println!("{} are fine", checks.join(", "));
    Ok(())
}
