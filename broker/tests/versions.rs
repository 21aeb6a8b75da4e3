//! Every version of every API that is advertised is answered, in that version's own form.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Client, TestBroker};
use seawall::dispatch::advertised;
use seawall_protocol::{
    ApiKey, Message,
    messages::{
        alter_configs_request, create_partitions_request::CreatePartitionsTopic, create_topics_request::CreatableTopic,
        delete_records_request, delete_topics_request::DeleteTopicState,
        describe_configs_request::DescribeConfigsResource, describe_topic_partitions_request::TopicRequest,
        fetch_request, incremental_alter_configs_request, join_group_request::JoinGroupRequestProtocol,
        leave_group_request::MemberIdentity, list_offsets_request, metadata_request::MetadataRequestTopic,
        offset_commit_request, offset_delete_request, offset_fetch_request, offset_for_leader_epoch_request,
        produce_request, *,
    },
    records::{BatchBuilder, Compression},
};
use uuid::Uuid;

const TOPIC: &str = "versions";
const GROUP: &str = "a-group";

#[tokio::test]
async fn every_advertised_version_is_answered() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let topic_id = create_topic(&mut client, TOPIC).await;
    let mut answered = 0;
    for (api, first, last) in advertised() {
        for version in first..=last {
            // Advertised for the sake of old librdkafka, and refused as Kafka does.
            if api == ApiKey::Produce && version < 3 {
                continue;
            }
            // A connection for each, so that a refusal names its version and spoils no other.
            let mut client = broker.client().await;
            assert!(ask(&mut client, api, version, topic_id).await, "{} version {version} is not answered", api.name());
            answered += 1;
        }
    }
    assert!(answered > 150, "{answered} versions");
    broker.stop().await;
}

