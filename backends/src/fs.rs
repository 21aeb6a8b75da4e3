//! A store in a folder of a file system.
//!
//! A put writes a temporary file, syncs it, renames it over the key and syncs the folder: after any crash the object is
//! there whole or not at all, and it is there if the put returned. A folder counts as durable only once its entry in
//! its parent was synced by this process, since one that exists may be from a put that has not finished.
//! Deletes are synced too. Bytes are not checked here: that is the caller's, end to end.
//!
//! Temporary files lie in `.tmp/`, where no key can be. Several processes may use one folder (a shared file system):
//! each holds a lock beside its temporary files, and opening sweeps those whose owner is gone.

mod direct;
mod dirs;
mod parts;
mod tmp;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{
    Backend, BackendError, BegunObject, BoxFuture, Capabilities, LIST_PAGE_OBJECTS_MAX, ListPage, ObjectKey,
    ObjectMeta, PartBody, PartNumber, PartsId, Purpose, Segments, StoredPart, check_folder, range_bytes,
};
use dirs::DurableDirs;
use tmp::{TmpFile, TmpFolder};

/// File system calls at a time. One that hangs, as on a network file system that is away, keeps its thread although its
/// caller has given up; without this bound repeats would take every thread that the process has for blocking work.
const CALLS_MAX: usize = 64;

pub struct FsBackend {
    store: Arc<Store>,
    calls: Arc<Semaphore>,
}

struct Store {
    root: PathBuf,
    dirs: DurableDirs,
    tmp: TmpFolder,
    /// Until the file system refuses direct I/O.
    direct: AtomicBool,
    buffers: direct::Buffers,
    begun: parts::BegunObjects,
}

impl FsBackend {
    /// Makes the folder if it is missing and sweeps temporary files that dead processes left. Blocks.
    pub fn open(root: &Path) -> Result<Self, BackendError> {
        let dirs = DurableDirs::open(root).map_err(|error| fatal_if_missing(root, &error))?;
        let tmp = TmpFolder::open(&dirs).map_err(|error| fatal_if_missing(root, &error))?;
        let (direct, buffers) = (AtomicBool::new(true), direct::Buffers::default());
        let store = Arc::new(Store {
            root: root.to_owned(),
            dirs,
            tmp,
            direct,
            buffers,
            begun: parts::BegunObjects::default(),
        });
        Ok(Self { store, calls: Arc::new(Semaphore::new(CALLS_MAX)) })
    }

    /// Runs file system calls where they may block. They run to their end even when the caller has gone.
    async fn blocking<T, F>(&self, work: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, BackendError> + Send + 'static,
    {
        let permit = Arc::clone(&self.calls).acquire_owned().await.expect("never closed");
        let store = Arc::clone(&self.store);
        let work = move || {
            // Until the work ends, not until someone stops waiting for it.
            let _permit = permit;
            work(&store)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
            Err(_) => Err(BackendError::Transient("the runtime is shutting down".to_owned())),
        }
    }
}

impl Store {
    fn put(&self, key: &ObjectKey, body: &Segments) -> Result<(), BackendError> {
        let (file, temporary) = self.write_temporary(body).map_err(|error| failed("write", key, &error))?;
        self.make_object(file, temporary, key)
    }

    /// Makes a written file the object, durable when this returns Ok.
    fn make_object(&self, file: File, temporary: TmpFile, key: &ObjectKey) -> Result<(), BackendError> {
        file.sync_data().map_err(|error| failed("sync", key, &error))?;
        drop(file);
        self.dirs.ensure(key.folder()).map_err(|error| failed("make the folder of", key, &error))?;
        temporary.rename_to(&self.path(key)).map_err(|error| {
            self.dirs.forget();
            failed("rename", key, &error)
        })?;
        self.dirs.sync(key.folder()).map_err(|error| failed("sync the folder of", key, &error))
    }

