//! A store as somebody else would write one: all objects in one file, appended. It needs nothing of this crate but the trait,
//! and gets priorities, retries, limits, time limits and counters from the layers, and its proof from the conformance suite.
//!
//! `cargo run -p seawall-backends --example one_file_store -- FILE` runs the suite over FILE and prints each case.
//!
//! A record is its kind, the lengths of key and body, the key, the body, and a CRC-32C of all that. An object is there when
//! its record is synced; what a power cut leaves half written is cut off at the next start. Room is never given back: it is
//! an example.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Bound, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use seawall_backends::{
    Backend, BackendError, BoxFuture, Capabilities, LIST_PAGE_OBJECTS_MAX, Layers, ListPage, ObjectKey, ObjectMeta,
    Purpose, Segments, conformance, registry,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("one_file_store FILE"))?;
    let store = Arc::new(OneFileStore::open(Path::new(&path))?);
    let layered = registry::layer(store, Layers::default(), 1);
    let outcomes = conformance::run(&*layered.backend, "scratch").await;
    for outcome in &outcomes {
        println!("{:>9.1?}  {}  {}", outcome.elapsed, outcome.case, outcome.error.as_deref().unwrap_or("ok"));
    }
    anyhow::ensure!(outcomes.iter().all(|outcome| outcome.error.is_none()), "the store does not conform");
    Ok(())
}

#[derive(Clone)]
struct OneFileStore(Arc<Shared>);

struct Shared {
    file: File,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the bodies are.
    objects: BTreeMap<ObjectKey, Range<u64>>,
    /// Where the next record goes.
    end: u64,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// Kind, length of the key, length of the body.
const HEADER_BYTES: usize = 1 + 2 + 8;
const CRC_BYTES: u64 = 4;

impl OneFileStore {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = std::fs::read(path)?;
        let mut state = State::default();
        while let Some((kind, key, body, next)) = record(&bytes, state.end) {
            state.apply(kind, key, body, next);
        }
        file.set_len(state.end)?;
        file.sync_all()?;
        // The name of a new file is durable when its folder is.
        File::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()?;
        Ok(Self(Arc::new(Shared { file, state: Mutex::new(state) })))
    }

    /// Appends one record. The state moves on only when it is durable: a record that failed is written over.
    fn append(&self, kind: u8, key: &ObjectKey, body: &Segments) -> Result<(), BackendError> {
        let mut state = self.state();
        let name = key.as_str().as_bytes();
        let mut record = vec![kind];
        record.extend((name.len() as u16).to_le_bytes());
        record.extend(body.total_bytes().to_le_bytes());
        record.extend(name);
        let body_at = state.end + record.len() as u64;
        body.iter().for_each(|segment| record.extend_from_slice(segment));
        record.extend((crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &record) as u32).to_le_bytes());
        self.0.file.write_all_at(&record, state.end).map_err(failed)?;
        self.0.file.sync_data().map_err(failed)?;
        let next = state.end + record.len() as u64;
        state.apply(kind, key.clone(), body_at..body_at + body.total_bytes(), next);
        Ok(())
    }

    fn find(&self, key: &ObjectKey) -> Result<Range<u64>, BackendError> {
        self.state().objects.get(key).cloned().ok_or(BackendError::NotFound)
    }

    fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<Segments, BackendError> {
        let body = self.find(key)?;
        if range.end > body.end - body.start {
            return Err(BackendError::Corrupt(format!("{key} ends before {range:?} does")));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.0.file.read_exact_at(&mut bytes, body.start + range.start).map_err(failed)?;
        Ok(Bytes::from(bytes).into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files block, so each call has a thread while it runs; what was begun there ends there, also when nobody waits.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(BackendError::Fatal(error.to_string())))
    }
}

impl State {
    fn apply(&mut self, kind: u8, key: ObjectKey, body: Range<u64>, next: u64) {
        match kind {
            PUT => self.objects.insert(key, body),
            _ => self.objects.remove(&key),
        };
        self.end = next;
    }
}

