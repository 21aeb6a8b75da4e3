//! The Fetch API: waits until there is enough to read or the client's patience is over, then reads.
//!
//! Whether there is enough is told from the logs' indexes; records are read once, at the end of the wait (`fetch/reading.rs`).
//! The records of the answer are the very slices of cache and blocks. The client's rack is not looked at: every partition has one
//! copy.

mod reading;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use seawall_metadata::TopicId;
use seawall_protocol::messages::fetch_request::FetchRequest;
use seawall_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use seawall_protocol::{ErrorCode, Records};
use tokio::time::Instant;
use uuid::Uuid;

use super::leaders::Leaders;
use crate::answer_memory::{AnswerMemory, AnswerRoom};
use crate::broker::Broker;
use crate::dispatch::RequestContext;
use crate::fetch_session::{AnswerSummary, FetchContext, FetchPartition, FetchSessions, FetchTopic, SessionRequest};
use crate::partition::{LeaderError, Partition, PartitionOffsets};
use crate::quotas;
use crate::read_path::{Isolation, ReadError};

/// The version from which topics are named by id.
const FIRST_VERSION_WITH_TOPIC_IDS: i16 = 13;
/// The version from which an answer of the wrong leader says who leads.
const FIRST_VERSION_WITH_LEADERS: i16 = 16;
const READ_COMMITTED: i8 = 1;

/// What fetches share: sessions, and the budget of responses under way.
#[derive(Debug)]
pub struct Fetches {
    sessions: Mutex<FetchSessions>,
    pub memory: AnswerMemory,
    /// `fetch.max.bytes`: the most that one fetch answers with.
    bytes_max: usize,
}

/// Why one partition of a fetch is answered with an error.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Fetches {
    pub fn new(session_slots: usize, response_bytes_max: u64, fetch_bytes_max: usize) -> Fetches {
        Fetches {
            sessions: Mutex::new(FetchSessions::new(session_slots)),
            memory: AnswerMemory::new(response_bytes_max),
            bytes_max: fetch_bytes_max,
        }
    }

    /// Sessions, and the partitions that they hold.
    pub fn session_usage(&self) -> (usize, usize) {
        self.sessions().usage()
    }

    fn sessions(&self) -> MutexGuard<'_, FetchSessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response, and the room that it has.
pub async fn handle(
    broker: &Arc<Broker>,
    ctx: &RequestContext,
    request: FetchRequest,
    version: i16,
) -> (FetchResponse, Option<AnswerRoom>) {
    let limits = Limits::of(&request, broker, broker.quotas.fetch_bytes_max(ctx));
    let session = session_request(request, version);
    let context = match broker.fetches.sessions().begin(session, broker.clock.now_ms()) {
        Ok(context) => context,
        Err(error) => {
            return (FetchResponse { error_code: ErrorCode::from(error).code(), ..Default::default() }, None);
        }
    };
    let owed = broker.quotas.fetch_owed(ctx);
    if !owed.is_zero() {
        let session_id = context.running_session();
        return (FetchResponse { throttle_time_ms: quotas::millis(owed), session_id, ..Default::default() }, None);
    }
    let asked: Vec<Asked> = context.partitions.iter().map(|wanted| Asked::find(broker, wanted)).collect();
    wait_for_data(&asked, &limits).await;
    let (answers, room) = reading::read(broker, &asked, &limits, version).await;
    let mut response = respond(broker, &context, answers);
    response.throttle_time_ms = quotas::millis(broker.quotas.fetched(ctx, record_bytes(&response)));
    (response, room)
}

/// What the client sets for the whole fetch.
struct Limits {
    bytes_max: usize,
    bytes_min: usize,
    deadline: Instant,
    isolation: Isolation,
}

impl Limits {
    fn of(request: &FetchRequest, broker: &Broker, quota_bytes: usize) -> Limits {
        let asked = usize::try_from(request.max_bytes).unwrap_or(0);
        let bytes_max = asked.min(broker.fetches.bytes_max).min(quota_bytes);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        Limits {
            bytes_max,
            bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
            deadline: broker.clock.instant() + wait,
            isolation: if request.isolation_level == READ_COMMITTED {
                Isolation::ReadCommitted
            } else {
                Isolation::ReadUncommitted
            },
        }
    }
}

