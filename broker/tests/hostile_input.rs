//! Broken input costs one connection at most: a second connection keeps working all the while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{
    Client, PATIENCE, TestBroker,
    child::ChildBroker,
    log::{PRODUCE, batch, create_topic, produce_request, try_produce},
    set,
};
use seawall::units::ByteSize;
use seawall_protocol::{
    ApiKey, Encoder, ErrorCode, Message, encode_request,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, AlterPartitionReassignmentsRequest,
        AlterPartitionReassignmentsResponse, ApiVersionsRequest, ApiVersionsResponse, DescribeConfigsRequest,
        DescribeConfigsResponse, DescribeProducersRequest, DescribeProducersResponse, ElectLeadersRequest,
        ElectLeadersResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListOffsetsRequest,
        ListOffsetsResponse, MetadataRequest, MetadataResponse, ProduceResponse, RequestHeader, alter_configs_request,
        alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
        describe_configs_request::DescribeConfigsResource,
        describe_producers_request::TopicRequest,
        elect_leaders_request::TopicPartitions,
        incremental_alter_configs_request,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        produce_request::PartitionProduceData,
    },
    records::{BatchBuilder, Compression},
    request_header_version,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

/// A connection that does ordinary work and must never notice the others.
struct Neighbour {
    client: Client,
    slowest: Duration,
}

impl Neighbour {
    async fn new(broker: &TestBroker) -> Self {
        Self { client: broker.client().await, slowest: Duration::ZERO }
    }

    async fn works(&mut self) {
        let began = Instant::now();
        let request = MetadataRequest { topics: None, ..Default::default() };
        let response: MetadataResponse = self.client.call(12, &request).await;
        assert_eq!(response.brokers.len(), 1);
        self.slowest = self.slowest.max(began.elapsed());
    }
}

/// Whether a new connection is served.
async fn serves(broker: &TestBroker) {
    let response: ApiVersionsResponse = broker.client().await.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!(response.error_code, 0);
}

/// A request frame with a good header and any body.
fn frame(api: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        api_key: api as i16,
        api_version: version,
        correlation_id: 1,
        client_id: Some("hostile".into()),
        ..Default::default()
    };
    let mut out = Encoder::new();
    header.encode(&mut out, request_header_version(api, version)).unwrap();
    let mut bytes = out.into_bytes().to_vec();
    bytes.extend_from_slice(body);
    [&(bytes.len() as i32).to_be_bytes()[..], &bytes].concat()
}

