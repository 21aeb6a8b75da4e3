//! The command line, and what of it makes no sense.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::ledger;
use super::record::STAMP_BYTES;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// HOST:PORT,... of any Kafka-compatible broker.
    #[arg(long)]
    pub bootstrap: String,
    /// Created if it is not there.
    #[arg(long, default_value = "qualify")]
    pub topic: String,
    /// Of a topic that is created.
    #[arg(long, default_value_t = 6)]
    pub partitions: i32,
    /// Of a topic that is created; -1 for the broker's default.
    #[arg(long, default_value_t = -1)]
    pub replication_factor: i32,
    /// Config of a topic that is created: NAME=VALUE.
    #[arg(long = "topic-config", value_name = "NAME=VALUE")]
    pub topic_config: Vec<String>,
    #[arg(long, default_value_t = 1024)]
    pub record_bytes: usize,
    /// Records per second of all senders together, open loop; 0 for as fast as possible.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Seconds of sending.
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// The most records sent.
    #[arg(long, default_value_t = u64::MAX)]
    pub records: u64,
    /// Seconds at the beginning whose latencies are not counted.
    #[arg(long, default_value_t = 0.0)]
    pub warmup: f64,
    /// Producing clients, each with connections of its own; records go to them in turn.
    #[arg(long, default_value_t = 2)]
    pub connections: u32,
    /// Sending threads, which share the connections; 0 to read what the topic holds.
    #[arg(long, default_value_t = 2)]
    pub producers: u32,
    /// Consuming clients, which share the partitions; 0 to produce only.
    #[arg(long, default_value_t = 1)]
    pub consumers: u32,
    #[arg(long, value_enum, default_value_t = Acks::All)]
    pub acks: Acks,
    /// Duplicates and changes of order by retries are kept out by sequence numbers; needs acks=all.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub idempotence: bool,
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compression: Compression,
    /// The most bytes of a batch.
    #[arg(long, default_value_t = 1_000_000)]
    pub batch_bytes: u32,
    /// How long a batch waits to be filled.
    #[arg(long, default_value_t = 5.0)]
    pub linger_ms: f64,
    /// Records of an open loop come in ticks of this length.
    #[arg(long, default_value_t = 1_000)]
    pub tick_us: u64,
    /// Any further setting of librdkafka, for all clients: NAME=VALUE.
    #[arg(long = "property", value_name = "NAME=VALUE")]
    pub properties: Vec<String>,
    /// Compares each acked record with what is read, and writes the acks here.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Sends nothing: compares the topic with the acks in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "ledger")]
    pub check: Option<PathBuf>,
    /// How long after the last record acks and reads may take, in seconds.
    #[arg(long, default_value_t = 60.0)]
    pub drain: f64,
    /// The report as one line of JSON on standard output; the table goes to standard error.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct TopicArgs {
    #[arg(long)]
    pub bootstrap: String,
    #[arg(long)]
    pub topic: String,
    #[arg(long, default_value_t = 1)]
    pub partitions: i32,
    #[arg(long, default_value_t = -1)]
    pub replication_factor: i32,
    /// NAME=VALUE.
    #[arg(long)]
    pub config: Vec<String>,
    /// Deletes it instead.
    #[arg(long)]
    pub delete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    All,
}

impl Acks {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "0",
            Self::Leader => "1",
            Self::All => "all",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl Args {
    pub fn validate(&self) -> Result<()> {
        ensure!(self.record_bytes >= STAMP_BYTES, "--record-bytes is at least {STAMP_BYTES}");
        ensure!(self.record_bytes <= 64 << 20, "--record-bytes is at most 64 MiB");
        ensure!(self.producers > 0 || self.consumers > 0, "neither producers nor consumers");
        ensure!(self.producers <= 256 && self.consumers <= 256, "at most 256 producers and 256 consumers");
        ensure!(self.connections >= self.producers, "each producer needs a connection: --connections");
        ensure!(self.connections <= 4096, "at most 4,096 connections");
        ensure!(self.partitions > 0, "--partitions is at least 1");
        ensure!(self.tick_us > 0, "--tick-us is at least 1");
        for (name, seconds) in [("duration", self.duration), ("warmup", self.warmup), ("drain", self.drain)] {
            ensure!((0.0..=1e7).contains(&seconds), "--{name} is no number of seconds");
        }
        ensure!(self.rate <= 100_000_000, "--rate is at most 100 million");
        if self.ledger.is_some() {
            ensure!(self.consumers > 0, "a ledger needs a consumer that reads");
            ensure!(self.acks == Acks::All, "a ledger needs --acks all");
        }
        Ok(())
    }

    /// With a ledger no more than it can hold.
    pub fn records_max(&self) -> u64 {
        if self.ledger.is_some() { self.records.min(ledger::RECORDS_MAX) } else { self.records }
    }

    pub fn sending_time(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }
}
