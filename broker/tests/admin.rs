//! The admin HTTP: metrics, health, readiness, state; and what broken clients of it cost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{PATIENCE, TestBroker, http_get};
use seawall_protocol::messages::{MetadataRequest, MetadataResponse, metadata_request::MetadataRequestTopic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

async fn create_topic(broker: &TestBroker, name: &str) {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() };
    let _: MetadataResponse = broker.client().await.call(12, &request).await;
}

#[tokio::test]
async fn metrics_cover_each_part_and_read_as_open_metrics() {
    let broker = TestBroker::start().await;
    create_topic(&broker, "t").await;
    let (status, text) = broker.admin("/metrics").await;
    assert_eq!(status, 200);
    for name in [
        "seawall_network_connections ",
        "seawall_network_requests_total{api=\"Metadata\"} 1",
        "seawall_network_request_duration_seconds_bucket",
        "seawall_wal_ring_bytes{wal=",
        "seawall_wal_durable_lsn{wal=",
        "seawall_wal_trim_lag_bytes{wal=",
        "seawall_wal_left_seconds{wal=",
        "seawall_wal_write_duration_seconds_bucket{",
        "seawall_wal_write_spikes_total{wal=",
        "seawall_wal_legs{wal=",
        "kind=\"stuck\"} 0",
        "seawall_log_cache_budget_bytes ",
        "seawall_block_cache_lookups_total ",
        "seawall_upload_waiting_bytes ",
        "seawall_metadata_applied_index ",
        "seawall_lease_valid 1",
        "seawall_fetch_sessions 0",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    // Each name is described once, before its values.
    let mut described = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(described.insert(line.split(' ').nth(2).unwrap().to_owned()), "{line} twice");
    }
    broker.stop().await;
}

#[tokio::test]
async fn state_shows_topics_with_their_offsets_wals_and_uploads() {
    let broker = TestBroker::start().await;
    create_topic(&broker, "shown").await;
    let (status, text) = broker.admin("/state").await;
    assert_eq!(status, 200);
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["ready"], true);
    assert_eq!(state["topics"][0]["name"], "shown");
    assert_eq!(state["wals"][0]["failed"], false);
    assert_eq!(state["brokers"][0]["fenced"], false);
    assert!(state["uploads"]["waiting_bytes"].is_u64());
    broker.stop().await;
}

#[tokio::test]
async fn health_and_readiness_are_told_and_other_paths_are_not_found() {
    let broker = TestBroker::start().await;
    assert_eq!(broker.admin("/healthz").await.0, 200);
    assert_eq!(broker.admin("/readyz").await.0, 200);
    assert_eq!(broker.admin("/").await.0, 404);
    assert_eq!(broker.admin("/state/../metrics").await.0, 404);
    broker.stop().await;
}

#[tokio::test]
async fn broken_http_costs_its_own_connection() {
    let broker = TestBroker::start().await;
    let address = broker.node.admin_address;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(20_000));
    let requests: [&[u8]; 6] = [
        b"\0\0\0\0",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        long.as_bytes(),
        headers.as_bytes(),
    ];
    for request in requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The answer may come, and the connection go, before all of it is written.
        let _ = timeout(PATIENCE, stream.write_all(request)).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() < 100_000);
        assert_eq!(http_get(address, "/healthz").await.0, 200);
    }
    // Sixty that never finish their request leave room for others.
    let mut slow = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(timeout(PATIENCE, http_get(address, "/metrics")).await.unwrap().0, 200);
    drop(slow);
    broker.stop().await;
}
