//! Reads indexes, blocks and producer states of objects: verified, cached, each asked from the store once at a time.
//!
//! Promises: no byte leaves here whose checksum was not right. A mismatch is read once more from the store, in case it
//! arose on the way; if it stays, it is [`ObjectError::Corrupt`], logged once per object and counted.
//! Left to others: which object holds an offset (metadata), and asking metadata again when an object is gone.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use seawall_backends::{Backend, BackendError, Purpose, Segments};
use seawall_metadata::{Incarnation, ObjectId, State};
use tracing::error;

use crate::block_cache::{BlockCache, BlockCacheUsage, Claim};
use crate::object_format::{
    AbortedTransaction, BlockEntry, FORMAT_VERSION, Footer, FormatError, ObjectIndex, SectionKind, StreamProducers,
    crc32c, decode_aborted, decode_producers, read_footer,
};
use crate::object_key::ObjectKeys;

/// The first read of an object's end. Holds the footer always, and the index of all but the largest objects.
const TAIL_READ_BYTES: u64 = 64 << 10;
/// Corrupt objects remembered as logged.
const LOGGED_MAX: usize = 4096;
/// For the index cache's first allocation only.
const INDEX_BYTES_USUAL: u64 = 8 << 10;

/// An object as metadata knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRef {
    pub object: ObjectId,
    pub incarnation: Incarnation,
    pub bytes: u64,
}

/// Why a part of an object cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Ask metadata again: the object may have been replaced since it was looked up.
    #[error("object {0} is not in the store")]
    NotFound(ObjectId),
    /// What the store holds is not what was written. Repeating does not help.
    #[error("object {object} is corrupt: {why}")]
    Corrupt { object: ObjectId, why: String },
    /// The store does not answer for now.
    #[error("object {object} cannot be read: {error}")]
    Unavailable { object: ObjectId, error: BackendError },
}

/// The reader. Shared by all partitions.
pub struct ObjectReader {
    backend: Arc<dyn Backend>,
    keys: ObjectKeys,
    indexes: Cache<ObjectId, Arc<CachedIndex>, ByMemory>,
    blocks: BlockCache,
    counters: Counters,
    logged: Mutex<HashSet<ObjectId>>,
}

/// An object's index and footer.
#[derive(Debug)]
pub struct CachedIndex {
    pub index: ObjectIndex,
    pub footer: Footer,
}

/// Totals since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectReaderUsage {
    pub blocks: BlockCacheUsage,
    pub index_bytes: u64,
    pub index_budget_bytes: u64,
    /// Reads that went to the store, and the bytes they brought.
    pub store_reads: u64,
    pub store_read_bytes: u64,
    /// Parts whose checksum was wrong twice.
    pub corrupt: u64,
    pub not_found: u64,
}

#[derive(Debug, Default)]
struct Counters {
    store_reads: AtomicU64,
    store_read_bytes: AtomicU64,
    corrupt: AtomicU64,
    not_found: AtomicU64,
}

impl ObjectRef {
    /// The committed object as metadata describes it.
    pub fn of(state: &State, object: ObjectId) -> Option<ObjectRef> {
        let record = state.object(object)?.record?;
        Some(ObjectRef { object, incarnation: record.incarnation, bytes: record.bytes })
    }
}

impl ObjectReader {
    pub fn new(
        backend: Arc<dyn Backend>,
        keys: ObjectKeys,
        block_cache_bytes: u64,
        index_cache_bytes: u64,
    ) -> ObjectReader {
        let indexes =
            Cache::with_weighter((index_cache_bytes / INDEX_BYTES_USUAL).max(16) as usize, index_cache_bytes, ByMemory);
        ObjectReader {
            backend,
            keys,
            indexes,
            blocks: BlockCache::new(block_cache_bytes),
            counters: Counters::default(),
            logged: Mutex::default(),
        }
    }

