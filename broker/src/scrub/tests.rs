//! A scrub over a store in memory whose listings are wrong on purpose, beside real metadata.

use std::sync::Mutex as StdMutex;

use seawall_backends::memory::MemoryBackend;
use seawall_backends::{BegunObject, BoxFuture, Capabilities, ListPage, ObjectMeta, PartsId, Segments};
use seawall_metadata::command::{ObjectCommit, ObjectRecord, RangeCommit, supported_features};
use seawall_metadata::{
    BootId, ClusterId, Command, HostClock, LeaderEpoch, MetadataConfig, MetadataHandle, NodeId, Offset, Registration,
    Response, StreamId, TopicId,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::clock::Clock;
use crate::log_cache::{BatchBytes, BatchEntry, LogCache};
use crate::metrics::Metrics;
use crate::object_format::ObjectBuilder;
use crate::storage::{StorageParts, StorageSettings};
use crate::topic_config::{SharedTopicConfig, TopicConfig};

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const OWN: Incarnation = Incarnation(Uuid::from_u128(2));
const OLDER: Incarnation = Incarnation(Uuid::from_u128(3));

type OnList = Box<dyn Fn(ListPage) -> BoxFuture<'static, ListPage> + Send + Sync>;

/// A store whose listings pass through the hands of a test.
struct Lister {
    store: MemoryBackend,
    on_list: StdMutex<Option<OnList>>,
    deletes: StdMutex<Vec<ObjectKey>>,
    wrong_once: StdMutex<Vec<ObjectKey>>,
}

impl Backend for Lister {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.store.put(key, body, purpose)
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: std::ops::Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let mut wrong = self.wrong_once.lock().unwrap();
        if let Some(at) = wrong.iter().position(|wrong| wrong == key) {
            wrong.remove(at);
            return Box::pin(async { Err(BackendError::NotFound) });
        }
        self.store.get_range(key, range, purpose)
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        self.store.head(key, purpose)
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        self.deletes.lock().unwrap().extend(keys.iter().cloned());
        self.store.delete_many(keys, purpose)
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move {
            let page = self.store.list_folder(folder, start_after, purpose).await?;
            let changed = self.on_list.lock().unwrap().as_ref().map(|on_list| on_list(page.clone()));
            match changed {
                Some(changed) if !folder.ends_with("seawall-cluster") => Ok(changed.await),
                _ => Ok(page),
            }
        })
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        self.store.begin_parts(key, purpose)
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.store.abort_parts(key, id, purpose)
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        self.store.list_begun(folder, purpose)
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn name(&self) -> &str {
        "lister"
    }
}

struct Rig {
    storage: Arc<Storage>,
    store: Arc<Lister>,
    scrub: Arc<Scrub>,
    keys: ObjectKeys,
    metrics: Metrics,
    dir: TempDir,
}

