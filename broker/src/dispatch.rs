//! API key and version to handler, one match; and the table of what this broker advertises.
//!
//! A request that cannot be read, or is of an API or version that is not advertised, closes its connection, as in
//! Kafka. The exception is ApiVersions of a too new version, which is answered so that the client can step down.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use seawall_protocol::{
    ApiKey, Decoder, Message, RequestHeader, Segments, api_versions::KAFKA_4_3, encode_response, messages::*,
};
use tokio::time::Instant;
use tracing::error;

use crate::{
    answer_memory::{self, AnswerRoom},
    broker::Broker,
    connection::{Peer, Principal},
    handlers::{self, produce::ProduceOutcome},
    metrics::ApiLabel,
    quotas,
    throttle::{Throttled, busy_time},
};

/// What a handler knows about its request besides the request.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub header: RequestHeader,
    pub peer: SocketAddr,
    pub principal: Principal,
}

impl RequestContext {
    pub fn client_id(&self) -> &str {
        self.header.client_id.as_deref().unwrap_or_default()
    }
}

/// What goes back to the client, and for how long nothing more is read from it then.
#[derive(Debug)]
pub enum Answer {
    Respond {
        frame: Segments,
        /// What the frame takes of the memory for answers; none if it is small.
        room: Option<AnswerRoom>,
        mute: Duration,
    },
    /// Produce with `acks=0`.
    Nothing {
        mute: Duration,
    },
    Close(String),
}

/// A request whose effects are ordered.
pub enum Begun {
    Answered(Answer),
    /// The request has taken its place; the answer comes later.
    Waiting(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// A request whose header was read.
pub struct Request {
    api: ApiKey,
    context: RequestContext,
    body: Decoder,
    /// Of the whole frame.
    bytes: usize,
}

/// The APIs that this broker implements.
const IMPLEMENTED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::ListOffsets,
    ApiKey::Fetch,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::InitProducerId,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::AlterReplicaLogDirs,
    ApiKey::DescribeLogDirs,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::ElectLeaders,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::AlterPartitionReassignments,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeClientQuotas,
    ApiKey::AlterClientQuotas,
    ApiKey::DescribeQuorum,
    ApiKey::UpdateFeatures,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::UnregisterBroker,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupHeartbeat,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::ListConfigResources,
    ApiKey::DescribeTopicPartitions,
];

/// Those that may be handled twice, and whose answers can be much larger than the request.
const READS: &[ApiKey] = &[
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeConfigs,
    ApiKey::DescribeLogDirs,
    ApiKey::ListPartitionReassignments,
    ApiKey::DescribeClientQuotas,
    ApiKey::DescribeQuorum,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::DescribeTransactions,
    ApiKey::ListTransactions,
    ApiKey::ConsumerGroupDescribe,
    ApiKey::ListConfigResources,
    ApiKey::DescribeTopicPartitions,
];

/// Key, first and last version of what this broker advertises, ascending.
pub fn advertised() -> impl Iterator<Item = (ApiKey, i16, i16)> {
    KAFKA_4_3.iter().copied().filter(|(api, _, _)| IMPLEMENTED.contains(api))
}

/// Answered and not advertised, as by Kafka while nothing receives the metrics of clients.
const UNADVERTISED: &[ApiKey] = &[ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry];

fn answered_versions(api: ApiKey) -> Option<std::ops::RangeInclusive<i16>> {
    let answered = |api: &ApiKey| IMPLEMENTED.contains(api) || UNADVERTISED.contains(api);
    let ranges = KAFKA_4_3.iter().filter(|(key, _, _)| *key == api && answered(key));
    ranges.map(|(_, first, last)| *first..=*last).next()
}

/// Reads the header; the error says why the connection must be closed.
pub fn parse(broker: &Broker, peer: &Peer, frame: Bytes) -> Result<Request, String> {
    let bytes = frame.len() + size_of::<i32>();
    let mut body = Decoder::new(frame);
    let (api, header) =
        RequestHeader::decode_from(&mut body).map_err(|error| format!("bad request header: {error}"))?;
    let version = header.api_version;
    let known = answered_versions(api).is_some_and(|versions| versions.contains(&version));
    if !known && api != ApiKey::ApiVersions {
        return Err(format!("{} version {version} is not supported", api.name()));
    }
    broker.metrics.network.requests.get_or_create(&ApiLabel { api: api.name() }).inc();
    let context = RequestContext { header, peer: peer.address, principal: peer.principal.clone() };
    Ok(Request { api, context, body, bytes })
}

impl Request {
    /// Whether the next request of the connection may begin before this one is answered.
    pub fn is_pipelined(&self) -> bool {
        self.api == ApiKey::Produce
    }

