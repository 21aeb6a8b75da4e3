//! Groups under the consumer protocol (KIP-848) over the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::consumer_member::{ConsumerMember, settle};
use common::group::{
    Member, commit_without_group, committed, delete_groups, delete_offsets, describe_group, list_groups, rebalance,
};
use common::log::create_topic;
use common::pulse::Pulse;
use common::{Client, TestBroker, set};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse,
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListGroupsRequest, ListGroupsResponse,
    OffsetFetchRequest, OffsetFetchResponse,
    consumer_group_describe_response::DescribedGroup,
    create_partitions_request::CreatePartitionsTopic,
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    offset_fetch_request::OffsetFetchRequestGroup,
};

async fn broker() -> TestBroker {
    broker_with_sessions_of("45000").await
}

async fn broker_with_sessions_of(timeout_ms: &str) -> TestBroker {
    let broker = TestBroker::start_with(|config| {
        set(config, "group.consumer.session.timeout.ms", timeout_ms);
        set(config, "group.consumer.assignment.interval.ms", "0");
    })
    .await;
    create_topic(&mut broker.client().await, "orders", 6, &[]).await;
    broker
}

async fn describe(client: &mut Client, group: &str) -> DescribedGroup {
    let request = ConsumerGroupDescribeRequest {
        group_ids: vec![group.into()],
        include_authorized_operations: true,
        ..Default::default()
    };
    let response: ConsumerGroupDescribeResponse = client.call(1, &request).await;
    response.groups.into_iter().next().unwrap()
}

#[tokio::test]
async fn clients_are_told_that_the_consumer_protocol_is_finalized() {
    let broker = broker().await;
    let request = ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1".into(),
        ..Default::default()
    };
    let response: ApiVersionsResponse = broker.client().await.call(4, &request).await;
    let finalized = response.finalized_features.iter().find(|feature| feature.name == "group.version").unwrap();
    assert_eq!(finalized.max_version_level, 1);
    let supported = response.supported_features.iter().find(|feature| feature.name == "group.version").unwrap();
    assert_eq!((supported.min_version, supported.max_version), (0, 1));
    assert!(response.finalized_features_epoch >= 0);
    let ranges: Vec<(i16, i16, i16)> = (response.api_keys.iter())
        .filter(|api| matches!(api.api_key, 68 | 69))
        .map(|api| (api.api_key, api.min_version, api.max_version))
        .collect();
    assert_eq!(ranges, [(68, 0, 1), (69, 0, 1)]);
    broker.stop().await;
}

