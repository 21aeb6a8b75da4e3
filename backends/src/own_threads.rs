//! A store whose calls run on a runtime of their own: what a client does for a body (reading, writing, hashing, encryption) then takes no
//! turn from what else the process serves.
//!
//! A call that is dropped is dropped there too. Connections belong to that runtime, as it is the only one that opens them.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart,
};

pub struct OnOwnThreads {
    inner: Arc<dyn Backend>,
    /// Always there until the drop.
    runtime: Option<Runtime>,
}

impl Drop for OnOwnThreads {
    /// May be on any thread, so it does not wait for what is under way.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl OnOwnThreads {
    pub fn new(inner: Arc<dyn Backend>, runtime: Runtime) -> Self {
        Self { inner, runtime: Some(runtime) }
    }

    fn run<'a, T, F>(&self, call: impl FnOnce(Arc<dyn Backend>) -> F) -> BoxFuture<'a, Result<T, BackendError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send + 'static,
    {
        let call = call(self.inner.clone());
        let threads = self.runtime.as_ref().expect("it is there until the drop").handle().clone();
        Box::pin(async move { Aborting(threads.spawn(call)).output().await? })
    }
}

/// Ends its task with itself.
struct Aborting<T>(JoinHandle<T>);

impl<T> Aborting<T> {
    async fn output(mut self) -> Result<T, BackendError> {
        match (&mut self.0).await {
            Ok(output) => Ok(output),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(BackendError::Transient("the process is shutting down".to_owned())),
        }
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Backend for OnOwnThreads {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let key = key.clone();
        self.run(|inner| async move { inner.put(&key, body, purpose).await })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let key = key.clone();
        self.run(move |inner| async move { inner.get_range(&key, range, purpose).await })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        let key = key.clone();
        self.run(move |inner| async move { inner.head(&key, purpose).await })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        let asked = keys.clone();
        let deleted = self.run(move |inner| async move { Ok(inner.delete_many(keys, purpose).await) });
        Box::pin(async move {
            match deleted.await {
                Ok(outcomes) => outcomes,
                Err(error) => asked.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            }
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        let (folder, start_after) = (folder.to_owned(), start_after.cloned());
        self.run(move |inner| async move { inner.list_folder(&folder, start_after.as_ref(), purpose).await })
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        let key = key.clone();
        self.run(move |inner| async move { inner.begin_parts(&key, purpose).await })
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        let (key, id) = (key.clone(), id.clone());
        self.run(move |inner| async move { inner.put_part(&key, &id, number, body, purpose).await })
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let (key, id) = (key.clone(), id.clone());
        self.run(move |inner| async move { inner.complete_parts(&key, &id, parts, purpose).await })
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let (key, id) = (key.clone(), id.clone());
        self.run(move |inner| async move { inner.abort_parts(&key, &id, purpose).await })
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        let folder = folder.to_owned();
        self.run(move |inner| async move { inner.list_begun(&folder, purpose).await })
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

    #[test]
    fn it_is_the_same_store() {
        let (here, there) = (runtime(), runtime());
        let store = OnOwnThreads::new(Arc::new(MemoryBackend::new()), there);
        here.block_on(async {
            let key = ObjectKey::new("folder/a").unwrap();
            let body = Segments::from(bytes::Bytes::from_static(b"bytes"));
            store.put(&key, body, Purpose::Upload).await.unwrap();
            let read = store.get_range(&key, 1..4, Purpose::TailRead).await.unwrap();
            assert_eq!(read.into_bytes(), b"yte"[..]);
            assert_eq!(store.head(&key, Purpose::TailRead).await.unwrap().bytes, 5);
            assert_eq!(store.list_folder("folder", None, Purpose::Scrub).await.unwrap().objects, [(key.clone(), 5)]);
            assert_eq!(store.delete_many(vec![key.clone()], Purpose::Scrub).await, [(key.clone(), Ok(()))]);
            assert_eq!(store.head(&key, Purpose::TailRead).await, Err(BackendError::NotFound));
        });
    }

    /// Says when it is dropped.
    struct Hanging(std::sync::mpsc::SyncSender<()>);

    impl crate::layer::Layer for Hanging {
        fn inner(&self) -> &dyn Backend {
            unreachable!("it hangs before")
        }

        fn around<'a, T: crate::layer::Answer + 'a>(
            &'a self,
            _: crate::layer::Call<'a>,
            _: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
        ) -> BoxFuture<'a, Result<T, BackendError>> {
            struct Dropped(std::sync::mpsc::SyncSender<()>);
            impl Drop for Dropped {
                fn drop(&mut self) {
                    let _ = self.0.try_send(());
                }
            }
            let dropped = Dropped(self.0.clone());
            Box::pin(async move {
                let _dropped = dropped;
                std::future::pending().await
            })
        }
    }

    #[test]
    fn a_call_that_is_dropped_is_dropped_on_its_threads_too() {
        let (here, (sender, dropped)) = (runtime(), std::sync::mpsc::sync_channel(1));
        let store = OnOwnThreads::new(Arc::new(Hanging(sender)), runtime());
        let key = ObjectKey::new("a").unwrap();
        here.block_on(async {
            let head = store.head(&key, Purpose::TailRead);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(50), head).await.is_err());
        });
        dropped.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }
}
