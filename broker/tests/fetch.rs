//! The Fetch API beyond the named traps: many partitions, deleted topics, diverging epochs, slow readers, cold data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::log::*;
use common::{PATIENCE, TestBroker};
use seawall::units::{ByteSize, Span};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::delete_topics_request::DeleteTopicState;
use seawall_protocol::messages::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_over_many_partitions_is_woken_by_the_last_of_them() {
    const PARTITIONS: i32 = 300;
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "wide", PARTITIONS, &[]).await;
    let mut request = fetch_request("wide", (0..PARTITIONS).map(|partition| fetch_partition(partition, 0)).collect());
    request.max_wait_ms = 15_000;
    let mut producer = broker.client().await;
    let began = Instant::now();
    let (response, woken) = tokio::join!(client.call::<_, FetchResponse>(FETCH, &request), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let wide = produce_request("wide", PARTITIONS - 1, batch(&["x"]));
        let _: ProduceResponse = producer.call(PRODUCE, &wide).await;
        Instant::now()
    });
    assert!(woken.elapsed() < Duration::from_secs(5) && began.elapsed() < Duration::from_secs(10));
    let partitions = &response.responses[0].partitions;
    assert_eq!(partitions.len(), PARTITIONS as usize);
    assert_eq!(values(&records_of(partitions.last().unwrap())), ["x"]);
    broker.stop().await;
}

#[tokio::test]
async fn deleting_a_topic_ends_a_long_poll_with_an_error() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "doomed", 1, &[]).await;
    let mut request = fetch_request("doomed", vec![fetch_partition(0, 0)]);
    request.max_wait_ms = 15_000;
    let mut admin = broker.client().await;
    let began = Instant::now();
    let (response, ()) = tokio::join!(client.call::<_, FetchResponse>(FETCH, &request), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let topics = vec![DeleteTopicState { name: Some("doomed".into()), ..Default::default() }];
        let delete = DeleteTopicsRequest { topics, timeout_ms: 5_000, ..Default::default() };
        let _: DeleteTopicsResponse = admin.call(6, &delete).await;
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    let error = response.responses[0].partitions[0].error_code;
    assert_eq!(error, ErrorCode::UnknownTopicOrPartition.code());
    broker.stop().await;
}

