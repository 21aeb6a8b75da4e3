//! Readahead for readers that go through objects in order: blocks are fetched before they are asked for.
//!
//! A reader is recognised by where it left off: a read that starts where another ended continues it. What is ahead of a reader
//! is kept at about its window, by one task per reader at a time. The window doubles whenever the reader has caught up
//! with what was read ahead, and halves when the cache has let that go before it was asked for: at last nothing is read ahead,
//! until the reader has gone on for a while. Many readers together may want more than the cache can hold for them.
//! Readahead has its own memory budget; beyond it nothing is read ahead, and nobody waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use seawall_backends::Purpose;
use seawall_metadata::{MetadataHandle, Offset, StreamId};
use tokio::sync::Semaphore;

use crate::object_reader::{ObjectReader, ObjectRef};

/// Readers that are remembered.
const READERS_MAX: usize = 4096;
const WINDOW_BYTES_MIN: u64 = 1 << 20;
const WINDOW_BYTES_MAX: u64 = 8 << 20;
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
}

/// One read of a reader out of objects.
#[derive(Debug, Clone, Copy)]
pub struct ReadOfObjects {
    pub from: i64,
    /// Where the next one goes on.
    pub next: i64,
    pub bytes: usize,
    /// A block had to be read for it, and nobody else was at it.
    pub missed: bool,
}

#[derive(Debug, Clone, Default)]
struct Reader {
    ahead: Arc<Mutex<Ahead>>,
}

/// What was read ahead and is not asked for yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ahead {
    window_bytes: u64,
    /// Nothing is read ahead until the reader has read as much.
    rest_bytes: u64,
    /// It ends here.
    to: i64,
    bytes: u64,
    busy: bool,
}

impl Readahead {
    pub fn new(metadata: MetadataHandle, reader: Arc<ObjectReader>) -> Arc<Readahead> {
        Arc::new(Readahead {
            metadata,
            reader,
            readers: Cache::new(READERS_MAX),
            budget: Arc::new(Semaphore::new(BUDGET_BYTES / BUDGET_UNIT_BYTES)),
        })
    }

    /// Begins to fetch what the reader will want next.
    pub fn note(self: &Arc<Self>, stream: StreamId, read: ReadOfObjects) {
        let known = self.readers.remove(&(stream, read.from)).map(|(_, reader)| reader);
        let continues = known.is_some();
        let reader = known.unwrap_or_default();
        self.readers.insert((stream, read.next), reader.clone());
        if continues && let Some(wanted) = reader.wants(&read) {
            self.start(stream, reader, wanted);
        }
    }

    fn start(self: &Arc<Self>, stream: StreamId, reader: Reader, (from, bytes): (i64, u64)) {
        let units = (bytes as usize).div_ceil(BUDGET_UNIT_BYTES) as u32;
        let Ok(permit) = self.budget.clone().try_acquire_many_owned(units) else {
            reader.ahead().busy = false;
            return;
        };
        let readahead = self.clone();
        tokio::spawn(async move {
            let (to, fetched) = readahead.fetch(stream, from, bytes).await;
            drop(permit);
            let mut ahead = reader.ahead();
            ahead.busy = false;
            ahead.to = ahead.to.max(to);
            ahead.bytes += fetched;
        });
    }

