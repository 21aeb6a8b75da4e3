//! What a Kafka config is: its name, type, default, valid values and documentation, and the check of a value.
//!
//! The words of a refusal are those of Kafka, since tools and their users know them. The tables are in
//! `kafka_configs.rs`, written by `cargo xtask configs`.

use std::net::IpAddr;

/// Type of a config's value. The numbers are those of DescribeConfigs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// Which values of the type are allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Valid {
    Any,
    AtLeast(f64),
    Between(f64, f64),
    /// Between the two, or the third.
    BetweenOr(f64, f64, f64),
    OneOf(&'static [&'static str]),
    OneOfAnyCase(&'static [&'static str]),
    /// A list without repetition, of these entries only unless there are none; it may be empty.
    EachOf(&'static [&'static str]),
    /// The same, and not empty.
    NotEmptyEachOf(&'static [&'static str]),
    NotEmpty,
    /// `latest`, `earliest` or `by_duration:` and a duration.
    OffsetReset,
    /// `*`, or a list of `partition:broker`.
    ThrottledReplicas,
    /// `address:count`, separated by commas; names of hosts in place of addresses are taken.
    HostCounts,
}

/// When and how a config of a broker may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// At the next start.
    ReadOnly,
    /// At once, for one broker.
    PerBroker,
    /// At once, for one broker or for all.
    ClusterWide,
}

/// What a config does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Effective,
    /// Accepted, checked, stored and described; nothing else.
    Stored,
    /// Decided elsewhere; shown, not set.
    Fixed,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigDef {
    pub name: &'static str,
    pub kind: ConfigType,
    /// `None` is Kafka's null: there is no value unless one is set.
    pub default: Option<&'static str>,
    pub valid: Valid,
    pub update: Update,
    pub effect: Effect,
    /// Broker configs that give this one its value, strongest first, with the factor to this one's unit. A broker config
    /// without any stands for itself.
    pub synonyms: &'static [(&'static str, i64)],
    pub doc: &'static str,
}

/// A line of the tables.
#[allow(clippy::too_many_arguments)]
pub const fn config(
    name: &'static str,
    kind: ConfigType,
    default: Option<&'static str>,
    valid: Valid,
    update: Update,
    effect: Effect,
    synonyms: &'static [(&'static str, i64)],
    doc: &'static str,
) -> ConfigDef {
    ConfigDef { name, kind, default, valid, update, effect, synonyms, doc }
}

