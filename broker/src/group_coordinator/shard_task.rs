//! The task that owns the groups of one partition: it loads them, applies operations one after the other, appends what
//! they wrote, and hands out answers in the same order as that becomes durable.
//!
//! When an append fails, nobody knows what the log holds: every waiting request is dropped (its caller answers
//! NOT_COORDINATOR) and the log is read again, for as long as this broker leads the partition.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{BoxFuture, GroupCoordinator, GroupLog, LogError, QUEUED_OPERATIONS_MAX, load};
use crate::group::{GroupError, JoinAnswer, Now, RequestId, Synced};
use crate::group_shard::{GroupShard, LogRecord, Output, Surroundings};

/// Operations taken together into one append.
const ROUND_OPERATIONS_MAX: usize = 256;
/// Rounds whose records are not durable yet.
const ROUNDS_IN_FLIGHT_MAX: usize = 64;
/// Events are put together into batches of about this size; see [`batches`].
const BATCH_BYTES: usize = 256 << 10;
/// No event is larger, whatever the log takes: whoever reads it has it in memory whole.
const EVENT_BYTES_MAX: usize = 32 << 20;
const RETRY_FULL: Duration = Duration::from_millis(50);
const RELOAD_PAUSE: Duration = Duration::from_millis(100);
const RELOAD_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Sends one answer to its caller.
pub(super) type Delivery = Box<dyn FnOnce() + Send>;
pub(super) type Operation = Box<dyn FnOnce(&mut Context) -> Delivery + Send>;

/// What an operation works on.
pub(super) struct Context<'a> {
    pub(super) shard: &'a mut GroupShard,
    pub(super) parked: &'a mut Parked,
    pub(super) output: &'a mut Output,
    /// Taken as the operations run, so that no group sees topics as they were before what it has seen.
    pub(super) cluster: Surroundings<'a>,
    pub(super) now: Now,
}

/// Where the answers of parked requests go.
#[derive(Default)]
pub(super) struct Parked {
    joins: BTreeMap<RequestId, oneshot::Sender<JoinAnswer>>,
    syncs: BTreeMap<RequestId, oneshot::Sender<Result<Synced, GroupError>>>,
    closed: bool,
}

impl Parked {
    pub(super) fn join(&mut self, request: RequestId, answer: oneshot::Sender<JoinAnswer>) {
        if !self.closed {
            self.joins.insert(request, answer);
        }
    }

    pub(super) fn sync(&mut self, request: RequestId, answer: oneshot::Sender<Result<Synced, GroupError>>) {
        if !self.closed {
            self.syncs.insert(request, answer);
        }
    }

    /// Lets go of all, and takes in no more: their callers answer NOT_COORDINATOR.
    pub(super) fn close(&mut self) {
        *self = Self { closed: true, ..Self::default() };
    }
}

/// Answers that wait for their records, and for those of every round before.
struct Round {
    durable: BoxFuture<'static, Result<(), LogError>>,
    deliveries: Vec<Delivery>,
}