    /// The object's index, from the cache or from the object's end.
    pub async fn index(&self, object: &ObjectRef, purpose: Purpose) -> Result<Arc<CachedIndex>, ObjectError> {
        let load = async {
            let index = self.twice(object, move || self.load_index(object, purpose)).await?;
            Ok(Arc::new(index))
        };
        let index = self.indexes.get_or_insert_async(&object.object, load).await?;
        Ok(crate::faults::stale_index(object.object, index))
    }

    /// One block, by its position in the index.
    pub async fn block(
        &self,
        object: &ObjectRef,
        index: &ObjectIndex,
        at: usize,
        purpose: Purpose,
    ) -> Result<Bytes, ObjectError> {
        let entry = &index.blocks()[at];
        let load = self.twice(object, move || self.load_block(object, entry, purpose));
        self.blocks.get_or_read((object.object, at as u32), load).await
    }

    /// Whether a block is in memory.
    pub fn has_block(&self, object: ObjectId, at: usize) -> bool {
        self.blocks.contains((object, at as u32))
    }

    /// Brings the first of `blocks` into the cache with one read of up to `bytes_max` (at least one block), up to one that is
    /// there or being read already. Returns how many it has read: none if that is the first.
    ///
    /// Whoever asks for one of these blocks meanwhile waits for this read. What fails is left to be read by whoever wants it.
    pub async fn prefetch(
        &self,
        object: &ObjectRef,
        index: &ObjectIndex,
        blocks: Range<usize>,
        bytes_max: u64,
        purpose: Purpose,
    ) -> Result<usize, ObjectError> {
        let first = blocks.start;
        let start = index.blocks()[first].position;
        let mut claims = Vec::new();
        for at in blocks {
            let fits = index.blocks()[at].span().end - start <= bytes_max || claims.is_empty();
            match self.blocks.claim((object.object, at as u32)) {
                Some(claim) if fits => claims.push(claim),
                _ => break,
            }
        }
        let blocks_read = claims.len();
        let entries = index.blocks()[first..].iter().copied();
        self.fill(object, entries.zip(claims).collect(), purpose).await?;
        Ok(blocks_read)
    }

    /// Whether a block is in memory, and not only being read.
    pub fn holds_block(&self, object: ObjectId, at: usize) -> bool {
        self.blocks.holds((object, at as u32))
    }

