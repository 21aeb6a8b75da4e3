//! Whether the object store can be trusted, asked at each start before anything is written or acked.
//!
//! A store that this data folder has not used before shows the whole base set; later one object is put, read, listed and deleted.
//! The store also says whose it is: `{prefix}/seawall-cluster/{cluster}.{incarnation}` is an object that the first start puts and
//! nobody changes. `store.toml` in the data folder remembers which store was found fit.
//!
//! A first start needs an answer. Later a store that is away keeps nobody from starting: its gate stays shut and it is asked again
//! until it answers. An answer that is wrong is refused in both cases.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use seawall_backends::{
    Backend, BackendConfig, BackendError, ObjectKey, ProbeReport, Purpose,
    observed::{ERROR_KINDS, Snapshot},
    probe, probe_again,
    profile::Profile,
};
use seawall_metadata::ClusterId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    data_dir::DataDir,
    store::Store,
    store_marker::{Standing, StoreMarker},
    task::Tasks,
};

/// How long a start waits for an answer: of a store that it does not know, and of one that it knows.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const KNOWN_WAIT: Duration = Duration::from_secs(5);
/// The longest that a store may take for the base set.
const BASE_SET_MAX: Duration = Duration::from_secs(60);
/// A put that came late after an error, or one damaged read, is not what the store is like.
const BASE_SET_TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(250);
/// Between two questions to a store that was away when the broker started.
const AGAIN_EVERY: Duration = Duration::from_secs(2);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// From where on a clock is worth a warning, and where stores refuse what is signed by it.
const CLOCK_WARN_SECONDS: u64 = 60;
const CLOCK_MAX_SECONDS: u64 = 15 * 60;

#[derive(Debug, thiserror::Error)]
pub enum StoreProbeError {
    #[error("cannot reach the object store, {place}: {why}")]
    Away { place: String, why: String },
    #[error("cannot reach the object store, {place}: {}", no_answer(*.waited))]
    Silent { place: String, waited: Duration },
    #[error("the object store, {place}, asks for less and serves nothing (503)")]
    Throttles { place: String },
    #[error("the object store, {place}, has no room: {why}")]
    Full { place: String, why: String },
    #[error("the object store, {place}, denies access{}: {why}", after(*.waited))]
    Denied { place: String, why: String, waited: Duration },
    #[error("the object store, {place}, cannot be used: {why}")]
    Unusable { place: String, why: String },
    #[error("the object store, {place}, lacks what a broker cannot do without: {failures}")]
    Lacks { place: String, failures: String },
    #[error(
        "the object store, {place}, belongs to cluster {found} under backend.prefix = \"{prefix}\", and data folder {} to cluster \
         {expected}: use another prefix, or the data folder of that cluster", data_dir.display()
    )]
    OtherCluster { place: String, prefix: String, found: String, expected: String, data_dir: PathBuf },
    #[error(
        "the object store, {place}, is used by another incarnation of this cluster, {found}: the cluster was restored from the \
         store, and data folder {} is from before", data_dir.display()
    )]
    OtherIncarnation { place: String, found: String, data_dir: PathBuf },
    #[error(
        "the object store, {place}, does not hold {marker}, and metadata names objects in it: this is another store than before \
         ({before}), or it is not mounted, or it was emptied"
    )]
    Emptied { place: String, marker: ObjectKey, before: String },
    #[error(
        "this machine's clock is {seconds} s away from that of the object store, {place}: stores refuse what is signed so"
    )]
    Clock { place: String, seconds: u64 },
    #[error("cannot remember the object store in {}: {error}", file.display())]
    Remember { file: PathBuf, error: std::io::Error },
}

fn no_answer(waited: Duration) -> String {
    format!("no answer within {:.1} s", waited.as_secs_f64())
}

fn after(waited: Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(", for {} s", waited.as_secs()) }
}

