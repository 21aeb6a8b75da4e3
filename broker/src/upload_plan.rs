//! What goes into the next objects, pure: when a cut is due, which batches it takes, how they are spread over objects.
//!
//! A cut takes the oldest part of the WAL, so that each commit lets the WAL be trimmed. Its batches go into one upload
//! object sorted by (stream, offset); a stream with much data in the cut gets a stream object of its own.
//! Left to the driver: collecting batches, reading, putting and committing them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use seawall_metadata::{LeaderEpoch, StreamId};
use seawall_wal_device::Lsn;

use crate::log_cache::PendingBatch;

/// Batches of one stream, contiguous and in offset order. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamBatches {
    pub stream: StreamId,
    /// The leader epoch under which the owner commits them.
    pub leader_epoch: LeaderEpoch,
    pub batches: Vec<PendingBatch>,
}

/// The content of one object: streams in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedObject {
    pub streams: Vec<StreamBatches>,
}

/// What the plan may make of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// From this many bytes on a stream gets an object of its own.
    pub stream_object_bytes: u64,
    /// The most streams in one cut; the others wait for the next one.
    pub ranges_max: usize,
}

/// Why a cut is made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutReason {
    Bytes,
    Interval,
    /// WAL space or memory runs short.
    Pressure,
    /// Someone asked: a stop, a test.
    Flush,
}

/// What decides whether a cut is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Durable bytes in the WAL that are in no cut yet.
    pub bytes: u64,
    /// About how many of them are left to cuts for acks, or were taken by such. They alone make no large cut due.
    pub for_acks: u64,
    /// How long the oldest of them has waited.
    pub age: Duration,
    /// The WAL is past its soft limit, or the index of what it holds takes too much memory.
    pub pressure: bool,
    pub flush: bool,
}

/// `upload.bytes` and `upload.interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutTrigger {
    pub bytes: u64,
    pub interval: Duration,
}

impl CutTrigger {
    pub fn due(&self, backlog: &Backlog) -> Option<CutReason> {
        if backlog.bytes == 0 {
            None
        } else if backlog.flush {
            Some(CutReason::Flush)
        } else if backlog.pressure {
            Some(CutReason::Pressure)
        } else if backlog.bytes.saturating_sub(backlog.for_acks) >= self.bytes {
            Some(CutReason::Bytes)
        } else if backlog.age >= self.interval {
            Some(CutReason::Interval)
        } else {
            None
        }
    }
}

/// What a cut is made for. The lanes do not wait for each other: an upload of tens of MiB would hold up acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// What the WAL has vouched for: few, large objects.
    Bulk,
    /// Streams whose acks wait for the commit: soon, and of those streams only.
    Acks,
}

/// A cut that was made and is not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutUnderWay {
    pub lane: Lane,
    pub streams: BTreeSet<StreamId>,
}

/// Of the cuts that are `stored` the first that may be committed: those of a lane in the order in which they were made, and
/// a stream's in the order of its offsets, whatever their lanes.
pub fn next_commit(under_way: &BTreeMap<u64, CutUnderWay>, stored: impl Iterator<Item = u64>) -> Option<u64> {
    let may = |cut: &u64| {
        let this = &under_way[cut];
        let earlier = under_way.range(..cut).map(|(_, earlier)| earlier);
        let mut holding =
            earlier.filter(|earlier| earlier.lane == this.lane || !earlier.streams.is_disjoint(&this.streams));
        holding.next().is_none()
    };
    let mut stored = stored;
    stored.find(may)
}

impl StreamBatches {
    pub fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| u64::from(batch.entry.bytes)).sum()
    }

    /// Exclusive end offset.
    pub fn end(&self) -> i64 {
        self.batches.last().expect("at least one batch").entry.last + 1
    }

    fn first_lsn(&self) -> Lsn {
        self.batches.first().expect("at least one batch").position.lsn
    }
}

/// Up to which LSN (exclusive) a cut takes records, when the first record that is in no cut lies at `first` and all
/// below `settled_to` may be taken.
pub fn cut_end(first: Lsn, settled_to: Lsn, cut_bytes: u64) -> Lsn {
    // A remainder of less than a quarter is taken along rather than left for a small cut of its own.
    if settled_to.0.saturating_sub(first.0) <= cut_bytes + cut_bytes / 4 {
        settled_to
    } else {
        Lsn(first.0 + cut_bytes)
    }
}

/// Leaves the newest batches of the cut out until at most `batches_max` are left: very small ones take more memory by their
/// number than by their bytes.
pub fn limit_batches(streams: &mut Vec<StreamBatches>, batches_max: usize) {
    let mut lsns: Vec<Lsn> =
        streams.iter().flat_map(|stream| &stream.batches).map(|batch| batch.position.lsn).collect();
    if lsns.len() <= batches_max {
        return;
    }
    let (_, below, _) = lsns.select_nth_unstable(batches_max);
    let below = *below;
    for stream in streams.iter_mut() {
        let kept = stream.batches.partition_point(|batch| batch.position.lsn < below);
        stream.batches.truncate(kept);
    }
    streams.retain(|stream| !stream.batches.is_empty());
}

