//! OffsetCommit: each partition gets its own answer, when its record is durable.

use std::sync::Arc;

use seawall_metadata::{State, TopicId};
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use seawall_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use seawall_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use uuid::Uuid;

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::error_code::group_error_code;
use crate::group::GroupError;
use crate::group_records::{OffsetValue, fits_in_a_record};
use crate::group_shard::{CommitRequest, CommittedOffset};

/// From this version on the generation may be a member epoch.
const MEMBER_EPOCHS_FROM: i16 = 9;
/// From this version on topics are named by id.
pub(super) const TOPIC_IDS_FROM: i16 = 10;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let now_ms = broker.clock.now_ms();
    // Versions 2 to 4 may ask for a retention of their own.
    let expire_timestamp_ms =
        (request.retention_time_ms >= 0).then(|| now_ms.saturating_add(request.retention_time_ms));
    let mut answers: Vec<OffsetCommitResponseTopic> = Vec::with_capacity(request.topics.len());
    let mut offsets = Vec::new();
    broker.metadata.read(|state| {
        for topic in request.topics {
            let found = find_topic(state, &topic, version);
            let mut answer = OffsetCommitResponseTopic {
                name: topic.name,
                topic_id: topic.topic_id,
                ..OffsetCommitResponseTopic::default()
            };
            for partition in topic.partitions {
                let error = match &found {
                    Err(error) => Some(*error),
                    Ok(topic) if !(0..topic.partitions).contains(&partition.partition_index) => {
                        Some(GroupError::UnknownTopicOrPartition)
                    }
                    Ok(topic) => {
                        offsets.push(committed_offset(topic, &partition, now_ms, expire_timestamp_ms));
                        None
                    }
                };
                answer.partitions.push(OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    // What is not refused here waits for the coordinator's word.
                    error_code: error.map_or(AWAITED, |error| group_error_code(error).code()),
                    ..OffsetCommitResponsePartition::default()
                });
            }
            answers.push(answer);
        }
    });
    let results = if offsets.is_empty() {
        Ok(Vec::new())
    } else if !fits_in_a_record(&request.group_id) {
        Err(GroupError::InvalidGroupId)
    } else {
        let commit = CommitRequest {
            member_id: request.member_id,
            group_instance_id: request.group_instance_id,
            generation: request.generation_id_or_member_epoch,
            speaks_epochs: version >= MEMBER_EPOCHS_FROM,
            offsets,
            group_missing: if version >= MEMBER_EPOCHS_FROM {
                GroupError::GroupIdNotFound
            } else {
                GroupError::IllegalGeneration
            },
        };
        broker.groups.commit(&request.group_id, commit).await
    };
    fill_in(&mut answers, results);
    OffsetCommitResponse { topics: answers, ..OffsetCommitResponse::default() }
}

/// No error code of Kafka's.
const AWAITED: i16 = i16::MIN;

struct Topic {
    name: String,
    id: TopicId,
    partitions: i32,
}

fn find_topic(state: &State, topic: &OffsetCommitRequestTopic, version: i16) -> Result<Topic, GroupError> {
    let (found, missing) = if version >= TOPIC_IDS_FROM {
        (state.topic(TopicId(topic.topic_id)), GroupError::UnknownTopicId)
    } else {
        (state.topic_by_name(&topic.name), GroupError::UnknownTopicOrPartition)
    };
    let found = found.ok_or(missing)?;
    Ok(Topic { name: found.name.clone(), id: found.id, partitions: found.partitions })
}

fn committed_offset(
    topic: &Topic,
    partition: &OffsetCommitRequestPartition,
    now_ms: i64,
    expire_timestamp_ms: Option<i64>,
) -> CommittedOffset {
    let value = OffsetValue {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: partition.committed_metadata.clone().unwrap_or_default(),
        commit_timestamp_ms: now_ms,
        expire_timestamp_ms,
        // The record with an expiry of its own is older than topic ids and has no place for one.
        topic_id: if expire_timestamp_ms.is_some() { Uuid::nil() } else { topic.id.0 },
    };
    CommittedOffset { topic: topic.name.clone(), partition: partition.partition_index, value }
}

/// `results` are in the order in which the partitions were awaited.
fn fill_in(answers: &mut [OffsetCommitResponseTopic], results: Result<Vec<Result<(), GroupError>>, GroupError>) {
    let mut next = 0;
    for partition in answers.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if partition.error_code != AWAITED {
            continue;
        }
        let result = match &results {
            Ok(results) => results[next],
            Err(error) => Err(*error),
        };
        partition.error_code = result.err().map_or(ErrorCode::None, group_error_code).code();
        next += 1;
    }
}
