//! `cargo xtask bench`: how fast, how frugal, how fair; by the rules of docs/performance.md.
//!
//! Without options it prints the figures of this broker alone; `--peer kafka` races it against Apache Kafka, `--many`
//! shows many partitions and connections, `--wal` measures the WAL against fio, `--backend` the S3 client against others,
//! `--copies` what is sent and stored for each byte.
//! What is printed is of one machine at one moment: the conditions stand above, and only ratios out of one run are compared. No timing is a verdict; a wrong result, such as a lost record, is.

pub mod answers;
mod backend;
mod contest;
mod copies;
pub mod load;
pub mod machine;
mod many;
mod own;
mod partitions;
mod parts;
mod race;
mod storage;
mod table;
mod wal;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::clients::install;

#[derive(clap::Args)]
pub struct Args {
    /// Race against this broker on the same disk, with the same load generator.
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Of the race: only these parts.
    #[arg(long, value_enum, value_delimiter = ',', requires = "peer")]
    parts: Vec<parts::Part>,
    /// Rounds of the race, each of one run per contender: 5 unless given; of `--wal`: 7.
    #[arg(long)]
    pairs: Option<usize>,
    /// Seconds of each load; parts have their own defaults.
    #[arg(long)]
    seconds: Option<f64>,
    /// Of the race: seconds of load before anything counts, so that the JVM has compiled what it runs.
    #[arg(long, default_value_t = 60.0)]
    kafka_warmup: f64,
    /// 5,000 partitions and 2,000 connections: memory, fairness, and what bad neighbours cost.
    #[arg(long, conflicts_with = "peer")]
    many: bool,
    /// The WAL on a loop device and on a file, against fio. As root, or without the loop device.
    /// With `--peer kafka`: what it does for produce latency, on equal loop devices.
    #[arg(long, conflicts_with_all = ["parts", "many"])]
    wal: bool,
    /// The S3 client against `opendal` and `aws-sdk-s3`, over a sink, MinIO and Ceph's gateway.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal"])]
    backend: bool,
    /// Of `--backend`: only these stores; tiny: the sink unless given.
    #[arg(long, value_enum, value_delimiter = ',', requires = "backend")]
    store: Vec<backend::Store>,
    /// Bytes on networks and disks per produced byte, on Ceph's gateway, against Apache Kafka with three replicas. Tiny: on MinIO.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal", "backend"])]
    copies: bool,
    /// Producers and the tail beside a replay of what lies only in the store, GETs capped; `--against kafka`: with a cold page cache.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal", "backend", "copies"])]
    cold: bool,
    #[arg(long, value_enum, requires = "cold")]
    against: Option<Peer>,
    /// Ten consumers of one cold range against one.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal", "backend", "copies", "cold"])]
    fanout: bool,
    /// SIGKILL with 2 GiB in the WAL that are not uploaded.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal", "backend", "copies", "cold", "fanout"])]
    restart: bool,
    /// Producers beside upload bursts and compaction.
    #[arg(long, conflicts_with_all = ["peer", "many", "wal", "backend", "copies", "cold", "fanout", "restart"])]
    beside: bool,
    /// Of `--cold`, `--fanout`, `--restart` and `--beside`: over these; both unless given, tiny: MinIO.
    #[arg(long, value_enum, value_delimiter = ',')]
    over: Vec<storage::Over>,
    /// So many partitions with a trickle each on one node: start, memory, CPU at rest, objects per hour.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["peer", "many", "wal", "backend", "copies", "cold", "fanout", "restart", "beside"])]
    partitions: Option<u32>,
    /// Runs of the figures of this broker alone, and rounds of `--many`; medians are printed.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The release binary to measure, in place of a fresh build; of `--wal` the example `wal_append`, of `--backend` `seawall-store-bench`.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Everything once and short, as the tests do it: the results must be right, the figures mean nothing.
    #[arg(long)]
    tiny: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Kafka,
}

/// True when every part ran and every result was right.
pub fn run(args: &Args) -> Result<bool> {
    let pairs = |default: usize| if args.tiny { 1 } else { args.pairs.unwrap_or(default).max(1) };
    if args.wal && args.peer.is_none() {
        let seconds = args.seconds.unwrap_or(if args.tiny { 0.2 } else { 2.0 });
        return wal::run(&wal::Settings { pairs: pairs(7), seconds, binary: args.binary.clone(), tiny: args.tiny });
    }
    if args.backend {
        let all = backend::Store::value_variants();
        let stores = match args.store.is_empty() {
            true if args.tiny => vec![backend::Store::Sink],
            true => all.to_vec(),
            false => args.store.clone(),
        };
        let seconds = args.seconds.unwrap_or(if args.tiny { 0.05 } else { 0.5 });
        let binary = args.binary.clone();
        return backend::run(&backend::Settings { stores, pairs: pairs(5), seconds, binary, tiny: args.tiny });
    }
    let binary = match &args.binary {
        // The broker runs in a folder of its own.
        Some(binary) => binary.canonicalize()?,
        None => crate::clients::broker::release_binary()?,
    };
    let generator = load::Generator::build()?;
    if args.copies {
        let mib = if args.tiny { 16 } else { 512 };
        let settings = copies::Settings { binary, mib, tiny: args.tiny };
        return copies::run(&settings, &install::install()?, &generator);
    }
    if args.many {
        let rounds = if args.tiny { 1 } else { args.runs.max(1) };
        let settings = many::Settings { binary, rounds, seconds: args.seconds, tiny: args.tiny };
        return many::run(&settings, &generator);
    }
    if let Some(count) = args.partitions {
        return partitions::run(&partitions::Settings { binary, count, tiny: args.tiny }, &generator);
    }
    if args.cold || args.fanout || args.restart || args.beside {
        let over = match args.over.is_empty() {
            true if args.tiny => vec![storage::Over::Minio],
            true => storage::Over::value_variants().to_vec(),
            false => args.over.clone(),
        };
        let settings = storage::Settings { binary, over, seconds: args.seconds, pairs: pairs(5), tiny: args.tiny };
        return match (args.cold, args.fanout, args.restart) {
            (true, ..) => {
                let kafka = args.against.map(|Peer::Kafka| install::install()).transpose()?;
                storage::cold::run(&settings, kafka.as_ref(), &generator)
            }
            (_, true, _) => storage::fanout::run(&settings, &generator),
            (.., true) => storage::restart::run(&settings, &generator),
            _ => storage::beside::run(&settings, &generator),
        };
    }
    match args.peer {
        None => {
            own::run(&own::Settings { binary, runs: args.runs, seconds: args.seconds, tiny: args.tiny }, &generator)
        }
        Some(Peer::Kafka) if args.wal => {
            let settings = wal::end_to_end::Settings {
                binary,
                pairs: pairs(6),
                seconds: if args.tiny { args.seconds.or(Some(0.5)) } else { args.seconds },
                kafka_warmup: if args.tiny { 1.0 } else { args.kafka_warmup },
                tiny: args.tiny,
            };
            wal::end_to_end::run(&settings, &install::install()?, generator)
        }
        Some(Peer::Kafka) => {
            let settings = race::Settings {
                binary,
                parts: if args.parts.is_empty() { parts::Part::value_variants().to_vec() } else { args.parts.clone() },
                pairs: pairs(5),
                seconds: if args.tiny { args.seconds.or(Some(0.5)) } else { args.seconds },
                kafka_warmup: if args.tiny { 1.0 } else { args.kafka_warmup },
                tiny: args.tiny,
            };
            race::run(&settings, &install::install()?, generator)
        }
    }
}
