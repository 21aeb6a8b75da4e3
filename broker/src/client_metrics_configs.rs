//! The check of a subscription to client metrics (resource type 16), and the patterns in it.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexBuilder};
use seawall_metadata::State;
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

/// The most subscriptions that there may be: each costs something whenever a client asks.
pub const SUBSCRIPTIONS_MAX: usize = 100;
/// The most that a compiled pattern takes. Matching takes time linear in the text, whatever the pattern.
const PATTERN_BYTES_MAX: usize = 32 << 10;

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
    patterns(values.get("match").map_or("", String::as_str)).map_err(invalid_config)?;
    Ok(())
}

/// Refuses one subscription more.
pub fn check_room(state: &State) -> Result<(), ApiError> {
    if state.client_metrics().nth(SUBSCRIPTIONS_MAX - 1).is_some() {
        let message = format!("There are {SUBSCRIPTIONS_MAX} client metrics subscriptions already.");
        return Err(ApiError::new(ErrorCode::PolicyViolation, message));
    }
    Ok(())
}

/// The compiled patterns of a `match`, by what they are about. Where several are about the same the last one counts, as in
/// Kafka; so do `\w` and `\d`, which mean ASCII. What only Java's expressions have (look-around) is refused.
pub fn patterns(value: &str) -> Result<BTreeMap<&'static str, Regex>, String> {
    let illegal = |entry: &str| format!("Illegal client matching pattern: {entry}");
    let mut texts = BTreeMap::new();
    for entry in list_entries(value) {
        let parts: Vec<&str> = entry.split('=').collect();
        let matcher = MATCHERS.iter().find(|matcher| parts[0].trim() == **matcher);
        match (parts[..].len(), matcher) {
            (2, Some(matcher)) if !parts[1].is_empty() => texts.insert(*matcher, (parts[1].trim(), entry)),
            _ => return Err(illegal(entry)),
        };
    }
    let compile = |(matcher, (text, entry))| Ok((matcher, compile(text).map_err(|_| illegal(entry))?));
    texts.into_iter().map(compile).collect()
}

/// A pattern that covers the whole of a text.
fn compile(text: &str) -> Result<Regex, regex::Error> {
    let build = |text: &str| RegexBuilder::new(text).unicode(false).size_limit(PATTERN_BYTES_MAX).build();
    // By itself first: a stray parenthesis must not pair with ours.
    build(text)?;
    build(&format!(r"\A(?:{text})\z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_checked_as_in_kafka() {
        let check = |name: &str, value: &str| check(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for (name, value) in
            [("metrics", "a.,b."), ("metrics", ""), ("interval.ms", "100"), ("match", r"client_id=app-\w+-\d{5}")]
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
            ("match", "client_id=(", ErrorCode::InvalidConfig, "Illegal client matching pattern: client_id=("),
            ("match", "client_id=a)|(b", ErrorCode::InvalidConfig, "Illegal client matching pattern: client_id=a)|(b"),
            ("match", "client_id=a=b", ErrorCode::InvalidConfig, "Illegal client matching pattern: client_id=a=b"),
            // Small to write, megabytes to match with.
            (
                "match",
                "client_id=(a{99}){99}",
                ErrorCode::InvalidConfig,
                "Illegal client matching pattern: client_id=(a{99}){99}",
            ),
            ("metrics", "a,a", ErrorCode::InvalidConfig, "Configuration 'metrics' values must not be duplicated."),
        ] {
            assert_eq!(check(name, value), Err(ApiError::new(code, message)), "{name}={value}");
        }
    }
}
