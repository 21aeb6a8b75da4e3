//! Where the backups of one incarnation's metadata lie in the store, and how they are found without a listing.
//!
//! `{prefix}/{cluster}/{incarnation}/backup-marks/{generation}.mark` is put before anything of a generation is and never deleted, so
//! that marks have no gap: the newest is found by asking whether single ones are there. The pieces of a generation,
//! `.../backup/{generation}.{piece}`, are put one after the other, so that the first that is missing is the end.
//! Keys are never used twice: whoever begins takes the generation behind the newest mark.

use std::sync::Arc;

use bytes::Bytes;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, Segments, list_all};
use seawall_metadata::backup::{PieceError, PieceHead, PieceKind, decode_piece};
use seawall_metadata::{ClusterId, Incarnation};

use crate::object_key::ObjectKeys;

/// A larger piece is not one of ours.
const PIECE_OBJECT_BYTES_MAX: u64 = 64 << 20;
/// Snapshots beyond it are not read: memory must hold them.
const SNAPSHOT_PARTS_MAX: u32 = 1_024;

/// The backups of one incarnation.
#[derive(Clone)]
pub struct BackupStore {
    backend: Arc<dyn Backend>,
    /// `{prefix}/{cluster}/{incarnation}`
    folder: String,
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
}

/// Why a piece, or what it is a part of, cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BackupReadError {
    #[error("{key} is not there")]
    Missing { key: ObjectKey },
    #[error("{key} is damaged: {error}")]
    Damaged { key: ObjectKey, error: PieceError },
    #[error("{key}: {error}")]
    Newer { key: ObjectKey, error: PieceError },
    /// The store does not answer for now.
    #[error("{key} cannot be read: {error}")]
    Unavailable { key: ObjectKey, error: BackendError },
}

/// A piece as it was read.
#[derive(Debug, Clone)]
pub struct Piece {
    pub head: PieceHead,
    bytes: Bytes,
}

impl Piece {
    pub fn payload(&self) -> &[u8] {
        decode_piece(&self.bytes).expect("was decoded when it was read").1
    }
}

/// A whole snapshot.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    /// The head of its last part.
    pub head: PieceHead,
    pub parts: u32,
    pub now_ms: u64,
    pub data: Vec<u8>,
}

impl BackupStore {
    pub fn new(backend: Arc<dyn Backend>, keys: &ObjectKeys, cluster: ClusterId, incarnation: Incarnation) -> Self {
        Self { backend, folder: keys.incarnation_folder(incarnation), cluster, incarnation }
    }

    pub fn mark_key(&self, generation: u64) -> ObjectKey {
        self.at(format!("backup-marks/{generation:016x}.mark"))
    }

    pub fn piece_key(&self, generation: u64, number: u32) -> ObjectKey {
        self.at(format!("backup/{generation:016x}.{number:08x}"))
    }

    fn at(&self, name: String) -> ObjectKey {
        ObjectKey::new(format!("{}/{name}", self.folder)).expect("hex digits in a folder that was checked")
    }

    /// What a mark holds: the same bytes whoever puts it.
    fn mark_text(generation: u64) -> Bytes {
        Bytes::from(format!("format = 1\ngeneration = {generation}\n"))
    }

    /// The newest generation that was begun; 0 if none was.
    pub async fn newest_generation(&self) -> Result<u64, BackendError> {
        self.newest_generation_behind(0).await
    }

    /// The same, where the mark of a generation is known to be there.
    pub async fn newest_generation_behind(&self, mut there: u64) -> Result<u64, BackendError> {
        let mut step = 1;
        while self.has_mark(there + step).await? {
            there += step;
            step *= 2;
        }
        let mut not = there + step;
        while not - there > 1 {
            let middle = there + (not - there) / 2;
            match self.has_mark(middle).await? {
                true => there = middle,
                false => not = middle,
            }
        }
        Ok(there)
    }

    async fn has_mark(&self, generation: u64) -> Result<bool, BackendError> {
        self.has(&self.mark_key(generation)).await
    }

