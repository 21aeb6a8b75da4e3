//! SyncGroup: parked until the leader's assignment is stored; answers with the very bytes that the leader sent.

use std::sync::Arc;

use seawall_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::group::{GroupError, RequestId, SyncRequest, Synced, own};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: SyncGroupRequest,
    version: i16,
) -> SyncGroupResponse {
    match sync(broker, request, version).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type,
            protocol_name: synced.protocol_name,
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        Err(error) => SyncGroupResponse { error_code: group_error_code(error).code(), ..SyncGroupResponse::default() },
    }
}

async fn sync(broker: &Arc<Broker>, request: SyncGroupRequest, version: i16) -> Result<Synced, GroupError> {
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Err(GroupError::InconsistentGroupProtocol);
    }
    if request.group_id.is_empty() {
        return Err(GroupError::InvalidGroupId);
    }
    let assignments = request.assignments.into_iter().map(|one| (one.member_id, own(&one.assignment))).collect();
    let sync = SyncRequest {
        request: RequestId(0),
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        generation: request.generation_id,
        protocol_type: request.protocol_type,
        protocol_name: request.protocol_name,
        assignments,
    };
    broker.groups.sync(&request.group_id, sync).await
}
