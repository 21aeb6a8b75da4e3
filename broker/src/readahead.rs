//! Readahead for readers that go through objects in order: blocks are fetched before they are asked for.
//!
//! A reader is recognised by where it left off: a read that starts where another ended continues it. What is ahead of a reader
//! is kept at about its window, by one task per reader at a time, which goes on for as long as less than half of that is there. The window doubles whenever the reader has caught up
//! with what was read ahead, and halves when the cache has let that go before it was asked for: at last nothing is read ahead,
//! until the reader has gone on for a while. All readers of the last seconds together get no more than a part of the cache, in equal
//! shares: what is read ahead must still be there when it is asked for.
//! Readahead has its own memory budget; beyond it nothing is read ahead, and nobody waits. Of readers that go along together, the first
//! one's readahead is for all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use seawall_backends::Purpose;
use seawall_metadata::{MetadataHandle, Offset, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use crate::object_format::BLOCK_BYTES_TARGET;
use crate::object_reader::{ObjectReader, ObjectRef};

/// Readers that are remembered.
const READERS_MAX: usize = 4096;
const WINDOW_BYTES_MIN: u64 = 1 << 20;
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// A smaller share is not worth a read of its own.
const SHARE_BYTES_MIN: u64 = 256 << 10;
/// Of the block cache, for what was read ahead of all readers: it keeps half of its bytes for blocks that were asked for.
const CACHE_SHARE: f64 = 0.45;
/// Readers are counted for so long.
const PERIOD: Duration = Duration::from_secs(2);
/// What a reader reads by itself after even the smallest window was too much. Bounds what is read twice to an eighth.
const REST_BYTES: u64 = 8 << 20;
/// Buffers of readahead under way, over all readers.
const BUDGET_BYTES: usize = 32 << 20;
/// One read of the store at most.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Objects looked at in one go: small ones are many.
const OBJECTS_MAX: usize = 16;
const BUDGET_UNIT_BYTES: usize = 64 << 10;

pub struct Readahead {
    metadata: MetadataHandle,
    reader: Arc<ObjectReader>,
    /// By where a reader left off.
    readers: Cache<(StreamId, i64), Reader>,
    budget: Arc<Semaphore>,
    counters: Arc<Counters>,
    active: Mutex<Active>,
}

/// How many readers there are: as many as in the period before, or more already.
#[derive(Debug)]
struct Active {
    began: Instant,
    period: u64,
    now: u64,
    before: u64,
}

/// Totals since start, and what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadaheadUsage {
    /// Buffers of reads under way, and the most that they may be.
    pub bytes: u64,
    pub budget_bytes: u64,
    /// Bytes read ahead, and those of them that the cache let go of or that no reader came for.
    pub read_bytes: u64,
    pub wasted_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    read_bytes: AtomicU64,
    wasted_bytes: AtomicU64,
}

/// One read of a reader out of objects.
#[derive(Debug, Clone, Copy)]
pub struct ReadOfObjects {
    pub from: i64,
    /// Where the next one goes on.
    pub next: i64,
    pub bytes: usize,
    /// The first offset for which a block had to be read, and nobody else was at it.
    pub missed: Option<i64>,
}

#[derive(Debug, Clone)]
struct Reader {
    shared: Arc<SharedAhead>,
}

#[derive(Debug)]
struct SharedAhead {
    ahead: Mutex<Ahead>,
    counters: Arc<Counters>,
}

/// The reader is forgotten: nobody came for the rest.
impl Drop for SharedAhead {
    fn drop(&mut self) {
        let ahead = self.ahead.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.counters.wasted_bytes.fetch_add(ahead.unread_bytes, Ordering::Relaxed);
    }
}

/// What was read ahead and is not asked for yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ahead {
    window_bytes: u64,
    /// The period in which the reader was counted, from 1 on.
    counted_in: u64,
    /// Nothing is read ahead until the reader has read as much.
    rest_bytes: u64,
    /// The most that may be ahead.
    share_bytes: u64,
    /// Where the reader is.
    reader_at: i64,
    /// It ends here.
    to: i64,
    bytes: u64,
    /// Those of them that were read for this reader; the others were there.
    unread_bytes: u64,
    busy: bool,
}

