//! Values of broker configs under their Kafka names: the `[kafka]` table of the configuration file, and what it comes to
//! with dynamic values over it.
//!
//! Keys may be written quoted (`"num.partitions" = 3`) or, where TOML allows it, dotted (`num.partitions = 3`); it
//! does not where one key is the start of another, as with
//! `max.connections`. Values are checked when the file is read. Code asks by name; asking for a name that is not in the table
//! is a bug.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    config_def::{self, ConfigDef, Effect, nearest_name},
    kafka_configs::{BROKER_CONFIGS, BROKER_QUOTA_CONFIGS},
};

/// A broker config, also one that can only be set dynamically.
pub fn find(name: &str) -> Option<&'static ConfigDef> {
    config_def::find(BROKER_CONFIGS, name).or_else(|| config_def::find(BROKER_QUOTA_CONFIGS, name))
}

/// What the names of configs of the listener begin with, as in Kafka; `broker::CLIENT_LISTENER` is its name.
const LISTENER_PREFIX: &str = "listener.name.plaintext.";
/// Broker configs that have an effect under that prefix too.
const OF_LISTENER: [&str; 1] = ["max.connection.creation.rate"];

/// The config of the listener that a name with the prefix stands for, if that has an effect.
fn of_listener(name: &str) -> Option<&'static ConfigDef> {
    let base = name.strip_prefix(LISTENER_PREFIX)?;
    find(base).filter(|config| OF_LISTENER.contains(&config.name))
}

/// The broker configs of the configuration file; what it does not name has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KafkaSettings {
    set: BTreeMap<&'static str, String>,
    /// Those of the listener, by their names without the prefix.
    of_listener: BTreeMap<&'static str, String>,
}

impl KafkaSettings {
    /// Checks and keeps one value; the error is a sentence for a person.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(config) = of_listener(name) {
            config.validate(value)?;
            self.of_listener.insert(config.name, value.trim().to_owned());
            return Ok(());
        }
        let Some(config) = config_def::find(BROKER_CONFIGS, name) else {
            let hint = nearest_name(name, BROKER_CONFIGS.iter().map(|config| config.name))
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            return Err(format!("unknown key `{name}` in [kafka]{hint}"));
        };
        if config.effect == Effect::Fixed {
            return Err(format!("`{name}` in [kafka] has no effect; it is {}", config.doc));
        }
        config.validate(value)?;
        self.set.insert(config.name, value.trim().to_owned());
        Ok(())
    }

    /// Shows a config that is decided elsewhere.
    pub fn fix(&mut self, name: &str, value: String) {
        self.set.insert(known(name).name, value);
    }

    /// Names of the file that are accepted and do nothing.
    pub fn without_effect(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.set.keys().copied().filter(|name| known(name).effect == Effect::Stored)
    }

    /// These settings under a layer of dynamic ones. What is not known, or was written by a newer version and is not
    /// valid here, is left out.
    pub fn under(mut self, layer: &BTreeMap<String, String>) -> Self {
        let valid = |(config, value): (&'static ConfigDef, &String)| {
            config.validate(value).is_ok().then(|| (config.name, value.trim().to_owned()))
        };
        self.set.extend(layer.iter().filter_map(|(name, value)| valid((find(name)?, value))));
        self.of_listener.extend(layer.iter().filter_map(|(name, value)| valid((of_listener(name)?, value))));
        self
    }

    /// What the file says, if it says anything.
    pub fn explicit(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str)
    }

    /// The value or its default; `None` where Kafka's default is null.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.explicit(name).or(known(name).default)
    }

    pub fn long(&self, name: &str) -> i64 {
        let value = self.text(name).unwrap_or_default();
        value.parse().unwrap_or_else(|_| panic!("{name} = {value:?} was validated as a number"))
    }

    /// The value for the listener alone, where one is set.
    pub fn long_of_listener(&self, name: &str) -> Option<i64> {
        self.of_listener.get(name)?.parse().ok()
    }

    pub fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).unwrap_or(i32::MAX)
    }

    /// For lengths and counts, which their table entries keep at zero or above.
    pub fn size(&self, name: &str) -> usize {
        usize::try_from(self.long(name)).unwrap_or(0)
    }

    pub fn boolean(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub fn millis(&self, name: &str) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.long(name)).unwrap_or(0))
    }

    /// A time that is without limit where it is below zero.
    pub fn millis_limit(&self, name: &str) -> Option<std::time::Duration> {
        u64::try_from(self.long(name)).ok().map(std::time::Duration::from_millis)
    }
}

