//! The OffsetForLeaderEpoch API: where a leader epoch ended, so that a client can tell whether its position is on this log.

use std::sync::Arc;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition,
};
use seawall_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::partition::LeaderError;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: OffsetForLeaderEpochRequest,
    _version: i16,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let partition = asked.partition;
            match end_of_epoch(broker, &topic.topic, asked) {
                Ok((leader_epoch, end_offset)) => {
                    EpochEndOffset { partition, leader_epoch, end_offset, ..Default::default() }
                }
                Err(error) => {
                    EpochEndOffset { partition, error_code: ErrorCode::from(&error).code(), ..Default::default() }
                }
            }
        });
        OffsetForLeaderTopicResult { partitions: partitions.collect(), topic: topic.topic, ..Default::default() }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..Default::default() }
}

/// -1 and -1 where it is undefined.
fn end_of_epoch(broker: &Broker, topic: &str, asked: &OffsetForLeaderPartition) -> Result<(i32, i64), LeaderError> {
    let partition = broker.partitions.by_name(topic, asked.partition)?;
    partition.check_leader_epoch(asked.current_leader_epoch)?;
    Ok(partition.end_of_epoch(asked.leader_epoch).unwrap_or((-1, -1)))
}
