//! Configs of brokers, groups, client metrics and loggers: described, changed and refused as in Kafka, and what a dynamic
//! change does at once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{
    Client, TestBroker,
    log::{batch, create_topic, produce, try_produce},
    set,
};
use seawall_protocol::{
    ErrorCode,
    messages::{
        ApiVersionsRequest, ApiVersionsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
        ListConfigResourcesResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    },
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

/// Changes one config; the code and words of the answer.
async fn alter(
    client: &mut Client,
    (kind, name): (i8, &str),
    operation: i8,
    key: &str,
    value: Option<&str>,
) -> (ErrorCode, String) {
    let config = AlterableConfig {
        name: key.into(),
        config_operation: operation,
        value: value.map(Into::into),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: vec![config],
        ..Default::default()
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let mut response: IncrementalAlterConfigsResponse = client.call(1, &request).await;
    let result = response.responses.remove(0);
    (ErrorCode::try_from(result.error_code).unwrap(), result.error_message.unwrap_or_default())
}

async fn accepted(client: &mut Client, resource: (i8, &str), operation: i8, key: &str, value: Option<&str>) {
    let answer = alter(client, resource, operation, key, value).await;
    assert_eq!(answer, (ErrorCode::None, String::new()), "{key} = {value:?}");
}

async fn try_describe(
    client: &mut Client,
    (kind, name): (i8, &str),
) -> Result<Vec<DescribeConfigsResourceResult>, (i16, String)> {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configuration_keys: None,
            ..Default::default()
        }],
        include_synonyms: true,
        include_documentation: true,
        ..Default::default()
    };
    let mut response: DescribeConfigsResponse = client.call(4, &request).await;
    let result = response.results.remove(0);
    match result.error_code {
        0 => Ok(result.configs),
        code => Err((code, result.error_message.unwrap_or_default())),
    }
}

async fn describe(client: &mut Client, resource: (i8, &str)) -> Vec<DescribeConfigsResourceResult> {
    try_describe(client, resource).await.unwrap()
}

/// Value and source of one config.
async fn value(client: &mut Client, resource: (i8, &str), key: &str) -> (Option<String>, i8) {
    let configs = describe(client, resource).await;
    let config = configs.into_iter().find(|config| config.name == key);
    let config = config.unwrap_or_else(|| panic!("{key} is described"));
    (config.value, config.config_source)
}

fn is(value: &str, source: i8) -> (Option<String>, i8) {
    (Some(value.into()), source)
}

#[tokio::test]
async fn every_config_of_kafka_is_described_with_type_and_documentation() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let configs = describe(&mut client, (BROKER, "1")).await;
    assert_eq!(configs.len(), 341, "as many as Apache Kafka 4.3 describes, and seawall.ack");
    for config in &configs {
        assert!((1..=9).contains(&config.config_type), "{}", config.name);
        assert!(config.documentation.as_deref().is_some_and(|text| !text.is_empty()), "{}", config.name);
    }
    let find = |name: &str| configs.iter().find(|config| config.name == name).unwrap();
    let fetch = find("fetch.max.bytes");
    assert_eq!((fetch.value.as_deref(), fetch.read_only, fetch.config_source), (Some("57671680"), true, 5));
    let message = find("message.max.bytes");
    assert_eq!((message.value.as_deref(), message.read_only, message.config_type), (Some("1048588"), false, 3));
    let password = find("ssl.key.password");
    assert_eq!((password.value.as_deref(), password.is_sensitive, password.config_type), (None, true, 9));
    assert_eq!(find("node.id").value.as_deref(), Some("1"));
    let listeners = find("listeners").value.clone().unwrap();
    assert_eq!(listeners, format!("PLAINTEXT://{}", broker.address()));
    assert!(!configs.iter().any(|config| config.name == "leader.replication.throttled.rate"), "only where it is set");
    broker.stop().await;
}

