//! The newest part of every partition's log: an index of batches, and their bytes while memory allows.
//!
//! A [`StreamTail`] belongs to one partition and lives under that partition's lock. It indexes every batch from
//! the end of what is committed in metadata (and some older ones that are still in memory) to the log end.
//! The [`LogCache`] is shared: it counts the bytes of all tails against one budget and decides which batch
//! leaves memory. Committed batches go first, oldest first; then batches that are durable in the WAL lose their
//! bytes and keep their index entry, to be read back from the WAL. A batch that is not durable yet never leaves.
//!
//! Promise: what `lookup` returns is contiguous, starts with the batch that holds the asked offset, and each hit
//! says where its bytes are. Reading the WAL and objects is left to the read path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use seawall_wal_device::{Lsn, RecordPosition};

/// What an index entry takes: itself, its slot, its places in the queues.
pub const INDEX_ENTRY_BYTES: u64 = 224;
/// What a batch in memory takes beside its bytes: mostly its patched header's own allocations.
pub const BATCH_OVERHEAD_BYTES: u64 = 160;

/// However small the budget is, the index may take this much.
const INDEX_BYTES_MAX_FLOOR: u64 = 64 << 20;

/// What the index remembers of a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// Offset of the first record.
    pub base: i64,
    /// Offset of the last record, inclusive.
    pub last: i64,
    /// The leader epoch under which the batch was appended.
    pub leader_epoch: i32,
    pub max_timestamp: i64,
    pub record_count: u32,
    /// Length of the whole batch, header included.
    pub bytes: u32,
    pub producer: Option<BatchProducer>,
}

/// The idempotent producer of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchProducer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub last_sequence: i32,
}

/// The bytes of one batch in up to two pieces, so that a patched header can sit beside an untouched body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchBytes {
    head: Bytes,
    rest: Bytes,
}

/// Where the bytes of a tail batch are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailSource {
    Memory(BatchBytes),
    /// Not in memory, not yet committed: still in the WAL of the partition.
    Wal(RecordPosition),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailHit {
    pub entry: BatchEntry,
    pub source: TailSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailLookup {
    /// At least one batch; the first holds the asked offset, the others follow without a gap.
    Hits(Vec<TailHit>),
    /// The offset lies below what the tail can serve: it is committed, look in the objects.
    Below,
    /// Nothing readable at or after the offset yet.
    AtEnd,
}

/// A batch the uploader may put into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingBatch {
    pub entry: BatchEntry,
    pub position: RecordPosition,
    /// `None`: read it back from the WAL.
    pub bytes: Option<BatchBytes>,
}

/// The byte budget shared by the tails of all partitions.
///
/// Cheap to clone. A batch counts with its length and an overhead; a slice of a larger request buffer pins that buffer, but
/// the batches of one request are appended, and therefore leave, together. Index entries count too, and stay until
/// their batches are committed: [`LogCache::index_is_full`] says when no more should be appended.
#[derive(Debug, Clone)]
pub struct LogCache {
    shared: Arc<Mutex<Budget>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogCacheUsage {
    /// Batches in memory, what the allocator and the request's remains take beside them included.
    pub bytes: u64,
    /// Index entries of all tails.
    pub index_bytes: u64,
    /// From here on nothing more should be appended.
    pub index_bytes_max: u64,
    /// What both together should stay under.
    pub budget_bytes: u64,
    /// Batches of uncommitted data dropped from memory since start.
    pub evicted_uncommitted: u64,
    /// Committed batches dropped from memory since start.
    pub evicted_committed: u64,
}

/// The tail of one partition's log.
#[derive(Debug)]
pub struct StreamTail {
    cache: LogCache,
    /// In offset order, without gaps between neighbours above `committed`.
    entries: VecDeque<TailEntry>,
    /// Everything below is committed in metadata and readable from objects.
    committed: i64,
    log_end: i64,
    bytes_uncommitted: u64,
}

impl BatchBytes {
    /// A batch whose (patched) header is apart from its untouched body.
    pub fn two(head: Bytes, rest: Bytes) -> BatchBytes {
        BatchBytes { head, rest }
    }

    pub fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order, empty ones left out. Clones share the bytes.
    pub fn segments(&self) -> impl Iterator<Item = Bytes> + '_ {
        [&self.head, &self.rest].into_iter().filter(|piece| !piece.is_empty()).cloned()
    }

