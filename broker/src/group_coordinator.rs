//! The group coordinator: which partition of `__consumer_offsets` a group belongs to, and the way to its state.
//!
//! Each partition of `__consumer_offsets` that this broker leads has one task (`shard_task.rs`) that owns its groups;
//! handlers send operations and wait for the answer. Promises: an answer leaves only when everything it rests on is
//! durable and the lease holds; there is no state of a partition that this broker does not lead in the epoch of that
//! state. While a partition's log is read, its groups answer COORDINATOR_LOAD_IN_PROGRESS; after it moved away or its
//! log failed, NOT_COORDINATOR, never UNKNOWN_MEMBER_ID.

mod load;
mod log;
mod metrics;
mod placement;
mod shard_task;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock::Clock;
use crate::consumer_group::{ConsumerConfig, Heartbeat, HeartbeatAnswer};
use crate::group::{
    GroupConfig, GroupError, JoinAnswer, JoinRequest, LeavingMember, Now, RequestId, SyncRequest, Synced,
};
use crate::group_shard::{
    CommitRequest, DescribedConsumerGroup, DescribedGroup, GroupShard, ListedGroup, Output, Surroundings,
};
use crate::offsets::GroupOffsets;
pub use log::{BoxFuture, GroupLog, LogError, Placement};
pub use metrics::GroupMetrics;
pub use placement::MetadataPlacement;
use shard_task::{Context, Delivery, Operation};

/// Operations that wait for one partition's task; further ones wait with their connection.
const QUEUED_OPERATIONS_MAX: usize = 1_024;
/// How often the follower looks whether metadata gave or took a partition, besides being told.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Cheap to clone.
#[derive(Clone)]
pub struct GroupCoordinator {
    shared: Arc<Shared>,
}

struct Shared {
    config: GroupConfig,
    clock: Clock,
    origin: Instant,
    placement: Arc<dyn Placement>,
    metrics: GroupMetrics,
    shards: RwLock<BTreeMap<i32, Shard>>,
    next_request: AtomicU64,
    /// Memory of all partitions' groups, about.
    bytes: AtomicUsize,
    /// Requests are not parked any more.
    draining: AtomicBool,
}

/// A partition that this broker leads.
struct Shard {
    leader_epoch: i32,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
    /// None while the log is being read.
    operations: Option<mpsc::Sender<Operation>>,
}

impl GroupCoordinator {
    pub fn new(config: GroupConfig, clock: Clock, placement: Arc<dyn Placement>, metrics: GroupMetrics) -> Self {
        let origin = clock.instant();
        let shards = RwLock::default();
        let shared = Shared {
            config,
            clock,
            origin,
            placement,
            metrics,
            shards,
            next_request: AtomicU64::new(1),
            bytes: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn config(&self) -> &GroupConfig {
        &self.shared.config
    }

    /// Partitions of `__consumer_offsets`; None while the topic does not exist.
    pub fn partitions(&self) -> Option<i32> {
        self.shared.placement.partitions()
    }

    /// Parked until the group's next generation, or until the request is refused.
    pub async fn join(&self, group: &str, mut request: JoinRequest) -> JoinAnswer {
        let member_id = request.member_id.clone();
        request.request = self.request_id();
        let (answer, answered) = oneshot::channel();
        let group_id = group.to_owned();
        let asked = self.ask(group, move |context| {
            context.parked.join(request.request, answer);
            context.shard.join(&group_id, request, context.cluster, context.now, context.output);
        });
        match asked.await {
            Ok(()) => answered.await.unwrap_or(JoinAnswer { member_id, result: Err(GroupError::NotCoordinator) }),
            Err(error) => JoinAnswer { member_id, result: Err(error) },
        }
    }

    /// Parked until the leader has sent the assignment, or until the request is refused.
    pub async fn sync(&self, group: &str, mut request: SyncRequest) -> Result<Synced, GroupError> {
        request.request = self.request_id();
        let (answer, answered) = oneshot::channel();
        let group_id = group.to_owned();
        let asked = self.ask(group, move |context| {
            context.parked.sync(request.request, answer);
            context.shard.sync(&group_id, request, context.cluster, context.now, context.output);
        });
        asked.await?;
        answered.await.unwrap_or(Err(GroupError::NotCoordinator))
    }

    pub async fn heartbeat(
        &self,
        group: &str,
        member_id: String,
        group_instance_id: Option<String>,
        generation: i32,
    ) -> Result<(), GroupError> {
        let group_id = group.to_owned();
        let answer = self.call(group, move |context| {
            let instance = group_instance_id.as_deref();
            context.shard.heartbeat(&group_id, &member_id, instance, generation, context.cluster, context.now)
        });
        match answer.await {
            // The member's session begins with the end of the load; until then it is taken for alive.
            Err(GroupError::CoordinatorLoadInProgress) => Ok(()),
            answer => answer?,
        }
    }

    /// A heartbeat under the consumer protocol, which also joins and leaves.
    pub async fn consumer_heartbeat(&self, group: &str, request: Heartbeat) -> Result<HeartbeatAnswer, GroupError> {
        let group_id = group.to_owned();
        let operation = move |context: &mut Context| {
            context.shard.consumer_heartbeat(&group_id, &request, context.cluster, context.now, context.output)
        };
        self.call(group, operation).await?
    }

    /// None: there is no such group under the consumer protocol.
    pub async fn describe_consumer(&self, group: &str) -> Result<Option<DescribedConsumerGroup>, GroupError> {
        let group_id = group.to_owned();
        let operation = move |context: &mut Context| {
            context.shard.describe_consumer(&group_id, &(context.cluster.config_of)(&group_id))
        };
        self.call(group, operation).await
    }

    /// What holds for this group: the broker's configs, or the group's own.
    fn consumer_config(&self, group: &str) -> ConsumerConfig {
        self.shared.config.consumer.with_overrides(&self.shared.placement.group_configs(group))
    }

    pub async fn leave(
        &self,
        group: &str,
        leaving: Vec<LeavingMember>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group_id = group.to_owned();
        let operation = move |context: &mut Context| {
            context.shard.leave(&group_id, &leaving, context.cluster.view, context.now, context.output)
        };
        self.call(group, operation).await
    }

    pub async fn commit(&self, group: &str, request: CommitRequest) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group_id = group.to_owned();
        let operation =
            move |context: &mut Context| context.shard.commit(&group_id, request, context.now, context.output);
        self.call(group, operation).await?
    }

    /// What `read` makes of the group's offsets; they are all durable when this returns. A group that does not exist has
    /// none. `member` and its epoch are checked where the client names them.
    pub async fn offsets<R: Send + 'static>(
        &self,
        group: &str,
        member: Option<String>,
        member_epoch: i32,
        read: impl FnOnce(&GroupOffsets) -> R + Send + 'static,
    ) -> Result<R, GroupError> {
        let group_id = group.to_owned();
        let none = GroupOffsets::default();
        let operation = move |context: &mut Context| {
            context.shard.check_fetch(&group_id, member.as_deref(), member_epoch)?;
            Ok(read(context.shard.offsets(&group_id).unwrap_or(&none)))
        };
        self.call(group, operation).await?
    }

