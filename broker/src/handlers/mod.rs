//! One file per Kafka API. A handler is the line from a decoded request to a response and nothing else:
//! `pub async fn handle(broker: &Arc<Broker>, ctx: &RequestContext, request, version) -> Response`.
//! Decoding and encoding are `dispatch.rs`'s, error codes are `error_code.rs`'s.

pub mod api_versions;
pub mod metadata;

pub mod delete_records;
pub mod fetch;
mod leaders;
pub mod list_offsets;
pub mod offset_for_leader_epoch;
pub mod produce;

pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_topic_partitions;

pub mod alter_configs;
pub mod describe_cluster;
pub mod describe_configs;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod list_config_resources;

pub mod alter_client_quotas;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
pub mod describe_client_quotas;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_transactions;
pub mod elect_leaders;
pub mod get_telemetry_subscriptions;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod push_telemetry;
pub mod unregister_broker;
pub mod update_features;

pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod delete_groups;
pub mod describe_groups;
pub mod find_coordinator;
pub mod heartbeat;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod sync_group;

pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
