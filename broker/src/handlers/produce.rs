//! The Produce API.
//!
//! Two halves, so that a connection can pipeline: [`start`] appends, in request order, and waits only while the WAL is full
//! (which is the back-pressure: nothing more is read from that connection); [`PendingProduce::finish`] waits for
//! durability and makes the answer. `acks` of 1 and -1 wait alike; `min.insync.replicas` never fails a produce.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use seawall_metadata::TopicId;
use seawall_protocol::ErrorCode;
use seawall_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use seawall_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use seawall_wal_device::SpaceClass;
use tokio::time::Instant;

use super::leaders::Leaders;
use crate::append_log::{AppendLog, AppendSpace};
use crate::batch_check::{self, BatchRules, CheckedBatch, InvalidBatch};
use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::fair_share::{ClientKey, Weight};
use crate::partition::{AppendError, Origin, Partition, PendingAppend};
use crate::partitions::PartitionError;
use crate::produce_metrics::ErrorLabel;

/// The version from which topics are named by id.
const FIRST_VERSION_WITH_TOPIC_IDS: i16 = 13;
/// The version from which NOT_LEADER_OR_FOLLOWER says who leads.
const FIRST_VERSION_WITH_LEADERS: i16 = 10;
/// The admin client may write to internal topics, as in Kafka.
const ADMIN_CLIENT: &str = "__admin_client";
/// Longest wait for space in a full WAL, before the producer gets a retriable error.
const FULL_WAL_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the connection does with a finished produce request.
#[derive(Debug)]
pub enum ProduceOutcome {
    Respond(ProduceResponse),
    /// `acks=0`, and all went well: the client expects nothing.
    Nothing,
    /// `acks=0`, and something failed: closing the connection is the only way to tell.
    Close,
}

/// A produce request whose batches are appended and may not be durable yet.
#[must_use = "a produce request is answered by `finish`"]
pub struct PendingProduce {
    version: i16,
    acks: i16,
    appended: Instant,
    deadline: Instant,
    /// How long the client is to wait before it sends more, because a WAL fills.
    throttle: Duration,
    topics: Vec<PendingTopic>,
}

struct PendingTopic {
    name: String,
    topic_id: uuid::Uuid,
    partitions: Vec<(i32, Result<PendingAppend, ProduceError>)>,
}

/// Why one partition of a produce request failed.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    #[error("acks must be -1, 0 or 1, not {0}")]
    InvalidAcks(i16),
    #[error("clients must not write to internal topics")]
    InternalTopic,
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(transparent)]
    Invalid(#[from] InvalidBatch),
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The batch is appended and may become durable later.
    #[error("not durable within the request's timeout")]
    TimedOut,
}

/// Batches that are less of their request than one part in this many are copied: kept as they came, each would hold on to the
/// memory of the whole request, refused and unknown parts included, long after it was answered.
const PINNED_PER_BYTE_MAX: usize = 4;

/// A topic of the request whose batches were looked at.
struct CheckedTopic {
    name: String,
    topic_id: uuid::Uuid,
    partitions: Vec<(i32, Result<Checked, ProduceError>)>,
}

struct Checked {
    partition: Arc<Partition>,
    batch: CheckedBatch,
    /// As the client sent it.
    bytes: usize,
}

/// Checks and appends every batch of the request, in order. Waits only for space in a full WAL, within the request's timeout.
pub async fn start(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: ProduceRequest,
    request_bytes: usize,
    version: i16,
) -> PendingProduce {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let now = broker.clock.instant();
    let mut append = Append {
        broker,
        version,
        acks: request.acks,
        may_write_internal: ctx.header.client_id.as_deref() == Some(ADMIN_CLIENT),
        space_deadline: now + (timeout / 2).min(FULL_WAL_WAIT_MAX),
        throttle: Duration::ZERO,
        client: client_key(ctx),
        now,
        last_log: None,
        copies: false,
    };
    let checked: Vec<CheckedTopic> = request.topic_data.into_iter().map(|topic| append.check_topic(topic)).collect();
    let taken: usize = checked.iter().flat_map(|topic| &topic.partitions).map(|(_, checked)| bytes_of(checked)).sum();
    append.copies = taken.saturating_mul(PINNED_PER_BYTE_MAX) < request_bytes;
    let mut topics = Vec::with_capacity(checked.len());
    for topic in checked {
        topics.push(append.topic(topic).await);
    }
    let throttle = append.throttle;
    if !throttle.is_zero() {
        broker.metrics.produce.throttled.inc();
        broker.metrics.produce.throttle_seconds.inc_by(throttle.as_secs_f64());
    }
    let appended = broker.clock.instant();
    PendingProduce { version, acks: request.acks, appended, deadline: now + timeout, throttle, topics }
}