    pub async fn delete_group(&self, group: &str) -> Result<(), GroupError> {
        let group_id = group.to_owned();
        self.call(group, move |context| context.shard.delete_group(&group_id, context.output)).await?
    }

    pub async fn delete_offsets(
        &self,
        group: &str,
        offsets: Vec<(String, i32)>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let group_id = group.to_owned();
        let operation = move |context: &mut Context| context.shard.delete_offsets(&group_id, &offsets, context.output);
        self.call(group, operation).await?
    }

    /// None: there is no such group.
    pub async fn describe(&self, group: &str) -> Result<Option<DescribedGroup>, GroupError> {
        let group_id = group.to_owned();
        self.call(group, move |context| context.shard.describe(&group_id)).await
    }

    /// The groups of every partition that this broker leads.
    pub async fn list(&self) -> Result<Vec<ListedGroup>, GroupError> {
        let partitions: Vec<i32> = self.read(|shards| shards.keys().copied().collect());
        let mut groups = Vec::new();
        for partition in partitions {
            match self.call_partition(partition, |context| context.shard.list()).await {
                Ok(listed) => groups.extend(listed),
                // It moved away just now: its groups are the next broker's to list.
                Err(GroupError::NotCoordinator) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(groups)
    }

    /// Runs until `stopping`: starts and stops the partitions' tasks as metadata gives and takes leadership. From
    /// `draining` on no request is parked any more, so that a drain need not wait for a rebalance.
    pub async fn follow(&self, draining: CancellationToken, stopping: CancellationToken) {
        loop {
            self.follow_once().await;
            let drain = async {
                if self.shared.draining.load(Ordering::Relaxed) {
                    return std::future::pending().await;
                }
                draining.cancelled().await;
            };
            tokio::select! {
                () = stopping.cancelled() => break,
                () = drain => self.release_parked().await,
                () = self.shared.placement.changed() => {}
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            }
        }
        self.stop_where(|_, _| true).await;
    }

    /// Those who are parked come again, to the broker that serves them next.
    async fn release_parked(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        for partition in self.read(|shards| shards.keys().copied().collect::<Vec<_>>()) {
            let release = |context: &mut Context| context.parked.close();
            // An error means that the task is gone, and its parked requests with it.
            let _ = self.call_partition(partition, release).await;
        }
    }

    async fn follow_once(&self) {
        let led: BTreeMap<i32, i32> = self.shared.placement.led().into_iter().collect();
        // A task that panicked has lost its state but not the log: it is started anew.
        self.stop_where(|partition, shard| {
            let dead = !matches!(shard.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
            dead || led.get(&partition) != Some(&shard.leader_epoch)
        })
        .await;
        for (partition, leader_epoch) in led {
            if !self.read(|shards| shards.contains_key(&partition)) {
                self.start(partition, leader_epoch);
            }
        }
    }

    fn start(&self, partition: i32, leader_epoch: i32) {
        let stop = CancellationToken::new();
        let (end, ended) = oneshot::channel();
        let shard = Shard { leader_epoch, stop: stop.clone(), ended, operations: None };
        self.write(|shards| shards.insert(partition, shard));
        let coordinator = self.clone();
        // Not by `Tasks`: these come and go with leadership, and `follow`, which the broker watches, watches them.
        tokio::spawn(async move {
            shard_task::supervise(&coordinator, partition, leader_epoch, stop).await;
            let _ = end.send(());
        });
    }

    /// Stops tasks and waits for them, so that there never are two of one partition.
    async fn stop_where(&self, mut gone: impl FnMut(i32, &mut Shard) -> bool) {
        let stopped: Vec<(i32, Shard)> =
            self.write(|shards| shards.extract_if(.., |partition, shard| gone(*partition, shard)).collect());
        for (partition, shard) in stopped {
            shard.stop.cancel();
            drop(shard.operations);
            let _ = shard.ended.await;
            debug!(partition, leader_epoch = shard.leader_epoch, "groups unloaded");
        }
    }

    /// Announces that the partition's groups can be asked (or, with None, that they cannot now).
    fn serve(&self, partition: i32, leader_epoch: i32, operations: Option<mpsc::Sender<Operation>>) {
        self.write(|shards| {
            if let Some(shard) = shards.get_mut(&partition).filter(|shard| shard.leader_epoch == leader_epoch) {
                shard.operations = operations;
            }
        });
    }

    /// An operation with an answer of its own.
    async fn call<R: Send + 'static>(
        &self,
        group: &str,
        operation: impl FnOnce(&mut Context) -> R + Send + 'static,
    ) -> Result<R, GroupError> {
        self.call_partition(self.partition_of(group)?, operation).await
    }

    async fn call_partition<R: Send + 'static>(
        &self,
        partition: i32,
        operation: impl FnOnce(&mut Context) -> R + Send + 'static,
    ) -> Result<R, GroupError> {
        let (answer, answered) = oneshot::channel();
        let operation = move |context: &mut Context| -> Delivery {
            let result = operation(context);
            Box::new(move || drop(answer.send(result)))
        };
        self.send(partition, Box::new(operation)).await?;
        answered.await.map_err(|_| GroupError::NotCoordinator)
    }

    /// An operation that is answered through the parked requests.
    async fn ask(&self, group: &str, operation: impl FnOnce(&mut Context) + Send + 'static) -> Result<(), GroupError> {
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(GroupError::NotCoordinator);
        }
        let operation = move |context: &mut Context| -> Delivery {
            operation(context);
            Box::new(|| {})
        };
        self.send(self.partition_of(group)?, Box::new(operation)).await
    }

