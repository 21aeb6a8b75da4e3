//! What must be true after every step, and what only a look at everything shows.

use std::collections::BTreeSet;

use seawall::object_reader::{ObjectReader, ObjectRef};
use seawall::store_marker::StoreMarker;
use seawall::upload::UploadStream;
use seawall_backends::{Backend, ObjectKey, Purpose};
use seawall_metadata::{Command, ObjectId, Offset, State, invariants, snapshot};
use std::sync::Arc;
use std::time::Duration;

use crate::life::{Life, needs_commit};
use crate::panics;
use crate::world::{CLUSTER, PREFIX, World};

#[derive(Default)]
pub struct Checker {
    before: Option<State>,
}

/// After every step.
pub fn step(world: &mut World, life: &Life) -> Result<(), String> {
    if let Some(panic) = panics::seen() {
        return Err(format!("panic: {panic}"));
    }
    if let Some(error) = life.switches.node_error.lock().map_err(|_| "poisoned")?.clone() {
        return Err(format!("the metadata node stopped: {error}"));
    }
    if let Some(broken) = world.store.broken_promise() {
        return Err(broken);
    }
    if let Some(backup) = &life.backup {
        world.backed_up_to = world.backed_up_to.max(backup.status().index);
    }
    metadata(world, life)?;
    partitions(world, life)?;
    let violations = std::mem::take(&mut world.ledger().violations);
    match violations.first() {
        Some(first) => Err(first.clone()),
        None => Ok(()),
    }
}

/// Invariants of the state, one step at a time, and that it names stored objects only.
fn metadata(world: &mut World, life: &Life) -> Result<(), String> {
    let state = life.metadata.read(State::clone);
    invariants::check(&state).map_err(|why| format!("metadata: {why}"))?;
    let keys = world.keys();
    let checker = &mut world.checker;
    if let Some(before) = &checker.before {
        invariants::check_step(before, &state).map_err(|why| format!("metadata step: {why}"))?;
    }
    let contents = world.store.memory.contents();
    for object in referenced(&state) {
        let key = keys.key(object.incarnation, object.object);
        let stored = contents.binary_search_by(|(known, _)| known.cmp(&key)).map(|at| contents[at].1.len() as u64);
        if stored != Ok(object.bytes) {
            return Err(format!("metadata references object {}, the store has {stored:?}", object.object));
        }
    }
    let (mut rewritten, mut forgotten) = (0, 0);
    if let Some(before) = &checker.before {
        let known = |state: &State, id| state.object(id).is_some();
        rewritten = state.objects().filter(|(id, _)| state.is_rewritten(*id) && !known(before, *id)).count();
        forgotten = before.objects().filter(|(id, _)| !known(&state, *id)).count();
    }
    let streams: Vec<_> = state.streams().map(|stream| stream.id).collect();
    let applied = state.applied();
    checker.before = Some(state);
    let mut ledger = world.ledger();
    streams.into_iter().for_each(|stream| ledger.is_known(stream, applied));
    let stats = &mut ledger.stats;
    stats.objects_rewritten += rewritten as u64;
    stats.objects_forgotten += forgotten as u64;
    Ok(())
}

pub(crate) fn referenced(state: &State) -> impl Iterator<Item = ObjectRef> + '_ {
    let objects = state.streams().flat_map(|stream| stream.ranges_from(Offset(0)).map(|range| range.object));
    let objects: BTreeSet<ObjectId> = objects.collect();
    objects.into_iter().filter_map(|object| ObjectRef::of(state, object))
}

fn partitions(world: &World, life: &Life) -> Result<(), String> {
    let (trim, nexts) = life.metadata.read(|state| {
        let trim = life.wal.as_ref().and_then(|wal| state.wal(wal.id)).map_or(0, |wal| wal.trim.0);
        let nexts: Vec<_> = state.streams().map(|stream| (stream.id, stream.next.0)).collect();
        (trim, nexts)
    });
    let mut ledger = world.ledger();
    if let Some(wal) = &life.wal {
        let usage = wal.handle().usage();
        if usage.trim.0 > trim {
            return Err(format!("the WAL was trimmed to {}, metadata knows of {trim}", usage.trim));
        }
        ledger.stats.laps = ledger.stats.laps.max(trim / usage.ring_bytes.max(1));
    }
    for partition in life.partitions.all() {
        let (stream, offsets) = (partition.stream(), partition.offsets());
        if ledger.is_deleted(stream) {
            continue;
        }
        let in_order = offsets.log_start <= offsets.high_watermark
            && offsets.committed_end <= offsets.high_watermark
            && offsets.high_watermark <= offsets.log_end;
        if !in_order {
            return Err(format!("offsets of stream {stream} are out of order: {offsets:?}"));
        }
        if let Some((_, next)) = nexts.iter().find(|(known, _)| *known == stream)
            && offsets.committed_end > *next
        {
            return Err(format!("stream {stream} takes {offsets:?} for committed, metadata is at {next}"));
        }
        // What metadata has committed need not be known to the partition yet.
        let committed = nexts.iter().find(|(known, _)| *known == stream).map_or(0, |(_, next)| *next);
        if let Some(first) = UploadStream::first_needed(&*partition, committed.max(offsets.committed_end))
            && first.0 < trim
        {
            return Err(format!("the WAL is trimmed to {trim}, stream {stream} needs it from {first}"));
        }
        let is_known = nexts.iter().any(|(known, _)| *known == stream);
        if is_known && needs_commit(&partition) && offsets.high_watermark > committed {
            return Err(format!("stream {stream} is acked to {}, committed to {committed}", offsets.high_watermark));
        }
        if partition.config().cleanup_compact {
            ledger.compacts(stream);
        }
        ledger.high_watermark(stream, offsets.high_watermark);
        ledger.log_start(stream, offsets.log_start);
    }
    Ok(())
}

