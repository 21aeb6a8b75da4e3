//! The consumer protocol that classic consumers embed in their subscriptions and assignments, as far as groups that
//! change their protocol need it. Topics have names there and ids here.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use seawall_protocol::messages::consumer_protocol_assignment::TopicPartition;
use seawall_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use seawall_protocol::{Decoder, Encoder, Message};

use super::ClusterView;
use crate::group_records::consumer::Assignment;

/// The newest version that the schemas have; a later one starts with the same fields.
const VERSION_MAX: i16 = 3;

/// What a classic consumer says it wants and has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subscription {
    pub(super) version: i16,
    pub(super) topics: Vec<String>,
    pub(super) owned: Assignment,
    pub(super) rack_id: Option<String>,
}

/// None: it cannot be read.
pub(super) fn read_subscription(metadata: &Bytes, view: &ClusterView) -> Option<Subscription> {
    let (version, read) = read::<ConsumerProtocolSubscription>(metadata)?;
    let mut owned = BTreeMap::new();
    for topic in read.owned_partitions {
        owned.insert(topic.topic, topic.partitions);
    }
    Some(Subscription { version, topics: read.topics, owned: by_id(owned, view), rack_id: read.rack_id })
}

/// None: it cannot be read, or holds more than partitions. No assignment yet is an empty one.
pub(super) fn read_assignment(bytes: &Bytes, view: &ClusterView) -> Option<Assignment> {
    if bytes.is_empty() {
        return Some(Assignment::new());
    }
    let (_, read) = read::<ConsumerProtocolAssignment>(bytes)?;
    if read.user_data.is_some_and(|data| !data.is_empty()) {
        return None;
    }
    Some(by_id(read.assigned_partitions.into_iter().map(|topic| (topic.topic, topic.partitions)).collect(), view))
}

/// Topics that are gone are left out.
pub(super) fn write_assignment(assignment: &Assignment, version: i16, view: &ClusterView) -> Bytes {
    let topic = |(id, partitions): (&uuid::Uuid, &std::collections::BTreeSet<i32>)| {
        let topic = view.name_of(*id)?.to_owned();
        Some(TopicPartition { topic, partitions: partitions.iter().copied().collect() })
    };
    let version = version.clamp(0, VERSION_MAX);
    let written = ConsumerProtocolAssignment {
        assigned_partitions: assignment.iter().filter_map(topic).collect(),
        user_data: None,
    };
    let mut out = Encoder::new();
    written.encode(&mut out, version).expect("names of topics and numbers of partitions fit");
    let mut bytes = BytesMut::new();
    bytes.put_i16(version);
    bytes.put_slice(&out.into_bytes());
    bytes.freeze()
}

fn read<M: Message>(bytes: &Bytes) -> Option<(i16, M)> {
    let mut input = Decoder::new(bytes.clone());
    let version = input.i16().ok()?;
    if version < 0 {
        return None;
    }
    // What follows the fields of the newest known version is not for us.
    let read = M::decode(&mut input, version.min(VERSION_MAX)).ok()?;
    Some((version, read))
}

fn by_id(topics: BTreeMap<String, Vec<i32>>, view: &ClusterView) -> Assignment {
    let topic =
        |(name, partitions): (String, Vec<i32>)| Some((view.topic(&name)?.id, partitions.into_iter().collect()));
    topics.into_iter().filter_map(topic).collect()
}
