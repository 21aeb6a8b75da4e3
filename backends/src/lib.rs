//! Object stores behind one trait.
//!
//! [`Backend`] is what the broker knows of a store: whole objects under unique keys, read by range, listed one flat
//! folder at a time. Read the trait first, then [`BackendError`]: its variants are what a caller may do.
//! A store is one file (`fs`, `memory`) and one line in [`registry`]. What every store needs is a [`layer`], itself a
//! `Backend` over a `Backend`: [`traced`], [`retry`], [`gate`], [`limit`], [`bandwidth`], [`timeout`], [`observed`],
//! [`faulty`]. What is too large for one put is
//! written and joined by [`large`]. A body may have a [`pace`], and a store its [own threads](own_threads).
//! [`conformance`] is the behaviour that each of them shows; [`probe`] runs its base set against the real store.
//!
//! Safety rests on keys that are never used twice, never on the store: nothing here needs a conditional write.
//! Checksums are the caller's: a store is not asked whether its bytes are right.

mod error;
mod key;
mod parts;
mod rng;
mod segments;

pub mod config;
pub mod registry;

pub mod fs;
pub mod memory;
pub mod profile;
#[cfg(feature = "s3")]
pub mod s3;

pub mod layer;

pub mod bandwidth;
pub mod faulty;
pub mod gate;
pub mod limit;
pub mod observed;
pub mod retry;
pub mod timeout;
pub mod traced;

pub mod large;
pub mod own_threads;
pub mod pace;

pub mod conformance;
pub mod probe;
pub mod scratch;

pub use config::{BackendConfig, BackendKind};
pub use error::BackendError;
pub use key::{InvalidKey, ObjectKey, check_folder};
pub use parts::{BegunObject, PARTS_MAX, PartBody, PartNumber, PartsId, StoredPart};
pub use probe::{ProbeReport, probe, probe_again};
pub use registry::{Layered, Layers, OpenError, open, open_layered};
pub use segments::Segments;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Most objects that one [`Backend::list_folder`] call returns.
pub const LIST_PAGE_OBJECTS_MAX: usize = 1_000;

/// Keys that stores delete with one request; [`Backend::delete_many`] takes any number.
pub const DELETE_BATCH_KEYS: usize = 1_000;

/// An object store. Every method may be called any number of times at once.
///
/// Dropping a future does not undo what it began: a dropped put counts as one that failed.
pub trait Backend: Send + Sync + 'static {
    /// Stores `body` under `key`, whole or not at all; it survives power loss when this returns Ok.
    ///
    /// After any error, and after a drop, the object may exist, now or later. The caller may repeat the put with the
    /// same bytes, and never puts other bytes under that key. No key may be a path prefix of another.
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// The bytes of `range` (start inclusive, end exclusive), exactly that many, or an error. They come in the pieces in
    /// which they arrived; who needs them in one piece copies them, once.
    /// `Corrupt` when the object ends before the range does. An empty range still asks that the object exists.
    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>>;

    fn head<'a>(&'a self, key: &'a ObjectKey, purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>>;

    /// Deletes each key and answers for each, in the order asked. A key that is not there is Ok.
    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>>;

    /// The objects directly in `folder` (no slash at either end; "" is the root), in byte order of their keys,
    /// those after `start_after` only. Folders within it are not shown. A folder that does not exist is empty.
    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>>;

    /// Begins an object that is stored in parts; shows nothing yet. What is begun twice is two: after an error something
    /// may have been begun that nobody but a sweep will end.
    fn begin_parts<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(async { Err(without_parts()) })
    }

    /// Stores a part. It may be repeated with the same number and the same bytes. All parts but the last have at least
    /// [`Capabilities::part_bytes_min`].
    fn put_part<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _id: &'a PartsId,
        _number: PartNumber,
        _body: PartBody,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        Box::pin(async { Err(without_parts()) })
    }

    /// Makes the object of these parts, in the order of their numbers: whole, and durable when this returns Ok. After an
    /// error it may be there, now or later. It may be repeated: an object that is there already, as long as the parts
    /// are together, is Ok.
    fn complete_parts<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _id: &'a PartsId,
        _parts: Vec<StoredPart>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async { Err(without_parts()) })
    }

    /// Forgets the parts. What was completed stays; what is unknown is Ok. A part that is still under way may come to be
    /// stored after it.
    fn abort_parts<'a>(
        &'a self,
        _key: &'a ObjectKey,
        _id: &'a PartsId,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async { Err(without_parts()) })
    }

    /// What was begun directly in `folder` and is neither completed nor aborted.
    fn list_begun<'a>(
        &'a self,
        _folder: &'a str,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async { Err(without_parts()) })
    }

    /// By how much this machine's clock was ahead of the store's at its last answer; None if the store has none of its own, or has not
    /// answered yet.
    fn clock_ahead_seconds(&self) -> Option<i64> {
        None
    }

    fn capabilities(&self) -> Capabilities;

    /// The kind of the store as the configuration spells it; layers answer for the store below.
    fn name(&self) -> &str;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectMeta {
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Key and length in bytes, at most [`LIST_PAGE_OBJECTS_MAX`].
    pub objects: Vec<(ObjectKey, u64)>,
    /// False only when the store has shown the folder's end. True with objects present means: ask again after the last.
    pub more: bool,
}

