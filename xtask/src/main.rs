//! The commands of this repository: `cargo xtask <command>`.

mod protocol;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of this repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the Kafka messages of broker/protocol from the definitions inside the kafka-clients jar.
    Protocol(protocol::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Protocol(args) => protocol::run(&args),
    }
}
