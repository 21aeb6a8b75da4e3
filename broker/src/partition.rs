//! A leader's state of one partition: offsets, high watermark, producers, who waits for what.
//!
//! The write path in one function, [`Partition::append_reserved`]: WAL space is reserved before, so that nothing can fail
//! after an offset is assigned; then under one short lock the batch is fenced (leader epoch, lease), judged against its
//! producer's sequence, given its offsets and handed to the WAL. Queue order is offset order.
//! Promises: record bytes are not copied (a patched copy of the 61-byte header sits beside them); a partition is marked
//! dirty in metadata before its first byte goes to the WAL; an answer comes from the WAL's completions alone, or under ack class
//! `backend` from commits of uploads.
//! On a broker without a WAL a batch stays in memory instead, and its partition is never dirty.
//! Leaves to others: up to where is acked (`ack_class.rs`), the order of completions and the lease's span (`completion.rs`), reading (`read_path.rs`), uploading.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use seawall_metadata::{LeaderEpoch, Offset, PartitionId, StreamId};
use seawall_protocol::records::{self, BATCH_HEADER_BYTES, BatchHeader, TimestampType};
use seawall_wal_device::{RecordHeader, RecordPosition, Reservation, SpaceClass};
use tokio::sync::{oneshot, watch};

use crate::append_log::{AppendLog, AppendSpace};
use crate::log_cache::{BatchBytes, BatchEntry, BatchProducer, StreamTail, TailLookup};
use crate::memory_log::MemorySpace;
use crate::partition_log::{Answer, DueAnswer, PartitionLog};
use crate::partitions::PartitionError;
use crate::producer_state::{ProducerSnapshot, Sequence, SequenceError, Verdict};
use crate::storage::{BrokerWal, Storage};
use crate::topic_config::{SharedTopicConfig, TopicConfig};

/// Why a batch was not appended, or is not known to be durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another broker leads the partition, or this one's lease has ended. After an append: the outcome is unknown.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// The topic was deleted.
    #[error("the partition was deleted")]
    Deleted,
    #[error("the partition is at leader epoch {current}, not {expected}")]
    FencedLeaderEpoch { expected: i32, current: i32 },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Nothing was appended; space comes back as uploads are committed.
    #[error("the write-ahead log is full")]
    WalFull,
    /// The batch is larger than a WAL record can be.
    #[error("a batch of {bytes} bytes is too large for the write-ahead log")]
    TooLarge { bytes: usize },
    /// Nothing was appended; uploads are far behind.
    #[error("too many offsets are not committed yet")]
    TooFarAhead,
    /// After an append: the outcome is unknown.
    #[error("the write-ahead log failed: {0}")]
    WalFailed(String),
}

/// Why a question to the leader of a partition is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(transparent)]
    Ended(AppendError),
    /// The client's metadata is older than this broker's.
    #[error("the client knows leader epoch {known}, the partition is at {current}")]
    Fenced { known: i32, current: i32 },
    /// The client's metadata is newer than this broker's.
    #[error("the client knows leader epoch {known}, the partition is at {current}")]
    Unknown { known: i32, current: i32 },
}

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    /// A coordinator, under the leader epoch in which it loaded its state.
    Coordinator {
        expected_leader_epoch: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    pub log_start: i64,
    pub high_watermark: i64,
    pub last_stable: i64,
    pub log_end: i64,
    /// Everything below is in objects.
    pub committed_end: i64,
}

pub struct Partition {
    id: PartitionId,
    topic: Arc<str>,
    stream: StreamId,
    internal: bool,
    config: SharedTopicConfig,
    /// Names this partition in WAL completions. Not reused while the process runs.
    token: u64,
    append_log: AppendLog,
    storage: Arc<Storage>,
    state: Mutex<State>,
    high_watermark: watch::Sender<i64>,
}

