//! One load of the generator on one broker, and what it cost: the machine's busy time minus the generator's is the
//! broker's, so that kernel threads count.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::machine::{self, CpuTimes};
use crate::{builds, process};

/// What the generator does.
#[derive(Debug, Clone)]
pub struct Load {
    pub partitions: u32,
    pub record_bytes: u32,
    /// Records per second; 0 for as fast as possible.
    pub rate: u64,
    pub seconds: f64,
    pub warmup_seconds: f64,
    pub connections: u32,
    pub producers: u32,
    pub consumers: u32,
    pub linger_ms: f64,
}

impl Load {
    /// As fast as possible, produced and consumed at the same time.
    pub const MAX: Self = Self {
        partitions: 6,
        record_bytes: 1024,
        rate: 0,
        seconds: 8.0,
        warmup_seconds: 0.0,
        connections: 2,
        producers: 2,
        consumers: 1,
        linger_ms: 5.0,
    };

    pub fn describe(&self) -> String {
        let rate = match self.rate {
            0 => "as fast as possible".to_owned(),
            rate => format!("{rate} records/s"),
        };
        format!(
            "{} partitions, {} producing connections, {} consumer(s), {} bytes, linger {} ms, {rate}, {} s",
            self.partitions, self.connections, self.consumers, self.record_bytes, self.linger_ms, self.seconds
        )
    }
}

