//! Topics as Kafka's clients expect them: names, deletion and re-creation under load, internal topics, limits of time, size
//! and replicas that mean "never".

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{
    Client, TestBroker,
    group::find_coordinator,
    log::{batch, batch_at, create_topic, fetch, fetch_partition, list_offset, now_ms, produce, try_produce, values},
    set,
};
use seawall_protocol::{
    ErrorCode,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, FetchRequest,
        FetchResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        create_topics_response::CreatableTopicResult,
        delete_topics_request::DeleteTopicState,
        fetch_request::FetchTopic,
        metadata_request::MetadataRequestTopic,
        metadata_response::MetadataResponseTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    records::Compression,
};
use uuid::Uuid;

const EARLIEST: i64 = -2;

async fn create(
    client: &mut Client,
    name: &str,
    replication_factor: i16,
    configs: &[(&str, &str)],
) -> CreatableTopicResult {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: -1,
        replication_factor,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() };
    let mut response: CreateTopicsResponse = client.call(7, &request).await;
    response.topics.remove(0)
}

async fn delete(client: &mut Client, name: &str) -> i16 {
    let topic = DeleteTopicState { name: Some(name.into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() };
    let response: DeleteTopicsResponse = client.call(6, &request).await;
    response.responses[0].error_code
}

async fn metadata(client: &mut Client, name: &str, create: bool) -> MetadataResponseTopic {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: create, ..Default::default() };
    let mut response: MetadataResponse = client.call(12, &request).await;
    response.topics.remove(0)
}

/// Names the topic by its id, as clients of today do.
async fn produce_by_id(client: &mut Client, topic: Uuid, batch: Bytes) -> i16 {
    let data = PartitionProduceData { index: 0, records: Some(batch), ..Default::default() };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData { topic_id: topic, partition_data: vec![data], ..Default::default() }],
        ..Default::default()
    };
    let response: ProduceResponse = client.call(13, &request).await;
    response.responses[0].partition_responses[0].error_code
}

