//! `seawall-qualify host`: kernel, limits, clock, CPU, memory.
//!
//! What stands in `/proc` and `/sys` is read below a root that is given, so that a test shows it a machine; what only the kernel
//! can answer (`live`) is asked of the machine itself, and is left out below another root.

mod live;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::findings::{Findings, Role};
use super::output::OutputArgs;
use super::progress::Progress;
use super::report::unix_s;
use super::stop::Stop;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Read /proc and /sys below this folder, and ask the kernel nothing
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub root: Option<PathBuf>,
    /// Seconds for the memory's bandwidth
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub seconds: f64,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn probe(args: &Args, stop: &Stop) -> Result<Findings> {
    let started = Instant::now();
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    let name = host_name(root);
    let mut findings = Findings::new(Role::Host, name.clone(), name, unix_s());
    tree::read(root, &mut findings);
    if args.root.is_none() {
        let length = Duration::from_secs_f64(args.seconds.clamp(0.1, 3_600.0));
        let progress = Progress::new("host", length);
        live::io_uring(&mut findings);
        live::clock(&mut findings);
        progress.doing("memory bandwidth");
        live::memory(&mut findings, length, stop, &progress)?;
    }
    findings.seconds = started.elapsed().as_secs_f64();
    Ok(findings)
}

/// As the machine calls itself.
pub fn host_name(root: &Path) -> String {
    let name = std::fs::read_to_string(root.join("proc/sys/kernel/hostname")).unwrap_or_default();
    if name.trim().is_empty() { "this host".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests;
