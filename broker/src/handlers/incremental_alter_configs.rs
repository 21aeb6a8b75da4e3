//! The IncrementalAlterConfigs API: set, delete, append to a list, subtract from a list.

use std::{collections::BTreeSet, sync::Arc};

use seawall_protocol::{
    ErrorCode,
    messages::{
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        incremental_alter_configs_response::AlterConfigsResourceResponse,
    },
};

use crate::{
    broker::Broker,
    broker_loggers,
    config_def::list_entries,
    config_resource::{self, BROKER_LOGGER, Values, list_default},
    dispatch::RequestContext,
    error_code::ApiError,
    logging::loggers,
    repetition,
};

pub const SET: i8 = 0;
pub const DELETE: i8 = 1;
pub const APPEND: i8 = 2;
pub const SUBTRACT: i8 = 3;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    let repeated = repetition::repeated(request.resources.iter().map(identity));
    let mut responses = Vec::new();
    for (n, resource) in request.resources.iter().enumerate() {
        config_resource::let_others_work(n).await;
        let altered = if repeated.contains(&identity(resource)) {
            Err(ApiError::new(ErrorCode::InvalidRequest, "Each resource must appear at most once."))
        } else {
            alter(broker, resource, request.validate_only).await
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
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

/// What a resource is told apart by.
fn identity(resource: &AlterConfigsResource) -> (i8, &str) {
    (resource.resource_type, &resource.resource_name)
}

async fn alter(broker: &Broker, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), ApiError> {
    check_shape(&asked.configs)?;
    if asked.resource_type == BROKER_LOGGER {
        check_node(broker, &asked.resource_name)?;
        return broker_loggers::change(loggers(), &asked.configs, validate_only);
    }
    let resource = (asked.resource_type, asked.resource_name.as_str());
    config_resource::change(broker, resource, validate_only, |resource, before, layers| {
        changed(before, &asked.configs, |name, verb| list_default(resource, name, verb, layers))
    })
    .await
}

fn check_node(broker: &Broker, name: &str) -> Result<(), ApiError> {
    let node = broker.registration.node;
    let message = match name.parse::<i32>() {
        Ok(id) if id == node.0 => return Ok(()),
        Ok(id) => format!("Unexpected node id. Expected {node}, but received {id}"),
        Err(_) => format!("Node id must be an integer, but it is: {name}"),
    };
    Err(ApiError::new(ErrorCode::InvalidRequest, message))
}

fn check_shape(configs: &[AlterableConfig]) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    let names: BTreeSet<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    if names.len() < configs.len() {
        return invalid("Error due to duplicate config keys".into());
    }
    let null = |config: &&AlterableConfig| config.value.is_none() && config.config_operation != DELETE;
    let nulls: Vec<&str> = configs.iter().filter(null).map(|config| config.name.as_str()).collect();
    if !nulls.is_empty() {
        return invalid(format!("Null value not supported for : {}", nulls.join(", ")));
    }
    match configs.iter().find(|config| !(SET..=SUBTRACT).contains(&config.config_operation)) {
        Some(config) => invalid(format!("Unknown operation type {}", config.config_operation)),
        None => Ok(()),
    }
}

/// What the resource holds after the operations. Pure. `list_default` answers what a list begins with, or why the config
/// of that name is none.
fn changed(
    before: &Values,
    configs: &[AlterableConfig],
    list_default: impl Fn(&str, &str) -> Result<String, ApiError>,
) -> Result<Values, ApiError> {
    let mut after = before.clone();
    for config in configs {
        let value = config.value.clone().unwrap_or_default();
        match config.config_operation {
            SET => _ = after.insert(config.name.clone(), value),
            DELETE => _ = after.remove(&config.name),
            operation => {
                let verb = if operation == APPEND { "APPEND" } else { "SUBTRACT" };
                let default = list_default(&config.name, verb)?;
                let old = after.get(&config.name).unwrap_or(&default);
                let edited = edit_list(old, &value, operation == APPEND);
                after.insert(config.name.clone(), edited);
            }
        }
    }
    Ok(after)
}

fn edit_list(old: &str, operand: &str, append: bool) -> String {
    let operands = list_entries(operand);
    let mut entries = list_entries(old);
    if append {
        for entry in operands {
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
    } else {
        entries.retain(|entry| !operands.contains(entry));
    }
    entries.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(name: &str, operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig {
            name: name.into(),
            config_operation: operation,
            value: value.map(Into::into),
            ..Default::default()
        }
    }

    fn changed(before: &Values, configs: &[AlterableConfig]) -> Result<Values, ApiError> {
        super::changed(before, configs, |name, _| match name {
            "cleanup.policy" => Ok("delete".into()),
            _ => Err(ErrorCode::InvalidConfig.into()),
        })
    }

    #[test]
    fn trap_09_append_and_subtract_work_on_lists_and_begin_with_the_default() {
        let none = Values::new();
        let appended = changed(&none, &[op("cleanup.policy", APPEND, Some("compact"))]).unwrap();
        assert_eq!(appended["cleanup.policy"], "delete,compact");
        let again = changed(&appended, &[op("cleanup.policy", APPEND, Some("compact"))]).unwrap();
        assert_eq!(again["cleanup.policy"], "delete,compact");
        let subtracted = changed(&appended, &[op("cleanup.policy", SUBTRACT, Some("delete"))]).unwrap();
        assert_eq!(subtracted["cleanup.policy"], "compact");
        assert!(changed(&none, &[op("retention.ms", APPEND, Some("1"))]).is_err());
    }

    #[test]
    fn trap_09_other_configs_stay_as_they_are() {
        let before =
            Values::from([("retention.ms".to_owned(), "1".to_owned()), ("segment.ms".to_owned(), "2".to_owned())]);
        let ops = [op("retention.ms", DELETE, None), op("max.message.bytes", SET, Some("3"))];
        let after = changed(&before, &ops).unwrap();
        assert_eq!(
            after.into_iter().collect::<Vec<_>>(),
            [("max.message.bytes".to_owned(), "3".to_owned()), ("segment.ms".to_owned(), "2".to_owned())]
        );
    }

    #[test]
    fn shapes_that_kafka_refuses_are_refused() {
        assert!(check_shape(&[op("a", SET, Some("1")), op("a", DELETE, None)]).is_err());
        assert!(check_shape(&[op("a", SET, None)]).is_err());
        assert!(check_shape(&[op("a", 4, Some("1"))]).is_err());
        assert!(check_shape(&[op("a", DELETE, None)]).is_ok());
    }
}
