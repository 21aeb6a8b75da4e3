//! Consumers that compare all they read: one at the tail, one that reads from the log's start to its end again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::Args;
use super::content::{Content, RecordId};
use super::produce::Acked;
use super::report::Side;
use crate::cluster::clients::REQUEST_MAX;

/// A broker that starts again, and a store that is away for a minute, are waited for.
const ANSWER_MAX: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

/// What readers have seen so far.
#[derive(Default)]
pub struct Totals {
    passes: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
    missing: AtomicU64,
    doubled: AtomicU64,
    behind_retention: AtomicU64,
}

impl Totals {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn side(&self) -> Side {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Side {
            passes: of(&self.passes),
            records: of(&self.records),
            bytes: of(&self.bytes),
            wrong: of(&self.wrong),
            missing: of(&self.missing),
            doubled: of(&self.doubled),
            behind_retention: of(&self.behind_retention),
        }
    }
}

/// Reads everything from the first record to the last that is acked.
pub fn tail(args: &Args, content: &Arc<Content>, acked: &Acked, totals: &Totals, drain: Duration) -> Result<()> {
    let mut reader = Reader::open(args, content, totals)?;
    reader.begin(&vec![0; args.partitions as usize])?;
    let mut give_up = None;
    loop {
        let idle = !reader.poll()?;
        if idle && acked.is_done() {
            let all = reader.next.iter().enumerate().all(|(partition, next)| *next as u64 >= acked.of(partition));
            let give_up = *give_up.get_or_insert_with(|| Instant::now() + drain);
            if all || Instant::now() > give_up {
                reader.note_unread(acked);
                return Ok(());
            }
        }
    }
}

/// From the start of the log to its end of that moment, and again, until nothing more is produced.
pub fn replay(args: &Args, content: &Arc<Content>, acked: &Acked, totals: &Totals) -> Result<()> {
    let mut reader = Reader::open(args, content, totals)?;
    let (began, bytes_per_s) = (Instant::now(), args.replay_mib_per_s * f64::from(1 << 20));
    while !acked.is_done() {
        let ends = reader.begin_at_start()?;
        let mut last = (totals.bytes(), Instant::now());
        while !acked.is_done() && !reader.has_read(&ends) {
            reader.poll()?;
            let bytes = totals.bytes();
            if bytes > last.0 {
                last = (bytes, Instant::now());
            }
            ensure!(last.1.elapsed() < ANSWER_MAX, "the reader from the start gets nothing");
            let due = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1.0));
            thread::sleep(due.saturating_sub(began.elapsed()).min(Duration::from_millis(100)));
        }
        if reader.has_read(&ends) {
            totals.passes.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

pub struct Reader<'a> {
    consumer: BaseConsumer,
    content: &'a Content,
    totals: &'a Totals,
    topic: &'a str,
    /// By partition.
    next: Vec<i64>,
    retention_bytes: u64,
}

/// What the log's start leaves.
pub struct Kept {
    pub bytes: u64,
    /// Of which less is left than retention allows.
    pub cut_short: u64,
}

impl<'a> Reader<'a> {
    pub fn open(args: &'a Args, content: &'a Content, totals: &'a Totals) -> Result<Self> {
        let consumer = consumer(args)?;
        let next = vec![0; usize::try_from(args.partitions)?];
        Ok(Self { consumer, content, totals, topic: &args.topic, next, retention_bytes: args.retention_bytes })
    }

    /// All that is left of the log, after the last ack.
    pub fn last_pass(&mut self, acked: &Acked, drain: Duration) -> Result<Kept> {
        let ends = self.begin_at_start()?;
        let mut kept = Kept { bytes: 0, cut_short: 0 };
        let starts = self.next.clone();
        let mut left = vec![0; ends.len()];
        let end = Instant::now() + drain;
        while !self.has_read(&ends) && Instant::now() < end {
            if let Some((partition, bytes)) = self.poll_one()? {
                left[partition] += bytes;
            }
        }
        self.totals.passes.fetch_add(1, Ordering::Relaxed);
        self.note_unread(acked);
        for (partition, bytes) in left.into_iter().enumerate() {
            kept.bytes += bytes;
            kept.cut_short += u64::from(starts[partition] > 0 && bytes < self.retention_bytes);
        }
        Ok(kept)
    }