/// The config of that name in a table, which is sorted by name.
pub fn find(table: &'static [ConfigDef], name: &str) -> Option<&'static ConfigDef> {
    table.binary_search_by_key(&name, |config| config.name).ok().map(|at| &table[at])
}

impl ConfigDef {
    /// Whether a value of it is shown to nobody.
    pub fn is_sensitive(&self) -> bool {
        self.kind == ConfigType::Password
    }

    /// Checks a value; the error is a sentence for the client.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let text = value.trim();
        match self.kind {
            ConfigType::Boolean => {
                if !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false") {
                    return self.invalid(value, "Expected value to be either true or false");
                }
                Ok(())
            }
            ConfigType::Short => match text.parse::<i16>() {
                Ok(n) => self.validate_number(f64::from(n), text),
                Err(_) => self.invalid(value, "Not a number of type SHORT"),
            },
            ConfigType::Int => match text.parse::<i32>() {
                Ok(n) => self.validate_number(f64::from(n), text),
                Err(_) => self.invalid(value, "Not a number of type INT"),
            },
            ConfigType::Long => match text.parse::<i64>() {
                Ok(n) => self.validate_number(n as f64, text),
                Err(_) => self.invalid(value, "Not a number of type LONG"),
            },
            ConfigType::Double => match text.parse::<f64>() {
                Ok(n) if !n.is_nan() => self.validate_number(n, &format!("{n:?}")),
                _ => self.invalid(value, "Not a number of type DOUBLE"),
            },
            ConfigType::String => self.validate_text(text),
            ConfigType::List => self.validate_list(text),
            // What is inside of a password is not ours to judge, and there are no classes to load.
            ConfigType::Class | ConfigType::Password => Ok(()),
        }
    }

    fn invalid(&self, shown: &str, why: &str) -> Result<(), String> {
        Err(format!("Invalid value {shown} for configuration {}: {why}", self.name))
    }

    fn validate_number(&self, n: f64, shown: &str) -> Result<(), String> {
        match self.valid {
            Valid::AtLeast(min) | Valid::Between(min, _) if n < min => {
                self.invalid(shown, &format!("Value must be at least {min}"))
            }
            Valid::Between(_, max) if n > max => self.invalid(shown, &format!("Value must be no more than {max}")),
            Valid::BetweenOr(min, max, other) if n != other && !(min..=max).contains(&n) => {
                self.invalid(shown, &format!("Value must be between {min} and {max} or equal to {other}"))
            }
            _ => Ok(()),
        }
    }

    fn validate_text(&self, text: &str) -> Result<(), String> {
        match self.valid {
            Valid::OneOf(names) if !names.contains(&text) => {
                self.invalid(text, &format!("String must be one of: {}", names.join(", ")))
            }
            Valid::OneOfAnyCase(names) if !names.iter().any(|name| name.eq_ignore_ascii_case(text)) => {
                self.invalid(text, &format!("String must be one of (case insensitive): {}", names.join(", ")))
            }
            Valid::NotEmpty if text.is_empty() => self.invalid(text, "String must be non-empty"),
            Valid::OffsetReset if !is_offset_reset(text) => self.invalid(
                text,
                "Valid values are 'latest', 'earliest', and 'by_duration:<duration>' with an ISO8601 duration",
            ),
            Valid::HostCounts => match host_entries(text).find(|entry| host_count(entry).is_none()) {
                Some(entry) => self.invalid(text, &format!("'{entry}' is not ADDRESS:COUNT")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn validate_list(&self, text: &str) -> Result<(), String> {
        let name = self.name;
        let entries = list_entries(text);
        let (names, empty_allowed) = match self.valid {
            Valid::EachOf(names) => (names, true),
            Valid::NotEmptyEachOf(names) => (names, false),
            Valid::ThrottledReplicas if text == "*" || entries.iter().all(|entry| is_partition_and_broker(entry)) => {
                return Ok(());
            }
            Valid::ThrottledReplicas => {
                return self.invalid(
                    &format!("[{}]", entries.join(", ")),
                    &format!(
                        "{name} must be the literal '*' or a list of replicas in the following format: \
                         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                    ),
                );
            }
            _ => return Ok(()),
        };
        if entries.is_empty() && !empty_allowed {
            let valid = if names.is_empty() { "any non-empty value".into() } else { format!("[{}]", names.join(", ")) };
            return Err(format!("Configuration '{name}' must not be empty. Valid values include: {valid}"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if !entries.iter().all(|entry| seen.insert(entry)) {
            return Err(format!("Configuration '{name}' values must not be duplicated."));
        }
        for entry in entries {
            if entry.is_empty() {
                return Err(format!("Configuration '{name}' values must not be empty."));
            }
            if !names.is_empty() && !names.contains(&entry) {
                return self.invalid(entry, &format!("String must be one of: {}", names.join(", ")));
            }
        }
        Ok(())
    }
}

fn is_offset_reset(text: &str) -> bool {
    let duration = |text: &str| text.starts_with(['P', 'p']) && text.len() > 2;
    matches!(text, "latest" | "earliest") || text.strip_prefix("by_duration:").is_some_and(duration)
}

/// The entries of a list config; an empty value is an empty list.
pub fn list_entries(text: &str) -> Vec<&str> {
    let text = text.trim();
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::trim).collect() }
}

/// The entries of a [`Valid::HostCounts`] that can be read.
pub fn host_counts(text: &str) -> impl Iterator<Item = (&str, usize)> {
    host_entries(text).filter_map(host_count)
}

fn host_entries(text: &str) -> impl Iterator<Item = &str> {
    list_entries(text).into_iter().filter(|entry| !entry.is_empty())
}

/// An IPv6 address may stand in brackets.
fn host_count(entry: &str) -> Option<(&str, usize)> {
    let (host, count) = entry.rsplit_once(':')?;
    let host = host.trim();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = host.chars().all(in_names) && host.contains(|c: char| c.is_ascii_alphabetic());
    let count = count.trim().parse::<u32>().ok()?;
    (is_name || host.parse::<IpAddr>().is_ok()).then_some((host, count as usize))
}

fn is_partition_and_broker(entry: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    entry.split_once(':').is_some_and(|(partition, broker)| digits(partition) && digits(broker))
}

/// The name among `names` that a person most likely meant, if one is near enough.
pub fn nearest_name<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.len() / 3).max(2);
    names.into_iter().map(|name| (edit_distance(wrong, name), name)).filter(|(d, _)| *d <= limit).min().map(|(_, n)| n)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(kind: ConfigType, valid: Valid) -> ConfigDef {
        config("some.name", kind, None, valid, Update::ReadOnly, Effect::Stored, &[], "")
    }

    #[test]
    fn refusals_read_as_kafkas_do() {
        let cases = [
            (def(ConfigType::Long, Valid::AtLeast(-1.0)), "foo", "Not a number of type LONG"),
            (def(ConfigType::Long, Valid::AtLeast(-1.0)), "-2", "Value must be at least -1"),
            (def(ConfigType::Int, Valid::AtLeast(0.0)), "99999999999", "Not a number of type INT"),
            (def(ConfigType::Int, Valid::Between(1.0, 17.0)), "18", "Value must be no more than 17"),
            (
                def(ConfigType::Int, Valid::BetweenOr(1.0, 9.0, -1.0)),
                "0",
                "Value must be between 1 and 9 or equal to -1",
            ),
            (def(ConfigType::Boolean, Valid::Any), "maybe", "Expected value to be either true or false"),
            (def(ConfigType::String, Valid::OneOf(&["a", "b"])), "c", "String must be one of: a, b"),
            (def(ConfigType::List, Valid::EachOf(&["a", "b"])), "a,c", "String must be one of: a, b"),
        ];
        for (def, value, why) in cases {
            let shown = if value == "a,c" { "c" } else { value };
            assert_eq!(
                def.validate(value),
                Err(format!("Invalid value {shown} for configuration some.name: {why}")),
                "{value}"
            );
        }
        assert_eq!(
            def(ConfigType::Double, Valid::Between(0.0, 1.0)).validate("2"),
            Err("Invalid value 2.0 for configuration some.name: Value must be no more than 1".into())
        );
    }

    #[test]
    fn values_are_trimmed_and_lists_may_be_empty() {
        assert_eq!(def(ConfigType::Long, Valid::AtLeast(0.0)).validate(" 5 "), Ok(()));
        assert_eq!(def(ConfigType::List, Valid::EachOf(&["a"])).validate(""), Ok(()));
        assert_eq!(def(ConfigType::List, Valid::ThrottledReplicas).validate("0:1,1:2"), Ok(()));
        assert!(def(ConfigType::List, Valid::ThrottledReplicas).validate("0").is_err());
    }

    #[test]
    fn counts_of_hosts_are_read_and_typing_errors_refused() {
        let def = def(ConfigType::String, Valid::HostCounts);
        let text = "10.0.0.7:5, ::1:6,[fe80::1] : 7,db-1.example:8,";
        assert_eq!(def.validate(text), Ok(()));
        assert_eq!(def.validate(""), Ok(()));
        let read: Vec<_> = host_counts(text).collect();
        assert_eq!(read, [("10.0.0.7", 5), ("::1", 6), ("fe80::1", 7), ("db-1.example", 8)]);
        for entry in
            ["10.0.0.7=5", "10.0.0.7", "10.0.0.7:", "10.0.0.7:many", "10.0.0.7:-1", "10.0.0.700:5", ":5", "a b:5"]
        {
            let why =
                format!("Invalid value ::1:6,{entry} for configuration some.name: '{entry}' is not ADDRESS:COUNT");
            assert_eq!(def.validate(&format!("::1:6,{entry}")), Err(why));
        }
    }

    #[test]
    fn lists_hold_each_entry_once_and_are_empty_only_where_they_may() {
        let refused = |valid, value: &str| def(ConfigType::List, valid).validate(value).unwrap_err();
        assert_eq!(refused(Valid::EachOf(&["a"]), "a,a"), "Configuration 'some.name' values must not be duplicated.");
        assert_eq!(refused(Valid::EachOf(&[]), "a,,b"), "Configuration 'some.name' values must not be empty.");
        assert_eq!(
            refused(Valid::NotEmptyEachOf(&["a", "b"]), " "),
            "Configuration 'some.name' must not be empty. Valid values include: [a, b]"
        );
    }

    #[test]
    fn the_tables_are_sorted_and_every_default_is_valid() {
        use crate::kafka_configs::*;
        for table in [BROKER_CONFIGS, BROKER_QUOTA_CONFIGS, TOPIC_CONFIGS, GROUP_CONFIGS, CLIENT_METRICS_CONFIGS] {
            assert!(table.is_sorted_by(|a, b| a.name < b.name));
            for config in table {
                assert!(!config.doc.is_empty(), "{}", config.name);
                if let Some(default) = config.default {
                    assert_eq!(config.validate(default), Ok(()), "{}", config.name);
                }
                for (synonym, _) in config.synonyms {
                    assert!(find(BROKER_CONFIGS, synonym).is_some(), "{synonym}, a synonym of {}", config.name);
                }
            }
        }
    }

    #[test]
    fn the_nearest_name_is_offered_when_it_is_near() {
        let names = ["num.partitions", "message.max.bytes", "log.retention.ms"];
        assert_eq!(nearest_name("num.partition", names), Some("num.partitions"));
        assert_eq!(nearest_name("log.retenton.ms", names), Some("log.retention.ms"));
        assert_eq!(nearest_name("completely.other", names), None);
    }
}
