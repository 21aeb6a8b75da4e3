//! Looks at every object of the cluster beside metadata, online: what is missing, corrupt, not what metadata says, or nobody's.
//!
//! Folder by folder of the key scheme: first each object that metadata uses is asked for by its key, whatever a listing says; then
//! what the store lists is judged by metadata as it is after the listing (`judge.rs`), and asked for before anything is said of
//! it. So a listing that omits, delays or resurrects leads to no wrong finding, at most to one that a later scrub makes.
//!
//! Promises: memory holds one page of a listing and a bounded number of ranges, however many objects there are; requests and bytes are
//! paced and give way to everybody else; only what metadata can never refer to again is deleted, only in this incarnation's folders,
//! only with the lease and our marker alone in the store; dropping the future ends it, and [`Saved`] knows where it stood.

pub mod cursor;
pub mod judge;
mod metrics;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use seawall_backends::{Backend, BackendError, ObjectKey, Purpose};
use seawall_metadata::{Incarnation, ObjectId, State};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::delete_guard::may_delete;
use crate::left_parts::LeftParts;
use crate::object_check::{Depth, Look, LookError, Pacing, Source, look_twice};
use crate::object_key::{FOLDERS, ObjectKeys};
use crate::object_reader::ObjectRef;
use crate::storage::Storage;
use crate::store_marker::StoreMarker;
use cursor::{Cursor, Finished, NoCursor, Saved, Step, Totals, Unfinished};
use judge::{Kind, Listed, UsedObject, UsedObjects, is_used, judge_listed, mismatches};
pub use metrics::ScrubMetrics;

/// A request costs at least as much of the rate as so many bytes, a listing as much as its page may be for a store.
const REQUEST_BYTES: u64 = 64 << 10;
const LISTING_BYTES: u64 = 1 << 20;
/// Ranges that are held at a time, and those that metadata is asked for at a time.
const RANGES_MAX: usize = 65_536;
const RANGES_STEP: usize = 2_048;
/// Objects that are read at a time.
const READS_MAX: usize = 8;
/// How often the place is saved, at most.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How long a store that fails is asked again.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What is missing is asked for once more after this.
const MISSING_PAUSE: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRequest {
    /// Reads the data blocks too.
    pub deep: bool,
    /// Deletes orphans, and aborts what was begun in parts and left.
    pub repair: bool,
    /// Bytes per second.
    pub rate: u64,
    /// `start`, or a [`Cursor`]; otherwise it goes on where the last one was stopped.
    pub from: Option<String>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: Kind,
    /// A key, or a folder for what is told together.
    pub key: String,
    pub what: String,
    /// How many objects it is about.
    pub objects: u64,
    /// The command to look closer.
    pub look: Option<String>,
    /// What was done about it.
    pub done: Option<String>,
}

/// Where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub cursor: String,
    pub folders_done: u32,
    pub folders: u32,
    pub totals: Totals,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub deep: bool,
    /// It went on where an earlier one was stopped, and counts what that one found.
    pub resumed: bool,
    pub totals: Totals,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    #[error("a scrub is under way already")]
    Busy,
    #[error(transparent)]
    NoCursor(#[from] NoCursor),
    #[error("{0} is no incarnation of this cluster")]
    NoIncarnation(Incarnation),
    #[error("{what}: {error}; the same command goes on from there")]
    Store { what: String, error: BackendError },
}

pub struct ScrubParts {
    pub storage: Arc<Storage>,
    pub backend: Arc<dyn Backend>,
    pub keys: ObjectKeys,
    pub incarnation: Incarnation,
    pub marker: StoreMarker,
    /// Where it is saved how far one has come; none: nowhere.
    pub data_dir: Option<PathBuf>,
    pub metrics: ScrubMetrics,
}

impl ScrubParts {
    fn saved(&self) -> Saved {
        self.data_dir.as_deref().map_or_else(Saved::default, Saved::load)
    }
}

/// Scrubs one at a time.
pub struct Scrub {
    parts: ScrubParts,
    running: Mutex<()>,
}

