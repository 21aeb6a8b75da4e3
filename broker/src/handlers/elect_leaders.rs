//! The ElectLeaders API. The owner is the one replica: as long as it is up it leads, and no election is needed; when it is
//! not, nobody else can be elected.

use std::sync::Arc;

use seawall_metadata::{PartitionId, State, state::PartitionState};
use seawall_protocol::{
    ErrorCode,
    messages::{
        ElectLeadersRequest, ElectLeadersResponse,
        elect_leaders_response::{PartitionResult, ReplicaElectionResult},
    },
};

use crate::{broker::Broker, dispatch::RequestContext, error_code::ApiError, repetition};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ElectLeadersRequest,
    _version: i16,
) -> ElectLeadersResponse {
    let kind = request.election_type;
    if !matches!(kind, PREFERRED | UNCLEAN) {
        return ElectLeadersResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
    }
    let replica_election_results = match request.topic_partitions {
        Some(topics) => {
            let topics = topics.into_iter().map(|topic| ReplicaElectionResult {
                partition_result: (repetition::once(&topic.partitions, |index| *index).into_iter())
                    .map(|index| result(*index, broker.metadata.read(|state| named(state, &topic.topic, *index, kind))))
                    .collect(),
                topic: topic.topic,
                ..Default::default()
            });
            topics.collect()
        }
        None => broker.metadata.read(|state| every(state, kind)),
    };
    ElectLeadersResponse { replica_election_results, ..Default::default() }
}

/// Asked for all partitions, those that need no election are left out, as in Kafka.
fn every(state: &State, kind: i8) -> Vec<ReplicaElectionResult> {
    let topics = state.topics_by_name("").map(|topic| ReplicaElectionResult {
        topic: topic.name.clone(),
        partition_result: (state.partitions_of(topic.id))
            .map(|partition| (partition.id.index, elect(state, partition, kind)))
            .filter(|(_, error)| error.code != ErrorCode::ElectionNotNeeded)
            .map(|(index, error)| result(index, error))
            .collect(),
        ..Default::default()
    });
    topics.collect()
}

/// The names stand beside the partitions; no text repeats them.
fn named(state: &State, topic: &str, index: i32, kind: i8) -> ApiError {
    let unknown = |message: &str| ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
    let Some(known) = state.topic_by_name(topic) else { return unknown("No such topic.") };
    match state.partition(PartitionId { topic: known.id, index }) {
        Some(partition) => elect(state, partition, kind),
        None => unknown("No such partition."),
    }
}

fn elect(state: &State, partition: &PartitionState, kind: i8) -> ApiError {
    let up = state.broker(partition.owner).is_some_and(|broker| !broker.fenced);
    match (up, kind) {
        (true, _) => ApiError::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition."),
        (false, PREFERRED) => ErrorCode::PreferredLeaderNotAvailable.into(),
        (false, _) => ErrorCode::EligibleLeadersNotAvailable.into(),
    }
}

fn result(index: i32, error: ApiError) -> PartitionResult {
    PartitionResult {
        partition_id: index,
        error_code: error.code.code(),
        error_message: error.message,
        ..Default::default()
    }
}
