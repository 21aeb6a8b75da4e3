//! Topics are created, grown, described and deleted, and refused with Kafka's codes and words.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Client, TestBroker, set};
use seawall_protocol::{
    ErrorCode,
    messages::{
        CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
        DeleteTopicsRequest, DeleteTopicsResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        MetadataRequest, MetadataResponse,
        create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
        create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
        create_topics_response::CreatableTopicResult,
        delete_topics_request::DeleteTopicState,
        describe_topic_partitions_request::{Cursor, TopicRequest},
        metadata_request::MetadataRequestTopic,
    },
};
use uuid::Uuid;

fn topic(name: &str) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions: 1, replication_factor: 1, ..Default::default() }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignment = |(partition_index, brokers): &(i32, &[i32])| CreatableReplicaAssignment {
        partition_index: *partition_index,
        broker_ids: brokers.to_vec(),
        ..Default::default()
    };
    let assignments = assignments.iter().map(assignment).collect();
    CreatableTopic { num_partitions: -1, replication_factor: -1, assignments, ..topic(name) }
}

async fn create(client: &mut Client, topics: Vec<CreatableTopic>, validate_only: bool) -> Vec<CreatableTopicResult> {
    let request = CreateTopicsRequest { topics, timeout_ms: 5000, validate_only, ..Default::default() };
    let response: CreateTopicsResponse = client.call(7, &request).await;
    response.topics
}

async fn exists(client: &mut Client, name: &str) -> bool {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
    let response: MetadataResponse = client.call(12, &request).await;
    response.topics[0].error_code == 0
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_with_kafkas_words() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    assert_eq!(create(&mut client, vec![topic("a.b")], false).await[0].error_code, 0);
    let config = CreatableTopicConfig { name: "no.such".into(), value: Some("1".into()), ..Default::default() };
    let null = CreatableTopicConfig { name: "retention.ms".into(), value: None, ..Default::default() };
    let cases = [
        (topic("a.b"), ErrorCode::TopicAlreadyExists, "Topic 'a.b' already exists."),
        (topic("a_b"), ErrorCode::InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b"),
        (topic(".."), ErrorCode::InvalidTopicException, "Topic name is invalid: '..' is not allowed"),
        (
            CreatableTopic { num_partitions: 0, ..topic("t") },
            ErrorCode::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            CreatableTopic { replication_factor: 0, ..topic("t") },
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            CreatableTopic { num_partitions: 10_001, ..topic("t") },
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.",
        ),
        (
            CreatableTopic { configs: vec![config], ..topic("t") },
            ErrorCode::InvalidConfig,
            "Unknown topic config name: no.such",
        ),
        (
            CreatableTopic { configs: vec![null], ..topic("t") },
            ErrorCode::InvalidConfig,
            "Null value not supported for topic configs: retention.ms",
        ),
        (
            assigned("t", &[(0, &[1]), (2, &[1])]),
            ErrorCode::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            assigned("t", &[(0, &[7])]),
            ErrorCode::InvalidReplicaAssignment,
            "The manual partition assignment includes broker 7, but no such broker is registered.",
        ),
        (
            assigned("t", &[(0, &[1, 1])]),
            ErrorCode::InvalidReplicaAssignment,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            CreatableTopic { num_partitions: 1, ..assigned("t", &[(0, &[1])]) },
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
    ];
    for (asked, code, message) in cases {
        let result = create(&mut client, vec![asked], false).await.remove(0);
        assert_eq!((result.error_code, result.error_message.as_deref()), (code.code(), Some(message)));
    }
    let twice = create(&mut client, vec![topic("twice"), topic("once"), topic("twice")], false).await;
    let codes: Vec<_> = twice.iter().map(|result| (result.name.as_str(), result.error_code)).collect();
    assert_eq!(codes, [("twice", ErrorCode::InvalidRequest.code()), ("once", 0)]);
    assert!(!exists(&mut client, "t").await && !exists(&mut client, "twice").await);
    broker.stop().await;
}

#[tokio::test]
async fn validation_creates_nothing_and_answers_as_creation_would() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let result = create(&mut client, vec![topic("t")], true).await.remove(0);
    assert_eq!((result.error_code, result.num_partitions, result.topic_id), (0, 1, Uuid::nil()));
    assert!(result.configs.unwrap().iter().any(|config| config.name == "retention.ms" && config.config_source == 5));
    assert!(!exists(&mut client, "t").await);
    let result = create(&mut client, vec![assigned("t", &[(0, &[1]), (1, &[1])])], false).await.remove(0);
    assert_eq!((result.error_code, result.num_partitions, result.replication_factor), (0, 2, 1));
    broker.stop().await;
}

#[tokio::test]
async fn topics_are_deleted_by_name_or_id_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let created = create(&mut client, vec![topic("by-name"), topic("by-id"), topic("stays")], false).await;
    let by_id = created[1].topic_id;
    let state =
        |name: Option<&str>, topic_id| DeleteTopicState { name: name.map(Into::into), topic_id, ..Default::default() };
    let topics = vec![
        state(Some("by-name"), Uuid::nil()),
        state(None, by_id),
        state(Some("unknown"), Uuid::nil()),
        state(None, Uuid::from_u128(7)),
        state(Some("stays"), by_id),
        state(None, Uuid::nil()),
        state(Some("twice"), Uuid::nil()),
        state(Some("twice"), Uuid::nil()),
    ];
    let request = DeleteTopicsRequest { topics, timeout_ms: 5000, ..Default::default() };
    let response: DeleteTopicsResponse = client.call(6, &request).await;
    let codes: Vec<_> = response.responses.iter().map(|result| result.error_code).collect();
    let invalid = ErrorCode::InvalidRequest.code();
    let (no_name, no_id) = (ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::UnknownTopicId.code());
    assert_eq!(codes, [0, 0, no_name, no_id, invalid, invalid, invalid]);
    assert_eq!(response.responses[1].name.as_deref(), Some("by-id"));
    assert!(!exists(&mut client, "by-name").await && !exists(&mut client, "by-id").await);
    assert!(exists(&mut client, "stays").await);
    // A topic made again under the same name is another one.
    let again = create(&mut client, vec![topic("by-id")], false).await;
    assert_ne!(again[0].topic_id, by_id);
    broker.stop().await;
}