    /// One contiguous buffer. Copies when there are two pieces: for tests and for reading headers, not for the data path.
    pub fn to_contiguous(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.head.clone();
        }
        if self.head.is_empty() {
            return self.rest.clone();
        }
        Bytes::from([&self.head[..], &self.rest[..]].concat())
    }
}

impl From<Bytes> for BatchBytes {
    fn from(bytes: Bytes) -> BatchBytes {
        BatchBytes { head: bytes, rest: Bytes::new() }
    }
}

impl LogCache {
    pub fn new(budget_bytes: u64) -> LogCache {
        LogCache { shared: Arc::new(Mutex::new(Budget { budget_bytes, ..Budget::default() })) }
    }

    /// An empty tail of a stream whose log starts to be written at `log_end` (everything below is in objects).
    pub fn new_tail(&self, log_end: i64) -> StreamTail {
        StreamTail { cache: self.clone(), entries: VecDeque::new(), committed: log_end, log_end, bytes_uncommitted: 0 }
    }

    pub fn usage(&self) -> LogCacheUsage {
        let budget = self.lock();
        LogCacheUsage {
            bytes: budget.bytes,
            index_bytes: budget.index_bytes,
            index_bytes_max: budget.index_bytes_max(),
            budget_bytes: budget.budget_bytes,
            evicted_uncommitted: budget.evicted_uncommitted,
            evicted_committed: budget.evicted_committed,
        }
    }

    /// Whether the index alone takes the whole budget, or 64 MiB if the budget is less: uploads are far behind, or batches are
    /// very small.
    pub fn index_is_full(&self) -> bool {
        let budget = self.lock();
        budget.index_bytes >= budget.index_bytes_max()
    }

    /// Whether half of that is reached: time to upload.
    pub fn index_is_half_full(&self) -> bool {
        let budget = self.lock();
        budget.index_bytes >= budget.index_bytes_max() / 2
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamTail {
    /// Adds the batch just appended. Its base is the log end.
    pub fn push(&mut self, entry: BatchEntry, bytes: impl Into<BatchBytes>) {
        let bytes = bytes.into();
        assert_eq!(bytes.len(), entry.bytes as usize, "batch length differs from its entry");
        self.add(entry, None, Arc::new(Slot::holding(bytes)));
        self.cache.lock().grow(u64::from(entry.bytes) + BATCH_OVERHEAD_BYTES);
        self.forget_front();
    }

    /// The batch at `base` is durable at `position` in the WAL; from now on its bytes may leave memory.
    /// Does nothing for a batch the tail no longer knows (its topic was truncated meanwhile).
    pub fn placed(&mut self, base: i64, position: RecordPosition) {
        if let Some(slot) = self.place(base, position) {
            self.cache.lock().offer_durable(slot);
        }
    }

    /// The batch at `base` lies nowhere but here: it may be uploaded, and stays in memory until it is committed.
    pub fn placed_in_memory(&mut self, base: i64, position: RecordPosition) {
        self.place(base, position);
    }

    fn place(&mut self, base: i64, position: RecordPosition) -> Option<Arc<Slot>> {
        let index = self.index_of(base)?;
        let entry = &mut self.entries[index];
        if entry.entry.base != base {
            return None;
        }
        assert!(entry.position.is_none(), "batch {base} placed twice");
        entry.position = Some(position);
        Some(entry.slot.clone())
    }

    /// Adds a batch that recovery found in the WAL: index only, bytes stay on the device.
    pub fn recovered(&mut self, entry: BatchEntry, position: RecordPosition) {
        self.add(entry, Some(position), Arc::new(Slot::default()));
        self.cache.lock().grow(0);
    }

    /// Everything below `to` is committed in metadata: its bytes may leave memory before all others. Also lets go of
    /// entries whose bytes the cache has evicted since.
    pub fn committed(&mut self, to: i64) {
        assert!(to <= self.log_end, "committed end {to} beyond log end {}", self.log_end);
        if to <= self.committed {
            self.forget_front();
            return;
        }
        let from = self.entries.partition_point(|entry| entry.entry.base < self.committed);
        let mut newly = Vec::new();
        for entry in self.entries.iter().skip(from).take_while(|entry| entry.entry.base < to) {
            assert!(entry.entry.last < to, "committed end {to} inside batch {:?}", entry.entry);
            assert!(entry.position.is_some(), "batch {} committed before it was durable", entry.entry.base);
            self.bytes_uncommitted -= u64::from(entry.entry.bytes);
            newly.push(entry.slot.clone());
        }
        self.committed = to;
        self.cache.lock().offer_committed(newly);
        self.forget_front();
    }

    /// Forgets whole batches below the log start.
    pub fn truncate_below(&mut self, log_start: i64) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.entry.last < log_start && entry.entry.last < self.committed)
        {
            self.drop_front();
        }
    }

