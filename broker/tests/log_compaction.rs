//! Compacted topics in a running broker: what is left, at which offsets, and for whom.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::group::{commit, commit_of, commit_without_group, committed, find_coordinator};
use common::log::{create_topic, fetch, list_offset, now_ms, produce, try_fetch, try_produce};
use common::{Client, TestBroker, set};
use seawall::log_cleaner::Pass;
use seawall::partition::Partition;
use seawall_metadata::Offset;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::OffsetCommitRequest;
use seawall_protocol::records::{BatchBuilder, Compression, Record};
use std::sync::Arc;
use std::time::Instant;

const COMPACT: (&str, &str) = ("cleanup.policy", "compact");
const EAGER: (&str, &str) = ("min.cleanable.dirty.ratio", "0.0");
/// However little is dirty.
const ROLLED: (&str, &str) = ("segment.ms", "1");
const DAY_MS: i64 = 86_400_000;

/// The cleaner works when it is asked to.
async fn start() -> TestBroker {
    TestBroker::start_with(|config| set(config, "log.cleaner.backoff.ms", "3600000")).await
}

fn batch(codec: Compression, records: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for (at, (key, value)) in records.iter().enumerate() {
        builder.add(Some(key.as_bytes()), value.map(str::as_bytes), now_ms() - 1_000 + at as i64, &[]);
    }
    builder.build()
}

/// Produces and uploads, so that each call makes an object.
async fn put(broker: &TestBroker, client: &mut Client, topic: &str, batch: Bytes) -> i64 {
    let base = produce(client, topic, batch).await;
    assert!(broker.node.broker.uploads.flush().await);
    base
}

async fn clean(broker: &TestBroker, at_ms: i64) -> usize {
    let mut rounds = 0;
    loop {
        match broker.node.broker.log_cleaner.pass(at_ms).await {
            Pass::Cleaned(_) => rounds += 1,
            Pass::NothingToDo => return rounds,
            Pass::Failed(stream) => panic!("cleaning stream {stream} failed"),
        }
    }
}

fn partition(broker: &TestBroker, topic: &str) -> Arc<Partition> {
    broker.node.broker.partitions.by_name(topic, 0).unwrap()
}

fn text(record: &Record) -> (i64, String, Option<String>) {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (record.offset, record.key.as_ref().map(text).unwrap_or_default(), record.value.as_ref().map(text))
}

/// Everything from `offset` on, fetch by fetch.
async fn fetch_all(client: &mut Client, topic: &str, mut offset: i64) -> Vec<(i64, String, Option<String>)> {
    let mut all = Vec::new();
    let end = list_offset(client, topic, -1).await.offset;
    while offset < end {
        let partition = try_fetch(client, topic, offset).await;
        assert_eq!(partition.error_code, 0, "at {offset}");
        let batches = common::log::batches_of(&partition);
        let last = batches.last().expect("the end was not reached").0.last_offset();
        assert!(last >= offset);
        all.extend(common::log::records_of(&partition).iter().filter(|record| record.offset >= offset).map(text));
        offset = last + 1;
    }
    all
}

fn left(of: &[(i64, &str, Option<&str>)]) -> Vec<(i64, String, Option<String>)> {
    of.iter().map(|(offset, key, value)| (*offset, (*key).to_owned(), value.map(str::to_owned))).collect()
}

