//! Drives the state machine: proposals in, committed commands applied in order, answers out.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::command::{COMMAND_BYTES_MAX, Command, METADATA_LEVEL, Rejection, Response};
use crate::ids::*;
use crate::lease::{HostClock, LeaseView, MetadataClock};
use crate::state::State;

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
    #[error("metadata in {dir} has format {found}; this version reads up to {supported}")]
    NewerFormat { dir: PathBuf, found: u16, supported: u16 },
    #[error("metadata in {dir} is in use by another process")]
    InUse { dir: PathBuf },
    #[error("metadata in {dir} is damaged: {why}")]
    Damaged { dir: PathBuf, why: String },
    #[error("metadata in {dir}")]
    Io { dir: PathBuf, source: std::io::Error },
    #[error("the metadata node stopped while it started: {0}")]
    Stopped(String),
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

/// The way to a metadata node. Cheap to clone.
#[derive(Clone)]
pub struct MetadataHandle {
    shared: Arc<Shared>,
}

struct Shared {
    config: MetadataConfig,
    state: RwLock<State>,
    applied: watch::Sender<u64>,
    lease: LeaseView,
}

impl MetadataHandle {
    /// Starts the node and waits until it has applied everything that was committed before.
    pub async fn open(config: MetadataConfig) -> Result<Self, OpenError> {
        Self::in_memory(config).await
    }

    /// As `open`, with a log that ends with the process. For tests.
    pub async fn in_memory(config: MetadataConfig) -> Result<Self, OpenError> {
        let cluster = config.cluster;
        let (applied, _) = watch::channel(0);
        let handle =
            Self { shared: Arc::new(Shared { config, state: RwLock::default(), applied, lease: LeaseView::none() }) };
        if let Some((cluster, incarnation)) = cluster {
            let init = Command::InitCluster { cluster, incarnation, metadata_level: METADATA_LEVEL };
            handle.propose(init).await.map_err(|error| OpenError::Stopped(error.to_string()))?;
        }
        Ok(handle)
    }

    /// Proposes a command and waits until it is applied here: its log index and answer. Repeat after `Unknown` only what
    /// may be applied twice.
    pub async fn propose(&self, command: Command) -> Result<(u64, Response), ProposeError> {
        let mut state = self.shared.state.write().expect("apply does not panic");
        let index = state.applied() + 1;
        let answer = state.apply(index, command);
        let config = &self.shared.config;
        if state.broker(config.node).is_some_and(|broker| !broker.fenced) {
            self.shared.lease.renew(config.clock.boot() + Duration::from_secs(1 << 30));
        } else {
            self.shared.lease.revoke();
        }
        drop(state);
        self.shared.applied.send_replace(index);
        Ok((index, answer?))
    }

    /// Reads the applied state. Keep it short: the next command waits for it.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.shared.state.read().expect("apply does not panic"))
    }

    /// The index of the last entry applied here.
    pub fn applied(&self) -> u64 {
        self.read(State::applied)
    }

    /// Waits until entry `index` is applied here. An error if the node stops before.
    pub async fn wait_applied(&self, index: u64) -> Result<(), ProposeError> {
        let mut applied = self.watch();
        applied.wait_for(|applied| *applied >= index).await.map(|_| ()).map_err(|_| ProposeError::Stopped)
    }

    /// The applied index as it moves. Closed when the node stops.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    pub fn is_leader(&self) -> bool {
        true
    }

    /// The lease of the broker on this node.
    pub fn lease(&self) -> LeaseView {
        self.shared.lease.clone()
    }

    /// Stops the node and waits for it.
    pub async fn shutdown(self) {}
}
