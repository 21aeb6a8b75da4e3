//! Makes a cluster anew from its bucket, on a machine that has nothing: the newest backup of metadata, rolled forward over the
//! objects that were stored after it, becomes the first state of a new incarnation.
//!
//! The order of the steps is what makes it safe to end anywhere and to be begun again. The old incarnation is ended first, by an object that its
//! brokers look for between each put and its commit: what they have committed before is found, and after it they commit
//! nothing. Each attempt draws an incarnation of its own, so nothing that another attempt has put is ever overwritten; one that came as far as
//! the new backup is itself what the next one begins from. The folder of this machine is usable only when all is done.

pub mod find;
pub mod objects;
pub mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::{Backend, BackendError, InvalidKey, Purpose, Segments};
use seawall_metadata::backup::LogPoint;
use seawall_metadata::command::OFFSET_JUMP;
use seawall_metadata::log_store::LogError;
use seawall_metadata::restore::{self as plan, RollForward};
use seawall_metadata::{ClusterId, Incarnation, MetadataSnapshot, NodeId, ObjectId, State};
use tracing::info;
use uuid::Uuid;

use crate::backup::snapshot_pieces;
use crate::backup::store::{BackupReadError, BackupStore};
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{DataDirError, RestoreDir};
use crate::object_key::ObjectKeys;
use crate::store::Store;
use crate::store_marker::StoreMarker;

use find::{Base, Origin};
use objects::UnreadableObject;
use report::Report;

/// In which a running broker of the old incarnation has surely seen that it is ended, if it reaches the store.
pub const NOTICE: Duration = Duration::from_secs(30);

/// So many objects are named by an error; the report names all.
const EXAMPLES: usize = 5;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which cluster, where the store holds several or does not list them.
    pub cluster: Option<Uuid>,
    /// Which of its incarnations to begin the search from, where the store does not list them.
    pub incarnation: Option<Uuid>,
    /// Do it, rather than say what would be done.
    pub yes: bool,
    /// Do not wait for brokers of the old incarnation to notice: nobody else runs.
    pub no_wait: bool,
    /// Go on though objects are gone that streams are made of.
    pub without_missing: bool,
    /// Go on though objects cannot be read in which acked records may be.
    pub without_unreadable: bool,
    /// For tests: end after this step, as a crash would.
    pub stop_after: Option<Step>,
    /// For tests of the tests: how far streams go ahead.
    pub offset_jump: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster: None,
            incarnation: None,
            yes: false,
            no_wait: false,
            without_missing: false,
            without_unreadable: false,
            stop_after: None,
            offset_jump: OFFSET_JUMP,
        }
    }
}

/// What is done one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    FolderTaken,
    OldEnded,
    Planned,
    BackupMarked,
    BackupPut,
    MarkerPut,
    OldMarkersDeleted,
    LogWritten,
}

impl Step {
    pub const ALL: [Self; 8] = [
        Self::FolderTaken,
        Self::OldEnded,
        Self::Planned,
        Self::BackupMarked,
        Self::BackupPut,
        Self::MarkerPut,
        Self::OldMarkersDeleted,
        Self::LogWritten,
    ];
}

/// Why nothing, or not all, was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the data folder {dir} is not empty: it holds {found}. A restore makes a new one; move this one away")]
    NotEmpty { dir: PathBuf, found: String },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the object store: {0}")]
    Store(#[from] BackendError),
    #[error("backend.prefix: {0}")]
    Prefix(#[from] InvalidKey),
    #[error(
        "no cluster is to be found in the object store, {place}, under backend.prefix = \"{prefix}\". If the store does not list \
         what it holds, name the cluster and its incarnation with --cluster and --incarnation; both are in the names of its objects"
    )]
    NoCluster { place: String, prefix: String },
    #[error("the object store holds several clusters, {}: say which with --cluster", found.join(", "))]
    SeveralClusters { found: Vec<String> },
    #[error("incarnations of this cluster follow each other in two ways, {}: say with --incarnation which to begin from", found.join(", "))]
    SeveralIncarnations { found: Vec<String> },
    #[error("cluster {cluster} has no backup of its metadata in the object store: there is nothing to restore from")]
    NoBackup { cluster: ClusterId },
    #[error("no snapshot of incarnation {incarnation} is whole: {}", damaged.join("; "))]
    Damaged { incarnation: Incarnation, damaged: Vec<String> },
    #[error("the backup was written by a newer version: {0}")]
    Newer(String),
    #[error("the backup cannot be read: {0}")]
    Backup(#[from] BackupReadError),
    #[error(
        "{count} objects are gone that streams are made of, such as {example}: with --without-missing the rest is restored, and \
         reading what they held is an error"
    )]
    Missing { count: usize, example: ObjectId },
    #[error(
        "{count} objects that were stored after the backup cannot be read: {}. Acked records may be in them: bring them back, or with \
         --without-unreadable the rest is restored, and what is in them is lost", examples.join(", ")
    )]
    Unreadable { count: usize, examples: Vec<String> },
    #[error("object {object} cannot be read: {why}")]
    Object { object: ObjectId, why: String },
    #[error(transparent)]
    State(#[from] plan::RestoreError),
    #[error("the metadata log in {dir}: {error}")]
    Log { dir: PathBuf, error: LogError },
    #[error("another restore of this cluster, to incarnation {found}, is under way: end one of them")]
    Another { found: String },
    #[error("stopped after {0:?}")]
    Stopped(Step),
}