    /// Batches from the one that holds `from`, up to `below` (exclusive: a batch that ends at or beyond it is not returned).
    ///
    /// Stops before `max_bytes` would be passed, but with `at_least_one` the first batch is returned whatever its size.
    /// With too small a `max_bytes` and no `at_least_one` the hits are empty.
    pub fn lookup(&self, from: i64, max_bytes: usize, at_least_one: bool, below: i64) -> TailLookup {
        if from >= below.min(self.log_end) {
            return TailLookup::AtEnd;
        }
        let Some(start) = self.index_of(from) else { return TailLookup::Below };
        let (mut hits, mut bytes) = (Vec::new(), 0usize);
        for (step, tail) in self.entries.iter().skip(start).enumerate() {
            if tail.entry.last >= below {
                return if step == 0 { TailLookup::AtEnd } else { TailLookup::Hits(hits) };
            }
            let source = match (tail.slot.bytes(), tail.position) {
                (Some(bytes), _) => TailSource::Memory(bytes),
                (None, _) if tail.entry.last < self.committed => break,
                (None, Some(position)) => TailSource::Wal(position),
                (None, None) => panic!("batch {} is neither in memory nor in the WAL", tail.entry.base),
            };
            let over = bytes + tail.entry.bytes as usize > max_bytes;
            if over && !(at_least_one && step == 0) {
                return TailLookup::Hits(hits);
            }
            bytes += tail.entry.bytes as usize;
            hits.push(TailHit { entry: tail.entry, source });
        }
        if hits.is_empty() { TailLookup::Below } else { TailLookup::Hits(hits) }
    }

    /// Bytes of whole batches from the one that holds `from` on, up to `below`; counts no further than `enough`.
    /// `None`: they begin in objects.
    pub fn bytes_between(&self, from: i64, below: i64, enough: u64) -> Option<u64> {
        if from >= below.min(self.log_end) {
            return Some(0);
        }
        let start = self.index_of(from)?;
        let mut bytes = 0;
        for tail in self.entries.iter().skip(start).take_while(|tail| tail.entry.last < below) {
            bytes += u64::from(tail.entry.bytes);
            if bytes >= enough {
                break;
            }
        }
        Some(bytes)
    }

    /// Batches not yet committed that end below `durable_end`, from `from` on, in offset order: what may be uploaded.
    pub fn pending(&self, from: i64, durable_end: i64) -> impl Iterator<Item = PendingBatch> + '_ {
        let from = from.max(self.committed);
        let start = self.entries.partition_point(|entry| entry.entry.base < from);
        self.entries
            .iter()
            .skip(start)
            .take_while(move |tail| tail.entry.last < durable_end)
            .map_while(|tail| tail.position.map(|position| (tail, position)))
            .map(|(tail, position)| PendingBatch { entry: tail.entry, position, bytes: tail.slot.bytes() })
    }

    /// Every batch the tail knows, oldest first (committed ones that are still indexed included).
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &BatchEntry> + '_ {
        self.entries.iter().map(|tail| &tail.entry)
    }

    /// Start of the WAL frame that holds the first durable batch that is not committed. The WAL must keep it.
    pub fn first_uncommitted(&self) -> Option<Lsn> {
        self.first_needed(self.committed)
    }

    /// Start of the WAL frame that holds the first durable batch at or after `from`.
    pub fn first_needed(&self, from: i64) -> Option<Lsn> {
        let start = self.entries.partition_point(|entry| entry.entry.base < from);
        self.entries.get(start).and_then(|tail| tail.position).map(|position| position.frame())
    }

    /// WAL position of the first durable batch at or after `from`.
    pub fn first_record(&self, from: i64) -> Option<Lsn> {
        let start = self.entries.partition_point(|entry| entry.entry.base < from);
        self.entries.get(start).and_then(|tail| tail.position).map(|position| position.lsn)
    }

    pub fn committed_end(&self) -> i64 {
        self.committed
    }

    pub fn log_end(&self) -> i64 {
        self.log_end
    }

    /// Bytes appended and not yet committed, durable or not.
    pub fn bytes_uncommitted(&self) -> u64 {
        self.bytes_uncommitted
    }

    /// Base of the oldest batch that the index knows; reads below it go to objects.
    pub fn first_indexed(&self) -> Option<i64> {
        self.entries.front().map(|tail| tail.entry.base)
    }

    fn add(&mut self, entry: BatchEntry, position: Option<RecordPosition>, slot: Arc<Slot>) {
        assert_eq!(entry.base, self.log_end, "batch does not start at the log end");
        assert!(entry.last >= entry.base, "batch ends before it starts: {entry:?}");
        self.log_end = entry.last + 1;
        self.bytes_uncommitted += u64::from(entry.bytes);
        self.entries.push_back(TailEntry { entry, position, slot });
    }

    /// Index of the batch that holds `offset`.
    fn index_of(&self, offset: i64) -> Option<usize> {
        let index = self.entries.partition_point(|tail| tail.entry.last < offset);
        self.entries.get(index).filter(|tail| tail.entry.base <= offset).map(|_| index)
    }

    /// Drops committed entries at the front that have lost their bytes: objects serve them.
    fn forget_front(&mut self) {
        while self.entries.front().is_some_and(|tail| tail.entry.last < self.committed && tail.slot.is_empty()) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(tail) = self.entries.pop_front() {
            self.cache.lock().forget(&tail.slot);
        }
    }
}

