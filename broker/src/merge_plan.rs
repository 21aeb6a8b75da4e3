//! Which stored objects of one stream are joined within the store. Pure.
//!
//! Compaction makes an object of what a stream has in a few dozen uploads. Where the store can copy, neighbours of those become
//! one object without a record byte passing a broker again. Objects are taken in offset order until the next would go over a
//! bound, so that a byte is copied once: what was joined is too large, or too long a time, to be joined again. The bounds are
//! also what retention can do without: it drops whole ranges.

use seawall_metadata::command::REPLACE_INPUTS_MAX;
use seawall_metadata::state::RangeRef;
use seawall_metadata::{Offset, State, StreamId};

use crate::object_format::FORMAT_VERSION;

/// Sizes of all merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeLimits {
    /// About the largest object that is made.
    pub bytes_max: u64,
    /// An upload's object of one stream with less is to be rewritten first.
    pub stream_object_bytes: u64,
    /// What the store copies at least and at most.
    pub part_bytes_min: u64,
    pub part_bytes_max: u64,
}

/// What a topic allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeBounds {
    pub bytes_max: u64,
    /// Between the newest records of the first and of the last input.
    pub span_ms_max: i64,
}

/// A joined range is at most this part of what retention keeps.
pub const RETENTION_SHARE: u64 = 20;

impl MergeBounds {
    pub fn of(limits: &MergeLimits, retention_ms: Option<i64>, retention_bytes: Option<u64>) -> MergeBounds {
        let bytes = retention_bytes.map_or(u64::MAX, |bytes| bytes / RETENTION_SHARE);
        MergeBounds {
            bytes_max: limits.bytes_max.min(bytes),
            span_ms_max: retention_ms.map_or(i64::MAX, |ms| ms / RETENTION_SHARE as i64),
        }
    }
}

/// What can be done with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its object holds nothing else and can be copied as it is.
    Whole,
    /// It is as an upload left it, and is rewritten first.
    Waits,
    /// It stays as it is.
    Stays,
}

/// The ranges of a stream from `from` on, at most so many, with what can be done with each.
pub fn pieces(
    state: &State,
    stream: StreamId,
    from: Offset,
    count: usize,
    limits: &MergeLimits,
    bounds: &MergeBounds,
) -> Vec<(RangeRef, Standing)> {
    let standing = |range: &RangeRef| {
        let rewritten = state.is_rewritten(range.object);
        let Some(object) = state.object(range.object) else { return Standing::Stays };
        let alone = object.ranges == 1 && object.references == 1;
        let known = object.record.is_some_and(|record| record.format_version == FORMAT_VERSION);
        if !rewritten && (!alone || range.bytes < limits.stream_object_bytes) {
            return Standing::Waits;
        }
        let copied = (limits.part_bytes_min.max(1)..=limits.part_bytes_max).contains(&range.bytes);
        // Two that are larger than half do not fit together.
        match alone && known && copied && range.bytes <= bounds.bytes_max / 2 {
            true => Standing::Whole,
            false => Standing::Stays,
        }
    };
    state.ranges(stream, from).take(count).map(|range| (range, standing(&range))).collect()
}

/// The oldest neighbours that are worth joining: those to which no other will come.
pub fn plan(pieces: &[(RangeRef, Standing)], bounds: &MergeBounds) -> Option<Vec<RangeRef>> {
    let mut run = Run::default();
    for (range, standing) in pieces {
        let closed = match standing {
            Standing::Whole if run.takes(range, bounds) => {
                run.ranges.push(*range);
                continue;
            }
            Standing::Whole => std::mem::replace(&mut run, Run { ranges: vec![*range] }),
            Standing::Stays => std::mem::take(&mut run),
            Standing::Waits => {
                run = Run::default();
                continue;
            }
        };
        if closed.ranges.len() > 1 {
            return Some(closed.ranges);
        }
    }
    None
}

#[derive(Default)]
struct Run {
    ranges: Vec<RangeRef>,
}

