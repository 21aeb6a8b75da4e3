//! The command line of `seawall-qualify`: probes of bare metal, and loads and checks that run from outside against any Kafka-compatible broker.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::qualify::output::{self, OutputArgs, ReportArgs};
use crate::qualify::{Findings, Stop, Stopped, Thresholds, device, host, network, rack, stop::EXIT_STOPPED};
use crate::{cluster, crowd, power_cut, soak};

#[derive(Parser)]
#[command(
    name = "seawall-qualify",
    version,
    about = "Qualifies machines for a broker, and loads and checks brokers from outside"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Probe this machine: kernel, limits, clock, CPU, memory
    Host(host::Args),
    /// Measure whether a device is one for a WAL; writes to it, and leaves it blank
    Device(device::Args),
    /// Cut the power: does a device keep what it has acknowledged?
    #[command(subcommand)]
    PowerCut(power_cut::Command),
    /// Probe the network between two machines
    Network(network::Args),
    /// Probe the object store of a broker's configuration: conformance, then puts and gets at length
    #[cfg(feature = "backend")]
    Backend(crate::qualify::backend::Args),
    /// Probe a whole rack over ssh, side by side, and name the outliers
    All(Box<rack::Args>),
    /// Judge saved reports again, and make one of them
    Report(ReportArgs),
    /// Print the built-in thresholds
    Thresholds,
    /// Produce and consume: open loop or as fast as possible, latencies, and a ledger of what was acked and read. Ctrl-C ends the sending.
    Cluster(Box<cluster::Args>),
    /// Thousands of small producers, with bad neighbours if asked: fairness, latencies.
    Crowd(crowd::Args),
    /// Wait for the first ack of a broker that is starting.
    FirstAck(crowd::FirstAckArgs),
    /// A load whose every byte is checked, while somebody else kills the broker and takes its store away.
    Soak(soak::Args),
    /// Create or delete a topic.
    Topic(cluster::TopicArgs),
}

/// The command line itself, for what is written about it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// 0: fine. 1: not qualified, or a wrong result, such as an acked record that was not read. 2: it could not run. 130: stopped.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    match command.output().map_or(Ok(()), OutputArgs::check).and_then(|()| execute(command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Stopped>() => ExitCode::from(EXIT_STOPPED),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

impl Command {
    /// Where those that judge tell what they found.
    fn output(&self) -> Option<&OutputArgs> {
        match self {
            Self::Host(args) => Some(&args.output),
            Self::Device(args) => Some(&args.output),
            Self::Network(network::Args { command: network::Command::Probe(args) }) => Some(&args.output),
            #[cfg(feature = "backend")]
            Self::Backend(args) => Some(&args.output),
            Self::All(args) => Some(&args.output),
            Self::Report(args) => Some(&args.output),
            _ => None,
        }
    }
}

fn execute(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Host(args) => probed(&args.output, |stop| host::probe(&args, stop)),
        Command::Device(args) => on_signals().and_then(|stop| device::run(&args, &stop)),
        Command::PowerCut(command) => on_signals().and_then(|stop| power_cut::run(&command, &stop)),
        Command::Network(args) => on_signals().and_then(|stop| network::run(&args, &stop)),
        #[cfg(feature = "backend")]
        Command::Backend(args) => probed(&args.output, |stop| crate::qualify::backend::probe(&args, stop)),
        Command::All(args) => on_signals().and_then(|stop| rack::run(&args, &stop)),
        Command::Report(args) => output::report(&args),
        Command::Thresholds => {
            print!("{}", Thresholds::default_text());
            Ok(true)
        }
        Command::Cluster(args) => on_signals().and_then(|stop| cluster::run(&args, &stop)),
        Command::Crowd(args) => crowd::run(&args),
        Command::FirstAck(args) => crowd::first_ack(&args).map(|()| true),
        Command::Soak(args) => soak::run(&args),
        Command::Topic(args) => cluster::topic(&args).map(|()| true),
    }
}

fn probed(output: &OutputArgs, probe: impl FnOnce(&Stop) -> anyhow::Result<Findings>) -> anyhow::Result<bool> {
    let findings = probe(&on_signals()?)?;
    output::conclude(vec![findings], Vec::new(), output)
}

fn on_signals() -> anyhow::Result<Stop> {
    Ok(Stop::on_signals()?)
}