    async fn send(&self, partition: i32, operation: Operation) -> Result<(), GroupError> {
        let queue = self.read(|shards| match shards.get(&partition) {
            None => Err(GroupError::NotCoordinator),
            Some(shard) => shard.operations.clone().ok_or(GroupError::CoordinatorLoadInProgress),
        })?;
        queue.send(operation).await.map_err(|_| GroupError::NotCoordinator)
    }

    fn partition_of(&self, group: &str) -> Result<i32, GroupError> {
        let partitions = self.partitions().ok_or(GroupError::NotCoordinator)?;
        Ok(partition_for(group, partitions))
    }

    fn request_id(&self) -> RequestId {
        RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed))
    }

    fn now(&self) -> Now {
        let monotonic = self.shared.clock.instant().saturating_duration_since(self.shared.origin);
        Now { monotonic_ms: monotonic.as_millis() as u64, wall_ms: self.shared.clock.now_ms() }
    }

    fn instant_of(&self, monotonic_ms: u64) -> Instant {
        self.shared.origin + Duration::from_millis(monotonic_ms)
    }

    fn new_shard(&self) -> GroupShard {
        GroupShard::new(self.shared.config.clone())
    }

    /// The shard's log has been read.
    fn finish_load(&self, shard: &mut GroupShard, output: &mut Output) {
        let view = self.shared.placement.view();
        let cluster = Surroundings { view: &view, config_of: &|group| self.consumer_config(group) };
        shard.loaded(cluster, self.now(), output);
    }

    fn read<R>(&self, read: impl FnOnce(&BTreeMap<i32, Shard>) -> R) -> R {
        read(&self.shared.shards.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<R>(&self, write: impl FnOnce(&mut BTreeMap<i32, Shard>) -> R) -> R {
        write(&mut self.shared.shards.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The partition of `__consumer_offsets` that holds a group, as Kafka computes it.
pub fn partition_for(group: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    // The smallest i32 has no absolute value; Kafka takes 0.
    java_hash(group).checked_abs().unwrap_or(0) % partitions
}

/// Java's `String.hashCode`: over UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests;
