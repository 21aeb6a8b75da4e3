//! Consumer groups over the wire: membership, rebalances, committed offsets, and what a restart of the broker keeps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::child::ChildBroker;
use common::group::{
    Member, all, commit_without_group, committed, delete_groups, delete_offsets, describe_group, find_coordinator,
    list_groups, rebalance,
};
use common::log::create_topic;
use common::{Client, TestBroker, set};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, LeaveGroupRequest,
    LeaveGroupResponse, MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse,
    delete_topics_request::DeleteTopicState,
    metadata_request::MetadataRequestTopic,
    offset_commit_request::OffsetCommitRequestTopic,
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
};
use uuid::Uuid;

async fn broker() -> TestBroker {
    let broker = TestBroker::start_with(|config| set(config, "group.min.session.timeout.ms", "100")).await;
    create_topic(&mut broker.client().await, "orders", 4, &[]).await;
    broker
}

async fn topic_id(client: &mut Client, name: &str) -> Uuid {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let response: MetadataResponse = client.call(12, &request).await;
    response.topics[0].topic_id
}

async fn groups_listed(client: &mut Client, states: &[&str], types: &[&str]) -> Vec<String> {
    list_groups(client, states, types).await.into_iter().map(|group| group.group_id).collect()
}

#[tokio::test]
async fn three_members_share_a_group_and_a_crashed_one_is_replaced() {
    let broker = broker().await;
    let mut a = Member::new(&broker, "billing").await;
    let mut b = Member::new(&broker, "billing").await;
    let mut c = Member { session_timeout_ms: 3_000, ..Member::new(&broker, "billing").await };
    rebalance(&mut [&mut a, &mut b, &mut c]).await;
    assert_eq!(a.generation, 1);
    for member in [&mut a, &mut b, &mut c] {
        assert_eq!(member.heartbeat().await, ErrorCode::None);
        assert_eq!(member.commit("orders", 0, 5, "").await, ErrorCode::None);
    }

    // The third one's host loses its power: no LeaveGroup, only silence.
    drop(c);
    let mut rest = [&mut a, &mut b];
    all(rest.iter_mut().map(|member| member.heartbeat_until_rebalance()).collect()).await;
    rebalance(&mut rest).await;
    assert_eq!(a.generation, 2);
    let leader = if a.leads { &a } else { &b };
    assert_eq!(leader.members.len(), 2);

    // A new one comes, and one goes politely.
    let mut d = Member::new(&broker, "billing").await;
    let (joined, ()) = tokio::join!(
        async {
            d.join().await;
            d
        },
        async {
            for member in [&mut a, &mut b] {
                member.heartbeat_until_rebalance().await;
            }
            all(vec![a.join(), b.join()]).await;
        }
    );
    let mut d = joined;
    all(vec![a.sync(), b.sync(), d.sync()]).await;
    assert_eq!((a.generation, b.generation, d.generation), (3, 3, 3));
    assert_eq!(b.leave().await, ErrorCode::None);
    assert_eq!(b.heartbeat().await, ErrorCode::UnknownMemberId);
    all(vec![a.heartbeat_until_rebalance(), d.heartbeat_until_rebalance()]).await;
    rebalance(&mut [&mut a, &mut d]).await;
    broker.stop().await;
}

#[tokio::test]
async fn members_and_offsets_survive_a_restart_of_the_broker() {
    let broker = broker().await;
    let mut a = Member::new(&broker, "billing").await;
    let mut b = Member::new(&broker, "billing").await;
    rebalance(&mut [&mut a, &mut b]).await;
    let metadata = "caf\u{e9} \u{1f600}";
    assert_eq!(a.commit("orders", 1, 41, "").await, ErrorCode::None);
    assert_eq!(a.commit("orders", 1, 42, metadata).await, ErrorCode::None);
    assert_eq!(b.commit("orders", 3, 7, "").await, ErrorCode::None);

    let broker = broker.restart().await;
    for member in [&mut a, &mut b] {
        member.reconnect(&broker).await;
        assert_eq!(member.heartbeat().await, ErrorCode::None);
        let before = member.assignment.clone();
        member.sync().await;
        assert_eq!(member.assignment, before);
    }
    let mut client = broker.client().await;
    assert_eq!(committed(&mut client, "billing", "orders", 1).await, (42, metadata.to_owned()));
    assert_eq!(committed(&mut client, "billing", "orders", 3).await, (7, String::new()));
    assert_eq!(committed(&mut client, "billing", "orders", 0).await, (-1, String::new()));
    assert_eq!(a.commit("orders", 1, 43, "").await, ErrorCode::None);
    rebalance(&mut [&mut a, &mut b]).await;
    assert_eq!(a.generation, 2);

    let broker = broker.restart().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "billing").await;
    assert_eq!(committed(&mut client, "billing", "orders", 1).await, (43, String::new()));
    broker.stop().await;
}

