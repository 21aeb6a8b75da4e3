//! OffsetDelete: single offsets of a group that does not read their topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use seawall_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::{group_error_code, group_result_code};
use crate::group::GroupError;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: OffsetDeleteRequest,
    _version: i16,
) -> OffsetDeleteResponse {
    // As in Kafka, what metadata does not know does not reach the coordinator.
    let mut asked = Vec::new();
    broker.metadata.read(|state| {
        for topic in &request.topics {
            let partitions = state.topic_by_name(&topic.name).map_or(0, |topic| topic.partitions);
            let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
            asked.extend(indexes.filter(|at| (0..partitions).contains(at)).map(|at| (topic.name.clone(), at)));
        }
    });
    let results: BTreeMap<(String, i32), _> = match broker.groups.delete_offsets(&request.group_id, asked.clone()).await
    {
        Ok(results) => asked.into_iter().zip(results).collect(),
        Err(error) => {
            return OffsetDeleteResponse { error_code: group_error_code(error).code(), ..Default::default() };
        }
    };
    let result_of = |topic: &str, at: i32| {
        results.get(&(topic.to_owned(), at)).copied().unwrap_or(Err(GroupError::UnknownTopicOrPartition))
    };
    let topics = request.topics.iter().map(|topic| OffsetDeleteResponseTopic {
        name: topic.name.clone(),
        partitions: (topic.partitions.iter())
            .map(|partition| OffsetDeleteResponsePartition {
                partition_index: partition.partition_index,
                error_code: group_result_code(result_of(&topic.name, partition.partition_index)),
            })
            .collect(),
    });
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}
