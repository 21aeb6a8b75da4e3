//! docs/config-keys.md, written by a test of the broker, which knows what its configuration takes; `cargo test` checks it.

use std::time::Duration;

use crate::{builds, process};

/// True when it was written.
pub fn write() -> anyhow::Result<bool> {
    let mut test = builds::tests();
    test.args(["--test", "config_reference"]).env("SEAWALL_WRITE_CONFIG_KEYS", "1");
    Ok(process::show(&mut test, Duration::from_secs(1_800))?.success)
}
