//! Objects that are too large for memory: written part by part, joined within the store.
//!
//! [`LargePut`] holds at most `in_flight` + 1 parts. Dropped before it is complete, it aborts what it began; if the process
//! ends first, what it began is left: [`Backend::list_begun`] finds it.

use std::ops::Range;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::{
    Backend, BackendError, ObjectKey, PARTS_MAX, PartBody, PartNumber, PartsId, Purpose, Segments, StoredPart,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeConfig {
    /// All parts but the last are of this size.
    pub part_bytes: u64,
    /// Parts on their way at a time.
    pub in_flight: usize,
}

impl Default for LargeConfig {
    fn default() -> Self {
        Self { part_bytes: 16 << 20, in_flight: 4 }
    }
}

/// An object under way. After an error it can only be dropped.
pub struct LargePut {
    upload: Upload,
    config: LargeConfig,
    waiting: Segments,
    next: u32,
    parts: JoinSet<Result<StoredPart, BackendError>>,
    stored: Vec<StoredPart>,
}

/// Aborts when dropped, unless it was told that this is not needed any more.
struct Upload {
    backend: Arc<dyn Backend>,
    key: ObjectKey,
    id: PartsId,
    purpose: Purpose,
    open: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let (backend, key, id, purpose) = (Arc::clone(&self.backend), self.key.clone(), self.id.clone(), self.purpose);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = backend.abort_parts(&key, &id, purpose).await {
                tracing::warn!(%key, %error, "parts of an object that was given up are left in the store; a sweep removes them");
            }
        });
    }
}

impl Upload {
    async fn begin(backend: Arc<dyn Backend>, key: ObjectKey, purpose: Purpose) -> Result<Self, BackendError> {
        let id = backend.begin_parts(&key, purpose).await?;
        Ok(Self { backend, key, id, purpose, open: true })
    }

    async fn complete(mut self, mut stored: Vec<StoredPart>) -> Result<u64, BackendError> {
        stored.sort_by_key(|part| part.number);
        let bytes = stored.iter().map(|part| part.bytes).sum();
        self.backend.complete_parts(&self.key, &self.id, stored, self.purpose).await?;
        self.open = false;
        Ok(bytes)
    }
}

impl LargePut {
    /// `Unsupported` where the store has no parts.
    pub async fn begin(
        backend: Arc<dyn Backend>,
        key: ObjectKey,
        purpose: Purpose,
        config: LargeConfig,
    ) -> Result<Self, BackendError> {
        assert!(config.in_flight > 0 && config.part_bytes > 0, "{config:?} would never put anything");
        let part_bytes = config.part_bytes.max(backend.capabilities().part_bytes_min);
        let upload = Upload::begin(backend, key, purpose).await?;
        Ok(Self {
            upload,
            config: LargeConfig { part_bytes, ..config },
            waiting: Segments::default(),
            next: 1,
            parts: JoinSet::new(),
            stored: Vec::new(),
        })
    }

    /// Takes the next bytes; waits while too many parts are on their way.
    pub async fn write(&mut self, mut bytes: Segments) -> Result<(), BackendError> {
        while self.waiting.total_bytes() + bytes.total_bytes() >= self.config.part_bytes {
            let room = self.config.part_bytes - self.waiting.total_bytes();
            let mut part = std::mem::take(&mut self.waiting);
            part.append(bytes.split_to(room));
            self.put(part).await?;
        }
        self.waiting.append(bytes);
        Ok(())
    }

    /// The object shows, whole and durable, when this returns Ok: its length.
    pub async fn complete(mut self) -> Result<u64, BackendError> {
        let last = std::mem::take(&mut self.waiting);
        if last.total_bytes() > 0 || self.next == 1 {
            self.put(last).await?;
        }
        while !self.parts.is_empty() {
            self.one_stored().await?;
        }
        self.upload.complete(self.stored).await
    }

