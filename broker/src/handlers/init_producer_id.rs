//! The InitProducerId API: producer ids for idempotent producers.
//!
//! Transactional ids are refused: transactions are not supported yet.

use std::sync::Arc;

use seawall_protocol::{
    ErrorCode,
    messages::{InitProducerIdRequest, InitProducerIdResponse},
};

use crate::{broker::Broker, dispatch::RequestContext, error_code::propose_error_code};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: InitProducerIdRequest,
    _version: i16,
) -> InitProducerIdResponse {
    if request.transactional_id.as_deref() == Some("") {
        return refused(ErrorCode::InvalidRequest);
    }
    if request.transactional_id.is_some() {
        // Not retriable, so that the client says at once that there are no transactions.
        return refused(ErrorCode::UnsupportedVersion);
    }
    match broker.producer_ids.next().await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(error) => {
            tracing::warn!(%error, "no producer ids");
            // The client repeats this one, whatever was behind it.
            let code = propose_error_code(&error);
            refused(if code.is_retriable() { code } else { ErrorCode::CoordinatorNotAvailable })
        }
    }
}

fn refused(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code: error.code(), producer_id: -1, producer_epoch: -1, ..Default::default() }
}