struct State {
    log: PartitionLog,
    mark: Mark,
    /// Admitted batches that wait for the dirty mark.
    held: Vec<Held>,
    /// What batches that lie in memory alone take, by their last offsets, until they are committed.
    in_memory: VecDeque<(i64, MemorySpace)>,
}

/// Whether metadata knows that the WAL may hold data of this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `generation` is the last one that metadata has seen.
    Clean {
        generation: u64,
    },
    /// A mark of this generation is being proposed; the WAL gets nothing until it is committed.
    Marking {
        generation: u64,
    },
    Dirty {
        generation: u64,
    },
}

struct Held {
    reservation: Reservation,
    header: RecordHeader,
    batch: BatchBytes,
}

/// An appended batch (or the original of a duplicate) that may not be durable yet.
#[must_use = "an append is acked only after `durable`"]
#[derive(Debug)]
pub struct PendingAppend {
    pub base_offset: i64,
    /// -1 unless the topic uses `LogAppendTime`.
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
    /// The batch was appended before; its offsets are the original's.
    pub duplicate: bool,
    answer: oneshot::Receiver<Answer>,
    storage: Arc<Storage>,
}

/// What a new [`Partition`] is made of.
pub struct PartitionParts {
    pub id: PartitionId,
    pub topic: Arc<str>,
    /// An internal topic: clients may not write to it.
    pub internal: bool,
    pub config: SharedTopicConfig,
    pub stream: StreamId,
    pub token: u64,
    pub append_log: AppendLog,
    pub log: PartitionLog,
    pub mark: Mark,
}

impl Partition {
    pub fn new(storage: Arc<Storage>, parts: PartitionParts) -> Self {
        let high_watermark = watch::Sender::new(parts.log.high_watermark());
        if parts.log.waits_for_commit() {
            storage.commit_waits.add(parts.stream, parts.log.tail.bytes_uncommitted());
        }
        Self {
            id: parts.id,
            topic: parts.topic,
            internal: parts.internal,
            config: parts.config,
            stream: parts.stream,
            token: parts.token,
            append_log: parts.append_log,
            storage,
            state: Mutex::new(State { log: parts.log, mark: parts.mark, held: Vec::new(), in_memory: VecDeque::new() }),
            high_watermark,
        }
    }

    /// Reserves WAL space and appends, for coordinators: internal topics may use the space that is kept for them.
    ///
    /// `batch` is one whole v2 batch with a valid CRC, `header` its header. Never waits.
    pub fn append(
        self: &Arc<Self>,
        batch: Bytes,
        header: BatchHeader,
        origin: Origin,
    ) -> Result<PendingAppend, AppendError> {
        let reservation = self.reserve(batch.len(), SpaceClass::Internal)?;
        self.append_reserved(batch, header, origin, reservation)
    }

    /// Space for one batch.
    pub fn reserve(&self, batch_bytes: usize, class: SpaceClass) -> Result<AppendSpace, AppendError> {
        // The index of what is not uploaded has its limit too; internal topics may go beyond it.
        if class == SpaceClass::Normal && self.storage.cache.index_is_full() {
            return Err(AppendError::WalFull);
        }
        self.append_log.reserve(batch_bytes, class)
    }