/// What readahead has brought: from where, up to where, how many bytes lie there, and how many of them it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Brought {
    from: i64,
    to: i64,
    bytes: u64,
    read_bytes: u64,
}

impl Readahead {
    pub fn new(metadata: MetadataHandle, reader: Arc<ObjectReader>) -> Arc<Readahead> {
        Arc::new(Readahead {
            metadata,
            reader,
            readers: Cache::new(READERS_MAX),
            budget: Arc::new(Semaphore::new(BUDGET_BYTES / BUDGET_UNIT_BYTES)),
            counters: Arc::default(),
            active: Mutex::new(Active::new(Instant::now())),
        })
    }

    /// What may lie ahead of this reader.
    fn share_bytes(&self, ahead: &mut Ahead) -> u64 {
        let readers = self.active.lock().unwrap_or_else(PoisonError::into_inner).count(ahead, Instant::now());
        share_bytes(self.reader.block_budget_bytes(), readers)
    }

    pub fn usage(&self) -> ReadaheadUsage {
        let free = self.budget.available_permits() * BUDGET_UNIT_BYTES;
        ReadaheadUsage {
            bytes: BUDGET_BYTES.saturating_sub(free) as u64,
            budget_bytes: BUDGET_BYTES as u64,
            read_bytes: self.counters.read_bytes.load(Ordering::Relaxed),
            wasted_bytes: self.counters.wasted_bytes.load(Ordering::Relaxed),
        }
    }

    /// Begins to fetch what the reader will want next.
    pub fn note(self: &Arc<Self>, stream: StreamId, read: ReadOfObjects) {
        let known = self.readers.remove(&(stream, read.from)).map(|(_, reader)| reader);
        let continues = known.is_some();
        if !continues && self.readers.contains_key(&(stream, read.next)) {
            // Another reader was here just before, and reads ahead for both.
            return;
        }
        let reader = known.unwrap_or_else(|| Reader::new(self.counters.clone()));
        self.readers.insert((stream, read.next), reader.clone());
        if !continues {
            return;
        }
        let share = self.share_bytes(&mut reader.ahead());
        if let Some(wanted) = reader.wants(&read, share) {
            self.start(stream, reader, wanted);
        }
    }

    fn start(self: &Arc<Self>, stream: StreamId, reader: Reader, (from, bytes): (i64, u64)) {
        let Some(mut permit) = self.buffers(bytes) else {
            reader.ahead().busy = false;
            return;
        };
        let readahead = self.clone();
        tokio::spawn(async move {
            let (mut from, mut bytes) = (from, bytes);
            loop {
                let brought = readahead.fetch(stream, from, bytes).await;
                drop(permit);
                readahead.counters.read_bytes.fetch_add(brought.read_bytes, Ordering::Relaxed);
                let mut ahead = reader.ahead();
                let Some(wanted) = ahead.add(brought) else { return };
                (from, bytes) = wanted;
                let Some(more) = readahead.buffers(bytes) else {
                    ahead.busy = false;
                    return;
                };
                permit = more;
            }
        });
    }

    fn buffers(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = (bytes as usize).div_ceil(BUDGET_UNIT_BYTES) as u32;
        self.budget.clone().try_acquire_many_owned(units).ok()
    }

    /// Fetches blocks of the stream from `from` on, up to `bytes` of them. Errors are left to whoever asks for the block.
    async fn fetch(&self, stream: StreamId, from: i64, bytes: u64) -> Brought {
        let mut brought = Brought { from, to: from, bytes: 0, read_bytes: 0 };
        for (object, end) in self.objects(stream, from) {
            let Ok(cached) = self.reader.index(&object, Purpose::CatchUpRead).await else { return brought };
            let index = &cached.index;
            let last = index.stream(stream).end;
            let mut at = index.find_offset(stream, brought.to).unwrap_or(last);
            while at < last && brought.bytes < bytes {
                // A last block is not left for a read of its own.
                let read_max = (bytes - brought.bytes).next_multiple_of(BLOCK_BYTES_TARGET as u64).min(READ_BYTES_MAX);
                let read = self.reader.prefetch(&object, index, at..last, read_max, Purpose::CatchUpRead);
                let Ok(blocks_read) = read.await else { return brought };
                let behind = at + blocks_read.max(1);
                let block_bytes: u64 = index.blocks()[at..behind].iter().map(|block| u64::from(block.bytes)).sum();
                brought.bytes += block_bytes;
                brought.read_bytes += if blocks_read > 0 { block_bytes } else { 0 };
                brought.to = index.blocks()[behind - 1].end;
                at = behind;
            }
            if at < last || brought.bytes >= bytes {
                break;
            }
            brought.to = brought.to.max(end);
        }
        brought
    }

