//! Every limit of the broker and how far it is used, in one table and as one pair of metrics.
//!
//! `seawall_resource_limit` and `seawall_resource_used` have the same labels, so one alert on their ratio covers all of them.
//! `docs/limits.md` says what happens when each is reached; a test keeps that page, the config and this table together.

use std::fmt;

use prometheus_client::metrics::MetricType;
use seawall_wal_device::{Wal, WalUsage};

use crate::broker::Broker;
use crate::fetch_session::CACHED_PARTITIONS_MAX;
use crate::storage::BrokerWal;
use crate::storage_metrics::Out;
use crate::upload::acks;

/// What there is at most of something.
pub struct Limit {
    /// The `resource` label.
    pub name: &'static str,
    /// The configs that set it; none: it is built in.
    pub configs: &'static [&'static str],
    usage: fn(&Broker) -> Vec<Usage>,
}

/// What of it is used now.
struct Usage {
    /// Which of several: a WAL.
    of: String,
    used: u64,
    limit: u64,
}

/// In the order of a request's way.
pub const LIMITS: &[Limit] = &[
    Limit { name: "connections", configs: &["max.connections"], usage: connections },
    Limit {
        name: "request_memory",
        configs: &["queued.max.request.bytes", "socket.request.max.bytes"],
        usage: |broker| {
            let held = broker.metrics.network.request_buffer_bytes.get();
            one(held.unsigned_abs(), broker.config.kafka.size("queued.max.request.bytes") as u64)
        },
    },
    Limit { name: "wal_soft", configs: &["wal.soft_limit"], usage: wal_soft },
    Limit { name: "wal_space", configs: &["wal.size"], usage: wal_space },
    Limit { name: "wal_queue", configs: &[], usage: wal_queue },
    Limit {
        name: "memory_log",
        configs: &["cache.log_bytes"],
        usage: |broker| {
            let usage = broker.partitions.memory_log().map(|log| log.usage());
            usage.map_or_else(Vec::new, |usage| one(usage.used_bytes, usage.normal_bytes_max))
        },
    },
    Limit {
        name: "log_cache",
        configs: &["cache.log_bytes"],
        usage: |broker| {
            let usage = broker.partitions.storage().cache.usage();
            one(usage.bytes, usage.budget_bytes)
        },
    },
    Limit {
        name: "log_cache_index",
        configs: &["cache.log_bytes"],
        usage: |broker| {
            let usage = broker.partitions.storage().cache.usage();
            one(usage.index_bytes, usage.index_bytes_max)
        },
    },
    Limit {
        name: "uploads",
        configs: &["upload.in_flight"],
        usage: |broker| {
            let limit = broker.config.upload.in_flight + acks::IN_FLIGHT_MAX;
            one(broker.uploads.status().cuts_in_flight as u64, limit as u64)
        },
    },
    Limit {
        name: "store_operations",
        configs: &[],
        usage: |broker| {
            let usage = broker.store.limit.usage();
            one(usage.operations as u64, usage.places as u64)
        },
    },
    Limit {
        name: "store_bytes",
        configs: &[],
        usage: |broker| one(broker.store.limit.usage().bytes, broker.store.limit.config().bytes_max),
    },
    Limit {
        name: "store_waiting",
        configs: &[],
        usage: |broker| {
            let limit = &broker.store.limit;
            one(limit.usage().waiting as u64, limit.config().waiting_max as u64)
        },
    },
    Limit {
        name: "catch_up_bytes",
        configs: &["limits.catch_up_bytes"],
        usage: |broker| {
            let limit = &broker.store.limit;
            one(limit.usage().catch_up.bytes, limit.config().catch_up_bytes_max)
        },
    },
    Limit {
        name: "catch_up_operations",
        configs: &[],
        usage: |broker| {
            let limit = &broker.store.limit;
            one(limit.usage().catch_up.operations as u64, limit.config().catch_up_operations_max as u64)
        },
    },
    Limit {
        name: "readahead",
        configs: &[],
        usage: |broker| {
            let usage = broker.reads.readahead_usage();
            one(usage.bytes, usage.budget_bytes)
        },
    },
    Limit {
        name: "block_cache",
        configs: &["cache.block_bytes"],
        usage: |broker| {
            let usage = broker.reads.reader().usage().blocks;
            one(usage.bytes, usage.budget_bytes)
        },
    },
    Limit {
        name: "index_cache",
        configs: &["cache.index_bytes"],
        usage: |broker| {
            let usage = broker.reads.reader().usage();
            one(usage.index_bytes, usage.index_budget_bytes)
        },
    },
    Limit {
        name: "fetch_answers",
        configs: &["limits.fetch_response_bytes", "fetch.max.bytes"],
        usage: |broker| {
            let usage = broker.fetches.memory.usage();
            one(usage.bytes as u64, usage.budget_bytes as u64)
        },
    },
    Limit {
        name: "other_answers",
        configs: &["limits.answer_bytes"],
        usage: |broker| {
            let usage = broker.answers.usage();
            one((usage.bytes - usage.reserve_bytes) as u64, usage.budget_bytes as u64)
        },
    },
    Limit {
        name: "answer_reserve",
        configs: &["limits.answer_bytes"],
        usage: |broker| {
            let usage = broker.answers.usage();
            one(usage.reserve_bytes as u64, usage.budget_bytes as u64)
        },
    },
    Limit {
        name: "fetch_sessions",
        configs: &["max.incremental.fetch.session.cache.slots"],
        usage: |broker| {
            let slots = broker.config.kafka.size("max.incremental.fetch.session.cache.slots");
            one(broker.fetches.session_usage().0 as u64, slots as u64)
        },
    },
    Limit {
        name: "fetch_session_partitions",
        configs: &[],
        usage: |broker| one(broker.fetches.session_usage().1 as u64, CACHED_PARTITIONS_MAX as u64),
    },
    Limit {
        name: "group_memory",
        configs: &["limits.group_bytes"],
        usage: |broker| one(broker.metrics.groups.memory_bytes(), broker.config.limits.group_bytes.bytes()),
    },
    Limit {
        name: "cleaner_keys",
        configs: &["log.cleaner.dedupe.buffer.size", "log.cleaner.io.buffer.load.factor"],
        usage: |broker| {
            let limit = broker.topic_configs.settings().size("log.cleaner.dedupe.buffer.size");
            one(broker.log_cleaner.status().metrics().map_bytes, limit as u64)
        },
    },
    Limit {
        name: "metadata_queue",
        configs: &[],
        usage: |broker| {
            let (used, limit) = broker.metadata.queue_bytes();
            one(used as u64, limit as u64)
        },
    },
];