    /// Assigns offsets and hands the batch to the WAL, or answers for the original of a duplicate. Never waits.
    ///
    /// The checks of the header's counts and CRC are behind the caller. The order of calls is the order of offsets.
    pub fn append_reserved(
        self: &Arc<Self>,
        batch: Bytes,
        header: BatchHeader,
        origin: Origin,
        space: AppendSpace,
    ) -> Result<PendingAppend, AppendError> {
        assert_eq!(header.total_bytes(), batch.len(), "exactly one whole batch");
        let now_ms = self.storage.clock.now_ms();
        let mut state = self.lock();
        self.fence(&state.log, origin)?;
        let sequence = sequence_of(&header);
        if let Some(sequence) = &sequence
            && let Verdict::Duplicate(original) = state.log.producers.check(sequence)?
        {
            let answer = state.log.wait_for(original.last_offset);
            let pending = self.pending(&state.log, original.base_offset, &header, original.timestamp_ms, answer);
            return Ok(PendingAppend { duplicate: true, ..pending });
        }
        let mut released = self.follow_class(&mut state);
        let base = state.log.next_base(i64::from(header.last_offset_delta) + 1)?;
        let last = base + i64::from(header.last_offset_delta);
        let leader_epoch = state.log.leader_epoch();
        let batch = crate::faults::drop_record(with_offset(batch, base, leader_epoch));
        let entry = BatchEntry {
            base,
            last,
            leader_epoch,
            max_timestamp: header.max_timestamp,
            record_count: header.record_count.unsigned_abs(),
            bytes: u32::try_from(batch.len()).expect("a frame is shorter than 4 GiB"),
            producer: sequence.as_ref().map(BatchProducer::from),
        };
        let answer = state.log.admit(entry, batch.clone(), sequence.as_ref(), now_ms);
        let answer = crate::faults::ack_early(answer);
        match space {
            AppendSpace::Wal(reservation) => {
                let record = RecordHeader { stream: self.stream.0, leader_epoch, base_offset: base, last_offset: last };
                self.hand_over(&mut state, Held { reservation, header: record, batch });
            }
            AppendSpace::Memory(space) => released.extend(self.keep(&mut state, &entry, space)),
        }
        let pending = self.pending(&state.log, base, &header, header.max_timestamp, answer);
        drop(state);
        send(released);
        Ok(pending)
    }

    /// Acks from now on as the topic's config says now.
    fn follow_class(&self, state: &mut State) -> Vec<DueAnswer> {
        let class = self.append_log.ack_class(self.config().ack);
        if class == state.log.ack_class() {
            return Vec::new();
        }
        let due = state.log.change_ack_class(class);
        self.show_high_watermark(&state.log);
        due
    }

    /// The topic's configs have changed: what is durable in the WAL may be enough from now on.
    pub(crate) fn follow_ack_class(&self) {
        let mut state = self.lock();
        // Without the lease nothing moves; the next append or commit looks again.
        if state.log.ended().is_some() || !self.storage.lease_valid() {
            return;
        }
        let due = self.follow_class(&mut state);
        drop(state);
        send(due);
    }

    /// Under the lock, so that watchers see it grow.
    fn show_high_watermark(&self, log: &PartitionLog) {
        let to = log.high_watermark();
        self.high_watermark.send_if_modified(|shown| std::mem::replace(shown, to) != to);
    }

    fn fence(&self, log: &PartitionLog, origin: Origin) -> Result<(), AppendError> {
        if let Some(error) = log.ended() {
            return Err(error.clone());
        }
        if !self.storage.lease_valid() {
            return Err(AppendError::NotLeader);
        }
        match origin {
            Origin::Coordinator { expected_leader_epoch: expected } if expected != log.leader_epoch() => {
                Err(AppendError::FencedLeaderEpoch { expected, current: log.leader_epoch() })
            }
            Origin::Coordinator { .. } | Origin::Client => Ok(()),
        }
    }

    /// Stays in memory, and waits for its upload at once. Metadata need not know: nothing of it is acked before the commit.
    fn keep(&self, state: &mut State, entry: &BatchEntry, space: MemorySpace) -> Vec<DueAnswer> {
        let AppendLog::Memory(log) = &self.append_log else { panic!("space of another kind of log") };
        state.in_memory.push_back((entry.last, space));
        state.log.placed_in_memory(log.position(entry.bytes));
        self.advance_locked(state)
    }

