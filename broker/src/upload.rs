//! Upload: plan, put, commit, trim, in that order.
//!
//! The driver makes cuts (`upload_plan.rs`), lets several be put at a time (`put.rs`), and commits them in the order in
//! which they were cut. A commit carries the trim LSN of each WAL; only when metadata has it are the partitions told,
//! and only then may the WAL forget. Streams whose acks wait for the commit have cuts of their own, in a lane of their own
//! (`acks.rs`). All but those go at a pace (`upload_pace.rs`).
//!
//! Promises: a WAL is never trimmed past a record that is not settled; a crash between any two steps leaves nothing but
//! an object that no one refers to. While the store is away puts are repeated without end, the same bytes under the same key, and
//! memory stays within `in_flight` large cuts and four for acks, of about `bytes` each at most. What a commit refuses stays in the WAL and is cut again.
//! Left to others: deleting objects that no one refers to.

pub(crate) mod acks;
mod budget;
mod put;
mod source;
mod status;

pub use budget::Budget;
pub use put::IdPool;
pub use status::{UploadMetrics, UploadStatus};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use seawall_backends::Backend;
use seawall_backends::pace::Pace;
use seawall_metadata::command::{
    COMMIT_RANGES_MAX, CommitAnswer, EpochStart, ObjectCommit, ObjectRecord, RangeCommit, RangeOutcome, WalTrim,
};
use seawall_metadata::{
    Command, Incarnation, LeaderEpoch, Lsn as MetadataLsn, MetadataHandle, Offset, OwnerEpoch, ProposeError,
    Registration, Rejection, Response, StreamId, WalId,
};
use seawall_wal_device::{Lsn, Wal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::commit_waits::CommitWaits;
use crate::log_cache::PendingBatch;
use crate::object_format::{FORMAT_VERSION, StreamRange};
use crate::object_key::ObjectKeys;
use crate::producer_state::ProducerSnapshot;
use crate::store_marker::StoreMarker;
use crate::upload_pace::{Fill, upload_rate};
use crate::upload_plan::{
    Backlog, CutTrigger, CutUnderWay, Lane, PlanLimits, StreamBatches, cut_end, limit_batches, next_commit, plan,
};
use put::{CutJob, PreparedCut, Putter, StoredObject};
use status::Shared;

/// A partition as the uploader sees it.
pub trait UploadStream: Send + Sync {
    fn stream(&self) -> StreamId;
    /// The epoch under which this broker leads it now.
    fn leader_epoch(&self) -> i32;
    /// Which of [`UploadSource::wals`] holds its tail; `None`: memory alone.
    fn wal(&self) -> Option<WalId>;
    /// Everything below is committed.
    fn committed_end(&self) -> i64;
    /// Everything below may be uploaded.
    fn durable_end(&self) -> i64;
    /// Acks wait until more of it is committed.
    fn waits_for_commit(&self) -> bool;
    /// Where in the WAL the first durable batch at or after `from` lies.
    fn first_record(&self, from: i64) -> Option<Lsn>;
    /// Start of the WAL frame that holds it: from there on the WAL must be kept.
    fn first_needed(&self, from: i64) -> Option<Lsn>;
    /// Durable batches at or after `from` whose records lie below `below`, in offset order: at most about `bytes_max` of them, at
    /// least one, and no more than a cut takes.
    fn pending(&self, from: i64, below: Lsn, bytes_max: u64) -> Vec<PendingBatch>;
    /// The producers as the log up to `below` leaves them.
    fn producers(&self, below: i64) -> Vec<ProducerSnapshot>;
    /// Everything below `to` is committed: objects serve it, and what waited for it is acked.
    fn committed(&self, to: i64);
}

/// The partitions and WALs of this broker.
pub trait UploadSource: Send + Sync + 'static {
    fn wals(&self) -> Vec<UploadWal>;
    /// Every partition that may hold durable data that is not settled. A deleted one is not among them.
    fn streams(&self) -> Vec<Arc<dyn UploadStream>>;
    /// One of them.
    fn stream(&self, id: StreamId) -> Option<Arc<dyn UploadStream>>;
    /// The streams whose acks wait for a commit.
    fn commit_waits(&self) -> Arc<CommitWaits>;
    /// Up to where (exclusive) the streams know their records of this WAL. Ask it before `streams`.
    fn known_to(&self, wal: WalId) -> Lsn;
    /// Whether what is not uploaded takes too much memory.
    fn memory_pressure(&self) -> bool;
}

