//! What each layer adds: when it repeats, who goes first, what it counts, how it fails on purpose. Time is virtual.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::limit::{InFlight, Limit, LimitConfig};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::observed::{Counters, Observed, Operation};
use seawall_backends::retry::{Retry, RetryConfig};
use seawall_backends::timeout::{Timeout, TimeoutConfig};
use seawall_backends::traced::Traced;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, Segments, list_all};
use tokio::time::Instant;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(bytes: usize) -> Segments {
    Bytes::from(vec![1; bytes]).into()
}

fn in_flight(limit: &Limit) -> (usize, u64) {
    (limit.usage().operations, limit.usage().bytes)
}

/// A store that takes an hour at most for each call.
fn slow_store() -> Arc<Faulty> {
    Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 1))
}

fn always(fault: fn(&mut Faults)) -> Faults {
    let mut faults = Faults { delay_max: Duration::from_secs(3_600), ..Faults::default() };
    fault(&mut faults);
    faults
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_deadline_is_not_seen_by_the_caller() {
    let store = Arc::new(MemoryBackend::new());
    let faulty = Arc::new(Faulty::new(store.clone(), always(|f| f.error_before = 1_000), 1));
    let retry = Retry::new(faulty.clone(), RetryConfig::default(), 1);
    let outage = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        faulty.set_faults(Faults::default());
    };
    let target = key("a");
    let (outcome, ()) = tokio::join!(retry.put(&target, body(3), Purpose::Upload), outage);
    outcome.unwrap();
    assert_eq!(store.contents().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_at_its_deadline_with_the_last_error() {
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.error_before = 1_000), 1);
    let retry = Retry::new(Arc::new(faulty), RetryConfig::default(), 1);
    let started = Instant::now();
    let error = retry.put(&key("a"), body(3), Purpose::Upload).await.unwrap_err();
    assert!(error.is_retriable(), "{error:?}");
    let took = started.elapsed();
    assert!(took > Duration::from_secs(50) && took <= Duration::from_secs(60), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_store_is_given_up_and_asked_again() {
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 4));
    let bounded = Timeout::new(faulty, TimeoutConfig::default());
    let started = Instant::now();
    let error = bounded.put(&key("a"), body(1 << 20), Purpose::Upload).await.unwrap_err();
    assert!(matches!(&error, BackendError::Transient(text) if text.contains("16s")), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 16, "15 s and one for the MiB");
}

#[tokio::test(start_paused = true)]
async fn the_budget_stops_retries_when_everything_fails() {
    let counters = Arc::new(Counters::default());
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.error_before = 1_000), 1));
    let config = RetryConfig { budget_retries: 10, budget_per_mille: 100, ..RetryConfig::default() };
    let retry = Retry::new(Arc::new(Observed::new(faulty, counters.clone())), config, 1);
    for _ in 0..100 {
        retry.head(&key("a"), Purpose::TailRead).await.unwrap_err();
    }
    let attempts = counters.snapshot()[0].calls;
    assert!((110..=121).contains(&attempts), "100 first attempts, 10 retries saved, 10 earned: {attempts}");
}

#[tokio::test(start_paused = true)]
async fn a_scrub_cannot_spend_the_retries_of_an_upload() {
    let store = Arc::new(MemoryBackend::new());
    let faulty = Arc::new(Faulty::new(store.clone(), always(|f| f.error_before = 1_000), 1));
    let config = RetryConfig { budget_retries: 5, budget_per_mille: 0, ..RetryConfig::default() };
    let counters = Arc::new(Counters::default());
    let retry = Retry::new(Arc::new(Observed::new(faulty, counters.clone())), config, 1);
    for _ in 0..20 {
        retry.head(&key("a"), Purpose::Scrub).await.unwrap_err();
    }
    retry.put(&key("a"), body(1), Purpose::Upload).await.unwrap_err();
    let calls: Vec<_> = counters.snapshot().iter().map(|one| (one.purpose, one.calls)).collect();
    assert_eq!(calls, [(Purpose::Upload, 6), (Purpose::Scrub, 25)]);
}

