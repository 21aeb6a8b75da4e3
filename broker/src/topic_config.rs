//! Every topic config of Kafka 4.3 with its broker-level synonyms, and what a topic's configs resolve to.
//!
//! A value is looked up in this order: the topic's own override, the broker's dynamic config, the dynamic default
//! of all brokers, the `[kafka]` table of the configuration file, the built-in default. Configs that mean nothing
//! here (segment files, flushing, throttled replicas) are accepted, stored and described all the same.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::config_def::{ConfigDef, ConfigType, Valid, list_entries};

/// A topic config and where its default comes from.
#[derive(Debug, Clone, Copy)]
pub struct TopicConfigDef {
    pub def: ConfigDef,
    /// Broker configs that give this one its default, strongest first, with the factor to this one's unit.
    pub broker_synonyms: &'static [(&'static str, i64)],
}

const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];
const POLICIES: &[&str] = &["compact", "delete"];
const TIMESTAMP_TYPES: &[&str] = &["CreateTime", "LogAppendTime"];
const HOURS: i64 = 3_600_000;
const MINUTES: i64 = 60_000;

const fn config(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    valid: Valid,
    broker_synonyms: &'static [(&'static str, i64)],
    doc: &'static str,
) -> TopicConfigDef {
    TopicConfigDef { def: ConfigDef { name, kind, default: Some(default), valid, doc }, broker_synonyms }
}

