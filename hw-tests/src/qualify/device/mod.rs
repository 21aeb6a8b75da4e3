//! `device`: is this a device for a WAL? Identity, latency curves, a sustained write that outlasts fast caches, reads beside
//! writes, discard, wear; over the WAL's own I/O path and the WAL itself, so that what is qualified is what runs.
//!
//! Promise: a device that is in use is not written, and one that holds anything not unless that was asked for twice. Whatever
//! ends the run, Ctrl-C included, a device that was written is left blank, and a file that was made is gone. All this is of the
//! device that had the name at the start: one that takes the name later is left alone.

mod addresses;
mod claim;
mod curves;
mod discard;
mod identity;
mod passport;
mod probe;
#[cfg(test)]
mod simulated;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod wear;

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::output::{self, OutputArgs};
use super::progress::Progress;
use super::{Failure, Findings, Report, Stop, Thresholds, unix_s};
use claim::Identity;
pub(crate) use claim::{Told, claim, name_of};
use passport::Extent;
use probe::{Plan, Run, qualify};
use target::Device;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A block device by its name under /dev/disk/by-id; or a file that is not there yet, which is made and removed again.
    device: PathBuf,
    #[command(flatten)]
    told: Told,
    /// Use only so many bytes of the device, which is no qualification: its passport says so. A file is made as large (1 GiB unless
    /// said otherwise).
    #[arg(long, value_name = "BYTES")]
    span: Option<u64>,
    /// How long is written without a pause: long enough to fill a fast cache.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    sustain: u64,
    /// Each part of the sustained write of this length is judged by itself: a minute, or a fifth of a shorter write.
    #[arg(long, value_name = "SECONDS")]
    slice: Option<u64>,
    /// A look of a quarter of a minute: enough to see that all works, no qualification: its passport says so.
    #[arg(long, conflicts_with_all = ["sustain", "slice"])]
    short: bool,
    /// Write the signed result here, for the broker; needs --key.
    #[arg(long, value_name = "FILE", requires = "key")]
    passport: Option<PathBuf>,
    /// The site's private key (PEM, Ed25519): `openssl genpkey -algorithm ed25519 -out site.key`.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What was found, and of what.
struct Probed {
    findings: Findings,
    failures: Vec<Failure>,
    /// Of a block device.
    identity: Option<Identity>,
    extent: Extent,
}

/// False when the device is not qualified.
pub fn run(args: &Args, stop: &Stop) -> Result<bool> {
    // What would end it at its end is found at its beginning.
    let thresholds = Thresholds::load(args.output.thresholds.as_deref())?;
    let key = args.key.as_deref().map(passport::read_key).transpose()?;
    let is_device = std::fs::metadata(&args.device).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let plan = args.plan()?;
    if let Some(passport) = &args.passport {
        ensure!(is_device, "a passport is of a block device");
        output::check_writable(passport)?;
        ensure!(
            plan.slices() <= passport::SLICES_MAX,
            "{} slices are more than a passport has room for, {}: make --slice longer",
            plan.slices(),
            passport::SLICES_MAX
        );
    }
    let Probed { findings, failures, identity, extent } = probe_device(args, &plan, stop)?;
    let report = Report::new(vec![findings], failures, &thresholds, unix_s());
    let told = output::tell(&report, &args.output);
    if let (Some(path), Some(key), Some(identity)) = (&args.passport, &key, &identity) {
        let passport = passport::make(&args.device, identity, &report, extent, (!args.short).then_some(args.sustain))?;
        output::write(path, &passport.sign(key))?;
        let which = if passport.qualified { "" } else { ", which says that the device is not qualified" };
        eprintln!("passport: {}{which}", path.display());
    }
    told
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let plan = if self.short { Plan::short() } else { Plan::new(seconds(self.sustain), self.slice.map(seconds)) };
        ensure!(plan.sustain >= plan.slice && !plan.slice.is_zero(), "--sustain holds one --slice at least");
        Ok(plan)
    }
}

fn probe_device(args: &Args, plan: &Plan, stop: &Stop) -> Result<Probed> {
    let target = Device::claim(&args.device, &args.told, args.span)?;
    let begun = unix_s();
    let mut findings = identity::look(&args.device, begun)?;
    wear::look(&args.device, &mut findings);
    let run = Run::new(stop, Progress::new("device", plan.total()));
    let probed = qualify(&target, plan, &run, &mut findings).and_then(|()| discard::look(&target, stop, &mut findings));
    stop.check()?;
    findings.seconds = unix_s().saturating_sub(begun) as f64;
    if args.short {
        findings.note("the short form: too little to fall off a fast cache");
    }
    let failure = probed.err().map(|error| Failure {
        host: findings.host.clone(),
        probe: "device".into(),
        error: format!("{error:#}"),
    });
    let (identity, extent) = (target.identity().cloned(), target.extent());
    Ok(Probed { findings, failures: failure.into_iter().collect(), identity, extent })
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