async fn ask(client: &mut Client, api: ApiKey, version: i16, topic_id: Uuid) -> bool {
    async fn call<Q: Message, R: Message>(client: &mut Client, version: i16, request: Q) -> Option<R> {
        client.try_call::<Q, R>(version, &request).await
    }
    macro_rules! answered {
        ($request:expr => $response:ty) => {
            call::<_, $response>(client, version, $request).await.is_some()
        };
    }
    let named = |from: i16, name: &str| if version < from { name.to_owned() } else { String::new() };
    let with_id = |from: i16| if version >= from { topic_id } else { Uuid::nil() };
    match api {
        ApiKey::Produce => answered!(produce(version, named(13, TOPIC), with_id(13)) => ProduceResponse),
        ApiKey::Fetch => answered!(fetch(named(13, TOPIC), with_id(13)) => FetchResponse),
        ApiKey::ListOffsets => answered!(list_offsets() => ListOffsetsResponse),
        ApiKey::Metadata => answered!(metadata() => MetadataResponse),
        ApiKey::OffsetCommit => {
            answered!(offset_commit(version, named(10, TOPIC), with_id(10)) => OffsetCommitResponse)
        }
        ApiKey::OffsetFetch => {
            answered!(offset_fetch(version, named(10, TOPIC), with_id(10)) => OffsetFetchResponse)
        }
        ApiKey::FindCoordinator => answered!(find_coordinator(version) => FindCoordinatorResponse),
        ApiKey::JoinGroup => answered!(join_group(version) => JoinGroupResponse),
        ApiKey::Heartbeat => answered!(
            HeartbeatRequest { group_id: GROUP.into(), generation_id: 1, member_id: "m".into(), ..Default::default() }
            => HeartbeatResponse
        ),
        ApiKey::LeaveGroup => answered!(leave_group(version) => LeaveGroupResponse),
        ApiKey::SyncGroup => answered!(
            SyncGroupRequest {
                group_id: GROUP.into(),
                generation_id: 1,
                member_id: "m".into(),
                protocol_type: (version >= 5).then(|| "consumer".into()),
                protocol_name: (version >= 5).then(|| "range".into()),
                ..Default::default()
            } => SyncGroupResponse
        ),
        ApiKey::ConsumerGroupHeartbeat => answered!(
            ConsumerGroupHeartbeatRequest {
                group_id: "848".into(),
                member_id: if version == 0 { String::new() } else { "m".into() },
                rebalance_timeout_ms: 1_000,
                subscribed_topic_names: Some(vec![TOPIC.into()]),
                topic_partitions: Some(Vec::new()),
                ..Default::default()
            } => ConsumerGroupHeartbeatResponse
        ),
        ApiKey::ConsumerGroupDescribe => answered!(
            ConsumerGroupDescribeRequest { group_ids: vec!["848".into()], ..Default::default() }
            => ConsumerGroupDescribeResponse
        ),
        ApiKey::DescribeGroups => answered!(
            DescribeGroupsRequest {
                groups: vec![GROUP.into()],
                include_authorized_operations: version >= 3,
                ..Default::default()
            } => DescribeGroupsResponse
        ),
        ApiKey::ListGroups => answered!(ListGroupsRequest::default() => ListGroupsResponse),
        ApiKey::DeleteGroups => answered!(
            DeleteGroupsRequest { groups_names: vec![GROUP.into()], ..Default::default() } => DeleteGroupsResponse
        ),
        ApiKey::OffsetDelete => answered!(offset_delete() => OffsetDeleteResponse),
        ApiKey::ApiVersions => answered!(
            ApiVersionsRequest {
                client_software_name: "test".into(),
                client_software_version: "1".into(),
                ..Default::default()
            } => ApiVersionsResponse
        ),
        ApiKey::CreateTopics => answered!(
            CreateTopicsRequest {
                topics: vec![new_topic(&format!("created-{version}"))],
                timeout_ms: 5000,
                ..Default::default()
            } => CreateTopicsResponse
        ),
        ApiKey::DeleteTopics => answered!(delete_topics(version) => DeleteTopicsResponse),
        ApiKey::DeleteRecords => answered!(delete_records() => DeleteRecordsResponse),
        ApiKey::InitProducerId => answered!(
            InitProducerIdRequest { transaction_timeout_ms: 1000, ..Default::default() } => InitProducerIdResponse
        ),
        ApiKey::OffsetForLeaderEpoch => answered!(offset_for_leader_epoch() => OffsetForLeaderEpochResponse),
        ApiKey::DescribeConfigs => answered!(describe_configs(version) => DescribeConfigsResponse),
        ApiKey::AlterConfigs => answered!(alter_configs() => AlterConfigsResponse),
        ApiKey::IncrementalAlterConfigs => {
            answered!(incremental_alter_configs() => IncrementalAlterConfigsResponse)
        }
        ApiKey::ListConfigResources => {
            answered!(ListConfigResourcesRequest::default() => ListConfigResourcesResponse)
        }
        ApiKey::CreatePartitions => answered!(create_partitions() => CreatePartitionsResponse),
        ApiKey::DescribeCluster => answered!(
            DescribeClusterRequest { include_cluster_authorized_operations: true, ..Default::default() }
            => DescribeClusterResponse
        ),
        ApiKey::DescribeTopicPartitions => answered!(
            DescribeTopicPartitionsRequest {
                topics: vec![TopicRequest { name: TOPIC.into(), ..Default::default() }],
                response_partition_limit: 10,
                ..Default::default()
            } => DescribeTopicPartitionsResponse
        ),
        ApiKey::DescribeProducers => answered!(
            DescribeProducersRequest {
                topics: vec![describe_producers_request::TopicRequest {
                    name: TOPIC.into(),
                    partition_indexes: vec![0],
                    ..Default::default()
                }],
                ..Default::default()
            } => DescribeProducersResponse
        ),
        ApiKey::DescribeLogDirs => {
            answered!(DescribeLogDirsRequest { topics: None, ..Default::default() } => DescribeLogDirsResponse)
        }
        ApiKey::AlterReplicaLogDirs => answered!(AlterReplicaLogDirsRequest::default() => AlterReplicaLogDirsResponse),
        ApiKey::ListPartitionReassignments => {
            answered!(ListPartitionReassignmentsRequest::default() => ListPartitionReassignmentsResponse)
        }
        ApiKey::AlterPartitionReassignments => {
            answered!(AlterPartitionReassignmentsRequest::default() => AlterPartitionReassignmentsResponse)
        }
        ApiKey::ElectLeaders => {
            answered!(ElectLeadersRequest { topic_partitions: None, ..Default::default() } => ElectLeadersResponse)
        }
        ApiKey::DescribeQuorum => answered!(
            DescribeQuorumRequest {
                topics: vec![describe_quorum_request::TopicData {
                    topic_name: "__cluster_metadata".into(),
                    partitions: vec![describe_quorum_request::PartitionData::default()],
                    ..Default::default()
                }],
                ..Default::default()
            } => DescribeQuorumResponse
        ),
        ApiKey::DescribeClientQuotas => {
            answered!(DescribeClientQuotasRequest::default() => DescribeClientQuotasResponse)
        }
        ApiKey::AlterClientQuotas => answered!(AlterClientQuotasRequest::default() => AlterClientQuotasResponse),
        ApiKey::UpdateFeatures => answered!(UpdateFeaturesRequest::default() => UpdateFeaturesResponse),
        ApiKey::UnregisterBroker => {
            answered!(UnregisterBrokerRequest { broker_id: 77, ..Default::default() } => UnregisterBrokerResponse)
        }
        ApiKey::ListTransactions => answered!(ListTransactionsRequest::default() => ListTransactionsResponse),
        ApiKey::DescribeTransactions => {
            answered!(DescribeTransactionsRequest::default() => DescribeTransactionsResponse)
        }
        other => panic!("{} is advertised and not asked here", other.name()),
    }
}

