//! A layer that fails on purpose, by a seed: the store that tests and simulation put under everything else.
//!
//! Two sorts of faults. Those that the contract allows: errors before and after the effect, effects that come late,
//! slowness. And lies, which no caller is owed but each must survive without serving wrong data: short reads, flipped
//! bits, listings that are out of date.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::rng::Rng;
use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, ListPage, ObjectKey, ObjectMeta, PartBody, PartNumber,
    PartsId, Purpose, Segments, StoredPart,
};

/// How often each fault strikes, in thousandths of calls. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// An error, and nothing was done.
    pub error_before: u32,
    /// An error, though it was done.
    pub error_after: u32,
    /// An error, and the put or delete happens up to `delay_max` later.
    pub late_success: u32,
    /// The answer comes up to `delay_max` later.
    pub slow: u32,
    /// Longest delay of `slow` and `late_success`.
    pub delay_max: Duration,
    /// No answer ever; nothing was done.
    pub frozen: u32,
    /// `Throttled` with `retry_after`, and nothing was done.
    pub throttled: u32,
    pub retry_after: Option<Duration>,
    /// A read returns fewer bytes than asked. A lie.
    pub truncated: u32,
    /// A read returns one flipped bit. A lie.
    pub corrupted: u32,
    /// A read returns bytes of another object of the same length or longer. A lie.
    pub foreign: u32,
    /// A listing misses what was put last and shows what was deleted last. A lie.
    pub stale_listing: u32,
    /// A listing begins at the folder's start whatever it was asked to go on after. A lie.
    pub listing_begins_again: u32,
    /// What the store says of its clock.
    pub clock_ahead_seconds: Option<i64>,
    /// Every call is answered with this.
    pub refusal: Option<BackendError>,
}

const RECENT_MAX: usize = 64;

pub struct Faulty {
    inner: Arc<dyn Backend>,
    faults: Mutex<Faults>,
    rng: Rng,
    recent: Arc<Recent>,
}

/// What a listing that is out of date would not know yet.
#[derive(Default)]
struct Recent {
    put: Mutex<VecDeque<ObjectKey>>,
    deleted: Mutex<VecDeque<ObjectKey>>,
}

enum Fate {
    Fine,
    ErrorBefore(BackendError),
    ErrorAfter(BackendError),
    Late(BackendError, Duration),
}

impl Faulty {
    pub fn new(inner: Arc<dyn Backend>, faults: Faults, seed: u64) -> Self {
        Self { inner, faults: Mutex::new(faults), rng: Rng::new(seed), recent: Arc::default() }
    }

    /// From now on these faults: an outage begins or ends.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    fn faults(&self) -> Faults {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fate(&self) -> Fate {
        let faults = self.faults();
        if let Some(refusal) = faults.refusal {
            return Fate::ErrorBefore(refusal);
        }
        if faults.frozen > 0 && self.rng.chance(faults.frozen) {
            std::future::pending::<()>().await;
        }
        if self.rng.chance(faults.slow) {
            tokio::time::sleep(self.rng.duration_up_to(faults.delay_max)).await;
        }
        if faults.throttled > 0 && self.rng.chance(faults.throttled) {
            return Fate::ErrorBefore(BackendError::Throttled { retry_after: faults.retry_after });
        }
        if self.rng.chance(faults.error_before) {
            return Fate::ErrorBefore(self.error());
        }
        if self.rng.chance(faults.error_after) {
            return Fate::ErrorAfter(self.error());
        }
        if self.rng.chance(faults.late_success) {
            return Fate::Late(self.error(), self.rng.duration_up_to(faults.delay_max));
        }
        Fate::Fine
    }

    fn error(&self) -> BackendError {
        match self.rng.below(3) {
            0 => BackendError::Throttled { retry_after: None },
            _ => BackendError::Transient("injected".to_owned()),
        }
    }

    /// A read has no effect that could come late.
    async fn read_fate(&self) -> Result<(), BackendError> {
        match self.fate().await {
            Fate::Fine => Ok(()),
            Fate::ErrorBefore(error) | Fate::ErrorAfter(error) | Fate::Late(error, _) => Err(error),
        }
    }

    /// What the same range of an object that was put lately holds, if that is as long.
    async fn read_another(&self, key: &ObjectKey, range: Range<u64>, purpose: Purpose) -> Option<Segments> {
        let others: Vec<ObjectKey> = self
            .recent
            .put
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|o| *o != key)
            .cloned()
            .collect();
        if others.is_empty() {
            return None;
        }
        // From any of them on, the first that is long enough.
        let first = self.rng.below(others.len() as u64) as usize;
        for at in 0..others.len() {
            let other = &others[(first + at) % others.len()];
            if let Ok(body) = self.inner.get_range(other, range.clone(), purpose).await {
                return Some(body);
            }
        }
        None
    }

    fn lie_about(&self, body: Segments) -> Segments {
        let faults = self.faults();
        if body.total_bytes() == 0 {
            return body;
        }
        let bytes = body.into_bytes();
        if self.rng.chance(faults.truncated) {
            return bytes.slice(..self.rng.below(bytes.len() as u64) as usize).into();
        }
        if self.rng.chance(faults.corrupted) {
            let mut damaged = bytes.to_vec();
            let bit = self.rng.below(damaged.len() as u64 * 8);
            damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
            return Bytes::from(damaged).into();
        }
        bytes.into()
    }
}