struct Append<'a> {
    broker: &'a Arc<Broker>,
    version: i16,
    acks: i16,
    may_write_internal: bool,
    space_deadline: Instant,
    /// The longest of the logs appended to so far.
    throttle: Duration,
    client: ClientKey,
    now: Instant,
    /// The log of the batch before, and how long one that takes its fair share of it should wait.
    last_log: Option<(AppendLog, Duration)>,
    /// Whether batches leave the memory of the request.
    copies: bool,
}

fn bytes_of(checked: &Result<Checked, ProduceError>) -> usize {
    checked.as_ref().map_or(0, |checked| checked.batch.bytes.len())
}

/// Who is told apart when a log gets tight.
fn client_key(ctx: &RequestContext) -> ClientKey {
    let mut hasher = DefaultHasher::new();
    (&ctx.principal.kind, &ctx.principal.name, ctx.client_id()).hash(&mut hasher);
    ClientKey(hasher.finish())
}

impl Append<'_> {
    fn check_topic(&self, topic: TopicProduceData) -> CheckedTopic {
        let TopicProduceData { name, topic_id, partition_data, .. } = topic;
        let check = |PartitionProduceData { index, records, .. }| (index, self.check(&name, topic_id, index, records));
        let partitions = partition_data.into_iter().map(check).collect();
        CheckedTopic { name, topic_id, partitions }
    }

    async fn topic(&mut self, topic: CheckedTopic) -> PendingTopic {
        let CheckedTopic { name, topic_id, partitions: checked } = topic;
        let mut partitions = Vec::with_capacity(checked.len());
        for (index, checked) in checked {
            let appended = match checked {
                Ok(checked) => {
                    let bytes = checked.bytes;
                    let appended = self.append(checked).await;
                    self.count(&appended, bytes);
                    appended
                }
                Err(error) => Err(error),
            };
            partitions.push((index, appended));
        }
        PendingTopic { name, topic_id, partitions }
    }

    fn check(
        &self,
        name: &str,
        topic_id: uuid::Uuid,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<Checked, ProduceError> {
        if !matches!(self.acks, -1..=1) {
            return Err(ProduceError::InvalidAcks(self.acks));
        }
        let partition = if self.version >= FIRST_VERSION_WITH_TOPIC_IDS {
            self.broker.partitions.get(TopicId(topic_id), index)?
        } else {
            self.broker.partitions.by_name(name, index)?
        };
        if partition.is_internal() && !self.may_write_internal {
            return Err(ProduceError::InternalTopic);
        }
        let bytes = records.as_ref().map_or(0, Bytes::len);
        let batch = batch_check::check(records, &self.rules(&partition))?;
        Ok(Checked { partition, batch, bytes })
    }

    async fn append(&mut self, checked: Checked) -> Result<PendingAppend, ProduceError> {
        let Checked { partition, mut batch, .. } = checked;
        if self.copies {
            batch.bytes = Bytes::copy_from_slice(&batch.bytes);
        }
        let weight = self.note_fill(&partition, batch.bytes.len());
        let reservation = self.space(&partition, batch.bytes.len(), weight).await?;
        Ok(partition.append_reserved(batch.bytes, batch.header, Origin::Client, reservation)?)
    }

    /// Most requests are for one WAL: it is asked once.
    fn note_fill(&mut self, partition: &Partition, bytes: usize) -> Weight {
        let log = partition.append_log();
        let fair = match &self.last_log {
            Some((last, fair)) if last.is_same(log) => *fair,
            _ => self.last_log.insert((log.clone(), log.throttle())).1,
        };
        let weight = log.note_demand(self.client, partition.stream(), bytes as u64, self.now);
        self.throttle = self.throttle.max(weight.of_throttle(fair));
        weight
    }

    fn count(&self, appended: &Result<PendingAppend, ProduceError>, bytes: usize) {
        let metrics = &self.broker.metrics.produce;
        match appended {
            Ok(pending) if pending.duplicate => _ = metrics.duplicates.inc(),
            Ok(_) => {
                metrics.batches.inc();
                metrics.batch_bytes.inc_by(bytes as u64);
            }
            // Counted when it is answered.
            Err(_) => {}
        }
    }

    fn rules(&self, partition: &Partition) -> BatchRules {
        let storage = self.broker.partitions.storage();
        BatchRules::of_topic(&partition.config(), self.version, storage.clock.now_ms(), storage.settings.strict_batches)
    }

    /// Space for one batch. A full WAL, or memory, holds the producer back first, then refuses; one that takes more than its share
    /// is held back before it is full.
    async fn space(
        &self,
        partition: &Partition,
        batch_bytes: usize,
        weight: Weight,
    ) -> Result<AppendSpace, AppendError> {
        let attempt = || {
            if partition.append_log().has_room_for(weight, batch_bytes) {
                partition.reserve(batch_bytes, SpaceClass::Normal)
            } else {
                Err(AppendError::WalFull)
            }
        };
        match attempt() {
            Err(AppendError::WalFull) => {}
            answer => return answer,
        }
        let began = self.broker.clock.instant();
        let space = loop {
            // Before the attempt, so that space freed in between is not missed.
            let freed = partition.append_log().space_freed();
            match attempt() {
                Err(AppendError::WalFull) => {}
                answer => break answer,
            }
            if tokio::time::timeout_at(self.space_deadline, freed).await.is_err() {
                break Err(AppendError::WalFull);
            }
        };
        self.broker.metrics.produce.space_wait_seconds.observe(began.elapsed().as_secs_f64());
        space
    }
}

