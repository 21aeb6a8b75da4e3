//! The IncrementalAlterConfigs API: set, delete, append to a list, subtract from a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use seawall_metadata::command::ConfigResource;
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
    config_def::list_entries,
    config_resource::{self, definition, is_list},
    dispatch::RequestContext,
    error_code::ApiError,
};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::new();
    for (n, resource) in request.resources.iter().enumerate() {
        let same = |other: &AlterConfigsResource| {
            (other.resource_type, &other.resource_name) == (resource.resource_type, &resource.resource_name)
        };
        let repeated = request.resources.iter().enumerate().any(|(m, other)| m != n && same(other));
        let altered = if repeated {
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

async fn alter(broker: &Broker, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), ApiError> {
    check_shape(&asked.configs)?;
    let (resource, before) = broker.metadata.read(|state| {
        let resource = config_resource::find(broker, state, asked.resource_type, &asked.resource_name)?;
        let before = config_resource::current(state, &resource);
        Ok::<_, ApiError>((resource, before))
    })?;
    let after = changed(&resource, &before, &asked.configs)?;
    config_resource::check(&resource, &after)?;
    if validate_only {
        return Ok(());
    }
    config_resource::apply(broker, resource, &before, after).await
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
        return invalid(format!("Null value not supported for : {}", nulls.join(",")));
    }
    match configs.iter().find(|config| !(SET..=SUBTRACT).contains(&config.config_operation)) {
        Some(config) => invalid(format!("Unknown operation type {}", config.config_operation)),
        None => Ok(()),
    }
}

/// What the resource holds after the operations. Pure.
fn changed(
    resource: &ConfigResource,
    before: &BTreeMap<String, String>,
    configs: &[AlterableConfig],
) -> Result<BTreeMap<String, String>, ApiError> {
    let mut after = before.clone();
    for config in configs {
        let value = config.value.clone().unwrap_or_default();
        match config.config_operation {
            SET => _ = after.insert(config.name.clone(), value),
            DELETE => _ = after.remove(&config.name),
            operation => {
                let verb = if operation == APPEND { "APPEND" } else { "SUBTRACT" };
                if !is_list(resource, &config.name) {
                    let message = format!("Can't {verb} to key {} because its type is not LIST.", config.name);
                    return Err(ApiError::new(ErrorCode::InvalidConfig, message));
                }
                let default = definition(resource, &config.name).and_then(|def| def.default).unwrap_or_default();
                let old = after.get(&config.name).map_or(default, String::as_str);
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

    fn topic() -> ConfigResource {
        ConfigResource::Topic { name: "t".into() }
    }

    #[test]
    fn trap_09_append_and_subtract_work_on_lists_and_begin_with_the_default() {
        let none = BTreeMap::new();
        let appended = changed(&topic(), &none, &[op("cleanup.policy", APPEND, Some("compact"))]).unwrap();
        assert_eq!(appended["cleanup.policy"], "delete,compact");
        let again = changed(&topic(), &appended, &[op("cleanup.policy", APPEND, Some("compact"))]).unwrap();
        assert_eq!(again["cleanup.policy"], "delete,compact");
        let subtracted = changed(&topic(), &appended, &[op("cleanup.policy", SUBTRACT, Some("delete"))]).unwrap();
        assert_eq!(subtracted["cleanup.policy"], "compact");
        let refused = changed(&topic(), &none, &[op("retention.ms", APPEND, Some("1"))]).unwrap_err();
        assert_eq!(refused.message.unwrap(), "Can't APPEND to key retention.ms because its type is not LIST.");
    }

    #[test]
    fn trap_09_other_configs_stay_as_they_are() {
        let before =
            BTreeMap::from([("retention.ms".to_owned(), "1".to_owned()), ("segment.ms".to_owned(), "2".to_owned())]);
        let ops = [op("retention.ms", DELETE, None), op("max.message.bytes", SET, Some("3"))];
        let after = changed(&topic(), &before, &ops).unwrap();
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
