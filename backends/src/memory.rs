//! A store in memory, for tests and simulation. Keeps nothing beyond the process; each call takes effect at once.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{
    Backend, BackendError, BoxFuture, Capabilities, LIST_PAGE_OBJECTS_MAX, ListPage, ObjectKey, ObjectMeta, Purpose,
    Segments, check_folder,
};

#[derive(Debug, Default)]
pub struct MemoryBackend {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
}

impl MemoryBackend {
    pub fn new() -> Self {
        Self::default()
    }

    /// Every key and body, in key order: for tests that look at what was stored.
    pub fn contents(&self) -> Vec<(ObjectKey, Bytes)> {
        self.objects().iter().map(|(key, body)| (key.clone(), body.clone())).collect()
    }

    /// Replaces a body behind everyone's back: for tests of damage.
    pub fn overwrite(&self, key: &ObjectKey, body: Bytes) {
        self.objects().insert(key.clone(), body);
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, BackendError> {
        let body = self.objects().get(key).cloned().ok_or(BackendError::NotFound)?;
        if range.end > body.len() as u64 {
            return Err(BackendError::Corrupt(format!("{key} has {} bytes, {range:?} was asked", body.len())));
        }
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    fn list(&self, folder: &str, start_after: Option<&ObjectKey>) -> Result<ListPage, BackendError> {
        check_folder(folder).map_err(|error| BackendError::Fatal(error.to_string()))?;
        let objects = self.objects();
        let after = start_after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut in_folder = objects
            .range::<ObjectKey, _>((after, Bound::Unbounded))
            .filter(|(key, _)| key.folder() == folder)
            .map(|(key, body)| (key.clone(), body.len() as u64));
        let page: Vec<_> = in_folder.by_ref().take(LIST_PAGE_OBJECTS_MAX).collect();
        Ok(ListPage { objects: page, more: in_folder.next().is_some() })
    }
}

impl Backend for MemoryBackend {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            self.objects().insert(key.clone(), body.into_bytes());
            Ok(())
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(async move { self.read(key, range) })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, _purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move {
            let objects = self.objects();
            let body = objects.get(key).ok_or(BackendError::NotFound)?;
            Ok(ObjectMeta { bytes: body.len() as u64 })
        })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            let mut objects = self.objects();
            for key in &keys {
                objects.remove(key);
            }
            keys.into_iter().map(|key| (key, Ok(()))).collect()
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move { self.list(folder, start_after) })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { durable: false, put_bytes_max: u64::MAX, server_side_concat: false }
    }

    fn name(&self) -> &str {
        "memory"
    }
}
