//! The committed offsets of one group, and which of them have been kept long enough. Pure.

use std::collections::BTreeMap;

use crate::group::{Group, GroupState};
use crate::group_records::OffsetValue;

/// Topic -> partition -> what was committed last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupOffsets {
    topics: BTreeMap<String, BTreeMap<i32, OffsetValue>>,
    bytes: usize,
}

impl GroupOffsets {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Memory that the offsets hold, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.topics.get(topic)?.get(&partition)
    }

    /// All offsets, by topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, &OffsetValue)> {
        let topics = self.topics.iter();
        topics.flat_map(|(topic, partitions)| partitions.iter().map(|(at, value)| (topic.as_str(), *at, value)))
    }

    pub fn put(&mut self, topic: &str, partition: i32, value: OffsetValue) {
        self.bytes += entry_bytes(topic, &value);
        let partitions = match self.topics.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(topic.to_owned()).or_default(),
        };
        if let Some(before) = partitions.insert(partition, value) {
            self.bytes -= entry_bytes(topic, &before);
        }
    }

    pub fn remove(&mut self, topic: &str, partition: i32) -> Option<OffsetValue> {
        let partitions = self.topics.get_mut(topic)?;
        let removed = partitions.remove(&partition)?;
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
        self.bytes -= entry_bytes(topic, &removed);
        Some(removed)
    }

    /// The offsets that `group` need not keep at `now_ms`. Offsets of a group that is in use are kept, but for topics
    /// that a stable consumer group no longer reads.
    pub fn expired(&self, group: &Group, now_ms: i64, retention_ms: i64) -> Vec<(String, i32)> {
        let Some(kept_since) = kept_since(group) else { return Vec::new() };
        let is_expired = |value: &OffsetValue| match value.expire_timestamp_ms {
            Some(expires_ms) => now_ms >= expires_ms,
            None => now_ms.saturating_sub(kept_since(value)) >= retention_ms,
        };
        self.iter()
            .filter(|(topic, _, value)| !group.is_subscribed_to(topic) && is_expired(value))
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }
}

/// From when on retention counts for an offset of this group; None: not at all now.
fn kept_since(group: &Group) -> Option<impl Fn(&OffsetValue) -> i64> {
    let emptied_ms = match (group.protocol_type(), group.state()) {
        // A client that only keeps its offsets here: each counts from its commit.
        (None, _) => None,
        (Some(_), GroupState::Empty) => group.state_timestamp_ms(),
        (Some(_), GroupState::Stable) if group.subscribed_topics().is_some() => None,
        (Some(_), _) => return None,
    };
    Some(move |value: &OffsetValue| emptied_ms.unwrap_or(value.commit_timestamp_ms))
}

fn entry_bytes(topic: &str, value: &OffsetValue) -> usize {
    160 + topic.len() + value.metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Now;
    use crate::group_records::GroupValue;
    use uuid::Uuid;

    fn committed(at_ms: i64, expire_timestamp_ms: Option<i64>) -> OffsetValue {
        OffsetValue {
            offset: 1,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp_ms: at_ms,
            expire_timestamp_ms,
            topic_id: Uuid::nil(),
        }
    }

    fn offsets() -> GroupOffsets {
        let mut offsets = GroupOffsets::default();
        offsets.put("old", 0, committed(1_000, None));
        offsets.put("old", 1, committed(9_000, None));
        offsets.put("own", 0, committed(1_000, Some(50_000)));
        offsets
    }

    fn empty_group(protocol_type: &str, emptied_ms: Option<i64>) -> Group {
        Group::from_record(GroupValue {
            protocol_type: protocol_type.into(),
            generation: 1,
            protocol: None,
            leader: None,
            state_timestamp_ms: emptied_ms,
            members: Vec::new(),
        })
    }

    #[test]
    fn offsets_of_a_client_without_a_group_are_kept_from_their_commit_on() {
        let group = Group::new(Now { monotonic_ms: 0, wall_ms: 0 });
        assert_eq!(offsets().expired(&group, 10_999, 10_000), []);
        assert_eq!(offsets().expired(&group, 11_000, 10_000), [("old".to_owned(), 0)]);
    }

    #[test]
    fn offsets_of_a_group_are_kept_from_the_moment_it_emptied() {
        let group = empty_group("consumer", Some(30_000));
        assert_eq!(offsets().expired(&group, 39_999, 10_000), []);
        let expired = offsets().expired(&group, 40_000, 10_000);
        assert_eq!(expired, [("old".to_owned(), 0), ("old".to_owned(), 1)]);
        let before_timestamps = empty_group("connect", None);
        assert_eq!(offsets().expired(&before_timestamps, 11_000, 10_000), [("old".to_owned(), 0)]);
    }

    #[test]
    fn a_commit_with_its_own_expiry_goes_by_that() {
        let group = Group::new(Now { monotonic_ms: 0, wall_ms: 0 });
        let expired = offsets().expired(&group, 50_000, 1_000_000);
        assert_eq!(expired, [("own".to_owned(), 0)]);
    }

    #[test]
    fn bytes_return_to_nothing() {
        let mut offsets = offsets();
        assert!(offsets.bytes() > 0);
        for (topic, partition) in [("old", 0), ("old", 1), ("own", 0)] {
            assert!(offsets.remove(topic, partition).is_some());
            assert!(offsets.remove(topic, partition).is_none());
        }
        assert!(offsets.is_empty() && offsets.bytes() == 0);
    }
}