#[tokio::test(start_paused = true)]
async fn a_large_body_has_the_time_for_a_second_attempt() {
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.frozen = 1_000), 1));
    let bounded = Arc::new(Timeout::new(faulty.clone(), TimeoutConfig::default()));
    let retry = Retry::new(bounded, RetryConfig::default(), 1);
    let thaw = async {
        tokio::time::sleep(Duration::from_secs(70)).await;
        faulty.set_faults(Faults::default());
    };
    let target = key("a");
    let (outcome, ()) = tokio::join!(retry.put(&target, body(64 << 20), Purpose::Upload), thaw);
    outcome.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_many_keys_has_more_time_than_one_of_few() {
    let bounded = Timeout::new(
        Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.frozen = 1_000), 1)),
        TimeoutConfig::default(),
    );
    for (keys, seconds) in [(1, 15), (1_000, 15), (1_001, 30), (2_500, 45)] {
        let started = Instant::now();
        let keys = (0..keys).map(|number| key(&format!("k{number}"))).collect();
        let outcomes = bounded.delete_many(keys, Purpose::Compaction).await;
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_err()));
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn what_repeating_cannot_mend_is_not_repeated() {
    let counters = Arc::new(Counters::default());
    let observed = Observed::new(Arc::new(MemoryBackend::new()), counters.clone());
    let retry = Retry::new(Arc::new(observed), RetryConfig::default(), 1);
    assert_eq!(retry.head(&key("a"), Purpose::TailRead).await, Err(BackendError::NotFound));
    assert_eq!(counters.snapshot()[0].calls, 1);
}