    /// The task to read one block, unless it is in memory or being read: see [`ObjectReader::fill`].
    pub fn claim_block(&self, object: ObjectId, at: usize) -> Option<Claim<'_>> {
        self.blocks.claim((object, at as u32))
    }

    /// Brings claimed blocks of one object, in the order of their positions, into the cache with one read of the store from the
    /// first to the last of them. What fails is left to be read by whoever wants it.
    pub async fn fill(
        &self,
        object: &ObjectRef,
        claimed: Vec<(BlockEntry, Claim<'_>)>,
        purpose: Purpose,
    ) -> Result<(), ObjectError> {
        let (Some((first, _)), Some((last, _))) = (claimed.first(), claimed.last()) else { return Ok(()) };
        let start = first.position;
        let bytes = self.read(object, start..last.span().end, purpose).await?;
        for (entry, claim) in claimed {
            let span = entry.span();
            let block = bytes.copy_of(span.start - start..span.end - start);
            if entry.verify(&block).is_ok() {
                claim.fill(block);
            }
            // Megabytes of copies and checksums hold up no request on this thread.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The first of `blocks` up to `bytes_max` (at least one) with one read, past the cache: for who reads everything once.
    pub async fn read_blocks(
        &self,
        object: &ObjectRef,
        index: &ObjectIndex,
        blocks: Range<usize>,
        bytes_max: u64,
        purpose: Purpose,
    ) -> Result<Vec<Bytes>, ObjectError> {
        let start = index.blocks()[blocks.start].position;
        let entries = &index.blocks()[blocks];
        let fitting = entries.partition_point(|entry| entry.span().end - start <= bytes_max).max(1);
        let entries = &entries[..fitting];
        self.twice(object, move || self.load_blocks(object, entries, purpose)).await
    }

    /// The aborted transactions that the object holds. Not cached.
    pub async fn aborted(&self, object: &ObjectRef, purpose: Purpose) -> Result<Vec<AbortedTransaction>, ObjectError> {
        let cached = self.index(object, purpose).await?;
        let footer = &cached.footer;
        let section = move || self.load_section(object, footer, SectionKind::AbortedTransactions, purpose);
        let section = self.twice(object, section).await?;
        decode_aborted(&section).map_err(|error| corrupt(object, error.to_string()))
    }

    /// The producer states that the object holds. Not cached.
    pub async fn producers(&self, object: &ObjectRef, purpose: Purpose) -> Result<Vec<StreamProducers>, ObjectError> {
        let cached = self.index(object, purpose).await?;
        let footer = &cached.footer;
        let section = move || self.load_section(object, footer, SectionKind::ProducerState, purpose);
        let section = self.twice(object, section).await?;
        decode_producers(&section).map_err(|error| corrupt(object, error.to_string()))
    }

    /// Forgets all indexes and blocks, as a restart does.
    pub fn clear_caches(&self) {
        self.indexes.clear();
        self.blocks.clear();
    }

    /// The most that blocks in memory take.
    pub fn block_budget_bytes(&self) -> u64 {
        self.blocks.budget_bytes()
    }

    pub fn usage(&self) -> ObjectReaderUsage {
        ObjectReaderUsage {
            blocks: self.blocks.usage(),
            index_bytes: self.indexes.weight(),
            index_budget_bytes: self.indexes.capacity(),
            store_reads: self.counters.store_reads.load(Ordering::Relaxed),
            store_read_bytes: self.counters.store_read_bytes.load(Ordering::Relaxed),
            corrupt: self.counters.corrupt.load(Ordering::Relaxed),
            not_found: self.counters.not_found.load(Ordering::Relaxed),
        }
    }

    async fn load_index(&self, object: &ObjectRef, purpose: Purpose) -> Result<CachedIndex, LoadError> {
        let tail_start = object.bytes.saturating_sub(TAIL_READ_BYTES);
        let tail = self.read(object, tail_start..object.bytes, purpose).await?.into_bytes();
        let footer = read_footer(&tail, object.object, object.incarnation, object.bytes)?;
        let section = footer.section(SectionKind::Index).expect("every footer that was read has an index");
        let bytes = if section.position >= tail_start {
            let from = (section.position - tail_start) as usize;
            let bytes = tail.slice(from..from + section.bytes as usize);
            verify_section(&bytes, section.crc)?;
            bytes
        } else {
            self.load_section(object, &footer, SectionKind::Index, purpose).await?
        };
        let index = ObjectIndex::decode(&bytes, footer.data_bytes)?;
        Ok(CachedIndex { index, footer })
    }

    async fn load_section(
        &self,
        object: &ObjectRef,
        footer: &Footer,
        kind: SectionKind,
        purpose: Purpose,
    ) -> Result<Bytes, LoadError> {
        let section = footer.section(kind).expect("every footer that was read has the sections of its version");
        if section.bytes == 0 {
            return Ok(Bytes::new());
        }
        let read = self.read(object, section.position..section.position + section.bytes, purpose).await?;
        let bytes = read.into_bytes();
        verify_section(&bytes, section.crc)?;
        Ok(bytes)
    }

    async fn load_blocks(
        &self,
        object: &ObjectRef,
        entries: &[BlockEntry],
        purpose: Purpose,
    ) -> Result<Vec<Bytes>, LoadError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Vec::new()) };
        let start = first.position;
        let bytes = self.read(object, start..last.span().end, purpose).await?;
        let mut blocks = Vec::with_capacity(entries.len());
        for entry in entries {
            let span = entry.span();
            let block = bytes.copy_of(span.start - start..span.end - start);
            entry.verify(&block)?;
            blocks.push(block);
            tokio::task::yield_now().await;
        }
        Ok(blocks)
    }

    async fn load_block(&self, object: &ObjectRef, entry: &BlockEntry, purpose: Purpose) -> Result<Bytes, LoadError> {
        let block = self.read(object, entry.span(), purpose).await?.into_bytes();
        if !crate::faults::skips_crc() {
            entry.verify(&block)?;
        }
        Ok(block)
    }

    async fn read(&self, object: &ObjectRef, range: Range<u64>, purpose: Purpose) -> Result<Segments, ObjectError> {
        let key = self.keys.key(object.incarnation, object.object);
        self.counters.store_reads.fetch_add(1, Ordering::Relaxed);
        let wanted = range.end - range.start;
        match self.backend.get_range(&key, range, purpose).await {
            Ok(bytes) if bytes.total_bytes() == wanted => {
                self.counters.store_read_bytes.fetch_add(wanted, Ordering::Relaxed);
                Ok(bytes)
            }
            Ok(bytes) => Err(corrupt(object, format!("the store gave {} bytes for {wanted}", bytes.total_bytes()))),
            Err(BackendError::NotFound) => Err(ObjectError::NotFound(object.object)),
            Err(BackendError::Corrupt(why)) => Err(corrupt(object, why)),
            Err(error) => Err(ObjectError::Unavailable { object: object.object, error }),
        }
    }

    /// Runs `load` again when its bytes were wrong.
    async fn twice<T, Load>(&self, object: &ObjectRef, load: impl Fn() -> Load) -> Result<T, ObjectError>
    where
        Load: Future<Output = Result<T, LoadError>>,
    {
        for last in [false, true] {
            let error = match load().await {
                Ok(loaded) => return Ok(loaded),
                Err(LoadError::Object(error)) => error,
                Err(LoadError::Format(FormatError::NewerFormat { found })) => {
                    let why = format!("object format {found} is newer than {FORMAT_VERSION}");
                    return Err(ObjectError::Unavailable {
                        object: object.object,
                        error: BackendError::Unsupported(why),
                    });
                }
                Err(LoadError::Format(error)) => corrupt(object, error.to_string()),
            };
            if !matches!(error, ObjectError::Corrupt { .. }) || last {
                self.note(&error);
                return Err(error);
            }
        }
        unreachable!("the second round returns")
    }

    fn note(&self, error: &ObjectError) {
        if matches!(error, ObjectError::Corrupt { .. }) {
            self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            self.report(error);
        }
    }

    /// Counts and logs damage of an object, which is logged once: corrupt, or missing although metadata still refers to it.
    pub fn report(&self, error: &ObjectError) {
        let (ObjectError::Corrupt { object, .. } | ObjectError::NotFound(object)) = error else { return };
        if matches!(error, ObjectError::NotFound(_)) {
            self.counters.not_found.fetch_add(1, Ordering::Relaxed);
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < LOGGED_MAX && logged.insert(*object) {
            error!(%object, %error, "stored data is damaged");
        }
    }
}

