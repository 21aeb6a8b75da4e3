//! The broker configs under their Kafka names: the `[kafka]` table of the configuration file, and what
//! DescribeConfigs shows of a broker.
//!
//! Keys may be written quoted (`"num.partitions" = 3`) or, where TOML allows it, dotted (`num.partitions = 3`); it
//! does not where one key is the start of another, as with `max.connections`. Values are checked when the file is read. Code asks by name through `KafkaSettings`; asking for a name that is not in the table is a bug.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    config_def::{ConfigDef, ConfigType, Valid, nearest_name},
    topic_config::{TopicConfigDef, find as find_topic_config},
};

/// When a change of a broker config takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// At the next start.
    ReadOnly,
    /// At once, for all brokers or one.
    Dynamic,
}

#[derive(Debug, Clone, Copy)]
pub struct BrokerConfigDef {
    pub def: ConfigDef,
    pub update: Update,
}

const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
const FOREVER: &str = "9223372036854775807";

const fn read_only(
    name: &'static str,
    kind: ConfigType,
    default: Option<&'static str>,
    valid: Valid,
    doc: &'static str,
) -> BrokerConfigDef {
    BrokerConfigDef { def: ConfigDef { name, kind, default, valid, doc }, update: Update::ReadOnly }
}

const fn dynamic(
    name: &'static str,
    kind: ConfigType,
    default: Option<&'static str>,
    valid: Valid,
    doc: &'static str,
) -> BrokerConfigDef {
    BrokerConfigDef { def: ConfigDef { name, kind, default, valid, doc }, update: Update::Dynamic }
}

use ConfigType::{Boolean, Double, Int, List, Long, Short, String as Text};
use Valid::{Any, AtLeast, Between, BetweenOr, EachOf, Fraction, OneOf};

