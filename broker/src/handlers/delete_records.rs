//! The DeleteRecords API: moves log starts up, through metadata. Several partitions at a time, each with its own result.

use std::sync::Arc;
use std::time::Duration;

use seawall_protocol::ErrorCode;
use seawall_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsRequest};
use seawall_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};

use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::partitions::PartitionError;
use crate::retention::{self, TrimError};

/// Why the records of one partition were not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("records of internal topics must not be deleted")]
    InternalTopic,
    #[error("cleanup.policy has no `delete`")]
    CompactedOnly,
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// The log start may move yet.
    #[error("not done within the request's timeout")]
    TimedOut,
}

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DeleteRecordsRequest,
    _version: i16,
) -> DeleteRecordsResponse {
    let deadline = broker.clock.instant() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for DeleteRecordsPartition { partition_index, offset, .. } in topic.partitions {
            let deleted = tokio::time::timeout_at(deadline, delete(broker, &topic.name, partition_index, offset)).await;
            let (low_watermark, error_code) = match deleted.unwrap_or(Err(DeleteRecordsError::TimedOut)) {
                Ok(log_start) => (log_start, ErrorCode::None),
                Err(error) => (-1, ErrorCode::from(&error)),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index,
                low_watermark,
                error_code: error_code.code(),
                ..Default::default()
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions, ..Default::default() });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

async fn delete(broker: &Broker, topic: &str, index: i32, offset: i64) -> Result<i64, DeleteRecordsError> {
    let partition = broker.partitions.by_name(topic, index)?;
    if partition.is_internal() {
        return Err(DeleteRecordsError::InternalTopic);
    }
    if !partition.config().cleanup_delete {
        return Err(DeleteRecordsError::CompactedOnly);
    }
    Ok(retention::delete_records(broker.partitions.storage(), &partition, offset).await?)
}
