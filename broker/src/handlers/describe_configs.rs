//! The DescribeConfigs API: every config of a resource with its value, where it comes from, and its synonyms.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use seawall_metadata::{State, command::ConfigResource};
use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
    },
};

use crate::{
    broker::Broker,
    broker_settings,
    config_def::{self, ConfigDef, Effect, Update},
    config_resource::{self, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC, Values},
    config_values::{Layers, Source, Sourced},
    dispatch::RequestContext,
    dynamic_broker_configs,
    error_code::ApiError,
    kafka_configs::{BROKER_CONFIGS, CLIENT_METRICS_CONFIGS, GROUP_CONFIGS, TOPIC_CONFIGS},
    logging::loggers,
    repetition, topics,
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
    let mut results = Vec::new();
    for (n, resource) in repetition::once(&request.resources, identity).into_iter().enumerate() {
        config_resource::let_others_work(n).await;
        // One at a time: nobody who waits for metadata waits for all of them.
        results.push(broker.metadata.read(|state| describe(broker, state, resource, shape)));
    }
    DescribeConfigsResponse { results, ..Default::default() }
}

/// What a resource is told apart by. A broker's id may be spelled in many ways.
fn identity(resource: &DescribeConfigsResource) -> (i8, Cow<'_, str>) {
    let (kind, name) = (resource.resource_type, resource.resource_name.as_str());
    let id = name.parse::<i32>().ok().filter(|_| matches!(kind, BROKER | BROKER_LOGGER));
    (kind, id.map_or(Cow::Borrowed(name), |id| Cow::Owned(id.to_string())))
}

/// What the client wants to see of each config.
#[derive(Debug, Clone, Copy)]
struct Shape {
    synonyms: bool,
    types: bool,
    documentation: bool,
}