impl Scrub {
    pub fn new(parts: ScrubParts) -> Scrub {
        if let Some(finished) = parts.saved().finished {
            parts.metrics.show(&finished);
        }
        Scrub { parts, running: Mutex::new(()) }
    }

    /// Scrubs from where it is asked to. Findings go to `found` as they are made; who does not take them holds it up.
    pub async fn run(
        &self,
        request: &ScrubRequest,
        found: mpsc::Sender<Finding>,
        progress: watch::Sender<Progress>,
    ) -> Result<Summary, ScrubError> {
        let _running = self.running.try_lock().map_err(|_| ScrubError::Busy)?;
        let saved = self.parts.saved();
        let own = self.parts.incarnation;
        let (mut cursor, mut totals) = (Cursor::start(own), Totals::default());
        let mut resumed = false;
        match request.from.as_deref() {
            Some("start") => {}
            Some(text) => cursor = text.parse()?,
            None => {
                let unfinished = saved.unfinished.as_ref().filter(|unfinished| unfinished.deep == request.deep);
                let place = unfinished.and_then(|unfinished| Some((unfinished.cursor.parse().ok()?, unfinished)));
                if let Some((place, unfinished)) = place {
                    (cursor, totals, resumed) = (place, unfinished.totals.clone(), true);
                }
            }
        }
        info!(%cursor, deep = request.deep, repair = request.repair, resumed, "scrub begins");
        let pace = Arc::new(Pace { next: StdMutex::new(Instant::now()), rate: request.rate.max(1) });
        let run = Run { parts: &self.parts, request, found, progress, saved, saved_at: None, totals, pace, folders: 0 };
        let totals = run.go_on(cursor).await?;
        info!(?totals, "scrub ended");
        Ok(Summary { deep: request.deep, resumed, totals })
    }
}

/// Spreads requests over time, in the order in which they ask.
struct Pace {
    next: StdMutex<Instant>,
    rate: u64,
}

impl Pacing for Arc<Pace> {
    async fn before_read(&mut self, bytes: u64) {
        self.take(bytes.max(REQUEST_BYTES)).await;
    }
}

impl Pace {
    async fn take(&self, bytes: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let (begin, now) = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = now.max(*next);
            *next = begin + cost;
            (begin, now)
        };
        if begin > now {
            tokio::time::sleep_until(begin).await;
        }
    }
}

/// A scrub under way.
struct Run<'a> {
    parts: &'a ScrubParts,
    request: &'a ScrubRequest,
    found: mpsc::Sender<Finding>,
    progress: watch::Sender<Progress>,
    saved: Saved,
    saved_at: Option<Instant>,
    totals: Totals,
    pace: Arc<Pace>,
    /// Of all incarnations.
    folders: u32,
}

