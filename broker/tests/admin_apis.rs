//! What tools of an operator ask of a node on its own: producers, log directories, reassignments, elections, the quorum,
//! features, transactions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Client, TestBroker, log};
use seawall_metadata::command::METADATA_LEVEL;
use seawall_protocol::{
    ErrorCode,
    messages::{
        alter_configs_request::{AlterConfigsResource, AlterableConfig},
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic},
        elect_leaders_request::TopicPartitions,
        produce_request::{PartitionProduceData, TopicProduceData},
        update_features_request::FeatureUpdateKey,
        *,
    },
    records::{BatchBuilder, Compression},
};

const TOPIC: &str = "orders";

async fn with_topic() -> (TestBroker, Client) {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    log::create_topic(&mut client, TOPIC, 2, &[]).await;
    (broker, client)
}

/// One batch of an idempotent producer.
async fn produce(client: &mut Client, producer_id: i64, base_sequence: i32, records: i64) {
    let mut batch = BatchBuilder::new(Compression::None).producer(producer_id, 3, base_sequence);
    for record in 0..records {
        batch.add(None, Some(&[7; 100]), 1_000 + record, &[]);
    }
    let partition = PartitionProduceData { index: 0, records: Some(batch.build()), ..Default::default() };
    let topic = TopicProduceData { name: TOPIC.into(), partition_data: vec![partition], ..Default::default() };
    let request = ProduceRequest { acks: -1, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
    let response: ProduceResponse = client.call(9, &request).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

#[tokio::test]
async fn producers_are_described_with_their_last_sequence_and_time() {
    let (broker, mut client) = with_topic().await;
    produce(&mut client, 42, 0, 5).await;
    produce(&mut client, 42, 5, 2).await;
    let ask = |name: &str, partition_indexes: Vec<i32>| DescribeProducersRequest {
        topics: vec![describe_producers_request::TopicRequest {
            name: name.into(),
            partition_indexes,
            ..Default::default()
        }],
        ..Default::default()
    };
    let response: DescribeProducersResponse = client.call(0, &ask(TOPIC, vec![0, 1, 2])).await;
    let partitions = &response.topics[0].partitions;
    let producer = &partitions[0].active_producers[0];
    assert_eq!((producer.producer_id, producer.producer_epoch, producer.last_sequence), (42, 3, 6));
    assert_eq!(
        (producer.last_timestamp, producer.coordinator_epoch, producer.current_txn_start_offset),
        (1_001, -1, -1)
    );
    assert_eq!((partitions[1].error_code, partitions[1].active_producers.len()), (0, 0));
    assert_eq!(partitions[2].error_code, ErrorCode::UnknownTopicOrPartition.code());
    let response: DescribeProducersResponse = client.call(0, &ask("no/name", vec![0])).await;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::InvalidTopicException.code());
    broker.stop().await;
}

#[tokio::test]
async fn the_data_folder_is_the_one_log_directory_and_partitions_have_the_size_of_their_logs() {
    let (broker, mut client) = with_topic().await;
    produce(&mut client, 42, 0, 50).await;
    let all = DescribeLogDirsRequest { topics: None, ..Default::default() };
    let response: DescribeLogDirsResponse = client.call(5, &all).await;
    let [dir] = &response.results[..] else { panic!("{response:?}") };
    let sizes: Vec<(i32, i64)> = dir.topics[0]
        .partitions
        .iter()
        .map(|partition| (partition.partition_index, partition.partition_size))
        .collect();
    assert!(sizes[0].1 > 5_000 && sizes[1] == (1, 0), "{sizes:?}");
    assert!(dir.total_bytes > dir.usable_bytes && dir.usable_bytes > 0, "{dir:?}");
    let none = DescribeLogDirsRequest { topics: Some(vec![]), ..Default::default() };
    let response: DescribeLogDirsResponse = client.call(5, &none).await;
    assert_eq!(response.results[0].topics, []);

    let own = dir.log_dir.clone();
    let alter = |path: &str| AlterReplicaLogDirsRequest {
        dirs: vec![AlterReplicaLogDir {
            path: path.into(),
            topics: vec![AlterReplicaLogDirTopic { name: TOPIC.into(), partitions: vec![0, 9], ..Default::default() }],
            ..Default::default()
        }],
        ..Default::default()
    };
    for (path, expected) in [
        (own.as_str(), [ErrorCode::None, ErrorCode::ReplicaNotAvailable]),
        ("/elsewhere", [ErrorCode::LogDirNotFound, ErrorCode::LogDirNotFound]),
    ] {
        let response: AlterReplicaLogDirsResponse = client.call(2, &alter(path)).await;
        let codes: Vec<i16> = response.results[0].partitions.iter().map(|partition| partition.error_code).collect();
        assert_eq!(codes, expected.map(|code| code.code()), "{path}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_partition_can_be_reassigned_to_where_it_is_and_nowhere_else() {
    let (broker, mut client) = with_topic().await;
    let node = broker.node.broker.registration.node.0;
    let cases: [(&str, i32, Option<Vec<i32>>, ErrorCode); 7] = [
        (TOPIC, 0, Some(vec![node]), ErrorCode::None),
        (TOPIC, 0, Some(vec![node, node]), ErrorCode::InvalidReplicaAssignment),
        (TOPIC, 0, Some(vec![node, node + 1]), ErrorCode::InvalidReplicaAssignment),
        (TOPIC, 0, Some(vec![]), ErrorCode::InvalidReplicaAssignment),
        (TOPIC, 0, None, ErrorCode::NoReassignmentInProgress),
        (TOPIC, 5, Some(vec![node]), ErrorCode::UnknownTopicOrPartition),
        ("nothing", 0, Some(vec![node]), ErrorCode::UnknownTopicOrPartition),
    ];
    for (topic, index, replicas, expected) in cases {
        let partition = ReassignablePartition { partition_index: index, replicas, ..Default::default() };
        let request = AlterPartitionReassignmentsRequest {
            topics: vec![ReassignableTopic { name: topic.into(), partitions: vec![partition], ..Default::default() }],
            ..Default::default()
        };
        let response: AlterPartitionReassignmentsResponse = client.call(1, &request).await;
        let answered = &response.responses[0].partitions[0];
        assert_eq!(answered.error_code, expected.code(), "{request:?}: {answered:?}");
    }
    let list = ListPartitionReassignmentsRequest { topics: None, ..Default::default() };
    let response: ListPartitionReassignmentsResponse = client.call(0, &list).await;
    assert_eq!((response.error_code, response.topics.len()), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn no_election_is_needed_where_the_leader_is_up() {
    let (broker, mut client) = with_topic().await;
    for election_type in [0, 1] {
        let topic = |name: &str, partitions| TopicPartitions { topic: name.into(), partitions, ..Default::default() };
        let asked = Some(vec![topic(TOPIC, vec![0, 7]), topic("nothing", vec![0])]);
        let request = ElectLeadersRequest { election_type, topic_partitions: asked, ..Default::default() };
        let response: ElectLeadersResponse = client.call(2, &request).await;
        let code = |topic: usize, partition: usize| {
            response.replica_election_results[topic].partition_result[partition].error_code
        };
        assert_eq!(code(0, 0), ErrorCode::ElectionNotNeeded.code());
        assert_eq!(code(0, 1), ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(code(1, 0), ErrorCode::UnknownTopicOrPartition.code());
        let all = ElectLeadersRequest { election_type, topic_partitions: None, ..Default::default() };
        let response: ElectLeadersResponse = client.call(2, &all).await;
        assert!(response.replica_election_results.iter().all(|topic| topic.partition_result.is_empty()));
    }
    let unknown = ElectLeadersRequest { election_type: 7, topic_partitions: None, ..Default::default() };
    let response: ElectLeadersResponse = client.call(2, &unknown).await;
    assert_eq!(response.error_code, ErrorCode::InvalidRequest.code());
    broker.stop().await;
}

#[tokio::test]
async fn the_quorum_is_this_node_and_its_log_moves() {
    let (broker, mut client) = with_topic().await;
    let node = broker.node.broker.registration.node.0;
    let ask = |name: &str| DescribeQuorumRequest {
        topics: vec![describe_quorum_request::TopicData {
            topic_name: name.into(),
            partitions: vec![describe_quorum_request::PartitionData::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let response: DescribeQuorumResponse = client.call(2, &ask("__cluster_metadata")).await;
    let partition = &response.topics[0].partitions[0];
    assert_eq!((partition.leader_id, partition.current_voters.len()), (node, 1));
    assert!(partition.leader_epoch > 0 && partition.high_watermark > 1, "{partition:?}");
    assert!(!partition.current_voters[0].replica_directory_id.is_nil());
    assert_eq!(response.nodes[0].node_id, node);
    let before = partition.high_watermark;
    log::create_topic(&mut client, "more", 1, &[]).await;
    let response: DescribeQuorumResponse = client.call(0, &ask("__cluster_metadata")).await;
    assert!(response.topics[0].partitions[0].high_watermark > before);
    let response: DescribeQuorumResponse = client.call(2, &ask("another")).await;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
    broker.stop().await;
}

#[tokio::test]
async fn features_are_shown_and_stay_at_their_levels() {
    let (broker, mut client) = with_topic().await;
    let named = ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    let response: ApiVersionsResponse = client.call(4, &named).await;
    let finalized = |name: &str| {
        response.finalized_features.iter().find(|feature| feature.name == name).map(|feature| feature.max_version_level)
    };
    assert_eq!(finalized("metadata.version"), Some(30));
    assert_eq!(finalized("seawall.version"), Some(METADATA_LEVEL as i16));
    assert!(response.finalized_features_epoch >= 0);
    let supported: Vec<&str> = response.supported_features.iter().map(|feature| feature.name.as_str()).collect();
    assert!(response.finalized_features.iter().all(|feature| supported.contains(&feature.name.as_str())));
    let old: ApiVersionsResponse = client.call(3, &named).await;
    assert!(old.supported_features.iter().all(|feature| feature.min_version > 0), "{:?}", old.supported_features);

    for (feature, level, kind, expected) in [
        ("metadata.version", 30, 1, ErrorCode::None),
        ("metadata.version", 31, 1, ErrorCode::InvalidUpdateVersion),
        ("metadata.version", 29, 1, ErrorCode::InvalidUpdateVersion),
        ("metadata.version", 29, 2, ErrorCode::InvalidUpdateVersion),
        ("no.such.feature", 1, 1, ErrorCode::InvalidUpdateVersion),
        ("seawall.version", METADATA_LEVEL as i16, 1, ErrorCode::None),
        ("seawall.version", METADATA_LEVEL as i16 + 1, 1, ErrorCode::InvalidUpdateVersion),
        ("seawall.version", 1, 2, ErrorCode::InvalidUpdateVersion),
    ] {
        let update = FeatureUpdateKey {
            feature: feature.into(),
            max_version_level: level,
            upgrade_type: kind,
            ..Default::default()
        };
        let request = UpdateFeaturesRequest { timeout_ms: 1000, feature_updates: vec![update], ..Default::default() };
        let response: UpdateFeaturesResponse = client.call(2, &request).await;
        assert_eq!(response.error_code, expected.code(), "{feature} {level}: {response:?}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn there_are_no_transactions_and_a_broker_that_is_up_stays_registered() {
    let (broker, mut client) = with_topic().await;
    let list = ListTransactionsRequest { state_filters: vec!["Ongoing".into(), "Odd".into()], ..Default::default() };
    let response: ListTransactionsResponse = client.call(2, &list).await;
    assert_eq!((response.error_code, response.transaction_states.len()), (0, 0));
    assert_eq!(response.unknown_state_filters, ["Odd"]);
    let describe = DescribeTransactionsRequest { transactional_ids: vec!["t".into(), "".into()], ..Default::default() };
    let response: DescribeTransactionsResponse = client.call(0, &describe).await;
    let codes: Vec<i16> = response.transaction_states.iter().map(|state| state.error_code).collect();
    assert_eq!(codes, [ErrorCode::TransactionalIdNotFound.code(), ErrorCode::InvalidRequest.code()]);
    for (broker_id, expected) in
        [(broker.node.broker.registration.node.0, ErrorCode::InvalidRequest), (99, ErrorCode::BrokerIdNotRegistered)]
    {
        let request = UnregisterBrokerRequest { broker_id, ..Default::default() };
        let response: UnregisterBrokerResponse = client.call(0, &request).await;
        assert_eq!(response.error_code, expected.code());
    }
    broker.stop().await;
}

#[tokio::test]
async fn client_telemetry_is_not_advertised_and_answered_all_the_same() {
    let (broker, mut client) = with_topic().await;
    let named = ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    let versions: ApiVersionsResponse = client.call(4, &named).await;
    assert!(!versions.api_keys.iter().any(|api| matches!(api.api_key, 71 | 72)), "{versions:?}");
    let ask = GetTelemetrySubscriptionsRequest::default();
    let got: GetTelemetrySubscriptionsResponse = client.call(0, &ask).await;
    assert!(!got.client_instance_id.is_nil() && got.requested_metrics.is_empty(), "{got:?}");
    assert_eq!((got.error_code, got.push_interval_ms, got.telemetry_max_bytes), (0, 300_000, 1 << 20));
    let push = |instance, subscription_id| PushTelemetryRequest {
        client_instance_id: instance,
        subscription_id,
        ..Default::default()
    };
    for (request, expected) in [
        (push(got.client_instance_id, got.subscription_id), ErrorCode::None),
        (push(got.client_instance_id, got.subscription_id ^ 1), ErrorCode::UnknownSubscriptionId),
        (push(uuid::Uuid::nil(), got.subscription_id), ErrorCode::InvalidRequest),
    ] {
        let response: PushTelemetryResponse = client.call(0, &request).await;
        assert_eq!(response.error_code, expected.code(), "{request:?}");
    }
    // The patterns of a subscription count as they are now, and with those of the others.
    for (pattern, matched) in [(None, true), (Some("client_id=other"), false), (Some("client_id=te.*"), true)] {
        let mut configs = vec![("metrics", "org.apache.kafka.producer."), ("interval.ms", "5000")];
        configs.extend(pattern.map(|pattern| ("match", pattern)));
        subscribe(&mut client, "mine", &configs).await;
        let got: GetTelemetrySubscriptionsResponse = client.call(0, &ask).await;
        let expected = if matched { vec!["org.apache.kafka.producer.".to_owned()] } else { Vec::new() };
        assert_eq!(got.requested_metrics, expected, "{pattern:?}");
        assert_eq!(got.push_interval_ms, if matched { 5_000 } else { 300_000 }, "{pattern:?}");
    }
    broker.stop().await;
}

async fn subscribe(client: &mut Client, name: &str, configs: &[(&str, &str)]) {
    let config = |(name, value): &(&str, &str)| AlterableConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type: 16,
        resource_name: name.into(),
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = AlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let response: AlterConfigsResponse = client.call(2, &request).await;
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
}
