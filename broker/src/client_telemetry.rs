//! What clients would send of their metrics (KIP-714): the subscriptions that match a client, and their id.
//!
//! Patterns are compiled once, when their subscription changes, and never while metadata is held.
//!
//! Nothing receives metrics here, so the APIs are not advertised and clients do not ask. Whoever asks all the same is answered
//! as by Kafka without a receiver: metrics are checked and dropped. How often a client asks is not limited, and a pattern on its
//! software matches nobody, as that is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use regex::bytes::Regex;
use seawall_metadata::{MetadataHandle, State};
use uuid::Uuid;

use crate::client_metrics_configs::{SUBSCRIPTIONS_MAX, patterns};
use crate::config_def::list_entries;
use crate::config_resource::Values;

const INTERVAL_MS_DEFAULT: i32 = 300_000;
const ALL_METRICS: &str = "*";

/// What a subscription can match of a client.
#[derive(Debug, Clone, Copy)]
pub struct TelemetryClient<'a> {
    pub instance: Uuid,
    pub client_id: &'a str,
    pub address: SocketAddr,
}

/// What one client is to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: i32,
    pub metrics: Vec<String>,
    pub interval_ms: i32,
}

/// The subscriptions of metadata, ready to be matched. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    metadata: MetadataHandle,
    compiled: Arc<Mutex<Compiled>>,
}

#[derive(Default)]
struct Compiled {
    topology: Option<u64>,
    by_name: BTreeMap<String, Arc<Subscribed>>,
}

/// One subscription.
struct Subscribed {
    configs: Values,
    metrics: Vec<String>,
    interval_ms: Option<i32>,
    /// `None` matches nobody: what was stored is no pattern here.
    patterns: Option<BTreeMap<&'static str, Regex>>,
}

impl Subscriptions {
    pub fn new(metadata: MetadataHandle) -> Self {
        Self { metadata, compiled: Arc::default() }
    }

    /// Everything that they ask of a client, together.
    pub fn of(&self, client: TelemetryClient<'_>) -> Subscription {
        together(&self.current(), client)
    }

    fn current(&self) -> Vec<Arc<Subscribed>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(changes) = self.metadata.read(|state| compiled.changes(state)) {
            compiled.take_over(changes);
        }
        compiled.by_name.values().cloned().collect()
    }
}

/// What metadata holds, where it may be something new: each subscription as it was compiled, or else its configs.
struct Changes {
    topology: u64,
    by_name: Vec<(String, Result<Arc<Subscribed>, Values>)>,
}

impl Compiled {
    fn changes(&self, state: &State) -> Option<Changes> {
        let topology = state.topology_index();
        let compiled = |name: &str, configs: &Values| match self.by_name.get(name) {
            Some(subscribed) if subscribed.configs == *configs => Ok(subscribed.clone()),
            Some(_) | None => Err(configs.clone()),
        };
        let all = || state.client_metrics().take(SUBSCRIPTIONS_MAX);
        let by_name = || all().map(|(name, configs)| (name.to_owned(), compiled(name, configs))).collect();
        (self.topology != Some(topology)).then(|| Changes { topology, by_name: by_name() })
    }

    fn take_over(&mut self, changes: Changes) {
        let compile = |configs| Arc::new(Subscribed::new(configs));
        self.by_name = changes.by_name.into_iter().map(|(name, one)| (name, one.unwrap_or_else(compile))).collect();
        self.topology = Some(changes.topology);
    }
}

impl Subscribed {
    fn new(configs: Values) -> Self {
        let text = |name: &str| configs.get(name).map_or("", String::as_str);
        Self {
            metrics: list_entries(text("metrics")).into_iter().map(str::to_owned).collect(),
            interval_ms: text("interval.ms").trim().parse().ok(),
            patterns: patterns(text("match")).ok(),
            configs,
        }
    }

    /// Each pattern covers the whole of what it is about, and all must.
    fn matches(&self, client: TelemetryClient<'_>) -> bool {
        let matches = |(what, pattern): (&&str, &Regex)| match *what {
            "client_instance_id" => pattern.is_match(crate::cluster_id::kafka_text(client.instance).as_bytes()),
            "client_id" => pattern.is_match(client.client_id.as_bytes()),
            "client_source_address" => pattern.is_match(client.address.ip().to_string().as_bytes()),
            "client_source_port" => pattern.is_match(client.address.port().to_string().as_bytes()),
            _ => false,
        };
        self.patterns.as_ref().is_some_and(|patterns| patterns.iter().all(matches))
    }
}

fn together(subscriptions: &[Arc<Subscribed>], client: TelemetryClient<'_>) -> Subscription {
    let mut metrics = BTreeSet::new();
    let mut interval_ms = INTERVAL_MS_DEFAULT;
    for subscribed in subscriptions.iter().filter(|subscribed| subscribed.matches(client)) {
        metrics.extend(subscribed.metrics.iter().cloned());
        interval_ms = interval_ms.min(subscribed.interval_ms.unwrap_or(INTERVAL_MS_DEFAULT));
    }
    if metrics.contains(ALL_METRICS) {
        metrics = BTreeSet::from([ALL_METRICS.to_owned()]);
    }
    let metrics: Vec<String> = metrics.into_iter().collect();
    Subscription { id: id(&metrics, interval_ms, client.instance), metrics, interval_ms }
}

/// CRC-32C of what is subscribed, with the client's id in it, as in Kafka.
fn id(metrics: &[String], interval_ms: i32, instance: Uuid) -> i32 {
    let text = format!("[{}]{interval_ms}", metrics.join(", "));
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes()) as u32;
    let (high, low) = instance.as_u64_pair();
    let both = high ^ low;
    (crc ^ (both >> 32) as u32 ^ both as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_client_without_subscriptions_is_that_of_kafka() {
        // As Apache Kafka 4.3.1 answered to this instance.
        let instance = Uuid::from_u128(0xf40f_6cad_82c8_4198_8e67_a0a7_d637_23d9);
        assert_eq!(id(&[], INTERVAL_MS_DEFAULT, instance) as u32, 0xfa50_f595);
    }

    #[test]
    fn patterns_match_whole_values_and_all_of_them() {
        let client =
            TelemetryClient { instance: Uuid::nil(), client_id: "app-1", address: "10.0.0.7:4711".parse().unwrap() };
        let subscribed = |pattern: &str| Subscribed::new(BTreeMap::from([("match".to_owned(), pattern.to_owned())]));
        let matched = |pattern: &str| subscribed(pattern).matches(client);
        for pattern in [
            "",
            "client_id=app-.*",
            "client_id=app-1,client_source_address=10\\.0\\.0\\.7",
            "client_id=no,client_id=app-1",
        ] {
            assert!(matched(pattern), "{pattern}");
        }
        for pattern in
            ["client_id=app", "client_id=app-1,client_source_port=1", "client_software_name=.*", "client_id=("]
        {
            assert!(!matched(pattern), "{pattern}");
        }
    }
}
