//! The Metadata API: brokers, topics, who leads which partition; and creation of topics on demand.

use std::sync::Arc;

use seawall_metadata::{
    State, TopicId,
    state::{PartitionState, TopicState},
};
use seawall_protocol::{
    ErrorCode,
    messages::{
        MetadataRequest, MetadataResponse,
        metadata_request::MetadataRequestTopic,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
};
use uuid::Uuid;

use crate::{
    authorized_operations::{CLUSTER_OPERATIONS, NOT_ASKED, TOPIC_OPERATIONS},
    broker::{Broker, endpoint_of},
    dispatch::RequestContext,
    repetition,
    topics::{self, PARTITIONS_PER_REQUEST_MAX},
};

pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: MetadataRequest,
    version: i16,
) -> MetadataResponse {
    if let Some(refused) = refuse(&request, version) {
        return refused;
    }
    // Version 0 has no null: there an empty list means all topics.
    let asked = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let asked = asked.as_ref().map(|topics| repetition::once(topics, identity));
    if let Some(topics) = asked.as_ref().filter(|_| version < 4 || request.allow_auto_topic_creation) {
        create_missing(broker, ctx, topics).await;
    }
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NOT_ASKED };
    let (brokers, mut topics) = broker.metadata.read(|state| {
        let topics: Vec<MetadataResponseTopic> = match &asked {
            None => state.topics_by_name("").map(|topic| describe(state, topic)).collect(),
            Some(asked) => asked.iter().map(|topic| look_up(state, topic)).collect(),
        };
        (brokers(state), topics)
    });
    let unnamed = ErrorCode::UnknownTopicId.code();
    for topic in topics.iter_mut().filter(|topic| version >= 8 && topic.error_code != unnamed) {
        topic.topic_authorized_operations = operations;
    }
    let cluster_operations = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    MetadataResponse {
        brokers,
        topics,
        cluster_id: Some(broker.cluster_text()),
        controller_id: broker.registration.node.0,
        cluster_authorized_operations: if cluster_operations { CLUSTER_OPERATIONS } else { NOT_ASKED },
        ..Default::default()
    }
}

/// What a topic is told apart by: the id counts where there is no name.
fn identity(topic: &MetadataRequestTopic) -> (Option<&str>, Uuid) {
    let name = topic.name.as_deref();
    (name, if name.is_none() { topic.topic_id } else { Uuid::nil() })
}

/// Topic ids and null names may be asked for from version 12 on; before, all is refused.
fn refuse(request: &MetadataRequest, version: i16) -> Option<MetadataResponse> {
    let topics = request.topics.as_deref().unwrap_or_default();
    let bad = |topic: &MetadataRequestTopic| topic.name.is_none() || !topic.topic_id.is_nil();
    if version >= 12 || !topics.iter().any(bad) {
        return None;
    }
    let refused = topics.iter().map(|topic| MetadataResponseTopic {
        error_code: ErrorCode::InvalidRequest.code(),
        name: Some(topic.name.clone().unwrap_or_default()),
        topic_id: topic.topic_id,
        ..Default::default()
    });
    Some(MetadataResponse { topics: refused.collect(), ..Default::default() })
}

/// Creates the named topics that do not exist, as many as the client's quota of partitions and the limit of one request
/// allow. What cannot be created is answered as missing or invalid afterwards; clients ask again for what is missing.
async fn create_missing(broker: &Arc<Broker>, ctx: &RequestContext, asked: &[&MetadataRequestTopic]) {
    if !broker.config.kafka.boolean("auto.create.topics.enable") {
        return;
    }
    let mut mutations = broker.quotas.mutations(ctx, true);
    let mut created = 0;
    for name in asked.iter().filter_map(|topic| topic.name.as_deref()) {
        if topics::check_name(name).is_err() || broker.metadata.read(|state| state.topic_by_name(name).is_some()) {
            continue;
        }
        let partitions = topics::automatic_partitions(broker, name);
        created += i64::from(partitions);
        if created > PARTITIONS_PER_REQUEST_MAX || mutations.record(usize::try_from(partitions).unwrap_or(0)).is_err() {
            return;
        }
        if let Err(error) = topics::create_automatically(broker, name).await {
            tracing::debug!(name, code = error.code.name(), "topic not created on demand");
        }
    }
}

fn brokers(state: &State) -> Vec<MetadataResponseBroker> {
    let up = state.brokers().filter(|broker| !broker.fenced);
    up.filter_map(|broker| {
        let endpoint = endpoint_of(broker)?;
        Some(MetadataResponseBroker {
            node_id: broker.node.0,
            host: endpoint.host,
            port: i32::from(endpoint.port),
            rack: broker.rack.clone(),
            ..Default::default()
        })
    })
    .collect()
}

fn look_up(state: &State, asked: &MetadataRequestTopic) -> MetadataResponseTopic {
    let unknown = |error: ErrorCode, name: Option<String>, topic_id: Uuid| MetadataResponseTopic {
        error_code: error.code(),
        name,
        topic_id,
        ..Default::default()
    };
    match &asked.name {
        Some(name) => match state.topic_by_name(name) {
            Some(topic) => describe(state, topic),
            None if topics::check_name(name).is_err() => {
                unknown(ErrorCode::InvalidTopicException, Some(name.clone()), Uuid::nil())
            }
            None => unknown(ErrorCode::UnknownTopicOrPartition, Some(name.clone()), Uuid::nil()),
        },
        None => match state.topic(TopicId(asked.topic_id)) {
            Some(topic) => describe(state, topic),
            None => unknown(ErrorCode::UnknownTopicId, None, asked.topic_id),
        },
    }
}

fn describe(state: &State, topic: &TopicState) -> MetadataResponseTopic {
    MetadataResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.id.0,
        is_internal: topic.internal,
        partitions: state.partitions_of(topic.id).map(|partition| describe_partition(state, partition)).collect(),
        ..Default::default()
    }
}

/// One copy is kept: the leader is the only replica. A leader that is down is an error, never a leader -1 in a success.
fn describe_partition(state: &State, partition: &PartitionState) -> MetadataResponsePartition {
    let up = state.broker(partition.owner).is_some_and(|broker| !broker.fenced);
    let leader = partition.owner.0;
    MetadataResponsePartition {
        error_code: if up { 0 } else { ErrorCode::LeaderNotAvailable.code() },
        partition_index: partition.id.index,
        leader_id: if up { leader } else { -1 },
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: vec![leader],
        isr_nodes: if up { vec![leader] } else { vec![] },
        offline_replicas: if up { vec![] } else { vec![leader] },
        ..Default::default()
    }
}
