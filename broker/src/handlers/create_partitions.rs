//! The CreatePartitions API.

use std::{collections::BTreeSet, sync::Arc};

use seawall_metadata::{Command, NodeId, ProposeError, Rejection, State, TopicId};
use seawall_protocol::{
    ErrorCode,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, create_partitions_request::CreatePartitionsTopic,
        create_partitions_response::CreatePartitionsTopicResult,
    },
};

use crate::{
    broker::Broker,
    dispatch::RequestContext,
    error_code::ApiError,
    handlers::create_topics::check_assignment,
    quotas::Mutations,
    topics::{self, PARTITIONS_PER_REQUEST_MAX},
};

/// From this version on clients know THROTTLING_QUOTA_EXCEEDED.
const FIRST_VERSION_WITH_QUOTA_ERRORS: i16 = 3;

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: CreatePartitionsRequest,
    version: i16,
) -> CreatePartitionsResponse {
    let mut seen = BTreeSet::new();
    let repeated: BTreeSet<String> =
        request.topics.iter().filter(|topic| !seen.insert(&topic.name)).map(|topic| topic.name.clone()).collect();
    let mut mutations = broker.quotas.mutations(ctx, version >= FIRST_VERSION_WITH_QUOTA_ERRORS);
    let mut results = Vec::new();
    for name in &repeated {
        let error = ApiError::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
        results.push(result(name, Err(error)));
    }
    for topic in request.topics.iter().filter(|topic| !repeated.contains(&topic.name)) {
        results.push(result(&topic.name, grow(broker, topic, request.validate_only, &mut mutations).await));
    }
    CreatePartitionsResponse { throttle_time_ms: mutations.throttle_time_ms(), results, ..Default::default() }
}

async fn grow(
    broker: &Broker,
    asked: &CreatePartitionsTopic,
    validate_only: bool,
    mutations: &mut Mutations<'_>,
) -> Result<(), ApiError> {
    let (topic, owners) = broker.metadata.read(|state| resolve(state, asked))?;
    mutations.record(owners.len())?;
    if validate_only {
        return Ok(());
    }
    match broker.metadata.propose(Command::CreatePartitions { topic, total: asked.count, owners }).await {
        Ok(_) => Ok(()),
        Err(ProposeError::Rejected(Rejection::UnknownTopic(_))) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

fn resolve(state: &State, asked: &CreatePartitionsTopic) -> Result<(TopicId, Vec<NodeId>), ApiError> {
    let topic = state.topic_by_name(&asked.name).ok_or_else(unknown)?;
    if topic.internal {
        // The number decides which partition a group belongs to: with another one it would lose its offsets.
        let message = format!("The number of partitions of the internal topic {} is fixed.", topic.name);
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let current = topic.partitions;
    let invalid = |message| Err(ApiError::new(ErrorCode::InvalidPartitions, message));
    if asked.count == current {
        return invalid(format!("Topic already has {current} partition(s)."));
    }
    if asked.count < current {
        let count = asked.count;
        return invalid(format!(
            "The topic {} currently has {current} partition(s); {count} would not be an increase.",
            topic.name
        ));
    }
    let added = asked.count - current;
    if i64::from(added) > PARTITIONS_PER_REQUEST_MAX {
        let message = "Excessively large number of partitions per request.";
        return Err(ApiError::new(ErrorCode::PolicyViolation, message));
    }
    let Some(assignments) = &asked.assignments else {
        return Ok((topic.id, topics::owners(state, current, added)));
    };
    if assignments.len() as i64 != i64::from(added) {
        let message = format!(
            "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
            assignments.len()
        );
        return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    for assignment in assignments {
        check_assignment(state, &assignment.broker_ids)?;
    }
    let owners = assignments.iter().filter_map(|assignment| assignment.broker_ids.first()).map(|id| NodeId(*id));
    Ok((topic.id, owners.collect()))
}

fn unknown() -> ApiError {
    ErrorCode::UnknownTopicOrPartition.into()
}

fn result(name: &str, grown: Result<(), ApiError>) -> CreatePartitionsTopicResult {
    let error = grown.err();
    CreatePartitionsTopicResult {
        name: name.to_owned(),
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message),
        ..Default::default()
    }
}
