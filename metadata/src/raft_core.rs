//! One Raft node without thread, clock or network: what comes in is stepped, what follows is persisted and applied in
//! raft's order (persist, then send, then advance), and what others must learn comes out.
//!
//! The same core runs under `node.rs` and under simulation. Election timeouts are pinned by the config, so that a seed
//! decides and not raft's own random numbers.

mod log_view;
mod logger;

use std::sync::{Arc, RwLock};

use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message};
use raft::{GetEntriesContext, LightReady, RawNode, Ready, SnapshotStatus, StateRole};

use crate::backup::{LogEntry, LogPoint};
use crate::command::{Command, CommandError, METADATA_LEVEL, Rejection, Response};
use crate::log_store::{LogError, LogIdentity, LogWrite, RaftStorage, StoredLog, StoredSnapshot};
use crate::snapshot::{self, SnapshotError};
use crate::state::State;

use log_view::LogView;

/// The index at which every log begins. It is above 0 so that whoever joins begins with a snapshot.
const FIRST_SNAPSHOT: u64 = 1;

/// How a core is run.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// Whose store this is; an empty one is made with it.
    pub identity: LogIdentity,
    /// The voters that an empty store begins with.
    pub voters: Vec<u64>,
    /// Ticks without a leader until this node campaigns: exactly so many.
    pub election_ticks: usize,
    /// Log entries are replaced by a snapshot when they hold this many bytes, or twice the newest snapshot if that is more.
    pub log_bytes_max: u64,
}

/// Why a core cannot go on. It must not be used afterwards.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("log store")]
    Log(#[from] LogError),
    #[error("log entry {index}")]
    Command { index: u64, source: CommandError },
    #[error("snapshot at {index}")]
    Snapshot { index: u64, source: SnapshotError },
    #[error("log entry {index} finalizes metadata level {found}; this version knows {METADATA_LEVEL}")]
    NewerLevel { index: u64, found: u16 },
    #[error("raft")]
    Raft(#[from] raft::Error),
}

/// What came of `process`.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be sent, in order. May be lost, doubled and reordered.
    pub messages: Vec<Message>,
    /// Commands applied, in order.
    pub applied: Vec<Applied>,
    /// Contexts of `read_index` calls that a quorum has confirmed: this node led after the call was made.
    pub reads: Vec<Vec<u8>>,
}

/// A command that was applied.
#[derive(Debug)]
pub struct Applied {
    pub index: u64,
    /// As given to `propose`, on whichever node that was.
    pub context: Vec<u8>,
    pub answer: Result<Response, Rejection>,
}

/// The state at one point of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataSnapshot {
    pub at: LogPoint,
    /// Metadata time then.
    pub now_ms: u64,
    pub data: Vec<u8>,
}

/// The log is led by another node, or by none that is known.
#[derive(Debug, PartialEq, Eq)]
pub struct NotLeading;

/// A Raft node over a log store, applying to a shared state.
pub struct RaftCore<S> {
    raw: RawNode<LogView>,
    store: S,
    state: Arc<RwLock<State>>,
    conf_state: ConfState,
    identity: LogIdentity,
    log_bytes_max: u64,
    snapshot_bytes: u64,
}

impl<S: RaftStorage> RaftCore<S> {
    /// Reads the store, or makes it, and brings `state` to the newest snapshot. Committed entries follow with `process`.
    pub fn open(mut store: S, config: &CoreConfig, state: Arc<RwLock<State>>) -> Result<Self, CoreError> {
        let stored = match store.load()? {
            Some(stored) => stored,
            None => create(&mut store, config)?,
        };
        let StoredLog { identity, hard_state, snapshot, entries } = stored;
        let StoredSnapshot { index, term, conf_state, data } = snapshot;
        *write(&state) = snapshot::decode(&data).map_err(|source| CoreError::Snapshot { index, source })?;

        let raft_config = raft::Config {
            id: identity.raft_id,
            election_tick: config.election_ticks,
            heartbeat_tick: (config.election_ticks / 5).max(1),
            min_election_tick: config.election_ticks,
            max_election_tick: config.election_ticks + 1,
            applied: index,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            max_committed_size_per_ready: 16 << 20,
            check_quorum: true,
            pre_vote: true,
            ..raft::Config::default()
        };
        let view = LogView::new(hard_state, index, term, conf_state.clone(), entries);
        let raw = RawNode::new(&raft_config, view, &logger::bridge())?;
        let (snapshot_bytes, log_bytes_max) = (data.len() as u64, config.log_bytes_max);
        Ok(Self { raw, store, state, conf_state, identity, log_bytes_max, snapshot_bytes })
    }

    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Whether this node leads and has applied everything that was committed before it did.
    pub fn is_current(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        self.is_leader() && self.raw.raft.commit_to_current_term() && log.applied == log.committed
    }