    /// A temporary file that holds `body` and is not synced yet.
    fn write_temporary(&self, body: &Segments) -> io::Result<(File, TmpFile)> {
        if self.direct.load(Ordering::Relaxed) {
            let written = self.tmp.create(libc::O_DIRECT).and_then(|(file, temporary)| {
                direct::write_direct(&file, body, &self.buffers)?;
                Ok((file, temporary))
            });
            match written {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.give_up_direct();
                }
                written => return written,
            }
        }
        let (mut file, temporary) = self.tmp.create(0)?;
        direct::write_buffered(&mut file, body)?;
        Ok((file, temporary))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Segments, BackendError> {
        let read_failed = |error: io::Error| read_error("read", key, &error);
        let wanted = range_bytes(&range);
        let mut refused = false;
        if wanted >= direct::READ_BYTES_MIN && self.direct.load(Ordering::Relaxed) {
            let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(self.path(key));
            let read = opened.and_then(|file| {
                let has = object_bytes(&file)?;
                let there = range.start.min(has)..range.end.min(has);
                Ok((direct::read_direct(&file, &there, &self.buffers)?, has))
            });
            match read {
                // A folder says the same.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = true,
                read => {
                    let (bytes, has) = read.map_err(read_failed)?;
                    return check_range(key, &range, bytes, has);
                }
            }
        }
        let mut file = File::open(self.path(key)).map_err(read_failed)?;
        let has = object_bytes(&file).map_err(read_failed)?;
        if refused {
            self.give_up_direct();
        }
        // Filled without being zeroed first: that costs a tenth of the read.
        let mut bytes = Vec::with_capacity(wanted.min(has) as usize);
        file.seek(SeekFrom::Start(range.start)).map_err(read_failed)?;
        file.take(wanted).read_to_end(&mut bytes).map_err(read_failed)?;
        check_range(key, &range, Bytes::from(bytes).into(), has)
    }

