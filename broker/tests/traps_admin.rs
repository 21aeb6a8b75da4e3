//! The traps of client compatibility that touch versions, metadata, topics and configs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{TestBroker, set};
use seawall_protocol::{
    ApiKey, Decoder, ErrorCode, Message,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest,
        CreateTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
        IncrementalAlterConfigsResponse, MetadataRequest, MetadataResponse, ResponseHeader, alter_configs_request,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::DescribeConfigsResourceResult,
        incremental_alter_configs_request,
        metadata_request::MetadataRequestTopic,
    },
};

#[tokio::test]
async fn trap_01_a_too_new_api_versions_request_is_answered_in_version_0() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    // Key 18, version 99, correlation id 7, client id "x", no tags; the body is of the unknown version.
    client.send_raw(&[0, 0, 0, 14, 0, 18, 0, 99, 0, 0, 0, 7, 0, 1, b'x', 0, 42, 42]).await;
    let (id, response) = client.receive::<ApiVersionsResponse>(0).await.unwrap();
    assert_eq!((id, response.error_code), (7, ErrorCode::UnsupportedVersion.code()));
    let ranges: Vec<_> = response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    assert_eq!(ranges, [(18, 0, 4)]);
    // The connection goes on.
    let again: ApiVersionsResponse = client.call(3, &named()).await;
    assert_eq!(again.error_code, 0);
    broker.stop().await;
}

#[tokio::test]
async fn trap_02_the_header_of_an_api_versions_response_has_version_0() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    for version in 0..=4 {
        let id = client.send(version, &named()).await;
        let mut body = Decoder::new(client.receive_frame().await.unwrap());
        assert_eq!(ResponseHeader::decode(&mut body, 0).unwrap().correlation_id, id);
        let response = ApiVersionsResponse::decode(&mut body, version).unwrap();
        assert_eq!(response.error_code, 0);
        body.finish().unwrap();
    }
    broker.stop().await;
}

#[tokio::test]
async fn trap_06_a_topic_is_created_on_demand_and_has_a_leader_when_it_is_answered() {
    let broker = TestBroker::start_with(|config| set(config, "num.partitions", "3")).await;
    let mut client = broker.client().await;
    for version in [1, 4, 8, 13] {
        let name = format!("on-demand-{version}");
        let response = metadata(&mut client, version, &name, true).await;
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 3), "version {version}");
        for partition in &topic.partitions {
            assert_eq!((partition.error_code, partition.leader_id), (0, broker.node.broker.registration.node.0));
            assert_eq!(partition.isr_nodes, vec![partition.leader_id]);
        }
    }
    let response = metadata(&mut client, 13, "not-wanted", false).await;
    assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
    let response = metadata(&mut client, 13, "not valid", true).await;
    assert_eq!(response.topics[0].error_code, ErrorCode::InvalidTopicException.code());
    broker.stop().await;
}

#[tokio::test]
async fn trap_06_nothing_is_created_on_demand_when_that_is_switched_off() {
    let broker = TestBroker::start_with(|config| set(config, "auto.create.topics.enable", "false")).await;
    let mut client = broker.client().await;
    let response = metadata(&mut client, 9, "wanted", true).await;
    assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
    broker.stop().await;
}

#[tokio::test]
async fn trap_07_create_topics_takes_the_brokers_defaults_and_any_replication_factor() {
    let broker = TestBroker::start_with(|config| set(config, "num.partitions", "5")).await;
    let mut client = broker.client().await;
    let response = create(&mut client, topic("defaults", -1, -1, &[])).await;
    let created = &response.topics[0];
    assert_eq!((created.error_code, created.num_partitions, created.replication_factor), (0, 5, 1));
    let response = create(&mut client, topic("three", 2, 3, &[])).await;
    let created = &response.topics[0];
    assert_eq!((created.error_code, created.num_partitions, created.replication_factor), (0, 2, 3));
    assert!(!created.topic_id.is_nil());
    broker.stop().await;
}

#[tokio::test]
async fn trap_08_configs_that_mean_nothing_here_are_kept_and_described_with_their_synonyms() {
    let broker = TestBroker::start_with(|config| set(config, "log.segment.bytes", "2000000")).await;
    let mut client = broker.client().await;
    let configs = [("flush.messages", "10"), ("segment.jitter.ms", "7"), ("min.insync.replicas", "3")];
    let response = create(&mut client, topic("odd", 1, 3, &configs)).await;
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    let described = describe(&mut client, 2, "odd").await;
    for (name, value) in configs {
        let config = find(&described, name);
        assert_eq!((config.value.as_deref(), config.config_source), (Some(value), 1), "{name}");
        assert_eq!((config.synonyms[0].name.as_str(), config.synonyms[0].source), (name, 1));
    }
    let segment = find(&described, "segment.bytes");
    assert_eq!((segment.value.as_deref(), segment.config_source), (Some("2000000"), 4));
    let synonyms: Vec<_> = segment.synonyms.iter().map(|synonym| (synonym.name.as_str(), synonym.source)).collect();
    assert_eq!(synonyms, [("log.segment.bytes", 4), ("log.segment.bytes", 5)]);
    let retention = find(&described, "retention.ms");
    assert_eq!((retention.value.as_deref(), retention.config_type), (Some("604800000"), 5));
    assert!(retention.documentation.as_deref().is_some_and(|text| !text.is_empty()));
    broker.stop().await;
}