#[tokio::test]
async fn deletion_can_be_switched_off() {
    let broker = TestBroker::start_with(|config| set(config, "delete.topic.enable", "false")).await;
    let mut client = broker.client().await;
    create(&mut client, vec![topic("t")], false).await;
    for (version, code) in [(1, ErrorCode::InvalidRequest), (5, ErrorCode::TopicDeletionDisabled)] {
        let request = DeleteTopicsRequest { topic_names: vec!["t".into()], timeout_ms: 5000, ..Default::default() };
        let response: DeleteTopicsResponse = client.call(version, &request).await;
        assert_eq!(response.responses[0].error_code, code.code());
    }
    assert!(exists(&mut client, "t").await);
    broker.stop().await;
}

#[tokio::test]
async fn partitions_are_added_and_never_taken_away() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create(&mut client, vec![topic("t")], false).await;
    let grow = |name: &str, count, assigned: Option<usize>| CreatePartitionsTopic {
        name: name.into(),
        count,
        assignments: assigned
            .map(|n| vec![CreatePartitionsAssignment { broker_ids: vec![1], ..Default::default() }; n]),
        ..Default::default()
    };
    let cases = [
        (grow("t", 1, None), ErrorCode::InvalidPartitions),
        (grow("t", 0, None), ErrorCode::InvalidPartitions),
        (grow("none", 3, None), ErrorCode::UnknownTopicOrPartition),
        (grow("t", 3, Some(1)), ErrorCode::InvalidReplicaAssignment),
        (grow("t", 3, Some(2)), ErrorCode::None),
        (grow("t", 5, None), ErrorCode::None),
    ];
    for (asked, code) in cases {
        let request = CreatePartitionsRequest { topics: vec![asked], timeout_ms: 5000, ..Default::default() };
        let response: CreatePartitionsResponse = client.call(3, &request).await;
        assert_eq!(response.results[0].error_code, code.code(), "{:?}", response.results[0].error_message);
    }
    let response: MetadataResponse = client.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_eq!(response.topics[0].partitions.len(), 5);
    broker.stop().await;
}

#[tokio::test]
async fn internal_topics_keep_their_number_of_partitions() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let created = create(&mut client, vec![topic("__consumer_offsets")], false).await;
    assert_eq!(created[0].error_code, 0, "{:?}", created[0].error_message);
    for validate_only in [true, false] {
        let asked = CreatePartitionsTopic { name: "__consumer_offsets".into(), count: 3, ..Default::default() };
        let request =
            CreatePartitionsRequest { topics: vec![asked], timeout_ms: 5000, validate_only, ..Default::default() };
        let response: CreatePartitionsResponse = client.call(3, &request).await;
        assert_eq!(response.results[0].error_code, ErrorCode::InvalidRequest.code());
    }
    let response: MetadataResponse = client.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_eq!(response.topics[0].partitions.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn partitions_are_described_page_by_page() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    for (name, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
        let topic = CreatableTopic { num_partitions: partitions, ..topic(name) };
        create(&mut client, vec![topic], false).await;
    }
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    for page in 0.. {
        assert!(page < 10, "the cursor moves on");
        let request =
            DescribeTopicPartitionsRequest { response_partition_limit: 3, cursor: cursor.take(), ..Default::default() };
        let response: DescribeTopicPartitionsResponse = client.call(0, &request).await;
        let mut count = 0;
        for topic in response.topics {
            assert_eq!(topic.error_code, 0);
            for partition in topic.partitions {
                seen.push(format!("{}{}", topic.name.as_deref().unwrap(), partition.partition_index));
                count += 1;
            }
        }
        assert!(count <= 3);
        let Some(next) = response.next_cursor else { break };
        cursor =
            Some(Cursor { topic_name: next.topic_name, partition_index: next.partition_index, ..Default::default() });
    }
    assert_eq!(seen, ["a0", "a1", "a2", "b0", "c0", "c1", "c2", "c3"]);
    let named = |name: &str| TopicRequest { name: name.into(), ..Default::default() };
    let request = DescribeTopicPartitionsRequest {
        topics: vec![named("zz"), named("b"), named("not valid")],
        response_partition_limit: 100,
        ..Default::default()
    };
    let response: DescribeTopicPartitionsResponse = client.call(0, &request).await;
    let codes: Vec<_> =
        response.topics.iter().map(|topic| (topic.name.as_deref().unwrap(), topic.error_code)).collect();
    let (unknown, invalid) = (ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::InvalidTopicException.code());
    assert_eq!(codes, [("b", 0), ("not valid", invalid), ("zz", unknown)]);
    broker.stop().await;
}
