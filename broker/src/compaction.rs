//! Rewrites what uploads have stored into fewer, larger objects: plan, read, put, replace, one object at a time.
//!
//! Promises: streams keep every byte and every offset; metadata replaces ranges only where they are still what was read; a
//! crash at any step leaves the old ranges or the new ones, and at most an object that nothing refers to, whose reservation
//! ends. Memory holds one object (`compaction.object_bytes`) at a time, bandwidth is bounded by `compaction.rate`, and every call is of the purpose that
//! gives way to uploads and consumers.
//! Left to others: deleting the old objects (`object_deletion.rs`), and removing superseded records of compacted topics.

mod merge;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::pace::Pace;
use seawall_backends::{Backend, BackendError, Purpose, Segments};
use seawall_metadata::command::{
    NewObject, ObjectRecord, REPLACEMENTS_LEVEL, RangeInput, RangeOutcome, RangeOutput, StreamReplacement,
};
use seawall_metadata::state::RangeRef;
use seawall_metadata::{
    Command, Incarnation, LeaderEpoch, MetadataHandle, ObjectId, Offset, ProposeError, Response, State, StreamId,
};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::compaction_plan::{Candidate, PlanLimits, PlannedObject, next_upload, plan};
use crate::log_cleaner::LogCleaner;
use crate::object_format::{
    AbortedTransaction, BlockEntry, EncodedObject, FORMAT_VERSION, ObjectBuilder, StreamProducers, fold_producers,
};
use crate::object_key::ObjectKeys;
use crate::object_reader::{CachedIndex, ObjectError, ObjectReader, ObjectRef};
use crate::partitions::Partitions;
use crate::upload_pace::compaction_rate;

/// How compactions are made.
#[derive(Debug, Clone)]
pub struct CompactionSettings {
    pub limits: PlanLimits,
    /// Bytes read and written per second.
    pub rate: u64,
    /// How often it is looked for something to rewrite.
    pub tick: Duration,
    pub reservation_ttl: Duration,
    /// About the largest object that stored ones are joined to within the store; 0: never.
    pub merge_bytes: u64,
    /// How often it is looked for something to join, while there is nothing to rewrite.
    pub merge_tick: Duration,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self {
            limits: PlanLimits { objects_min: 32, stream_object_bytes: 16 << 20, object_bytes: 64 << 20 },
            rate: 64 << 20,
            tick: Duration::from_secs(2),
            reservation_ttl: Duration::from_secs(3600),
            merge_bytes: 0,
            merge_tick: Duration::from_secs(30),
        }
    }
}

