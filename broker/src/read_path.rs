//! Reads a partition's log: memory first, then the WAL, then objects, by offset.
//!
//! Promises: what is returned are whole batches without a gap, starting with the one that holds the asked offset, in the very
//! bytes that were appended; every byte from a device or store was verified. Batches move from tier to tier while
//! they are read (a commit, an eviction, a trim): whoever finds them gone looks again from the top, so no reader
//! sees a torn log. Record bytes are not copied between cache and socket.
//! Left to others: who may read, and how much memory responses hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::{BackendError, Purpose};
use seawall_metadata::{MetadataHandle, ObjectId, Offset, StreamId};
use seawall_protocol::Records;
use seawall_wal_device::WalError;
use tokio::time::Instant;

use crate::log_cache::{TailHit, TailLookup, TailSource};
use crate::object_format::{BlockEntry, ObjectIndex};
use crate::object_reader::{ObjectError, ObjectReader, ObjectRef};
use crate::partition::{AppendError, Partition};
use crate::readahead::{ReadOfObjects, Readahead, ReadaheadUsage};
use crate::wal_read_back::read_back;

/// Which records a consumer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// Whole batches; empty at the end of what may be seen.
    pub records: Records,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// Where the next read goes on.
    pub next_offset: i64,
}

/// Why nothing can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside of {log_start}..={log_end}")]
    OffsetOutOfRange { offset: i64, log_start: i64, log_end: i64 },
    #[error(transparent)]
    NotLeader(#[from] AppendError),
    /// Stored bytes are not what was written. Never data, and repeating does not help.
    #[error("stored data is corrupt: {0}")]
    Corrupt(String),
    /// Repeat later.
    #[error("stored data cannot be read now: {0}")]
    Unavailable(String),
}

/// The way to read. Shared by all partitions.
pub struct ReadPath {
    metadata: MetadataHandle,
    reader: Arc<ObjectReader>,
    readahead: Arc<Readahead>,
}

/// One read of a partition.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub from: i64,
    pub max_bytes: usize,
    pub isolation: Isolation,
    /// The first batch is returned even if it alone is larger.
    pub at_least_one: bool,
    /// The store is waited for until then.
    pub until: Instant,
    /// The first offset that had to be read from the store before, for this read.
    pub missed: Option<i64>,
}

/// Who reads so near to the end of what is committed is at the tail: uploads and evictions have just overtaken it.
const TAIL_BYTES: u64 = 256 << 10;
/// How often a read looks again because what it found had moved.
const LOOKS_MAX: usize = 8;
/// How long a consumer waits for the store, retries included; below the request timeouts that clients have.
pub const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// Ranges taken from metadata at a time.
const RANGES_AT_ONCE: usize = 8;
/// One read of the store at most.
const READ_BYTES_MAX: u64 = 4 << 20;
/// Less of a block than one part in this many is copied, so that an answer does not hold on to much more than it counts for.
const PINNED_PER_BYTE_MAX: usize = 4;

impl ReadPath {
    pub fn new(metadata: MetadataHandle, reader: Arc<ObjectReader>) -> ReadPath {
        let readahead = Readahead::new(metadata.clone(), reader.clone());
        ReadPath { metadata, reader, readahead }
    }

    pub fn metadata(&self) -> &MetadataHandle {
        &self.metadata
    }

    pub fn reader(&self) -> &Arc<ObjectReader> {
        &self.reader
    }

    pub fn readahead_usage(&self) -> ReadaheadUsage {
        self.readahead.usage()
    }

    /// As [`read_as`](Self::read_as), for a reader of one partition.
    pub async fn read(
        &self,
        partition: &Partition,
        from: i64,
        max_bytes: usize,
        isolation: Isolation,
        at_least_one: bool,
    ) -> Result<Fetched, ReadError> {
        let until = Instant::now() + STORE_PATIENCE;
        self.read_as(partition, Reading { from, max_bytes, isolation, at_least_one, until, missed: None }).await
    }