/// A fresh state that is fed the whole log is the same, byte for byte.
pub fn replay(world: &World, life: &Life) -> Result<(), String> {
    let (applied, live) = life.metadata.read(|state| (state.applied(), snapshot::encode(state)));
    let replayed = world.log.replay(applied)?;
    if replayed == live { Ok(()) } else { Err(format!("the metadata log replayed to {applied} gives another state")) }
}

/// Between two jumps of metadata's time.
const TURNS_BETWEEN_JUMPS: u32 = 20;

/// What nothing refers to is gone once its time has come: no reservation, no mark, no orphan is left.
pub async fn orphans(world: &World, life: &Life) -> Result<(), String> {
    let sizes = &world.sizes;
    if life.metadata.read(|state| state.earlier_incarnations().next().is_some()) {
        // The operator says so: nobody goes back to what was before.
        let declare = Command::DeclareOnly { incarnation: world.incarnation };
        life.metadata.propose(declare).await.map_err(|error| error.to_string())?;
    }
    for span in [sizes.reservation_ttl, sizes.delete_grace] {
        let now_ms = life.metadata.read(State::now_ms) + span.as_millis() as u64 + 1;
        life.metadata.propose(Command::AdvanceTime { now_ms }).await.map_err(|error| error.to_string())?;
    }
    let waiting = || life.metadata.read(|state| state.marked_count() + state.reservations().count());
    for turn in 0..600 {
        if waiting() == 0 {
            break;
        }
        // What compaction has reserved meanwhile, and what it has replaced; it has time in between to come to its end.
        if turn % TURNS_BETWEEN_JUMPS == 0 {
            let (now_ms, last_ms) = life.metadata.read(|state| {
                let last_ms = state.reservations().map(|(_, reservation)| reservation.expires_ms).max();
                (state.now_ms(), last_ms.unwrap_or_default())
            });
            let now_ms = (now_ms + sizes.delete_grace.as_millis() as u64 + 1).max(last_ms);
            life.metadata.propose(Command::AdvanceTime { now_ms }).await.map_err(|error| error.to_string())?;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if waiting() > 0 {
        let left = life.metadata.read(|state| {
            let reserved: Vec<_> = state.reservations().map(|(object, _)| object).collect();
            let marked: Vec<_> = state.marked_behind(None, u64::MAX).collect();
            format!("reserved {reserved:?}, marked {marked:?}, it is {}", state.now_ms())
        });
        let backup = life.backup.as_ref().map(|backup| backup.status());
        return Err(format!("{} objects wait for their end for ever: {left}; {backup:?}", waiting()));
    }
    nothing_else_is_stored(world, life, true)
}

/// In this incarnation's folders, beside its backups. What came late when its object was forgotten is for a scrub to find.
pub(crate) fn nothing_else_is_stored(world: &World, life: &Life, without_late: bool) -> Result<(), String> {
    let keys = world.keys();
    // What is being made, and what waits for its end, included.
    let live: BTreeSet<ObjectKey> = life.metadata.read(|state| {
        let reserved = state.reservations().map(|(object, _)| keys.key(world.incarnation, object));
        let known = state.objects().map(|(object, known)| {
            keys.key(known.record.map_or(world.incarnation, |record| record.incarnation), object)
        });
        reserved.chain(known).collect()
    });
    let marker = StoreMarker::new(PREFIX, CLUSTER, world.incarnation).key();
    let ours = keys.incarnation_folder(world.incarnation);
    let backups = format!("{ours}/backup");
    for (key, _) in world.store.memory.contents() {
        let is_object = key.as_str().starts_with(&ours) && !key.as_str().starts_with(&backups);
        if (is_object || key.folder() == marker.folder())
            && key != marker
            && !live.contains(&key)
            && !(without_late && world.store.came_late(&key))
        {
            return Err(format!("{key} is in the store, and nothing refers to it"));
        }
    }
    Ok(())
}

/// Every referenced object can be read to its last block.
pub async fn objects(world: &World, life: &Life) -> Result<(), String> {
    let keys = world.keys();
    let store: Arc<dyn Backend> = world.store.clone();
    let reader = ObjectReader::new(store, keys, 0, 1 << 20);
    let referenced: Vec<ObjectRef> = life.metadata.read(|state| referenced(state).collect());
    world.ledger().stats.objects += referenced.len() as u64;
    for object in referenced {
        let cached = reader.index(&object, Purpose::Scrub).await.map_err(|error| error.to_string())?;
        for at in 0..cached.index.blocks().len() {
            reader.block(&object, &cached.index, at, Purpose::Scrub).await.map_err(|error| error.to_string())?;
        }
        reader.producers(&object, Purpose::Scrub).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}
