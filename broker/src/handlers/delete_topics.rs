//! The DeleteTopics API, by name and by id.

use std::{collections::BTreeMap, sync::Arc};

use seawall_metadata::{Command, ProposeError, Rejection, State, TopicId, state::TopicState};
use seawall_protocol::{
    ErrorCode,
    messages::{
        DeleteTopicsRequest, DeleteTopicsResponse, delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
};

use crate::{broker::Broker, dispatch::RequestContext, error_code::ApiError, quotas::Mutations};

/// From this version on clients know THROTTLING_QUOTA_EXCEEDED.
const FIRST_VERSION_WITH_QUOTA_ERRORS: i16 = 5;

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    let by_name =
        request.topic_names.into_iter().map(|name| DeleteTopicState { name: Some(name), ..Default::default() });
    let asked: Vec<DeleteTopicState> = by_name.chain(request.topics).collect();
    let enabled = broker.config.kafka.boolean("delete.topic.enable");
    let mut mutations = broker.quotas.mutations(ctx, version >= FIRST_VERSION_WITH_QUOTA_ERRORS);
    let mut counts = BTreeMap::new();
    for topic in &asked {
        *counts.entry((topic.name.clone(), topic.topic_id)).or_insert(0) += 1;
    }
    let mut responses = Vec::new();
    for topic in asked {
        // One answer for all places where a topic is named twice.
        let Some(count) = counts.remove(&(topic.name.clone(), topic.topic_id)) else { continue };
        let repeated = count > 1;
        let deleted = if !enabled {
            let code = if version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
            Err(ApiError::new(code, "Topic deletion is disabled."))
        } else if repeated {
            let what = if topic.name.is_some() { "name" } else { "id" };
            Err(ApiError::new(ErrorCode::InvalidRequest, format!("Duplicate topic {what}.")))
        } else {
            delete(broker, &topic, &mut mutations).await
        };
        responses.push(result(topic, deleted, version));
    }
    DeleteTopicsResponse { throttle_time_ms: mutations.throttle_time_ms(), responses, ..Default::default() }
}

/// The name and id of the topic that is gone.
async fn delete(
    broker: &Broker,
    asked: &DeleteTopicState,
    mutations: &mut Mutations<'_>,
) -> Result<(String, TopicId), ApiError> {
    let (name, topic, partitions) = broker.metadata.read(|state| find(state, asked))?;
    mutations.record(partitions)?;
    match broker.metadata.propose(Command::DeleteTopic { topic }).await {
        Ok(_) => Ok((name, topic)),
        Err(ProposeError::Rejected(Rejection::UnknownTopic(_))) => Err(unknown(asked)),
        Err(error) => Err(error.into()),
    }
}

/// The name, the id and the number of partitions.
fn find(state: &State, asked: &DeleteTopicState) -> Result<(String, TopicId, usize), ApiError> {
    let invalid = |message| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    let topic = match (&asked.name, asked.topic_id.is_nil()) {
        (Some(_), false) => return invalid("You may not specify both topic name and topic id."),
        (None, true) => return invalid("Neither topic name nor id were specified."),
        (Some(name), true) => state.topic_by_name(name),
        (None, false) => state.topic(TopicId(asked.topic_id)),
    };
    let facts = |topic: &TopicState| (topic.name.clone(), topic.id, usize::try_from(topic.partitions).unwrap_or(0));
    topic.map(facts).ok_or_else(|| unknown(asked))
}

fn unknown(asked: &DeleteTopicState) -> ApiError {
    match asked.name {
        Some(_) => ApiError::new(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition."),
        None => ApiError::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID."),
    }
}

fn result(asked: DeleteTopicState, deleted: Result<(String, TopicId), ApiError>, version: i16) -> DeletableTopicResult {
    let (name, topic_id, error) = match deleted {
        Ok((name, topic)) => (Some(name), topic.0, None),
        Err(error) => (asked.name, asked.topic_id, Some(error)),
    };
    DeletableTopicResult {
        name,
        topic_id,
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message).filter(|_| version >= 5),
        ..Default::default()
    }
}