impl Recent {
    fn note(list: &Mutex<VecDeque<ObjectKey>>, key: &ObjectKey) {
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == RECENT_MAX {
            list.pop_front();
        }
        list.push_back(key.clone());
    }

    fn make_stale(&self, page: &mut ListPage, folder: &str, start_after: Option<&ObjectKey>) {
        let put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
        let deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        page.objects.retain(|(key, _)| !put.contains(key));
        let last = if page.more { page.objects.last().map(|(key, _)| key.clone()) } else { None };
        let on_page = |key: &&ObjectKey| {
            key.folder() == folder
                && start_after.is_none_or(|after| *key > after)
                && last.as_ref().is_none_or(|last| *key < last)
        };
        let ghosts: Vec<_> = deleted.iter().filter(on_page).map(|key| (key.clone(), 1)).collect();
        page.objects.extend(ghosts);
        page.objects.sort();
        page.objects.dedup_by(|a, b| a.0 == b.0);
    }
}

impl Backend for Faulty {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            match self.fate().await {
                Fate::ErrorBefore(error) => return Err(error),
                Fate::Late(error, delay) => {
                    let (inner, recent, key) = (Arc::clone(&self.inner), Arc::clone(&self.recent), key.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        if inner.put(&key, body, purpose).await.is_ok() {
                            Recent::note(&recent.put, &key);
                        }
                    });
                    return Err(error);
                }
                Fate::ErrorAfter(error) => {
                    self.inner.put(key, body, purpose).await?;
                    Recent::note(&self.recent.put, key);
                    return Err(error);
                }
                Fate::Fine => {}
            }
            self.inner.put(key, body, purpose).await?;
            Recent::note(&self.recent.put, key);
            Ok(())
        })
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        Box::pin(async move {
            self.read_fate().await?;
            let foreign = self.faults().foreign;
            if foreign > 0
                && self.rng.chance(foreign)
                && let Some(bytes) = self.read_another(key, range.clone(), purpose).await
            {
                return Ok(bytes);
            }
            Ok(self.lie_about(self.inner.get_range(key, range, purpose).await?))
        })
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move {
            self.read_fate().await?;
            self.inner.head(key, purpose).await
        })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            // Each key has its own fate: a batch may succeed in part.
            let mut outcomes = Vec::with_capacity(keys.len());
            for key in keys {
                let fate = self.fate().await;
                let one = vec![key.clone()];
                let outcome = match fate {
                    Fate::ErrorBefore(error) => Err(error),
                    Fate::Late(error, delay) => {
                        let (inner, recent, key) = (Arc::clone(&self.inner), Arc::clone(&self.recent), key.clone());
                        tokio::spawn(async move {
                            tokio::time::sleep(delay).await;
                            inner.delete_many(one, purpose).await;
                            Recent::note(&recent.deleted, &key);
                        });
                        Err(error)
                    }
                    Fate::ErrorAfter(error) => {
                        Recent::note(&self.recent.deleted, &key);
                        self.inner.delete_many(one, purpose).await;
                        Err(error)
                    }
                    Fate::Fine => {
                        Recent::note(&self.recent.deleted, &key);
                        self.inner.delete_many(one, purpose).await.pop().map_or(Ok(()), |(_, outcome)| outcome)
                    }
                };
                outcomes.push((key, outcome));
            }
            outcomes
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move {
            self.read_fate().await?;
            let faults = self.faults();
            let again = faults.listing_begins_again > 0 && self.rng.chance(faults.listing_begins_again);
            let start_after = start_after.filter(|_| !again);
            let mut page = self.inner.list_folder(folder, start_after, purpose).await?;
            if self.rng.chance(faults.stale_listing) {
                self.recent.make_stale(&mut page, folder, start_after);
            }
            Ok(page)
        })
    }

    fn begin_parts<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(async move {
            match self.fate().await {
                Fate::Fine => self.inner.begin_parts(key, purpose).await,
                Fate::ErrorBefore(error) => Err(error),
                Fate::ErrorAfter(error) | Fate::Late(error, _) => {
                    self.inner.begin_parts(key, purpose).await?;
                    Err(error)
                }
            }
        })
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        Box::pin(async move {
            match self.fate().await {
                Fate::Fine => self.inner.put_part(key, id, number, body, purpose).await,
                Fate::ErrorBefore(error) => Err(error),
                Fate::ErrorAfter(error) | Fate::Late(error, _) => {
                    self.inner.put_part(key, id, number, body, purpose).await?;
                    Err(error)
                }
            }
        })
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            match self.fate().await {
                Fate::Fine => self.inner.complete_parts(key, id, parts, purpose).await,
                Fate::ErrorBefore(error) => Err(error),
                Fate::ErrorAfter(error) | Fate::Late(error, _) => {
                    self.inner.complete_parts(key, id, parts, purpose).await?;
                    Err(error)
                }
            }
        })
    }

    fn abort_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            match self.fate().await {
                Fate::Fine => self.inner.abort_parts(key, id, purpose).await,
                Fate::ErrorBefore(error) => Err(error),
                Fate::ErrorAfter(error) | Fate::Late(error, _) => {
                    self.inner.abort_parts(key, id, purpose).await?;
                    Err(error)
                }
            }
        })
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async move {
            self.read_fate().await?;
            self.inner.list_begun(folder, purpose).await
        })
    }

    fn clock_ahead_seconds(&self) -> Option<i64> {
        self.faults().clock_ahead_seconds.or_else(|| self.inner.clock_ahead_seconds())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
