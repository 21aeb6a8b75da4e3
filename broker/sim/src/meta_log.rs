//! A metadata log that outlives the process, and remembers every entry ever written: the state must follow from them alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::eraftpb::{Entry, HardState};
use seawall_metadata::log_store::{LogError, LogIdentity, LogWrite, MemoryLog, RaftStorage, StoredLog, StoredSnapshot};
use seawall_metadata::{Command, snapshot};

use crate::steps::{Fate, Steps};

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct SharedLog {
    shared: Arc<Mutex<Kept>>,
    steps: Steps,
}

#[derive(Default)]
struct Kept {
    log: MemoryLog,
    /// What it began with.
    first: Vec<u8>,
    /// Kind of entry (0: normal) and data, by index.
    entries: BTreeMap<u64, Vec<u8>>,
}

impl SharedLog {
    pub fn new(steps: Steps) -> Self {
        Self { shared: Arc::default(), steps }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry that was ever written.
    pub fn last(&self) -> u64 {
        self.lock().entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// The snapshot of a fresh state that is fed all entries up to `applied`.
    pub fn replay(&self, applied: u64) -> Result<Vec<u8>, String> {
        let kept = self.lock();
        let mut state = snapshot::decode(&kept.first).map_err(|error| error.to_string())?;
        for (index, data) in kept.entries.range(..=applied) {
            if data.is_empty() {
                state.pass(*index);
            } else {
                let command = Command::decode(data).map_err(|error| format!("entry {index}: {error}"))?;
                // A rejection is part of the history.
                let _ = state.apply(*index, command);
            }
        }
        Ok(snapshot::encode(&state))
    }
}

impl RaftStorage for SharedLog {
    fn load(&mut self) -> Result<Option<StoredLog>, LogError> {
        self.lock().log.load()
    }

    fn create(
        &mut self,
        identity: LogIdentity,
        snapshot: &StoredSnapshot,
        hard_state: &HardState,
    ) -> Result<(), LogError> {
        let mut kept = self.lock();
        kept.first = snapshot.data.clone();
        kept.log.create(identity, snapshot, hard_state)
    }

    fn write(&mut self, write: LogWrite<'_>) -> Result<(), LogError> {
        let entries: &[Entry] = write.entries;
        let fate = self.steps.take(|| named(entries), true);
        let ended = || Err(LogError::Io(std::io::Error::other("the process has ended")));
        if fate == Fate::NotDone {
            return ended();
        }
        let mut kept = self.lock();
        for entry in entries {
            kept.entries.insert(entry.index, entry.data.to_vec());
        }
        kept.log.write(write)?;
        if fate == Fate::DoneUnheard { ended() } else { Ok(()) }
    }
}

fn named(entries: &[Entry]) -> String {
    let name = |entry: &Entry| Command::decode(&entry.data).map_or("nothing", |command| command.name());
    let names: Vec<&str> = entries.iter().map(name).collect();
    format!("metadata log: {}", names.join(", "))
}