fn verify_section(bytes: &[u8], crc: u32) -> Result<(), FormatError> {
    if crc32c(bytes) == crc { Ok(()) } else { Err(FormatError::Checksum("section")) }
}

fn corrupt(object: &ObjectRef, why: String) -> ObjectError {
    ObjectError::Corrupt { object: object.object, why }
}

enum LoadError {
    Object(ObjectError),
    Format(FormatError),
}

impl From<ObjectError> for LoadError {
    fn from(error: ObjectError) -> LoadError {
        LoadError::Object(error)
    }
}

impl From<FormatError> for LoadError {
    fn from(error: FormatError) -> LoadError {
        LoadError::Format(error)
    }
}

#[derive(Debug, Clone)]
struct ByMemory;

impl Weighter<ObjectId, Arc<CachedIndex>> for ByMemory {
    fn weight(&self, _: &ObjectId, cached: &Arc<CachedIndex>) -> u64 {
        cached.index.memory_bytes() as u64 + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_cache::BatchEntry;
    use crate::object_format::{EncodedObject, ObjectBuilder};
    use seawall_backends::memory::MemoryBackend;
    use seawall_metadata::{ClusterId, StreamId};
    use uuid::Uuid;

    const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(5));

    #[tokio::test]
    async fn blocks_come_back_as_they_were_put_and_are_read_once() {
        let (reader, object, encoded) = stored(|_| ()).await;
        let reader = Arc::new(reader);
        let cached = reader.index(&object, Purpose::TailRead).await.unwrap();
        assert_eq!(cached.index, encoded.index);
        for _ in 0..3 {
            let (reader, cached) = (reader.clone(), cached.clone());
            let read = async move { reader.block(&object, &cached.index, 1, Purpose::TailRead).await };
            let block = tokio::spawn(read).await.unwrap().unwrap();
            assert_eq!(block, vec![2u8; 400_000]);
        }
        assert_eq!(reader.usage().store_reads, 2);
        assert!(reader.producers(&object, Purpose::Scrub).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_prefetch_brings_several_blocks_with_one_read() {
        let (reader, object, _) = stored(|_| ()).await;
        let cached = reader.index(&object, Purpose::CatchUpRead).await.unwrap();
        assert_eq!(reader.prefetch(&object, &cached.index, 0..3, 10 << 20, Purpose::CatchUpRead).await.unwrap(), 3);
        for at in 0..3 {
            assert_eq!(reader.block(&object, &cached.index, at, Purpose::TailRead).await.unwrap()[0], at as u8 + 1);
        }
        assert_eq!(reader.usage().store_reads, 2);
    }

    #[tokio::test]
    async fn a_flipped_bit_in_a_block_is_an_error_and_never_data() {
        let (reader, object, _) = stored(|bytes| bytes[500_000] ^= 1).await;
        let cached = reader.index(&object, Purpose::TailRead).await.unwrap();
        let block = reader.block(&object, &cached.index, 1, Purpose::TailRead).await;
        assert!(matches!(block, Err(ObjectError::Corrupt { .. })), "{block:?}");
        assert!(reader.block(&object, &cached.index, 0, Purpose::TailRead).await.is_ok());
        assert!(reader.prefetch(&object, &cached.index, 1..3, 10 << 20, Purpose::TailRead).await.is_ok());
        assert!(!reader.has_block(object.object, 1));
        assert_eq!(reader.usage().corrupt, 1);
    }

    #[tokio::test]
    async fn a_flipped_bit_in_index_or_footer_is_an_error() {
        for from_end in [10, 70, 200] {
            let (reader, object, _) = stored(|bytes| {
                let at = bytes.len() - from_end;
                bytes[at] ^= 4;
            })
            .await;
            let index = reader.index(&object, Purpose::TailRead).await;
            assert!(matches!(index, Err(ObjectError::Corrupt { .. })), "{from_end} from the end: {index:?}");
        }
    }

    #[tokio::test]
    async fn an_object_that_is_not_there_says_so() {
        let (reader, object, _) = stored(|_| ()).await;
        let missing = ObjectRef { object: ObjectId(99), ..object };
        assert_eq!(reader.index(&missing, Purpose::TailRead).await.unwrap_err(), ObjectError::NotFound(ObjectId(99)));
    }

    /// Three blocks of 400,000 bytes, of bytes 1, 2 and 3.
    async fn stored(damage: impl FnOnce(&mut Vec<u8>)) -> (ObjectReader, ObjectRef, EncodedObject) {
        let mut builder = ObjectBuilder::new(ObjectId(3), INCARNATION);
        for base in 0..3 {
            let entry = BatchEntry {
                base,
                last: base,
                leader_epoch: 0,
                max_timestamp: base,
                record_count: 1,
                bytes: 400_000,
                producer: None,
            };
            builder.add_batch(StreamId(1), &entry, &Bytes::from(vec![base as u8 + 1; 400_000]).into());
        }
        let encoded = builder.finish();
        let mut bytes = Segments::new(encoded.segments.clone()).into_bytes().to_vec();
        damage(&mut bytes);
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let keys = ObjectKeys::new("p", ClusterId(Uuid::from_u128(4))).unwrap();
        let key = keys.key(INCARNATION, ObjectId(3));
        backend.put(&key, Segments::new(vec![bytes.into()]), Purpose::Upload).await.unwrap();
        let object = ObjectRef { object: ObjectId(3), incarnation: INCARNATION, bytes: encoded.bytes };
        (ObjectReader::new(backend, keys, 8 << 20, 1 << 20), object, encoded)
    }
}
