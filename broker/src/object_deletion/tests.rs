use seawall_backends::layer::{Answer, Call, Deleted, Layer};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{BackendError, BoxFuture, ObjectKey, Segments};
use seawall_metadata::command::{ObjectCommit, ObjectRecord, RangeCommit, supported_features};
use seawall_metadata::{
    BootId, ClusterId, HostClock, LeaderEpoch, MetadataConfig, MetadataHandle, NodeId, Offset, Registration, Response,
    StreamId, TopicId,
};
use uuid::Uuid;

use super::*;
use crate::clock::Clock;
use crate::log_cache::LogCache;
use crate::storage::{StorageParts, StorageSettings};
use crate::topic_config::{SharedTopicConfig, TopicConfig};

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(2));
const TOPIC: TopicId = TopicId(Uuid::from_u128(3));
const GRACE: Duration = Duration::from_secs(100);

/// A topic of so many stored objects, and what deletes them.
struct Rig {
    storage: Arc<Storage>,
    store: Arc<MemoryBackend>,
    deletion: ObjectDeletion,
    marker: StoreMarker,
    window: Arc<RestoreWindow>,
}

impl Rig {
    async fn with(objects: u64) -> Rig {
        let config =
            MetadataConfig { cluster: Some((CLUSTER, INCARNATION)), ..MetadataConfig::new("memory", NodeId(1)) };
        let metadata = MetadataHandle::in_memory(config).await.unwrap();
        let register = Command::RegisterBroker {
            node: NodeId(1),
            boot: BootId(Uuid::from_u128(1)),
            listeners: Vec::new(),
            rack: None,
            wals: Vec::new(),
            features: supported_features(),
        };
        let (_, Response::BrokerEpoch(epoch)) = metadata.propose(register).await.unwrap() else { panic!() };
        let registration = Registration { node: NodeId(1), epoch };
        let (storage, _) = Storage::new(StorageParts {
            registration,
            metadata,
            cache: LogCache::new(1 << 20),
            clock: Clock::system(),
            boot_clock: Arc::new(HostClock::default()),
            settings: StorageSettings::default(),
            topic_configs: Arc::new(|_, _| SharedTopicConfig::new(TopicConfig::default())),
        });
        storage.lease_held().await;
        let store = Arc::new(MemoryBackend::new());
        let keys = ObjectKeys::new("p", CLUSTER).unwrap();
        let marker = StoreMarker::new("p", CLUSTER, INCARNATION);
        put(&store, &marker.key()).await;
        let window = RestoreWindow::none();
        let (deletion, _) = ObjectDeletion::new(DeletionParts {
            storage: storage.clone(),
            backend: store.clone(),
            keys: keys.clone(),
            incarnation: INCARNATION,
            marker: marker.clone(),
            window: window.clone(),
            settings: DeletionSettings { grace: GRACE, ..DeletionSettings::default() },
        });
        let rig = Rig { storage, store, deletion, marker, window };
        let create = Command::CreateDistinctTopic {
            name: "t".into(),
            topic: TOPIC,
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1)],
            configs: Default::default(),
        };
        rig.propose(create).await;
        let mut committed = 0;
        while committed < objects {
            let count = (objects - committed).min(1_000) as u32;
            let reserve = Command::ReserveObjects { by: registration, count, ttl_ms: 10_000 };
            let Response::ObjectIds { first, .. } = rig.propose(reserve).await else { panic!() };
            let mut commits = Vec::new();
            for number in 0..u64::from(count) {
                let object = ObjectId(first.0 + number);
                put(&rig.store, &keys.key(INCARNATION, object)).await;
                commits.push(commit(object, (committed + number) as i64));
            }
            rig.propose(Command::CommitObjects { by: registration, objects: commits, trims: Vec::new() }).await;
            committed += u64::from(count);
        }
        rig
    }

    async fn propose(&self, command: Command) -> Response {
        self.storage.metadata.propose(command).await.unwrap().1
    }

    /// Metadata time that passes.
    async fn pass(&self, span: Duration) {
        let now_ms = self.storage.metadata.read(State::now_ms) + span.as_millis() as u64;
        self.propose(Command::AdvanceTime { now_ms }).await;
    }

    /// Objects in the store, the marker apart.
    fn stored(&self) -> usize {
        self.store.contents().iter().filter(|(key, _)| *key != self.marker.key()).count()
    }

    fn known(&self) -> usize {
        self.storage.metadata.read(|state| state.objects().count())
    }
}