/// Loads and serves the partition, again and again, until `stop`.
pub(super) async fn supervise(
    coordinator: &GroupCoordinator,
    partition: i32,
    leader_epoch: i32,
    stop: CancellationToken,
) {
    let mut pause = RELOAD_PAUSE;
    loop {
        let began = Instant::now();
        let attempt = load_and_serve(coordinator, partition, leader_epoch);
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = attempt => ended,
        };
        coordinator.serve(partition, leader_epoch, None);
        coordinator.shared.metrics.unloads.inc();
        warn!(partition, leader_epoch, reason = ended, "groups unloaded, will load again");
        // A log that cannot be read stays so; one that broke after a while is worth a quick look.
        pause = if began.elapsed() > RELOAD_PAUSE_MAX { RELOAD_PAUSE } else { (2 * pause).min(RELOAD_PAUSE_MAX) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns why it cannot go on.
async fn load_and_serve(coordinator: &GroupCoordinator, partition: i32, leader_epoch: i32) -> String {
    let log = loop {
        match coordinator.shared.placement.log(partition, leader_epoch) {
            Some(log) => break log,
            // The partition is being opened, or its epoch has passed and `follow` is about to stop this.
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let began = Instant::now();
    let mut shard = coordinator.new_shard();
    shard.set_event_bytes_max(event_bytes_max(&*log));
    let loaded = match load::load(&*log, &mut shard, coordinator.now()).await {
        Ok(loaded) => loaded,
        Err(error) => return error.to_string(),
    };
    let mut output = Output::default();
    coordinator.finish_load(&mut shard, &mut output);
    if loaded.records > 0 {
        let (groups, elapsed_ms) = (shard.group_count(), began.elapsed().as_millis() as u64);
        let (records, bytes) = (loaded.records, loaded.bytes);
        info!(partition, leader_epoch, groups, records, bytes, elapsed_ms, "groups loaded");
    }
    let (sender, operations) = mpsc::channel(QUEUED_OPERATIONS_MAX);
    let task = ShardTask {
        coordinator,
        log,
        shard,
        parked: Parked::default(),
        in_flight: VecDeque::new(),
        operations,
        accounted_bytes: 0,
        accounted_groups: 0,
    };
    coordinator.shared.metrics.partitions.inc();
    coordinator.serve(partition, leader_epoch, Some(sender));
    match task.serve(output).await {
        LogError::Full => "no room in the log".to_owned(),
        LogError::Failed(why) => why,
    }
}

struct ShardTask<'a> {
    coordinator: &'a GroupCoordinator,
    log: std::sync::Arc<dyn GroupLog>,
    shard: GroupShard,
    parked: Parked,
    in_flight: VecDeque<Round>,
    operations: mpsc::Receiver<Operation>,
    /// This partition's part in the coordinator's sum.
    accounted_bytes: usize,
    accounted_groups: usize,
}

impl Drop for ShardTask<'_> {
    fn drop(&mut self) {
        let shared = &self.coordinator.shared;
        shared.bytes.fetch_sub(self.accounted_bytes, Ordering::Relaxed);
        shared.metrics.bytes.dec_by(self.accounted_bytes as i64);
        shared.metrics.groups.dec_by(self.accounted_groups as i64);
        shared.metrics.partitions.dec();
    }
}

impl ShardTask<'_> {
    async fn serve(mut self, first: Output) -> LogError {
        if let Err(error) = self.finish_round(first, Vec::new()).await {
            return error;
        }
        let check = Duration::from_millis(self.coordinator.shared.config.offsets_retention_check_interval_ms.max(1));
        let mut expiry = tokio::time::interval_at(Instant::now() + check, check);
        loop {
            let room = self.in_flight.len() < ROUNDS_IN_FLIGHT_MAX;
            let deadline = self.shard.next_deadline_ms().map(|at| self.coordinator.instant_of(at));
            let ended = tokio::select! {
                biased;
                durable = front(&mut self.in_flight) => self.deliver_front(durable),
                () = sleep_until(deadline), if room => self.tick().await,
                _ = expiry.tick(), if room => self.expire().await,
                operation = self.operations.recv(), if room => match operation {
                    Some(operation) => self.round(operation).await,
                    None => return LogError::Failed("stopped".to_owned()),
                },
            };
            if let Err(error) = ended {
                return error;
            }
        }
    }

    /// Applies this operation and those that wait behind it, and appends what they wrote as one.
    async fn round(&mut self, first: Operation) -> Result<(), LogError> {
        let mut output = Output::default();
        let deliveries = self.apply(first, &mut output);
        self.coordinator.shared.metrics.operations.inc_by(deliveries.len() as u64);
        self.finish_round(output, deliveries).await
    }

    fn apply(&mut self, first: Operation, output: &mut Output) -> Vec<Delivery> {
        let coordinator = self.coordinator;
        let view = coordinator.shared.placement.view();
        let cluster = Surroundings { view: &view, config_of: &|group| coordinator.consumer_config(group) };
        let mut deliveries = Vec::new();
        let mut next = Some(first);
        while let Some(operation) = next {
            let (shard, parked, now) = (&mut self.shard, &mut self.parked, coordinator.now());
            deliveries.push(operation(&mut Context { shard, parked, output, cluster, now }));
            output.end_event();
            let full = deliveries.len() >= ROUND_OPERATIONS_MAX;
            next = if full { None } else { self.operations.try_recv().ok() };
        }
        deliveries
    }

    /// Keeps the sums, and what this partition may hold of them, up to date.
    fn account(&mut self) {
        let sum = &self.coordinator.shared.bytes;
        let bytes = self.shard.bytes();
        let before = sum.fetch_add(bytes, Ordering::Relaxed) + bytes;
        sum.fetch_sub(self.accounted_bytes, Ordering::Relaxed);
        let others = before.saturating_sub(bytes + self.accounted_bytes);
        let groups = self.shard.group_count();
        let metrics = &self.coordinator.shared.metrics;
        metrics.bytes.inc_by(bytes as i64 - self.accounted_bytes as i64);
        metrics.groups.inc_by(groups as i64 - self.accounted_groups as i64);
        self.accounted_groups = groups;
        self.accounted_bytes = bytes;
        self.shard.set_bytes_max(self.coordinator.shared.config.bytes_max.saturating_sub(others));
    }

    async fn tick(&mut self) -> Result<(), LogError> {
        let mut output = Output::default();
        let view = self.coordinator.shared.placement.view();
        self.shard.tick(&view, self.coordinator.now(), &mut output);
        self.finish_round(output, Vec::new()).await
    }

    async fn expire(&mut self) -> Result<(), LogError> {
        let placement = &self.coordinator.shared.placement;
        let mut output = Output::default();
        self.shard.expire(placement.retention_time_ms(), |name, id| placement.topic_is(name, id), &mut output);
        let records = output.records.len();
        if records > 0 {
            self.coordinator.shared.metrics.expired_records.inc_by(records as u64);
            info!(records, "expired offsets and groups deleted");
        }
        self.finish_round(output, Vec::new()).await
    }

    async fn finish_round(&mut self, output: Output, mut deliveries: Vec<Delivery>) -> Result<(), LogError> {
        self.account();
        self.coordinator.shared.metrics.records.inc_by(output.records.len() as u64);
        self.coordinator.shared.metrics.assignments.inc_by(output.assignments);
        for (request, answer) in output.joins {
            if let Some(waiting) = self.parked.joins.remove(&request) {
                deliveries.push(Box::new(move || drop(waiting.send(answer))));
            }
        }
        for (request, answer) in output.syncs {
            if let Some(waiting) = self.parked.syncs.remove(&request) {
                deliveries.push(Box::new(move || drop(waiting.send(answer))));
            }
        }
        let mut appends = Vec::new();
        let codec = self.coordinator.shared.config.records_codec;
        let event_bytes_max = event_bytes_max(&*self.log);
        let now_ms = self.coordinator.now().wall_ms;
        for batch in batches(&output.records, &output.ends, codec, now_ms, event_bytes_max) {
            appends.push(self.append(batch).await?);
        }
        if appends.is_empty() && self.in_flight.is_empty() {
            return self.deliver(deliveries);
        }
        let durable = Box::pin(async move {
            for append in appends {
                append.await?;
            }
            Ok(())
        });
        self.in_flight.push_back(Round { durable, deliveries });
        Ok(())
    }

    /// Waits for room, within limits: the state is ahead of the log already.
    async fn append(&mut self, batch: bytes::Bytes) -> Result<BoxFuture<'static, Result<(), LogError>>, LogError> {
        let limit = Duration::from_millis(self.coordinator.shared.config.offsets_commit_timeout_ms);
        let give_up = Instant::now() + limit;
        loop {
            match self.log.append(batch.clone()) {
                Err(LogError::Full) if Instant::now() < give_up => tokio::time::sleep(RETRY_FULL).await,
                appended => return appended,
            }
        }
    }

    fn deliver_front(&mut self, durable: Result<(), LogError>) -> Result<(), LogError> {
        let round = self.in_flight.pop_front().expect("a future that resolved is there");
        durable?;
        self.deliver(round.deliveries)
    }

    fn deliver(&self, deliveries: Vec<Delivery>) -> Result<(), LogError> {
        if !deliveries.is_empty() && !self.coordinator.shared.placement.may_answer() {
            return Err(LogError::Failed("the lease has ended".to_owned()));
        }
        for deliver in deliveries {
            deliver();
        }
        Ok(())
    }
}

