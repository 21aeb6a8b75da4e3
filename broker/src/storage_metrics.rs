//! Metrics that are read from the parts at each scrape: WALs, caches, answers, object store, partitions, metadata.
//!
//! The parts keep their own totals; this names them (`wal_metrics.rs` those of WALs). Nothing here is on the path of a request.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use seawall_backends::observed::{ERROR_KINDS, LATENCY_BUCKETS_US, Snapshot};
use tokio::time::Instant;

use crate::{
    answer_memory::AnswerMemoryUsage, broker::Broker, handlers::describe_log_dirs::disk_space, limits, store::STATES,
    wal_metrics,
};

/// Shows a broker's parts for as long as the broker lives.
pub fn register(broker: &Arc<Broker>) {
    let began = Began { wall_ms: broker.clock.now_ms(), at: broker.clock.instant() };
    let collector = BrokerCollector { broker: Arc::downgrade(broker), began };
    broker.metrics.register(|registry| registry.register_collector(Box::new(collector)));
}

struct BrokerCollector {
    broker: Weak<Broker>,
    began: Began,
}

/// Both clocks at one moment.
struct Began {
    wall_ms: i64,
    at: Instant,
}

impl fmt::Debug for BrokerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BrokerCollector")
    }
}

impl Collector for BrokerCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let Some(broker) = self.broker.upgrade() else { return Ok(()) };
        let mut out = Out { encoder };
        limits::encode(&broker, &mut out)?;
        wal_metrics::encode(&broker, &mut out)?;
        caches(&broker, &mut out)?;
        memory_log(&broker, &mut out)?;
        answers(&broker, &mut out)?;
        store(&broker, &mut out)?;
        objects(&broker, &mut out)?;
        log_cleaner(&broker, &mut out)?;
        backup(&broker, &mut out)?;
        machine(&broker, &self.began, &mut out)?;
        cluster(&broker, &mut out)
    }
}

fn caches(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let log = broker.partitions.storage().cache.usage();
    out.gauge("log_cache", "Batches in memory", Some(Unit::Bytes), log.bytes)?;
    out.gauge(
        "log_cache_index",
        "Index of batches that are not uploaded or in memory",
        Some(Unit::Bytes),
        log.index_bytes,
    )?;
    out.gauge("log_cache_budget", "The most that batches in memory may take", Some(Unit::Bytes), log.budget_bytes)?;
    out.labelled(
        "log_cache_evicted_batches",
        "Batches dropped from memory since start; not uploaded ones are read back from the WAL",
        None,
        MetricType::Counter,
        [
            ([("uploaded", "no".to_owned())], log.evicted_uncommitted),
            ([("uploaded", "yes".to_owned())], log.evicted_committed),
        ],
    )?;
    let reader = broker.reads.reader().usage();
    out.gauge("block_cache", "Blocks of objects in memory", Some(Unit::Bytes), reader.blocks.bytes)?;
    out.gauge(
        "block_cache_budget",
        "The most that blocks in memory may take",
        Some(Unit::Bytes),
        reader.blocks.budget_bytes,
    )?;
    out.counter("block_cache_lookups", "Blocks asked for", reader.blocks.asked)?;
    out.counter("block_cache_misses", "Blocks that had to be read from the object store", reader.blocks.read)?;
    out.gauge("index_cache", "Indexes of objects in memory", Some(Unit::Bytes), reader.index_bytes)?;
    out.counter(
        "object_corrupt_reads",
        "Parts of objects whose checksum was wrong twice: never served",
        reader.corrupt,
    )?;
    out.counter("object_missing_reads", "Objects that metadata names and the store does not have", reader.not_found)?;
    let readahead = broker.reads.readahead_usage();
    out.bytes_counter("readahead", "Bytes read ahead of consumers", readahead.read_bytes)?;
    out.bytes_counter(
        "readahead_wasted",
        "Of those, what the cache let go of before it was asked for, or whose reader never came back",
        readahead.wasted_bytes,
    )?;
    let (sessions, partitions) = broker.fetches.session_usage();
    out.gauge("fetch_sessions", "Incremental fetch sessions", None, sessions as u64)?;
    out.gauge("fetch_session_partitions", "Partitions in fetch sessions", None, partitions as u64)
}