/// What a compaction is made of.
pub struct CompactionParts {
    pub partitions: Partitions,
    pub reader: Arc<ObjectReader>,
    pub backend: Arc<dyn Backend>,
    pub keys: ObjectKeys,
    pub incarnation: Incarnation,
    /// Rewrites streams too; the one that it is at is left to it.
    pub log_cleaner: Arc<LogCleaner>,
    pub settings: CompactionSettings,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct CompactionCounters {
    objects: AtomicU64,
    object_bytes: AtomicU64,
    record_bytes: AtomicU64,
    read_bytes: AtomicU64,
    streams_refused: AtomicU64,
    failures: AtomicU64,
    merges: AtomicU64,
    merged_bytes: AtomicU64,
    waits_for_level: AtomicBool,
    rate: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CompactionStatus {
    /// Objects made, and their bytes.
    pub objects: u64,
    pub object_bytes: u64,
    /// Of those, record bytes that took the place of others.
    pub record_bytes: u64,
    pub read_bytes: u64,
    /// Streams that had changed before their ranges could be replaced.
    pub streams_refused: u64,
    /// Objects that could not be made; what they were to replace is looked at again.
    pub failures: u64,
    /// Objects that the store has joined out of others, and the bytes that it copied for them.
    pub merges: u64,
    pub merged_bytes: u64,
    /// Bytes per second at which what was planned last is read and written.
    pub rate: u64,
    /// Why nothing is compacted at all.
    pub waits_for: Option<&'static str>,
}

impl CompactionCounters {
    pub fn status(&self) -> CompactionStatus {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CompactionStatus {
            objects: of(&self.objects),
            object_bytes: of(&self.object_bytes),
            record_bytes: of(&self.record_bytes),
            read_bytes: of(&self.read_bytes),
            streams_refused: of(&self.streams_refused),
            failures: of(&self.failures),
            merges: of(&self.merges),
            merged_bytes: of(&self.merged_bytes),
            rate: of(&self.rate),
            waits_for: self.waits_for_level.load(Ordering::Relaxed).then_some(WAITS_FOR_LEVEL),
        }
    }
}

/// Why an object was not made.
#[derive(Debug, thiserror::Error)]
enum CompactionError {
    /// This broker may not any more.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Metadata has another view by now, or has none.
    #[error("metadata: {0}")]
    Metadata(ProposeError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("put: {0}")]
    Put(BackendError),
    /// The store has joined something else than it was told to.
    #[error("the joined object {object} is wrong: {why}")]
    Merged { object: ObjectId, why: String },
}

impl CompactionError {
    /// The object that cannot be read, if it is that: by anybody, or by this version.
    fn object(&self) -> Option<ObjectId> {
        use ObjectError::{Corrupt, NotFound, Unavailable};
        match self {
            Self::Object(Corrupt { object, .. } | NotFound(object)) => Some(*object),
            Self::Object(Unavailable { object, error: BackendError::Unsupported(_) }) => Some(*object),
            Self::Object(Unavailable { .. })
            | Self::Fenced(_)
            | Self::Metadata(_)
            | Self::Put(_)
            | Self::Merged { .. } => None,
        }
    }
}

/// What became of a planned object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Used,
    /// No stream takes it.
    Refused,
    /// All its streams are left to others.
    Nothing,
}

/// What a look has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Too little to rewrite.
    Idle,
    /// So many objects were made; more may be to do.
    Made(usize),
    /// Objects were made, and no stream takes one of them.
    Refused,
    /// It did not work; later it may.
    Held,
    /// This broker may not any more.
    Fenced,
}

/// Rewrites until this broker may not any more, or its future is dropped.
pub struct Compaction {
    parts: CompactionParts,
    counters: Arc<CompactionCounters>,
    /// Objects that cannot be read: they are not tried again.
    damaged: BTreeSet<ObjectId>,
    /// The store does not join what it should.
    merges_failed: bool,
    /// What was joined last was refused.
    merges_rest_until: Option<Instant>,
    /// Streams below were looked at.
    merges_from: StreamId,
    complained: Option<Instant>,
    /// What was planned last goes at it, and the body of what is put.
    rate: u64,
    body_pace: Arc<Pace>,
    /// When that was planned: what is planned next has gathered since.
    planned_at: Instant,
    /// No candidate is below it.
    first: ObjectId,
}

/// Shown while what a compaction commits is not to be written yet.
pub const WAITS_FOR_LEVEL: &str = "the finalized level of seawall.version is below 2";

/// Whether every node is known to read what a compaction commits.
pub fn may_replace(metadata: &MetadataHandle) -> bool {
    metadata.read(State::metadata_level) >= REPLACEMENTS_LEVEL
}

/// One read of the store at most.
const READ_BYTES_MAX: u64 = 4 << 20;
/// A body goes no more slowly, whatever the rate: the store would give up on it. What is too fast then is waited for behind it.
const BODY_RATE_MIN: u64 = 4 << 20;
/// After something failed.
const PAUSE: Duration = Duration::from_secs(5);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(600);
const ZERO: Duration = Duration::ZERO;
/// A store that stays away is named in the log this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

impl Compaction {
    pub fn new(parts: CompactionParts) -> (Self, Arc<CompactionCounters>) {
        let counters = Arc::new(CompactionCounters::default());
        let rate = parts.settings.rate.max(1);
        (
            Self {
                parts,
                counters: counters.clone(),
                damaged: BTreeSet::new(),
                merges_failed: false,
                merges_rest_until: None,
                merges_from: StreamId(0),
                complained: None,
                rate,
                body_pace: Arc::default(),
                planned_at: Instant::now(),
                first: ObjectId(0),
            },
            counters,
        )
    }

