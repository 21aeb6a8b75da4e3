//! The JSON of `/state`: what this broker knows and does, for people and scripts. Not a stable format.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::broker::{Broker, endpoint_of};

pub fn report(broker: &Arc<Broker>, ready: bool) -> Value {
    let (metadata, brokers, topics) = broker.metadata.read(|state| {
        let metadata = json!({
            "applied_index": state.applied(),
            "time_ms": state.now_ms(),
            "objects": state.objects().count(),
        });
        let brokers: Vec<Value> = (state.brokers())
            .map(|broker| {
                let endpoint = endpoint_of(broker).map(|e| format!("{}:{}", e.host, e.port));
                json!({"node": broker.node, "epoch": broker.epoch, "fenced": broker.fenced, "endpoint": endpoint})
            })
            .collect();
        let topics: Vec<Value> = (state.topics_by_name(""))
            .map(|topic| json!({"name": topic.name, "id": topic.id, "partitions": topic.partitions}))
            .collect();
        (metadata, brokers, topics)
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": ready,
        "node": broker.registration.node,
        "broker_epoch": broker.registration.epoch,
        "cluster": broker.cluster_text(),
        "connections": broker.metrics.network.connections.get(),
        "metadata": metadata,
        "brokers": brokers,
        "topics": topics,
    })
}
