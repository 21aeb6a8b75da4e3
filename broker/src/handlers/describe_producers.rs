//! The DescribeProducers API: the idempotent producers that a partition's leader remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeProducersRequest, DescribeProducersResponse,
        describe_producers_response::{PartitionResponse, ProducerState, TopicResponse},
    },
};

use crate::{
    broker::Broker, dispatch::RequestContext, error_code::ApiError, partition::Partition,
    producer_state::ProducerSnapshot, topics,
};

/// Nothing of a transaction is known of an idempotent producer.
const NONE: i64 = -1;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeProducersRequest,
    _version: i16,
) -> DescribeProducersResponse {
    // Each partition once: a short request must not make a long answer by naming one many times.
    let mut asked: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for topic in request.topics {
        asked.entry(topic.name).or_default().extend(topic.partition_indexes);
    }
    let topics = asked.into_iter().map(|(name, indexes)| {
        let valid = topics::check_name(&name).is_ok();
        let partitions = indexes.into_iter().map(|index| describe(broker, &name, index, valid)).collect();
        TopicResponse { partitions, name, ..Default::default() }
    });
    DescribeProducersResponse { topics: topics.collect(), ..Default::default() }
}

/// The name of the topic stands beside the partitions; none of them repeats it.
fn describe(broker: &Broker, topic: &str, index: i32, valid: bool) -> PartitionResponse {
    let answer = PartitionResponse { partition_index: index, ..Default::default() };
    match find(broker, topic, index, valid) {
        Ok(partition) => PartitionResponse {
            active_producers: partition.producers_below(i64::MAX).iter().map(producer).collect(),
            ..answer
        },
        Err(error) => PartitionResponse { error_code: error.code.code(), error_message: error.message, ..answer },
    }
}

fn find(broker: &Broker, topic: &str, index: i32, valid: bool) -> Result<Arc<Partition>, ApiError> {
    if !valid {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let partition = broker.partitions.by_name(topic, index);
    partition.map_err(|error| ApiError::new(ErrorCode::from(&error), error.to_string()))
}

fn producer(producer: &ProducerSnapshot) -> ProducerState {
    let last = producer.batches.last();
    ProducerState {
        producer_id: producer.producer_id,
        producer_epoch: i32::from(producer.producer_epoch),
        last_sequence: last.map_or(-1, |batch| batch.last_sequence),
        last_timestamp: last.map_or(NONE, |batch| batch.timestamp_ms),
        coordinator_epoch: -1,
        current_txn_start_offset: NONE,
        ..Default::default()
    }
}
