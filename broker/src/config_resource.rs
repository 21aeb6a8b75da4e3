//! What a config API may name: a topic, a broker, or all brokers; and the checks of a change to it.

use std::collections::BTreeMap;

use seawall_metadata::{
    Command, NodeId, State,
    command::{ConfigOp, ConfigResource},
};
use seawall_protocol::ErrorCode;

use crate::{
    broker::Broker,
    broker_settings::{self, Update},
    config_def::{ConfigDef, ConfigType},
    error_code::ApiError,
    topic_config, topics,
};

/// The numbers of the wire.
pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const BROKER_LOGGER: i8 = 8;
pub const CLIENT_METRICS: i8 = 16;
pub const GROUP: i8 = 32;

/// The resource of that type and name, if it exists here.
pub fn find(broker: &Broker, state: &State, kind: i8, name: &str) -> Result<ConfigResource, ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    match kind {
        TOPIC => {
            topics::check_name(name)?;
            match state.topic_by_name(name) {
                Some(_) => Ok(ConfigResource::Topic { name: name.to_owned() }),
                None => Err(ApiError::new(
                    ErrorCode::UnknownTopicOrPartition,
                    format!("The topic '{name}' does not exist."),
                )),
            }
        }
        BROKER if name.is_empty() => Ok(ConfigResource::BrokerDefault),
        BROKER => match name.parse::<i32>() {
            Ok(id) if id == broker.registration.node.0 => Ok(ConfigResource::Broker { node: NodeId(id) }),
            Ok(id) => invalid(format!(
                "Unexpected broker id, expected {} or empty string, but received {id}",
                broker.registration.node
            )),
            Err(_) => invalid(format!("Broker id must be an integer, but it is: {name}")),
        },
        BROKER_LOGGER | CLIENT_METRICS | GROUP => {
            invalid(format!("Configs of resource type {kind} are not supported."))
        }
        other => invalid(format!("Unexpected resource type {other}")),
    }
}

/// What is set on a resource itself.
pub fn current(state: &State, resource: &ConfigResource) -> BTreeMap<String, String> {
    state.configs(resource).cloned().unwrap_or_default()
}

pub fn definition(resource: &ConfigResource, name: &str) -> Option<&'static ConfigDef> {
    match resource {
        ConfigResource::Topic { .. } => topic_config::find(name).map(|config| &config.def),
        ConfigResource::Broker { .. } | ConfigResource::BrokerDefault => {
            broker_settings::find(name).map(|config| &config.def)
        }
        ConfigResource::Group { .. } | ConfigResource::ClientMetrics { .. } => None,
    }
}

pub fn is_list(resource: &ConfigResource, name: &str) -> bool {
    definition(resource, name).is_some_and(|def| def.kind == ConfigType::List)
}

/// Checks what a resource would hold after a change.
pub fn check(resource: &ConfigResource, values: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let invalid = |why| ApiError::new(ErrorCode::InvalidConfig, why);
    match resource {
        ConfigResource::Topic { .. } => topics::check_configs(values),
        ConfigResource::Broker { .. } | ConfigResource::BrokerDefault => {
            for (name, value) in values {
                let config = broker_settings::find(name)
                    .ok_or_else(|| invalid(format!("Unknown broker config name: {name}")))?;
                config.def.validate(value).map_err(invalid)?;
            }
            let fixed: Vec<&str> = (values.keys())
                .filter(|name| broker_settings::find(name).is_some_and(|config| config.update == Update::ReadOnly))
                .map(String::as_str)
                .collect();
            if fixed.is_empty() {
                return Ok(());
            }
            let message = format!("Cannot update these configs dynamically: [{}]", fixed.join(", "));
            Err(ApiError::new(ErrorCode::InvalidRequest, message))
        }
        ConfigResource::Group { .. } | ConfigResource::ClientMetrics { .. } => {
            Err(ApiError::new(ErrorCode::InvalidRequest, "Configs of this resource type are not supported."))
        }
    }
}

/// Makes a resource hold `after` and nothing else, by the fewest changes.
pub async fn apply(
    broker: &Broker,
    resource: ConfigResource,
    before: &BTreeMap<String, String>,
    after: BTreeMap<String, String>,
) -> Result<(), ApiError> {
    let deleted =
        before.keys().filter(|key| !after.contains_key(*key)).map(|key| ConfigOp::Delete { key: key.clone() });
    let mut ops: Vec<ConfigOp> = deleted.collect();
    let changed = after.into_iter().filter(|(key, value)| before.get(key) != Some(value));
    ops.extend(changed.map(|(key, value)| ConfigOp::Set { key, value }));
    if ops.is_empty() {
        return Ok(());
    }
    broker.metadata.propose(Command::AlterConfigs { resource, ops, replace_all: false }).await?;
    broker.topic_configs.refresh();
    Ok(())
}
