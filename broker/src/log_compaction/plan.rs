//! Which part of which log is cleaned next, by Apache Kafka's rules; committed ranges stand for its segments.
//!
//! What is not committed yet is Kafka's active segment: it is never cleaned. A range whose newest record is younger than
//! `min.compaction.lag.ms`, and all behind it, must wait. A log is cleaned when its dirty part is a large enough share of
//! what a round would go over, or when its oldest dirty range has waited for `max.compaction.lag.ms`. As Kafka does not clean
//! before a segment is rolled, small dirty parts wait for `segment.bytes` or `segment.ms`: a round puts an object, however
//! little it changes.

use seawall_metadata::state::RangeRef;

use crate::topic_config::TopicConfig;

/// A log as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub struct Cleanable<'a> {
    pub log_start: i64,
    /// Where the last round ended; `None`: not known, or there was none.
    pub cleaned_to: Option<i64>,
    pub last_stable: i64,
    /// Committed ranges from the log start on, in offset order.
    pub ranges: &'a [RangeRef],
}

/// What a topic asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionRules {
    pub min_cleanable_ratio: f64,
    pub min_lag_ms: i64,
    pub max_lag_ms: i64,
    /// A dirty part of this size, or this age, is worth a round.
    pub roll_bytes: u64,
    pub roll_ms: i64,
}

/// Whatever `segment.bytes` is: a coordinator reads no more than that of what was superseded.
const ROLL_BYTES_MAX: u64 = 4 << 20;

/// What a round of a log would do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CleanPlan {
    /// The dirty part begins here,
    pub first_dirty: i64,
    /// and ends before this offset.
    pub dirty_end: i64,
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// The most keys that the dirty part can have.
    pub dirty_records: u64,
    /// Records of the dirty part have waited for too long.
    pub overdue: bool,
    /// It is large or old enough and the ratio above the topic's, or it is overdue.
    pub due: bool,
}

impl CompactionRules {
    pub fn of(config: &TopicConfig) -> CompactionRules {
        CompactionRules {
            min_cleanable_ratio: config.min_cleanable_dirty_ratio,
            min_lag_ms: config.min_compaction_lag_ms,
            max_lag_ms: config.max_compaction_lag_ms,
            roll_bytes: config.segment_bytes.min(ROLL_BYTES_MAX),
            roll_ms: config.segment_ms,
        }
    }
}

impl CleanPlan {
    /// The share of the dirty part in all that a round would go over.
    pub fn ratio(&self) -> f64 {
        match self.clean_bytes + self.dirty_bytes {
            0 => 0.0,
            all => self.dirty_bytes as f64 / all as f64,
        }
    }
}

/// What can be cleaned of a log at `now_ms`.
pub fn plan(log: &Cleanable<'_>, rules: &CompactionRules, now_ms: i64) -> CleanPlan {
    let committed_end = log.ranges.last().map_or(log.log_start, |range| range.end.0);
    // A point outside of the log is one that a trim or a restore has overtaken.
    let first_dirty = log.cleaned_to.unwrap_or(log.log_start).max(log.log_start);
    let first_dirty = if first_dirty > committed_end { log.log_start } else { first_dirty };
    let dirty_ranges = log.ranges.iter().filter(|range| range.end.0 > first_dirty);
    let mut plan = CleanPlan {
        first_dirty,
        dirty_end: first_dirty,
        clean_bytes: log.ranges.iter().filter(|range| range.end.0 <= first_dirty).map(|range| range.bytes).sum(),
        dirty_bytes: 0,
        dirty_records: 0,
        overdue: false,
        due: false,
    };
    let mut oldest_ms = None;
    for range in dirty_ranges {
        let young = rules.min_lag_ms > 0 && range.max_timestamp > now_ms.saturating_sub(rules.min_lag_ms);
        if young || range.base.0 >= log.last_stable {
            break;
        }
        // As young as its newest record: an upload spans seconds.
        plan.overdue |= range.max_timestamp > 0 && range.max_timestamp < now_ms.saturating_sub(rules.max_lag_ms);
        oldest_ms = oldest_ms.or(Some(range.max_timestamp));
        plan.dirty_end = range.end.0.min(log.last_stable);
        plan.dirty_bytes += range.bytes;
        plan.dirty_records += range.records;
    }
    let old = oldest_ms.is_some_and(|oldest_ms| now_ms.saturating_sub(oldest_ms) > rules.roll_ms);
    let rolled = plan.dirty_bytes >= rules.roll_bytes || old;
    plan.due = plan.dirty_bytes > 0 && (plan.overdue || rolled && plan.ratio() > rules.min_cleanable_ratio);
    plan
}

/// The log to clean next: of those that are due, the one with the largest dirty share.
pub fn filthiest<T>(plans: impl IntoIterator<Item = (T, CleanPlan)>) -> Option<(T, CleanPlan)> {
    plans.into_iter().filter(|(_, plan)| plan.due).max_by(|(_, a), (_, b)| a.ratio().total_cmp(&b.ratio()))
}