    /// To the WAL's queue, or to those that wait for the dirty mark. Under the lock, so that queue order is offset order.
    fn hand_over(self: &Arc<Self>, state: &mut State, held: Held) {
        match state.mark {
            Mark::Dirty { .. } => self.queue(held),
            Mark::Marking { .. } => state.held.push(held),
            Mark::Clean { generation } => {
                state.mark = Mark::Marking { generation: generation + 1 };
                state.held.push(held);
                self.storage.ask_for_dirty_mark(self.clone());
            }
        }
    }

    fn queue(&self, held: Held) {
        let wal = self.append_log.wal().expect("reserved there");
        wal.append(held.reservation, held.header, &held.batch, self.token);
    }

    fn pending(
        &self,
        log: &PartitionLog,
        base_offset: i64,
        header: &BatchHeader,
        timestamp_ms: i64,
        answer: oneshot::Receiver<Answer>,
    ) -> PendingAppend {
        let log_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
        PendingAppend {
            base_offset,
            log_append_time_ms: if log_append_time { timestamp_ms } else { -1 },
            log_start_offset: log.log_start(),
            duplicate: false,
            answer,
            storage: self.storage.clone(),
        }
    }

    pub fn id(&self) -> PartitionId {
        self.id
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// The topic's configs as they are now.
    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.get()
    }

    pub fn stream(&self) -> StreamId {
        self.stream
    }

    pub fn token(&self) -> u64 {
        self.token
    }

    pub fn append_log(&self) -> &AppendLog {
        &self.append_log
    }

    /// The WAL that its batches are appended to, if there is one.
    pub fn wal(&self) -> Option<&Arc<BrokerWal>> {
        self.append_log.wal()
    }

    pub fn leader_epoch(&self) -> i32 {
        self.lock().log.leader_epoch()
    }

    pub fn offsets(&self) -> PartitionOffsets {
        let state = self.lock();
        PartitionOffsets {
            log_start: state.log.log_start(),
            high_watermark: state.log.high_watermark(),
            last_stable: state.log.last_stable_offset(),
            log_end: state.log.log_end(),
            committed_end: state.log.tail.committed_end(),
        }
    }

    /// Follows the high watermark, for long polls.
    pub fn watch_high_watermark(&self) -> watch::Receiver<i64> {
        self.high_watermark.subscribe()
    }

    /// Bytes of whole batches from `from` on that end below `below`, counted no further than `enough`. `None`: they begin in
    /// objects. A gap, as a restore leaves one, holds none.
    pub fn bytes_ready(&self, from: i64, below: i64, enough: u64) -> Option<u64> {
        if let Some(bytes) = self.with_tail(|tail, _| tail.bytes_between(from, below, enough)) {
            return Some(bytes);
        }
        let next = self.storage.metadata.read(|state| state.ranges(self.stream, Offset(from)).next());
        if next.is_some_and(|range| range.base.0 < below) {
            return None;
        }
        self.with_tail(|tail, _| tail.first_indexed().map_or(Some(0), |first| tail.bytes_between(first, below, enough)))
    }