/// Of a broker without a WAL.
fn memory_log(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let usage = broker.partitions.memory_log().map(|log| log.usage());
    let mut gauge = |name, help, value| out.gauge_if_known(name, help, Some(Unit::Bytes), value);
    let help = "Without a WAL: batches that are not in the object store yet";
    gauge("memory_log_used", help, usage.as_ref().map(|usage| usage.used_bytes))?;
    let help = "Without a WAL: from here on producers are throttled";
    gauge("memory_log_soft_limit", help, usage.as_ref().map(|usage| usage.soft_bytes))?;
    gauge(
        "memory_log_limit",
        "Without a WAL: here producers are refused",
        usage.as_ref().map(|usage| usage.normal_bytes_max),
    )
}

fn answers(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let usages = [("fetch", broker.fetches.memory.usage()), ("other", broker.answers.usage())];
    let mut gauges = |name, help, unit, value: fn(&AnswerMemoryUsage) -> usize| {
        let values = usages.iter().map(|(kind, usage)| ([("answer", (*kind).to_owned())], value(usage) as u64));
        out.labelled(name, help, unit, MetricType::Gauge, values)
    };
    gauges("answer", "Answers that are built or written, small ones apart", Some(Unit::Bytes), |usage| usage.bytes)?;
    gauges("answer_budget", "The most that they should take", Some(Unit::Bytes), |usage| usage.budget_bytes)?;
    gauges("answers_waiting", "Requests that wait for room for their answer", None, |usage| usage.waiting)
}

fn store(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let snapshots = broker.store.counters.snapshot();
    let of = |value: fn(&Snapshot) -> u64| snapshots.iter().map(move |one| (labels(one), value(one)));
    out.labelled(
        "store_calls",
        "Calls to the object store that ended",
        None,
        MetricType::Counter,
        of(|one| one.calls),
    )?;
    out.labelled("store_calls_in_flight", "Calls under way", None, MetricType::Gauge, of(|one| one.in_flight))?;
    out.labelled("store_body", "Bytes stored or read", Some(Unit::Bytes), MetricType::Counter, of(|one| one.bytes))?;
    let errors = snapshots.iter().flat_map(|one| {
        let [operation, purpose] = labels(one);
        (ERROR_KINDS.iter().zip(one.errors))
            .chain([(&"no_answer", one.abandoned)])
            .filter(|(_, count)| *count > 0)
            .map(move |(kind, count)| ([operation.clone(), purpose.clone(), ("error", (*kind).to_owned())], count))
    });
    out.labelled("store_errors", "Calls that failed, by kind", None, MetricType::Counter, errors)?;
    let state = broker.store.state();
    out.labelled(
        "store_state",
        "1 for what is so: the store serves (ok), served nothing since a call failed (failing), has not been found fit since the start \
         and is not used yet (unprobed)",
        None,
        MetricType::Gauge,
        STATES.map(|one| ([("state", one.to_owned())], u64::from(one == state))),
    )?;
    let apart = broker.store.backend.clock_ahead_seconds().map(i64::unsigned_abs);
    let help = "How far this machine's clock and the store's are apart, where the store tells its time";
    out.gauge_if_known("store_clock_difference", help, Some(Unit::Seconds), apart)?;
    let usage = broker.store.limit.usage();
    out.gauge("store_waiting", "Calls that wait for a place", None, usage.waiting as u64)?;
    out.gauge(
        "store_places",
        "Calls that may be under way; fewer after the store has throttled",
        None,
        usage.places as u64,
    )?;
    let unit = Unit::Seconds;
    let mut encoder = out.encoder.encode_descriptor(
        "store_call_duration",
        "Time that calls took",
        Some(&unit),
        MetricType::Histogram,
    )?;
    for one in &snapshots {
        let labels = labels(one);
        let mut sum = 0;
        let mut buckets = Vec::with_capacity(one.latency_buckets.len());
        for (n, count) in one.latency_buckets.iter().enumerate() {
            sum += count;
            let bound = LATENCY_BUCKETS_US.get(n).map_or(f64::MAX, |us| *us as f64 / 1e6);
            buckets.push((bound, *count));
        }
        let seconds = one.latency_us_sum as f64 / 1e6;
        encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, sum, &buckets, None)?;
    }
    Ok(())
}

