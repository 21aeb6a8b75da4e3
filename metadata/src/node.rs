//! A metadata node: the Raft core on a thread of its own, and the handle over which the rest of the process uses it.
//!
//! Proposals that wait while the log is flushed go into the next flush together. A node that cannot go on stops and says
//! why: proposals then fail, and reads show the last state applied.

mod driver;
mod stepped;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use uuid::Uuid;

use crate::backup::LogEntry;
use crate::command::{COMMAND_BYTES_MAX, Command, CommandError, METADATA_LEVEL, METADATA_VERSION, Rejection, Response};
use crate::ids::*;
use crate::lease::{HostClock, LeaseView, MetadataClock};
use crate::log_store::{LogError, LogIdentity, MemoryLog, RaftStorage, RedbLog};
pub use crate::raft_core::MetadataSnapshot;
use crate::raft_core::{CoreConfig, CoreError, RaftCore};
use crate::snapshot::SnapshotError;
use crate::state::State;

use driver::Driver;
pub use stepped::SteppedNode;

/// The Raft id of the voter that makes a cluster.
pub(crate) const FIRST_RAFT_ID: u64 = 1;
/// 100 ms each: a follower campaigns a second after its leader fell silent.
const ELECTION_TICKS: usize = 10;

/// How a metadata node is run.
#[derive(Clone)]
pub struct MetadataConfig {
    /// Folder of the log store; made if it is not there.
    pub dir: PathBuf,
    /// This node, also the broker whose lease `MetadataHandle::lease` shows.
    pub node: NodeId,
    /// The cluster that an empty folder is initialised for, and that a used one must belong to. `None` takes what is there.
    pub cluster: Option<(ClusterId, Incarnation)>,
    /// How long a heartbeat keeps a broker's lease.
    pub lease: Duration,
    /// How often the lease is renewed.
    pub heartbeat: Duration,
    /// Log entries are replaced by a snapshot when they hold this many bytes.
    pub log_bytes_max: u64,
    /// Proposals waiting for their answer hold at most this many bytes; further ones wait.
    pub queue_bytes_max: usize,
    pub clock: Arc<dyn MetadataClock>,
}

impl MetadataConfig {
    /// The defaults, for `node` with its log under `dir`.
    pub fn new(dir: impl Into<PathBuf>, node: NodeId) -> Self {
        Self {
            dir: dir.into(),
            node,
            cluster: None,
            lease: Duration::from_secs(9),
            heartbeat: Duration::from_secs(1),
            log_bytes_max: 16 << 20,
            queue_bytes_max: 16 << 20,
            clock: Arc::new(HostClock::default()),
        }
    }
}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("metadata in {dir} belongs to cluster {found}, not {expected}")]
    OtherCluster { dir: PathBuf, found: ClusterId, expected: ClusterId },
    #[error("metadata in {dir} belongs to node {found}, not {expected}")]
    OtherNode { dir: PathBuf, found: NodeId, expected: NodeId },
    #[error("metadata in {dir} was written by a newer version: {why}")]
    NewerFormat { dir: PathBuf, why: String },
    #[error("metadata in {dir} is in use by another process")]
    InUse { dir: PathBuf },
    #[error("metadata in {dir} is damaged: {why}")]
    Damaged { dir: PathBuf, why: String },
    /// Includes a full disk (`ErrorKind::StorageFull`).
    #[error("metadata in {dir}: {source}")]
    Io { dir: PathBuf, source: io::Error },
    #[error("metadata in {dir}: {source}")]
    Stopped { dir: PathBuf, source: CoreError },
}

/// Why a proposal has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The command was applied and changed nothing.
    #[error("rejected: {0}")]
    Rejected(#[from] Rejection),
    /// The command was not proposed.
    #[error("a command of {bytes} bytes exceeds {COMMAND_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// The command was not proposed: another node leads.
    #[error("this metadata node does not lead")]
    NotLeader,
    /// The command may be applied, now or later.
    #[error("outcome unknown")]
    Unknown,
    /// The command was not proposed: the node has stopped.
    #[error("the metadata node has stopped")]
    Stopped,
}