    /// Epoch and end offset of the largest epoch that is not above `epoch`; `None` where undefined. The newest epoch
    /// ends at the high watermark: what lies beyond it may still be lost.
    pub fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let state = self.lock();
        state.log.epochs.end_of(epoch, state.log.high_watermark())
    }

    /// The leader epoch in which `offset` was written, where known.
    pub fn epoch_of(&self, offset: i64) -> Option<i32> {
        self.lock().log.epochs.of(offset)
    }

    /// Whether this broker may act as leader now: the lease holds and the partition has not ended.
    pub fn check_leads(&self) -> Result<(), AppendError> {
        self.fence(&self.lock().log, Origin::Client)
    }

    /// Compares the leader epoch that a client knows (-1: none) with the current one.
    pub fn check_leader_epoch(&self, known: i32) -> Result<(), LeaderError> {
        self.check_leads().map_err(LeaderError::Ended)?;
        let current = self.leader_epoch();
        match known {
            -1 => Ok(()),
            known if known < current => Err(LeaderError::Fenced { known, current }),
            known if known > current => Err(LeaderError::Unknown { known, current }),
            _ => Ok(()),
        }
    }

    /// See [`crate::log_cache::StreamTail::lookup`].
    pub fn tail_lookup(&self, from: i64, max_bytes: usize, at_least_one: bool, below: i64) -> TailLookup {
        self.lock().log.tail.lookup(from, max_bytes, at_least_one, below)
    }

    /// Reads the tail under the lock, with the durable end of the log. Keep it short.
    pub(crate) fn with_tail<R>(&self, read: impl FnOnce(&StreamTail, i64) -> R) -> R {
        let state = self.lock();
        read(&state.log.tail, state.log.durable_end())
    }

    /// What the log below `below` says of its producers. Batches at or above it are left out: whoever folds this state reads
    /// them after it.
    pub(crate) fn producers_below(&self, below: i64) -> Vec<ProducerSnapshot> {
        let state = self.lock();
        let cut = |mut producer: ProducerSnapshot| {
            producer.batches.retain(|batch| batch.last_offset < below);
            (!producer.batches.is_empty()).then_some(producer)
        };
        state.log.producers.snapshot().filter_map(cut).collect()
    }

    pub fn bytes_uncommitted(&self) -> u64 {
        self.lock().log.tail.bytes_uncommitted()
    }

    /// Index entries of the tail, oldest first, for lookups by time.
    pub fn tail_entries(&self) -> Vec<BatchEntry> {
        self.lock().log.tail.entries().copied().collect()
    }

    /// Everything below `to` is committed in metadata. Under ack class `backend` the high watermark moves, fetches wake and
    /// acks go out, while the lease holds.
    pub fn committed(&self, to: i64) {
        let mut state = self.lock();
        state.log.committed(to);
        while state.in_memory.front().is_some_and(|(last, _)| *last < to) {
            state.in_memory.pop_front();
        }
        if !self.storage.lease_valid() {
            if state.log.waits_for_commit() {
                // The uploader comes back to it.
                self.storage.commit_waits.add(self.stream, 0);
            }
            return;
        }
        let mut due = self.follow_class(&mut state);
        due.extend(state.log.release());
        self.show_high_watermark(&state.log);
        drop(state);
        send(due);
    }

    /// Something is durable and is acked only when it is committed.
    pub fn waits_for_commit(&self) -> bool {
        self.lock().log.waits_for_commit()
    }

    /// Metadata has moved the log start to `start`.
    pub fn started_at(&self, start: i64) {
        self.lock().log.started_at(start);
    }

    /// First WAL position that must be kept for this partition, of those that are known to be durable.
    pub fn first_unsettled(&self) -> Option<seawall_wal_device::Lsn> {
        self.lock().log.tail.first_uncommitted()
    }

    /// Nothing is in flight, and all of it is committed.
    pub fn is_settled(&self) -> bool {
        self.lock().log.is_settled()
    }

    /// Forgets producers idle for longer than `expiration_ms`.
    pub fn expire_producers(&self, expiration_ms: i64) {
        let now_ms = self.storage.clock.now_ms();
        self.lock().log.producers.expire(now_ms, expiration_ms);
    }

    /// For `completion.rs`: the oldest batch in flight is durable. Moves no watermark.
    pub(crate) fn placed(&self, position: RecordPosition) {
        self.lock().log.placed(position);
    }

    /// For `completion.rs`: everything placed is durable. Under ack class `wal` the high watermark moves over it, fetches wake,
    /// acks go out; under `backend` the uploader is told.
    pub(crate) fn advance(&self) {
        let mut state = self.lock();
        if state.log.ended().is_some() {
            // Whoever is fenced moves nothing, late completions included.
            return;
        }
        let due = self.advance_locked(&mut state);
        drop(state);
        send(due);
    }

    fn advance_locked(&self, state: &mut State) -> Vec<DueAnswer> {
        let due = state.log.advance();
        let placed_bytes = state.log.take_placed_bytes();
        if state.log.waits_for_commit() {
            self.storage.commit_waits.add(self.stream, placed_bytes);
        }
        self.show_high_watermark(&state.log);
        due
    }

    /// Nothing is appended or answered from now on. Batches that are durable stay readable and uploadable.
    pub(crate) fn end(&self, error: AppendError) {
        let mut state = self.lock();
        let due = state.log.end(error);
        state.held.clear();
        drop(state);
        self.high_watermark.send_modify(|_| ());
        send(due);
    }

    /// The generation that is to be marked dirty, while one is.
    pub(crate) fn marking(&self) -> Option<(LeaderEpoch, u64)> {
        let state = self.lock();
        match state.mark {
            Mark::Marking { generation } if state.log.ended().is_none() => {
                Some((LeaderEpoch(state.log.leader_epoch()), generation))
            }
            _ => None,
        }
    }

    /// Metadata holds the mark: what waited for it goes to the WAL in order.
    pub(crate) fn marked_dirty(&self, marked: u64) {
        let mut state = self.lock();
        if state.mark == (Mark::Marking { generation: marked }) {
            state.mark = Mark::Dirty { generation: marked };
            for held in std::mem::take(&mut state.held) {
                self.queue(held);
            }
        }
    }

    /// Treats a settled partition as clean from now on; the caller proposes the end of the generation it gets.
    pub(crate) fn clean_if_settled(&self) -> Option<(LeaderEpoch, u64)> {
        let mut state = self.lock();
        let Mark::Dirty { generation } = state.mark else { return None };
        if !state.log.is_settled() || state.log.ended().is_some() {
            return None;
        }
        state.mark = Mark::Clean { generation };
        Some((LeaderEpoch(state.log.leader_epoch()), generation))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a partition whose state broke an assertion is not used any more")
    }
}

