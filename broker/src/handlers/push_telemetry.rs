//! The PushTelemetry API: metrics are checked and dropped; see `client_telemetry.rs`.

use std::sync::Arc;

use seawall_protocol::{
    ErrorCode,
    messages::{PushTelemetryRequest, PushTelemetryResponse},
};
use uuid::Uuid;

use crate::{broker::Broker, client_telemetry::TelemetryClient, dispatch::RequestContext};

/// The longest metrics of one push.
pub const BYTES_MAX: i32 = 1 << 20;

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: PushTelemetryRequest,
    _version: i16,
) -> PushTelemetryResponse {
    PushTelemetryResponse { error_code: check(broker, ctx, &request).code(), ..Default::default() }
}

fn check(broker: &Broker, ctx: &RequestContext, request: &PushTelemetryRequest) -> ErrorCode {
    let instance = request.client_instance_id;
    if instance.is_nil() || instance == Uuid::from_u128(1) {
        return ErrorCode::InvalidRequest;
    }
    let client = TelemetryClient { instance, client_id: ctx.client_id(), address: ctx.peer };
    if request.subscription_id != broker.telemetry.of(client).id {
        ErrorCode::UnknownSubscriptionId
    } else if !(0..=4).contains(&request.compression_type) {
        ErrorCode::UnsupportedCompressionType
    } else if request.metrics.len() > BYTES_MAX as usize {
        ErrorCode::TelemetryTooLarge
    } else {
        ErrorCode::None
    }
}
