//! Deletes objects that nothing refers to, a grace period after the last reference went.
//!
//! Metadata marks them: superseded by a compaction, passed by a log start, left by a deleted topic, or reserved by an upload
//! that came to nothing. A run takes the oldest of those whose grace is over, deletes them from the store, and lets metadata forget
//! those that went. The grace is counted in metadata time, which no wall clock moves.
//!
//! Promises: only what metadata has marked is deleted, and what is marked is never used again; what a kept backup of metadata
//! may still name stays (it was marked when the oldest snapshot that is kept had been taken, or later); nothing is deleted without the
//! lease, nor in a store whose marker names another incarnation; a crash between the steps repeats a delete. However many
//! objects wait, one batch is under way at a time, in the store and in metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_backends::{Backend, DELETE_BATCH_KEYS, Purpose};
use seawall_metadata::{Command, Incarnation, ObjectId, ProposeError, Rejection, State};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::backup::RestoreWindow;
use crate::delete_guard::{MayNotDelete, may_delete};
use crate::left_parts::{AbortError, LeftParts};
use crate::object_key::{FOLDERS, ObjectKeys};
use crate::retention::PacedClock;
use crate::storage::Storage;
use crate::store_marker::StoreMarker;

/// How objects are deleted.
#[derive(Debug, Clone)]
pub struct DeletionSettings {
    /// From an object's mark to its deletion, in metadata time.
    pub grace: Duration,
    /// How often it is looked for objects to delete.
    pub tick: Duration,
    /// Objects of one run at most.
    pub objects_max: usize,
    /// Pause after a full run for each object that it deleted.
    pub pause_per_object: Duration,
}

impl Default for DeletionSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(600),
            tick: Duration::from_secs(1),
            objects_max: DELETE_BATCH_KEYS,
            pause_per_object: Duration::from_millis(1),
        }
    }
}

/// What a deletion is made of.
pub struct DeletionParts {
    pub storage: Arc<Storage>,
    pub backend: Arc<dyn Backend>,
    pub keys: ObjectKeys,
    pub incarnation: Incarnation,
    pub marker: StoreMarker,
    /// What a restore could still name.
    pub window: Arc<RestoreWindow>,
    pub settings: DeletionSettings,
}

/// An object whose grace is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueObject {
    pub object: ObjectId,
    pub marked_ms: u64,
    /// `None` if it was never committed: then it is of the incarnation that reserved it.
    pub incarnation: Option<Incarnation>,
}

/// The metadata time at or before which objects had to be marked: a grace ago, and before the oldest snapshot was taken that is
/// kept for a restore. `None` while that cannot be.
pub fn marked_before_ms(state: &State, grace: Duration, window: &RestoreWindow) -> Option<u64> {
    let grace_over = state.now_ms().checked_sub(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX))?;
    // Within the millisecond of the snapshot nobody knows which came first.
    Some(grace_over.min(window.begins_ms().checked_sub(1)?))
}

/// The oldest objects that were marked by then, of those that come behind `after` by time of their mark and id. Those of
/// incarnations before this one stay until it is declared the only one.
pub fn due(state: &State, before_ms: u64, after: Option<(u64, ObjectId)>, objects_max: usize) -> Vec<DueObject> {
    let due = |(marked_ms, object): (u64, ObjectId)| {
        let known = state.object(object);
        assert!(known.is_some_and(|known| known.references == 0), "{object:?} is marked and referenced");
        DueObject {
            object,
            marked_ms,
            incarnation: known.and_then(|known| known.record).map(|record| record.incarnation),
        }
    };
    let kept = |due: &DueObject| due.incarnation.is_some_and(|incarnation| state.keeps_objects_of(incarnation));
    state.marked_behind(after, before_ms).map(due).filter(|due| !kept(due)).take(objects_max).collect()
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct DeletionCounters {
    deleted: AtomicU64,
    failures: AtomicU64,
    refused_runs: AtomicU64,
    swept_parts: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeletionStatus {
    /// Objects that went, those that were never stored included.
    pub deleted: u64,
    /// Deletes that the store did not confirm; they are repeated.
    pub failures: u64,
    /// Runs that did not begin because the store is not, or not known to be, this incarnation's.
    pub refused_runs: u64,
    /// Objects that were begun in parts, left, and aborted.
    pub swept_parts: u64,
}

impl DeletionCounters {
    pub fn status(&self) -> DeletionStatus {
        DeletionStatus {
            deleted: self.deleted.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            refused_runs: self.refused_runs.load(Ordering::Relaxed),
            swept_parts: self.swept_parts.load(Ordering::Relaxed),
        }
    }
}

/// How often it is looked for what was begun in parts and left; the first time after as long, so that a clock that was wrong at boot may be corrected.
const SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);
/// A store that refuses is named in the log this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Deletes until this broker may not any more, or its future is dropped.
pub struct ObjectDeletion {
    parts: DeletionParts,
    counters: Arc<DeletionCounters>,
    complained: Option<Instant>,
    /// The last one that the store did not delete: the next run begins behind it, and from the front again at the end, so that objects
    /// that nobody may delete hold up no others.
    behind: Option<(u64, ObjectId)>,
}

/// What a run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Nothing was due.
    Idle,
    /// So many are forgotten; more may be due.
    Deleted(usize),
    /// The store or metadata did not let it; later it may.
    Held,
    /// This broker may not delete any more.
    Fenced,
}