#[tokio::test]
async fn trap_24_a_newcomer_must_come_back_with_its_id_and_the_first_join_waits() {
    let broker = TestBroker::start_with(|config| set(config, "group.initial.rebalance.delay.ms", "400")).await;
    let mut member = Member::new(&broker, "g").await;
    let response = member.try_join().await;
    assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
    assert!(response.member_id.starts_with("test-"), "{}", response.member_id);
    assert_eq!((response.generation_id, response.leader.as_str()), (-1, ""));
    member.member_id = response.member_id;
    let began = tokio::time::Instant::now();
    member.join().await;
    assert!(began.elapsed() >= Duration::from_millis(400), "the first join waits for others");
    // An id that nobody was given, and one that has no group at all.
    let mut stranger = Member { member_id: "test-0".into(), ..Member::new(&broker, "g").await };
    assert_eq!(stranger.try_join().await.error_code, ErrorCode::UnknownMemberId.code());
    stranger.group = "never-heard-of".into();
    assert_eq!(stranger.try_join().await.error_code, ErrorCode::UnknownMemberId.code());
    // Clients older than version 4 do not know the second round.
    let mut old = Member { version: 3, ..Member::new(&broker, "old").await };
    assert_eq!(old.try_join().await.error_code, 0);
    broker.stop().await;
}

#[tokio::test]
async fn trap_25_a_static_member_comes_back_under_a_new_id_and_its_former_self_is_fenced() {
    let broker = broker().await;
    let mut a = Member::with_instance(&broker, "g", "host-a").await;
    let mut b = Member::with_instance(&broker, "g", "host-b").await;
    rebalance(&mut [&mut a, &mut b]).await;
    let mut again = Member::with_instance(&broker, "g", "host-b").await;
    again.join().await;
    assert_eq!(again.generation, 1);
    assert_ne!(again.member_id, b.member_id);
    let response = again.try_sync().await;
    assert_eq!((response.error_code, &response.assignment), (0, &b.assignment));

    assert_eq!(b.heartbeat().await, ErrorCode::FencedInstanceId);
    assert_eq!(b.commit("orders", 0, 1, "").await, ErrorCode::FencedInstanceId);
    assert_eq!(b.try_sync().await.error_code, ErrorCode::FencedInstanceId.code());
    assert_eq!(b.try_join().await.error_code, ErrorCode::FencedInstanceId.code());
    assert_eq!(b.leave().await, ErrorCode::FencedInstanceId);
    // The others saw nothing of it.
    assert_eq!(a.heartbeat().await, ErrorCode::None);
    assert_eq!(again.heartbeat().await, ErrorCode::None);

    // Nor does a restart of the broker bring the fenced one back.
    let broker = broker.restart().await;
    for member in [&mut a, &mut b, &mut again] {
        member.reconnect(&broker).await;
    }
    let give_up = tokio::time::Instant::now() + common::PATIENCE;
    // While the coordinator loads, members are taken for alive.
    while b.heartbeat().await == ErrorCode::None && tokio::time::Instant::now() < give_up {}
    assert_eq!(b.heartbeat().await, ErrorCode::FencedInstanceId);
    assert_eq!(again.heartbeat().await, ErrorCode::None);
    broker.stop().await;
}

