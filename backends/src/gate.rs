//! A layer that can be shut: while it is, calls fail as if the store were away, and nothing reaches the store. Whoever uses a store
//! shuts it for as long as it is not known whose store that is. It stands below `retry`, so that to callers this is an outage
//! like any other.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart,
};

pub struct Gate {
    inner: Arc<dyn Backend>,
    shut: AtomicBool,
}

impl Gate {
    /// An open one.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, shut: AtomicBool::new(false) }
    }

    pub fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    pub fn open(&self) {
        self.shut.store(false, Ordering::Release);
    }

    pub fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    fn pass<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&'a dyn Backend) -> BoxFuture<'a, Result<T, BackendError>>,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        if self.is_shut() { Box::pin(std::future::ready(Err(away()))) } else { call(&*self.inner) }
    }
}

fn away() -> BackendError {
    BackendError::Transient("the store has not been found fit since the start".to_owned())
}

impl Backend for Gate {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.pass(move |inner| inner.put(key, body, purpose))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        self.pass(move |inner| inner.get_range(key, range, purpose))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        self.pass(move |inner| inner.head(key, purpose))
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        if self.is_shut() {
            let refused = keys.into_iter().map(|key| (key, Err(away()))).collect();
            return Box::pin(std::future::ready(refused));
        }
        self.inner.delete_many(keys, purpose)
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        self.pass(move |inner| inner.list_folder(folder, start_after, purpose))
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        self.pass(move |inner| inner.begin_parts(key, purpose))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        self.pass(move |inner| inner.put_part(key, id, number, body, purpose))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.pass(move |inner| inner.complete_parts(key, id, parts, purpose))
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.pass(move |inner| inner.abort_parts(key, id, purpose))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        self.pass(move |inner| inner.list_begun(folder, purpose))
    }

    fn clock_ahead_seconds(&self) -> Option<i64> {
        self.inner.clock_ahead_seconds()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn nothing_passes_while_it_is_shut() {
        let store = Arc::new(MemoryBackend::new());
        let gate = Gate::new(store.clone());
        let key = ObjectKey::new("a/b").unwrap();
        gate.shut();
        assert!(gate.put(&key, Segments::default(), Purpose::Upload).await.unwrap_err().is_retriable());
        assert!(gate.delete_many(vec![key.clone()], Purpose::Upload).await[0].1.is_err());
        assert_eq!(store.head(&key, Purpose::Upload).await, Err(BackendError::NotFound));
        gate.open();
        gate.put(&key, Segments::default(), Purpose::Upload).await.unwrap();
        assert!(store.head(&key, Purpose::Upload).await.is_ok());
    }
}