/// What of the generator's report is used here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    pub failed: u64,
    pub errors: u64,
    pub produced: Side,
    pub consumed: Side,
    pub produce_ms: Latencies,
    pub end_to_end_ms: Latencies,
    pub sender_late_ms: Latencies,
    pub fairness: Fairness,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Side {
    pub bytes: u64,
    pub records_per_s: f64,
    pub mib_per_s: f64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Latencies {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Fairness {
    pub least: u64,
    pub most: u64,
    pub jain: f64,
}

/// Many small producers, and their neighbours.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    pub partitions: u32,
    pub connections: u32,
    /// Requests per second of all; 0 for each as fast as its acks.
    pub rate: u64,
    pub seconds: f64,
    pub never_read: u32,
    pub byte_a_second: u32,
    pub crashing_members: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct CrowdReport {
    pub acks_per_s: f64,
    pub produce_ms: Latencies,
    pub fairness: Fairness,
    pub neighbours: Neighbours,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Neighbours {
    pub sent_without_reading: u64,
    pub single_bytes: u64,
    pub crashed_members: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub report: Report,
    pub broker_cpu: f64,
    pub generator_cpu: f64,
    /// Of the machine, while the load ran.
    pub idle_share: f64,
    /// CPU seconds of brokers that ran beside without work.
    pub others_cpu: f64,
}

impl Measured {
    /// Of what was produced, or consumed when nothing was.
    pub fn gib(&self) -> f64 {
        self.report.produced.bytes.max(self.report.consumed.bytes) as f64 / (1u64 << 30) as f64
    }

    pub fn cpu_per_gib(&self) -> f64 {
        self.broker_cpu / self.gib()
    }

    pub fn mib_per_cpu_second(&self) -> f64 {
        self.gib() * 1024.0 / self.broker_cpu
    }
}

/// The load generator, built.
#[derive(Clone)]
pub struct Generator {
    program: PathBuf,
}

impl Generator {
    /// In the profile of the tests, in which it and its libraries are optimised; so librdkafka is built once.
    pub fn build() -> Result<Self> {
        Ok(Self { program: builds::program("seawall-qualify")? })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn command(&self) -> Command {
        Command::new(&self.program)
    }

    pub fn create_topic(&self, bootstrap: &str, topic: &str, partitions: u32, configs: &[&str]) -> Result<()> {
        self.create(bootstrap, topic, partitions, 1, configs)
    }

    pub fn create_replicated_topic(&self, bootstrap: &str, topic: &str, partitions: u32, replicas: u16) -> Result<()> {
        self.create(bootstrap, topic, partitions, replicas, &[])
    }

    fn create(&self, bootstrap: &str, topic: &str, partitions: u32, replicas: u16, configs: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["topic", "--bootstrap", bootstrap, "--topic", topic]);
        command.args(["--partitions", &partitions.to_string(), "--replication-factor", &replicas.to_string()]);
        for config in configs {
            command.args(["--config", config]);
        }
        process::capture(&mut command, Vec::new(), Duration::from_secs(90))?.stdout_if_success("create a topic")?;
        Ok(())
    }

    pub fn delete_topic(&self, bootstrap: &str, topic: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["topic", "--bootstrap", bootstrap, "--topic", topic, "--delete"]);
        process::capture(&mut command, Vec::new(), Duration::from_secs(90))?.stdout_if_success("delete a topic")?;
        Ok(())
    }

    /// Returns when a broker that is starting has acked its first record.
    pub fn first_ack(&self, bootstrap: &str, topic: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["first-ack", "--bootstrap", bootstrap, "--topic", topic]);
        process::capture(&mut command, Vec::new(), Duration::from_secs(90))?.stdout_if_success("the first ack")?;
        Ok(())
    }

    /// Runs the load; a wrong result, such as an acked record that was not read, is an error.
    pub fn run(&self, bootstrap: &str, topic: &str, load: &Load) -> Result<Report> {
        let mut command = Command::new(&self.program);
        command.args(["cluster", "--json", "--drain", "30", "--bootstrap", bootstrap, "--topic", topic]);
        for (name, value) in [
            ("partitions", load.partitions.to_string()),
            ("record-bytes", load.record_bytes.to_string()),
            ("rate", load.rate.to_string()),
            ("duration", load.seconds.to_string()),
            ("warmup", load.warmup_seconds.to_string()),
            ("connections", load.connections.to_string()),
            ("producers", load.producers.to_string()),
            ("consumers", load.consumers.to_string()),
            ("linger-ms", load.linger_ms.to_string()),
        ] {
            command.args([format!("--{name}"), value]);
        }
        report_of(&mut command, load.seconds)
    }

    /// Runs a crowd; a wrong result, such as an ack of what is not in the log, is an error.
    pub fn crowd(&self, bootstrap: &str, topic: &str, crowd: &Crowd) -> Result<CrowdReport> {
        let mut command = Command::new(&self.program);
        command.args(["crowd", "--json", "--bootstrap", bootstrap, "--topic", topic]);
        for (name, value) in [
            ("partitions", crowd.partitions.to_string()),
            ("connections", crowd.connections.to_string()),
            ("rate", crowd.rate.to_string()),
            ("duration", crowd.seconds.to_string()),
            ("never-read", crowd.never_read.to_string()),
            ("byte-a-second", crowd.byte_a_second.to_string()),
            ("crashing-members", crowd.crashing_members.to_string()),
        ] {
            command.args([format!("--{name}"), value]);
        }
        report_of(&mut command, crowd.seconds)
    }

    /// Runs the load and charges it, up to `rest_max` after it: what it left to upload or to write back is part of its
    /// cost. `others` are brokers that are to be idle meanwhile.
    pub fn measure(
        &self,
        bootstrap: &str,
        topic: &str,
        load: &Load,
        others: &[u32],
        rest_max: Duration,
    ) -> Result<Measured> {
        let others_cpu = || -> Result<f64> { others.iter().map(|pid| machine::process_cpu(*pid)).sum() };
        machine::sync()?;
        machine::settle(rest_max)?;
        let (others_before, children_before, before) = (others_cpu()?, machine::children_cpu()?, CpuTimes::read()?);
        let report = self.run(bootstrap, topic, load)?;
        let loaded = CpuTimes::read()?.since(&before);
        let generator_cpu = machine::children_cpu()? - children_before;
        machine::sync()?;
        machine::settle(rest_max)?;
        let all = CpuTimes::read()?.since(&before);
        let others_cpu = others_cpu()? - others_before;
        Ok(Measured {
            report,
            broker_cpu: (all.busy - generator_cpu - others_cpu).max(0.0),
            generator_cpu,
            idle_share: loaded.idle_share(),
            others_cpu,
        })
    }
}

/// The last line of what the generator prints.
fn report_of<T: for<'a> Deserialize<'a>>(command: &mut Command, seconds: f64) -> Result<T> {
    let time_max = Duration::from_secs_f64(seconds + 150.0);
    let printed = process::capture(command, Vec::new(), time_max)?.stdout_if_success("the load generator")?;
    let line = printed.lines().last().context("the load generator said nothing")?;
    serde_json::from_str(line).with_context(|| format!("not a report: {line}"))
}
