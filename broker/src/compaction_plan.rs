//! Which ranges of which objects are rewritten into which new objects. Pure.
//!
//! An upload puts many streams into one object, so what a stream has in a day lies in thousands of them. Compaction takes the
//! oldest of those objects together and gives every stream one range where it had one per object: streams with much data
//! get objects of their own, the others share. What was rewritten once is not a candidate again, nor is an object that an upload
//! made large and of one stream: so a byte passes a broker at most twice.

use std::collections::BTreeMap;

use seawall_metadata::command::{COMMIT_RANGES_MAX, REPLACE_INPUTS_MAX};
use seawall_metadata::state::RangeRef;
use seawall_metadata::{ObjectId, State, StreamId};

/// Sizes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// Candidates that are worth a compaction, and that one takes.
    pub objects_min: usize,
    /// What a stream must have in a plan to get an object of its own. An upload's object of one stream with as much stays as it is.
    pub stream_object_bytes: u64,
    /// About the largest object that is made: a shared one is closed when it has reached it.
    pub object_bytes: u64,
}

/// An object as an upload left it, with the ranges that still use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub object: ObjectId,
    pub ranges: Vec<(StreamId, RangeRef)>,
}

/// Ranges of one stream that follow each other and become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub stream: StreamId,
    /// Never empty.
    pub inputs: Vec<RangeRef>,
}

/// An object to be: its spans in the order of their streams, one of each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlannedObject {
    pub spans: Vec<Span>,
}

impl Span {
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|range| range.bytes).sum()
    }
}

impl PlannedObject {
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(Span::bytes).sum()
    }
}

/// The first object at or after `from` that is as an upload left it.
pub fn next_upload(state: &State, from: ObjectId) -> Option<Candidate> {
    let mut ranges = state.uploaded_ranges(from).peekable();
    let object = ranges.peek()?.1.object;
    Some(Candidate { object, ranges: ranges.take_while(|(_, range)| range.object == object).collect() })
}

impl Candidate {
    /// Whether rewriting it can make larger ranges or fewer objects.
    pub fn is_worth_it(&self, limits: &PlanLimits) -> bool {
        let one_stream = self.ranges.windows(2).all(|pair| pair[0].0 == pair[1].0);
        let bytes: u64 = self.ranges.iter().map(|(_, range)| range.bytes).sum();
        !one_stream || bytes < limits.stream_object_bytes
    }
}

/// What to make of the candidates; nothing while they are too few. A stream that is not `free` is left where it is.
pub fn plan(candidates: &[Candidate], limits: &PlanLimits, free: impl Fn(StreamId) -> bool) -> Vec<PlannedObject> {
    if candidates.len() < limits.objects_min {
        return Vec::new();
    }
    let mut streams: BTreeMap<StreamId, Vec<RangeRef>> = BTreeMap::new();
    for (stream, range) in candidates.iter().flat_map(|candidate| &candidate.ranges).filter(|(stream, _)| free(*stream))
    {
        streams.entry(*stream).or_default().push(*range);
    }
    let mut objects = Vec::new();
    // A stream is in a commit once: its second span waits for a second round.
    let mut rounds: Vec<Shared> = Vec::new();
    for (stream, mut ranges) in streams {
        ranges.sort_by_key(|range| range.base);
        for (round, span) in spans(stream, ranges, limits.object_bytes).into_iter().enumerate() {
            if span.bytes() >= limits.stream_object_bytes {
                objects.push(PlannedObject { spans: vec![span] });
                continue;
            }
            if rounds.len() <= round {
                rounds.resize_with(round + 1, Shared::default);
            }
            if !rounds[round].takes(&span, limits) {
                objects.push(std::mem::take(&mut rounds[round]).object);
            }
            rounds[round].add(span);
        }
    }
    objects.extend(rounds.into_iter().map(|shared| shared.object).filter(|object| !object.spans.is_empty()));
    objects
}

/// An object for small spans of many streams, with its sums.
#[derive(Default)]
struct Shared {
    object: PlannedObject,
    bytes: u64,
    inputs: usize,
}

impl Shared {
    fn takes(&self, span: &Span, limits: &PlanLimits) -> bool {
        let fits = self.bytes + span.bytes() <= limits.object_bytes
            && self.object.spans.len() < COMMIT_RANGES_MAX
            && self.inputs + span.inputs.len() <= REPLACE_INPUTS_MAX;
        fits || self.object.spans.is_empty()
    }

    fn add(&mut self, span: Span) {
        self.bytes += span.bytes();
        self.inputs += span.inputs.len();
        self.object.spans.push(span);
    }
}