impl StoreProbeError {
    /// Nobody has said no: asking again may help, without anyone doing anything.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Silent { .. } | Self::Throttles { .. } | Self::Full { .. })
    }

    /// Of a question that was given up, little time as it had, what was heard before tells more.
    fn with_what_was_heard(self, heard: Option<&Self>) -> Self {
        match (self, heard) {
            (Self::Silent { place, waited }, Some(Self::Away { why, .. })) => {
                Self::Away { place, why: format!("{why}; then {}", no_answer(waited)) }
            }
            (refused, _) => refused,
        }
    }

    /// Whose fault it may be while the store comes back; data is not in danger, since nothing is asked of it until it is found fit.
    fn may_be_mended(&self) -> bool {
        self.may_pass() || matches!(self, Self::Denied { .. } | Self::Unusable { .. } | Self::Remember { .. })
    }
}

/// How the start has found the store.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Fit,
    /// Known, and away now: its gate is shut.
    Away,
}

pub struct StoreProbe {
    store: Store,
    config: BackendConfig,
    clock: Clock,
    cluster: ClusterId,
    marker: StoreMarker,
    data_dir: PathBuf,
    /// Whether metadata names objects, which must be in the store then.
    has_objects: bool,
    known: Option<Known>,
}

const FILE: &str = "store.toml";

/// What is in `store.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    format: u32,
    store: String,
    /// By which it was found fit.
    version: String,
}

impl StoreProbe {
    pub fn new(
        store: &Store,
        config: BackendConfig,
        clock: Clock,
        data_dir: &DataDir,
        path: &Path,
        has_objects: bool,
    ) -> Self {
        Self {
            store: store.clone(),
            marker: StoreMarker::new(&config.prefix, data_dir.cluster, data_dir.incarnation),
            config,
            clock,
            cluster: data_dir.cluster,
            data_dir: path.to_owned(),
            has_objects,
            known: read_known(&path.join(FILE)),
        }
    }

    /// What a start does: a known store may be away, and its gate is shut then.
    pub async fn at_start(&mut self) -> Result<Found, StoreProbeError> {
        match self.wait_until_fit().await {
            Ok(()) => Ok(Found::Fit),
            Err(refused) if refused.may_pass() && self.is_known() => {
                warn!(error = %refused, "starting without the object store, which is asked again until it answers");
                self.store.gate.shut();
                Ok(Found::Away)
            }
            Err(refused) => Err(refused),
        }
    }

    /// Asks as long as a start waits for an answer.
    pub async fn wait_until_fit(&mut self) -> Result<(), StoreProbeError> {
        let began = Instant::now();
        let known = self.is_known();
        let fresh = if known { Duration::ZERO } else { self.fresh_bucket_refuses_for() };
        let wait = if known { KNOWN_WAIT } else { FIRST_WAIT };
        let mut heard = None;
        loop {
            let left = wait.saturating_sub(began.elapsed()).max(PAUSE);
            let refused = match self.ask(left).await {
                Ok(report) => {
                    self.remember()?;
                    let cases = report.checks.len();
                    info!(place = self.place(), cases, ms = began.elapsed().as_millis(), "the object store is fit");
                    return Ok(());
                }
                Err(refused) => refused.with_what_was_heard(heard.as_ref()),
            };
            let again = match &refused {
                StoreProbeError::Denied { .. } => began.elapsed() < fresh,
                _ => refused.may_pass() && began.elapsed() + PAUSE < wait,
            };
            if again {
                if heard.is_none() {
                    warn!(error = %refused, "waiting for the object store");
                }
                heard = Some(refused);
                sleep(PAUSE).await;
                continue;
            }
            return match refused {
                StoreProbeError::Denied { place, why, .. } if !fresh.is_zero() => {
                    Err(StoreProbeError::Denied { place, why, waited: began.elapsed() })
                }
                refused => Err(refused),
            };
        }
    }

