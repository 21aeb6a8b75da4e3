//! The commands of this repository: `cargo xtask <command>`.

mod ansible;
mod beds;
mod bench;
mod builds;
mod check;
mod clients;
mod configs;
mod disks;
mod docs;
mod lab;
mod metrics;
mod package;
mod process;
mod protocol;
mod rack;
mod sim;
mod soak;
mod steps;
mod test;
mod tools;
mod wal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of this repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, dependencies, generated files, simulations: what every commit passes.
    Check,
    /// `check`, then all tests, the real clients and the crash tests. Under CI=true installs what it needs.
    Test(test::Args),
    /// The tests that need a block device or a small disk of their own. Needs root.
    Disks,
    /// Servers with systemd and sshd for tests, as containers of this machine. Needs root.
    Lab(lab::Args),
    /// Licences, bans, sources and advisories of the dependencies.
    Deny,
    /// Generate the Kafka messages of broker/protocol from the definitions inside the kafka-clients jar.
    Protocol(protocol::Args),
    /// Generate the table of Kafka's configs, and its page in docs.
    Configs(configs::Args),
    /// Generate docs/metrics.md from what a broker shows.
    Metrics(metrics::Args),
    /// Check docs/: contents, links, metrics, alerts, configurations; and run its commands against a broker.
    Docs(docs::Args),
    /// Throughput, CPU, latencies, memory and start times; alone or against Apache Kafka.
    Bench(bench::Args),
    /// Kafka's own tools and kcat: install them, and run them against a broker.
    Clients(clients::Args),
    /// Real object stores, each with the conformance suite and the crash test over it. `fs` needs root.
    Stores(beds::Args),
    /// Seeds of the broker's storage half in a simulated world.
    Sim(sim::Args),
    /// Tens of gigabytes through one broker over Ceph's gateway, with everything on and faults on the way; every byte is checked.
    Soak(soak::Args),
    /// `seawall-qualify all` over a rack of three hosts, by real ssh. Needs root.
    Rack(rack::Args),
    /// The Ansible collection: lint, unit tests, and its page of variables.
    Ansible(ansible::Args),
    /// The Debian package, into target/package.
    Package(package::Args),
    /// What proves the WAL: simulation and faulty disks, short or long.
    Wal(wal::Args),
}

fn main() -> anyhow::Result<ExitCode> {
    let passed = match Cli::parse().command {
        Command::Check => steps::run(&check::steps()),
        Command::Test(args) => steps::run(&test::steps(&args)),
        Command::Disks => disks::run().map(|()| true)?,
        Command::Lab(args) => lab::run(&args)?,
        Command::Deny => check::deny().map(|()| true)?,
        Command::Protocol(args) => protocol::run(&args).map(|()| true)?,
        Command::Configs(args) => configs::run(&args).map(|()| true)?,
        Command::Metrics(args) => metrics::run(&args)?,
        Command::Docs(args) => docs::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Clients(args) => clients::run(&args)?,
        Command::Stores(args) => beds::run(&args)?,
        Command::Sim(args) => sim::run(&args).map(|()| true)?,
        Command::Soak(args) => soak::run(&args)?,
        Command::Rack(args) => rack::run(&args)?,
        Command::Ansible(args) => ansible::run(&args)?,
        Command::Package(args) => package::run(&args)?,
        Command::Wal(args) => wal::run(&args).map(|()| true)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The checkout.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}
