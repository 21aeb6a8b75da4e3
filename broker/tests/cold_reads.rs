//! Reads of what lies in objects: how few reads of the store they cost, however many partitions and consumers there are, and
//! what a slow partition does to the others of its fetch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::log::*;
use common::{Client, TestBroker, test_config};
use seawall::node::Node;
use seawall::store::Store;
use seawall::units::{ByteSize, Span};
use seawall_backends::Purpose;
use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::fs::FsBackend;
use seawall_backends::observed::Operation;
use seawall_protocol::messages::*;
use seawall_protocol::records::{BatchBuilder, Compression};

const VALUE_BYTES: usize = 20_000;

/// Reads of the store for consumers, and their bytes.
fn gets(node: &Node) -> (u64, u64) {
    let all = node.broker.store.counters.snapshot();
    let reads = all.iter().filter(|one| {
        one.operation == Operation::Get && matches!(one.purpose, Purpose::CatchUpRead | Purpose::TailRead)
    });
    reads.fold((0, 0), |(calls, bytes), one| (calls + one.calls, bytes + one.bytes))
}

/// A batch of the partition, as long as `VALUE_BYTES`.
fn batch_of(partition: i32) -> Bytes {
    batch(&[&format!("{partition:05}{}", "v".repeat(VALUE_BYTES - 5))])
}

