//! The traps of client compatibility that touch produce, fetch and offsets. Those of groups are in `consumer_groups.rs`,
//! those of versions, topics and configs in `traps_admin.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::group::code;
use common::log::{
    FETCH, PRODUCE, batch, batch_at, batches_of, create_topic, fetch, fetch_partition, fetch_request, leader_epoch,
    list_offset, now_ms, produce, produce_request, records_of, try_fetch, try_produce, values,
};
use common::{Client, TestBroker};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, FetchRequest, FetchResponse, InitProducerIdRequest,
    InitProducerIdResponse, MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    fetch_request::ForgottenTopic,
    offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    produce_request::PartitionProduceData,
};
use seawall_protocol::records::{BatchBuilder, Compression, TimestampType};
use tokio::time::Instant;
use uuid::Uuid;

async fn started(topic: &str) -> (TestBroker, Client) {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, topic, 1, &[]).await;
    (broker, client)
}

#[tokio::test]
async fn trap_04_topics_are_named_by_id_and_an_unknown_id_says_so() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    let id = create_topic(&mut client, "t", 1, &[]).await;
    let produced_to = |topic_id: Uuid| {
        let mut request = produce_request("", 0, batch(&["a"]));
        request.topic_data[0].topic_id = topic_id;
        request
    };
    let response: ProduceResponse = client.call(13, &produced_to(id)).await;
    assert_eq!((response.responses[0].topic_id, response.responses[0].partition_responses[0].error_code), (id, 0));
    let nobody = Uuid::from_u128(42);
    let response: ProduceResponse = client.call(13, &produced_to(nobody)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::UnknownTopicId.code());
    assert_eq!(response.responses[0].topic_id, nobody);

    for version in 13..=17 {
        for (topic_id, expected) in [(id, ErrorCode::None), (nobody, ErrorCode::UnknownTopicId)] {
            let mut request = fetch_request("", vec![fetch_partition(0, 0)]);
            request.topics[0].topic_id = topic_id;
            let response: FetchResponse = client.call(version, &request).await;
            let partition = &response.responses[0].partitions[0];
            assert_eq!((response.error_code, code(partition.error_code)), (0, expected), "version {version}");
            assert_eq!(response.responses[0].topic_id, topic_id);
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn trap_05_acks_0_is_not_answered_and_an_error_closes_the_connection() {
    let (broker, mut client) = started("t").await;
    let mut request = produce_request("t", 0, batch(&["a", "b"]));
    request.acks = 0;
    client.send(PRODUCE, &request).await;
    // The next answer is the next request's.
    let _: MetadataResponse = client.call(12, &MetadataRequest { topics: Some(vec![]), ..Default::default() }).await;
    let give_up = Instant::now() + common::PATIENCE;
    while fetch(&mut client, "t", 0).await.len() < 2 {
        assert!(Instant::now() < give_up, "never appended");
    }
    let mut request = produce_request("no-such-topic", 0, batch(&["a"]));
    request.acks = 0;
    client.send(PRODUCE, &request).await;
    client.closed().await;
    broker.stop().await;
}

#[tokio::test]
async fn trap_10_a_fetch_in_the_middle_of_a_batch_gets_the_whole_batch() {
    let (broker, mut client) = started("t").await;
    produce(&mut client, "t", batch(&["0", "1", "2"])).await;
    produce(&mut client, "t", batch(&["3", "4"])).await;
    for (from, first) in [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3)] {
        let records = fetch(&mut client, "t", from).await;
        assert_eq!(records[0].offset, first, "from {from}");
        assert_eq!(records.last().unwrap().offset, 4);
    }
    assert!(fetch(&mut client, "t", 5).await.is_empty());
    assert_eq!(try_fetch(&mut client, "t", 6).await.error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(try_fetch(&mut client, "t", -1).await.error_code, ErrorCode::OffsetOutOfRange.code());
    broker.stop().await;
}

#[tokio::test]
async fn trap_11_the_first_batch_comes_over_any_limit_and_waiting_ends_with_bytes_or_time() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 2, &[]).await;
    let large = "x".repeat(10_000);
    for partition in 0..2 {
        for _ in 0..2 {
            let _: ProduceResponse = client.call(PRODUCE, &produce_request("t", partition, batch(&[&large]))).await;
        }
    }
    let mut request = fetch_request("t", vec![fetch_partition(0, 0), fetch_partition(1, 0)]);
    request.max_bytes = 1;
    for partition in &mut request.topics[0].partitions {
        partition.partition_max_bytes = 1;
    }
    let response: FetchResponse = client.call(FETCH, &request).await;
    let counts: Vec<usize> = response.responses[0].partitions.iter().map(|one| records_of(one).len()).collect();
    assert_eq!(counts, [1, 0], "one batch of the first partition, nothing beyond the limit");
    // An empty first partition leaves the exception to the next.
    request.topics[0].partitions[0].fetch_offset = 2;
    let response: FetchResponse = client.call(FETCH, &request).await;
    let counts: Vec<usize> = response.responses[0].partitions.iter().map(|one| records_of(one).len()).collect();
    assert_eq!(counts, [0, 1]);

    // At the end of the log: MaxWait is waited out, unless MinBytes arrive before.
    let mut request = fetch_request("t", vec![fetch_partition(0, 2)]);
    request.max_wait_ms = 300;
    let began = Instant::now();
    let response: FetchResponse = client.call(FETCH, &request).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(records_of(&response.responses[0].partitions[0]).is_empty());

    request.max_wait_ms = 15_000;
    request.min_bytes = 15_000;
    let mut producer = broker.client().await;
    let began = Instant::now();
    let (response, ()) = tokio::join!(client.call::<_, FetchResponse>(FETCH, &request), async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            produce(&mut producer, "t", batch(&[&large])).await;
        }
    });
    assert_eq!(records_of(&response.responses[0].partitions[0]).len(), 2, "one alone is not MinBytes");
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(10));
    broker.stop().await;
}