/// Sorted by name.
#[rustfmt::skip]
pub static BROKER_CONFIGS: &[BrokerConfigDef] = &[
    read_only("auto.create.topics.enable", Boolean, Some("true"), Any, "Whether Metadata creates a topic that a client asks for and that does not exist."),
    dynamic("compression.gzip.level", Int, Some("-1"), BetweenOr(1, 9, -1), "Default of the topic config compression.gzip.level."),
    dynamic("compression.lz4.level", Int, Some("9"), Between(1, 17), "Default of the topic config compression.lz4.level."),
    dynamic("compression.type", Text, Some("producer"), OneOf(CODECS), "Default of the topic config compression.type."),
    dynamic("compression.zstd.level", Int, Some("3"), Between(-131_072, 22), "Default of the topic config compression.zstd.level."),
    read_only("connections.max.idle.ms", Long, Some("600000"), AtLeast(1), "How long a connection without a request stays open, in milliseconds."),
    read_only("controller.quota.window.num", Int, Some("11"), AtLeast(1), "Windows that the quotas controller_mutation_rate are measured over."),
    read_only("controller.quota.window.size.seconds", Int, Some("1"), AtLeast(1), "Length of each of those windows, in seconds."),
    read_only("default.replication.factor", Int, Some("1"), Between(1, 32_767), "Replication factor of topics that name none. It is stored and shown; one copy is kept, in the object store."),
    read_only("delete.topic.enable", Boolean, Some("true"), Any, "Whether topics may be deleted."),
    read_only("fetch.max.bytes", Int, Some("57671680"), AtLeast(1024), "The most bytes that one fetch answers with."),
    read_only("group.consumer.assignment.interval.ms", Int, Some("1000"), AtLeast(0), "From one target assignment of a consumer group to the next at least, in milliseconds."),
    read_only("group.consumer.assignors", List, Some("uniform,range"), EachOf(&["uniform", "range"]), "The server-side assignors, the default first."),
    read_only("group.consumer.heartbeat.interval.ms", Int, Some("5000"), AtLeast(1), "The heartbeat interval that members of consumer groups are given, in milliseconds."),
    read_only("group.consumer.max.assignment.interval.ms", Int, Some("15000"), AtLeast(0), "The longest assignment interval that a group may set, in milliseconds."),
    read_only("group.consumer.max.heartbeat.interval.ms", Int, Some("15000"), AtLeast(1), "The longest heartbeat interval that a group may set, in milliseconds."),
    read_only("group.consumer.max.session.timeout.ms", Int, Some("60000"), AtLeast(1), "The longest session timeout that a group may set, in milliseconds."),
    read_only("group.consumer.max.size", Int, Some("2147483647"), AtLeast(1), "The most members that one consumer group may have."),
    read_only("group.consumer.migration.policy", Text, Some("bidirectional"), OneOf(&["disabled", "downgrade", "upgrade", "bidirectional"]), "Which way a group with members may change between the classic and the consumer protocol."),
    read_only("group.consumer.min.assignment.interval.ms", Int, Some("0"), AtLeast(0), "The shortest assignment interval that a group may set, in milliseconds."),
    read_only("group.consumer.min.heartbeat.interval.ms", Int, Some("5000"), AtLeast(1), "The shortest heartbeat interval that a group may set, in milliseconds."),
    read_only("group.consumer.min.session.timeout.ms", Int, Some("45000"), AtLeast(1), "The shortest session timeout that a group may set, in milliseconds."),
    read_only("group.consumer.session.timeout.ms", Int, Some("45000"), AtLeast(1), "After this long without a heartbeat a member of a consumer group is gone, in milliseconds."),
    read_only("group.initial.rebalance.delay.ms", Int, Some("3000"), AtLeast(0), "How long the first join of an empty group waits for more members, in milliseconds."),
    read_only("group.max.session.timeout.ms", Int, Some("1800000"), AtLeast(1), "The longest session timeout that a member may ask for, in milliseconds."),
    read_only("group.max.size", Int, Some("2147483647"), AtLeast(1), "The most members that one group may have."),
    read_only("group.min.session.timeout.ms", Int, Some("6000"), AtLeast(1), "The shortest session timeout that a member may ask for, in milliseconds."),
    dynamic("log.cleaner.delete.retention.ms", Long, Some("86400000"), AtLeast(0), "Default of the topic config delete.retention.ms."),
    dynamic("log.cleaner.max.compaction.lag.ms", Long, Some(FOREVER), AtLeast(1), "Default of the topic config max.compaction.lag.ms."),
    dynamic("log.cleaner.min.cleanable.ratio", Double, Some("0.5"), Fraction, "Default of the topic config min.cleanable.dirty.ratio."),
    dynamic("log.cleaner.min.compaction.lag.ms", Long, Some("0"), AtLeast(0), "Default of the topic config min.compaction.lag.ms."),
    dynamic("log.cleanup.policy", List, Some("delete"), EachOf(&["compact", "delete"]), "Default of the topic config cleanup.policy."),
    dynamic("log.flush.interval.messages", Long, Some(FOREVER), AtLeast(1), "Accepted; every acknowledged record is durable already."),
    dynamic("log.flush.interval.ms", Long, None, Any, "Accepted; every acknowledged record is durable already."),
    read_only("log.flush.scheduler.interval.ms", Long, Some(FOREVER), Any, "Accepted; every acknowledged record is durable already."),
    dynamic("log.index.interval.bytes", Int, Some("4096"), AtLeast(0), "Accepted; objects carry an index of their blocks."),
    dynamic("log.index.size.max.bytes", Int, Some("10485760"), AtLeast(4), "Accepted; there are no segment files."),
    dynamic("log.local.retention.bytes", Long, Some("-2"), AtLeast(-2), "Accepted; all data is in the object store."),
    dynamic("log.local.retention.ms", Long, Some("-2"), AtLeast(-2), "Accepted; all data is in the object store."),
    dynamic("log.message.timestamp.after.max.ms", Long, Some("3600000"), AtLeast(0), "Default of the topic config message.timestamp.after.max.ms."),
    dynamic("log.message.timestamp.before.max.ms", Long, Some(FOREVER), AtLeast(0), "Default of the topic config message.timestamp.before.max.ms."),
    dynamic("log.message.timestamp.type", Text, Some("CreateTime"), OneOf(&["CreateTime", "LogAppendTime"]), "Default of the topic config message.timestamp.type."),
    dynamic("log.preallocate", Boolean, Some("false"), Any, "Accepted; there are no segment files."),
    dynamic("log.retention.bytes", Long, Some("-1"), Any, "Default of the topic config retention.bytes."),
    read_only("log.retention.check.interval.ms", Long, Some("300000"), AtLeast(1), "How often retention is applied, in milliseconds."),
    read_only("log.retention.hours", Int, Some("168"), Any, "Default of the topic config retention.ms, in hours; minutes and milliseconds are stronger."),
    read_only("log.retention.minutes", Int, None, Any, "Default of the topic config retention.ms, in minutes; milliseconds are stronger."),
    dynamic("log.retention.ms", Long, None, AtLeast(-1), "Default of the topic config retention.ms."),
    read_only("log.roll.hours", Int, Some("168"), AtLeast(1), "Default of the topic config segment.ms, in hours; milliseconds are stronger."),
    read_only("log.roll.jitter.hours", Int, Some("0"), AtLeast(0), "Default of the topic config segment.jitter.ms, in hours; milliseconds are stronger."),
    dynamic("log.roll.jitter.ms", Long, None, AtLeast(0), "Default of the topic config segment.jitter.ms."),
    dynamic("log.roll.ms", Long, None, AtLeast(1), "Default of the topic config segment.ms."),
    dynamic("log.segment.bytes", Int, Some("1073741824"), AtLeast(1_048_576), "Default of the topic config segment.bytes."),
    dynamic("log.segment.delete.delay.ms", Long, Some("60000"), AtLeast(0), "Default of the topic config file.delete.delay.ms."),
    read_only("max.connections", Int, Some("20000"), AtLeast(1), "The most client connections at a time; a further one is closed at once."),
    read_only("max.connections.per.ip", Int, Some("2147483647"), AtLeast(0), "The most client connections at a time from one address; a further one is closed at once."),
    read_only("max.incremental.fetch.session.cache.slots", Int, Some("1000"), AtLeast(0), "The most incremental fetch sessions that are kept."),
    dynamic("message.max.bytes", Int, Some("1048588"), AtLeast(0), "Default of the topic config max.message.bytes."),
    dynamic("min.insync.replicas", Int, Some("1"), AtLeast(1), "Default of the topic config min.insync.replicas; never fails a produce."),
    read_only("num.partitions", Int, Some("1"), AtLeast(1), "Partitions of topics that name no number."),
    read_only("offset.metadata.max.bytes", Int, Some("4096"), AtLeast(0), "The longest metadata string of a committed offset, in bytes."),
    read_only("offsets.retention.check.interval.ms", Long, Some("600000"), AtLeast(1), "How often expired offsets are looked for, in milliseconds."),
    read_only("offsets.retention.minutes", Int, Some("10080"), AtLeast(1), "How long the offsets of an empty group are kept, in minutes."),
    read_only("offsets.topic.compression.codec", Int, Some("0"), Between(0, 4), "Codec of the records in __consumer_offsets: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    read_only("offsets.topic.num.partitions", Int, Some("50"), AtLeast(1), "Partitions of __consumer_offsets; fixed once the topic exists."),
    read_only("offsets.topic.replication.factor", Short, Some("3"), AtLeast(1), "Replication factor of __consumer_offsets; stored and shown, one copy is kept in the object store."),
    read_only("offsets.topic.segment.bytes", Int, Some("104857600"), AtLeast(1), "The topic config segment.bytes of __consumer_offsets."),
    read_only("producer.id.expiration.ms", Int, Some("86400000"), AtLeast(1), "How long the state of an idle producer id is kept, in milliseconds."),
    read_only("queued.max.request.bytes", Long, Some("268435456"), AtLeast(1_048_576), "Memory for requests that are being received or handled, over all connections, in bytes; beyond it nothing is read."),
    read_only("quota.window.num", Int, Some("11"), AtLeast(1), "Windows that the other client quotas are measured over."),
    read_only("quota.window.size.seconds", Int, Some("1"), AtLeast(1), "Length of each of those windows, in seconds."),
    read_only("request.timeout.ms", Int, Some("30000"), AtLeast(1), "Accepted; clients' own timeouts bound their requests."),
    read_only("socket.listen.backlog.size", Int, Some("1024"), AtLeast(1), "Connections that the kernel holds before they are accepted."),
    read_only("socket.request.max.bytes", Int, Some("104857600"), AtLeast(1), "The longest request frame accepted, in bytes; a longer one closes its connection."),
    read_only("transaction.max.timeout.ms", Int, Some("900000"), AtLeast(1), "Accepted; there are no transactions yet."),
    dynamic("unclean.leader.election.enable", Boolean, Some("false"), Any, "Accepted; a leader without acknowledged data is never chosen."),
];

pub fn find(name: &str) -> Option<&'static BrokerConfigDef> {
    BROKER_CONFIGS.binary_search_by_key(&name, |config| config.def.name).ok().map(|at| &BROKER_CONFIGS[at])
}