/// A WAL that is open for this broker.
#[derive(Clone)]
pub struct UploadWal {
    pub id: WalId,
    pub owner_epoch: OwnerEpoch,
    pub wal: Wal,
}

/// How uploads are made. The first six are keys of the `[upload]` section.
#[derive(Debug, Clone)]
pub struct UploadSettings {
    /// Data waiting in the WAL beyond which it is uploaded; also about the size of a cut.
    pub bytes: u64,
    /// How long data waits at most.
    pub interval: Duration,
    pub stream_object_bytes: u64,
    /// How often streams whose acks wait for the commit are uploaded.
    pub ack_interval: Duration,
    /// Bytes of them that are not held for that.
    pub ack_bytes: u64,
    /// Cuts under way at a time. With `bytes` it bounds the memory that uploads hold.
    pub in_flight: usize,
    /// How long a reserved object id can be committed.
    pub reservation_ttl: Duration,
    /// How often the WAL is looked at.
    pub tick: Duration,
}

impl Default for UploadSettings {
    fn default() -> Self {
        UploadSettings {
            bytes: 64 << 20,
            interval: Duration::from_secs(10),
            stream_object_bytes: 16 << 20,
            ack_interval: Duration::from_millis(250),
            ack_bytes: 8 << 20,
            in_flight: 2,
            reservation_ttl: Duration::from_secs(3600),
            tick: Duration::from_millis(100),
        }
    }
}

/// What an uploader is made of.
pub struct UploadParts {
    pub metadata: MetadataHandle,
    pub registration: Registration,
    pub incarnation: Incarnation,
    pub backend: Arc<dyn Backend>,
    pub keys: ObjectKeys,
    /// Where a restore says that this incarnation is ended: nothing is committed after that. `None`: nobody restores.
    pub marker: Option<StoreMarker>,
    pub source: Arc<dyn UploadSource>,
    pub settings: UploadSettings,
}

/// The handle: flushes and status. Cheap to clone.
#[derive(Clone)]
pub struct Uploader {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
}

impl Uploader {
    /// The handle, and the task that does the work; run it with [`UploadTask::run`].
    pub fn new(parts: UploadParts) -> (Uploader, UploadTask) {
        let (flushes, flush_requests) = mpsc::channel(FLUSHES_WAITING_MAX);
        let shared = Arc::new(Shared::default());
        let uploader = Uploader { shared: shared.clone(), flushes };
        let pace = Arc::<Pace>::default();
        let putter = Arc::new(Putter::new(&parts, shared.clone(), pace.clone()));
        let commit_waits = parts.source.commit_waits();
        commit_waits.tell_at(parts.settings.ack_bytes);
        let task = UploadTask {
            trigger: CutTrigger { bytes: parts.settings.bytes, interval: parts.settings.interval },
            parts,
            shared,
            putter,
            pace,
            flush_requests,
            flushes: Vec::new(),
            planned: BTreeMap::new(),
            cursors: BTreeMap::new(),
            next_cut: 0,
            under_way: BTreeMap::new(),
            acks: acks::AckCuts::new(commit_waits),
            puts: JoinSet::new(),
            put: BTreeMap::new(),
            pause_until: None,
        };
        (uploader, task)
    }

    /// Uploads everything that is durable now; resolves when it is committed. False if the uploader has stopped.
    pub async fn flush(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.flushes.send(done).await.is_ok() && wait.await.is_ok()
    }

    pub fn status(&self) -> UploadStatus {
        self.shared.status()
    }
}

/// Why the task ended before it was told to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadStopped {
    /// Another process has this broker's id, or it was fenced: nothing of it is accepted any more.
    #[error("this broker is fenced: {0}")]
    Fenced(String),
    #[error("the metadata node has stopped")]
    Metadata,
    #[error("an upload panicked: {0}")]
    Panicked(String),
}

