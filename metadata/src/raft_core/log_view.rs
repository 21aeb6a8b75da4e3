//! The log as raft reads it: in memory, a copy of what the log store holds.
//!
//! Entries go to the store first. The log is short (it is cut by bytes), so a node keeps it whole.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::log_store::StoredSnapshot;

pub(super) struct LogView {
    hard_state: HardState,
    conf_state: ConfState,
    /// The point before the first entry.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// A peer needs a snapshot that is not at hand.
    wanted: Cell<bool>,
    offered: Option<Snapshot>,
}

impl LogView {
    pub(super) fn new(
        hard_state: HardState,
        index: u64,
        term: u64,
        conf_state: ConfState,
        entries: Vec<Entry>,
    ) -> Self {
        let bytes = entries.iter().map(size).sum();
        let entries = entries.into();
        Self { hard_state, conf_state, base: (index, term), entries, bytes, wanted: Cell::new(false), offered: None }
    }

    pub(super) fn hard_state(&self) -> Option<&HardState> {
        Some(&self.hard_state)
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0 && first.index <= self.last() + 1, "entry {} leaves a gap", first.index);
        while self.last() >= first.index {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, size);
        }
        self.bytes += entries.iter().map(size).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops the entries that a snapshot of this node's own stands for.
    pub(super) fn compact(&mut self, snapshot: &StoredSnapshot) {
        while self.entries.front().is_some_and(|entry| entry.index <= snapshot.index) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, size);
        }
        self.base = (snapshot.index, snapshot.term);
        self.conf_state = snapshot.conf_state.clone();
        self.offered = None;
    }

    /// Begins anew from a snapshot that the leader sent.
    pub(super) fn restore(&mut self, index: u64, term: u64, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.base = (index, term);
        self.conf_state = conf_state;
        self.hard_state.commit = self.hard_state.commit.max(index);
        self.offered = None;
    }

    /// Whether a peer asked for a snapshot since the last call.
    pub(super) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(super) fn offer(&mut self, stored: StoredSnapshot) {
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = stored.index;
        meta.term = stored.term;
        meta.set_conf_state(stored.conf_state);
        snapshot.set_data(stored.data.into());
        self.offered = Some(snapshot);
    }

    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max = max.into().unwrap_or(u64::MAX);
        let offset = |index: u64| (index - self.base.0 - 1) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += size(entry);
            first || bytes <= max
        };
        Ok(self.entries.range(offset(low)..offset(high)).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let offset = index.checked_sub(self.base.0 + 1).ok_or(StorageError::Compacted)?;
        Ok(self.entries.get(offset as usize).ok_or(StorageError::Unavailable)?.term)
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.offered {
            Some(snapshot) if snapshot.get_metadata().index >= request_index.max(self.base.0) => Ok(snapshot.clone()),
            _ => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

fn size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}
