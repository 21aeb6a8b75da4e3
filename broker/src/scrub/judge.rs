//! What a scrub finds: judged by metadata, pure. A key that the store lists, and an object's index beside metadata's ranges.
//!
//! Promise: an orphan is only what no metadata can ever refer to. Ids are handed out once and rise; one that was handed out, is not
//! reserved and is not known any more was forgotten, which happens a grace period after its last use and is for good. So this
//! verdict never turns, however old the state by which it was given: what is too new for a state is `Unissued`, no orphan.

use std::collections::BTreeMap;

use seawall_backends::ObjectKey;
use seawall_metadata::state::RangeRef;
use seawall_metadata::{Incarnation, ObjectId, Offset, State, StreamId};
use serde::{Deserialize, Serialize};

use crate::object_format::ObjectIndex;
use crate::object_key::ObjectKeys;

/// What can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Metadata refers to it, and the store does not have it.
    Missing,
    /// Its bytes are not those that were written.
    Corrupt,
    /// It is whole, and holds something else than metadata says.
    Mismatch,
    /// Of this incarnation, under an id that metadata never handed out.
    Unissued,
    /// Nothing refers to it, and nothing ever will.
    Orphan,
    /// Of another incarnation of this cluster, and unknown to this one.
    OtherIncarnation,
    /// Under our folders, and no key of ours.
    Foreign,
    /// Begun in parts more than a day ago.
    LeftParts,
    /// Written in a format that this version does not know.
    NewerFormat,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Missing,
        Kind::Corrupt,
        Kind::Mismatch,
        Kind::Unissued,
        Kind::Orphan,
        Kind::OtherIncarnation,
        Kind::Foreign,
        Kind::LeftParts,
        Kind::NewerFormat,
    ];

    /// As in metric labels and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Corrupt => "corrupt",
            Kind::Mismatch => "mismatch",
            Kind::Unissued => "unissued",
            Kind::Orphan => "orphan",
            Kind::OtherIncarnation => "other_incarnation",
            Kind::Foreign => "foreign",
            Kind::LeftParts => "left_parts",
            Kind::NewerFormat => "newer_format",
        }
    }

    /// Whether acked data is, or may be, lost.
    pub fn is_damage(self) -> bool {
        matches!(self, Kind::Missing | Kind::Corrupt | Kind::Mismatch | Kind::Unissued)
    }
}

/// What a key that the store lists stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// A stream uses it.
    Used,
    /// Marked: it is deleted when its grace is over.
    Waiting,
    /// An upload or a compaction may be putting it now.
    Reserved,
    Orphan(ObjectId),
    Unissued(ObjectId),
    OtherIncarnation,
    Foreign,
}

/// Judges a listed key of this cluster, whose incarnation now is `own`.
pub fn judge_listed(state: &State, keys: &ObjectKeys, own: Incarnation, key: &ObjectKey) -> Listed {
    let Some((incarnation, object)) = keys.parse(key) else { return Listed::Foreign };
    let known = state.object(object);
    // One that was never committed is of the incarnation that reserved it.
    let of_this_key = |record: Incarnation| record == incarnation;
    match known {
        Some(known) if of_this_key(known.record.map_or(own, |record| record.incarnation)) => {
            if known.references > 0 {
                Listed::Used
            } else {
                Listed::Waiting
            }
        }
        _ if incarnation != own => Listed::OtherIncarnation,
        // The same id was an object of another incarnation: ids jump at a restore, so this is nobody's.
        Some(_) => Listed::Foreign,
        None if state.reservation(object).is_some() => Listed::Reserved,
        None if state.was_handed_out(object) => Listed::Orphan(object),
        None => Listed::Unissued(object),
    }
}

/// Whether anything refers to the object still.
pub fn is_used(state: &State, object: ObjectId) -> bool {
    state.object(object).is_some_and(|known| known.references > 0)
}

/// The ranges that differ from what the index says, each with why: of those given, the ones that are current.
pub fn mismatches(
    state: &State,
    object: ObjectId,
    ranges: &[(StreamId, RangeRef)],
    index: &ObjectIndex,
) -> Vec<(StreamId, String)> {
    // Only rewriting leaves offsets out.
    let dense = !state.is_rewritten(object);
    let is_current =
        |stream: StreamId, range: &RangeRef| state.ranges(stream, range.base).next().as_ref() == Some(range);
    (ranges.iter())
        .filter(|(stream, range)| is_current(*stream, range))
        .filter_map(|(stream, range)| Some((*stream, mismatch(index, *stream, range, dense)?)))
        .collect()
}