    fn objects(&self, stream: StreamId, from: i64) -> Vec<(ObjectRef, i64)> {
        self.metadata.read(|state| {
            let of = |range: seawall_metadata::state::RangeRef| {
                let object = ObjectRef::of(state, range.object)?;
                Some((object, range.end.0))
            };
            state.ranges(stream, Offset(from)).take(OBJECTS_MAX).filter_map(of).collect()
        })
    }
}

impl Reader {
    fn new(counters: Arc<Counters>) -> Reader {
        Reader { shared: Arc::new(SharedAhead { ahead: Mutex::default(), counters }) }
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.shared.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to go on reading ahead after this read, and how far, if it is time. Says so once until that is done.
    fn wants(&self, read: &ReadOfObjects, share_bytes: u64) -> Option<(i64, u64)> {
        let step = self.ahead().step(read, share_bytes);
        self.shared.counters.wasted_bytes.fetch_add(step.wasted_bytes, Ordering::Relaxed);
        step.wanted
    }
}

/// Of a block cache so large, among so many readers.
fn share_bytes(cache_bytes: u64, readers: u64) -> u64 {
    (cache_bytes as f64 * CACHE_SHARE) as u64 / readers.max(1)
}

impl Active {
    fn new(began: Instant) -> Self {
        Self { began, period: 1, now: 0, before: 0 }
    }

    /// Counts the reader, once a period.
    fn count(&mut self, reader: &mut Ahead, at: Instant) -> u64 {
        let period = (at - self.began).as_millis() as u64 / PERIOD.as_millis() as u64 + 1;
        if period > self.period {
            self.before = if period == self.period + 1 { self.now } else { 0 };
            (self.period, self.now) = (period, 0);
        }
        if reader.counted_in != self.period {
            reader.counted_in = self.period;
            self.now += 1;
        }
        self.now.max(self.before)
    }
}

/// What follows from one read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    wanted: Option<(i64, u64)>,
    wasted_bytes: u64,
}

impl Ahead {
    /// What is wanted next, if it is time; then that is under way.
    fn add(&mut self, brought: Brought) -> Option<(i64, u64)> {
        self.busy = false;
        self.to = self.to.max(brought.to);
        // The reader may have gone into it already.
        let all = brought.to.abs_diff(brought.from).max(1);
        let ahead = brought.to.saturating_sub(self.reader_at.max(brought.from)).max(0) as u64;
        let still_ahead = |bytes: u64| (u128::from(bytes) * u128::from(ahead) / u128::from(all)) as u64;
        self.bytes += still_ahead(brought.bytes);
        self.unread_bytes += still_ahead(brought.read_bytes);
        // At the end of the log, or where the store does not answer.
        if brought.bytes == 0 || self.rest_bytes > 0 { None } else { self.next() }
    }

    fn next(&mut self) -> Option<(i64, u64)> {
        let window_bytes = self.window_bytes.min(self.share_bytes);
        if self.busy || self.bytes > window_bytes / 2 || window_bytes < SHARE_BYTES_MIN {
            return None;
        }
        self.busy = true;
        Some((self.to, window_bytes.saturating_sub(self.bytes)))
    }

