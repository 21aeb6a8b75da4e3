//! The check of a change to a broker's configs, or to the default of all brokers, as Kafka makes it.
//!
//! Names that Kafka does not know are taken: they may belong to a plugin.

use std::collections::BTreeMap;

use seawall_protocol::ErrorCode;

use crate::{
    broker_settings::find,
    config_def::{ConfigDef, Update},
    error_code::ApiError,
};

/// Configs that only a listener may have dynamically, under `listener.name.NAME.`.
const PER_LISTENER: [&str; 9] = [
    "ssl.key.password",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.type",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.password",
];

/// Checks everything that a broker (or all brokers) would hold.
pub fn check(values: &BTreeMap<String, String>, per_broker: bool) -> Result<(), ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let refuse = |why: &str, is_bad: &dyn Fn(&str) -> bool| {
        let bad: Vec<&str> = values.keys().map(String::as_str).filter(|name| is_bad(name)).collect();
        if bad.is_empty() { Ok(()) } else { Err(invalid(format!("{why}: [{}]", bad.join(", ")))) }
    };
    let update = |name: &str| find(name).map(|config| config.update);
    refuse("Cannot update these configs dynamically", &|name| update(name) == Some(Update::ReadOnly))?;
    refuse("These security configs can be dynamically updated only per-listener using the listener prefix", &|name| {
        PER_LISTENER.contains(&name)
    })?;
    for (name, value) in values {
        if let Some(config) = definition(name) {
            config.validate(value).map_err(invalid)?;
        }
    }
    let one_only = |name: &str| match base_name(name) {
        Some(base) => update(base) != Some(Update::ClusterWide),
        None => update(name) == Some(Update::PerBroker),
    };
    if !per_broker {
        refuse("Cannot update these configs at default cluster level, broker id must be specified", &one_only)?;
    }
    Ok(())
}

/// The config of that name, with or without a listener's prefix.
pub fn definition(name: &str) -> Option<&'static ConfigDef> {
    find(name).or_else(|| find(base_name(name)?))
}

/// What follows `listener.name.NAME.`.
fn base_name(name: &str) -> Option<&str> {
    name.strip_prefix("listener.name.")?.split_once('.').map(|(_, base)| base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, value: &str, per_broker: bool) -> Option<String> {
        let values = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let error = check(&values, per_broker).err()?;
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{name}");
        error.message
    }

    #[test]
    fn changes_are_taken_and_refused_as_in_kafka() {
        for (name, value) in [("log.retention.ms", "-1"), ("plugin.colour", "red"), ("num.io.threads", "4")] {
            assert_eq!(refusal(name, value, false), None, "{name}");
        }
        let cases = [
            ("fetch.max.bytes", "2000", true, "Cannot update these configs dynamically: [fetch.max.bytes]"),
            ("node.id", "2", true, "Cannot update these configs dynamically: [node.id]"),
            (
                "ssl.keystore.location",
                "/k",
                true,
                "These security configs can be dynamically updated only per-listener using the listener prefix: \
                 [ssl.keystore.location]",
            ),
            (
                "message.max.bytes",
                "x",
                false,
                "Invalid value x for configuration message.max.bytes: Not a number of type INT",
            ),
            (
                "listener.name.external.ssl.keystore.location",
                "/k",
                false,
                "Cannot update these configs at default cluster level, broker id must be specified: \
                 [listener.name.external.ssl.keystore.location]",
            ),
        ];
        for (name, value, per_broker, message) in cases {
            assert_eq!(refusal(name, value, per_broker).as_deref(), Some(message), "{name}");
        }
        assert_eq!(refusal("listener.name.external.ssl.keystore.location", "/k", true), None);
        assert_eq!(refusal("listener.name.external.max.connections", "5", false), None);
    }
}
