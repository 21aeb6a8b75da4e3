//! One of the many: sends a record to one of its partitions, waits for the ack, and does it again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use seawall_protocol::ApiKey;
use seawall_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use seawall_protocol::messages::produce_response::ProduceResponse;
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::{Instant, sleep_until};

use super::Args;
use super::wire::{Wire, frame};
use crate::cluster::report::{latency_histogram, record_latency};

pub const PRODUCE_VERSION: i16 = 9;

pub struct Producer {
    wire: Wire,
    /// A request for each of its partitions, encoded once.
    frames: Vec<Vec<u8>>,
    /// Its place among the connections, and their number and rate.
    number: u32,
    connections: u32,
    rate: u64,
}

pub struct Done {
    pub acked: u64,
    pub failed: u64,
    /// Why it ended early.
    pub broken: Option<String>,
    pub latencies: Histogram<u64>,
}

impl Producer {
    /// Takes the partitions `number`, `number + connections`, ...; with more connections than partitions they share.
    pub async fn connect(address: SocketAddr, args: &Args, number: u32) -> Result<Self> {
        let partitions = u32::try_from(args.partitions)?;
        let first = number % partitions;
        let frames = (first..partitions)
            .step_by(args.connections as usize)
            .map(|partition| request(&args.topic, i32::try_from(partition)?, args.record_bytes))
            .collect::<Result<Vec<_>>>()?;
        ensure!(!frames.is_empty(), "no partition");
        let wire = Wire::connect(address).await?;
        Ok(Self { wire, frames, number, connections: args.connections, rate: args.rate })
    }

    pub async fn run(mut self, began: Instant, end: Instant) -> Done {
        let mut done = Done { acked: 0, failed: 0, broken: None, latencies: latency_histogram() };
        for n in 0u64.. {
            // Open loop: the time of a request follows from its number, and latency counts from it.
            let due = match self.due(n) {
                Some(due) => began + due,
                None => Instant::now(),
            };
            if due >= end {
                break;
            }
            sleep_until(due).await;
            let frame = &self.frames[(n % self.frames.len() as u64) as usize];
            match self.wire.exchange::<ProduceResponse>(ApiKey::Produce, PRODUCE_VERSION, frame).await {
                Ok(response) if error_code(&response) == Some(0) => {
                    done.acked += 1;
                    record_latency(&mut done.latencies, due.elapsed().as_nanos() as u64);
                }
                Ok(_) => done.failed += 1,
                Err(error) => {
                    done.broken = Some(format!("{error:#}"));
                    break;
                }
            }
        }
        done
    }

    /// When request `n` is due; none without a rate.
    fn due(&self, n: u64) -> Option<Duration> {
        let of_all = u128::from(n) * u128::from(self.connections) + u128::from(self.number);
        let ns = (of_all * 1_000_000_000).checked_div(u128::from(self.rate))?;
        Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)))
    }
}

/// A produce request of one record, as a frame.
pub fn request(topic: &str, index: i32, record_bytes: usize) -> Result<Vec<u8>> {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.add(None, Some(&vec![b'x'; record_bytes]), 0, &[]);
    let partition_data = vec![PartitionProduceData { index, records: Some(batch.build()), ..Default::default() }];
    let topic_data = vec![TopicProduceData { name: topic.to_owned(), partition_data, ..Default::default() }];
    let request = ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data, ..Default::default() };
    frame(ApiKey::Produce, PRODUCE_VERSION, &request)
}

pub fn error_code(response: &ProduceResponse) -> Option<i16> {
    Some(response.responses.first()?.partition_responses.first()?.error_code)
}