/// Sorted by name.
pub static TOPIC_CONFIGS: &[TopicConfigDef] = &[
    config(
        "cleanup.policy",
        ConfigType::List,
        "delete",
        Valid::EachOf(POLICIES),
        &[("log.cleanup.policy", 1)],
        "What happens to old records: `delete` drops what is past the retention, `compact` keeps the newest record of each key.",
    ),
    config(
        "compression.gzip.level",
        ConfigType::Int,
        "-1",
        Valid::BetweenOr(1, 9, -1),
        &[("compression.gzip.level", 1)],
        "The level used when compression.type is gzip.",
    ),
    config(
        "compression.lz4.level",
        ConfigType::Int,
        "9",
        Valid::Between(1, 17),
        &[("compression.lz4.level", 1)],
        "The level used when compression.type is lz4.",
    ),
    config(
        "compression.type",
        ConfigType::String,
        "producer",
        Valid::OneOf(CODECS),
        &[("compression.type", 1)],
        "The codec batches are stored in; `producer` keeps what the producer chose.",
    ),
    config(
        "compression.zstd.level",
        ConfigType::Int,
        "3",
        Valid::Between(-131_072, 22),
        &[("compression.zstd.level", 1)],
        "The level used when compression.type is zstd.",
    ),
    config(
        "delete.retention.ms",
        ConfigType::Long,
        "86400000",
        Valid::AtLeast(0),
        &[("log.cleaner.delete.retention.ms", 1)],
        "How long a compacted topic keeps tombstones, in milliseconds.",
    ),
    config(
        "file.delete.delay.ms",
        ConfigType::Long,
        "60000",
        Valid::AtLeast(0),
        &[("log.segment.delete.delay.ms", 1)],
        "Accepted and stored; there are no segment files to delete.",
    ),
    config(
        "flush.messages",
        ConfigType::Long,
        "9223372036854775807",
        Valid::AtLeast(1),
        &[("log.flush.interval.messages", 1)],
        "Accepted and stored; every acknowledged record is durable already.",
    ),
    config(
        "flush.ms",
        ConfigType::Long,
        "9223372036854775807",
        Valid::AtLeast(0),
        &[("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)],
        "Accepted and stored; every acknowledged record is durable already.",
    ),
    config(
        "follower.replication.throttled.replicas",
        ConfigType::List,
        "",
        Valid::ThrottledReplicas,
        &[],
        "Accepted and stored; the object store replicates, brokers do not.",
    ),
    config(
        "index.interval.bytes",
        ConfigType::Int,
        "4096",
        Valid::AtLeast(0),
        &[("log.index.interval.bytes", 1)],
        "Accepted and stored; objects carry an index of their blocks.",
    ),
    config(
        "leader.replication.throttled.replicas",
        ConfigType::List,
        "",
        Valid::ThrottledReplicas,
        &[],
        "Accepted and stored; the object store replicates, brokers do not.",
    ),
    config(
        "local.retention.bytes",
        ConfigType::Long,
        "-2",
        Valid::AtLeast(-2),
        &[("log.local.retention.bytes", 1)],
        "Accepted and stored; all data is in the object store.",
    ),
    config(
        "local.retention.ms",
        ConfigType::Long,
        "-2",
        Valid::AtLeast(-2),
        &[("log.local.retention.ms", 1)],
        "Accepted and stored; all data is in the object store.",
    ),
    config(
        "max.compaction.lag.ms",
        ConfigType::Long,
        "9223372036854775807",
        Valid::AtLeast(1),
        &[("log.cleaner.max.compaction.lag.ms", 1)],
        "How long a record of a compacted topic may stay uncompacted at most, in milliseconds.",
    ),
    config(
        "max.message.bytes",
        ConfigType::Int,
        "1048588",
        Valid::AtLeast(0),
        &[("message.max.bytes", 1)],
        "The largest record batch accepted, after compression, in bytes.",
    ),
    config(
        "message.timestamp.after.max.ms",
        ConfigType::Long,
        "3600000",
        Valid::AtLeast(0),
        &[("log.message.timestamp.after.max.ms", 1)],
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds (CreateTime only).",
    ),
    config(
        "message.timestamp.before.max.ms",
        ConfigType::Long,
        "9223372036854775807",
        Valid::AtLeast(0),
        &[("log.message.timestamp.before.max.ms", 1)],
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds (CreateTime only).",
    ),
    config(
        "message.timestamp.type",
        ConfigType::String,
        "CreateTime",
        Valid::OneOf(TIMESTAMP_TYPES),
        &[("log.message.timestamp.type", 1)],
        "Whether records keep the producer's time (CreateTime) or get the broker's (LogAppendTime).",
    ),
    config(
        "min.cleanable.dirty.ratio",
        ConfigType::Double,
        "0.5",
        Valid::Fraction,
        &[("log.cleaner.min.cleanable.ratio", 1)],
        "The share of uncompacted data from which a compacted topic is worth compacting.",
    ),
    config(
        "min.compaction.lag.ms",
        ConfigType::Long,
        "0",
        Valid::AtLeast(0),
        &[("log.cleaner.min.compaction.lag.ms", 1)],
        "How long a record of a compacted topic stays uncompacted at least, in milliseconds.",
    ),
    config(
        "min.insync.replicas",
        ConfigType::Int,
        "1",
        Valid::AtLeast(1),
        &[("min.insync.replicas", 1)],
        "Accepted and stored; never fails a produce, since the object store makes the copies.",
    ),
    config(
        "preallocate",
        ConfigType::Boolean,
        "false",
        Valid::Any,
        &[("log.preallocate", 1)],
        "Accepted and stored; there are no segment files.",
    ),
    config(
        "remote.log.copy.disable",
        ConfigType::Boolean,
        "false",
        Valid::Any,
        &[],
        "Accepted and stored; all data is in the object store.",
    ),
    config(
        "remote.log.delete.on.disable",
        ConfigType::Boolean,
        "false",
        Valid::Any,
        &[],
        "Accepted and stored; all data is in the object store.",
    ),
    config(
        "remote.storage.enable",
        ConfigType::Boolean,
        "false",
        Valid::Any,
        &[],
        "Accepted and stored; all data is in the object store.",
    ),
    config(
        "retention.bytes",
        ConfigType::Long,
        "-1",
        Valid::Any,
        &[("log.retention.bytes", 1)],
        "How many bytes a partition keeps under the delete policy; -1 is without limit.",
    ),
    config(
        "retention.ms",
        ConfigType::Long,
        "604800000",
        Valid::AtLeast(-1),
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTES), ("log.retention.hours", HOURS)],
        "How long a partition keeps records under the delete policy, in milliseconds; -1 is without limit.",
    ),
    config(
        "segment.bytes",
        ConfigType::Int,
        "1073741824",
        Valid::AtLeast(1_048_576),
        &[("log.segment.bytes", 1)],
        "Accepted and stored; there are no segment files.",
    ),
    config(
        "segment.index.bytes",
        ConfigType::Int,
        "10485760",
        Valid::AtLeast(4),
        &[("log.index.size.max.bytes", 1)],
        "Accepted and stored; there are no segment files.",
    ),
    config(
        "segment.jitter.ms",
        ConfigType::Long,
        "0",
        Valid::AtLeast(0),
        &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOURS)],
        "Accepted and stored; there are no segment files.",
    ),
    config(
        "segment.ms",
        ConfigType::Long,
        "604800000",
        Valid::AtLeast(1),
        &[("log.roll.ms", 1), ("log.roll.hours", HOURS)],
        "Accepted and stored; there are no segment files.",
    ),
    config(
        "unclean.leader.election.enable",
        ConfigType::Boolean,
        "false",
        Valid::Any,
        &[("unclean.leader.election.enable", 1)],
        "Accepted and stored; a leader without acknowledged data is never chosen.",
    ),
];

pub fn find(name: &str) -> Option<&'static TopicConfigDef> {
    TOPIC_CONFIGS.binary_search_by_key(&name, |config| config.def.name).ok().map(|at| &TOPIC_CONFIGS[at])
}

/// Checks a topic's overrides, one by one and together; the error is a sentence for the client.
pub fn validate(overrides: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in overrides {
        let config = find(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
        config.def.validate(value)?;
    }
    let lag = |name: &str, default: i64| overrides.get(name).and_then(|v| v.trim().parse().ok()).unwrap_or(default);
    let (min, max) = (lag("min.compaction.lag.ms", 0), lag("max.compaction.lag.ms", i64::MAX));
    if min > max {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        ));
    }
    Ok(())
}

