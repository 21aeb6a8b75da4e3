//! Reading a partition of `__consumer_offsets` from its start to its end.

use std::time::Duration;

use bytes::Bytes;
use seawall_protocol::records::{self, BatchHeader, RecordsError};

use super::{GroupLog, LogError};
use crate::group::Now;
use crate::group_records::{self, GroupRecordError};
use crate::group_shard::GroupShard;

const READ_BYTES: usize = 1 << 20;
/// Our own batches are far smaller; a foreign one may not blow up.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;
/// Pause until the high watermark may have moved on.
const WAIT: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("read the log: {0}")]
    Log(#[from] LogError),
    #[error("batch at offset {offset}: {source}")]
    Batch { offset: i64, source: RecordsError },
    #[error("record at offset {offset}: {source}")]
    Record { offset: i64, source: GroupRecordError },
}

pub(super) struct Loaded {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Replays everything that was in the log when this was called, durable or not yet: it waits for the high watermark.
pub(super) async fn load(log: &dyn GroupLog, shard: &mut GroupShard, now: Now) -> Result<Loaded, LoadError> {
    let end = log.log_end();
    let mut next = log.log_start();
    let mut loaded = Loaded { records: 0, bytes: 0 };
    while next < end {
        let (chunks, read_to) = log.read(next, READ_BYTES).await?;
        if chunks.is_empty() && read_to > next {
            // Offsets that no batch has: given up, or left out by a restore.
            next = read_to;
            continue;
        }
        if chunks.is_empty() {
            // Retention may have moved the start past us.
            next = next.max(log.log_start());
            tokio::time::sleep(WAIT).await;
        }
        for chunk in chunks {
            loaded.bytes += chunk.len() as u64;
            let batches = records::split_batches(chunk).map_err(|source| LoadError::Batch { offset: next, source })?;
            for (header, batch) in batches {
                loaded.records += replay_batch(&header, &batch, next, shard, now)?;
                next = next.max(header.last_offset() + 1);
            }
        }
    }
    Ok(loaded)
}

fn replay_batch(
    header: &BatchHeader,
    batch: &Bytes,
    from: i64,
    shard: &mut GroupShard,
    now: Now,
) -> Result<u64, LoadError> {
    // Offsets that are committed by a transaction take effect with its marker; no coordinator here writes them yet.
    if header.is_control() || header.is_transactional() {
        return Ok(0);
    }
    let bad_batch = |source| LoadError::Batch { offset: header.base_offset, source };
    let mut count = 0;
    for record in records::records(header, batch, DECOMPRESSED_BYTES_MAX).map_err(bad_batch)? {
        let record = record.map_err(bad_batch)?;
        let Some(key) = record.key.filter(|_| record.offset >= from) else { continue };
        let decoded = group_records::decode(key, record.value)
            .map_err(|source| LoadError::Record { offset: record.offset, source })?;
        shard.replay(decoded, now);
        count += 1;
    }
    Ok(count)
}
