//! The ListPartitionReassignments API: a reassignment is done when it is answered, so none is ever under way.

use std::sync::Arc;

use seawall_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use crate::{broker::Broker, dispatch::RequestContext};

pub async fn handle(
    _broker: &Arc<Broker>,
    _ctx: &RequestContext,
    _request: ListPartitionReassignmentsRequest,
    _version: i16,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse { error_message: None, ..Default::default() }
}
