//! The JSON of `/state`: what this broker knows and does, for people and scripts. Not a stable format.

use std::{collections::BTreeMap, sync::Arc};

use seawall_metadata::{
    LegId, TopicId,
    state::{BrokerState, TopicState},
};
use seawall_wal_device::{LegState, LegStatus};
use serde_json::{Value, json};

use crate::{
    ack_class::AckClass,
    broker::{Broker, endpoint_of},
    cluster_id::kafka_text,
    partition::Partition,
};

/// Partitions listed; a larger cluster is counted only.
const PARTITIONS_MAX: usize = 10_000;

pub fn report(broker: &Arc<Broker>, ready: bool) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": ready,
        "node": broker.registration.node,
        "broker_epoch": broker.registration.epoch,
        "cluster": broker.cluster_text(),
        "lease_valid": broker.partitions.storage().lease_valid(),
        "connections": broker.metrics.network.connections.get(),
        "metadata": metadata(broker),
        "brokers": brokers(broker),
        "topics": topics(broker),
        "wals": wals(broker),
        "memory_log": memory_log(broker),
        "uploads": broker.uploads.status(),
        "backup": broker.backup.status(),
        "store": store(broker),
    })
}

fn store(broker: &Broker) -> Value {
    let usage = broker.store.limit.usage();
    json!({
        "kind": broker.store.backend.name(),
        "place": broker.config.store().place(),
        "prefix": broker.config.backend.prefix,
        "state": broker.store.state(),
        "clock_ahead_seconds": broker.store.backend.clock_ahead_seconds(),
        "calls": usage.operations,
        "waiting": usage.waiting,
    })
}

fn metadata(broker: &Broker) -> Value {
    broker.metadata.read(|state| {
        json!({
            "applied_index": state.applied(),
            "time_ms": state.now_ms(),
            "objects": state.object_count(),
            "features": state.features(),
        })
    })
}

fn brokers(broker: &Broker) -> Vec<Value> {
    broker.metadata.read(|state| {
        let describe = |broker: &BrokerState| {
            let endpoint = endpoint_of(broker).map(|e| format!("{}:{}", e.host, e.port));
            json!({"node": broker.node, "epoch": broker.epoch, "fenced": broker.fenced, "endpoint": endpoint})
        };
        state.brokers().map(describe).collect()
    })
}

/// Topics with the partitions that this broker leads.
fn topics(broker: &Broker) -> Vec<Value> {
    let mut led: BTreeMap<TopicId, Vec<Arc<Partition>>> = BTreeMap::new();
    for partition in broker.partitions.all().into_iter().take(PARTITIONS_MAX) {
        led.entry(partition.id().topic).or_default().push(partition);
    }
    let topics: Vec<(TopicId, String, i32, bool)> = broker.metadata.read(|state| {
        let facts = |topic: &TopicState| (topic.id, topic.name.clone(), topic.partitions, topic.internal);
        state.topics_by_name("").map(facts).collect()
    });
    (topics.into_iter())
        .map(|(id, name, partitions, internal)| {
            let mut led = led.remove(&id).unwrap_or_default();
            led.sort_unstable_by_key(|partition| partition.id().index);
            let led: Vec<Value> = led.iter().map(|partition| describe_partition(partition)).collect();
            json!({"name": name, "id": kafka_text(id.0), "partitions": partitions, "internal": internal, "led": led})
        })
        .collect()
}

fn describe_partition(partition: &Partition) -> Value {
    let offsets = partition.offsets();
    json!({
        "index": partition.id().index,
        "leader_epoch": partition.leader_epoch(),
        "stream": partition.stream(),
        "log_start": offsets.log_start,
        "committed_end": offsets.committed_end,
        "ack_class": match partition.append_log().ack_class(partition.config().ack) {
            AckClass::Wal => "wal",
            AckClass::Backend => "backend",
        },
        "high_watermark": offsets.high_watermark,
        "log_end": offsets.log_end,
        "uncommitted_bytes": partition.bytes_uncommitted(),
    })
}

fn wals(broker: &Broker) -> Vec<Value> {
    (broker.partitions.wals().iter())
        .map(|wal| {
            let (usage, status) = (wal.handle().usage(), wal.handle().status());
            let alarms = wal
                .alarms()
                .into_iter()
                .map(|alarm| json!({"kind": alarm.kind.name(), "leg": alarm.leg.map(|leg| leg.0), "what": alarm.text}));
            let set_epoch = broker.metadata.read(|state| state.wal_legs(wal.id).map(|legs| legs.epoch));
            json!({
                "id": wal.id,
                "owner_epoch": wal.owner_epoch,
                "durability": wal.handle().durability(),
                "failed": wal.has_failed(),
                "devices": wal.devices,
                "legs": status.legs.iter().map(|one| leg(broker, one)).collect::<Vec<_>>(),
                "leg_set_epoch": set_epoch,
                "alarms": alarms.collect::<Vec<_>>(),
                "throttle_ms": wal.throttle().as_millis() as u64,
                "ring_bytes": usage.ring_bytes,
                "used_bytes": usage.used_bytes,
                "queued_bytes": usage.queued_bytes,
                "trim_lsn": usage.trim.0,
                "durable_lsn": usage.durable.0,
                "next_lsn": usage.next.0,
            })
        })
        .collect()
}

/// Of a broker without a WAL.
fn memory_log(broker: &Broker) -> Option<Value> {
    let log = broker.partitions.memory_log()?;
    let usage = log.usage();
    Some(json!({
        "used_bytes": usage.used_bytes,
        "soft_bytes": usage.soft_bytes,
        "bytes_max": usage.normal_bytes_max,
        "throttle_ms": log.throttle().as_millis() as u64,
    }))
}

fn leg(broker: &Broker, leg: &LegStatus) -> Value {
    let state = match &leg.state {
        LegState::InSet => "in set",
        LegState::Failed(_) => "failed",
        LegState::Joining => "joining",
    };
    let passport =
        broker.passports.of(LegId(leg.id.0)).map(|judged| judged.objection.unwrap_or_else(|| "valid".into()));
    json!({"id": leg.id.0, "state": state, "durability": leg.durability, "passport": passport})
}