#[tokio::test]
async fn trap_26_assignments_and_offset_metadata_come_back_byte_for_byte() {
    let broker = broker().await;
    let mut a = Member::new(&broker, "g").await;
    let mut b = Member::new(&broker, "g").await;
    // `rebalance` compares the bytes, which are no valid assignment.
    rebalance(&mut [&mut a, &mut b]).await;
    let mut client = broker.client().await;
    let described = describe_group(&mut client, 6, "g").await;
    for member in &described.groups[0].members {
        let expected = if member.member_id == a.member_id { &a.assignment } else { &b.assignment };
        assert_eq!(member.member_assignment, *expected);
        assert_eq!(member.member_metadata, common::group::subscription(&a.topics));
        assert_eq!(member.client_host, "/127.0.0.1");
        assert_eq!(member.client_id, "test");
    }
    for metadata in ["", " ", "{\"a\": [1, 2]}\n", "\u{0}\u{7f}\u{fffd}\u{1f980}", &"x".repeat(4_096)] {
        assert_eq!(a.commit("orders", 0, 1, metadata).await, ErrorCode::None);
        assert_eq!(committed(&mut client, "g", "orders", 0).await, (1, metadata.to_owned()));
    }
    let too_long = "x".repeat(4_097);
    assert_eq!(a.commit("orders", 0, 2, &too_long).await, ErrorCode::OffsetMetadataTooLarge);
    assert_eq!(committed(&mut client, "g", "orders", 0).await.0, 1);
    broker.stop().await;
}

#[tokio::test]
async fn trap_31_right_after_a_restart_a_member_is_never_called_unknown() {
    let mut broker = broker().await;
    let mut member = Member::new(&broker, "g").await;
    rebalance(&mut [&mut member]).await;
    for round in 0..3 {
        broker = broker.restart().await;
        // No FindCoordinator first: the request may meet a coordinator that has just begun to load.
        member.client = broker.client().await;
        let give_up = tokio::time::Instant::now() + common::PATIENCE;
        loop {
            match member.commit_once("orders", 0, round).await {
                ErrorCode::None => break,
                ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress
                    if tokio::time::Instant::now() < give_up =>
                {
                    assert!(matches!(member.heartbeat().await, ErrorCode::None | ErrorCode::NotCoordinator));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn offsets_are_fetched_in_every_version() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "plain").await;
    assert_eq!(commit_without_group(&mut client, "plain", "orders", 12).await, ErrorCode::None);
    let id = topic_id(&mut client, "orders").await;
    for version in 1..=7 {
        let topic =
            OffsetFetchRequestTopic { name: "orders".into(), partition_indexes: vec![0, 1], ..Default::default() };
        let request = OffsetFetchRequest { group_id: "plain".into(), topics: Some(vec![topic]), ..Default::default() };
        let response: OffsetFetchResponse = client.call(version, &request).await;
        let offsets: Vec<i64> = response.topics[0].partitions.iter().map(|one| one.committed_offset).collect();
        assert_eq!((response.error_code, offsets), (0, vec![12, -1]), "version {version}");
        if version >= 2 {
            let request = OffsetFetchRequest { group_id: "plain".into(), topics: None, ..Default::default() };
            let response: OffsetFetchResponse = client.call(version, &request).await;
            assert_eq!(response.topics[0].partitions.len(), 1, "version {version}");
        }
    }
    for version in 8..=10 {
        let by_id = version >= 10;
        let topic = |name: &str, topic_id: Uuid| OffsetFetchRequestTopics {
            name: if by_id { String::new() } else { name.into() },
            topic_id: if by_id { topic_id } else { Uuid::nil() },
            partition_indexes: vec![0],
            ..Default::default()
        };
        let group =
            |name: &str, topics| OffsetFetchRequestGroup { group_id: name.into(), topics, ..Default::default() };
        let request = OffsetFetchRequest {
            groups: vec![
                group("plain", Some(vec![topic("orders", id), topic("nowhere", Uuid::from_u128(1))])),
                group("plain", None),
                group("unknown", Some(vec![topic("orders", id)])),
            ],
            ..Default::default()
        };
        let response: OffsetFetchResponse = client.call(version, &request).await;
        let first = |group: usize, topic: usize| &response.groups[group].topics[topic].partitions[0];
        assert_eq!((first(0, 0).committed_offset, first(0, 0).error_code), (12, 0), "version {version}");
        let unknown = if by_id { ErrorCode::UnknownTopicId.code() } else { 0 };
        assert_eq!((first(0, 1).committed_offset, first(0, 1).error_code), (-1, unknown), "version {version}");
        assert_eq!(first(1, 0).committed_offset, 12);
        assert_eq!(response.groups[1].topics[0].topic_id, if by_id { id } else { Uuid::nil() });
        assert_eq!((first(2, 0).committed_offset, response.groups[2].error_code), (-1, 0));
    }
    broker.stop().await;
}

#[tokio::test]
async fn offsets_are_committed_in_every_version_and_each_partition_has_its_own_answer() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "plain").await;
    commit_without_group(&mut client, "plain", "orders", 0).await;
    let id = topic_id(&mut client, "orders").await;
    for version in 2..=10 {
        let by_id = version >= 10;
        let topic = |name: &str, topic_id: Uuid, partition: i32| {
            let named = common::group::commit_of(name, partition, i64::from(version), "");
            OffsetCommitRequestTopic {
                name: if by_id { String::new() } else { named.name },
                topic_id: if by_id { topic_id } else { Uuid::nil() },
                partitions: named.partitions,
                ..Default::default()
            }
        };
        let request = OffsetCommitRequest {
            group_id: "plain".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic("orders", id, 0), topic("nowhere", Uuid::from_u128(1), 0), topic("orders", id, 9)],
            ..Default::default()
        };
        let response: OffsetCommitResponse = client.call(version, &request).await;
        let errors: Vec<i16> = response.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
        let unknown = if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
        let expected = [0, unknown.code(), ErrorCode::UnknownTopicOrPartition.code()];
        assert_eq!(errors, expected, "version {version}");
        assert_eq!(committed(&mut client, "plain", "orders", 0).await.0, i64::from(version));
    }
    // A group that does not exist has no members.
    for (version, expected) in [(8, ErrorCode::IllegalGeneration), (9, ErrorCode::GroupIdNotFound)] {
        let request = OffsetCommitRequest {
            group_id: "nobody".into(),
            generation_id_or_member_epoch: 3,
            member_id: "m".into(),
            topics: vec![common::group::commit_of("orders", 0, 1, "")],
            ..Default::default()
        };
        let response: OffsetCommitResponse = client.call(version, &request).await;
        assert_eq!(response.topics[0].partitions[0].error_code, expected.code());
    }
    broker.stop().await;
}

