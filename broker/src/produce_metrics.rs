//! What Produce counts: batches and bytes appended, repeats recognised, refusals by error code, and two waits.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use seawall_protocol::ErrorCode;

use crate::metrics::Part;

/// Handles; cheap to clone.
#[derive(Debug, Clone)]
pub struct ProduceMetrics {
    pub batches: Counter,
    pub batch_bytes: Counter,
    pub duplicates: Counter,
    pub refused: Family<ErrorLabel, Counter>,
    pub durable_seconds: Histogram,
    pub space_wait_seconds: Histogram,
    pub throttled: Counter,
    pub throttle_seconds: Counter<f64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabel {
    /// Kafka's name of the code.
    pub error: &'static str,
}

impl ProduceMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let mut part = Part::new(registry, "produce");
        let metrics = Self {
            batches: part.metric("batches", "Record batches that clients appended"),
            batch_bytes: part.bytes("batch", "Bytes of the record batches that clients appended"),
            duplicates: part.metric(
                "duplicate_batches",
                "Batches that were recognised as repeats and answered with the original offsets",
            ),
            refused: part.metric("refused_batches", "Batches that were answered with an error, by code"),
            durable_seconds: part
                .durations("durable", "From the append of a request's batches until the last was durable"),
            space_wait_seconds: part
                .durations("space_wait", "How long producers were held back because the WAL was full, where they were"),
            throttled: part
                .metric("throttled", "Requests whose clients were told to wait because a WAL was above its soft limit"),
            throttle_seconds: part
                .seconds("throttle", "Time for which clients were told to wait because a WAL was above its soft limit"),
        };
        // An alert counts its increase, and a series that begins with the first refusals has none.
        let refused_by_storage = ErrorLabel { error: ErrorCode::KafkaStorageError.name() };
        drop(metrics.refused.get_or_create(&refused_by_storage));
        metrics
    }
}