impl Rig {
    /// A cluster with one stream and no object.
    async fn new() -> Rig {
        let config = MetadataConfig { cluster: Some((CLUSTER, OWN)), ..MetadataConfig::new("memory", NodeId(1)) };
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
        let (storage, _) = Storage::new(StorageParts {
            registration: Registration { node: NodeId(1), epoch },
            metadata,
            cache: LogCache::new(1 << 20),
            clock: Clock::system(),
            boot_clock: Arc::new(HostClock::default()),
            settings: StorageSettings::default(),
            topic_configs: Arc::new(|_, _| SharedTopicConfig::new(TopicConfig::default())),
        });
        storage.lease_held().await;
        let keys = ObjectKeys::new("p", CLUSTER).unwrap();
        let marker = StoreMarker::new("p", CLUSTER, OWN);
        let store = Arc::new(Lister {
            store: MemoryBackend::new(),
            on_list: StdMutex::default(),
            deletes: StdMutex::default(),
            wrong_once: StdMutex::default(),
        });
        let body = Segments::from(bytes::Bytes::from_static(b"x"));
        store.put(&marker.key(), body, Purpose::Upload).await.unwrap();
        let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
        let scrub = Arc::new(Scrub::new(ScrubParts {
            storage: storage.clone(),
            backend: store.clone(),
            keys: keys.clone(),
            incarnation: OWN,
            marker,
            data_dir: Some(dir.path().to_owned()),
            metrics: metrics.register(ScrubMetrics::register),
        }));
        let rig = Rig { storage, store, scrub, keys, metrics, dir };
        rig.propose(Command::CreateDistinctTopic {
            name: "t".into(),
            topic: TopicId(Uuid::from_u128(4)),
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1)],
            configs: Default::default(),
        })
        .await;
        rig
    }

    async fn propose(&self, command: Command) -> Response {
        self.storage.metadata.propose(command).await.unwrap().1
    }

    async fn reserve(&self) -> ObjectId {
        let by = self.storage.registration;
        let reserve = Command::ReserveObjects { by, count: 1, ttl_ms: 1_000_000 };
        let Response::ObjectIds { first, .. } = self.propose(reserve).await else { panic!() };
        first
    }

    /// Stores and commits an object of one record.
    async fn upload(&self) -> ObjectKey {
        upload(&self.storage, &self.store, &self.keys, self.reserve().await).await
    }

    /// An object that was used, marked and forgotten, and is stored all the same.
    async fn orphan(&self) -> ObjectKey {
        let by = self.storage.registration;
        let Response::ObjectIds { first, .. } = self.propose(Command::ReserveObjects { by, count: 1, ttl_ms: 1 }).await
        else {
            panic!()
        };
        let now_ms = self.storage.metadata.read(State::now_ms) + 10;
        self.propose(Command::AdvanceTime { now_ms }).await;
        let marked_before_ms = self.storage.metadata.read(State::now_ms);
        self.propose(Command::ForgetObjects { by, objects: vec![first], marked_before_ms }).await;
        let key = self.keys.key(OWN, first);
        self.put(&key, b"late".to_vec()).await;
        key
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>) {
        // The store in memory refuses other bytes under a key.
        self.store.store.delete_many(vec![key.clone()], Purpose::Upload).await;
        self.store.put(key, Segments::from(bytes::Bytes::from(bytes)), Purpose::Upload).await.unwrap();
    }

    async fn bytes_of(&self, key: &ObjectKey) -> Vec<u8> {
        let bytes = self.store.head(key, Purpose::Probe).await.unwrap().bytes;
        self.store.store.get_range(key, 0..bytes, Purpose::Probe).await.unwrap().into_bytes().to_vec()
    }

    async fn is_stored(&self, key: &ObjectKey) -> bool {
        self.store.head(key, Purpose::Probe).await.is_ok()
    }

    async fn scrub(&self, request: ScrubRequest) -> (Summary, Vec<Finding>) {
        let (found, mut findings) = mpsc::channel(1_000);
        let ended = self.scrub.run(&request, found, watch::Sender::new(Progress::default())).await.unwrap();
        let mut all = Vec::new();
        while let Ok(finding) = findings.try_recv() {
            all.push(finding);
        }
        (ended, all)
    }

    fn on_list(&self, change: impl Fn(ListPage) -> ListPage + Send + Sync + 'static) {
        let change = Arc::new(change);
        *self.store.on_list.lock().unwrap() = Some(Box::new(move |page| {
            let change = change.clone();
            Box::pin(async move { change(page) })
        }));
    }
}

async fn upload(storage: &Storage, store: &Lister, keys: &ObjectKeys, object: ObjectId) -> ObjectKey {
    let base = storage.metadata.read(|state| state.stream(StreamId(1)).unwrap().next);
    let mut batch = seawall_protocol::records::BatchBuilder::new(seawall_protocol::records::Compression::None)
        .base_offset(base.0)
        .leader_epoch(0);
    batch.add(None, Some(b"value"), 7, &[]);
    let batch = batch.build();
    let mut builder = ObjectBuilder::new(object, OWN);
    let entry = BatchEntry {
        base: base.0,
        last: base.0,
        leader_epoch: 0,
        max_timestamp: 7,
        record_count: 1,
        bytes: batch.len() as u32,
        producer: None,
    };
    builder.add_batch(StreamId(1), &entry, &BatchBytes::from(batch.clone()));
    let encoded = builder.finish();
    let key = keys.key(OWN, object);
    store.put(&key, Segments::new(encoded.segments), Purpose::Upload).await.unwrap();
    let range = RangeCommit {
        stream: StreamId(1),
        leader_epoch: LeaderEpoch(0),
        base,
        end: Offset(base.0 + 1),
        bytes: batch.len() as u64,
        records: 1,
        max_timestamp: 7,
        epochs: Vec::new(),
    };
    let record = ObjectRecord { bucket: 0, incarnation: OWN, format_version: 1, bytes: encoded.bytes };
    let objects = vec![ObjectCommit { object, record, ranges: vec![range] }];
    let commit = Command::CommitObjects { by: storage.registration, objects, trims: Vec::new() };
    storage.metadata.propose(commit).await.unwrap();
    key
}

