//! Backs metadata up into the store: a snapshot now and then, and between them the log, every few seconds.
//!
//! A broker that starts begins a generation of its own; so does one whose log was cut before it could be written, or that leads
//! metadata again. Old generations are deleted once enough newer ones are whole. Only the metadata leader writes.
//!
//! Promises: a piece is put only when all before it are in the store, and repeated with the same bytes until it is there or this
//! node leads no more; a stop at any moment tries to leave a backup of everything; whatever the store does, the broker goes on; what a
//! kept snapshot names is not deleted from the store ([`RestoreWindow`]). Memory holds one snapshot, or one piece of the log, at a time.

pub mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use seawall_backends::{BackendError, Purpose};
use seawall_metadata::backup::{LogEntry, LogPoint, PIECE_BYTES_MAX, PieceHead, PieceKind, encode_log, encode_piece};
use seawall_metadata::{LogSlice, MetadataHandle, MetadataSnapshot, ProposeError};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;

use store::{BackupReadError, BackupStore};

/// How metadata is backed up.
#[derive(Debug, Clone)]
pub struct BackupSettings {
    /// How often the log is written, if there is any.
    pub interval: Duration,
    /// How often a snapshot is taken, if anything has changed.
    pub snapshot_interval: Duration,
    /// Whole generations that are kept, at least 2: so that one may be damaged.
    pub snapshots_kept: usize,
}

/// A generation's log may grow to this, or to twice its snapshot, before the next begins.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How far back a start looks for generations that are whole. If it does not find enough, older ones stay until there are enough new ones.
const LOOK_BACK: u64 = 8;
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How long a stop waits for the last piece.
const LAST_PIECE: Duration = Duration::from_secs(3);

/// The metadata time from which on objects that lose their last reference may still be named by a snapshot that is kept:
/// what was marked then or later is not deleted yet.
#[derive(Debug)]
pub struct RestoreWindow(AtomicU64);

impl RestoreWindow {
    /// No snapshots are kept: nothing waits for them.
    pub fn none() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(u64::MAX)))
    }

    /// It is not known yet which snapshots there are: everything waits.
    pub fn unknown() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(0)))
    }

    pub fn begins_ms(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The oldest snapshot that is kept was taken then.
    pub fn moves_to(&self, oldest_kept_ms: u64) {
        self.0.store(oldest_kept_ms, Ordering::Release);
    }
}

/// How the backup does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BackupStatus {
    pub enabled: bool,
    /// 0 before the first.
    pub generation: u64,
    /// The last log entry that is in the store.
    pub index: u64,
    /// Entries that are not.
    pub lag_entries: u64,
    /// For how long there have been such.
    pub lag_seconds: u64,
    /// Whole generations in the store, as far as this process knows.
    pub snapshots: u64,
    pub bytes_written: u64,
    /// Calls that failed; they are repeated.
    pub failures: u64,
}

/// What others see of the backup.
pub struct BackupView {
    metadata: MetadataHandle,
    enabled: bool,
    progress: Mutex<Progress>,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    generation: u64,
    snapshots: u64,
    index: u64,
    /// When everything up to `index` was all there was.
    covered_at: Instant,
    bytes_written: u64,
    failures: u64,
}

impl BackupView {
    pub fn new(metadata: MetadataHandle, enabled: bool) -> Arc<Self> {
        let progress = Progress {
            generation: 0,
            snapshots: 0,
            index: 0,
            covered_at: Instant::now(),
            bytes_written: 0,
            failures: 0,
        };
        Arc::new(Self { metadata, enabled, progress: Mutex::new(progress) })
    }

    pub fn status(&self) -> BackupStatus {
        let Progress { generation, snapshots, index, covered_at, bytes_written, failures } = *self.locked();
        let lag_entries = if self.enabled { self.metadata.applied().saturating_sub(index) } else { 0 };
        let lag_seconds = if lag_entries == 0 { 0 } else { covered_at.elapsed().as_secs() };
        let enabled = self.enabled;
        BackupStatus { enabled, generation, index, lag_entries, lag_seconds, snapshots, bytes_written, failures }
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.locked());
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic under this lock")
    }
}