/// The broker configs of the configuration file; what it does not name has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KafkaSettings {
    set: BTreeMap<&'static str, String>,
}

impl KafkaSettings {
    /// Checks and keeps one value; the error is a sentence for a person.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(config) = find(name) else {
            let hint = nearest_name(name, BROKER_CONFIGS.iter().map(|config| config.def.name))
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default();
            return Err(format!("unknown key `{name}` in [kafka]{hint}"));
        };
        config.def.validate(value)?;
        self.set.insert(config.def.name, value.trim().to_owned());
        Ok(())
    }

    /// What the file says, if it says anything.
    pub fn explicit(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(String::as_str)
    }

    /// The value or its default; `None` where Kafka's default is null.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.explicit(name).or_else(|| known(name).def.default)
    }

    pub fn long(&self, name: &str) -> i64 {
        let value = self.text(name).unwrap_or_default();
        value.parse().unwrap_or_else(|_| panic!("{name} = {value:?} was validated as a number"))
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

    /// The default that this file gives a topic config, with the broker config it comes from, if it names one.
    pub fn topic_default(&self, config: &TopicConfigDef) -> Option<(&'static str, String)> {
        config.broker_synonyms.iter().find_map(|(name, factor)| {
            let value = self.explicit(name)?;
            Some((*name, scaled(value, *factor)))
        })
    }
}

