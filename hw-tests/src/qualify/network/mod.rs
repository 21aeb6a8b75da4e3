//! `seawall-qualify network`: what lies between two hosts. One serves, the other probes: round trips, bandwidth, lost segments,
//! the largest packet that passes. Each direction is a probe of its own, as a cable may be bad one way.

mod mtu;
mod probe;
mod server;
mod socket;
mod wire;

use std::time::Duration;

use anyhow::{Result, ensure};

use super::findings::Findings;
use super::output::{self, OutputArgs};
use super::stop::Stop;

pub use server::Server;

/// Of nobody else, by IANA's list.
pub const PORT: u16 = 9_399;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Answer probes of other hosts, over TCP and UDP, until Ctrl-C; to anybody who can connect
    Serve(ServeArgs),
    /// Probe the way to hosts that serve, one after the other
    Probe(ProbeArgs),
}

#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = format!("0.0.0.0:{PORT}"))]
    pub listen: String,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// HOST or HOST:PORT that serves
    #[arg(required = true, value_name = "PEER")]
    pub peers: Vec<String>,
    /// Seconds for the bandwidth, and half as many for round trips
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub seconds: f64,
    /// Connections that share the bandwidth
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub streams: usize,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(args: &Args, stop: &Stop) -> Result<bool> {
    match &args.command {
        Command::Serve(args) => {
            let server = Server::bind(&args.listen)?;
            println!("listening on {}", server.address()?);
            server.run(stop);
            Ok(true)
        }
        Command::Probe(args) => {
            let findings: Result<Vec<Findings>> = args.peers.iter().map(|peer| probe(peer, args, stop)).collect();
            output::conclude(findings?, Vec::new(), &args.output)
        }
    }
}

pub fn probe(peer: &str, args: &ProbeArgs, stop: &Stop) -> Result<Findings> {
    ensure!((0.2..=86_400.0).contains(&args.seconds), "--seconds is from 0.2 to 86,400");
    ensure!((1..=64).contains(&args.streams), "--streams is from 1 to 64");
    probe::probe(peer, Duration::from_secs_f64(args.seconds), args.streams, stop)
}
