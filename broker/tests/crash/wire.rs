//! A small blocking Kafka client: one connection, requests and responses by hand. Bounded waits everywhere.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use seawall_protocol::messages::create_topics_request::CreatableTopic;
use seawall_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use seawall_protocol::messages::fetch_response::FetchResponse;
use seawall_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use seawall_protocol::messages::init_producer_id_response::InitProducerIdResponse;
use seawall_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use seawall_protocol::messages::list_offsets_response::ListOffsetsResponse;
use seawall_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use seawall_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse, ResponseHeader};
use seawall_protocol::{Decoder, Message, encode_request, response_header_version};

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

pub struct Wire {
    stream: TcpStream,
    next_correlation: i32,
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, next_correlation: 1 })
    }

    /// Sends a request; its correlation id comes back with the answer.
    pub fn send<M: Message>(&mut self, api: ApiKey, version: i16, request: &M) -> Result<i32> {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let frame = encode_request(api, version, correlation, Some("crash-test"), request).map_err(Error::other)?;
        self.stream.write_all(&frame.into_bytes())?;
        Ok(correlation)
    }

    /// The next answer and the correlation id of its request.
    pub fn receive<M: Message>(&mut self, api: ApiKey, version: i16) -> Result<(i32, M)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(Error::other)?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        let mut input = Decoder::new(Bytes::from(frame));
        let header = ResponseHeader::decode(&mut input, response_header_version(api, version)).map_err(Error::other)?;
        let response = M::decode(&mut input, version).map_err(Error::other)?;
        input.finish().map_err(Error::other)?;
        Ok((header.correlation_id, response))
    }

    pub fn call<Q: Message, A: Message>(&mut self, api: ApiKey, version: i16, request: &Q) -> Result<A> {
        let sent = self.send(api, version, request)?;
        let (answered, response) = self.receive(api, version)?;
        if sent != answered {
            return Err(Error::new(ErrorKind::InvalidData, format!("answer {answered} to request {sent}")));
        }
        Ok(response)
    }

    /// The error code: 0, or 36 if the topic is there.
    pub fn create_topic(&mut self, name: &str, partitions: i32) -> Result<i16> {
        let topic = CreatableTopic {
            name: name.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
        let response: CreateTopicsResponse = self.call(ApiKey::CreateTopics, 5, &request)?;
        Ok(response.topics[0].error_code)
    }

    /// A producer id and its epoch, of an idempotent producer.
    pub fn init_producer_id(&mut self) -> Result<(i64, i16)> {
        let request =
            InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: 60_000, ..Default::default() };
        let response: InitProducerIdResponse = self.call(ApiKey::InitProducerId, 4, &request)?;
        if response.error_code != 0 {
            return Err(Error::other(format!("InitProducerId: error {}", response.error_code)));
        }
        Ok((response.producer_id, response.producer_epoch))
    }

    /// -2: the log start; -1: the high watermark.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64> {
        let asked = ListOffsetsPartition { partition_index: partition, timestamp, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: topic.into(), partitions: vec![asked], ..Default::default() }];
        let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
        let response: ListOffsetsResponse = self.call(ApiKey::ListOffsets, 6, &request)?;
        let answer = &response.topics[0].partitions[0];
        match answer.error_code {
            0 => Ok(answer.offset),
            code => Err(Error::other(format!("ListOffsets of {topic}-{partition}: error {code}"))),
        }
    }

    /// Record batches from `offset` on, as they came; `Ok(Err(code))` is the partition's error.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<std::result::Result<Bytes, i16>> {
        let asked =
            FetchPartition { partition, fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 8 << 20,
            session_epoch: -1,
            topics: vec![FetchTopic { topic: topic.into(), partitions: vec![asked], ..Default::default() }],
            ..Default::default()
        };
        let response: FetchResponse = self.call(ApiKey::Fetch, 12, &request)?;
        if response.error_code != 0 {
            return Err(Error::other(format!("Fetch: error {}", response.error_code)));
        }
        let answer = &response.responses[0].partitions[0];
        Ok(match answer.error_code {
            0 => Ok(answer.records.as_ref().map(|records| records.to_bytes()).unwrap_or_default()),
            code => Err(code),
        })
    }
}

pub const PRODUCE_VERSION: i16 = 9;

/// A produce request with `acks=all` of one batch per partition.
pub fn produce_request(topic: &str, batches: impl IntoIterator<Item = (i32, Bytes)>) -> ProduceRequest {
    let partition_data = batches
        .into_iter()
        .map(|(index, batch)| PartitionProduceData { index, records: Some(batch), ..Default::default() })
        .collect();
    ProduceRequest {
        acks: -1,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData { name: topic.into(), partition_data, ..Default::default() }],
        ..Default::default()
    }
}
