//! Cleans the logs of compacted topics: picks the filthiest, runs a round over it, and again.
//!
//! The rules are `log_compaction`; here is the work around them. A round reads the dirty part once for its keys, then
//! rewrites everything below as stream objects, one group of ranges at a time (`round.rs`). Each group is put and then takes
//! the place of its ranges in one command to metadata: a crash leaves the old objects or the new ones.
//! Promises: memory is bounded by the map (`log.cleaner.dedupe.buffer.size`) and one group; reads and writes together stay
//! below `log.cleaner.io.max.bytes.per.second`, after everything else that asks the store. A log that cannot be cleaned is left
//! as it is until the next start, named in the log and counted.
//! Leaves to others: deleting what was replaced.

mod round;
mod status;

pub use status::{CleanerMetrics, CleanerStatus};

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall_backends::Backend;
use seawall_metadata::state::RangeRef;
use seawall_metadata::{Incarnation, MetadataHandle, Offset, Registration, StreamId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::broker_settings::KafkaSettings;
use crate::compaction::may_replace;
use crate::log_compaction::{CleanPlan, Cleanable, CompactionRules, filthiest, plan};
use crate::object_key::ObjectKeys;
use crate::object_reader::ObjectReader;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::retention::PacedClock;
use round::{Round, RoundError};

/// How the cleaner works, by Kafka's configs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CleanerSettings {
    /// `log.cleaner.dedupe.buffer.size`
    pub map_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`
    pub map_load_factor: f64,
    /// `log.cleaner.io.max.bytes.per.second`
    pub io_bytes_per_second: f64,
    /// `log.cleaner.backoff.ms`
    pub backoff: Duration,
    /// Ranges are rewritten together up to this size, and a new object is begun at it.
    pub group_bytes: u64,
}

/// What a cleaner is made of.
pub struct CleanerParts {
    pub partitions: Partitions,
    pub metadata: MetadataHandle,
    pub registration: Registration,
    pub incarnation: Incarnation,
    pub backend: Arc<dyn Backend>,
    pub keys: ObjectKeys,
    pub reader: Arc<ObjectReader>,
    /// As they are now.
    pub settings: Arc<dyn Fn() -> CleanerSettings + Send + Sync>,
}

/// The cleaner of a broker.
pub struct LogCleaner {
    parts: CleanerParts,
    status: Arc<CleanerStatus>,
    state: Mutex<State>,
    /// One round at a time.
    busy: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    uncleanable: BTreeSet<StreamId>,
    /// Those that could not be cleaned now wait until nothing else is due.
    failed: BTreeSet<StreamId>,
    cleaning: Option<StreamId>,
    /// This broker may not any more: metadata takes nothing from it.
    fenced: bool,
}

/// A round that is under way, however it ends.
struct Cleaning<'a>(&'a LogCleaner);

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        self.0.lock().cleaning = None;
    }
}

/// What one look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Cleaned(StreamId),
    /// It was tried, and may go a later time.
    Failed(StreamId),
    NothingToDo,
}

/// One group is in memory at a time.
const GROUP_BYTES: u64 = 32 << 20;
const LOAD_FACTOR_MAX: f64 = 0.95;
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// The cleaner's settings are read this often at least.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl CleanerSettings {
    pub fn of(settings: &KafkaSettings) -> CleanerSettings {
        let number = |name: &str| settings.text(name).and_then(|value| value.parse::<f64>().ok());
        CleanerSettings {
            map_bytes: usize::try_from(settings.long("log.cleaner.dedupe.buffer.size")).unwrap_or(0),
            // A map that is full is searched from end to end for a key that it has not.
            map_load_factor: number("log.cleaner.io.buffer.load.factor").unwrap_or(0.9).min(LOAD_FACTOR_MAX),
            io_bytes_per_second: number("log.cleaner.io.max.bytes.per.second").unwrap_or(f64::MAX),
            backoff: Duration::from_millis(settings.long("log.cleaner.backoff.ms").unsigned_abs()),
            group_bytes: GROUP_BYTES,
        }
    }
}

impl LogCleaner {
    pub fn new(parts: CleanerParts) -> LogCleaner {
        LogCleaner { parts, status: Arc::default(), state: Mutex::default(), busy: tokio::sync::Mutex::default() }
    }

    pub fn status(&self) -> Arc<CleanerStatus> {
        self.status.clone()
    }

    /// Cleans until `stopping`, when what is under way is dropped, or until this broker is fenced.
    pub async fn run(&self, stopping: CancellationToken) {
        let clock = PacedClock::start(self.parts.partitions.storage().clock.clone());
        let work = async {
            // The first look comes after one pause: a clock that was wrong at boot may be corrected by then.
            let mut rest = true;
            loop {
                if rest {
                    let backoff = (self.parts.settings)().backoff;
                    tokio::time::sleep(backoff.clamp(BACKOFF_MIN, BACKOFF_MAX)).await;
                }
                rest = self.pass(clock.now_ms()).await == Pass::NothingToDo;
                if self.lock().fenced {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = work => {}
        }
    }

    /// One round over the log that needs it most, if one does, at a wall time of `now_ms`.
    pub async fn pass(&self, now_ms: i64) -> Pass {
        let _busy = self.busy.lock().await;
        let waits = !may_replace(&self.parts.metadata);
        self.status.note_waits_for_level(waits);
        if waits {
            return Pass::NothingToDo;
        }
        let Some((partition, plan)) = filthiest(self.look(now_ms)) else {
            self.lock().failed.clear();
            return Pass::NothingToDo;
        };
        let stream = partition.stream();
        self.lock().cleaning = Some(stream);
        let _cleaning = Cleaning(self);
        let ranges = self.ranges(&partition);
        let began = Instant::now();
        debug!(%stream, partition = %partition.id(), ?plan, "cleaning a log");
        let round = Round { parts: &self.parts, partition: &partition, ranges: &ranges, plan, now_ms };
        match round.run(&self.status).await {
            Ok(cleaned) => {
                self.status.note_round(&cleaned.statistics, began.elapsed());
                let (topic, statistics) = (partition.topic(), cleaned.statistics);
                info!(
                    %topic, partition = %partition.id(), from = plan.first_dirty, to = cleaned.to,
                    records = statistics.records_read, kept = statistics.records_kept,
                    bytes = statistics.bytes_read, kept_bytes = statistics.bytes_kept,
                    objects = cleaned.objects, "log cleaned"
                );
                Pass::Cleaned(stream)
            }
            Err(RoundError::Later(why)) => {
                self.status.note_failure();
                self.lock().failed.insert(stream);
                warn!(partition = %partition.id(), why, "a log could not be cleaned now");
                Pass::Failed(stream)
            }
            Err(RoundError::Fenced(why)) => {
                self.lock().fenced = true;
                info!(why, "this broker cleans no more logs");
                Pass::Failed(stream)
            }
            Err(RoundError::Never(why)) => {
                self.status.note_failure();
                self.lock().uncleanable.insert(stream);
                error!(partition = %partition.id(), why, "a log is not cleaned any more until the next start");
                Pass::Failed(stream)
            }
        }
    }

    /// Whether a round is under way over this stream: who replaced its ranges now would undo the round.
    pub fn is_cleaning(&self, stream: StreamId) -> bool {
        self.lock().cleaning == Some(stream)
    }

    /// The plan of every compacted log that can be cleaned.
    fn look(&self, now_ms: i64) -> Vec<(Arc<Partition>, CleanPlan)> {
        let mut plans = Vec::new();
        let (mut uncleanable, mut uncleanable_bytes, mut dirty_bytes, mut ratio_max) = (0, 0, 0, 0.0f64);
        let mut seen = BTreeSet::new();
        for partition in self.parts.partitions.all() {
            let config = partition.config();
            if !config.cleanup_compact {
                continue;
            }
            let (stream, offsets) = (partition.stream(), partition.offsets());
            seen.insert(stream);
            let ranges = self.ranges(&partition);
            let cleaned_to = self.parts.metadata.read(|state| state.cleaned_to(stream).0);
            let cleanable = Cleanable {
                log_start: offsets.log_start,
                cleaned_to: (cleaned_to > 0).then_some(cleaned_to),
                last_stable: offsets.last_stable,
                ranges: &ranges,
            };
            let plan = plan(&cleanable, &CompactionRules::of(&config), now_ms);
            dirty_bytes += plan.dirty_bytes;
            if self.lock().uncleanable.contains(&stream) {
                uncleanable += 1;
                uncleanable_bytes += plan.dirty_bytes;
                continue;
            }
            ratio_max = ratio_max.max(plan.ratio());
            if !self.lock().failed.contains(&stream) {
                plans.push((partition, plan));
            }
        }
        let mut state = self.lock();
        state.uncleanable.retain(|stream| seen.contains(stream));
        drop(state);
        self.status.note_look(uncleanable, uncleanable_bytes, dirty_bytes, ratio_max);
        plans
    }

    /// Its committed ranges from the log start on.
    fn ranges(&self, partition: &Partition) -> Vec<RangeRef> {
        let start = Offset(partition.offsets().log_start);
        self.parts.metadata.read(|state| state.ranges(partition.stream(), start).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