    /// Returns when this broker is fenced, or metadata has stopped.
    pub async fn run(mut self) {
        let mut merged: Option<Instant> = None;
        let mut tick = tokio::time::interval(self.parts.settings.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused_pause = ZERO;
        loop {
            tick.tick().await;
            let look = match self.look().await {
                Look::Idle if merged.is_none_or(|at| at.elapsed() >= self.parts.settings.merge_tick) => {
                    let look = self.merge_look().await;
                    if look == Look::Idle {
                        merged = Some(Instant::now());
                    }
                    look
                }
                look => look,
            };
            // What is refused for good must not fill the store, an object with each look.
            refused_pause =
                if look == Look::Refused { (refused_pause * 2).clamp(PAUSE, REFUSED_PAUSE_MAX) } else { ZERO };
            match look {
                Look::Idle | Look::Made(_) => {}
                Look::Refused => {
                    warn!(pause_s = refused_pause.as_secs(), "metadata takes nothing of what compaction has made");
                    tokio::time::sleep(refused_pause).await;
                }
                Look::Held => tokio::time::sleep(PAUSE).await,
                Look::Fenced => return,
            }
        }
    }

    /// Plans once, and makes what is planned.
    pub async fn look(&mut self) -> Look {
        let limits = self.parts.settings.limits;
        let storage = self.parts.partitions.storage().clone();
        let waits = !may_replace(&storage.metadata);
        if waits != self.counters.waits_for_level.swap(waits, Ordering::Relaxed) {
            match waits {
                true => info!("nothing is compacted: {WAITS_FOR_LEVEL}"),
                false => info!("compaction begins: the level that it needs is finalized"),
            }
        }
        if waits {
            return Look::Idle;
        }
        let led: BTreeMap<StreamId, LeaderEpoch> = (self.parts.partitions.all().iter())
            .map(|partition| (partition.stream(), LeaderEpoch(partition.leader_epoch())))
            .collect();
        let log_cleaner = self.parts.log_cleaner.clone();
        let is_free = |stream| led.contains_key(&stream) && !log_cleaner.is_cleaning(stream);
        let candidates = self.oldest_candidates(&is_free).await;
        let planned = plan(&candidates, &limits, is_free);
        if !planned.is_empty() {
            self.set_rate(planned.iter().map(PlannedObject::bytes).sum());
        }
        let mut inputs = Inputs::default();
        let (mut made, mut refused, mut damaged) = (0, 0, false);
        for object in planned {
            if !storage.lease_valid() {
                return Look::Held;
            }
            match self.make(object, &led, &mut inputs).await {
                Ok(Made::Used) => made += 1,
                Ok(Made::Refused) => refused += 1,
                Ok(Made::Nothing) => {}
                Err(CompactionError::Fenced(why)) => {
                    info!(why, "this broker compacts no more");
                    return Look::Fenced;
                }
                Err(error) => {
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                    match error.object() {
                        // The others may be sound.
                        Some(object) => damaged |= self.note_unreadable(object, &error),
                        None => {
                            self.complain(&error);
                            return Look::Held;
                        }
                    }
                }
            }
        }
        match (made, refused) {
            (0, 1..) => Look::Refused,
            (0, 0) if damaged => Look::Held,
            (0, 0) => Look::Idle,
            _ => Look::Made(made),
        }
    }

    fn set_rate(&mut self, planned_bytes: u64) {
        let gathered_in = std::mem::replace(&mut self.planned_at, Instant::now()).elapsed();
        self.rate = compaction_rate(planned_bytes, gathered_in, self.parts.settings.rate.max(1));
        self.body_pace.set(Some(self.rate.max(BODY_RATE_MIN)));
        self.counters.rate.store(self.rate, Ordering::Relaxed);
    }

    /// As many as one compaction takes, of those in which a stream is free: what belongs to others, who may be away, holds
    /// nothing up. Metadata is not kept waiting for more than one object's ranges at a time.
    async fn oldest_candidates(&mut self, is_free: impl Fn(StreamId) -> bool) -> Vec<Candidate> {
        let limits = self.parts.settings.limits;
        let metadata = self.parts.partitions.storage().metadata.clone();
        let committed_later = metadata.read(State::lowest_uncommitted);
        let mut found: Vec<Candidate> = Vec::new();
        let (mut from, mut first) = (self.first, None);
        while found.len() < limits.objects_min
            && let Some(upload) = metadata.read(|state| next_upload(state, from))
        {
            from = ObjectId(upload.object.0 + 1);
            if upload.is_worth_it(&limits) && !self.damaged.contains(&upload.object) {
                first.get_or_insert(upload.object);
                if upload.ranges.iter().any(|(stream, _)| is_free(*stream)) {
                    found.push(upload);
                }
            }
            tokio::task::yield_now().await;
        }
        // The large ones below are not looked at again.
        self.first = first.unwrap_or(from).min(committed_later);
        found
    }

    /// Excludes an object that is still in use. One that was replaced meanwhile is not looked at again anyway.
    fn note_unreadable(&mut self, object: ObjectId, error: &CompactionError) -> bool {
        let metadata = &self.parts.partitions.storage().metadata;
        let used = metadata.read(|state| state.object(object).is_some_and(|known| known.references > 0));
        if used && self.damaged.insert(object) {
            error!(%object, %error, "an object cannot be compacted");
        }
        used
    }

    fn complain(&mut self, error: &CompactionError) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            warn!(%error, "a compaction failed, will try again");
        }
    }

    /// Makes one object and puts it in the place of its inputs.
    async fn make(
        &self,
        mut planned: PlannedObject,
        led: &BTreeMap<StreamId, LeaderEpoch>,
        inputs: &mut Inputs,
    ) -> Result<Made, CompactionError> {
        let is_cleaning = |stream| self.parts.log_cleaner.is_cleaning(stream);
        planned.spans.retain(|span| !is_cleaning(span.stream));
        if planned.spans.is_empty() {
            return Ok(Made::Nothing);
        }
        let planned = &planned;
        let read = self.read(planned, inputs).await?;
        let read_bytes: u64 = read.blocks.values().map(|block| block.len() as u64).sum();
        let object = self.reserve().await?;
        let encoded = encode(planned, &read, inputs, object, self.parts.incarnation).await?;
        let (record_bytes, object_bytes) = (planned.bytes(), encoded.bytes);
        let key = self.parts.keys.key(self.parts.incarnation, object);
        let mut streams = replacements(planned, &encoded, led);
        let body = Segments::new(encoded.segments).paced(self.body_pace.clone());
        let began = Instant::now();
        self.parts.backend.put(&key, body, Purpose::Compaction).await.map_err(CompactionError::Put)?;
        // Whose round has begun meanwhile would lose it. An object that nothing refers to goes when its reservation ends.
        streams.retain(|replacement| !is_cleaning(replacement.stream));
        if streams.is_empty() {
            return Ok(Made::Nothing);
        }
        let record = self.record(object_bytes);
        let outcomes = self.replace(NewObject { object, record }, streams).await?;
        let refused = outcomes.iter().filter(|outcome| **outcome != RangeOutcome::Accepted).count();
        self.counters.streams_refused.fetch_add(refused as u64, Ordering::Relaxed);
        self.counters.objects.fetch_add(1, Ordering::Relaxed);
        self.counters.object_bytes.fetch_add(object_bytes, Ordering::Relaxed);
        self.counters.record_bytes.fetch_add(record_bytes, Ordering::Relaxed);
        self.counters.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
        debug!(%object, object_bytes, streams = outcomes.len(), refused, "object compacted");
        self.pace(object_bytes, began).await;
        Ok(if refused == outcomes.len() { Made::Refused } else { Made::Used })
    }

    fn record(&self, bytes: u64) -> ObjectRecord {
        ObjectRecord { bucket: 0, incarnation: self.parts.incarnation, format_version: FORMAT_VERSION, bytes }
    }

    /// Waits until so many bytes have taken their time.
    async fn pace(&self, bytes: u64, since: Instant) {
        let seconds = bytes as f64 / self.rate as f64;
        tokio::time::sleep_until(since + Duration::from_secs_f64(seconds)).await;
    }

    /// The blocks of every input, verified.
    async fn read(&self, planned: &PlannedObject, inputs: &mut Inputs) -> Result<Read, CompactionError> {
        let mut by_object: BTreeMap<ObjectId, Vec<(StreamId, RangeRef)>> = BTreeMap::new();
        for span in &planned.spans {
            for range in &span.inputs {
                by_object.entry(range.object).or_default().push((span.stream, *range));
            }
        }
        let mut read = Read::default();
        for (object, ranges) in by_object {
            let known = self.parts.partitions.storage().metadata.read(|state| ObjectRef::of(state, object));
            let object = known.ok_or(ObjectError::NotFound(object))?;
            let cached = self.parts.reader.index(&object, Purpose::Compaction).await?;
            if let Entry::Vacant(vacant) = inputs.entry(object.object) {
                vacant.insert(Sections {
                    producers: self.parts.reader.producers(&object, Purpose::Compaction).await?,
                    aborted: self.parts.reader.aborted(&object, Purpose::Compaction).await?,
                });
            }
            for mut run in runs(&object, &cached, &ranges)? {
                while !run.is_empty() {
                    let (index, reader) = (&cached.index, &self.parts.reader);
                    let began = Instant::now();
                    let blocks =
                        reader.read_blocks(&object, index, run.clone(), READ_BYTES_MAX, Purpose::Compaction).await?;
                    self.pace(blocks.iter().map(|block| block.len() as u64).sum(), began).await;
                    for block in blocks {
                        read.blocks.insert((object.object, run.start), block);
                        run.start += 1;
                    }
                }
            }
            read.indexes.insert(object.object, cached);
        }
        Ok(read)
    }

    async fn reserve(&self) -> Result<ObjectId, CompactionError> {
        let ttl_ms = self.parts.settings.reservation_ttl.as_millis() as u64;
        let storage = self.parts.partitions.storage();
        let reserve = Command::ReserveObjects { by: storage.registration, count: 1, ttl_ms };
        match storage.metadata.propose(reserve).await.map_err(refusal)? {
            (_, Response::ObjectIds { first, .. }) => Ok(first),
            (_, other) => unreachable!("a reservation is not answered with {other:?}"),
        }
    }

    /// Repeats until metadata answers: a repetition gives the first answer.
    async fn replace(
        &self,
        object: NewObject,
        streams: Vec<StreamReplacement>,
    ) -> Result<Vec<RangeOutcome>, CompactionError> {
        let storage = self.parts.partitions.storage();
        loop {
            let (by, objects, streams) = (storage.registration, vec![object], streams.clone());
            match storage.metadata.propose(Command::ReplaceRanges { by, objects, streams }).await {
                Ok((_, Response::Replaced(outcomes))) => return Ok(outcomes),
                Ok((_, other)) => unreachable!("a replacement is not answered with {other:?}"),
                Err(ProposeError::Unknown | ProposeError::NotLeader) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(refusal(error)),
            }
        }
    }
}