    /// Handles the request, or for Produce: appends, and leaves the wait for durability to the answer.
    pub async fn begin(self, broker: &Arc<Broker>) -> Begun {
        let (api, began) = (self.api, broker.clock.instant());
        if api == ApiKey::Produce {
            return self.begin_produce(broker, began).await;
        }
        let answer = self.answer(broker).await;
        observe(broker, api, began);
        Begun::Answered(answer)
    }

    /// A large answer needs room. A read that finds none is dropped again, waits until there is, and is repeated: nobody
    /// knows how large an answer is before it is built.
    async fn answer(self, broker: &Arc<Broker>) -> Answer {
        let Self { api, context, body, .. } = self;
        // Boxed, so that an idle connection does not hold room for the largest handler's state.
        if !READS.contains(&api) {
            return with_room_now(broker, Box::pin(Self::route(api, &context, body, broker)).await);
        }
        let mut room = None;
        loop {
            let answer = Box::pin(Self::route(api, &context, body.clone(), broker)).await;
            match with_room(broker, answer, room.take()) {
                Ok(answer) => return answer,
                // A little more, for what may come to be meanwhile.
                Err(bytes) => room = Some(broker.answers.room(bytes + bytes / 8).await),
            }
        }
    }

    /// Appends; the answer waits for durability.
    async fn begin_produce(self, broker: &Arc<Broker>, began: Instant) -> Begun {
        let Self { api, context, body, bytes } = self;
        let version = context.header.api_version;
        let request = match decode::<ProduceRequest>(body, version) {
            Ok(request) => request,
            Err(close) => return Begun::Answered(close),
        };
        let measured = broker.quotas.limits_requests();
        let (pending, busy) = {
            let start = pin!(handlers::produce::start(broker, &context, request, bytes, version));
            busy_time(&broker.clock, measured, start).await
        };
        let (broker, filling) = (broker.clone(), pending.throttle());
        Begun::Waiting(Box::pin(async move {
            let (outcome, more) = busy_time(&broker.clock, measured, pin!(pending.finish(&broker))).await;
            let throttle = broker.quotas.produced(&context, bytes).max(filling);
            let answer = match outcome {
                ProduceOutcome::Respond(mut response) => {
                    response.throttle_time_ms = quotas::millis(throttle);
                    respond(&broker, api, &context, response, busy + more)
                }
                // Without a response the time that it took does not count, as in Kafka.
                ProduceOutcome::Nothing => Answer::Nothing { mute: throttle },
                ProduceOutcome::Close => Answer::Close("a produce request with acks=0 failed".to_owned()),
            };
            observe(&broker, api, began);
            with_room_now(&broker, answer)
        }))
    }

