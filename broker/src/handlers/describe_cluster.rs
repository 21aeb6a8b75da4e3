//! The DescribeCluster API.

use std::sync::Arc;

use seawall_protocol::{
    ErrorCode,
    messages::{DescribeClusterRequest, DescribeClusterResponse, describe_cluster_response::DescribeClusterBroker},
};

use crate::{
    authorized_operations::{CLUSTER_OPERATIONS, NOT_ASKED},
    broker::{Broker, endpoint_of},
    dispatch::RequestContext,
};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    if version >= 1 && request.endpoint_type != BROKERS {
        return mismatched(request.endpoint_type);
    }
    let brokers = broker.metadata.read(|state| {
        let shown = state.brokers().filter(|broker| !broker.fenced || request.include_fenced_brokers);
        shown
            .filter_map(|broker| {
                let endpoint = endpoint_of(broker)?;
                Some(DescribeClusterBroker {
                    broker_id: broker.node.0,
                    host: endpoint.host,
                    port: i32::from(endpoint.port),
                    rack: broker.rack.clone(),
                    is_fenced: broker.fenced && version >= 2,
                    ..Default::default()
                })
            })
            .collect()
    });
    DescribeClusterResponse {
        cluster_id: broker.cluster_text(),
        controller_id: broker.registration.node.0,
        brokers,
        endpoint_type: BROKERS,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NOT_ASKED
        },
        ..Default::default()
    }
}

/// This listener is for clients; controllers are not to be reached through it.
fn mismatched(asked: i8) -> DescribeClusterResponse {
    let (code, message) = if asked == CONTROLLERS {
        let message =
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
        (ErrorCode::MismatchedEndpointType, message.to_owned())
    } else {
        (ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {asked}"))
    };
    DescribeClusterResponse { error_code: code.code(), error_message: Some(message), ..Default::default() }
}
