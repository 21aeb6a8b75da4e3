//! The ListConfigResources API: which resources have configs.

use std::sync::Arc;

use seawall_protocol::{
    ErrorCode,
    messages::{
        ListConfigResourcesRequest, ListConfigResourcesResponse, list_config_resources_response::ConfigResource,
    },
};

use crate::{
    broker::Broker,
    config_resource::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC},
    dispatch::RequestContext,
};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    // Version 0 lists client metrics only, of which there are none.
    if version == 0 {
        return ListConfigResourcesResponse::default();
    }
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let asked = if request.resource_types.is_empty() { known.to_vec() } else { request.resource_types };
    if asked.iter().any(|kind| !known.contains(kind)) {
        return ListConfigResourcesResponse { error_code: ErrorCode::UnsupportedVersion.code(), ..Default::default() };
    }
    let resource =
        |kind: i8, name: String| ConfigResource { resource_name: name, resource_type: kind, ..Default::default() };
    let config_resources = broker.metadata.read(|state| {
        let mut found = Vec::new();
        if asked.contains(&TOPIC) {
            found.extend(state.topics_by_name("").map(|topic| resource(TOPIC, topic.name.clone())));
        }
        for kind in [BROKER, BROKER_LOGGER].into_iter().filter(|kind| asked.contains(kind)) {
            found.extend(state.brokers().map(|broker| resource(kind, broker.node.to_string())));
        }
        found
    });
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}