async fn produce_to(client: &mut Client, partition: i32, batch: Bytes) {
    let response: ProduceResponse = client.call(PRODUCE, &produce_request("t", partition, batch)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

/// A broker whose topic `t` lies in the store, a batch in each partition, with nothing in memory.
async fn cold(partitions: i32) -> TestBroker {
    let broker = TestBroker::start_with(|config| config.cache.block_bytes = ByteSize::mib(64)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", partitions, &[]).await;
    for partition in 0..partitions {
        produce_to(&mut client, partition, batch_of(partition)).await;
    }
    broker.restart().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_of_many_cold_partitions_costs_a_read_of_the_store_for_each_sixteen_and_keeps_their_order() {
    const PARTITIONS: i32 = 64;
    let broker = cold(PARTITIONS).await;
    let mut client = broker.client().await;
    let (before, _) = gets(&broker.node);
    let request = fetch_request("t", (0..PARTITIONS).map(|partition| fetch_partition(partition, 0)).collect());
    let response: FetchResponse = client.call(FETCH, &request).await;
    let partitions = &response.responses[0].partitions;
    for (expected, partition) in (0..).zip(partitions) {
        assert_eq!((partition.partition_index, partition.error_code), (expected, 0));
        let records = values(&records_of(partition));
        assert!(records.len() == 1 && records[0].starts_with(&format!("{expected:05}v")), "{expected}");
    }
    assert_eq!(partitions.len(), PARTITIONS as usize);
    let (reads, bytes) = gets(&broker.node);
    // The index, and one for each wave; a cut of the upload in between may make it two objects.
    assert!(reads - before <= 2 * (1 + 4), "{} reads", reads - before);
    assert!(bytes < 2 * (64 * VALUE_BYTES as u64 + (64 << 10)), "{bytes} bytes");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_an_answer_are_bounded_over_partitions_that_are_read_at_the_same_time() {
    let broker = cold(40).await;
    let mut client = broker.client().await;
    let mut request = fetch_request("t", (0..40).map(|partition| fetch_partition(partition, 0)).collect());
    request.max_bytes = 10 * (VALUE_BYTES as i32 + 100);
    for wanted in &mut request.topics[0].partitions {
        wanted.partition_max_bytes = VALUE_BYTES as i32 + 100;
    }
    let response: FetchResponse = client.call(FETCH, &request).await;
    let counts: Vec<usize> = response.responses[0].partitions.iter().map(|one| records_of(one).len()).collect();
    assert_eq!(counts, [vec![1; 10], vec![0; 30]].concat());
    // KIP-74: a first batch larger than every limit goes out, and alone. Those at their end do not count as first.
    for (max_bytes, partition_max_bytes) in [(1, 1), (1 << 20, 1), (1, 1 << 20)] {
        request.max_bytes = max_bytes;
        for (at, wanted) in request.topics[0].partitions.iter_mut().enumerate() {
            wanted.partition_max_bytes = partition_max_bytes;
            wanted.fetch_offset = i64::from(at < 3);
        }
        let response: FetchResponse = client.call(FETCH, &request).await;
        let counts: Vec<usize> = response.responses[0].partitions.iter().map(|one| records_of(one).len()).collect();
        assert_eq!(counts, [vec![0; 3], vec![1], vec![0; 36]].concat(), "{max_bytes} {partition_max_bytes}");
    }
    broker.stop().await;
}

/// Reads partition 0 from its start, in fetches of 1 MiB.
async fn consume(broker: &TestBroker, batches: i64) {
    let mut client = broker.client().await;
    let mut next = 0;
    while next < batches {
        let records = fetch(&mut client, "t", next).await;
        assert!(!records.is_empty());
        next = records.last().unwrap().offset + 1;
    }
}

/// Reads of the store and their bytes while so many consumers go over a cold partition 0 at the same time, up to this many batches.
async fn cost(broker: TestBroker, consumers: usize, batches: i64) -> (TestBroker, (u64, u64)) {
    let broker = Arc::new(broker.restart().await);
    let before = gets(&broker.node);
    let running: Vec<_> = (0..consumers)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move { consume(&broker, batches).await })
        })
        .collect();
    for one in running {
        one.await.unwrap();
    }
    let after = gets(&broker.node);
    (Arc::into_inner(broker).unwrap(), (after.0 - before.0, after.1 - before.1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_consumers_of_one_old_range_cost_the_reads_of_one() {
    const BATCHES: i64 = 400;
    let mut broker = TestBroker::start_with(|config| config.cache.block_bytes = ByteSize::mib(64)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    for _ in 0..BATCHES {
        produce(&mut client, "t", batch_of(0)).await;
    }
    // The range of one fetch, and then one that takes many.
    let mut costs = Vec::new();
    for (consumers, batches) in [(1, 40), (10, 40), (1, BATCHES), (10, BATCHES)] {
        let (again, cost) = cost(broker, consumers, batches).await;
        broker = again;
        costs.push(cost);
    }
    println!("reads and bytes of one and ten, short and long: {costs:?}");
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[2].1, costs[3].1, "no byte is read twice");
    // One may stop short of what another is reading: some reads are two then.
    assert!(costs[3].0 <= 2 * costs[2].0 + 2, "{costs:?}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_the_store_does_not_give_holds_the_others_for_ten_seconds_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let config = test_config(dir.path());
    let node = Node::start(config.clone()).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    create_topic(&mut client, "t", 2, &[]).await;
    produce_to(&mut client, 0, batch_of(0)).await;
    node.stop().await;
    let store = FsBackend::open(&config.store().path.unwrap()).unwrap();
    let store = Arc::new(Faulty::new(Arc::new(store), Faults::default(), 1));
    let node = Node::start_over(config, Some(Store::over(store.clone()))).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    produce_to(&mut client, 1, batch_of(1)).await;
    store.set_faults(Faults { frozen: 1000, ..Faults::default() });
    let request = fetch_request("t", vec![fetch_partition(0, 0), fetch_partition(1, 0)]);
    let began = Instant::now();
    let response: FetchResponse = client.call(FETCH, &request).await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(19), "{took:?}");
    let [frozen, fine] = &response.responses[0].partitions[..] else { panic!("{response:?}") };
    assert!(frozen.error_code != 0 && records_of(frozen).is_empty());
    assert_eq!((fine.error_code, values(&records_of(fine)).len()), (0, 1));
    store.set_faults(Faults::default());
    node.stop().await;
}

/// Timestamps that rise, but not from each record to the next.
fn timestamp_of(offset: i64) -> i64 {
    1_000_000 + offset / 2 * 20 - offset % 7 * 50
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_by_time_finds_the_first_record_with_one_index_and_one_block() {
    const RECORDS: i64 = 6_000;
    let broker = TestBroker::start_with(|config| config.cache.block_bytes = ByteSize::mib(64)).await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[("retention.ms", "-1")]).await;
    for base in (0..RECORDS).step_by(20) {
        let mut builder = BatchBuilder::new(if base % 40 == 0 { Compression::Zstd } else { Compression::None });
        for offset in base..base + 20 {
            // Does not compress.
            let value: Vec<u8> = (0..1_000u64).map(|n| (n * n * (offset as u64 + 7) % 251) as u8).collect();
            builder.add(None, Some(&value), timestamp_of(offset), &[]);
        }
        produce(&mut client, "t", builder.build()).await;
    }
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let objects = broker.node.broker.metadata.read(|state| state.objects().count()) as u64;
    let last = (0..RECORDS).map(timestamp_of).max().unwrap();
    for (look_up, timestamp) in (1..).zip([timestamp_of(4_321), timestamp_of(4_322), 0, last, last + 1, 1_030_000]) {
        let (before, bytes_before) = gets(&broker.node);
        let found = list_offset(&mut client, "t", timestamp).await;
        let expected = (0..RECORDS).find(|offset| timestamp_of(*offset) >= timestamp);
        let expected = expected.map_or((-1, -1), |offset| (offset, timestamp_of(offset)));
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, expected.0, expected.1));
        let (reads, bytes) = gets(&broker.node);
        let (reads, bytes) = (reads - before, bytes - bytes_before);
        println!("look-up {look_up}: {reads} reads, {bytes} bytes, {objects} objects");
        assert!(reads <= 2, "{reads} reads for {timestamp}");
    }
    broker.stop().await;
}

/// How long does a replay of many partitions take, and how many reads of the store, each of which takes up to 10 ms?
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_many_partitions_gives_every_batch_once_with_few_reads_of_the_store() {
    const PARTITIONS: i32 = 200;
    const BATCHES: i64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut config = test_config(dir.path());
    config.upload.bytes = ByteSize::mib(4);
    // How fast this machine produces makes no more objects.
    config.upload.interval = Span::seconds(3600);
    let node = Node::start(config.clone()).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    create_topic(&mut client, "t", PARTITIONS, &[]).await;
    for _ in 0..BATCHES {
        for partition in 0..PARTITIONS {
            produce_to(&mut client, partition, batch_of(partition)).await;
        }
    }
    node.stop().await;
    let slow = Faults { slow: 1000, delay_max: Duration::from_millis(10), ..Faults::default() };
    let store = Arc::new(FsBackend::open(&config.store().path.unwrap()).unwrap());
    let store = Arc::new(Faulty::new(store, slow, 1));
    let node = Node::start_over(config, Some(Store::over(store))).await.unwrap();
    let mut client = Client::connect(node.kafka_address).await;
    let (before, began) = (gets(&node), Instant::now());
    let mut next = vec![0; PARTITIONS as usize];
    while next.iter().any(|offset| *offset < BATCHES) {
        let wanted = (0..PARTITIONS).map(|partition| fetch_partition(partition, next[partition as usize])).collect();
        let response: FetchResponse = client.call(FETCH, &fetch_request("t", wanted)).await;
        for partition in &response.responses[0].partitions {
            for (header, _) in batches_of(partition) {
                let next = &mut next[partition.partition_index as usize];
                assert_eq!(header.base_offset, *next);
                *next += 1;
            }
        }
    }
    let (took, after) = (began.elapsed(), gets(&node));
    let (reads, bytes) = (after.0 - before.0, after.1 - before.1);
    let objects = node.broker.metadata.read(|state| state.objects().count());
    println!("{PARTITIONS} partitions in {objects} objects: {took:?}, {reads} reads, {bytes} bytes");
    assert!(reads < PARTITIONS as u64 / 2, "{reads} reads");
    node.stop().await;
}