/// Cuts ranges in offset order where they do not follow each other, and where they would become too large.
fn spans(stream: StreamId, ranges: Vec<RangeRef>, bytes_max: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for range in ranges {
        let joins = spans.last().is_some_and(|span| {
            let follows = span.inputs.last().is_some_and(|last| last.end == range.base);
            follows && span.bytes() + range.bytes <= bytes_max && span.inputs.len() < REPLACE_INPUTS_MAX
        });
        match spans.last_mut() {
            Some(span) if joins => span.inputs.push(range),
            _ => spans.push(Span { stream, inputs: vec![range] }),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_metadata::{LeaderEpoch, Offset};

    const LIMITS: PlanLimits = PlanLimits { objects_min: 2, stream_object_bytes: 100, object_bytes: 200 };

    fn range(object: u64, base: i64, end: i64, bytes: u64) -> RangeRef {
        RangeRef {
            object: ObjectId(object),
            base: Offset(base),
            end: Offset(end),
            bytes,
            records: end.abs_diff(base),
            max_timestamp: 0,
            leader_epoch: LeaderEpoch(0),
        }
    }

    fn candidate(object: u64, ranges: &[(u64, i64, i64, u64)]) -> Candidate {
        let range =
            |(stream, base, end, bytes): &(u64, i64, i64, u64)| (StreamId(*stream), range(object, *base, *end, *bytes));
        Candidate { object: ObjectId(object), ranges: ranges.iter().map(range).collect() }
    }

    /// Per object, per span: stream and offsets.
    fn shape(objects: &[PlannedObject]) -> Vec<Vec<(u64, i64, i64)>> {
        let span = |span: &Span| (span.stream.0, span.inputs[0].base.0, span.inputs[span.inputs.len() - 1].end.0);
        objects.iter().map(|object| object.spans.iter().map(span).collect()).collect()
    }

    #[test]
    fn small_streams_share_and_large_ones_get_objects_of_their_own() {
        let candidates = [
            candidate(1, &[(1, 0, 10, 10), (2, 0, 10, 60), (3, 0, 10, 20)]),
            candidate(2, &[(1, 10, 20, 10), (2, 10, 20, 60), (3, 10, 20, 20)]),
        ];
        let objects = plan(&candidates, &LIMITS, |_| true);
        assert_eq!(shape(&objects), [vec![(2, 0, 20)], vec![(1, 0, 20), (3, 0, 20)]]);
    }

    #[test]
    fn a_large_object_of_one_stream_stays_as_it_is() {
        assert!(!candidate(1, &[(1, 0, 10, 100)]).is_worth_it(&LIMITS));
        assert!(candidate(1, &[(1, 0, 10, 99)]).is_worth_it(&LIMITS));
        assert!(candidate(1, &[(1, 0, 10, 100), (2, 0, 10, 100)]).is_worth_it(&LIMITS));
    }

    #[test]
    fn too_few_candidates_are_left_alone() {
        assert!(plan(&[candidate(1, &[(1, 0, 10, 10)])], &LIMITS, |_| true).is_empty());
        assert!(plan(&[], &LIMITS, |_| true).is_empty());
    }

    #[test]
    fn streams_that_another_broker_leads_stay_where_they_are() {
        let candidates = [candidate(1, &[(1, 0, 10, 10), (2, 0, 5, 10)]), candidate(2, &[(1, 10, 20, 10)])];
        assert_eq!(shape(&plan(&candidates, &LIMITS, |stream| stream == StreamId(1))), [vec![(1, 0, 20)]]);
    }

    #[test]
    fn parts_of_a_stream_that_do_not_follow_each_other_are_committed_one_by_one() {
        let candidates = [candidate(1, &[(1, 0, 10, 10), (2, 0, 5, 10)]), candidate(2, &[(1, 20, 30, 10)])];
        assert_eq!(shape(&plan(&candidates, &LIMITS, |_| true)), [vec![(1, 0, 10), (2, 0, 5)], vec![(1, 20, 30)]]);
    }

    #[test]
    fn objects_do_not_grow_beyond_their_size() {
        let candidates = [
            candidate(1, &[(1, 0, 10, 90), (2, 0, 10, 90), (3, 0, 10, 90)]),
            candidate(2, &[(1, 10, 20, 90), (3, 10, 20, 5)]),
            candidate(3, &[(1, 20, 30, 90)]),
        ];
        let objects = plan(&candidates, &LIMITS, |_| true);
        assert_eq!(shape(&objects), [vec![(1, 0, 20)], vec![(2, 0, 10), (3, 0, 20)], vec![(1, 20, 30)]]);
        assert!(objects.iter().all(|object| object.bytes() <= LIMITS.object_bytes));
    }

    #[test]
    fn a_commit_stays_within_its_bounds() {
        let many: Vec<_> = (1..=COMMIT_RANGES_MAX as u64 + 1).map(|stream| (stream, 0, 1, 0)).collect();
        let more: Vec<_> = many.iter().map(|(stream, ..)| (*stream, 1, 2, 0)).collect();
        let objects = plan(&[candidate(1, &many), candidate(2, &more)], &LIMITS, |_| true);
        assert_eq!(objects.iter().map(|object| object.spans.len()).collect::<Vec<_>>(), [COMMIT_RANGES_MAX, 1]);
        let limits = PlanLimits { objects_min: 8, ..LIMITS };
        let deep: Vec<_> = (0..8)
            .map(|object| {
                let ranges: Vec<_> = (1..=3000).map(|stream| (stream, object, object + 1, 0)).collect();
                candidate(object as u64 + 1, &ranges)
            })
            .collect();
        let objects = plan(&deep, &limits, |_| true);
        let inputs = |object: &PlannedObject| object.spans.iter().map(|span| span.inputs.len()).sum::<usize>();
        assert_eq!(objects.iter().map(inputs).collect::<Vec<_>>(), [REPLACE_INPUTS_MAX, 24_000 - REPLACE_INPUTS_MAX]);
    }
}