impl ProposeError {
    /// Whether the registration that proposed is over: nothing that it proposes will be applied again.
    pub fn ends_registration(&self) -> bool {
        use Rejection::{BrokerFenced, StaleBrokerEpoch, UnknownBroker};
        match self {
            Self::Stopped => true,
            Self::Rejected(rejection) => {
                matches!(rejection, StaleBrokerEpoch { .. } | BrokerFenced(_) | UnknownBroker(_))
            }
            Self::TooLarge { .. } | Self::NotLeader | Self::Unknown => false,
        }
    }
}

/// Why the node no longer runs.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StopReason {
    #[error("shut down")]
    Shutdown,
    #[error("the metadata node failed: {0}")]
    Failed(Arc<CoreError>),
    #[error("the metadata node's thread panicked")]
    Panicked,
}

/// The way to a metadata node. Cheap to clone; the node stops when the last clone is gone.
#[derive(Clone)]
pub struct MetadataHandle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A metadata node as a member of its Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumView {
    pub node: NodeId,
    /// Identifies the log store: another one under the same node id is another voter.
    pub store: Uuid,
    pub leads: bool,
    pub term: u64,
    pub applied: u64,
}

/// What the handle and the node's thread have in common.
struct Shared {
    config: MetadataConfig,
    state: Arc<RwLock<State>>,
    queue_bytes: Arc<Semaphore>,
    applied: watch::Receiver<u64>,
    leads: AtomicBool,
    term: AtomicU64,
    /// Set once the log is open.
    store: OnceLock<Uuid>,
    lease: LeaseView,
    stopped: OnceLock<StopReason>,
}

enum Request {
    Propose(Proposal),
    ReadLog { from: u64, bytes_max: u64, answer: oneshot::Sender<Option<LogSlice>> },
    Snapshot { answer: oneshot::Sender<MetadataSnapshot> },
    Shutdown,
}

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSlice {
    pub entries: Vec<LogEntry>,
    /// The last entry that is applied here; the slice may end before it.
    pub applied: u64,
}

struct Proposal {
    command: Vec<u8>,
    answer: oneshot::Sender<Result<(u64, Response), ProposeError>>,
    _room: OwnedSemaphorePermit,
}

impl MetadataHandle {
    /// Starts the node on the log in `config.dir` and waits until it has applied everything that was committed before.
    pub async fn open(config: MetadataConfig) -> Result<Self, OpenError> {
        let dir = config.dir.clone();
        let store = tokio::task::spawn_blocking(move || RedbLog::open(&dir)).await;
        let store = store.unwrap_or_else(|error| Err(LogError::Io(io::Error::other(error))));
        let store = store.map_err(|error| open_error(&config, CoreError::Log(error)))?;
        Self::with_store(config, store).await
    }

    /// As `open`, with a log that ends with the process. For tests.
    pub async fn in_memory(config: MetadataConfig) -> Result<Self, OpenError> {
        Self::with_store(config, MemoryLog::default()).await
    }

    /// As `open`, on a log of the caller's.
    pub async fn with_store(config: MetadataConfig, store: impl RaftStorage) -> Result<Self, OpenError> {
        let Made { shared, state, applied, requests, incoming, core_config } = make(&config);
        let (ready_sender, ready) = oneshot::channel();
        let thread = std::thread::Builder::new().name("metadata".into()).spawn({
            let shared = shared.clone();
            move || {
                let guard = StopGuard { shared: shared.clone(), _applied: applied.clone() };
                let core = RaftCore::open(store, &core_config, state);
                let reason = match core {
                    Ok(core) => Driver::new(core, shared.clone(), applied, incoming).run(ready_sender),
                    Err(error) => {
                        let _ = ready_sender.send(Err(error));
                        StopReason::Shutdown
                    }
                };
                if let StopReason::Failed(error) = &reason {
                    tracing::error!(%error, "metadata node stopped");
                }
                let _ = shared.stopped.set(reason);
                drop(guard);
            }
        });
        let thread = thread.map_err(|source| OpenError::Io { dir: config.dir.clone(), source })?;
        let handle = Self { shared, requests, thread: Arc::new(Mutex::new(Some(thread))) };
        match ready.await {
            Ok(Ok(identity)) if identity.node != config.node => {
                let (dir, found, expected) = (config.dir.clone(), identity.node, config.node);
                handle.shutdown().await;
                Err(OpenError::OtherNode { dir, found, expected })
            }
            Ok(Ok(_)) => handle.join_cluster().await,
            Ok(Err(error)) => Err(open_error(&config, error)),
            Err(_) => {
                let why = "the metadata node's thread panicked".to_owned();
                Err(OpenError::Damaged { dir: config.dir.clone(), why })
            }
        }
    }