#[tokio::test]
async fn trap_12_fetch_sessions_send_what_changed_and_forget_what_they_are_told_to() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 3, &[]).await;
    let mut full = fetch_request("t", (0..3).map(|partition| fetch_partition(partition, 0)).collect());
    full.session_epoch = 0;
    let response: FetchResponse = client.call(FETCH, &full).await;
    let session_id = response.session_id;
    assert_ne!(session_id, 0);
    assert_eq!(response.responses[0].partitions.len(), 3, "the first answer names all");

    let next = |session_epoch: i32| FetchRequest { session_id, session_epoch, topics: vec![], ..full.clone() };
    let response: FetchResponse = client.call(FETCH, &next(1)).await;
    assert!(response.responses.is_empty(), "nothing changed");
    assert_eq!(response.session_id, session_id);
    let _: ProduceResponse = client.call(PRODUCE, &produce_request("t", 1, batch(&["a"]))).await;
    let response: FetchResponse = client.call(FETCH, &next(2)).await;
    let changed: Vec<i32> = response.responses[0].partitions.iter().map(|one| one.partition_index).collect();
    assert_eq!(changed, [1]);

    // The client moves on in one partition and forgets another.
    let mut update = next(3);
    update.topics = vec![fetch_request("t", vec![fetch_partition(1, 1)]).topics.remove(0)];
    update.forgotten_topics_data =
        vec![ForgottenTopic { topic: "t".into(), partitions: vec![2], ..Default::default() }];
    let _: FetchResponse = client.call(FETCH, &update).await;
    for partition in [1, 2] {
        let _: ProduceResponse = client.call(PRODUCE, &produce_request("t", partition, batch(&["b"]))).await;
    }
    let response: FetchResponse = client.call(FETCH, &next(4)).await;
    let partitions = &response.responses[0].partitions;
    assert_eq!(partitions.iter().map(|one| one.partition_index).collect::<Vec<_>>(), [1]);
    assert_eq!(values(&records_of(&partitions[0])), ["b"]);

    let response: FetchResponse = client.call(FETCH, &next(4)).await;
    assert_eq!(response.error_code, ErrorCode::InvalidFetchSessionEpoch.code());
    let stranger = FetchRequest { session_id: session_id.wrapping_add(1), ..next(5) };
    let response: FetchResponse = client.call(FETCH, &stranger).await;
    assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
    // Epoch -1 closes the session.
    let response: FetchResponse = client.call(FETCH, &next(-1)).await;
    assert_eq!((response.error_code, response.session_id), (0, 0));
    let response: FetchResponse = client.call(FETCH, &next(5)).await;
    assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
    broker.stop().await;
}

