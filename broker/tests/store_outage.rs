//! The object store goes away: acks keep flowing while the WAL has room, then producers are held back and get a retriable
//! error, nothing is dropped, and everything goes on by itself when the store is back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::TestBroker;
use common::log::{PRODUCE, create_topic, fetch, list_offset, produce, produce_request, try_produce};
use common::outage::{bring_store_back, objects, take_store_away};
use seawall::units::{ByteSize, Span};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::ProduceResponse;
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::Instant;

const TOPIC: &str = "outage";
const VALUE_BYTES: usize = 256 << 10;

/// A large batch whose first bytes say which one it is.
fn large_batch(number: u32) -> bytes::Bytes {
    let mut value = vec![b'x'; VALUE_BYTES];
    value[..4].copy_from_slice(&number.to_be_bytes());
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&value), common::log::now_ms(), &[]);
    builder.build()
}

#[tokio::test]
async fn acks_go_on_until_the_wal_is_full_and_again_when_the_store_is_back() {
    let broker = TestBroker::start_with(|config| {
        config.upload.bytes = ByteSize::mib(1);
        config.upload.interval = Span::seconds(1);
        config.cache.log_bytes = ByteSize::mib(4);
        for wal in &mut config.wal {
            wal.soft_limit = 84;
        }
    })
    .await;
    let objects = objects(&broker);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    let mut acked = 0;
    while acked < 8 {
        assert_eq!(produce(&mut client, TOPIC, large_batch(acked)).await, i64::from(acked));
        acked += 1;
    }

    take_store_away(&objects);
    let mut throttles = Vec::new();
    let refused = loop {
        let mut request = produce_request(TOPIC, 0, large_batch(acked));
        request.timeout_ms = 2_000;
        let began = Instant::now();
        let mut response: ProduceResponse = client.call(PRODUCE, &request).await;
        let answer = response.responses.remove(0).partition_responses.remove(0);
        if answer.error_code != 0 {
            assert!(began.elapsed() > Duration::from_millis(900), "held back before it is refused");
            break answer;
        }
        assert_eq!(answer.base_offset, i64::from(acked));
        throttles.push(response.throttle_time_ms);
        acked += 1;
        assert!(acked < 1_000, "a WAL of 32 MiB takes no 250 MiB");
    };
    assert_eq!(throttles[..50], [0; 50], "below the soft limit nobody waits");
    assert!(throttles.is_sorted() && throttles.last() > Some(&500), "the fuller the longer: {throttles:?}");
    let code = ErrorCode::try_from(refused.error_code).unwrap();
    assert_eq!(code, ErrorCode::KafkaStorageError, "{:?}", refused.error_message);
    assert!(code.is_retriable());
    assert!(acked > 8 + 60, "most of the WAL was used: {acked} batches");
    let budget = *broker.node.broker.uploads.status().budgets.values().next().unwrap();
    assert!(budget.bytes < 2 * VALUE_BYTES as u64, "shown while the store is away, too: {budget:?}");
    assert!(budget.throttle_seconds == Some(0.0) && budget.seconds.is_some_and(|left| left < 60.0), "{budget:?}");
    // Reads do not mind: from memory, or back from the WAL.
    assert_eq!(list_offset(&mut client, TOPIC, -1).await.offset, i64::from(acked));

    bring_store_back(&objects);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = try_produce(&mut client, TOPIC, large_batch(acked)).await;
        if answer.error_code == 0 {
            assert_eq!(answer.base_offset, i64::from(acked), "nothing was appended by the refused requests");
            acked += 1;
            break;
        }
        assert!(Instant::now() < deadline, "no ack after the store came back: {:?}", answer.error_message);
    }
    drop(client);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let mut next = 0;
    while next < i64::from(acked) {
        for record in fetch(&mut client, TOPIC, next).await {
            assert_eq!(record.offset, next);
            assert_eq!(record.value.unwrap()[..4], (next as u32).to_be_bytes());
            next += 1;
        }
    }
    broker.stop().await;
}

/// What it acked before may lie nowhere but in memory.
#[tokio::test]
async fn a_stop_with_a_failed_wal_waits_for_the_store() {
    let broker = TestBroker::start_with(|config| {
        config.upload.interval = Span::seconds(3600);
        config.upload.shutdown_wait = Span::millis(100);
    })
    .await;
    let objects = objects(&broker);
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, 1, &[]).await;
    assert_eq!(produce(&mut client, TOPIC, large_batch(0)).await, 0);
    let partitions = &broker.node.broker.partitions;
    let partition = partitions.by_name(TOPIC, 0).unwrap();
    partitions.wals()[0].fail();
    take_store_away(&objects);
    let back = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bring_store_back(&objects);
    });
    broker.stop().await;
    back.await.unwrap();
    assert_eq!(partition.offsets().committed_end, 1);
}