    /// Whether this node alone decides.
    pub fn is_sole_voter(&self) -> bool {
        self.conf_state.voters == [self.identity.raft_id] && self.conf_state.voters_outgoing.is_empty()
    }

    /// Stands for election now.
    pub fn campaign(&mut self) -> Result<(), CoreError> {
        Ok(self.raw.campaign()?)
    }

    /// A span of time has passed.
    pub fn tick(&mut self) {
        self.raw.tick();
    }

    /// A message from another node has arrived. Messages that make no sense are dropped.
    pub fn step(&mut self, message: Message) {
        let result = self.raw.step(message);
        if let Err(error) = result {
            tracing::debug!(%error, "raft message dropped");
        }
    }

    /// What became of a message of type `MsgSnapshot`: without this word nothing more is sent to that node.
    pub fn report_snapshot(&mut self, raft_id: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(raft_id, status);
    }

    /// A node could not be reached: fewer entries are sent to it at once until it answers.
    pub fn report_unreachable(&mut self, raft_id: u64) {
        self.raw.report_unreachable(raft_id);
    }

    /// Proposes an encoded command. `context` comes back with the answer.
    pub fn propose(&mut self, context: Vec<u8>, command: Vec<u8>) -> Result<(), NotLeading> {
        if !self.is_leader() {
            return Err(NotLeading);
        }
        self.raw.propose(context, command).map_err(|_| NotLeading)
    }

