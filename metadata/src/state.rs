//! What is true of the cluster: one deterministic state machine, fed with commands in log order.
//!
//! Promise: the same commands at the same indexes give the same state, byte for byte, on every node. No I/O, no clock, no
//! randomness; time arrives in commands. A rejected command changes nothing but the applied index.
//! Reading is by the queries here; each kind of thing has its file under `state/`.

mod brokers;
mod commit;
mod configs;
mod objects;
mod partitions;
mod quotas;
mod replace;
mod restore;
mod topics;
mod wal_legs;
mod wals;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::command::{Command, ConfigResource, METADATA_VERSION, QuotaEntity, QuotaValue, Rejection, Response};
use crate::ids::*;

pub use brokers::BrokerState;
pub use objects::{ObjectState, Reservation};
pub use partitions::{Dirty, EpochEnd, PartitionState};
pub use restore::RestoreError;
pub use topics::TopicState;
pub use wal_legs::WalLegs;
pub(crate) use wal_legs::possible_legs;
pub use wals::{Opening, WalLife, WalState};

pub use commit::{Jump, RangeRef, StreamState};

/// The cluster's metadata at one applied index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(crate) applied: u64,
    pub(crate) topology_index: u64,
    pub(crate) cluster: Option<(ClusterId, Incarnation)>,
    pub(crate) now_ms: u64,
    pub(crate) features: BTreeMap<String, u16>,
    pub(crate) next_broker_epoch: BrokerEpoch,
    pub(crate) next_stream: StreamId,
    pub(crate) next_object: ObjectId,
    pub(crate) next_producer_id: ProducerId,
    pub(crate) brokers: BTreeMap<NodeId, BrokerState>,
    pub(crate) topics: BTreeMap<TopicId, TopicState>,
    pub(crate) partitions: BTreeMap<PartitionId, PartitionState>,
    pub(crate) streams: BTreeMap<StreamId, StreamState>,
    pub(crate) configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    pub(crate) quotas: BTreeMap<QuotaEntity, BTreeMap<String, QuotaValue>>,
    pub(crate) reservations: BTreeMap<ObjectId, Reservation>,
    pub(crate) objects: BTreeMap<ObjectId, ObjectState>,
    pub(crate) wals: BTreeMap<WalId, WalState>,
    pub(crate) wal_legs: BTreeMap<WalId, WalLegs>,
    /// Objects that replaced others.
    pub(crate) rewritten: BTreeSet<ObjectId>,
    /// How far streams were compacted by key; those that never were are not there.
    pub(crate) cleaned: BTreeMap<StreamId, Offset>,
    /// Incarnations before this one whose objects are kept, until it is declared the only one.
    pub(crate) earlier: BTreeSet<Incarnation>,
    // Derived from the above, not part of a snapshot.
    pub(crate) topic_names: BTreeMap<String, TopicId>,
    pub(crate) expiries: BTreeSet<(u64, ObjectId)>,
    pub(crate) marked: BTreeSet<(u64, ObjectId)>,
    /// The ranges that lie where an upload put them.
    pub(crate) uploaded: BTreeSet<(ObjectId, StreamId, Offset)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            applied: 0,
            topology_index: 0,
            cluster: None,
            now_ms: 0,
            features: BTreeMap::new(),
            next_broker_epoch: BrokerEpoch(1),
            next_stream: StreamId(1),
            next_object: ObjectId(1),
            next_producer_id: ProducerId(0),
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            partitions: BTreeMap::new(),
            streams: BTreeMap::new(),
            configs: BTreeMap::new(),
            quotas: BTreeMap::new(),
            reservations: BTreeMap::new(),
            objects: BTreeMap::new(),
            wals: BTreeMap::new(),
            wal_legs: BTreeMap::new(),
            rewritten: BTreeSet::new(),
            cleaned: BTreeMap::new(),
            earlier: BTreeSet::new(),
            topic_names: BTreeMap::new(),
            expiries: BTreeSet::new(),
            marked: BTreeSet::new(),
            uploaded: BTreeSet::new(),
        }
    }
}

impl State {
    /// Applies the command of log entry `index`. Indexes only rise.
    pub fn apply(&mut self, index: u64, command: Command) -> Result<Response, Rejection> {
        self.pass(index);
        let topology = changes_topology(&command);
        let result = self.dispatch(command);
        if topology && result.is_ok() {
            self.topology_index = index;
        }
        result
    }

    /// Passes a log entry that holds no command.
    pub fn pass(&mut self, index: u64) {
        assert!(index > self.applied, "entry {index} after {}", self.applied);
        self.applied = index;
    }