/// One fetch of a session that names its topic by id.
async fn fetch_in_session(
    client: &mut Client,
    (session_id, session_epoch): (i32, i32),
    named: Option<(Uuid, i64)>,
) -> FetchResponse {
    let topic = |(topic_id, offset)| FetchTopic {
        topic_id,
        partitions: vec![fetch_partition(0, offset)],
        ..Default::default()
    };
    let request = FetchRequest {
        max_wait_ms: 20,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_id,
        session_epoch,
        topics: named.map(topic).into_iter().collect(),
        ..Default::default()
    };
    client.call(16, &request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_deleted_and_made_again_under_load_shares_nothing_with_its_namesake() {
    let broker = TestBroker::start().await;
    let mut admin = broker.client().await;
    let mut id = create_topic(&mut admin, "t", 1, &[]).await;
    for round in 0..4 {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicUsize::new(0));
        let (mut producer, mut consumer) = (broker.client().await, broker.client().await);
        let producing = tokio::spawn({
            let (stop, acked) = (stop.clone(), acked.clone());
            async move {
                let mut refused = 0;
                while !stop.load(Ordering::Relaxed) {
                    match ErrorCode::try_from(produce_by_id(&mut producer, id, batch(&["old"])).await).unwrap() {
                        ErrorCode::None => _ = acked.fetch_add(1, Ordering::Relaxed),
                        // The batch under way when the topic went may get the second.
                        ErrorCode::UnknownTopicId | ErrorCode::UnknownTopicOrPartition => refused += 1,
                        other => panic!("a producer of a deleted topic gets {other:?}"),
                    }
                }
                refused
            }
        });
        let consuming = tokio::spawn({
            let stop = stop.clone();
            async move {
                let first = fetch_in_session(&mut consumer, (0, 0), Some((id, 0))).await;
                assert_eq!(first.error_code, 0);
                let (session, mut epoch, mut refused) = (first.session_id, 1, 0);
                assert!(session > 0);
                while !stop.load(Ordering::Relaxed) {
                    let next = fetch_in_session(&mut consumer, (session, epoch), None).await;
                    assert_eq!(next.error_code, 0, "the session itself goes on");
                    epoch += 1;
                    for topic in next.responses {
                        assert_eq!(topic.topic_id, id, "a session never turns to the topic's namesake");
                        let code = ErrorCode::try_from(topic.partitions[0].error_code).unwrap();
                        match code {
                            ErrorCode::None => {}
                            ErrorCode::UnknownTopicId | ErrorCode::UnknownTopicOrPartition => refused += 1,
                            other => panic!("a consumer of a deleted topic gets {other:?}"),
                        }
                    }
                }
                refused
            }
        });
        while acked.load(Ordering::Relaxed) < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(delete(&mut admin, "t").await, 0);
        let again = create_topic(&mut admin, "t", 1, &[]).await;
        assert_ne!(again, id);
        let name = format!("new-{round}");
        assert_eq!(produce(&mut admin, "t", batch(&[&name])).await, 0, "its log begins anew");
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.store(true, Ordering::Relaxed);
        assert!(producing.await.unwrap() > 0 && consuming.await.unwrap() > 0, "both were told");
        assert_eq!(values(&fetch(&mut admin, "t", 0).await), [name], "no old record is in the new topic");
        id = again;
    }
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(values(&fetch(&mut client, "t", 0).await), ["new-3"], "nor after a restart");
    broker.stop().await;
}

#[tokio::test]
async fn names_have_up_to_249_characters_and_keep_apart_by_more_than_dots() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let longest = "n".repeat(249);
    assert_eq!(create(&mut client, &longest, 1, &[]).await.error_code, 0);
    produce(&mut client, &longest, batch(&["x"])).await;
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(values(&fetch(&mut client, &longest, 0).await), ["x"]);
    let long = "n".repeat(250);
    let refused = create(&mut client, &long, 1, &[]).await;
    assert_eq!(refused.error_code, ErrorCode::InvalidTopicException.code());
    let words = format!("Topic name is invalid: the length of '{long}' is longer than the max allowed length 249");
    assert_eq!(refused.error_message.unwrap(), words);
    for (name, words) in [
        (".", "Topic name is invalid: '.' is not allowed"),
        ("..", "Topic name is invalid: '..' is not allowed"),
        ("", "Topic name is invalid: the empty string is not allowed"),
    ] {
        let refused = create(&mut client, name, 1, &[]).await;
        assert_eq!(refused.error_code, ErrorCode::InvalidTopicException.code(), "{name}");
        assert_eq!(refused.error_message.unwrap(), words);
    }
    // On demand it is the same.
    assert_eq!(metadata(&mut client, &long, true).await.error_code, ErrorCode::InvalidTopicException.code());
    assert_eq!(create(&mut client, "a.b", 1, &[]).await.error_code, 0);
    assert_ne!(metadata(&mut client, "a_b", true).await.error_code, 0, "it collides with a.b");
    assert_eq!(metadata(&mut client, "a.b", true).await.error_code, 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_names_that_collide_one_is_created_also_when_all_come_at_once() {
    let broker = TestBroker::start().await;
    let (mut one, mut other) = (broker.client().await, broker.client().await);
    for n in 0..10 {
        let (dot, line) = (format!("a.{n}"), format!("a_{n}"));
        let (dot, line) = tokio::join!(create(&mut one, &dot, 1, &[]), create(&mut other, &line, 1, &[]));
        let mut codes = [dot.error_code, line.error_code];
        codes.sort_unstable();
        assert_eq!(codes, [0, ErrorCode::InvalidTopicException.code()], "{dot:?} {line:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_allow_it_creates_nothing() {
    let broker = TestBroker::start_with(|config| {
        set(config, "num.partitions", "3");
        set(config, "default.replication.factor", "2");
    })
    .await;
    let mut client = broker.client().await;
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(metadata(&mut client, "t", false).await.error_code, unknown);
    assert_eq!(metadata(&mut client, "t", false).await.error_code, unknown);
    let created = metadata(&mut client, "t", true).await;
    assert_eq!((created.error_code, created.partitions.len()), (0, 3));
    let by_request = create(&mut client, "u", -1, &[]).await;
    assert_eq!((by_request.num_partitions, by_request.replication_factor), (3, 2), "the broker's defaults");
    broker.stop().await;
}

#[tokio::test]
async fn the_topic_of_group_offsets_is_internal_and_closed_to_producers() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "g").await;
    let topic = metadata(&mut client, "__consumer_offsets", false).await;
    assert!(topic.is_internal && topic.error_code == 0);
    let refused = try_produce(&mut client, "__consumer_offsets", batch_at(Compression::None, &[now_ms()])).await;
    assert_eq!(refused.error_code, ErrorCode::InvalidTopicException.code());
    let made = create(&mut client, "__cluster_metadata", 1, &[]).await;
    assert_eq!(made.error_code, ErrorCode::InvalidRequest.code());
    assert_eq!(made.error_message.unwrap(), "Creation of internal topic __cluster_metadata is prohibited.");
    broker.stop().await;
}

#[tokio::test]
async fn three_copies_and_two_in_sync_are_accepted_and_never_missed() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let created = create(&mut client, "t", 3, &[("min.insync.replicas", "2")]).await;
    assert_eq!((created.error_code, created.replication_factor), (0, 3));
    let configs = created.configs.unwrap();
    let config = configs.iter().find(|config| config.name == "min.insync.replicas").unwrap();
    assert_eq!((config.value.as_deref(), config.config_source), (Some("2"), 1));
    produce(&mut client, "t", batch(&["x"])).await;
    let partition = metadata(&mut client, "t", false).await.partitions.remove(0);
    assert_eq!((partition.error_code, partition.replica_nodes, partition.isr_nodes), (0, vec![1], vec![1]));
    assert!(partition.offline_replicas.is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn retention_of_minus_one_keeps_everything_and_so_does_no_policy() {
    let broker = TestBroker::start_with(|config| {
        set(config, "log.retention.check.interval.ms", "100");
        config.upload.interval = seawall::units::Span::millis(50);
    })
    .await;
    let mut client = broker.client().await;
    let kept: [(&str, &[(&str, &str)]); 3] = [
        ("by-time", &[("retention.ms", "-1")]),
        ("by-size", &[("retention.ms", "-1"), ("retention.bytes", "-1")]),
        ("no-policy", &[("cleanup.policy", ""), ("retention.ms", "1000"), ("retention.bytes", "1")]),
    ];
    for (name, configs) in kept {
        assert_eq!(create(&mut client, name, 1, configs).await.error_code, 0, "{name}");
        produce(&mut client, name, batch_at(Compression::None, &[1_000])).await;
    }
    create_topic(&mut client, "short", 1, &[("retention.ms", "1000")]).await;
    produce(&mut client, "short", batch_at(Compression::None, &[1_000])).await;
    let mut looks = 0;
    while list_offset(&mut client, "short", EARLIEST).await.offset == 0 {
        looks += 1;
        assert!(looks < 200, "a record from 1970 is past a retention of one second");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (name, _) in kept {
        assert_eq!(list_offset(&mut client, name, EARLIEST).await.offset, 0, "{name}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn timestamps_and_sizes_beyond_the_topics_limits_are_refused() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let configs = [
        ("message.timestamp.before.max.ms", "10000"),
        ("message.timestamp.after.max.ms", "20000"),
        ("max.message.bytes", "200"),
    ];
    create_topic(&mut client, "t", 1, &configs).await;
    let (now, invalid) = (now_ms(), ErrorCode::InvalidTimestamp.code());
    for (timestamp_ms, code) in [(now, 0), (now - 60_000, invalid), (now + 60_000, invalid), (now + 5_000, 0)] {
        let answer = try_produce(&mut client, "t", batch_at(Compression::None, &[timestamp_ms])).await;
        assert_eq!(answer.error_code, code, "{}", timestamp_ms - now);
    }
    let long = "x".repeat(300);
    assert_eq!(try_produce(&mut client, "t", batch(&[&long])).await.error_code, ErrorCode::MessageTooLarge.code());
    create_topic(&mut client, "stamped", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let answer = try_produce(&mut client, "stamped", batch_at(Compression::None, &[5])).await;
    assert!(answer.error_code == 0 && answer.log_append_time_ms >= now);
    broker.stop().await;
}