/// The record at `at`, if it is whole: kind, key, where the body is, where the next record begins.
fn record(bytes: &[u8], at: u64) -> Option<(u8, ObjectKey, Range<u64>, u64)> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let header = rest.get(..HEADER_BYTES)?;
    let name_bytes = u64::from(u16::from_le_bytes(header[1..3].try_into().ok()?));
    let body_bytes = u64::from_le_bytes(header[3..].try_into().ok()?);
    let checked = (HEADER_BYTES as u64 + name_bytes).checked_add(body_bytes)?;
    let whole = rest.get(..usize::try_from(checked.checked_add(CRC_BYTES)?).ok()?)?;
    let (checked_part, crc) = whole.split_at(checked as usize);
    let is_right = crc == (crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, checked_part) as u32).to_le_bytes();
    let name = std::str::from_utf8(&checked_part[HEADER_BYTES..][..name_bytes as usize]).ok()?;
    let key = ObjectKey::new(name).ok().filter(|_| is_right && matches!(header[0], PUT | DELETE))?;
    let body = at + HEADER_BYTES as u64 + name_bytes;
    Some((header[0], key, body..body + body_bytes, at + whole.len() as u64))
}

fn failed(error: io::Error) -> BackendError {
    match error.kind() {
        io::ErrorKind::StorageFull => BackendError::Full(error.to_string()),
        io::ErrorKind::PermissionDenied => BackendError::Denied(error.to_string()),
        _ => BackendError::Transient(error.to_string()),
    }
}

impl Backend for OneFileStore {
    fn put<'a>(&'a self, key: &'a ObjectKey, body: Segments, _: Purpose) -> BoxFuture<'a, Result<(), BackendError>> {
        let key = key.clone();
        Box::pin(self.on_thread(move |store| store.append(PUT, &key, &body)))
    }

    fn get_range<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Range<u64>,
        _: Purpose,
    ) -> BoxFuture<'a, Result<Segments, BackendError>> {
        let key = key.clone();
        Box::pin(self.on_thread(move |store| store.read(&key, range)))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey, _: Purpose) -> BoxFuture<'a, Result<ObjectMeta, BackendError>> {
        Box::pin(async move { self.find(key).map(|body| ObjectMeta { bytes: body.end - body.start }) })
    }

    fn delete_many(
        &self,
        keys: Vec<ObjectKey>,
        _: Purpose,
    ) -> BoxFuture<'_, Vec<(ObjectKey, Result<(), BackendError>)>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(keys.len());
            for key in keys {
                let deleted = match self.find(&key) {
                    Err(_) => Ok(()),
                    Ok(_) => {
                        let key = key.clone();
                        self.on_thread(move |store| store.append(DELETE, &key, &Segments::default())).await
                    }
                };
                outcomes.push((key, deleted));
            }
            outcomes
        })
    }

    fn list_folder<'a>(
        &'a self,
        folder: &'a str,
        start_after: Option<&'a ObjectKey>,
        _: Purpose,
    ) -> BoxFuture<'a, Result<ListPage, BackendError>> {
        Box::pin(async move {
            let state = self.state();
            let after = start_after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut in_folder = state
                .objects
                .range::<ObjectKey, _>((after, Bound::Unbounded))
                .filter(|(key, _)| key.folder() == folder)
                .map(|(key, body)| (key.clone(), body.end - body.start));
            let objects = in_folder.by_ref().take(LIST_PAGE_OBJECTS_MAX).collect();
            Ok(ListPage { objects, more: in_folder.next().is_some() })
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            put_bytes_max: 1 << 30,
            parts: false,
            part_bytes_min: 0,
            part_bytes_max: 0,
            copies_within: false,
            lists_begun: false,
        }
    }

    fn name(&self) -> &str {
        "one-file"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_conforms_alone_and_under_the_layers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(OneFileStore::open(&folder.path().join("store")).unwrap());
        let layered = registry::layer(store.clone(), Layers::default(), 1).backend;
        for store in [store as Arc<dyn Backend>, layered] {
            for outcome in conformance::run(&*store, "scratch").await {
                assert_eq!(outcome.error, None, "{}", outcome.case);
            }
        }
    }

    #[tokio::test]
    async fn what_a_power_cut_leaves_is_cut_off_and_the_rest_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let (first, second) = (ObjectKey::new("a/first").unwrap(), ObjectKey::new("a/second").unwrap());
        let put = async |key: &ObjectKey| {
            let store = OneFileStore::open(&path).unwrap();
            store.put(key, Bytes::from_static(b"body").into(), Purpose::Upload).await.unwrap();
        };
        put(&first).await;
        let whole = std::fs::metadata(&path).unwrap().len();
        put(&second).await;
        File::options().write(true).open(&path).unwrap().set_len(2 * whole).unwrap();
        let store = OneFileStore::open(&path).unwrap();
        assert_eq!(store.head(&first, Purpose::Probe).await, Ok(ObjectMeta { bytes: 4 }));
        assert_eq!(store.head(&second, Purpose::Probe).await, Err(BackendError::NotFound));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
    }
}