#[tokio::test]
async fn trap_27_the_newest_of_each_key_stays_at_its_offset_in_every_codec() {
    let broker = start().await;
    let mut client = broker.client().await;
    for codec in Compression::ALL {
        let topic = format!("compacted-{}", codec as i16);
        create_topic(&mut client, &topic, 1, &[COMPACT, EAGER, ROLLED]).await;
        put(&broker, &mut client, &topic, batch(codec, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))])).await;
        put(&broker, &mut client, &topic, batch(codec, &[("a", Some("2")), ("d", Some("1"))])).await;
        put(&broker, &mut client, &topic, batch(codec, &[("c", Some("2")), ("c", Some("3"))])).await;
    }
    assert_eq!(clean(&broker, now_ms()).await, Compression::ALL.len());
    // The cache still holds what was appended; a restart does not.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let expected = [(1, "b", Some("1")), (3, "a", Some("2")), (4, "d", Some("1")), (6, "c", Some("3"))];
    for codec in Compression::ALL {
        let topic = format!("compacted-{}", codec as i16);
        assert_eq!(fetch_all(&mut client, &topic, 0).await, left(&expected), "{codec:?}");
        assert_eq!(fetch_all(&mut client, &topic, 2).await, left(&expected[1..]), "from a hole");
        assert_eq!(list_offset(&mut client, &topic, -2).await.offset, 0);
        assert_eq!(list_offset(&mut client, &topic, -1).await.offset, 7);
        assert_eq!(list_offset(&mut client, &topic, 0).await.offset, 1, "the first record by time");
        let newest = list_offset(&mut client, &topic, -3).await;
        assert!(expected.iter().any(|(offset, ..)| *offset == newest.offset), "{newest:?}");
    }
    assert_eq!(clean(&broker, now_ms()).await, 0, "what was cleaned is remembered");
    // It goes on as a log does.
    let mut client = broker.client().await;
    assert_eq!(put(&broker, &mut client, "compacted-0", batch(Compression::None, &[("b", Some("2"))])).await, 7);
    assert_eq!(clean(&broker, now_ms()).await, 1);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let now = [(3, "a", Some("2")), (4, "d", Some("1")), (6, "c", Some("3")), (7, "b", Some("2"))];
    assert_eq!(fetch_all(&mut client, "compacted-0", 0).await, left(&now));
    broker.stop().await;
}

/// Keyed records at these times, each batch of them an object of its own.
async fn put_at(broker: &TestBroker, client: &mut Client, topic: &str, batches: &[&[(&str, i64)]]) {
    for records in batches {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        for (key, timestamp) in *records {
            builder.add(Some(key.as_bytes()), Some(b"v"), *timestamp, &[]);
        }
        put(broker, client, topic, builder.build()).await;
    }
}

#[tokio::test]
async fn look_ups_by_time_find_what_lies_behind_the_holes() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT, EAGER, ROLLED]).await;
    let batches: [&[(&str, i64)]; 4] = [
        // Nothing of the first is left, of the second its end, and of the third what is not its newest.
        &[("a", 1_000), ("b", 2_000)],
        &[("a", 3_000), ("c", 4_000)],
        &[("b", 2_500), ("d", 9_000), ("e", 5_000)],
        &[("a", 6_000), ("d", 7_000)],
    ];
    put_at(&broker, &mut client, "t", &batches).await;
    assert_eq!(clean(&broker, now_ms()).await, 1);
    // The cache still holds what was appended; a restart does not.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let kept: Vec<i64> = fetch_all(&mut client, "t", 0).await.into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(kept, [3, 4, 6, 7, 8]);
    let first_at_or_after = [(0, 3, 4_000), (2_000, 3, 4_000), (4_001, 6, 5_000), (5_001, 7, 6_000), (6_001, 8, 7_000)];
    for (time, offset, timestamp) in first_at_or_after {
        let found = list_offset(&mut client, "t", time).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, offset, timestamp), "from {time} on");
    }
    let none = list_offset(&mut client, "t", 7_001).await;
    assert_eq!((none.error_code, none.offset), (0, -1), "the record of 9,000 is gone");
    let newest = list_offset(&mut client, "t", -3).await;
    assert_eq!((newest.offset, newest.timestamp), (8, 7_000));
    broker.stop().await;
}