    /// Initialises an empty log for the cluster asked for, or makes sure that a used one belongs to it.
    async fn join_cluster(self) -> Result<Self, OpenError> {
        let Some((cluster, incarnation)) = self.shared.config.cluster else { return Ok(self) };
        if self.read(State::cluster).is_none() {
            let init = Command::InitCluster { cluster, incarnation, metadata_level: METADATA_LEVEL };
            // Whoever initialised it first is found below.
            let _ = self.propose(init).await;
        }
        let dir = self.shared.config.dir.clone();
        match self.read(State::cluster) {
            Some((found, _)) if found == cluster => Ok(self),
            Some((found, _)) => {
                self.shutdown().await;
                Err(OpenError::OtherCluster { dir, found, expected: cluster })
            }
            None => {
                let why = "the cluster could not be initialised";
                self.shutdown().await;
                Err(OpenError::Io { dir, source: io::Error::other(why) })
            }
        }
    }

    /// Bytes of proposals under way, and the most that there may be.
    pub fn queue_bytes(&self) -> (usize, usize) {
        let max = self.shared.config.queue_bytes_max;
        (max.saturating_sub(self.shared.queue_bytes.available_permits()), max)
    }

    /// Proposes a command and waits until it is applied here: its log index and answer. Waits for room first when too many
    /// bytes are proposed already. After `Unknown` repeat only what may be applied twice.
    pub async fn propose(&self, command: Command) -> Result<(u64, Response), ProposeError> {
        // Finalized levels only rise: one that is reached here is reached everywhere.
        let level = command.level();
        if level > self.read(State::metadata_level).max(1) {
            let why = "the command needs this level to be finalized";
            return Err(ProposeError::Rejected(Rejection::Feature { name: METADATA_VERSION.to_owned(), level, why }));
        }
        let command = command.encode().map_err(|error| match error {
            CommandError::TooLarge { bytes } => ProposeError::TooLarge { bytes },
            CommandError::Unknown { .. } | CommandError::Broken(_) => unreachable!("encoding fails by size only"),
        })?;
        let config = &self.shared.config;
        let bytes = command.len().clamp(64, config.queue_bytes_max.max(64)) as u32;
        let room = self.shared.queue_bytes.clone().acquire_many_owned(bytes).await;
        let room = room.map_err(|_| ProposeError::Stopped)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Propose(Proposal { command, answer, _room: room });
        self.requests.send(request).map_err(|_| ProposeError::Stopped)?;
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Applied log entries from index `from` on, up to about `bytes_max`. `None` if the log does not go back so far any more: then a
    /// snapshot is what there is.
    pub async fn log_from(&self, from: u64, bytes_max: u64) -> Result<Option<LogSlice>, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::ReadLog { from, bytes_max, answer }).map_err(|_| ProposeError::Stopped)?;
        answered.await.map_err(|_| ProposeError::Stopped)
    }

    /// The state as it is now, as bytes. Commands wait while it is taken.
    pub async fn snapshot(&self) -> Result<MetadataSnapshot, ProposeError> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Snapshot { answer }).map_err(|_| ProposeError::Stopped)?;
        answered.await.map_err(|_| ProposeError::Stopped)
    }

    /// Reads the applied state. Keep it short: the next command waits for it.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.shared.state.read().expect("apply does not panic"))
    }

    /// The index of the last entry applied here.
    pub fn applied(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Waits until entry `index` is applied here. `Stopped` if the node stops before.
    pub async fn wait_applied(&self, index: u64) -> Result<(), ProposeError> {
        let mut applied = self.watch();
        applied.wait_for(|applied| *applied >= index).await.map(|_| ()).map_err(|_| ProposeError::Stopped)
    }

    /// The applied index as it moves. Closed when the node stops.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.applied.clone()
    }

    /// This node's part in the Raft group.
    pub fn quorum(&self) -> QuorumView {
        QuorumView {
            node: self.shared.config.node,
            store: self.shared.store.get().copied().unwrap_or_default(),
            leads: self.is_leader(),
            term: self.shared.term.load(Ordering::Acquire),
            applied: self.applied(),
        }
    }

    pub fn is_leader(&self) -> bool {
        self.shared.leads.load(Ordering::Acquire)
    }

    /// The lease of the broker on this node. It begins with the broker's registration.
    pub fn lease(&self) -> LeaseView {
        self.shared.lease.clone()
    }

    /// The clocks that this node's leases and metadata time follow.
    pub fn clock(&self) -> Arc<dyn MetadataClock> {
        self.shared.config.clock.clone()
    }

    /// Waits until the node has stopped, and says why.
    pub async fn stopped(&self) -> StopReason {
        let mut applied = self.watch();
        while applied.changed().await.is_ok() {}
        self.shared.stopped.get().cloned().unwrap_or(StopReason::Panicked)
    }

    /// Stops the node and waits until its log is closed. Proposals under way end as `Unknown`.
    pub async fn shutdown(self) {
        let _ = self.requests.send(Request::Shutdown);
        let thread = self.thread.lock().expect("no panic under this lock").take();
        if let Some(thread) = thread {
            // A panic was reported as the reason to stop.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        } else {
            self.stopped().await;
        }
    }
}

