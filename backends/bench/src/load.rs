//! A load: so many requests in flight for so long, and the CPU time that this process took for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::clients::{Client, Which};
use crate::pattern;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, value_enum)]
    pub client: Which,
    /// `http://HOST:PORT` or `https://HOST:PORT`. The keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[arg(long)]
    pub endpoint: String,
    #[arg(long)]
    pub bucket: String,
    /// Issuer of the store's certificate. The peers look for it in SSL_CERT_FILE.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Bodies are part of the signature.
    #[arg(long)]
    pub signed: bool,
    /// Each put carries the checksum of its body.
    #[arg(long)]
    pub crc32c: bool,
    #[arg(long, value_enum)]
    operation: Operation,
    #[arg(long, default_value_t = 8 << 20)]
    object_bytes: u64,
    #[arg(long, default_value_t = 8)]
    in_flight: u64,
    /// No request begins later; each of those in flight sends at least one.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Operation {
    Put,
    Get,
}

#[derive(Serialize)]
struct Report {
    bytes: u64,
    cpu_s: f64,
    elapsed_s: f64,
}

/// Opens connections, finds out that bodies go through whole, then measures.
pub async fn run(args: &Args) -> Result<()> {
    ensure!(args.in_flight > 0 && args.object_bytes > 0, "nothing to do");
    let client = Arc::new(Client::open(args).await?);
    let (operation, bytes) = (args.operation, args.object_bytes);
    let (warm, started) =
        (Arc::new(Barrier::new(args.in_flight as usize + 1)), Arc::new(Barrier::new(args.in_flight as usize + 1)));
    let seconds = Duration::from_secs_f64(args.seconds);
    let segment = pattern::segment();
    let mut lanes = JoinSet::new();
    for lane in 0..args.in_flight {
        let (client, segment) = (Arc::clone(&client), segment.clone());
        let (warm, started) = (Arc::clone(&warm), Arc::clone(&started));
        lanes.spawn(async move {
            // Each overwrites its own. The length is part of the name, for a store that makes things up.
            let key = format!("bench/{bytes}-{lane}");
            let body = pattern::body(&segment, bytes);
            let warmed = warm_up(&client, operation, &segment, lane, &key, bytes).await;
            warm.wait().await;
            started.wait().await;
            warmed?;
            let end = Instant::now() + seconds;
            let mut done = 0;
            while done == 0 || Instant::now() < end {
                match operation {
                    Operation::Put => client.put(&key, &body).await?,
                    Operation::Get => {
                        let got = client.get(&key, bytes).await?;
                        ensure!(length(&got) == bytes, "{key}: {} bytes", length(&got));
                    }
                }
                done += 1;
            }
            Ok(done * bytes)
        });
    }
    warm.wait().await;
    let (cpu, begun) = (cpu()?, Instant::now());
    started.wait().await;
    let mut moved = 0;
    while let Some(lane) = lanes.join_next().await {
        moved += lane??;
    }
    let report = Report { bytes: moved, cpu_s: self::cpu()? - cpu, elapsed_s: begun.elapsed().as_secs_f64() };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What is put is put small, so that a store has less to clear; what is got is looked at.
async fn warm_up(
    client: &Client,
    operation: Operation,
    segment: &Bytes,
    lane: u64,
    key: &str,
    bytes: u64,
) -> Result<()> {
    const WARM_BYTES: u64 = 64 << 10;
    if operation == Operation::Put {
        return client.put(&format!("bench/{WARM_BYTES}-{lane}"), &pattern::body(segment, WARM_BYTES)).await;
    }
    let got = client.get(key, bytes).await?;
    let mut offset = 0;
    for piece in &got {
        ensure!(pattern::is_right(segment, offset, piece), "{key} has other bytes than were put, from {offset} on");
        offset += piece.len() as u64;
    }
    ensure!(offset == bytes, "{key} has {offset} bytes");
    Ok(())
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Of this process, kernel included.
fn cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