impl Run {
    fn takes(&self, range: &RangeRef, bounds: &MergeBounds) -> bool {
        let (Some(first), Some(last)) = (self.ranges.first(), self.ranges.last()) else { return true };
        let bytes: u64 = self.ranges.iter().map(|range| range.bytes).sum();
        last.end == range.base
            && bytes + range.bytes <= bounds.bytes_max
            && range.max_timestamp.saturating_sub(first.max_timestamp) <= bounds.span_ms_max
            && self.ranges.len() < REPLACE_INPUTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Stays, Waits, Whole};
    use super::*;
    use seawall_metadata::{LeaderEpoch, ObjectId};

    const BOUNDS: MergeBounds = MergeBounds { bytes_max: 100, span_ms_max: i64::MAX };

    /// Ranges of ten offsets each, a minute apart.
    fn pieces(of: &[(u64, Standing)]) -> Vec<(RangeRef, Standing)> {
        let range = |(at, (bytes, standing)): (usize, &(u64, Standing))| {
            let base = at as i64 * 10;
            let range = RangeRef {
                object: ObjectId(at as u64),
                base: Offset(base),
                end: Offset(base + 10),
                bytes: *bytes,
                records: 10,
                max_timestamp: at as i64 * 60_000,
                leader_epoch: LeaderEpoch(0),
            };
            (range, *standing)
        };
        of.iter().enumerate().map(range).collect()
    }

    fn planned(pieces: &[(RangeRef, Standing)], bounds: &MergeBounds) -> Vec<u64> {
        plan(pieces, bounds).into_iter().flatten().map(|range| range.object.0).collect()
    }

    #[test]
    fn neighbours_are_joined_when_the_next_would_be_too_much() {
        let all = pieces(&[(30, Whole), (30, Whole), (30, Whole), (30, Whole)]);
        assert_eq!(planned(&all, &BOUNDS), [0, 1, 2]);
        assert_eq!(planned(&all[..3], &BOUNDS), [] as [u64; 0], "another may come");
        assert_eq!(planned(&[], &BOUNDS), [] as [u64; 0]);
    }

    #[test]
    fn what_will_not_change_ends_a_run_and_what_will_be_rewritten_lets_it_wait() {
        let all = pieces(&[(90, Stays), (10, Whole), (10, Whole), (10, Stays), (10, Whole)]);
        assert_eq!(planned(&all, &BOUNDS), [1, 2]);
        let all = pieces(&[(10, Whole), (10, Stays), (10, Whole), (10, Whole), (10, Waits), (10, Whole)]);
        assert_eq!(planned(&all, &BOUNDS), [] as [u64; 0], "one alone is not joined");
    }

    #[test]
    fn offsets_that_were_given_up_are_not_joined_over() {
        let mut all = pieces(&[(10, Whole), (10, Whole), (10, Whole), (10, Whole)]);
        all.remove(2);
        assert_eq!(planned(&all, &BOUNDS), [0, 1]);
    }

    #[test]
    fn a_joined_range_is_a_small_part_of_what_retention_keeps() {
        let limits =
            MergeLimits { bytes_max: 1 << 30, stream_object_bytes: 16, part_bytes_min: 5, part_bytes_max: 1 << 30 };
        let bounds = MergeBounds::of(&limits, Some(40 * 60_000), None);
        assert_eq!(bounds, MergeBounds { bytes_max: 1 << 30, span_ms_max: 120_000 });
        let all = pieces(&[(30, Whole); 6]);
        assert_eq!(planned(&all, &bounds), [0, 1, 2], "by time");
        let bounds = MergeBounds::of(&limits, None, Some(70 * RETENTION_SHARE));
        assert_eq!(planned(&all, &bounds), [0, 1], "by size");
        assert_eq!(MergeBounds::of(&limits, None, None), MergeBounds { bytes_max: 1 << 30, span_ms_max: i64::MAX });
    }
}
