//! Blocks of objects in memory, shared by all readers, with one byte budget.
//!
//! Promises: an entry is exactly one block, so a small block never pins the large buffer it was read in; readers that
//! miss the same block at the same time cause one read. What is in here was verified by whoever put it in.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use seawall_metadata::ObjectId;

/// A block: its object, and its position in the object's index.
pub type BlockKey = (ObjectId, u32);

/// A shard of the cache holds at least this much, so that a block of any usual size fits.
const SHARD_BYTES_MIN: u64 = 16 << 20;
/// Of the budget, for blocks that were read more than once. The rest must hold what was read ahead until it is asked for.
const HOT_SHARE: f64 = 0.5;
/// What an entry takes beside its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 128;
/// For the cache's first allocation only.
const BLOCK_BYTES_USUAL: u64 = 128 << 10;

/// The cache.
#[derive(Debug)]
pub struct BlockCache {
    blocks: Cache<BlockKey, Bytes, ByBytes>,
    asked: AtomicU64,
    read: AtomicU64,
}

/// See [`BlockCache::claim`].
pub struct Claim<'a> {
    guard: PlaceholderGuard<'a, BlockKey, Bytes, ByBytes, DefaultHashBuilder, DefaultLifecycle<BlockKey, Bytes>>,
}

impl Claim<'_> {
    pub fn fill(self, block: Bytes) {
        // Refused only if the whole cache was cleared meanwhile.
        let _ = self.guard.insert(block);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCacheUsage {
    pub bytes: u64,
    pub budget_bytes: u64,
    pub blocks: usize,
    /// Blocks asked for since start, and those of them that had to be read.
    pub asked: u64,
    pub read: u64,
}

impl BlockCache {
    pub fn new(budget_bytes: u64) -> BlockCache {
        let shards = (budget_bytes / SHARD_BYTES_MIN).clamp(1, 16) as usize;
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity((budget_bytes / BLOCK_BYTES_USUAL).max(16) as usize)
            .weight_capacity(budget_bytes)
            .hot_allocation(HOT_SHARE)
            .build()
            .expect("capacities are set");
        let blocks = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
        BlockCache { blocks, asked: AtomicU64::new(0), read: AtomicU64::new(0) }
    }

    /// The block, from the cache or else by `read`, which runs once however many ask at the same time.
    /// When it fails (or its future is dropped), the next who waits runs its own.
    pub async fn get_or_read<E>(
        &self,
        key: BlockKey,
        read: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let counted = async {
            self.read.fetch_add(1, Ordering::Relaxed);
            read.await
        };
        self.blocks.get_or_insert_async(&key, counted).await
    }

    /// The task to read this block, unless it is in the cache or someone reads it now. Readers that ask for it wait until
    /// the claim is filled or dropped.
    pub fn claim(&self, key: BlockKey) -> Option<Claim<'_>> {
        match self.blocks.get_value_or_guard(&key, Some(Duration::ZERO)) {
            GuardResult::Guard(guard) => Some(Claim { guard }),
            GuardResult::Value(_) | GuardResult::Timeout => None,
        }
    }

    /// Whether it is here, and not only being read.
    pub fn holds(&self, key: BlockKey) -> bool {
        self.blocks.peek(&key).is_some()
    }

    pub fn contains(&self, key: BlockKey) -> bool {
        self.blocks.contains_key(&key)
    }

    /// Forgets everything, as a restart does.
    pub fn clear(&self) {
        self.blocks.clear();
    }

    pub fn budget_bytes(&self) -> u64 {
        self.blocks.capacity()
    }

    pub fn usage(&self) -> BlockCacheUsage {
        BlockCacheUsage {
            bytes: self.blocks.weight(),
            budget_bytes: self.budget_bytes(),
            blocks: self.blocks.len(),
            asked: self.asked.load(Ordering::Relaxed),
            read: self.read.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<BlockKey, Bytes> for ByBytes {
    fn weight(&self, _: &BlockKey, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test]
    async fn readers_that_miss_together_cause_one_read() {
        let (cache, reads) = (Arc::new(BlockCache::new(1 << 20)), Arc::new(AtomicUsize::new(0)));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (cache, reads) = (cache.clone(), reads.clone());
                tokio::spawn(async move {
                    let read = async {
                        reads.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        Ok::<_, ()>(Bytes::from_static(b"block"))
                    };
                    cache.get_or_read((ObjectId(1), 0), read).await.unwrap()
                })
            })
            .collect();
        for reader in readers {
            assert_eq!(reader.await.unwrap(), "block");
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failed_read_is_not_remembered() {
        let cache = BlockCache::new(1 << 20);
        assert_eq!(cache.get_or_read((ObjectId(1), 0), async { Err("gone") }).await, Err("gone"));
        let found = cache.get_or_read((ObjectId(1), 0), async { Ok::<_, &str>(Bytes::from_static(b"b")) }).await;
        assert_eq!(found.unwrap(), "b");
    }

    #[tokio::test]
    async fn a_claimed_block_is_waited_for_and_a_dropped_claim_lets_the_next_read() {
        let cache = BlockCache::new(1 << 20);
        let key = (ObjectId(1), 0);
        let claim = cache.claim(key).unwrap();
        assert!(cache.claim(key).is_none() && !cache.holds(key));
        let waiting = cache.get_or_read(key, async { Err("read although it was claimed") });
        let filling = async { claim.fill(Bytes::from_static(b"b")) };
        assert_eq!(tokio::join!(waiting, filling).0.unwrap(), "b");
        assert!(cache.holds(key));
        let other = (ObjectId(1), 1);
        drop(cache.claim(other));
        assert_eq!(cache.get_or_read(other, async { Ok::<_, ()>(Bytes::from_static(b"c")) }).await.unwrap(), "c");
    }

    #[test]
    fn in_a_full_cache_a_window_that_was_read_ahead_is_still_there_when_it_is_asked_for() {
        const WINDOW: u32 = 16; // of 512 KiB
        let cache = BlockCache::new(128 << 20);
        let mut missed = 0;
        for block in 0..1000 {
            cache.claim((ObjectId(1), block)).unwrap().fill(Bytes::from(vec![0; 512 << 10]));
            if let Some(asked) = block.checked_sub(WINDOW) {
                missed += u32::from(cache.blocks.get(&(ObjectId(1), asked)).is_none());
            }
        }
        assert!(missed < 10, "{missed} of 1000 were gone");
    }

    #[test]
    fn the_budget_holds() {
        let cache = BlockCache::new(1 << 20);
        for block in 0..100 {
            cache.claim((ObjectId(1), block)).unwrap().fill(Bytes::from(vec![0; 100_000]));
        }
        let usage = cache.usage();
        assert!(usage.bytes <= 1 << 20, "{usage:?}");
        assert!(usage.blocks >= 5, "{usage:?}");
    }
}