    /// What is acked and lies beyond what was read is missing.
    fn note_unread(&self, acked: &Acked) {
        for (partition, next) in self.next.iter().enumerate() {
            let missing = acked.of(partition).saturating_sub(*next as u64);
            self.totals.missing.fetch_add(missing, Ordering::Relaxed);
        }
    }

    /// Begins at the start of the log; returns where each partition ends now.
    fn begin_at_start(&mut self) -> Result<Vec<i64>> {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for partition in 0..self.next.len() {
            let (start, end) = self.watermarks(partition as i32)?;
            starts.push(start);
            ends.push(end);
        }
        self.begin(&starts)?;
        Ok(ends)
    }

    fn begin(&mut self, starts: &[i64]) -> Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, start) in starts.iter().enumerate() {
            assignment.add_partition_offset(self.topic, partition as i32, Offset::Offset(*start))?;
        }
        self.next = starts.to_vec();
        self.consumer.unassign()?;
        Ok(self.consumer.assign(&assignment)?)
    }

    fn has_read(&self, ends: &[i64]) -> bool {
        self.next.iter().zip(ends).all(|(next, end)| next >= end)
    }

    /// False when nothing came.
    fn poll(&mut self) -> Result<bool> {
        Ok(self.poll_one()?.is_some())
    }

    /// The partition and the bytes of a record.
    fn poll_one(&mut self) -> Result<Option<(usize, u64)>> {
        let (partition, offset, bytes, is_right) = match self.consumer.poll(POLL) {
            // Errors of the connection are what a killed broker looks like; what is lost by any other is missed.
            None | Some(Err(_)) => return Ok(None),
            Some(Ok(message)) => {
                let value = message.payload().unwrap_or_default();
                let id = RecordId { partition: message.partition() as u32, number: message.offset() as u64 };
                let is_right = self.content.is(id, value);
                if !is_right && self.totals.wrong.load(Ordering::Relaxed) < 5 {
                    eprintln!("at {id:?}: {} bytes of {:?}", value.len(), Content::id_of(value));
                }
                (message.partition() as usize, message.offset(), value.len() as u64, is_right)
            }
        };
        self.totals.records.fetch_add(1, Ordering::Relaxed);
        self.totals.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.totals.wrong.fetch_add(u64::from(!is_right), Ordering::Relaxed);
        let next = self.next[partition];
        if offset < next {
            self.totals.doubled.fetch_add(1, Ordering::Relaxed);
            return Ok(Some((partition, bytes)));
        }
        if offset > next {
            // Retention may have gone past the reader; then the log begins behind the hole.
            let (start, _) = self.watermarks(partition as i32)?;
            let gone = (start.clamp(next, offset) - next) as u64;
            self.totals.behind_retention.fetch_add(gone, Ordering::Relaxed);
            self.totals.missing.fetch_add((offset - next) as u64 - gone, Ordering::Relaxed);
            if start < offset {
                eprintln!("partition {partition}: nothing from {next} to {offset}; the log begins at {start}");
            }
        }
        self.next[partition] = offset + 1;
        Ok(Some((partition, bytes)))
    }

    fn watermarks(&self, partition: i32) -> Result<(i64, i64)> {
        watermarks(&self.consumer, self.topic, partition)
    }
}

pub fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64)> {
    let end = Instant::now() + ANSWER_MAX;
    loop {
        match consumer.fetch_watermarks(topic, partition, REQUEST_MAX) {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("watermarks of partition {partition}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

pub fn consumer(args: &Args) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &args.bootstrap)
        .set("client.id", "seawall-soak")
        .set("log_level", "2")
        .set("group.id", "seawall-soak")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "500");
    Ok(config.create()?)
}