#[tokio::test]
async fn a_dynamic_value_of_the_broker_comes_before_that_of_all_before_the_file() {
    let broker = TestBroker::start_with(|config| set(config, "message.max.bytes", "3000")).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let key = "message.max.bytes";
    let long = "x".repeat(2500);
    assert_eq!(value(&mut client, (BROKER, "1"), key).await, is("3000", 4));
    produce(&mut client, "t", batch(&[&long])).await;

    accepted(&mut client, (BROKER, ""), SET, key, Some("2000")).await;
    assert_eq!(value(&mut client, (BROKER, "1"), key).await, is("2000", 3));
    assert_eq!(value(&mut client, (BROKER, ""), key).await, is("2000", 3));
    assert_eq!(value(&mut client, (TOPIC, "t"), "max.message.bytes").await, is("2000", 3));
    let refused = try_produce(&mut client, "t", batch(&[&long])).await;
    assert_eq!(refused.error_code, ErrorCode::MessageTooLarge.code(), "the change counts at once");

    accepted(&mut client, (BROKER, "1"), SET, key, Some("4000")).await;
    let configs = describe(&mut client, (BROKER, "1")).await;
    let config = configs.iter().find(|config| config.name == key).unwrap();
    let synonyms: Vec<_> = config.synonyms.iter().map(|s| (s.value.as_deref().unwrap(), s.source)).collect();
    assert_eq!(synonyms, [("4000", 2), ("2000", 3), ("3000", 4), ("1048588", 5)]);
    produce(&mut client, "t", batch(&[&long])).await;

    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(value(&mut client, (BROKER, "1"), key).await, is("4000", 2), "it outlives a restart");
    accepted(&mut client, (BROKER, "1"), DELETE, key, None).await;
    accepted(&mut client, (BROKER, ""), DELETE, key, None).await;
    assert_eq!(value(&mut client, (TOPIC, "t"), "max.message.bytes").await, is("3000", 4));
    broker.stop().await;
}

#[tokio::test]
async fn the_limit_on_connections_changes_at_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    accepted(&mut client, (BROKER, ""), SET, "max.connections", Some("2")).await;
    let mut second = broker.client().await;
    assert_eq!(value(&mut second, (BROKER, "1"), "max.connections").await, is("2", 3));
    let mut third = broker.client().await;
    third.closed().await;
    accepted(&mut client, (BROKER, ""), DELETE, "max.connections", None).await;
    let mut third = broker.client().await;
    describe(&mut third, (BROKER, "")).await;
    accepted(&mut client, (BROKER, "1"), SET, "max.connections.per.ip.overrides", Some("127.0.0.1:3")).await;
    let mut fourth = broker.client().await;
    fourth.closed().await;
    broker.stop().await;
}

#[tokio::test]
async fn connections_above_the_creation_rate_wait_and_are_served() {
    // Two windows of a second: what comes within one second counts as the rate of that second.
    let broker = TestBroker::start_with(|config| set(config, "quota.window.num", "2")).await;
    let mut client = broker.client().await;
    let connect_all = async |count: usize| {
        let began = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(broker.client().await);
        }
        for client in &mut clients {
            let response: ApiVersionsResponse = client.call(0, &ApiVersionsRequest::default()).await;
            assert_eq!(response.error_code, 0, "none is refused");
        }
        began.elapsed()
    };
    let throttled = async || {
        let (_, metrics) = broker.admin("/metrics").await;
        let line = "seawall_quota_throttled_total{quota=\"max.connection.creation.rate\"} ";
        metrics.lines().find_map(|metric| metric.strip_prefix(line)).map_or(0, |count| count.parse::<u64>().unwrap())
    };
    connect_all(20).await;
    assert_eq!(throttled().await, 0, "there is no limit");
    for name in ["max.connection.creation.rate", "listener.name.plaintext.max.connection.creation.rate"] {
        let before = throttled().await;
        accepted(&mut client, (BROKER, "1"), SET, name, Some("10")).await;
        let took = connect_all(15).await;
        // Ten at once, and then ten a second.
        assert!(took >= Duration::from_millis(300), "{name}: 15 connections in {took:?}");
        assert!(throttled().await > before, "{name}");
        accepted(&mut client, (BROKER, "1"), DELETE, name, None).await;
    }
    broker.stop().await;
}

