//! The DescribeTopicPartitions API: partitions of topics in the order of their names, in pages.

use std::sync::Arc;

use seawall_metadata::{
    State,
    state::{PartitionState, TopicState},
};
use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        describe_topic_partitions_response::{
            Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
    },
};

use crate::{authorized_operations::TOPIC_OPERATIONS, broker::Broker, dispatch::RequestContext, topics::check_name};

/// Partitions per page at most.
const PAGE_PARTITIONS_MAX: i32 = 2000;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeTopicPartitionsRequest,
    _version: i16,
) -> DescribeTopicPartitionsResponse {
    broker.metadata.read(|state| page(state, request))
}

fn page(state: &State, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let (from_topic, from_partition) =
        request.cursor.map_or((String::new(), 0), |cursor| (cursor.topic_name, cursor.partition_index.max(0)));
    let mut room = request.response_partition_limit.clamp(1, PAGE_PARTITIONS_MAX) as usize;
    let names = names_from(state, request.topics.into_iter().map(|topic| topic.name).collect(), &from_topic);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        let first = if name == from_topic { from_partition } else { 0 };
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: first, ..Default::default() });
            break;
        }
        let Some(topic) = state.topic_by_name(&name) else {
            response.topics.push(unknown(name));
            continue;
        };
        let partitions: Vec<_> = (state.partitions_of(topic.id))
            .skip(first as usize)
            .take(room)
            .map(|partition| describe_partition(state, partition))
            .collect();
        room -= partitions.len();
        let next = i64::from(first) + partitions.len() as i64;
        response.topics.push(describe(topic, partitions));
        if next < i64::from(topic.partitions) {
            let partition_index = i32::try_from(next).unwrap_or(i32::MAX);
            response.next_cursor = Some(Cursor { topic_name: name, partition_index, ..Default::default() });
            break;
        }
    }
    response
}

/// The names to describe, ascending, from the cursor's on; none asked for means all.
fn names_from(state: &State, mut asked: Vec<String>, from: &str) -> Vec<String> {
    if asked.is_empty() {
        return state.topics_by_name(from).map(|topic| topic.name.clone()).collect();
    }
    asked.retain(|name| name.as_str() >= from);
    asked.sort_unstable();
    asked.dedup();
    asked
}

fn unknown(name: String) -> DescribeTopicPartitionsResponseTopic {
    let valid = check_name(&name).is_ok();
    let error = if valid { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(name),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

fn describe(
    topic: &TopicState,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.id.0,
        is_internal: topic.internal,
        partitions,
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

fn describe_partition(state: &State, partition: &PartitionState) -> DescribeTopicPartitionsResponsePartition {
    let up = state.broker(partition.owner).is_some_and(|broker| !broker.fenced);
    let leader = partition.owner.0;
    DescribeTopicPartitionsResponsePartition {
        error_code: if up { 0 } else { ErrorCode::LeaderNotAvailable.code() },
        partition_index: partition.id.index,
        leader_id: if up { leader } else { -1 },
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: vec![leader],
        isr_nodes: if up { vec![leader] } else { vec![] },
        eligible_leader_replicas: Some(vec![]),
        last_known_elr: Some(vec![]),
        offline_replicas: if up { vec![] } else { vec![leader] },
        ..Default::default()
    }
}
