//! LeaveGroup: one member (versions 0 to 2) or several at once.

use std::sync::Arc;

use seawall_protocol::messages::leave_group_response::MemberResponse;
use seawall_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::{group_error_code, group_result_code};
use crate::group::{GroupError, LeavingMember};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    let leaving: Vec<LeavingMember> = if version <= 2 {
        vec![LeavingMember { member_id: request.member_id, group_instance_id: None }]
    } else {
        let member = |member: seawall_protocol::messages::leave_group_request::MemberIdentity| LeavingMember {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
        };
        request.members.into_iter().map(member).collect()
    };
    let results = if request.group_id.is_empty() {
        Err(GroupError::InvalidGroupId)
    } else {
        broker.groups.leave(&request.group_id, leaving.clone()).await
    };
    match results {
        Err(error) => {
            LeaveGroupResponse { error_code: group_error_code(error).code(), ..LeaveGroupResponse::default() }
        }
        Ok(results) if version <= 2 => {
            let result = results.into_iter().next().unwrap_or(Ok(()));
            LeaveGroupResponse { error_code: group_result_code(result), ..LeaveGroupResponse::default() }
        }
        Ok(results) => LeaveGroupResponse {
            members: (leaving.into_iter().zip(results))
                .map(|(member, result)| MemberResponse {
                    member_id: member.member_id,
                    group_instance_id: member.group_instance_id,
                    error_code: group_result_code(result),
                    ..MemberResponse::default()
                })
                .collect(),
            ..LeaveGroupResponse::default()
        },
    }
}
