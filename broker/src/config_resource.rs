//! What a config API may name, the checks of a change to it, and how the change is made.
//!
//! Promise: a change is made to the values that it was derived from; where somebody else was faster it is derived again.

use std::collections::{BTreeMap, BTreeSet};

use seawall_metadata::{
    Command, NodeId, ProposeError, Rejection, State,
    command::{ConfigOp, ConfigResource},
};
use seawall_protocol::ErrorCode;

use crate::{
    broker::Broker,
    client_metrics_configs,
    config_def::{ConfigDef, ConfigType},
    config_values::Layers,
    dynamic_broker_configs,
    error_code::ApiError,
    group_configs, topic_config, topics,
};

/// The numbers of the wire.
pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
pub const BROKER_LOGGER: i8 = 8;
pub const CLIENT_METRICS: i8 = 16;
pub const GROUP: i8 = 32;

/// The longest value, as in Kafka.
const VALUE_BYTES_MAX: usize = i16::MAX as usize;
/// How often a change is derived again.
const ATTEMPTS: usize = 100;
/// After so many resources of one request other tasks get their turn.
const RESOURCES_PER_TURN: usize = 100;

/// What a resource holds, by name.
pub type Values = BTreeMap<String, String>;

/// Called before each resource of a request, with how many came before it.
pub async fn let_others_work(done: usize) {
    if done % RESOURCES_PER_TURN == RESOURCES_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// The resource that a change names.
pub fn find(broker: &Broker, state: &State, kind: i8, name: &str) -> Result<ConfigResource, ApiError> {
    match kind {
        TOPIC if name.is_empty() => invalid("Default topic resources are not allowed."),
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
        BROKER => {
            let node = broker.registration.node;
            match name.parse::<i32>() {
                Ok(id) if id == node.0 => Ok(ConfigResource::Broker { node: NodeId(id) }),
                Ok(_) => invalid(format!("Unexpected broker id, expected {node}, but received {name}")),
                Err(_) => invalid(format!("Node id must be an integer, but it is: {name}")),
            }
        }
        CLIENT_METRICS if name.is_empty() => invalid("Subscription name can't be empty"),
        CLIENT_METRICS => Ok(ConfigResource::ClientMetrics { name: name.to_owned() }),
        GROUP if name.is_empty() => invalid("Default group resources are not allowed."),
        GROUP => Ok(ConfigResource::Group { name: name.to_owned() }),
        other => invalid(format!("Unknown resource type {other}")),
    }
}

/// What is set on a resource itself.
pub fn current(state: &State, resource: &ConfigResource) -> Values {
    state.configs(resource).cloned().unwrap_or_default()
}

/// Changes what a resource holds to what `edit` makes of it.
pub async fn change(
    broker: &Broker,
    (kind, name): (i8, &str),
    validate_only: bool,
    edit: impl Fn(&ConfigResource, &Values, Layers<'_>) -> Result<Values, ApiError>,
) -> Result<(), ApiError> {
    for _ in 0..ATTEMPTS {
        let (resource, before, after) = broker.metadata.read(|state| {
            let resource = find(broker, state, kind, name)?;
            let before = current(state, &resource);
            let layers = Layers::new(state, broker.registration.node, &broker.config.kafka);
            let after = edit(&resource, &before, layers)?;
            check(&resource, &after, layers)?;
            if kind == CLIENT_METRICS && before.is_empty() && !after.is_empty() {
                client_metrics_configs::check_room(state)?;
            }
            Ok::<_, ApiError>((resource, before, after))
        })?;
        // Not while metadata is held: patterns are compiled.
        if kind == CLIENT_METRICS {
            client_metrics_configs::check(&after)?;
        }
        let ops = ops(&before, after, checked_together(&resource));
        if validate_only || ops.is_empty() {
            return Ok(());
        }
        match broker.metadata.propose(Command::AlterConfigs { resource, ops, replace_all: false }).await {
            Ok(_) => {
                broker.topic_configs.refresh();
                return Ok(());
            }
            Err(ProposeError::Rejected(Rejection::ConfigChanged { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::new(ErrorCode::RequestTimedOut, "Others change these configs all the time."))
}

/// The fewest changes from one to the other, on the condition that the one is still there; where one of `together` changes
/// the others count too, even if they are set neither before nor after.
fn ops(before: &Values, after: Values, together: &[&str]) -> Vec<ConfigOp> {
    let changed: BTreeSet<&String> =
        before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).collect();
    let change = |key: &&String| match after.get(*key) {
        Some(value) => ConfigOp::Set { key: (*key).clone(), value: value.clone() },
        None => ConfigOp::Delete { key: (*key).clone() },
    };
    let mut expected: BTreeSet<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
    if changed.iter().any(|key| together.contains(&key.as_str())) {
        expected.extend(together);
    }
    let expect = |key: &str| ConfigOp::Expect { key: key.to_owned(), value: before.get(key).cloned() };
    let conditions = expected.into_iter().filter(|_| !changed.is_empty()).map(expect);
    changed.iter().map(change).chain(conditions).collect()
}

/// The keys whose values are held against each other.
fn checked_together(resource: &ConfigResource) -> &'static [&'static str] {
    match resource {
        ConfigResource::Topic { .. } => &topic_config::CHECKED_TOGETHER,
        ConfigResource::Group { .. } => &group_configs::CHECKED_TOGETHER,
        ConfigResource::Broker { .. } | ConfigResource::BrokerDefault | ConfigResource::ClientMetrics { .. } => &[],
    }
}

/// Checks what a resource would hold; what takes long to check is left to [`change`].
fn check(resource: &ConfigResource, values: &Values, layers: Layers<'_>) -> Result<(), ApiError> {
    let invalid_config = |why: String| ApiError::new(ErrorCode::InvalidConfig, why);
    if values.values().any(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(invalid_config(format!(
            "The configuration value cannot be added because it exceeds the maximum value size of {VALUE_BYTES_MAX} bytes."
        )));
    }
    match resource {
        ConfigResource::Topic { .. } => topics::check_configs(values, layers),
        ConfigResource::Broker { .. } => dynamic_broker_configs::check(values, true),
        ConfigResource::BrokerDefault => dynamic_broker_configs::check(values, false),
        ConfigResource::Group { .. } => group_configs::validate(values, layers).map_err(invalid_config),
        ConfigResource::ClientMetrics { .. } => Ok(()),
    }
}

/// The list that APPEND and SUBTRACT begin with when nothing is set, or why they cannot be used.
pub fn list_default(resource: &ConfigResource, name: &str, verb: &str, layers: Layers<'_>) -> Result<String, ApiError> {
    let invalid_config = |message: String| Err(ApiError::new(ErrorCode::InvalidConfig, message));
    let not_a_list = || invalid_config(format!("Can't {verb} to key {name} because its type is not LIST."));
    let is_list = |config: &&ConfigDef| config.kind == ConfigType::List;
    match resource {
        ConfigResource::Broker { .. } | ConfigResource::BrokerDefault => match dynamic_broker_configs::definition(name)
        {
            None => invalid_config(format!("Unknown config name: {name}")),
            Some(config) if config.kind == ConfigType::List => Ok(config.default.unwrap_or_default().to_owned()),
            Some(_) => {
                invalid_config(format!("Config value {} is not allowed for config key: {name}", verb.to_lowercase()))
            }
        },
        ConfigResource::Topic { .. } => match topic_config::find(name).filter(is_list) {
            Some(config) => Ok(layers.inherited_value(config)),
            None => not_a_list(),
        },
        ConfigResource::ClientMetrics { .. } => match client_metrics_configs::find(name).filter(is_list) {
            Some(config) => Ok(config.default.unwrap_or_default().to_owned()),
            None => not_a_list(),
        },
        ConfigResource::Group { .. } => not_a_list(),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::new(ErrorCode::InvalidRequest, message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_expects_everything_that_it_was_derived_from() {
        let values = |pairs: &[(&str, &str)]| -> Values {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let expect =
            |key: &str, value: Option<&str>| ConfigOp::Expect { key: key.into(), value: value.map(Into::into) };
        assert_eq!(
            ops(&values(&[("a", "1"), ("b", "2")]), values(&[("b", "2"), ("c", "3")]), &["x", "y"]),
            [
                ConfigOp::Delete { key: "a".into() },
                ConfigOp::Set { key: "c".into(), value: "3".into() },
                expect("a", Some("1")),
                expect("b", Some("2")),
                expect("c", None)
            ]
        );
        assert_eq!(ops(&values(&[("a", "1")]), values(&[("a", "1")]), &["a", "b"]), []);
        assert_eq!(
            ops(&values(&[]), values(&[("a", "1")]), &["a", "b"]),
            [ConfigOp::Set { key: "a".into(), value: "1".into() }, expect("a", None), expect("b", None)],
            "b is held against a: it must still be unset"
        );
    }
}
