//! A folder of the store to try things in, and how a later run finds what one that died has left there: listings show objects
//! and no folders, so a note stands beside each such folder while it is used. `{parent}/{milliseconds}.{id}` is the note,
//! `{parent}/run-{id}/` the folder. Nothing outside `parent` is ever touched.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::{Backend, BackendError, ObjectKey, Purpose, conformance, list_all};

/// Below the site's prefix.
pub const PARENT: &str = "seawall-check";

/// What is older belongs to nobody any more.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

pub struct Scratch {
    note: ObjectKey,
    parent: String,
    folder: String,
}

impl Scratch {
    /// Leaves the note. `prefix` is "" or a folder; `now_ms` is the wall clock.
    pub async fn begin(backend: &dyn Backend, prefix: &str, now_ms: u64) -> Result<Self, BackendError> {
        let scratch = Self::at(prefix, now_ms, Uuid::new_v4());
        backend.put(&scratch.note, Bytes::from(scratch.folder.clone()).into(), Purpose::Probe).await?;
        Ok(scratch)
    }

    fn at(prefix: &str, now_ms: u64, id: Uuid) -> Self {
        let slash = if prefix.is_empty() { "" } else { "/" };
        let parent = format!("{prefix}{slash}{PARENT}");
        let id = id.simple();
        let note = ObjectKey::new(format!("{parent}/{now_ms:014}.{id}")).expect("a prefix that was checked");
        Self { note, folder: format!("{parent}/run-{id}"), parent }
    }

    /// The folder that is free to use.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// What the note says is what the store gives back: the least that one can ask of it. Text says what was seen instead.
    pub async fn note_is_there(&self, backend: &dyn Backend) -> Result<Result<(), String>, BackendError> {
        let bytes = self.folder.len() as u64;
        let read = match backend.get_range(&self.note, 0..bytes, Purpose::Probe).await {
            Ok(read) => read.into_bytes(),
            Err(BackendError::NotFound) => return Ok(Err("an object that was just put is not found".to_owned())),
            Err(error) => return Err(error),
        };
        if read != self.folder.as_bytes() {
            return Ok(Err("an object reads back as something else than was put".to_owned()));
        }
        let listed = list_all(backend, &self.parent, Purpose::Probe).await?;
        if !listed.contains(&(self.note.clone(), bytes)) {
            return Ok(Err("an object that was just put is not listed".to_owned()));
        }
        Ok(Ok(()))
    }

    /// Removes the note; what was put into the folder is removed already.
    pub async fn end(self, backend: &dyn Backend) -> Result<(), BackendError> {
        delete(backend, vec![self.note]).await
    }
}

/// Removes what runs have left that began longer ago than [`ABANDONED_AFTER`]: how many those were.
pub async fn sweep(backend: &dyn Backend, prefix: &str, now_ms: u64) -> Result<usize, BackendError> {
    let parent = Scratch::at(prefix, now_ms, Uuid::nil()).parent;
    let mut swept = 0;
    for (note, _) in list_all(backend, &parent, Purpose::Probe).await? {
        let Some((began_ms, id)) = read_name(note.file_name()) else { continue };
        if now_ms.saturating_sub(began_ms) < ABANDONED_AFTER.as_millis() as u64 {
            continue;
        }
        conformance::clean(backend, &Scratch::at(prefix, began_ms, id).folder).await?;
        delete(backend, vec![note]).await?;
        swept += 1;
    }
    Ok(swept)
}

fn read_name(name: &str) -> Option<(u64, Uuid)> {
    let (began_ms, id) = name.split_once('.')?;
    Some((began_ms.parse().ok()?, Uuid::try_parse(id).ok()?))
}

async fn delete(backend: &dyn Backend, keys: Vec<ObjectKey>) -> Result<(), BackendError> {
    backend.delete_many(keys, Purpose::Probe).await.into_iter().try_for_each(|(_, outcome)| outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    const DAY_MS: u64 = 24 * 3_600_000;

    async fn put(store: &MemoryBackend, key: &str) {
        store.put(&ObjectKey::new(key).unwrap(), Bytes::from_static(b"x").into(), Purpose::Probe).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_dead_run_has_left_is_swept_after_a_day_and_nothing_else() {
        let store = MemoryBackend::new();
        let dead = Scratch::begin(&store, "a", 1_000).await.unwrap();
        let young = Scratch::begin(&store, "a", DAY_MS).await.unwrap();
        for folder in [dead.folder(), young.folder()] {
            put(&store, &format!("{folder}/case-01/object")).await;
            put(&store, &format!("{folder}/load/0001")).await;
        }
        put(&store, "a/seawall-check/of-somebody").await;
        put(&store, "a/objects/1").await;
        assert_eq!(sweep(&store, "a", 1_000 + DAY_MS).await.unwrap(), 1);
        let left = |folder: String| {
            let store = &store;
            async move { list_all(store, &folder, Purpose::Probe).await.unwrap().len() }
        };
        assert_eq!(left(format!("{}/case-01", dead.folder())).await + left(format!("{}/load", dead.folder())).await, 0);
        assert_eq!(
            left(format!("{}/case-01", young.folder())).await + left(format!("{}/load", young.folder())).await,
            2
        );
        assert_eq!(left("a/seawall-check".to_owned()).await, 2);
        assert_eq!(left("a/objects".to_owned()).await, 1);
        young.end(&store).await.unwrap();
        assert_eq!(left("a/seawall-check".to_owned()).await, 1);
    }
}
