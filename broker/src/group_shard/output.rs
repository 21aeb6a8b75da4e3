//! What an event asks of the caller: records for the log, and answers.

use bytes::Bytes;
use seawall_protocol::records::BATCH_HEADER_BYTES;

use crate::group::{GroupError, JoinAnswer, RequestId, Synced};

/// Lengths, attributes, timestamp and offset of a record in a batch.
const RECORD_ENVELOPE_BYTES_MAX: usize = 40;

/// What an event asks of the caller.
#[derive(Debug, Default)]
pub struct Output {
    pub records: Vec<LogRecord>,
    /// How far `records` went after each event that is to be in the log whole or not at all.
    pub ends: Vec<usize>,
    /// Target assignments that were computed.
    pub assignments: u64,
    pub joins: Vec<(RequestId, JoinAnswer)>,
    pub syncs: Vec<(RequestId, Result<Synced, GroupError>)>,
}

impl Output {
    /// What was written since the last call belongs together.
    pub fn end_event(&mut self) {
        if self.ends.last() != Some(&self.records.len()) {
            self.ends.push(self.records.len());
        }
    }
}

/// One record for the log; no value is a tombstone.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl LogRecord {
    /// What it takes of a batch, at most.
    pub fn bytes(&self) -> usize {
        RECORD_ENVELOPE_BYTES_MAX + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What a batch of these records takes, at most.
pub fn event_bytes<'a>(records: impl IntoIterator<Item = &'a LogRecord>) -> usize {
    BATCH_HEADER_BYTES + records.into_iter().map(LogRecord::bytes).sum::<usize>()
}
