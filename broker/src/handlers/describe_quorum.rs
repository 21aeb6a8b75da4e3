//! The DescribeQuorum API: the Raft group of the metadata, shown as the log of Kafka's `__cluster_metadata`.

use std::sync::Arc;

use seawall_metadata::QuorumView;
use seawall_protocol::{
    ErrorCode,
    messages::{
        DescribeQuorumRequest, DescribeQuorumResponse,
        describe_quorum_response::{Node, PartitionData, ReplicaState, TopicData},
    },
};

use crate::{broker::Broker, dispatch::RequestContext};

/// The name under which Kafka's tools ask for the metadata log.
const CLUSTER_METADATA_TOPIC: &str = "__cluster_metadata";
/// From these versions on there are times, and ids and nodes.
const FIRST_VERSION_WITH_TIMES: i16 = 1;
const FIRST_VERSION_WITH_NODES: i16 = 2;

pub async fn handle(
    broker: &Arc<Broker>,
    _ctx: &RequestContext,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let asked_rightly = match &request.topics[..] {
        [topic] => {
            topic.topic_name == CLUSTER_METADATA_TOPIC && matches!(&topic.partitions[..], [p] if p.partition_index == 0)
        }
        _ => false,
    };
    if !asked_rightly {
        return unknown(request);
    }
    let quorum = broker.metadata.quorum();
    let partition = if quorum.leads {
        described(&quorum, broker.clock.now_ms(), version)
    } else {
        PartitionData { error_code: ErrorCode::NotLeaderOrFollower.code(), ..Default::default() }
    };
    let topic =
        TopicData { topic_name: CLUSTER_METADATA_TOPIC.to_owned(), partitions: vec![partition], ..Default::default() };
    let node = Node { node_id: quorum.node.0, ..Default::default() };
    DescribeQuorumResponse {
        error_message: None,
        topics: vec![topic],
        nodes: if version >= FIRST_VERSION_WITH_NODES { vec![node] } else { vec![] },
        ..Default::default()
    }
}

/// The metadata group has one voter today, which leads it.
fn described(quorum: &QuorumView, now_ms: i64, version: i16) -> PartitionData {
    let end = i64::try_from(quorum.applied).unwrap_or(i64::MAX).saturating_add(1);
    let time = if version >= FIRST_VERSION_WITH_TIMES { now_ms } else { -1 };
    let mut voter = ReplicaState {
        replica_id: quorum.node.0,
        log_end_offset: end,
        last_fetch_timestamp: time,
        last_caught_up_timestamp: time,
        ..Default::default()
    };
    if version >= FIRST_VERSION_WITH_NODES {
        voter.replica_directory_id = quorum.store;
    }
    PartitionData {
        error_message: None,
        leader_id: quorum.node.0,
        leader_epoch: i32::try_from(quorum.term).unwrap_or(i32::MAX),
        high_watermark: end,
        current_voters: vec![voter],
        ..Default::default()
    }
}

fn unknown(request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    let topics = request.topics.into_iter().map(|topic| TopicData {
        topic_name: topic.topic_name,
        partitions: (topic.partitions.iter())
            .map(|partition| PartitionData {
                partition_index: partition.partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition.code(),
                error_message: None,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    DescribeQuorumResponse { topics: topics.collect(), error_message: None, ..Default::default() }
}