#[tokio::test]
async fn trap_13_without_transactions_read_committed_reads_up_to_the_high_watermark() {
    let (broker, mut client) = started("t").await;
    produce(&mut client, "t", batch(&["a", "b"])).await;
    let mut request = fetch_request("t", vec![fetch_partition(0, 0)]);
    request.isolation_level = 1;
    let response: FetchResponse = client.call(FETCH, &request).await;
    let partition = &response.responses[0].partitions[0];
    assert_eq!(values(&records_of(partition)), ["a", "b"]);
    assert_eq!((partition.high_watermark, partition.last_stable_offset), (2, 2));
    assert!(partition.aborted_transactions.as_ref().is_none_or(Vec::is_empty));
    broker.stop().await;
}

#[tokio::test]
async fn trap_14_a_stale_or_future_leader_epoch_is_refused_and_the_epoch_grows() {
    let (broker, mut client) = started("t").await;
    produce(&mut client, "t", batch(&["a"])).await;
    let before = leader_epoch(&mut client, "t").await;
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let epoch = leader_epoch(&mut client, "t").await;
    assert!(epoch > before, "{epoch} after {before}");
    let expectations = [
        (epoch - 1, ErrorCode::FencedLeaderEpoch),
        (epoch, ErrorCode::None),
        (epoch + 1, ErrorCode::UnknownLeaderEpoch),
        (-1, ErrorCode::None),
    ];
    for (known, expected) in expectations {
        let mut partition = fetch_partition(0, 0);
        partition.current_leader_epoch = known;
        let response: FetchResponse = client.call(FETCH, &fetch_request("t", vec![partition])).await;
        assert_eq!(code(response.responses[0].partitions[0].error_code), expected, "epoch {known} of {epoch}");
        let answered = epoch_end(&mut client, known, epoch).await;
        assert_eq!(code(answered.0), expected);
    }
    broker.stop().await;
}

/// Error, epoch and end offset.
async fn epoch_end(client: &mut Client, current_leader_epoch: i32, leader_epoch: i32) -> (i16, i32, i64) {
    let partition = OffsetForLeaderPartition { partition: 0, current_leader_epoch, leader_epoch, ..Default::default() };
    let topic = OffsetForLeaderTopic { topic: "t".into(), partitions: vec![partition], ..Default::default() };
    let request = OffsetForLeaderEpochRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let response: OffsetForLeaderEpochResponse = client.call(4, &request).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.leader_epoch, answer.end_offset)
}

#[tokio::test]
async fn trap_15_each_leader_epoch_has_its_end_offset_and_an_undefined_one_has_none() {
    let (broker, mut client) = started("t").await;
    produce(&mut client, "t", batch(&["a", "b", "c"])).await;
    let first = leader_epoch(&mut client, "t").await;
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    produce(&mut client, "t", batch(&["d"])).await;
    let second = leader_epoch(&mut client, "t").await;
    assert_eq!(epoch_end(&mut client, -1, first).await, (0, first, 3));
    assert_eq!(epoch_end(&mut client, -1, second).await, (0, second, 4));
    let (error, epoch, end) = epoch_end(&mut client, -1, second + 5).await;
    assert_eq!((error, epoch, end), (0, -1, -1));
    broker.stop().await;
}

