//! The GetTelemetrySubscriptions API; see `client_telemetry.rs`.

use std::sync::Arc;

use seawall_protocol::messages::{GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse};
use uuid::Uuid;

use crate::{
    broker::Broker, client_telemetry::TelemetryClient, dispatch::RequestContext, handlers::push_telemetry::BYTES_MAX,
};

/// zstd, lz4, gzip, snappy: Kafka's order of preference.
const COMPRESSIONS: [i8; 4] = [4, 3, 1, 2];

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: GetTelemetrySubscriptionsRequest,
    _version: i16,
) -> GetTelemetrySubscriptionsResponse {
    let asked = request.client_instance_id;
    let instance = if asked.is_nil() { Uuid::new_v4() } else { asked };
    let client = TelemetryClient { instance, client_id: ctx.client_id(), address: ctx.peer };
    let subscription = broker.telemetry.of(client);
    GetTelemetrySubscriptionsResponse {
        client_instance_id: instance,
        subscription_id: subscription.id,
        accepted_compression_types: COMPRESSIONS.to_vec(),
        push_interval_ms: subscription.interval_ms,
        telemetry_max_bytes: BYTES_MAX,
        delta_temporality: true,
        requested_metrics: subscription.metrics,
        ..Default::default()
    }
}
