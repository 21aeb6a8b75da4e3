//! `seawall-qualify backend`: the store of a broker's configuration. First the conformance suite, then puts, gets and deletes at
//! length, through the very client that the broker uses, without its repeats.
//!
//! Everything is written below one scratch folder and removed at the end, when a part fails, and when someone stops it. A note in
//! the store says where; what is left by a probe that was killed is removed by a later one.

mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use seawall_backends::conformance::{self, Outcome};
use seawall_backends::registry::{Layers, layer};
use seawall_backends::scratch::{self, Scratch};
use seawall_backends::{Backend, BackendConfig};
use serde::Deserialize;

use super::findings::{Findings, Role};
use super::host::host_name;
use super::output::OutputArgs;
use super::progress::Progress;
use super::report::unix_s;
use super::stop::{Stop, Stopped};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A broker's configuration: its [backend] table is what counts
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Seconds of puts, and again as many of gets
    #[arg(long, value_name = "N", default_value_t = 30.0)]
    pub seconds: f64,
    /// Calls at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub in_flight: usize,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub length: Duration,
    pub in_flight: usize,
}

pub fn probe(args: &Args, stop: &Stop) -> Result<Findings> {
    ensure!((0.2..=86_400.0 * 7.0).contains(&args.seconds), "--seconds is from 0.2 to a week");
    ensure!((1..=256).contains(&args.in_flight), "--in-flight is from 1 to 256");
    let config = backend_table(&args.config)?;
    let load = Load { length: Duration::from_secs_f64(args.seconds), in_flight: args.in_flight };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = seawall_backends::open(&config).await?;
        probe_store(store, &config.prefix, &config.place(), load, stop).await
    })
}

/// Whatever else stands in the file is the broker's business.
fn backend_table(file: &Path) -> Result<BackendConfig> {
    #[derive(Deserialize)]
    struct File {
        backend: Option<BackendConfig>,
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let File { backend } = toml::from_str(&text).with_context(|| file.display().to_string())?;
    backend.with_context(|| format!("{} has no [backend] table", file.display()))
}

/// The same of a store that is open already.
pub async fn probe_store(
    store: Arc<dyn Backend>,
    prefix: &str,
    place: &str,
    load: Load,
    stop: &Stop,
) -> Result<Findings> {
    let started = Instant::now();
    // Limits and the time limit of an attempt, no repeats: what fails is to be seen.
    let store: Arc<dyn Backend> = layer(store, Layers::default(), 0).limit;
    let mut findings = Findings::new(Role::Backend, host_name(Path::new("/")), place, unix_s());
    findings.fact("kind", store.name());
    let now_ms = unix_s() * 1_000;
    let progress = Progress::new("backend", load.length * 2);
    let folder = Scratch::begin(&*store, prefix, now_ms).await.with_context(|| format!("cannot write to {place}"))?;
    let scratch = folder.folder().to_owned();
    let done = tokio::select! {
        done = measure(&store, &scratch, load, &progress, &mut findings) => done,
        () = stop.asked() => Err(Stopped.into()),
    };
    let cleaned = async {
        conformance::clean(&*store, &scratch).await?;
        // What was under way when it was stopped may land later; the note lets another probe remove it.
        if done.is_err() { Ok(()) } else { folder.end(&*store).await }
    }
    .await;
    done?;
    if let Err(error) = cleaned {
        findings.note(format!("{scratch} could not be removed: {error}"));
    }
    if let Err(error) = scratch::sweep(&*store, prefix, now_ms).await {
        findings.note(format!("what earlier probes left could not be removed: {error}"));
    }
    if let Some(ahead) = store.clock_ahead_seconds() {
        findings.measure("clock_ahead_s", ahead.abs() as f64);
    }
    findings.seconds = started.elapsed().as_secs_f64();
    Ok(findings)
}

async fn measure(
    store: &Arc<dyn Backend>,
    scratch: &str,
    load: Load,
    progress: &Progress,
    findings: &mut Findings,
) -> Result<()> {
    let outcomes = conformance::run_and_tell(&**store, scratch, |outcome| progress.doing(sentence(outcome))).await;
    if outcomes.is_empty() {
        bail!("the conformance suite has no case");
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    findings.measure("cases", outcomes.len() as f64);
    findings.measure("base_set_failures", failed.iter().filter(|outcome| outcome.base).count() as f64);
    findings.measure("other_failures", failed.iter().filter(|outcome| !outcome.base).count() as f64);
    for outcome in &failed {
        let what = if outcome.base { "the broker cannot do without it" } else { "the broker gets by" };
        findings.note(format!("not so: {} ({what}): {}", sentence(outcome), outcome.error.as_deref().unwrap_or("")));
    }
    if failed.iter().any(|outcome| outcome.base) {
        findings.note("no load was put on a store that lacks what a broker cannot do without");
        return Ok(());
    }
    load::run(store, scratch, load, progress, findings).await
}

fn sentence(outcome: &Outcome) -> String {
    outcome.case.replace('_', " ")
}

#[cfg(test)]
mod tests;
