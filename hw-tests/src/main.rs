//! `seawall-qualify`: loads and checks that run from outside, against any Kafka-compatible broker.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use seawall_qualify::{cluster, crowd, soak};

#[derive(Parser)]
#[command(name = "seawall-qualify", about = "Loads and checks a Kafka-compatible broker from outside")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produce and consume: open loop or as fast as possible, latencies, and a ledger of what was acked and read.
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

/// 0: fine. 1: a wrong result, such as an acked record that was not read. 2: it could not run.
fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cluster(args) => cluster::run(&args),
        Command::Crowd(args) => crowd::run(&args),
        Command::FirstAck(args) => crowd::first_ack(&args).map(|()| true),
        Command::Soak(args) => soak::run(&args),
        Command::Topic(args) => cluster::topic(&args).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}
