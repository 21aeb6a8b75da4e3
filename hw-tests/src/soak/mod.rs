//! `seawall-qualify soak`: a producer at a constant rate, a consumer at the tail and one that reads the log from its start again and again,
//! for as long as the bytes last, while somebody else kills the broker and takes its store away.
//!
//! Each partition has one idempotent producer that numbers its records, so that a record's number is its offset. The whole content of a
//! record follows from partition and number: what is read is compared byte by byte with what was sent. Memory does not grow with the
//! records. What is promised of a correct broker: `report::Report::wrong` is empty.

mod compacted;
mod content;
mod produce;
mod read;
pub mod report;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use content::Content;
use produce::Producing;
use read::{Reader, Totals};
pub use report::Report;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub bootstrap: String,
    /// It exists, and is empty.
    #[arg(long)]
    pub topic: String,
    #[arg(long)]
    pub partitions: i32,
    /// A topic with `cleanup.policy=compact` of one partition; it exists, and is empty.
    #[arg(long)]
    pub compacted_topic: String,
    /// Different keys in it.
    #[arg(long, default_value_t = 5_000)]
    pub keys: u64,
    /// Of a record's value, on average: lengths go from a half of it to one and a half.
    #[arg(long, default_value_t = 4_096)]
    pub record_bytes: usize,
    /// MiB of values that are produced.
    #[arg(long)]
    pub mib: u64,
    #[arg(long)]
    pub mib_per_s: f64,
    /// No more is produced after so long.
    #[arg(long, default_value_t = 86_400.0)]
    pub seconds_max: f64,
    /// Of the consumer that reads from the start.
    #[arg(long)]
    pub replay_mib_per_s: f64,
    /// `retention.bytes` of the topic: less than this may not be left of a partition that got more.
    #[arg(long)]
    pub retention_bytes: u64,
    /// Seconds that acks and reads may take after the last record.
    #[arg(long, default_value_t = 180.0)]
    pub drain: f64,
}

/// Prints a line of progress each second and the report as JSON at the end; true when nothing was wrong.
pub fn run(args: &Args) -> Result<bool> {
    let content = Arc::new(Content::new(args.record_bytes, args.keys));
    let producing = Producing::open(args, &content)?;
    let began = Instant::now();
    let drain = Duration::from_secs_f64(args.drain);
    let tail = Totals::default();
    let replays = Totals::default();
    let acked = producing.acked();

    let (tail_read, replayed) = thread::scope(|scope| {
        let tail_reader = scope.spawn(|| read::tail(args, &content, &acked, &tail, drain));
        let replayer = scope.spawn(|| read::replay(args, &content, &acked, &replays));
        let progress = scope.spawn(|| {
            while !acked.is_over() {
                let seconds = began.elapsed().as_secs_f64();
                println!("progress {seconds:.0} {} {} {}", acked.bytes(), tail.bytes(), replays.bytes());
                thread::park_timeout(PROGRESS_EVERY);
            }
        });
        producing.run(args, drain);
        let joined = (tail_reader.join(), replayer.join());
        acked.end();
        progress.thread().unpark();
        joined
    });
    let seconds = began.elapsed().as_secs_f64();
    // A reader that gave up costs nobody the rest of the report.
    let mut gave_up = Vec::new();
    for (name, ended) in [("at the tail", tail_read), ("from the start", replayed)] {
        if let Err(error) = ended.map_err(|_| anyhow!("the reader {name} panicked"))? {
            gave_up.push(format!("{name}: {error:#}"));
        }
    }

    let last = Totals::default();
    let mut reader = Reader::open(args, &content, &last)?;
    let kept = reader.last_pass(&acked, drain)?;
    let compacted = compacted::read(args, &content, &acked, drain)?;
    let report = Report {
        produced_records: acked.records(),
        produced_bytes: acked.bytes(),
        seconds,
        not_acked: acked.not_acked(),
        acked_elsewhere: acked.elsewhere(),
        tail: tail.side(),
        replays: replays.side(),
        last_pass: last.side(),
        kept_bytes: kept.bytes,
        partitions_cut_short: kept.cut_short,
        compacted,
        gave_up,
    };
    println!("{}", serde_json::to_string(&report)?);
    let wrong = report.wrong();
    wrong.iter().for_each(|line| eprintln!("WRONG: {line}"));
    Ok(wrong.is_empty())
}