#[tokio::test]
async fn trap_16_special_timestamps_find_the_ends_of_the_log() {
    let (broker, mut client) = started("t").await;
    // Nothing there yet: the ends are 0, and no record has a timestamp.
    for (timestamp, expected) in [(-1, 0), (-2, 0), (-3, -1), (-4, 0)] {
        let found = list_offset(&mut client, "t", timestamp).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, expected, -1), "timestamp {timestamp}");
    }
    let start = now_ms();
    produce(&mut client, "t", batch_at(Compression::None, &[start, start + 50, start + 20])).await;
    produce(&mut client, "t", batch_at(Compression::None, &[start + 30])).await;
    for (timestamp, offset, found_timestamp) in [(-1, 4, -1), (-2, 0, -1), (-3, 1, start + 50)] {
        let found = list_offset(&mut client, "t", timestamp).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, offset, found_timestamp), "{timestamp}");
    }
    // Later than everything: found nothing, and no error.
    let found = list_offset(&mut client, "t", start + 51).await;
    assert_eq!((found.error_code, found.offset, found.timestamp), (0, -1, -1));
    broker.stop().await;
}

#[tokio::test]
async fn trap_17_a_time_look_up_finds_the_first_record_at_or_after_it_inside_batches_too() {
    let (broker, mut client) = started("t").await;
    let start = now_ms();
    let at = |ms: &[i64]| ms.iter().map(|ms| start + ms).collect::<Vec<_>>();
    for codec in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Snappy, Compression::Zstd] {
        let topic = format!("times-{}", codec.name());
        create_topic(&mut client, &topic, 1, &[]).await;
        produce(&mut client, &topic, batch_at(codec, &at(&[0, 10, 20]))).await;
        produce(&mut client, &topic, batch_at(codec, &at(&[15, 40, 30]))).await;
        let expectations = [(0, 0, 0), (1, 1, 10), (10, 1, 10), (11, 2, 20), (20, 2, 20), (21, 4, 40), (40, 4, 40)];
        for (asked, offset, timestamp) in expectations {
            let found = list_offset(&mut client, &topic, start + asked).await;
            assert_eq!((found.offset, found.timestamp), (offset, start + timestamp), "{topic} at +{asked}");
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn trap_18_log_append_time_is_set_in_the_batch_and_told_to_the_producer() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let before = now_ms();
    let response =
        try_produce(&mut client, "t", batch_at(Compression::Lz4, &[before - 500_000, before - 400_000])).await;
    assert_eq!(response.error_code, 0);
    let appended_ms = response.log_append_time_ms;
    assert!((before..=now_ms()).contains(&appended_ms), "{appended_ms}");
    let partition = try_fetch(&mut client, "t", 0).await;
    let (header, _) = &batches_of(&partition)[0];
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, appended_ms));
    // `records_of` checks the CRC, which had to be computed anew.
    assert!(records_of(&partition).iter().all(|record| record.timestamp == appended_ms));
    // With CreateTime there is no such time.
    create_topic(&mut client, "plain", 1, &[]).await;
    assert_eq!(try_produce(&mut client, "plain", batch(&["a"])).await.log_append_time_ms, -1);
    broker.stop().await;
}