/// Resource, operation, key, value; code and words of the answer.
type Refusal = ((i8, &'static str), i8, &'static str, &'static str, ErrorCode, &'static str);

#[tokio::test]
async fn changes_that_kafka_refuses_are_refused_with_its_codes_and_words() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let cases: &[Refusal] = &[
        (
            (BROKER, "1"),
            SET,
            "fetch.max.bytes",
            "2000",
            ErrorCode::InvalidRequest,
            "Cannot update these configs dynamically: [fetch.max.bytes]",
        ),
        (
            (BROKER, ""),
            SET,
            "log.retention.ms",
            "soon",
            ErrorCode::InvalidRequest,
            "Invalid value soon for configuration log.retention.ms: Not a number of type LONG",
        ),
        (
            (BROKER, ""),
            SET,
            "max.connections.per.ip.overrides",
            "10.0.0.7=5",
            ErrorCode::InvalidRequest,
            "Invalid value 10.0.0.7=5 for configuration max.connections.per.ip.overrides: '10.0.0.7=5' is not ADDRESS:COUNT",
        ),
        ((BROKER, "7"), SET, "a", "b", ErrorCode::InvalidRequest, "Unexpected broker id, expected 1, but received 7"),
        ((BROKER, "x"), SET, "a", "b", ErrorCode::InvalidRequest, "Node id must be an integer, but it is: x"),
        (
            (BROKER, "1"),
            APPEND,
            "message.max.bytes",
            "1",
            ErrorCode::InvalidConfig,
            "Config value append is not allowed for config key: message.max.bytes",
        ),
        ((TOPIC, "none"), SET, "a", "b", ErrorCode::UnknownTopicOrPartition, "The topic 'none' does not exist."),
        ((TOPIC, "t"), SET, "colour", "red", ErrorCode::InvalidConfig, "Unknown topic config name: colour"),
        (
            (TOPIC, "t"),
            APPEND,
            "retention.ms",
            "1",
            ErrorCode::InvalidConfig,
            "Can't APPEND to key retention.ms because its type is not LIST.",
        ),
        (
            (TOPIC, "t"),
            SET,
            "cleanup.policy",
            "delete,delete",
            ErrorCode::InvalidConfig,
            "Configuration 'cleanup.policy' values must not be duplicated.",
        ),
        ((TOPIC, "t"), SET, "min.compaction.lag.ms", "9223372036854775807", ErrorCode::None, ""),
        (
            (TOPIC, "t"),
            SET,
            "max.compaction.lag.ms",
            "5",
            ErrorCode::InvalidConfig,
            "conflict topic config setting min.compaction.lag.ms (9223372036854775807) > max.compaction.lag.ms (5)",
        ),
        ((GROUP, "g"), SET, "colour", "red", ErrorCode::InvalidConfig, "Unknown group config name: colour"),
        ((GROUP, ""), SET, "a", "b", ErrorCode::InvalidRequest, "Default group resources are not allowed."),
        (
            (CLIENT_METRICS, "m"),
            SET,
            "interval.ms",
            "5",
            ErrorCode::InvalidRequest,
            "Invalid value 5 for interval.ms, interval must be between 100 and 3600000 (1 hour)",
        ),
        (
            (CLIENT_METRICS, "m"),
            SET,
            "match",
            "client_id=(",
            ErrorCode::InvalidConfig,
            "Illegal client matching pattern: client_id=(",
        ),
        ((LOGGER, "1"), SET, "kafka", "INFO", ErrorCode::InvalidConfig, "Logger kafka does not exist!"),
        ((3, "x"), SET, "a", "b", ErrorCode::InvalidRequest, "Unknown resource type 3"),
    ];
    for (resource, operation, key, value, code, message) in cases {
        let answer = alter(&mut client, *resource, *operation, key, Some(value)).await;
        assert_eq!(answer, (*code, (*message).to_owned()), "{resource:?} {key}");
    }
    let metrics = (CLIENT_METRICS, "long");
    accepted(&mut client, metrics, SET, "metrics", Some(&"x".repeat(20_000))).await;
    let answer = alter(&mut client, metrics, APPEND, "metrics", Some(&"y".repeat(20_000))).await;
    let words = "The configuration value cannot be added because it exceeds the maximum value size of 32767 bytes.";
    assert_eq!(answer, (ErrorCode::InvalidConfig, words.to_owned()));
    broker.stop().await;
}

#[tokio::test]
async fn broker_configs_that_kafka_does_not_know_are_kept_and_their_values_shown_to_nobody() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    accepted(&mut client, (BROKER, "1"), SET, "plugin.secret", Some("s")).await;
    let configs = describe(&mut client, (BROKER, "1")).await;
    let config = configs.iter().find(|config| config.name == "plugin.secret").unwrap();
    assert_eq!((config.value.as_deref(), config.is_sensitive, config.config_source), (None, true, 2));
    accepted(&mut client, (BROKER, "1"), SET, "listener.name.tls.ssl.key.password", Some("s")).await;
    let configs = describe(&mut client, (BROKER, "1")).await;
    let config = configs.iter().find(|config| config.name == "listener.name.tls.ssl.key.password").unwrap();
    assert_eq!((config.value.as_deref(), config.is_sensitive, config.config_type), (None, true, 9));
    broker.stop().await;
}

