//! `seawall.ack`: what an ack promises, per topic. Under `backend` nothing is acked or seen before the object store has it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::log::{
    PRODUCE, batch, create_topic, fetch, list_offset, now_ms, produce, produce_request, try_fetch, values,
};
use common::outage::{bring_store_back, objects, take_store_away};
use common::{Client, TestBroker, set};
use seawall::units::Span;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use seawall_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, InitProducerIdRequest, InitProducerIdResponse,
    ProduceResponse,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    describe_configs_request::DescribeConfigsResource,
};
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::Instant;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BACKEND: &[(&str, &str)] = &[("seawall.ack", "backend")];

/// Sends one batch and does not wait for its answer.
async fn send(client: &mut Client, topic: &str, acks: i16, timeout_ms: i32, batch: bytes::Bytes) {
    let mut request = produce_request(topic, 0, batch);
    (request.acks, request.timeout_ms) = (acks, timeout_ms);
    client.send(PRODUCE, &request).await;
}

/// The error and the base offset of the next answer.
async fn answer(client: &mut Client) -> (ErrorCode, i64) {
    let (_, mut response): (_, ProduceResponse) = client.receive(PRODUCE).await.unwrap();
    let answer = response.responses.remove(0).partition_responses.remove(0);
    (ErrorCode::try_from(answer.error_code).unwrap(), answer.base_offset)
}

