//! `cargo xtask protocol --golden`: lets Kafka's Java classes write `broker/protocol/tests/golden`, and read what the
//! crate under test writes. Needs a JDK.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::jar;

pub fn regenerate(root: &Path, clients: &Path, scratch: &Path) -> anyhow::Result<()> {
    let golden = root.join("broker/protocol/tests/golden");
    let classes = scratch.join("classes");
    fs::create_dir_all(&classes)?;
    fs::create_dir_all(&golden)?;
    let class_path = std::env::join_paths([&[clients.to_path_buf(), classes.clone()][..], &jar::codecs()?].concat())?;

    run(Command::new("cargo")
        .args(["test", "-q", "-p", "seawall-protocol", "--test", "golden", "frames_and_batches_for_java"])
        .current_dir(root))?;
    let written = root.join("target/tmp/protocol");
    run(Command::new("javac")
        .arg("-cp")
        .arg(&class_path)
        .arg("-d")
        .arg(&classes)
        .arg(root.join("broker/protocol/tests/java/Golden.java")))?;
    let java = || {
        let mut java = Command::new("java");
        java.arg("-cp").arg(&class_path).arg("Golden");
        java
    };
    run(java().arg("write").arg(written.join("frames.txt")).arg(&golden))?;
    run(java().arg("read").arg(&written))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?} failed: {status}", command.get_program());
    Ok(())
}