fn request() -> ScrubRequest {
    ScrubRequest { deep: false, repair: false, rate: u64::MAX, from: None }
}

fn kinds(findings: &[Finding]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    kinds
}

#[tokio::test]
async fn a_clean_store_is_clean_and_each_kind_is_found_and_only_the_orphan_goes() {
    let rig = Rig::new().await;
    for _ in 0..5 {
        rig.upload().await;
    }
    let (summary, findings) = rig.scrub(ScrubRequest { deep: true, ..request() }).await;
    assert_eq!(findings, []);
    assert_eq!((summary.totals.objects, summary.totals.listed, summary.resumed), (5, 5, false));

    let missing = rig.upload().await;
    rig.store.store.delete_many(vec![missing], Purpose::Upload).await;
    for (at, from_end) in [(10, false), (10, true)] {
        let corrupt = rig.upload().await;
        let mut bytes = rig.bytes_of(&corrupt).await;
        let at = if from_end { bytes.len() - at } else { at };
        bytes[at] ^= 1;
        rig.put(&corrupt, bytes).await;
    }
    let (first, second) = (rig.upload().await, rig.upload().await);
    let swapped = rig.bytes_of(&second).await;
    rig.put(&first, swapped).await;
    let orphan = rig.orphan().await;
    rig.put(&rig.keys.key(OWN, ObjectId(1 << 40)), b"?".to_vec()).await;
    let older = [rig.keys.key(OLDER, ObjectId(3)), rig.keys.key(OLDER, ObjectId(4))];
    for key in &older {
        rig.put(key, b"of old".to_vec()).await;
    }
    rig.put(&StoreMarker::new("p", CLUSTER, OLDER).key(), Vec::new()).await;
    let foreign = ObjectKey::new(format!("{}/readme", rig.keys.folder(OWN, 3))).unwrap();
    rig.put(&foreign, b"hello".to_vec()).await;

    let (summary, findings) = rig.scrub(request()).await;
    use Kind::*;
    let all = [Missing, Corrupt, Corrupt, Unissued, Orphan, OtherIncarnation, OtherIncarnation, Foreign];
    assert_eq!(kinds(&findings), all, "{findings:#?}");
    assert_eq!(summary.totals.of(OtherIncarnation), 2);
    let (_, findings) = rig.scrub(ScrubRequest { deep: true, ..request() }).await;
    assert_eq!(kinds(&findings).iter().filter(|kind| **kind == Corrupt).count(), 3, "the data too");

    let (summary, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    let why = &findings.iter().find(|finding| finding.kind == Orphan).unwrap().what;
    assert!(why.contains("not this cluster's alone") && summary.totals.repaired == 0, "{why}");
    rig.store.store.delete_many(vec![StoreMarker::new("p", CLUSTER, OLDER).key()], Purpose::Upload).await;
    let (summary, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    assert_eq!(summary.totals.repaired, 1);
    assert_eq!(findings.iter().filter_map(|finding| finding.done.as_deref()).collect::<Vec<_>>(), ["deleted"]);
    assert_eq!(*rig.store.deletes.lock().unwrap(), [orphan]);
    let text = rig.metrics.encode();
    for line in ["seawall_scrub_findings{kind=\"missing\"} 1", "seawall_scrub_findings{kind=\"orphan\"} 1"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// An object of which metadata says more than the object does.
#[tokio::test]
async fn an_object_that_holds_less_than_metadata_says_is_a_mismatch() {
    let rig = Rig::new().await;
    let object = rig.reserve().await;
    let key = rig.keys.key(OWN, object);
    let mut builder = ObjectBuilder::new(object, OWN);
    let entry =
        BatchEntry { base: 0, last: 0, leader_epoch: 0, max_timestamp: 7, record_count: 1, bytes: 90, producer: None };
    builder.add_batch(StreamId(1), &entry, &BatchBytes::from(bytes::Bytes::from(vec![1; 90])));
    let encoded = builder.finish();
    rig.store.put(&key, Segments::new(encoded.segments), Purpose::Upload).await.unwrap();
    let range = RangeCommit {
        stream: StreamId(1),
        leader_epoch: LeaderEpoch(0),
        base: Offset(0),
        end: Offset(2),
        bytes: 90,
        records: 2,
        max_timestamp: 7,
        epochs: Vec::new(),
    };
    let record = ObjectRecord { bucket: 0, incarnation: OWN, format_version: 1, bytes: encoded.bytes };
    let objects = vec![ObjectCommit { object, record, ranges: vec![range] }];
    rig.propose(Command::CommitObjects { by: rig.storage.registration, objects, trims: Vec::new() }).await;
    let (_, findings) = rig.scrub(request()).await;
    assert_eq!(kinds(&findings), [Kind::Mismatch]);
    assert!(findings[0].what.contains("offsets 0 to 2: the object's blocks hold 0 to 1"), "{findings:?}");
}

#[tokio::test]
async fn listings_that_omit_resurrect_or_run_wild_lead_to_no_wrong_finding() {
    let rig = Rig::new().await;
    for _ in 0..20 {
        rig.upload().await;
    }
    let gone = rig.orphan().await;
    rig.store.store.delete_many(vec![gone.clone()], Purpose::Upload).await;
    rig.on_list(|mut page| {
        page.objects.clear();
        page
    });
    let (summary, findings) = rig.scrub(request()).await;
    assert_eq!((findings, summary.totals.objects, summary.totals.listed), (vec![], 20, 0));

    let shown = gone.clone();
    rig.on_list(move |mut page| {
        page.objects.push((shown.clone(), 4));
        page.objects.sort();
        page
    });
    let (summary, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    assert_eq!(findings, []);
    assert!(summary.totals.ghosts >= 256 && rig.store.deletes.lock().unwrap().is_empty());

    rig.on_list(move |mut page| {
        page.objects = vec![(gone.clone(), 4), (gone.clone(), 4)];
        page.more = true;
        page
    });
    let (summary, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    assert_eq!((findings, summary.totals.cut_listings), (vec![], 256));
}

#[tokio::test]
async fn an_object_that_is_missed_once_is_not_missing() {
    let rig = Rig::new().await;
    let key = rig.upload().await;
    rig.store.wrong_once.lock().unwrap().push(key);
    let (_, findings) = rig.scrub(request()).await;
    assert_eq!(findings, []);
}

/// In the store of the test all parts were begun in 1970.
#[tokio::test]
async fn what_was_begun_in_parts_and_left_is_told_and_with_repair_aborted() {
    let rig = Rig::new().await;
    let key = rig.keys.key(OWN, ObjectId(9));
    let id = rig.store.begin_parts(&key, Purpose::Upload).await.unwrap();
    rig.store.begin_parts(&rig.keys.key(OLDER, ObjectId(9)), Purpose::Upload).await.unwrap();
    let (_, findings) = rig.scrub(request()).await;
    assert_eq!((kinds(&findings), &findings[0].key), (vec![Kind::LeftParts], &key.to_string()));
    let (_, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    assert_eq!(findings[0].done.as_deref(), Some("aborted"));
    assert_eq!(rig.store.list_begun(key.folder(), Purpose::Upload).await.unwrap(), [], "{id:?} is gone");
    assert_eq!(rig.scrub(request()).await.1, []);
    // In a store that was restored to another incarnation it may be anybody's.
    rig.store.begin_parts(&key, Purpose::Upload).await.unwrap();
    let restored = StoreMarker::new("p", CLUSTER, Incarnation(Uuid::from_u128(9))).key();
    rig.put(&restored, Vec::new()).await;
    let (_, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    let of_parts = findings.iter().find(|finding| finding.kind == Kind::LeftParts).unwrap();
    assert!(of_parts.done.is_none() && of_parts.what.contains("not aborted"), "{of_parts:?}");
    assert_eq!(rig.store.list_begun(key.folder(), Purpose::Upload).await.unwrap().len(), 1);
}

/// Reserved, put and committed between the moment that the store was asked for a listing and its answer.
async fn scrub_beside_an_upload() -> (Rig, ObjectKey, Vec<Finding>) {
    let rig = Rig::new().await;
    rig.upload().await;
    let done: Arc<StdMutex<Option<ObjectKey>>> = Arc::default();
    let (storage, store, keys) = (rig.storage.clone(), Arc::downgrade(&rig.store), rig.keys.clone());
    let uploaded = done.clone();
    *rig.store.on_list.lock().unwrap() = Some(Box::new(move |page| {
        let (storage, store, keys, uploaded) = (storage.clone(), store.clone(), keys.clone(), uploaded.clone());
        Box::pin(async move {
            let known = uploaded.lock().unwrap().clone();
            let key = match known {
                Some(key) => key,
                None => {
                    let by = storage.registration;
                    let reserve = Command::ReserveObjects { by, count: 1, ttl_ms: 1_000_000 };
                    let (_, Response::ObjectIds { first, .. }) = storage.metadata.propose(reserve).await.unwrap()
                    else {
                        panic!()
                    };
                    let key = upload(&storage, &store.upgrade().unwrap(), &keys, first).await;
                    *uploaded.lock().unwrap() = Some(key.clone());
                    // The folder that is being listed: this page is the one that shows it.
                    return ListPage { objects: vec![(key, 1)], more: false };
                }
            };
            _ = key;
            page
        })
    }));
    let (_, findings) = rig.scrub(ScrubRequest { repair: true, ..request() }).await;
    let key = done.lock().unwrap().clone().unwrap();
    (rig, key, findings)
}

#[tokio::test]
async fn what_is_committed_while_the_store_lists_is_no_orphan() {
    let (rig, key, findings) = scrub_beside_an_upload().await;
    assert_eq!(findings, []);
    assert!(rig.is_stored(&key).await && rig.store.deletes.lock().unwrap().is_empty());
}

/// The test above can fail.
#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn judged_by_metadata_from_before_the_listing_a_used_object_is_deleted() {
    crate::faults::inject_here(Some(crate::faults::Fault::ScrubEarlyIndex));
    let (rig, key, findings) = scrub_beside_an_upload().await;
    crate::faults::inject_here(None);
    let orphan = findings.iter().find(|finding| finding.kind == Kind::Orphan).expect("it is taken for an orphan");
    assert_eq!((&orphan.key, orphan.done.as_deref()), (&key.to_string(), Some("deleted")));
    assert!(!rig.is_stored(&key).await, "it is deleted");
    let (_, findings) = rig.scrub(request()).await;
    assert!(kinds(&findings).contains(&Kind::Missing), "and the next scrub says so: {findings:?}");
}

#[tokio::test]
async fn a_scrub_that_is_dropped_goes_on_where_it_stood_and_counts_nothing_twice() {
    let rig = Rig::new().await;
    for _ in 0..40 {
        rig.upload().await;
    }
    for _ in 0..10 {
        rig.orphan().await;
    }
    let (found, findings) = mpsc::channel(1_000);
    let progress = watch::Sender::new(Progress::default());
    let slow = ScrubRequest { rate: 100 << 20, ..request() };
    let stopped = tokio::time::timeout(Duration::from_millis(1_500), rig.scrub.run(&slow, found, progress)).await;
    assert!(stopped.is_err(), "256 listings of 1 MiB take 2.6 s");
    drop(findings);
    let saved = Saved::load(rig.dir.path()).unfinished.expect("the place is saved");
    let (summary, _) = rig.scrub(request()).await;
    assert!(summary.resumed, "from {}", saved.cursor);
    assert_eq!((summary.totals.objects, summary.totals.of(Kind::Orphan)), (40, 10), "from {}", saved.cursor);
    assert_eq!(Saved::load(rig.dir.path()).unfinished, None);

    let middle = Cursor { folder: 128, ..Cursor::start(OWN) }.to_string();
    let (half, _) = rig.scrub(ScrubRequest { from: Some(middle), ..request() }).await;
    assert!(half.totals.objects < 40 && half.totals.objects > 5, "{:?}", half.totals);
    let nonsense = ScrubRequest { from: Some("there".into()), ..request() };
    let (found, _findings) = mpsc::channel(1);
    let refused = rig.scrub.run(&nonsense, found, watch::Sender::new(Progress::default())).await;
    assert!(matches!(refused, Err(ScrubError::NoCursor(_))), "{refused:?}");
}

#[tokio::test]
async fn one_scrub_runs_at_a_time() {
    let rig = Rig::new().await;
    let slow = ScrubRequest { rate: 1, ..request() };
    let (found, _findings) = mpsc::channel(1);
    let scrub = rig.scrub.clone();
    let first =
        tokio::spawn(async move { scrub.run(&slow, found, watch::Sender::new(Progress::default())).await.is_ok() });
    tokio::task::yield_now().await;
    let (found, _findings) = mpsc::channel(1);
    let second = rig.scrub.run(&request(), found, watch::Sender::new(Progress::default())).await;
    assert!(matches!(second, Err(ScrubError::Busy)), "{second:?}");
    first.abort();
}
