//! Objects too large for one put: written in parts, joined within the store.

#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::fs::FsBackend;
use seawall_backends::large::{LargeConfig, LargePut, concat, concat_before};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::registry::layer;
use seawall_backends::retry::RetryConfig;
use seawall_backends::{Backend, BackendError, Layers, ObjectKey, Purpose, Segments};

const PURPOSE: Purpose = Purpose::Compaction;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(bytes: usize) -> Bytes {
    (0..bytes).map(|n| (n * 31 % 251) as u8).collect::<Vec<_>>().into()
}

async fn read(store: &dyn Backend, name: &str) -> Bytes {
    let bytes = store.head(&key(name), PURPOSE).await.unwrap().bytes;
    store.get_range(&key(name), 0..bytes, PURPOSE).await.unwrap().into_bytes()
}

async fn begun(store: &dyn Backend) -> usize {
    store.list_begun("", PURPOSE).await.unwrap().len()
}

#[tokio::test]
async fn a_large_object_comes_back_whatever_the_pieces_in_which_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Backend>; 2] =
        [Arc::new(MemoryBackend::with_part_bytes(100..=1_000)), Arc::new(FsBackend::open(folder.path()).unwrap())];
    for store in stores {
        for (total, piece) in [(0, 1), (1, 1), (99, 7), (100, 100), (1_000, 1), (1_000, 333), (5_001, 5_001)] {
            let all = body(total);
            let config = LargeConfig { part_bytes: 100, in_flight: 2 };
            let mut large = LargePut::begin(store.clone(), key("large"), PURPOSE, config).await.unwrap();
            for start in (0..total).step_by(piece) {
                large.write(all.slice(start..total.min(start + piece)).into()).await.unwrap();
            }
            assert_eq!(large.complete().await.unwrap(), total as u64);
            assert_eq!(read(&*store, "large").await, all, "{total} bytes by {piece}");
            store.delete_many(vec![key("large")], PURPOSE).await;
        }
        assert_eq!(begun(&*store).await, 0);
    }
}

#[tokio::test]
async fn one_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Backend> = Arc::new(FsBackend::open(folder.path()).unwrap());
    let mut large = LargePut::begin(store.clone(), key("large"), PURPOSE, LargeConfig::default()).await.unwrap();
    large.write(body(40 << 20).into()).await.unwrap();
    assert_eq!(begun(&*store).await, 1);
    drop(large);
    let gone = async {
        // The lock of the store is what stays.
        while begun(&*store).await > 0 || std::fs::read_dir(folder.path().join(".tmp")).unwrap().count() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
    assert_eq!(store.head(&key("large"), PURPOSE).await, Err(BackendError::NotFound));
}

/// Sources of all sizes around the limits of a part; each limit of a part is enforced by the store.
#[tokio::test]
async fn ranges_are_joined_in_order_whatever_their_sizes() {
    let mut random = 7_u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let store: Arc<dyn Backend> = Arc::new(MemoryBackend::with_part_bytes(10..=25));
    let all = body(200);
    store.put(&key("source"), all.clone().into(), PURPOSE).await.unwrap();
    for round in 0..500 {
        let ranges: Vec<Range<u64>> = (0..below(7))
            .map(|_| {
                let start = below(200);
                start..start + below([3, 12, 60][round % 3]).min(200 - start)
            })
            .collect();
        let sources: Vec<_> = ranges.iter().map(|range| (key("source"), range.clone())).collect();
        let expected: Vec<u8> =
            ranges.iter().flat_map(|range| &all[range.start as usize..range.end as usize]).copied().collect();
        let joined = concat(&store, &key("joined"), &sources, PURPOSE).await;
        assert_eq!(joined, Ok(expected.len() as u64), "{ranges:?}");
        assert_eq!(read(&*store, "joined").await, expected, "{ranges:?}");
        let tail = body(below(25) as usize);
        let joined = concat_before(&store, &key("joined"), &sources, tail.clone().into(), PURPOSE).await;
        assert_eq!(joined, Ok((expected.len() + tail.len()) as u64), "{ranges:?}");
        assert_eq!(read(&*store, "joined").await, [&expected[..], &tail].concat(), "{ranges:?}");
        store.delete_many(vec![key("joined")], PURPOSE).await;
    }
    assert_eq!(begun(&*store).await, 0);
}

#[tokio::test]
async fn a_join_that_fails_leaves_nothing_begun() {
    let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let missing = [(key("missing"), 0..100)];
    assert_eq!(concat(&store, &key("joined"), &missing, PURPOSE).await, Err(BackendError::NotFound));
    tokio::task::yield_now().await;
    assert_eq!(begun(&*store).await, 0);
}

#[tokio::test]
async fn parts_are_repeated_one_by_one_when_a_store_often_fails() {
    for seed in 0..8 {
        let memory = Arc::new(MemoryBackend::new());
        let faults = Faults { error_before: 150, error_after: 150, ..Faults::default() };
        let retry = RetryConfig {
            pause_min: Duration::from_micros(100),
            pause_max: Duration::from_millis(1),
            budget_retries: 100_000,
            ..RetryConfig::default()
        };
        let faulty = Arc::new(Faulty::new(memory.clone(), faults, seed));
        let store = layer(faulty, Layers { retry, ..Layers::default() }, seed).backend;
        let config = LargeConfig { part_bytes: 100, in_flight: 3 };
        let mut large = LargePut::begin(store.clone(), key("large"), PURPOSE, config).await.unwrap();
        large.write(body(5_050).into()).await.unwrap();
        assert_eq!(large.complete().await.unwrap(), 5_050);
        assert_eq!(read(&*memory, "large").await, body(5_050));
    }
}

#[tokio::test]
async fn a_store_without_parts_says_so() {
    struct Plain(MemoryBackend);
    impl Backend for Plain {
        fn put<'a>(
            &'a self,
            key: &'a ObjectKey,
            body: Segments,
            purpose: Purpose,
        ) -> seawall_backends::BoxFuture<'a, Result<(), BackendError>> {
            self.0.put(key, body, purpose)
        }
        fn get_range<'a>(
            &'a self,
            key: &'a ObjectKey,
            range: Range<u64>,
            purpose: Purpose,
        ) -> seawall_backends::BoxFuture<'a, Result<Segments, BackendError>> {
            self.0.get_range(key, range, purpose)
        }
        fn head<'a>(
            &'a self,
            key: &'a ObjectKey,
            purpose: Purpose,
        ) -> seawall_backends::BoxFuture<'a, Result<seawall_backends::ObjectMeta, BackendError>> {
            self.0.head(key, purpose)
        }
        fn delete_many(
            &self,
            keys: Vec<ObjectKey>,
            purpose: Purpose,
        ) -> seawall_backends::BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
            self.0.delete_many(keys, purpose)
        }
        fn list_folder<'a>(
            &'a self,
            folder: &'a str,
            start_after: Option<&'a ObjectKey>,
            purpose: Purpose,
        ) -> seawall_backends::BoxFuture<'a, Result<seawall_backends::ListPage, BackendError>> {
            self.0.list_folder(folder, start_after, purpose)
        }
        fn capabilities(&self) -> seawall_backends::Capabilities {
            seawall_backends::Capabilities { parts: false, ..self.0.capabilities() }
        }
        fn name(&self) -> &str {
            "plain"
        }
    }
    let store: Arc<dyn Backend> = Arc::new(Plain(MemoryBackend::new()));
    let refused = LargePut::begin(store, key("large"), PURPOSE, LargeConfig::default()).await.err().unwrap();
    assert!(matches!(refused, BackendError::Unsupported(_)), "{refused:?}");
}
