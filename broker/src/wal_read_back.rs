//! Reads batches back from the WAL, several at a time, for uploads and for consumers of what memory has let go.

use bytes::Bytes;
use seawall_metadata::StreamId;
use seawall_wal_device::{RecordHeader, RecordPosition, Wal, WalError};
use tokio::task::JoinSet;

use crate::log_cache::BatchEntry;

/// Reads under way at a time, per call.
const READS_IN_FLIGHT: usize = 8;
/// Smaller batches are copied out of their block-aligned buffers, which would pin several times as much.
const COPY_BELOW_BYTES: usize = 64 << 10;

/// The batches of `stream` at these positions, in the order asked.
pub async fn read_back(
    wal: &Wal,
    stream: StreamId,
    batches: Vec<(BatchEntry, RecordPosition)>,
) -> Vec<Result<Bytes, WalError>> {
    if let [(entry, position)] = &batches[..] {
        return vec![read_one(wal, stream, entry, *position).await];
    }
    let mut found: Vec<Option<Result<Bytes, WalError>>> = Vec::new();
    found.resize_with(batches.len(), || None);
    let share = batches.len().div_ceil(READS_IN_FLIGHT).max(1);
    let mut readers = JoinSet::new();
    for (reader, share) in batches.chunks(share).enumerate().map(|(at, share_of)| (at * share, share_of.to_vec())) {
        let wal = wal.clone();
        readers.spawn(async move {
            let mut found = Vec::with_capacity(share.len());
            for (entry, position) in share {
                found.push(read_one(&wal, stream, &entry, position).await);
            }
            (reader, found)
        });
    }
    while let Some(read) = readers.join_next().await {
        let (first, results) = match read {
            Ok(read) => read,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        for (at, result) in results.into_iter().enumerate() {
            found[first + at] = Some(result);
        }
    }
    found.into_iter().map(|result| result.expect("every share was read")).collect()
}

async fn read_one(
    wal: &Wal,
    stream: StreamId,
    entry: &BatchEntry,
    position: RecordPosition,
) -> Result<Bytes, WalError> {
    let header = RecordHeader {
        stream: stream.0,
        leader_epoch: entry.leader_epoch,
        base_offset: entry.base,
        last_offset: entry.last,
    };
    let bytes = wal.read(position, header).await?;
    Ok(if bytes.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes })
}