#[tokio::test]
async fn three_members_share_the_partitions_and_a_silent_one_is_replaced() {
    let broker = broker_with_sessions_of("3000").await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    a.beat().await;
    assert_eq!((a.epoch, a.partitions()), (1, 6));
    let mut b = ConsumerMember::new(&broker, "billing", "b").await;
    settle(&mut [&mut a, &mut b], &[3, 3]).await;
    let mut c = ConsumerMember::new(&broker, "billing", "c").await;
    settle(&mut [&mut a, &mut b, &mut c], &[2, 2, 2]).await;

    let described = describe(&mut broker.client().await, "billing").await;
    assert_eq!((described.error_code, described.group_state.as_str()), (0, "Stable"));
    assert_eq!((described.group_epoch, described.assignment_epoch), (a.epoch, a.epoch));
    assert_eq!((described.assignor_name.as_str(), described.members.len()), ("uniform", 3));
    assert_eq!(described.members[0].assignment, described.members[0].target_assignment);
    assert_eq!(described.members[0].assignment.topic_partitions[0].topic_name, "orders");
    assert_eq!((described.members[0].member_type, described.members[0].client_id.as_str()), (1, "test"));

    // Silence is enough.
    drop(c);
    settle(&mut [&mut a, &mut b], &[3, 3]).await;
    assert_eq!(b.leave(-1).await, ErrorCode::None);
    settle(&mut [&mut a], &[6]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_group_and_its_offsets_survive_a_restart() {
    let broker = broker().await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    let mut b = ConsumerMember::new(&broker, "billing", "b").await;
    settle(&mut [&mut a, &mut b], &[3, 3]).await;
    let (topic, partitions) = a.owned.iter().next().map(|(topic, at)| (*topic, at.clone())).unwrap();
    let partition = *partitions.first().unwrap();
    assert_eq!(a.commit("orders", partition, 41, a.epoch).await, ErrorCode::None);
    let (before, epoch) = (a.owned.clone(), a.epoch);

    let broker = broker.restart().await;
    a.reconnect(&broker).await;
    b.reconnect(&broker).await;
    settle(&mut [&mut a, &mut b], &[3, 3]).await;
    assert_eq!((&a.owned, a.epoch), (&before, epoch), "nothing moved");
    assert!(a.owned.contains_key(&topic));
    assert_eq!(committed(&mut a.client, "billing", "orders", partition).await.0, 41);
    broker.stop().await;
}

#[tokio::test]
async fn commits_are_held_against_the_member_epoch() {
    let broker = broker().await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    let mut b = ConsumerMember::new(&broker, "billing", "b").await;
    a.beat().await;
    let all_of_epoch_1 = a.owned.clone();
    settle(&mut [&mut a, &mut b], &[3, 3]).await;
    let kept = *a.owned.values().next().unwrap().first().unwrap();
    let given_up =
        *all_of_epoch_1.values().next().unwrap().difference(a.owned.values().next().unwrap()).next().unwrap();
    assert_eq!(a.commit("orders", kept, 5, a.epoch).await, ErrorCode::None);
    // What it has held since that epoch it may still commit, what it has given up it may not.
    assert_eq!(a.commit("orders", kept, 6, 1).await, ErrorCode::None);
    assert_eq!(a.commit("orders", given_up, 6, 1).await, ErrorCode::StaleMemberEpoch);
    assert_eq!(a.commit("orders", kept, 6, a.epoch + 1).await, ErrorCode::StaleMemberEpoch);
    a.member_id = "nobody".into();
    assert_eq!(a.commit("orders", kept, 6, a.epoch).await, ErrorCode::UnknownMemberId);
    let plain = commit_without_group(&mut a.client, "billing", "orders", 9).await;
    assert_eq!(plain, ErrorCode::UnknownMemberId, "a client without a group cannot commit over its members");

    let fetch = async |client: &mut Client, member: Option<&str>, epoch: i32| {
        let group = OffsetFetchRequestGroup {
            group_id: "billing".into(),
            member_id: member.map(Into::into),
            member_epoch: epoch,
            topics: None,
            ..Default::default()
        };
        let response: OffsetFetchResponse =
            client.call(9, &OffsetFetchRequest { groups: vec![group], ..Default::default() }).await;
        ErrorCode::try_from(response.groups[0].error_code).unwrap()
    };
    let mut client = broker.client().await;
    assert_eq!(fetch(&mut client, Some("b"), b.epoch).await, ErrorCode::None);
    assert_eq!(fetch(&mut client, None, -1).await, ErrorCode::None);
    assert_eq!(fetch(&mut client, Some("b"), b.epoch - 1).await, ErrorCode::StaleMemberEpoch);
    assert_eq!(fetch(&mut client, Some("nobody"), 1).await, ErrorCode::UnknownMemberId);
    broker.stop().await;
}

#[tokio::test]
async fn tools_see_which_protocol_a_group_is_under() {
    let broker = broker().await;
    let mut a = ConsumerMember::new(&broker, "new", "a").await;
    a.beat().await;
    let mut client = broker.client().await;
    assert_eq!(commit_without_group(&mut client, "old", "orders", 1).await, ErrorCode::None);
    let list = async |client: &mut Client, types: &[&str], states: &[&str]| -> Vec<String> {
        let groups = list_groups(client, states, types).await.into_iter();
        groups.map(|group| format!("{} {} {}", group.group_id, group.group_type, group.group_state)).collect()
    };
    assert_eq!(list(&mut client, &[], &[]).await, ["new consumer Stable", "old classic Empty"]);
    assert_eq!(list(&mut client, &["Consumer"], &[]).await, ["new consumer Stable"]);
    assert_eq!(list(&mut client, &["classic"], &["empty"]).await, ["old classic Empty"]);
    assert_eq!(list(&mut client, &["share"], &[]).await, Vec::<String>::new());

    // Each describe knows its own kind.
    let described = describe_group(&mut client, 6, "new").await;
    assert_eq!(described.groups[0].error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(described.groups[0].group_state, "Dead");
    let described = describe_group(&mut client, 5, "new").await;
    assert_eq!((described.groups[0].error_code, described.groups[0].group_state.as_str()), (0, "Dead"));
    assert_eq!(describe(&mut client, "old").await.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(describe(&mut client, "none").await.error_code, ErrorCode::GroupIdNotFound.code());

    assert_eq!(delete_groups(&mut client, &["new"]).await, [("new".to_owned(), ErrorCode::NonEmptyGroup)]);
    a.leave(-1).await;
    assert_eq!(describe(&mut client, "new").await.group_state, "Empty");
    assert_eq!(delete_groups(&mut client, &["new"]).await, [("new".to_owned(), ErrorCode::None)]);
    assert_eq!(list(&mut client, &[], &[]).await, ["old classic Empty"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_group_may_have_its_own_heartbeat_interval() {
    let broker = TestBroker::start().await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    assert_eq!(a.try_beat().await.heartbeat_interval_ms, 5_000);
    let config = AlterableConfig {
        name: "consumer.heartbeat.interval.ms".into(),
        config_operation: 0,
        value: Some("7000".into()),
        ..Default::default()
    };
    let resource = AlterConfigsResource {
        resource_type: 32,
        resource_name: "billing".into(),
        configs: vec![config],
        ..Default::default()
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    let response: IncrementalAlterConfigsResponse = broker.client().await.call(1, &request).await;
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
    assert_eq!(a.try_beat().await.heartbeat_interval_ms, 7_000);
    let mut other = ConsumerMember::new(&broker, "other", "a").await;
    assert_eq!(other.try_beat().await.heartbeat_interval_ms, 5_000);
    broker.stop().await;
}

#[tokio::test]
async fn offsets_of_topics_that_a_group_does_not_read_can_be_deleted_while_it_lives() {
    let broker = broker().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "payments", 1, &[]).await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    assert_eq!(commit_without_group(&mut client, "billing", "payments", 5).await, ErrorCode::None);
    a.beat().await;
    assert_eq!(a.commit("orders", 0, 6, a.epoch).await, ErrorCode::None);
    let deleted = delete_offsets(&mut client, "billing", &["orders", "payments"]).await;
    assert_eq!(deleted, [ErrorCode::GroupSubscribedToTopic, ErrorCode::None]);
    assert_eq!(committed(&mut client, "billing", "orders", 0).await.0, 6);
    assert_eq!(committed(&mut client, "billing", "payments", 0).await.0, -1);
    broker.stop().await;
}

#[tokio::test]
async fn new_partitions_and_topics_that_match_are_assigned() {
    let broker = broker().await;
    let mut a = ConsumerMember::new(&broker, "billing", "a").await;
    a.names = None;
    a.regex = Some("orders.*".into());
    settle(&mut [&mut a], &[6]).await;
    let mut client = broker.client().await;
    let topic = CreatePartitionsTopic { name: "orders".into(), count: 8, assignments: None, ..Default::default() };
    let request = CreatePartitionsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let response: CreatePartitionsResponse = client.call(3, &request).await;
    assert_eq!(response.results[0].error_code, 0);
    settle(&mut [&mut a], &[8]).await;
    create_topic(&mut client, "orders-eu", 3, &[]).await;
    create_topic(&mut client, "payments", 3, &[]).await;
    settle(&mut [&mut a], &[11]).await;
    broker.stop().await;
}

type Spoil = fn(&mut ConsumerGroupHeartbeatRequest);

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_kafkas_words() {
    let broker = broker().await;
    let member = ConsumerMember::new(&broker, "billing", "a").await;
    let mut client = broker.client().await;
    let good = member.request();
    let cases: Vec<(Spoil, ErrorCode, &str)> = vec![
        (|request| request.member_id.clear(), ErrorCode::InvalidRequest, "MemberId can't be empty."),
        (|request| request.group_id.clear(), ErrorCode::InvalidRequest, "GroupId can't be empty."),
        (|request| request.instance_id = Some(String::new()), ErrorCode::InvalidRequest, "InstanceId can't be empty."),
        (
            |request| request.rebalance_timeout_ms = -1,
            ErrorCode::InvalidRequest,
            "RebalanceTimeoutMs must be provided in first request.",
        ),
        (
            |request| request.topic_partitions = None,
            ErrorCode::InvalidRequest,
            "TopicPartitions must be empty when (re-)joining.",
        ),
        (|request| request.member_epoch = -3, ErrorCode::InvalidRequest, "MemberEpoch is invalid."),
        (|request| request.member_epoch = -2, ErrorCode::InvalidRequest, "InstanceId can't be null."),
        (
            |request| request.server_assignor = Some("sticky".into()),
            ErrorCode::UnsupportedAssignor,
            "ServerAssignor sticky is not supported. Supported assignors: uniform, range.",
        ),
        (
            |request| request.subscribed_topic_regex = Some("(".into()),
            ErrorCode::InvalidRegularExpression,
            "the regular expression is not valid",
        ),
        (|request| request.member_epoch = 4, ErrorCode::GroupIdNotFound, "the group does not exist"),
    ];
    for (spoil, error, message) in cases {
        let mut request = good.clone();
        spoil(&mut request);
        let response: ConsumerGroupHeartbeatResponse = client.call(1, &request).await;
        assert_eq!(response.error_code, error.code(), "{message}");
        assert_eq!(response.error_message.as_deref(), Some(message));
    }
    assert_eq!(
        describe(&mut client, "billing").await.error_code,
        ErrorCode::GroupIdNotFound.code(),
        "nothing was made"
    );
    broker.stop().await;
}

#[tokio::test]
async fn two_hundred_members_of_each_protocol_that_crash_together_cost_others_nothing() {
    const CROWD: usize = 200;
    let broker = TestBroker::start_with(|config| {
        set(config, "group.consumer.session.timeout.ms", "3000");
        set(config, "group.min.session.timeout.ms", "100");
        // All in one partition, and so in one task, with those that look on.
        set(config, "offsets.topic.num.partitions", "1");
    })
    .await;
    create_topic(&mut broker.client().await, "orders", 400, &[]).await;
    let mut classic = Vec::new();
    for _ in 0..CROWD {
        classic.push(Member { session_timeout_ms: 3_000, ..Member::new(&broker, "classic").await });
    }
    rebalance(&mut classic.iter_mut().collect::<Vec<_>>()).await;
    let mut crowd = Vec::new();
    for at in 0..CROWD {
        let mut member = ConsumerMember::new(&broker, "crowd", &format!("m{at}")).await;
        member.beat().await;
        crowd.push(member);
    }
    let mut bystander = ConsumerMember::new(&broker, "other", "a").await;
    bystander.beat().await;
    drop((classic, crowd));

    let pulse = Pulse::start(broker.dir.path());
    let mut slowest = Duration::ZERO;
    let give_up = Instant::now() + Duration::from_secs(20);
    let mut client = broker.client().await;
    loop {
        let began = Instant::now();
        bystander.beat().await;
        slowest = slowest.max(pulse.took(began));
        let request = ListGroupsRequest { states_filter: vec!["Empty".into()], ..Default::default() };
        let response: ListGroupsResponse = client.call(5, &request).await;
        if response.groups.len() == 2 {
            break;
        }
        assert!(Instant::now() < give_up, "the crowds are still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(slowest < Duration::from_secs(1), "a heartbeat of another group took {slowest:?}");
    assert_eq!(describe(&mut client, "crowd").await.group_state, "Empty");
    broker.stop().await;
}
