//! Which cluster the store holds, which of its incarnations is the newest, and what its backups give.
//!
//! Markers are listed; the incarnation that follows another stands in an object of a known name in the folder of the one that it
//! ended, so a listing that leaves one out costs nothing where the cluster is named.

use std::collections::{BTreeMap, BTreeSet};

use seawall_backends::{ObjectKey, Purpose, list_all};
use seawall_metadata::backup::{PieceKind, Replay, ReplayError, decode_log};
use seawall_metadata::command::CommandError;
use seawall_metadata::snapshot::SnapshotError;
use seawall_metadata::{ClusterId, Incarnation};
use uuid::Uuid;

use super::{Bucket, Options, Progress, RestoreError};
use crate::backup::store::{BackupReadError, BackupStore};
use crate::object_key::ObjectKeys;
use crate::store_marker::StoreMarker;

/// So many incarnations follow each other at most.
const CHAIN_MAX: usize = 10_000;
/// So many generations are tried for a snapshot that is whole.
const GENERATIONS_TRIED: u64 = 64;

/// What there is to restore from.
#[derive(Debug, Clone)]
pub struct Origin {
    pub cluster: ClusterId,
    /// Oldest first. Those before the first may be unknown.
    pub chain: Vec<Incarnation>,
    /// Every marker of the cluster that a listing shows.
    pub markers: Vec<ObjectKey>,
}

impl Origin {
    pub fn newest(&self) -> Incarnation {
        *self.chain.last().expect("a chain has one incarnation at least")
    }
}