#[tokio::test]
async fn offsets_of_a_topic_that_was_deleted_are_not_those_of_its_namesake() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "plain").await;
    assert_eq!(commit_without_group(&mut client, "plain", "orders", 99).await, ErrorCode::None);
    let topic = DeleteTopicState { name: Some("orders".into()), ..Default::default() };
    let request = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let response: DeleteTopicsResponse = client.call(6, &request).await;
    assert_eq!(response.responses[0].error_code, 0);
    assert_eq!(committed(&mut client, "plain", "orders", 0).await.0, -1);
    create_topic(&mut client, "orders", 1, &[]).await;
    assert_eq!(committed(&mut client, "plain", "orders", 0).await.0, -1);
    assert_eq!(commit_without_group(&mut client, "plain", "orders", 1).await, ErrorCode::None);
    assert_eq!(committed(&mut client, "plain", "orders", 0).await.0, 1);
    broker.stop().await;
}

/// A repetition takes a few bytes of the request; what it asks for may be thousands.
#[tokio::test]
async fn what_is_asked_for_many_times_is_answered_once() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "plain").await;
    assert_eq!(commit_without_group(&mut client, "plain", "orders", 12).await, ErrorCode::None);
    for version in [1, 7] {
        let topic = OffsetFetchRequestTopic {
            name: "orders".into(),
            partition_indexes: [[0, 1]; 100].concat(),
            ..Default::default()
        };
        let topics = Some(vec![topic; 10]);
        let request = OffsetFetchRequest { group_id: "plain".into(), topics, ..Default::default() };
        let response: OffsetFetchResponse = client.call(version, &request).await;
        let answers = response.topics.iter().flat_map(|topic| &topic.partitions);
        let offsets: Vec<i64> = answers.map(|answer| answer.committed_offset).collect();
        assert_eq!(offsets, [12, -1], "version {version}");
    }
    let topic_id = topic_id(&mut client, "orders").await;
    for version in [8, 10] {
        let topic = OffsetFetchRequestTopics {
            name: if version < 10 { "orders".into() } else { String::new() },
            topic_id: if version < 10 { Uuid::nil() } else { topic_id },
            partition_indexes: vec![0; 100],
            ..Default::default()
        };
        let group = |topics| OffsetFetchRequestGroup { group_id: "plain".into(), topics, ..Default::default() };
        let groups = [vec![group(Some(vec![topic; 10])); 10], vec![group(None); 10]].concat();
        let request = OffsetFetchRequest { groups, ..Default::default() };
        let response: OffsetFetchResponse = client.call(version, &request).await;
        let answers = response.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| &topic.partitions);
        let offsets: Vec<i64> = answers.map(|answer| answer.committed_offset).collect();
        assert_eq!(offsets, [12, 12], "version {version}: once by partition, once whole");
    }

    let request = DescribeGroupsRequest { groups: vec!["plain".into(); 100], ..Default::default() };
    let response: DescribeGroupsResponse = client.call(5, &request).await;
    assert_eq!(response.groups.len(), 1);
    let request = ConsumerGroupDescribeRequest { group_ids: vec!["plain".into(); 100], ..Default::default() };
    let response: ConsumerGroupDescribeResponse = client.call(1, &request).await;
    assert_eq!(response.groups.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn groups_are_listed_described_and_deleted() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "plain").await;
    commit_without_group(&mut client, "plain", "orders", 1).await;
    let mut member = Member::new(&broker, "live").await;
    rebalance(&mut [&mut member]).await;

    assert_eq!(groups_listed(&mut client, &[], &[]).await, ["live", "plain"]);
    assert_eq!(groups_listed(&mut client, &["stable"], &[]).await, ["live"]);
    assert_eq!(groups_listed(&mut client, &["Empty"], &["Classic"]).await, ["plain"]);
    assert_eq!(groups_listed(&mut client, &[], &["consumer"]).await, [""; 0]);

    for version in 0..=6 {
        let live = describe_group(&mut client, version, "live").await;
        let group = &live.groups[0];
        assert_eq!((group.error_code, group.group_state.as_str()), (0, "Stable"), "version {version}");
        assert_eq!((group.protocol_type.as_str(), group.protocol_data.as_str()), ("consumer", "range"));
        assert_eq!(group.authorized_operations, if version >= 3 { 3_400 } else { i32::MIN });
        let nobody = describe_group(&mut client, version, "nobody").await;
        let expected = if version >= 6 { ErrorCode::GroupIdNotFound } else { ErrorCode::None };
        assert_eq!((nobody.groups[0].error_code, nobody.groups[0].group_state.as_str()), (expected.code(), "Dead"));
    }

    let deleted = delete_groups(&mut client, &["live", "plain", "nobody"]).await;
    let expected =
        [("live", ErrorCode::NonEmptyGroup), ("nobody", ErrorCode::GroupIdNotFound), ("plain", ErrorCode::None)];
    assert_eq!(deleted, expected.map(|(group, error)| (group.to_owned(), error)));
    assert_eq!(groups_listed(&mut client, &[], &[]).await, ["live"]);

    // A deleted group stays deleted.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "live").await;
    assert_eq!(groups_listed(&mut client, &[], &[]).await, ["live"]);
    broker.stop().await;
}