#[tokio::test]
async fn trap_19_broken_batches_are_refused_one_by_one() {
    let broker = TestBroker::start().await;
    let mut client = broker.client().await;
    create_topic(&mut client, "t", 1, &[("max.message.bytes", "2000")]).await;
    create_topic(&mut client, "compacted", 1, &[("cleanup.policy", "compact")]).await;
    let good = batch(&["a", "b"]);
    let changed = |at: usize, to: &[u8]| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes.freeze()
    };
    let refusals: [(&str, Bytes, ErrorCode); 6] = [
        ("a flipped bit", changed(good.len() - 2, &[0xff]), ErrorCode::CorruptMessage),
        ("magic 1", changed(16, &[1]), ErrorCode::InvalidRecord),
        ("a false crc", changed(17, &[0, 0, 0, 0]), ErrorCode::CorruptMessage),
        ("a batch too short", good.slice(..40), ErrorCode::CorruptMessage),
        ("two batches", [&good[..], &good[..]].concat().into(), ErrorCode::InvalidRecord),
        ("a large batch", batch(&["x".repeat(2_500).as_str()]), ErrorCode::MessageTooLarge),
    ];
    for (what, bytes, expected) in refusals {
        let response = try_produce(&mut client, "t", bytes).await;
        assert_eq!(code(response.error_code), expected, "{what}");
    }
    let refused = try_produce(&mut client, "compacted", batch(&["no key"])).await;
    assert_eq!(code(refused.error_code), ErrorCode::InvalidRecord);
    assert_eq!(refused.record_errors[0].batch_index, 0);
    assert_eq!(produce(&mut client, "compacted", batch_at(Compression::None, &[now_ms()])).await, 0);
    // None of it took an offset.
    assert_eq!(produce(&mut client, "t", good).await, 0);
    broker.stop().await;
}

#[tokio::test]
async fn trap_20_five_batches_are_remembered_and_a_repeated_one_answers_its_first_offset() {
    let (broker, mut client) = started("t").await;
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    let given: InitProducerIdResponse = client.call(4, &request).await;
    assert_eq!(given.error_code, 0);
    let numbered = |sequence: i32| {
        let mut builder =
            BatchBuilder::new(Compression::None).producer(given.producer_id, given.producer_epoch, sequence);
        builder.add(None, Some(sequence.to_string().as_bytes()), now_ms(), &[]);
        builder.build()
    };
    let batches: Vec<Bytes> = (0..7).map(numbered).collect();
    for (sequence, batch) in batches.iter().enumerate() {
        assert_eq!(produce(&mut client, "t", batch.clone()).await, sequence as i64);
    }
    for (sequence, batch) in batches.iter().enumerate().skip(2) {
        let repeated = try_produce(&mut client, "t", batch.clone()).await;
        assert_eq!((repeated.error_code, repeated.base_offset), (0, sequence as i64), "sequence {sequence}");
    }
    let forgotten = try_produce(&mut client, "t", batches[0].clone()).await;
    let codes = [ErrorCode::DuplicateSequenceNumber, ErrorCode::OutOfOrderSequenceNumber];
    assert!(codes.contains(&code(forgotten.error_code)), "{:?}", code(forgotten.error_code));
    let gap = try_produce(&mut client, "t", numbered(9)).await;
    assert_eq!(code(gap.error_code), ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(fetch(&mut client, "t", 0).await.len(), 7);

    // Duplicates are known after a restart as well.
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    let repeated = try_produce(&mut client, "t", batches[6].clone()).await;
    assert_eq!((repeated.error_code, repeated.base_offset), (0, 6));
    assert_eq!(produce(&mut client, "t", numbered(7)).await, 7);
    // A producer that this broker has never seen may begin anywhere: its state may have been evicted.
    let mut unknown = BatchBuilder::new(Compression::None).producer(given.producer_id + 1_000, 0, 1_234);
    unknown.add(None, Some(b"x"), now_ms(), &[]);
    assert_eq!(produce(&mut client, "t", unknown.build()).await, 8);
    broker.stop().await;
}

#[tokio::test]
async fn trap_28_delete_records_to_minus_one_empties_the_log_and_moves_its_start() {
    let (broker, mut client) = started("t").await;
    for value in ["a", "b", "c"] {
        produce(&mut client, "t", batch(&[value])).await;
    }
    let deletion = |offset: i64| {
        let partition = DeleteRecordsPartition { partition_index: 0, offset, ..Default::default() };
        let topic = DeleteRecordsTopic { name: "t".into(), partitions: vec![partition], ..Default::default() };
        DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() }
    };
    let low_watermark = |response: &DeleteRecordsResponse| {
        let partition = &response.topics[0].partitions[0];
        (code(partition.error_code), partition.low_watermark)
    };
    let response: DeleteRecordsResponse = client.call(2, &deletion(1)).await;
    assert_eq!(low_watermark(&response), (ErrorCode::None, 1));
    assert_eq!(try_fetch(&mut client, "t", 0).await.error_code, ErrorCode::OffsetOutOfRange.code());
    assert_eq!(values(&fetch(&mut client, "t", 1).await), ["b", "c"]);
    let response: DeleteRecordsResponse = client.call(2, &deletion(4)).await;
    assert_eq!(low_watermark(&response).0, ErrorCode::OffsetOutOfRange);
    let response: DeleteRecordsResponse = client.call(2, &deletion(-1)).await;
    assert_eq!(low_watermark(&response), (ErrorCode::None, 3));
    assert_eq!(list_offset(&mut client, "t", -2).await.offset, 3);
    assert_eq!(try_produce(&mut client, "t", batch(&["d"])).await.log_start_offset, 3);
    let broker = broker.restart().await;
    let mut client = broker.client().await;
    assert_eq!(list_offset(&mut client, "t", -2).await.offset, 3);
    assert_eq!(values(&fetch(&mut client, "t", 3).await), ["d"]);
    broker.stop().await;
}