impl PendingAppend {
    /// Waits until the batch is durable as its ack class says. `NotLeader` and `WalFailed` leave the outcome unknown.
    pub async fn durable(self) -> Result<(), AppendError> {
        // A sender that is gone means that the partition was dropped.
        self.answer.await.unwrap_or(Err(AppendError::NotLeader))?;
        if self.storage.lease_valid() { Ok(()) } else { Err(AppendError::NotLeader) }
    }
}

impl From<&Sequence> for BatchProducer {
    fn from(sequence: &Sequence) -> Self {
        Self {
            producer_id: sequence.producer_id,
            producer_epoch: sequence.producer_epoch,
            base_sequence: sequence.base,
            last_sequence: sequence.last,
        }
    }
}

impl From<&BatchProducer> for Sequence {
    fn from(producer: &BatchProducer) -> Self {
        Self {
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            base: producer.base_sequence,
            last: producer.last_sequence,
        }
    }
}

/// The sequence numbers of a batch of an idempotent producer.
pub fn sequence_of(header: &BatchHeader) -> Option<Sequence> {
    (header.producer_id >= 0 && header.base_sequence >= 0).then(|| {
        Sequence::of(header.producer_id, header.producer_epoch, header.base_sequence, header.last_offset_delta)
    })
}

/// The batch under its offset and leader epoch, which its CRC does not cover. Only the header is copied.
fn with_offset(batch: Bytes, base_offset: i64, leader_epoch: i32) -> BatchBytes {
    let mut head = BytesMut::from(&batch[..BATCH_HEADER_BYTES]);
    records::patch_base_offset_and_epoch(&mut head, base_offset, leader_epoch);
    BatchBytes::two(head.freeze(), batch.slice(BATCH_HEADER_BYTES..))
}

fn send(due: Vec<DueAnswer>) {
    for (waiter, answer) in due {
        // A waiter that has gone (its connection closed) needs no answer.
        _ = waiter.send(answer);
    }
}
