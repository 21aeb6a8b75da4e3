//! The objects that the store holds, beside those that a state names: by listing, and by asking for the ids that come next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use seawall_backends::{Backend, BackendError, Purpose, list_all};
use seawall_metadata::command::{EpochStart, ObjectRecord};
use seawall_metadata::restore::{FoundObject, FoundRange};
use seawall_metadata::{Incarnation, LeaderEpoch, ObjectId, Offset, State, StreamId};
use serde::Serialize;
use tokio::task::JoinSet;

use super::find::Base;
use super::{Bucket, Progress, RestoreError};
use crate::object_format::{BlockEntry, FORMAT_VERSION, ObjectIndex};
use crate::object_key::{FOLDERS, ObjectKeys};
use crate::object_reader::{CachedIndex, ObjectError, ObjectReader, ObjectRef};

/// Calls under way at a time.
const AT_ONCE: usize = 16;
/// So many ids behind the last that is there are asked for: more than brokers reserve ahead.
const IDS_BEHIND: u64 = 2_048;
const NOT_FOUND_TRIES: usize = 3;
const NOT_FOUND_PAUSE: Duration = Duration::from_secs(1);

/// What is in the store.
pub struct Scan {
    /// Objects that the state does not name, and may have been committed after it.
    pub found: Vec<FoundObject>,
    /// Those that streams are made of and that are not there.
    pub missing: Vec<ObjectId>,
    /// Those that may have been committed after the state, and do not say what they hold.
    pub unreadable: Vec<UnreadableObject>,
}

/// An object that the store has, or says that it has, and does not give as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableObject {
    pub key: String,
    pub why: String,
}

pub async fn scan(
    store: &Bucket,
    keys: &ObjectKeys,
    base: &Base,
    progress: Progress<'_>,
) -> Result<Scan, RestoreError> {
    let state = &base.replay.state;
    let backend = &store.backend;
    let mut incarnations: BTreeSet<Incarnation> =
        state.objects().filter_map(|(_, object)| Some(object.record?.incarnation)).collect();
    incarnations.insert(base.incarnation);
    let mut there: BTreeMap<(Incarnation, ObjectId), u64> = BTreeMap::new();
    for incarnation in incarnations {
        list(backend, keys, incarnation, &mut there, progress).await?;
    }
    // Whatever a listing shows late or not at all is asked for by its name.
    let first = state.lowest_uncommitted();
    let mut asked = first.0;
    loop {
        let ours = (base.incarnation, ObjectId(0))..=(base.incarnation, ObjectId(u64::MAX));
        let last = there.range(ours).next_back().map_or(0, |((_, object), _)| object.0);
        let to = last.max(first.0).saturating_add(IDS_BEHIND);
        if asked >= to {
            break;
        }
        let unseen = (asked..to).map(ObjectId).map(|object| (base.incarnation, object));
        let unseen = unseen.filter(|one| !there.contains_key(one) && state.object(one.1).is_none()).collect();
        there.extend(ask(backend, keys, unseen).await?);
        asked = to;
        progress(format!("{} objects in the store, ids up to {asked} asked for", there.len()));
    }
    let named = state.objects().filter(|(_, object)| object.references > 0);
    let named = named.filter_map(|(id, object)| Some((object.record?.incarnation, id)));
    let unseen: Vec<_> = named.filter(|one| !there.contains_key(one)).collect();
    there.extend(ask(backend, keys, unseen.clone()).await?);
    let missing = unseen.into_iter().filter(|one| !there.contains_key(one)).map(|(_, object)| object).collect();

    let reader = Arc::new(ObjectReader::new(backend.clone(), keys.clone(), 1 << 20, 1 << 20));
    let mut scan = Scan { found: Vec::new(), missing, unreadable: Vec::new() };
    let uncommitted = there.range((base.incarnation, first)..=(base.incarnation, ObjectId(u64::MAX)));
    let uncommitted: Vec<ObjectRef> = uncommitted
        .map(|((incarnation, object), bytes)| ObjectRef { object: *object, incarnation: *incarnation, bytes: *bytes })
        .filter(|object| !is_committed(state, object.object))
        .collect();
    for (number, object) in uncommitted.iter().enumerate() {
        if number % 100 == 0 {
            progress(format!("reading the footer of object {} of {}", number + 1, uncommitted.len()));
        }
        match index(&reader, object).await {
            Ok(cached) => {
                let (bucket, format_version) = (0, FORMAT_VERSION);
                let record =
                    ObjectRecord { bucket, incarnation: object.incarnation, format_version, bytes: object.bytes };
                scan.found.push(FoundObject { object: object.object, record, ranges: ranges(&cached.index) });
            }
            Err(error @ (ObjectError::NotFound(_) | ObjectError::Corrupt { .. })) => {
                let key = keys.key(object.incarnation, object.object).to_string();
                scan.unreadable.push(UnreadableObject { key, why: error.to_string() });
            }
            Err(ObjectError::Unavailable { object, error }) => {
                return Err(RestoreError::Object { object, why: error.to_string() });
            }
        }
    }
    Ok(scan)
}