    /// Batches from the one that holds `from` on, as far as `isolation` lets see, up to `max_bytes`. Nothing is returned at the
    /// end.
    pub async fn read_as(&self, partition: &Partition, reading: Reading) -> Result<Fetched, ReadError> {
        let Reading { from, max_bytes, isolation, at_least_one, until, missed } = reading;
        partition.check_leads()?;
        let offsets = partition.offsets();
        if from < offsets.log_start || from > offsets.log_end {
            let (log_start, log_end) = (offsets.log_start, offsets.log_end);
            return Err(ReadError::OffsetOutOfRange { offset: from, log_start, log_end });
        }
        let below = match isolation {
            Isolation::ReadUncommitted => offsets.high_watermark,
            Isolation::ReadCommitted => offsets.last_stable,
        };
        let mut batches =
            Batches { segments: Vec::new(), bytes: 0, max_bytes, at_least_one, next: from, below, until, missed };
        self.fill(partition, &mut batches).await?;
        // Whatever was read while the lease ran out is not answered.
        partition.check_leads()?;
        Ok(Fetched {
            records: Records(batches.segments),
            high_watermark: offsets.high_watermark,
            last_stable_offset: offsets.last_stable,
            log_start_offset: offsets.log_start,
            next_offset: batches.next,
        })
    }