/// What else the inputs hold; kept from one object of a plan to the next.
type Inputs = BTreeMap<ObjectId, Sections>;

struct Sections {
    producers: Vec<StreamProducers>,
    aborted: Vec<AbortedTransaction>,
}

/// What was read for one object.
#[derive(Default)]
struct Read {
    indexes: BTreeMap<ObjectId, Arc<CachedIndex>>,
    blocks: BTreeMap<(ObjectId, usize), Bytes>,
}

/// The blocks of a range, by their number in the index: they must hold all of it.
fn blocks_of(
    object: ObjectId,
    cached: &CachedIndex,
    stream: StreamId,
    range: &RangeRef,
) -> Result<Range<usize>, ObjectError> {
    let of_stream = cached.index.stream(stream);
    let blocks = &cached.index.blocks()[of_stream.clone()];
    let first = blocks.partition_point(|block| block.base < range.base.0);
    let until = blocks.partition_point(|block| block.base < range.end.0);
    let mut next = range.base.0;
    for block in &blocks[first..until] {
        if block.base != next {
            break;
        }
        next = block.end;
    }
    if next != range.end.0 {
        let why = format!("stream {stream} {}..{} is not all in it", range.base, range.end);
        return Err(ObjectError::Corrupt { object, why });
    }
    Ok(of_stream.start + first..of_stream.start + until)
}

