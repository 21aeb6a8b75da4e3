//! The AlterReplicaLogDirs API: there is one log directory, and what lies in it already is there; nothing can go elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use seawall_protocol::{
    ErrorCode,
    messages::{
        AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse,
        alter_replica_log_dirs_response::{AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult},
    },
};

use crate::{broker::Broker, dispatch::RequestContext, handlers::describe_log_dirs};

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: AlterReplicaLogDirsRequest,
    _version: i16,
) -> AlterReplicaLogDirsResponse {
    let own = describe_log_dirs::path(broker);
    let mut results: BTreeMap<String, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for dir in request.dirs {
        for topic in dir.topics {
            let partitions = results.entry(topic.name.clone()).or_default();
            for index in topic.partitions {
                let error = if dir.path != own {
                    ErrorCode::LogDirNotFound
                } else if broker.partitions.by_name(&topic.name, index).is_err() {
                    ErrorCode::ReplicaNotAvailable
                } else {
                    ErrorCode::None
                };
                partitions.push(AlterReplicaLogDirPartitionResult {
                    partition_index: index,
                    error_code: error.code(),
                    ..Default::default()
                });
            }
        }
    }
    let topic =
        |(topic_name, partitions)| AlterReplicaLogDirTopicResult { topic_name, partitions, ..Default::default() };
    AlterReplicaLogDirsResponse { results: results.into_iter().map(topic).collect(), ..Default::default() }
}