/// Resolves with the oldest round's outcome; never, if there is none. Safe to drop: the round keeps its future.
async fn front(in_flight: &mut VecDeque<Round>) -> Result<(), LogError> {
    match in_flight.front_mut() {
        Some(round) => round.durable.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Compression may make a batch a little larger.
fn event_bytes_max(log: &dyn GroupLog) -> usize {
    let batch_bytes_max = log.batch_bytes_max();
    (batch_bytes_max - batch_bytes_max / 16).min(EVENT_BYTES_MAX)
}

/// What one event wrote is in one batch, which is in the log whole or not at all. An event beyond `event_bytes_max` is
/// split: the shard lets that happen only where a part of it does no harm.
fn batches(
    records: &[LogRecord],
    ends: &[usize],
    codec: Compression,
    timestamp_ms: i64,
    event_bytes_max: usize,
) -> Vec<bytes::Bytes> {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new(codec);
    let mut from = 0;
    for to in ends.iter().copied().chain([records.len()]) {
        let event = &records[from..to];
        from = to;
        let event_bytes: usize = event.iter().map(LogRecord::bytes).sum();
        if !builder.is_empty() && builder.uncompressed_bytes() + event_bytes > BATCH_BYTES {
            batches.push(std::mem::replace(&mut builder, BatchBuilder::new(codec)).build());
        }
        for record in event {
            if !builder.is_empty() && builder.uncompressed_bytes() + record.bytes() > event_bytes_max {
                batches.push(std::mem::replace(&mut builder, BatchBuilder::new(codec)).build());
            }
            builder.add(Some(&record.key), record.value.as_deref(), timestamp_ms, &[]);
        }
    }
    if !builder.is_empty() {
        batches.push(builder.build());
    }
    batches
}

#[cfg(test)]
mod tests {
    use seawall_protocol::records::BatchHeader;

    use super::*;

    #[test]
    fn what_one_event_wrote_is_in_one_batch() {
        const MAX: usize = 1 << 20;
        let record = |bytes: usize| LogRecord { key: vec![0; bytes].into(), value: None };
        let records: Vec<LogRecord> = (0..6).map(|_| record(BATCH_BYTES / 3)).collect();
        let counts = |ends: &[usize]| -> Vec<i32> {
            let batches = batches(&records, ends, Compression::None, 0, MAX);
            batches.iter().map(|batch| BatchHeader::parse(batch).unwrap().record_count).collect()
        };
        assert_eq!(counts(&[1, 2, 3, 4, 5, 6]), [2, 2, 2]);
        assert_eq!(counts(&[4, 6]), [4, 2]);
        assert_eq!(counts(&[1, 6]), [1, 5]);
        assert_eq!(counts(&[]), [6]);
        // But no batch is larger than the log takes.
        let records: Vec<LogRecord> = (0..3).map(|_| record(MAX / 2 + 1)).collect();
        assert_eq!(batches(&records, &[3], Compression::None, 0, MAX).len(), 3);
        // What the shard takes for one batch is one.
        let records: Vec<LogRecord> = (0..3_000).map(|_| record(300)).collect();
        let bytes = crate::group_shard::event_bytes(&records);
        assert_eq!(batches(&records, &[3_000], Compression::None, 0, bytes).len(), 1);
    }
}
