//! A log store that ends with the process, for tests and simulation.

use raft::eraftpb::HardState;

use super::{LogError, LogIdentity, LogWrite, RaftStorage, StoredLog, StoredSnapshot};

/// Entries, hard state and snapshot in memory. A clone is what a restarted node would find.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    stored: Option<StoredLog>,
}

impl RaftStorage for MemoryLog {
    fn load(&mut self) -> Result<Option<StoredLog>, LogError> {
        Ok(self.stored.clone())
    }

    fn create(
        &mut self,
        identity: LogIdentity,
        snapshot: &StoredSnapshot,
        hard_state: &HardState,
    ) -> Result<(), LogError> {
        assert!(self.stored.is_none(), "a log is created once");
        let (snapshot, hard_state) = (snapshot.clone(), hard_state.clone());
        self.stored = Some(StoredLog { identity, hard_state, snapshot, entries: Vec::new() });
        Ok(())
    }

    fn write(&mut self, write: LogWrite<'_>) -> Result<(), LogError> {
        let stored = self.stored.as_mut().expect("a log is created before it is written");
        if let Some(snapshot) = write.snapshot {
            stored.snapshot = snapshot.clone();
            stored.entries.retain(|entry| entry.index > snapshot.index && !write.replaces_log);
        }
        if let Some(first) = write.entries.first() {
            stored.entries.retain(|entry| entry.index < first.index);
            stored.entries.extend_from_slice(write.entries);
        }
        if let Some(hard_state) = write.hard_state {
            stored.hard_state = hard_state.clone();
        }
        stored.check()
    }
}
