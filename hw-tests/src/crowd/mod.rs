//! `seawall-qualify crowd`: thousands of connections on one broker, each a small producer, and neighbours that behave
//! badly beside them. Shows whether connections get the same share, and what bad neighbours cost the others.
//!
//! Speaks Kafka's wire itself: a client library per connection would measure the library. One thread does all of it.

mod first_ack;
mod neighbours;
mod offsets;
mod producer;
mod report;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::report::{Cpu, Fairness, Latencies, latency_histogram};
pub use first_ack::FirstAckArgs;
use neighbours::Neighbours;
use report::Report;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// HOST:PORT of the one broker that leads all partitions.
    #[arg(long)]
    pub bootstrap: String,
    /// It exists, and has partitions for all.
    #[arg(long)]
    pub topic: String,
    #[arg(long)]
    pub partitions: i32,
    #[arg(long, default_value_t = 2_000)]
    pub connections: u32,
    /// Requests per second of all connections together, open loop; 0 for each as fast as its acks come.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Seconds.
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    #[arg(long, default_value_t = 100)]
    pub record_bytes: usize,
    /// Beside them: connections that ask for much and never read.
    #[arg(long, default_value_t = 0)]
    pub never_read: u32,
    /// Beside them: connections that send a byte a second.
    #[arg(long, default_value_t = 0)]
    pub byte_a_second: u32,
    /// Beside them: a group of so many members that all crash together, again and again.
    #[arg(long, default_value_t = 0)]
    pub crashing_members: u32,
    /// The report as one line of JSON on standard output; the table goes to standard error.
    #[arg(long)]
    pub json: bool,
}

/// Answers whether every ack was right: no error, and all acked records are in the log.
pub fn run(args: &Args) -> Result<bool> {
    ensure!(args.partitions > 0 && args.connections > 0, "no partitions or no connections");
    ensure!((0.1..=1e6).contains(&args.duration), "--duration is no number of seconds");
    ensure!(args.record_bytes <= 1_000_000, "--record-bytes is at most 1,000,000");
    allow_files(u64::from(args.connections + args.never_read + args.byte_a_second + args.crashing_members))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(crowd(args))?;
    report.print(args.json)?;
    Ok(report.is_right())
}

/// Returns with the first ack of a broker that is starting.
pub fn first_ack(args: &FirstAckArgs) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(first_ack::wait(args))
}

async fn crowd(args: &Args) -> Result<Report> {
    let address = resolve(&args.bootstrap)?;
    let before = offsets::end_offsets(address, &args.topic, args.partitions).await?;
    let mut connections = Vec::new();
    for number in 0..args.connections {
        let connection = producer::Producer::connect(address, args, number).await;
        connections.push(connection.with_context(|| format!("connection {number}"))?);
    }
    let end = Instant::now() + Duration::from_secs_f64(args.duration);
    let neighbours = Neighbours::start(address, args);
    let began = Instant::now();
    let mut running = JoinSet::new();
    for connection in connections {
        running.spawn(connection.run(began, end));
    }
    let mut latencies = latency_histogram();
    let mut acked_each = Vec::new();
    let (mut failed, mut broken) = (0, 0);
    while let Some(done) = running.join_next().await {
        let done = done.context("a connection panicked")?;
        latencies.add(&done.latencies)?;
        acked_each.push(done.acked);
        failed += done.failed;
        if let Some(error) = done.broken {
            if broken < 3 {
                eprintln!("a connection broke: {error}");
            }
            broken += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let neighbours = neighbours.stop().await;
    let after = offsets::end_offsets(address, &args.topic, args.partitions).await?;
    let acked = acked_each.iter().sum();
    Ok(Report {
        connections: args.connections,
        partitions: args.partitions,
        rate: args.rate,
        seconds,
        acked,
        failed,
        broken,
        in_the_log: after - before,
        acks_per_s: acked as f64 / seconds,
        produce_ms: Latencies::of(&latencies),
        fairness: Fairness::of(&acked_each),
        neighbours,
        cpu_s: Cpu::of_this_process(),
    })
}

fn resolve(bootstrap: &str) -> Result<SocketAddr> {
    bootstrap.to_socket_addrs()?.next().with_context(|| format!("{bootstrap} has no address"))
}

/// Each connection is a file.
fn allow_files(connections: u64) -> Result<()> {
    let needed = connections + 100;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(needed <= hard, "{needed} open files are needed and {hard} allowed");
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard)?;
    }
    Ok(())
}
