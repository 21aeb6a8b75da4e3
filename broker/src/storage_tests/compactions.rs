//! Objects rewritten, and joined within the store: what is read before is read after, whatever fails on the way.

use std::sync::Mutex;

use seawall_backends::fs::FsBackend;
use seawall_backends::layer::{Answer, Call, Layer};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::observed::Operation;
use seawall_backends::{Backend, BackendError, BoxFuture, Purpose, Segments};
use tokio::sync::Notify;

use super::*;
use crate::compaction::{Compaction, CompactionCounters, CompactionParts, CompactionSettings, Look};
use crate::compaction_plan::PlanLimits;
use crate::log_cache::{BatchEntry, BatchProducer};
use crate::log_cleaner::{CleanerParts, CleanerSettings, LogCleaner};
use crate::object_format::ObjectBuilder;
use crate::object_key::ObjectKeys;
use crate::object_reader::{ObjectReader, ObjectRef};

const PURPOSE: Purpose = Purpose::Compaction;
/// Of an object here.
const OBJECT_BYTES: usize = 3_000;
const PART_BYTES_MIN: u64 = 1_000;

fn keys() -> ObjectKeys {
    ObjectKeys::new("p", CLUSTER).unwrap()
}

fn memory() -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::with_part_bytes(PART_BYTES_MIN..=1 << 20))
}

fn reader(store: &Arc<dyn Backend>) -> Arc<ObjectReader> {
    Arc::new(ObjectReader::new(store.clone(), keys(), 1 << 20, 1 << 20))
}

/// Uploads as many objects of one partition, of two batches of a producer each. Returns what they hold.
async fn upload(rig: &Rig, store: &Arc<dyn Backend>, objects: u64) -> Vec<u8> {
    upload_with(rig, store, objects, None).await
}

/// One of them may hold less than metadata is told.
async fn upload_with(rig: &Rig, store: &Arc<dyn Backend>, objects: u64, short: Option<u64>) -> Vec<u8> {
    let (metadata, by) = (&rig.site.metadata, rig.partitions.storage().registration);
    let (stream, leader_epoch) = (rig.partition().stream(), rig.partition().leader_epoch());
    let reserve = Command::ReserveObjects { by, count: objects as u32, ttl_ms: 60_000 };
    let Response::ObjectIds { first, .. } = command(metadata, reserve).await else { panic!() };
    let mut all = Vec::new();
    for nth in 0..objects {
        let object = ObjectId(first.0 + nth);
        let mut builder = ObjectBuilder::new(object, INCARNATION);
        for half in [0, 1] {
            let base = nth as i64 * 10 + half * 5;
            let bytes = Bytes::from(vec![base as u8 + 1; OBJECT_BYTES / 2]);
            let producer = BatchProducer {
                producer_id: 7 + half,
                producer_epoch: 0,
                base_sequence: base as i32,
                last_sequence: base as i32 + 4,
            };
            let entry = BatchEntry {
                base,
                last: base + 4,
                // A block ends with its leader epoch.
                leader_epoch: half as i32 + 2 * nth as i32,
                max_timestamp: base,
                record_count: 5,
                bytes: bytes.len() as u32,
                producer: Some(producer),
            };
            all.extend_from_slice(&bytes);
            builder.add_batch(stream, &entry, &bytes.into());
        }
        let encoded = builder.finish();
        let key = keys().key(INCARNATION, object);
        store.put(&key, Segments::new(encoded.segments), PURPOSE).await.unwrap();
        let range = RangeCommit {
            stream,
            leader_epoch: LeaderEpoch(leader_epoch),
            base: Offset(encoded.ranges[0].base),
            end: Offset(encoded.ranges[0].end),
            bytes: encoded.ranges[0].bytes,
            records: encoded.ranges[0].records + u64::from(short == Some(nth)),
            max_timestamp: encoded.ranges[0].max_timestamp,
            epochs: vec![],
        };
        let record = ObjectRecord { bucket: 0, incarnation: INCARNATION, format_version: 1, bytes: encoded.bytes };
        let objects = vec![ObjectCommit { object, record, ranges: vec![range] }];
        let Response::Commit(answer) = command(metadata, Command::CommitObjects { by, objects, trims: vec![] }).await
        else {
            panic!()
        };
        assert_eq!(answer.outcomes, [[seawall_metadata::command::RangeOutcome::Accepted]]);
    }
    all
}

