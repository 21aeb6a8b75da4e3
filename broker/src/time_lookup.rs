//! Finds the first record at or after a time, inside batches too, and the record with the largest timestamp.
//!
//! Metadata's ranges and the tail's index say where to begin (each knows its largest timestamp); from there batches are read
//! until one holds the record. Timestamps of a partition need not rise.

use std::sync::Arc;

use bytes::Bytes;
use seawall_metadata::{Offset, State};
use seawall_protocol::records::{self, BatchHeader, RecordsError, TimestampType};

use crate::partition::Partition;

/// A record that was asked for by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub leader_epoch: i32,
}

/// Part of the log that may hold a record: from a base offset up to, without, an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedSpan {
    pub base: i64,
    pub end: i64,
    pub max_timestamp_ms: i64,
}

/// What one stretch of batches says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    Found(TimedOffset),
    /// Not in these batches; go on at this offset.
    GoOn(i64),
}

/// The log from its start to `below`, as spans in offset order: committed ranges, then batches of the tail.
pub fn spans(state: &State, partition: &Arc<Partition>, below: i64) -> Vec<TimedSpan> {
    let offsets = partition.offsets();
    let committed = state.ranges(partition.stream(), Offset(offsets.log_start)).map(|range| TimedSpan {
        base: range.base.0,
        end: range.end.0,
        max_timestamp_ms: range.max_timestamp,
    });
    let mut spans: Vec<TimedSpan> = committed.collect();
    let mut end = spans.last().map_or(offsets.log_start, |span| span.end);
    for entry in partition.tail_entries() {
        if entry.base >= end {
            end = entry.last + 1;
            spans.push(TimedSpan { base: entry.base, end, max_timestamp_ms: entry.max_timestamp });
        }
    }
    for span in &mut spans {
        span.base = span.base.max(offsets.log_start);
    }
    spans.retain(|span| span.base < span.end && span.base < below);
    spans
}

/// Looks for the first record at or after `timestamp_ms` in whole batches that follow each other, between two offsets.
pub fn scan(
    batches: &Bytes,
    timestamp_ms: i64,
    from: i64,
    below: i64,
    decompressed_bytes_max: usize,
) -> Result<Scanned, RecordsError> {
    let mut next = from;
    for (header, batch) in records::split_batches(batches.clone())? {
        next = next.max(header.last_offset() + 1);
        if header.max_timestamp < timestamp_ms || header.last_offset() < from {
            continue;
        }
        if let Some(found) = first_in_batch(&header, &batch, timestamp_ms, from, below, decompressed_bytes_max)? {
            return Ok(Scanned::Found(found));
        }
    }
    Ok(Scanned::GoOn(next))
}

fn first_in_batch(
    header: &BatchHeader,
    batch: &Bytes,
    timestamp_ms: i64,
    from: i64,
    below: i64,
    decompressed_bytes_max: usize,
) -> Result<Option<TimedOffset>, RecordsError> {
    for record in records::records(header, batch, decompressed_bytes_max)? {
        let record = record?;
        let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
        let at = if stamped { header.max_timestamp } else { record.timestamp };
        if at >= timestamp_ms && (from..below).contains(&record.offset) {
            let leader_epoch = header.partition_leader_epoch;
            return Ok(Some(TimedOffset { offset: record.offset, timestamp_ms: at, leader_epoch }));
        }
    }
    Ok(None)
}