impl Drop for StreamTail {
    fn drop(&mut self) {
        while !self.entries.is_empty() {
            self.drop_front();
        }
    }
}

#[derive(Debug)]
struct TailEntry {
    entry: BatchEntry,
    position: Option<RecordPosition>,
    slot: Arc<Slot>,
}

/// The bytes of one batch, shared between its tail and the eviction queues.
///
/// Lock order: partition lock, budget lock, slot lock. A slot lock is held for a clone or a take.
#[derive(Debug, Default)]
struct Slot {
    bytes: Mutex<Option<BatchBytes>>,
    committed: AtomicBool,
    /// The entry does not count any more, though its tail has yet to let go of it.
    uncounted: AtomicBool,
}

impl Slot {
    fn holding(bytes: BatchBytes) -> Slot {
        Slot { bytes: Mutex::new(Some(bytes)), ..Slot::default() }
    }

    fn bytes(&self) -> Option<BatchBytes> {
        self.lock().clone()
    }

    fn is_empty(&self) -> bool {
        self.lock().is_none()
    }

    fn take(&self) -> Option<BatchBytes> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<BatchBytes>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Budget {
    budget_bytes: u64,
    bytes: u64,
    index_bytes: u64,
    evicted_uncommitted: u64,
    evicted_committed: u64,
    /// In the order of their commit.
    committed: VecDeque<Arc<Slot>>,
    /// In the order in which they became durable. A slot that is committed stays here too until it reaches the front.
    durable: VecDeque<Arc<Slot>>,
    /// Slots in the queues that were emptied by truncation, since the last sweep.
    truncated: usize,
}

/// Empty slots worth one sweep of the queues.
const SWEEP_AFTER: usize = 4096;

impl Budget {
    /// Counts an entry and the bytes that it holds.
    fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.index_bytes += INDEX_ENTRY_BYTES;
        self.evict();
    }

    fn offer_durable(&mut self, slot: Arc<Slot>) {
        self.durable.push_back(slot);
        self.evict();
    }

    fn offer_committed(&mut self, slots: Vec<Arc<Slot>>) {
        for slot in slots {
            slot.committed.store(true, Ordering::Relaxed);
            if slot.is_empty() {
                self.uncount(&slot);
            } else {
                self.committed.push_back(slot);
            }
        }
        while self.durable.front().is_some_and(|slot| slot.committed.load(Ordering::Relaxed)) {
            self.durable.pop_front();
        }
        self.evict();
    }

    /// Forgets an entry that its tail no longer knows.
    fn forget(&mut self, slot: &Slot) {
        self.uncount(slot);
        if self.release(slot) {
            self.truncated += 1;
        }
        if self.truncated >= SWEEP_AFTER {
            self.truncated = 0;
            self.committed.retain(|slot| !slot.is_empty());
            self.durable.retain(|slot| !slot.is_empty());
        }
    }