/// What a store has beyond the base set, which every store must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Objects survive the end of the process.
    pub durable: bool,
    /// Largest object that one put takes.
    pub put_bytes_max: u64,
    /// The store takes objects in parts, and copies ranges of stored objects into parts by itself.
    pub parts: bool,
    /// Least and most that a part may have, the last one apart.
    pub part_bytes_min: u64,
    pub part_bytes_max: u64,
    /// What it copies costs this host nothing: it is done where the bytes are.
    pub copies_within: bool,
    /// [`Backend::list_begun`] shows what was begun. A store that does not removes by itself what has been begun for long.
    pub lists_begun: bool,
}

fn without_parts() -> BackendError {
    BackendError::Unsupported("objects in parts".to_owned())
}

/// Why an operation runs. The order is the priority: an earlier purpose is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Data cut from the WAL: acks or WAL space wait for it.
    Upload,
    /// Metadata log and snapshots.
    Metadata,
    /// A consumer at the log's end.
    TailRead,
    /// A consumer behind.
    CatchUpRead,
    Compaction,
    Scrub,
    Probe,
}

impl Purpose {
    pub const ALL: [Self; 7] =
        [Self::Upload, Self::Metadata, Self::TailRead, Self::CatchUpRead, Self::Compaction, Self::Scrub, Self::Probe];

    /// Whether acks, WAL space or consumers at the log's end wait for it. The others never take the last places.
    pub fn is_urgent(self) -> bool {
        match self {
            Self::Upload | Self::Metadata | Self::TailRead => true,
            Self::CatchUpRead | Self::Compaction | Self::Scrub | Self::Probe => false,
        }
    }

    /// As in metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Metadata => "metadata",
            Self::TailRead => "tail_read",
            Self::CatchUpRead => "catch_up_read",
            Self::Compaction => "compaction",
            Self::Scrub => "scrub",
            Self::Probe => "probe",
        }
    }
}

/// How many bytes a range asks for.
fn range_bytes(range: &Range<u64>) -> u64 {
    assert!(range.start <= range.end, "range {range:?} runs backwards");
    range.end - range.start
}

/// Every object directly in `folder`, page by page. For folders that are known to be small enough for memory.
/// A store that lists out of order, or what it has listed before, is an error: it may leave out others.
pub async fn list_all(
    backend: &dyn Backend,
    folder: &str,
    purpose: Purpose,
) -> Result<Vec<(ObjectKey, u64)>, BackendError> {
    let mut all: Vec<(ObjectKey, u64)> = Vec::new();
    loop {
        let page = backend.list_folder(folder, all.last().map(|(key, _)| key), purpose).await?;
        let at_end = page.objects.is_empty() || !page.more;
        for (key, bytes) in page.objects {
            if all.last().is_some_and(|(last, _)| key <= *last) {
                return Err(BackendError::Fatal(format!("listing {folder:?}: {key} comes out of order")));
            }
            all.push((key, bytes));
        }
        if at_end {
            return Ok(all);
        }
    }
}