/// Spreads batches over objects. Streams come in any order, each once.
pub fn plan(mut streams: Vec<StreamBatches>, limits: &PlanLimits) -> Vec<PlannedObject> {
    if streams.len() > limits.ranges_max {
        streams.sort_by_key(StreamBatches::first_lsn);
        streams.truncate(limits.ranges_max);
    }
    streams.sort_by_key(|stream| stream.stream);
    let (busy, others): (Vec<_>, Vec<_>) =
        streams.into_iter().partition(|stream| stream.bytes() >= limits.stream_object_bytes);
    let mut objects: Vec<PlannedObject> =
        busy.into_iter().map(|stream| PlannedObject { streams: vec![stream] }).collect();
    if !others.is_empty() {
        objects.push(PlannedObject { streams: others });
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_cache::BatchEntry;
    use seawall_wal_device::RecordPosition;

    #[test]
    fn a_cut_is_due_by_bytes_age_pressure_or_on_demand() {
        let trigger = CutTrigger { bytes: 100, interval: Duration::from_secs(10) };
        let waiting = Backlog { bytes: 1, for_acks: 0, age: Duration::from_secs(9), pressure: false, flush: false };
        assert_eq!(trigger.due(&waiting), None);
        assert_eq!(trigger.due(&Backlog { bytes: 100, ..waiting }), Some(CutReason::Bytes));
        assert_eq!(trigger.due(&Backlog { bytes: 199, for_acks: 100, ..waiting }), None);
        assert_eq!(trigger.due(&Backlog { age: Duration::from_secs(10), ..waiting }), Some(CutReason::Interval));
        assert_eq!(trigger.due(&Backlog { pressure: true, ..waiting }), Some(CutReason::Pressure));
        assert_eq!(trigger.due(&Backlog { flush: true, ..waiting }), Some(CutReason::Flush));
        assert_eq!(trigger.due(&Backlog { bytes: 0, flush: true, ..waiting }), None);
    }

    #[test]
    fn commits_keep_the_order_of_a_lane_and_of_a_stream_and_no_other() {
        let cut =
            |lane, streams: &[u64]| CutUnderWay { lane, streams: streams.iter().map(|id| StreamId(*id)).collect() };
        let under_way: BTreeMap<u64, CutUnderWay> = [
            (1, cut(Lane::Bulk, &[1, 2])),
            (2, cut(Lane::Acks, &[2, 3])),
            (3, cut(Lane::Acks, &[4])),
            (4, cut(Lane::Bulk, &[5])),
        ]
        .into();
        let next = |stored: &[u64], gone: &[u64]| {
            let mut under_way = under_way.clone();
            gone.iter().for_each(|cut| _ = under_way.remove(cut));
            next_commit(&under_way, stored.iter().copied())
        };
        assert_eq!(next(&[4], &[]), None, "the lane's first is not stored");
        assert_eq!(next(&[2, 3], &[]), None, "stream 2 is in cut 1");
        assert_eq!(next(&[2, 3], &[1]), Some(2));
        assert_eq!(next(&[3], &[1, 2]), Some(3));
        assert_eq!(next(&[4], &[1]), Some(4));
        assert_eq!(next(&[1, 2, 3, 4], &[]), Some(1));
    }

    #[test]
    fn a_cut_takes_the_oldest_part_of_a_long_backlog_and_all_of_a_short_one() {
        assert_eq!(cut_end(Lsn(1000), Lsn(1100), 100), Lsn(1100));
        assert_eq!(cut_end(Lsn(1000), Lsn(1125), 100), Lsn(1125));
        assert_eq!(cut_end(Lsn(1000), Lsn(1126), 100), Lsn(1100));
        assert_eq!(cut_end(Lsn(1000), Lsn(900), 100), Lsn(900));
    }

    #[test]
    fn busy_streams_get_their_own_objects_and_the_rest_share_one() {
        let streams = vec![stream(3, 0, &[10]), stream(1, 0, &[60, 50]), stream(2, 0, &[10])];
        let objects = plan(streams, &PlanLimits { stream_object_bytes: 100, ranges_max: 10 });
        assert_eq!(ids(&objects), [vec![1], vec![2, 3]]);
    }

    #[test]
    fn the_streams_with_the_oldest_data_go_first_when_there_are_too_many() {
        let streams = vec![stream(1, 500, &[10]), stream(2, 100, &[10]), stream(3, 300, &[10])];
        let objects = plan(streams, &PlanLimits { stream_object_bytes: 100, ranges_max: 2 });
        assert_eq!(ids(&objects), [vec![2, 3]]);
    }

    #[test]
    fn a_cut_of_very_many_batches_keeps_the_oldest() {
        let mut streams = vec![stream(1, 100, &[1, 1, 1]), stream(2, 101, &[1, 1]), stream(3, 500, &[1])];
        limit_batches(&mut streams, 6);
        assert_eq!(streams.len(), 3);
        limit_batches(&mut streams, 3);
        let left: Vec<_> = streams.iter().map(|stream| (stream.stream.0, stream.batches.len())).collect();
        assert_eq!(left, [(1, 2), (2, 1)]);
    }

    #[test]
    fn nothing_makes_no_object() {
        assert!(plan(Vec::new(), &PlanLimits { stream_object_bytes: 100, ranges_max: 2 }).is_empty());
    }

    fn ids(objects: &[PlannedObject]) -> Vec<Vec<u64>> {
        objects.iter().map(|object| object.streams.iter().map(|stream| stream.stream.0).collect()).collect()
    }

    fn stream(id: u64, lsn: u64, sizes: &[u32]) -> StreamBatches {
        let batches = (0i64..).zip(sizes).map(|(base, bytes)| PendingBatch {
            entry: BatchEntry {
                base,
                last: base,
                leader_epoch: 1,
                max_timestamp: 0,
                record_count: 1,
                bytes: *bytes,
                producer: None,
            },
            position: RecordPosition { lsn: Lsn(lsn + base as u64), bytes: *bytes, frame_offset: 0 },
            bytes: None,
        });
        StreamBatches { stream: StreamId(id), leader_epoch: LeaderEpoch(1), batches: batches.collect() }
    }
}
