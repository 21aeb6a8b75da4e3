//! The ListOffsets API: the ends of a log, and its records by time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use seawall_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::partition::LeaderError;
use crate::read_path::ReadError;
use crate::time_lookup::{self, TimedOffset};

/// What a request means by a negative timestamp, and the first version that may.
const LATEST: (i64, i16) = (-1, 1);
const EARLIEST: (i64, i16) = (-2, 1);
const MAX_TIMESTAMP: (i64, i16) = (-3, 7);
const EARLIEST_LOCAL: (i64, i16) = (-4, 8);
const LATEST_TIERED: (i64, i16) = (-5, 9);
const EARLIEST_PENDING_UPLOAD: (i64, i16) = (-6, 11);
const READ_COMMITTED: i8 = 1;

/// Why the offset of one partition was not found.
#[derive(Debug, thiserror::Error)]
pub enum ListOffsetsError {
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error("the partition is named twice")]
    Duplicate,
    #[error("timestamp {0} has no meaning in this version")]
    UnsupportedTimestamp(i64),
    #[error(transparent)]
    Read(#[from] ReadError),
}

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let read_committed = request.isolation_level == READ_COMMITTED;
    let mut seen: HashMap<String, HashSet<i32>> = HashMap::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let seen = seen.entry(topic.name.clone()).or_default();
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let found = if seen.insert(asked.partition_index) {
                find(broker, &topic.name, &asked, read_committed, version).await
            } else {
                Err(ListOffsetsError::Duplicate)
            };
            partitions.push(answer(asked.partition_index, found, version));
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions, ..Default::default() });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// Nothing found is -1 and -1 without an error.
fn answer(
    partition_index: i32,
    found: Result<Option<TimedOffset>, ListOffsetsError>,
    version: i16,
) -> ListOffsetsPartitionResponse {
    let nothing = ListOffsetsPartitionResponse { partition_index, ..Default::default() };
    match found {
        Ok(Some(TimedOffset { offset, timestamp_ms, leader_epoch })) => {
            // Versions before have no place for it.
            let leader_epoch = if version >= 4 { leader_epoch } else { nothing.leader_epoch };
            ListOffsetsPartitionResponse { offset, timestamp: timestamp_ms, leader_epoch, ..nothing }
        }
        Ok(None) => nothing,
        Err(error) => ListOffsetsPartitionResponse { error_code: ErrorCode::from(&error).code(), ..nothing },
    }
}

async fn find(
    broker: &Broker,
    topic: &str,
    asked: &ListOffsetsPartition,
    read_committed: bool,
    version: i16,
) -> Result<Option<TimedOffset>, ListOffsetsError> {
    let partition = broker.partitions.by_name(topic, asked.partition_index).map_err(LeaderError::from)?;
    partition.check_leader_epoch(asked.current_leader_epoch)?;
    let offsets = partition.offsets();
    let readable_end = if read_committed { offsets.last_stable } else { offsets.high_watermark };
    let meaning = [LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD]
        .into_iter()
        .find(|(timestamp, first_version)| *timestamp == asked.timestamp && version >= *first_version);
    Ok(match meaning {
        Some(LATEST) => Some(edge(readable_end, partition.leader_epoch())),
        // All of the log is in one place: what Kafka calls local begins where the log does, nothing is tiered.
        Some(EARLIEST | EARLIEST_LOCAL) => {
            let epoch = partition.epoch_of(offsets.log_start).unwrap_or(-1);
            Some(edge(offsets.log_start, epoch))
        }
        Some(MAX_TIMESTAMP) => time_lookup::newest(&broker.reads, &partition, readable_end).await?,
        Some(_) => None,
        None if asked.timestamp < 0 => return Err(ListOffsetsError::UnsupportedTimestamp(asked.timestamp)),
        None => time_lookup::first_at_or_after(&broker.reads, &partition, asked.timestamp, readable_end).await?,
    })
}

fn edge(offset: i64, leader_epoch: i32) -> TimedOffset {
    TimedOffset { offset, timestamp_ms: -1, leader_epoch }
}
