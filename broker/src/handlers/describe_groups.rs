//! DescribeGroups: classic groups with their members, and what these were assigned, byte for byte.

use std::sync::Arc;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use seawall_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use crate::authorized_operations::{GROUP_OPERATIONS, NOT_ASKED};
use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::{group_shard, repetition};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group_id in repetition::once(&request.groups, |group_id| group_id) {
        let mut described = match broker.groups.describe(group_id).await {
            Err(error) => DescribedGroup { error_code: group_error_code(error).code(), ..DescribedGroup::default() },
            Ok(None) => not_found(group_id, version),
            Ok(Some(group)) => described(group),
        };
        described.group_id.clone_from(group_id);
        let asked = request.include_authorized_operations && described.error_code == ErrorCode::None.code();
        described.authorized_operations = if asked { GROUP_OPERATIONS } else { NOT_ASKED };
        groups.push(described);
    }
    DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }
}

fn not_found(group_id: &str, version: i16) -> DescribedGroup {
    let mut group = DescribedGroup { group_state: "Dead".to_owned(), ..DescribedGroup::default() };
    if version >= 6 {
        group.error_code = ErrorCode::GroupIdNotFound.code();
        group.error_message = Some(format!("Group {group_id} not found."));
    }
    group
}

fn described(group: group_shard::DescribedGroup) -> DescribedGroup {
    let member = |member: group_shard::DescribedMember| DescribedGroupMember {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
        member_metadata: member.metadata,
        member_assignment: member.assignment,
        ..DescribedGroupMember::default()
    };
    DescribedGroup {
        group_state: group.state.name().to_owned(),
        protocol_type: group.protocol_type,
        protocol_data: group.protocol,
        members: group.members.into_iter().map(member).collect(),
        ..DescribedGroup::default()
    }
}