/// A value in the topic config's unit: `log.retention.hours = 2` is `retention.ms = 7200000`; -1 stays -1.
pub fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(n) if factor != 1 && n >= 0 => n.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    }
}

fn known(name: &str) -> &'static ConfigDef {
    find(name).unwrap_or_else(|| panic!("{name} is in BROKER_CONFIGS"))
}

impl Serialize for KafkaSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let of_listener = self.of_listener.iter().map(|(name, value)| (format!("{LISTENER_PREFIX}{name}"), value));
        serializer.collect_map(self.set.iter().map(|(name, value)| ((*name).to_owned(), value)).chain(of_listener))
    }
}

impl<'de> Deserialize<'de> for KafkaSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut settings = Self::default();
        let mut pairs = Vec::new();
        flatten("", &toml::Table::deserialize(deserializer)?, &mut pairs).map_err(D::Error::custom)?;
        for (name, value) in pairs {
            settings.set(&name, &value).map_err(D::Error::custom)?;
        }
        Ok(settings)
    }
}

fn flatten(prefix: &str, table: &toml::Table, pairs: &mut Vec<(String, String)>) -> Result<(), String> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let value = match value {
            toml::Value::Table(inner) => {
                flatten(&name, inner, pairs)?;
                continue;
            }
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(x) => x.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            toml::Value::Array(entries) => {
                let texts: Option<Vec<&str>> = entries.iter().map(toml::Value::as_str).collect();
                texts.ok_or_else(|| format!("`{name}` in [kafka] is a list of texts"))?.join(",")
            }
            toml::Value::Datetime(_) => return Err(format!("`{name}` in [kafka] cannot be a date")),
        };
        pairs.push((name, value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_be_quoted_or_dotted() {
        let quoted: KafkaSettings =
            toml::from_str("\"num.partitions\" = 3\n\"log.cleanup.policy\" = [\"compact\"]").unwrap();
        let dotted: KafkaSettings = toml::from_str("num.partitions = 3\nlog.cleanup.policy = \"compact\"").unwrap();
        assert_eq!(quoted, dotted);
        assert_eq!(dotted.int("num.partitions"), 3);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let error = toml::from_str::<KafkaSettings>("num.partition = 3").unwrap_err().to_string();
        assert!(error.contains("unknown key `num.partition` in [kafka]; did you mean `num.partitions`?"), "{error}");
    }

    #[test]
    fn a_config_that_is_decided_elsewhere_is_refused_with_its_place() {
        let error = toml::from_str::<KafkaSettings>("\"node.id\" = 3").unwrap_err().to_string();
        assert!(error.contains("`node.id` in [kafka] has no effect; it is `id` in `[node]`"), "{error}");
    }

    #[test]
    fn the_listener_may_have_a_value_of_its_own() {
        let rate = "max.connection.creation.rate";
        let file: KafkaSettings = toml::from_str("listener.name.plaintext.max.connection.creation.rate = 5").unwrap();
        assert_eq!((file.long(rate), file.long_of_listener(rate)), (i64::from(i32::MAX), Some(5)));
        assert_eq!(toml::from_str::<KafkaSettings>(&toml::to_string(&file).unwrap()).unwrap(), file);
        let layer = BTreeMap::from([(format!("{LISTENER_PREFIX}{rate}"), "7".to_owned())]);
        assert_eq!(file.under(&layer).long_of_listener(rate), Some(7));
        let prefix = format!("listener.name.{}.", crate::broker::CLIENT_LISTENER.to_lowercase());
        assert_eq!(prefix, LISTENER_PREFIX);
    }

    #[test]
    fn dynamic_values_cover_those_of_the_file() {
        let mut file = KafkaSettings::default();
        file.set("max.connections", "5").unwrap();
        let layer = |value: &str| BTreeMap::from([("max.connections".to_owned(), value.to_owned())]);
        assert_eq!(file.clone().under(&layer("7")).int("max.connections"), 7);
        assert_eq!(file.under(&layer("many")).int("max.connections"), 5, "what is not valid counts for nothing");
    }
}
