//! What the coordinator counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::Part;

#[derive(Debug, Clone, Default)]
pub struct GroupMetrics {
    pub(super) partitions: Gauge,
    pub(super) groups: Gauge,
    pub(super) bytes: Gauge,
    pub(super) operations: Counter,
    pub(super) records: Counter,
    pub(super) assignments: Counter,
    pub(super) expired_records: Counter,
    pub(super) unloads: Counter,
}

impl GroupMetrics {
    /// Memory of groups and offsets, about.
    pub fn memory_bytes(&self) -> u64 {
        self.bytes.get().unsigned_abs()
    }

    pub fn register(registry: &mut Registry) -> Self {
        let mut part = Part::new(registry, "groups");
        Self {
            partitions: part.metric("partitions", "Partitions of __consumer_offsets whose groups are served"),
            groups: part.metric("held", "Groups in memory"),
            bytes: part.bytes("memory", "Memory of groups and offsets, about"),
            operations: part.metric("operations", "Requests that reached a group"),
            records: part.metric("records", "Records appended to __consumer_offsets"),
            assignments: part
                .metric("target_assignments", "Target assignments computed for groups under the consumer protocol"),
            expired_records: part.metric("expired_records", "Offsets and groups deleted by retention"),
            unloads: part.metric("unloads", "Times that a partition's groups were dropped to be read again"),
        }
    }
}
