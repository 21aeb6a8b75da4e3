//! ConsumerGroupDescribe: groups under the consumer protocol, with what each member has and is to have.

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_metadata::{State, TopicId};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use seawall_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};

use crate::authorized_operations::{GROUP_OPERATIONS, NOT_ASKED};
use crate::broker::Broker;
use crate::consumer_group;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::group_records::consumer;
use crate::group_shard::DescribedConsumerGroup;
use crate::repetition;

/// Kinds of members, from version 1 on.
const CLASSIC_MEMBER: i8 = 0;
const CONSUMER_MEMBER: i8 = 1;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ConsumerGroupDescribeRequest,
    _version: i16,
) -> ConsumerGroupDescribeResponse {
    let mut groups = Vec::with_capacity(request.group_ids.len());
    for group_id in repetition::once(&request.group_ids, |group_id| group_id) {
        let mut group = describe(broker, group_id).await;
        group.group_id.clone_from(group_id);
        let asked = request.include_authorized_operations && group.error_code == ErrorCode::None.code();
        group.authorized_operations = if asked { GROUP_OPERATIONS } else { NOT_ASKED };
        groups.push(group);
    }
    ConsumerGroupDescribeResponse { groups, ..Default::default() }
}

async fn describe(broker: &Arc<Broker>, group_id: &str) -> DescribedGroup {
    let failed = |code: ErrorCode, message: Option<String>| DescribedGroup {
        error_code: code.code(),
        error_message: message,
        ..Default::default()
    };
    if group_id.is_empty() {
        return failed(ErrorCode::InvalidGroupId, None);
    }
    match broker.groups.describe_consumer(group_id).await {
        Ok(Some(group)) => broker.metadata.read(|state| described(state, group)),
        Ok(None) => {
            // Clients show these words.
            let of_another_kind = matches!(broker.groups.describe(group_id).await, Ok(Some(_)));
            let why = if of_another_kind { "is not a consumer group." } else { "not found." };
            failed(ErrorCode::GroupIdNotFound, Some(format!("Group {group_id} {why}")))
        }
        Err(error) => failed(group_error_code(error), None),
    }
}

fn described(state: &State, group: DescribedConsumerGroup) -> DescribedGroup {
    DescribedGroup {
        group_state: group.state.to_owned(),
        group_epoch: group.epoch,
        assignment_epoch: group.target_epoch,
        assignor_name: group.assignor.name().to_owned(),
        members: group.members.into_iter().map(|(one, target)| member(state, one, target)).collect(),
        ..Default::default()
    }
}

fn member(state: &State, member: consumer_group::Member, target: consumer::Assignment) -> Member {
    let member_type = if member.is_classic() { CLASSIC_MEMBER } else { CONSUMER_MEMBER };
    // A member answers for a partition until it has given it up.
    let mut has = consumer::Assignment::new();
    for (topic, partitions) in member.current.assigned.iter().chain(&member.current.revoking) {
        has.entry(*topic).or_default().extend(partitions.keys());
    }
    Member {
        member_id: member.member_id,
        instance_id: member.metadata.instance_id,
        rack_id: member.metadata.rack_id,
        member_epoch: member.current.epoch,
        client_id: member.metadata.client_id,
        client_host: member.metadata.client_host,
        subscribed_topic_names: member.metadata.topic_names.into_iter().collect(),
        subscribed_topic_regex: member.metadata.topic_regex,
        assignment: assignment(state, has),
        target_assignment: assignment(state, target),
        member_type,
        ..Default::default()
    }
}

/// Topics that have been deleted since have no name, and are left out.
fn assignment(state: &State, partitions: consumer::Assignment) -> Assignment {
    let topic = |(topic_id, partitions): (uuid::Uuid, BTreeSet<i32>)| {
        Some(TopicPartitions {
            topic_id,
            topic_name: state.topic(TopicId(topic_id))?.name.clone(),
            partitions: partitions.into_iter().collect(),
            ..Default::default()
        })
    };
    Assignment { topic_partitions: partitions.into_iter().filter_map(topic).collect(), ..Default::default() }
}
