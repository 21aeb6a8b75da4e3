//! `seawall backend check`: the conformance suite and a short load against the operator's own store, below a folder of its own.
//! The folder is removed at the end, when the check fails, and when someone stops it. What was under way when it was stopped may land
//! after that: the note stays then, by which a later check removes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_backends::conformance::{self, LOAD_FOLDER, Outcome};
use seawall_backends::profile::{Known, Profile};
use seawall_backends::scratch::{self, Scratch};
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, Segments};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{BackendCliError, ConfigFile, Opened, print};
use crate::{clock::Clock, units::ByteSize};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// How long each step of the load takes; 0 leaves the load out
    #[arg(long, value_name = "N", default_value_t = 3)]
    seconds: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const OBJECT_BYTES: usize = 8 << 20;
const IN_FLIGHT: [usize; 3] = [1, 8, 32];
/// Objects that the load leaves at most, until it reads and then removes them.
const OBJECTS_MAX: usize = 128;

struct Report {
    outcomes: Vec<Outcome>,
    load: Vec<Load>,
}

struct Load {
    operation: &'static str,
    in_flight: usize,
    objects: usize,
    elapsed: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

pub async fn run(args: &Args) -> Result<(), BackendCliError> {
    let store = args.config.open().await?;
    let now_ms = u64::try_from(Clock::system().now_ms()).unwrap_or(0);
    let swept = scratch::sweep(&*store.backend, &store.prefix, now_ms).await?;
    if swept > 0 {
        eprintln!("removed what {swept} checks had left that did not end");
    }
    let folder = Scratch::begin(&*store.backend, &store.prefix, now_ms).await?;
    let scratch = folder.folder().to_owned();
    eprintln!("writing below {scratch}");
    let done = tokio::select! {
        done = measure(args, &store, &scratch) => done,
        _ = tokio::signal::ctrl_c() => Err(BackendCliError::Stopped),
    };
    let cleaned = async {
        conformance::clean(&*store.backend, &scratch).await?;
        if matches!(done, Err(BackendCliError::Stopped)) { Ok(()) } else { folder.end(&*store.backend).await }
    };
    let cleaned = cleaned.await;
    let report = done?;
    cleaned?;
    show(args, &store, &report)?;
    if report.outcomes.iter().any(|outcome| outcome.base && outcome.error.is_some()) {
        return Err(BackendCliError::Lacks);
    }
    Ok(())
}

async fn measure(args: &Args, store: &Opened, scratch: &str) -> Result<Report, BackendCliError> {
    let outcomes = conformance::run_and_tell(&*store.backend, scratch, |outcome| {
        let mark = if outcome.error.is_none() { "ok" } else { "FAILED" };
        eprintln!("{mark:<7} {}", outcome.case.replace('_', " "));
    })
    .await;
    let mut report = Report { outcomes, load: Vec::new() };
    if args.seconds > 0 && !report.outcomes.iter().any(|outcome| outcome.base && outcome.error.is_some()) {
        for in_flight in IN_FLIGHT {
            eprintln!("load, {in_flight} at a time");
            let most = Duration::from_secs(args.seconds);
            report.load.extend(load(&store.backend, scratch, in_flight, most).await?);
        }
    }
    Ok(report)
}

/// Puts objects for a while, reads them back, compares, and removes them.
async fn load(
    backend: &Arc<dyn Backend>,
    scratch: &str,
    in_flight: usize,
    most: Duration,
) -> Result<[Load; 2], BackendCliError> {
    // No store may make little of it.
    let body: Bytes = (0..OBJECT_BYTES as u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect::<Vec<_>>()
        .into();
    let put = repeat("put", in_flight, OBJECTS_MAX, most, |at| {
        let (backend, key, body) = (Arc::clone(backend), load_key(scratch, at), body.clone());
        async move { backend.put(&key?, body.into(), Purpose::Upload).await }
    })
    .await?;
    let objects = put.objects;
    let get = repeat("get", in_flight, objects, most, |at| {
        let (backend, key, body) = (Arc::clone(backend), load_key(scratch, at), body.clone());
        async move {
            let read: Segments = backend.get_range(&key?, 0..OBJECT_BYTES as u64, Purpose::TailRead).await?;
            if same(&read, &body) {
                Ok(())
            } else {
                Err(BackendError::Corrupt("an object came back changed".to_owned()))
            }
        }
    })
    .await?;
    let keys = (0..objects).map(|at| load_key(scratch, at)).collect::<Result<Vec<_>, _>>()?;
    for (_, outcome) in backend.delete_many(keys, Purpose::Probe).await {
        outcome?;
    }
    Ok([put, get])
}

fn load_key(scratch: &str, at: usize) -> Result<ObjectKey, BackendError> {
    ObjectKey::new(format!("{scratch}/{LOAD_FOLDER}/{at:04}"))
        .map_err(|error| BackendError::Unsupported(error.to_string()))
}

fn same(read: &Segments, body: &[u8]) -> bool {
    let mut rest = body;
    read.iter().all(|piece| match rest.split_at_checked(piece.len()) {
        Some((front, back)) => {
            rest = back;
            front == piece
        }
        None => false,
    }) && rest.is_empty()
}

/// Runs calls 0.. until `count` or the time is over, so many at once.
async fn repeat<F>(
    operation: &'static str,
    in_flight: usize,
    count: usize,
    most: Duration,
    call: impl Fn(usize) -> F,
) -> Result<Load, BackendCliError>
where
    F: Future<Output = Result<(), BackendError>> + Send + 'static,
{
    let started = Instant::now();
    let mut running = JoinSet::new();
    let mut latencies = Vec::new();
    let mut next = 0;
    loop {
        while running.len() < in_flight && next < count && (started.elapsed() < most || next == 0) {
            let (begun, one) = (Instant::now(), call(next));
            running.spawn(async move { one.await.map(|()| begun.elapsed()) });
            next += 1;
        }
        match running.join_next().await {
            Some(Ok(latency)) => latencies.push(latency?),
            Some(Err(error)) => return Err(BackendCliError::Io { operation, error: error.into() }),
            None => break,
        }
    }
    latencies.sort();
    Ok(Load { operation, in_flight, objects: latencies.len(), elapsed: started.elapsed(), latencies })
}

impl Load {
    fn mib_per_second(&self) -> f64 {
        (self.objects * OBJECT_BYTES) as f64 / self.elapsed.as_secs_f64() / f64::from(1 << 20)
    }

    fn latency_ms(&self, percent: usize) -> u64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(0, |latency| latency.as_millis() as u64)
    }

    fn json(&self) -> Value {
        json!({
            "operation": self.operation,
            "object_bytes": OBJECT_BYTES,
            "in_flight": self.in_flight,
            "objects": self.objects,
            "mib_per_second": self.mib_per_second(),
            "p50_ms": self.latency_ms(50),
            "p99_ms": self.latency_ms(99),
        })
    }
}

fn show(args: &Args, store: &Opened, report: &Report) -> Result<(), BackendCliError> {
    let lacks = report.outcomes.iter().any(|outcome| outcome.base && outcome.error.is_some());
    if args.json {
        let cases: Vec<_> = report.outcomes.iter().map(case_json).collect();
        let document = json!({
            "kind": store.kind.name(),
            "usable": !lacks,
            "cases": cases,
            "extras": extras_json(store),
            "known": known(store).map(|known| json!({"seen_on": known.version, "what": known.what})).collect::<Vec<_>>(),
            "load": report.load.iter().map(Load::json).collect::<Vec<_>>(),
        });
        return print(&format!("{document:#}\n"));
    }
    let mut text = format!("store {}\n\n", store.kind.name());
    for outcome in &report.outcomes {
        let need = if outcome.base { "base" } else { "" };
        let sentence = outcome.case.replace('_', " ");
        let result = outcome.error.as_deref().unwrap_or("ok");
        text += &format!("{need:<5} {sentence:<70} {:>6} ms  {result}\n", outcome.elapsed.as_millis());
    }
    text += &extras(store);
    if !report.load.is_empty() {
        text += "\n8 MiB objects   at a time   objects     MiB/s   p50 ms   p99 ms\n";
    }
    for load in &report.load {
        text += &format!(
            "{:<15} {:>9} {:>9} {:>9.0} {:>8} {:>8}\n",
            load.operation,
            load.in_flight,
            load.objects,
            load.mib_per_second(),
            load.latency_ms(50),
            load.latency_ms(99)
        );
    }
    let failed = report.outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    text += &match (lacks, failed) {
        (true, _) => "\nverdict: a broker cannot use this store\n".to_owned(),
        (false, 0) => "\nverdict: a broker can use this store\n".to_owned(),
        (false, failed) => format!("\nverdict: a broker can use this store; {failed} of the further cases failed\n"),
    };
    print(&text)
}

/// What the store offers beyond what every store must, and what is known of its kind. The former is as the store's profile has it, the
/// clock as it was found.
fn extras(store: &Opened) -> String {
    let has = store.backend.capabilities();
    let mut text = format!("\none put takes up to     {}\n", ByteSize(has.put_bytes_max));
    text += &match has.parts {
        true => format!(
            "objects in parts        {} to {} each; {}\n",
            ByteSize(has.part_bytes_min),
            ByteSize(has.part_bytes_max),
            if has.lists_begun { "those begun are listed" } else { "those begun are not listed" }
        ),
        false => "objects in parts        not offered\n".to_owned(),
    };
    if let Some(ahead) = store.backend.clock_ahead_seconds() {
        text += &format!("clocks                  {} s apart\n", ahead.unsigned_abs());
    }
    for known in known(store) {
        text += &format!("known of {:<15}{}\n", known.version, known.what);
    }
    text
}

fn extras_json(store: &Opened) -> Value {
    let has = store.backend.capabilities();
    json!({
        "put_bytes_max": has.put_bytes_max,
        "parts": has.parts,
        "part_bytes_min": has.part_bytes_min,
        "part_bytes_max": has.part_bytes_max,
        "lists_begun": has.lists_begun,
        "clock_ahead_seconds": store.backend.clock_ahead_seconds(),
    })
}

fn known(store: &Opened) -> impl Iterator<Item = &'static Known> {
    Profile::of(store.kind).map_or(&[][..], |profile| profile.known).iter()
}

fn case_json(outcome: &Outcome) -> Value {
    json!({
        "case": outcome.case.replace('_', " "),
        "base": outcome.base,
        "ms": outcome.elapsed.as_millis() as u64,
        "error": outcome.error,
    })
}