/// Appended, as far as a moment tells.
async fn appended(broker: &TestBroker, topic: &str, log_end: i64) {
    let partition = broker.node.broker.partitions.by_name(topic, 0).unwrap();
    let began = Instant::now();
    while partition.offsets().log_end < log_end {
        assert!(began.elapsed() < Duration::from_secs(10), "not appended: {:?}", partition.offsets());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn alter(client: &mut Client, kind: i8, name: &str, ack: Option<&str>) -> (ErrorCode, String) {
    let config = AlterableConfig {
        name: "seawall.ack".into(),
        config_operation: i8::from(ack.is_none()),
        value: ack.map(Into::into),
        ..Default::default()
    };
    let (resource_type, configs) = (kind, vec![config]);
    let resource = AlterConfigsResource { resource_type, resource_name: name.into(), configs, ..Default::default() };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let mut response: IncrementalAlterConfigsResponse = client.call(1, &request).await;
    let result = response.responses.remove(0);
    (ErrorCode::try_from(result.error_code).unwrap(), result.error_message.unwrap_or_default())
}

/// Value, source, and the synonyms' names, values and sources.
async fn describe(client: &mut Client, kind: i8, name: &str) -> (String, i8, Vec<(String, String, i8)>) {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configuration_keys: Some(vec!["seawall.ack".into()]),
        ..Default::default()
    };
    let request = DescribeConfigsRequest { resources: vec![resource], include_synonyms: true, ..Default::default() };
    let mut response: DescribeConfigsResponse = client.call(4, &request).await;
    let config = response.results.remove(0).configs.remove(0);
    let synonyms = config.synonyms.into_iter().map(|of| (of.name, of.value.unwrap_or_default(), of.source)).collect();
    (config.value.unwrap(), config.config_source, synonyms)
}

#[tokio::test]
async fn the_class_is_a_config_of_topics_with_a_default_of_the_cluster() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "plain", 1, &[]).await;
    create_topic(&mut client, "safe", 1, BACKEND).await;
    let of = |value: &str, source| ("seawall.ack".to_owned(), value.to_owned(), source);
    assert_eq!(describe(&mut client, TOPIC, "plain").await, ("wal".into(), 5, vec![of("wal", 5)]));
    let safe = describe(&mut client, TOPIC, "safe").await;
    assert_eq!(safe, ("backend".into(), 1, vec![of("backend", 1), of("wal", 5)]));
    let (code, words) = alter(&mut client, TOPIC, "plain", Some("disk")).await;
    assert_eq!(code, ErrorCode::InvalidConfig);
    assert_eq!(words, "Invalid value disk for configuration seawall.ack: String must be one of: wal, backend");
    let topic = CreatableTopic {
        name: "wrong".into(),
        num_partitions: 1,
        replication_factor: 1,
        configs: vec![CreatableTopicConfig {
            name: "seawall.ack".into(),
            value: Some("all".into()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let response: CreateTopicsResponse = client.call(7, &request).await;
    assert_eq!(response.topics[0].error_code, ErrorCode::InvalidConfig.code());

    assert_eq!(alter(&mut client, BROKER, "", Some("backend")).await.0, ErrorCode::None);
    let plain = describe(&mut client, TOPIC, "plain").await;
    assert_eq!(plain, ("backend".into(), 3, vec![of("backend", 3), of("wal", 5)]));
    assert_eq!(describe(&mut client, BROKER, "1").await.0, "backend");
    assert_eq!(alter(&mut client, BROKER, "", None).await.0, ErrorCode::None);
    assert_eq!(describe(&mut client, TOPIC, "plain").await.0, "wal");
    broker.stop().await;
}

#[tokio::test]
async fn under_backend_acks_the_watermark_and_consumers_wait_for_the_store() {
    let broker = TestBroker::start().await;
    let objects = objects(&broker);
    let mut client = broker.client().await;
    create_topic(&mut client, "safe", 1, BACKEND).await;
    create_topic(&mut client, "fast", 1, &[]).await;
    assert_eq!(produce(&mut client, "safe", batch(&["a"])).await, 0);
    let safe = broker.node.broker.partitions.by_name("safe", 0).unwrap();
    assert_eq!((safe.offsets().committed_end, safe.offsets().high_watermark), (1, 1));
    assert_eq!(produce(&mut client, "fast", batch(&["a"])).await, 0);

    take_store_away(&objects);
    for acks in [-1, 1] {
        send(&mut client, "safe", acks, 700, batch(&["b"])).await;
        assert_eq!(answer(&mut client).await, (ErrorCode::RequestTimedOut, -1));
    }
    assert_eq!(produce(&mut client, "fast", batch(&["b"])).await, 1, "the other class goes on");
    assert_eq!(list_offset(&mut client, "safe", -1).await.offset, 1);
    let fetched = try_fetch(&mut client, "safe", 0).await;
    assert_eq!((fetched.high_watermark, fetched.last_stable_offset), (1, 1));
    assert_eq!(values(&common::log::records_of(&fetched)), ["a"]);
    let beyond = try_fetch(&mut client, "safe", 1).await;
    assert_eq!(beyond.error_code, 0, "appended, and not to be seen yet");
    assert!(common::log::records_of(&beyond).is_empty());
    assert_eq!((safe.offsets().log_end, safe.offsets().high_watermark), (3, 1));

    bring_store_back(&objects);
    assert_eq!(produce(&mut client, "safe", batch(&["c"])).await, 3);
    assert_eq!(values(&fetch(&mut client, "safe", 0).await), ["a", "b", "b", "c"]);
    let (_, metrics) = broker.admin("/metrics").await;
    assert!(metrics.contains("seawall_upload_ack_cuts_total") && metrics.contains("seawall_upload_ack_waiting_bytes"));
    broker.stop().await;
}

#[tokio::test]
async fn a_change_of_the_class_is_for_later_records_or_lets_go_what_the_wal_has() {
    let broker = TestBroker::start_with(|config| config.upload.interval = Span::seconds(3600)).await;
    let objects = objects(&broker);
    let (mut client, mut other) = (broker.client().await, broker.client().await);
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(produce(&mut client, "t", batch(&["wal"])).await, 0);
    take_store_away(&objects);
    assert_eq!(alter(&mut other, TOPIC, "t", Some("backend")).await.0, ErrorCode::None);
    assert_eq!(list_offset(&mut other, "t", -1).await.offset, 1, "what was acked stays readable");
    send(&mut client, "t", -1, 15_000, batch(&["waits"])).await;
    appended(&broker, "t", 2).await;
    assert_eq!(list_offset(&mut other, "t", -1).await.offset, 1);
    assert_eq!(alter(&mut other, TOPIC, "t", Some("wal")).await.0, ErrorCode::None);
    assert_eq!(answer(&mut client).await, (ErrorCode::None, 1));
    assert_eq!(list_offset(&mut other, "t", -1).await.offset, 2);
    assert_eq!(produce(&mut client, "t", batch(&["again"])).await, 2);
    assert_eq!(alter(&mut other, TOPIC, "t", Some("backend")).await.0, ErrorCode::None);
    send(&mut client, "t", -1, 15_000, batch(&["safe"])).await;
    appended(&broker, "t", 4).await;
    assert_eq!(list_offset(&mut other, "t", -1).await.offset, 3);
    bring_store_back(&objects);
    assert_eq!(answer(&mut client).await, (ErrorCode::None, 3));
    assert_eq!(broker.node.broker.partitions.by_name("t", 0).unwrap().offsets().committed_end, 4);
    broker.stop().await;
}

#[tokio::test]
async fn a_repeated_batch_is_answered_when_its_original_is_committed() {
    let broker = TestBroker::start().await;
    let objects = objects(&broker);
    let (mut client, mut other) = (broker.client().await, broker.client().await);
    create_topic(&mut client, "safe", 1, BACKEND).await;
    let request =
        InitProducerIdRequest { transactional_id: None, producer_id: -1, producer_epoch: -1, ..Default::default() };
    let given: InitProducerIdResponse = client.call(4, &request).await;
    let numbered = |sequence| {
        let builder = BatchBuilder::new(Compression::None);
        let mut builder = builder.producer(given.producer_id, given.producer_epoch, sequence);
        builder.add(None, Some(b"v"), now_ms(), &[]);
        builder.build()
    };
    take_store_away(&objects);
    send(&mut client, "safe", -1, 500, numbered(0)).await;
    assert_eq!(answer(&mut client).await, (ErrorCode::RequestTimedOut, -1));
    send(&mut other, "safe", -1, 15_000, numbered(0)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(list_offset(&mut client, "safe", -1).await.offset, 0);
    bring_store_back(&objects);
    assert_eq!(answer(&mut other).await, (ErrorCode::None, 0));
    assert_eq!(list_offset(&mut client, "safe", -1).await.offset, 1, "it was appended once");
    send(&mut client, "safe", -1, 15_000, numbered(0)).await;
    assert_eq!(answer(&mut client).await, (ErrorCode::None, 0));
    broker.stop().await;
}

/// They were never acked, and the WAL keeps them all the same: they are uploaded and seen after the start, once.
#[tokio::test]
async fn what_was_not_acked_and_is_in_the_wal_is_seen_when_it_is_committed_after_a_start() {
    let broker = TestBroker::start_with(|config| config.upload.shutdown_wait = Span::millis(100)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "safe", 1, BACKEND).await;
    assert_eq!(produce(&mut client, "safe", batch(&["a"])).await, 0);
    // Not the marker, nor what is asked of a store at a start.
    let objects = objects(&broker).join("seawall").join(broker.node.broker.cluster.0.to_string());
    take_store_away(&objects);
    send(&mut client, "safe", -1, 500, batch(&["b"])).await;
    assert_eq!(answer(&mut client).await, (ErrorCode::RequestTimedOut, -1));
    drop(client);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let partition = broker.node.broker.partitions.by_name("safe", 0).unwrap();
    assert_eq!((partition.offsets().high_watermark, partition.offsets().log_end), (1, 2));
    assert_eq!(list_offset(&mut client, "safe", -1).await.offset, 1);
    assert!(common::log::records_of(&try_fetch(&mut client, "safe", 1).await).is_empty());
    bring_store_back(&objects);
    let began = Instant::now();
    while list_offset(&mut client, "safe", -1).await.offset < 2 {
        assert!(began.elapsed() < Duration::from_secs(40), "not uploaded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(produce(&mut client, "safe", batch(&["c"])).await, 2);
    assert_eq!(values(&fetch(&mut client, "safe", 0).await), ["a", "b", "c"]);
    broker.stop().await;
}

#[tokio::test]
async fn streams_that_do_not_wait_are_not_dragged_into_small_objects() {
    let broker = TestBroker::start_with(|config| config.upload.interval = Span::seconds(3600)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "safe", 1, BACKEND).await;
    create_topic(&mut client, "fast", 1, &[]).await;
    for _ in 0..4 {
        produce(&mut client, "fast", batch(&["f"])).await;
        produce(&mut client, "safe", batch(&["s"])).await;
    }
    let end = |topic: &str| broker.node.broker.partitions.by_name(topic, 0).unwrap().offsets().committed_end;
    assert_eq!((end("safe"), end("fast")), (4, 0));
    assert!(broker.node.broker.uploads.flush().await);
    assert_eq!((end("safe"), end("fast")), (4, 4));
    broker.stop().await;
}

#[tokio::test]
async fn offsets_of_groups_stay_wal_under_another_default() {
    let broker = TestBroker::start_with(|config| set(config, "seawall.ack", "backend")).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(describe(&mut client, TOPIC, "t").await.0, "backend");
    common::group::find_coordinator(&mut client, "g").await;
    assert_eq!(describe(&mut client, TOPIC, "__consumer_offsets").await.0, "wal");
    broker.stop().await;
}
