//! What the commands here need built. Tests and programs are built with one choice of packages and features, that of the
//! aliases in .cargo/config.toml: for another one cargo would build most crates once more.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{process, tools};

/// Building takes minutes on a cold machine.
const BUILD_MAX: Duration = Duration::from_secs(1_800);

/// `cargo test-all`: the caller adds which tests.
pub fn tests() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["test-all", "--quiet", "--no-fail-fast"]).current_dir(crate::root());
    cargo
}

/// A program in the profile and with the features of the tests, faults included.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    // An example beside it makes cargo count the features that only tests ask for, as it does when it builds them.
    cargo.args(["build-all", "--quiet", "--bin", name, "--example", "one_file_store"]).current_dir(crate::root());
    ensure!(process::show(&mut cargo, BUILD_MAX)?.success, "{name} does not build");
    Ok(tools::target_folder().join("debug").join(name))
}
