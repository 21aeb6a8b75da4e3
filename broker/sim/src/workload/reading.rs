//! Clients that read, from any offset and by time; whatever they get goes into the ledger.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use seawall::partition::Partition;
use seawall::read_path::{Isolation, ReadError};
use seawall::time_lookup;
use seawall_protocol::records::BatchHeader;
use seawall_wal_device::device::simulated::SimRandom;

use super::{Weather, some_partition};
use crate::life::Life;
use crate::world::{EPOCH_MS, World, pick};

pub(super) async fn read(
    world: &World,
    life: &Life,
    random: &mut SimRandom,
    weather: Weather,
) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let offsets = partition.offsets();
    let span = (offsets.log_end - offsets.log_start + 1) as u64;
    let near = world.ledger().some_offset(partition.stream(), random.next_u64());
    let from = match random.below(4) {
        0 => offsets.log_start,
        1 => offsets.high_watermark.saturating_sub(random.below(8) as i64).max(offsets.log_start),
        2 if near.is_some() => near.unwrap_or(0).clamp(offsets.log_start, offsets.log_end),
        _ => offsets.log_start + random.below(span) as i64,
    };
    let max_bytes = pick(random, &[1, 500, 5_000, 100_000]);
    let read = read_from(world, life, &partition, from, max_bytes, weather).await?;
    Ok(format!("read {} from {from}: {read:?}", partition.stream()))
}

/// Reads once and compares. Answers where the next read goes on, or why nothing was read.
async fn read_from(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    from: i64,
    max_bytes: usize,
    weather: Weather,
) -> Result<Result<i64, &'static str>, String> {
    let stream = partition.stream();
    let reading = life.read_path.read(partition, from, max_bytes, Isolation::ReadUncommitted, true);
    let Ok(read) = tokio::time::timeout(Duration::from_secs(600), reading).await else {
        return Err(format!("a read of stream {stream} from {from} does not end"));
    };
    let fetched = match read {
        Ok(fetched) => fetched,
        Err(error) => return excused(world, life, partition, from, error, weather).map(Err),
    };
    // Whatever compaction has seen is below.
    world.ledger().high_watermark(stream, partition.offsets().high_watermark);
    let mut bytes = BytesMut::new();
    fetched.records.0.iter().for_each(|segment| bytes.extend_from_slice(segment));
    let (mut at, mut next) = (0, from);
    let mut ledger = world.ledger();
    while at < bytes.len() {
        let length = bytes.get(at..).and_then(|rest| BatchHeader::parse(rest).ok()).map(|header| header.total_bytes());
        let Some(length) = length.filter(|length| at + length <= bytes.len()) else {
            return Err(format!("stream {stream} from {from}: not whole batches"));
        };
        let whole = &bytes[at..at + length];
        let base = BatchHeader::parse(whole).map_or(-1, |header| header.base_offset);
        let compacted = partition.config().cleanup_compact;
        if base > next {
            next = ledger.behind_gap(stream, next).min(base);
        }
        if compacted && base > next {
            ledger.saw_nothing(stream, next, base);
        }
        if (base > next && !compacted) || (base < next && at > 0) {
            return Err(format!("stream {stream} from {from}: a batch at {base}, expected at {next}"));
        }
        let seen = if compacted { ledger.saw_compacted(stream, whole) } else { ledger.saw(stream, whole) };
        let Some(end) = seen else { return Ok(Err("wrong bytes")) };
        if end <= next {
            return Err(format!("stream {stream} from {from}: a batch {base}..{end}, expected at {next}"));
        }
        next = end;
        at += length;
    }
    if next < fetched.next_offset {
        next = ledger.behind_gap(stream, next).min(fetched.next_offset);
    }
    if next > fetched.high_watermark.max(from) {
        return Err(format!("stream {stream}: read to {next}, the high watermark was {}", fetched.high_watermark));
    }
    if next != fetched.next_offset || (next == from && from < fetched.high_watermark) {
        return Err(format!("stream {stream} from {from}: read to {next}, said {fetched:?}"));
    }
    Ok(Ok(next))
}

/// In words why nothing was read, if it may be so.
fn excused(
    world: &World,
    life: &Life,
    partition: &Partition,
    from: i64,
    error: ReadError,
    weather: Weather,
) -> Result<&'static str, String> {
    world.ledger().stats.read_errors += 1;
    let wal_gone = life.wal_has_failed() || wal_ended(life);
    let (excused, why) = match &error {
        // The lease may be back by now; nobody else can have taken it.
        ReadError::NotLeader(_) => (true, "not leader"),
        ReadError::OffsetOutOfRange { log_start, .. } => (from < *log_start, "out of range"),
        ReadError::Corrupt(_) => (weather.store_lies || weather.rot, "corrupt"),
        ReadError::Unavailable(_) => {
            (weather.store_fails || weather.store_lies || weather.rot || wal_gone, "unavailable")
        }
    };
    match excused {
        true => Ok(why),
        false => Err(format!("stream {} cannot be read from {from}: {error}", partition.stream())),
    }
}

/// The first record at or after a time.
pub(super) async fn look_up_time(
    world: &World,
    life: &Life,
    random: &mut SimRandom,
    weather: Weather,
) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let (stream, offsets) = (partition.stream(), partition.offsets());
    let written = world.ledger().some_timestamp(stream, random.next_u64());
    let timestamp_ms = written.unwrap_or(EPOCH_MS) + random.below(3) as i64 - 1;
    let looking = time_lookup::first_at_or_after(&life.read_path, &partition, timestamp_ms, offsets.high_watermark);
    let Ok(found) = tokio::time::timeout(Duration::from_secs(600), looking).await else {
        return Err(format!("a look-up in stream {stream} for {timestamp_ms} does not end"));
    };
    let mut said = format!("{found:?}");
    match found {
        Ok(found) => {
            let found = found.map(|found| (found.offset, found.timestamp_ms));
            let mut ledger = world.ledger();
            ledger.high_watermark(stream, offsets.high_watermark);
            ledger.stats.time_lookups += 1;
            let log_start = partition.offsets().log_start;
            ledger.found_by_time(stream, timestamp_ms, log_start..offsets.high_watermark, found);
        }
        // Where it was is not known.
        Err(error) => said = excused(world, life, &partition, i64::MIN, error, weather)?.to_owned(),
    }
    Ok(format!("look up {timestamp_ms} in {stream}: {said}"))
}

fn wal_ended(life: &Life) -> bool {
    life.switches.wal_ended.load(std::sync::atomic::Ordering::Relaxed)
}

/// One partition from its start to its high watermark.
pub(super) async fn read_all(
    world: &World,
    life: &Life,
    random: &mut SimRandom,
    weather: Weather,
) -> Result<String, String> {
    let Some(partition) = some_partition(life, random) else { return Ok("no partition".to_owned()) };
    let read = read_partition(world, life, &partition, weather).await?;
    Ok(format!("read all of {}: {read:?}", partition.stream()))
}

/// Answers the end, or why it was not reached.
pub async fn read_partition(
    world: &World,
    life: &Life,
    partition: &Arc<Partition>,
    weather: Weather,
) -> Result<Result<i64, &'static str>, String> {
    let mut next = partition.offsets().log_start;
    let end = partition.offsets().high_watermark;
    while next < end {
        match read_from(world, life, partition, next, 20_000, weather).await? {
            Ok(to) => next = to,
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(next))
}
