//! Requests of one connection take effect and are answered in their order, while produce requests overlap.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{
    TestBroker,
    log::{batch, create_topic, fetch, list_offset, produce_request, values},
};
use seawall_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, ProduceResponse,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
};

const VERSION: i16 = 9;

#[tokio::test]
async fn pipelined_produce_requests_are_appended_and_answered_in_order() {
    let broker = TestBroker::start_with(|config| config.limits.pending_requests_per_connection = 8).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let mut sent = Vec::new();
    for n in 0..200 {
        let request = produce_request("t", 0, batch(&[&format!("{n}")]));
        sent.push(client.send(VERSION, &request).await);
    }
    for (n, id) in sent.into_iter().enumerate() {
        let (answered, response) = client.receive::<ProduceResponse>(VERSION).await.unwrap();
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((answered, partition.error_code, partition.base_offset), (id, 0, n as i64));
    }
    let records = fetch(&mut client, "t", 0).await;
    assert_eq!(values(&records), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    broker.stop().await;
}

#[tokio::test]
async fn a_request_behind_pipelined_produce_requests_sees_what_they_did() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
    let latest = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    for round in 1..=20 {
        let first = client.send(VERSION, &produce_request("t", 0, batch(&["a"]))).await;
        let second = client.send(VERSION, &produce_request("t", 0, batch(&["b"]))).await;
        let asked = client.send(5, &latest).await;
        let last = client.send(VERSION, &produce_request("t", 0, batch(&["c"]))).await;
        assert_eq!(client.receive::<ProduceResponse>(VERSION).await.unwrap().0, first);
        assert_eq!(client.receive::<ProduceResponse>(VERSION).await.unwrap().0, second);
        let (answered, response) = client.receive::<ListOffsetsResponse>(5).await.unwrap();
        // What stands before it has happened, and what stands behind it has not.
        assert_eq!((answered, response.topics[0].partitions[0].offset), (asked, round * 3 - 1));
        assert_eq!(client.receive::<ProduceResponse>(VERSION).await.unwrap().0, last);
    }
    broker.stop().await;
}

#[tokio::test]
async fn answers_of_what_was_done_come_before_the_end_of_the_connection() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    let good = client.send(VERSION, &produce_request("t", 0, batch(&["a"]))).await;
    // A produce request that cannot be read.
    client.send_raw(&[0, 0, 0, 12, 0, 0, 0, 9, 0, 0, 0, 9, 0xff, 0xff, 0, 0xff]).await;
    let (answered, response) = client.receive::<ProduceResponse>(VERSION).await.unwrap();
    assert_eq!((answered, response.responses[0].partition_responses[0].error_code), (good, 0));
    client.closed().await;
    assert_eq!(list_offset(&mut broker.client().await, "t", -1).await.offset, 1);
    broker.stop().await;
}