/// Everything in the partition's objects, and the objects that it is in.
async fn read(rig: &Rig, store: &Arc<dyn Backend>) -> (Vec<u8>, Vec<ObjectId>) {
    let stream = rig.partition().stream();
    let (mut all, mut objects) = (Vec::new(), Vec::new());
    let ranges: Vec<_> = rig.site.metadata.read(|state| state.ranges(stream, Offset(0)).collect());
    let reader = reader(store);
    let mut next = Offset(0);
    for range in ranges {
        assert_eq!(range.base, next, "no gap");
        next = range.end;
        let object = rig.site.metadata.read(|state| ObjectRef::of(state, range.object)).unwrap();
        let cached = reader.index(&object, PURPOSE).await.unwrap();
        let blocks = 0..cached.index.blocks().len();
        for block in reader.read_blocks(&object, &cached.index, blocks, u64::MAX, PURPOSE).await.unwrap() {
            all.extend_from_slice(&block);
        }
        objects.push(range.object);
    }
    (all, objects)
}

fn compaction(rig: &Rig, store: &Arc<dyn Backend>, merge_bytes: usize) -> (Compaction, Arc<CompactionCounters>) {
    compaction_of(rig, store, 100, merge_bytes)
}

/// An upload's object with less than `stream_object_bytes` is rewritten.
fn compaction_of(
    rig: &Rig,
    store: &Arc<dyn Backend>,
    stream_object_bytes: u64,
    merge_bytes: usize,
) -> (Compaction, Arc<CompactionCounters>) {
    let (partitions, reader) = (rig.partitions.clone(), reader(store));
    let log_cleaner = LogCleaner::new(CleanerParts {
        partitions: partitions.clone(),
        metadata: rig.site.metadata.clone(),
        registration: partitions.storage().registration,
        incarnation: INCARNATION,
        backend: store.clone(),
        keys: keys(),
        reader: reader.clone(),
        settings: Arc::new(|| CleanerSettings {
            map_bytes: 1 << 20,
            map_load_factor: 0.9,
            io_bytes_per_second: f64::MAX,
            backoff: Duration::from_secs(3600),
            group_bytes: 1 << 20,
        }),
    });
    Compaction::new(CompactionParts {
        partitions,
        reader,
        backend: store.clone(),
        keys: keys(),
        incarnation: INCARNATION,
        log_cleaner: Arc::new(log_cleaner),
        settings: CompactionSettings {
            limits: PlanLimits { objects_min: 2, stream_object_bytes, object_bytes: 1 << 20 },
            rate: u64::MAX,
            merge_bytes: merge_bytes as u64,
            ..CompactionSettings::default()
        },
    })
}

/// Fails, or never answers, or does something else than it was told, at the call with that number.
struct Odd {
    inner: Arc<MemoryBackend>,
    at: usize,
    how: How,
    calls: Mutex<Vec<Operation>>,
    /// A call is there that is never answered.
    hangs: Notify,
}

