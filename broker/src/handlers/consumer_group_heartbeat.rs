//! ConsumerGroupHeartbeat: a member joins, stays or leaves, and hears which partitions are its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use seawall_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use uuid::Uuid;

use crate::assignor::Assignor;
use crate::broker::Broker;
use crate::consumer_group::{Heartbeat, HeartbeatAnswer, JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH};
use crate::dispatch::RequestContext;
use crate::error_code::{ApiError, group_error_code};
use crate::group_records::{consumer, fits_in_a_record};

/// From this version on members choose their ids themselves.
const MEMBER_ID_REQUIRED_FROM: i16 = 1;
/// Not said.
const UNCHANGED: i32 = -1;

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
    version: i16,
) -> ConsumerGroupHeartbeatResponse {
    if let Err(error) = check(&broker.groups.config().consumer.assignors, &request, version) {
        return refused(error);
    }
    let group = request.group_id.clone();
    match broker.groups.consumer_heartbeat(&group, heartbeat(request, ctx)).await {
        Ok(answer) => response(answer),
        Err(error) => refused(ApiError::new(group_error_code(error), error.to_string())),
    }
}

fn check(assignors: &[Assignor], request: &ConsumerGroupHeartbeatRequest, version: i16) -> Result<(), ApiError> {
    let invalid = |why: &str| Err(ApiError::new(ErrorCode::InvalidRequest, why));
    let is_empty = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().is_empty());
    let needs_id =
        version >= MEMBER_ID_REQUIRED_FROM || request.member_epoch > 0 || request.member_epoch == LEAVE_EPOCH;
    if needs_id && request.member_id.trim().is_empty() {
        return invalid("MemberId can't be empty.");
    }
    if request.group_id.trim().is_empty() {
        return invalid("GroupId can't be empty.");
    }
    if is_empty(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_empty(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    match request.member_epoch {
        JOIN_EPOCH => {
            if request.rebalance_timeout_ms == UNCHANGED {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.topic_partitions.as_ref().is_none_or(|partitions| !partitions.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        }
        LEAVE_STATIC_EPOCH if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        epoch if epoch < LEAVE_STATIC_EPOCH => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    if let Some(name) = &request.server_assignor
        && !assignors.iter().any(|assignor| assignor.name() == name)
    {
        let names: Vec<&str> = assignors.iter().map(|assignor| assignor.name()).collect();
        let why = format!("ServerAssignor {name} is not supported. Supported assignors: {}.", names.join(", "));
        return Err(ApiError::new(ErrorCode::UnsupportedAssignor, why));
    }
    let keys = [&request.group_id, &request.member_id];
    if !keys.into_iter().chain(&request.subscribed_topic_regex).all(|text| fits_in_a_record(text)) {
        return invalid("GroupId, MemberId or SubscribedTopicRegex is too long.");
    }
    Ok(())
}

fn heartbeat(request: ConsumerGroupHeartbeatRequest, ctx: &RequestContext) -> Heartbeat {
    let owned = request.topic_partitions.map(|topics| {
        let mut owned = consumer::Assignment::new();
        for topic in topics {
            owned.entry(topic.topic_id).or_default().extend(topic.partitions);
        }
        owned
    });
    Heartbeat {
        member_id: if request.member_id.is_empty() { Uuid::new_v4().to_string() } else { request.member_id },
        member_epoch: request.member_epoch,
        instance_id: request.instance_id,
        rack_id: request.rack_id,
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|timeout| *timeout != UNCHANGED),
        topic_names: request.subscribed_topic_names.map(|names| names.into_iter().collect::<BTreeSet<String>>()),
        topic_regex: request.subscribed_topic_regex,
        server_assignor: request.server_assignor,
        owned,
        client_id: ctx.client_id().to_owned(),
        client_host: format!("/{}", ctx.peer.ip()),
    }
}

fn response(answer: HeartbeatAnswer) -> ConsumerGroupHeartbeatResponse {
    let assignment = answer.assignment.map(|assignment| Assignment {
        topic_partitions: (assignment.into_iter())
            .map(|(topic_id, partitions)| TopicPartitions {
                topic_id,
                partitions: partitions.into_iter().collect(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    ConsumerGroupHeartbeatResponse {
        member_id: Some(answer.member_id),
        member_epoch: answer.member_epoch,
        heartbeat_interval_ms: answer.heartbeat_interval_ms,
        assignment,
        ..Default::default()
    }
}

fn refused(error: ApiError) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse { error_code: error.code.code(), error_message: error.message, ..Default::default() }
}