impl ObjectDeletion {
    pub fn new(parts: DeletionParts) -> (Self, Arc<DeletionCounters>) {
        let counters = Arc::new(DeletionCounters::default());
        (Self { parts, counters: counters.clone(), complained: None, behind: None }, counters)
    }

    /// Returns when this broker is fenced, or metadata has stopped.
    pub async fn run(mut self) {
        let settings = self.parts.settings.clone();
        let clock = PacedClock::start(self.parts.storage.clock.clone());
        let mut tick = tokio::time::interval(settings.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep_at = Instant::now() + SWEEP_EVERY;
        loop {
            tick.tick().await;
            match self.run_once().await {
                Run::Deleted(objects) => tokio::time::sleep(settings.pause_per_object * objects as u32).await,
                Run::Idle | Run::Held => {}
                Run::Fenced => return,
            }
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + SWEEP_EVERY;
                self.sweep_parts(clock.now_ms()).await;
            }
        }
    }

    /// One batch.
    pub async fn run_once(&mut self) -> Run {
        let DeletionParts { storage, backend, keys, incarnation, marker, window, settings } = &self.parts;
        let (due, before_ms) = storage.metadata.read(|state| {
            let before_ms = marked_before_ms(state, settings.grace, window);
            let due =
                before_ms.map_or_else(Vec::new, |before_ms| due(state, before_ms, self.behind, settings.objects_max));
            (crate::faults::delete_referenced(state, due), before_ms)
        });
        let Some(before_ms) = before_ms.filter(|_| !due.is_empty()) else {
            self.behind = None;
            return Run::Idle;
        };
        if let Err(why) = may_delete(storage, &**backend, marker).await {
            self.refused(&why);
            return Run::Held;
        }
        let key = |due: &DueObject| keys.key(due.incarnation.unwrap_or(*incarnation), due.object);
        let answers = match crate::faults::keeps_orphans() {
            true => Vec::from_iter(due.iter().map(|due| (key(due), Ok(())))),
            false => backend.delete_many(due.iter().map(key).collect(), Purpose::Scrub).await,
        };
        assert_eq!(answers.len(), due.len(), "one answer per key");
        let mut gone = Vec::with_capacity(due.len());
        let mut failed = None;
        for (due, (_, answer)) in due.iter().zip(answers) {
            match answer {
                Ok(()) => gone.push(due.object),
                Err(error) => {
                    self.counters.failures.fetch_add(1, Ordering::Relaxed);
                    failed = Some((*due, error));
                }
            }
        }
        if let Some((due, _)) = &failed {
            self.behind = Some((due.marked_ms, due.object));
        }
        if let Some((due, error)) = failed
            && self.may_complain()
        {
            let object = due.object;
            warn!(%object, %error, "objects were not deleted, will try again");
        }
        if gone.is_empty() {
            return Run::Held;
        }
        self.forget(gone, before_ms).await
    }

    async fn forget(&self, gone: Vec<ObjectId>, marked_before_ms: u64) -> Run {
        let (count, by) = (gone.len(), self.parts.storage.registration);
        let forget = Command::ForgetObjects { by, objects: gone, marked_before_ms };
        match self.parts.storage.metadata.propose(forget).await {
            Ok(_) => {
                self.counters.deleted.fetch_add(count as u64, Ordering::Relaxed);
                debug!(objects = count, "objects that nothing referred to are deleted");
                Run::Deleted(count)
            }
            Err(ProposeError::Stopped) => Run::Fenced,
            Err(ProposeError::Rejected(rejection @ Rejection::NotDeletable(_))) => {
                // A bug on one side: whatever it was, it is not repeated at once.
                error!(%rejection, "metadata does not forget what was deleted");
                Run::Held
            }
            Err(ProposeError::Rejected(rejection)) => {
                info!(%rejection, "this broker deletes no objects any more");
                Run::Fenced
            }
            // Deleted once more if metadata does not know of it.
            Err(error) => {
                warn!(%error, "metadata does not answer a deletion, will ask again");
                Run::Held
            }
        }
    }

    /// Ends what uploads in parts have left behind.
    async fn sweep_parts(&mut self, now_ms: i64) {
        let DeletionParts { backend, keys, incarnation, storage, marker, .. } = &self.parts;
        let left_parts = LeftParts { storage, backend: &**backend, marker };
        for folder in 0..FOLDERS {
            let folder = keys.folder(*incarnation, folder);
            let found = match left_parts.find(&folder, now_ms).await {
                Ok(found) => found,
                Err(error) => return debug!(%folder, %error, "parts that were left are looked for later"),
            };
            for left in found {
                match left_parts.abort(&left).await {
                    Ok(()) => {
                        self.counters.swept_parts.fetch_add(1, Ordering::Relaxed);
                        info!(key = %left.begun.key, "an object that was begun in parts and left is aborted");
                    }
                    Err(AbortError::MayNot(why)) => return self.refused(&why),
                    Err(AbortError::Store(error)) => {
                        return debug!(%folder, %error, "parts that were left are aborted later");
                    }
                }
            }
        }
    }

    fn refused(&mut self, why: &MayNotDelete) {
        match why {
            MayNotDelete::NotOurs(_) => {
                self.counters.refused_runs.fetch_add(1, Ordering::Relaxed);
                if self.may_complain() {
                    error!(%why, "nothing is deleted");
                }
            }
            MayNotDelete::Unknown(_) | MayNotDelete::NoLease => debug!(%why, "nothing is deleted now"),
        }
    }

    fn may_complain(&mut self) -> bool {
        let may = self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if may {
            self.complained = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests;
