//! `wal.kind = "none"`: a broker without a WAL. Every topic is acked by the commit in the object store; what waits for it is in
//! memory, within a limit, and lost with the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::TestBroker;
use common::log::{
    PRODUCE, batch, create_topic, fetch, list_offset, now_ms, produce, produce_request, try_fetch, try_produce, values,
};
use common::outage::{bring_store_back, objects, take_store_away};
use seawall::config::{Config, WalConfig, WalKind};
use seawall::node::Node;
use seawall::units::ByteSize;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::ProduceResponse;
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::Instant;

const VALUE_BYTES: usize = 900 << 10;

fn without_wal(config: &mut Config) {
    config.wal = vec![WalConfig::new(WalKind::None)];
    config.cache.log_bytes = ByteSize::mib(16);
}

/// A large batch whose first bytes say which one it is.
fn large_batch(number: u32) -> bytes::Bytes {
    let mut value = vec![b'x'; VALUE_BYTES];
    value[..4].copy_from_slice(&number.to_be_bytes());
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&value), now_ms(), &[]);
    builder.build()
}

#[tokio::test]
async fn what_is_acked_is_in_the_store_and_there_after_a_restart() {
    let broker = TestBroker::start_with(without_wal).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 2, &[("seawall.ack", "wal")]).await;
    let partition = broker.node.broker.partitions.by_name("t", 0).unwrap();
    for n in 0..5 {
        assert_eq!(produce(&mut client, "t", batch(&["v"])).await, n);
        let offsets = partition.offsets();
        assert!(offsets.committed_end > n && offsets.high_watermark <= offsets.committed_end, "{offsets:?}");
    }
    assert_eq!(values(&fetch(&mut client, "t", 0).await).len(), 5);
    common::group::find_coordinator(&mut client, "g").await;
    assert_eq!(common::group::commit_without_group(&mut client, "g", "t", 3).await, ErrorCode::None);
    let (_, metrics) = broker.admin("/metrics").await;
    for name in ["seawall_memory_log_used_bytes", "seawall_memory_log_limit_bytes", "seawall_upload_ack_cuts_total"] {
        assert!(metrics.contains(name), "{name} is not shown");
    }
    let (_, state) = broker.admin("/state").await;
    assert!(state.contains("\"wals\":[]") && state.contains("\"ack_class\":\"backend\""), "{state}");
    assert!(!broker.dir.path().join("data").join("wal").exists(), "no WAL was made");
    drop(client);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(list_offset(&mut client, "t", -1).await.offset, 5);
    assert_eq!(values(&fetch(&mut client, "t", 0).await).len(), 5);
    assert_eq!(common::group::committed(&mut client, "g", "t", 0).await.0, 3);
    assert_eq!(produce(&mut client, "t", batch(&["v"])).await, 5);
    broker.stop().await;
}

#[tokio::test]
async fn a_stop_uploads_what_nobody_waits_for() {
    let broker = TestBroker::start_with(without_wal).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    for _ in 0..20 {
        let mut request = produce_request("t", 0, batch(&["v"]));
        request.acks = 0;
        client.send(PRODUCE, &request).await;
    }
    let partition = broker.node.broker.partitions.by_name("t", 0).unwrap();
    let began = Instant::now();
    while partition.offsets().log_end < 20 {
        assert!(began.elapsed() < Duration::from_secs(10), "not appended");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop((client, partition));
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(list_offset(&mut client, "t", -1).await.offset, 20);
    broker.stop().await;
}

#[tokio::test]
async fn acks_stop_with_the_store_memory_stays_bounded_and_all_goes_on_when_it_is_back() {
    let broker = TestBroker::start_with(without_wal).await;
    let objects = objects(&broker);
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(produce(&mut client, "t", large_batch(0)).await, 0);
    take_store_away(&objects);
    let (mut sent, mut throttles) = (1, Vec::new());
    let refused = loop {
        let mut request = produce_request("t", 0, large_batch(sent));
        request.timeout_ms = 200;
        let mut response: ProduceResponse = client.call(PRODUCE, &request).await;
        let answer = response.responses.remove(0).partition_responses.remove(0);
        if answer.error_code != ErrorCode::RequestTimedOut.code() {
            break answer;
        }
        throttles.push(response.throttle_time_ms);
        sent += 1;
        assert!(sent < 100, "16 MiB of memory take no 25 MiB");
    };
    let code = ErrorCode::try_from(refused.error_code).unwrap();
    assert_eq!(code, ErrorCode::KafkaStorageError, "{:?}", refused.error_message);
    assert!(code.is_retriable());
    assert!(throttles.is_sorted() && throttles[0] == 0 && throttles.last() > Some(&500), "{throttles:?}");
    let memory = broker.node.broker.partitions.memory_log().unwrap().clone();
    let usage = memory.usage();
    assert!(usage.used_bytes <= usage.normal_bytes_max && usage.normal_bytes_max <= 12 << 20, "{usage:?}");
    assert!(broker.node.broker.partitions.storage().cache.usage().bytes <= 16 << 20);
    assert_eq!(list_offset(&mut client, "t", -1).await.offset, 1, "nothing more was acked");
    let beyond = try_fetch(&mut client, "t", 1).await;
    assert!(beyond.error_code == 0 && common::log::records_of(&beyond).is_empty());

    bring_store_back(&objects);
    let began = Instant::now();
    while list_offset(&mut client, "t", -1).await.offset < i64::from(sent) {
        assert!(began.elapsed() < Duration::from_secs(20), "not uploaded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let answer = try_produce(&mut client, "t", large_batch(sent)).await;
    assert_eq!((answer.error_code, answer.base_offset), (0, i64::from(sent)));
    assert_eq!(memory.usage().used_bytes, 0, "all room is free again");
    let mut next = 0;
    while next <= i64::from(sent) {
        for record in fetch(&mut client, "t", next).await {
            assert_eq!(record.value.unwrap()[..4], (next as u32).to_be_bytes());
            next += 1;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_wal_that_may_hold_acked_data_is_not_left_out() {
    let broker = TestBroker::start_with(|config| config.cache.log_bytes = ByteSize::mib(16)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    assert_eq!(produce(&mut client, "t", batch(&["v"])).await, 0);
    drop(client);
    let TestBroker { node, dir, mut config } = broker;
    node.stop().await;
    without_wal(&mut config);
    let refused = Node::start(config).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("which this broker was not given"), "{refused}");
    drop(dir);
}