/// What was shown a moment ago and is not there is asked for again.
async fn index(reader: &ObjectReader, object: &ObjectRef) -> Result<Arc<CachedIndex>, ObjectError> {
    for _ in 1..NOT_FOUND_TRIES {
        match reader.index(object, Purpose::Metadata).await {
            Err(ObjectError::NotFound(_)) => tokio::time::sleep(NOT_FOUND_PAUSE).await,
            read => return read,
        }
    }
    reader.index(object, Purpose::Metadata).await
}

fn is_committed(state: &State, object: ObjectId) -> bool {
    state.object(object).is_some_and(|object| object.record.is_some())
}

/// What an object holds of each stream, by its index.
fn ranges(index: &ObjectIndex) -> Vec<FoundRange> {
    index.blocks().chunk_by(|a, b| a.stream == b.stream).map(|blocks| range(blocks[0].stream, blocks)).collect()
}

fn range(stream: StreamId, blocks: &[BlockEntry]) -> FoundRange {
    let (first, last) = (&blocks[0], &blocks[blocks.len() - 1]);
    let mut epochs: Vec<EpochStart> = Vec::new();
    for block in blocks {
        let epoch = LeaderEpoch(block.leader_epoch);
        if epochs.last().is_none_or(|last| last.epoch != epoch) {
            epochs.push(EpochStart { epoch, start: Offset(block.base) });
        }
    }
    let records: u64 = blocks.iter().map(|block| u64::from(block.record_count)).sum();
    let adjoining = blocks.windows(2).all(|pair| pair[0].end == pair[1].base);
    FoundRange {
        stream,
        base: Offset(first.base),
        end: Offset(last.end),
        bytes: blocks.iter().map(|block| u64::from(block.bytes)).sum(),
        records,
        max_timestamp: blocks.iter().map(|block| block.max_timestamp).max().unwrap_or(-1),
        epochs,
        dense: adjoining && last.end.checked_sub(first.base).is_some_and(|offsets| offsets as u64 == records),
    }
}

async fn list(
    backend: &Arc<dyn Backend>,
    keys: &ObjectKeys,
    incarnation: Incarnation,
    there: &mut BTreeMap<(Incarnation, ObjectId), u64>,
    progress: Progress<'_>,
) -> Result<(), RestoreError> {
    let mut listing = JoinSet::new();
    let mut folders = 0..FOLDERS;
    let mut done = 0;
    loop {
        while listing.len() < AT_ONCE
            && let Some(folder) = folders.next()
        {
            let (backend, folder) = (backend.clone(), keys.folder(incarnation, folder));
            listing.spawn(async move { list_all(&*backend, &folder, Purpose::Scrub).await });
        }
        let Some(listed) = listing.join_next().await else { return Ok(()) };
        let listed = listed.unwrap_or_else(|error| Err(BackendError::Transient(error.to_string())))?;
        let named = |key: &seawall_backends::ObjectKey| u64::from_str_radix(key.file_name(), 16).ok();
        let objects = listed.iter().filter_map(|(key, bytes)| Some(((incarnation, ObjectId(named(key)?)), *bytes)));
        there.extend(objects);
        done += 1;
        if done % 32 == 0 {
            progress(format!("listed {done} of {FOLDERS} folders of incarnation {incarnation}"));
        }
    }
}

/// Those of the objects that are there, with their lengths.
async fn ask(
    backend: &Arc<dyn Backend>,
    keys: &ObjectKeys,
    objects: Vec<(Incarnation, ObjectId)>,
) -> Result<Vec<((Incarnation, ObjectId), u64)>, RestoreError> {
    let mut asking = JoinSet::new();
    let mut left = objects.into_iter();
    let mut there = Vec::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some(one) = left.next()
        {
            let (backend, key) = (backend.clone(), keys.key(one.0, one.1));
            asking.spawn(async move { (one, backend.head(&key, Purpose::Metadata).await) });
        }
        let Some(asked) = asking.join_next().await else { return Ok(there) };
        match asked {
            Ok((one, Ok(meta))) => there.push((one, meta.bytes)),
            Ok((_, Err(BackendError::NotFound))) => {}
            Ok((_, Err(error))) => return Err(error.into()),
            Err(error) => return Err(BackendError::Transient(error.to_string()).into()),
        }
    }
}