async fn put(store: &MemoryBackend, key: &ObjectKey) {
    store.put(key, Segments::from(bytes::Bytes::from_static(b"x")), Purpose::Upload).await.unwrap();
}

fn commit(object: ObjectId, base: i64) -> ObjectCommit {
    let range = RangeCommit {
        stream: StreamId(1),
        leader_epoch: LeaderEpoch(0),
        base: Offset(base),
        end: Offset(base + 1),
        bytes: 1,
        records: 1,
        max_timestamp: 0,
        epochs: Vec::new(),
    };
    let record = ObjectRecord { bucket: 0, incarnation: INCARNATION, format_version: 1, bytes: 1 };
    ObjectCommit { object, record, ranges: vec![range] }
}

#[tokio::test]
async fn a_deleted_topic_of_ten_thousand_objects_goes_in_bounded_batches_after_the_grace() {
    let mut rig = Rig::with(10_000).await;
    rig.pass(GRACE * 2).await;
    assert_eq!(rig.deletion.run_once().await, Run::Idle, "nothing is marked");
    let began = Instant::now();
    rig.propose(Command::DeleteTopic { topic: TOPIC }).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "one command took {took:?}");
    rig.pass(GRACE - Duration::from_secs(1)).await;
    assert_eq!(rig.deletion.run_once().await, Run::Idle, "the grace is not over");
    assert_eq!(rig.stored(), 10_000);
    rig.pass(Duration::from_secs(1)).await;
    for run in 1..=10 {
        assert_eq!(rig.deletion.run_once().await, Run::Deleted(1_000));
        assert_eq!((rig.stored(), rig.known()), (10_000 - run * 1_000, 10_000 - run * 1_000));
    }
    assert_eq!(rig.deletion.run_once().await, Run::Idle);
    assert_eq!(rig.deletion.counters.status().deleted, 10_000);
}

#[tokio::test]
async fn only_what_the_log_start_has_passed_is_deleted() {
    let mut rig = Rig::with(5).await;
    let by = rig.storage.registration;
    let trim = Command::TrimStream { by, stream: StreamId(1), leader_epoch: LeaderEpoch(0), start: Offset(3) };
    rig.propose(trim).await;
    rig.pass(GRACE).await;
    assert_eq!(rig.deletion.run_once().await, Run::Deleted(3));
    assert_eq!((rig.stored(), rig.known()), (2, 2));
}

#[tokio::test]
async fn what_a_dead_upload_has_put_is_deleted_and_what_it_has_not_is_forgotten() {
    let mut rig = Rig::with(1).await;
    let by = rig.storage.registration;
    let Response::ObjectIds { first, .. } = rig.propose(Command::ReserveObjects { by, count: 2, ttl_ms: 5_000 }).await
    else {
        panic!()
    };
    let key = ObjectKeys::new("p", CLUSTER).unwrap().key(INCARNATION, first);
    put(&rig.store, &key).await;
    rig.pass(GRACE).await;
    assert_eq!(rig.deletion.run_once().await, Run::Idle, "marked when the reservation ended, just now");
    rig.pass(GRACE).await;
    assert_eq!(rig.deletion.run_once().await, Run::Deleted(2));
    assert_eq!((rig.stored(), rig.known()), (1, 1));
}

/// Some objects nobody may delete.
struct Locked {
    store: Arc<MemoryBackend>,
    locked: Vec<ObjectKey>,
}

impl Layer for Locked {
    fn inner(&self) -> &dyn Backend {
        &*self.store
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        _: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        attempt()
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for key in keys {
                if self.locked.contains(&key) {
                    answers.push((key, Err(BackendError::Denied("object lock".to_owned()))));
                } else {
                    answers.extend(self.store.delete_many(vec![key], purpose).await);
                }
            }
            answers
        })
    }
}

