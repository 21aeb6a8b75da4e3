//! Which transactional batches were aborted, and which markers nothing needs any more, while a log is read from its start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use seawall_protocol::records::BatchHeader;

use crate::object_format::AbortedTransaction;

/// Follows transactions through the batches of one log, in offset order.
#[derive(Debug, Default)]
pub struct TransactionIndex {
    /// By first offset; those whose records begin above what was read.
    ahead: VecDeque<AbortedTransaction>,
    /// By producer; whether a batch of it was met.
    aborted: BTreeMap<i64, Aborted>,
    /// Producers with batches of a transaction that was not aborted and whose marker has not been met.
    committed: BTreeSet<i64>,
    /// Aborted transactions of which batches are left: read_committed consumers must still be told.
    kept: Vec<AbortedTransaction>,
}

#[derive(Debug, Clone, Copy)]
struct Aborted {
    transaction: AbortedTransaction,
    met: bool,
}

/// What a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Abort,
    Commit,
    /// A control record that compaction does not know, and keeps.
    Other,
    /// The marker itself is gone already.
    Empty,
}

impl TransactionIndex {
    /// All aborted transactions of the part that will be read.
    pub fn new(mut aborted: Vec<AbortedTransaction>) -> TransactionIndex {
        aborted.sort_by_key(|transaction| (transaction.first_offset, transaction.last_offset));
        TransactionIndex { ahead: aborted.into(), ..TransactionIndex::default() }
    }

    /// Whether a batch of records belongs to an aborted transaction.
    pub(super) fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        match self.aborted.get_mut(&header.producer_id) {
            Some(aborted) => {
                aborted.met = true;
                true
            }
            None => {
                self.committed.insert(header.producer_id);
                false
            }
        }
    }

    /// Whether no batch of the marker's transaction was met: then the marker may go, once its horizon has passed.
    pub(super) fn may_drop_marker(&mut self, header: &BatchHeader, marker: Marker) -> bool {
        self.begin_up_to(header.last_offset());
        match marker {
            Marker::Abort => match self.aborted.remove(&header.producer_id) {
                Some(Aborted { transaction, met: true }) => {
                    self.kept.push(transaction);
                    false
                }
                _ => true,
            },
            Marker::Commit => !self.committed.remove(&header.producer_id),
            Marker::Other => false,
            Marker::Empty => true,
        }
    }

    /// The aborted transactions that were met since this was asked last.
    pub fn take_kept(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.kept)
    }

    fn begin_up_to(&mut self, offset: i64) {
        while let Some(transaction) = self.ahead.pop_front_if(|transaction| transaction.first_offset <= offset) {
            self.aborted.insert(transaction.producer_id, Aborted { transaction, met: false });
        }
    }
}
