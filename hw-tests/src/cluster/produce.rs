//! Senders, their connections, and the acks that come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message};

use super::clients;
use super::record::{self, Stamp};
use super::report::{latency_histogram, record_latency};
use super::run::Shared;
use super::schedule::Schedule;

/// One client: its records are numbered per partition.
pub struct Connection {
    producer: Arc<BaseProducer<Acks>>,
    number: u32,
    next_partition: usize,
    /// The next sequence of each partition.
    sequences: Vec<u64>,
}

/// What a client does with acks, on the thread that polls it.
pub struct Acks {
    shared: Arc<Shared>,
    connection: u32,
    acked: AtomicU64,
    latencies: Arc<Mutex<Histogram<u64>>>,
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => self.acked(message),
            Err((error, _)) => self.shared.delivery_failed(error),
        }
    }
}

impl Acks {
    fn acked(&self, message: &impl Message) {
        let Some(stamp) = message.payload().and_then(Stamp::read) else { return };
        let now_ns = self.shared.now_ns();
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.shared.acked((self.connection, message.partition()), stamp.sequence, message.offset(), now_ns);
        if stamp.due_ns >= self.shared.warm_ns {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            record_latency(&mut latencies, now_ns.saturating_sub(stamp.due_ns));
        }
    }
}

impl Connection {
    pub fn open(
        config: &ClientConfig,
        shared: &Arc<Shared>,
        number: u32,
        latencies: &Arc<Mutex<Histogram<u64>>>,
    ) -> Result<Self> {
        let acks = Acks {
            shared: Arc::clone(shared),
            connection: number,
            acked: AtomicU64::new(0),
            latencies: Arc::clone(latencies),
        };
        let producer: Arc<BaseProducer<Acks>> = Arc::new(config.create_with_context(acks)?);
        // Connects now, so that the schedule does not begin with it.
        producer.client().fetch_metadata(Some(&shared.topic), clients::REQUEST_MAX).context("no metadata")?;
        // Acks are timed when they come, so each client has a thread that waits for them, to the end of the process.
        thread::Builder::new().name(format!("acks-{number}")).stack_size(256 << 10).spawn({
            let producer = Arc::clone(&producer);
            move || {
                loop {
                    producer.poll(Duration::from_secs(1));
                }
            }
        })?;
        let partitions = shared.partitions();
        Ok(Self { producer, number, next_partition: number as usize * 7 % partitions, sequences: vec![0; partitions] })
    }

    pub fn acked(&self) -> u64 {
        self.producer.context().acked.load(Ordering::Relaxed)
    }

    /// Sends the next record; waits while the client's queue is full, but not beyond `end`.
    fn send(&mut self, shared: &Shared, record: &mut [u8], due_ns: u64, end: Instant) -> Result<bool> {
        let at = self.next_partition;
        self.next_partition = (at + 1) % self.sequences.len();
        let stamp = Stamp { run: shared.id, connection: self.number, sequence: self.sequences[at], due_ns };
        stamp.write(record);
        let record: &[u8] = record;
        let mut next = BaseRecord::<(), [u8]>::to(&shared.topic).partition(i32::try_from(at)?).payload(record);
        loop {
            match self.producer.send(next) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => next = again,
                Err((error, _)) => bail!("send: {error}"),
            }
            if Instant::now() > end || shared.stop.is_asked() {
                return Ok(false);
            }
            thread::sleep(Duration::from_micros(500));
        }
        self.sequences[at] += 1;
        shared.sent.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

/// One sending thread with its connections.
pub struct Sender {
    pub shared: Arc<Shared>,
    pub schedule: Schedule,
    pub connections: Vec<Connection>,
    pub records_max: u64,
    pub record_bytes: usize,
    pub sending_time: Duration,
    pub drain: Duration,
}

/// How late records left the sender itself: what of the latencies is the generator's.
pub struct Sent {
    pub connections: Vec<Connection>,
    pub lateness: Histogram<u64>,
}

impl Sender {
    pub fn run(mut self) -> Result<Sent> {
        let mut record = record::template(self.record_bytes, self.shared.id);
        let mut lateness = latency_histogram();
        let records = self.schedule.due_before(self.sending_time).min(self.records_max);
        // A record that is due is sent, even when the broker is slow; it is given up only with the drain.
        let end = self.shared.began() + self.sending_time;
        let give_up = if self.schedule.is_open_loop() { end + self.drain } else { end };
        let mut now = self.shared.elapsed();
        for n in 0..records {
            if self.shared.stop.is_asked() {
                break;
            }
            let due = self.schedule.due(n);
            if self.schedule.is_open_loop() {
                while now < due {
                    thread::sleep(due - now);
                    now = self.shared.elapsed();
                }
            } else {
                now = self.shared.elapsed();
                if now >= self.sending_time {
                    break;
                }
            }
            let due_ns = if self.schedule.is_open_loop() { due } else { now }.as_nanos() as u64;
            let at = (n % self.connections.len() as u64) as usize;
            if !self.connections[at].send(&self.shared, &mut record, due_ns, give_up)? {
                break;
            }
            if self.schedule.is_open_loop() && due_ns >= self.shared.warm_ns {
                now = self.shared.elapsed();
                record_latency(&mut lateness, now.saturating_sub(due).as_nanos() as u64);
            }
        }
        Ok(Sent { connections: self.connections, lateness })
    }
}
