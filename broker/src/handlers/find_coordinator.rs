//! FindCoordinator: which broker leads the partition of `__consumer_offsets` that a group belongs to.
//!
//! The topic is created when the first client asks; until it is there, COORDINATOR_NOT_AVAILABLE, which clients retry.

use std::sync::Arc;

use seawall_metadata::PartitionId;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::find_coordinator_response::Coordinator;
use seawall_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use tracing::warn;

use crate::broker::{Broker, endpoint_of};
use crate::dispatch::RequestContext;
use crate::error_code::ApiError;
use crate::group_coordinator::partition_for;
use crate::topics::{self, GROUP_METADATA_TOPIC};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    if version >= 4 {
        let mut response = FindCoordinatorResponse::default();
        for key in request.coordinator_keys {
            response.coordinators.push(find(broker, request.key_type, key).await);
        }
        return response;
    }
    let found = find(broker, request.key_type, request.key).await;
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..FindCoordinatorResponse::default()
    }
}

async fn find(broker: &Arc<Broker>, key_type: i8, key: String) -> Coordinator {
    match coordinator_of(broker, key_type, &key).await {
        Ok((node_id, host, port)) => Coordinator { key, node_id, host, port, ..Coordinator::default() },
        Err(error) => Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code: error.code.code(),
            error_message: error.message,
            ..Coordinator::default()
        },
    }
}

async fn coordinator_of(broker: &Arc<Broker>, key_type: i8, key: &str) -> Result<(i32, String, i32), ApiError> {
    match key_type {
        GROUP => {}
        TRANSACTION => {
            return Err(ApiError::new(ErrorCode::UnsupportedVersion, "This broker does not support transactions yet."));
        }
        _ => return Err(ErrorCode::InvalidRequest.into()),
    }
    if broker.groups.partitions().is_none() {
        // It takes a moment until the new partitions are led; clients come back for the answer.
        if let Err(error) = topics::create_automatically(broker, GROUP_METADATA_TOPIC).await {
            warn!(?error, topic = GROUP_METADATA_TOPIC, "the topic for group offsets cannot be created");
            return Err(ErrorCode::CoordinatorNotAvailable.into());
        }
    }
    let not_available = || ApiError::from(ErrorCode::CoordinatorNotAvailable);
    broker.metadata.read(|state| {
        let topic = state.topic_by_name(GROUP_METADATA_TOPIC).ok_or_else(not_available)?;
        let index = partition_for(key, topic.partitions);
        let partition = state.partition(PartitionId { topic: topic.id, index }).ok_or_else(not_available)?;
        let owner = state.broker(partition.owner).filter(|owner| !owner.fenced).ok_or_else(not_available)?;
        let endpoint = endpoint_of(owner).ok_or_else(not_available)?;
        Ok((partition.owner.0, endpoint.host, i32::from(endpoint.port)))
    })
}
