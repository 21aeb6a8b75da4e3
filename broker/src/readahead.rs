//! Readahead for readers that go through objects in order: blocks are fetched before they are asked for.
//!
//! A reader is recognised by where it left off: a read that starts where another ended continues it, and each such read
//! doubles the window. What is ahead of a reader is kept at about its window, by one task per reader at a time.
//! Readahead has its own memory budget; beyond it nothing is read ahead, and nobody waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use seawall_backends::Purpose;
use seawall_metadata::{MetadataHandle, Offset, StreamId};
use tokio::sync::Semaphore;

use crate::object_reader::{ObjectReader, ObjectRef};

/// Readers that are remembered.
const READERS_MAX: usize = 4096;
const WINDOW_BYTES_MIN: u32 = 1 << 20;
const WINDOW_BYTES_MAX: u32 = 8 << 20;
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

#[derive(Debug, Clone)]
struct Reader {
    window_bytes: u32,
    ahead: Arc<Mutex<Ahead>>,
}

/// What was read ahead and is not asked for yet.
#[derive(Debug, Default)]
struct Ahead {
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

    /// A reader has read `bytes` from `from` to `next` out of objects: begins to fetch what it will want next.
    pub fn note(self: &Arc<Self>, stream: StreamId, from: i64, next: i64, bytes: usize) {
        let known = self.readers.remove(&(stream, from)).map(|(_, reader)| reader);
        let continues = known.is_some();
        let mut reader = known.unwrap_or(Reader { window_bytes: 0, ahead: Arc::default() });
        if continues {
            reader.window_bytes = (reader.window_bytes * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        }
        self.readers.insert((stream, next), reader.clone());
        if continues && let Some(wanted) = reader.wants(next, bytes) {
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
                let Ok(behind) = read.await else { return (next, fetched) };
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

    /// The reader has taken `bytes` and is at `next` now: where to go on reading ahead, and how far, if it is time.
    /// Says so once until that is done.
    fn wants(&self, next: i64, bytes: usize) -> Option<(i64, u64)> {
        let mut ahead = self.ahead();
        ahead.bytes = ahead.bytes.saturating_sub(bytes as u64);
        if next >= ahead.to {
            *ahead = Ahead { to: next, bytes: 0, busy: ahead.busy };
        }
        let window = u64::from(self.window_bytes);
        if ahead.busy || ahead.bytes > window / 2 {
            return None;
        }
        ahead.busy = true;
        Some((ahead.to, window - ahead.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_of_a_reader_stays_near_its_window() {
        let reader = Reader { window_bytes: 1000, ahead: Arc::default() };
        assert_eq!(reader.wants(10, 100), Some((10, 1000)));
        assert_eq!(reader.wants(11, 100), None, "one at a time");
        *reader.ahead() = Ahead { to: 20, bytes: 1000, busy: false };
        assert_eq!(reader.wants(12, 100), None, "enough is there");
        assert_eq!(reader.wants(15, 500), Some((20, 600)), "it goes on where it ended");
        *reader.ahead() = Ahead { to: 20, bytes: 400, busy: false };
        assert_eq!(reader.wants(30, 100), Some((30, 1000)), "the reader has overtaken it");
    }
}
