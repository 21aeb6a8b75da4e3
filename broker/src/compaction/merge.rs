//! Joins stored objects of one stream within the store: the new object is the data of the old ones, copied by the store, and an
//! index, producer states and a footer of its own behind them.
//!
//! Promises: as compaction's. What the store says it has joined is believed only after it was looked at: the whole end of the
//! object, and the first and last block of each part, against the checksums that the inputs have for them. A store that gives
//! something else is not asked again until the next start.

use super::*;
use crate::merge_plan::{MergeBounds, MergeLimits, Standing, pieces, plan};
use crate::partition::Partition;
use seawall_backends::large;

/// Metadata is read so many ranges at a time.
const PIECES_AT_ONCE: usize = 1_024;
/// Of one stream; what lies behind waits until these are joined or gone.
const PIECES_MAX: usize = 16_384;

impl Compaction {
    /// Goes on over the partitions where the last look ended, up to the first object that is made: what waits to be rewritten
    /// comes before the next. `Idle`: all were gone over.
    pub async fn merge_look(&mut self) -> Look {
        let storage = self.parts.partitions.storage().clone();
        let Some(limits) = self.merge_limits() else { return Look::Idle };
        let mut partitions = self.parts.partitions.all();
        partitions.sort_by_key(|partition| partition.stream());
        let from = std::mem::take(&mut self.merges_from);
        for partition in partitions.into_iter().filter(|partition| partition.stream() >= from) {
            let config = partition.config();
            // Log compaction makes its own objects, and reads a range as a whole.
            if config.cleanup_compact {
                continue;
            }
            let bounds = MergeBounds::of(
                &limits,
                config.retention_ms.filter(|_| config.cleanup_delete),
                config.retention_bytes.filter(|_| config.cleanup_delete),
            );
            let Some(inputs) = self.planned(&partition, &limits, &bounds).await else { continue };
            if !storage.lease_valid() {
                return Look::Held;
            }
            match self.merge(&partition, &inputs).await {
                Ok(Made::Used) => {
                    // It may have more.
                    self.merges_from = partition.stream();
                    return Look::Made(1);
                }
                Ok(Made::Refused) => {
                    self.merges_rest_until = Some(Instant::now() + REFUSED_PAUSE_MAX);
                    return Look::Refused;
                }
                Ok(Made::Nothing) => {}
                Err(error) => {
                    if let Some(look) = self.merge_failed(error) {
                        self.merges_from = StreamId(partition.stream().0 + 1);
                        return look;
                    }
                }
            }
        }
        Look::Idle
    }

    /// `None`: the other partitions may go.
    fn merge_failed(&mut self, error: CompactionError) -> Option<Look> {
        if let CompactionError::Fenced(why) = error {
            info!(why, "this broker compacts no more");
            return Some(Look::Fenced);
        }
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        match (&error, error.object()) {
            (CompactionError::Merged { .. } | CompactionError::Put(BackendError::Unsupported(_)), _) => {
                self.merges_failed = true;
                error!(%error, "objects are not joined within the store any more until the next start");
                Some(Look::Held)
            }
            (_, Some(object)) => {
                self.note_unreadable(object, &error);
                None
            }
            (_, None) => {
                self.complain(&error);
                Some(Look::Held)
            }
        }
    }

    /// `None` where nothing is to be joined, or the store cannot.
    fn merge_limits(&self) -> Option<MergeLimits> {
        let settings = &self.parts.settings;
        let can = self.parts.backend.capabilities();
        let wanted = settings.merge_bytes > 0 && can.parts && can.copies_within && !self.merges_failed;
        let rests = self.merges_rest_until.is_some_and(|until| Instant::now() < until);
        let wanted = wanted && !rests && may_replace(&self.parts.partitions.storage().metadata);
        wanted.then_some(MergeLimits {
            bytes_max: settings.merge_bytes,
            stream_object_bytes: settings.limits.stream_object_bytes,
            part_bytes_min: can.part_bytes_min,
            part_bytes_max: can.part_bytes_max,
        })
    }

    async fn planned(
        &self,
        partition: &Partition,
        limits: &MergeLimits,
        bounds: &MergeBounds,
    ) -> Option<Vec<RangeRef>> {
        let metadata = &self.parts.partitions.storage().metadata;
        let mut all = Vec::new();
        let mut from = Offset(partition.offsets().log_start);
        while all.len() < PIECES_MAX {
            let more = metadata.read(|state| pieces(state, partition.stream(), from, PIECES_AT_ONCE, limits, bounds));
            let is_last = more.len() < PIECES_AT_ONCE;
            from = more.last().map_or(from, |(range, _)| range.end);
            // What cannot be read stays, and its neighbours on either side are joined without it.
            all.extend(more.into_iter().map(|(range, standing)| match self.damaged.contains(&range.object) {
                true => (range, Standing::Stays),
                false => (range, standing),
            }));
            tokio::task::yield_now().await;
            if is_last {
                break;
            }
        }
        plan(&all, bounds)
    }

