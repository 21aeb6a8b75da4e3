//! The node as its users see it: proposals, answers, reads and the lease.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use seawall_metadata::command::{METADATA_LEVEL, supported_features};
use seawall_metadata::*;
use uuid::Uuid;

fn cluster() -> (ClusterId, Incarnation) {
    (ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)))
}

async fn register(handle: &MetadataHandle) -> Registration {
    let command = Command::RegisterBroker {
        node: NodeId(1),
        boot: BootId(Uuid::from_u128(3)),
        listeners: Vec::new(),
        rack: None,
        wals: Vec::new(),
        features: supported_features(),
    };
    match handle.propose(command).await.unwrap().1 {
        Response::BrokerEpoch(epoch) => Registration { node: NodeId(1), epoch },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_proposed_topic_is_readable_when_the_answer_is_there() {
    let mut config = MetadataConfig::new("unused", NodeId(1));
    config.cluster = Some(cluster());
    let handle = MetadataHandle::in_memory(config).await.unwrap();
    let by = register(&handle).await;
    let topic = TopicId(Uuid::from_u128(4));
    let create = Command::CreateTopic {
        name: "orders".into(),
        topic,
        internal: false,
        replication_factor: 3,
        owners: vec![by.node; 3],
        configs: BTreeMap::new(),
    };
    let (index, response) = handle.propose(create).await.unwrap();
    assert_eq!(response, Response::Topic { topic, streams: vec![StreamId(1), StreamId(2), StreamId(3)] });
    assert!(handle.applied() >= index);
    assert_eq!(handle.read(|state| state.topic_by_name("orders").unwrap().partitions), 3);
    assert_eq!(handle.read(|state| state.metadata_level()), METADATA_LEVEL);
    handle.shutdown().await;
}
