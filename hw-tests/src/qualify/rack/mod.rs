//! `seawall-qualify all`: the probes on every host of an inventory, over ssh, side by side; one report of all.
//!
//! Each host probes itself, all at once. The network is probed pair by pair, each host in one pair at a time, both ways. A host that
//! does not answer is a failure of the report and holds nobody up.

mod inventory;
mod remote;
mod rounds;

use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::findings::{Findings, Role};
use super::network::PORT;
use super::output::{self, OutputArgs};
use super::progress::Progress;
use super::report::{Failure, Report};
use super::stop::Stop;
use super::thresholds::Thresholds;
use inventory::Host;
use remote::{Remote, Running};

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The hosts: TOML as in the documentation, or any inventory that `ansible-inventory` reads
    #[arg(long, value_name = "FILE")]
    pub inventory: PathBuf,
    /// What to probe, by commas; `device` writes to the devices that the inventory names
    #[arg(long, value_name = "PROBES", value_delimiter = ',', default_value = "host,network")]
    pub probes: Vec<Probe>,
    /// This program on the hosts
    #[arg(long, value_name = "PATH", default_value = "seawall-qualify")]
    pub program: String,
    /// Bring this program along for the run instead, into a folder that is removed at the end
    #[arg(long, conflicts_with = "program")]
    pub bring: bool,
    /// Run it there through `sudo -n`
    #[arg(long)]
    pub sudo: bool,
    /// Seconds for the bandwidth of each pair, each way
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    pub seconds: f64,
    /// Connections that share the bandwidth of a pair
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub streams: usize,
    /// Where the hosts listen for each other while the network is probed
    #[arg(long, value_name = "N", default_value_t = PORT)]
    pub port: u16,
    /// Further arguments of `seawall-qualify device` on each host, one for each time
    #[arg(long = "device-arg", value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub device_args: Vec<String>,
    /// Minutes after which a host's probe is given up
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub minutes_max: u64,
    /// What to call instead of `ssh`
    #[arg(long, value_name = "PROGRAM", default_value = "ssh")]
    pub ssh: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    Host,
    Network,
    Device,
}

#[derive(Default)]
struct Seen {
    findings: Vec<Findings>,
    failures: Vec<Failure>,
}

pub fn run(args: &Args, stop: &Stop) -> Result<bool> {
    Thresholds::load(args.output.thresholds.as_deref())?;
    let hosts = inventory::read(&args.inventory)?;
    let devices: usize = hosts.iter().map(|host| host.devices.len()).sum();
    let wants = |probe| args.probes.contains(&probe);
    ensure!(!wants(Probe::Device) || devices > 0, "the inventory names no devices to probe");
    ensure!(!wants(Probe::Network) || hosts.len() > 1, "a network has at least two hosts");
    let pairs = if wants(Probe::Network) { hosts.len() * (hosts.len() - 1) } else { 0 };
    let alone = usize::from(wants(Probe::Host)) * hosts.len() + usize::from(wants(Probe::Device)) * devices;
    let progress = Progress::of_steps("rack", alone + pairs);
    let seen = Mutex::new(Seen::default());
    if alone > 0 {
        progress.doing(format!("{} hosts, each by itself", hosts.len()));
        alone_each(args, &hosts, &seen, &progress, stop);
    }
    stop.check()?;
    if pairs > 0 {
        pair_by_pair(args, &hosts, &seen, &progress, stop);
    }
    drop(progress);
    stop.check()?;
    let mut seen = seen.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    seen.findings.sort_by(|a, b| (a.role, &a.host, &a.subject).cmp(&(b.role, &b.host, &b.subject)));
    seen.failures.sort_by(|a, b| (&a.host, &a.probe).cmp(&(&b.host, &b.probe)));
    output::conclude(seen.findings, seen.failures, &args.output)
}

/// Host, then its devices one after the other.
fn alone_each(args: &Args, hosts: &[Host], seen: &Mutex<Seen>, progress: &Progress, stop: &Stop) {
    let time_max = Duration::from_secs(args.minutes_max.saturating_mul(60));
    thread::scope(|scope| {
        for host in hosts {
            scope.spawn(move || {
                let remote = Remote::new(args, host);
                if args.probes.contains(&Probe::Host) {
                    note(seen, host, "host", remote.probe(&["host"], time_max, stop));
                    progress.step();
                }
                for device in host.devices.iter().filter(|_| args.probes.contains(&Probe::Device)) {
                    let mut words = vec!["device", device];
                    words.extend(args.device_args.iter().map(String::as_str));
                    note(seen, host, &format!("device {device}"), remote.probe(&words, time_max, stop));
                    progress.step();
                }
            });
        }
    });
}

fn pair_by_pair(args: &Args, hosts: &[Host], seen: &Mutex<Seen>, progress: &Progress, stop: &Stop) {
    let listen = format!("0.0.0.0:{}", args.port);
    // They end with the scope of this function, whatever happens.
    let servers: Vec<Option<Running>> = hosts
        .iter()
        .map(|host| match Remote::new(args, host).serve(&["network", "serve", "--listen", &listen], stop) {
            Ok(server) => Some(server),
            Err(error) => {
                note(seen, host, "network serve", Err(error));
                None
            }
        })
        .collect();
    let rounds = rounds::rounds(hosts.len());
    for (at, round) in rounds.iter().enumerate() {
        progress.doing(format!("network, round {} of {}", at + 1, rounds.len()));
        thread::scope(|scope| {
            for (one, other) in round.iter().copied() {
                if servers[one].is_none() || servers[other].is_none() {
                    continue;
                }
                scope.spawn(move || {
                    for (from, to) in [(one, other), (other, one)] {
                        let (from, to) = (&hosts[from], &hosts[to]);
                        note(seen, from, &format!("network to {}", to.name), way(args, from, to, stop));
                        progress.step();
                    }
                });
            }
        });
        if stop.is_asked() {
            return;
        }
    }
}

fn way(args: &Args, from: &Host, to: &Host, stop: &Stop) -> Result<Report> {
    let peer = format!("{}:{}", to.address, args.port);
    let (seconds, streams) = (args.seconds.to_string(), args.streams.to_string());
    let words = ["network", "probe", &peer, "--seconds", &seconds, "--streams", &streams];
    let time_max = Duration::from_secs_f64(args.seconds.clamp(0.0, 1e6) * 2.0) + Duration::from_secs(90);
    let mut report = Remote::new(args, from).probe(&words, time_max, stop)?;
    for findings in &mut report.findings {
        findings.subject = format!("{} -> {}", from.name, to.name);
    }
    Ok(report)
}

/// Under the name that the inventory has for the host.
fn note(seen: &Mutex<Seen>, host: &Host, probe: &str, outcome: Result<Report>) {
    let failed = |error: String| Failure { host: host.name.clone(), probe: probe.to_owned(), error };
    let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match outcome {
        Ok(report) => {
            // A device that failed midway has both: what was measured until then, and why there is no more.
            seen.failures.extend(report.failures.into_iter().map(|failure| failed(failure.error)));
            seen.findings.extend(report.findings.into_iter().map(|mut findings| {
                if findings.role == Role::Host {
                    let own = std::mem::replace(&mut findings.subject, host.name.clone());
                    findings.fact("hostname", own);
                }
                findings.host.clone_from(&host.name);
                findings
            }));
        }
        Err(error) => seen.failures.push(failed(format!("{error:#}"))),
    }
}