fn objects(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let (live, marked, reserved) = broker
        .metadata
        .read(|state| (state.object_count() - state.marked_count(), state.marked_count(), state.reservation_count()));
    out.labelled(
        "objects",
        "Objects of the cluster: used by streams (live), waiting for their deletion (marked), ids of uploads to come (reserved)",
        None,
        MetricType::Gauge,
        [("live", live), ("marked", marked), ("reserved", reserved)]
            .map(|(state, count)| ([("state", state.to_owned())], count as u64)),
    )?;
    let deletion = broker.deletion.status();
    out.counter("objects_deleted", "Objects deleted because nothing referred to them", deletion.deleted)?;
    out.counter(
        "object_delete_failures",
        "Deletes that the store did not confirm; they are repeated",
        deletion.failures,
    )?;
    out.counter(
        "object_delete_runs_refused",
        "Runs of deletes that did not begin because the store's marker is not this cluster's alone",
        deletion.refused_runs,
    )?;
    out.counter("object_parts_swept", "Objects that were begun in parts, left, and aborted", deletion.swept_parts)?;
    compaction(broker, out)
}

fn compaction(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let debt = broker.metadata.read(|state| state.uploaded_count());
    let help = "Ranges of streams that lie where an upload put them; those in large objects of one stream stay there";
    out.gauge("compaction_debt_ranges", help, None, debt as u64)?;
    let compaction = broker.compaction.status();
    let uploaded = broker.uploads.status().object_bytes_committed;
    out.counter("compaction_objects", "Objects made by compaction", compaction.objects)?;
    out.bytes_counter("compaction_written", "Bytes of objects made by compaction", compaction.object_bytes)?;
    out.bytes_counter("compaction_read", "Record bytes that compaction has read from objects", compaction.read_bytes)?;
    let help = "Bytes a second at which what was planned last is read and written";
    out.gauge("compaction_pace", help, Some(Unit::Bytes), compaction.rate)?;
    out.counter(
        "compaction_streams_refused",
        "Streams that had changed before their ranges could be replaced",
        compaction.streams_refused,
    )?;
    out.counter("compaction_failures", "Objects that compaction could not make and tries again", compaction.failures)?;
    let help = "Objects that the store has joined out of others";
    out.counter("compaction_merges", help, compaction.merges)?;
    let help = "Record bytes that the store has copied to join objects; none of them passed this broker";
    out.bytes_counter("compaction_merged", help, compaction.merged_bytes)?;
    let help = "1 while nothing is compacted, by key or otherwise, because the level of seawall.version is too low";
    out.gauge("compaction_waits_for_level", help, None, u64::from(compaction.waits_for.is_some()))?;
    // As far as this process has seen: what it uploaded before may be what it compacts.
    let amplification = if uploaded == 0 { 1.0 } else { 1.0 + compaction.object_bytes as f64 / uploaded as f64 };
    let help = "Bytes of objects stored for each byte of objects uploaded, since the start";
    let encoder = out.encoder.encode_descriptor("write_amplification_ratio", help, None, MetricType::Gauge)?;
    ConstGauge::new(amplification).encode(encoder)
}

