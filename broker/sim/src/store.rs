//! The store that survives the broker: puts that a dead process sent may still arrive, and on request it lies.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{
    Backend, BackendError, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, Purpose, Segments,
};
use seawall_wal_device::device::simulated::SimRandom;

use crate::steps::Steps;

pub struct SimStore {
    pub memory: MemoryBackend,
    random: Mutex<SimRandom>,
    /// Puts that were answered with an error and may yet happen.
    under_way: Mutex<Vec<(ObjectKey, Bytes)>>,
    /// Those that did.
    came_late: Mutex<BTreeSet<ObjectKey>>,
    late_per_mille: AtomicU32,
    /// The same key was put with other bytes.
    broken_promise: Mutex<Option<String>>,
    steps: Steps,
}

impl SimStore {
    pub fn new(seed: u64, steps: Steps) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryBackend::new(),
            random: Mutex::new(SimRandom::new(seed)),
            under_way: Mutex::default(),
            came_late: Mutex::default(),
            late_per_mille: AtomicU32::new(0),
            broken_promise: Mutex::default(),
            steps,
        })
    }

    pub fn set_late(&self, per_mille: u32) {
        self.late_per_mille.store(per_mille, Ordering::Relaxed);
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

    fn random(&self) -> std::sync::MutexGuard<'_, SimRandom> {
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
            if self.random().chance(u64::from(self.late_per_mille.load(Ordering::Relaxed)), 1000) {
                self.under_way.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), body));
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

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn name(&self) -> &str {
        "simulated"
    }
}
