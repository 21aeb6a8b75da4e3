//! The committed offsets of one group, and which of them have been kept long enough. Pure.

use std::collections::BTreeMap;

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

    /// The offsets that need not be kept at `now_ms`. Those of topics that the group reads are.
    pub fn expired(
        &self,
        retention: Retention,
        is_subscribed_to: impl Fn(&str) -> bool,
        now_ms: i64,
        retention_ms: i64,
    ) -> Vec<(String, i32)> {
        let kept_since = |value: &OffsetValue| match retention {
            Retention::Keep => None,
            Retention::SinceCommit => Some(value.commit_timestamp_ms),
            Retention::Since(emptied_ms) => Some(emptied_ms),
        };
        let is_expired = |value: &OffsetValue| match (kept_since(value), value.expire_timestamp_ms) {
            (None, _) => false,
            (Some(_), Some(expires_ms)) => now_ms >= expires_ms,
            (Some(since_ms), None) => now_ms.saturating_sub(since_ms) >= retention_ms,
        };
        self.iter()
            .filter(|(topic, _, value)| is_expired(value) && !is_subscribed_to(topic))
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }
}

/// From when on retention counts for the offsets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// The group is in use.
    Keep,
    SinceCommit,
    /// The moment at which the group emptied.
    Since(i64),
}

fn entry_bytes(topic: &str, value: &OffsetValue) -> usize {
    160 + topic.len() + value.metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn expired(retention: Retention, now_ms: i64, retention_ms: i64) -> Vec<(String, i32)> {
        offsets().expired(retention, |_| false, now_ms, retention_ms)
    }

    #[test]
    fn offsets_of_a_client_without_a_group_are_kept_from_their_commit_on() {
        assert_eq!(expired(Retention::SinceCommit, 10_999, 10_000), []);
        assert_eq!(expired(Retention::SinceCommit, 11_000, 10_000), [("old".to_owned(), 0)]);
    }

    #[test]
    fn offsets_of_a_group_are_kept_from_the_moment_it_emptied() {
        assert_eq!(expired(Retention::Since(30_000), 39_999, 10_000), []);
        let both = [("old".to_owned(), 0), ("old".to_owned(), 1)];
        assert_eq!(expired(Retention::Since(30_000), 40_000, 10_000), both);
        assert_eq!(expired(Retention::Keep, i64::MAX, 10_000), []);
    }

    #[test]
    fn offsets_of_topics_that_are_read_are_kept() {
        let kept = offsets().expired(Retention::SinceCommit, |topic| topic == "old", 1_000_000, 10_000);
        assert_eq!(kept, [("own".to_owned(), 0)]);
    }

    #[test]
    fn a_commit_with_its_own_expiry_goes_by_that() {
        assert_eq!(expired(Retention::SinceCommit, 50_000, 1_000_000), [("own".to_owned(), 0)]);
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
