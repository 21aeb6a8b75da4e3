//! JoinGroup: parked until the group's next generation.

use std::sync::Arc;

use seawall_protocol::messages::join_group_response::JoinGroupResponseMember;
use seawall_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use uuid::Uuid;

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::group::{GroupConfig, GroupError, JoinAnswer, JoinRequest, Protocol, RequestId, own};
use crate::group_records::{RECORD_TEXT_BYTES_MAX, fits_in_a_record};

/// Clients know a handful; matching the lists of all members takes time that grows with their lengths.
const PROTOCOLS_MAX: usize = 128;

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let answer = match check(broker.groups.config(), &request, ctx.client_id()) {
        Ok(()) => {
            let group = request.group_id.clone();
            let join = join_request(request, version, ctx.client_id(), format!("/{}", ctx.peer.ip()));
            broker.groups.join(&group, join).await
        }
        Err(error) => JoinAnswer { member_id: request.member_id, result: Err(error) },
    };
    response(answer, version)
}

fn check(config: &GroupConfig, request: &JoinGroupRequest, client_id: &str) -> Result<(), GroupError> {
    if request.group_id.is_empty() || !fits_in_a_record(&request.group_id) {
        return Err(GroupError::InvalidGroupId);
    }
    if !(config.session_timeout_min_ms..=config.session_timeout_max_ms).contains(&request.session_timeout_ms) {
        return Err(GroupError::InvalidSessionTimeout);
    }
    if request.protocols.len() > PROTOCOLS_MAX {
        return Err(GroupError::InvalidRequest);
    }
    let mut texts = vec![request.member_id.as_str(), &request.protocol_type];
    texts.extend(request.protocols.iter().map(|protocol| protocol.name.as_str()));
    // A member id is made of one of these and a UUID.
    let stem_bytes = request.group_instance_id.as_deref().unwrap_or_default().len().max(client_id.len());
    if stem_bytes + 1 + 36 > RECORD_TEXT_BYTES_MAX || !texts.into_iter().all(fits_in_a_record) {
        return Err(GroupError::InvalidRequest);
    }
    Ok(())
}

fn join_request(request: JoinGroupRequest, version: i16, client_id: &str, client_host: String) -> JoinRequest {
    let stem = request.group_instance_id.as_deref().unwrap_or(client_id);
    let protocol = |protocol: seawall_protocol::messages::join_group_request::JoinGroupRequestProtocol| Protocol {
        name: protocol.name,
        metadata: own(&protocol.metadata),
    };
    JoinRequest {
        request: RequestId(0),
        new_member_id: format!("{stem}-{}", Uuid::new_v4()),
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        client_id: client_id.to_owned(),
        client_host,
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 has one timeout for both.
        rebalance_timeout_ms: if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms },
        protocol_type: request.protocol_type,
        protocols: request.protocols.into_iter().map(protocol).collect(),
        requires_known_member_id: version >= 4,
        supports_skipping_assignment: version >= 9,
    }
}

fn response(answer: JoinAnswer, version: i16) -> JoinGroupResponse {
    // Null came with version 7.
    let name = |name: Option<String>| if version < 7 { Some(name.unwrap_or_default()) } else { name };
    match answer.result {
        Err(error) => JoinGroupResponse {
            error_code: group_error_code(error).code(),
            generation_id: -1,
            protocol_name: name(None),
            member_id: answer.member_id,
            ..JoinGroupResponse::default()
        },
        Ok(joined) => JoinGroupResponse {
            generation_id: joined.generation,
            protocol_type: joined.protocol_type,
            protocol_name: name(joined.protocol_name),
            leader: joined.leader,
            skip_assignment: joined.skip_assignment,
            member_id: answer.member_id,
            members: (joined.members.into_iter())
                .map(|member| JoinGroupResponseMember {
                    member_id: member.member_id,
                    group_instance_id: member.group_instance_id,
                    metadata: member.metadata,
                    ..JoinGroupResponseMember::default()
                })
                .collect(),
            ..JoinGroupResponse::default()
        },
    }
}