    /// Asks until the store is fit, and opens its gate then. A store that turns out to be the wrong one stops the broker.
    pub async fn until_fit(mut self, tasks: Tasks) {
        let mut complained = Instant::now();
        loop {
            tokio::select! {
                () = sleep(AGAIN_EVERY) => {}
                () = tasks.stopping().cancelled() => return,
            }
            let asked = self.ask(KNOWN_WAIT).await.and_then(|_| self.remember());
            match asked {
                Ok(()) => {
                    self.store.gate.open();
                    info!(place = self.place(), "the object store answers and is fit");
                    return;
                }
                Err(refused) if !refused.may_be_mended() => return tasks.fail_broker(refused.to_string()),
                Err(refused) if complained.elapsed() >= COMPLAIN_EVERY => {
                    complained = Instant::now();
                    error!(error = %refused, "still without the object store; data stays in the write-ahead log");
                }
                Err(_) => {}
            }
        }
    }

    /// How long a new bucket may answer 403 to its owner.
    fn fresh_bucket_refuses_for(&self) -> Duration {
        Profile::of(self.config.kind).map_or(Duration::ZERO, |profile| profile.fresh_bucket_refuses_for)
    }

    fn place(&self) -> String {
        self.config.place()
    }

    async fn ask(&self, left: Duration) -> Result<ProbeReport, StoreProbeError> {
        // Without retries: whoever asks pauses and tells. The base set is many calls, of which a store may fail a few.
        let (once, patient): (&dyn Backend, &dyn Backend) = (&*self.store.limit, &*self.store.backend);
        let (prefix, now_ms) = (self.config.prefix.as_str(), u64::try_from(self.clock.now_ms()).unwrap_or(0));
        let trouble_before = self.trouble();
        let report = if self.is_known() {
            let both = async { tokio::try_join!(self.claim(once), self.calls(probe_again(once, prefix, now_ms))) };
            self.within(left, both).await?.1
        } else {
            self.within(left, self.owned_by_others(once)).await?;
            let base_set = async {
                let mut report = self.calls(probe(patient, prefix, now_ms)).await?;
                for _ in 1..BASE_SET_TRIES {
                    if !report.base_set() {
                        report = self.calls(probe(patient, prefix, now_ms)).await?;
                    }
                }
                if report.base_set() {
                    self.claim(patient).await?;
                }
                Ok(report)
            };
            self.within(BASE_SET_MAX, base_set).await?
        };
        self.check_clock()?;
        if report.base_set() {
            return Ok(report);
        }
        let failures: Vec<String> = report
            .failures()
            .map(|failed| format!("{}: {}", failed.case.replace('_', " "), failed.error.as_deref().unwrap_or_default()))
            .collect();
        let (place, failures) = (self.place(), failures.join("; "));
        let trouble_now = self.trouble();
        let met = (0..ERROR_KINDS.len()).find(|at| trouble_now[*at] > trouble_before[*at]);
        // A case that met an error of the store has not shown what the store does.
        Err(match met.map(|at| ERROR_KINDS[at]) {
            Some("denied") => StoreProbeError::Denied { place, why: failures, waited: Duration::ZERO },
            Some("full") => StoreProbeError::Full { place, why: failures },
            Some(_) => StoreProbeError::Away { place, why: failures },
            None => StoreProbeError::Lacks { place, failures },
        })
    }

    /// Calls for the probe that the store did not answer, or refused, since the process began: in the order of `ERROR_KINDS`.
    fn trouble(&self) -> [u64; ERROR_KINDS.len()] {
        let mut trouble = [0; ERROR_KINDS.len()];
        let asked = |one: &Snapshot| one.purpose == Purpose::Probe;
        for one in self.store.counters.snapshot().iter().filter(|one| asked(one)) {
            for (at, kind) in ERROR_KINDS.iter().enumerate() {
                match *kind {
                    "throttled" | "full" | "denied" => trouble[at] += one.errors[at],
                    "transient" => trouble[at] += one.errors[at] + one.abandoned,
                    _ => {}
                }
            }
        }
        trouble
    }

    async fn within<T>(
        &self,
        most: Duration,
        work: impl Future<Output = Result<T, StoreProbeError>>,
    ) -> Result<T, StoreProbeError> {
        match timeout(most, work).await {
            Ok(done) => done,
            Err(_) => Err(StoreProbeError::Silent { place: self.place(), waited: most }),
        }
    }