#[tokio::test]
async fn garbage_closes_its_own_connection() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..200 {
        let garbage: Vec<u8> = (0..1 + round * 7)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 56) as u8
            })
            .collect();
        let mut client = broker.client().await;
        // Raw, and inside a frame of the right length.
        client.send_raw(&garbage).await;
        drop(client);
        let mut client = broker.client().await;
        client.send_raw(&[&(garbage.len() as i32).to_be_bytes()[..], &garbage].concat()).await;
        client.stream.shutdown().await.unwrap();
        client.closed().await;
        neighbour.works().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn text_of_another_protocol_closes_the_connection() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let texts: [&[u8]; 3] =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n"];
    for text in texts {
        let mut client = broker.client().await;
        client.send_raw(text).await;
        client.closed().await;
        neighbour.works().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn frames_of_impossible_length_close_the_connection() {
    let broker = TestBroker::start_with(|config| set(config, "socket.request.max.bytes", "1000000")).await;
    let mut neighbour = Neighbour::new(&broker).await;
    for length in [1_000_001, i32::MAX, -1, i32::MIN, 0, 1, 7] {
        let mut client = broker.client().await;
        client.send_raw(&[&length.to_be_bytes()[..], &[0; 7]].concat()).await;
        client.closed().await;
        neighbour.works().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn short_bodies_close_the_connection() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    for body in [&[][..], &[0], &[0xff; 3]] {
        let mut client = broker.client().await;
        client.send_raw(&frame(ApiKey::Metadata, 12, body)).await;
        client.closed().await;
        neighbour.works().await;
    }
    broker.stop().await;
}

/// librdkafka asks for the metadata of all topics with three bytes too many.
#[tokio::test]
async fn bytes_behind_a_request_are_ignored() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    for body in [&[0; 7][..], &[1; 10]] {
        client.send_raw(&frame(ApiKey::Metadata, 12, body)).await;
        assert!(client.receive::<MetadataResponse>(12).await.is_some());
    }
    broker.stop().await;
}

#[tokio::test]
async fn hostile_array_counts_close_the_connection_and_allocate_nothing() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let counts: [&[u8]; 5] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ];
    let apis: Vec<(i16, i16, i16)> = {
        let mut client = broker.client().await;
        let response: ApiVersionsResponse = client.call(0, &ApiVersionsRequest::default()).await;
        response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect()
    };
    let before = resident_bytes();
    for (key, min, max) in apis {
        let api = ApiKey::try_from(key).unwrap();
        for version in [min, max] {
            for count in counts {
                let mut client = broker.client().await;
                // The count at the start of the body, and behind the fixed fields that many requests begin with.
                client.send_raw(&frame(api, version, count)).await;
                client.send_raw(&frame(api, version, &[&[0; 9][..], count].concat())).await;
                client.stream.shutdown().await.unwrap();
                client.closed().await;
            }
            neighbour.works().await;
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
    serves(&broker).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_sender_holds_up_nobody() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let request = frame(ApiKey::ApiVersions, 0, &[]);
    let mut slow = broker.client().await;
    for byte in &request {
        slow.send_raw(&[*byte]).await;
        neighbour.works().await;
        sleep(Duration::from_millis(5)).await;
    }
    assert!(slow.receive::<ApiVersionsResponse>(0).await.is_some(), "slow is not wrong");
    broker.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_holds_up_nobody() {
    let broker = TestBroker::start_with(|config| {
        config.limits.write_stall = seawall::units::Span::millis(300);
        set(config, "num.partitions", "1000");
    })
    .await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut greedy = broker.client().await;
    // Asks for large answers and reads none of them.
    let topics = (0..3).map(|n| MetadataRequestTopic { name: Some(format!("large-{n}")), ..Default::default() });
    let request =
        MetadataRequest { topics: Some(topics.collect()), allow_auto_topic_creation: true, ..Default::default() };
    let deadline = Instant::now() + PATIENCE;
    let closed = broker.node.broker.metrics.network.connections_closed.clone();
    let slow = seawall::metrics::ReasonLabel { reason: "slow_reader" };
    while closed.get_or_create(&slow).get() == 0 {
        assert!(Instant::now() < deadline, "the slow reader was not closed");
        let _ = timeout(Duration::from_millis(100), greedy.send(12, &request)).await;
        neighbour.works().await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_never_reads_stays_within_the_memory_for_answers_and_is_closed_for_those_who_wait() {
    let broker = TestBroker::start_with(|config| {
        config.limits.answer_bytes = ByteSize::mib(1);
        set(config, "num.partitions", "1000");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "small", 1, &[]).await;
    let topics = (0..5).map(|n| MetadataRequestTopic { name: Some(format!("large-{n}")), ..Default::default() });
    let create =
        MetadataRequest { topics: Some(topics.collect()), allow_auto_topic_creation: true, ..Default::default() };
    let _: MetadataResponse = client.call(12, &create).await;

    let everything = MetadataRequest { topics: None, ..Default::default() };
    let ask = encode_request(ApiKey::Metadata, 12, 1, None, &everything).unwrap().into_bytes();
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        crowd.spawn(never_read(broker.address(), ask.repeat(100)));
    }
    let closed = broker.node.broker.metrics.network.connections_closed.clone();
    let closed = || closed.get_or_create(&seawall::metrics::ReasonLabel { reason: "answer_memory" }).get();
    let mut most = 0;
    let deadline = Instant::now() + PATIENCE;
    while closed() < 5 {
        assert!(Instant::now() < deadline, "those who never read were not closed");
        let usage = broker.node.broker.answers.usage();
        assert!(usage.bytes <= usage.budget_bytes, "{usage:?}");
        most = most.max(usage.waiting);
        // What is small does not wait for them.
        assert_eq!(try_produce(&mut client, "small", batch(&["x"])).await.error_code, 0);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(most > 0, "nobody waited");
    let response: MetadataResponse = client.call(12, &everything).await;
    assert_eq!(response.topics.iter().map(|topic| topic.partitions.len()).sum::<usize>(), 5_001);
    // Each of those closed was one of the crowd.
    for _ in 0..5 {
        timeout(PATIENCE, crowd.join_next()).await.unwrap().unwrap().unwrap();
    }
    drop(crowd);
    let deadline = Instant::now() + PATIENCE;
    while broker.node.broker.answers.usage().bytes > 0 {
        assert!(Instant::now() < deadline, "{:?}", broker.node.broker.answers.usage());
        sleep(Duration::from_millis(20)).await;
    }
    broker.stop().await;
}

/// Asks until the broker closes the connection.
async fn never_read(address: SocketAddr, requests: Vec<u8>) {
    let socket = TcpSocket::new_v4().unwrap();
    // So that answers stay in the broker.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    while stream.write_all(&requests).await.is_ok() {}
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut client = broker.client().await;
    client.send(0, &ApiVersionsRequest::default()).await;
    client.stream.shutdown().await.unwrap();
    assert!(client.receive::<ApiVersionsResponse>(0).await.is_some());
    client.closed().await;
    // Closed inside a frame: no answer, and nothing is left behind.
    let mut cut = broker.client().await;
    cut.send_raw(&[0, 0, 1, 0, 1, 2, 3]).await;
    cut.stream.shutdown().await.unwrap();
    cut.closed().await;
    neighbour.works().await;
    broker.stop().await;
}

#[tokio::test]
async fn frames_that_never_end_do_not_use_up_the_memory_of_others() {
    let broker = TestBroker::start_with(|config| {
        set(config, "socket.request.max.bytes", "2000000");
        set(config, "queued.max.request.bytes", "4000000");
    })
    .await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut hoarders = Vec::new();
    for _ in 0..8 {
        let mut client = broker.client().await;
        client.send_raw(&2_000_000i32.to_be_bytes()).await;
        let part = vec![0; 1_000_000];
        let _ = timeout(Duration::from_millis(100), client.stream.write_all(&part)).await;
        hoarders.push(client);
        neighbour.works().await;
    }
    let held = broker.node.broker.metrics.network.request_buffer_bytes.get();
    assert!(held <= 4_000_000, "{held} bytes are held");
    // A large frame still comes through, once those that stalled are given up.
    let mut client = broker.client().await;
    let topics = (0..40).map(|n| MetadataRequestTopic { name: Some(format!("{n:030000}")), ..Default::default() });
    let request = MetadataRequest { topics: Some(topics.collect()), ..Default::default() };
    let response: MetadataResponse = client.call(12, &request).await;
    assert_eq!(response.topics.len(), 40);
    neighbour.works().await;
    // It did not wait for the others to be given up, which takes five seconds.
    assert!(neighbour.slowest < Duration::from_secs(5), "a neighbour waited {:?}", neighbour.slowest);
    drop(hoarders);
    broker.stop().await;
}

#[tokio::test]
async fn a_resource_that_is_named_many_times_is_described_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let id = broker.node.broker.registration.node.0;
    let resources = (0..1_000).map(|n| DescribeConfigsResource {
        resource_type: 4,
        resource_name: format!("{}{id}", "0".repeat(n % 10)),
        configuration_keys: None,
        ..Default::default()
    });
    let request = DescribeConfigsRequest { resources: resources.collect(), ..Default::default() };
    let response: DescribeConfigsResponse = client.call(4, &request).await;
    assert_eq!(response.results.len(), 1, "ten spellings of one broker");
    assert_eq!(response.results[0].error_code, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_topic_that_is_named_many_times_is_answered_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "orders", 3, &[]).await;
    let named = |name: Option<&str>, topic_id: Uuid| MetadataRequestTopic {
        name: name.map(Into::into),
        topic_id,
        ..Default::default()
    };
    let ask = |topics| MetadataRequest { topics: Some(topics), ..Default::default() };
    // With a name the id says nothing.
    let by_name = ask((0..1_000).map(|n| named(Some("orders"), Uuid::from_u128(n % 10))).collect());
    let response: MetadataResponse = client.call(12, &by_name).await;
    assert_eq!((response.topics.len(), response.topics[0].partitions.len()), (1, 3));
    let by_id = ask(vec![named(None, response.topics[0].topic_id); 1_000]);
    let response: MetadataResponse = client.call(12, &by_id).await;
    assert_eq!((response.topics.len(), response.topics[0].partitions.len()), (1, 3));
    broker.stop().await;
}

/// 2,000 times 30 KB would be 60 MB.
#[tokio::test]
async fn a_long_name_is_not_repeated_for_each_of_its_partitions() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let (name, indexes) = ("x".repeat(30_000), 0..2_000);
    let short = |message: &Option<String>| message.as_ref().is_none_or(|message| message.len() < 100);

    let topic = TopicRequest { name: name.clone(), partition_indexes: indexes.clone().collect(), ..Default::default() };
    let request = DescribeProducersRequest { topics: vec![topic], ..Default::default() };
    let response: DescribeProducersResponse = client.call(0, &request).await;
    let invalid = ErrorCode::InvalidTopicException.code();
    let answers = &response.topics[0].partitions;
    assert_eq!(answers.len(), 2_000);
    assert!(answers.iter().all(|answer| answer.error_code == invalid && short(&answer.error_message)));

    // Each index twice.
    let partitions = indexes.clone().chain(indexes.clone()).collect();
    let topic = TopicPartitions { topic: name.clone(), partitions, ..Default::default() };
    let request = ElectLeadersRequest { topic_partitions: Some(vec![topic]), ..Default::default() };
    let response: ElectLeadersResponse = client.call(2, &request).await;
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    let answers = &response.replica_election_results[0].partition_result;
    assert_eq!(answers.len(), 2_000);
    assert!(answers.iter().all(|answer| answer.error_code == unknown && short(&answer.error_message)));

    let partition = |partition_index| ReassignablePartition { partition_index, ..Default::default() };
    let partitions = indexes.map(partition).collect();
    let topic = ReassignableTopic { name, partitions, ..Default::default() };
    let request = AlterPartitionReassignmentsRequest { topics: vec![topic], ..Default::default() };
    let response: AlterPartitionReassignmentsResponse = client.call(0, &request).await;
    let answers = &response.responses[0].partitions;
    assert_eq!(answers.len(), 2_000);
    assert!(answers.iter().all(|answer| answer.error_code == unknown && short(&answer.error_message)));
    broker.stop().await;
}

#[tokio::test]
async fn a_partition_whose_offset_is_asked_for_twice_is_refused_the_second_time() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "orders", 2, &[]).await;
    let partition = |partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() };
    let topic = |indexes: &[i32]| ListOffsetsTopic {
        name: "orders".into(),
        partitions: indexes.iter().copied().map(partition).collect(),
        ..Default::default()
    };
    let request = ListOffsetsRequest { topics: vec![topic(&[0, 0]), topic(&[1, 0])], ..Default::default() };
    let response: ListOffsetsResponse = client.call(7, &request).await;
    let codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|answer| answer.error_code));
    let invalid = ErrorCode::InvalidRequest.code();
    assert_eq!(codes.collect::<Vec<_>>(), [0, invalid, 0, invalid]);
    broker.stop().await;
}