    async fn route(api: ApiKey, context: &RequestContext, body: Decoder, broker: &Arc<Broker>) -> Answer {
        use handlers::*;
        let version = context.header.api_version;
        let measured = broker.quotas.limits_requests();
        // Decode, handle, encode.
        macro_rules! handled {
            ($request:ty, $handler:path) => {
                match decode::<$request>(body, version) {
                    Ok(request) => {
                        let work = pin!($handler(broker, context, request, version));
                        let (response, busy) = busy_time(&broker.clock, measured, work).await;
                        respond(broker, api, context, response, busy)
                    }
                    Err(close) => close,
                }
            };
        }
        match api {
            ApiKey::ApiVersions if !api_versions::is_known(version) => {
                encoded(api, context, 0, &api_versions::unsupported_version(), Duration::ZERO)
            }
            ApiKey::ApiVersions => handled!(ApiVersionsRequest, api_versions::handle),
            ApiKey::ListOffsets => handled!(ListOffsetsRequest, list_offsets::handle),
            ApiKey::DeleteRecords => handled!(DeleteRecordsRequest, delete_records::handle),
            ApiKey::OffsetForLeaderEpoch => handled!(OffsetForLeaderEpochRequest, offset_for_leader_epoch::handle),
            // Its room is taken before the records are read.
            ApiKey::Fetch => match decode::<FetchRequest>(body, version) {
                Ok(request) => {
                    let work = pin!(fetch::handle(broker, context, request, version));
                    let ((response, room), busy) = busy_time(&broker.clock, measured, work).await;
                    hold(respond(broker, api, context, response, busy), room)
                }
                Err(close) => close,
            },
            ApiKey::Metadata => handled!(MetadataRequest, metadata::handle),
            ApiKey::CreateTopics => handled!(CreateTopicsRequest, create_topics::handle),
            ApiKey::DeleteTopics => handled!(DeleteTopicsRequest, delete_topics::handle),
            ApiKey::CreatePartitions => handled!(CreatePartitionsRequest, create_partitions::handle),
            ApiKey::DescribeTopicPartitions => {
                handled!(DescribeTopicPartitionsRequest, describe_topic_partitions::handle)
            }
            ApiKey::DescribeConfigs => handled!(DescribeConfigsRequest, describe_configs::handle),
            ApiKey::AlterConfigs => handled!(AlterConfigsRequest, alter_configs::handle),
            ApiKey::IncrementalAlterConfigs => {
                handled!(IncrementalAlterConfigsRequest, incremental_alter_configs::handle)
            }
            ApiKey::ListConfigResources => handled!(ListConfigResourcesRequest, list_config_resources::handle),
            ApiKey::DescribeCluster => handled!(DescribeClusterRequest, describe_cluster::handle),
            ApiKey::DescribeProducers => handled!(DescribeProducersRequest, describe_producers::handle),
            ApiKey::DescribeLogDirs => handled!(DescribeLogDirsRequest, describe_log_dirs::handle),
            ApiKey::AlterReplicaLogDirs => handled!(AlterReplicaLogDirsRequest, alter_replica_log_dirs::handle),
            ApiKey::ListPartitionReassignments => {
                handled!(ListPartitionReassignmentsRequest, list_partition_reassignments::handle)
            }
            ApiKey::AlterPartitionReassignments => {
                handled!(AlterPartitionReassignmentsRequest, alter_partition_reassignments::handle)
            }
            ApiKey::ElectLeaders => handled!(ElectLeadersRequest, elect_leaders::handle),
            // Its response has no place for a throttle.
            ApiKey::DescribeQuorum => match decode::<DescribeQuorumRequest>(body, version) {
                Ok(request) => {
                    let response = describe_quorum::handle(broker, context, request, version).await;
                    encoded(api, context, version, &response, Duration::ZERO)
                }
                Err(close) => close,
            },
            ApiKey::DescribeClientQuotas => handled!(DescribeClientQuotasRequest, describe_client_quotas::handle),
            ApiKey::AlterClientQuotas => handled!(AlterClientQuotasRequest, alter_client_quotas::handle),
            ApiKey::GetTelemetrySubscriptions => {
                handled!(GetTelemetrySubscriptionsRequest, get_telemetry_subscriptions::handle)
            }
            ApiKey::PushTelemetry => handled!(PushTelemetryRequest, push_telemetry::handle),
            ApiKey::UpdateFeatures => handled!(UpdateFeaturesRequest, update_features::handle),
            ApiKey::UnregisterBroker => handled!(UnregisterBrokerRequest, unregister_broker::handle),
            ApiKey::ListTransactions => handled!(ListTransactionsRequest, list_transactions::handle),
            ApiKey::DescribeTransactions => handled!(DescribeTransactionsRequest, describe_transactions::handle),
            ApiKey::FindCoordinator => handled!(FindCoordinatorRequest, find_coordinator::handle),
            ApiKey::JoinGroup => handled!(JoinGroupRequest, join_group::handle),
            ApiKey::SyncGroup => handled!(SyncGroupRequest, sync_group::handle),
            ApiKey::Heartbeat => handled!(HeartbeatRequest, heartbeat::handle),
            ApiKey::LeaveGroup => handled!(LeaveGroupRequest, leave_group::handle),
            ApiKey::OffsetCommit => handled!(OffsetCommitRequest, offset_commit::handle),
            ApiKey::OffsetFetch => handled!(OffsetFetchRequest, offset_fetch::handle),
            ApiKey::OffsetDelete => handled!(OffsetDeleteRequest, offset_delete::handle),
            ApiKey::DescribeGroups => handled!(DescribeGroupsRequest, describe_groups::handle),
            ApiKey::ConsumerGroupHeartbeat => {
                handled!(ConsumerGroupHeartbeatRequest, consumer_group_heartbeat::handle)
            }
            ApiKey::ConsumerGroupDescribe => handled!(ConsumerGroupDescribeRequest, consumer_group_describe::handle),
            ApiKey::ListGroups => handled!(ListGroupsRequest, list_groups::handle),
            ApiKey::DeleteGroups => handled!(DeleteGroupsRequest, delete_groups::handle),
            ApiKey::InitProducerId => handled!(InitProducerIdRequest, init_producer_id::handle),
            // Every other key was refused with its header.
            other => Answer::Close(format!("{} is not served", other.name())),
        }
    }
}

/// Ties room to an answer, and gives back what it does not need.
fn hold(mut answer: Answer, mut held: Option<AnswerRoom>) -> Answer {
    if let Answer::Respond { frame, room, .. } = &mut answer {
        if let Some(held) = &mut held {
            held.shrink_to(frame.total_len());
        }
        *room = held;
    }
    answer
}

/// The answer with its room, of which it may have some; or how much it needs, and it is dropped.
fn with_room(broker: &Broker, answer: Answer, held: Option<AnswerRoom>) -> Result<Answer, usize> {
    let bytes = needs_room(&answer);
    if bytes == 0 {
        return Ok(answer);
    }
    let room = held.filter(|held| held.holds(bytes)).or_else(|| broker.answers.try_room(bytes)).ok_or(bytes)?;
    Ok(hold(answer, Some(room)))
}

/// The answer with its room. What was done is not done again: if even the reserve is used up, the client does not learn
/// of it.
fn with_room_now(broker: &Broker, answer: Answer) -> Answer {
    let bytes = needs_room(&answer);
    if bytes == 0 {
        return answer;
    }
    match broker.answers.room_now(bytes) {
        Some(room) => hold(answer, Some(room)),
        None => Answer::Close(format!("no memory for an answer of {bytes} bytes")),
    }
}

/// 0 if it is small, or has room.
fn needs_room(answer: &Answer) -> usize {
    match answer {
        Answer::Respond { frame, room: None, .. } if frame.total_len() > answer_memory::SMALL_BYTES => {
            frame.total_len()
        }
        Answer::Respond { .. } | Answer::Nothing { .. } | Answer::Close(_) => 0,
    }
}

/// Bytes behind the message are ignored, as Kafka does: librdkafka sends three with a Metadata request for all topics.
fn decode<M: Message>(mut body: Decoder, version: i16) -> Result<M, Answer> {
    M::decode(&mut body, version).map_err(|error| Answer::Close(format!("bad {} version {version}: {error}", M::NAME)))
}

/// The response says the longest of the throttles that the handler found and that of the time it took.
fn respond<M: Message + Throttled>(
    broker: &Broker,
    api: ApiKey,
    context: &RequestContext,
    mut response: M,
    busy: Duration,
) -> Answer {
    let throttle_time_ms = response.throttle_time_ms();
    *throttle_time_ms = (*throttle_time_ms).max(quotas::millis(broker.quotas.worked(context, busy)));
    let mute = Duration::from_millis(u64::try_from(*throttle_time_ms).unwrap_or(0));
    encoded(api, context, context.header.api_version, &response, mute)
}

fn encoded<M: Message>(api: ApiKey, context: &RequestContext, version: i16, response: &M, mute: Duration) -> Answer {
    match encode_response(api, version, context.header.correlation_id, response) {
        Ok(frame) => Answer::Respond { frame, room: None, mute },
        Err(error) => {
            error!(api = api.name(), version, %error, "a response cannot be encoded");
            Answer::Close(format!("{} version {version} cannot be answered: {error}", api.name()))
        }
    }
}

fn observe(broker: &Broker, api: ApiKey, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    broker.metrics.network.request_seconds.get_or_create(&ApiLabel { api: api.name() }).observe(seconds);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_api_that_is_advertised_is_one_of_kafkas_with_its_range() {
        assert_eq!(advertised().count(), IMPLEMENTED.len());
        assert!(advertised().is_sorted_by_key(|(api, _, _)| api as i16));
    }
}
