//! The Kafka-compatible broker: listeners, handlers, partitions, storage engine, group coordinator, admin HTTP, CLI.
//!
//! The flow of a request reads from the top of this list: connection, dispatch, handler, partition, WAL, upload, object.

pub mod backend_cli;
pub mod banner;
pub mod cli;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod node;
pub mod object_cli;
pub mod restore;
pub mod restore_cli;
pub mod scrub_cli;

pub mod answer_memory;
pub mod budget;
pub mod concurrently;
pub mod connection;
pub mod dispatch;
pub mod error_code;
pub mod frame_reader;
pub mod frame_writer;
pub mod handlers;
pub mod repetition;
pub mod request_memory;
pub mod server;

pub mod ack_class;
pub mod append_log;
pub mod backup;
pub mod batch_check;
pub mod commit_waits;
pub mod compaction;
pub mod compaction_plan;
pub mod completion;
pub mod dirty_marks;
pub mod fair_share;
pub mod incarnation_watch;
pub mod log_cache;
pub mod memory_log;
pub mod object_check;
pub mod object_deletion;
pub mod object_format;
pub mod object_key;
pub mod partition;
pub mod partition_log;
pub mod partitions;
pub mod producer_state;
pub mod storage;
pub mod storage_engine;
#[cfg(test)]
mod storage_tests;
pub mod store;
pub mod store_marker;
pub mod store_probe;
pub mod upload;
pub mod upload_pace;
pub mod upload_plan;
pub mod wal_alarms;
pub mod wal_cli;
pub mod wal_legs;
pub(crate) mod wal_metrics;
pub mod wal_opening;
pub mod wal_registration;
pub mod wal_replace;
pub mod wal_watch;

pub mod block_cache;
pub mod fetch_session;
pub mod gather;
pub mod object_producers;
pub mod object_reader;
pub mod object_storage;
pub mod read_path;
pub mod readahead;
pub mod time_lookup;
pub mod wal_read_back;

pub mod recovery;
pub mod retention;
pub mod scrub;

pub mod log_cleaner;
pub mod log_compaction;

pub mod assignor;
pub mod consumer_group;
pub mod group;
pub mod group_coordinator;
pub mod group_records;
pub mod group_shard;
pub mod offsets;

pub mod admin;
pub mod authorized_operations;
pub mod broker;
pub mod broker_loggers;
pub mod broker_settings;
pub mod client_metrics_configs;
pub mod client_telemetry;
pub mod clock;
pub mod cluster_id;
pub mod config_def;
pub mod config_resource;
pub mod config_values;
pub mod dynamic_broker_configs;
pub mod faults;
pub mod group_configs;
pub mod kafka_configs;
pub mod kafka_features;
pub mod limits;
pub mod logging;
pub mod merge_plan;
pub mod metrics;
pub mod produce_metrics;
pub mod producer_ids;
pub mod quota_meter;
pub mod quota_meters;
pub mod quota_table;
pub mod quotas;
pub mod state_report;
pub mod storage_metrics;
pub mod task;
pub mod throttle;
pub mod topic_config;
pub mod topics;
pub mod units;
