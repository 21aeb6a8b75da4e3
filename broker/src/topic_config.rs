//! What a topic's configs resolve to, and the check of a topic's own. `config_values.rs` says where values come from.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    ack_class::AckClass,
    config_def::{self, ConfigDef, list_entries},
    kafka_configs::TOPIC_CONFIGS,
};

/// Their values are held against each other.
pub const CHECKED_TOGETHER: [&str; 2] = ["min.compaction.lag.ms", "max.compaction.lag.ms"];

pub fn find(name: &str) -> Option<&'static ConfigDef> {
    config_def::find(TOPIC_CONFIGS, name)
}

/// Checks a topic's overrides, one by one and together with `inherited`, which answers what a config comes to when the
/// topic does not set it. The error is a sentence for the client.
pub fn validate(
    overrides: &BTreeMap<String, String>,
    inherited: impl Fn(&'static ConfigDef) -> String,
) -> Result<(), String> {
    for (name, value) in overrides {
        let config = find(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
        config.validate(value)?;
    }
    let lag = |name: &str| -> i64 {
        let value = overrides.get(name).cloned().unwrap_or_else(|| inherited(known(name)));
        value.trim().parse().unwrap_or(0)
    };
    let (min, max) = (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms"));
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
    pub ack: AckClass,
    pub cleanup_delete: bool,
    pub cleanup_compact: bool,
    pub compression: TopicCompression,
    pub gzip_level: i32,
    pub lz4_level: i32,
    pub zstd_level: i32,
    pub delete_retention_ms: i64,
    pub max_message_bytes: usize,
    pub max_compaction_lag_ms: i64,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub log_append_time: bool,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
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
    pub fn resolve(lookup: impl Fn(&'static ConfigDef) -> String) -> Self {
        let text = |name: &str| -> String {
            let config = known(name);
            let value = lookup(config);
            if config.validate(&value).is_ok() { value } else { config.default.unwrap_or_default().to_owned() }
        };
        let long = |name: &str| -> i64 {
            let value = text(name);
            value.trim().parse().unwrap_or_else(|_| panic!("{name} = {value} was validated as a number"))
        };
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let policy = text("cleanup.policy");
        let policies = list_entries(&policy);
        Self {
            ack: if text("seawall.ack").trim() == "backend" { AckClass::Backend } else { AckClass::Wal },
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
            max_compaction_lag_ms: long("max.compaction.lag.ms"),
            message_timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            message_timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            log_append_time: text("message.timestamp.type").trim() == "LogAppendTime",
            min_cleanable_dirty_ratio: text("min.cleanable.dirty.ratio").trim().parse().unwrap_or(0.5),
            min_compaction_lag_ms: long("min.compaction.lag.ms"),
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
        Self::resolve(|config| config.default.unwrap_or_default().to_owned())
    }
}

fn known(name: &str) -> &'static ConfigDef {
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
    fn the_defaults_are_kafkas() {
        let config = TopicConfig::default();
        assert!(config.cleanup_delete && !config.cleanup_compact);
        assert_eq!(config.ack, AckClass::Wal);
        assert_eq!(config.retention_ms, Some(7 * 24 * 3_600_000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.compression, TopicCompression::Producer);
    }

    #[test]
    fn unknown_names_and_conflicting_lags_are_refused() {
        let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let validate =
            |set: &BTreeMap<String, String>| validate(set, |config| config.default.unwrap_or_default().to_owned());
        assert_eq!(validate(&set(&[("no.such", "1")])), Err("Unknown topic config name: no.such".into()));
        assert_eq!(
            validate(&set(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")])),
            Err("conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)".into())
        );
        assert_eq!(validate(&set(&[("cleanup.policy", "compact,delete")])), Ok(()));
    }
}