    /// Rebuilds what follows from the rest.
    pub(crate) fn derive(&mut self) {
        self.topic_names = self.topics.values().map(|topic| (topic.name.clone(), topic.id)).collect();
        self.expiries = self.reservations.iter().map(|(id, reservation)| (reservation.expires_ms, *id)).collect();
        self.marked = self.objects.iter().filter_map(|(id, object)| Some((object.marked_ms?, *id))).collect();
        self.uploaded = self.derive_uploaded().collect();
        self.streams.values_mut().for_each(StreamState::derive);
    }

    pub(crate) fn derive_uploaded(&self) -> impl Iterator<Item = (ObjectId, StreamId, Offset)> + '_ {
        let ranges = self
            .streams
            .values()
            .flat_map(|stream| stream.ranges.iter().map(|(base, range)| (range.object, stream.id, *base)));
        ranges.filter(|(object, ..)| !self.rewritten.contains(object))
    }

    fn dispatch(&mut self, command: Command) -> Result<Response, Rejection> {
        if let Command::InitCluster { cluster, incarnation, metadata_level } = command {
            return self.init_cluster(cluster, incarnation, metadata_level);
        }
        if self.cluster.is_none() {
            return Err(Rejection::NotInitialised);
        }
        match command {
            Command::InitCluster { .. } => unreachable!("handled above"),
            Command::AdvanceTime { now_ms } => self.advance_time(now_ms),
            Command::FinalizeFeatures { features } => self.finalize_features(features),
            Command::RegisterBroker { node, boot, listeners, rack, wals, features } => {
                self.register_broker(node, boot, listeners, rack, wals, features)
            }
            Command::FenceBroker { node, epoch } => self.fence_broker(node, epoch),
            Command::CreateTopic { name, topic, internal, replication_factor, owners, configs } => {
                self.create_topic(name, topic, internal, replication_factor, owners, configs)
            }
            Command::CreateDistinctTopic { name, topic, internal, replication_factor, owners, configs } => {
                self.check_distinct(&name)?;
                self.create_topic(name, topic, internal, replication_factor, owners, configs)
            }
            Command::DeleteTopic { topic } => self.delete_topic(topic),
            Command::CreatePartitions { topic, total, owners } => self.create_partitions(topic, total, owners),
            Command::AlterConfigs { resource, ops, replace_all } => self.alter_configs(resource, ops, replace_all),
            Command::AllocateProducerIds { by, count } => self.allocate_producer_ids(by, count),
            Command::AlterClientQuotas { changes } => self.alter_client_quotas(changes),
            Command::TakePartitions { by, partitions } => self.take_partitions(by, partitions),
            Command::MovePartition { partition, leader_epoch, to } => self.move_partition(partition, leader_epoch, to),
            Command::MarkDirty { by, partition, leader_epoch, wals, generation } => {
                self.mark_dirty(by, partition, leader_epoch, wals, generation)
            }
            Command::MarkClean { by, partition, leader_epoch, generation } => {
                self.mark_clean(by, partition, leader_epoch, generation)
            }
            Command::TrimStream { by, stream, leader_epoch, start } => {
                self.trim_stream(by, stream, leader_epoch, start)
            }
            Command::ReserveObjects { by, count, ttl_ms } => self.reserve_objects(by, count, ttl_ms),
            Command::CommitObjects { by, objects, trims } => self.commit_objects(by, objects, trims),
            Command::ForgetObjects { by, objects, marked_before_ms } => {
                self.forget_objects(by, objects, marked_before_ms)
            }
            Command::ReplaceRanges { by, objects, streams } => self.replace_ranges(by, objects, streams),
            Command::DeclareOnly { incarnation } => self.declare_only(incarnation),
            Command::OpenWal { by, wal, owner_epoch, start } => self.open_wal(by, wal, owner_epoch, start),
            Command::SealWal { by, wal, owner_epoch, end } => self.seal_wal(by, wal, owner_epoch, end),
            Command::RecoverWal { by, wal } => self.recover_wal(by, wal),
            Command::DamagedWal { by, wal, owner_epoch, at } => self.damaged_wal(by, wal, owner_epoch, at),
            Command::TrimWal { by, trim } => self.trim_wal(by, trim),
            Command::GiveUpWal { wal, past } => self.give_up_wal(wal, past),
            Command::SetWalLegs { by, wal, set_epoch, legs } => self.set_wal_legs(by, wal, set_epoch, legs),
        }
    }

    /// The index of the last log entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The index of the last entry that changed brokers, topics, owners, leader epochs, configs, quotas or features: what is derived
    /// from those is good until it moves.
    pub fn topology_index(&self) -> u64 {
        self.topology_index
    }

    /// Whether a stream of this id was ever made; one that was and is not there any more was deleted.
    pub fn was_made(&self, stream: StreamId) -> bool {
        stream > StreamId(0) && stream < self.next_stream
    }

    /// The cluster's identity, once initialised.
    pub fn cluster(&self) -> Option<(ClusterId, Incarnation)> {
        self.cluster
    }

    /// Metadata time: milliseconds that leaders have counted on their monotonic clocks.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Finalized feature levels by name.
    pub fn features(&self) -> &BTreeMap<String, u16> {
        &self.features
    }

    /// The finalized level of [`METADATA_VERSION`]; 0 before the cluster is initialised.
    pub fn metadata_level(&self) -> u16 {
        self.features.get(METADATA_VERSION).copied().unwrap_or(0)
    }

    pub fn brokers(&self) -> impl Iterator<Item = &BrokerState> {
        self.brokers.values()
    }

    /// Every resource that has configs.
    pub fn config_resources(&self) -> impl Iterator<Item = &ConfigResource> {
        self.configs.keys()
    }

    /// The subscriptions to metrics of clients, by name.
    pub fn client_metrics(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>)> {
        let first = ConfigResource::ClientMetrics { name: String::new() };
        self.configs.range(first..).map_while(|(resource, configs)| match resource {
            ConfigResource::ClientMetrics { name } => Some((name.as_str(), configs)),
            _ => None,
        })
    }

    pub fn broker(&self, node: NodeId) -> Option<&BrokerState> {
        self.brokers.get(&node)
    }

    pub fn topics(&self) -> impl Iterator<Item = &TopicState> {
        self.topics.values()
    }

    /// Topics in the order of their names, from the first name that is at least `from`.
    pub fn topics_by_name(&self, from: &str) -> impl Iterator<Item = &TopicState> {
        self.topic_names.range::<str, _>((Bound::Included(from), Bound::Unbounded)).map(|(_, id)| &self.topics[id])
    }

    pub fn topic(&self, id: TopicId) -> Option<&TopicState> {
        self.topics.get(&id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&TopicState> {
        self.topic_names.get(name).map(|id| &self.topics[id])
    }

    pub fn partition(&self, id: PartitionId) -> Option<&PartitionState> {
        self.partitions.get(&id)
    }

    /// Another topic whose name differs from this one only in '.' and '_', which names of metrics do not tell apart.
    pub fn colliding_topic(&self, name: &str) -> Option<&TopicState> {
        // All names that collide share what comes before the first '.' or '_'.
        let stem = &name[..name.find(['.', '_'])?];
        let folded = name.replace('.', "_");
        let collides = |topic: &&TopicState| {
            topic.name.len() == name.len() && topic.name != name && topic.name.replace('.', "_") == folded
        };
        self.topics_by_name(stem).take_while(|topic| topic.name.starts_with(stem)).find(collides)
    }

    /// A topic's partitions in index order.
    pub fn partitions_of(&self, topic: TopicId) -> impl Iterator<Item = &PartitionState> {
        let (first, last) = (PartitionId { topic, index: 0 }, PartitionId { topic, index: i32::MAX });
        self.partitions.range(first..=last).map(|(_, partition)| partition)
    }

    /// All partitions, in the order of topic id and index.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionState> {
        self.partitions.values()
    }

    pub fn stream(&self, id: StreamId) -> Option<&StreamState> {
        self.streams.get(&id)
    }

    pub fn streams(&self) -> impl Iterator<Item = &StreamState> {
        self.streams.values()
    }

    /// The streams from that id on.
    pub fn streams_from(&self, from: StreamId) -> impl Iterator<Item = &StreamState> {
        self.streams.range(from..).map(|(_, stream)| stream)
    }

    /// The committed ranges of a stream that hold offsets at or above `from`, in offset order. Nothing for an unknown stream.
    pub fn ranges(&self, stream: StreamId, from: Offset) -> impl Iterator<Item = RangeRef> + '_ {
        self.streams.get(&stream).into_iter().flat_map(move |stream| stream.ranges_from(from))
    }

    /// The configs set on a resource; those not set are not there.
    pub fn configs(&self, resource: &ConfigResource) -> Option<&BTreeMap<String, String>> {
        self.configs.get(resource)
    }

    /// The quotas of clients, by entity and key. No entity is without one.
    pub fn quotas(&self) -> &BTreeMap<QuotaEntity, BTreeMap<String, QuotaValue>> {
        &self.quotas
    }

    pub fn wal(&self, id: WalId) -> Option<&WalState> {
        self.wals.get(&id)
    }

    pub fn wals(&self) -> impl Iterator<Item = &WalState> {
        self.wals.values()
    }

    /// Which devices make up a WAL; `None` as long as it was never said, which is so for one that was never mirrored.
    pub fn wal_legs(&self, id: WalId) -> Option<&WalLegs> {
        self.wal_legs.get(&id)
    }

    /// An object that was committed, or whose reservation ended.
    pub fn object(&self, id: ObjectId) -> Option<&ObjectState> {
        self.objects.get(&id)
    }

    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &ObjectState)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    pub fn reservation(&self, id: ObjectId) -> Option<&Reservation> {
        self.reservations.get(&id)
    }

    /// Whether an object of this id was ever reserved; one that was, and is neither reserved nor known any more, was forgotten.
    pub fn was_handed_out(&self, object: ObjectId) -> bool {
        object > ObjectId(0) && object < self.next_object
    }

    /// What is committed from here on has this id or a higher one.
    pub fn lowest_uncommitted(&self) -> ObjectId {
        self.reservations.keys().next().copied().unwrap_or(self.next_object)
    }

    pub fn reservations(&self) -> impl Iterator<Item = (ObjectId, &Reservation)> {
        self.reservations.iter().map(|(id, reservation)| (*id, reservation))
    }

    /// How many objects are known, those that wait for their deletion included.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    pub fn reservation_count(&self) -> usize {
        self.reservations.len()
    }

    /// How many objects wait for their deletion.
    pub fn marked_count(&self) -> usize {
        self.marked.len()
    }

    /// Whether the object replaced others, rather than being as an upload put it.
    pub fn is_rewritten(&self, object: ObjectId) -> bool {
        self.rewritten.contains(&object)
    }

    /// The ranges that lie where an upload put them, by object from `from` on, then by stream and offset.
    pub fn uploaded_ranges(&self, from: ObjectId) -> impl Iterator<Item = (StreamId, RangeRef)> + '_ {
        self.uploaded.range((from, StreamId(0), Offset(0))..).filter_map(|(_, stream, base)| {
            let range = self.streams.get(stream)?.ranges.get(base)?;
            Some((*stream, range.at(*base)))
        })
    }

    /// How many ranges lie where an upload put them.
    pub fn uploaded_count(&self) -> usize {
        self.uploaded.len()
    }

    /// How far the stream was compacted by key; 0 if it never was.
    pub fn cleaned_to(&self, stream: StreamId) -> Offset {
        self.cleaned.get(&stream).copied().unwrap_or_default()
    }

    /// Whether anything ends by time: reservations, or the grace of marked objects.
    pub fn waits_for_time(&self) -> bool {
        !self.expiries.is_empty() || !self.marked.is_empty()
    }

    /// Objects marked at or before that metadata time, oldest first: what a deletion driver may delete.
    pub fn marked_before(&self, marked_before_ms: u64) -> impl Iterator<Item = ObjectId> + '_ {
        self.marked_behind(None, marked_before_ms).map(|(_, object)| object)
    }

    /// The same, each with the time of its mark, behind one of them.
    pub fn marked_behind(
        &self,
        after: Option<(u64, ObjectId)>,
        marked_before_ms: u64,
    ) -> impl Iterator<Item = (u64, ObjectId)> + '_ {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let marked = self.marked.range((from, Bound::Unbounded)).copied();
        marked.take_while(move |(marked_ms, _)| *marked_ms <= marked_before_ms)
    }
}

