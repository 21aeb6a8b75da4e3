//! Moves log starts up: retention by time and size, and DeleteRecords. All of it goes through metadata's `TrimStream`.
//!
//! Retention works on committed ranges, whole ones only, oldest first; what is not uploaded yet counts as Kafka's active
//! segment and stays. Age is judged by each range's largest record timestamp against a wall clock that is not allowed to jump
//! ahead ([`PacedClock`]), and never in the first interval after a start.
//! Promise: the log start never passes the high watermark, and readers see it move only after metadata has it.

use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::state::RangeRef;
use seawall_metadata::{Command, LeaderEpoch, Offset, ProposeError, Rejection, Response};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::storage::Storage;
use crate::task::Tasks;
use crate::topic_config::TopicConfig;

/// Why the log start was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    #[error("offset {offset} is beyond the high watermark {high_watermark}")]
    OffsetOutOfRange { offset: i64, high_watermark: i64 },
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// The log start may have moved in metadata, or may move yet.
    #[error("metadata does not answer")]
    Unavailable,
}

/// How long and how much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// `None` keeps by time without limit.
    pub age_ms: Option<i64>,
    /// `None` keeps by size without limit.
    pub bytes: Option<u64>,
}

impl RetentionLimits {
    /// A topic that is compacted only is not cut.
    pub fn of(config: &TopicConfig) -> Self {
        if config.cleanup_delete {
            Self { age_ms: config.retention_ms, bytes: config.retention_bytes }
        } else {
            Self { age_ms: None, bytes: None }
        }
    }
}

/// Where the log should start, given its committed ranges (oldest first) and the bytes that are not committed.
///
/// By age: ranges go while their newest record is older than the limit. By size: ranges go while what remains still holds
/// the limit. A range with no timestamp at all (-1) is never too old. One that compaction has left no record has no age either:
/// it goes with the one after it, since its object still holds what is known of the producers.
pub fn retained_start(ranges: &[RangeRef], tail_bytes: u64, limits: RetentionLimits, now_ms: i64) -> Option<Offset> {
    let too_old = |range: &RangeRef| {
        let is_old = |age_ms| range.max_timestamp >= 0 && now_ms.saturating_sub(range.max_timestamp) > age_ms;
        limits.age_ms.is_some_and(is_old)
    };
    let mut remaining: u64 = ranges.iter().map(|range| range.bytes).sum::<u64>() + tail_bytes;
    let mut start = None;
    for range in ranges {
        let rest = remaining - range.bytes;
        let too_much = limits.bytes.is_some_and(|bytes| rest >= bytes && remaining > bytes);
        if too_old(range) || too_much {
            start = Some(range.end);
        } else if range.records > 0 || limits.age_ms.is_none() {
            break;
        }
        remaining = rest;
    }
    start
}

/// Wall time that runs ahead no faster than the monotonic clock does since the start: a jump forward expires nothing, a
/// correction backwards counts at once.
#[derive(Debug, Clone)]
pub struct PacedClock {
    clock: Clock,
    started_ms: i64,
    started: Instant,
}

impl PacedClock {
    pub fn start(clock: Clock) -> Self {
        Self { started_ms: clock.now_ms(), started: clock.instant(), clock }
    }

    pub fn now_ms(&self) -> i64 {
        let elapsed = self.clock.instant().saturating_duration_since(self.started);
        let paced_ms = self.started_ms.saturating_add(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
        self.clock.now_ms().min(paced_ms)
    }
}

/// Looks at every partition each `interval`, until the broker stops.
pub async fn run(partitions: Partitions, interval: Duration, tasks: Tasks) {
    let clock = PacedClock::start(partitions.storage().clock.clone());
    // The first look comes after one interval: a clock that was wrong at boot may be corrected by then.
    let mut timer = tokio::time::interval_at(Instant::now() + interval, interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = timer.tick() => pass(&partitions, clock.now_ms()).await,
            () = tasks.stopping().cancelled() => return,
        }
    }
}

/// One look at every partition, at a wall time of `now_ms`.
pub async fn pass(partitions: &Partitions, now_ms: i64) {
    let storage = partitions.storage();
    for partition in partitions.all() {
        let config = partition.config();
        partition.expire_producers((storage.settings.producer_expiration_ms)());
        let limits = RetentionLimits::of(&config);
        if limits == (RetentionLimits { age_ms: None, bytes: None }) {
            continue;
        }
        let offsets = partition.offsets();
        let from = Offset(offsets.log_start);
        let ranges: Vec<RangeRef> = storage.metadata.read(|state| state.ranges(partition.stream(), from).collect());
        let Some(start) = retained_start(&ranges, partition.bytes_uncommitted(), limits, now_ms) else { continue };
        match move_log_start(storage, &partition, start.0).await {
            Ok(start) => {
                info!(partition = %partition.id(), topic = %partition.topic(), start, "retention moved the log start")
            }
            Err(error) => warn!(partition = %partition.id(), %error, "retention will try again"),
        }
    }
}