async fn create_topic(client: &mut Client, name: &str) -> Uuid {
    let request = CreateTopicsRequest { topics: vec![new_topic(name)], timeout_ms: 5000, ..Default::default() };
    let response: CreateTopicsResponse = client.call(7, &request).await;
    assert_eq!(response.topics[0].error_code, 0);
    response.topics[0].topic_id
}

fn new_topic(name: &str) -> CreatableTopic {
    CreatableTopic { name: name.into(), num_partitions: 1, replication_factor: 1, ..Default::default() }
}

fn produce(version: i16, name: String, topic_id: Uuid) -> ProduceRequest {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.add(Some(b"k"), Some(format!("v{version}").as_bytes()), 1_000, &[]);
    let partition =
        produce_request::PartitionProduceData { index: 0, records: Some(batch.build()), ..Default::default() };
    let topic =
        produce_request::TopicProduceData { name, topic_id, partition_data: vec![partition], ..Default::default() };
    ProduceRequest { acks: -1, timeout_ms: 5000, topic_data: vec![topic], ..Default::default() }
}

fn fetch(topic: String, topic_id: Uuid) -> FetchRequest {
    let partition = fetch_request::FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = fetch_request::FetchTopic { topic, topic_id, partitions: vec![partition], ..Default::default() };
    FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

fn list_offsets() -> ListOffsetsRequest {
    let partition = list_offsets_request::ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic = list_offsets_request::ListOffsetsTopic {
        name: TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    ListOffsetsRequest { topics: vec![topic], ..Default::default() }
}

fn metadata() -> MetadataRequest {
    let topic = MetadataRequestTopic { name: Some(TOPIC.into()), ..Default::default() };
    MetadataRequest { topics: Some(vec![topic]), ..Default::default() }
}

fn offset_commit(version: i16, name: String, topic_id: Uuid) -> OffsetCommitRequest {
    let partition = offset_commit_request::OffsetCommitRequestPartition {
        committed_offset: 1,
        committed_metadata: Some(format!("{version}")),
        ..Default::default()
    };
    let topic = offset_commit_request::OffsetCommitRequestTopic {
        name,
        topic_id,
        partitions: vec![partition],
        ..Default::default()
    };
    OffsetCommitRequest {
        group_id: GROUP.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    }
}

fn offset_fetch(version: i16, name: String, topic_id: Uuid) -> OffsetFetchRequest {
    if version < 8 {
        let topic =
            offset_fetch_request::OffsetFetchRequestTopic { name, partition_indexes: vec![0], ..Default::default() };
        return OffsetFetchRequest { group_id: GROUP.into(), topics: Some(vec![topic]), ..Default::default() };
    }
    let topic = offset_fetch_request::OffsetFetchRequestTopics {
        name,
        topic_id,
        partition_indexes: vec![0],
        ..Default::default()
    };
    let group = offset_fetch_request::OffsetFetchRequestGroup {
        group_id: GROUP.into(),
        topics: Some(vec![topic]),
        ..Default::default()
    };
    OffsetFetchRequest { groups: vec![group], ..Default::default() }
}

fn find_coordinator(version: i16) -> FindCoordinatorRequest {
    if version < 4 {
        return FindCoordinatorRequest { key: GROUP.into(), ..Default::default() };
    }
    FindCoordinatorRequest { coordinator_keys: vec![GROUP.into()], ..Default::default() }
}

fn join_group(version: i16) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol { name: "range".into(), ..Default::default() };
    JoinGroupRequest {
        // A group each, so that none waits for the members of another.
        group_id: format!("join-{version}"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: if version >= 1 { 1_000 } else { -1 },
        protocol_type: "consumer".into(),
        protocols: vec![protocol],
        ..Default::default()
    }
}

fn leave_group(version: i16) -> LeaveGroupRequest {
    if version < 3 {
        return LeaveGroupRequest { group_id: GROUP.into(), member_id: "m".into(), ..Default::default() };
    }
    let member = MemberIdentity { member_id: "m".into(), ..Default::default() };
    LeaveGroupRequest { group_id: GROUP.into(), members: vec![member], ..Default::default() }
}

fn offset_delete() -> OffsetDeleteRequest {
    let topic = offset_delete_request::OffsetDeleteRequestTopic {
        name: TOPIC.into(),
        partitions: vec![offset_delete_request::OffsetDeleteRequestPartition::default()],
    };
    OffsetDeleteRequest { group_id: GROUP.into(), topics: vec![topic] }
}

fn delete_topics(version: i16) -> DeleteTopicsRequest {
    let name = format!("created-{version}");
    if version < 6 {
        return DeleteTopicsRequest { topic_names: vec![name], timeout_ms: 5000, ..Default::default() };
    }
    let topic = DeleteTopicState { name: Some(name), ..Default::default() };
    DeleteTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() }
}

fn delete_records() -> DeleteRecordsRequest {
    let partition = delete_records_request::DeleteRecordsPartition { offset: 0, ..Default::default() };
    let topic = delete_records_request::DeleteRecordsTopic {
        name: TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    DeleteRecordsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() }
}

fn offset_for_leader_epoch() -> OffsetForLeaderEpochRequest {
    let partition =
        offset_for_leader_epoch_request::OffsetForLeaderPartition { current_leader_epoch: -1, ..Default::default() };
    let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic {
        topic: TOPIC.into(),
        partitions: vec![partition],
        ..Default::default()
    };
    OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() }
}