/// The two sides of a node that is about to run.
struct Made {
    shared: Arc<Shared>,
    state: Arc<RwLock<State>>,
    applied: Arc<watch::Sender<u64>>,
    requests: mpsc::Sender<Request>,
    incoming: mpsc::Receiver<Request>,
    core_config: CoreConfig,
}

fn make(config: &MetadataConfig) -> Made {
    let state = Arc::new(RwLock::new(State::default()));
    let (applied_sender, applied) = watch::channel(0);
    #[allow(
        clippy::disallowed_methods,
        reason = "a proposal holds a permit for its bytes, 64 at least: queue_bytes_max; one backup asks for the log, and waits"
    )]
    let (requests, incoming) = mpsc::channel();
    let shared = Shared {
        state: state.clone(),
        queue_bytes: Arc::new(Semaphore::new(config.queue_bytes_max)),
        applied,
        leads: AtomicBool::new(false),
        term: AtomicU64::new(0),
        store: OnceLock::new(),
        lease: LeaseView::none(),
        stopped: OnceLock::new(),
        config: config.clone(),
    };
    let core_config = CoreConfig {
        identity: LogIdentity { node: config.node, raft_id: FIRST_RAFT_ID, store: Uuid::new_v4() },
        voters: vec![FIRST_RAFT_ID],
        election_ticks: ELECTION_TICKS,
        log_bytes_max: config.log_bytes_max,
    };
    Made { shared: Arc::new(shared), state, applied: Arc::new(applied_sender), requests, incoming, core_config }
}

/// Ends what waits for the node, however its thread ends.
struct StopGuard {
    shared: Arc<Shared>,
    /// Closed last: who waits for the end then finds the reason.
    _applied: Arc<watch::Sender<u64>>,
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.shared.lease.revoke();
        self.shared.leads.store(false, Ordering::Release);
        self.shared.queue_bytes.close();
        if std::thread::panicking() {
            let _ = self.shared.stopped.set(StopReason::Panicked);
        }
    }
}

fn open_error(config: &MetadataConfig, error: CoreError) -> OpenError {
    let dir = config.dir.clone();
    match error {
        CoreError::Log(LogError::InUse) => OpenError::InUse { dir },
        CoreError::Log(LogError::Io(source)) => OpenError::Io { dir, source },
        CoreError::Log(LogError::Damaged(why)) => OpenError::Damaged { dir, why },
        error @ (CoreError::Log(LogError::NewerFormat { .. })
        | CoreError::NewerLevel { .. }
        | CoreError::Command { source: CommandError::Unknown { .. }, .. }
        | CoreError::Snapshot {
            source: SnapshotError::NewerFormat { .. } | SnapshotError::NewerLevel { .. },
            ..
        }) => OpenError::NewerFormat { dir, why: chain(&error) },
        error @ (CoreError::Command { .. } | CoreError::Snapshot { .. }) => {
            OpenError::Damaged { dir, why: chain(&error) }
        }
        source @ CoreError::Raft(_) => OpenError::Stopped { dir, source },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