    async fn calls<T>(&self, calls: impl Future<Output = Result<T, BackendError>>) -> Result<T, StoreProbeError> {
        calls.await.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: BackendError) -> StoreProbeError {
        let place = self.place();
        match error {
            BackendError::Transient(why) => StoreProbeError::Away { place, why },
            BackendError::Throttled { .. } => StoreProbeError::Throttles { place },
            BackendError::Full(why) => StoreProbeError::Full { place, why },
            BackendError::Denied(why) => StoreProbeError::Denied { place, why, waited: Duration::ZERO },
            BackendError::Fatal(why) | BackendError::Unsupported(why) | BackendError::Corrupt(why) => {
                StoreProbeError::Unusable { place, why }
            }
            BackendError::NotFound => StoreProbeError::Unusable { place, why: "not found".to_owned() },
        }
    }

    /// Whether the store is this cluster's already; that of another one is refused.
    async fn owned_by_others(&self, backend: &dyn Backend) -> Result<bool, StoreProbeError> {
        let standing = self.calls(self.marker.standing(backend, Purpose::Probe)).await?;
        match standing {
            Standing::Ours => Ok(true),
            Standing::Nobodys => Ok(false),
            Standing::OtherCluster { found } => Err(StoreProbeError::OtherCluster {
                place: self.place(),
                prefix: self.config.prefix.clone(),
                found,
                expected: self.cluster.0.to_string(),
                data_dir: self.data_dir.clone(),
            }),
            Standing::OtherIncarnation { found } => {
                Err(StoreProbeError::OtherIncarnation { place: self.place(), found, data_dir: self.data_dir.clone() })
            }
        }
    }

    /// Makes the store this cluster's if it is nobody's.
    async fn claim(&self, backend: &dyn Backend) -> Result<(), StoreProbeError> {
        if self.owned_by_others(backend).await? {
            return Ok(());
        }
        let marker = self.marker.key();
        match &self.known {
            Some(known) if self.has_objects && backend.capabilities().durable => {
                return Err(StoreProbeError::Emptied { place: self.place(), marker, before: known.store.clone() });
            }
            _ => {}
        }
        self.calls(backend.put(&marker, Bytes::from(self.marker.text()).into(), Purpose::Probe)).await
    }

    fn check_clock(&self) -> Result<(), StoreProbeError> {
        let seconds = self.store.backend.clock_ahead_seconds().unwrap_or(0).unsigned_abs();
        if seconds > CLOCK_MAX_SECONDS {
            return Err(StoreProbeError::Clock { place: self.place(), seconds });
        }
        if seconds > CLOCK_WARN_SECONDS {
            warn!(seconds, "this machine's clock and the object store's differ; from 900 on stores refuse requests");
        }
        Ok(())
    }

    /// Whether it was found fit before.
    fn is_known(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.store == self.identity())
    }

    /// Which store this is, as far as the configuration says it.
    fn identity(&self) -> String {
        format!("{} in {}, prefix \"{}\"", self.config.kind.name(), self.place(), self.config.prefix)
    }

    fn remember(&mut self) -> Result<(), StoreProbeError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let known = Known { format: 1, store: self.identity(), version };
        if self.known.as_ref() == Some(&known) {
            return Ok(());
        }
        let text =
            toml::to_string(&known).unwrap_or_else(|error| panic!("three values can be written as TOML: {error}"));
        let text = format!("# Which object store was found fit. Written by seawall.\n{text}");
        let written = crate::data_dir::write_file(&self.data_dir, FILE, &text);
        written.map_err(|error| StoreProbeError::Remember { file: self.data_dir.join(FILE), error })?;
        self.known = Some(known);
        Ok(())
    }
}

/// A file that cannot be read is as good as none: the store is asked for everything again.
fn read_known(file: &Path) -> Option<Known> {
    toml::from_str(&std::fs::read_to_string(file).ok()?).ok()
}
