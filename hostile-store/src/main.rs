//! `seawall-hostile-store`: the server as a program. It prints its URL and runs until it is ended.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use seawall_hostile_store::{Faults, Like, Server, Settings};

#[derive(Parser)]
#[command(name = "seawall-hostile-store", about = "An S3 server with faults from a seed, for tests. It keeps nothing")]
struct Cli {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[arg(long, default_value = "testbed")]
    bucket: String,
    #[arg(long, default_value = "hostile")]
    access_key: String,
    #[arg(long, default_value = "store")]
    secret_key: String,
    /// Whose habits it has.
    #[arg(long, value_enum, default_value_t)]
    like: Like,
    /// Rates per thousand requests: late, lost, refused, slow_down, frozen, cut, short, flipped, foreign, stale, omit, delay,
    /// resurrect.
    #[arg(long, default_value = "", value_name = "NAME=RATE,...")]
    faults: Faults,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A late put lands at the latest after so many milliseconds; what is stale does not know of changes that are younger.
    #[arg(long, default_value_t = 5_000)]
    late_ms: u64,
    /// The bucket refuses its owner for so many milliseconds.
    #[arg(long, default_value_t = 0)]
    fresh_ms: u64,
    /// Its clock is ahead of the machine's by so much.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    clock_ahead_seconds: i64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let settings = Settings {
        listen: cli.listen,
        bucket: cli.bucket,
        access: cli.access_key,
        secret: cli.secret_key,
        like: cli.like,
        faults: cli.faults,
        seed: cli.seed,
        late_max: Duration::from_millis(cli.late_ms),
        clock_ahead_seconds: cli.clock_ahead_seconds,
        fresh_for: Duration::from_millis(cli.fresh_ms),
    };
    let server = Server::start(settings).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{}", server.address())?;
    out.flush()?;
    drop(out);
    tokio::signal::ctrl_c().await?;
    Ok(())
}
