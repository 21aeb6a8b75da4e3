//! What the S3 client costs: CPU seconds per GiB put and got, bare and under the layers, against a server on loopback that
//! drops and invents bodies. The server is a process of its own, so that only the client is measured.
//!
//! `cargo run --release -p seawall-backends --features s3 --example s3_cpu [GIB]`

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use seawall_backends::config::PayloadSigning;
use seawall_backends::{Backend, BackendConfig, BackendKind, Layers, ObjectKey, Purpose, Segments, open, registry};
use tokio::net::TcpListener;

const MIB: u64 = 1 << 20;
/// As the broker's objects are made: of batches.
const SEGMENT_BYTES: u64 = MIB;
const IN_FLIGHT: u64 = 4;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("sink") {
        return sink().await;
    }
    let gib: u64 = argument.map_or(Ok(2), |text| text.parse()).context("s3_cpu [GIB]")?;
    let mut server = Command::new(std::env::current_exe()?).arg("sink").stdout(Stdio::piped()).spawn()?;
    let mut endpoint = String::new();
    BufReader::new(server.stdout.take().context("the server has an output")?).read_line(&mut endpoint)?;
    let measured = measure(endpoint.trim(), gib).await;
    server.kill()?;
    server.wait()?;
    measured
}

async fn measure(endpoint: &str, gib: u64) -> anyhow::Result<()> {
    println!("{gib} GiB each, {IN_FLIGHT} in flight, segments of 1 MiB, bodies not signed");
    println!("| profile | object | put CPU s/GiB | layered | get CPU s/GiB | layered | put GiB/s | get GiB/s |");
    println!("|---|---|---|---|---|---|---|---|");
    for kind in [BackendKind::CephRgw, BackendKind::S3] {
        let config = BackendConfig {
            kind,
            endpoint: Some(endpoint.to_owned()),
            bucket: Some("bucket".into()),
            payload_signing: Some(PayloadSigning::Never),
            ..Default::default()
        };
        let bare = open(&config).await?;
        let layered = registry::layer(bare.clone(), Layers::default(), 1).backend;
        for object_bytes in [8 * MIB, 64 * MIB] {
            let objects = (gib << 30) / object_bytes;
            transfer(&bare, object_bytes, IN_FLIGHT, true).await?;
            let put = transfer(&bare, object_bytes, objects, true).await?;
            let put_layered = transfer(&layered, object_bytes, objects, true).await?;
            let got = transfer(&bare, object_bytes, objects, false).await?;
            let got_layered = transfer(&layered, object_bytes, objects, false).await?;
            let cpu = |measured: &(Duration, Duration)| measured.0.as_secs_f64() / gib as f64;
            let rate = |measured: &(Duration, Duration)| gib as f64 / measured.1.as_secs_f64();
            println!(
                "| {} | {} MiB | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2} |",
                kind.name(),
                object_bytes / MIB,
                cpu(&put),
                cpu(&put_layered),
                cpu(&got),
                cpu(&got_layered),
                rate(&put),
                rate(&got)
            );
        }
    }
    Ok(())
}

/// CPU time of this process, and time that passed.
async fn transfer(
    store: &Arc<dyn Backend>,
    object_bytes: u64,
    objects: u64,
    puts: bool,
) -> anyhow::Result<(Duration, Duration)> {
    let segment = Bytes::from(vec![7; SEGMENT_BYTES as usize]);
    let body: Segments = (0..object_bytes / SEGMENT_BYTES).map(|_| segment.clone()).collect();
    let (cpu, started) = (cpu_time()?, Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for lane in 0..IN_FLIGHT.min(objects) {
        let (store, body) = (store.clone(), body.clone());
        running.spawn(async move {
            let mut next = lane;
            while next < objects {
                let key = ObjectKey::new(format!("folder/{next}"))?;
                if puts {
                    store.put(&key, body.clone(), Purpose::Upload).await?;
                } else {
                    store.get_range(&key, 0..object_bytes, Purpose::TailRead).await?;
                }
                next += IN_FLIGHT;
            }
            anyhow::Ok(())
        });
    }
    while let Some(lane) = running.join_next().await {
        lane??;
    }
    Ok((cpu_time()? - cpu, started.elapsed()))
}

fn cpu_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("the form of stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Prints where it listens.
async fn sink() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let zeros = Bytes::from(vec![0; 64 * MIB as usize]);
    loop {
        let (socket, _) = listener.accept().await?;
        let zeros = zeros.clone();
        let service = service_fn(move |request: Request<Incoming>| answer(request, zeros.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

async fn answer(request: Request<Incoming>, zeros: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let range = request.headers().get("range").and_then(|range| range.to_str().ok()).map(str::to_owned);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let last = range.as_deref().and_then(|range| range.strip_prefix("bytes=0-")?.parse::<usize>().ok());
    let Some(last) = last.filter(|last| *last < zeros.len()) else {
        return Ok(Response::new(Full::default()));
    };
    let mut response = Response::new(Full::new(zeros.slice(..=last)));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let Ok(given) = format!("bytes 0-{last}/{}", last + 1).parse() {
        response.headers_mut().insert("content-range", given);
    }
    Ok(response)
}
