//! One round over one log: the keys of its dirty part, then everything below rewritten group by group.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::{Purpose, Segments};
use seawall_metadata::command::{
    NewObject, ObjectRecord, RangeInput, RangeOutcome, RangeOutput, Refused, StreamReplacement,
};
use seawall_metadata::state::RangeRef;
use seawall_metadata::{Command, LeaderEpoch, ObjectId, Offset, ProposeError, Response, StreamId};
use seawall_protocol::records::{BatchHeader, Compression, split_batches};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{CleanerParts, CleanerStatus};
use crate::log_cache::BatchEntry;
use crate::log_compaction::{
    CleanError, CleanPlan, CleanRules, CleanStatistics, CleanedBatch, Cleaner, Indexer, Indexing, LastOfProducer,
    OffsetMap, TransactionIndex, groups,
};
use crate::object_format::{AbortedTransaction, FORMAT_VERSION, ObjectBuilder, StreamProducers, fold_producers};
use crate::object_reader::{CachedIndex, ObjectError, ObjectRef};
use crate::partition::Partition;
use crate::producer_state::ProducerSnapshot;

/// Bounds what one command holds.
const GROUP_RANGES_MAX: usize = 1_024;
/// Asked from the store at a time.
const READ_BYTES: u64 = 4 << 20;
/// Limit on what one batch may decompress to.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// How long a reserved object id can be committed.
const RESERVATION_TTL: Duration = Duration::from_secs(3600);
const PURPOSE: Purpose = Purpose::Compaction;

/// Why a round ended early. Groups that were replaced before are clean as far as the map went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RoundError {
    /// The store or metadata did not answer, or the log has changed: a later round may go.
    Later(String),
    /// What is stored is not what was written.
    Never(String),
    /// This broker may not any more.
    Fenced(String),
}

/// What is to be cleaned.
pub(super) struct Round<'a> {
    pub parts: &'a CleanerParts,
    pub partition: &'a Partition,
    /// All committed ranges from the log start on.
    pub ranges: &'a [RangeRef],
    pub plan: CleanPlan,
    pub now_ms: i64,
}

pub(super) struct Cleaned {
    /// Everything below is clean.
    pub to: i64,
    pub objects: usize,
    pub statistics: CleanStatistics,
}

/// What takes the place of one group.
#[derive(Default)]
struct Rewrite {
    objects: Vec<NewObject>,
    outputs: Vec<RangeOutput>,
    /// Where the next range begins, and how far its batches reach.
    base: i64,
    end: i64,
    /// Of the object that is not put yet.
    batches: Vec<(BatchEntry, Bytes)>,
    bytes: u64,
    aborted: Vec<AbortedTransaction>,
    /// Something went or was rewritten.
    changed: bool,
}