impl Run<'_> {
    /// To the end.
    async fn go_on(mut self, mut cursor: Cursor) -> Result<Totals, ScrubError> {
        let incarnations = self.incarnations().await?;
        self.folders = incarnations.len() as u32 * u32::from(FOLDERS);
        let place = incarnations.iter().position(|incarnation| *incarnation == cursor.incarnation);
        let first = place.ok_or(ScrubError::NoIncarnation(cursor.incarnation))?;
        for (number, incarnation) in incarnations.iter().enumerate().skip(first) {
            if number > first {
                cursor = Cursor::start(*incarnation);
            }
            for folder in cursor.folder..FOLDERS {
                if folder > cursor.folder {
                    cursor = Cursor { folder, ..Cursor::start(*incarnation) };
                }
                let done = number as u32 * u32::from(FOLDERS) + u32::from(folder);
                self.folder(&mut cursor, done).await?;
            }
        }
        let at_ms = self.parts.storage.clock.now_ms();
        let finished = Finished { at_ms, deep: self.request.deep, totals: self.totals.clone() };
        self.parts.metrics.show(&finished);
        self.saved.finished = Some(finished);
        self.saved.unfinished = None;
        self.save().await;
        Ok(self.totals)
    }

    /// Our own first, then those of which metadata or a marker tells.
    async fn incarnations(&mut self) -> Result<Vec<Incarnation>, ScrubError> {
        let parts = self.parts;
        let mut others: BTreeSet<Incarnation> = parts.storage.metadata.read(|state| {
            let of_objects = state.objects().filter_map(|(_, object)| Some(object.record?.incarnation));
            of_objects.chain(state.earlier_incarnations()).collect()
        });
        let mut patience = Patience::default();
        loop {
            self.pace.take(LISTING_BYTES).await;
            match parts.marker.incarnations(&*parts.backend, Purpose::Scrub).await {
                Ok(marked) => others.extend(marked),
                Err(error) => {
                    patience.wait("list the store's markers", error).await?;
                    continue;
                }
            }
            others.remove(&parts.incarnation);
            return Ok([parts.incarnation].into_iter().chain(others).collect());
        }
    }

    async fn folder(&mut self, cursor: &mut Cursor, done: u32) -> Result<(), ScrubError> {
        let is_own = cursor.incarnation == self.parts.incarnation;
        if let Step::Objects { from } = cursor.step {
            // Those of other incarnations are in folders of the same numbers, and were looked at with ours.
            let mut from = is_own.then_some(from);
            while let Some(first) = from {
                let (used, left_out) = self.used_objects(cursor.folder, first).await;
                for objects in used.chunks(READS_MAX) {
                    cursor.step = Step::Objects { from: objects[0].0 };
                    self.stand(cursor, done).await;
                    self.look_at(objects).await?;
                }
                from = left_out;
            }
            cursor.step = Step::Listing { after: None };
        }
        self.stand(cursor, done).await;
        self.listing(cursor, done).await?;
        if is_own {
            self.left_parts(cursor).await?;
        }
        Ok(())
    }

    /// Shows where it stands, and saves it now and then.
    async fn stand(&mut self, cursor: &Cursor, folders_done: u32) {
        let cursor = cursor.to_string();
        let totals = self.totals.clone();
        let unfinished = Unfinished { cursor: cursor.clone(), deep: self.request.deep, totals: totals.clone() };
        self.saved.unfinished = Some(unfinished);
        self.progress.send_replace(Progress { cursor, folders_done, folders: self.folders, totals });
        if self.saved_at.is_none_or(|at| at.elapsed() >= SAVE_EVERY) {
            self.save().await;
        }
    }

    async fn save(&mut self) {
        self.saved_at = Some(Instant::now());
        let Some(dir) = self.parts.data_dir.clone() else { return };
        let saved = self.saved.clone();
        let stored = tokio::task::spawn_blocking(move || saved.store(&dir)).await;
        if let Ok(Err(error)) = stored {
            warn!(%error, "where a scrub stands cannot be saved: one that is stopped begins anew");
        }
    }

    async fn tell(&mut self, finding: Finding) {
        *self.totals.findings.entry(finding.kind).or_default() += finding.objects;
        self.totals.repaired += if finding.done.is_some() { finding.objects } else { 0 };
        let Finding { kind, key, what, done, .. } = &finding;
        let done = done.as_deref().unwrap_or("nothing");
        if kind.is_damage() {
            error!(kind = kind.name(), key, what, done, "scrub");
        } else {
            info!(kind = kind.name(), key, what, done, "scrub");
        }
        // Who asked has gone: this future is dropped next.
        let _ = self.found.send(finding).await;
    }

    async fn used_objects(&self, folder: u16, from: ObjectId) -> (Vec<UsedObject>, Option<ObjectId>) {
        let mut used = UsedObjects::of(&self.parts.keys, folder, from, RANGES_MAX);
        while self.parts.storage.metadata.read(|state| used.step(state, RANGES_STEP)) {
            tokio::task::yield_now().await;
        }
        used.finish()
    }

    /// Objects that streams use: are they there, whole, and what metadata says?
    async fn look_at(&mut self, objects: &[UsedObject]) -> Result<(), ScrubError> {
        let mut reading = JoinSet::new();
        for (at, (object, _)) in objects.iter().enumerate() {
            let Some(known_as) = self.known(*object) else { continue };
            self.totals.objects += 1;
            self.parts.metrics.objects.inc();
            let look = self.look(known_as);
            reading.spawn(async move { (at, known_as, look.await) });
        }
        let mut read = Vec::with_capacity(reading.len());
        while let Some(joined) = reading.join_next().await {
            match joined {
                Ok(one) => read.push(one),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        read.sort_by_key(|(at, ..)| *at);
        for (at, known_as, seen) in read {
            self.judge_used(&objects[at], known_as, seen?).await?;
        }
        Ok(())
    }

    /// As long as streams use it.
    fn known(&self, object: ObjectId) -> Option<ObjectRef> {
        let known = |state: &State| ObjectRef::of(state, object).filter(|_| is_used(state, object));
        self.parts.storage.metadata.read(known)
    }

    async fn judge_used(
        &mut self,
        (object, ranges): &UsedObject,
        known_as: ObjectRef,
        mut seen: Option<Seen>,
    ) -> Result<(), ScrubError> {
        let metadata = &self.parts.storage.metadata;
        let key = self.parts.keys.key(known_as.incarnation, *object);
        if seen.is_none() && self.known(*object).is_some() {
            tokio::time::sleep(MISSING_PAUSE).await;
            seen = self.look(known_as).await?;
        }
        if let Some(Seen::Object(look)) = &seen {
            self.totals.read_bytes += look.read_bytes;
            self.parts.metrics.read_bytes.inc_by(look.read_bytes);
        }
        // What is not used any more may be gone, or change hands: nothing is said of it.
        if self.known(*object).is_none() {
            return Ok(());
        }
        let finding = |kind, what| Finding {
            kind,
            key: key.to_string(),
            what,
            objects: 1,
            look: Some(format!("seawall object verify {key}")),
            done: None,
        };
        let used_by = format!("{} ranges use it, the first is {}", ranges.len(), first_range(ranges));
        match seen {
            None => {
                let look = Some(format!("seawall backend stat {key}"));
                self.tell(Finding { look, ..finding(Kind::Missing, used_by) }).await;
            }
            Some(Seen::Newer(found)) => {
                self.tell(finding(Kind::NewerFormat, format!("object format {found}"))).await;
            }
            Some(Seen::Object(look)) if look.damaged_parts > 0 => {
                let (first, parts) = (&look.damage[0], look.damaged_parts);
                let what = format!("{} at {}: {} ({parts} parts); {used_by}", first.part, first.position, first.why);
                self.tell(finding(Kind::Corrupt, what)).await;
            }
            Some(Seen::Object(look)) => {
                let Some(index) = &look.index else { return Ok(()) };
                let wrong = metadata.read(|state| mismatches(state, *object, ranges, index));
                if let Some((stream, why)) = wrong.first() {
                    let what = format!("stream {stream} {why} ({} ranges)", wrong.len());
                    let look = Some(format!("seawall object inspect {key}"));
                    self.tell(Finding { look, ..finding(Kind::Mismatch, what) }).await;
                }
            }
        }
        Ok(())
    }

    /// `None` if the store says that there is no such object.
    fn look(&self, object: ObjectRef) -> impl Future<Output = Result<Option<Seen>, ScrubError>> + Send + use<> {
        let depth = if self.request.deep { Depth::Everything } else { Depth::Sections };
        let (backend, mut pace) = (self.parts.backend.clone(), self.pace.clone());
        let key = self.parts.keys.key(object.incarnation, object.object);
        async move {
            let source = Source::Store { backend: &*backend, key: &key, purpose: Purpose::Scrub };
            let expected = Some((object.object, object.incarnation));
            let mut patience = Patience::default();
            loop {
                match look_twice(&source, object.bytes, expected, depth, &mut pace).await {
                    Ok(look) => return Ok(Some(Seen::Object(Box::new(look)))),
                    Err(LookError::NewerFormat { found }) => return Ok(Some(Seen::Newer(found))),
                    Err(LookError::Store(BackendError::NotFound)) => return Ok(None),
                    Err(LookError::Store(error)) => patience.wait(&format!("read {key}"), error).await?,
                    Err(LookError::File(error)) => unreachable!("a store is no file: {error}"),
                }
            }
        }
    }

    async fn listing(&mut self, cursor: &mut Cursor, done: u32) -> Result<(), ScrubError> {
        let parts = self.parts;
        let folder = parts.keys.folder(cursor.incarnation, cursor.folder);
        let after = |cursor: &Cursor| match &cursor.step {
            Step::Listing { after: Some(name) } => ObjectKey::new(format!("{folder}/{name}")).ok(),
            _ => None,
        };
        let mut patience = Patience::default();
        let mut others = (0, 0);
        loop {
            let last = after(cursor);
            self.pace.take(LISTING_BYTES).await;
            let early = crate::faults::early_index(&parts.storage.metadata);
            let page = match parts.backend.list_folder(&folder, last.as_ref(), Purpose::Scrub).await {
                Ok(page) => page,
                Err(error) => {
                    patience.wait(&format!("list {folder}"), error).await?;
                    continue;
                }
            };
            patience = Patience::default();
            let in_order = page.objects.is_sorted_by(|(one, _), (next, _)| one < next)
                && page.objects.first().is_none_or(|(first, _)| Some(first) > last.as_ref());
            if !in_order {
                self.totals.cut_listings += 1;
                warn!(%folder, "a listing is out of order: what it has not shown is left to a later scrub");
                break;
            }
            self.totals.listed += page.objects.len() as u64;
            for (key, bytes) in &page.objects {
                match self.judge(early.as_ref(), key) {
                    Listed::Used | Listed::Reserved => {}
                    Listed::Waiting => self.totals.waiting += 1,
                    Listed::OtherIncarnation => others = (others.0 + 1, others.1 + bytes),
                    Listed::Orphan(object) => self.orphan(early.as_ref(), key, object).await?,
                    Listed::Unissued(_) => {
                        let what = "its id was never handed out: is this cluster's metadata the one that wrote it?";
                        self.stray(Kind::Unissued, key, what).await?;
                    }
                    Listed::Foreign => self.stray(Kind::Foreign, key, "no key that a broker gives").await?,
                }
            }
            let Some((last, _)) = page.objects.last() else { break };
            cursor.step = Step::Listing { after: Some(last.file_name().to_owned()) };
            if !page.more {
                break;
            }
            if others.0 == 0 {
                self.stand(cursor, done).await;
            }
        }
        if let (objects @ 1.., bytes) = others {
            let what = format!("{objects} objects of {bytes} bytes that this incarnation does not use");
            let look = Some(format!("seawall backend ls {folder}"));
            self.tell(Finding { kind: Kind::OtherIncarnation, key: folder, what, objects, look, done: None }).await;
        }
        Ok(())
    }

    fn judge(&self, early: Option<&State>, key: &ObjectKey) -> Listed {
        let ScrubParts { storage, keys, incarnation, .. } = self.parts;
        match early {
            None => storage.metadata.read(|state| judge_listed(state, keys, *incarnation, key)),
            // A fault on purpose: what the state does not know is taken for nobody's.
            Some(state) => match judge_listed(state, keys, *incarnation, key) {
                Listed::Unissued(object) => Listed::Orphan(object),
                listed => listed,
            },
        }
    }

    /// Whether a listed object is there.
    async fn is_there(&mut self, key: &ObjectKey) -> Result<Option<u64>, ScrubError> {
        let mut patience = Patience::default();
        loop {
            self.pace.take(REQUEST_BYTES).await;
            match self.parts.backend.head(key, Purpose::Scrub).await {
                Ok(meta) => return Ok(Some(meta.bytes)),
                Err(BackendError::NotFound) => {
                    self.totals.ghosts += 1;
                    return Ok(None);
                }
                Err(error) => patience.wait(&format!("ask for {key}"), error).await?,
            }
        }
    }

    async fn stray(&mut self, kind: Kind, key: &ObjectKey, what: &str) -> Result<(), ScrubError> {
        let Some(bytes) = self.is_there(key).await? else { return Ok(()) };
        let what = format!("{bytes} bytes: {what}");
        let look = Some(format!("seawall object inspect {key}"));
        self.tell(Finding { kind, key: key.to_string(), what, objects: 1, look, done: None }).await;
        Ok(())
    }

    async fn orphan(&mut self, early: Option<&State>, key: &ObjectKey, object: ObjectId) -> Result<(), ScrubError> {
        let Some(bytes) = self.is_there(key).await? else { return Ok(()) };
        let mut what = format!("{bytes} bytes, object {object}: nothing refers to it");
        let mut done = None;
        if self.request.repair {
            match self.delete(early, key, object).await {
                Ok(()) => done = Some("deleted".to_owned()),
                Err(why) => what += &format!("; not deleted: {why}"),
            }
        }
        let look = done.is_none().then(|| format!("seawall object inspect {key}"));
        self.tell(Finding { kind: Kind::Orphan, key: key.to_string(), what, objects: 1, look, done }).await;
        Ok(())
    }

    async fn delete(&mut self, early: Option<&State>, key: &ObjectKey, object: ObjectId) -> Result<(), String> {
        let ScrubParts { storage, backend, marker, .. } = self.parts;
        self.pace.take(LISTING_BYTES).await;
        may_delete(storage, &**backend, marker).await.map_err(|why| why.to_string())?;
        // Last: as long as the marker was read, metadata went on.
        if self.judge(early, key) != Listed::Orphan(object) {
            return Err("metadata knows it now".to_owned());
        }
        let answer = backend.delete_many(vec![key.clone()], Purpose::Scrub).await.pop();
        match answer.expect("one answer per key") {
            (_, Ok(())) => Ok(()),
            (_, Err(error)) => Err(error.to_string()),
        }
    }

    async fn left_parts(&mut self, cursor: &Cursor) -> Result<(), ScrubError> {
        let ScrubParts { storage, backend, keys, marker, .. } = self.parts;
        let left_parts = LeftParts { storage, backend: &**backend, marker };
        let folder = keys.folder(cursor.incarnation, cursor.folder);
        let mut patience = Patience::default();
        let found = loop {
            self.pace.take(LISTING_BYTES).await;
            match left_parts.find(&folder, storage.clock.now_ms()).await {
                Ok(found) => break found,
                Err(error) => patience.wait(&format!("list what was begun in {folder}"), error).await?,
            }
        };
        for left in found {
            let (mut what, mut done) = (format!("begun in parts {} h ago", left.age.as_secs() / 3600), None);
            if self.request.repair {
                self.pace.take(LISTING_BYTES).await;
                match left_parts.abort(&left).await {
                    Ok(()) => done = Some("aborted".to_owned()),
                    Err(error) => what += &format!("; not aborted: {error}"),
                }
            }
            let key = left.begun.key.to_string();
            self.tell(Finding { kind: Kind::LeftParts, key, what, objects: 1, look: None, done }).await;
        }
        Ok(())
    }
}

enum Seen {
    Object(Box<Look>),
    Newer(u16),
}

fn first_range(ranges: &[(seawall_metadata::StreamId, seawall_metadata::state::RangeRef)]) -> String {
    ranges
        .first()
        .map_or_else(String::new, |(stream, range)| format!("stream {stream} {} to {}", range.base, range.end))
}

/// How long one call is repeated.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    pause: Duration,
}

impl Patience {
    async fn wait(&mut self, what: &str, error: BackendError) -> Result<(), ScrubError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !error.is_retriable() || since.elapsed() >= PATIENCE {
            return Err(ScrubError::Store { what: what.to_owned(), error });
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