    /// Fetches blocks of the stream from `from` on, up to `bytes` of them: where they end, and how many bytes they have.
    /// Errors are left to whoever asks for the block.
    async fn fetch(&self, stream: StreamId, from: i64, bytes: u64) -> (i64, u64) {
        let (mut next, mut fetched) = (from, 0);
        for (object, end) in self.objects(stream, from) {
            let Ok(cached) = self.reader.index(&object, Purpose::CatchUpRead).await else { return (next, fetched) };
            let index = &cached.index;
            let last = index.stream(stream).end;
            let mut at = index.find_offset(stream, next).unwrap_or(last);
            while at < last && fetched < bytes {
                let read_max = (bytes - fetched).min(READ_BYTES_MAX);
                let read = self.reader.prefetch(&object, index, at..last, read_max, Purpose::CatchUpRead);
                let Ok(blocks_read) = read.await else { return (next, fetched) };
                let behind = at + blocks_read.max(1);
                fetched += index.blocks()[at..behind].iter().map(|block| u64::from(block.bytes)).sum::<u64>();
                next = index.blocks()[behind - 1].end;
                at = behind;
            }
            if at < last || fetched >= bytes {
                break;
            }
            next = next.max(end);
        }
        (next, fetched)
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
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to go on reading ahead after this read, and how far, if it is time. Says so once until that is done.
    fn wants(&self, read: &ReadOfObjects) -> Option<(i64, u64)> {
        let mut ahead = self.ahead();
        ahead.bytes = ahead.bytes.saturating_sub(read.bytes as u64);
        let caught_up = read.next >= ahead.to;
        let let_go = read.missed && read.from < ahead.to;
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
        }
        if ahead.rest_bytes > 0 {
            ahead.rest_bytes = ahead.rest_bytes.saturating_sub(read.bytes as u64);
            return None;
        }
        if ahead.busy || ahead.bytes > ahead.window_bytes / 2 {
            return None;
        }
        ahead.busy = true;
        Some((ahead.to, ahead.window_bytes - ahead.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_ahead_of_a_reader_stays_near_its_window() {
        let reader = Reader::default();
        assert_eq!(reader.wants(&read(0, 10, MIB)), Some((10, MIB)));
        assert_eq!(reader.wants(&read(10, 11, 0)), None, "one at a time");
        set(&reader, Ahead { window_bytes: 4 * MIB, to: 20, bytes: 4 * MIB, ..Ahead::default() });
        assert_eq!(reader.wants(&read(11, 12, MIB)), None, "enough is there");
        assert_eq!(reader.wants(&read(12, 15, MIB)), Some((20, 2 * MIB)), "it goes on where it ended");
    }

    #[test]
    fn the_window_doubles_when_the_reader_has_caught_up_with_it() {
        let reader = Reader::default();
        for window in [1, 2, 4, 8, 8] {
            assert_eq!(reader.wants(&read(10, 30, 5 * MIB)), Some((30, window * MIB)));
            reader.ahead().busy = false;
        }
        set(&reader, Ahead { window_bytes: 2 * MIB, to: 90, bytes: MIB, ..Ahead::default() });
        assert_eq!(reader.wants(&read(30, 31, 0)), Some((90, MIB)), "what lies ahead is enough");
    }

    #[test]
    fn the_window_halves_when_the_cache_let_go_what_was_read_ahead_and_at_last_there_is_none_for_a_while() {
        let reader = Reader::default();
        let missed = ReadOfObjects { missed: true, ..read(10, 20, MIB) };
        for window in [8, 4, 2] {
            set(&reader, Ahead { window_bytes: window * MIB, to: 90, bytes: 6 * MIB, ..Ahead::default() });
            assert_eq!(reader.wants(&missed), Some((20, window / 2 * MIB)), "it begins again at the reader");
        }
        set(&reader, Ahead { window_bytes: MIB, to: 90, bytes: MIB / 2, ..Ahead::default() });
        assert_eq!(reader.wants(&missed), None);
        for at in 20..26 {
            assert_eq!(reader.wants(&ReadOfObjects { missed: true, ..read(at, at + 1, MIB) }), None);
        }
        assert_eq!(reader.wants(&read(26, 27, MIB)), None, "the last of the rest");
        assert_eq!(reader.wants(&read(27, 28, MIB)), Some((28, MIB)));
    }

    fn read(from: i64, next: i64, bytes: u64) -> ReadOfObjects {
        ReadOfObjects { from, next, bytes: bytes as usize, missed: false }
    }

    fn set(reader: &Reader, ahead: Ahead) {
        *reader.ahead() = ahead;
    }
}