impl Round<'_> {
    pub(super) async fn run(&self, status: &CleanerStatus) -> Result<Cleaned, RoundError> {
        let aborted = self.aborted().await?;
        let map = self.index(&aborted, status).await?;
        status.note_map(map.bytes());
        let cleaned = self.rewrite(&map, aborted, status).await;
        status.note_map(0);
        cleaned
    }

    /// The aborted transactions of the log below the round's end.
    async fn aborted(&self) -> Result<Vec<AbortedTransaction>, RoundError> {
        let mut aborted = Vec::new();
        for range in self.ranges.iter().filter(|range| range.base.0 < self.plan.dirty_end) {
            let object = self.object(range)?;
            let of_object = self.parts.reader.aborted(&object, PURPOSE).await?;
            let here = |transaction: &AbortedTransaction| {
                transaction.stream == self.partition.stream()
                    && (range.base.0..range.end.0).contains(&transaction.last_offset)
            };
            aborted.extend(of_object.into_iter().filter(here));
        }
        Ok(aborted)
    }

    /// The keys of the dirty part, as far as the map has room.
    async fn index(&self, aborted: &[AbortedTransaction], status: &CleanerStatus) -> Result<OffsetMap, RoundError> {
        let settings = (self.parts.settings)();
        let wanted = OffsetMap::bytes_for(self.plan.dirty_records, settings.map_load_factor);
        let mut map = OffsetMap::new(wanted.min(settings.map_bytes), settings.map_load_factor);
        let first_dirty = self.plan.first_dirty;
        let dirty = aborted.iter().copied().filter(|transaction| transaction.last_offset >= first_dirty).collect();
        let mut indexer = Indexer {
            map: &mut map,
            first_dirty,
            transactions: TransactionIndex::new(dirty),
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            records: 0,
        };
        let dirty = |range: &&RangeRef| range.end.0 > first_dirty && range.base.0 < self.plan.dirty_end;
        'ranges: for range in self.ranges.iter().filter(dirty) {
            let mut batches = Batches::of(self, range).await?;
            while let Some(chunk) = batches.next(status).await? {
                for (header, batch) in chunk {
                    let above = header.base_offset >= self.plan.dirty_end;
                    if above || beside_the_runtime(&header, || indexer.add(&header, &batch))? == Indexing::Full {
                        break 'ranges;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        crate::faults::index_uncommitted(self.partition, &mut map);
        Ok(map)
    }

    async fn rewrite(
        &self,
        map: &OffsetMap,
        aborted: Vec<AbortedTransaction>,
        status: &CleanerStatus,
    ) -> Result<Cleaned, RoundError> {
        let to = map.latest() + 1;
        if to <= self.plan.first_dirty {
            let first_dirty = self.plan.first_dirty;
            return Err(match self.ranges.iter().any(|range| (range.base.0..range.end.0).contains(&first_dirty)) {
                true => RoundError::Never(format!("there is nothing at {first_dirty}, where it is dirty")),
                false => RoundError::Later(format!("the log starts behind {first_dirty} by now")),
            });
        }
        let last_of_producers = self.last_of_producers();
        let mut cleaner = Cleaner {
            rules: CleanRules {
                map,
                now_ms: self.now_ms,
                delete_retention_ms: self.partition.config().delete_retention_ms,
                last_of_producers: &last_of_producers,
                decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            },
            transactions: TransactionIndex::new(aborted.clone()),
            statistics: CleanStatistics::default(),
        };
        let groups = groups(self.ranges, to, (self.parts.settings)().group_bytes, GROUP_RANGES_MAX);
        let mut objects = 0;
        for (at, group) in groups.iter().enumerate() {
            let last = at + 1 == groups.len();
            let rewrite = self.clean_group(group, to, &aborted, &mut cleaner, status).await?;
            // Metadata learns with the last group how far the log is clean.
            if let Some(rewrite) = rewrite.filter(|rewrite| last || rewrite.changed) {
                objects += self.replace(group, rewrite, last.then_some(to), status).await?;
            }
        }
        Ok(Cleaned { to, objects, statistics: cleaner.statistics })
    }

    fn last_of_producers(&self) -> BTreeMap<i64, LastOfProducer> {
        let producers = self.partition.producers_below(i64::MAX);
        let last = |producer: ProducerSnapshot| {
            let last_data_offset = producer.batches.last().map(|batch| batch.last_offset);
            (producer.producer_id, LastOfProducer { last_data_offset, producer_epoch: producer.producer_epoch })
        };
        producers.into_iter().map(last).collect()
    }

    /// The batches of a group as they become. Objects that are full are put on the way, the last one is left in the builder.
    async fn clean_group(
        &self,
        group: &[RangeRef],
        to: i64,
        aborted: &[AbortedTransaction],
        cleaner: &mut Cleaner<'_>,
        status: &CleanerStatus,
    ) -> Result<Option<Rewrite>, RoundError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(None) };
        let group_bytes = (self.parts.settings)().group_bytes;
        let mut rewrite = Rewrite { base: first.base.0, end: first.base.0, ..Rewrite::default() };
        for range in group {
            let mut batches = Batches::of(self, range).await?;
            while let Some(chunk) = batches.next(status).await? {
                for (header, batch) in chunk {
                    let end = header.last_offset() + 1;
                    let held = end == last.end.0 || end == to;
                    let cleaned = match header.base_offset < to {
                        true => beside_the_runtime(&header, || cleaner.clean(&header, &batch, held))?,
                        false => Some(CleanedBatch { header, bytes: batch, unchanged: true }),
                    };
                    rewrite.changed |= !cleaned.as_ref().is_some_and(|cleaned| cleaned.unchanged);
                    if let Some(cleaned) = cleaned {
                        if !rewrite.batches.is_empty() && rewrite.bytes + cleaned.bytes.len() as u64 > group_bytes {
                            self.put(&mut rewrite, None, status).await?;
                        }
                        rewrite.add(cleaned);
                    }
                    rewrite.aborted.extend(cleaner.transactions.take_kept());
                    if header.is_control() && header.base_offset >= to {
                        let of_marker = |transaction: &&AbortedTransaction| transaction.last_offset == end - 1;
                        rewrite.aborted.extend(aborted.iter().filter(of_marker));
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
        if rewrite.end != last.end.0 {
            return Err(RoundError::Never(format!(
                "the log ends at {} within a range up to {}",
                rewrite.end, last.end
            )));
        }
        Ok(Some(rewrite))
    }

    /// Puts the last object of a group, and all of them into the place of its ranges. Returns how many there are.
    async fn replace(
        &self,
        group: &[RangeRef],
        mut rewrite: Rewrite,
        cleaned_to: Option<i64>,
        status: &CleanerStatus,
    ) -> Result<usize, RoundError> {
        let producers = self.fold_producers(group).await?;
        self.put(&mut rewrite, Some(producers), status).await?;
        let objects = rewrite.objects.len();
        let replacement = StreamReplacement {
            stream: self.partition.stream(),
            leader_epoch: LeaderEpoch(self.partition.leader_epoch()),
            inputs: group.iter().map(|range| RangeInput { base: range.base, object: range.object }).collect(),
            outputs: rewrite.outputs,
            cleaned_to: cleaned_to.map(Offset),
        };
        let command = Command::ReplaceRanges {
            by: self.parts.registration,
            objects: rewrite.objects,
            streams: vec![replacement],
        };
        match self.propose(command).await? {
            Response::Replaced(outcomes) => match outcomes.as_slice() {
                [RangeOutcome::Accepted] => Ok(objects),
                [RangeOutcome::Refused { why: Refused::NotCurrent }] => {
                    Err(RoundError::Later("its ranges were rewritten by others meanwhile".into()))
                }
                other => Err(RoundError::Later(format!("metadata answers {other:?}"))),
            },
            other => unreachable!("ReplaceRanges is not answered with {other:?}"),
        }
    }

    /// What the group's objects remember of the stream's producers.
    async fn fold_producers(&self, group: &[RangeRef]) -> Result<StreamProducers, RoundError> {
        let stream = self.partition.stream();
        let mut states = Vec::new();
        for range in group {
            let of_object = self.parts.reader.producers(&self.object(range)?, PURPOSE).await?;
            states.extend(of_object.into_iter().find(|state| state.stream == stream));
        }
        Ok(fold_producers(stream, group.last().map_or(0, |range| range.end.0), states))
    }

    async fn put(
        &self,
        rewrite: &mut Rewrite,
        producers: Option<StreamProducers>,
        status: &CleanerStatus,
    ) -> Result<(), RoundError> {
        let mut builder = ObjectBuilder::new(self.reserve().await?, self.parts.incarnation);
        let output = rewrite.close(self.partition.stream(), &mut builder);
        if let Some(producers) = producers {
            builder.set_producers(producers);
        }
        let encoded = builder.finish();
        let key = self.parts.keys.key(self.parts.incarnation, encoded.object);
        self.pace(encoded.bytes).await;
        let body = Segments::new(encoded.segments);
        let put = self.parts.backend.put(&key, body, PURPOSE).await;
        put.map_err(|error| RoundError::Later(format!("put object {}: {error}", encoded.object)))?;
        status.note_written(encoded.bytes);
        let record = ObjectRecord {
            bucket: 0,
            incarnation: self.parts.incarnation,
            format_version: FORMAT_VERSION,
            bytes: encoded.bytes,
        };
        rewrite.objects.push(NewObject { object: encoded.object, record });
        rewrite.outputs.push(RangeOutput { object: encoded.object, ..output });
        Ok(())
    }

    async fn reserve(&self) -> Result<ObjectId, RoundError> {
        let ttl_ms = RESERVATION_TTL.as_millis() as u64;
        let reserve = Command::ReserveObjects { by: self.parts.registration, count: 1, ttl_ms };
        match self.propose(reserve).await? {
            Response::ObjectIds { first, .. } => Ok(first),
            other => unreachable!("a reservation is not answered with {other:?}"),
        }
    }

    /// An answer that was lost is asked for again, for as long as it takes: both commands that are sent may be repeated, and
    /// what the round has put is not thrown away because of an election.
    async fn propose(&self, command: Command) -> Result<Response, RoundError> {
        loop {
            match self.parts.metadata.propose(command.clone()).await {
                Ok((_, response)) => return Ok(response),
                Err(ProposeError::NotLeader | ProposeError::Unknown) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) if error.ends_registration() => return Err(RoundError::Fenced(error.to_string())),
                Err(error) => return Err(RoundError::Later(error.to_string())),
            }
        }
    }

    fn object(&self, range: &RangeRef) -> Result<ObjectRef, RoundError> {
        let object = self.parts.metadata.read(|state| ObjectRef::of(state, range.object));
        object.ok_or_else(|| RoundError::Later(format!("object {} was replaced meanwhile", range.object)))
    }

    /// Waits as long as so many bytes may take.
    async fn pace(&self, bytes: u64) {
        let rate = (self.parts.settings)().io_bytes_per_second;
        let pause = Duration::try_from_secs_f64(bytes as f64 / rate.max(1.0)).unwrap_or(PACE_MAX);
        if pause > Duration::ZERO {
            tokio::time::sleep(pause.min(PACE_MAX)).await;
        }
    }
}

/// Runs what may take seconds for one batch: what else this thread would do goes on elsewhere.
#[expect(
    clippy::disallowed_methods,
    reason = "the work borrows the round's map; where there is one thread it runs on it"
)]
fn beside_the_runtime<T>(header: &BatchHeader, work: impl FnOnce() -> T) -> T {
    // A few compressed bytes may be millions of records.
    let long = header.compression() != Compression::None || header.total_bytes() > LONG_BATCH_BYTES;
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread if long => tokio::task::block_in_place(work),
        _ => work(),
    }
}