fn changes_topology(command: &Command) -> bool {
    match command {
        Command::InitCluster { .. }
        | Command::FinalizeFeatures { .. }
        | Command::RegisterBroker { .. }
        | Command::FenceBroker { .. }
        | Command::CreateTopic { .. }
        | Command::CreateDistinctTopic { .. }
        | Command::DeleteTopic { .. }
        | Command::CreatePartitions { .. }
        | Command::AlterConfigs { .. }
        | Command::AlterClientQuotas { .. }
        | Command::TakePartitions { .. }
        | Command::MovePartition { .. }
        | Command::GiveUpWal { .. } => true,
        Command::AdvanceTime { .. }
        | Command::AllocateProducerIds { .. }
        | Command::MarkDirty { .. }
        | Command::MarkClean { .. }
        | Command::TrimStream { .. }
        | Command::ReserveObjects { .. }
        | Command::CommitObjects { .. }
        | Command::ForgetObjects { .. }
        | Command::ReplaceRanges { .. }
        | Command::DeclareOnly { .. }
        | Command::OpenWal { .. }
        | Command::SealWal { .. }
        | Command::RecoverWal { .. }
        | Command::DamagedWal { .. }
        | Command::TrimWal { .. }
        | Command::SetWalLegs { .. } => false,
    }
}
