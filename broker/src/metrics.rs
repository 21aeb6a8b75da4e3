//! Every metric of the broker: its name with the unit in it, its help text, and the cached handle that counts.
//!
//! Handles are clones of atomics, so counting costs nanoseconds and needs no lookup. A part's metrics are a struct
//! of their own, registered through [`Part`].

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry, Unit},
};

use crate::{group_coordinator::GroupMetrics, produce_metrics::ProduceMetrics, upload::UploadMetrics};

/// All handles; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<std::sync::Mutex<Registry>>,
    pub network: NetworkMetrics,
    pub produce: ProduceMetrics,
    pub upload: UploadMetrics,
    pub groups: GroupMetrics,
    pub task_panics: Counter,
}

#[derive(Debug, Clone)]
pub struct NetworkMetrics {
    pub connections: Gauge,
    pub connections_accepted: Counter,
    pub connections_refused: Family<ReasonLabel, Counter>,
    pub connections_closed: Family<ReasonLabel, Counter>,
    pub request_bytes: Counter,
    pub response_bytes: Counter,
    pub request_buffer_bytes: Gauge,
    pub requests: Family<ApiLabel, Counter>,
    pub request_seconds: Family<ApiLabel, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabel {
    pub api: &'static str,
}

impl Metrics {
    #[allow(clippy::new_without_default, reason = "a registry is built once, on purpose")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("seawall");
        let task_panics = Counter::default();
        registry.register("task_panics", "Tasks that ended in a panic", task_panics.clone());
        let network = NetworkMetrics::register(&mut registry);
        let produce = ProduceMetrics::register(&mut registry);
        let upload = UploadMetrics::register(&mut registry);
        let groups = GroupMetrics::register(&mut registry);
        Self { registry: Arc::new(std::sync::Mutex::new(registry)), network, produce, upload, groups, task_panics }
    }

    /// Lets a part register its own handles.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The Prometheus (OpenMetrics) text of all metrics.
    pub fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing into a String cannot fail; a metric that cannot be written is left out.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

impl NetworkMetrics {
    fn register(registry: &mut Registry) -> Self {
        let mut part = Part::new(registry, "network");
        Self {
            connections: part.metric("connections", "Open client connections"),
            connections_accepted: part.metric("connections_accepted", "Client connections accepted since start"),
            connections_refused: part
                .metric("connections_refused", "Client connections closed at once, by the limit they met"),
            connections_closed: part.metric("connections_closed", "Client connections that ended, by reason"),
            request_bytes: part.bytes("request", "Bytes of request frames received"),
            response_bytes: part.bytes("response", "Bytes of response frames sent"),
            request_buffer_bytes: part
                .bytes("request_buffer", "Bytes of memory held by requests that are being received or handled"),
            requests: part.metric("requests", "Requests handled, by API"),
            request_seconds: part
                .durations_by("request_duration", "Time from a whole request to its response being ready, by API"),
        }
    }
}

/// The metrics of one part of the broker, under its prefix. Each is named where it is made.
pub struct Part<'a> {
    registry: &'a mut Registry,
}

impl<'a> Part<'a> {
    pub fn new(registry: &'a mut Registry, prefix: &str) -> Self {
        Self { registry: registry.sub_registry_with_prefix(prefix) }
    }

    pub fn metric<M: Metric + Default + Clone>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.registry.register(name, help, Described(metric.clone()));
        metric
    }

    /// The name gets `_bytes`.
    pub fn bytes<M: Metric + Default + Clone>(&mut self, name: &str, help: &str) -> M {
        self.with_unit(name, help, Unit::Bytes, M::default())
    }

    /// The name gets `_seconds`.
    pub fn seconds<M: Metric + Default + Clone>(&mut self, name: &str, help: &str) -> M {
        self.with_unit(name, help, Unit::Seconds, M::default())
    }

    /// How long something took, in seconds.
    pub fn durations(&mut self, name: &str, help: &str) -> Histogram {
        self.with_unit(name, help, Unit::Seconds, duration_buckets())
    }

    /// The same by labels.
    pub fn durations_by<L>(&mut self, name: &str, help: &str) -> Family<L, Histogram, fn() -> Histogram>
    where
        Family<L, Histogram, fn() -> Histogram>: Metric,
        L: Clone + std::hash::Hash + Eq,
    {
        self.with_unit(name, help, Unit::Seconds, Family::new_with_constructor(duration_buckets))
    }

    fn with_unit<M: Metric + Clone>(&mut self, name: &str, help: &str, unit: Unit, metric: M) -> M {
        self.registry.register_with_unit(name, help, unit, Described(metric.clone()));
        metric
    }
}

/// Is described even while it has no value: what there is to watch is seen before it happens.
#[derive(Debug)]
struct Described<M>(M);

impl<M: EncodeMetric> EncodeMetric for Described<M> {
    fn encode(&self, encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}

/// From a tenth of a millisecond to 13 s.
fn duration_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_units() {
        let metrics = Metrics::new();
        metrics.network.request_bytes.inc_by(3);
        metrics.network.requests.get_or_create(&ApiLabel { api: "Produce" }).inc();
        let text = metrics.encode();
        assert!(text.contains("seawall_network_request_bytes_total 3"), "{text}");
        assert!(text.contains("seawall_network_requests_total{api=\"Produce\"} 1"), "{text}");
    }
}