    async fn has(&self, key: &ObjectKey) -> Result<bool, BackendError> {
        match self.backend.head(key, Purpose::Metadata).await {
            Ok(_) => Ok(true),
            Err(BackendError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn put_mark(&self, generation: u64) -> Result<(), BackendError> {
        let body = Segments::from(Self::mark_text(generation));
        self.backend.put(&self.mark_key(generation), body, Purpose::Metadata).await
    }

    /// Puts a piece under the key that its generation and number say.
    pub async fn put_piece(
        &self,
        generation: u64,
        number: u32,
        bytes: Bytes,
        purpose: Purpose,
    ) -> Result<(), BackendError> {
        self.backend.put(&self.piece_key(generation, number), Segments::from(bytes), purpose).await
    }

    pub async fn piece(&self, generation: u64, number: u32) -> Result<Piece, BackupReadError> {
        let key = self.piece_key(generation, number);
        let unavailable = |error| match error {
            BackendError::NotFound => BackupReadError::Missing { key: key.clone() },
            error => BackupReadError::Unavailable { key: key.clone(), error },
        };
        let length = self.backend.head(&key, Purpose::Metadata).await.map_err(unavailable)?.bytes;
        if length > PIECE_OBJECT_BYTES_MAX {
            return Err(BackupReadError::Damaged { key, error: PieceError::OtherPiece("far too long") });
        }
        let bytes = self.backend.get_range(&key, 0..length, Purpose::Metadata).await.map_err(unavailable)?.into_bytes();
        let head = decode_piece(&bytes).and_then(|(head, _)| {
            head.check(self.cluster, self.incarnation, generation, number)?;
            Ok(head)
        });
        match head {
            Ok(head) => Ok(Piece { head, bytes }),
            Err(error @ PieceError::NewerFormat { .. }) => Err(BackupReadError::Newer { key, error }),
            Err(error) => Err(BackupReadError::Damaged { key, error }),
        }
    }

    /// The whole snapshot of a generation.
    pub async fn snapshot(&self, generation: u64) -> Result<StoredSnapshot, BackupReadError> {
        let mut data = Vec::new();
        let mut number = 0;
        loop {
            let piece = self.piece(generation, number).await?;
            let damaged = |why| {
                let error = PieceError::OtherPiece(why);
                Err(BackupReadError::Damaged { key: self.piece_key(generation, number), error })
            };
            let PieceKind::Snapshot { part, parts, now_ms } = piece.head.kind else {
                return damaged("not of a snapshot");
            };
            if part != number || part >= parts || parts > SNAPSHOT_PARTS_MAX {
                return damaged("not the next part of its snapshot");
            }
            data.extend_from_slice(piece.payload());
            number += 1;
            if number == parts {
                return Ok(StoredSnapshot { head: piece.head, parts, now_ms, data });
            }
        }
    }

    /// Deletes a generation, but for its mark. Backwards, so that what a crash leaves is found by asking for its first piece.
    pub async fn delete_generation(&self, generation: u64) -> Result<u32, BackendError> {
        let mut pieces = 0;
        while self.has(&self.piece_key(generation, pieces)).await? {
            pieces += 1;
        }
        self.delete((1..pieces).map(|number| self.piece_key(generation, number)).collect()).await?;
        if pieces > 0 {
            self.delete(vec![self.piece_key(generation, 0)]).await?;
        }
        Ok(pieces)
    }

    /// Deletes what a listing shows of generations below `generation`.
    pub async fn sweep_below(&self, generation: u64) -> Result<usize, BackendError> {
        let listed = list_all(&*self.backend, &format!("{}/backup", self.folder), Purpose::Scrub).await?;
        let of = |key: &ObjectKey| u64::from_str_radix(key.file_name().split_once('.')?.0, 16).ok();
        let old: Vec<ObjectKey> = listed
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| of(key).is_some_and(|number| number < generation))
            .collect();
        let count = old.len();
        self.delete(old).await?;
        Ok(count)
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), BackendError> {
        if keys.is_empty() {
            return Ok(());
        }
        let answers = self.backend.delete_many(keys, Purpose::Scrub).await;
        answers.into_iter().try_for_each(|(_, answer)| answer)
    }
}