const NO_TIMESTAMP: i64 = -1;
/// Of a batch that is not compressed.
const LONG_BATCH_BYTES: usize = 256 << 10;
/// One read or put is held back no longer, however low the limit is.
const PACE_MAX: Duration = Duration::from_secs(60);

impl Rewrite {
    fn add(&mut self, batch: CleanedBatch) {
        let CleanedBatch { header, bytes, unchanged } = batch;
        // A copy does not hold on to all that was read with it.
        let bytes = if unchanged { Bytes::copy_from_slice(&bytes) } else { bytes };
        let is_empty = header.record_count == 0;
        let entry = BatchEntry {
            base: header.base_offset,
            last: header.last_offset(),
            leader_epoch: header.partition_leader_epoch,
            // Who looks for the newest record must find one.
            max_timestamp: if is_empty { NO_TIMESTAMP } else { header.max_timestamp },
            record_count: header.record_count.unsigned_abs(),
            bytes: bytes.len() as u32,
            // The state of producers is folded from what the inputs remember.
            producer: None,
        };
        self.bytes += bytes.len() as u64;
        self.end = entry.last + 1;
        self.batches.push((entry, bytes));
    }

    /// Lays out what was not put yet. The next range begins where this one ends.
    fn close(&mut self, stream: StreamId, builder: &mut ObjectBuilder) -> RangeOutput {
        let output = RangeOutput {
            base: Offset(self.base),
            end: Offset(self.end),
            object: ObjectId(0),
            bytes: self.bytes,
            records: self.batches.iter().map(|(entry, _)| u64::from(entry.record_count)).sum(),
            max_timestamp: self.batches.iter().map(|(entry, _)| entry.max_timestamp).max().unwrap_or(NO_TIMESTAMP),
        };
        for (entry, bytes) in self.batches.drain(..) {
            builder.add_batch_after_gap(stream, &entry, &bytes.into());
        }
        self.aborted.drain(..).for_each(|transaction| builder.add_aborted(transaction));
        (self.base, self.bytes) = (self.end, 0);
        output
    }
}

