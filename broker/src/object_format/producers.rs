//! The producer-state section: what the batches of each stream in this object add to its idempotent producers.
//!
//! A delta lists producers that appended in the cut, each with its last batches; the full state lists all producers
//! as of the end of the cut. Deltas folded in offset order upon the newest full state give the state at the log's end.

use seawall_metadata::StreamId;

use super::{Fields, FormatError};
use crate::producer_state::{Appended, ProducerSnapshot, ProducerState, REMEMBERED_BATCHES};

/// Encoded length of one batch of a producer: also the least that one takes, which bounds allocations.
const BATCH_BYTES: usize = 32;
const PRODUCER_BYTES: usize = 32;
const STREAM_BYTES: usize = 24;

const FLAG_FULL: u32 = 1;
const NO_OFFSET: i64 = -1;
const NO_EPOCH: i32 = -1;

/// The producers of one stream as of `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamProducers {
    pub stream: StreamId,
    /// The state holds for the log up to this offset, exclusive.
    pub end: i64,
    /// All producers that are remembered, not only those that appended in the cut.
    pub full: bool,
    /// In the order of their ids.
    pub producers: Vec<ProducerSnapshot>,
}

/// What several objects together say of a stream's producers, given each one's say in offset order: the newest full state, or
/// nothing, with the deltas after it.
pub fn fold_producers(
    stream: StreamId,
    end: i64,
    states: impl IntoIterator<Item = StreamProducers>,
) -> StreamProducers {
    let mut folded = ProducerState::default();
    let mut full = false;
    for state in states {
        assert_eq!(state.stream, stream, "one stream is folded");
        if state.full {
            full = true;
            folded = ProducerState::default();
        }
        // When it was active is not stored.
        state.producers.iter().for_each(|producer| folded.restore(producer, 0));
    }
    StreamProducers { stream, end, full, producers: folded.snapshot().collect() }
}

pub(super) fn encode_producers(streams: &[StreamProducers]) -> Vec<u8> {
    let mut out = Vec::new();
    for stream in streams {
        out.extend_from_slice(&stream.stream.0.to_le_bytes());
        out.extend_from_slice(&stream.end.to_le_bytes());
        out.extend_from_slice(&(if stream.full { FLAG_FULL } else { 0 }).to_le_bytes());
        out.extend_from_slice(&(stream.producers.len() as u32).to_le_bytes());
        for producer in &stream.producers {
            encode_producer(producer, &mut out);
        }
    }
    out
}

fn encode_producer(producer: &ProducerSnapshot, out: &mut Vec<u8>) {
    assert!(producer.batches.len() <= REMEMBERED_BATCHES, "{} batches of one producer", producer.batches.len());
    out.extend_from_slice(&producer.producer_id.to_le_bytes());
    out.extend_from_slice(&producer.producer_epoch.to_le_bytes());
    out.extend_from_slice(&(producer.batches.len() as u16).to_le_bytes());
    // Transactions will fill these two: the coordinator's epoch, and the first offset of the open transaction.
    out.extend_from_slice(&NO_EPOCH.to_le_bytes());
    out.extend_from_slice(&NO_OFFSET.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for batch in &producer.batches {
        out.extend_from_slice(&batch.base_sequence.to_le_bytes());
        out.extend_from_slice(&batch.last_sequence.to_le_bytes());
        out.extend_from_slice(&batch.base_offset.to_le_bytes());
        out.extend_from_slice(&batch.last_offset.to_le_bytes());
        out.extend_from_slice(&batch.timestamp_ms.to_le_bytes());
    }
}

/// Decodes a producer-state section whose checksum has been verified.
pub fn decode_producers(section: &[u8]) -> Result<Vec<StreamProducers>, FormatError> {
    let mut fields = Fields::new("producer state", section);
    let mut streams: Vec<StreamProducers> = Vec::new();
    while !fields.rest.is_empty() {
        let (stream, end) = (StreamId(fields.u64()?), fields.i64()?);
        let flags = fields.u32()?;
        if flags & !FLAG_FULL != 0 {
            return Err(fields.malformed("unknown flags"));
        }
        if streams.last().is_some_and(|previous| previous.stream >= stream) {
            return Err(fields.malformed("streams are not sorted"));
        }
        let count = fields.u32()? as usize;
        if count > fields.rest.len() / PRODUCER_BYTES {
            return Err(fields.malformed("more producers than bytes"));
        }
        let producers = (0..count).map(|_| decode_producer(&mut fields)).collect::<Result<_, _>>()?;
        streams.push(StreamProducers { stream, end, full: flags & FLAG_FULL != 0, producers });
    }
    fields.finish()?;
    Ok(streams)
}

fn decode_producer(fields: &mut Fields<'_>) -> Result<ProducerSnapshot, FormatError> {
    let (producer_id, producer_epoch) = (fields.i64()?, fields.i16()?);
    let count = usize::from(fields.u16()?);
    if count > REMEMBERED_BATCHES {
        return Err(fields.malformed("too many batches of one producer"));
    }
    let (_coordinator_epoch, _transaction_start, _reserved) = (fields.i32()?, fields.i64()?, fields.u64()?);
    let mut batches = Vec::with_capacity(count);
    for _ in 0..count {
        let (base_sequence, last_sequence) = (fields.i32()?, fields.i32()?);
        let (base_offset, last_offset, timestamp_ms) = (fields.i64()?, fields.i64()?, fields.i64()?);
        batches.push(Appended { base_sequence, last_sequence, base_offset, last_offset, timestamp_ms });
    }
    Ok(ProducerSnapshot { producer_id, producer_epoch, batches })
}

const _: () =
    assert!(STREAM_BYTES == 8 + 8 + 4 + 4 && PRODUCER_BYTES == 8 + 2 + 2 + 4 + 8 + 8 && BATCH_BYTES == 4 + 4 + 3 * 8);
