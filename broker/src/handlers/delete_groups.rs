//! DeleteGroups: empty groups, with their offsets.

use std::collections::BTreeSet;
use std::sync::Arc;

use seawall_protocol::messages::delete_groups_response::DeletableGroupResult;
use seawall_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_result_code;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DeleteGroupsRequest,
    _version: i16,
) -> DeleteGroupsResponse {
    let groups: BTreeSet<String> = request.groups_names.into_iter().collect();
    let mut results = Vec::with_capacity(groups.len());
    for group_id in groups {
        let error_code = group_result_code(broker.groups.delete_group(&group_id).await);
        results.push(DeletableGroupResult { group_id, error_code, ..DeletableGroupResult::default() });
    }
    DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() }
}