#[tokio::test]
async fn a_client_whose_log_diverges_is_told_where() {
    let mut broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    produce(&mut client, "t", batch(&["a", "b"])).await;
    let first_epoch = leader_epoch(&mut client, "t").await;
    broker = broker.restart().await;
    let mut client = broker.client().await;
    produce(&mut client, "t", batch(&["c"])).await;
    // In the first epoch this log has offsets 0 and 1 only.
    let mut request = fetch_request("t", vec![fetch_partition(0, 3)]);
    request.topics[0].partitions[0].last_fetched_epoch = first_epoch;
    let response: FetchResponse = client.call(FETCH, &request).await;
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    assert_eq!((partition.diverging_epoch.epoch, partition.diverging_epoch.end_offset), (first_epoch, 2));
    assert!(records_of(partition).is_empty());
    request.topics[0].partitions[0].fetch_offset = 2;
    let response: FetchResponse = client.call(FETCH, &request).await;
    assert_eq!(values(&records_of(&response.responses[0].partitions[0])), ["c"]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_holds_its_part_of_the_budget_and_no_more() {
    let broker = TestBroker::start_with(|config| {
        config.limits.fetch_response_bytes = ByteSize::mib(16);
        config.limits.write_stall = Span::seconds(2);
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let value = "v".repeat(900_000);
    for _ in 0..12 {
        produce(&mut client, "t", batch(&[&value])).await;
    }
    let free = broker.node.broker.fetches.memory.bytes_free();
    // More than sockets buffer, so that the responses stay in the broker.
    let mut request = fetch_request("t", vec![fetch_partition(0, 0)]);
    request.max_bytes = 12 << 20;
    request.topics[0].partitions[0].partition_max_bytes = 12 << 20;
    let mut stuck = broker.client().await;
    stuck.send(FETCH, &request).await;
    until(|| broker.node.broker.fetches.memory.bytes_free() < free - (8 << 20)).await;
    // Another gets what fits beside it.
    assert_eq!(fetch(&mut client, "t", 11).await.len(), 1);
    // The stuck connection is closed after the write stall, and its part comes back.
    until(|| broker.node.broker.fetches.memory.bytes_free() == free).await;
    assert_eq!(fetch(&mut client, "t", 11).await.len(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_take_nothing_are_closed_when_a_fetch_finds_no_room() {
    let broker = TestBroker::start_with(|config| config.limits.fetch_response_bytes = ByteSize::mib(10)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let value = "v".repeat(900_000);
    for _ in 0..12 {
        produce(&mut client, "t", batch(&[&value])).await;
    }
    let mut request = fetch_request("t", vec![fetch_partition(0, 0)]);
    request.max_bytes = 12 << 20;
    request.topics[0].partitions[0].partition_max_bytes = 12 << 20;
    let mut stuck = broker.client().await;
    stuck.send(FETCH, &request).await;
    until(|| broker.node.broker.fetches.memory.bytes_free() < 1 << 20).await;
    let deadline = Instant::now() + PATIENCE;
    while fetch(&mut client, "t", 11).await.is_empty() {
        assert!(Instant::now() < deadline, "no room came back");
    }
    let reason = seawall::metrics::ReasonLabel { reason: "answer_memory" };
    assert_eq!(broker.node.broker.metrics.network.connections_closed.get_or_create(&reason).get(), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_data_is_read_in_order_after_a_restart_with_small_and_large_fetches() {
    let mut broker = TestBroker::start_with(|config| {
        config.cache.log_bytes = ByteSize::kib(256);
        config.cache.block_bytes = ByteSize::mib(16);
        config.upload.bytes = ByteSize::mib(1);
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let filler = "f".repeat(9_000);
    for number in 0..600 {
        produce(&mut client, "t", batch(&[&format!("{number}:{filler}")])).await;
    }
    for restarted in [false, true] {
        if restarted {
            broker = broker.restart().await;
            client = broker.client().await;
        }
        for bytes in [5_000, 700_000, 50_000_000] {
            let (mut next, mut fetches) = (0, 0);
            while next < 600 {
                let mut request = fetch_request("t", vec![fetch_partition(0, next)]);
                request.max_bytes = bytes;
                request.topics[0].partitions[0].partition_max_bytes = bytes;
                let response: FetchResponse = client.call(FETCH, &request).await;
                let partition = &response.responses[0].partitions[0];
                assert_eq!(partition.error_code, 0);
                for record in records_of(partition) {
                    assert_eq!(record.offset, next);
                    let value = record.value.unwrap();
                    assert!(value.starts_with(format!("{next}:f").as_bytes()));
                    next += 1;
                }
                fetches += 1;
                assert!(fetches <= 600, "every fetch moves on");
            }
        }
    }
    let usage = broker.node.broker.reads.reader().usage();
    assert!(usage.store_reads > 0 && usage.corrupt == 0, "{usage:?}");
    // Readahead and readers do not fetch the same block twice.
    assert!(usage.store_read_bytes < 600 * 9_100 * 13 / 10, "{usage:?}");
    broker.stop().await;
}

/// What the metrics say of a resource: used, and the most that there may be.
async fn resource(broker: &TestBroker, name: &str) -> (u64, u64) {
    let (_, text) = broker.admin("/metrics").await;
    let value = |metric: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{metric}{{resource=\"{name}\"")));
        line.unwrap_or_else(|| panic!("{metric} of {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    (value("seawall_resource_used"), value("seawall_resource_limit"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_consumers_that_fetch_and_never_read_hold_no_more_than_the_limit_and_others_are_served() {
    const LIMIT: u64 = 32 << 20;
    let broker = TestBroker::start_with(|config| {
        config.limits.fetch_response_bytes = ByteSize::mib(32);
        // What the kernel holds for each is bounded too.
        common::set(config, "socket.send.buffer.bytes", "65536");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let value = "v".repeat(900_000);
    for _ in 0..4 {
        produce(&mut client, "t", batch(&[&value])).await;
    }
    let mut request = fetch_request("t", vec![fetch_partition(0, 0)]);
    request.topics[0].partitions[0].partition_max_bytes = 4 << 20;
    let mut vanished = Vec::new();
    for _ in 0..100 {
        let mut one = broker.client().await;
        one.send(FETCH, &request).await;
        vanished.push(one);
    }
    let mut most = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        let (used, limit) = resource(&broker, "fetch_answers").await;
        assert_eq!(limit, LIMIT);
        assert!(used <= limit, "{used} bytes");
        most = most.max(used);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(most > LIMIT / 2, "they hold {most} bytes: the limit was not reached");
    // Who reads gets room again: those who do not are closed.
    let deadline = Instant::now() + PATIENCE;
    while fetch(&mut client, "t", 3).await.is_empty() {
        assert!(Instant::now() < deadline, "no room came back");
    }
    drop(vanished);
    broker.stop().await;
}

async fn until(condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain");
}