fn describe(broker: &Broker, state: &State, asked: &DescribeConfigsResource, shape: Shape) -> DescribeConfigsResult {
    let (configs, error) = match configs_of(broker, state, asked.resource_type, &asked.resource_name, shape) {
        Ok(configs) => (configs, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let keys: HashSet<&String> = asked.configuration_keys.iter().flatten().collect();
    let wanted = |config: &DescribeConfigsResourceResult| keys.is_empty() || keys.contains(&config.name);
    DescribeConfigsResult {
        error_code: error.as_ref().map_or(0, |error| error.code.code()),
        error_message: error.and_then(|error| error.message),
        configs: configs.into_iter().filter(wanted).collect(),
        resource_type: asked.resource_type,
        resource_name: asked.resource_name.clone(),
        ..Default::default()
    }
}

fn configs_of(
    broker: &Broker,
    state: &State,
    kind: i8,
    name: &str,
    shape: Shape,
) -> Result<Vec<DescribeConfigsResourceResult>, ApiError> {
    let node = broker.registration.node;
    let layers = Layers::new(state, node, &broker.config.kafka);
    let set = |resource: ConfigResource| config_resource::current(state, &resource);
    match kind {
        TOPIC => {
            topics::check_name(name)?;
            if state.topic_by_name(name).is_none() {
                return Err(ErrorCode::UnknownTopicOrPartition.into());
            }
            let overrides = set(ConfigResource::Topic { name: name.to_owned() });
            Ok(inheriting(TOPIC_CONFIGS, &overrides, Source::Topic, layers, shape))
        }
        GROUP if name.is_empty() => invalid("Group name must not be empty"),
        GROUP => {
            let overrides = set(ConfigResource::Group { name: name.to_owned() });
            Ok(inheriting(GROUP_CONFIGS, &overrides, Source::Group, layers, shape))
        }
        CLIENT_METRICS if name.is_empty() => invalid("Client metrics subscription name must not be empty"),
        CLIENT_METRICS => {
            let overrides = set(ConfigResource::ClientMetrics { name: name.to_owned() });
            Ok(inheriting(CLIENT_METRICS_CONFIGS, &overrides, Source::ClientMetrics, layers, shape))
        }
        BROKER if name.is_empty() => Ok(of_all_brokers(&set(ConfigResource::BrokerDefault), shape)),
        BROKER => match name.parse::<i32>() {
            Ok(id) if id == node.0 => {
                let dynamic = [set(ConfigResource::BrokerDefault), set(ConfigResource::Broker { node })];
                Ok(of_broker(&dynamic, layers, shape))
            }
            Ok(id) => invalid(format!("Unexpected broker id, expected {node} or empty string, but received {id}")),
            Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        },
        BROKER_LOGGER if name.is_empty() => invalid("Broker id must not be empty"),
        BROKER_LOGGER => match name.parse::<i32>() {
            Ok(id) if id == node.0 => Ok(levels()),
            Ok(id) => invalid(format!("Unexpected broker id, expected {node} but received {id}")),
            Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        },
        other => invalid(format!("Unexpected resource type {other} for resource {name}")),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::new(ErrorCode::InvalidRequest, message.into()))
}

/// Configs that are set on the resource itself, or else come from the broker.
fn inheriting(
    table: &'static [ConfigDef],
    overrides: &Values,
    source: Source,
    layers: Layers<'_>,
    shape: Shape,
) -> Vec<DescribeConfigsResourceResult> {
    let own_default = |config: &ConfigDef| -> Option<Sourced> {
        let value = config.default.filter(|_| source == Source::Group && config.synonyms.is_empty())?;
        Some(Sourced { name: config.name, value: value.to_owned(), source: Source::Default })
    };
    let describe = |config: &'static ConfigDef| {
        let own = overrides.get(config.name);
        let sourced = own.map(|value| Sourced { name: config.name, value: value.clone(), source });
        let sources = sourced.into_iter().chain(layers.inherited_sources(config)).chain(own_default(config));
        let value = own.cloned().unwrap_or_else(|| layers.inherited_value(config));
        entry(config, Some(value), sources.collect(), false, shape)
    };
    table.iter().map(describe).collect()
}

/// A broker's configs: all that Kafka knows, and what was set besides.
fn of_broker(dynamic: &[Values; 2], layers: Layers<'_>, shape: Shape) -> Vec<DescribeConfigsResourceResult> {
    let known = BROKER_CONFIGS.iter().map(|config| {
        let read_only = config.update == Update::ReadOnly;
        entry(config, layers.broker_value(config), layers.broker_sources(config), read_only, shape)
    });
    let names: BTreeSet<&String> = dynamic.iter().flat_map(Values::keys).collect();
    let others = names.into_iter().filter(|name| config_def::find(BROKER_CONFIGS, name).is_none());
    let others = others.map(|name| match broker_settings::find(name) {
        Some(config) => entry(config, layers.broker_value(config), layers.broker_sources(config), false, shape),
        None => {
            let [all, one] = dynamic;
            let layers = [(one, Source::DynamicBroker), (all, Source::DynamicDefaultBroker)];
            let set = layers.into_iter().filter_map(|(values, source)| Some((values.get(name)?.clone(), source)));
            unknown(name, set.collect(), shape)
        }
    });
    known.chain(others).collect()
}

/// Of the default of all brokers only what is set is shown.
fn of_all_brokers(set: &Values, shape: Shape) -> Vec<DescribeConfigsResourceResult> {
    let source = Source::DynamicDefaultBroker;
    (set.iter())
        .map(|(name, value)| match broker_settings::find(name) {
            Some(config) => {
                let sources = vec![Sourced { name: config.name, value: value.clone(), source }];
                entry(config, Some(value.clone()), sources, config.update == Update::ReadOnly, shape)
            }
            None => unknown(name, vec![(value.clone(), source)], shape),
        })
        .collect()
}

/// A broker config that Kafka does not know, strongest value first. As in Kafka it counts as sensitive: nobody knows what it
/// holds.
fn unknown(name: &str, set: Vec<(String, Source)>, shape: Shape) -> DescribeConfigsResourceResult {
    let definition = dynamic_broker_configs::definition(name);
    let sensitive = definition.is_none_or(ConfigDef::is_sensitive);
    let shown = |value: &String| Some(value.clone()).filter(|_| !sensitive);
    let synonym = |(value, source): &(String, Source)| DescribeConfigsSynonym {
        name: name.to_owned(),
        value: shown(value),
        source: *source as i8,
        ..Default::default()
    };
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: set.first().and_then(|(value, _)| shown(value)),
        read_only: true,
        config_source: set.first().map_or(Source::Default, |(_, source)| *source) as i8,
        is_sensitive: sensitive,
        synonyms: set.iter().filter(|_| shape.synonyms).map(synonym).collect(),
        config_type: definition.filter(|_| shape.types).map_or(0, |config| config.kind as i8),
        ..Default::default()
    }
}

fn levels() -> Vec<DescribeConfigsResourceResult> {
    (loggers().all().into_iter())
        .map(|(name, level)| DescribeConfigsResourceResult {
            name,
            value: Some(level.to_owned()),
            config_source: Source::DynamicBrokerLogger as i8,
            ..Default::default()
        })
        .collect()
}

fn entry(
    config: &ConfigDef,
    value: Option<String>,
    sources: Vec<Sourced>,
    read_only: bool,
    shape: Shape,
) -> DescribeConfigsResourceResult {
    let source = sources.first().map_or(Source::Default, |strongest| strongest.source);
    let sensitive = config.is_sensitive();
    let synonyms = sources.into_iter().filter(|_| shape.synonyms).map(|sourced| DescribeConfigsSynonym {
        name: sourced.name.to_owned(),
        value: Some(sourced.value).filter(|_| !sensitive),
        source: sourced.source as i8,
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: config.name.to_owned(),
        value: value.filter(|_| !sensitive),
        read_only,
        config_source: source as i8,
        is_sensitive: sensitive,
        synonyms: synonyms.collect(),
        config_type: if shape.types { config.kind as i8 } else { 0 },
        documentation: shape.documentation.then(|| documentation(config)),
        ..Default::default()
    }
}

fn documentation(config: &ConfigDef) -> String {
    match config.effect {
        Effect::Effective | Effect::Fixed => config.doc.to_owned(),
        Effect::Stored => format!("{} Accepted and stored, without an effect here.", config.doc),
    }
}
