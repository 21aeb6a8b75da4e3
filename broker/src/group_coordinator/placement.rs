//! Where `__consumer_offsets` lies, from metadata, and its log, which is a partition like any other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use seawall_metadata::state::TopicState;
use seawall_metadata::{MetadataHandle, NodeId, State, TopicId};
use seawall_protocol::records::BatchHeader;
use tokio::time::Instant;
use uuid::Uuid;

use super::{BoxFuture, GroupLog, LogError, Placement};
use crate::clock::Clock;
use crate::consumer_group::{ClusterView, Topic};
use crate::group_configs;
use crate::partition::{AppendError, Origin, Partition};
use crate::partitions::Partitions;
use crate::read_path::{Isolation, ReadError, ReadPath};
use crate::topics::GROUP_METADATA_TOPIC;

pub struct MetadataPlacement {
    metadata: MetadataHandle,
    node: NodeId,
    partitions: Partitions,
    reads: Arc<ReadPath>,
    clock: Clock,
    /// Metadata's topology index that `led` last saw.
    seen: AtomicU64,
    /// Of the newest topology that anybody asked for.
    view: Mutex<Arc<ClusterView>>,
    started_ms: i64,
    started: Instant,
}

impl MetadataPlacement {
    pub fn new(
        metadata: MetadataHandle,
        node: NodeId,
        partitions: Partitions,
        reads: Arc<ReadPath>,
        clock: Clock,
    ) -> Self {
        let (started_ms, started) = (clock.now_ms(), clock.instant());
        let (seen, view) = (AtomicU64::new(0), Mutex::default());
        Self { metadata, node, partitions, reads, clock, seen, view, started_ms, started }
    }
}

impl Placement for MetadataPlacement {
    fn partitions(&self) -> Option<i32> {
        self.metadata.read(|state| state.topic_by_name(GROUP_METADATA_TOPIC).map(|topic| topic.partitions))
    }

    fn led(&self) -> Vec<(i32, i32)> {
        self.metadata.read(|state| {
            self.seen.store(state.topology_index(), Ordering::Relaxed);
            let Some(topic) = state.topic_by_name(GROUP_METADATA_TOPIC) else { return Vec::new() };
            let owned = state.partitions_of(topic.id).filter(|partition| partition.owner == self.node);
            owned.map(|partition| (partition.id.index, partition.leader_epoch.0)).collect()
        })
    }

    fn log(&self, partition: i32, leader_epoch: i32) -> Option<Arc<dyn GroupLog>> {
        let partition = self.partitions.by_name(GROUP_METADATA_TOPIC, partition).ok()?;
        (partition.leader_epoch() == leader_epoch).then(|| {
            let reads = self.reads.clone();
            Arc::new(PartitionLog { partition, reads, leader_epoch }) as Arc<dyn GroupLog>
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut applied = self.metadata.watch();
            while self.metadata.read(State::topology_index) == self.seen.load(Ordering::Relaxed) {
                if applied.changed().await.is_err() {
                    // The node has stopped; whoever asks is about to be stopped too.
                    return std::future::pending().await;
                }
            }
        })
    }

    fn topic_is(&self, name: &str, id: Uuid) -> bool {
        self.metadata
            .read(|state| state.topic_by_name(name).is_some_and(|topic| id.is_nil() || topic.id == TopicId(id)))
    }

    fn view(&self) -> Arc<ClusterView> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        self.metadata.read(|state| {
            if view.version() != state.topology_index() {
                let topic =
                    |topic: &TopicState| (topic.name.clone(), Topic { id: topic.id.0, partitions: topic.partitions });
                *view = Arc::new(ClusterView::new(state.topology_index(), state.topics().map(topic)));
            }
        });
        view.clone()
    }

    fn group_configs(&self, group: &str) -> BTreeMap<String, String> {
        self.metadata.read(|state| group_configs::set(state, self.node, group))
    }

    fn retention_time_ms(&self) -> i64 {
        let elapsed_ms = self.started.elapsed().as_millis() as i64;
        self.clock.now_ms().min(self.started_ms.saturating_add(elapsed_ms))
    }

    fn may_answer(&self) -> bool {
        self.partitions.storage().lease_valid()
    }
}

struct PartitionLog {
    partition: Arc<Partition>,
    reads: Arc<ReadPath>,
    /// The epoch whose state the coordinator holds; under another one its records must not be appended.
    leader_epoch: i32,
}

impl GroupLog for PartitionLog {
    fn append(&self, batch: Bytes) -> Result<BoxFuture<'static, Result<(), LogError>>, LogError> {
        let header = BatchHeader::parse(&batch).expect("a batch that we built");
        let origin = Origin::Coordinator { expected_leader_epoch: self.leader_epoch };
        let pending = self.partition.append(batch, header, origin).map_err(log_error)?;
        Ok(Box::pin(async move { pending.durable().await.map_err(log_error) }))
    }

    fn read(&self, from: i64, bytes_max: usize) -> BoxFuture<'_, Result<(Vec<Bytes>, i64), LogError>> {
        Box::pin(async move {
            let read = self.reads.read(&self.partition, from, bytes_max, Isolation::ReadUncommitted, true).await;
            match read {
                Ok(fetched) if fetched.records.is_empty() => Ok((Vec::new(), fetched.next_offset)),
                Ok(fetched) => Ok((vec![fetched.records.to_bytes()], fetched.next_offset)),
                // Retention moved the start: whoever reads asks where the log begins now.
                Err(ReadError::OffsetOutOfRange { .. }) => Ok((Vec::new(), from)),
                Err(error) => Err(LogError::Failed(error.to_string())),
            }
        })
    }

    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.partition.append_log().batch_bytes_max()).unwrap_or(usize::MAX)
    }

    fn log_start(&self) -> i64 {
        self.partition.offsets().log_start
    }

    fn log_end(&self) -> i64 {
        self.partition.offsets().log_end
    }
}

fn log_error(error: AppendError) -> LogError {
    match error {
        AppendError::WalFull | AppendError::TooFarAhead => LogError::Full,
        other => LogError::Failed(other.to_string()),
    }
}
