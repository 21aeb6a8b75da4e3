//! What a batch becomes: nothing, itself, some of its records, or an empty header that still says what it was.
//!
//! Promises: a record goes only if the map knows a newer one of its key, if it is a tombstone past its horizon, or if its
//! transaction was aborted. Every batch that is read is verified, every batch that is written is read again before it
//! leaves. Offsets, sequence numbers and timestamps of what stays are those that it had. Memory is a few times what one
//! batch decompresses to, however many records that is.

use std::collections::BTreeMap;

use bytes::Bytes;
use seawall_protocol::records::{self, BatchHeader, KeptRecords, OpenBatch, Record, RecordsError};

use super::offset_map::OffsetMap;
use super::transactions::{Marker, TransactionIndex};

/// Why a batch cannot be cleaned. Its log stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CleanError {
    #[error("batch at offset {offset}: {error}")]
    Batch { offset: i64, error: RecordsError },
    #[error("batch at offset {offset} does not read as it was written")]
    Verify { offset: i64 },
}

/// Puts the keys of a log's dirty part into a map.
pub struct Indexer<'a> {
    pub map: &'a mut OffsetMap,
    /// Keys below are known to be the newest of what lies below.
    pub first_dirty: i64,
    pub transactions: TransactionIndex,
    pub decompressed_bytes_max: usize,
    /// Records that were looked at.
    pub records: u64,
}

/// How far the map has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexing {
    GoOn,
    /// The map has no room for the next key: the round ends before it.
    Full,
}

impl Indexer<'_> {
    /// Takes the next batch of the log.
    pub fn add(&mut self, header: &BatchHeader, batch: &Bytes) -> Result<Indexing, CleanError> {
        let wrap = |error| CleanError::Batch { offset: header.base_offset, error };
        if header.is_control() {
            let marker = marker(header, batch).map_err(wrap)?;
            self.transactions.may_drop_marker(header, marker);
        } else if !self.transactions.is_aborted(header) {
            for record in records::records(header, batch, self.decompressed_bytes_max).map_err(wrap)? {
                let record = record.map_err(wrap)?;
                self.records += 1;
                let Some(key) = record.key.filter(|_| record.offset >= self.first_dirty) else { continue };
                // A batch that no compacted topic takes can be in one that was not compacted before.
                if record.offset <= self.map.latest() {
                    return Err(wrap(RecordsError::Record("offsets do not rise")));
                }
                if !self.map.put(&key, record.offset) {
                    return Ok(Indexing::Full);
                }
            }
        }
        if header.last_offset() >= self.first_dirty {
            self.map.read_up_to(header.last_offset());
        }
        Ok(Indexing::GoOn)
    }
}

/// The last that a producer which is still remembered has in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastOfProducer {
    /// The last offset of its last batch with records; `None` if a marker is the last it has.
    pub last_data_offset: Option<i64>,
    pub producer_epoch: i16,
}

/// What decides whether something stays.
pub struct CleanRules<'a> {
    pub map: &'a OffsetMap,
    pub now_ms: i64,
    pub delete_retention_ms: i64,
    pub last_of_producers: &'a BTreeMap<i64, LastOfProducer>,
    pub decompressed_bytes_max: usize,
}

/// Totals of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanStatistics {
    pub batches_read: u64,
    pub records_read: u64,
    pub bytes_read: u64,
    pub batches_kept: u64,
    pub records_kept: u64,
    pub bytes_kept: u64,
    /// Without a key: they can be in a topic that was not compacted before. They go.
    pub records_without_key: u64,
}

/// A batch that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanedBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
    /// It is the very batch that was read.
    pub unchanged: bool,
}

/// Cleans the batches of one log, in offset order from its start.
pub struct Cleaner<'a> {
    pub rules: CleanRules<'a>,
    pub transactions: TransactionIndex,
    pub statistics: CleanStatistics,
}

/// What is kept of a batch at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    /// Nothing, whatever its records say.
    Drop,
    /// Nothing, if no record stays.
    Records,
    Header,
}