fn describe_configs(version: i16) -> DescribeConfigsRequest {
    let resource = |resource_type, name: &str| DescribeConfigsResource {
        resource_type,
        resource_name: name.into(),
        ..Default::default()
    };
    DescribeConfigsRequest {
        resources: vec![resource(2, TOPIC), resource(4, "1"), resource(4, "")],
        include_synonyms: true,
        include_documentation: version >= 3,
        ..Default::default()
    }
}

fn alter_configs() -> AlterConfigsRequest {
    let config = alter_configs_request::AlterableConfig {
        name: "retention.ms".into(),
        value: Some("-1".into()),
        ..Default::default()
    };
    let resource = alter_configs_request::AlterConfigsResource {
        resource_type: 2,
        resource_name: TOPIC.into(),
        configs: vec![config],
        ..Default::default()
    };
    AlterConfigsRequest { resources: vec![resource], ..Default::default() }
}

fn incremental_alter_configs() -> IncrementalAlterConfigsRequest {
    let config = incremental_alter_configs_request::AlterableConfig {
        name: "log.retention.ms".into(),
        value: Some("-1".into()),
        ..Default::default()
    };
    let resource = incremental_alter_configs_request::AlterConfigsResource {
        resource_type: 4,
        resource_name: String::new(),
        configs: vec![config],
        ..Default::default()
    };
    IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() }
}

fn create_partitions() -> CreatePartitionsRequest {
    let topic = CreatePartitionsTopic { name: TOPIC.into(), count: 1, ..Default::default() };
    CreatePartitionsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() }
}
