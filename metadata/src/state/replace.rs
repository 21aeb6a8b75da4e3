//! Replacing ranges of streams by others that hold the same offsets: the commit of a compaction.
//!
//! Promise: a stream goes from its old ranges to the new ones in one step, and only if every range that was read is still
//! what the stream is made of. What a log start has passed meanwhile need not be there any more and is not brought back.

use std::collections::BTreeMap;

use super::commit::{RANGE_BYTES_MAX, Range};
use super::{ObjectState, State};
use crate::command::{
    COMMIT_RANGES_MAX, NewObject, REPLACE_INPUTS_MAX, RangeOutcome, RangeOutput, Refused, Rejection, Response, Settled,
    StreamReplacement,
};
use crate::ids::*;

impl State {
    pub(super) fn replace_ranges(
        &mut self,
        by: Registration,
        objects: Vec<NewObject>,
        streams: Vec<StreamReplacement>,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        let outputs = outputs_of(&objects, &streams)?;
        if self.was_replaced(&objects, &outputs)? {
            return Ok(Response::Replaced(self.first_replacement(&streams)));
        }
        for NewObject { object, .. } in &objects {
            if self.reservations.get(object).is_none_or(|reservation| reservation.by != by) {
                return Err(Rejection::NotReserved(*object));
            }
        }
        for NewObject { object, record } in objects {
            self.take_reservation(object);
            let ranges = outputs[&object];
            let state =
                ObjectState { record: Some(record), references: 0, ranges, exceptions: Vec::new(), marked_ms: None };
            self.objects.insert(object, state);
            self.rewritten.insert(object);
        }
        let mut next: BTreeMap<ObjectId, u32> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(streams.len());
        for stream in streams {
            let outcome = self.judge_replacement(by, &stream);
            for output in &stream.outputs {
                let number = next.entry(output.object).or_default();
                if outcome != RangeOutcome::Accepted {
                    self.object_mut(output.object).exceptions.push((*number, outcome));
                }
                *number += 1;
            }
            if outcome == RangeOutcome::Accepted {
                self.replace_in_stream(stream);
            }
            outcomes.push(outcome);
        }
        for object in outputs.into_keys() {
            self.mark_unreferenced(object);
        }
        Ok(Response::Replaced(outcomes))
    }

    /// Whether this very replacement was applied before.
    fn was_replaced(&self, objects: &[NewObject], outputs: &BTreeMap<ObjectId, u32>) -> Result<bool, Rejection> {
        let stored = |new: &&NewObject| self.objects.get(&new.object).is_some_and(|object| object.record.is_some());
        let Some(first) = objects.iter().find(stored) else { return Ok(false) };
        let same = |new: &NewObject| {
            let known = self.objects.get(&new.object).filter(|_| self.rewritten.contains(&new.object));
            known.is_some_and(|known| known.record == Some(new.record) && known.ranges == outputs[&new.object])
        };
        if objects.iter().all(same) { Ok(true) } else { Err(Rejection::OtherObject(first.object)) }
    }

    fn first_replacement(&self, streams: &[StreamReplacement]) -> Vec<RangeOutcome> {
        let mut next: BTreeMap<ObjectId, u32> = BTreeMap::new();
        let mut outcome_of = |stream: &StreamReplacement| {
            let mut outcome = RangeOutcome::Accepted;
            for output in &stream.outputs {
                let number = next.entry(output.object).or_default();
                let exceptions = &self.objects[&output.object].exceptions;
                if let Ok(at) = exceptions.binary_search_by_key(number, |(number, _)| *number) {
                    outcome = exceptions[at].1;
                }
                *number += 1;
            }
            outcome
        };
        streams.iter().map(&mut outcome_of).collect()
    }

    fn judge_replacement(&self, by: Registration, replacement: &StreamReplacement) -> RangeOutcome {
        let refused = |why| RangeOutcome::Refused { why };
        let Some(stream) = self.streams.get(&replacement.stream) else {
            return if self.was_made(replacement.stream) {
                RangeOutcome::Settled { why: Settled::StreamDeleted }
            } else {
                refused(Refused::UnknownStream)
            };
        };
        let partition = &self.partitions[&stream.partition];
        if partition.owner != by.node {
            return refused(Refused::NotOwner { owner: partition.owner });
        }
        if partition.leader_epoch != replacement.leader_epoch {
            return refused(Refused::StaleLeaderEpoch { current: partition.leader_epoch });
        }
        let current = replacement.spans().all(|(base, end, object)| {
            let passed = end <= stream.start;
            let there = stream.ranges.get(&base).is_some_and(|range| range.object == object && range.end == end);
            passed || there
        });
        if current { RangeOutcome::Accepted } else { refused(Refused::NotCurrent) }
    }