/// The state of the newest backup.
#[derive(Debug, Clone)]
pub struct Base {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub generation: u64,
    pub replay: Replay,
    /// When its last piece was written, by the clock of who did.
    pub written_ms: u64,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

pub async fn find(store: &Bucket, options: &Options) -> Result<Origin, RestoreError> {
    let prefix = &store.prefix;
    let mut clusters = markers(store).await?;
    let cluster = match options.cluster {
        Some(cluster) => cluster,
        None if clusters.len() > 1 => {
            return Err(RestoreError::SeveralClusters { found: clusters.keys().map(Uuid::to_string).collect() });
        }
        None => match clusters.keys().next() {
            Some(cluster) => *cluster,
            None => return Err(RestoreError::NoCluster { place: store.place.clone(), prefix: prefix.clone() }),
        },
    };
    let starts: Vec<Uuid> = match options.incarnation {
        Some(incarnation) => vec![incarnation],
        None => clusters.get(&cluster).into_iter().flat_map(BTreeMap::keys).copied().collect(),
    };
    let markers = clusters.remove(&cluster).unwrap_or_default().into_values().collect();
    let cluster = ClusterId(cluster);
    let mut chains = Vec::new();
    for start in starts {
        chains.push(chain(store, cluster, Incarnation(start)).await?);
    }
    let Some(longest) = chains.iter().max_by_key(|chain| chain.len()).cloned() else {
        return Err(RestoreError::NoCluster { place: store.place.clone(), prefix: prefix.clone() });
    };
    let newest: BTreeSet<String> = chains.iter().filter_map(|chain| Some(chain.last()?.to_string())).collect();
    if newest.len() > 1 {
        return Err(RestoreError::SeveralIncarnations { found: newest.into_iter().collect() });
    }
    Ok(Origin { cluster, chain: longest, markers })
}

/// The markers that a listing shows now: of each cluster, by incarnation.
async fn markers(store: &Bucket) -> Result<BTreeMap<Uuid, BTreeMap<Uuid, ObjectKey>>, seawall_backends::BackendError> {
    let listed = list_all(&*store.backend, &StoreMarker::folder(&store.prefix), Purpose::Metadata).await?;
    let mut clusters: BTreeMap<Uuid, BTreeMap<Uuid, ObjectKey>> = BTreeMap::new();
    for (key, _) in listed {
        let parsed =
            key.file_name().split_once('.').map(|(cluster, incarnation)| (cluster.parse(), incarnation.parse()));
        if let Some((Ok(cluster), Ok(incarnation))) = parsed {
            clusters.entry(cluster).or_default().insert(incarnation, key);
        }
    }
    Ok(clusters)
}

/// The marker of an incarnation that came up since `origin` was found, if there is one.
pub async fn came_up(store: &Bucket, origin: &Origin) -> Result<Option<ObjectKey>, RestoreError> {
    let now = markers(store).await?.remove(&origin.cluster.0).unwrap_or_default();
    let known = |(incarnation, key): &(Uuid, ObjectKey)| {
        origin.markers.contains(key) || origin.chain.contains(&Incarnation(*incarnation))
    };
    Ok(now.into_iter().find(|marker| !known(marker)).map(|(_, key)| key))
}

/// An incarnation and those that followed it.
async fn chain(store: &Bucket, cluster: ClusterId, start: Incarnation) -> Result<Vec<Incarnation>, RestoreError> {
    let mut chain = vec![start];
    while chain.len() < CHAIN_MAX {
        let last = *chain.last().expect("it has one");
        let marker = StoreMarker::new(&store.prefix, cluster, last);
        let Some(by) = marker.ended_by(&*store.backend, Purpose::Metadata).await? else { break };
        match by.parse().map(Incarnation) {
            Ok(next) if !chain.contains(&next) => chain.push(next),
            _ => {
                let found = vec![last.to_string(), by];
                return Err(RestoreError::SeveralIncarnations { found });
            }
        }
    }
    Ok(chain)
}

/// The newest state that the backups give. An incarnation whose restore did not come as far as a backup has none: then it is the one before.
pub async fn base(
    store: &Bucket,
    keys: &ObjectKeys,
    origin: &Origin,
    progress: Progress<'_>,
) -> Result<Base, RestoreError> {
    for incarnation in origin.chain.iter().rev() {
        let backups = BackupStore::new(store.backend.clone(), keys, origin.cluster, *incarnation);
        if let Some(base) = read(&backups, progress).await? {
            return Ok(base);
        }
    }
    Err(RestoreError::NoBackup { cluster: origin.cluster })
}

async fn read(backups: &BackupStore, progress: Progress<'_>) -> Result<Option<Base>, RestoreError> {
    let newest = backups.newest_generation().await?;
    let mut notes = Vec::new();
    for generation in (newest.saturating_sub(GENERATIONS_TRIED) + 1..=newest).rev() {
        progress(format!("reading backup {generation} of incarnation {}", backups.incarnation));
        let snapshot = match backups.snapshot(generation).await {
            Ok(snapshot) => snapshot,
            // Begun, and not made.
            Err(BackupReadError::Missing { .. }) => continue,
            Err(error @ BackupReadError::Damaged { .. }) => {
                notes.push(format!("snapshot {generation} is not used: {error}"));
                continue;
            }
            Err(BackupReadError::Newer { error, .. }) => return Err(RestoreError::Newer(error.to_string())),
            Err(error @ BackupReadError::Unavailable { .. }) => return Err(error.into()),
        };
        let replay = match Replay::from_snapshot(&snapshot.data, snapshot.head.last) {
            Ok(replay) => replay,
            Err(error @ (SnapshotError::NewerFormat { .. } | SnapshotError::NewerLevel { .. })) => {
                return Err(RestoreError::Newer(error.to_string()));
            }
            Err(error) => {
                notes.push(format!("snapshot {generation} is not used: {error}"));
                continue;
            }
        };
        let (cluster, incarnation) = (backups.cluster, backups.incarnation);
        let written_ms = snapshot.head.written_ms;
        let mut base = Base { cluster, incarnation, generation, replay, written_ms, notes };
        follow(backups, &mut base, newest, snapshot.parts).await?;
        return Ok(Some(base));
    }
    match notes.is_empty() {
        true => Ok(None),
        false => Err(RestoreError::Damaged { incarnation: backups.incarnation, damaged: notes }),
    }
}

/// Applies the log behind the snapshot, over the generations behind it too where they go on without a gap.
async fn follow(backups: &BackupStore, base: &mut Base, newest: u64, parts: u32) -> Result<(), RestoreError> {
    for generation in base.generation..=newest {
        let mut number = if generation == base.generation { parts } else { 0 };
        loop {
            let piece = match backups.piece(generation, number).await {
                Ok(piece) => piece,
                Err(BackupReadError::Missing { .. }) => break,
                Err(error @ BackupReadError::Damaged { .. }) => {
                    base.notes.push(format!("a piece of the log is not used: {error}"));
                    number += 1;
                    continue;
                }
                Err(BackupReadError::Newer { error, .. }) => return Err(RestoreError::Newer(error.to_string())),
                Err(error @ BackupReadError::Unavailable { .. }) => return Err(error.into()),
            };
            number += 1;
            if piece.head.kind != PieceKind::Log {
                continue;
            }
            let applied = match decode_log(&piece.head, piece.payload()) {
                Ok(entries) => base.replay.apply(&entries),
                Err(error) => {
                    base.notes.push(format!("piece {number} of the log of backup {generation} is not used: {error}"));
                    continue;
                }
            };
            match applied {
                Ok(()) => base.written_ms = base.written_ms.max(piece.head.written_ms),
                Err(ReplayError::Gap { applied, found }) => {
                    base.notes
                        .push(format!("the log of the backup ends at entry {applied}: the next one found is {found}"));
                    return Ok(());
                }
                Err(error @ ReplayError::Command { source: CommandError::Broken(_), .. }) => {
                    base.notes.push(format!("the log of the backup ends early: {error}"));
                    return Ok(());
                }
                Err(error) => return Err(RestoreError::Newer(error.to_string())),
            }
        }
    }
    Ok(())
}
