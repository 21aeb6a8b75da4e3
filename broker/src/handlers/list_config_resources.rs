//! The ListConfigResources API: which resources have configs.

use std::sync::Arc;

use seawall_metadata::command::ConfigResource as Resource;
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
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    let asked = match version {
        // It lists client metrics only.
        0 => vec![CLIENT_METRICS],
        _ if request.resource_types.is_empty() => known.to_vec(),
        _ => request.resource_types,
    };
    if asked.iter().any(|kind| !known.contains(kind)) {
        return ListConfigResourcesResponse { error_code: ErrorCode::UnsupportedVersion.code(), ..Default::default() };
    }
    let entry =
        |kind: i8, name: String| ConfigResource { resource_name: name, resource_type: kind, ..Default::default() };
    let config_resources = broker.metadata.read(|state| {
        let mut found = Vec::new();
        if asked.contains(&TOPIC) {
            found.extend(state.topics_by_name("").map(|topic| entry(TOPIC, topic.name.clone())));
        }
        for kind in [BROKER, BROKER_LOGGER].into_iter().filter(|kind| asked.contains(kind)) {
            found.extend(state.brokers().map(|broker| entry(kind, broker.node.to_string())));
        }
        let with_configs = state.config_resources().filter_map(|resource| match resource {
            Resource::ClientMetrics { name } => Some((CLIENT_METRICS, name)),
            Resource::Group { name } => Some((GROUP, name)),
            Resource::BrokerDefault | Resource::Broker { .. } | Resource::Topic { .. } => None,
        });
        let with_configs = with_configs.filter(|(kind, _)| asked.contains(kind));
        found.extend(with_configs.map(|(kind, name)| entry(kind, name.clone())));
        found
    });
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}