    fn step(&mut self, read: &ReadOfObjects, share_bytes: u64) -> Step {
        let ahead = self;
        (ahead.share_bytes, ahead.reader_at) = (share_bytes, read.next);
        ahead.bytes = ahead.bytes.saturating_sub(read.bytes as u64);
        ahead.unread_bytes = ahead.unread_bytes.saturating_sub(read.bytes as u64);
        let caught_up = read.next >= ahead.to;
        let let_go = read.missed.is_some_and(|offset| offset < ahead.to);
        let wasted_bytes = if let_go { ahead.unread_bytes } else { 0 };
        if let_go && ahead.window_bytes / 2 < WINDOW_BYTES_MIN {
            ahead.window_bytes = 0;
            ahead.rest_bytes = REST_BYTES;
        } else if let_go {
            ahead.window_bytes /= 2;
        } else if caught_up && ahead.rest_bytes == 0 {
            ahead.window_bytes = (ahead.window_bytes * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        }
        if caught_up || let_go {
            ahead.to = read.next;
            ahead.bytes = 0;
            ahead.unread_bytes = 0;
        }
        if ahead.rest_bytes > 0 {
            ahead.rest_bytes = ahead.rest_bytes.saturating_sub(read.bytes as u64);
            return Step { wanted: None, wasted_bytes };
        }
        Step { wanted: ahead.next(), wasted_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    /// A share that bounds nothing.
    const ALL: u64 = u64::MAX;

    #[test]
    fn what_is_ahead_of_a_reader_stays_near_its_window() {
        let reader = new_reader();
        assert_eq!(reader.wants(&read(0, 10, MIB), ALL), Some((10, MIB)));
        assert_eq!(reader.wants(&read(10, 11, 0), ALL), None, "one at a time");
        set(&reader, Ahead { window_bytes: 4 * MIB, to: 20, bytes: 4 * MIB, ..Ahead::default() });
        assert_eq!(reader.wants(&read(11, 12, MIB), ALL), None, "enough is there");
        assert_eq!(reader.wants(&read(12, 15, MIB), ALL), Some((20, 2 * MIB)), "it goes on where it ended");
    }

    #[test]
    fn the_window_doubles_when_the_reader_has_caught_up_with_it() {
        let reader = new_reader();
        for window in [1, 2, 4, 8, 8] {
            assert_eq!(reader.wants(&read(10, 30, 5 * MIB), ALL), Some((30, window * MIB)));
            reader.ahead().busy = false;
        }
        set(&reader, Ahead { window_bytes: 2 * MIB, to: 90, bytes: MIB, ..Ahead::default() });
        assert_eq!(reader.wants(&read(30, 31, 0), ALL), Some((90, MIB)), "what lies ahead is enough");
    }

    #[test]
    fn the_window_halves_when_the_cache_let_go_what_was_read_ahead_and_at_last_there_is_none_for_a_while() {
        let reader = new_reader();
        let missed = ReadOfObjects { missed: Some(15), ..read(10, 20, MIB) };
        for window in [8, 4, 2] {
            set(&reader, Ahead { window_bytes: window * MIB, to: 90, bytes: 6 * MIB, ..Ahead::default() });
            assert_eq!(reader.wants(&missed, ALL), Some((20, window / 2 * MIB)), "it begins again at the reader");
        }
        set(&reader, Ahead { window_bytes: MIB, to: 90, bytes: MIB / 2, ..Ahead::default() });
        assert_eq!(reader.wants(&missed, ALL), None);
        for at in 20..26 {
            assert_eq!(reader.wants(&ReadOfObjects { missed: Some(at), ..read(at, at + 1, MIB) }, ALL), None);
        }
        assert_eq!(reader.wants(&read(26, 27, MIB), ALL), None, "the last of the rest");
        assert_eq!(reader.wants(&read(27, 28, MIB), ALL), Some((28, MIB)));
    }

    #[test]
    fn readers_share_a_part_of_the_cache_and_one_that_has_gone_gives_its_share_back() {
        let begun = Instant::now();
        let mut active = Active::new(begun);
        let mut readers: Vec<Ahead> = (0..6).map(|_| Ahead::default()).collect();
        for _ in 0..2 {
            readers.iter_mut().for_each(|reader| _ = active.count(reader, begun));
        }
        assert_eq!(active.count(&mut readers[0], begun), 6, "each once");
        assert_eq!(active.count(&mut readers[0], begun + PERIOD), 6, "those of the period before may come yet");
        assert_eq!(active.count(&mut readers[0], begun + PERIOD * 2), 1);
        active.count(&mut readers[1], begun + PERIOD * 2);
        assert_eq!(active.count(&mut readers[0], begun + PERIOD * 9), 1);
        assert_eq!(share_bytes(40 * MIB, 6), 3 * MIB);
        assert_eq!(share_bytes(40 * MIB, 0), 18 * MIB);
    }

    #[test]
    fn reading_ahead_goes_on_by_itself_until_enough_is_there_and_what_the_reader_has_passed_does_not_count() {
        let mut ahead = Ahead { window_bytes: 4 * MIB, share_bytes: ALL, to: 10, ..Ahead::default() };
        let brought = |from, to, bytes| Brought { from, to, bytes, read_bytes: bytes };
        assert_eq!(ahead.add(brought(10, 20, 2 * MIB)), Some((20, 2 * MIB)));
        assert!(ahead.busy);
        assert_eq!(ahead.add(brought(20, 30, 2 * MIB)), None, "the window is full");
        assert!(!ahead.busy);
        assert_eq!(ahead.add(brought(30, 30, 0)), None, "nothing came");
        let mut ahead = Ahead { window_bytes: 4 * MIB, share_bytes: ALL, reader_at: 25, ..Ahead::default() };
        assert_eq!(ahead.add(brought(20, 30, 4 * MIB)), Some((30, 2 * MIB)), "half of it is behind the reader");
        (ahead.reader_at, ahead.to, ahead.bytes) = (50, 50, 0);
        assert_eq!(ahead.add(brought(30, 40, 4 * MIB)), Some((50, 4 * MIB)), "all of it is");
    }

    #[test]
    fn no_more_than_its_share_lies_ahead_of_a_reader_and_nothing_where_that_is_too_little() {
        let reader = new_reader();
        set(&reader, Ahead { window_bytes: 8 * MIB, to: 20, bytes: MIB, ..Ahead::default() });
        assert_eq!(reader.wants(&read(10, 12, 0), 3 * MIB), Some((20, 2 * MIB)));
        reader.ahead().busy = false;
        assert_eq!(reader.wants(&read(12, 13, 0), 2 * MIB - 1), None, "more than half of it is there");
        set(&reader, Ahead { window_bytes: 8 * MIB, to: 20, bytes: 0, ..Ahead::default() });
        assert_eq!(reader.wants(&read(13, 14, 0), SHARE_BYTES_MIN - 1), None);
    }

    #[test]
    fn what_was_read_ahead_and_is_let_go_of_or_never_asked_for_is_counted_as_wasted() {
        let counters = Arc::new(Counters::default());
        let wasted = || counters.wasted_bytes.load(Ordering::Relaxed);
        let reader = Reader::new(counters.clone());
        reader.wants(&read(0, 10, MIB), ALL);
        reader.ahead().add(Brought { from: 10, to: 90, bytes: 4 * MIB, read_bytes: 3 * MIB });
        reader.wants(&read(10, 20, MIB), ALL);
        assert_eq!(wasted(), 0);
        reader.wants(&ReadOfObjects { missed: Some(95), ..read(20, 80, MIB / 2) }, ALL);
        assert_eq!(wasted(), 0, "what lies behind had not been read ahead");
        reader.wants(&ReadOfObjects { missed: Some(85), ..read(80, 89, MIB / 2) }, ALL);
        assert_eq!(wasted(), MIB);
        reader.ahead().add(Brought { from: 89, to: 99, bytes: MIB, read_bytes: MIB });
        drop(reader);
        assert_eq!(wasted(), 2 * MIB, "it never came back");
    }

    fn new_reader() -> Reader {
        Reader::new(Arc::default())
    }

    fn read(from: i64, next: i64, bytes: u64) -> ReadOfObjects {
        ReadOfObjects { from, next, bytes: bytes as usize, missed: None }
    }

    fn set(reader: &Reader, ahead: Ahead) {
        *reader.ahead() = ahead;
    }
}