#[tokio::test(start_paused = true)]
async fn deletes_repeat_only_the_keys_that_failed() {
    let store = Arc::new(MemoryBackend::new());
    let keys: Vec<_> = (0..50).map(|number| key(&format!("k{number}"))).collect();
    for key in &keys {
        store.put(key, body(1), Purpose::Upload).await.unwrap();
    }
    let half = Faults { error_before: 250, error_after: 250, ..Faults::default() };
    let retry = Retry::new(Arc::new(Faulty::new(store.clone(), half, 9)), RetryConfig::default(), 1);
    let outcomes = retry.delete_many(keys.clone(), Purpose::Compaction).await;
    assert_eq!(outcomes, keys.into_iter().map(|key| (key, Ok(()))).collect::<Vec<_>>());
    assert!(store.contents().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_highest_purpose_goes_first_then_the_oldest() {
    let slow = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 1);
    let config = LimitConfig { operations_max: 1, operations_reserved: 0, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(Arc::new(slow), config));
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let asked = [
        ("first in", Purpose::Scrub),
        ("scrub", Purpose::Scrub),
        ("catch-up 1", Purpose::CatchUpRead),
        ("catch-up 2", Purpose::CatchUpRead),
        ("tail", Purpose::TailRead),
        ("upload", Purpose::Upload),
    ];
    for (name, purpose) in asked {
        let (limit, order) = (limit.clone(), order.clone());
        tasks.push(tokio::spawn(async move {
            limit.put(&key("x"), body(1), purpose).await.unwrap();
            order.lock().unwrap().push(name);
        }));
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["first in", "upload", "tail", "catch-up 1", "catch-up 2", "scrub"]);
    assert_eq!(in_flight(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn reads_of_cold_data_never_take_the_last_places() {
    let slow = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 1);
    let config = LimitConfig { operations_max: 4, operations_reserved: 2, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(Arc::new(slow), config));
    let spawn = |purpose: Purpose| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.head(&key("x"), purpose).await })
    };
    let cold: Vec<_> = (0..8).map(|_| spawn(Purpose::CatchUpRead)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(limit.usage().operations, 2);
    let uploads: Vec<_> = (0..2).map(|_| spawn(Purpose::Upload)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(limit.usage().operations, 4);
    for task in cold.into_iter().chain(uploads) {
        assert_eq!(task.await.unwrap(), Err(BackendError::NotFound));
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_in_flight_are_bounded_and_a_body_over_the_bound_runs_alone() {
    let slow = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 1);
    let limit = Arc::new(Limit::new(
        Arc::new(slow),
        LimitConfig { bytes_max: 100, bytes_reserved: 40, ..LimitConfig::default() },
    ));
    let tasks: Vec<_> = [60, 60, 500, 30, 30, 30]
        .into_iter()
        .map(|bytes| {
            let limit = limit.clone();
            tokio::spawn(async move {
                let outcome = limit.put(&key("x"), body(bytes), Purpose::Upload).await;
                assert!(limit.usage().bytes <= 100);
                outcome
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (1, 60));
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(in_flight(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn reads_of_cold_data_leave_bytes_for_an_upload() {
    let config = LimitConfig { bytes_max: 100, bytes_reserved: 40, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(slow_store(), config));
    let put = |bytes: usize, purpose: Purpose| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.put(&key("x"), body(bytes), purpose).await })
    };
    // One that is larger than all that cold data may take runs alone among its kind.
    let cold: Vec<_> = [500, 10, 10].into_iter().map(|bytes| put(bytes, Purpose::CatchUpRead)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (1, 60));
    let upload = put(40, Purpose::Upload);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (2, 100));
    for task in cold.into_iter().chain([upload]) {
        task.await.unwrap().unwrap();
    }
    assert_eq!(in_flight(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_takes_its_time_leaves_others_their_bytes() {
    let config = LimitConfig { bytes_max: 100, bytes_reserved: 40, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(slow_store(), config));
    let put = |bytes: usize, purpose: Purpose| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.put(&key("x"), body(bytes), purpose).await })
    };
    let upload = put(60, Purpose::Upload);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let read = put(30, Purpose::CatchUpRead);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (2, 90));
    let last = put(20, Purpose::Compaction);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (2, 90), "all together stay within the bound");
    for task in [upload, read, last] {
        task.await.unwrap().unwrap();
    }
    assert_eq!(in_flight(&limit), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replay_stays_in_its_own_budget_and_holds_up_neither_tail_reads_nor_uploads_nor_compaction() {
    let config = LimitConfig { catch_up_operations_max: 3, catch_up_bytes_max: 100, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(slow_store(), config));
    let put = |bytes: usize, purpose: Purpose| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.put(&key("x"), body(bytes), purpose).await })
    };
    let replay: Vec<_> = (0..100).map(|_| put(40, Purpose::CatchUpRead)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (2, 80));
    let others = [Purpose::TailRead, Purpose::Upload, Purpose::Compaction].map(|purpose| put(1_000, purpose));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(in_flight(&limit), (5, 3_080));
    assert_eq!(limit.usage().waiting, 98);
    replay.iter().for_each(tokio::task::JoinHandle::abort);
    for task in others {
        task.await.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Small ones are bounded by their number, and one that is too large runs alone.
    let small: Vec<_> = (0..9).map(|_| put(1, Purpose::CatchUpRead)).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(limit.usage().catch_up.operations, 3);
    let large = put(500, Purpose::CatchUpRead);
    for task in small.into_iter().chain([large]) {
        task.await.unwrap().unwrap();
    }
    assert_eq!((in_flight(&limit), limit.usage().catch_up), ((0, 0), InFlight::default()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_is_asked_less_and_not_before_it_wants_to_be() {
    let throttling = |retry_after| Faults { throttled: 1_000, retry_after, ..Faults::default() };
    let store = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), throttling(None), 1));
    let limit = Arc::new(Limit::new(store.clone(), LimitConfig::default()));
    let put = |purpose: Purpose| {
        let limit = limit.clone();
        tokio::spawn(async move { limit.put(&key("x"), body(1), purpose).await })
    };
    let wave = |purpose: Purpose| (0..64).map(|_| put(purpose)).collect::<Vec<_>>();
    for places in [16, 8, 4, 2, 1, 1] {
        // A wave of refusals counts once.
        for task in wave(Purpose::Upload) {
            task.await.unwrap().unwrap_err();
        }
        assert_eq!(limit.usage().places, places);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    store.set_faults(throttling(Some(Duration::from_secs(7))));
    put(Purpose::Upload).await.unwrap().unwrap_err();
    store.set_faults(Faults::default());
    let started = Instant::now();
    let waiting = wave(Purpose::CatchUpRead);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(limit.usage().operations, 0, "it asked for seven seconds");
    assert_eq!(limit.usage().waiting, 64);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(8), "then all are served, cold reads too");
    let places = limit.usage().places;
    assert!((8..32).contains(&places), "it comes back step by step: {places}");
    for _ in 0..20 {
        for task in wave(Purpose::Upload) {
            task.await.unwrap().unwrap();
        }
    }
    assert_eq!(limit.usage().places, 32);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_leaves_no_place_taken() {
    let slow = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.slow = 1_000), 1);
    let config = LimitConfig { operations_max: 1, operations_reserved: 0, waiting_max: 3, ..LimitConfig::default() };
    let limit = Arc::new(Limit::new(Arc::new(slow), config));
    let spawn = || {
        let limit = limit.clone();
        tokio::spawn(async move { limit.head(&key("x"), Purpose::TailRead).await })
    };
    let tasks: Vec<_> = (0..4).map(|_| spawn()).collect();
    tokio::task::yield_now().await;
    let over = limit.head(&key("x"), Purpose::Upload).await;
    assert_eq!(over, Err(BackendError::Throttled { retry_after: None }), "a fourth waiter is refused");
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(in_flight(&limit), (0, 0));
    assert_eq!(
        limit.head(&key("x"), Purpose::Upload).await,
        Err(BackendError::NotFound),
        "those who left do not count"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_bytes_errors_and_time_are_counted_by_operation_and_purpose() {
    let counters = Arc::new(Counters::default());
    let store = Observed::new(Arc::new(MemoryBackend::new()), counters.clone());
    store.put(&key("a"), body(10), Purpose::Upload).await.unwrap();
    store.put(&key("b"), body(5), Purpose::Upload).await.unwrap();
    store.get_range(&key("a"), 2..6, Purpose::CatchUpRead).await.unwrap();
    store.get_range(&key("c"), 2..6, Purpose::CatchUpRead).await.unwrap_err();
    let seen: Vec<_> = counters
        .snapshot()
        .into_iter()
        .map(|s| (s.operation, s.purpose, s.calls, s.bytes, s.errors.iter().sum::<u64>(), s.in_flight))
        .collect();
    let expected = [(Operation::Put, Purpose::Upload, 2, 15, 0, 0), (Operation::Get, Purpose::CatchUpRead, 2, 4, 1, 0)];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_is_counted() {
    let counters = Arc::new(Counters::default());
    let observed = Observed::new(slow_store(), counters.clone());
    let bounded = Timeout::new(Arc::new(observed), TimeoutConfig::default());
    bounded.put(&key("a"), body(1), Purpose::Upload).await.unwrap_err();
    bounded.delete_many(vec![key("a")], Purpose::Scrub).await[0].1.clone().unwrap_err();
    let seen: Vec<_> = counters.snapshot().iter().map(|s| (s.operation, s.calls, s.abandoned, s.in_flight)).collect();
    assert_eq!(seen, [(Operation::Put, 1, 1, 0), (Operation::Delete, 1, 1, 0)]);
    assert!(counters.snapshot()[0].latency_us_max >= 15_000_000);
}

#[tokio::test]
async fn a_listing_that_begins_again_is_an_error_and_has_an_end() {
    let store = Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.listing_begins_again = 1_000), 1);
    for number in 0..1_001 {
        store.put(&key(&format!("k{number}")), body(1), Purpose::Upload).await.unwrap();
    }
    let error = list_all(&store, "", Purpose::Scrub).await.unwrap_err();
    assert!(matches!(&error, BackendError::Fatal(text) if text.contains("out of order")), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_success_shows_up_after_its_error() {
    let store = Arc::new(MemoryBackend::new());
    let faulty = Faulty::new(store.clone(), always(|f| f.late_success = 1_000), 1);
    faulty.put(&key("a"), body(1), Purpose::Upload).await.unwrap_err();
    assert!(store.contents().is_empty());
    tokio::time::sleep(Duration::from_secs(3_601)).await;
    assert_eq!(store.contents().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    async fn story(seed: u64) -> Vec<String> {
        let store: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let faults = Faults {
            error_before: 200,
            error_after: 200,
            truncated: 200,
            corrupted: 200,
            stale_listing: 300,
            ..Faults::default()
        };
        let faulty = Faulty::new(store, faults, seed);
        let mut seen = Vec::new();
        for number in 0..50 {
            let key = key(&format!("k{number}"));
            seen.push(format!("{:?}", faulty.put(&key, body(20), Purpose::Upload).await));
            seen.push(format!("{:?}", faulty.get_range(&key, 0..20, Purpose::TailRead).await));
            seen.push(format!("{:?}", faulty.list_folder("", None, Purpose::Scrub).await));
        }
        seen
    }
    assert_eq!(story(7).await, story(7).await);
    assert_ne!(story(7).await, story(8).await);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_a_span_that_says_what_it_was_and_how_often_it_was_tried() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let listening = tracing::subscriber::set_default(subscriber);
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), always(|f| f.error_before = 1_000), 1));
    let store = Traced::new(Arc::new(Retry::new(faulty.clone(), RetryConfig::default(), 1)));
    let object = key("folder/object");
    let outage = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        faulty.set_faults(Faults::default());
    };
    let (outcome, ()) = tokio::join!(store.put(&object, body(7), Purpose::Upload), outage);
    outcome.unwrap();
    assert!(store.get_range(&object, 0..8, Purpose::TailRead).await.is_err());
    store.delete_many(vec![object], Purpose::Scrub).await;
    drop(listening);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    let put = "store{operation=\"put\" key=\"folder/object\" purpose=\"upload\" bytes=7";
    assert!(lines[0].contains("WARN") && lines[0].contains(put) && lines[0].contains("will retry"), "{log}");
    assert!(lines[1].contains("DEBUG") && lines[1].contains(put) && lines[1].contains("attempts=2}"), "{log}");
    assert!(
        lines[2].contains("operation=\"get\"") && lines[2].contains("failed") && lines[2].contains("7 bytes"),
        "{log}"
    );
    assert!(lines[3].contains("operation=\"delete\"") && lines[3].contains("keys=1 failed=0"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_served_nothing_since_a_call_failed_is_failing() {
    let counters = Arc::new(Counters::default());
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryBackend::new()), Faults::default(), 1));
    let observed = Arc::new(Observed::new(faulty.clone(), counters.clone()));
    let store = Timeout::new(observed, TimeoutConfig::default());
    let object = key("a");
    assert_eq!(store.head(&object, Purpose::Probe).await, Err(BackendError::NotFound));
    assert!(!counters.is_failing(), "that an object is not there is an answer");
    for bad in [always(|f| f.error_before = 1_000), always(|f| f.frozen = 1_000)] {
        faulty.set_faults(bad);
        store.head(&object, Purpose::Probe).await.unwrap_err();
        assert!(counters.is_failing());
        faulty.set_faults(Faults::default());
        store.put(&object, body(1), Purpose::Upload).await.unwrap();
        assert!(!counters.is_failing());
    }
    faulty.set_faults(always(|f| f.frozen = 1_000));
    let impatient = tokio::time::timeout(Duration::from_secs(1), store.head(&object, Purpose::Probe));
    assert!(impatient.await.is_err() && !counters.is_failing(), "a caller who goes away says nothing of the store");
}
