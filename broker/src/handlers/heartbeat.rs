//! Heartbeat: a member lives, and hears whether its group is rebalancing.

use std::sync::Arc;

use seawall_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_result_code;
use crate::group::GroupError;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: HeartbeatRequest,
    _version: i16,
) -> HeartbeatResponse {
    let HeartbeatRequest { group_id, generation_id, member_id, group_instance_id, .. } = request;
    let result = if group_id.is_empty() {
        Err(GroupError::InvalidGroupId)
    } else {
        broker.groups.heartbeat(&group_id, member_id, group_instance_id, generation_id).await
    };
    HeartbeatResponse { error_code: group_result_code(result), ..HeartbeatResponse::default() }
}
