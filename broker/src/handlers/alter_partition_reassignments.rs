//! The AlterPartitionReassignments API. One copy of a log is kept, on the owner: the owner alone is a legal target, and is
//! where the partition is already.

use std::sync::Arc;

use seawall_metadata::{PartitionId, State};
use seawall_protocol::{
    ErrorCode,
    messages::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
        alter_partition_reassignments_request::ReassignablePartition,
        alter_partition_reassignments_response::{ReassignablePartitionResponse, ReassignableTopicResponse},
    },
};

use crate::{
    broker::Broker, dispatch::RequestContext, error_code::ApiError, handlers::create_topics::check_assignment,
};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
    _version: i16,
) -> AlterPartitionReassignmentsResponse {
    let allow_replication_factor_change = request.allow_replication_factor_change;
    let topics = request.topics.into_iter().map(|topic| ReassignableTopicResponse {
        partitions: (topic.partitions.iter())
            .map(|asked| broker.metadata.read(|state| answer(state, &topic.name, asked)))
            .collect(),
        name: topic.name,
        ..Default::default()
    });
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change,
        error_message: None,
        responses: topics.collect(),
        ..Default::default()
    }
}

fn answer(state: &State, topic: &str, asked: &ReassignablePartition) -> ReassignablePartitionResponse {
    let error = reassign(state, topic, asked).err();
    ReassignablePartitionResponse {
        partition_index: asked.partition_index,
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message),
        ..Default::default()
    }
}

/// The names stand beside the partitions; no text repeats them.
fn reassign(state: &State, topic: &str, asked: &ReassignablePartition) -> Result<(), ApiError> {
    let unknown = |message: &str| ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
    let index = asked.partition_index;
    let known = state.topic_by_name(topic).ok_or_else(|| unknown("Unable to find the topic."))?;
    let partition = state.partition(PartitionId { topic: known.id, index });
    let partition = partition.ok_or_else(|| unknown("Unable to find the partition."))?;
    let Some(replicas) = &asked.replicas else {
        let message = "No partition reassignment is in progress.";
        return Err(ApiError::new(ErrorCode::NoReassignmentInProgress, message));
    };
    check_assignment(state, replicas)?;
    if replicas[..] != [partition.owner.0] {
        let message =
            format!("One copy of a partition is kept, and it stays with its owner, broker {}.", partition.owner);
        return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    Ok(())
}
