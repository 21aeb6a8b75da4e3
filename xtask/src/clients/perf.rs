//! Kafka's own load tools run to their end. Their figures are shown, not judged.

use anyhow::{Context, ensure};

use super::session::Session;

const TOPIC: &str = "perf";

pub fn run(session: &mut Session<'_>) {
    let count = session.records().to_string();
    session.check("kafka-producer-perf-test", format!("{count} records of 1 KiB, acks=all"), |s| {
        super::codecs::create_topic(s, TOPIC)?;
        let servers = format!("bootstrap.servers={}", s.broker().bootstrap());
        let arguments = ["--topic", TOPIC, "--num-records", &count, "--record-size", "1024", "--throughput", "-1"];
        let properties = ["--command-property", &servers, "acks=all"];
        let output =
            s.java_bare("org.apache.kafka.tools.ProducerPerformance", &[&arguments[..], &properties].concat())?;
        let last = output.lines().rev().find(|line| line.contains("records sent")).context("no figures")?;
        ensure!(last.starts_with(&format!("{count} records sent")), "{last}");
        Ok(last.to_owned())
    });
    session.check("kafka-consumer-perf-test", format!("{count} records"), |s| {
        let arguments = ["--topic", TOPIC, "--num-records", &count, "--timeout", "30000", "--hide-header"];
        let output = s.java("org.apache.kafka.tools.ConsumerPerformance", &arguments)?;
        let last = output.lines().last().context("no figures")?;
        let cells: Vec<&str> = last.split(", ").collect();
        let [_, _, _, mib_per_second, consumed, ..] = cells[..] else { anyhow::bail!("{output}") };
        ensure!(consumed == count, "{consumed} records: {last}");
        Ok(format!("{consumed} records, {mib_per_second} MB/sec"))
    });
}