/// A generation that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    generation: u64,
    now_ms: u64,
}

/// Where the next piece goes.
#[derive(Debug, Clone, Copy)]
struct Position {
    generation: u64,
    number: u32,
    /// The last entry that is in the store.
    at: LogPoint,
    begun: Instant,
    log_bytes: u64,
    log_bytes_max: u64,
}

/// Why a generation ends, or came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Its successor should begin.
    Due,
    /// The metadata node has stopped.
    Stopped,
}

/// Writes backups until the broker stops.
pub struct Backup {
    metadata: MetadataHandle,
    store: BackupStore,
    clock: Clock,
    settings: BackupSettings,
    window: Arc<RestoreWindow>,
    view: Arc<BackupView>,
    /// Oldest first.
    kept: Vec<Kept>,
    /// The newest generation that this process has found or begun, and the newest of which it knows that its mark is there.
    newest: u64,
    marked: u64,
    /// There may be whole generations before those that are kept.
    older_unseen: bool,
    swept: bool,
    complained: Option<Instant>,
}

impl Backup {
    pub fn new(
        metadata: MetadataHandle,
        store: BackupStore,
        clock: Clock,
        settings: BackupSettings,
        window: Arc<RestoreWindow>,
        view: Arc<BackupView>,
    ) -> Self {
        assert!(settings.snapshots_kept >= 2, "checked by the configuration");
        Self {
            metadata,
            store,
            clock,
            settings,
            window,
            view,
            kept: Vec::new(),
            newest: 0,
            marked: 0,
            older_unseen: false,
            swept: false,
            complained: None,
        }
    }

    /// Returns when the broker stops, or metadata has; it writes what is left first, if the store takes it soon.
    pub async fn run(mut self, stopping: CancellationToken) {
        tokio::select! {
            biased;
            () = self.go_on() => return,
            () = stopping.cancelled() => {}
        }
        // Whatever was under way: a piece that was on its way may be there or not, so the last words go into a generation of their own.
        // Nothing is deleted any more.
        let last = tokio::time::timeout(LAST_PIECE, self.begin()).await;
        debug!(written = last.is_ok_and(|begun| begun.is_ok()), "the last backup before the stop");
    }

    /// Returns when metadata has stopped.
    async fn go_on(&mut self) {
        self.find().await;
        loop {
            let ended = match self.begin().await {
                Ok(mut position) => {
                    self.drop_old().await;
                    self.follow(&mut position).await
                }
                Err(ended) => ended,
            };
            if ended == Ended::Stopped {
                return;
            }
        }
    }

    /// The generations of those before that are whole.
    async fn find(&mut self) {
        self.look_for_newest().await;
        let newest = self.newest;
        let oldest = newest.saturating_sub(LOOK_BACK);
        for generation in (oldest + 1..=newest).rev() {
            if self.kept.len() == self.settings.snapshots_kept {
                return;
            }
            let mut backoff = BACKOFF_MIN;
            loop {
                match self.store.snapshot(generation).await {
                    Ok(snapshot) => self.kept.insert(0, Kept { generation, now_ms: snapshot.now_ms }),
                    Err(BackupReadError::Unavailable { error, .. }) if error.is_retriable() => {
                        self.failed(&error, &mut backoff).await;
                        continue;
                    }
                    Err(BackupReadError::Missing { .. }) => debug!(generation, "a backup that was begun and not made"),
                    Err(error) => {
                        warn!(generation, %error, "a backup of metadata cannot be used");
                        self.older_unseen |= matches!(error, BackupReadError::Unavailable { .. });
                    }
                }
                break;
            }
        }
        self.older_unseen |= oldest > 0 && self.kept.len() < self.settings.snapshots_kept;
        if self.older_unseen {
            let kept = self.settings.snapshots_kept;
            warn!(
                oldest,
                "fewer than {kept} whole backups were found: older ones stay until {kept} new ones are whole"
            );
        }
    }