/// The task of an [`Uploader`].
pub struct UploadTask {
    parts: UploadParts,
    trigger: CutTrigger,
    shared: Arc<Shared>,
    putter: Arc<Putter>,
    /// Of cuts that no ack waits for.
    pace: Arc<Pace>,
    flush_requests: mpsc::Receiver<oneshot::Sender<()>>,
    flushes: Vec<Flush>,
    planned: BTreeMap<StreamId, Planned>,
    cursors: BTreeMap<WalId, Cursor>,
    /// Cuts are numbered in the order in which they were made.
    next_cut: u64,
    /// Those that are not committed.
    under_way: BTreeMap<u64, CutUnderWay>,
    acks: acks::AckCuts,
    puts: JoinSet<Result<PreparedCut, UploadStopped>>,
    /// Cuts that were put and wait for their turn.
    put: BTreeMap<u64, PreparedCut>,
    /// After a refusal: no cut before this.
    pause_until: Option<Instant>,
}

/// A flush is done when nothing below these LSNs is unsettled, and the streams that waited are committed.
struct Flush {
    targets: Vec<(WalId, Lsn)>,
    /// Streams whose acks wait for a commit, and up to where.
    waiting: Vec<(StreamId, i64)>,
    done: oneshot::Sender<()>,
}

/// How far a stream was taken into cuts.
#[derive(Debug)]
struct Planned {
    end: i64,
    cuts_in_flight: u32,
    /// A range of it was refused: nothing more is cut until those in flight are answered.
    refused: bool,
    /// Cuts since the full producer state was written.
    cuts_since_full: u32,
}

/// How far a WAL was taken into cuts.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    planned_to: Lsn,
    waiting_since: Option<Instant>,
    trimmed_to: Lsn,
}

/// The full producer state is written with every n-th cut of a stream, so that a restart reads few objects for it.
const FULL_STATE_EVERY: u32 = 32;
/// Bounds what a cut of tiny batches takes in memory beside their bytes.
const BATCHES_PER_CUT_MAX: usize = 128 << 10;
/// Flushes that the task has not taken yet; who asks then waits.
const FLUSHES_WAITING_MAX: usize = 16;
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
/// Without anything to upload the WAL is trimmed only when this much becomes free: an idle broker writes no metadata.
const IDLE_TRIM_BYTES: u64 = 1 << 20;