#[tokio::test]
async fn a_tombstone_goes_once_its_retention_is_over() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT, EAGER, ROLLED, ("delete.retention.ms", "60000")]).await;
    let now = now_ms();
    put(&broker, &mut client, "t", batch(Compression::Zstd, &[("a", Some("1")), ("b", Some("1"))])).await;
    put(&broker, &mut client, "t", batch(Compression::Zstd, &[("a", None)])).await;
    assert_eq!(clean(&broker, now).await, 1);
    put(&broker, &mut client, "t", batch(Compression::Zstd, &[("c", Some("1"))])).await;
    assert_eq!(clean(&broker, now + 59_999).await, 1);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let with = [(1, "b", Some("1")), (2, "a", None), (3, "c", Some("1"))];
    assert_eq!(fetch_all(&mut client, "t", 0).await, left(&with));
    put(&broker, &mut client, "t", batch(Compression::Zstd, &[("d", Some("1"))])).await;
    assert_eq!(clean(&broker, now + 60_000).await, 1);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let without = [(1, "b", Some("1")), (3, "c", Some("1")), (4, "d", Some("1"))];
    assert_eq!(fetch_all(&mut client, "t", 0).await, left(&without));
    broker.stop().await;
}

#[tokio::test]
async fn a_map_with_room_for_few_keys_takes_several_rounds() {
    let broker = TestBroker::start_with(|config| {
        set(config, "log.cleaner.backoff.ms", "3600000");
        set(config, "log.cleaner.dedupe.buffer.size", "240");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT, EAGER, ROLLED]).await;
    for round in 0..6 {
        let keys: Vec<String> = (0..20).map(|key| format!("k{key}")).collect();
        let value = round.to_string();
        let records: Vec<_> = keys.iter().map(|key| (key.as_str(), Some(value.as_str()))).collect();
        put(&broker, &mut client, "t", batch(Compression::Lz4, &records)).await;
    }
    let rounds = clean(&broker, now_ms()).await;
    assert!((13..=15).contains(&rounds), "9 keys a round: {rounds}");
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let all = fetch_all(&mut client, "t", 0).await;
    // A key is superseded when a round meets a newer one: each has met all.
    assert_eq!(all.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), (100..120).collect::<Vec<_>>());
    broker.stop().await;
}

#[tokio::test]
async fn producers_go_on_where_they_were_after_their_records_went() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT, EAGER, ROLLED]).await;
    let sent = |sequence, value: &str| {
        let mut builder = BatchBuilder::new(Compression::None).producer(77, 3, sequence);
        builder.add(Some(b"k"), Some(value.as_bytes()), now_ms() - 10, &[]);
        builder.build()
    };
    for sequence in 0..3 {
        put(&broker, &mut client, "t", sent(sequence, "old")).await;
    }
    put(&broker, &mut client, "t", batch(Compression::None, &[("k", Some("new"))])).await;
    assert_eq!(clean(&broker, now_ms()).await, 1);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(fetch_all(&mut client, "t", 0).await, left(&[(3, "k", Some("new"))]));
    let repeat = try_produce(&mut client, "t", sent(2, "old")).await;
    assert_eq!((repeat.error_code, repeat.base_offset), (0, 2), "a repeat is answered with what it was");
    let gap = try_produce(&mut client, "t", sent(4, "x")).await;
    assert_eq!(gap.error_code, ErrorCode::OutOfOrderSequenceNumber.code());
    assert_eq!(produce(&mut client, "t", sent(3, "x")).await, 4);
    broker.stop().await;
}

#[tokio::test]
async fn records_without_a_key_are_refused_by_name() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT]).await;
    let mut builder = BatchBuilder::new(Compression::Gzip);
    builder.add(Some(b"k"), Some(b"v"), now_ms(), &[]);
    builder.add(None, Some(b"v"), now_ms(), &[]).add(None, None, now_ms(), &[]);
    let refused = try_produce(&mut client, "t", builder.build()).await;
    assert_eq!(refused.error_code, ErrorCode::InvalidRecord.code());
    let named: Vec<i32> = refused.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!(named, [1, 2]);
    broker.stop().await;
}

