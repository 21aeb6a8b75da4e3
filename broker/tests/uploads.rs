//! Uploads as a running broker makes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::TestBroker;
use common::log::{PRODUCE, create_topic, now_ms, produce_request};
use seawall::units::{ByteSize, Span};
use seawall_protocol::messages::{ProduceResponse, produce_request::PartitionProduceData};
use seawall_protocol::records::{BatchBuilder, Compression};

const TOPIC: &str = "wide";
const PARTITIONS: i32 = 40;

fn batch(value_bytes: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(None, Some(&vec![b'x'; value_bytes]), now_ms(), &[]);
    builder.build()
}

/// One request for many partitions becomes one frame of the WAL, or few.
#[tokio::test]
async fn a_frame_longer_than_a_cut_is_uploaded_all_the_same() {
    let broker = TestBroker::start_with(|config| {
        config.upload.bytes = ByteSize::kib(64);
        config.upload.interval = Span::seconds(3600);
    })
    .await;
    let mut client = broker.client().await;
    create_topic(&mut client, TOPIC, PARTITIONS, &[]).await;
    for round in 0..2 {
        let mut request = produce_request(TOPIC, 0, batch(8 << 10));
        let others = (1..PARTITIONS).map(|index| PartitionProduceData {
            index,
            records: Some(batch(8 << 10)),
            ..Default::default()
        });
        request.topic_data[0].partition_data.extend(others);
        let response: ProduceResponse = client.call(PRODUCE, &request).await;
        for partition in &response.responses[0].partition_responses {
            assert_eq!((partition.error_code, partition.base_offset), (0, round));
        }
    }
    let uploads = &broker.node.broker.uploads;
    let flushed = tokio::time::timeout(Duration::from_secs(20), uploads.flush()).await;
    assert_eq!(flushed, Ok(true), "everything durable is uploaded");
    for partition in broker.node.broker.partitions.all() {
        if &**partition.topic() == TOPIC {
            assert_eq!(partition.offsets().committed_end, 2, "partition {}", partition.id().index);
        }
    }
    broker.stop().await;
}