/// Each compared with each would be 1.6e9 comparisons.
#[tokio::test]
async fn many_resources_of_one_alteration_hold_up_nobody() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut client = broker.client().await;
    let name = |n: usize| format!("{n:x}");
    let resources = (0..40_000).chain([7, 8]).map(|n| alter_configs_request::AlterConfigsResource {
        resource_type: 99,
        resource_name: name(n),
        ..Default::default()
    });
    let request = AlterConfigsRequest { resources: resources.collect(), ..Default::default() };
    client.send(1, &request).await;
    neighbour.works().await;
    let (_, response) = client.receive::<AlterConfigsResponse>(1).await.unwrap();
    let repeated = response
        .responses
        .iter()
        .filter(|answer| answer.error_message.as_deref() == Some("Each resource must appear at most once."));
    let repeated: Vec<&str> = repeated.map(|answer| answer.resource_name.as_str()).collect();
    assert_eq!((response.responses.len(), repeated), (40_002, vec!["7", "8", "7", "8"]));

    let resources = (0..40_000).chain([7, 8]).map(|n| incremental_alter_configs_request::AlterConfigsResource {
        resource_type: 99,
        resource_name: name(n),
        ..Default::default()
    });
    let request = IncrementalAlterConfigsRequest { resources: resources.collect(), ..Default::default() };
    client.send(0, &request).await;
    neighbour.works().await;
    let (_, response) = client.receive::<IncrementalAlterConfigsResponse>(0).await.unwrap();
    assert_eq!(response.responses.len(), 40_002);
    assert!(neighbour.slowest < Duration::from_secs(5), "a neighbour waited {:?}", neighbour.slowest);
    broker.stop().await;
}

