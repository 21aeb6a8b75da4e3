//! Objects in parts: each part is a temporary file until all are joined into one more, which then becomes the object as
//! any other does. What was begun is known to this process alone, which ends it; after its end the sweep of `.tmp` removes
//! the parts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::tmp::TmpFile;
use super::{Store, failed, read_error};
use crate::{BackendError, BegunObject, ObjectKey, PartBody, PartNumber, PartsId, StoredPart, range_bytes};

#[derive(Default)]
pub(super) struct BegunObjects(Mutex<BTreeMap<PartsId, Arc<Begun>>>);

struct Begun {
    key: ObjectKey,
    /// Locked while the parts are joined: a repeat waits for that and sees its end.
    parts: Mutex<Parts>,
}

enum Parts {
    Stored(BTreeMap<PartNumber, (TmpFile, u64)>),
    Joined,
}

impl BegunObjects {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PartsId, Arc<Begun>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &PartsId) -> Option<Arc<Begun>> {
        self.all().get(id).cloned()
    }
}

impl Begun {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    pub(super) fn begin_parts(&self, key: ObjectKey) -> PartsId {
        let id = PartsId(uuid::Uuid::new_v4().simple().to_string());
        let begun = Begun { key, parts: Mutex::new(Parts::Stored(BTreeMap::new())) };
        self.begun.all().insert(id.clone(), Arc::new(begun));
        id
    }

    pub(super) fn put_part(
        &self,
        id: &PartsId,
        number: PartNumber,
        body: &PartBody,
    ) -> Result<StoredPart, BackendError> {
        let begun = self.begun.get(id).ok_or(BackendError::NotFound)?;
        let bytes = body.part_bytes();
        let temporary = match body {
            PartBody::Bytes(body) => {
                self.write_temporary(body).map_err(|error| failed("write a part of", &begun.key, &error))?.1
            }
            PartBody::Copy { source, range } => self.copy_range(source, range, &begun.key)?,
        };
        match &mut *begun.parts() {
            Parts::Stored(parts) => parts.insert(number, (temporary, bytes)),
            // It came too late for a repeat of the same bytes to matter.
            Parts::Joined => None,
        };
        Ok(StoredPart { number, tag: String::new(), bytes })
    }

    fn copy_range(&self, source: &ObjectKey, range: &Range<u64>, key: &ObjectKey) -> Result<TmpFile, BackendError> {
        let read_failed = |error: io::Error| read_error("read", source, &error);
        let mut file = File::open(self.path(source)).map_err(read_failed)?;
        let metadata = file.metadata().map_err(read_failed)?;
        if !metadata.is_file() {
            return Err(BackendError::NotFound);
        }
        if range.end > metadata.len() {
            return Err(BackendError::Corrupt(format!("{source} has {} bytes, {range:?} was asked", metadata.len())));
        }
        file.seek(SeekFrom::Start(range.start)).map_err(read_failed)?;
        let copy_failed = |error: io::Error| failed("write a part of", key, &error);
        let (mut copy, temporary) = self.tmp.create(0).map_err(copy_failed)?;
        let copied = io::copy(&mut file.take(range_bytes(range)), &mut copy).map_err(copy_failed)?;
        if copied != range_bytes(range) {
            return Err(BackendError::Corrupt(format!("{source} ends within {range:?}")));
        }
        Ok(temporary)
    }

    pub(super) fn complete_parts(
        &self,
        key: &ObjectKey,
        id: &PartsId,
        parts: &[StoredPart],
    ) -> Result<(), BackendError> {
        let Some(begun) = self.begun.get(id) else {
            let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
            return if self.head(key)?.bytes == bytes { Ok(()) } else { Err(BackendError::NotFound) };
        };
        let mut stored = begun.parts();
        if let Parts::Stored(files) = &*stored {
            let join_failed = |error: io::Error| failed("join the parts of", key, &error);
            let (mut object, temporary) = self.tmp.create(0).map_err(join_failed)?;
            for part in parts {
                let missing = || BackendError::Corrupt(format!("{key}: part {} is missing", part.number));
                let (file, bytes) = files.get(&part.number).ok_or_else(missing)?;
                let copied = File::open(file.path()).and_then(|mut file| io::copy(&mut file, &mut object));
                if copied.map_err(join_failed)? != *bytes || *bytes != part.bytes {
                    return Err(BackendError::Corrupt(format!("{key}: part {} has another length", part.number)));
                }
            }
            self.make_object(object, temporary, key)?;
            *stored = Parts::Joined;
        }
        drop(stored);
        self.abort_parts(id);
        Ok(())
    }

    pub(super) fn abort_parts(&self, id: &PartsId) {
        // Its files go with the last who uses them.
        self.begun.all().remove(id);
    }

    pub(super) fn list_begun(&self, folder: &str) -> Vec<BegunObject> {
        let begun = self.begun.all();
        let in_folder = begun.iter().filter(|(_, begun)| begun.key.folder() == folder);
        let shown = |(id, begun): (&PartsId, &Arc<Begun>)| BegunObject {
            key: begun.key.clone(),
            id: id.clone(),
            begun_at: None,
        };
        in_folder.map(shown).collect()
    }
}