/// Deletes all records below `offset` (-1: below the high watermark). Answers the log start, which may be higher already.
pub async fn delete_records(storage: &Storage, partition: &Arc<Partition>, offset: i64) -> Result<i64, TrimError> {
    partition.check_leads().map_err(|_| TrimError::NotLeader)?;
    let offsets = partition.offsets();
    let high_watermark = offsets.high_watermark;
    let offset = if offset == HIGH_WATERMARK { high_watermark } else { offset };
    if !(0..=high_watermark).contains(&offset) {
        return Err(TrimError::OffsetOutOfRange { offset, high_watermark });
    }
    if offset <= offsets.log_start {
        return Ok(offsets.log_start);
    }
    move_log_start(storage, partition, offset).await
}

/// What DeleteRecords says for "all of it".
const HIGH_WATERMARK: i64 = -1;

async fn move_log_start(storage: &Storage, partition: &Arc<Partition>, start: i64) -> Result<i64, TrimError> {
    let command = Command::TrimStream {
        by: storage.registration,
        stream: partition.stream(),
        leader_epoch: LeaderEpoch(partition.leader_epoch()),
        start: Offset(start),
    };
    match storage.metadata.propose(command).await {
        Ok((_, Response::LogStart(start))) => {
            partition.started_at(start.0);
            Ok(start.0)
        }
        Ok((_, other)) => unreachable!("TrimStream answers with the log start, not {other:?}"),
        Err(ProposeError::Rejected(Rejection::OffsetOutOfRange { offset, high, .. })) => {
            Err(TrimError::OffsetOutOfRange { offset: offset.0, high_watermark: high.0 })
        }
        Err(ProposeError::Rejected(_)) => Err(TrimError::NotLeader),
        Err(_) => Err(TrimError::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_metadata::ObjectId;

    fn ranges(of: &[(i64, u64)]) -> Vec<RangeRef> {
        let mut base = 0;
        let range = |(max_timestamp, bytes): &(i64, u64)| {
            base += 10;
            RangeRef {
                object: ObjectId(1),
                base: Offset(base - 10),
                end: Offset(base),
                bytes: *bytes,
                records: 10,
                max_timestamp: *max_timestamp,
                leader_epoch: LeaderEpoch(0),
            }
        };
        of.iter().map(range).collect()
    }

    fn by_age(age_ms: i64) -> RetentionLimits {
        RetentionLimits { age_ms: Some(age_ms), bytes: None }
    }

    fn by_size(bytes: u64) -> RetentionLimits {
        RetentionLimits { age_ms: None, bytes: Some(bytes) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_jumps_ahead_expires_nothing() {
        let clock = Clock::simulated(1_000_000);
        let paced = PacedClock::start(clock.clone());
        clock.jump_wall_clock(10_000_000);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(paced.now_ms(), 1_000_500, "jumped ahead");
        clock.jump_wall_clock(-10_000_100);
        assert_eq!(paced.now_ms(), 1_000_400, "corrected backwards");
    }

    #[test]
    fn ranges_whose_newest_record_is_too_old_go() {
        let ranges = ranges(&[(100, 1), (200, 1), (300, 1)]);
        let cases = [(100, None), (201, Some(10)), (301, Some(20)), (10_000, Some(30))];
        for (now_ms, expected) in cases {
            assert_eq!(retained_start(&ranges, 0, by_age(100), now_ms), expected.map(Offset), "at {now_ms}");
        }
    }

    #[test]
    fn a_young_range_keeps_older_looking_ones_behind_it() {
        let ranges = ranges(&[(500, 1), (100, 1)]);
        assert_eq!(retained_start(&ranges, 0, by_age(100), 550), None);
    }

    #[test]
    fn a_range_without_records_goes_with_the_one_after_it() {
        let mut ranges = ranges(&[(100, 1), (-1, 1), (-1, 1), (300, 1), (-1, 1)]);
        for at in [1, 2, 4] {
            ranges[at].records = 0;
        }
        for (now_ms, expected) in [(201, 10), (400, 10), (401, 40), (10_000, 40)] {
            assert_eq!(retained_start(&ranges, 0, by_age(100), now_ms), Some(Offset(expected)), "at {now_ms}");
        }
        assert_eq!(retained_start(&ranges[1..], 0, by_age(100), 400), None, "not before it");
        assert_eq!(retained_start(&ranges[4..], 0, by_age(100), i64::MAX), None, "the last knows the producers");
    }

    #[test]
    fn ranges_go_while_the_rest_still_holds_the_size() {
        let ranges = ranges(&[(0, 100), (0, 100), (0, 100)]);
        let cases = [
            (301, 0, None),
            (300, 0, None),
            (200, 0, Some(10)),
            (199, 0, Some(10)),
            (100, 0, Some(20)),
            (0, 0, Some(30)),
            (200, 50, Some(10)),
            (200, 100, Some(20)),
        ];
        for (bytes, tail, expected) in cases {
            assert_eq!(
                retained_start(&ranges, tail, by_size(bytes), 0),
                expected.map(Offset),
                "{bytes} bytes, tail {tail}"
            );
        }
    }

    #[test]
    fn without_limits_or_timestamps_nothing_goes() {
        let ranges = ranges(&[(-1, 100)]);
        let none = RetentionLimits { age_ms: None, bytes: None };
        assert_eq!(retained_start(&ranges, 0, none, i64::MAX), None);
        assert_eq!(retained_start(&ranges, 0, by_age(1), i64::MAX), None);
    }
}