    fn give_up_direct(&self) {
        tracing::info!(root = %self.root.display(), "no direct I/O here: objects go through the page cache");
        self.direct.store(false, Ordering::Relaxed);
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, BackendError> {
        let metadata = std::fs::metadata(self.path(key)).map_err(|error| read_error("stat", key, &error))?;
        if !metadata.is_file() {
            return Err(BackendError::NotFound);
        }
        Ok(ObjectMeta { bytes: metadata.len() })
    }

    fn delete_many(&self, keys: Vec<ObjectKey>) -> Vec<(ObjectKey, Result<(), BackendError>)> {
        let mut outcomes: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let outcome = match std::fs::remove_file(self.path(&key)) {
                    Err(error) if !is_absent(&error) => Err(failed("delete", &key, &error)),
                    _ => Ok(()),
                };
                (key, outcome)
            })
            .collect();
        let mut folders: Vec<String> = outcomes.iter().map(|(key, _)| key.folder().to_owned()).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            let Err(error) = self.dirs.sync(&folder) else { continue };
            if is_absent(&error) {
                continue;
            }
            for (key, outcome) in outcomes.iter_mut().filter(|(key, _)| key.folder() == folder) {
                *outcome = Err(failed("sync the folder of", key, &error));
            }
        }
        outcomes
    }

    fn list_folder(&self, folder: &str, start_after: Option<&ObjectKey>) -> Result<ListPage, BackendError> {
        check_folder(folder).map_err(|error| BackendError::Fatal(error.to_string()))?;
        let list_failed = |error: io::Error| BackendError::from_io(&format!("list {folder:?}"), &error);
        let entries = match std::fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return self.empty_unless_gone(),
            Err(error) => return Err(list_failed(error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(list_failed)?;
            // What is no key is not ours: `.tmp`, `lost+found`, files of network file systems.
            let Some(key) = entry.file_name().to_str().and_then(|name| join_key(folder, name)) else { continue };
            if start_after.is_none_or(|after| key > *after) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        let mut page = ListPage::default();
        for key in keys {
            if page.objects.len() == LIST_PAGE_OBJECTS_MAX {
                page.more = true;
                break;
            }
            match self.head(&key) {
                Ok(meta) => page.objects.push((key, meta.bytes)),
                Err(BackendError::NotFound) => {} // a folder, or deleted just now
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    /// A missing folder holds no objects, unless the whole store is missing: an unmounted disk must not look empty.
    fn empty_unless_gone(&self) -> Result<ListPage, BackendError> {
        if self.tmp.is_present() {
            return Ok(ListPage::default());
        }
        Err(BackendError::Fatal(format!("{} is gone", self.root.display())))
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }
}

fn join_key(folder: &str, name: &str) -> Option<ObjectKey> {
    let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    ObjectKey::new(key).ok()
}

/// No such file, or a part of the path is an object: either way there is nothing under this key.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_error(what: &str, key: &ObjectKey, error: &io::Error) -> BackendError {
    if is_absent(error) { BackendError::NotFound } else { failed(what, key, error) }
}

/// A failure on the way in. "Not found" there is about the store's own folders, not about the object.
fn failed(what: &str, key: &ObjectKey, error: &io::Error) -> BackendError {
    match BackendError::from_io(&format!("{what} {key}"), error) {
        BackendError::NotFound => BackendError::Transient(format!("{what} {key}: {error}")),
        other => other,
    }
}

/// The length of an object's file. A folder is no object.
fn object_bytes(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn check_range(key: &ObjectKey, range: &Range<u64>, read: Segments, has: u64) -> Result<Segments, BackendError> {
    // An empty range beyond the end is missing no bytes, and wrong all the same.
    if range.end <= has && read.total_bytes() == range_bytes(range) {
        return Ok(read);
    }
    Err(BackendError::Corrupt(format!("{key} has {has} bytes, {range:?} was asked")))
}

fn fatal_if_missing(root: &Path, error: &io::Error) -> BackendError {
    match BackendError::from_io(&format!("open {}", root.display()), error) {
        BackendError::NotFound => BackendError::Fatal(format!("open {}: {error}", root.display())),
        other => other,
    }
}

impl Backend for FsBackend {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Segments,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |store| store.put(&key, &body)))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |store| store.get_range(&key, range)))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, _purpose: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        let key = key.clone();
        Box::pin(self.blocking(move |store| store.head(&key)))
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            let asked = keys.clone();
            match self.blocking(move |store| Ok(store.delete_many(keys))).await {
                Ok(outcomes) => outcomes,
                Err(error) => asked.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            }
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        let (folder, start_after) = (folder.to_owned(), start_after.cloned());
        Box::pin(self.blocking(move |store| store.list_folder(&folder, start_after.as_ref())))
    }

    fn begin_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<PartsId, BackendError>> {
        Box::pin(async move { Ok(self.store.begin_parts(key.clone())) })
    }

    fn put_part<'a>(
        &'a self,
        _key: &'a ObjectKey,
        id: &'a PartsId,
        number: PartNumber,
        body: PartBody,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<StoredPart, BackendError>> {
        let id = id.clone();
        Box::pin(self.blocking(move |store| store.put_part(&id, number, &body)))
    }

    fn complete_parts<'a>(
        &'a self,
        key: &'a ObjectKey,
        id: &'a PartsId,
        parts: Vec<StoredPart>,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let (key, id) = (key.clone(), id.clone());
        Box::pin(self.blocking(move |store| store.complete_parts(&key, &id, &parts)))
    }

    fn abort_parts<'a>(
        &'a self,
        _key: &'a ObjectKey,
        id: &'a PartsId,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let id = id.clone();
        Box::pin(self.blocking(move |store| {
            store.abort_parts(&id);
            Ok(())
        }))
    }

    fn list_begun<'a>(
        &'a self,
        folder: &'a str,
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Vec<BegunObject>, BackendError>> {
        Box::pin(async move { Ok(self.store.list_begun(folder)) })
    }

    fn capabilities(&self) -> Capabilities {
        // The largest file that every common file system takes.
        let most = 1 << 40;
        Capabilities {
            durable: true,
            put_bytes_max: most,
            parts: true,
            part_bytes_min: 1,
            part_bytes_max: most,
            copies_within: false,
            lists_begun: true,
        }
    }

    fn name(&self) -> &str {
        "fs"
    }
}

#[cfg(test)]
mod tests;
