//! A layer that bounds how many operations and bytes are in flight, and says who is next: by purpose, then in order of
//! arrival. The last `reserved` places are for uploads, metadata and tail reads, so that long reads of cold data
//! never make an ack wait for one of them to end. Waiters are bounded too: beyond that the answer is `Throttled`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{Backend, BackendError, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, Purpose, Segments};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitConfig {
    /// Operations in flight.
    pub operations_max: usize,
    /// Of these, how many only uploads, metadata and tail reads may take.
    pub operations_reserved: usize,
    /// Bytes of bodies in flight, both ways. One larger body runs alone.
    pub bytes_max: u64,
    /// Operations waiting.
    pub waiting_max: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { operations_max: 32, operations_reserved: 8, bytes_max: 256 << 20, waiting_max: 8_192 }
    }
}

pub struct Limit {
    inner: Arc<dyn Backend>,
    gate: Arc<Gate>,
}

impl Limit {
    pub fn new(inner: Arc<dyn Backend>, config: LimitConfig) -> Self {
        assert!(config.operations_reserved < config.operations_max, "every place is reserved: {config:?}");
        Self { inner, gate: Arc::new(Gate { config, state: Mutex::default() }) }
    }

    /// Operations and bytes in flight now.
    pub fn in_flight(&self) -> (usize, u64) {
        let state = self.gate.state();
        (state.operations, state.bytes)
    }
}

struct Gate {
    config: LimitConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    operations: usize,
    bytes: u64,
    /// By purpose, first in first out.
    waiting: [VecDeque<Waiter>; Purpose::ALL.len()],
}

struct Waiter {
    bytes: u64,
    admitted: oneshot::Sender<Place>,
}

/// A place in flight; leaving it lets the next one in.
struct Place {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.operations -= 1;
        state.bytes -= self.bytes;
        self.gate.admit(state);
    }
}

impl Gate {
    async fn enter(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<Place, BackendError> {
        let admitted = self.queue(purpose, bytes.min(self.config.bytes_max))?;
        admitted.await.map_err(|_| BackendError::Transient("the limiter was dropped".to_owned()))
    }

    fn queue(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<oneshot::Receiver<Place>, BackendError> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.waiting() >= self.config.waiting_max {
            state.forget_the_gone();
            if state.waiting() >= self.config.waiting_max {
                return Err(BackendError::Throttled { retry_after: None });
            }
        }
        state.waiting[purpose as usize].push_back(Waiter { bytes, admitted: sender });
        self.admit(state);
        Ok(receiver)
    }

    /// Lets in whoever is next and fits. Who does not fit holds up those behind, whatever their size: else large
    /// operations would starve.
    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut admitted = Vec::new();
        while let Some(purpose) = Purpose::ALL.into_iter().find(|purpose| !state.waiting[*purpose as usize].is_empty())
        {
            let places = match purpose {
                Purpose::Upload | Purpose::Metadata | Purpose::TailRead => self.config.operations_max,
                Purpose::CatchUpRead | Purpose::Compaction | Purpose::Scrub | Purpose::Probe => {
                    self.config.operations_max - self.config.operations_reserved
                }
            };
            let queue = &mut state.waiting[purpose as usize];
            if queue.front().is_some_and(|waiter| waiter.admitted.is_closed()) {
                queue.pop_front();
                continue;
            }
            let bytes = queue.front().map_or(0, |waiter| waiter.bytes);
            if state.operations >= places || state.bytes + bytes > self.config.bytes_max {
                break;
            }
            let Some(waiter) = state.waiting[purpose as usize].pop_front() else { break };
            state.operations += 1;
            state.bytes += bytes;
            admitted.push((waiter.admitted, Place { gate: Arc::clone(self), bytes }));
        }
        drop(state);
        // Without the lock: a place whose waiter has gone comes back here through its drop.
        for (waiter, place) in admitted {
            let _ = waiter.send(place);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn forget_the_gone(&mut self) {
        for queue in &mut self.waiting {
            queue.retain(|waiter| !waiter.admitted.is_closed());
        }
    }
}

impl Backend for Limit {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let _place = self.gate.enter(purpose, body.total_bytes()).await?;
            self.inner.put(key, body, purpose).await
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(async move {
            let _place = self.gate.enter(purpose, range.end - range.start).await?;
            self.inner.get_range(key, range, purpose).await
        })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move {
            let _place = self.gate.enter(purpose, 0).await?;
            self.inner.head(key, purpose).await
        })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            match self.gate.enter(purpose, 0).await {
                Ok(_place) => self.inner.delete_many(keys, purpose).await,
                Err(error) => keys.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            }
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move {
            let _place = self.gate.enter(purpose, 0).await?;
            self.inner.list_folder(folder, start_after, purpose).await
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
