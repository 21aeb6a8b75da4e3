//! A store in memory, for tests and simulation. Keeps nothing beyond the process; each call takes effect at once.

use std::collections::BTreeMap;
use std::ops::{Bound, Range, RangeInclusive};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, LIST_PAGE_OBJECTS_MAX, ListPage, ObjectKey,
    ObjectMeta, PartBody, PartNumber, PartsId, Purpose, Segments, StoredPart, check_folder,
};

#[derive(Debug)]
pub struct MemoryBackend {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
    begun: Mutex<BTreeMap<PartsId, Begun>>,
    /// Bytes that a part may have, the last one apart.
    part_bytes: RangeInclusive<u64>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::with_part_bytes(1..=u64::MAX)
    }
}

#[derive(Debug)]
struct Begun {
    key: ObjectKey,
    parts: BTreeMap<PartNumber, Bytes>,
}

impl MemoryBackend {
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that refuses smaller and larger parts, as S3 stores do.
    pub fn with_part_bytes(part_bytes: RangeInclusive<u64>) -> Self {
        Self { objects: Mutex::default(), begun: Mutex::default(), part_bytes }
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

    fn begun(&self) -> MutexGuard<'_, BTreeMap<PartsId, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_part(&self, id: &PartsId, number: PartNumber, body: PartBody) -> Result<StoredPart, BackendError> {
        let body = match body {
            PartBody::Bytes(body) => body.into_bytes(),
            PartBody::Copy { source, range } => self.read(&source, range)?.into_bytes(),
        };
        if body.len() as u64 > *self.part_bytes.end() {
            return Err(BackendError::Unsupported(format!("part {number} of {} bytes is too large", body.len())));
        }
        let part = StoredPart { number, tag: String::new(), bytes: body.len() as u64 };
        self.begun().get_mut(id).ok_or(BackendError::NotFound)?.parts.insert(number, body);
        Ok(part)
    }

    fn complete(&self, key: &ObjectKey, id: &PartsId, parts: &[StoredPart]) -> Result<(), BackendError> {
        let mut begun = self.begun();
        let Some(under_way) = begun.get(id) else {
            let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
            let there = self.objects().get(key).is_some_and(|body| body.len() as u64 == bytes);
            return if there { Ok(()) } else { Err(BackendError::NotFound) };
        };
        let all_but_last = &parts[..parts.len().saturating_sub(1)];
        if let Some(small) = all_but_last.iter().find(|part| part.bytes < *self.part_bytes.start()) {
            let text = format!("part {} of {} bytes is too small", small.number, small.bytes);
            return Err(BackendError::Unsupported(text));
        }
        let bodies: Option<Segments> = parts.iter().map(|part| under_way.parts.get(&part.number).cloned()).collect();
        let bodies = bodies.ok_or_else(|| BackendError::Corrupt(format!("{key}: a part is missing")))?;
        self.objects().insert(key.clone(), bodies.into_bytes());
        begun.remove(id);
        Ok(())
    }

    fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<Segments, BackendError> {
        let body = self.objects().get(key).cloned().ok_or(BackendError::NotFound)?;
        if range.end > body.len() as u64 {
            return Err(BackendError::Corrupt(format!("{key} has {} bytes, {range:?} was asked", body.len())));
        }
        Ok(body.slice(range.start as usize..range.end as usize).into())
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
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
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

    fn begin_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(async move {
            let id = PartsId(uuid::Uuid::new_v4().simple().to_string());
            let begun = Begun { key: key.clone(), parts: BTreeMap::new() };
            self.begun().insert(id.clone(), begun);
            Ok(id)
        })
    }

    fn put_part<'a>(
        &'a self,
        _key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        Box::pin(async move { self.store_part(id, number, body) })
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move { self.complete(key, id, &parts) })
    }

    fn abort_parts<'a>(
        &'a self,
        _key: &'a ObjectKey,
        id: &'a PartsId,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            self.begun().remove(id);
            Ok(())
        })
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async move {
            let begun = self.begun();
            let in_folder = begun.iter().filter(|(_, begun)| begun.key.folder() == folder);
            // Its clock stands still.
            let shown = |(id, begun): (&PartsId, &Begun)| BegunObject {
                key: begun.key.clone(),
                id: id.clone(),
                begun_at: Some(SystemTime::UNIX_EPOCH),
            };
            Ok(in_folder.map(shown).collect())
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: false,
            put_bytes_max: u64::MAX,
            parts: true,
            part_bytes_min: *self.part_bytes.start(),
            part_bytes_max: *self.part_bytes.end(),
            copies_within: true,
            lists_begun: true,
        }
    }

    fn name(&self) -> &str {
        "memory"
    }
}
