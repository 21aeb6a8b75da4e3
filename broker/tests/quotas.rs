//! Client quotas: kept, described by filter, and enforced by answering first and reading later.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::pulse::Pulse;
use common::{Client, TestBroker, log, set};
use seawall::{config::Config, quota_table::QuotaTable, units::ByteSize};
use seawall_protocol::{
    ErrorCode,
    messages::{
        alter_client_quotas_request::{EntityData, EntryData, OpData},
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::CreatableTopic,
        delete_topics_request::DeleteTopicState,
        describe_client_quotas_request::ComponentData,
        metadata_request::MetadataRequestTopic,
        *,
    },
};

const TOPIC: &str = "orders";

/// Two windows of a second: what comes within one second counts as the rate of that second.
async fn broker() -> TestBroker {
    TestBroker::start_with(short_windows).await
}

fn short_windows(config: &mut Config) {
    set(config, "quota.window.num", "2");
    set(config, "controller.quota.window.num", "1");
}

async fn client(broker: &TestBroker, id: &str) -> Client {
    let mut client = broker.client().await;
    client.client_id = id.into();
    client
}

/// An entity as `user=ann client-id=*`, where `*` is the default.
fn entity(text: &str) -> Vec<EntityData> {
    let part = |part: &str| {
        let (kind, name) = part.split_once('=').unwrap();
        let entity_name = (name != "*").then(|| name.to_owned());
        EntityData { entity_type: kind.into(), entity_name, ..Default::default() }
    };
    text.split_whitespace().map(part).collect()
}

fn request(changes: &[(&str, &[(&str, f64)])]) -> AlterClientQuotasRequest {
    let op = |(key, value): &(&str, f64)| OpData {
        key: (*key).into(),
        value: *value,
        remove: *value == 0.0,
        ..Default::default()
    };
    let entry = |(who, ops): &(&str, &[(&str, f64)])| EntryData {
        entity: entity(who),
        ops: ops.iter().map(op).collect(),
        ..Default::default()
    };
    AlterClientQuotasRequest { entries: changes.iter().map(entry).collect(), ..Default::default() }
}

/// Sets quotas; a value of zero removes the key.
async fn alter(client: &mut Client, who: &str, ops: &[(&str, f64)]) {
    let response: AlterClientQuotasResponse = client.call(1, &request(&[(who, ops)])).await;
    assert_eq!(response.entries[0].error_code, 0, "{:?}", response.entries[0].error_message);
}

/// The entities that match, as `alter` names them, with their quotas.
async fn describe(client: &mut Client, filter: &[(&str, i8, Option<&str>)], strict: bool) -> Vec<String> {
    let component = |(kind, match_type, name): &(&str, i8, Option<&str>)| ComponentData {
        entity_type: (*kind).into(),
        match_type: *match_type,
        r#match: name.map(str::to_owned),
        ..Default::default()
    };
    let components = filter.iter().map(component).collect();
    let request = DescribeClientQuotasRequest { components, strict, ..Default::default() };
    let response: DescribeClientQuotasResponse = client.call(1, &request).await;
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
    let entry = |entry: &describe_client_quotas_response::EntryData| {
        let parts = entry
            .entity
            .iter()
            .map(|part| format!("{}={}", part.entity_type, part.entity_name.as_deref().unwrap_or("*")));
        let values = entry.values.iter().map(|value| format!("{}:{}", value.key, value.value));
        parts.chain(values).collect::<Vec<_>>().join(" ")
    };
    response.entries.unwrap().iter().map(entry).collect()
}