/// The batches of one range, a few megabytes at a time.
struct Batches<'a> {
    round: &'a Round<'a>,
    range: &'a RangeRef,
    object: ObjectRef,
    cached: Arc<CachedIndex>,
    blocks: Range<usize>,
}

impl<'a> Batches<'a> {
    async fn of(round: &'a Round<'a>, range: &'a RangeRef) -> Result<Batches<'a>, RoundError> {
        let object = round.object(range)?;
        let cached = round.parts.reader.index(&object, PURPOSE).await?;
        let stream = round.partition.stream();
        let of_stream = cached.index.stream(stream);
        let first = cached.index.find_offset(stream, range.base.0).unwrap_or(of_stream.end);
        let below = cached.index.blocks()[of_stream.clone()].partition_point(|block| block.base < range.end.0);
        let blocks = first..of_stream.start + below;
        Ok(Batches { round, range, object, cached, blocks })
    }

    async fn next(&mut self, status: &CleanerStatus) -> Result<Option<Vec<(BatchHeader, Bytes)>>, RoundError> {
        if self.blocks.is_empty() {
            return Ok(None);
        }
        let reader = &self.round.parts.reader;
        let read =
            reader.read_blocks(&self.object, &self.cached.index, self.blocks.clone(), READ_BYTES, PURPOSE).await?;
        self.blocks.start += read.len();
        let bytes = read.iter().map(|block| block.len() as u64).sum();
        status.note_read(bytes);
        self.round.pace(bytes).await;
        let mut batches = Vec::new();
        for block in read {
            let split = split_batches(block);
            let split = split.map_err(|error| RoundError::Never(format!("object {}: {error}", self.object.object)))?;
            for (header, batch) in split {
                let (base, last) = (header.base_offset, header.last_offset());
                if last < self.range.base.0 || base >= self.range.end.0 {
                    continue;
                }
                if base < self.range.base.0 || last >= self.range.end.0 {
                    let why = format!("a batch of offsets {base} to {last} in a range {:?}", self.range);
                    return Err(RoundError::Never(why));
                }
                batches.push((header, batch));
            }
        }
        Ok(Some(batches))
    }
}

impl From<ObjectError> for RoundError {
    fn from(error: ObjectError) -> RoundError {
        match error {
            ObjectError::Corrupt { .. } => RoundError::Never(error.to_string()),
            // It may have been replaced and deleted since the look.
            ObjectError::NotFound(_) | ObjectError::Unavailable { .. } => RoundError::Later(error.to_string()),
        }
    }
}

impl From<CleanError> for RoundError {
    fn from(error: CleanError) -> RoundError {
        RoundError::Never(error.to_string())
    }
}