/// Blocks that lie side by side, to be read at once.
fn runs(
    object: &ObjectRef,
    cached: &CachedIndex,
    ranges: &[(StreamId, RangeRef)],
) -> Result<Vec<Range<usize>>, ObjectError> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (stream, range) in ranges {
        for at in blocks_of(object.object, cached, *stream, range)? {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end = at + 1,
                _ => runs.push(at..at + 1),
            }
        }
    }
    Ok(runs)
}

async fn encode(
    planned: &PlannedObject,
    read: &Read,
    inputs: &Inputs,
    object: ObjectId,
    incarnation: Incarnation,
) -> Result<EncodedObject, ObjectError> {
    let mut builder = ObjectBuilder::new(object, incarnation);
    for span in &planned.spans {
        let mut states: Vec<StreamProducers> = Vec::new();
        for range in &span.inputs {
            let cached = &read.indexes[&range.object];
            let blocks = blocks_of(range.object, cached, span.stream, range)?;
            let (records, bytes) =
                cached.index.blocks()[blocks.clone()].iter().fold((0, 0), |(records, bytes), block| {
                    (records + u64::from(block.record_count), bytes + u64::from(block.bytes))
                });
            if (records, bytes) != (range.records, range.bytes) {
                let (stream, known) = (span.stream, range.records);
                let why = format!("stream {stream} has {records} records there, metadata says {known}");
                return Err(ObjectError::Corrupt { object: range.object, why });
            }
            for at in blocks {
                builder.add_block(&cached.index.blocks()[at], read.blocks[&(range.object, at)].clone());
                // Checksums hold up no request on this thread.
                tokio::task::yield_now().await;
            }
            states.extend(inputs[&range.object].producers.iter().find(|state| state.stream == span.stream).cloned());
        }
        for range in &span.inputs {
            let aborted = inputs[&range.object].aborted.iter();
            let here = aborted.filter(|aborted| {
                aborted.stream == span.stream && (range.base.0..range.end.0).contains(&aborted.last_offset)
            });
            here.for_each(|aborted| builder.add_aborted(*aborted));
        }
        let end = span.inputs.last().map_or(0, |range| range.end.0);
        builder.set_producers(fold_producers(span.stream, end, states));
    }
    Ok(builder.finish())
}

fn replacements(
    planned: &PlannedObject,
    encoded: &EncodedObject,
    led: &BTreeMap<StreamId, LeaderEpoch>,
) -> Vec<StreamReplacement> {
    assert_eq!(planned.spans.len(), encoded.ranges.len(), "one range for each span");
    let replacement =
        |(span, range): (&crate::compaction_plan::Span, &crate::object_format::StreamRange)| StreamReplacement {
            stream: span.stream,
            leader_epoch: led[&span.stream],
            inputs: span.inputs.iter().map(|input| RangeInput { base: input.base, object: input.object }).collect(),
            outputs: vec![RangeOutput {
                base: Offset(range.base),
                end: Offset(range.end),
                object: encoded.object,
                bytes: range.bytes,
                records: range.records,
                max_timestamp: range.max_timestamp,
            }],
            cleaned_to: None,
        };
    planned.spans.iter().zip(&encoded.ranges).map(replacement).collect()
}

fn refusal(error: ProposeError) -> CompactionError {
    match error.ends_registration() {
        true => CompactionError::Fenced(error.to_string()),
        false => CompactionError::Metadata(error),
    }
}
