//! The AlterConfigs API: what a request names replaces everything that was set.

use std::{collections::BTreeMap, sync::Arc};

use seawall_protocol::{
    ErrorCode,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, alter_configs_request::AlterConfigsResource,
        alter_configs_response::AlterConfigsResourceResponse,
    },
};

use crate::{broker::Broker, config_resource, dispatch::RequestContext, error_code::ApiError, repetition};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: AlterConfigsRequest,
    _version: i16,
) -> AlterConfigsResponse {
    let repeated = repetition::repeated(request.resources.iter().map(identity));
    let mut responses = Vec::new();
    for (n, resource) in request.resources.iter().enumerate() {
        config_resource::let_others_work(n).await;
        let altered = if repeated.contains(&identity(resource)) {
            Err(ApiError::new(ErrorCode::InvalidRequest, "Each resource must appear at most once."))
        } else {
            replace(broker, resource, request.validate_only).await
        };
        let error = altered.err();
        responses.push(AlterConfigsResourceResponse {
            error_code: error.as_ref().map_or(0, |error| error.code.code()),
            error_message: error.and_then(|error| error.message),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        });
    }
    AlterConfigsResponse { responses, ..Default::default() }
}

/// What a resource is told apart by.
fn identity(resource: &AlterConfigsResource) -> (i8, &str) {
    (resource.resource_type, &resource.resource_name)
}

async fn replace(broker: &Broker, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), ApiError> {
    let nulls: Vec<&str> =
        asked.configs.iter().filter(|config| config.value.is_none()).map(|config| config.name.as_str()).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for : {}", nulls.join(", "));
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let after: BTreeMap<String, String> =
        asked.configs.iter().map(|config| (config.name.clone(), config.value.clone().unwrap_or_default())).collect();
    if after.len() < asked.configs.len() {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "Error due to duplicate config keys"));
    }
    if asked.resource_type == config_resource::BROKER_LOGGER {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "Unknown resource type 8"));
    }
    let resource = (asked.resource_type, asked.resource_name.as_str());
    config_resource::change(broker, resource, validate_only, |_, _, _| Ok(after.clone())).await
}
