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
    if let Err(error) = check(&broker.groups.config().consumer.assignors, &request, ctx.client_id(), version) {
        return refused(error);
    }
    let group = request.group_id.clone();
    match broker.groups.consumer_heartbeat(&group, heartbeat(request, ctx)).await {
        Ok(answer) => response(answer),
        Err(error) => refused(ApiError::new(group_error_code(error), error.to_string())),
    }
}

fn check(
    assignors: &[Assignor],
    request: &ConsumerGroupHeartbeatRequest,
    client_id: &str,
    version: i16,
) -> Result<(), ApiError> {
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
    // Group, member and expression are in keys; the others in the record of the group when it becomes a classic one.
    let texts = [request.group_id.as_str(), &request.member_id, client_id];
    let optional = [&request.subscribed_topic_regex, &request.instance_id];
    if !texts.into_iter().chain(optional.into_iter().flatten().map(String::as_str)).all(fits_in_a_record) {
        return invalid("GroupId, MemberId, InstanceId, SubscribedTopicRegex or the client id is too long.");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_a_record_cannot_hold_are_refused() {
        let good = ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 1,
            subscribed_topic_names: Some(vec!["t".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        };
        let error = |request: &ConsumerGroupHeartbeatRequest, client_id: &str| {
            check(&[], request, client_id, 1).err().map(|error| error.code)
        };
        // As long as what the decoder makes of 11 000 bytes that are no UTF-8.
        let long = || "\u{fffd}".repeat(11_000);
        assert_eq!(error(&good, "client"), None);
        assert_eq!(error(&good, &long()), Some(ErrorCode::InvalidRequest));
        let spoilt = [
            ConsumerGroupHeartbeatRequest { group_id: long(), ..good.clone() },
            ConsumerGroupHeartbeatRequest { member_id: long(), ..good.clone() },
            ConsumerGroupHeartbeatRequest { instance_id: Some(long()), ..good.clone() },
            ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some(long()), ..good.clone() },
        ];
        for request in spoilt {
            assert_eq!(error(&request, "client"), Some(ErrorCode::InvalidRequest));
        }
    }
}