impl PendingProduce {
    pub fn throttle(&self) -> Duration {
        self.throttle
    }

    /// Waits until every batch is durable or has failed, or the request's timeout is over.
    pub async fn finish(self, broker: &Arc<Broker>) -> ProduceOutcome {
        if self.acks == 0 {
            let results = self.topics.iter().flat_map(|topic| &topic.partitions);
            let failures =
                results.filter_map(|(_, result)| result.as_ref().err()).inspect(|error| refused(broker, error));
            return if failures.count() > 0 { ProduceOutcome::Close } else { ProduceOutcome::Nothing };
        }
        let (mut response, mut leaders) = (ProduceResponse::default(), Leaders::default());
        for topic in self.topics {
            let mut partition_responses = Vec::with_capacity(topic.partitions.len());
            for (index, pending) in topic.partitions {
                let mut answer = match durable(pending, self.deadline).await {
                    Ok(appended) => PartitionProduceResponse { index, ..appended },
                    Err(error) => {
                        refused(broker, &error);
                        failed(index, &error)
                    }
                };
                if self.version >= FIRST_VERSION_WITH_LEADERS
                    && answer.error_code == ErrorCode::NotLeaderOrFollower.code()
                {
                    let named = leaders.name(broker, &topic.name, TopicId(topic.topic_id), index);
                    answer.current_leader = named.unwrap_or_default();
                }
                partition_responses.push(answer);
            }
            response.responses.push(TopicProduceResponse {
                name: topic.name,
                topic_id: topic.topic_id,
                partition_responses,
                ..Default::default()
            });
        }
        response.node_endpoints = leaders.endpoints();
        broker.metrics.produce.durable_seconds.observe(self.appended.elapsed().as_secs_f64());
        ProduceOutcome::Respond(response)
    }
}

fn refused(broker: &Broker, error: &ProduceError) {
    let error = ErrorCode::from(error).name();
    broker.metrics.produce.refused.get_or_create(&ErrorLabel { error }).inc();
}

async fn durable(
    pending: Result<PendingAppend, ProduceError>,
    deadline: Instant,
) -> Result<PartitionProduceResponse, ProduceError> {
    let pending = pending?;
    let appended = PartitionProduceResponse {
        base_offset: pending.base_offset,
        log_append_time_ms: pending.log_append_time_ms,
        log_start_offset: pending.log_start_offset,
        ..Default::default()
    };
    tokio::time::timeout_at(deadline, pending.durable()).await.map_err(|_| ProduceError::TimedOut)??;
    Ok(appended)
}

fn failed(index: i32, error: &ProduceError) -> PartitionProduceResponse {
    let record_errors = match error {
        ProduceError::Invalid(invalid) => invalid.record_indexes(),
        _ => &[],
    };
    let record_error = |batch_index: &i32| BatchIndexAndErrorMessage {
        batch_index: *batch_index,
        batch_index_error_message: Some(match error {
            ProduceError::Invalid(InvalidBatch::NullKeys { .. }) => {
                "a compacted topic takes no record without a key".into()
            }
            other => other.to_string(),
        }),
        ..Default::default()
    };
    PartitionProduceResponse {
        index,
        error_code: ErrorCode::from(error).code(),
        base_offset: -1,
        record_errors: record_errors.iter().map(record_error).collect(),
        error_message: Some(error.to_string()),
        ..Default::default()
    }
}