#[tokio::test]
async fn single_offsets_are_deleted_unless_their_topic_is_read() {
    let broker = broker().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "old", 1, &[]).await;
    let mut member = Member::new(&broker, "g").await;
    rebalance(&mut [&mut member]).await;
    assert_eq!(member.commit("orders", 0, 1, "").await, ErrorCode::None);
    assert_eq!(member.commit("old", 0, 2, "").await, ErrorCode::None);
    let deleted = delete_offsets(&mut client, "g", &["orders", "old", "no"]).await;
    let expected = [ErrorCode::GroupSubscribedToTopic, ErrorCode::None, ErrorCode::UnknownTopicOrPartition];
    assert_eq!(deleted, expected);
    assert_eq!(committed(&mut client, "g", "orders", 0).await.0, 1);
    assert_eq!(committed(&mut client, "g", "old", 0).await.0, -1);
    broker.stop().await;
}

#[tokio::test]
async fn find_coordinator_answers_in_every_version_and_for_several_groups() {
    let broker = broker().await;
    let mut client = broker.client().await;
    find_coordinator(&mut client, "g").await;
    let port = i32::from(broker.address().port());
    for version in 0..=3 {
        let request = FindCoordinatorRequest { key: "g".into(), ..Default::default() };
        let response: FindCoordinatorResponse = client.call(version, &request).await;
        assert_eq!((response.error_code, response.port), (0, port), "version {version}");
    }
    for version in 4..=6 {
        let keys = vec!["g".to_owned(), "h".to_owned()];
        let request = FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() };
        let response: FindCoordinatorResponse = client.call(version, &request).await;
        let found: Vec<_> =
            response.coordinators.iter().map(|found| (found.key.as_str(), found.error_code, found.port)).collect();
        assert_eq!(found, [("g", 0, port), ("h", 0, port)]);
    }
    // Transactions are not there yet, and say so.
    let request = FindCoordinatorRequest { coordinator_keys: vec!["t".into()], key_type: 1, ..Default::default() };
    let response: FindCoordinatorResponse = client.call(6, &request).await;
    assert_ne!(response.coordinators[0].error_code, 0);
    assert!(response.coordinators[0].error_message.as_ref().unwrap().contains("transactions"));
    broker.stop().await;
}

