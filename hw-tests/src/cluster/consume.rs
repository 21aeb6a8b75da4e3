//! A consuming client with its share of the partitions, assigned by hand: no group takes part in the figures.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::clients::REQUEST_MAX;
use super::record::Stamp;
use super::report::{latency_histogram, record_latency};
use super::run::Shared;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the end: only what this run sends.
    End,
    /// At the beginning, up to the end of that moment.
    Beginning,
}

pub struct Reader {
    shared: Arc<Shared>,
    consumer: BaseConsumer,
    /// Own partitions, and the next offset of each; by partition, with `None` for those of others.
    next: Vec<Option<i64>>,
    latencies: Histogram<u64>,
}

impl Reader {
    /// Takes the partitions `number`, `number + readers`, ... and connects.
    pub fn open(
        config: &ClientConfig,
        shared: &Arc<Shared>,
        number: usize,
        readers: usize,
        from: From,
    ) -> Result<Self> {
        let consumer: BaseConsumer = config.create()?;
        let mut next = vec![None; shared.partitions()];
        let mut assignment = TopicPartitionList::new();
        for partition in (number..shared.partitions()).step_by(readers) {
            let id = i32::try_from(partition)?;
            let (low, high) = watermarks(&consumer, &shared.topic, id)
                .with_context(|| format!("watermarks of partition {partition}"))?;
            let start = match from {
                From::End => high,
                From::Beginning => {
                    shared.read_until(partition, high);
                    low
                }
            };
            next[partition] = Some(start);
            assignment.add_partition_offset(&shared.topic, id, Offset::Offset(start))?;
        }
        consumer.assign(&assignment)?;
        let mut reader = Self { shared: Arc::clone(shared), consumer, next, latencies: latency_histogram() };
        // The first fetch is under way before the schedule begins.
        reader.poll(Duration::from_millis(200));
        Ok(reader)
    }

    /// Reads until everything is there that was acked, or until the drain is over.
    pub fn run(mut self, drain: Duration) -> Histogram<u64> {
        let mut give_up: Option<Instant> = None;
        loop {
            // The time is looked at now and then, not for each record.
            for _ in 0..1024 {
                if !self.poll(Duration::from_millis(20)) {
                    break;
                }
            }
            if self.shared.produced_all.load(Ordering::Acquire) {
                let give_up = *give_up.get_or_insert_with(|| Instant::now() + drain);
                if self.has_all() || Instant::now() > give_up {
                    return self.latencies;
                }
            }
        }
    }

    fn has_all(&self) -> bool {
        self.next
            .iter()
            .enumerate()
            .all(|(partition, next)| next.is_none_or(|next| next >= self.shared.readable_to(partition)))
    }

    /// False when nothing came.
    fn poll(&mut self, wait: Duration) -> bool {
        match self.consumer.poll(wait) {
            Some(Ok(message)) => {
                take(&self.shared, &mut self.next, &mut self.latencies, &message);
                true
            }
            Some(Err(error)) => {
                self.shared.read_failed(&error);
                true
            }
            None => false,
        }
    }
}

/// First and next offset. The leader of a partition that was created just now may not know of it yet.
fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> KafkaResult<(i64, i64)> {
    let end = Instant::now() + REQUEST_MAX;
    loop {
        match consumer.fetch_watermarks(topic, partition, REQUEST_MAX) {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            found => return found,
        }
    }
}

fn take(shared: &Shared, next: &mut [Option<i64>], latencies: &mut Histogram<u64>, message: &BorrowedMessage<'_>) {
    let now_ns = shared.now_ns();
    if let Some(next) = usize::try_from(message.partition()).ok().and_then(|partition| next.get_mut(partition)) {
        *next = Some(message.offset() + 1);
    }
    let stamp = message.payload().and_then(Stamp::read);
    let stamp = stamp.filter(|stamp| shared.is_of_this_run(stamp.run));
    shared.read(message.payload_len(), stamp.as_ref(), message.partition(), message.offset(), now_ns);
    if let Some(stamp) = stamp
        && stamp.due_ns >= shared.warm_ns
        && shared.times_reads
    {
        record_latency(latencies, now_ns.saturating_sub(stamp.due_ns));
    }
}