impl Cleaner<'_> {
    /// What the next batch becomes; `None`: it goes. A batch that is to be `held` leaves its header at least.
    pub fn clean(
        &mut self,
        header: &BatchHeader,
        batch: &Bytes,
        held: bool,
    ) -> Result<Option<CleanedBatch>, CleanError> {
        let wrap = |error| CleanError::Batch { offset: header.base_offset, error };
        records::verify_crc(batch).map_err(wrap)?;
        self.statistics.batches_read += 1;
        self.statistics.bytes_read += batch.len() as u64;
        self.statistics.records_read += u64::from(header.record_count.unsigned_abs());

        let (discardable, empty_transaction) = match header.is_control() {
            true => {
                let gone = self.transactions.may_drop_marker(header, marker(header, batch).map_err(wrap)?);
                let past_horizon = header.delete_horizon_ms().is_some_and(|horizon| horizon <= self.rules.now_ms);
                (gone && past_horizon, gone)
            }
            false => (self.transactions.is_aborted(header), false),
        };
        let floor = match discardable {
            _ if held || self.is_last_of_producer(header) => Floor::Header,
            true => Floor::Drop,
            false => Floor::Records,
        };
        if floor == Floor::Drop {
            return Ok(None);
        }
        let open = OpenBatch::of(header, batch, self.rules.decompressed_bytes_max).map_err(wrap)?;
        let (mut kept, mut has_tombstone) = (KeptRecords::default(), false);
        for record in open.records() {
            let record = record.map_err(wrap)?;
            let keep = !discardable && (header.is_control() || self.stays(header, &record));
            has_tombstone |= keep && !header.is_control() && record.value.is_none();
            kept.push(keep);
        }
        if kept.kept() == 0 && floor != Floor::Header {
            return Ok(None);
        }
        let needs_horizon =
            kept.kept() > 0 && (has_tombstone || empty_transaction) && header.delete_horizon_ms().is_none();
        let horizon = needs_horizon.then(|| self.rules.now_ms.saturating_add(self.rules.delete_retention_ms));
        let unchanged = kept.is_all() && horizon.is_none();
        let cleaned = match unchanged {
            true => CleanedBatch { header: *header, bytes: batch.clone(), unchanged },
            false => self.rewritten(header, &open, &kept, horizon)?,
        };
        self.statistics.batches_kept += 1;
        self.statistics.bytes_kept += cleaned.bytes.len() as u64;
        self.statistics.records_kept += kept.kept() as u64;
        Ok(Some(cleaned))
    }

    /// A producer's last batch holds the sequence number that its next one must follow.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let Some(last) = self.rules.last_of_producers.get(&header.producer_id) else { return false };
        match last.last_data_offset {
            _ if !header.has_producer_id() => false,
            Some(offset) => header.last_offset() == offset,
            None => header.is_control() && header.producer_epoch == last.producer_epoch,
        }
    }

    fn stays(&mut self, header: &BatchHeader, record: &Record) -> bool {
        let map = self.rules.map;
        if record.offset > map.latest() {
            return true;
        }
        let Some(key) = &record.key else {
            self.statistics.records_without_key += 1;
            return false;
        };
        let newest = map.get(key).is_none_or(|newest| record.offset >= newest);
        let newest = newest && !crate::faults::drops_live_key(record.offset);
        let past_horizon = header.delete_horizon_ms().is_some_and(|horizon| horizon <= self.rules.now_ms);
        let past_horizon = past_horizon || crate::faults::ignores_horizon();
        newest && !(record.value.is_none() && past_horizon)
    }

    fn rewritten(
        &self,
        header: &BatchHeader,
        open: &OpenBatch,
        kept: &KeptRecords,
        horizon: Option<i64>,
    ) -> Result<CleanedBatch, CleanError> {
        let offset = header.base_offset;
        let wrap = |error| CleanError::Batch { offset, error };
        let bytes = open.with_only(kept, horizon).map_err(wrap)?;
        let rewritten = BatchHeader::parse(&bytes).map_err(wrap)?;
        records::verify_crc(&bytes).map_err(wrap)?;
        let again = records::records(&rewritten, &bytes, self.rules.decompressed_bytes_max).map_err(wrap)?;
        if !again.eq(open.kept(kept)) || rewritten.last_offset() != header.last_offset() {
            return Err(CleanError::Verify { offset });
        }
        Ok(CleanedBatch { header: rewritten, bytes, unchanged: false })
    }
}

/// Control records have a key of two numbers of 16 bits: version and type.
fn marker(header: &BatchHeader, batch: &Bytes) -> Result<Marker, RecordsError> {
    const CONTROL_BYTES_MAX: usize = 1 << 20;
    let Some(first) = records::records(header, batch, CONTROL_BYTES_MAX)?.next() else { return Ok(Marker::Empty) };
    let key = first?.key.unwrap_or_default();
    Ok(match key.get(2..4) {
        Some([0, 0]) => Marker::Abort,
        Some([0, 1]) => Marker::Commit,
        _ => Marker::Other,
    })
}
