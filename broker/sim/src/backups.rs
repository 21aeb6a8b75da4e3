//! What the backups of metadata in the store give, beside the log that was backed up: after any end of a broker the newest state
//! that can be had of them is one that there was, no older than what was said to be in the store, and all that it is made of is
//! there.

use std::sync::Arc;

use seawall::backup::store::{BackupReadError, BackupStore};
use seawall::restore::Bucket;
use seawall::restore::find::{self, Origin};
use seawall_backends::Backend;
use seawall_metadata::{State, snapshot};

use crate::checks::referenced;
use crate::world::{CLUSTER, PREFIX, World};

pub fn bucket(world: &World) -> Bucket {
    let backend: Arc<dyn Backend> = world.store.clone();
    Bucket { backend, prefix: PREFIX.to_owned(), place: "the simulated store".to_owned() }
}

/// While no broker runs.
pub async fn check(world: &World) -> Result<(), String> {
    let Some(sizes) = world.sizes.backup else { return Ok(()) };
    let bucket = bucket(world);
    let keys = world.keys();
    let store = BackupStore::new(bucket.backend.clone(), &keys, CLUSTER, world.incarnation);
    let newest = store.newest_generation().await.map_err(|error| error.to_string())?;
    let mut kept = 0;
    for generation in (1..=newest).rev() {
        let stored = match store.snapshot(generation).await {
            Ok(stored) => stored,
            Err(BackupReadError::Missing { .. }) => continue,
            Err(error) => return Err(format!("backup {generation}: {error}")),
        };
        let state = snapshot::decode(&stored.data).map_err(|error| format!("backup {generation}: {error}"))?;
        is_whole(world, &state).map_err(|why| format!("backup {generation} names {why}"))?;
        kept += 1;
        if kept == sizes.kept {
            break;
        }
    }
    if kept == 0 {
        return match world.backed_up_to {
            0 => Ok(()),
            index => Err(format!("entry {index} was backed up, and no backup is whole")),
        };
    }
    let origin = Origin { cluster: CLUSTER, chain: vec![world.incarnation], markers: Vec::new() };
    let base = find::base(&bucket, &keys, &origin, &|_| {}).await.map_err(|error| error.to_string())?;
    if let Some(note) = base.notes.first() {
        return Err(format!("the backup is not as it was written: {note}"));
    }
    let state = &base.replay.state;
    let (applied, promised) = (state.applied(), world.backed_up_to);
    if applied < promised {
        return Err(format!("entry {promised} was backed up, the backups end at {applied}"));
    }
    if snapshot::encode(state) != world.log.replay(applied)? {
        return Err(format!("the backups give another state at entry {applied} than there was"));
    }
    is_whole(world, state).map_err(|why| format!("the newest backup names {why}"))?;
    let mut ledger = world.ledger();
    ledger.stats.backups_checked += 1;
    ledger.stats.backup_generations += newest;
    Ok(())
}

/// Whether all that the state is made of is in the store.
fn is_whole(world: &World, state: &State) -> Result<(), String> {
    let keys = world.keys();
    let contents = world.store.memory.contents();
    for object in referenced(state) {
        let key = keys.key(object.incarnation, object.object);
        if contents.binary_search_by(|(known, _)| known.cmp(&key)).is_err() {
            return Err(format!("object {}, which the store does not have", object.object));
        }
    }
    Ok(())
}
