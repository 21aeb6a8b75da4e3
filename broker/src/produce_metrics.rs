//! What Produce counts: batches and bytes appended, repeats recognised, refusals by error code, and two waits.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

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
        let seconds = || Histogram::new(exponential_buckets(0.0001, 2.0, 18));
        let metrics = Self {
            batches: Counter::default(),
            batch_bytes: Counter::default(),
            duplicates: Counter::default(),
            refused: Family::default(),
            durable_seconds: seconds(),
            space_wait_seconds: seconds(),
            throttled: Counter::default(),
            throttle_seconds: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("produce");
        registry.register("batches", "Record batches that clients appended", metrics.batches.clone());
        registry.register_with_unit(
            "batch",
            "Bytes of the record batches that clients appended",
            Unit::Bytes,
            metrics.batch_bytes.clone(),
        );
        registry.register(
            "duplicate_batches",
            "Batches that were recognised as repeats and answered with the original offsets",
            metrics.duplicates.clone(),
        );
        registry.register(
            "refused_batches",
            "Batches that were answered with an error, by code",
            metrics.refused.clone(),
        );
        registry.register_with_unit(
            "durable",
            "From the append of a request's batches until the last was durable",
            Unit::Seconds,
            metrics.durable_seconds.clone(),
        );
        registry.register_with_unit(
            "space_wait",
            "How long producers were held back because the WAL was full, where they were",
            Unit::Seconds,
            metrics.space_wait_seconds.clone(),
        );
        registry.register(
            "throttled",
            "Requests whose clients were told to wait because a WAL was above its soft limit",
            metrics.throttled.clone(),
        );
        registry.register_with_unit(
            "throttle",
            "Time for which clients were told to wait because a WAL was above its soft limit",
            Unit::Seconds,
            metrics.throttle_seconds.clone(),
        );
        metrics
    }
}
