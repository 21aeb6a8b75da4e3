//! Readahead for readers that go through objects in order: blocks are fetched before they are asked for.
//!
//! A reader is recognised by where it left off: a read that starts where another ended continues it, and each such read
//! doubles the window. Readahead has its own memory budget; beyond it nothing is read ahead, and nobody waits.

use std::sync::Arc;

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
    /// Where a reader left off, and its window.
    readers: Cache<(StreamId, i64), Window>,
    budget: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    bytes: u32,
    /// What was read ahead already ends here.
    ahead_to: i64,
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

    /// A reader has read `from..next` out of objects: begins to fetch what it will want next.
    pub fn note(self: &Arc<Self>, stream: StreamId, from: i64, next: i64) {
        let before = self.readers.remove(&(stream, from)).map(|(_, window)| window);
        let bytes = before.map_or(0, |window| (window.bytes * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX));
        let ahead_to = before.map_or(next, |window| window.ahead_to.max(next));
        self.readers.insert((stream, next), Window { bytes, ahead_to });
        if bytes == 0 {
            return;
        }
        let units = (bytes as usize / BUDGET_UNIT_BYTES) as u32;
        let Ok(permit) = self.budget.clone().try_acquire_many_owned(units) else { return };
        let readahead = self.clone();
        tokio::spawn(async move {
            let ahead_to = readahead.fetch(stream, next, u64::from(bytes)).await;
            drop(permit);
            if let Some(window) = readahead.readers.get(&(stream, next)) {
                readahead.readers.insert((stream, next), Window { ahead_to, ..window });
            }
        });
    }

    /// Fetches blocks of the stream from `from` on, up to `bytes` of them. Errors are left to whoever asks for the block.
    async fn fetch(&self, stream: StreamId, from: i64, mut bytes: u64) -> i64 {
        let mut next = from;
        for (object, end) in self.objects(stream, from) {
            let Ok(cached) = self.reader.index(&object, Purpose::CatchUpRead).await else { return next };
            let Some(first) = cached.index.find_offset(stream, next) else {
                next = end;
                continue;
            };
            let mut at = first;
            let last = cached.index.stream(stream).end;
            while at < last && bytes > 0 {
                if self.reader.has_block(object.object, at) {
                    bytes = bytes.saturating_sub(u64::from(cached.index.blocks()[at].bytes));
                    at += 1;
                    continue;
                }
                let until = self.run(&cached.index, object, at, last, bytes.min(READ_BYTES_MAX));
                let blocks = &cached.index.blocks()[at..until];
                let read: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
                if self.reader.prefetch(&object, &cached.index, at..until, Purpose::CatchUpRead).await.is_err() {
                    return next;
                }
                bytes = bytes.saturating_sub(read);
                at = until;
            }
            if at > first {
                next = cached.index.blocks()[at - 1].end;
            }
            if bytes == 0 {
                break;
            }
        }
        next
    }

    /// The end of the run of blocks from `at` on that are not in memory and fit `bytes`; at least one block.
    fn run(
        &self,
        index: &crate::object_format::ObjectIndex,
        object: ObjectRef,
        at: usize,
        last: usize,
        bytes: u64,
    ) -> usize {
        let start = index.blocks()[at].position;
        let mut until = at + 1;
        while until < last
            && index.blocks()[until].span().end - start <= bytes
            && !self.reader.has_block(object.object, until)
        {
            until += 1;
        }
        until
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