    async fn put(&mut self, body: Segments) -> Result<(), BackendError> {
        while self.parts.len() >= self.config.in_flight {
            self.one_stored().await?;
        }
        let number = part_number(self.next)?;
        self.next += 1;
        let Upload { backend, key, id, purpose, .. } = &self.upload;
        let (backend, key, id, purpose) = (Arc::clone(backend), key.clone(), id.clone(), *purpose);
        let put = async move { backend.put_part(&key, &id, number, PartBody::Bytes(body), purpose).await };
        self.parts.spawn(put);
        Ok(())
    }

    async fn one_stored(&mut self) -> Result<(), BackendError> {
        match self.parts.join_next().await {
            Some(Ok(stored)) => self.stored.push(stored?),
            Some(Err(join)) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Some(Err(_)) => return Err(BackendError::Transient("the runtime is shutting down".to_owned())),
            None => {}
        }
        Ok(())
    }
}

fn part_number(number: u32) -> Result<PartNumber, BackendError> {
    PartNumber::new(number)
        .ok_or_else(|| BackendError::Unsupported(format!("an object of more than {PARTS_MAX} parts")))
}

/// Joins ranges of stored objects, in this order, into `key`; their bytes stay in the store but for pieces that are smaller
/// than a part may be. Returns the length of the new object.
pub async fn concat(
    backend: &Arc<dyn Backend>,
    key: &ObjectKey,
    sources: &[(ObjectKey, Range<u64>)],
    purpose: Purpose,
) -> Result<u64, BackendError> {
    concat_before(backend, key, sources, Segments::default(), purpose).await
}

/// The same, with `tail` behind what is joined.
pub async fn concat_before(
    backend: &Arc<dyn Backend>,
    key: &ObjectKey,
    sources: &[(ObjectKey, Range<u64>)],
    tail: Segments,
    purpose: Purpose,
) -> Result<u64, BackendError> {
    let capabilities = backend.capabilities();
    let (least, most) = (capabilities.part_bytes_min.max(1), capabilities.part_bytes_max);
    let upload = Upload::begin(Arc::clone(backend), key.clone(), purpose).await?;
    let mut joiner = Joiner { upload, stored: Vec::new(), next: 1 };
    // Bytes that are too few for a part.
    let mut small = Segments::default();
    for (source, range) in sources {
        let mut rest = range.clone();
        if small.total_bytes() > 0 && rest.start < rest.end {
            let end = rest.end.min(rest.start + (least - small.total_bytes()));
            small.append(backend.get_range(source, rest.start..end, purpose).await?);
            rest.start = end;
            if small.total_bytes() >= least {
                joiner.put(PartBody::Bytes(std::mem::take(&mut small))).await?;
            }
        }
        while rest.end - rest.start >= least {
            // What is left after a part of the largest size must not be too small for one.
            let whole = rest.end - rest.start;
            let take = if whole <= most { whole } else { most.min(whole - least).max(least) };
            let range = rest.start..rest.start + take;
            rest.start += take;
            joiner.put(PartBody::Copy { source: source.clone(), range }).await?;
        }
        if rest.start < rest.end {
            small.append(backend.get_range(source, rest, purpose).await?);
        }
    }
    small.append(tail);
    while small.total_bytes() > most {
        joiner.put(PartBody::Bytes(small.split_to(most))).await?;
    }
    if small.total_bytes() > 0 || joiner.stored.is_empty() {
        joiner.put(PartBody::Bytes(small)).await?;
    }
    joiner.upload.complete(joiner.stored).await
}

struct Joiner {
    upload: Upload,
    stored: Vec<StoredPart>,
    next: u32,
}

impl Joiner {
    async fn put(&mut self, body: PartBody) -> Result<(), BackendError> {
        let number = part_number(self.next)?;
        let Upload { backend, key, id, purpose, .. } = &self.upload;
        self.stored.push(backend.put_part(key, id, number, body, *purpose).await?);
        self.next += 1;
        Ok(())
    }
}