fn mismatch(index: &ObjectIndex, stream: StreamId, range: &RangeRef, dense: bool) -> Option<String> {
    let blocks = &index.blocks()[index.stream(stream)];
    let (base, end) = (range.base.0, range.end.0);
    let first = blocks.partition_point(|block| block.end <= base);
    let until = blocks.partition_point(|block| block.base < end);
    let blocks = &blocks[first..until.max(first)];
    let of = |what: String| Some(format!("offsets {base} to {end}: {what}"));
    let (Some(oldest), Some(newest)) = (blocks.first(), blocks.last()) else {
        let nothing = range.records == 0 && range.bytes == 0;
        return if nothing { None } else { of("the object holds none of them".to_owned()) };
    };
    if oldest.base < base || newest.end != end || dense && oldest.base != base {
        return of(format!("the object's blocks hold {} to {}", oldest.base, newest.end));
    }
    if dense && let Some(gap) = blocks.windows(2).find(|pair| pair[0].end != pair[1].base) {
        return of(format!("the object has nothing from {} to {}", gap[0].end, gap[1].base));
    }
    let bytes: u64 = blocks.iter().map(|block| u64::from(block.bytes)).sum();
    let records: u64 = blocks.iter().map(|block| u64::from(block.record_count)).sum();
    let max_timestamp = blocks.iter().map(|block| block.max_timestamp).max().unwrap_or(-1);
    for (what, here, said) in [("bytes", bytes, range.bytes), ("records", records, range.records)] {
        if here != said {
            return of(format!("{here} {what}, metadata says {said}"));
        }
    }
    if max_timestamp != range.max_timestamp {
        return of(format!("newest timestamp {max_timestamp}, metadata says {}", range.max_timestamp));
    }
    let epochs_rise = blocks.is_sorted_by_key(|block| block.leader_epoch);
    if !epochs_rise || newest.leader_epoch > range.leader_epoch.0 {
        let (last, said) = (newest.leader_epoch, range.leader_epoch);
        return of(format!("leader epochs up to {last}, metadata says {said}"));
    }
    None
}

/// An object that streams use, and by which ranges.
pub type UsedObject = (ObjectId, Vec<(StreamId, RangeRef)>);

/// Collects the used objects of one folder in the order of their ids, a bounded number of ranges at a time. Metadata has no way from
/// an object to its ranges, so each pass goes over all ranges, a few at a time.
#[derive(Debug)]
pub struct UsedObjects {
    keys: ObjectKeys,
    folder: u16,
    from: ObjectId,
    /// What was left out for want of room has this id or a higher one.
    left_out: Option<ObjectId>,
    ranges_max: usize,
    ranges: usize,
    found: BTreeMap<ObjectId, Vec<(StreamId, RangeRef)>>,
    next: (StreamId, Offset),
}

impl UsedObjects {
    pub fn of(keys: &ObjectKeys, folder: u16, from: ObjectId, ranges_max: usize) -> UsedObjects {
        let found = BTreeMap::new();
        let next = (StreamId(0), Offset(0));
        UsedObjects { keys: keys.clone(), folder, from, left_out: None, ranges_max, ranges: 0, found, next }
    }

    /// Goes over about `steps` ranges; false when all were seen.
    pub fn step(&mut self, state: &State, steps: usize) -> bool {
        let mut left = steps;
        for stream in state.streams_from(self.next.0) {
            let from = if stream.id == self.next.0 { self.next.1 } else { Offset(0) };
            for range in stream.ranges_from(from) {
                if left == 0 {
                    self.next = (stream.id, range.base);
                    return true;
                }
                left -= 1;
                self.add(stream.id, range);
            }
            left = left.saturating_sub(1);
            if left == 0 {
                self.next = (StreamId(stream.id.0 + 1), Offset(0));
                return true;
            }
        }
        false
    }

    fn add(&mut self, stream: StreamId, range: RangeRef) {
        let object = range.object;
        let beyond = self.left_out.is_some_and(|left_out| object >= left_out);
        if object < self.from || beyond || self.keys.folder_number(object) != self.folder {
            return;
        }
        self.found.entry(object).or_default().push((stream, range));
        self.ranges += 1;
        while self.ranges > self.ranges_max
            && self.found.len() > 1
            && let Some((last, ranges)) = self.found.pop_last()
        {
            self.ranges -= ranges.len();
            self.left_out = Some(last);
        }
    }

    /// Those found, and from which id on others were left out.
    pub fn finish(self) -> (Vec<UsedObject>, Option<ObjectId>) {
        (self.found.into_iter().collect(), self.left_out)
    }
}

#[cfg(test)]
mod tests;
