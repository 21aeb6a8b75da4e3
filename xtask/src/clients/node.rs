//! The family KafkaJS: its packages in the cache folder, the program in xtask/clients/node.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::family::{CHECKS, Family};
use crate::process;
use crate::tools::{self, Tool};

pub fn families() -> Vec<Family> {
    vec![Family {
        name: "kafkajs",
        version: "2.2.4",
        tools: &[Tool::Node, Tool::Npm],
        checks: CHECKS,
        // It has no group.instance.id.
        absent: &["static-rejoin"],
        protocol: Some("classic"),
        records_max: usize::MAX,
        prepare: |_| {
            let mut node = Command::new(Tool::Node.find().with_context(|| Tool::Node.hint())?);
            node.arg(sources().join("family_kafkajs.js")).env("NODE_PATH", modules()?);
            Ok(node)
        },
    }]
}

fn sources() -> PathBuf {
    crate::root().join("xtask/clients/node")
}

/// Into a folder named after what the lock file says, so that it is done once.
fn modules() -> anyhow::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hasher = DefaultHasher::new();
    fs::read(sources().join("package-lock.json"))?.hash(&mut hasher);
    let folder = tools::cache_folder().join("clients/node").join(format!("{:016x}", hasher.finish()));
    let modules = folder.join("node_modules");
    if folder.exists() {
        return Ok(modules);
    }
    let fresh = folder.with_extension("new");
    fs::create_dir_all(&fresh)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(sources().join(file), fresh.join(file))?;
    }
    let mut npm = Command::new(Tool::Npm.find().with_context(|| Tool::Npm.hint())?);
    // `npm ci` asks for the entries of other platforms too, which a lock file without addresses does not keep.
    npm.args(["install", "--no-audit", "--no-fund"]).current_dir(&fresh);
    process::capture(&mut npm, Vec::new(), Duration::from_secs(300))?.stdout_if_success("npm install")?;
    fs::rename(&fresh, &folder).context("put the packages in place")?;
    Ok(modules)
}