#[tokio::test]
async fn trap_09_alter_configs_replaces_and_incremental_alter_configs_edits() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create(&mut client, topic("t", 1, 1, &[("retention.ms", "1000"), ("segment.ms", "5000")])).await;
    let replace = AlterConfigsRequest {
        resources: vec![alter_configs_request::AlterConfigsResource {
            resource_type: 2,
            resource_name: "t".into(),
            configs: vec![alter_configs_request::AlterableConfig {
                name: "retention.ms".into(),
                value: Some("2000".into()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let response: AlterConfigsResponse = client.call(2, &replace).await;
    assert_eq!(response.responses[0].error_code, 0);
    let described = describe(&mut client, 2, "t").await;
    assert_eq!(find(&described, "retention.ms").value.as_deref(), Some("2000"));
    assert_eq!(find(&described, "segment.ms").config_source, 5, "what was not named is gone");
    let response = edit(&mut client, "t", "cleanup.policy", 2, Some("compact")).await;
    assert_eq!(response.responses[0].error_code, 0);
    let described = describe(&mut client, 2, "t").await;
    assert_eq!(find(&described, "cleanup.policy").value.as_deref(), Some("delete,compact"));
    assert_eq!(find(&described, "retention.ms").value.as_deref(), Some("2000"), "what was not named stays");
    edit(&mut client, "t", "cleanup.policy", 3, Some("delete")).await;
    edit(&mut client, "t", "retention.ms", 1, None).await;
    let described = describe(&mut client, 2, "t").await;
    assert_eq!(find(&described, "cleanup.policy").value.as_deref(), Some("compact"));
    assert_eq!(find(&described, "retention.ms").config_source, 5);
    let response = edit(&mut client, "t", "retention.ms", 0, Some("soon")).await;
    assert_eq!(response.responses[0].error_code, ErrorCode::InvalidConfig.code());
    assert_eq!(
        response.responses[0].error_message.as_deref(),
        Some("Invalid value soon for configuration retention.ms: Not a number of type LONG")
    );
    broker.stop().await;
}

#[tokio::test]
async fn unknown_apis_and_versions_close_the_connection() {
    let broker = TestBroker::start().await;
    for (key, version) in [(9999i16, 0i16), (3, 99), (3, -1), (-1, 0)] {
        let mut client = broker.client().await;
        let mut frame = 10i32.to_be_bytes().to_vec();
        frame.extend([&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 1, 0xff, 0xff]].concat());
        client.send_raw(&frame).await;
        client.closed().await;
    }
    broker.stop().await;
}

fn named() -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1.0".into(),
        ..Default::default()
    }
}

fn topic(name: &str, partitions: i32, replication_factor: i16, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    };
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    }
}

async fn create(client: &mut common::Client, topic: CreatableTopic) -> CreateTopicsResponse {
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5000, ..Default::default() };
    client.call(7, &request).await
}

async fn metadata(client: &mut common::Client, version: i16, name: &str, create: bool) -> MetadataResponse {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: create, ..Default::default() };
    client.call(version, &request).await
}

async fn describe(client: &mut common::Client, kind: i8, name: &str) -> Vec<DescribeConfigsResourceResult> {
    let resource = DescribeConfigsResource { resource_type: kind, resource_name: name.into(), ..Default::default() };
    let resource = DescribeConfigsResource { configuration_keys: None, ..resource };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
        ..Default::default()
    };
    let mut response: DescribeConfigsResponse = client.call(4, &request).await;
    assert_eq!(response.results[0].error_code, 0, "{:?}", response.results[0].error_message);
    response.results.remove(0).configs
}

async fn edit(
    client: &mut common::Client,
    name: &str,
    key: &str,
    operation: i8,
    value: Option<&str>,
) -> IncrementalAlterConfigsResponse {
    let config = incremental_alter_configs_request::AlterableConfig {
        name: key.into(),
        config_operation: operation,
        value: value.map(Into::into),
        ..Default::default()
    };
    let resource = incremental_alter_configs_request::AlterConfigsResource {
        resource_type: 2,
        resource_name: name.into(),
        configs: vec![config],
        ..Default::default()
    };
    client.call(1, &IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() }).await
}

fn find<'a>(configs: &'a [DescribeConfigsResourceResult], name: &str) -> &'a DescribeConfigsResourceResult {
    configs.iter().find(|config| config.name == name).unwrap_or_else(|| panic!("{name} is described"))
}

#[tokio::test]
async fn trap_03_the_ranges_that_librdkafka_judges_by_are_contiguous_and_kafkas() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let response: ApiVersionsResponse = client.call(3, &named()).await;
    let range = |api: ApiKey| {
        let found = response.api_keys.iter().find(|version| version.api_key == api as i16);
        found.map(|version| (version.min_version, version.max_version))
    };
    // LZ4 by FindCoordinator, zstd by Produce 7 and Fetch 10, and JoinGroup 0 and 1 must be there.
    for (api, first, last) in [
        (ApiKey::FindCoordinator, 0, 6),
        (ApiKey::Produce, 0, 13),
        (ApiKey::Fetch, 4, 18),
        (ApiKey::JoinGroup, 0, 9),
        (ApiKey::Metadata, 0, 13),
        (ApiKey::ApiVersions, 0, 4),
    ] {
        assert_eq!(range(api), Some((first, last)), "{}", api.name());
    }
    assert!(response.api_keys.is_sorted_by_key(|version| version.api_key));
    broker.stop().await;
}
