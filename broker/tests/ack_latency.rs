//! How long does an ack take under each class? At a fixed rate over the `fs` store, in one run. A connection sends what is due when
//! it has its answers; what had to wait for that counts from when it was due.
//!
//! `ACK_LATENCY_SECONDS` (1) is the length of each part; five pairs of parts alternate between the classes when it is more than 1.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::TestBroker;
use common::log::{PRODUCE, create_topic, now_ms, produce_request};
use seawall::config::{WalConfig, WalKind};
use seawall_protocol::messages::ProduceResponse;
use seawall_protocol::records::{BatchBuilder, Compression};
use tokio::time::Instant;

const CONNECTIONS: u32 = 8;
/// Of each connection: far below what it may have pending.
const PER_SECOND: u32 = 10;
const VALUE_BYTES: usize = 1024;

fn value() -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&[b'x'; VALUE_BYTES]), now_ms(), &[]);
    builder.build()
}

/// From when a batch was due to be sent until its ack, sorted.
async fn latencies(broker: &TestBroker, topic: &'static str, span: Duration) -> Vec<Duration> {
    let mut running = tokio::task::JoinSet::new();
    let began = Instant::now();
    for connection in 0..CONNECTIONS {
        let mut client = broker.client().await;
        let step = Duration::from_secs(1) / PER_SECOND;
        running.spawn(async move {
            let (mut took, mut due) = (Vec::new(), began + step / CONNECTIONS * connection);
            while due < began + span {
                tokio::time::sleep_until(due).await;
                let mut sent = Vec::new();
                // One whose turn came while the last was waited for counts from its turn.
                while due <= Instant::now() && due < began + span {
                    client.send(PRODUCE, &produce_request(topic, connection as i32, value())).await;
                    sent.push(due);
                    due += step;
                }
                for due in sent {
                    let (_, response): (_, ProduceResponse) = client.receive(PRODUCE).await.unwrap();
                    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
                    took.push(due.elapsed());
                }
            }
            took
        });
    }
    let mut took: Vec<Duration> = running.join_all().await.into_iter().flatten().collect();
    took.sort();
    took
}

fn print(name: &str, took: &[Duration]) {
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!("{name:>16}: p50 {:7.1} ms, p99 {:7.1} ms, max {:7.1} ms, of {}", at(50), at(99), at(100), took.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_under_both_classes_and_without_a_wal() {
    let seconds = std::env::var("ACK_LATENCY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let span = Duration::from_secs(seconds);
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!(
        "{CONNECTIONS} connections, {PER_SECOND} batches of {VALUE_BYTES} bytes a second each; fs store, {build} build"
    );
    let with_wal = TestBroker::start().await;
    let without = TestBroker::start_with(|config| config.wal = vec![WalConfig::new(WalKind::None)]).await;
    for (broker, topic, class) in
        [(&with_wal, "wal", "wal"), (&with_wal, "backend", "backend"), (&without, "none", "wal")]
    {
        create_topic(&mut broker.client().await, topic, CONNECTIONS as i32, &[("seawall.ack", class)]).await;
        latencies(broker, topic, Duration::from_millis(200)).await;
    }
    for _ in 0..if seconds > 1 { 5 } else { 1 } {
        print("wal", &latencies(&with_wal, "wal", span).await);
        print("backend", &latencies(&with_wal, "backend", span).await);
        print("no WAL, backend", &latencies(&without, "none", span).await);
    }
    with_wal.stop().await;
    without.stop().await;
}