    async fn fill(&self, partition: &Partition, batches: &mut Batches) -> Result<(), ReadError> {
        let mut looks = 0;
        while batches.wants_more() {
            let found = partition.tail_lookup(batches.next, batches.room(), batches.wants_any_size(), batches.below);
            let before = batches.next;
            let ended = match found {
                TailLookup::AtEnd => true,
                TailLookup::Hits(hits) if hits.is_empty() => true,
                TailLookup::Hits(hits) => self.take_hits(partition, hits, batches).await?,
                TailLookup::Below => self.take_from_objects(partition, batches).await?,
            };
            if ended {
                return Ok(());
            }
            if batches.next > before {
                looks = 0;
                continue;
            }
            looks += 1;
            if looks == LOOKS_MAX {
                let start = partition.offsets().log_start;
                return Err(ReadError::Unavailable(format!(
                    "no tier has offset {} (the log starts at {start})",
                    batches.next
                )));
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes what the tail has. False: look again for what follows.
    async fn take_hits(
        &self,
        partition: &Partition,
        hits: Vec<TailHit>,
        batches: &mut Batches,
    ) -> Result<bool, ReadError> {
        let in_wal: Vec<_> = hits
            .iter()
            .filter_map(|hit| match hit.source {
                TailSource::Wal(position) => Some((hit.entry, position)),
                TailSource::Memory(_) => None,
            })
            .collect();
        let mut from_wal = if in_wal.is_empty() {
            Vec::new().into_iter()
        } else {
            let wal = partition.wal().expect("what lies in memory alone does not leave it");
            read_back(wal.handle(), partition.stream(), in_wal).await.into_iter()
        };
        for hit in hits {
            match hit.source {
                TailSource::Memory(bytes) => bytes.segments().for_each(|segment| batches.push(segment)),
                TailSource::Wal(_) => match from_wal.next().expect("one answer per position") {
                    Ok(bytes) => batches.push(bytes),
                    // Committed and trimmed since the lookup: objects have it.
                    Err(WalError::Trimmed { .. }) => return Ok(false),
                    Err(error @ WalError::Corrupt { .. }) => return Err(ReadError::Corrupt(error.to_string())),
                    Err(error) => return Err(ReadError::Unavailable(error.to_string())),
                },
            }
            batches.next = hit.entry.last + 1;
        }
        Ok(false)
    }

    /// Takes committed batches out of objects. True: nothing more fits or may be seen.
    async fn take_from_objects(&self, partition: &Partition, batches: &mut Batches) -> Result<bool, ReadError> {
        let stream = partition.stream();
        let from = batches.next;
        let log_start = partition.offsets().log_start;
        if from < log_start {
            // The log start moved while this was read.
            let log_end = partition.offsets().log_end;
            return if batches.bytes > 0 {
                Ok(true)
            } else {
                Err(ReadError::OffsetOutOfRange { offset: from, log_start, log_end })
            };
        }
        let Some(pieces) = self.pieces(stream, batches)? else { return Ok(false) };
        let bytes_before = batches.bytes;
        let read = |batches: &mut Batches| {
            let (next, bytes, missed) = (batches.next, batches.bytes - bytes_before, batches.missed.take());
            ReadOfObjects { from, next, bytes, missed }
        };
        for piece in pieces {
            // Offsets that no batch has: given up once, or compacted away.
            batches.next = batches.next.max(piece.base);
            let taken = tokio::time::timeout_at(batches.until, self.take_piece(stream, &piece, batches)).await;
            let taken = taken.unwrap_or_else(|_| {
                let error = BackendError::Transient("no answer in time".to_owned());
                Err(ObjectError::Unavailable { object: piece.object.object, error })
            });
            match taken {
                Ok(true) => {
                    self.readahead.note(stream, read(batches));
                    return Ok(true);
                }
                Ok(false) => {}
                Err(ObjectError::NotFound(_)) if self.moved(stream, &piece, batches.next) => return Ok(false),
                Err(_) if batches.bytes > 0 => return Ok(true), // what was read is answered; the next read meets the error
                Err(error @ ObjectError::Unavailable { .. }) => return Err(ReadError::Unavailable(error.to_string())),
                Err(error @ (ObjectError::Corrupt { .. } | ObjectError::NotFound(_))) => {
                    self.reader.report(&error);
                    return Err(ReadError::Corrupt(error.to_string()));
                }
            }
        }
        self.readahead.note(stream, read(batches));
        Ok(false)
    }

    /// The next committed parts of the stream. `None` if there are none, having moved on over offsets that were given up.
    fn pieces(&self, stream: StreamId, batches: &mut Batches) -> Result<Option<Vec<Piece>>, ReadError> {
        let (pieces, stream_next) = self.metadata.read(|state| {
            let stream_next = state.stream(stream).map(|stream| stream.next.0);
            let piece = |range: seawall_metadata::state::RangeRef| {
                let object = ObjectRef::of(state, range.object).ok_or(range.object)?;
                Ok(Piece { object, base: range.base.0, end: range.end.0, is_last: Some(range.end.0) == stream_next })
            };
            let ranges = state.ranges(stream, Offset(batches.next)).take(RANGES_AT_ONCE);
            (ranges.map(piece).collect::<Result<Vec<Piece>, _>>(), stream_next)
        });
        // Records are never left out silently.
        let unknown = |object: ObjectId| {
            ReadError::Corrupt(format!("metadata has a range in object {object} and does not know it"))
        };
        let pieces = pieces.map_err(unknown)?;
        if pieces.is_empty() {
            batches.next = batches.next.max(stream_next.unwrap_or(batches.next).min(batches.below));
            return Ok(None);
        }
        Ok(Some(pieces))
    }

    /// Whether metadata has another object for `offset` now.
    fn moved(&self, stream: StreamId, piece: &Piece, offset: i64) -> bool {
        let now = self.metadata.read(|state| state.ranges(stream, Offset(offset)).next().map(|range| range.object));
        now != Some(piece.object.object)
    }

    async fn take_piece(&self, stream: StreamId, piece: &Piece, batches: &mut Batches) -> Result<bool, ObjectError> {
        let index_purpose = if piece.is_last { Purpose::TailRead } else { Purpose::CatchUpRead };
        let cached = self.reader.index(&piece.object, index_purpose).await?;
        let index: &ObjectIndex = &cached.index;
        // An object may hold more of the stream than the range says: only what is committed counts.
        let below = piece.end.min(batches.below);
        let Some(first) = index.find_offset(stream, batches.next) else {
            let why = format!("stream {stream} ends before {} in it", batches.next);
            return Err(ObjectError::Corrupt { object: piece.object.object, why });
        };
        let purpose = purpose(index, stream, first, piece.is_last);
        for at in first..index.stream(stream).end {
            let entry = index.blocks()[at];
            if entry.base >= below {
                break;
            }
            if !batches.wants_more() {
                return Ok(true);
            }
            if !self.reader.has_block(piece.object.object, at) {
                let blocks = at..index.stream(stream).end;
                let bytes_max = (batches.room() as u64).min(READ_BYTES_MAX);
                let read = self.reader.prefetch(&piece.object, index, blocks, bytes_max, purpose).await;
                if read.is_ok_and(|blocks| blocks > 0) {
                    batches.missed.get_or_insert(entry.base);
                }
            }
            let block = self.reader.block(&piece.object, index, at, purpose).await?;
            let whole = batches.take_block(&entry, &block, below);
            let whole =
                whole.map_err(|why| ObjectError::Corrupt { object: piece.object.object, why: why.to_owned() })?;
            if !whole {
                return Ok(true);
            }
        }
        if piece.end <= batches.below {
            batches.next = batches.next.max(piece.end);
            return Ok(false);
        }
        Ok(true)
    }
}

/// A range of the stream in one object.
#[derive(Debug, Clone, Copy)]
struct Piece {
    object: ObjectRef,
    base: i64,
    end: i64,
    /// The newest that is committed.
    is_last: bool,
}

/// For whom the store is read from the block `at` of a stream on.
pub(crate) fn purpose(index: &ObjectIndex, stream: StreamId, at: usize, in_last_range: bool) -> Purpose {
    let mut behind = index.blocks()[at..index.stream(stream).end].iter().map(|block| u64::from(block.bytes));
    let is_near =
        in_last_range && behind.try_fold(0, |sum, bytes| Some(sum + bytes).filter(|sum| *sum <= TAIL_BYTES)).is_some();
    if is_near { Purpose::TailRead } else { Purpose::CatchUpRead }
}

/// What is being collected for one read.
struct Batches {
    segments: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
    at_least_one: bool,
    /// The offset that is wanted next.
    next: i64,
    /// Exclusive end of what may be seen.
    below: i64,
    until: Instant,
    /// The first offset for which a block had to be read.
    missed: Option<i64>,
}

impl Batches {
    fn wants_more(&self) -> bool {
        self.next < self.below && (self.bytes < self.max_bytes || self.wants_any_size())
    }

    /// Nothing is there yet, and something must be.
    fn wants_any_size(&self) -> bool {
        self.bytes == 0 && self.at_least_one
    }

    fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    fn push(&mut self, segment: Bytes) {
        self.bytes += segment.len();
        self.segments.push(segment);
    }

    /// Takes the batches of a verified block from `next` on that end below `below` and fit. True: all of them did.
    fn take_block(&mut self, entry: &BlockEntry, block: &Bytes, below: i64) -> Result<bool, &'static str> {
        let (mut at, mut start) = (0, None);
        let (mut next, mut taken, mut whole) = (self.next, 0, true);
        while at < block.len() {
            let batch = BatchSpan::read(&block[at..]).ok_or("a block does not hold whole batches")?;
            if batch.last < next {
                at += batch.bytes;
                continue;
            }
            let fits = taken + batch.bytes <= self.room() || taken == 0 && self.wants_any_size();
            if batch.last >= below || !fits {
                whole = false;
                break;
            }
            start = start.or(Some(at));
            at += batch.bytes;
            taken += batch.bytes;
            next = batch.last + 1;
        }
        if let Some(start) = start {
            let few = (at - start) * PINNED_PER_BYTE_MAX < block.len();
            self.push(if few { Bytes::copy_from_slice(&block[start..at]) } else { block.slice(start..at) });
        }
        self.next = if whole { next.max(entry.end.min(below)) } else { next };
        Ok(whole)
    }
}

/// Length and last offset of the batch at the start of some bytes.
struct BatchSpan {
    bytes: usize,
    last: i64,
}

impl BatchSpan {
    fn read(bytes: &[u8]) -> Option<BatchSpan> {
        const LENGTH_ENDS: usize = 12;
        let base = i64::from_be_bytes(*bytes.first_chunk()?);
        let length = i32::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
        let last_delta = i32::from_be_bytes(*bytes.get(23..)?.first_chunk()?);
        let total = LENGTH_ENDS + usize::try_from(length).ok()?;
        if total > bytes.len() || last_delta < 0 {
            return None;
        }
        Some(BatchSpan { bytes: total, last: base.checked_add(i64::from(last_delta))? })
    }
}
