//! Finds the first record at or after a time, inside batches too, and the first record with the largest timestamp.
//!
//! Metadata's ranges, the objects' indexes and the tail's index say where it may be (each knows its largest timestamp), so a look-up
//! costs the index of one object and one block of it. Timestamps of a partition need not rise, and a header may
//! claim a larger one than its records have: then the search goes on behind that block.

use bytes::Bytes;
use seawall_backends::Purpose;
use seawall_metadata::{ObjectId, Offset, State};
use seawall_protocol::records::{self, BatchHeader, RecordsError, TimestampType};

use crate::object_reader::ObjectRef;
use crate::partition::Partition;
use crate::read_path::{Isolation, ReadError, ReadPath};

/// Record bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Limit on what one batch may decompress to.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// A record that was asked for by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub leader_epoch: i32,
}

/// The first record at or after `timestamp_ms` below the offset `below`.
pub async fn first_at_or_after(
    reads: &ReadPath,
    partition: &Partition,
    timestamp_ms: i64,
    below: i64,
) -> Result<Option<TimedOffset>, ReadError> {
    let mut from = partition.offsets().log_start;
    while let Some(span) = next_span(reads, partition, timestamp_ms, from, below) {
        let end = span.end.min(below);
        let found = match span.object {
            Some(object) => search_object(reads, partition, object, timestamp_ms, span.base, end).await?,
            None => search(reads, partition, timestamp_ms, span.base, end, READ_BYTES).await?,
        };
        match found {
            Some(found) => return Ok(Some(found)),
            None => from = span.end,
        }
    }
    Ok(None)
}

/// The first record that has the largest timestamp of all below the offset `below`.
pub async fn newest(reads: &ReadPath, partition: &Partition, below: i64) -> Result<Option<TimedOffset>, ReadError> {
    let spans = reads.metadata().read(|state| spans(state, partition, partition.offsets().log_start, below));
    match spans.iter().map(|span| span.max_timestamp_ms).max() {
        Some(largest_ms) => first_at_or_after(reads, partition, largest_ms, below).await,
        None => Ok(None),
    }
}

/// Part of the log with the largest timestamp in it: offsets from `base` up to, without, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    base: i64,
    end: i64,
    max_timestamp_ms: i64,
    /// Where it is, if it is committed.
    object: Option<ObjectId>,
}

fn next_span(reads: &ReadPath, partition: &Partition, timestamp_ms: i64, from: i64, below: i64) -> Option<Span> {
    let reaches = |span: &Span| span.max_timestamp_ms >= timestamp_ms;
    reads.metadata().read(|state| {
        let committed = committed(state, partition, from, below).find(reaches);
        committed.or_else(|| spans(state, partition, from, below).into_iter().find(reaches))
    })
}

fn committed<'a>(state: &'a State, partition: &Partition, from: i64, below: i64) -> impl Iterator<Item = Span> + 'a {
    let span = move |range: seawall_metadata::state::RangeRef| Span {
        base: range.base.0.max(from),
        end: range.end.0,
        max_timestamp_ms: range.max_timestamp,
        object: Some(range.object),
    };
    state.ranges(partition.stream(), Offset(from)).map(span).take_while(move |span| span.base < below)
}

/// The log from `from` to `below`, in offset order: committed ranges, then batches of the tail.
fn spans(state: &State, partition: &Partition, from: i64, below: i64) -> Vec<Span> {
    let mut spans: Vec<Span> = committed(state, partition, from, below).collect();
    let mut end = spans.last().map_or(from, |span| span.end);
    for entry in partition.tail_entries() {
        if entry.last >= end {
            end = entry.last + 1;
            spans.push(Span { base: entry.base, end, max_timestamp_ms: entry.max_timestamp, object: None });
        }
    }
    for span in &mut spans {
        span.base = span.base.max(from);
    }
    spans.retain(|span| span.base < span.end && span.base < below);
    spans
}

/// Searches a range of the partition in an object: only the blocks whose largest timestamp reaches the time are read, one after the
/// other. One is enough unless a batch's header claims a later time than its records have.
async fn search_object(
    reads: &ReadPath,
    partition: &Partition,
    object: ObjectId,
    timestamp_ms: i64,
    start: i64,
    end: i64,
) -> Result<Option<TimedOffset>, ReadError> {
    let index = match reads.metadata().read(|state| ObjectRef::of(state, object)) {
        Some(object) => reads.reader().index(&object, Purpose::CatchUpRead).await.ok(),
        None => None,
    };
    let Some(cached) = index else {
        // Compaction has put another object in its place, or the read meets the same error and reports it.
        return search(reads, partition, timestamp_ms, start, end, READ_BYTES).await;
    };
    let mut from = start;
    while let Some(at) = cached.index.find_timestamp(partition.stream(), timestamp_ms, from) {
        let block = cached.index.blocks()[at];
        if block.base >= end {
            break;
        }
        let (start, end) = (block.base.max(from), block.end.min(end));
        if let Some(found) = search(reads, partition, timestamp_ms, start, end, block.bytes as usize).await? {
            return Ok(Some(found));
        }
        from = block.end;
    }
    Ok(None)
}

