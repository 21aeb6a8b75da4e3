//! What a restore gives, or would give, and what is lost: for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use seawall_metadata::state::StreamState;
use seawall_metadata::{ObjectId, Offset, State};
use serde::Serialize;

use super::Found;
use super::objects::UnreadableObject;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub cluster: String,
    /// The incarnation that is restored.
    pub from: String,
    /// The new one; none in a dry run.
    pub incarnation: Option<String>,
    pub backup: u64,
    pub backup_index: u64,
    pub backup_age_seconds: u64,
    pub topics: Vec<TopicReport>,
    /// Records found in objects that were stored after the backup.
    pub rolled_forward_records: u64,
    pub rolled_forward_objects: usize,
    /// Records of topics that were made after the backup, or deleted before it.
    pub unknown_streams: usize,
    pub unknown_records: u64,
    pub missing_objects: Vec<ObjectId>,
    pub unreadable_objects: Vec<UnreadableObject>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicReport {
    pub name: String,
    pub partitions: Vec<PartitionReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    pub partition: i32,
    pub log_start: i64,
    /// One past the last record that is restored.
    pub end: i64,
    pub rolled_forward_records: u64,
    /// Where the next record goes; none in a dry run.
    pub goes_on_at: Option<i64>,
    /// Acked records behind `end` may have lain in the lost write-ahead log.
    pub may_have_lost: bool,
    /// Records that are stored and that nothing leads up to.
    pub unreached_records: u64,
}

/// Without the jumps that nothing has followed.
fn known_end(stream: &StreamState) -> Offset {
    stream.jumps.iter().rev().fold(stream.next, |end, jump| if jump.to == end { jump.from } else { end })
}

impl Report {
    pub(super) fn new(found: &Found, restored: Option<&State>, now_ms: i64) -> Self {
        let Found { base, forward, missing, unreadable } = found;
        let state = &base.replay.state;
        let mut topics: BTreeMap<&str, TopicReport> = BTreeMap::new();
        for topic in state.topics() {
            let partitions = state.partitions_of(topic.id).filter_map(|partition| {
                let stream = state.stream(partition.stream)?;
                let taken = forward.extensions.get(&stream.id).map_or(&[][..], Vec::as_slice);
                Some(PartitionReport {
                    partition: partition.id.index,
                    log_start: stream.start.0,
                    end: taken.last().map_or(known_end(stream), |(_, range)| range.end).0,
                    rolled_forward_records: taken.iter().map(|(_, range)| range.records).sum(),
                    goes_on_at: restored.and_then(|state| Some(state.stream(stream.id)?.next.0)),
                    may_have_lost: partition.dirty.is_some(),
                    unreached_records: forward.unreached.get(&stream.id).copied().unwrap_or(0),
                })
            });
            topics.insert(&topic.name, TopicReport { name: topic.name.clone(), partitions: partitions.collect() });
        }
        let age_ms = now_ms.max(0).unsigned_abs().saturating_sub(base.written_ms);
        Self {
            cluster: base.cluster.to_string(),
            from: base.incarnation.to_string(),
            incarnation: restored.and_then(|state| Some(state.cluster()?.1.to_string())),
            backup: base.generation,
            backup_index: state.applied(),
            backup_age_seconds: age_ms / 1_000,
            topics: topics.into_values().collect(),
            rolled_forward_records: forward.extensions.values().flatten().map(|(_, range)| range.records).sum(),
            rolled_forward_objects: forward.records.len(),
            unknown_streams: forward.unknown.len(),
            unknown_records: forward.unknown.values().sum(),
            missing_objects: missing.clone(),
            unreadable_objects: unreadable.clone(),
            notes: base.notes.clone(),
        }
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!("cluster            {}", self.cluster));
        line(format!("restored from      incarnation {}", self.from));
        match &self.incarnation {
            Some(incarnation) => line(format!("new incarnation    {incarnation}")),
            None => line("new incarnation    none: this was a dry run, and nothing was changed".to_owned()),
        }
        let (backup, index, age) = (self.backup, self.backup_index, self.backup_age_seconds);
        line(format!(
            "backup             {backup}, up to entry {index}, written {age} s ago: topics, configs and ids as of then"
        ));
        let (records, objects) = (self.rolled_forward_records, self.rolled_forward_objects);
        line(format!("rolled forward     {records} records in {objects} objects that were stored after it"));
        if self.unknown_records > 0 {
            let (records, streams) = (self.unknown_records, self.unknown_streams);
            line(format!("LOST               {records} records of {streams} partitions that the backup does not know"));
        }
        if !self.missing_objects.is_empty() {
            let named: Vec<String> = self.missing_objects.iter().map(ObjectId::to_string).collect();
            let (count, named) = (named.len(), named.join(", "));
            line(format!("MISSING            {count} objects that partitions are made of: {named}"));
        }
        for UnreadableObject { key, why } in &self.unreadable_objects {
            line(format!("UNREADABLE         {key}: {why}; acked records may be in it"));
        }
        for note in &self.notes {
            line(format!("note               {note}"));
        }
        for topic in &self.topics {
            line(format!("topic {}", topic.name));
            for of in &topic.partitions {
                let PartitionReport { partition, log_start, end, .. } = of;
                let mut text = format!("  {partition:>5}  offsets {log_start} to {end}");
                if of.rolled_forward_records > 0 {
                    let _ = write!(text, ", {} of them newer than the backup", of.rolled_forward_records);
                }
                if let Some(next) = of.goes_on_at {
                    let _ = write!(text, "; goes on at {next}");
                }
                if of.unreached_records > 0 {
                    let _ = write!(text, "; LOST: {} stored records that nothing leads up to", of.unreached_records);
                }
                if of.may_have_lost {
                    let _ = write!(text, "; LOST: acked records behind {end}, if any were in the write-ahead log only");
                }
                line(text);
            }
        }
        out
    }
}
