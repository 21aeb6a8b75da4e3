//! An idempotent producer with `acks=all` that outlives the broker: it reconnects, sends again what was not acked, in order
//! and under the same sequence numbers, and writes every ack into the ledger.

use std::collections::VecDeque;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{ApiKey, ProduceResponse};
use seawall_protocol::records::{BatchBuilder, Compression};

use super::ledger::{Acked, Ledger, Random, RecordId};
use super::wire::{PRODUCE_VERSION, Wire, produce_request};

/// As many requests as a Java producer keeps in flight with idempotence on.
const IN_FLIGHT_MAX: usize = 5;
const RETRY_AFTER: Duration = Duration::from_millis(20);

pub struct Producer<'a> {
    pub number: u32,
    pub address: SocketAddr,
    pub topic: &'a str,
    pub partitions: i32,
    pub seed: u64,
    pub ledger: &'a Ledger,
    /// Set when no new records shall be written; what was sent is then acked before `run` returns.
    pub stop: &'a AtomicBool,
    /// Give up this long after `stop`.
    pub drain: Duration,
}

struct Batch {
    first: u64,
    count: u32,
    bytes: Bytes,
}

/// What this producer has written to one partition.
#[derive(Default)]
struct Written {
    next_number: u64,
    next_sequence: i32,
    /// Oldest first. Those before `sent` are in flight on the current connection.
    unacked: VecDeque<Batch>,
    sent: usize,
}

impl Producer<'_> {
    /// Returns what a correct broker never answers; empty if there was nothing of the kind.
    pub fn run(&self) -> Vec<String> {
        let mut random = Random::new(self.seed);
        let mut written: Vec<Written> = (0..self.partitions).map(|_| Written::default()).collect();
        let mut refused = Vec::new();
        let mut identity = None;
        let mut give_up = None;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                if written.iter().all(|partition| partition.unacked.is_empty()) {
                    return refused;
                }
                if Instant::now() > *give_up.get_or_insert_with(|| Instant::now() + self.drain) {
                    refused.push(format!("producer {}: not all was acked after the last restart", self.number));
                    return refused;
                }
            }
            if !refused.is_empty() {
                return refused;
            }
            // The error is that of a killed broker, or one that says "try again": the next connection does.
            _ = self.session(&mut random, &mut written, &mut identity, &mut refused);
            std::thread::sleep(RETRY_AFTER);
        }
    }

    /// One connection's life. Ends in an error when it breaks, or when an answer asks for a retry.
    fn session(
        &self,
        random: &mut Random,
        written: &mut [Written],
        identity: &mut Option<(i64, i16)>,
        refused: &mut Vec<String>,
    ) -> Result<()> {
        let mut wire = Wire::connect(self.address)?;
        let connected = Instant::now();
        let identity = match identity {
            Some(known) => *known,
            None => *identity.insert(wire.init_producer_id()?),
        };
        written.iter_mut().for_each(|partition| partition.sent = 0);
        let mut in_flight: VecDeque<i32> = VecDeque::new();
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(batches) = self.next_request(random, written, identity)
            {
                in_flight.push_back(wire.send(
                    ApiKey::Produce,
                    PRODUCE_VERSION,
                    &produce_request(self.topic, batches),
                )?);
            }
            let Some(expected) = in_flight.pop_front() else { return Ok(()) };
            let (correlation, response) = wire.receive(ApiKey::Produce, PRODUCE_VERSION)?;
            if correlation != expected {
                refused.push(format!("answer {correlation} where {expected} was due"));
                return Ok(());
            }
            self.take_answer(connected, response, written, refused)?;
            if !refused.is_empty() {
                return Ok(());
            }
        }
    }

    /// One batch for each of a few partitions: what is to be sent again first, then new ones. `None`: nothing to send.
    fn next_request(
        &self,
        random: &mut Random,
        written: &mut [Written],
        identity: (i64, i16),
    ) -> Option<Vec<(i32, Bytes)>> {
        let stopped = self.stop.load(Ordering::Relaxed);
        let again = written.iter().any(|partition| partition.sent < partition.unacked.len());
        let mut batches = Vec::new();
        for (index, partition) in written.iter_mut().enumerate() {
            let index = index as i32;
            if partition.sent == partition.unacked.len() {
                let wanted = !again && !stopped && random.below(2) == 0;
                if !wanted || partition.unacked.len() >= IN_FLIGHT_MAX {
                    continue;
                }
                partition.unacked.push_back(self.new_batch(random, index, partition_counters(partition), identity));
                let count = partition.unacked.back().map_or(0, |batch| batch.count);
                partition.next_number += u64::from(count);
                partition.next_sequence = wrapped(partition.next_sequence, count);
            }
            batches.push((index, partition.unacked[partition.sent].bytes.clone()));
            partition.sent += 1;
        }
        if batches.is_empty() && !stopped && written.iter().all(|partition| partition.unacked.is_empty()) {
            return self.next_request(random, written, identity);
        }
        (!batches.is_empty()).then_some(batches)
    }

    fn new_batch(
        &self,
        random: &mut Random,
        partition: i32,
        (first, sequence): (u64, i32),
        identity: (i64, i16),
    ) -> Batch {
        let codecs = Compression::ALL;
        let codec = codecs[random.below(codecs.len() as u64 * 2) as usize % codecs.len()];
        let count = 1 + random.below(20) as u32;
        let mut builder = BatchBuilder::new(codec).producer(identity.0, identity.1, sequence);
        for number in first..first + u64::from(count) {
            let value = RecordId { producer: self.number, partition, number }.value();
            builder.add(Some(&number.to_be_bytes()), Some(&value), 1_700_000_000_000 + number as i64, &[]);
        }
        Batch { first, count, bytes: builder.build() }
    }

    /// Enters acks into the ledger. An error asks for a new connection.
    fn take_answer(
        &self,
        connected: Instant,
        response: ProduceResponse,
        written: &mut [Written],
        refused: &mut Vec<String>,
    ) -> Result<()> {
        let mut retry = None;
        for answer in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
            let partition = &mut written[answer.index as usize];
            let code = ErrorCode::try_from(answer.error_code).unwrap_or(ErrorCode::UnknownServerError);
            // After an error the answers to later batches of this connection say nothing.
            if retry.is_some() {
                continue;
            }
            match code {
                ErrorCode::None => {
                    let Some(batch) = partition.unacked.pop_front() else {
                        refused.push(format!("an ack for partition {} too many", answer.index));
                        continue;
                    };
                    partition.sent -= 1;
                    let acked = Acked {
                        producer: self.number,
                        partition: answer.index,
                        first: batch.first,
                        count: batch.count,
                        base_offset: answer.base_offset,
                    };
                    self.ledger.ack(connected, acked);
                }
                code if code.is_retriable() && code != ErrorCode::OutOfOrderSequenceNumber => retry = Some(code),
                code => refused.push(format!(
                    "producer {} partition {}: {} for the oldest batch that is not acked",
                    self.number,
                    answer.index,
                    code.name()
                )),
            }
        }
        retry.map_or(Ok(()), |code| Err(Error::other(code.name())))
    }
}

fn partition_counters(partition: &Written) -> (u64, i32) {
    (partition.next_number, partition.next_sequence)
}

fn wrapped(sequence: i32, by: u32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) % (i64::from(i32::MAX) + 1)) as i32
}