    fn evict(&mut self) {
        while self.bytes + self.index_bytes > self.budget_bytes {
            if let Some(slot) = self.committed.pop_front() {
                self.evicted_committed += u64::from(self.release(&slot));
                self.uncount(&slot);
            } else if let Some(slot) = self.durable.pop_front() {
                self.evicted_uncommitted += u64::from(self.release(&slot));
            } else {
                return; // the rest waits for its WAL write, whose queue is bounded
            }
        }
    }

    fn index_bytes_max(&self) -> u64 {
        self.budget_bytes.max(INDEX_BYTES_MAX_FLOOR)
    }

    fn uncount(&mut self, slot: &Slot) {
        if !slot.uncounted.swap(true, Ordering::Relaxed) {
            self.index_bytes -= INDEX_ENTRY_BYTES;
        }
    }

    /// Empties the slot; says whether it held bytes.
    fn release(&mut self, slot: &Slot) -> bool {
        let Some(bytes) = slot.take() else { return false };
        self.bytes -= bytes.len() as u64 + BATCH_OVERHEAD_BYTES;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_starts_with_the_batch_that_holds_the_offset() {
        let mut tail = LogCache::new(1 << 20).new_tail(100);
        append(&mut tail, 100, 109, 50);
        append(&mut tail, 110, 119, 50);
        let TailLookup::Hits(hits) = tail.lookup(105, 1000, false, 120) else { panic!("no hits") };
        assert_eq!(bases(&hits), [100, 110]);
        assert_eq!(tail.lookup(120, 1000, true, 120), TailLookup::AtEnd);
        assert_eq!(tail.lookup(99, 1000, true, 120), TailLookup::Below);
    }

    #[test]
    fn a_lookup_never_passes_the_watermark() {
        let mut tail = LogCache::new(1 << 20).new_tail(0);
        append(&mut tail, 0, 9, 50);
        append(&mut tail, 10, 19, 50);
        let TailLookup::Hits(hits) = tail.lookup(0, 1000, true, 10) else { panic!("no hits") };
        assert_eq!(bases(&hits), [0]);
        assert_eq!(tail.lookup(10, 1000, true, 10), TailLookup::AtEnd);
    }

    #[test]
    fn the_byte_limit_holds_but_for_the_first_batch_when_asked() {
        let mut tail = LogCache::new(1 << 20).new_tail(0);
        append(&mut tail, 0, 0, 100);
        append(&mut tail, 1, 1, 100);
        let TailLookup::Hits(hits) = tail.lookup(0, 10, true, 2) else { panic!("no hits") };
        assert_eq!(bases(&hits), [0]);
        assert_eq!(tail.lookup(0, 10, false, 2), TailLookup::Hits(vec![]));
    }

    #[test]
    fn batches_that_are_not_durable_stay_in_memory_over_the_budget() {
        let cache = LogCache::new(COST + INDEX_ENTRY_BYTES);
        let mut tail = cache.new_tail(0);
        append(&mut tail, 0, 0, 90);
        append(&mut tail, 1, 1, 90);
        assert_eq!(cache.usage().bytes, 2 * (90 + BATCH_OVERHEAD_BYTES));
        tail.placed(0, at(4096));
        assert_eq!(cache.usage().bytes, 90 + BATCH_OVERHEAD_BYTES);
        let TailLookup::Hits(hits) = tail.lookup(0, 1000, true, 2) else { panic!("no hits") };
        assert_eq!(hits[0].source, TailSource::Wal(at(4096)));
        assert!(matches!(hits[1].source, TailSource::Memory(_)));
    }

    #[test]
    fn batches_that_lie_nowhere_else_stay_in_memory_until_they_are_committed() {
        let cache = LogCache::new(COST + INDEX_ENTRY_BYTES);
        let mut tail = cache.new_tail(0);
        append(&mut tail, 0, 0, 90);
        tail.placed_in_memory(0, at(0));
        append(&mut tail, 1, 1, 90);
        tail.placed_in_memory(1, at(1));
        let TailLookup::Hits(hits) = tail.lookup(0, 1000, true, 2) else { panic!("no hits") };
        assert!(hits.iter().all(|hit| matches!(hit.source, TailSource::Memory(_))));
        tail.committed(1);
        assert_eq!(tail.lookup(0, 1000, true, 2), TailLookup::Below, "it has left");
        assert!(matches!(tail.lookup(1, 1000, true, 2), TailLookup::Hits(_)));
    }

    #[test]
    fn committed_batches_leave_before_uncommitted_ones() {
        let cache = LogCache::new(2 * COST);
        let (mut old, mut new) = (cache.new_tail(0), cache.new_tail(0));
        append(&mut old, 0, 0, 90);
        old.placed(0, at(0));
        append(&mut new, 0, 0, 90);
        new.placed(0, at(1));
        new.committed(1);
        append(&mut new, 1, 1, 90);
        assert_eq!(new.lookup(0, 1000, true, 2), TailLookup::Below);
        assert!(
            matches!(old.lookup(0, 1000, true, 1), TailLookup::Hits(hits) if matches!(hits[0].source, TailSource::Memory(_)))
        );
        assert_eq!(cache.usage().evicted_committed, 1);
        assert_eq!(new.first_indexed(), Some(1));
    }

    #[test]
    fn a_committed_batch_without_bytes_is_read_from_objects_even_behind_others() {
        let cache = LogCache::new(1 << 20);
        let mut tail = cache.new_tail(0);
        append(&mut tail, 0, 0, 10);
        tail.placed(0, at(0));
        tail.recovered(entry(1, 1, 10), at(1));
        append(&mut tail, 2, 2, 10);
        tail.placed(2, at(2));
        tail.committed(3);
        let TailLookup::Hits(hits) = tail.lookup(0, 1000, true, 3) else { panic!("no hits") };
        assert_eq!(bases(&hits), [0]);
        assert_eq!(tail.lookup(1, 1000, true, 3), TailLookup::Below);
        assert!(matches!(tail.lookup(2, 1000, true, 3), TailLookup::Hits(_)));
    }

    #[test]
    fn pending_ends_at_the_durable_end_and_starts_after_what_is_committed() {
        let mut tail = LogCache::new(1 << 20).new_tail(0);
        for base in 0..4 {
            append(&mut tail, base, base, 10);
        }
        for base in 0..3 {
            tail.placed(base, at(base as u64));
        }
        tail.committed(1);
        assert_eq!(tail.pending(0, 3).map(|batch| batch.entry.base).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(tail.pending(2, 3).map(|batch| batch.entry.base).collect::<Vec<_>>(), [2]);
        assert_eq!(tail.first_uncommitted(), Some(Lsn(1)));
        assert_eq!(tail.bytes_uncommitted(), 30);
    }

    #[test]
    fn a_dropped_tail_gives_its_bytes_back() {
        let cache = LogCache::new(1 << 20);
        let mut tail = cache.new_tail(0);
        append(&mut tail, 0, 0, 10);
        tail.recovered(entry(1, 1, 10), at(1));
        drop(tail);
        assert_eq!((cache.usage().bytes, cache.usage().index_bytes), (0, 0));
    }

    #[test]
    fn index_entries_count_until_their_batches_are_committed_and_gone_from_memory() {
        let cache = LogCache::new(10 * INDEX_ENTRY_BYTES);
        let mut tail = cache.new_tail(0);
        for base in 0..10 {
            append(&mut tail, base, base, 10);
            tail.placed(base, at(base as u64));
        }
        assert_eq!(cache.usage().index_bytes, 10 * INDEX_ENTRY_BYTES);
        assert!(!cache.index_is_full(), "there is a floor");
        tail.committed(5);
        assert_eq!(cache.usage().index_bytes, 5 * INDEX_ENTRY_BYTES);
        assert_eq!(tail.first_indexed(), Some(5));
    }

    /// Of a batch of 90 bytes and its entry.
    const COST: u64 = 90 + BATCH_OVERHEAD_BYTES + INDEX_ENTRY_BYTES;

    fn append(tail: &mut StreamTail, base: i64, last: i64, bytes: u32) {
        tail.push(entry(base, last, bytes), Bytes::from(vec![base as u8; bytes as usize]));
    }

    fn entry(base: i64, last: i64, bytes: u32) -> BatchEntry {
        let record_count = (last - base + 1) as u32;
        BatchEntry { base, last, leader_epoch: 0, max_timestamp: base, record_count, bytes, producer: None }
    }

    fn at(lsn: u64) -> RecordPosition {
        RecordPosition { lsn: Lsn(lsn), bytes: 10, frame_offset: 0 }
    }

    fn bases(hits: &[TailHit]) -> Vec<i64> {
        hits.iter().map(|hit| hit.entry.base).collect()
    }
}
