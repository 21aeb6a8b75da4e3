//! Produce, fetch and offset look-ups, one partition at a time.

use bytes::Bytes;
use seawall_protocol::messages::{
    CreateTopicsRequest, CreateTopicsResponse, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    fetch_request::{FetchPartition, FetchTopic},
    fetch_response::PartitionData,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    list_offsets_response::ListOffsetsPartitionResponse,
    metadata_request::MetadataRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
    produce_response::PartitionProduceResponse,
};
use seawall_protocol::records::{self, BatchBuilder, BatchHeader, Compression, Record};
use uuid::Uuid;

use super::Client;

pub const PRODUCE: i16 = 12;
pub const FETCH: i16 = 12;

pub async fn create_topic(client: &mut Client, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: (*name).into(),
        value: Some((*value).into()),
        ..Default::default()
    };
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: 1,
        configs: configs.iter().map(config).collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    let response: CreateTopicsResponse = client.call(7, &request).await;
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    response.topics[0].topic_id
}

/// Leader epoch of partition 0.
pub async fn leader_epoch(client: &mut Client, name: &str) -> i32 {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let response: MetadataResponse = client.call(12, &request).await;
    response.topics[0].partitions[0].leader_epoch
}

pub fn now_ms() -> i64 {
    seawall::clock::Clock::system().now_ms()
}

/// A batch of records without keys, made now.
pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.add(None, Some(value.as_bytes()), now_ms(), &[]);
    }
    builder.build()
}

/// A batch of keyed records with these timestamps.
pub fn batch_at(codec: Compression, timestamps_ms: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for timestamp_ms in timestamps_ms {
        builder.add(Some(b"key"), Some(timestamp_ms.to_string().as_bytes()), *timestamp_ms, &[]);
    }
    builder.build()
}

pub fn produce_request(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index: partition, records: Some(batch), ..Default::default() };
    ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData { name: topic.into(), partition_data: vec![data], ..Default::default() }],
        ..Default::default()
    }
}

/// One batch, whatever comes of it.
pub async fn try_produce(client: &mut Client, topic: &str, batch: Bytes) -> PartitionProduceResponse {
    let mut response: ProduceResponse = client.call(PRODUCE, &produce_request(topic, 0, batch)).await;
    response.responses.remove(0).partition_responses.remove(0)
}

/// One acked batch; answers its base offset.
pub async fn produce(client: &mut Client, topic: &str, batch: Bytes) -> i64 {
    let response = try_produce(client, topic, batch).await;
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
    response.base_offset
}

pub fn fetch_partition(partition: i32, fetch_offset: i64) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A fetch outside of sessions that does not wait.
pub fn fetch_request(topic: &str, partitions: Vec<FetchPartition>) -> FetchRequest {
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: topic.into(), partitions, ..Default::default() }],
        ..Default::default()
    }
}

/// Partition 0 from `offset` on, whatever comes of it.
pub async fn try_fetch(client: &mut Client, topic: &str, offset: i64) -> PartitionData {
    let mut response: FetchResponse = client.call(FETCH, &fetch_request(topic, vec![fetch_partition(0, offset)])).await;
    assert_eq!(response.error_code, 0);
    response.responses.remove(0).partitions.remove(0)
}

pub async fn fetch(client: &mut Client, topic: &str, offset: i64) -> Vec<Record> {
    let partition = try_fetch(client, topic, offset).await;
    assert_eq!(partition.error_code, 0);
    records_of(&partition)
}

pub fn batches_of(partition: &PartitionData) -> Vec<(BatchHeader, Bytes)> {
    let bytes = partition.records.as_ref().map(|records| records.to_bytes()).unwrap_or_default();
    records::split_batches(bytes).expect("whole batches")
}

pub fn records_of(partition: &PartitionData) -> Vec<Record> {
    let mut all = Vec::new();
    for (header, batch) in batches_of(partition) {
        records::verify_crc(&batch).expect("the batch's crc");
        all.extend(records::records(&header, &batch, 64 << 20).unwrap().map(|record| record.unwrap()));
    }
    all
}

pub fn values(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap();
    records.iter().map(text).collect()
}

pub async fn list_offset(client: &mut Client, topic: &str, timestamp: i64) -> ListOffsetsPartitionResponse {
    let partition =
        ListOffsetsPartition { partition_index: 0, current_leader_epoch: -1, timestamp, ..Default::default() };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic { name: topic.into(), partitions: vec![partition], ..Default::default() }],
        ..Default::default()
    };
    let mut response: ListOffsetsResponse = client.call(9, &request).await;
    response.topics.remove(0).partitions.remove(0)
}
