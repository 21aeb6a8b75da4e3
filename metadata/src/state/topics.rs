//! Topics, and the partitions and streams that are made and deleted with them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PartitionState, State, StreamState};
use crate::command::{ConfigResource, Rejection, Response};
use crate::ids::*;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicState {
    pub id: TopicId,
    pub name: String,
    pub internal: bool,
    /// As asked for. One copy is kept whatever it says.
    pub replication_factor: i16,
    /// Partitions have the indexes below this.
    pub partitions: i32,
}

crate::wire::wire_struct!(TopicState { id, name, internal, replication_factor, partitions });

impl State {
    pub(super) fn create_topic(
        &mut self,
        name: String,
        topic: TopicId,
        internal: bool,
        replication_factor: i16,
        owners: Vec<NodeId>,
        configs: BTreeMap<String, String>,
    ) -> Result<Response, Rejection> {
        if let Some(id) = self.topic_names.get(&name) {
            if *id == topic {
                let streams = self.partitions_of(topic).map(|partition| partition.stream).collect();
                return Ok(Response::Topic { topic, streams });
            }
            return Err(Rejection::TopicExists { name, topic: *id });
        }
        if self.topics.contains_key(&topic) {
            return Err(Rejection::TopicIdInUse(topic));
        }
        if name.is_empty() || owners.is_empty() {
            return Err(Rejection::Malformed("a topic needs a name and a partition"));
        }
        self.check_new_partitions(&owners)?;
        self.topic_names.insert(name.clone(), topic);
        if !configs.is_empty() {
            self.configs.insert(ConfigResource::Topic { name: name.clone() }, configs);
        }
        self.topics.insert(topic, TopicState { id: topic, name, internal, replication_factor, partitions: 0 });
        Ok(self.add_partitions(topic, owners))
    }

    /// A topic that is there already is left to `create_topic`: the same one may be made again.
    pub(super) fn check_distinct(&self, name: &str) -> Result<(), Rejection> {
        match self.colliding_topic(name) {
            Some(topic) if !self.topic_names.contains_key(name) => {
                Err(Rejection::TopicCollides { name: name.to_owned(), with: topic.name.clone() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn create_partitions(
        &mut self,
        topic: TopicId,
        total: i32,
        owners: Vec<NodeId>,
    ) -> Result<Response, Rejection> {
        let current = self.topics.get(&topic).ok_or(Rejection::UnknownTopic(topic))?.partitions;
        if total <= current {
            return Err(Rejection::Partitions { current, why: "only more are possible" });
        }
        if i64::from(total) - i64::from(current) != owners.len() as i64 {
            return Err(Rejection::Partitions { current, why: "one owner for each new one is needed" });
        }
        self.check_new_partitions(&owners)?;
        Ok(self.add_partitions(topic, owners))
    }

    fn check_new_partitions(&self, owners: &[NodeId]) -> Result<(), Rejection> {
        if self.next_stream.0.checked_add(owners.len() as u64).is_none() {
            return Err(Rejection::Exhausted("stream ids"));
        }
        owners.iter().try_for_each(|owner| self.can_own(*owner))
    }

    fn add_partitions(&mut self, topic: TopicId, owners: Vec<NodeId>) -> Response {
        let entry = self.topics.get_mut(&topic).expect("the topic was looked up by the caller");
        let mut streams = Vec::with_capacity(owners.len());
        for owner in owners {
            let id = PartitionId { topic, index: entry.partitions };
            let stream = self.next_stream;
            self.next_stream = StreamId(stream.0 + 1);
            entry.partitions += 1;
            self.partitions.insert(id, PartitionState::new(id, stream, owner));
            self.streams.insert(stream, StreamState::new(stream, id));
            streams.push(stream);
        }
        Response::Topic { topic, streams }
    }

    pub(super) fn delete_topic(&mut self, topic: TopicId) -> Result<Response, Rejection> {
        let entry = self.topics.remove(&topic).ok_or(Rejection::UnknownTopic(topic))?;
        self.topic_names.remove(&entry.name);
        self.configs.remove(&ConfigResource::Topic { name: entry.name });
        for index in 0..entry.partitions {
            let partition = self.partitions.remove(&PartitionId { topic, index }).expect("indexes are dense");
            let stream = self.streams.remove(&partition.stream).expect("a partition has a stream");
            self.cleaned.remove(&stream.id);
            for (base, range) in stream.ranges {
                self.release_range(range.object, stream.id, base);
            }
        }
        Ok(Response::Done)
    }
}
