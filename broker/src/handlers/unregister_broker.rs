//! The UnregisterBroker API. A broker that is up is not forgotten: its partitions and its WAL depend on it.

use std::sync::Arc;

use seawall_metadata::NodeId;
use seawall_protocol::{
    ErrorCode,
    messages::{UnregisterBrokerRequest, UnregisterBrokerResponse},
};

use crate::{broker::Broker, dispatch::RequestContext, error_code::ApiError};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: UnregisterBrokerRequest,
    _version: i16,
) -> UnregisterBrokerResponse {
    let id = request.broker_id;
    let error = if broker.metadata.read(|state| state.broker(NodeId(id)).is_some()) {
        let message = format!("Broker {id} owns its write-ahead log and partitions and cannot be unregistered.");
        ApiError::new(ErrorCode::InvalidRequest, message)
    } else {
        ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("Broker ID {id} is not currently registered"))
    };
    UnregisterBrokerResponse { error_code: error.code.code(), error_message: error.message, ..Default::default() }
}