#[tokio::test]
async fn objects_that_the_store_never_deletes_hold_up_no_others() {
    let mut rig = Rig::with(10).await;
    let keys = ObjectKeys::new("p", CLUSTER).unwrap();
    let objects: Vec<ObjectId> = rig.storage.metadata.read(|state| state.objects().map(|(id, _)| id).collect());
    let locked = objects[..4].iter().map(|object| keys.key(INCARNATION, *object)).collect();
    rig.deletion.parts.backend = Arc::new(Locked { store: rig.store.clone(), locked });
    rig.deletion.parts.settings.objects_max = 3;
    rig.propose(Command::DeleteTopic { topic: TOPIC }).await;
    rig.pass(GRACE).await;
    assert_eq!(rig.deletion.run_once().await, Run::Held, "the first three are all locked");
    for left in [8, 5, 4] {
        assert!(matches!(rig.deletion.run_once().await, Run::Deleted(_)));
        assert_eq!(rig.known(), left);
    }
    assert_eq!(rig.deletion.run_once().await, Run::Idle);
    assert_eq!(rig.deletion.run_once().await, Run::Held, "they are tried again");
    rig.deletion.parts.backend = rig.store.clone();
    while rig.known() > 0 {
        rig.deletion.run_once().await;
    }
    assert_eq!(rig.stored(), 0);
}

#[tokio::test]
async fn nothing_is_deleted_in_a_store_that_another_incarnation_has_marked() {
    let mut rig = Rig::with(2).await;
    rig.propose(Command::DeleteTopic { topic: TOPIC }).await;
    rig.pass(GRACE).await;
    let restored = StoreMarker::new("p", CLUSTER, Incarnation(Uuid::from_u128(9))).key();
    put(&rig.store, &restored).await;
    assert_eq!(rig.deletion.run_once().await, Run::Held);
    assert_eq!(rig.store.contents().len(), 4);
    assert_eq!(rig.deletion.counters.status().refused_runs, 1);
    rig.store.delete_many(vec![restored, rig.marker.key()], Purpose::Scrub).await;
    assert_eq!(rig.deletion.run_once().await, Run::Held, "nor in one without a marker");
    put(&rig.store, &rig.marker.key()).await;
    assert_eq!(rig.deletion.run_once().await, Run::Deleted(2));
}

/// In the store of the test all parts were begun in 1970.
#[tokio::test]
async fn parts_that_were_left_are_aborted_in_a_store_that_is_ours() {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let mut rig = Rig::with(0).await;
    let key = ObjectKeys::new("p", CLUSTER).unwrap().key(INCARNATION, ObjectId(9));
    rig.store.begin_parts(&key, Purpose::Upload).await.unwrap();
    let store = rig.store.clone();
    let begun = async || store.list_begun(key.folder(), Purpose::Upload).await.unwrap().len();
    rig.deletion.sweep_parts(DAY_MS).await;
    assert_eq!(begun().await, 1, "it may be under way");
    let restored = StoreMarker::new("p", CLUSTER, Incarnation(Uuid::from_u128(9))).key();
    put(&rig.store, &restored).await;
    rig.deletion.sweep_parts(2 * DAY_MS).await;
    assert_eq!((begun().await, rig.deletion.counters.status().refused_runs), (1, 1));
    rig.store.delete_many(vec![restored], Purpose::Scrub).await;
    rig.deletion.sweep_parts(2 * DAY_MS).await;
    assert_eq!((begun().await, rig.deletion.counters.status().swept_parts), (0, 1));
}

#[tokio::test]
async fn what_a_kept_snapshot_may_name_is_deleted_only_when_a_later_one_is_the_oldest() {
    let mut rig = Rig::with(2).await;
    rig.window.moves_to(0);
    rig.pass(GRACE).await;
    let taken_ms = rig.storage.metadata.read(State::now_ms);
    rig.propose(Command::DeleteTopic { topic: TOPIC }).await;
    rig.pass(GRACE * 10).await;
    assert_eq!(rig.deletion.run_once().await, Run::Idle, "which snapshots there are is not known");
    rig.window.moves_to(taken_ms);
    assert_eq!(rig.deletion.run_once().await, Run::Idle, "a snapshot of before the deletion is kept");
    assert_eq!(rig.stored(), 2);
    rig.window.moves_to(taken_ms + 1);
    assert_eq!(rig.deletion.run_once().await, Run::Deleted(2));
}
