//! What the coordinator counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

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
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let groups = registry.sub_registry_with_prefix("groups");
        groups.register("partitions", "Partitions of __consumer_offsets whose groups are served", m.partitions.clone());
        groups.register("held", "Groups in memory", m.groups.clone());
        groups.register_with_unit("memory", "Memory of groups and offsets, about", Unit::Bytes, m.bytes.clone());
        groups.register("operations", "Requests that reached a group", m.operations.clone());
        groups.register("records", "Records appended to __consumer_offsets", m.records.clone());
        groups.register(
            "target_assignments",
            "Target assignments computed for groups under the consumer protocol",
            m.assignments.clone(),
        );
        groups.register("expired_records", "Offsets and groups deleted by retention", m.expired_records.clone());
        groups.register("unloads", "Times that a partition's groups were dropped to be read again", m.unloads.clone());
        m
    }
}
