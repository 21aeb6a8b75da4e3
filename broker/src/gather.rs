//! Brings what several partitions of one answer want from objects into the block cache with few reads of the store.
//!
//! One upload object holds small parts of many streams side by side. Read one by one, each costs a read of the store; here all
//! indexes are asked for at once, and blocks that lie next to each other in an object come with one read, whichever streams they are of.
//! Promises: a block that is in memory or being read by someone is not read again; what is claimed here is waited for by
//! readers; a reader at the tail waits for no block that is read within the budget of those behind; memory is bounded by
//! [`BYTES_MAX`]. Errors are left to who reads the partition.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use seawall_backends::Purpose;
use seawall_metadata::{ObjectId, Offset, State, StreamId};

use crate::block_cache::Claim;
use crate::concurrently;
use crate::object_format::{BlockEntry, ObjectIndex};
use crate::object_reader::{CachedIndex, ObjectReader, ObjectRef};
use crate::read_path::{ReadPath, purpose};

/// All that one gathering brings, and no more than this part of the block cache: it must still be there when it is read.
const BYTES_MAX: u64 = 16 << 20;
const CACHE_SHARE: u64 = 4;
/// Objects that one partition is looked for in.
const RANGES_MAX: usize = 32;
/// One read of the store at most.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Bytes between two wanted blocks that are read along: they cost less than another request.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// How long indexes are waited for before each partition is left to itself.
const INDEX_PATIENCE: Duration = Duration::from_secs(2);

/// What one partition wants.
#[derive(Debug, Clone, Copy)]
pub struct Want {
    pub stream: StreamId,
    pub from: i64,
    pub bytes: u64,
}

/// Blocks that are to be read now, and by nobody else.
pub struct Gathered<'a> {
    reader: &'a ObjectReader,
    runs: Vec<Run<'a>>,
    /// For each want, the first offset that is read for it.
    pub missed: Vec<Option<i64>>,
}

struct Run<'a> {
    object: ObjectRef,
    /// Of every block in it.
    purpose: Purpose,
    blocks: Vec<(BlockEntry, Claim<'a>)>,
}

/// A part of a stream in one object: the offsets from `from` on below `end`.
struct Part {
    want: usize,
    object: ObjectRef,
    from: i64,
    end: i64,
    /// The newest that is committed.
    is_last: bool,
}

/// A block of an object, by its position there, that a want is for.
struct Wanted {
    at: usize,
    want: usize,
    purpose: Purpose,
}

impl ReadPath {
    /// Claims what is wanted and not in memory. Readers wait for it until [`Gathered::load`] has brought it or is dropped.
    pub async fn gather(&self, wants: &[Want]) -> Gathered<'_> {
        let reader = &**self.reader();
        let bytes_max = BYTES_MAX.min(reader.usage().blocks.budget_bytes / CACHE_SHARE);
        let bytes_each = bytes_max / wants.len().max(1) as u64;
        let limit = |want: &Want| want.bytes.min(bytes_each);
        let parts: Vec<Part> = self.metadata().read(|state| {
            wants.iter().enumerate().flat_map(|(at, want)| parts(state, at, want, limit(want))).collect()
        });
        let indexes = indexes(reader, &parts).await;
        let mut left: Vec<u64> = wants.iter().map(limit).collect();
        let mut wanted: BTreeMap<ObjectId, (ObjectRef, Vec<Wanted>)> = BTreeMap::new();
        for part in &parts {
            let Some(cached) = indexes.get(&part.object.object) else {
                // What follows cannot be read before this.
                left[part.want] = 0;
                continue;
            };
            let (index, stream, want) = (&cached.index, wants[part.want].stream, part.want);
            let blocks = blocks(index, stream, part, &mut left[want]);
            let purpose = purpose(index, stream, blocks.start, part.is_last);
            let of_object = wanted.entry(part.object.object).or_insert_with(|| (part.object, Vec::new()));
            of_object.1.extend(blocks.map(|at| Wanted { at, want, purpose }));
        }
        let mut gathered = Gathered { reader, runs: Vec::new(), missed: vec![None; wants.len()] };
        for (id, (object, blocks)) in wanted {
            gathered.claim(object, &indexes[&id].index, blocks);
        }
        gathered
    }
}

impl Gathered<'_> {
    /// Reads it all at the same time; how many reads of the store there are at a time is left to the store's limits.
    pub async fn load(self) {
        concurrently::all(self.runs.into_iter().map(|run| run.load(self.reader))).await;
    }
}

impl<'a> Gathered<'a> {
    fn claim(&mut self, object: ObjectRef, index: &ObjectIndex, mut blocks: Vec<Wanted>) {
        // A block that several want is read for the one that is nearest to the tail.
        blocks.sort_unstable_by_key(|wanted| (wanted.at, wanted.purpose));
        let mut run: Option<Run<'a>> = None;
        let mut followed = vec![false; self.missed.len()];
        for Wanted { at, want, purpose } in blocks {
            if followed[want] {
                continue;
            }
            let Some(claim) = self.reader.claim_block(object.object, at) else {
                // Who reads this block now goes on behind it: taking the next one from it would make two reads of one.
                followed[want] = !self.reader.holds_block(object.object, at);
                continue;
            };
            let entry = index.blocks()[at];
            let missed = self.missed[want].get_or_insert(entry.base);
            *missed = entry.base.min(*missed);
            match &mut run {
                Some(run) if run.purpose == purpose && joins(run.span(), entry.span()) => {
                    run.blocks.push((entry, claim));
                }
                _ => self.runs.extend(run.replace(Run { object, purpose, blocks: vec![(entry, claim)] })),
            }
        }
        self.runs.extend(run);
    }
}