/// Puts neighbours below `end` together, up to `bytes_max` each; one that is larger stands alone. Each group is rewritten by
/// itself: that bounds memory, and the lower ones may be in use while the higher ones are still to come.
pub fn groups(ranges: &[RangeRef], end: i64, bytes_max: u64, ranges_max: usize) -> Vec<Vec<RangeRef>> {
    let mut groups: Vec<Vec<RangeRef>> = Vec::new();
    let mut bytes = 0;
    let mut before = None;
    for range in ranges.iter().take_while(|range| range.base.0 < end) {
        let follows = before == Some(range.base);
        match groups.last_mut() {
            Some(group) if follows && bytes + range.bytes <= bytes_max && group.len() < ranges_max => {
                bytes += range.bytes;
                group.push(*range);
            }
            _ => {
                bytes = range.bytes;
                groups.push(vec![*range]);
            }
        }
        before = Some(range.end);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_metadata::{LeaderEpoch, ObjectId, Offset};

    /// Ranges of ten offsets each, by their bytes and newest timestamps.
    fn ranges(of: &[(u64, i64)]) -> Vec<RangeRef> {
        let range = |(at, (bytes, max_timestamp)): (usize, &(u64, i64))| RangeRef {
            object: ObjectId(at as u64),
            base: Offset(at as i64 * 10),
            end: Offset(at as i64 * 10 + 10),
            bytes: *bytes,
            records: 10,
            max_timestamp: *max_timestamp,
            leader_epoch: LeaderEpoch(0),
        };
        of.iter().enumerate().map(range).collect()
    }

    const RULES: CompactionRules = CompactionRules {
        min_cleanable_ratio: 0.5,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        roll_bytes: 0,
        roll_ms: i64::MAX,
    };

    fn cleanable(ranges: &[RangeRef], cleaned_to: Option<i64>) -> Cleanable<'_> {
        Cleanable { log_start: 0, cleaned_to, last_stable: i64::MAX, ranges }
    }

    #[test]
    fn a_log_is_due_when_more_than_the_ratio_of_it_is_dirty() {
        let ranges = ranges(&[(100, 1), (60, 2), (40, 3)]);
        let plan = |cleaned_to| plan(&cleanable(&ranges, cleaned_to), &RULES, 1_000);
        let never = plan(None);
        assert_eq!((never.first_dirty, never.dirty_end, never.ratio(), never.due), (0, 30, 1.0, true));
        let half = plan(Some(10));
        assert_eq!((half.clean_bytes, half.dirty_bytes, half.dirty_records), (100, 100, 20));
        assert_eq!((half.ratio(), half.due), (0.5, false), "not more than half");
        assert!(!plan(Some(30)).due, "nothing is dirty");
        assert_eq!(plan(Some(99)).first_dirty, 0, "beyond the end: begun anew");
    }

    #[test]
    fn a_small_dirty_part_waits_until_it_is_larger_or_old() {
        let ranges = ranges(&[(100, 1), (200, 500), (100, 600)]);
        let rules = CompactionRules { roll_bytes: 301, roll_ms: 1_000, ..RULES };
        let due = |rules: &CompactionRules, now_ms| plan(&cleanable(&ranges, Some(10)), rules, now_ms).due;
        assert!(!due(&rules, 1_500) && due(&rules, 1_501), "by age");
        assert!(due(&CompactionRules { roll_bytes: 300, ..rules }, 1_000), "by size");
        assert!(due(&CompactionRules { max_lag_ms: 400, ..rules }, 1_000), "it is overdue all the same");
    }

    #[test]
    fn young_records_and_what_lies_behind_them_wait() {
        let ranges = ranges(&[(100, 1), (60, 900), (40, 3)]);
        let rules = CompactionRules { min_lag_ms: 200, ..RULES };
        let young = plan(&cleanable(&ranges, None), &rules, 1_000);
        assert_eq!((young.dirty_end, young.dirty_bytes, young.due), (10, 100, true));
        assert_eq!(plan(&cleanable(&ranges, None), &rules, 1_100).dirty_end, 30);
        let open = Cleanable { last_stable: 15, ..cleanable(&ranges, None) };
        assert_eq!(plan(&open, &RULES, 1_000).dirty_end, 15, "an open transaction is not cleaned");
    }

    #[test]
    fn what_has_waited_too_long_is_due_whatever_its_share() {
        let ranges = ranges(&[(100_000, 1), (60, 900)]);
        let rules = CompactionRules { max_lag_ms: 500, ..RULES };
        assert!(!plan(&cleanable(&ranges, Some(10)), &rules, 1_400).due);
        let overdue = plan(&cleanable(&ranges, Some(10)), &rules, 1_401);
        assert!(overdue.due && overdue.overdue && overdue.ratio() < 0.01);
        assert!(!plan(&cleanable(&ranges, Some(20)), &rules, 9_000).due, "nothing is dirty");
    }

    #[test]
    fn the_filthiest_log_is_next() {
        let ranges = ranges(&[(100, 1), (60, 2), (400, 3)]);
        let plans = [Some(10), Some(20), None, Some(30)].map(|at| (at, plan(&cleanable(&ranges, at), &RULES, 10)));
        assert_eq!(filthiest(plans).map(|(at, _)| at), Some(None));
        assert_eq!(filthiest([plans[0], plans[1]]).map(|(at, _)| at), Some(Some(10)));
        assert_eq!(filthiest([plans[3]]), None);
    }

    #[test]
    fn groups_are_neighbours_up_to_a_size() {
        let mut all = ranges(&[(60, 1), (40, 1), (1, 1), (500, 1), (10, 1), (10, 1)]);
        let ids = |groups: Vec<Vec<RangeRef>>| -> Vec<Vec<u64>> {
            groups.iter().map(|group| group.iter().map(|range| range.object.0).collect()).collect()
        };
        assert_eq!(ids(groups(&all, 60, 100, 10)), [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
        assert_eq!(ids(groups(&all, 41, 100, 1)), [vec![0], vec![1], vec![2], vec![3], vec![4]]);
        all.remove(1);
        assert_eq!(ids(groups(&all, 30, 100, 10)), [vec![0], vec![2]], "not over offsets that were given up");
    }
}
