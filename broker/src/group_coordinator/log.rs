//! What the coordinator needs of the rest of the broker: where `__consumer_offsets` is led, and its log.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::consumer_group::ClusterView;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who leads what, as metadata says.
pub trait Placement: Send + Sync + 'static {
    /// Partitions of `__consumer_offsets`; None while the topic does not exist.
    fn partitions(&self) -> Option<i32>;
    /// The partitions that this broker leads, with their leader epochs.
    fn led(&self) -> Vec<(i32, i32)>;
    /// The log of a partition that this broker leads in that epoch; None while it is not open, or not any more.
    fn log(&self, partition: i32, leader_epoch: i32) -> Option<Arc<dyn GroupLog>>;
    /// Resolves when `led` may answer differently. May resolve too often.
    fn changed(&self) -> BoxFuture<'_, ()>;
    /// Is `name` still the topic with this id? A nil id stands for any.
    fn topic_is(&self, name: &str, id: Uuid) -> bool;
    /// The topics that there are.
    fn view(&self) -> Arc<ClusterView>;
    /// What is set for this group alone.
    fn group_configs(&self, group: &str) -> BTreeMap<String, String>;
    /// Time for retention in Unix milliseconds: no later than the wall clock, and not moved by its jumps.
    fn retention_time_ms(&self) -> i64;
    /// Whether the lease allows an answer now.
    fn may_answer(&self) -> bool;
}

/// The log of one partition, under one leader epoch.
pub trait GroupLog: Send + Sync + 'static {
    /// Queues a whole batch; the order of calls is the order in the log. An error means that nothing was queued. The
    /// future resolves when the batch is durable; its error leaves the outcome unknown.
    fn append(&self, batch: Bytes) -> Result<BoxFuture<'static, Result<(), LogError>>, LogError>;
    /// Whole batches from the one that holds `from` on, about `bytes_max` of them but at least one; none at the high
    /// watermark. And where the next read begins, which is beyond `from` where no batch has these offsets.
    fn read(&self, from: i64, bytes_max: usize) -> BoxFuture<'_, Result<(Vec<Bytes>, i64), LogError>>;
    /// No larger batch is taken.
    fn batch_bytes_max(&self) -> usize;
    fn log_start(&self) -> i64;
    /// One past the last batch queued so far, durable or not.
    fn log_end(&self) -> i64;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Nothing happened; try again soon.
    #[error("no room in the log now")]
    Full,
    /// The log is not this coordinator's any more, or cannot be trusted.
    #[error("{0}")]
    Failed(String),
}
