//! What clients would send of their metrics (KIP-714): the subscriptions that match a client, and their id. Pure.
//!
//! Nothing receives metrics here, so the APIs are not advertised and clients do not ask. Whoever asks all the same is answered
//! as by Kafka without a receiver: metrics are checked and dropped. How often a client asks is not limited, and a pattern on its
//! software matches nobody, as that is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use regex::Regex;
use seawall_metadata::{State, command::ConfigResource};
use uuid::Uuid;

use crate::config_def::list_entries;

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

/// Everything that the subscriptions in metadata ask of a client, together.
pub fn subscription(state: &State, client: TelemetryClient<'_>) -> Subscription {
    let mut metrics = BTreeSet::new();
    let mut interval_ms = INTERVAL_MS_DEFAULT;
    for resource in state.config_resources() {
        let ConfigResource::ClientMetrics { .. } = resource else { continue };
        let Some(configs) = state.configs(resource).filter(|configs| matches(configs, client)) else { continue };
        let named = configs.get("metrics").map_or("", String::as_str);
        metrics.extend(list_entries(named).into_iter().map(str::to_owned));
        if let Some(own) = configs.get("interval.ms").and_then(|value| value.trim().parse().ok()) {
            interval_ms = interval_ms.min(own);
        }
    }
    if metrics.contains(ALL_METRICS) {
        metrics = BTreeSet::from([ALL_METRICS.to_owned()]);
    }
    let metrics: Vec<String> = metrics.into_iter().collect();
    Subscription { id: id(&metrics, interval_ms, client.instance), metrics, interval_ms }
}

/// Each pattern covers the whole of what it is about, and all must.
fn matches(configs: &BTreeMap<String, String>, client: TelemetryClient<'_>) -> bool {
    list_entries(configs.get("match").map_or("", String::as_str)).into_iter().all(|entry| {
        let Some((what, pattern)) = entry.split_once('=') else { return false };
        let value = match what.trim() {
            "client_instance_id" => crate::cluster_id::kafka_text(client.instance),
            "client_id" => client.client_id.to_owned(),
            "client_source_address" => client.address.ip().to_string(),
            "client_source_port" => client.address.port().to_string(),
            _ => return false,
        };
        Regex::new(&format!("^(?:{})$", pattern.trim())).is_ok_and(|pattern| pattern.is_match(&value))
    })
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
        let matched = |pattern: &str| matches(&BTreeMap::from([("match".to_owned(), pattern.to_owned())]), client);
        for pattern in ["", "client_id=app-.*", "client_id=app-1,client_source_address=10\\.0\\.0\\.7"] {
            assert!(matched(pattern), "{pattern}");
        }
        for pattern in
            ["client_id=app", "client_id=app-1,client_source_port=1", "client_software_name=.*", "client_id=("]
        {
            assert!(!matched(pattern), "{pattern}");
        }
    }
}