    async fn merge(&self, partition: &Partition, inputs: &[RangeRef]) -> Result<Made, CompactionError> {
        let stream = partition.stream();
        let storage = self.parts.partitions.storage();
        let (mut sources, mut bounds_of, mut states, mut aborted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut blocks: Vec<BlockEntry> = Vec::new();
        for range in inputs {
            let known = storage.metadata.read(|state| ObjectRef::of(state, range.object));
            let object = known.ok_or(ObjectError::NotFound(range.object))?;
            let cached = self.parts.reader.index(&object, Purpose::Compaction).await?;
            check_whole(&object, &cached, stream, range)?;
            let of_object = self.parts.reader.producers(&object, Purpose::Compaction).await?;
            states.extend(of_object.into_iter().find(|state| state.stream == stream));
            aborted.extend(self.parts.reader.aborted(&object, Purpose::Compaction).await?);
            sources.push((self.parts.keys.key(object.incarnation, object.object), 0..cached.footer.data_bytes));
            bounds_of.push(blocks.len()..blocks.len() + cached.index.blocks().len());
            blocks.extend(cached.index.blocks());
        }
        let object = self.reserve().await?;
        let mut builder = ObjectBuilder::new(object, self.parts.incarnation);
        blocks.iter().for_each(|block| builder.add_stored_block(block));
        let end = inputs.last().map_or(0, |range| range.end.0);
        builder.set_producers(fold_producers(stream, end, states));
        aborted.into_iter().for_each(|aborted| builder.add_aborted(aborted));
        let encoded = builder.finish();
        let key = self.parts.keys.key(self.parts.incarnation, object);
        let tail = Segments::new(encoded.segments.clone());
        let tail_bytes = tail.total_bytes();
        let joined = large::concat_before(&self.parts.backend, &key, &sources, tail, Purpose::Compaction).await;
        let joined = joined.map_err(CompactionError::Put)?;
        if joined != encoded.bytes {
            let why = format!("{joined} bytes instead of {}", encoded.bytes);
            return Err(CompactionError::Merged { object, why });
        }
        if !crate::faults::joins_unseen() {
            self.verify(&encoded, &bounds_of).await?;
        }
        let (merged_bytes, Some(range)) = (encoded.bytes - tail_bytes, encoded.ranges.first()) else {
            return Ok(Made::Nothing);
        };
        let replacement = StreamReplacement {
            stream,
            leader_epoch: LeaderEpoch(partition.leader_epoch()),
            inputs: inputs.iter().map(|input| RangeInput { base: input.base, object: input.object }).collect(),
            outputs: vec![RangeOutput {
                base: inputs[0].base,
                end: Offset(end),
                object,
                bytes: range.bytes,
                records: range.records,
                max_timestamp: range.max_timestamp,
            }],
            cleaned_to: None,
        };
        let record = self.record(encoded.bytes);
        let outcomes = self.replace(NewObject { object, record }, vec![replacement]).await?;
        let used = outcomes == [RangeOutcome::Accepted];
        self.counters.streams_refused.fetch_add(u64::from(!used), Ordering::Relaxed);
        self.counters.merges.fetch_add(1, Ordering::Relaxed);
        self.counters.merged_bytes.fetch_add(merged_bytes, Ordering::Relaxed);
        debug!(%object, inputs = inputs.len(), merged_bytes, used, "objects joined within the store");
        // The store reads and writes as much.
        self.pace(encoded.bytes, Instant::now()).await;
        Ok(if used { Made::Used } else { Made::Refused })
    }

    /// Whether the store has what it was told to join: the end whole, and of each part the first and the last block.
    async fn verify(&self, encoded: &EncodedObject, parts: &[Range<usize>]) -> Result<(), CompactionError> {
        let object = ObjectRef { object: encoded.object, incarnation: self.parts.incarnation, bytes: encoded.bytes };
        let reader = &self.parts.reader;
        let wrong = |error: ObjectError| match error {
            ObjectError::Corrupt { object, why } => CompactionError::Merged { object, why },
            error => error.into(),
        };
        let cached = reader.index(&object, Purpose::Compaction).await.map_err(wrong)?;
        reader.producers(&object, Purpose::Compaction).await.map_err(wrong)?;
        reader.aborted(&object, Purpose::Compaction).await.map_err(wrong)?;
        if cached.index != encoded.index {
            let why = "its index is not the one that was written".to_owned();
            return Err(CompactionError::Merged { object: encoded.object, why });
        }
        let ends: BTreeSet<usize> = parts.iter().flat_map(|part| [part.start, part.end - 1]).collect();
        for at in ends {
            let began = Instant::now();
            let blocks = reader.read_blocks(&object, &cached.index, at..at + 1, 1, Purpose::Compaction).await;
            let bytes: u64 = blocks.map_err(wrong)?.iter().map(|block| block.len() as u64).sum();
            self.counters.read_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.pace(bytes, began).await;
        }
        Ok(())
    }
}

/// All data of the object is the range's.
fn check_whole(
    object: &ObjectRef,
    cached: &CachedIndex,
    stream: StreamId,
    range: &RangeRef,
) -> Result<(), CompactionError> {
    let blocks = cached.index.blocks();
    let records: u64 = blocks.iter().map(|block| u64::from(block.record_count)).sum();
    let ends = blocks.first().zip(blocks.last());
    let whole = blocks.iter().all(|block| block.stream == stream)
        && (records, cached.footer.data_bytes) == (range.records, range.bytes)
        && ends.is_some_and(|(first, last)| first.base >= range.base.0 && last.end == range.end.0);
    if whole {
        return Ok(());
    }
    let why = format!("stream {stream} {}..{} is not all that is in it", range.base, range.end);
    Err(ObjectError::Corrupt { object: object.object, why }.into())
}