fn labels(snapshot: &Snapshot) -> [(&'static str, String); 2] {
    [("operation", snapshot.operation.name().to_owned()), ("purpose", snapshot.purpose.name().to_owned())]
}

fn log_cleaner(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let cleaner = broker.log_cleaner.status().metrics();
    out.counter("log_cleaner_rounds", "Rounds over the log of a compacted topic that ended well", cleaner.rounds)?;
    out.counter("log_cleaner_failures", "Rounds that ended early", cleaner.failures)?;
    out.counter("log_cleaner_read_records", "Records that rounds went over", cleaner.records_read)?;
    out.counter("log_cleaner_kept_records", "Records of those that are left", cleaner.records_kept)?;
    out.counter("log_cleaner_read_bytes", "Record bytes read for log compaction", cleaner.bytes_read)?;
    out.counter("log_cleaner_written_bytes", "Bytes of objects that log compaction has put", cleaner.bytes_written)?;
    let round_ms = cleaner.round_us / 1_000;
    out.gauge("log_cleaner_last_round_milliseconds", "How long the last round took", None, round_ms)?;
    out.gauge(
        "log_cleaner_map",
        "Memory that holds the keys of the log being cleaned",
        Some(Unit::Bytes),
        cleaner.map_bytes,
    )?;
    out.gauge(
        "log_cleaner_dirty",
        "Committed bytes of compacted topics that could be cleaned",
        Some(Unit::Bytes),
        cleaner.dirty_bytes,
    )?;
    out.gauge(
        "log_cleaner_max_dirty_percent",
        "The largest dirty share of a compacted log",
        None,
        cleaner.dirty_percent_max,
    )?;
    out.gauge(
        "log_cleaner_uncleanable_partitions",
        "Compacted logs that are not cleaned until the next start",
        None,
        cleaner.uncleanable,
    )?;
    let help = "Dirty bytes of compacted logs that are not cleaned until the next start";
    out.gauge("log_cleaner_uncleanable", help, Some(Unit::Bytes), cleaner.uncleanable_bytes)
}

fn backup(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let status = broker.backup.status();
    out.gauge("backup_enabled", "1 if metadata is backed up into the object store", None, u64::from(status.enabled))?;
    let help = "Metadata log entries that are not in the object store yet";
    out.gauge("backup_lag_entries", help, None, status.lag_entries)?;
    let help = "For how long there have been metadata log entries that are not in the object store";
    out.gauge("backup_lag", help, Some(Unit::Seconds), status.lag_seconds)?;
    out.gauge("backup_generation", "The snapshot of metadata that was begun last", None, status.generation)?;
    out.gauge("backup_snapshots", "Snapshots of metadata that are kept in the object store", None, status.snapshots)?;
    out.bytes_counter("backup_written", "Bytes of backups put", status.bytes_written)?;
    out.counter("backup_failures", "Calls of backups that failed; they are repeated", status.failures)
}

/// What the broker lives on: its clock and its disk.
fn machine(broker: &Broker, began: &Began, out: &mut Out<'_>) -> fmt::Result {
    let by_the_wall_ms = broker.clock.now_ms() - began.wall_ms;
    let elapsed_ms = i64::try_from((broker.clock.instant() - began.at).as_millis()).unwrap_or(i64::MAX);
    let help = "By how much the wall clock was set since the start: what it gained on the monotonic clock";
    let encoder = out.encoder.encode_descriptor("clock_set", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    ConstGauge::new((by_the_wall_ms - elapsed_ms) as f64 / 1_000.0).encode(encoder)?;
    let disk = disk_space(&broker.config.node.data_dir).ok();
    let (size, free) = (disk.map(|(size, _)| size.unsigned_abs()), disk.map(|(_, free)| free.unsigned_abs()));
    let help = "Size of the file system that the data folder is on";
    out.gauge_if_known("data_dir_size", help, Some(Unit::Bytes), size)?;
    out.gauge_if_known("data_dir_free", "What is free of it for the broker", Some(Unit::Bytes), free)
}

fn cluster(broker: &Broker, out: &mut Out<'_>) -> fmt::Result {
    let partitions = broker.partitions.all();
    let uncommitted: u64 = partitions.iter().map(|partition| partition.bytes_uncommitted()).sum();
    out.gauge("partitions", "Partitions that this broker leads", None, partitions.len() as u64)?;
    out.gauge("uncommitted", "Record bytes that are not in the object store yet", Some(Unit::Bytes), uncommitted)?;
    let lease = u64::from(broker.partitions.storage().lease_valid());
    out.gauge("lease_valid", "1 while this broker may act as leader", None, lease)?;
    let (applied, topics, objects, time_ms) =
        (broker.metadata).read(|state| (state.applied(), state.topics().count(), state.object_count(), state.now_ms()));
    out.gauge("metadata_applied_index", "The last metadata log entry applied here", None, applied)?;
    out.gauge("metadata_topics", "Topics of the cluster", None, topics as u64)?;
    out.gauge("metadata_objects", "Objects that metadata knows", None, objects as u64)?;
    out.gauge("metadata_time_milliseconds", "Metadata time, which no wall clock moves", None, time_ms)
}

pub(crate) struct Out<'a> {
    pub(crate) encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        ConstGauge::new(signed(value)).encode(encoder)
    }

    /// Is described in any case.
    fn gauge_if_known(&mut self, name: &str, help: &str, unit: Option<Unit>, value: Option<u64>) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        value.map_or(Ok(()), |value| ConstGauge::new(signed(value)).encode(encoder))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn bytes_counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    pub(crate) fn labelled<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        values: impl IntoIterator<Item = ([(&'static str, String); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            let encoder = encoder.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(encoder)?,
                _ => ConstGauge::new(signed(value)).encode(encoder)?,
            }
        }
        Ok(())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
