//! The check of a subscription to client metrics (resource type 16).

use std::collections::BTreeMap;

use seawall_protocol::ErrorCode;

use crate::{
    config_def::{self, ConfigDef, list_entries},
    error_code::ApiError,
    kafka_configs::CLIENT_METRICS_CONFIGS,
};

/// What a `match` entry may name of a client.
pub const MATCHERS: [&str; 6] = [
    "client_instance_id",
    "client_id",
    "client_software_name",
    "client_software_version",
    "client_source_address",
    "client_source_port",
];

pub fn find(name: &str) -> Option<&'static ConfigDef> {
    config_def::find(CLIENT_METRICS_CONFIGS, name)
}

/// Checks what a subscription would hold.
pub fn check(values: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let invalid_request = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let invalid_config = |message: String| ApiError::new(ErrorCode::InvalidConfig, message);
    for name in values.keys() {
        find(name).ok_or_else(|| invalid_request(format!("Unknown client metrics configuration: {name}")))?;
    }
    for (name, value) in values {
        find(name).map_or(Ok(()), |config| config.validate(value)).map_err(invalid_config)?;
    }
    let interval = values.get("interval.ms").and_then(|value| value.trim().parse::<i32>().ok());
    if let Some(interval) = interval.filter(|interval| !(100..=3_600_000).contains(interval)) {
        return Err(invalid_request(format!(
            "Invalid value {interval} for interval.ms, interval must be between 100 and 3600000 (1 hour)"
        )));
    }
    for entry in list_entries(values.get("match").map_or("", String::as_str)) {
        let parts: Vec<&str> = entry.split('=').collect();
        if !matches!(parts[..], [matcher, pattern] if MATCHERS.contains(&matcher.trim()) && !pattern.is_empty()) {
            return Err(invalid_config(format!("Illegal client matching pattern: {entry}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_checked_as_in_kafka() {
        let check = |name: &str, value: &str| check(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for (name, value) in [("metrics", "a.,b."), ("metrics", ""), ("interval.ms", "100"), ("match", "client_id=a.*")]
        {
            assert_eq!(check(name, value), Ok(()), "{name}={value}");
        }
        for (name, value, code, message) in [
            ("colour", "red", ErrorCode::InvalidRequest, "Unknown client metrics configuration: colour"),
            (
                "interval.ms",
                "99",
                ErrorCode::InvalidRequest,
                "Invalid value 99 for interval.ms, interval must be between 100 and 3600000 (1 hour)",
            ),
            ("match", "colour=red", ErrorCode::InvalidConfig, "Illegal client matching pattern: colour=red"),
            ("metrics", "a,a", ErrorCode::InvalidConfig, "Configuration 'metrics' values must not be duplicated."),
        ] {
            assert_eq!(check(name, value), Err(ApiError::new(code, message)), "{name}={value}");
        }
    }
}
