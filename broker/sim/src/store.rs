//! The store that survives the broker: puts that a dead process sent may still arrive, and on request it lies, also about what it
//! joins.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart,
};
use seawall_wal_device::device::simulated::SimRandom;

use crate::steps::Steps;
use crate::world::EPOCH_MS;

pub struct SimStore {
    pub memory: MemoryBackend,
    random: Mutex<SimRandom>,
    /// Puts that were answered with an error and may yet happen.
    under_way: Mutex<Vec<(ObjectKey, Bytes)>>,
    /// Those that did.
    came_late: Mutex<BTreeSet<ObjectKey>>,
    late_per_mille: AtomicU32,
    begun: Mutex<Begun>,
    /// How often a part that is copied is something else.
    joins_wrong_per_mille: AtomicU32,
    /// The same key was put with other bytes.
    broken_promise: Mutex<Option<String>>,
    steps: Steps,
}

/// What was begun in parts, by number.
#[derive(Default)]
struct Begun {
    under_way: BTreeMap<PartsId, (ObjectKey, BTreeMap<PartNumber, Bytes>)>,
    made: u64,
}

impl SimStore {
    pub fn new(seed: u64, steps: Steps) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryBackend::new(),
            random: Mutex::new(SimRandom::new(seed)),
            under_way: Mutex::default(),
            came_late: Mutex::default(),
            late_per_mille: AtomicU32::new(0),
            begun: Mutex::default(),
            joins_wrong_per_mille: AtomicU32::new(0),
            broken_promise: Mutex::default(),
            steps,
        })
    }

    pub fn set_late(&self, per_mille: u32) {
        self.late_per_mille.store(per_mille, Ordering::Relaxed);
    }

    pub fn set_joins_wrong(&self, per_mille: u32) {
        self.joins_wrong_per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// What was begun in parts below a folder, and neither completed nor aborted.
    pub fn begun_below(&self, folder: &str) -> BTreeSet<PartsId> {
        let begun = self.begun();
        let below = begun.under_way.iter().filter(|(_, (key, _))| key.as_str().starts_with(folder));
        below.map(|(id, _)| id.clone()).collect()
    }

    pub fn broken_promise(&self) -> Option<String> {
        self.broken_promise.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Some of what is under way arrives.
    pub async fn deliver(&self) {
        let arrived = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            let take = self.random().below(under_way.len() as u64 + 1) as usize;
            under_way.drain(..take).collect::<Vec<_>>()
        };
        for (key, body) in arrived {
            self.came_late.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
            // A store in memory takes everything.
            let _ = self.store(&key, body).await;
        }
    }

    pub fn came_late(&self, key: &ObjectKey) -> bool {
        self.came_late.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is asked for now arrives later, and is answered with an error.
    fn comes_late(&self, key: &ObjectKey, body: &Bytes) -> bool {
        // The words of a restore that has broken off come in time or never: one that came behind the next restore would have to
        // be taken away by hand.
        let may = key.file_name() != "ended" && !key.as_str().contains("/seawall-cluster/");
        let late = may && self.random().chance(u64::from(self.late_per_mille.load(Ordering::Relaxed)), 1000);
        if late {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.push((key.clone(), body.clone()));
        }
        late
    }

    fn begin(&self, key: &ObjectKey) -> PartsId {
        let mut begun = self.begun();
        begun.made += 1;
        let id = PartsId(format!("{:08x}", begun.made));
        begun.under_way.insert(id.clone(), (key.clone(), BTreeMap::new()));
        id
    }

    async fn take_part(
        &self,
        id: &PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> Result<StoredPart, BackendError> {
        let body = match body {
            PartBody::Bytes(body) => body.into_bytes(),
            PartBody::Copy { source, range } => {
                let body = self.memory.get_range(&source, range, purpose).await?.into_bytes();
                self.copied(body)
            }
        };
        let part = StoredPart { number, tag: String::new(), bytes: body.len() as u64 };
        let mut begun = self.begun();
        let (_, parts) = begun.under_way.get_mut(id).ok_or(BackendError::NotFound)?;
        parts.insert(number, body);
        Ok(part)
    }

    /// Something else, now and then: another first or last byte.
    fn copied(&self, body: Bytes) -> Bytes {
        let mut random = self.random();
        if body.is_empty() || !random.chance(u64::from(self.joins_wrong_per_mille.load(Ordering::Relaxed)), 1000) {
            return body;
        }
        let mut body = body.to_vec();
        let at = if random.chance(1, 2) { 0 } else { body.len() - 1 };
        body[at] ^= 1 << random.below(8);
        Bytes::from(body)
    }

    /// `None`: nothing is under way by this name.
    fn joined(&self, key: &ObjectKey, id: &PartsId, parts: &[StoredPart]) -> Option<Result<Bytes, BackendError>> {
        let mut begun = self.begun();
        let (_, bodies) = begun.under_way.remove(id)?;
        let joined: Option<Segments> = parts.iter().map(|part| bodies.get(&part.number).cloned()).collect();
        let missing = || BackendError::Corrupt(format!("{key}: a part is missing"));
        Some(joined.ok_or_else(missing).map(Segments::into_bytes))
    }

    async fn complete(&self, key: &ObjectKey, id: &PartsId, parts: &[StoredPart]) -> Result<(), BackendError> {
        let Some(joined) = self.joined(key, id, parts) else {
            // It was done before, and the answer was lost.
            let there = self.memory.head(key, Purpose::Compaction).await?.bytes;
            let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
            return if there == bytes { Ok(()) } else { Err(BackendError::NotFound) };
        };
        let joined = joined?;
        if self.comes_late(key, &joined) {
            return Err(BackendError::Transient("no answer".to_owned()));
        }
        self.store(key, joined).await
    }

    fn random(&self) -> MutexGuard<'_, SimRandom> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, key: &ObjectKey, body: Bytes) -> Result<(), BackendError> {
        let before = self.memory.contents().into_iter().find(|(known, _)| known == key);
        if before.is_some_and(|(_, before)| before != body) {
            let mut broken = self.broken_promise.lock().unwrap_or_else(PoisonError::into_inner);
            broken.get_or_insert_with(|| format!("{key} was put with other bytes"));
        }
        self.memory.put(key, Segments::from(body), Purpose::Upload).await
    }
}

impl Backend for SimStore {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.steps.of(move || format!("put {key}"), true, async move {
            let body = body.into_bytes();
            if self.comes_late(key, &body) {
                return Err(BackendError::Transient("no answer".to_owned()));
            }
            self.store(key, body).await
        }))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let name = move || format!("get {key}");
        Box::pin(self.steps.of(name, false, self.memory.get_range(key, range, purpose)))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(self.steps.of(move || format!("head {key}"), false, self.memory.head(key, purpose)))
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            for key in keys {
                let name = || format!("delete {key}");
                let answer = self.steps.of(name, true, self.memory.delete_many(vec![key.clone()], purpose)).await;
                answers.extend(answer);
            }
            answers
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        let name = move || format!("list {folder}");
        Box::pin(self.steps.of(name, false, self.memory.list_folder(folder, start_after, purpose)))
    }

    fn begin_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        let name = move || format!("begin parts of {key}");
        Box::pin(self.steps.of(name, false, async move { Ok(self.begin(key)) }))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        let name = move || format!("put part {number} of {key}");
        Box::pin(self.steps.of(name, false, self.take_part(id, number, body, purpose)))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let name = move || format!("complete {key}");
        Box::pin(self.steps.of(name, true, async move { self.complete(key, id, &parts).await }))
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let name = move || format!("abort {key}");
        Box::pin(self.steps.of(name, false, async move {
            self.begun().under_way.remove(id);
            Ok(())
        }))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async move {
            let begun = self.begun();
            let in_folder = begun.under_way.iter().filter(|(_, (key, _))| key.folder() == folder);
            // All at the beginning of the world: for a wall clock that has jumped they are old.
            let begun_at = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH_MS as u64));
            let shown = |(id, (key, _)): (&PartsId, &(ObjectKey, _))| BegunObject {
                key: key.clone(),
                id: id.clone(),
                begun_at,
            };
            Ok(in_folder.map(shown).collect())
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn name(&self) -> &str {
        "simulated"
    }
}
