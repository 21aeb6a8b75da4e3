//! Broker loggers as a config resource (type 8): checked and changed as in Kafka, without being stored.

use seawall_protocol::{ErrorCode, messages::incremental_alter_configs_request::AlterableConfig};
use tracing::warn;

use crate::{
    error_code::ApiError,
    handlers::incremental_alter_configs::{DELETE, SET, SUBTRACT},
    logging::{self, LEVELS, Loggers, ROOT},
};

/// Makes the changes of one request, all or none.
pub fn change(loggers: &Loggers, changes: &[AlterableConfig], validate_only: bool) -> Result<(), ApiError> {
    let invalid_request = |message: String| Err(ApiError::new(ErrorCode::InvalidRequest, message));
    let invalid_config = |message: String| Err(ApiError::new(ErrorCode::InvalidConfig, message));
    let mut levels = Vec::new();
    for change in changes {
        let name = &change.name;
        let level = match change.config_operation {
            SET | DELETE if !loggers.exists(name) => return invalid_config(format!("Logger {name} does not exist!")),
            SET => {
                let text = change.value.as_deref().unwrap_or_default();
                let Some(level) = logging::level(text) else {
                    return invalid_config(format!(
                        "Cannot set the log level of {name} to {text} as it is not a supported log level. Valid log \
                         levels are {}",
                        LEVELS.join(", ")
                    ));
                };
                Some(level)
            }
            DELETE if name == ROOT => {
                return invalid_request(format!("Removing the log level of the {ROOT} logger is not allowed"));
            }
            DELETE => None,
            operation => {
                let verb = if operation == SUBTRACT { "SUBTRACT" } else { "APPEND" };
                return invalid_request(format!("{verb} operation is not allowed for the BROKER_LOGGER resource"));
            }
        };
        levels.push((name.clone(), level));
    }
    if !validate_only {
        for (logger, level) in &levels {
            let level = level.map(|level| level.to_string());
            warn!(%logger, level, "log level changed");
        }
        loggers.change(&levels);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_changed_and_refused_as_in_kafka() {
        let loggers = Loggers::default();
        let change = |name: &str, operation: i8, value: Option<&str>| {
            let value = value.map(str::to_owned);
            let change =
                AlterableConfig { name: name.into(), config_operation: operation, value, ..Default::default() };
            super::change(&loggers, &[change], false)
        };
        assert_eq!(change("seawall.upload", SET, Some("DEBUG")), Ok(()));
        assert_eq!(loggers.all()["seawall.upload"], "DEBUG");
        assert_eq!(change("seawall.upload", DELETE, None), Ok(()));
        assert_eq!(loggers.all()["seawall.upload"], "INFO");
        for (name, operation, value, code, message) in [
            ("kafka.log", SET, Some("DEBUG"), ErrorCode::InvalidConfig, "Logger kafka.log does not exist!"),
            (
                "seawall",
                SET,
                Some("LOUD"),
                ErrorCode::InvalidConfig,
                "Cannot set the log level of seawall to LOUD as it is not a supported log level. Valid log levels are \
                 DEBUG, ERROR, FATAL, INFO, TRACE, WARN",
            ),
            (
                "root",
                DELETE,
                None,
                ErrorCode::InvalidRequest,
                "Removing the log level of the root logger is not allowed",
            ),
            (
                "seawall",
                SUBTRACT,
                Some("INFO"),
                ErrorCode::InvalidRequest,
                "SUBTRACT operation is not allowed for the BROKER_LOGGER resource",
            ),
        ] {
            assert_eq!(change(name, operation, value), Err(ApiError::new(code, message)), "{name}");
        }
    }
}