impl Odd {
    fn new(inner: Arc<MemoryBackend>, at: usize, how: How) -> Arc<Self> {
        Arc::new(Self { inner, at, how, calls: Mutex::default(), hangs: Notify::new() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    NeverAnswers,
    FailsUnheard,
    FailsDone,
    /// A byte of what was joined is another.
    Damages {
        position: usize,
    },
}

impl Layer for Odd {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(call.operation);
            calls.len() - 1
        };
        Box::pin(async move {
            let failed = Err(BackendError::Transient("odd".into()));
            match self.how {
                How::NeverAnswers if nth == self.at => {
                    self.hangs.notify_one();
                    std::future::pending().await
                }
                How::FailsUnheard if nth == self.at => failed,
                How::FailsDone if nth == self.at => attempt().await.and(failed),
                How::Damages { position } if call.operation == Operation::CompleteParts => {
                    let answer = attempt().await;
                    let (key, body) =
                        self.inner.contents().into_iter().find(|(key, _)| key.as_str() == call.name).unwrap();
                    let mut body = body.to_vec();
                    body[position] ^= 1;
                    self.inner.overwrite(&key, body.into());
                    answer
                }
                _ => attempt().await,
            }
        })
    }
}

#[tokio::test]
async fn neighbours_are_joined_within_the_store_and_read_as_before() {
    let (rig, _) = Rig::with_topic(1 << 20).await;
    let memory = memory();
    let store: Arc<dyn Backend> = memory.clone();
    let expected = upload(&rig, &store, 8).await;
    let (mut compaction, counters) = compaction(&rig, &store, 3 * OBJECT_BYTES + 100);
    assert_eq!(compaction.look().await, Look::Idle, "they are large enough as they are");
    for joined in 1..=2 {
        assert_eq!(compaction.merge_look().await, Look::Made(1));
        let (all, objects) = read(&rig, &store).await;
        assert!(all == expected, "every byte");
        assert_eq!(objects.len(), 8 - 2 * joined);
    }
    assert_eq!(compaction.merge_look().await, Look::Idle, "the last may get another neighbour");
    let status = counters.status();
    assert_eq!((status.merges, status.merged_bytes), (2, 6 * OBJECT_BYTES as u64));
    assert_eq!((status.failures, status.object_bytes, status.record_bytes), (0, 0, 0), "nothing was rewritten");
    assert_eq!(rig.site.metadata.read(|state| state.marked_count()), 6);
    assert_eq!(compaction.look().await, Look::Idle);

    // A joined object has what its inputs knew of producers, and answers for offsets and times.
    let (_, objects) = read(&rig, &store).await;
    let object = rig.site.metadata.read(|state| ObjectRef::of(state, objects[1])).unwrap();
    let reader = reader(&store);
    let producers = reader.producers(&object, PURPOSE).await.unwrap().remove(0);
    assert_eq!((producers.stream, producers.end), (rig.partition().stream(), 60));
    let last: Vec<_> =
        producers.producers.iter().map(|producer| producer.batches.last().unwrap().last_offset).collect();
    assert_eq!((producers.producers[0].batches.len(), last), (3, vec![54, 59]));
    let cached = reader.index(&object, PURPOSE).await.unwrap();
    let stream = rig.partition().stream();
    assert_eq!(cached.index.find_offset(stream, 47), Some(3));
    assert_eq!(cached.index.find_timestamp(stream, 41, 0), Some(3));
}

#[tokio::test]
async fn nothing_is_joined_where_the_store_would_copy_through_this_host() {
    let (rig, _) = Rig::with_topic(1 << 20).await;
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Backend> = Arc::new(FsBackend::open(folder.path()).unwrap());
    upload(&rig, &store, 8).await;
    let (mut compaction, counters) = compaction(&rig, &store, 3 * OBJECT_BYTES + 100);
    assert_eq!(compaction.merge_look().await, Look::Idle);
    assert_eq!(counters.status().merges, 0);
}

#[tokio::test]
async fn a_crash_or_a_failure_at_any_call_leaves_the_old_objects_or_the_new_one() {
    for how in [How::NeverAnswers, How::FailsUnheard, How::FailsDone] {
        for at in 0.. {
            let (rig, _) = Rig::with_topic(1 << 20).await;
            let memory = memory();
            let store: Arc<dyn Backend> = memory.clone();
            let expected = upload(&rig, &store, 4).await;
            let odd = Odd::new(memory, at, how);
            let faulty: Arc<dyn Backend> = odd.clone();
            let (mut first, _) = compaction(&rig, &faulty, 3 * OBJECT_BYTES + 100);
            let hung = tokio::select! {
                _ = first.merge_look() => false,
                () = odd.hangs.notified() => true,
            };
            let happened = odd.calls.lock().unwrap().len() > at;
            assert_eq!(hung, happened && how == How::NeverAnswers, "{how:?} {at}");
            drop(first);
            let (all, objects) = read(&rig, &store).await;
            assert!(all == expected, "{how:?} {at}");
            assert_eq!(objects.len(), if happened { 4 } else { 2 }, "{how:?} {at}");
            let (mut again, _) = compaction(&rig, &store, 3 * OBJECT_BYTES + 100);
            assert_eq!(again.merge_look().await, if happened { Look::Made(1) } else { Look::Idle }, "{how:?} {at}");
            assert_eq!(read(&rig, &store).await.0, expected, "{how:?} {at}");
            if !happened {
                assert!(at > 10, "{at} calls");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_joins_something_else_is_found_out_and_not_asked_again() {
    for position in [0, OBJECT_BYTES + 1, 3 * OBJECT_BYTES - 1, 3 * OBJECT_BYTES + 5] {
        let (rig, _) = Rig::with_topic(1 << 20).await;
        let memory = memory();
        let store: Arc<dyn Backend> = memory.clone();
        let expected = upload(&rig, &store, 4).await;
        let odd = Odd::new(memory, 0, How::Damages { position });
        let faulty: Arc<dyn Backend> = odd.clone();
        let (mut compaction, counters) = compaction(&rig, &faulty, 3 * OBJECT_BYTES + 100);
        assert_eq!(compaction.merge_look().await, Look::Held, "at {position}");
        let (all, objects) = read(&rig, &store).await;
        assert!(all == expected && objects.len() == 4, "at {position}");
        let calls = odd.calls.lock().unwrap().len();
        assert_eq!(compaction.merge_look().await, Look::Idle);
        assert_eq!((odd.calls.lock().unwrap().len(), counters.status().merges), (calls, 0));
    }
}

#[tokio::test]
async fn an_object_that_holds_less_than_metadata_says_is_named_and_the_others_are_rewritten() {
    let (rig, partition) = Rig::with_topic(1 << 20).await;
    let store: Arc<dyn Backend> = memory();
    let expected = upload_with(&rig, &store, 6, Some(1)).await;
    let (_, before) = read(&rig, &store).await;
    let (mut compaction, counters) = compaction_of(&rig, &store, 1 << 20, 0);
    assert_eq!(compaction.look().await, Look::Held);
    while compaction.look().await != Look::Idle {}
    let (all, objects) = read(&rig, &store).await;
    assert!(all == expected);
    let left: Vec<ObjectId> = objects.iter().copied().filter(|object| before.contains(object)).collect();
    assert_eq!(left[0], before[1], "the one, and what is too little for a compaction: {left:?}");
    assert!(left.len() <= 2 && counters.status().failures == 1, "{left:?} {:?}", counters.status());
    drop(partition);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_joined_with_nothing_and_holds_up_nothing_behind_it() {
    let (rig, _) = Rig::with_topic(1 << 20).await;
    let store: Arc<dyn Backend> = memory();
    let expected = upload_with(&rig, &store, 8, Some(1)).await;
    let (_, before) = read(&rig, &store).await;
    let (mut compaction, counters) = compaction(&rig, &store, 3 * OBJECT_BYTES + 100);
    assert_eq!((compaction.merge_look().await, counters.status().failures), (Look::Idle, 1));
    assert_eq!(compaction.merge_look().await, Look::Made(1));
    let (all, objects) = read(&rig, &store).await;
    assert!(all == expected, "every byte");
    assert_eq!((&objects[..2], &objects[3..]), (&before[..2], &before[5..]), "the third to the fifth are one");
    assert_eq!(counters.status().failures, 1, "it is not tried again");
}

#[tokio::test]
async fn a_joined_object_that_metadata_refuses_is_not_made_again_at_once() {
    let (rig, partition) = Rig::with_topic(1 << 20).await;
    let store: Arc<dyn Backend> = memory();
    let expected = upload(&rig, &store, 4).await;
    let (by, id) = (rig.partitions.storage().registration, partition.id());
    command(&rig.site.metadata, Command::TakePartitions { by, partitions: vec![id] }).await;
    let (mut compaction, counters) = compaction(&rig, &store, 3 * OBJECT_BYTES + 100);
    assert_eq!(compaction.merge_look().await, Look::Refused);
    assert_eq!(compaction.merge_look().await, Look::Idle);
    assert_eq!((counters.status().merges, counters.status().streams_refused), (1, 1));
    assert!(read(&rig, &store).await.0 == expected);
}

#[tokio::test]
async fn what_metadata_refuses_for_every_stream_is_not_made_again_at_once() {
    let (rig, partition) = Rig::with_topic(1 << 20).await;
    let store: Arc<dyn Backend> = memory();
    let expected = upload(&rig, &store, 2).await;
    // The partition is led under a later epoch by now, and nobody has told this one.
    let (by, id) = (rig.partitions.storage().registration, partition.id());
    command(&rig.site.metadata, Command::TakePartitions { by, partitions: vec![id] }).await;
    let (mut compaction, counters) = compaction_of(&rig, &store, 1 << 20, 0);
    assert_eq!(compaction.look().await, Look::Refused);
    assert_eq!(counters.status().streams_refused, 1);
    assert!(read(&rig, &store).await.0 == expected);
}