impl Run<'_> {
    async fn load(self, reader: &ObjectReader) {
        // Who wants a block that did not come reads it again, and meets the error.
        let _ = reader.fill(&self.object, self.blocks, self.purpose).await;
    }

    fn span(&self) -> Range<u64> {
        let (first, last) = (&self.blocks[0].0, &self.blocks[self.blocks.len() - 1].0);
        first.position..last.span().end
    }
}

/// Whether a block is read together with the run before it.
fn joins(run: Range<u64>, block: Range<u64>) -> bool {
    let near = block.start.checked_sub(run.end).is_some_and(|gap| gap <= GAP_BYTES_MAX);
    near && block.end - run.start <= READ_BYTES_MAX
}

/// Where the stream lies from the wanted offset on, as far as its bytes may reach.
fn parts(state: &State, want: usize, wanted: &Want, bytes_max: u64) -> Vec<Part> {
    let mut behind_first = None;
    let near = state.ranges(wanted.stream, Offset(wanted.from)).take(RANGES_MAX).take_while(|range| {
        // The reader may be anywhere in the first.
        let bytes = behind_first.get_or_insert(0);
        let is_near = *bytes < bytes_max;
        *bytes += if range.base.0 <= wanted.from { 0 } else { range.bytes };
        is_near
    });
    let next = state.stream(wanted.stream).map(|stream| stream.next);
    let part = |range: seawall_metadata::state::RangeRef| {
        let object = ObjectRef::of(state, range.object)?;
        let (from, end) = (wanted.from.max(range.base.0), range.end.0);
        Some(Part { want, object, from, end, is_last: Some(range.end) == next })
    };
    near.map_while(part).collect()
}

/// The indexes of all objects, those that could be had in time.
async fn indexes(reader: &ObjectReader, parts: &[Part]) -> BTreeMap<ObjectId, Arc<CachedIndex>> {
    let objects: BTreeMap<ObjectId, ObjectRef> = parts.iter().map(|part| (part.object.object, part.object)).collect();
    // Small, and whoever reads one of these partitions at the tail waits for it.
    let loads = objects.values().map(|object| async {
        let index = reader.index(object, Purpose::TailRead);
        let loaded = tokio::time::timeout(INDEX_PATIENCE, index).await.ok()?.ok()?;
        Some((object.object, loaded))
    });
    concurrently::all(loads).await.into_iter().flatten().collect()
}

/// Which blocks of the part are wanted, while there are bytes left.
fn blocks(index: &ObjectIndex, stream: StreamId, part: &Part, left: &mut u64) -> Range<usize> {
    let last = index.stream(stream).end;
    let first = index.find_offset(stream, part.from).unwrap_or(last);
    let mut behind = first;
    while behind < last && *left > 0 && index.blocks()[behind].base < part.end {
        *left = left.saturating_sub(u64::from(index.blocks()[behind].bytes));
        behind += 1;
    }
    first..behind
}

#[cfg(test)]
mod tests {
    use seawall_backends::memory::MemoryBackend;
    use seawall_metadata::{ClusterId, Incarnation};
    use uuid::Uuid;

    use super::*;
    use crate::log_cache::BatchEntry;
    use crate::object_format::ObjectBuilder;
    use crate::object_key::ObjectKeys;

    const OBJECT: ObjectRef = ObjectRef { object: ObjectId(1), incarnation: Incarnation(Uuid::nil()), bytes: 0 };

    /// One small block of each of so many streams, side by side.
    fn index(streams: u64) -> ObjectIndex {
        let mut builder = ObjectBuilder::new(OBJECT.object, OBJECT.incarnation);
        for stream in 0..streams {
            let batch = bytes::Bytes::from_static(&[0; 100]);
            let entry = BatchEntry {
                base: 0,
                last: 0,
                leader_epoch: 0,
                max_timestamp: 0,
                record_count: 1,
                bytes: 100,
                producer: None,
            };
            builder.add_batch(StreamId(stream), &entry, &batch.into());
        }
        builder.finish().index
    }

    /// The budget of those behind may be used up for as long as a replay lasts.
    #[test]
    fn what_the_tail_waits_for_is_read_apart_from_what_those_behind_want() {
        use Purpose::{CatchUpRead, TailRead};
        let keys = ObjectKeys::new("p", ClusterId(Uuid::nil())).unwrap();
        let reader = ObjectReader::new(Arc::new(MemoryBackend::new()), keys, 1 << 20, 1 << 20);
        let mut gathered = Gathered { reader: &reader, runs: Vec::new(), missed: vec![None; 6] };
        // The third block is wanted by both.
        let wants = [(0, TailRead), (1, TailRead), (2, CatchUpRead), (2, TailRead), (3, CatchUpRead), (4, CatchUpRead)];
        let wanted = wants.iter().enumerate().map(|(want, (at, purpose))| Wanted { at: *at, want, purpose: *purpose });
        gathered.claim(OBJECT, &index(5), wanted.collect());
        let runs: Vec<_> = gathered.runs.iter().map(|run| (run.purpose, run.blocks.len())).collect();
        assert_eq!(runs, [(TailRead, 3), (CatchUpRead, 2)]);
    }

    #[test]
    fn blocks_are_read_together_when_they_are_near_and_not_too_many_bytes() {
        const MIB: u64 = 1 << 20;
        assert!(joins(0..100, 100..200));
        assert!(joins(0..100, 100 + GAP_BYTES_MAX..200 + GAP_BYTES_MAX));
        assert!(!joins(0..100, 101 + GAP_BYTES_MAX..200 + GAP_BYTES_MAX));
        assert!(joins(0..3 * MIB, 3 * MIB..4 * MIB));
        assert!(!joins(0..3 * MIB, 3 * MIB..4 * MIB + 1));
        assert!(!joins(100..200, 0..100), "what lies before is not behind");
    }
}
