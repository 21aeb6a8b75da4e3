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
    // An example beside it makes cargo count the features that only tests ask for, as it does when it builds them.
    build(&["build-all", "--bin", name, "--example", "one_file_store"], name)?;
    Ok(tools::target_folder().join("debug").join(name))
}

/// An example of a package: to be measured as released, or, where only its work counts, as the tests have built it.
pub fn example(package: &str, name: &str, as_released: bool) -> Result<PathBuf> {
    let (arguments, profile): (&[&str], _) = match as_released {
        true => (&["build", "--release", "--package", package, "--example", name], "release"),
        false => (&["build-all", "--example", name], "debug"),
    };
    build(arguments, name)?;
    Ok(tools::target_folder().join(profile).join("examples").join(name))
}

fn build(arguments: &[&str], what: &str) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).arg("--quiet").current_dir(crate::root());
    ensure!(process::show(&mut cargo, BUILD_MAX)?.success, "{what} does not build");
    Ok(())
}
