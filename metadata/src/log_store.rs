//! Where a metadata node keeps its Raft log, hard state and newest snapshot.
//!
//! Promise: what `write` returned `Ok` for is there after any crash; a write that did not return is there whole or not at
//! all. What is read back was checked (CRC32C over position and content) and is contiguous.
//! What the entries mean is left to `raft_core.rs`.

mod memory;
mod redb_log;

use std::io;

use raft::eraftpb::{ConfState, Entry, HardState};
use uuid::Uuid;

use crate::ids::NodeId;

pub use memory::MemoryLog;
pub use redb_log::RedbLog;

/// The newest log store format, and the one written.
pub const LOG_FORMAT: u16 = 1;

/// A durable Raft log, written by one thread.
pub trait RaftStorage: Send + 'static {
    /// All that was written, or `None` of a store that never was.
    fn load(&mut self) -> Result<Option<StoredLog>, LogError>;

    /// Makes an empty store: whose it is, and the snapshot that every log begins with. Durable on `Ok`.
    fn create(
        &mut self,
        identity: LogIdentity,
        snapshot: &StoredSnapshot,
        hard_state: &HardState,
    ) -> Result<(), LogError>;

    /// Writes all of `write` in one step, durable on `Ok`. After an error the store must not be used again: what is on
    /// disk is known only once it is opened anew.
    fn write(&mut self, write: LogWrite<'_>) -> Result<(), LogError>;
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    pub node: NodeId,
    /// The node's number in the Raft group. A wiped voter gets another.
    pub raft_id: u64,
    /// Drawn when the store is made.
    pub store: Uuid,
}

/// Everything in a log store.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredLog {
    pub identity: LogIdentity,
    pub hard_state: HardState,
    pub snapshot: StoredSnapshot,
    /// Contiguous, from the index after the snapshot's.
    pub entries: Vec<Entry>,
}

/// A snapshot of the state machine and the point of the log that it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSnapshot {
    pub index: u64,
    pub term: u64,
    pub conf_state: ConfState,
    pub data: Vec<u8>,
}

/// One step of the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct LogWrite<'a> {
    /// Replaces the snapshot and drops the entries up to its index.
    pub snapshot: Option<&'a StoredSnapshot>,
    /// The snapshot is a leader's and contradicts this log: drops the entries after its index too.
    pub replaces_log: bool,
    /// Contiguous. Entries from the first one's index on are replaced.
    pub entries: &'a [Entry],
    pub hard_state: Option<&'a HardState>,
}

/// Why a log store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("in use by another process")]
    InUse,
    #[error("log format {found} is newer than {LOG_FORMAT}")]
    NewerFormat { found: u16 },
    #[error("damaged log: {0}")]
    Damaged(String),
    /// Includes a full disk (`ErrorKind::StorageFull`).
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl StoredLog {
    /// What a crash cannot have made: a gap, or a commit beyond what is there.
    fn check(&self) -> Result<(), LogError> {
        let damaged = |why: String| Err(LogError::Damaged(why));
        let mut last = self.snapshot.index;
        let mut term = self.snapshot.term;
        for entry in &self.entries {
            if entry.index != last + 1 || entry.term < term {
                return damaged(format!("entry {} of term {} after {last} of term {term}", entry.index, entry.term));
            }
            (last, term) = (entry.index, entry.term);
        }
        if self.hard_state.commit < self.snapshot.index || self.hard_state.commit > last {
            let (commit, first) = (self.hard_state.commit, self.snapshot.index);
            return damaged(format!("commit index {commit} is not in {first}..={last}"));
        }
        if self.hard_state.term < term {
            return damaged(format!("term {} after an entry of term {term}", self.hard_state.term));
        }
        Ok(())
    }
}