    /// The new ranges in the place of the old ones, as far as the stream's start has not passed them.
    fn replace_in_stream(&mut self, replacement: StreamReplacement) {
        let id = replacement.stream;
        let stream = self.streams.get_mut(&id).expect("judged before");
        let mut released = Vec::new();
        let mut leader_epoch = None;
        for (base, end, _) in replacement.spans() {
            if end <= stream.start {
                continue;
            }
            let range = stream.ranges.remove(&base).expect("judged before");
            stream.bytes -= range.bytes;
            leader_epoch = Some(range.leader_epoch);
            released.push((range.object, base));
        }
        let mut taken = Vec::new();
        if let Some(leader_epoch) = leader_epoch {
            for output in replacement.outputs {
                let RangeOutput { base, end, object, bytes, records, max_timestamp } = output;
                if end > stream.start {
                    stream.bytes += bytes;
                    let range = Range { end, object, bytes, records, max_timestamp, leader_epoch };
                    let before = stream.ranges.insert(base, range);
                    assert!(before.is_none(), "{id:?} has a range at {base} beside those replaced");
                    taken.push(object);
                }
            }
        }
        if let (Some(to), Some(_)) = (replacement.cleaned_to, leader_epoch) {
            let cleaned = self.cleaned.entry(id).or_default();
            *cleaned = to.max(*cleaned);
        }
        for object in taken {
            self.object_mut(object).references += 1;
        }
        for (object, base) in released {
            self.release_range(object, id, base);
        }
    }

    fn object_mut(&mut self, object: ObjectId) -> &mut ObjectState {
        self.objects.get_mut(&object).expect("made above")
    }
}

impl StreamReplacement {
    /// Base, end and object of each input: each ends where the next begins, and the last where the outputs end.
    fn spans(&self) -> impl Iterator<Item = (Offset, Offset, ObjectId)> + '_ {
        let end = self.outputs.last().map_or(Offset(0), |output| output.end);
        let ends = self.inputs.iter().skip(1).map(|input| input.base).chain([end]);
        self.inputs.iter().zip(ends).map(|(input, end)| (input.base, end, input.object))
    }

    /// Inputs and outputs that could be two views of one part of a stream.
    fn is_well_formed(&self) -> bool {
        let (Some(first), Some(last)) = (self.outputs.first(), self.outputs.last()) else { return false };
        let joined = self.outputs.windows(2).all(|pair| pair[0].end == pair[1].base);
        let whole = self.outputs.iter().all(|output| output.base < output.end && output.bytes < RANGE_BYTES_MAX);
        let begins = self.inputs.first().is_some_and(|input| input.base == first.base && input.base >= Offset(0));
        let cleaned = self.cleaned_to.is_none_or(|to| to > Offset(0) && to <= last.end);
        joined && whole && begins && cleaned && self.spans().all(|(base, end, _)| base < end)
    }
}

/// How many outputs each object has, which each has at least one of.
fn outputs_of(objects: &[NewObject], streams: &[StreamReplacement]) -> Result<BTreeMap<ObjectId, u32>, Rejection> {
    let inputs: usize = streams.iter().map(|stream| stream.inputs.len()).sum();
    let outputs: usize = streams.iter().map(|stream| stream.outputs.len()).sum();
    if inputs > REPLACE_INPUTS_MAX || outputs > COMMIT_RANGES_MAX {
        return Err(Rejection::Malformed("more than 16384 inputs or 4096 outputs"));
    }
    if streams.is_empty() || !streams.is_sorted_by(|a, b| a.stream < b.stream) {
        return Err(Rejection::Malformed("streams must rise"));
    }
    if !streams.iter().all(StreamReplacement::is_well_formed) {
        return Err(Rejection::Malformed("outputs must cover the offsets of the inputs"));
    }
    let mut counts: BTreeMap<ObjectId, u32> = objects.iter().map(|new| (new.object, 0)).collect();
    for output in streams.iter().flat_map(|stream| &stream.outputs) {
        *counts.get_mut(&output.object).ok_or(Rejection::Malformed("an output lies in no new object"))? += 1;
    }
    if counts.len() != objects.len() || counts.values().any(|count| *count == 0) {
        return Err(Rejection::Malformed("new objects must differ and have outputs"));
    }
    Ok(counts)
}