/// What the configs of one topic resolve to, typed. Cheap to read on every append and fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    pub cleanup_delete: bool,
    pub cleanup_compact: bool,
    pub compression: TopicCompression,
    pub gzip_level: i32,
    pub lz4_level: i32,
    pub zstd_level: i32,
    pub delete_retention_ms: i64,
    pub max_message_bytes: usize,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub log_append_time: bool,
    pub min_insync_replicas: i32,
    /// `None` is without limit.
    pub retention_bytes: Option<u64>,
    /// `None` is without limit.
    pub retention_ms: Option<i64>,
    pub segment_bytes: u64,
    pub segment_ms: i64,
}

/// What `compression.type` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicCompression {
    /// As the producer sent it.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl TopicConfig {
    /// Resolves every config through `lookup`, which answers with the strongest set value or the default.
    ///
    /// Values were checked when they were set. One that does not parse all the same (written by a newer version,
    /// say) falls back to the built-in default.
    pub fn resolve(lookup: impl Fn(&TopicConfigDef) -> String) -> Self {
        let text = |name: &str| -> String {
            let config = known(name);
            let value = lookup(config);
            if config.def.validate(&value).is_ok() { value } else { config.def.default.unwrap_or_default().to_owned() }
        };
        let long = |name: &str| -> i64 {
            let value = text(name);
            value.trim().parse().unwrap_or_else(|_| panic!("{name} = {value} was validated as a number"))
        };
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let policy = text("cleanup.policy");
        let policies = list_entries(&policy);
        Self {
            cleanup_delete: policies.contains(&"delete"),
            cleanup_compact: policies.contains(&"compact"),
            compression: match text("compression.type").trim() {
                "uncompressed" => TopicCompression::Uncompressed,
                "gzip" => TopicCompression::Gzip,
                "snappy" => TopicCompression::Snappy,
                "lz4" => TopicCompression::Lz4,
                "zstd" => TopicCompression::Zstd,
                _ => TopicCompression::Producer,
            },
            gzip_level: int("compression.gzip.level"),
            lz4_level: int("compression.lz4.level"),
            zstd_level: int("compression.zstd.level"),
            delete_retention_ms: long("delete.retention.ms"),
            max_message_bytes: usize::try_from(long("max.message.bytes")).unwrap_or(0),
            message_timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            log_append_time: text("message.timestamp.type").trim() == "LogAppendTime",
            min_insync_replicas: int("min.insync.replicas"),
            retention_bytes: u64::try_from(long("retention.bytes")).ok(),
            retention_ms: Some(long("retention.ms")).filter(|ms| *ms >= 0),
            segment_bytes: u64::try_from(long("segment.bytes")).unwrap_or(u64::MAX),
            segment_ms: long("segment.ms"),
        }
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::resolve(|config| config.def.default.unwrap_or_default().to_owned())
    }
}

fn known(name: &str) -> &'static TopicConfigDef {
    find(name).unwrap_or_else(|| panic!("{name} is in TOPIC_CONFIGS"))
}

/// The configs of one topic as they are now; shared by its partitions and replaced as metadata changes.
#[derive(Debug, Clone)]
pub struct SharedTopicConfig(Arc<ArcSwap<TopicConfig>>);

impl SharedTopicConfig {
    pub fn new(config: TopicConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    pub fn get(&self) -> Arc<TopicConfig> {
        self.0.load_full()
    }

    /// Answers whether anything changed.
    pub fn replace(&self, config: TopicConfig) -> bool {
        let changed = **self.0.load() != config;
        if changed {
            self.0.store(Arc::new(config));
        }
        changed
    }
}

impl Default for SharedTopicConfig {
    fn default() -> Self {
        Self::new(TopicConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_valid() {
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|config| config.def.name));
        for config in TOPIC_CONFIGS {
            let default = config.def.default.unwrap();
            assert_eq!(config.def.validate(default), Ok(()), "{}", config.def.name);
            assert!(!config.def.doc.is_empty());
        }
    }

    #[test]
    fn the_defaults_are_kafkas() {
        let config = TopicConfig::default();
        assert!(config.cleanup_delete && !config.cleanup_compact);
        assert_eq!(config.retention_ms, Some(7 * 24 * 3_600_000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.compression, TopicCompression::Producer);
    }

    #[test]
    fn unknown_names_and_conflicting_lags_are_refused() {
        let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(validate(&set(&[("no.such", "1")])), Err("Unknown topic config name: no.such".into()));
        assert_eq!(
            validate(&set(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")])),
            Err("conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)".into())
        );
        assert_eq!(validate(&set(&[("cleanup.policy", "compact,delete")])), Ok(()));
    }
}
