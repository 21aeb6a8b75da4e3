//! Back-pressure is fair: one producer that fills the WAL faster than the store takes it does not starve those that write little.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::TestBroker;
use common::log::*;
use seawall::units::{ByteSize, Span};
use seawall_protocol::messages::ProduceResponse;

/// The WAL is above its soft limit after less than a second.
const TIME: Duration = Duration::from_secs(10);
const GREEDY_CONNECTIONS: usize = 8;

#[derive(Debug, Default, Clone, Copy)]
struct Met {
    requests: u32,
    errors: u32,
    throttle_ms: i32,
    /// The longest but one: any machine has a disk that stalls once.
    second_slowest: Duration,
    slowest: Duration,
}

async fn produce_until(
    broker: &TestBroker,
    client_id: &str,
    partition: i32,
    bytes: usize,
    end: Instant,
    pause: Duration,
) -> Met {
    let mut client = broker.client().await;
    client.client_id = client_id.into();
    let (value, mut met) = ("v".repeat(bytes), Met::default());
    while Instant::now() < end {
        let began = Instant::now();
        let response: ProduceResponse = client.call(PRODUCE, &produce_request("t", partition, batch(&[&value]))).await;
        met.requests += 1;
        met.errors += u32::from(response.responses[0].partition_responses[0].error_code != 0);
        met.throttle_ms = met.throttle_ms.max(response.throttle_time_ms);
        let took = began.elapsed();
        met.second_slowest = met.second_slowest.max(took.min(met.slowest));
        met.slowest = met.slowest.max(took);
        tokio::time::sleep(pause).await;
    }
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_greedy_and_ten_modest_producers_only_the_greedy_one_is_held_back() {
    let broker = TestBroker::start_with(|config| {
        for wal in &mut config.wal {
            wal.size = Some(ByteSize::mib(16));
        }
        config.upload.bytes = ByteSize::mib(1);
        config.upload.interval = Span::seconds(1);
        config.limits.store_upload_rate = Some(ByteSize::mib(1));
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 11, &[]).await;
    let broker = std::sync::Arc::new(broker);
    let end = Instant::now() + TIME;
    let mut greedy = Vec::new();
    for _ in 0..GREEDY_CONNECTIONS {
        let broker = broker.clone();
        greedy
            .push(tokio::spawn(async move { produce_until(&broker, "greedy", 0, 700_000, end, Duration::ZERO).await }));
    }
    let mut modest = Vec::new();
    for n in 1..=10 {
        let broker = broker.clone();
        modest.push(tokio::spawn(async move {
            produce_until(&broker, &format!("modest-{n}"), n, 1_000, end, Duration::from_millis(100)).await
        }));
    }
    let (mut greedy_met, mut modest_met) = (Vec::new(), Vec::new());
    for one in modest {
        modest_met.push(one.await.unwrap());
    }
    for one in greedy {
        greedy_met.push(one.await.unwrap());
    }
    println!("greedy {greedy_met:?}\nmodest {modest_met:?}");
    assert!(greedy_met.iter().any(|met| met.throttle_ms >= 500), "the WAL never got tight");
    let greedy_ms = greedy_met.iter().map(|met| met.throttle_ms).max().unwrap_or(0);
    for met in modest_met {
        assert_eq!(met.errors, 0, "{met:?}");
        assert!(met.requests > 20 && 4 * met.throttle_ms <= greedy_ms, "{met:?}");
        assert!(met.second_slowest < Duration::from_secs(2), "{met:?}");
    }
    std::sync::Arc::into_inner(broker).unwrap().stop().await;
}
