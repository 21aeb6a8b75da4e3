//! The producer: one idempotent client, records numbered by partition, at a constant rate. What comes too late is not made up for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message};

use super::Args;
use super::content::{COMPACTED, Content, RecordId};
use crate::cluster::clients::REQUEST_MAX;

/// One record of the compacted topic for so many of the other.
const COMPACTED_EVERY: u64 = 32;
/// Further behind its schedule, a new one begins.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// What has been acked, for those that read.
pub struct Acked {
    /// By partition, that of the compacted topic last: how many records.
    records: Vec<AtomicU64>,
    /// Values of the topic that is not compacted.
    bytes: AtomicU64,
    /// At another offset than its number.
    elsewhere: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
    /// Nothing more will be acked.
    done: AtomicBool,
    over: AtomicBool,
}

impl Acked {
    pub fn records(&self) -> u64 {
        self.records[..self.records.len() - 1].iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    pub fn of(&self, partition: usize) -> u64 {
        self.records[partition].load(Ordering::Acquire)
    }

    pub fn of_compacted(&self) -> u64 {
        self.of(self.records.len() - 1)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn elsewhere(&self) -> u64 {
        self.elsewhere.load(Ordering::Relaxed)
    }

    pub fn not_acked(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        self.failed.load(Ordering::Relaxed) + sent.saturating_sub(self.answered.load(Ordering::Relaxed))
    }

    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

struct Acks(Arc<Acked>);

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let acked = &self.0;
        acked.answered.fetch_add(1, Ordering::Relaxed);
        let message = match result {
            Ok(message) => message,
            Err((error, _)) => {
                if acked.failed.fetch_add(1, Ordering::Relaxed) < 5 {
                    eprintln!("not acked: {error}");
                }
                return;
            }
        };
        let Some((value, id)) = message.payload().and_then(|value| Some((value, Content::id_of(value)?))) else {
            return;
        };
        // A client that learns of an ack by a repeated record may not know the offset.
        if message.offset() >= 0 && message.offset() as u64 != id.number {
            acked.elsewhere.fetch_add(1, Ordering::Relaxed);
        }
        let at = if id.partition == COMPACTED { acked.records.len() - 1 } else { id.partition as usize };
        acked.records[at].fetch_max(id.number + 1, Ordering::AcqRel);
        if id.partition != COMPACTED {
            acked.bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
        }
    }
}

pub struct Producing {
    producer: BaseProducer<Acks>,
    acked: Arc<Acked>,
    content: Arc<Content>,
}

impl Producing {
    pub fn open(args: &Args, content: &Arc<Content>) -> Result<Self> {
        let partitions = usize::try_from(args.partitions)?;
        let acked = Arc::new(Acked {
            records: (0..=partitions).map(|_| AtomicU64::new(0)).collect(),
            bytes: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            done: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &args.bootstrap)
            .set("client.id", "seawall-soak")
            .set("log_level", "2")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // As long as it takes: the drain is the bound.
            .set("message.timeout.ms", "0")
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("queue.buffering.max.kbytes", "65536")
            .set("reconnect.backoff.max.ms", "500");
        let producer: BaseProducer<Acks> = config.create_with_context(Acks(Arc::clone(&acked)))?;
        producer.client().fetch_metadata(Some(&args.topic), REQUEST_MAX)?;
        Ok(Self { producer, acked, content: Arc::clone(content) })
    }

    pub fn acked(&self) -> Arc<Acked> {
        Arc::clone(&self.acked)
    }

    /// Until all is sent and acked, or the drain is over.
    pub fn run(&self, args: &Args, drain: Duration) {
        let mut next = vec![0; self.acked.records.len()];
        let (mut sent_bytes, bytes_max) = (0, args.mib << 20);
        let bytes_per_s = args.mib_per_s.max(0.001) * f64::from(1 << 20);
        let (mut due, began) = (Instant::now(), Instant::now());
        let mut value = Vec::new();
        for turn in 0.. {
            let is_late = began.elapsed().as_secs_f64() > args.seconds_max;
            if sent_bytes >= bytes_max || is_late || self.acked.failed.load(Ordering::Relaxed) > 0 {
                break;
            }
            let partition = (turn % args.partitions as u64) as u32;
            let mut bytes = self.send(&args.topic, partition, &mut next, &mut value);
            sent_bytes += bytes;
            if turn % COMPACTED_EVERY == 0 {
                bytes += self.send(&args.compacted_topic, COMPACTED, &mut next, &mut value);
            }
            self.producer.poll(Duration::ZERO);
            due += Duration::from_secs_f64(bytes as f64 / bytes_per_s);
            let now = Instant::now();
            if now > due + BEHIND_MAX {
                due = now;
            } else if due > now + Duration::from_millis(2) {
                thread::sleep(due - now);
            }
        }
        let end = Instant::now() + drain;
        while self.acked.not_acked() > 0 && self.acked.failed.load(Ordering::Relaxed) == 0 && Instant::now() < end {
            self.producer.poll(Duration::from_millis(50));
        }
        self.acked.done.store(true, Ordering::Release);
    }

    fn send(&self, topic: &str, partition: u32, next: &mut [u64], value: &mut Vec<u8>) -> u64 {
        let (slot, to) = if partition == COMPACTED { (next.len() - 1, 0) } else { (partition as usize, partition) };
        let id = RecordId { partition, number: next[slot] };
        self.content.write(id, value);
        let key = self.content.key(id.number).to_be_bytes();
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(to as i32).payload(value);
        if partition == COMPACTED {
            record = record.key(&key);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => record = again,
                Err((error, _)) => {
                    eprintln!("send: {error}");
                    self.acked.failed.fetch_add(1, Ordering::Relaxed);
                    return 0;
                }
            }
            self.producer.poll(Duration::from_millis(20));
        }
        next[slot] += 1;
        self.acked.sent.fetch_add(1, Ordering::Relaxed);
        value.len() as u64
    }
}