impl UploadTask {
    /// Runs until `stopping`, or until this broker may not upload any more. What is under way then is dropped.
    pub async fn run(mut self, stopping: CancellationToken) -> Result<(), UploadStopped> {
        let mut tick = tokio::time::interval(self.parts.settings.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let work = async {
            loop {
                self.cut_while_due().await?;
                self.cut_for_acks();
                self.answer_flushes();
                let (commit_waits, next_ack_cut) = (self.acks.waits.clone(), self.next_ack_cut());
                tokio::select! {
                    biased;
                    Some(put) = self.puts.join_next(), if !self.puts.is_empty() => {
                        let put = put.map_err(|error| UploadStopped::Panicked(error.to_string()))??;
                        self.put.insert(put.cut, put);
                    }
                    Some(done) = self.flush_requests.recv() => self.ask_for_flush(done),
                    () = commit_waits.grew() => {}
                    () = tokio::time::sleep_until(next_ack_cut.unwrap_or_else(Instant::now)),
                        if next_ack_cut.is_some() => {}
                    _ = tick.tick() => {}
                }
                while let Some(cut) = next_commit(&self.under_way, self.put.keys().copied()) {
                    let stored = self.put.remove(&cut).expect("it is stored");
                    self.commit(stored).await?;
                    self.under_way.remove(&cut);
                }
            }
        };
        let ended: Result<(), UploadStopped> = tokio::select! {
            biased;
            ended = work => ended,
            () = stopping.cancelled() => Ok(()),
        };
        if let Err(error) = &ended {
            error!(%error, "uploads have stopped");
        }
        ended
    }

    fn cuts_in_flight(&self, lane: Lane) -> usize {
        self.under_way.values().filter(|cut| cut.lane == lane).count()
    }

    async fn cut_while_due(&mut self) -> Result<(), UploadStopped> {
        loop {
            // Also when nothing can be cut: how long the WALs last is asked most when the store is away.
            let backlog = self.look_at_wals();
            let paused = self.pause_until.is_some_and(|until| Instant::now() < until);
            if paused || self.cuts_in_flight(Lane::Bulk) >= self.parts.settings.in_flight {
                break;
            }
            self.pause_until = None;
            let Some(reason) = self.trigger.due(&backlog) else { break };
            let Some(job) = self.make_cut() else {
                self.trim_idle().await?;
                break;
            };
            debug!(cut = job.cut, ?reason, objects = job.objects.len(), bytes = job.bytes, "cut made");
            self.put(job);
        }
        Ok(())
    }

    fn put(&mut self, job: CutJob) {
        let putter = self.putter.clone();
        self.puts.spawn(async move { putter.put_cut(job).await });
    }

    /// How much waits in the WALs, and since when.
    fn look_at_wals(&mut self) -> Backlog {
        let mut backlog = Backlog {
            bytes: 0,
            for_acks: self.acks.bytes_beside_bulk(),
            age: Duration::ZERO,
            pressure: self.parts.source.memory_pressure(),
            flush: !self.flushes.is_empty(),
        };
        let now = Instant::now();
        let mut fills = Vec::new();
        for UploadWal { id, wal, .. } in self.parts.source.wals() {
            let known_to = self.parts.source.known_to(id);
            let usage = wal.usage();
            let cursor = self.cursors.entry(id).or_insert(Cursor {
                planned_to: usage.trim,
                waiting_since: None,
                trimmed_to: usage.trim,
            });
            let waiting = known_to.0.saturating_sub(cursor.planned_to.0);
            if waiting == 0 {
                cursor.waiting_since = None;
            } else {
                backlog.age = backlog.age.max(now - *cursor.waiting_since.get_or_insert(now));
            }
            backlog.bytes += waiting;
            backlog.pressure |= wal.soft_limit_reached();
            fills.push(Fill {
                bytes_per_second: self.shared.note_wal(id, &usage, now),
                unsettled_bytes: usage.durable.0.saturating_sub(usage.trim.0),
                room_bytes: usage.soft_bytes.saturating_sub(usage.taken_bytes()),
            });
        }
        // An upload for acks that is stored waits for an earlier one of the same stream.
        let holds_up_acks = self.put.keys().any(|cut| self.under_way[cut].lane == Lane::Acks);
        let hurry = backlog.pressure || backlog.flush || holds_up_acks;
        self.pace.set(upload_rate(&fills, self.parts.settings.interval, hurry));
        self.shared.note_pace(&self.pace);
        self.shared.note_backlog(&backlog, &self.acks.waits.backlog(), self.under_way.len());
        backlog
    }

    /// Takes the oldest part of each WAL that is in no cut yet, but for streams whose acks wait: they have cuts of their own.
    /// `None`: nothing there belongs to a stream.
    fn make_cut(&mut self) -> Option<CutJob> {
        let source = self.parts.source.clone();
        let wals = source.wals();
        // Before the streams are asked: what they learn meanwhile lies above.
        let known_to: BTreeMap<WalId, Lsn> = wals.iter().map(|wal| (wal.id, source.known_to(wal.id))).collect();
        let streams = source.streams();
        let bulk: Vec<_> = streams.iter().filter(|stream| !stream.waits_for_commit()).cloned().collect();
        let mut first: BTreeMap<WalId, Lsn> = BTreeMap::new();
        for stream in &bulk {
            // Not its frame: a cut smaller than a frame would take nothing, and be made again for ever.
            if let (Some(wal), Some(lsn)) = (stream.wal(), stream.first_record(self.planned_end(stream.as_ref()))) {
                let first = first.entry(wal).or_insert(lsn);
                *first = lsn.min(*first);
            }
        }
        let cut_bytes = (self.parts.settings.bytes / wals.len().max(1) as u64).max(1);
        let end_of = |wal: WalId| {
            let known_to = known_to.get(&wal).copied().unwrap_or(Lsn(0));
            first.get(&wal).map(|first| cut_end(*first, known_to, cut_bytes))
        };
        let batches: Vec<StreamBatches> =
            bulk.iter().filter_map(|stream| self.take(stream.as_ref(), end_of(stream.wal()?)?, u64::MAX)).collect();
        let job = self.plan_cut(Lane::Bulk, &bulk, batches);
        self.move_cursors(&streams, &known_to);
        self.acks.bulk_was_cut();
        job
    }

    /// Spreads what was taken from the streams over objects.
    fn plan_cut(
        &mut self,
        lane: Lane,
        streams: &[Arc<dyn UploadStream>],
        mut batches: Vec<StreamBatches>,
    ) -> Option<CutJob> {
        limit_batches(&mut batches, BATCHES_PER_CUT_MAX);
        let limits =
            PlanLimits { stream_object_bytes: self.parts.settings.stream_object_bytes, ranges_max: COMMIT_RANGES_MAX };
        let objects = plan(batches, &limits);
        let by_id: BTreeMap<StreamId, &Arc<dyn UploadStream>> =
            streams.iter().map(|stream| (stream.stream(), stream)).collect();
        let mut full_producers = BTreeMap::new();
        for taken in objects.iter().flat_map(|object| &object.streams) {
            let planned = self.planned.get_mut(&taken.stream).expect("taken from it above");
            planned.end = taken.end();
            planned.cuts_in_flight += 1;
            planned.cuts_since_full += 1;
            if planned.cuts_since_full >= FULL_STATE_EVERY {
                planned.cuts_since_full = 0;
                full_producers.insert(taken.stream, by_id[&taken.stream].producers(taken.end()));
            }
        }
        if objects.is_empty() {
            return None;
        }
        let bytes = objects.iter().flat_map(|object| &object.streams).map(StreamBatches::bytes).sum();
        let wal_of = by_id.iter().filter_map(|(id, stream)| Some((*id, stream.wal()?))).collect();
        let cut = self.next_cut;
        self.next_cut += 1;
        let taken = objects.iter().flat_map(|object| &object.streams).map(|taken| taken.stream).collect();
        self.under_way.insert(cut, CutUnderWay { lane, streams: taken });
        Some(CutJob { cut, lane, objects, bytes, full_producers, wal_of })
    }

    fn take(&mut self, stream: &dyn UploadStream, below: Lsn, bytes_max: u64) -> Option<StreamBatches> {
        let planned = self.planned.get(&stream.stream());
        if planned.is_some_and(|planned| planned.refused) || self.shared.is_damaged(stream.stream()) {
            return None;
        }
        let batches = stream.pending(self.planned_end(stream), below, bytes_max);
        let first = batches.first()?;
        self.planned.entry(stream.stream()).or_insert(Planned {
            end: first.entry.base,
            cuts_in_flight: 0,
            refused: false,
            // So that the first cut after a start writes the full state.
            cuts_since_full: FULL_STATE_EVERY,
        });
        let leader_epoch = LeaderEpoch(stream.leader_epoch());
        Some(StreamBatches { stream: stream.stream(), leader_epoch, batches })
    }

    fn planned_end(&self, stream: &dyn UploadStream) -> i64 {
        let committed_end = stream.committed_end();
        self.planned.get(&stream.stream()).map_or(committed_end, |planned| planned.end.max(committed_end))
    }

    /// After a cut: what is left begins at the first record that is in none.
    fn move_cursors(&mut self, streams: &[Arc<dyn UploadStream>], known_to: &BTreeMap<WalId, Lsn>) {
        let mut left = known_to.clone();
        for stream in streams {
            let first = stream.first_needed(self.planned_end(stream.as_ref()));
            if let (Some(first), Some(left)) = (first, stream.wal().and_then(|wal| left.get_mut(&wal))) {
                *left = first.min(*left);
            }
        }
        for (wal, planned_to) in left {
            if let Some(cursor) = self.cursors.get_mut(&wal) {
                cursor.planned_to = planned_to;
                cursor.waiting_since = None;
            }
        }
    }

    /// Commits a cut, tells its partitions, trims. Repeats until metadata answers.
    async fn commit(&mut self, mut cut: PreparedCut) -> Result<(), UploadStopped> {
        let lane = self.under_way[&cut.cut].lane;
        loop {
            let trims = if self.is_trim_due(lane) { self.trims_after(&cut) } else { Vec::new() };
            let command = Command::CommitObjects {
                by: self.parts.registration,
                objects: cut.objects.iter().map(|object| self.object_commit(object)).collect(),
                trims: trims.clone(),
            };
            match self.parts.metadata.propose(command).await {
                Ok((_, Response::Commit(answer))) => {
                    self.committed(lane, &cut, &answer);
                    if answer.trimmed {
                        self.trim_wals(&trims);
                    }
                    return Ok(());
                }
                Ok((_, other)) => unreachable!("a commit is not answered with {other:?}"),
                Err(ProposeError::Rejected(Rejection::NotReserved(object))) => {
                    // The store was away for longer than the reservation lived: the same batches go under a new id.
                    warn!(%object, "object id has expired before its commit");
                    cut = self.putter.put_again(cut).await?;
                }
                Err(error) => self.wait_after(error).await?,
            }
        }
    }

    fn object_commit(&self, object: &StoredObject) -> ObjectCommit {
        let range_commit = |range: &StreamRange| RangeCommit {
            stream: range.stream,
            leader_epoch: object.leader_epochs[&range.stream],
            base: Offset(range.base),
            end: Offset(range.end),
            bytes: range.bytes,
            records: range.records,
            max_timestamp: range.max_timestamp,
            epochs: range
                .epochs
                .iter()
                .map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(*epoch), start: Offset(*start) })
                .collect(),
        };
        let record = ObjectRecord {
            bucket: 0,
            incarnation: self.parts.incarnation,
            format_version: FORMAT_VERSION,
            bytes: object.bytes,
        };
        ObjectCommit { object: object.id, record, ranges: object.ranges.iter().map(range_commit).collect() }
    }

    /// How far each WAL may be trimmed once `cut` is committed.
    fn trims_after(&self, cut: &PreparedCut) -> Vec<WalTrim> {
        let source = &self.parts.source;
        let wals = source.wals();
        let ends = cut.ends();
        let mut trims: BTreeMap<WalId, Lsn> = wals.iter().map(|wal| (wal.id, source.known_to(wal.id))).collect();
        for stream in source.streams() {
            let after = ends.get(&stream.stream()).copied().unwrap_or(i64::MIN).max(stream.committed_end());
            let trim = stream.wal().and_then(|wal| trims.get_mut(&wal));
            let needed = stream.first_needed(after).filter(|_| !crate::faults::trims_early());
            if let (Some(needed), Some(trim)) = (needed, trim) {
                *trim = needed.min(*trim);
            }
        }
        let moved = |wal: &UploadWal| {
            let lsn = trims[&wal.id];
            let before = self.cursors.get(&wal.id).map_or(Lsn(0), |cursor| cursor.trimmed_to);
            (lsn > before).then_some(WalTrim { wal: wal.id, owner_epoch: wal.owner_epoch, lsn: MetadataLsn(lsn.0) })
        };
        wals.iter().filter_map(moved).collect()
    }

    fn committed(&mut self, lane: Lane, cut: &PreparedCut, answer: &CommitAnswer) {
        let source = &self.parts.source;
        let streams = match lane {
            Lane::Bulk => source.streams(),
            Lane::Acks => cut.streams.iter().filter_map(|id| source.stream(*id)).collect(),
        };
        let streams: BTreeMap<StreamId, Arc<dyn UploadStream>> =
            streams.into_iter().map(|stream| (stream.stream(), stream)).collect();
        for (object, outcomes) in cut.objects.iter().zip(&answer.outcomes) {
            assert_eq!(object.ranges.len(), outcomes.len(), "one outcome per range");
            for (range, outcome) in object.ranges.iter().zip(outcomes) {
                let stream = range.stream;
                match outcome {
                    RangeOutcome::Accepted => {}
                    RangeOutcome::Settled { why } => info!(%stream, ?why, "range need not be committed any more"),
                    RangeOutcome::Refused { why } => {
                        warn!(%stream, base = range.base, end = range.end, ?why, "range was refused, will be cut again");
                        self.shared.note_refusal();
                        self.pause_until = Some(Instant::now() + REFUSAL_PAUSE);
                        if let Some(planned) = self.planned.get_mut(&stream) {
                            planned.refused = true;
                        }
                        continue;
                    }
                }
                if let Some(stream) = streams.get(&stream) {
                    stream.committed(range.end);
                }
            }
            info!(object = %object.id, object_bytes = object.bytes, streams = object.ranges.len(), "object committed");
        }
        self.shared.note_commit(cut);
        // Every tail lets go of what the cache has evicted since. In small cuts for acks only those of the cut.
        streams.values().for_each(|stream| stream.committed(stream.committed_end()));
        for stream in &cut.streams {
            let Some(planned) = self.planned.get_mut(stream) else { continue };
            planned.cuts_in_flight -= 1;
            if planned.cuts_in_flight > 0 {
                continue;
            }
            if planned.refused {
                planned.refused = false;
                planned.end = streams.get(stream).map_or(planned.end, |stream| stream.committed_end());
                planned.cuts_since_full = FULL_STATE_EVERY;
            }
            if !streams.contains_key(stream) {
                self.planned.remove(stream);
            }
        }
        // What was refused, or left out, is in no cut and still waited for.
        self.wait_again(cut.streams.iter().filter_map(|stream| streams.get(stream)));
        // A refused range is in no cut any more.
        if self.pause_until.is_some() {
            for cursor in self.cursors.values_mut() {
                cursor.planned_to = cursor.trimmed_to;
            }
        }
    }

    fn trim_wals(&mut self, trims: &[WalTrim]) {
        for UploadWal { id, wal, .. } in self.parts.source.wals() {
            let Some(trim) = trims.iter().find(|trim| trim.wal == id) else { continue };
            wal.trim(Lsn(trim.lsn.0));
            if let Some(cursor) = self.cursors.get_mut(&id) {
                cursor.trimmed_to = Lsn(trim.lsn.0);
            }
        }
    }

    /// Frees WAL space that only settled records hold, such as those of deleted topics.
    async fn trim_idle(&mut self) -> Result<(), UploadStopped> {
        if self.cuts_in_flight(Lane::Bulk) > 0 {
            return Ok(());
        }
        let trims = self.trims_after(&PreparedCut::empty());
        for trim in trims {
            let before = self.cursors.get(&trim.wal).map_or(0, |cursor| cursor.trimmed_to.0);
            if trim.lsn.0 - before < IDLE_TRIM_BYTES {
                continue;
            }
            match self.parts.metadata.propose(Command::TrimWal { by: self.parts.registration, trim }).await {
                Ok(_) => self.trim_wals(&[trim]),
                Err(error) => self.wait_after(error).await?,
            }
        }
        Ok(())
    }

    fn ask_for_flush(&mut self, done: oneshot::Sender<()>) {
        let source = &self.parts.source;
        let targets = source.wals().iter().map(|wal| (wal.id, source.known_to(wal.id))).collect();
        let waiting = source.streams().into_iter().filter(|stream| stream.waits_for_commit());
        let waiting = waiting.map(|stream| (stream.stream(), stream.durable_end())).collect();
        self.flushes.push(Flush { targets, waiting, done });
    }

    fn answer_flushes(&mut self) {
        // Whoever asked may have gone.
        self.flushes.retain(|flush| !flush.done.is_closed());
        if self.flushes.is_empty() {
            return;
        }
        let streams = self.parts.source.streams();
        let unsettled: Vec<(WalId, Lsn)> = streams
            .iter()
            .filter_map(|stream| Some((stream.wal()?, stream.first_needed(stream.committed_end())?)))
            .collect();
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flushes).into_iter().partition(|flush| {
            let below =
                |(wal, target): &(WalId, Lsn)| unsettled.iter().any(|(other, lsn)| other == wal && lsn < target);
            let waits = |(id, end): &(StreamId, i64)| {
                self.parts.source.stream(*id).is_some_and(|stream| stream.committed_end() < *end)
            };
            !flush.targets.iter().any(below) && !flush.waiting.iter().any(waits)
        });
        self.flushes = waiting;
        for flush in done {
            let _ = flush.done.send(());
        }
    }

    async fn wait_after(&self, error: ProposeError) -> Result<(), UploadStopped> {
        wait_after(error, &self.shared).await
    }
}

/// Pauses before a proposal is repeated, or says that repeating cannot help.
async fn wait_after(error: ProposeError, shared: &Shared) -> Result<(), UploadStopped> {
    match error {
        ProposeError::Rejected(
            rejection @ (Rejection::StaleBrokerEpoch { .. }
            | Rejection::BrokerFenced(_)
            | Rejection::UnknownBroker(_)
            | Rejection::StaleOwnerEpoch { .. }
            | Rejection::OtherWalOwner { .. }
            | Rejection::WalState { .. }),
        ) => return Err(UploadStopped::Fenced(rejection.to_string())),
        ProposeError::Stopped => return Err(UploadStopped::Metadata),
        ProposeError::Rejected(_) | ProposeError::TooLarge { .. } => {
            // A rejection of the whole commit is a bug on one side; the data stays in the WAL.
            error!(%error, "metadata rejects an upload");
            shared.note_commit_failure();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        ProposeError::NotLeader | ProposeError::Unknown => {
            warn!(%error, "metadata does not answer an upload, will ask again");
            shared.note_commit_failure();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}
