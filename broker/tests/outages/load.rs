//! Idempotent producers at a constant rate. What is refused is sent again, in order and under the same sequence numbers; what comes
//! too late is not made up for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{ApiKey, ProduceResponse};
use seawall_protocol::records::{BatchBuilder, Compression};

use super::TOPIC;
use super::ledger::{Acked, LARGE_BYTES, LARGE_FROM, Ledger, RecordId};
use super::wire::{PRODUCE_VERSION, Wire, produce_request};

pub const PRODUCERS: u32 = 8;
pub const PARTITIONS: i32 = 8;
const RECORDS_PER_BATCH: u32 = 16;
pub const BATCH_BYTES: u64 = RECORDS_PER_BATCH as u64 * LARGE_BYTES as u64;
const IN_FLIGHT_MAX: usize = 3;
/// Of a request: half of it may be spent on waiting for room.
const TIMEOUT_MS: i32 = 2_000;
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A producer that is further behind its schedule begins a new one.
const BEHIND_MAX: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What producers saw.
#[derive(Default)]
pub struct Events {
    state: Mutex<Seen>,
}

#[derive(Default, Clone)]
pub struct Seen {
    pub acks: Vec<Instant>,
    pub throttled: Vec<Instant>,
    pub refused: Vec<Instant>,
    pub errors: BTreeMap<String, u64>,
    pub final_errors: Vec<String>,
}

impl Events {
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// The last ack, the first throttle and the first refusal since then.
    pub fn since(&self, from: Instant) -> (Option<Instant>, Option<Instant>, Option<Instant>) {
        let seen = self.lock();
        let first = |times: &[Instant]| times.iter().copied().find(|at| *at >= from);
        (seen.acks.last().copied().filter(|at| *at >= from), first(&seen.throttled), first(&seen.refused))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Producer<'a> {
    pub number: u32,
    pub address: SocketAddr,
    /// Of one producer.
    pub bytes_per_second: u64,
    pub ledger: &'a Ledger,
    pub events: &'a Events,
    pub stop: &'a AtomicBool,
}

struct Batch {
    partition: i32,
    first: u64,
    bytes: Bytes,
}

#[derive(Default)]
struct Written {
    next_number: u64,
    next_sequence: i32,
}

impl Producer<'_> {
    /// Until `stop`, and until all that was sent is acked.
    pub fn run(&self) {
        let mut state = Sending {
            written: (0..PARTITIONS).map(|_| Written::default()).collect(),
            unacked: VecDeque::new(),
            next_partition: self.number as usize % PARTITIONS as usize,
            due: Instant::now(),
        };
        let mut identity = None;
        let mut give_up = None;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                let end = *give_up.get_or_insert_with(|| Instant::now() + DRAIN_MAX);
                if state.unacked.is_empty() {
                    return;
                }
                if Instant::now() > end {
                    self.events.lock().final_errors.push("not all was acked at the end".into());
                    return;
                }
            }
            // An error asks for another try, over a new connection.
            if self.session(&mut state, &mut identity).is_err() {
                thread::sleep(RETRY_AFTER);
            }
            if !self.events.lock().final_errors.is_empty() {
                return;
            }
        }
    }

    fn session(&self, state: &mut Sending, identity: &mut Option<(i64, i16)>) -> Result<()> {
        let mut wire = Wire::connect(self.address)?;
        let connected = Instant::now();
        let identity = match identity {
            Some(known) => *known,
            None => *identity.insert(wire.init_producer_id()?),
        };
        let mut sent = 0;
        loop {
            while sent < IN_FLIGHT_MAX {
                if sent == state.unacked.len() {
                    if self.stop.load(Ordering::Relaxed) || Instant::now() < state.due {
                        break;
                    }
                    self.write_batch(state, identity);
                }
                let batch = &state.unacked[sent];
                let mut request = produce_request(TOPIC, [(batch.partition, batch.bytes.clone())]);
                request.timeout_ms = TIMEOUT_MS;
                wire.send(ApiKey::Produce, PRODUCE_VERSION, &request)?;
                sent += 1;
            }
            if sent == 0 {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(state.due.saturating_duration_since(Instant::now()).min(RETRY_AFTER));
                continue;
            }
            let (_, response): (_, ProduceResponse) = wire.receive(ApiKey::Produce, PRODUCE_VERSION)?;
            sent -= 1;
            self.take_answer(connected, state, &response)?;
        }
    }

    fn write_batch(&self, state: &mut Sending, identity: (i64, i16)) {
        let interval = Duration::from_secs_f64(BATCH_BYTES as f64 / self.bytes_per_second as f64);
        if state.due.elapsed() > BEHIND_MAX {
            state.due = Instant::now();
        }
        state.due += interval;
        let partition = state.next_partition as i32;
        state.next_partition = (state.next_partition + 1) % PARTITIONS as usize;
        let written = &mut state.written[partition as usize];
        let mut builder = BatchBuilder::new(Compression::None).producer(identity.0, identity.1, written.next_sequence);
        let first = written.next_number;
        for number in first..first + u64::from(RECORDS_PER_BATCH) {
            let value = RecordId { producer: LARGE_FROM + self.number, partition, number }.value();
            builder.add(None, Some(&value), 1_700_000_000_000 + number as i64, &[]);
        }
        written.next_number += u64::from(RECORDS_PER_BATCH);
        written.next_sequence += RECORDS_PER_BATCH as i32;
        state.unacked.push_back(Batch { partition, first, bytes: builder.build() });
    }

    /// The answer to the oldest batch.
    fn take_answer(&self, connected: Instant, state: &mut Sending, response: &ProduceResponse) -> Result<()> {
        let mut events = self.events.lock();
        let now = Instant::now();
        let answer = &response.responses[0].partition_responses[0];
        if response.throttle_time_ms > 0 {
            events.throttled.push(now);
        }
        let code = ErrorCode::try_from(answer.error_code).unwrap_or(ErrorCode::UnknownServerError);
        if code == ErrorCode::None {
            events.acks.push(now);
            drop(events);
            let batch = state.unacked.pop_front().ok_or_else(|| Error::other("an ack too many"))?;
            self.ledger.ack(
                connected,
                Acked {
                    producer: LARGE_FROM + self.number,
                    partition: batch.partition,
                    first: batch.first,
                    count: RECORDS_PER_BATCH,
                    base_offset: answer.base_offset,
                },
            );
            return Ok(());
        }
        events.refused.push(now);
        *events.errors.entry(code.name().to_owned()).or_default() += 1;
        if !code.is_retriable() {
            events.final_errors.push(code.name().to_owned());
        }
        Err(Error::other(code.name()))
    }
}

struct Sending {
    written: Vec<Written>,
    /// Oldest first. The first ones are in flight.
    unacked: VecDeque<Batch>,
    next_partition: usize,
    due: Instant,
}