    async fn look_for_newest(&mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.store.newest_generation_behind(self.marked).await {
                Ok(marked) => {
                    self.marked = marked;
                    self.newest = self.newest.max(marked);
                    return;
                }
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        }
    }

    /// Writes the snapshot of the next generation, as the leader.
    async fn begin(&mut self) -> Result<Position, Ended> {
        while !self.metadata.is_leader() {
            tokio::time::sleep(self.settings.interval).await;
        }
        // While another led, it began generations too.
        self.look_for_newest().await;
        let generation = self.newest + 1;
        self.newest = generation;
        // One that was cut off may have left no mark, and marks have no gap.
        while self.marked < generation {
            let mut backoff = BACKOFF_MIN;
            while let Err(error) = self.store.put_mark(self.marked + 1).await {
                self.failed_as_leader(&error, &mut backoff).await?;
            }
            self.marked += 1;
        }
        let snapshot = self.metadata.snapshot().await.map_err(|_| Ended::Stopped)?;
        let taken = Instant::now();
        let written_ms = self.clock.now_ms().max(0).unsigned_abs();
        let (at, now_ms, snapshot_bytes) = (snapshot.at, snapshot.now_ms, snapshot.data.len());
        let mut parts = 0;
        let store = self.store.clone();
        for piece in snapshot_pieces(&store, generation, snapshot, written_ms) {
            self.put_piece(generation, parts, piece, Purpose::Scrub).await?;
            parts += 1;
        }
        self.kept.push(Kept { generation, now_ms });
        self.view.note(|progress| {
            progress.generation = generation;
            progress.index = at.index;
            progress.covered_at = taken;
        });
        info!(generation, index = at.index, snapshot_bytes, "metadata is backed up");
        let log_bytes_max = LOG_BYTES_MAX.max(2 * snapshot_bytes as u64);
        Ok(Position { generation, number: parts, at, begun: taken, log_bytes: 0, log_bytes_max })
    }

    /// Writes the log behind the snapshot, until the next generation is due.
    async fn follow(&mut self, position: &mut Position) -> Ended {
        loop {
            tokio::time::sleep(self.settings.interval).await;
            let read_at = Instant::now();
            loop {
                if !self.metadata.is_leader() {
                    return Ended::Due;
                }
                let slice = self.metadata.log_from(position.at.index + 1, PIECE_BYTES_MAX as u64 / 2).await;
                let LogSlice { entries, applied } = match slice {
                    Ok(Some(slice)) => slice,
                    Ok(None) => {
                        info!(
                            index = position.at.index,
                            "the metadata log was cut before it was backed up: a snapshot comes next"
                        );
                        return Ended::Due;
                    }
                    Err(ProposeError::Stopped) => return Ended::Stopped,
                    Err(error) => {
                        debug!(%error, "the metadata log cannot be read now");
                        break;
                    }
                };
                if let Err(ended) = self.write_log(position, &entries).await {
                    return ended;
                }
                if position.at.index >= applied {
                    self.view.note(|progress| progress.covered_at = read_at);
                    break;
                }
            }
            let old = position.begun.elapsed() >= self.settings.snapshot_interval && position.log_bytes > 0;
            if old || position.log_bytes > position.log_bytes_max {
                return Ended::Due;
            }
        }
    }