#[tokio::test]
async fn committed_offsets_are_compacted_and_outlive_it() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[]).await;
    for group in ["one", "two"] {
        find_coordinator(&mut client, group).await;
    }
    for round in 0..40 {
        for group in ["one", "two"] {
            assert_eq!(commit_without_group(&mut client, group, "t", round).await, ErrorCode::None);
        }
        if round % 10 == 9 {
            assert!(broker.node.broker.uploads.flush().await);
        }
    }
    let records = |broker: &TestBroker| -> u64 {
        let of = |partition: &Arc<Partition>| -> u64 {
            let ranges = |state: &seawall_metadata::State| {
                state.ranges(partition.stream(), Offset(0)).map(|range| range.records).sum()
            };
            broker.node.broker.metadata.read(ranges)
        };
        let all = broker.node.broker.partitions.all();
        all.iter().filter(|partition| &**partition.topic() == "__consumer_offsets").map(of).sum()
    };
    assert!(records(&broker) >= 80);
    assert_eq!(clean(&broker, now_ms()).await, 0, "so little waits for segment.ms");
    assert!(clean(&broker, now_ms() + 8 * DAY_MS).await > 0);
    assert!(records(&broker) <= 10, "{} records are left", records(&broker));
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    for group in ["one", "two"] {
        find_coordinator(&mut client, group).await;
        assert_eq!(committed(&mut client, group, "t", 0).await.0, 39);
    }
    broker.stop().await;
}

#[tokio::test]
async fn young_records_wait_for_the_lag() {
    let broker = start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[COMPACT, EAGER, ROLLED, ("min.compaction.lag.ms", "60000")]).await;
    put(&broker, &mut client, "t", batch(Compression::None, &[("a", Some("1")), ("a", Some("2"))])).await;
    assert_eq!(clean(&broker, now_ms()).await, 0, "too young");
    assert_eq!(clean(&broker, now_ms() + 61_000).await, 1);
    let offsets = partition(&broker, "t").offsets();
    assert_eq!((offsets.log_start, offsets.log_end), (0, 2));
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(fetch(&mut client, "t", 0).await.len(), 1);
    broker.stop().await;
}

/// `COMMITS` says how many: a million takes minutes. What a start takes is printed; that it gets quicker is asked of many.
#[tokio::test]
async fn a_start_with_many_commits_is_quick_once_they_are_compacted() {
    const PARTITIONS: i32 = 200;
    let commits: usize = std::env::var("COMMITS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let broker = TestBroker::start_with(|config| {
        set(config, "log.cleaner.backoff.ms", "3600000");
        set(config, "offsets.topic.num.partitions", "1");
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", PARTITIONS, &[]).await;
    find_coordinator(&mut client, "one").await;
    let rounds = commits / PARTITIONS as usize;
    for round in 0..rounds as i64 {
        let mut topic = commit_of("t", 0, round, "");
        let of = |index| commit_of("t", index, round, "").partitions.remove(0);
        topic.partitions = (0..PARTITIONS).map(of).collect();
        let request = OffsetCommitRequest {
            group_id: "one".into(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        assert_eq!(commit(&mut client, &request).await, ErrorCode::None);
    }
    let mut broker = broker;
    let mut took = Vec::new();
    for at in ["before", "after"] {
        if at == "after" {
            let began = Instant::now();
            assert!(broker.node.broker.uploads.flush().await);
            assert!(clean(&broker, now_ms() + 8 * DAY_MS).await > 0);
            println!("cleaned in {:?}", began.elapsed());
        }
        let began = Instant::now();
        broker = broker.restart().await;
        let mut client = broker.client().await;
        find_coordinator(&mut client, "one").await;
        assert_eq!(committed(&mut client, "one", "t", PARTITIONS - 1).await.0, rounds as i64 - 1);
        took.push(began.elapsed());
        println!("{commits} commits, {at}: from stop to the first answer in {:?}", began.elapsed());
    }
    assert!(took[1] < took[0] || commits < 100_000);
    broker.stop().await;
}