#[tokio::test]
async fn trap_32_a_failing_partition_is_an_error_in_its_own_place() {
    let (broker, mut client) = started("t").await;
    let data =
        |index: i32, records: Bytes| PartitionProduceData { index, records: Some(records), ..Default::default() };
    let mut request: ProduceRequest = produce_request("t", 0, batch(&["a"]));
    request.topic_data[0].partition_data.push(data(7, batch(&["b"])));
    request.topic_data.push(produce_request("nowhere", 0, batch(&["c"])).topic_data.remove(0));
    request.topic_data.push(produce_request("t", 0, Bytes::from_static(b"rubbish")).topic_data.remove(0));
    let response: ProduceResponse = client.call(PRODUCE, &request).await;
    let codes: Vec<ErrorCode> = (response.responses.iter())
        .flat_map(|topic| topic.partition_responses.iter().map(|one| code(one.error_code)))
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(codes, [ErrorCode::None, unknown, unknown, ErrorCode::CorruptMessage]);

    let mut request = fetch_request("t", vec![fetch_partition(0, 0), fetch_partition(7, 0), fetch_partition(0, 99)]);
    request.topics.push(fetch_request("nowhere", vec![fetch_partition(0, 0)]).topics.remove(0));
    let response: FetchResponse = client.call(FETCH, &request).await;
    assert_eq!(response.error_code, 0);
    let found: Vec<(ErrorCode, usize)> = (response.responses.iter())
        .flat_map(|topic| topic.partitions.iter().map(|one| (code(one.error_code), records_of(one).len())))
        .collect();
    assert!(found.contains(&(unknown, 0)), "{found:?}");
    broker.stop().await;
}

#[tokio::test]
async fn trap_33_the_old_message_formats_are_refused() {
    let (broker, mut client) = started("t").await;
    for magic in [0, 1] {
        let mut bytes = BytesMut::from(&batch(&["a"])[..]);
        bytes[16] = magic;
        let refused = try_produce(&mut client, "t", bytes.freeze()).await;
        let codes = [ErrorCode::InvalidRecord, ErrorCode::UnsupportedForMessageFormat];
        assert!(codes.contains(&code(refused.error_code)), "magic {magic}: {:?}", code(refused.error_code));
    }
    broker.stop().await;
}
