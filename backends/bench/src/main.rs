//! `seawall-store-bench`: one client in one process against an S3 store, and a sink for it. `cargo xtask bench --backend`
//! runs it, so that the CPU time of a process is that of one client and of nothing else.
//!
//! It promises that a figure stands for bodies that went through: puts were answered, gets had the bytes that were asked
//! for. Which client, how often and beside which other is the caller's.

mod clients;
mod load;
mod own;
mod pattern;
#[cfg(feature = "peers")]
mod peers;
mod sink;

use clap::{Parser, Subcommand};

/// As the broker's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "seawall-store-bench", about = "What an S3 client costs: one client, one process")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Puts or gets for a while, and prints what it took, as JSON.
    Client(load::Args),
    /// An S3 server that drops what is put and makes up what is got. It prints its URL and runs until it is ended.
    Sink(sink::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Client(args) => load::run(&args).await,
        Command::Sink(args) => sink::run(&args).await,
    }
}