impl Limits {
    /// Where what may be seen ends.
    fn below(&self, offsets: &PartitionOffsets) -> i64 {
        match self.isolation {
            Isolation::ReadUncommitted => offsets.high_watermark,
            Isolation::ReadCommitted => offsets.last_stable,
        }
    }
}

fn session_request(request: FetchRequest, version: i16) -> SessionRequest {
    let by_topic_id = version >= FIRST_VERSION_WITH_TOPIC_IDS;
    let topic_of = |name: &str, id: Uuid| if by_topic_id { FetchTopic::Id(id) } else { FetchTopic::Name(name.into()) };
    let mut partitions = Vec::new();
    for topic in &request.topics {
        let name = topic_of(&topic.topic, topic.topic_id);
        partitions.extend(topic.partitions.iter().map(|wanted| FetchPartition {
            topic: name.clone(),
            index: wanted.partition,
            fetch_offset: wanted.fetch_offset,
            max_bytes: wanted.partition_max_bytes,
            current_leader_epoch: wanted.current_leader_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let name = topic_of(&topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|index| (name.clone(), *index)));
    }
    SessionRequest { session_id: request.session_id, epoch: request.session_epoch, by_topic_id, partitions, forgotten }
}

/// One partition of the fetch.
struct Asked<'a> {
    wanted: &'a FetchPartition,
    partition: Result<Arc<Partition>, LeaderError>,
}

/// How much of a partition could be read now.
enum Ready {
    Bytes(usize),
    /// Something that the client must learn at once.
    Now,
}

impl<'a> Asked<'a> {
    fn find(broker: &Broker, wanted: &'a FetchPartition) -> Asked<'a> {
        let partition = match &wanted.topic {
            FetchTopic::Name(name) => broker.partitions.by_name(name, wanted.index),
            FetchTopic::Id(id) => broker.partitions.get(TopicId(*id), wanted.index),
        };
        Asked { wanted, partition: partition.map_err(LeaderError::Partition) }
    }

    fn ready(&self, limits: &Limits) -> Ready {
        let Ok(partition) = &self.partition else { return Ready::Now };
        if partition.check_leader_epoch(self.wanted.current_leader_epoch).is_err() {
            return Ready::Now;
        }
        let offsets = partition.offsets();
        let from = self.wanted.fetch_offset;
        if from < offsets.log_start || from > offsets.log_end || self.diverging(partition).is_some() {
            return Ready::Now;
        }
        let below = limits.below(&offsets);
        let bytes_max = self.bytes_max();
        let enough = bytes_max.min(limits.bytes_min) as u64;
        // What lies in objects is taken to be enough.
        let bytes = partition.bytes_ready(from, below, enough);
        Ready::Bytes(bytes.map_or(bytes_max.max(1), |bytes| (bytes as usize).min(bytes_max.max(1))))
    }

    fn name_bytes(&self) -> usize {
        match &self.wanted.topic {
            FetchTopic::Name(name) => name.len(),
            FetchTopic::Id(_) => 0,
        }
    }

    fn bytes_max(&self) -> usize {
        usize::try_from(self.wanted.max_bytes).unwrap_or(0)
    }

    /// Where the client's log and this one part, if the client says what it fetched last and they do.
    fn diverging(&self, partition: &Partition) -> Option<(i32, i64)> {
        let fetched = self.wanted.last_fetched_epoch;
        if fetched < 0 {
            return None;
        }
        let (epoch, end) = partition.end_of_epoch(fetched).unwrap_or((-1, -1));
        (epoch < fetched || end < self.wanted.fetch_offset).then_some((epoch, end))
    }
}

/// Returns when enough can be read, something must be told, or the deadline has come.
async fn wait_for_data(asked: &[Asked<'_>], limits: &Limits) {
    loop {
        // Subscribed before the look, so that nothing is missed in between.
        let mut changes: Vec<Change> = Vec::new();
        let mut bytes = 0;
        for asked in asked {
            if let Ok(partition) = &asked.partition {
                let mut watermark = partition.watch_high_watermark();
                changes.push(Box::pin(async move {
                    // A partition that is gone is a change as well.
                    let _ = watermark.changed().await;
                }));
            }
            match asked.ready(limits) {
                Ready::Now => return,
                Ready::Bytes(ready) => bytes += ready,
            }
        }
        if bytes >= limits.bytes_min || asked.is_empty() || Instant::now() >= limits.deadline {
            return;
        }
        if tokio::time::timeout_at(limits.deadline, any(changes)).await.is_err() {
            return;
        }
    }
}

type Change = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Resolves with the first of them. Without tokio's budget: it would end a look at many partitions in the middle, again
/// and again.
async fn any(mut changes: Vec<Change>) {
    let first = poll_fn(move |context| {
        if changes.iter_mut().any(|change| change.as_mut().poll(context).is_ready()) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    tokio::task::unconstrained(first).await;
}

fn set_offsets(answer: &mut PartitionData, partition: &Partition) {
    let offsets = partition.offsets();
    answer.high_watermark = offsets.high_watermark;
    answer.last_stable_offset = offsets.last_stable;
    answer.log_start_offset = offsets.log_start;
}

fn failed(index: i32, error: ErrorCode) -> PartitionData {
    PartitionData {
        partition_index: index,
        error_code: error.code(),
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        records: Some(Records::default()),
        ..Default::default()
    }
}

/// An answer that says "not the leader" says who is.
fn name_leader(broker: &Broker, wanted: &FetchPartition, answer: &mut PartitionData, leaders: &mut Leaders) {
    let wrong_leader = [ErrorCode::NotLeaderOrFollower.code(), ErrorCode::FencedLeaderEpoch.code()];
    if !wrong_leader.contains(&answer.error_code) {
        return;
    }
    let named = match &wanted.topic {
        FetchTopic::Name(name) => leaders.name(broker, name, TopicId(Uuid::nil()), wanted.index),
        FetchTopic::Id(id) => leaders.name(broker, "", TopicId(*id), wanted.index),
    };
    answer.current_leader = named.unwrap_or_default();
}

/// One answer per partition of the context, in its order.
struct Answers {
    partitions: Vec<PartitionData>,
    leaders: Leaders,
}

/// Leaves out what the session need not tell again.
fn respond(broker: &Broker, context: &FetchContext, answers: Answers) -> FetchResponse {
    let summaries: Vec<AnswerSummary> = answers.partitions.iter().map(summary).collect();
    let new_ids = || (Uuid::new_v4().as_u128() as i32) & i32::MAX;
    let session = broker.fetches.sessions().end(context, &summaries, broker.clock.now_ms(), new_ids);
    let node_endpoints = answers.leaders.endpoints();
    let mut response = FetchResponse { session_id: session.session_id, node_endpoints, ..Default::default() };
    for ((wanted, answer), sent) in context.partitions.iter().zip(answers.partitions).zip(session.sent) {
        if !sent {
            continue;
        }
        let (name, id) = match &wanted.topic {
            FetchTopic::Name(name) => (&**name, Uuid::nil()),
            FetchTopic::Id(id) => ("", *id),
        };
        match response.responses.last_mut() {
            Some(topic) if topic.topic == name && topic.topic_id == id => topic.partitions.push(answer),
            _ => response.responses.push(FetchableTopicResponse {
                topic: name.to_owned(),
                topic_id: id,
                partitions: vec![answer],
                ..Default::default()
            }),
        }
    }
    response
}

fn record_bytes(response: &FetchResponse) -> usize {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.filter_map(|partition| partition.records.as_ref()).map(Records::total_len).sum()
}

fn summary(answer: &PartitionData) -> AnswerSummary {
    AnswerSummary {
        has_records: answer.records.as_ref().is_some_and(|records| !records.is_empty()),
        must_send: answer.error_code != ErrorCode::None.code() || answer.diverging_epoch.epoch >= 0,
        high_watermark: answer.high_watermark,
        log_start: answer.log_start_offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::watch;

    #[tokio::test]
    async fn waiting_on_many_partitions_looks_at_each_once_and_then_sleeps() {
        let looks = Arc::new(AtomicUsize::new(0));
        let (sender, _) = watch::channel(0);
        let changes: Vec<Change> = (0..1000)
            .map(|_| {
                let (mut receiver, looks) = (sender.subscribe(), looks.clone());
                let mut changed = Box::pin(async move { receiver.changed().await.is_ok() });
                Box::pin(poll_fn(move |context| {
                    looks.fetch_add(1, Ordering::Relaxed);
                    changed.as_mut().poll(context).map(|_| ())
                })) as Change
            })
            .collect();
        let waiting = tokio::time::timeout(Duration::from_millis(200), any(changes));
        assert!(waiting.await.is_err());
        assert!(looks.load(Ordering::Relaxed) <= 3000, "{looks:?} looks at 1000 partitions in which nothing happens");
    }
}
