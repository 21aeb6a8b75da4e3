//! Record bytes are never copied here: how many bytes are allocated per MiB of records on the way in and out?
//! `-- --nocapture` prints the figures.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use common::counting::{Counting, measure};
use seawall_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use seawall_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use seawall_protocol::messages::{FetchResponse, ProduceRequest};
use seawall_protocol::records::{BatchBuilder, Compression, split_batches};
use seawall_protocol::{ApiKey, Decoder, Message, Records, RequestHeader, encode_request, encode_response};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PARTITIONS: usize = 50;
const BATCHES: usize = 4;

/// 200 batches of 32 KiB.
fn cached() -> Vec<Vec<Bytes>> {
    let batch = |at: usize| {
        let mut builder = BatchBuilder::new(Compression::None).base_offset((at * 32) as i64);
        for _ in 0..32 {
            builder.add(None, Some(&[at as u8; 1024]), 0, &[]);
        }
        builder.build()
    };
    (0..PARTITIONS).map(|_| (0..BATCHES).map(batch).collect()).collect()
}

fn span(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr() as usize;
    start..start + bytes.len()
}

#[test]
fn a_fetch_response_hands_over_the_cached_batches_themselves() {
    let cache = cached();
    let records_bytes: usize = cache.iter().flatten().map(Bytes::len).sum();
    for version in FetchResponse::VALID_VERSIONS {
        let partitions = cache.iter().enumerate().map(|(at, batches)| PartitionData {
            partition_index: at as i32,
            high_watermark: 128,
            records: Some(Records(batches.clone())),
            ..PartitionData::default()
        });
        let topic = FetchableTopicResponse { partitions: partitions.collect(), ..Default::default() };
        let response = FetchResponse { responses: vec![topic], ..Default::default() };

        let start = Instant::now();
        let (frame, allocated) = measure(|| encode_response(ApiKey::Fetch, version, 1, &response).unwrap());
        let took = start.elapsed();

        let segments = frame.as_slice();
        for batch in cache.iter().flatten() {
            assert!(segments.iter().any(|segment| span(segment) == span(batch)), "v{version}: a batch was copied");
        }
        let other: usize = frame.total_len() - records_bytes;
        assert!(allocated.total < 64 * 1024 && other < 8 * 1024, "v{version}: {allocated:?}, {other} bytes around");
        if version == *FetchResponse::VALID_VERSIONS.end() {
            println!(
                "fetch v{version}: {} KiB of records in {} segments, {} bytes allocated, {took:?}",
                records_bytes / 1024,
                segments.len(),
                allocated.total
            );
        }

        let mut input = Decoder::new(frame.into_bytes().slice(4..));
        let header_bytes = if version >= 12 { 5 } else { 4 };
        input.take(header_bytes).unwrap();
        assert_eq!(FetchResponse::decode(&mut input, version).unwrap(), response);
    }
}

#[test]
fn records_of_a_produce_request_are_slices_of_its_frame() {
    let cache = cached();
    for version in ProduceRequest::VALID_VERSIONS {
        let partition_data = cache.iter().enumerate().map(|(at, batches)| PartitionProduceData {
            index: at as i32,
            records: Some(batches.concat().into()),
            ..Default::default()
        });
        let topic = TopicProduceData { partition_data: partition_data.collect(), ..Default::default() };
        let request = ProduceRequest { topic_data: vec![topic], ..Default::default() };
        let frame = encode_request(ApiKey::Produce, version, 1, Some("client"), &request).unwrap().into_bytes();
        let frame = frame.slice(4..);

        let start = Instant::now();
        let (batches, allocated) = measure(|| {
            let mut input = Decoder::new(frame.clone());
            let (_, header) = RequestHeader::decode_from(&mut input).unwrap();
            let request = ProduceRequest::decode(&mut input, header.api_version).unwrap();
            let partitions = request.topic_data.into_iter().flat_map(|topic| topic.partition_data);
            let records = partitions.filter_map(|partition| partition.records);
            records.flat_map(|records| split_batches(records).unwrap()).collect::<Vec<_>>()
        });
        let took = start.elapsed();

        assert_eq!(batches.len(), PARTITIONS * BATCHES);
        let whole = span(&frame);
        assert!(batches.iter().all(|(_, batch)| whole.contains(&span(batch).start)), "v{version}: a batch was copied");
        assert!(allocated.total < 128 * 1024, "v{version}: {allocated:?}");
        if version == *ProduceRequest::VALID_VERSIONS.end() {
            let kib = frame.len() / 1024;
            println!("produce v{version}: {kib} KiB, {} bytes allocated, {took:?}", allocated.total);
        }
    }
}
