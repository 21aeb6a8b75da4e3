//! A layer that can be shut: while it is, calls fail as if the store were away, and nothing reaches the store. Whoever uses a store
//! shuts it for as long as it is not known whose store that is. It stands below `retry`, so that to callers this is an outage
//! like any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose};

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
}

fn away() -> BackendError {
    BackendError::Transient("the store has not been found fit since the start".to_owned())
}

impl Layer for Gate {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        _call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        if self.is_shut() { Box::pin(std::future::ready(Err(away()))) } else { attempt() }
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        if self.is_shut() {
            let refused = keys.into_iter().map(|key| (key, Err(away()))).collect();
            return Box::pin(std::future::ready(refused));
        }
        self.inner.delete_many(keys, purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Segments;
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