#[tokio::test]
async fn quotas_are_kept_over_a_restart_and_found_by_filter() {
    let broker = broker().await;
    let mut client = broker.client().await;
    for (who, value) in [("user=ann", 1.0), ("user=*", 2.0), ("user=ann client-id=app", 3.0), ("client-id=*", 4.0)] {
        alter(&mut client, who, &[("producer_byte_rate", value), ("consumer_byte_rate", 9.0)]).await;
        alter(&mut client, who, &[("consumer_byte_rate", 0.0)]).await;
    }
    alter(&mut client, "ip=10.0.0.1", &[("connection_creation_rate", 5.0)]).await;
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    const EXACT: i8 = 0;
    const DEFAULT: i8 = 1;
    const ANY: i8 = 2;
    type Filter = &'static [(&'static str, i8, Option<&'static str>)];
    let cases: [(Filter, bool, &[&str]); 7] = [
        (
            &[("user", EXACT, Some("ann"))],
            false,
            &["user=ann producer_byte_rate:1", "user=ann client-id=app producer_byte_rate:3"],
        ),
        (&[("user", EXACT, Some("ann"))], true, &["user=ann producer_byte_rate:1"]),
        (&[("user", DEFAULT, None)], false, &["user=* producer_byte_rate:2"]),
        (&[("user", ANY, None), ("client-id", ANY, None)], true, &["user=ann client-id=app producer_byte_rate:3"]),
        (&[("client-id", ANY, None)], true, &["client-id=* producer_byte_rate:4"]),
        (&[("ip", ANY, None)], true, &["ip=10.0.0.1 connection_creation_rate:5"]),
        (&[("user", EXACT, Some("bob"))], false, &[]),
    ];
    for (filter, strict, expected) in cases {
        let mut found = describe(&mut client, filter, strict).await;
        let mut expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{filter:?} strict {strict}");
    }
    assert_eq!(describe(&mut client, &[], false).await.len(), 5);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_quotas_that_are_set_at_once_all_count_when_they_are_answered() {
    let broker = broker().await;
    let (mut a, mut b, mut c) = (broker.client().await, broker.client().await, broker.client().await);
    for round in 0..10 {
        let quota = [("producer_byte_rate", f64::from(round) + 1.0)];
        tokio::join!(alter(&mut a, "user=a", &quota), alter(&mut b, "user=b", &quota), alter(&mut c, "user=c", &quota));
        let expected = broker.node.broker.metadata.read(|state| QuotaTable::new(state.quotas()));
        assert_eq!(*broker.node.broker.quotas.table(), expected, "round {round}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn quotas_that_kafka_refuses_are_refused_and_leave_the_others_of_the_request_be() {
    let broker = broker().await;
    let mut client = broker.client().await;
    for (who, key, value) in [
        ("user=ann", "no_such_rate", 1.0),
        ("user=ann", "producer_byte_rate", -1.0),
        ("user=ann", "producer_byte_rate", 1.5),
        ("user=ann", "connection_creation_rate", 1.0),
        ("ip=10.0.0.1", "producer_byte_rate", 1.0),
        ("ip=10.0.0.1 user=ann", "connection_creation_rate", 1.0),
        ("ip=not-an-address", "connection_creation_rate", 1.0),
        ("user=", "producer_byte_rate", 1.0),
        ("group=g", "producer_byte_rate", 1.0),
        ("", "producer_byte_rate", 1.0),
    ] {
        let changes = request(&[(who, &[(key, value)]), ("user=good", &[("request_percentage", 12.5)])]);
        let response: AlterClientQuotasResponse = client.call(1, &changes).await;
        let codes: Vec<i16> = response.entries.iter().map(|entry| entry.error_code).collect();
        assert_eq!(codes, [ErrorCode::InvalidRequest.code(), 0], "{who} {key} {value}: {response:?}");
    }
    let only_checked = AlterClientQuotasRequest {
        validate_only: true,
        ..request(&[("user=checked", &[("request_percentage", 1.0)])])
    };
    let _: AlterClientQuotasResponse = client.call(1, &only_checked).await;
    assert_eq!(describe(&mut client, &[], false).await, ["user=good request_percentage:12.5"]);
    let component = |kind: &str| ComponentData { entity_type: kind.into(), match_type: 2, ..Default::default() };
    for (kinds, code) in [
        (&["user", "user"][..], ErrorCode::InvalidRequest),
        (&["ip", "user"], ErrorCode::InvalidRequest),
        (&["group"], ErrorCode::UnsupportedVersion),
    ] {
        let components = kinds.iter().map(|kind| component(kind)).collect();
        let request = DescribeClientQuotasRequest { components, ..Default::default() };
        let response: DescribeClientQuotasResponse = client.call(0, &request).await;
        assert_eq!((response.error_code, response.entries), (code.code(), None), "{kinds:?}");
    }
    broker.stop().await;
}

/// One batch of about so many bytes; the throttle that the answer says.
async fn produce(client: &mut Client, bytes: usize) -> Duration {
    let request = log::produce_request(TOPIC, 0, log::batch(&[&"x".repeat(bytes)]));
    let response: ProduceResponse = client.call(log::PRODUCE, &request).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    Duration::from_millis(response.throttle_time_ms as u64)
}

async fn ping(client: &mut Client) {
    let _: MetadataResponse = client.call(12, &MetadataRequest { topics: Some(vec![]), ..Default::default() }).await;
}

#[tokio::test]
async fn trap_29_a_throttled_producer_is_answered_first_and_read_again_when_the_throttle_is_over() {
    let broker = broker().await;
    let mut slow = client(&broker, "slow").await;
    log::create_topic(&mut slow, TOPIC, 1, &[]).await;
    alter(&mut slow, "client-id=slow", &[("producer_byte_rate", 10_000.0)]).await;
    assert_eq!(produce(&mut slow, 4_000).await, Duration::ZERO);
    let pulse = Pulse::start(broker.dir.path());
    let began = Instant::now();
    let throttle = produce(&mut slow, 13_000).await;
    assert!(pulse.took(began) < throttle, "the answer waited for the throttle");
    let answered = Instant::now();
    assert!(throttle > Duration::from_millis(600), "{throttle:?}");
    // A client of another id goes on meanwhile, and so does the first one where it is not muted.
    let mut other = client(&broker, "other").await;
    assert_eq!(produce(&mut other, 13_000).await, Duration::ZERO);
    ping(&mut client(&broker, "slow").await).await;
    assert!(pulse.took(answered) < throttle, "others were slowed");
    ping(&mut slow).await;
    assert!(answered.elapsed() >= throttle - Duration::from_millis(50), "read after {:?}", answered.elapsed());
    let (_, metrics) = broker.admin("/metrics").await;
    assert!(metrics.contains("seawall_quota_throttled_total{quota=\"producer_byte_rate\"} 1"), "{metrics}");
    broker.stop().await;
}

#[tokio::test]
async fn a_throttled_producer_keeps_about_its_rate_and_others_are_not_slowed() {
    let broker = TestBroker::start_with(|config| {
        short_windows(config);
        // A ring that fills throttles everyone, whatever the quotas.
        config.wal[0].size = Some(ByteSize::mib(256));
    })
    .await;
    let mut slow = client(&broker, "slow").await;
    log::create_topic(&mut slow, TOPIC, 1, &[]).await;
    alter(&mut slow, "client-id=*", &[("producer_byte_rate", 50_000.0)]).await;
    alter(&mut slow, "client-id=free", &[("producer_byte_rate", 1e12)]).await;
    let pulse = Pulse::start(broker.dir.path());
    let (mut sent, began) = (0, Instant::now());
    let slow = async {
        while began.elapsed() < Duration::from_secs(3) {
            produce(&mut slow, 5_000).await;
            sent += 5_000;
        }
    };
    let mut free = client(&broker, "free").await;
    let free = async {
        let (mut sent, mut slowest) = (0, Duration::ZERO);
        while began.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            assert_eq!(produce(&mut free, 50_000).await, Duration::ZERO);
            slowest = slowest.max(pulse.took(asked));
            sent += 50_000;
        }
        (sent, slowest)
    };
    let ((), (free, slowest)) = tokio::join!(slow, free);
    let rate = f64::from(sent) / began.elapsed().as_secs_f64();
    // Half of its rate is lost at most to windows, and one window comes on top.
    assert!((25_000.0..85_000.0).contains(&rate), "{rate} bytes a second of 50,000");
    assert!(free > 10 * sent, "the other client sent {free} bytes, the throttled one {sent}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_throttled_consumer_gets_its_data_and_then_nothing_until_the_throttle_is_over() {
    let broker = broker().await;
    let mut slow = client(&broker, "slow").await;
    log::create_topic(&mut slow, TOPIC, 1, &[]).await;
    for _ in 0..4 {
        produce(&mut slow, 8_000).await;
    }
    alter(&mut slow, "user=*", &[("consumer_byte_rate", 10_000.0)]).await;
    let fetch = |offset| log::fetch_request(TOPIC, vec![log::fetch_partition(0, offset)]);
    let response: FetchResponse = slow.call(log::FETCH, &fetch(0)).await;
    let records = response.responses[0].partitions[0].records.as_ref().unwrap().total_len();
    // One window's worth is asked for, and whole batches are answered.
    assert!((8_000..20_000).contains(&records), "{records} bytes");
    let mut total = records;
    let mut throttle = response.throttle_time_ms;
    while throttle == 0 {
        let response: FetchResponse = slow.call(log::FETCH, &fetch(total as i64 / 8_000)).await;
        total += response.responses[0].partitions[0].records.as_ref().unwrap().total_len();
        throttle = response.throttle_time_ms;
    }
    assert!(total > 10_000, "throttled after {total} bytes");
    // Another connection of the same client does not get around it.
    let mut again = client(&broker, "slow").await;
    let response: FetchResponse = again.call(log::FETCH, &fetch(0)).await;
    assert!(response.throttle_time_ms > 0 && response.responses.is_empty(), "{response:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_client_whose_requests_take_too_much_time_is_throttled_for_a_window_at_most() {
    let broker = broker().await;
    let mut busy = client(&broker, "busy").await;
    alter(&mut busy, "client-id=busy", &[("request_percentage", 0.000_1)]).await;
    let response: MetadataResponse = busy.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert!((1..=1_000).contains(&response.throttle_time_ms), "{}", response.throttle_time_ms);
    let mut other = client(&broker, "other").await;
    let response: MetadataResponse = other.call(12, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_eq!(response.throttle_time_ms, 0);
    broker.stop().await;
}

#[tokio::test]
async fn creating_and_deleting_partitions_too_fast_is_refused_or_for_older_clients_throttled() {
    let broker = broker().await;
    alter(&mut broker.client().await, "client-id=ops", &[("controller_mutation_rate", 0.5)]).await;
    let create = |name: &str, num_partitions| CreateTopicsRequest {
        topics: vec![CreatableTopic { name: name.into(), num_partitions, replication_factor: 1, ..Default::default() }],
        timeout_ms: 5_000,
        ..Default::default()
    };
    // A connection each: the one before is muted.
    let first: CreateTopicsResponse = client(&broker, "ops").await.call(7, &create("first", 10)).await;
    assert_eq!((first.topics[0].error_code, first.throttle_time_ms), (0, 0), "what was left is enough for any number");
    let refused: CreateTopicsResponse = client(&broker, "ops").await.call(7, &create("second", 1)).await;
    assert_eq!(refused.topics[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    assert!(refused.throttle_time_ms > 1_000, "{refused:?}");
    let grow = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic {
            name: "first".into(),
            count: 11,
            assignments: None,
            ..Default::default()
        }],
        timeout_ms: 5_000,
        ..Default::default()
    };
    let refused: CreatePartitionsResponse = client(&broker, "ops").await.call(3, &grow).await;
    assert_eq!(refused.results[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    let topic = DeleteTopicState { name: Some("first".into()), ..Default::default() };
    let delete = DeleteTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
    let refused: DeleteTopicsResponse = client(&broker, "ops").await.call(6, &delete).await;
    assert_eq!(refused.responses[0].error_code, ErrorCode::ThrottlingQuotaExceeded.code());
    let older: CreateTopicsResponse = client(&broker, "ops").await.call(5, &create("third", 1)).await;
    assert_eq!(older.topics[0].error_code, 0);
    assert!(older.throttle_time_ms > 1_000, "{older:?}");
    let other: CreateTopicsResponse = client(&broker, "other").await.call(7, &create("fourth", 10)).await;
    assert_eq!((other.topics[0].error_code, other.throttle_time_ms), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn topics_made_on_demand_count_as_created_partitions() {
    let broker = broker().await;
    let mut client = client(&broker, "ops").await;
    alter(&mut client, "client-id=ops", &[("controller_mutation_rate", 0.5)]).await;
    let topic = |n| MetadataRequestTopic { name: Some(format!("on-demand-{n}")), ..Default::default() };
    let request = MetadataRequest {
        topics: Some((0..10).map(topic).collect()),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let response: MetadataResponse = client.call(12, &request).await;
    let made = response.topics.iter().filter(|topic| topic.error_code == 0).count();
    assert!((1..=3).contains(&made), "{made} topics of one partition each");
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(response.topics.iter().filter(|topic| topic.error_code == unknown).count(), 10 - made);
    broker.stop().await;
}

#[tokio::test]
async fn no_more_topics_are_made_on_demand_than_one_request_may_create() {
    let broker = TestBroker::start_with(|config| set(config, "num.partitions", "4000")).await;
    let topic = |n| MetadataRequestTopic { name: Some(format!("on-demand-{n}")), ..Default::default() };
    let request = MetadataRequest {
        topics: Some((0..4).map(topic).collect()),
        allow_auto_topic_creation: true,
        ..Default::default()
    };
    let response: MetadataResponse = broker.client().await.call(12, &request).await;
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(codes, [0, 0, unknown, unknown]);
    broker.stop().await;
}

#[tokio::test]
async fn connections_that_come_too_fast_from_one_address_are_closed_after_a_while() {
    let broker = broker().await;
    let mut first = broker.client().await;
    alter(&mut first, "ip=*", &[("connection_creation_rate", 2.0)]).await;
    for _ in 0..2 {
        ping(&mut broker.client().await).await;
    }
    let began = Instant::now();
    let mut third = broker.client().await;
    third.closed().await;
    let held = began.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&held), "closed after {held:?}");
    // The connections that were there go on, and a rate of its own comes before that of all addresses.
    alter(&mut first, "ip=127.0.0.1", &[("connection_creation_rate", 100.0)]).await;
    ping(&mut broker.client().await).await;
    broker.stop().await;
}
