//! Where `__consumer_offsets` lies, from metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_metadata::{MetadataHandle, NodeId, State, TopicId};
use tokio::time::Instant;
use uuid::Uuid;

use super::{BoxFuture, GroupLog, Placement};
use crate::clock::Clock;
use crate::topics::GROUP_METADATA_TOPIC;

pub struct MetadataPlacement {
    metadata: MetadataHandle,
    node: NodeId,
    clock: Clock,
    /// Metadata's topology index that `led` last saw.
    seen: AtomicU64,
    started_ms: i64,
    started: Instant,
}

impl MetadataPlacement {
    pub fn new(metadata: MetadataHandle, node: NodeId, clock: Clock) -> Self {
        let (started_ms, started) = (clock.now_ms(), clock.instant());
        Self { metadata, node, clock, seen: AtomicU64::new(0), started_ms, started }
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

    fn log(&self, _partition: i32, _leader_epoch: i32) -> Option<Arc<dyn GroupLog>> {
        None
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

    fn retention_time_ms(&self) -> i64 {
        let elapsed_ms = self.started.elapsed().as_millis() as i64;
        self.clock.now_ms().min(self.started_ms.saturating_add(elapsed_ms))
    }

    fn may_answer(&self) -> bool {
        true
    }
}