/// A value in the topic config's unit: `log.retention.hours = 2` is `retention.ms = 7200000`; -1 stays -1.
pub fn scaled(value: &str, factor: i64) -> String {
    match value.parse::<i64>() {
        Ok(n) if factor != 1 && n >= 0 => n.saturating_mul(factor).to_string(),
        _ => value.to_owned(),
    }
}

fn known(name: &str) -> &'static BrokerConfigDef {
    find(name).unwrap_or_else(|| panic!("{name} is in BROKER_CONFIGS"))
}

/// The topic configs whose default the broker config `name` gives.
pub fn topic_configs_of(name: &str) -> impl Iterator<Item = &'static TopicConfigDef> + '_ {
    crate::topic_config::TOPIC_CONFIGS
        .iter()
        .filter(move |config| config.broker_synonyms.iter().any(|(synonym, _)| *synonym == name))
        .filter_map(|config| find_topic_config(config.def.name))
}

impl Serialize for KafkaSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.set)
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
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert!(BROKER_CONFIGS.is_sorted_by_key(|config| config.def.name));
        for config in BROKER_CONFIGS {
            if let Some(default) = config.def.default {
                assert_eq!(config.def.validate(default), Ok(()), "{}", config.def.name);
            }
        }
    }

    #[test]
    fn every_synonym_of_a_topic_config_is_a_broker_config() {
        for config in crate::topic_config::TOPIC_CONFIGS {
            for (synonym, _) in config.broker_synonyms {
                assert!(find(synonym).is_some(), "{synonym}");
            }
        }
    }

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
    fn retention_in_hours_is_weaker_than_in_milliseconds() {
        let mut settings = KafkaSettings::default();
        let retention = find_topic_config("retention.ms").unwrap();
        assert_eq!(settings.topic_default(retention), None);
        settings.set("log.retention.hours", "2").unwrap();
        assert_eq!(settings.topic_default(retention), Some(("log.retention.hours", "7200000".into())));
        settings.set("log.retention.ms", "1000").unwrap();
        assert_eq!(settings.topic_default(retention), Some(("log.retention.ms", "1000".into())));
    }
}
