//! OffsetFetch: what a group committed, by partition or whole, for one group or (from version 8) several.
//!
//! The coordinator answers from what is durable, so `require_stable` asks for nothing more today. Once transactions
//! commit offsets, a partition with a pending one answers UNSTABLE_OFFSET_COMMIT here when the flag is set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use seawall_metadata::{MetadataHandle, TopicId};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use seawall_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use seawall_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use uuid::Uuid;

use super::offset_commit::TOPIC_IDS_FROM;
use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::group_records::OffsetValue;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let groups = if version >= 8 { request.groups } else { vec![only(request)] };
    let mut answers = Vec::new();
    for group in once(groups) {
        answers.push(fetch_group(broker, group, version).await);
    }
    match version >= 8 {
        true => OffsetFetchResponse { groups: answers, ..Default::default() },
        false => answers.pop().map(single).unwrap_or_default(),
    }
}

/// The one group of versions 1 to 7.
fn only(request: OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topic = |topic: OffsetFetchRequestTopic| OffsetFetchRequestTopics {
        name: topic.name,
        partition_indexes: topic.partition_indexes,
        ..Default::default()
    };
    OffsetFetchRequestGroup {
        group_id: request.group_id,
        topics: request.topics.map(|topics| topics.into_iter().map(topic).collect()),
        ..Default::default()
    }
}

/// Each offset where it is asked for first: a short request must not make a long answer by repeating one.
fn once(mut groups: Vec<OffsetFetchRequestGroup>) -> Vec<OffsetFetchRequestGroup> {
    let mut whole = HashSet::new();
    let mut single: HashMap<String, HashMap<(String, Uuid), HashSet<i32>>> = HashMap::new();
    groups.retain_mut(|group| {
        let Some(topics) = &mut group.topics else { return whole.insert(group.group_id.clone()) };
        let seen = single.entry(group.group_id.clone()).or_default();
        for topic in topics {
            let seen = seen.entry((topic.name.clone(), topic.topic_id)).or_default();
            topic.partition_indexes.retain(|index| seen.insert(*index));
        }
        true
    });
    groups
}

async fn fetch_group(broker: &Arc<Broker>, request: OffsetFetchRequestGroup, version: i16) -> OffsetFetchResponseGroup {
    let OffsetFetchRequestGroup { group_id, member_id, member_epoch, topics, .. } = request;
    let topics = topics.map(|topics| by_name(&broker.metadata, topics, version));
    let wanted = topics.clone();
    let read = broker.groups.offsets(&group_id, member_id, member_epoch, move |offsets| match wanted {
        None => offsets
            .iter()
            .map(|(topic, partition, value)| ((topic.to_owned(), partition), value.clone()))
            .collect::<Committed>(),
        Some(topics) => topics
            .iter()
            .flat_map(|topic| topic.partition_indexes.iter().map(|index| (topic.name.as_str(), *index)))
            .filter_map(|(topic, index)| Some(((topic.to_owned(), index), offsets.get(topic, index)?.clone())))
            .collect::<Committed>(),
    });
    let mut response = OffsetFetchResponseGroup { group_id: group_id.clone(), ..Default::default() };
    match (read.await, topics) {
        (Err(error), topics) => {
            let code = group_error_code(error).code();
            response.error_code = code;
            if version < 2 {
                // There is no place but the partitions.
                let topics = topics.unwrap_or_default().into_iter();
                response.topics = topics.map(|topic| asked(topic, |_| Err(code))).collect();
            }
        }
        (Ok(mut committed), topics) => {
            drop_those_of_deleted_topics(&broker.metadata, &mut committed);
            response.topics = match topics {
                None => all(&broker.metadata, committed, version),
                Some(topics) => topics
                    .into_iter()
                    .map(|topic| match topic.name.is_empty() && version >= TOPIC_IDS_FROM {
                        true => asked(topic, |_| Err(ErrorCode::UnknownTopicId.code())),
                        false => {
                            let mut key = (topic.name.clone(), 0);
                            asked(topic, |index| {
                                key.1 = index;
                                Ok(committed.get(&key))
                            })
                        }
                    })
                    .collect(),
            };
        }
    }
    response
}

type Committed = BTreeMap<(String, i32), OffsetValue>;

/// Gives topics that were asked for by id their names; an unknown id leaves the name empty.
fn by_name(
    metadata: &MetadataHandle,
    mut topics: Vec<OffsetFetchRequestTopics>,
    version: i16,
) -> Vec<OffsetFetchRequestTopics> {
    if version >= TOPIC_IDS_FROM {
        metadata.read(|state| {
            for topic in &mut topics {
                topic.name = state.topic(TopicId(topic.topic_id)).map(|found| found.name.clone()).unwrap_or_default();
            }
        });
    }
    topics
}

/// Offsets of a topic that was deleted, or deleted and made again, mean nothing any more. Their records go at the next
/// check of retention.
fn drop_those_of_deleted_topics(metadata: &MetadataHandle, committed: &mut Committed) {
    metadata.read(|state| {
        committed.retain(|(topic, _), value| {
            state.topic_by_name(topic).is_some_and(|topic| value.topic_id.is_nil() || value.topic_id == topic.id.0)
        });
    });
}

/// The answer for one topic that was asked for.
fn asked<'a>(
    topic: OffsetFetchRequestTopics,
    mut find: impl FnMut(i32) -> Result<Option<&'a OffsetValue>, i16>,
) -> OffsetFetchResponseTopics {
    let partition = |index: &i32| match find(*index) {
        Ok(Some(value)) => found(*index, value),
        Ok(None) => missing(*index, 0),
        Err(code) => missing(*index, code),
    };
    let partitions = topic.partition_indexes.iter().map(partition).collect();
    OffsetFetchResponseTopics { name: topic.name, topic_id: topic.topic_id, partitions, ..Default::default() }
}

fn all(metadata: &MetadataHandle, committed: Committed, version: i16) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for ((name, index), value) in committed {
        if topics.last().is_none_or(|topic| topic.name != name) {
            topics.push(OffsetFetchResponseTopics { name, ..Default::default() });
        }
        topics.last_mut().expect("just pushed").partitions.push(found(index, &value));
    }
    if version >= TOPIC_IDS_FROM {
        let id_of =
            |name: &str| metadata.read(|state| state.topic_by_name(name).map_or(Uuid::nil(), |topic| topic.id.0));
        for topic in &mut topics {
            topic.topic_id = id_of(&topic.name);
        }
        topics.retain(|topic| !topic.topic_id.is_nil());
    }
    topics
}

fn found(partition_index: i32, value: &OffsetValue) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: value.offset,
        committed_leader_epoch: value.leader_epoch,
        metadata: Some(value.metadata.clone()),
        ..Default::default()
    }
}

fn missing(partition_index: i32, error_code: i16) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(String::new()),
        error_code,
        ..Default::default()
    }
}

/// The form of versions 1 to 7.
fn single(group: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
        ..Default::default()
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
        ..Default::default()
    };
    OffsetFetchResponse {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}