    async fn write_log(&mut self, position: &mut Position, entries: &[LogEntry]) -> Result<(), Ended> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        assert_eq!(first.index, position.at.index + 1, "a backup of the log has no gap");
        let written_ms = self.clock.now_ms().max(0).unsigned_abs();
        let (generation, number) = (position.generation, position.number);
        let head = head(&self.store, generation, number, PieceKind::Log, (first.point(), last.point()), written_ms);
        let bytes = Bytes::from(encode_piece(&head, &encode_log(entries)));
        position.log_bytes += bytes.len() as u64;
        if !crate::faults::leaves_out_piece() {
            self.put_piece(position.generation, position.number, bytes, Purpose::Metadata).await?;
        }
        position.number += 1;
        position.at = last.point();
        self.view.note(|progress| progress.index = last.index);
        Ok(())
    }

    /// Puts until the store has taken it.
    async fn put_piece(&mut self, generation: u64, number: u32, bytes: Bytes, purpose: Purpose) -> Result<(), Ended> {
        let mut backoff = BACKOFF_MIN;
        while let Err(error) = self.store.put_piece(generation, number, bytes.clone(), purpose).await {
            self.failed_as_leader(&error, &mut backoff).await?;
        }
        self.view.note(|progress| progress.bytes_written += bytes.len() as u64);
        Ok(())
    }

    /// An outage may outlast the leadership: then others write.
    async fn failed_as_leader(&mut self, error: &BackendError, backoff: &mut Duration) -> Result<(), Ended> {
        self.failed(error, backoff).await;
        if self.metadata.is_leader() { Ok(()) } else { Err(Ended::Due) }
    }

    async fn failed(&mut self, error: &BackendError, backoff: &mut Duration) {
        self.view.note(|progress| progress.failures += 1);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            warn!(%error, "metadata cannot be backed up now, will try again");
        }
        tokio::time::sleep(*backoff).await;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
    }

    /// Deletes generations that are not needed any more. What cannot be deleted now stays until another process begins.
    async fn drop_old(&mut self) {
        self.view.note(|progress| progress.snapshots = self.kept.len() as u64);
        self.older_unseen &= self.kept.len() < self.settings.snapshots_kept;
        if self.older_unseen {
            return;
        }
        let surplus = self.kept.len().saturating_sub(self.settings.snapshots_kept);
        let dropped: Vec<Kept> = self.kept.drain(..surplus).collect();
        let oldest = self.kept[0];
        self.window.moves_to(oldest.now_ms);
        self.view.note(|progress| progress.snapshots = self.kept.len() as u64);
        for Kept { generation, .. } in dropped {
            if let Err(error) = self.store.delete_generation(generation).await {
                debug!(generation, %error, "an old backup stays for now");
            }
        }
        if !std::mem::replace(&mut self.swept, true)
            && let Err(error) = self.store.sweep_below(oldest.generation).await
        {
            debug!(%error, "old backups stay for now");
        }
    }
}

/// The pieces of a snapshot, in order: numbers 0 and on of its generation.
pub(crate) fn snapshot_pieces(
    store: &BackupStore,
    generation: u64,
    snapshot: MetadataSnapshot,
    written_ms: u64,
) -> impl Iterator<Item = Bytes> + Send + use<'_> {
    let MetadataSnapshot { at, now_ms, data } = snapshot;
    let parts = data.len().div_ceil(PIECE_BYTES_MAX).max(1) as u32;
    (0..parts).map(move |part| {
        let kind = PieceKind::Snapshot { part, parts, now_ms };
        let from = part as usize * PIECE_BYTES_MAX;
        let payload = &data[from..data.len().min(from + PIECE_BYTES_MAX)];
        Bytes::from(encode_piece(&head(store, generation, part, kind, (at, at), written_ms), payload))
    })
}

fn head(
    store: &BackupStore,
    generation: u64,
    number: u32,
    kind: PieceKind,
    (first, last): (LogPoint, LogPoint),
    written_ms: u64,
) -> PieceHead {
    let (cluster, incarnation) = (store.cluster, store.incarnation);
    PieceHead { cluster, incarnation, generation, number, kind, first, last, written_ms }
}

#[cfg(test)]
mod tests;