#[tokio::test]
async fn old_clients_join_sync_and_leave() {
    let broker = broker().await;
    for version in 0..=3 {
        let mut member = Member { version, ..Member::new(&broker, &format!("old-{version}")).await };
        member.join().await;
        assert!(member.leads && member.members.len() == 1, "version {version}");
        member.sync().await;
        let request = LeaveGroupRequest {
            group_id: member.group.clone(),
            member_id: member.member_id.clone(),
            ..Default::default()
        };
        let response: LeaveGroupResponse = member.client.call(version.min(2), &request).await;
        assert_eq!(response.error_code, 0);
        let response: LeaveGroupResponse = member.client.call(version.min(2), &request).await;
        assert_eq!(response.error_code, ErrorCode::UnknownMemberId.code());
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let broker = broker().await;
    let mut member = Member::new(&broker, "").await;
    assert_eq!(member.try_join().await.error_code, ErrorCode::InvalidGroupId.code());
    assert_eq!(member.heartbeat().await, ErrorCode::InvalidGroupId);
    member.group = "g".into();
    member.session_timeout_ms = 99;
    assert_eq!(member.try_join().await.error_code, ErrorCode::InvalidSessionTimeout.code());
    member.session_timeout_ms = 1_800_001;
    assert_eq!(member.try_join().await.error_code, ErrorCode::InvalidSessionTimeout.code());
    member.session_timeout_ms = 10_000;
    // The longest names that Kafka's strings can hold are fine, but for a client id that leaves no room for a member id.
    member.client.client_id = "c".repeat(32_740);
    assert_eq!(member.try_join().await.error_code, ErrorCode::InvalidRequest.code());
    member.client.client_id = "test".into();
    member.member_id = "m".repeat(32_767);
    assert_eq!(member.try_join().await.error_code, ErrorCode::UnknownMemberId.code());
    member.group = "g".repeat(32_767);
    member.member_id.clear();
    rebalance(&mut [&mut member]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_commit_that_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut promised = 0;
    for round in 0..4 {
        let broker = ChildBroker::dev(&data, &[]);
        let mut client = Client::connect(broker.kafka_address).await;
        find_coordinator(&mut client, "g").await;
        if round == 0 {
            create_topic(&mut client, "orders", 1, &[]).await;
        } else {
            let (offset, _) = committed(&mut client, "g", "orders", 0).await;
            // The commit under way at the kill may have made it.
            assert!(offset == promised || offset == promised + 1, "{offset} after {promised}");
            promised = offset;
        }
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(200 + 150 * round) {
            assert_eq!(commit_without_group(&mut client, "g", "orders", promised + 1).await, ErrorCode::None);
            promised += 1;
        }
        // One more, which nobody waits for.
        let topics = vec![common::group::commit_of("orders", 0, promised + 1, "")];
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: -1,
            topics,
            ..Default::default()
        };
        client.send(9, &request).await;
        broker.kill();
    }
    assert!(promised > 10, "{promised} commits");
}
