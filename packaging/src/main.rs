//! `seawall-packaging FOLDER`: writes man pages and completions there.

use std::path::Path;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: seawall-packaging FOLDER")?;
    seawall_packaging::write(Path::new(&folder))
}