impl Options {
    fn after(&self, step: Step) -> Result<(), RestoreError> {
        if self.stop_after == Some(step) { Err(RestoreError::Stopped(step)) } else { Ok(()) }
    }
}

/// Where the cluster is restored from.
pub struct Bucket {
    pub backend: Arc<dyn Backend>,
    /// `backend.prefix`
    pub prefix: String,
    /// For people.
    pub place: String,
}

/// Who the restored cluster begins with.
#[derive(Debug, Clone, Copy)]
pub struct Anew {
    /// Never used before: each attempt draws one.
    pub incarnation: Incarnation,
    pub node: NodeId,
}

/// What the metadata log of the new incarnation begins with. All that is in the store is done.
#[derive(Debug)]
pub struct Restored {
    pub cluster: ClusterId,
    pub at: LogPoint,
    pub data: Vec<u8>,
}

/// Told to a person while it runs.
pub type Progress<'a> = &'a (dyn Fn(String) + Sync);

/// What is restored from, all of it read.
struct Found {
    base: Base,
    forward: RollForward,
    missing: Vec<ObjectId>,
    unreadable: Vec<UnreadableObject>,
}

/// Restores, or says what a restore would give.
pub async fn restore(
    config: &Config,
    store: &Store,
    clock: &Clock,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Report, RestoreError> {
    let dir = RestoreDir::open(&config.node.data_dir, &config.store(), options.yes)?;
    let (prefix, place) = (config.backend.prefix.clone(), config.store().place());
    let bucket = Bucket { backend: store.backend.clone(), prefix, place };
    let anew = Anew { incarnation: Incarnation(Uuid::new_v4()), node: NodeId(config.node.id) };
    let (report, restored) = restore_bucket(&bucket, anew, clock, options, progress).await?;
    let Some(Restored { cluster, at, data }) = restored else { return Ok(report) };
    dir.write_log(&config.metadata_dir(), |folder| plan::write_log(folder, anew.node, at, data))?;
    options.after(Step::LogWritten)?;
    dir.finish(anew.node, cluster, anew.incarnation)?;
    progress("restored".to_owned());
    Ok(report)
}

/// All of it that happens in the store. In a dry run nothing does, and nothing is restored.
pub async fn restore_bucket(
    store: &Bucket,
    Anew { incarnation, node }: Anew,
    clock: &Clock,
    options: &Options,
    progress: Progress<'_>,
) -> Result<(Report, Option<Restored>), RestoreError> {
    let origin = find::find(store, options).await?;
    progress(format!("cluster {}, incarnation {}", origin.cluster, origin.newest()));
    let keys = ObjectKeys::new(&store.prefix, origin.cluster)?;
    let before = read(store, &keys, &origin, progress).await?;
    if !options.yes {
        return Ok((Report::new(&before, None, clock.now_ms()), None));
    }
    check_whole(&before, options)?;
    options.after(Step::FolderTaken)?;

    let prefix = &store.prefix;
    let old = StoreMarker::new(prefix, origin.cluster, origin.newest());
    put(store, &old.ended_key(), old.ended_text(incarnation)).await?;
    info!(old = %origin.newest(), new = %incarnation, "the old incarnation is ended");
    options.after(Step::OldEnded)?;
    if !options.no_wait {
        for left in (1..=NOTICE.as_secs()).rev() {
            progress(format!("{left} s for brokers of the old incarnation to notice"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    only_ours(store, &origin, &old, incarnation).await?;

    // Again: what was committed before the end is there now, and nothing is committed after it.
    let found = read(store, &keys, &origin, progress).await?;
    check_whole(&found, options)?;
    let state = found.base.replay.state.clone();
    let state = state.restored(&found.forward, incarnation, node, options.offset_jump)?;
    let report = Report::new(&found, Some(&state), clock.now_ms());
    options.after(Step::Planned)?;

    let term = found.base.replay.term + 1;
    let (at, data) = plan::first_snapshot(&state, term);
    let backup = BackupStore::new(store.backend.clone(), &keys, origin.cluster, incarnation);
    write_backup(&backup, &state, at, data.clone(), clock, options).await?;
    options.after(Step::BackupPut)?;

    only_ours(store, &origin, &old, incarnation).await?;
    let ours = StoreMarker::new(prefix, origin.cluster, incarnation);
    put(store, &ours.key(), ours.text().into()).await?;
    options.after(Step::MarkerPut)?;
    let mut others = origin.markers.clone();
    others.extend(origin.chain.iter().map(|old| StoreMarker::new(prefix, origin.cluster, *old).key()));
    others.retain(|key| *key != ours.key());
    others.sort();
    others.dedup();
    for (_, answer) in store.backend.delete_many(others, Purpose::Metadata).await {
        answer?;
    }
    options.after(Step::OldMarkersDeleted)?;
    Ok((report, Some(Restored { cluster: origin.cluster, at, data })))
}

/// Of two that are under way the one whose word stands goes on, and none behind one that has come to its end.
async fn only_ours(store: &Bucket, origin: &Origin, old: &StoreMarker, ours: Incarnation) -> Result<(), RestoreError> {
    let word = old.ended_by(&*store.backend, Purpose::Metadata).await?.unwrap_or_default();
    if word != ours.to_string() {
        return Err(RestoreError::Another { found: word });
    }
    match find::came_up(store, origin).await? {
        Some(marker) => Err(RestoreError::Another { found: marker.file_name().to_owned() }),
        None => Ok(()),
    }
}

async fn read(
    store: &Bucket,
    keys: &ObjectKeys,
    origin: &Origin,
    progress: Progress<'_>,
) -> Result<Found, RestoreError> {
    let base = find::base(store, keys, origin, progress).await?;
    let scan = objects::scan(store, keys, &base, progress).await?;
    let forward = plan::roll_forward(&base.replay.state, &scan.found);
    Ok(Found { base, forward, missing: scan.missing, unreadable: scan.unreadable })
}

/// Whether all is there, but for what may be left out.
fn check_whole(found: &Found, options: &Options) -> Result<(), RestoreError> {
    let Found { missing, unreadable, .. } = found;
    if !unreadable.is_empty() && !options.without_unreadable {
        let examples = unreadable.iter().take(EXAMPLES).map(|object| format!("{} ({})", object.key, object.why));
        return Err(RestoreError::Unreadable { count: unreadable.len(), examples: examples.collect() });
    }
    match missing.first() {
        Some(example) if !options.without_missing => {
            Err(RestoreError::Missing { count: missing.len(), example: *example })
        }
        _ => Ok(()),
    }
}

/// The new incarnation's first backup: from here on it can be restored itself.
async fn write_backup(
    backup: &BackupStore,
    state: &State,
    at: LogPoint,
    data: Vec<u8>,
    clock: &Clock,
    options: &Options,
) -> Result<(), RestoreError> {
    backup.put_mark(1).await?;
    options.after(Step::BackupMarked)?;
    let snapshot = MetadataSnapshot { at, now_ms: state.now_ms(), data };
    let written_ms = clock.now_ms().max(0).unsigned_abs();
    for (number, piece) in snapshot_pieces(backup, 1, snapshot, written_ms).enumerate() {
        backup.put_piece(1, number as u32, piece, Purpose::Metadata).await?;
    }
    Ok(())
}

async fn put(store: &Bucket, key: &seawall_backends::ObjectKey, text: Bytes) -> Result<(), RestoreError> {
    Ok(store.backend.put(key, Segments::from(text), Purpose::Metadata).await?)
}