    /// Asks a quorum whether this node still leads; `context` comes back in `Outcome::reads` if so, and never if not.
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// Does all that is to be done: persists, applies and hands out. After an error the core is not to be used.
    pub fn process(&mut self) -> Result<Outcome, CoreError> {
        let mut outcome = Outcome::default();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            outcome.messages.append(&mut ready.take_messages());
            outcome.reads.extend(ready.take_read_states().into_iter().map(|read| read.request_ctx));
            self.persist(&ready)?;
            outcome.messages.append(&mut ready.take_persisted_messages());
            self.apply(ready.take_committed_entries(), &mut outcome)?;
            let mut light: LightReady = self.raw.advance_append(ready);
            if let Some(commit) = light.commit_index() {
                // Written with the next step: a restarted node finds it out again.
                self.raw.mut_store().set_commit(commit);
            }
            outcome.messages.append(&mut light.take_messages());
            self.apply(light.take_committed_entries(), &mut outcome)?;
            self.raw.advance_apply();
        }
        self.snapshot_if_due()?;
        Ok(outcome)
    }

    fn persist(&mut self, ready: &Ready) -> Result<(), CoreError> {
        let received = ready.snapshot();
        let snapshot = if received.is_empty() {
            None
        } else {
            let meta = received.get_metadata();
            let (index, term, conf_state) = (meta.index, meta.term, meta.get_conf_state().clone());
            Some(StoredSnapshot { index, term, conf_state, data: received.get_data().to_vec() })
        };
        let write_now = LogWrite {
            snapshot: snapshot.as_ref(),
            replaces_log: snapshot.is_some(),
            entries: ready.entries(),
            hard_state: ready.hs(),
        };
        let commit_only = snapshot.is_none() && ready.entries().is_empty() && !ready.must_sync();
        if !commit_only {
            // Decoded before it is stored: what cannot be read must not replace what can.
            let decoded = snapshot.as_ref().map(|snapshot| decode(snapshot.index, &snapshot.data)).transpose()?;
            self.store.write(write_now)?;
            if let (Some(snapshot), Some(decoded)) = (snapshot, decoded) {
                *write(&self.state) = decoded;
                self.conf_state = snapshot.conf_state.clone();
                self.snapshot_bytes = snapshot.data.len() as u64;
                self.raw.mut_store().restore(snapshot.index, snapshot.term, snapshot.conf_state);
            }
        }
        let view = self.raw.mut_store();
        view.append(ready.entries());
        if let Some(hard_state) = ready.hs() {
            view.set_hard_state(hard_state.clone());
        }
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>, outcome: &mut Outcome) -> Result<(), CoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let state = self.state.clone();
        let mut state = write(&state);
        for entry in entries {
            let index = entry.index;
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => state.pass(index),
                EntryType::EntryNormal => {
                    let command =
                        Command::decode(&entry.data).map_err(|source| CoreError::Command { index, source })?;
                    let answer = state.apply(index, command);
                    if state.metadata_level() > METADATA_LEVEL {
                        return Err(CoreError::NewerLevel { index, found: state.metadata_level() });
                    }
                    outcome.applied.push(Applied { index, context: entry.context.to_vec(), answer });
                }
                EntryType::EntryConfChange => {
                    let mut change = ConfChange::default();
                    protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(raft::Error::from)?;
                    self.conf_state = self.raw.apply_conf_change(&change)?;
                    state.pass(index);
                }
                EntryType::EntryConfChangeV2 => {
                    let mut change = ConfChangeV2::default();
                    protobuf::Message::merge_from_bytes(&mut change, &entry.data).map_err(raft::Error::from)?;
                    self.conf_state = self.raw.apply_conf_change(&change)?;
                    state.pass(index);
                }
            }
        }
        Ok(())
    }

    /// Applied entries from index `from` on, up to about `bytes_max` of them; `None` if the log does not hold that index any more.
    pub fn applied_log(&self, from: u64, bytes_max: u64) -> Result<Option<Vec<LogEntry>>, CoreError> {
        let applied = self.state.read().expect("apply does not panic").applied();
        if from > applied {
            return Ok(Some(Vec::new()));
        }
        let view = self.raw.store();
        if from < raft::Storage::first_index(view)? {
            return Ok(None);
        }
        let entries = raft::Storage::entries(view, from, applied + 1, bytes_max, GetEntriesContext::empty(false))?;
        let entry = |entry: Entry| {
            let command = match entry.get_entry_type() {
                EntryType::EntryNormal => entry.data.to_vec(),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Vec::new(),
            };
            LogEntry { index: entry.index, term: entry.term, command }
        };
        Ok(Some(entries.into_iter().map(entry).collect()))
    }

    /// The state as it is now.
    pub fn snapshot(&self) -> Result<MetadataSnapshot, CoreError> {
        let (index, now_ms, data) = {
            let state = self.state.read().expect("apply does not panic");
            (state.applied(), state.now_ms(), snapshot::encode(&state))
        };
        let term = raft::Storage::term(self.raw.store(), index)?;
        Ok(MetadataSnapshot { at: LogPoint { index, term }, now_ms, data })
    }

    /// Replaces the applied part of the log by a snapshot once it is long.
    fn snapshot_if_due(&mut self) -> Result<(), CoreError> {
        let wanted = self.raw.store().take_wanted();
        let due = self.raw.store().bytes() > self.log_bytes_max.max(2 * self.snapshot_bytes);
        if !due && !wanted {
            return Ok(());
        }
        let MetadataSnapshot { at: LogPoint { index, term }, data, .. } = self.snapshot()?;
        let snapshot = StoredSnapshot { index, term, conf_state: self.conf_state.clone(), data };
        if due {
            self.store.write(LogWrite {
                snapshot: Some(&snapshot),
                hard_state: self.raw.store().hard_state(),
                ..LogWrite::default()
            })?;
            self.snapshot_bytes = snapshot.data.len() as u64;
            self.raw.mut_store().compact(&snapshot);
            tracing::debug!(index, snapshot_bytes = self.snapshot_bytes, "metadata snapshot taken");
        }
        if wanted {
            self.raw.mut_store().offer(snapshot);
        }
        Ok(())
    }
}

fn create<S: RaftStorage>(store: &mut S, config: &CoreConfig) -> Result<StoredLog, CoreError> {
    let mut state = State::default();
    state.pass(FIRST_SNAPSHOT);
    let mut conf_state = ConfState::default();
    conf_state.set_voters(config.voters.clone());
    let data = snapshot::encode(&state);
    let snapshot = StoredSnapshot { index: FIRST_SNAPSHOT, term: 1, conf_state, data };
    let mut hard_state = HardState::default();
    hard_state.set_term(1);
    hard_state.set_commit(FIRST_SNAPSHOT);
    store.create(config.identity, &snapshot, &hard_state)?;
    Ok(StoredLog { identity: config.identity, hard_state, snapshot, entries: Vec::new() })
}

fn decode(index: u64, data: &[u8]) -> Result<State, CoreError> {
    snapshot::decode(data).map_err(|source| CoreError::Snapshot { index, source })
}

fn write(state: &RwLock<State>) -> std::sync::RwLockWriteGuard<'_, State> {
    state.write().expect("apply does not panic")
}
