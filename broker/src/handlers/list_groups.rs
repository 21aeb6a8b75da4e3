//! ListGroups: the groups whose coordinator is this broker, filtered by state and type.

use std::sync::Arc;

use seawall_protocol::messages::list_groups_response::ListedGroup;
use seawall_protocol::messages::{ListGroupsRequest, ListGroupsResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ListGroupsRequest,
    _version: i16,
) -> ListGroupsResponse {
    let listed = match broker.groups.list().await {
        Ok(listed) => listed,
        Err(error) => {
            return ListGroupsResponse { error_code: group_error_code(error).code(), ..ListGroupsResponse::default() };
        }
    };
    let group = |group: crate::group_shard::ListedGroup| ListedGroup {
        group_id: group.group,
        protocol_type: group.protocol_type,
        group_state: group.state.to_owned(),
        group_type: group.kind.name().to_owned(),
        ..ListedGroup::default()
    };
    let groups = (listed.into_iter().map(group))
        .filter(|group| passes(&request.states_filter, &group.group_state))
        .filter(|group| passes(&request.types_filter, &group.group_type))
        .collect();
    ListGroupsResponse { groups, ..ListGroupsResponse::default() }
}

/// An empty filter lets everything pass.
fn passes(filter: &[String], value: &str) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(value))
}
