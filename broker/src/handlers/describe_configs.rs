//! The DescribeConfigs API: every config of a resource with its value, where it comes from, and its synonyms.

use std::{collections::BTreeMap, sync::Arc};

use seawall_metadata::{State, command::ConfigResource};
use seawall_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse,
    describe_configs_request::DescribeConfigsResource,
    describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
};

use crate::{
    broker::Broker,
    broker_settings::{BROKER_CONFIGS, Update},
    config_def::ConfigDef,
    config_resource,
    config_values::{Layers, Source, Sourced},
    dispatch::RequestContext,
    error_code::ApiError,
    topic_config::TOPIC_CONFIGS,
};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResponse {
    let shape = Shape {
        synonyms: request.include_synonyms,
        types: version >= 3,
        documentation: version >= 3 && request.include_documentation,
    };
    let results = broker.metadata.read(|state| {
        (request.resources.into_iter()).map(|resource| describe(broker, state, resource, shape)).collect()
    });
    DescribeConfigsResponse { results, ..Default::default() }
}

/// What the client wants to see of each config.
#[derive(Debug, Clone, Copy)]
struct Shape {
    synonyms: bool,
    types: bool,
    documentation: bool,
}

fn describe(broker: &Broker, state: &State, asked: DescribeConfigsResource, shape: Shape) -> DescribeConfigsResult {
    let found = config_resource::find(broker, state, asked.resource_type, &asked.resource_name)
        .map(|resource| configs_of(broker, state, &resource, shape));
    let (configs, error) = match found {
        Ok(configs) => (configs, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let wanted = |config: &DescribeConfigsResourceResult| {
        asked.configuration_keys.as_ref().is_none_or(|keys| keys.contains(&config.name))
    };
    let error: Option<ApiError> = error;
    DescribeConfigsResult {
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message),
        configs: configs.into_iter().filter(wanted).collect(),
        resource_type: asked.resource_type,
        resource_name: asked.resource_name,
        ..Default::default()
    }
}

fn configs_of(
    broker: &Broker,
    state: &State,
    resource: &ConfigResource,
    shape: Shape,
) -> Vec<DescribeConfigsResourceResult> {
    let layers = Layers::new(state, broker.registration.node, &broker.config.kafka);
    match resource {
        ConfigResource::Topic { .. } => {
            let overrides = config_resource::current(state, resource);
            let describe = |config: &crate::topic_config::TopicConfigDef| {
                let value = layers.topic_value(&overrides, config);
                entry(&config.def, Some(value), layers.topic_config(&overrides, config), false, shape)
            };
            TOPIC_CONFIGS.iter().map(describe).collect()
        }
        ConfigResource::Broker { .. } => (BROKER_CONFIGS.iter())
            .map(|config| {
                let sources = layers.broker_config(config);
                let value = sources.first().and_then(|strongest| strongest.value.clone());
                entry(&config.def, value, sources, config.update == Update::ReadOnly, shape)
            })
            .collect(),
        // Of the default of all brokers only what is set is shown.
        ConfigResource::Group { .. } | ConfigResource::ClientMetrics { .. } => Vec::new(),
        ConfigResource::BrokerDefault => defaults_set(&config_resource::current(state, resource), shape),
    }
}

fn defaults_set(set: &BTreeMap<String, String>, shape: Shape) -> Vec<DescribeConfigsResourceResult> {
    (BROKER_CONFIGS.iter())
        .filter_map(|config| {
            let value = set.get(config.def.name)?.clone();
            let source = Source::DynamicDefaultBroker;
            let sources = vec![Sourced { name: config.def.name, value: Some(value.clone()), source }];
            Some(entry(&config.def, Some(value), sources, config.update == Update::ReadOnly, shape))
        })
        .collect()
}

fn entry(
    def: &ConfigDef,
    value: Option<String>,
    sources: Vec<Sourced>,
    read_only: bool,
    shape: Shape,
) -> DescribeConfigsResourceResult {
    let source = sources.first().map_or(Source::Default, |strongest| strongest.source);
    let synonyms = sources.into_iter().filter(|_| shape.synonyms).map(|sourced| DescribeConfigsSynonym {
        name: sourced.name.to_owned(),
        value: sourced.value,
        source: sourced.source as i8,
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: def.name.to_owned(),
        value,
        read_only,
        config_source: source as i8,
        is_sensitive: false,
        synonyms: synonyms.collect(),
        config_type: if shape.types { def.kind as i8 } else { 0 },
        documentation: shape.documentation.then(|| def.doc.to_owned()),
        ..Default::default()
    }
}
