//! What handlers see: the parts of a running broker.

use std::sync::Arc;

use seawall_metadata::{ClusterId, MetadataHandle, Registration, state::BrokerState};

use crate::{
    answer_memory::AnswerMemory, backup::BackupView, client_telemetry::Subscriptions, clock::Clock,
    cluster_id::kafka_text, compaction::CompactionCounters, config::Config, config_values::TopicConfigs,
    group_coordinator::GroupCoordinator, handlers::fetch::Fetches, log_cleaner::LogCleaner, metrics::Metrics,
    object_deletion::DeletionCounters, object_storage::Uploads, partitions::Partitions, producer_ids::ProducerIds,
    quotas::Quotas, read_path::ReadPath, request_memory::RequestMemory, store::Store, task::Tasks,
    wal_passports::WalPassports,
};

/// A running broker. Shared as `Arc<Broker>`.
pub struct Broker {
    pub config: Config,
    pub cluster: ClusterId,
    /// Node id and broker epoch, which every command of this broker names.
    pub registration: Registration,
    /// What clients are told to connect to.
    pub endpoint: Endpoint,
    pub metadata: MetadataHandle,
    /// The partitions that this broker leads.
    pub partitions: Partitions,
    /// What is known of the devices that its WALs lie on.
    pub passports: Arc<WalPassports>,
    /// The way to read them.
    pub reads: Arc<ReadPath>,
    pub uploads: Uploads,
    pub backup: Arc<BackupView>,
    pub deletion: Arc<DeletionCounters>,
    pub log_cleaner: Arc<LogCleaner>,
    pub compaction: Arc<CompactionCounters>,
    pub fetches: Fetches,
    pub store: Store,
    pub topic_configs: TopicConfigs,
    pub producer_ids: ProducerIds,
    pub groups: GroupCoordinator,
    pub request_memory: RequestMemory,
    /// For all answers but those of fetches.
    pub answers: AnswerMemory,
    pub quotas: Quotas,
    pub telemetry: Subscriptions,
    pub clock: Clock,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

/// A host and port as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// The name of the listener that clients use.
pub const CLIENT_LISTENER: &str = "PLAINTEXT";

impl Broker {
    /// The cluster's id as Kafka's tools show it.
    pub fn cluster_text(&self) -> String {
        kafka_text(self.cluster.0)
    }
}

/// Where clients reach a broker, if it listens for them.
pub fn endpoint_of(broker: &BrokerState) -> Option<Endpoint> {
    let listener = broker.listeners.iter().find(|listener| listener.name == CLIENT_LISTENER)?;
    Some(Endpoint { host: listener.host.clone(), port: listener.port })
}