#[tokio::test]
async fn of_many_appends_at_once_none_is_lost() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let key = "leader.replication.throttled.replicas";
    let mut appends = Vec::new();
    for n in 0..12 {
        let mut client = broker.client().await;
        appends.push(tokio::spawn(async move {
            accepted(&mut client, (TOPIC, "t"), APPEND, key, Some(&format!("{n}:1"))).await;
        }));
    }
    for append in appends {
        append.await.unwrap();
    }
    let (value, _) = value(&mut client, (TOPIC, "t"), key).await;
    let mut entries: Vec<String> = value.unwrap().split(',').map(str::to_owned).collect();
    entries.sort_by_key(|entry| entry.trim_end_matches(":1").parse::<u32>().unwrap());
    assert_eq!(entries, (0..12).map(|n| format!("{n}:1")).collect::<Vec<_>>());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn configs_that_contradict_each_other_are_not_both_taken_when_they_come_at_once() {
    let broker = TestBroker::start().await;
    let (mut one, mut other) = (broker.client().await, broker.client().await);
    for n in 0..10 {
        let topic = format!("t{n}");
        create_topic(&mut one, &topic, 1, &[]).await;
        let (min, max) = tokio::join!(
            alter(&mut one, (TOPIC, &topic), SET, "min.compaction.lag.ms", Some("10")),
            alter(&mut other, (TOPIC, &topic), SET, "max.compaction.lag.ms", Some("5")),
        );
        let words = "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)";
        let refused = (ErrorCode::InvalidConfig, words.to_owned());
        let taken = (ErrorCode::None, String::new());
        assert!([(&min, &max), (&max, &min)].contains(&(&taken, &refused)), "{min:?} {max:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn groups_and_client_metrics_have_configs_and_are_listed() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let key = "consumer.session.timeout.ms";
    assert_eq!(value(&mut client, (GROUP, "g"), key).await, is("45000", 5));
    accepted(&mut client, (GROUP, "g"), SET, key, Some("50000")).await;
    assert_eq!(value(&mut client, (GROUP, "g"), key).await, is("50000", 8));
    assert_eq!(value(&mut client, (CLIENT_METRICS, "m"), "interval.ms").await, is("300000", 5));
    accepted(&mut client, (CLIENT_METRICS, "m"), SET, "metrics", Some("org.apache.kafka.producer.")).await;
    accepted(&mut client, (CLIENT_METRICS, "m"), APPEND, "metrics", Some("org.apache.kafka.consumer.")).await;
    assert_eq!(
        value(&mut client, (CLIENT_METRICS, "m"), "metrics").await,
        is("org.apache.kafka.producer.,org.apache.kafka.consumer.", 7)
    );
    let list = async |client: &mut Client, version: i16, kinds: &[i8]| -> Vec<(i8, String)> {
        let request = ListConfigResourcesRequest { resource_types: kinds.to_vec(), ..Default::default() };
        let response: ListConfigResourcesResponse = client.call(version, &request).await;
        assert_eq!(response.error_code, 0);
        response.config_resources.into_iter().map(|r| (r.resource_type, r.resource_name)).collect()
    };
    assert_eq!(list(&mut client, 1, &[GROUP]).await, [(GROUP, "g".into())]);
    assert_eq!(
        list(&mut client, 1, &[CLIENT_METRICS, BROKER]).await,
        [(BROKER, "1".into()), (CLIENT_METRICS, "m".into())]
    );
    assert_eq!(list(&mut client, 0, &[]).await.len(), 1, "version 0 lists client metrics");
    accepted(&mut client, (CLIENT_METRICS, "m"), DELETE, "metrics", None).await;
    assert_eq!(list(&mut client, 1, &[CLIENT_METRICS]).await, [], "one without configs is gone");
    broker.stop().await;
}

#[tokio::test]
async fn there_are_a_hundred_subscriptions_to_client_metrics_at_most() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let metrics = ("metrics", Some("a."));
    for n in 0..100 {
        accepted(&mut client, (CLIENT_METRICS, &format!("m{n}")), SET, metrics.0, metrics.1).await;
    }
    let (code, message) = alter(&mut client, (CLIENT_METRICS, "more"), SET, metrics.0, metrics.1).await;
    assert_eq!(code, ErrorCode::PolicyViolation, "{message}");
    accepted(&mut client, (CLIENT_METRICS, "m5"), SET, "interval.ms", Some("100")).await;
    accepted(&mut client, (CLIENT_METRICS, "m7"), DELETE, metrics.0, None).await;
    accepted(&mut client, (CLIENT_METRICS, "more"), SET, metrics.0, metrics.1).await;
    broker.stop().await;
}

#[tokio::test]
async fn loggers_are_described_and_changed() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let (kind, source) = (LOGGER, 6);
    assert_eq!(value(&mut client, (kind, "1"), "seawall.upload_plan").await.1, source);
    accepted(&mut client, (kind, "1"), SET, "seawall.upload_plan", Some("TRACE")).await;
    assert_eq!(value(&mut client, (kind, "1"), "seawall.upload_plan").await, is("TRACE", source));
    accepted(&mut client, (kind, "1"), DELETE, "seawall.upload_plan", None).await;
    let (code, message) = try_describe(&mut client, (kind, "")).await.unwrap_err();
    assert_eq!((code, message.as_str()), (ErrorCode::InvalidRequest.code(), "Broker id must not be empty"));
    broker.stop().await;
}