pub(crate) fn encode(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let all: Vec<(&str, Usage)> =
        LIMITS.iter().flat_map(|limit| (limit.usage)(broker).into_iter().map(|usage| (limit.name, usage))).collect();
    let mut family = |name, help, value: fn(&Usage) -> u64| {
        let labels = |name: &str, usage: &Usage| [("resource", name.to_owned()), ("of", usage.of.clone())];
        let values = all.iter().map(|(name, usage)| (labels(name, usage), value(usage)));
        out.labelled(name, help, None, MetricType::Gauge, values)
    };
    family("resource_limit", "What there is at most, in bytes or in number", |usage| usage.limit)?;
    family("resource_used", "What of it is used", |usage| usage.used)
}

fn one(used: u64, limit: u64) -> Vec<Usage> {
    vec![Usage { of: String::new(), used, limit }]
}

fn connections(broker: &Broker) -> Vec<Usage> {
    let limit = broker.topic_configs.settings().long("max.connections");
    one(broker.metrics.network.connections.get().unsigned_abs(), limit.unsigned_abs())
}

fn wals(broker: &Broker, limit: impl Fn(&Wal, &WalUsage) -> (u64, u64)) -> Vec<Usage> {
    let of = |wal: &BrokerWal| {
        let (used, limit) = limit(wal.handle(), &wal.handle().usage());
        Usage { of: wal.id.to_string(), used, limit }
    };
    broker.partitions.wals().iter().map(|wal| of(wal)).collect()
}

fn wal_soft(broker: &Broker) -> Vec<Usage> {
    wals(broker, |_, usage| (usage.taken_bytes(), usage.soft_bytes))
}

fn wal_space(broker: &Broker) -> Vec<Usage> {
    wals(broker, |_, usage| (usage.taken_bytes(), usage.normal_bytes_max))
}

fn wal_queue(broker: &Broker) -> Vec<Usage> {
    wals(broker, |wal, usage| (usage.queued_bytes, wal.queue_bytes_max()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config_def::Effect;
    use crate::kafka_configs::BROKER_CONFIGS;

    const PAGE: &str = include_str!("../../docs/limits.md");

    #[test]
    fn every_limit_of_the_config_has_its_metric_or_the_page_says_why_not() {
        let defaults: toml::Table = toml::from_str(&Config::default().to_toml()).unwrap();
        let keys = |section: &str| {
            let table = defaults[section].as_table().unwrap().clone();
            table.into_iter().map(|(key, _)| format!("{section}.{key}")).collect::<Vec<_>>()
        };
        let rates = ["limits.catch_up_rate", "limits.store_upload_rate", "limits.store_read_rate"].map(String::from);
        let kafka = BROKER_CONFIGS.iter().filter(|config| {
            let bounds = ["max.connections", "queued.max", "socket.request.max", "max.incremental", "fetch.max.bytes"];
            config.effect == Effect::Effective && bounds.iter().any(|bound| config.name.starts_with(bound))
        });
        let kafka = kafka.map(|config| config.name.to_owned()).filter(|name| !name.ends_with(".overrides"));
        let all = keys("limits").into_iter().chain(keys("cache")).chain(rates).chain(kafka);
        let others = ["wal.soft_limit", "wal.size", "upload.in_flight"].map(String::from);
        for key in all.chain(others) {
            let has_metric = LIMITS.iter().any(|limit| limit.configs.contains(&key.as_str()));
            let outside = PAGE.lines().any(|line| !line.starts_with('|') && line.contains(&format!("`{key}`")));
            assert!(has_metric || outside, "{key} has no metric, and docs/limits.md does not say why");
        }
    }

    #[test]
    fn the_page_has_a_row_for_every_limit_and_no_other() {
        let rows: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
        for limit in LIMITS {
            let row = rows.iter().find(|row| row.starts_with(&format!("| `{}`", limit.name)));
            let row = row.unwrap_or_else(|| panic!("docs/limits.md lacks {}", limit.name));
            assert!(limit.configs.iter().all(|config| row.contains(&format!("`{config}`"))), "{row}");
        }
        assert_eq!(rows.len(), LIMITS.len());
    }
}