#[tokio::test]
async fn compression_bombs_are_refused_within_a_bound_of_memory() {
    let broker = TestBroker::start().await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut client = broker.client().await;
    // These topics need to look inside: one for its keys, one for its codec.
    create_topic(&mut client, "keys", 1, &[("cleanup.policy", "compact")]).await;
    create_topic(&mut client, "codec", 1, &[("compression.type", "lz4")]).await;
    create_topic(&mut client, "as-it-is", 1, &[]).await;
    let zeros = vec![0; 400 << 20];
    let bombs: Vec<_> = [Compression::Gzip, Compression::Zstd, Compression::Lz4, Compression::Snappy]
        .into_iter()
        .map(|codec| {
            // Snappy and LZ4 reach no such ratio: what they carry is smaller, and no bomb.
            let bytes = if matches!(codec, Compression::Gzip | Compression::Zstd) { 400 << 20 } else { 16 << 20 };
            let mut batch = BatchBuilder::new(codec);
            batch.add(Some(b"k"), Some(&zeros[..bytes]), 1_000, &[]);
            (bytes, batch.build())
        })
        .collect();
    drop(zeros);
    let before = resident_bytes();
    for (bytes, bomb) in bombs.into_iter().filter(|(_, bomb)| bomb.len() < 1_000_000) {
        for topic in ["keys", "codec"] {
            let response = try_produce(&mut client, topic, bomb.clone()).await;
            assert_eq!(response.error_code != 0, bytes > 64 << 20, "{bytes} bytes for {topic}");
        }
        // Nothing looks inside: it is stored as it came.
        assert_eq!(try_produce(&mut client, "as-it-is", bomb).await.error_code, 0);
        neighbour.works().await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "memory grew by {grown} bytes");
    broker.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_their_places_come_back() {
    let broker = TestBroker::start_with(|config| set(config, "max.connections", "5")).await;
    let mut neighbour = Neighbour::new(&broker).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut client = broker.client().await;
        let _: ApiVersionsResponse = client.call(0, &ApiVersionsRequest::default()).await;
        others.push(client);
    }
    broker.client().await.closed().await;
    neighbour.works().await;
    others.clear();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = broker.client().await;
        if client.try_call::<_, ApiVersionsResponse>(0, &ApiVersionsRequest::default()).await.is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "no place came back");
        sleep(Duration::from_millis(10)).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn limits_of_an_ipv4_address_hold_on_an_ipv6_listener() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        eprintln!("no IPv6 here");
        return;
    }
    let broker = TestBroker::start_with(|config| {
        config.listeners.kafka = "[::]:0".into();
        config.listeners.advertised = Some("127.0.0.1:0".into());
        set(config, "max.connections.per.ip.overrides", "127.0.0.1:1");
    })
    .await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], broker.address().port()));
    let mut first = Client::connect(address).await;
    let response: ApiVersionsResponse = first.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!(response.error_code, 0);
    Client::connect(address).await.closed().await;
    broker.stop().await;
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let broker = TestBroker::start_with(|config| set(config, "connections.max.idle.ms", "2000")).await;
    broker.client().await.closed().await;
    let mut busy = Neighbour::new(&broker).await;
    for _ in 0..15 {
        sleep(Duration::from_millis(200)).await;
        busy.works().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn without_an_idle_limit_an_idle_connection_stays() {
    let broker = TestBroker::start_with(|config| set(config, "connections.max.idle.ms", "-1")).await;
    let mut idle = broker.client().await;
    sleep(Duration::from_millis(100)).await;
    let response: ApiVersionsResponse = idle.call(0, &ApiVersionsRequest::default()).await;
    assert_eq!(response.error_code, 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_does_not_keep_the_memory_of_a_request_that_was_refused_for_the_rest() {
    const REQUESTS: usize = 60;
    const REFUSED: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let broker = ChildBroker::dev(dir.path(), &[]);
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let before = broker.resident_bytes();
    for _ in 0..REQUESTS {
        let mut request = produce_request("t", 0, batch(&["small"]));
        let records = Some(vec![0u8; REFUSED].into());
        request.topic_data[0].partition_data.push(PartitionProduceData { index: 99, records, ..Default::default() });
        let response: ProduceResponse = client.call(PRODUCE, &request).await;
        let codes: Vec<i16> =
            response.responses[0].partition_responses.iter().map(|answer| answer.error_code).collect();
        assert!(codes[0] == 0 && codes[1] != 0, "{codes:?}");
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    println!("{} MiB after {} MiB that were refused", grown >> 20, (REQUESTS * REFUSED) >> 20);
    assert!(grown < (REQUESTS * REFUSED) as u64 / 3, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    let limit = seawall::server::raise_descriptor_limit();
    let wanted = 10_000.min(usize::try_from(limit).unwrap().saturating_sub(300));
    if wanted < 10_000 {
        eprintln!("only {wanted} connections: the limit on open files is {limit}");
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = ChildBroker::dev(dir.path(), &[]);
    let mut client = broker.client().await;
    let before = broker.resident_bytes();
    let mut idle = Vec::with_capacity(wanted);
    let mut slowest = Duration::ZERO;
    for n in 0..wanted {
        idle.push(timeout(PATIENCE, TcpStream::connect(broker.kafka_address)).await.unwrap().unwrap());
        if n % 500 == 0 {
            let began = Instant::now();
            let _: MetadataResponse = client.call(12, &MetadataRequest::default()).await;
            slowest = slowest.max(began.elapsed());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, text) = broker.admin("/metrics").await;
        let line = text.lines().find(|line| line.starts_with("seawall_network_connections ")).unwrap();
        let open: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
        if open > wanted {
            break;
        }
        assert!(Instant::now() < deadline, "{open} connections are open");
        sleep(Duration::from_millis(50)).await;
    }
    let each = broker.resident_bytes().saturating_sub(before) / wanted as u64;
    eprintln!("{wanted} idle connections: {each} bytes each, slowest neighbour {slowest:?}");
    assert!(each < 16 * 1024, "{each} bytes for an idle connection");
    // Any of them works when it is used, and new ones are taken.
    let mut late = Client::connect(broker.kafka_address).await;
    let _: ApiVersionsResponse = late.call(0, &ApiVersionsRequest::default()).await;
    drop(idle);
    let _: MetadataResponse = client.call(12, &MetadataRequest::default()).await;
    assert!(broker.terminate().success());
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
