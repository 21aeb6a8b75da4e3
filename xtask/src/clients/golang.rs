//! The families of Go clients: one program each, of the module in xtask/clients/go.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::family::{CHECKS, Family};
use super::install::Installed;
use crate::process;
use crate::tools::{self, Tool};

pub fn families() -> Vec<Family> {
    let family = |name, version, prepare: fn(&Installed) -> anyhow::Result<Command>| Family {
        name,
        version,
        tools: &[Tool::Go],
        checks: CHECKS,
        absent: &[],
        protocol: Some("classic"),
        records_max: usize::MAX,
        prepare,
    };
    vec![
        family("franz-go", "1.22.2", |_| Ok(Command::new(build()?.join("franz")))),
        family("sarama", "1.61.1", |_| Ok(Command::new(build()?.join("sarama")))),
    ]
}

/// All programs, into a folder named after what the sources say, so that it is done once.
fn build() -> anyhow::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let sources = crate::root().join("xtask/clients/go");
    let mut hasher = DefaultHasher::new();
    hash(&sources, &mut hasher)?;
    let programs = tools::cache_folder().join("clients/go").join(format!("{:016x}", hasher.finish()));
    if programs.exists() {
        return Ok(programs);
    }
    let fresh = programs.with_extension("new");
    fs::create_dir_all(&fresh)?;
    let mut go = Command::new(Tool::Go.find().with_context(|| Tool::Go.hint())?);
    go.arg("build").arg("-o").arg(&fresh).args(["./franz", "./sarama"]).current_dir(&sources);
    process::capture(&mut go, Vec::new(), Duration::from_secs(600))?
        .stdout_if_success("go build (it takes the version of Go that go.mod names, or newer)")?;
    fs::rename(&fresh, &programs).context("put the programs in place")?;
    Ok(programs)
}

fn hash(folder: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            hash(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}