/// Reads from `start`, about `read_bytes` at a time, until the record is found or `end` is reached.
async fn search(
    reads: &ReadPath,
    partition: &Partition,
    timestamp_ms: i64,
    start: i64,
    end: i64,
    read_bytes: usize,
) -> Result<Option<TimedOffset>, ReadError> {
    let mut next = start;
    while next < end {
        let fetched = reads.read(partition, next, read_bytes, Isolation::ReadUncommitted, true).await?;
        if fetched.next_offset <= next {
            return Ok(None);
        }
        let batches = fetched.records.to_bytes();
        let found = first_in_batches(&batches, timestamp_ms, next, end);
        if let Some(found) = found.map_err(|error| ReadError::Corrupt(error.to_string()))? {
            return Ok(Some(found));
        }
        next = fetched.next_offset;
    }
    Ok(None)
}

/// The first record at or after `timestamp_ms` with an offset in `from..below`, in whole batches that follow each other.
fn first_in_batches(
    batches: &Bytes,
    timestamp_ms: i64,
    from: i64,
    below: i64,
) -> Result<Option<TimedOffset>, RecordsError> {
    for (header, batch) in records::split_batches(batches.clone())? {
        if header.max_timestamp < timestamp_ms || header.last_offset() < from || header.is_control() {
            continue;
        }
        if let Some(found) = first_in_batch(&header, &batch, timestamp_ms, from, below)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn first_in_batch(
    header: &BatchHeader,
    batch: &Bytes,
    timestamp_ms: i64,
    from: i64,
    below: i64,
) -> Result<Option<TimedOffset>, RecordsError> {
    let stamped = header.timestamp_type() == TimestampType::LogAppendTime;
    for record in records::records(header, batch, DECOMPRESSED_BYTES_MAX)? {
        let record = record?;
        let at = if stamped { header.max_timestamp } else { record.timestamp };
        if at >= timestamp_ms && (from..below).contains(&record.offset) {
            let leader_epoch = header.partition_leader_epoch;
            return Ok(Some(TimedOffset { offset: record.offset, timestamp_ms: at, leader_epoch }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_protocol::records::{BatchBuilder, Compression};

    /// Batches at dense offsets from `base` on, each given by its records' timestamps.
    fn batches(base: i64, timestamps: &[&[i64]]) -> Bytes {
        let mut all = Vec::new();
        let mut next = base;
        for batch in timestamps {
            let mut builder = BatchBuilder::new(Compression::Zstd).base_offset(next).leader_epoch(3);
            for timestamp in *batch {
                builder.add(None, Some(b"v"), *timestamp, &[]);
            }
            next += batch.len() as i64;
            all.extend_from_slice(&builder.build());
        }
        all.into()
    }

    #[test]
    fn trap_17_the_first_record_at_or_after_the_time_is_found_inside_batches_too() {
        let batches = batches(10, &[&[100, 300, 200], &[250, 400], &[50]]);
        let find = |time, from, below| {
            first_in_batches(&batches, time, from, below).unwrap().map(|found| (found.offset, found.timestamp_ms))
        };
        assert_eq!(find(0, 0, 100), Some((10, 100)));
        assert_eq!(find(200, 0, 100), Some((11, 300)), "the first record, not the nearest time");
        assert_eq!(find(301, 0, 100), Some((14, 400)));
        assert_eq!(find(401, 0, 100), None);
        assert_eq!(find(200, 12, 100), Some((12, 200)), "from the log start on");
        assert_eq!(find(301, 0, 14), None, "below what may be read");
    }

    #[test]
    fn trap_18_under_log_append_time_every_record_has_the_batchs_time() {
        let mut stamped = batches(0, &[&[1, 2, 3]]).to_vec();
        records::set_log_append_time(&mut stamped, 500);
        let found = first_in_batches(&stamped.into(), 400, 0, 10).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp_ms, found.leader_epoch), (0, 500, 3));
    }

    #[test]
    fn a_header_that_claims_a_later_time_than_its_records_have_is_passed_over() {
        let mut lying = batches(0, &[&[1, 2]]).to_vec();
        lying[35..43].copy_from_slice(&900i64.to_be_bytes());
        let both = Bytes::from([&lying[..], &batches(2, &[&[700]])].concat());
        assert_eq!(first_in_batches(&both, 600, 0, 10).unwrap().map(|found| found.offset), Some(2));
    }
}
