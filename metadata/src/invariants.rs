//! What is true of every state. Tests and simulation check it after each apply; a decoded snapshot is checked once.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::ConfigResource;
use crate::ids::*;
use crate::state::{PartitionState, State, StreamState, WalLife, WalState, possible_legs};

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// What does not hold of `state`, if anything.
pub fn check(state: &State) -> Result<(), String> {
    check_brokers(state)?;
    check_topics(state)?;
    for partition in state.partitions.values() {
        check_partition(state, partition).map_err(|why| format!("partition {}: {why}", partition.id))?;
    }
    for stream in state.streams.values() {
        check_stream(stream).map_err(|why| format!("stream {}: {why}", stream.id))?;
    }
    check_quotas(state)?;
    check_objects(state)?;
    for wal in state.wals.values() {
        check_wal(state, wal).map_err(|why| format!("WAL {}: {why}", wal.id))?;
    }
    check_wal_legs(state)
}

/// What moved backwards between a state and a later one, if anything.
pub fn check_step(before: &State, after: &State) -> Result<(), String> {
    ensure!(before.applied <= after.applied, "the applied index went back");
    ensure!(before.now_ms <= after.now_ms, "metadata time went back");
    ensure!(before.next_broker_epoch <= after.next_broker_epoch, "broker epochs went back");
    ensure!(before.next_stream <= after.next_stream, "stream ids went back");
    ensure!(before.next_object <= after.next_object, "object ids went back");
    ensure!(before.next_producer_id <= after.next_producer_id, "producer ids went back");
    ensure!(before.cluster.is_none() || before.cluster == after.cluster, "the cluster changed its identity");
    for (name, level) in &before.features {
        ensure!(after.features.get(name) >= Some(level), "feature {name} was lowered");
    }
    for (node, old) in &before.brokers {
        ensure!(after.brokers.get(node).is_some_and(|new| new.epoch >= old.epoch), "broker {node}'s epoch went back");
    }
    for (id, old) in &before.partitions {
        let Some(new) = after.partitions.get(id) else { continue };
        ensure!(new.leader_epoch >= old.leader_epoch, "partition {id}: the leader epoch went back");
        ensure!(
            new.owner == old.owner || new.leader_epoch > old.leader_epoch,
            "partition {id}: two owners of one epoch"
        );
        ensure!(new.generation >= old.generation, "partition {id}: the dirty generation went back");
    }
    for (id, old) in &before.streams {
        let Some(new) = after.streams.get(id) else { continue };
        ensure!(new.start >= old.start && new.next >= old.next, "stream {id}: start or next offset went back");
        for range in new.ranges_from(Offset(0)) {
            let kept = old.ranges.get(&range.base) == new.ranges.get(&range.base);
            // An object that was not committed before: the range continues the stream, or replaces others.
            let fresh = before.objects.get(&range.object).is_none_or(|object| object.record.is_none());
            let replaces = fresh && after.rewritten.contains(&range.object);
            ensure!(range.base >= old.next || kept || replaces, "stream {id}: a range changed");
        }
        for range in old.ranges_from(new.start) {
            ensure!(covers(new, range.base.max(new.start), range.end), "stream {id}: {range:?} was lost");
        }
    }
    for id in &before.rewritten {
        let kept = after.rewritten.contains(id) || !after.objects.contains_key(id);
        ensure!(kept, "object {id} replaced others, which was forgotten");
    }
    for (id, old) in &before.cleaned {
        let kept = after.cleaned.get(id) >= Some(old) || !after.streams.contains_key(id);
        ensure!(kept, "stream {id} was compacted by key to {old}, which was forgotten");
    }
    for (id, old) in &before.wals {
        let Some(new) = after.wals.get(id) else { return Err(format!("WAL {id} is gone")) };
        ensure!(new.trim >= old.trim && new.owner_epoch >= old.owner_epoch, "WAL {id}: trim or owner epoch went back");
        let opened = matches!(new.life, WalLife::Open { .. });
        let openable = match old.life {
            WalLife::Open { .. } | WalLife::GivenUp => true,
            WalLife::Damaged { at } => new.openings.last().is_some_and(|opening| opening.start > at),
            WalLife::Sealed { .. } | WalLife::Recovered => false,
        };
        ensure!(openable || !opened, "WAL {id}: opened while {}", old.life.name());
    }
    for (id, old) in &before.wal_legs {
        let Some(new) = after.wal_legs.get(id) else { return Err(format!("WAL {id}: its legs are gone")) };
        let kept = new.epoch > old.epoch || new == old;
        ensure!(kept, "WAL {id}: leg set {} went back or changed within its epoch", old.epoch);
    }
    Ok(())
}

/// Whether the stream has ranges for all offsets from `from` up to `to`.
fn covers(stream: &StreamState, mut from: Offset, to: Offset) -> bool {
    for range in stream.ranges_from(from) {
        if from >= to || range.base > from {
            break;
        }
        from = range.end;
    }
    from >= to
}

fn check_brokers(state: &State) -> Result<(), String> {
    if state.cluster.is_none() {
        let empty = state.brokers.is_empty()
            && state.topics.is_empty()
            && state.objects.is_empty()
            && state.reservations.is_empty()
            && state.wals.is_empty()
            && state.wal_legs.is_empty()
            && state.rewritten.is_empty()
            && state.cleaned.is_empty()
            && state.earlier.is_empty()
            && state.features.is_empty()
            && state.configs.is_empty()
            && state.quotas.is_empty();
        ensure!(empty, "there is content but no cluster");
    } else {
        ensure!(state.metadata_level() > 0, "no metadata level is finalized");
    }
    let counted = state.next_broker_epoch > BrokerEpoch(0)
        && state.next_stream > StreamId(0)
        && state.next_object > ObjectId(0)
        && state.next_producer_id >= ProducerId(0);
    ensure!(counted, "a counter is below its first value");
    let ours = state.cluster.is_some_and(|(_, ours)| state.earlier.contains(&ours));
    ensure!(!ours, "this incarnation is an earlier one");
    ensure!(state.topology_index <= state.applied, "the topology is of a later index");
    let mut epochs = BTreeSet::new();
    for broker in state.brokers.values() {
        ensure!(broker.epoch < state.next_broker_epoch, "broker {} has an epoch not given out", broker.node);
        ensure!(epochs.insert(broker.epoch), "epoch {} is held twice", broker.epoch);
    }
    Ok(())
}

fn check_quotas(state: &State) -> Result<(), String> {
    for (entity, quotas) in &state.quotas {
        ensure!(entity.is_possible(), "quotas of {entity:?}, which cannot have any");
        ensure!(!quotas.is_empty(), "{entity:?} is kept without quotas");
    }
    Ok(())
}

fn check_topics(state: &State) -> Result<(), String> {
    ensure!(state.topics.len() == state.topic_names.len(), "two topics have one name");
    let mut partitions = 0;
    for topic in state.topics.values() {
        ensure!(state.topic_names.get(&topic.name) == Some(&topic.id), "topic {} is not found by name", topic.name);
        ensure!(topic.partitions > 0, "topic {} has no partitions", topic.name);
        let indexes = state.partitions_of(topic.id).map(|partition| partition.id.index);
        ensure!(
            indexes.eq(0..topic.partitions),
            "the partitions of topic {} are not 0..{}",
            topic.name,
            topic.partitions
        );
        partitions += topic.partitions as usize;
    }
    ensure!(partitions == state.partitions.len(), "partitions without a topic");
    ensure!(partitions == state.streams.len(), "{partitions} partitions, {} streams", state.streams.len());
    for (resource, configs) in &state.configs {
        ensure!(!configs.is_empty(), "{resource:?} is kept without configs");
        if let ConfigResource::Topic { name } = resource {
            ensure!(state.topic_names.contains_key(name), "configs of topic {name}, which is not there");
        }
    }
    Ok(())
}

fn check_partition(state: &State, partition: &PartitionState) -> Result<(), String> {
    ensure!(state.brokers.contains_key(&partition.owner), "unknown owner {}", partition.owner);
    let Some(stream) = state.streams.get(&partition.stream) else { return Err("no stream".into()) };
    ensure!(stream.partition == partition.id, "its stream is that of {}", stream.partition);
    ensure!(stream.id < state.next_stream && stream.id > StreamId(0), "its stream was never made");
    ensure!(partition.leader_epoch >= LeaderEpoch(0), "negative leader epoch");
    if let Some(newest) = stream.epochs.last() {
        ensure!(newest.epoch <= partition.leader_epoch, "data of epoch {} before it began", newest.epoch);
    }
    let rising = partition.closed.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].end <= pair[1].end);
    ensure!(rising, "closed epochs do not rise");
    if let Some(closed) = partition.closed.last() {
        ensure!(closed.epoch < partition.leader_epoch && closed.end <= stream.next, "an epoch is closed too early");
    }
    if let Some(dirty) = &partition.dirty {
        ensure!(dirty.generation == partition.generation, "dirty generation {} is not the newest", dirty.generation);
        ensure!(!dirty.wals.is_empty(), "dirty through no WAL");
        for wal in &dirty.wals {
            ensure!(state.wals.contains_key(wal), "dirty through unknown WAL {wal}");
        }
    }
    Ok(())
}

/// The offsets from `start` to `next` are committed or given up, each exactly once.
fn check_stream(stream: &StreamState) -> Result<(), String> {
    ensure!(stream.start >= Offset(0) && stream.next >= Offset(0), "negative offsets");
    for jump in &stream.jumps {
        ensure!(jump.from < jump.to && jump.to > stream.start && jump.to <= stream.next, "bad jump {jump:?}");
    }
    ensure!(stream.jumps.windows(2).all(|pair| pair[0].to <= pair[1].from), "jumps overlap");
    let jumps: BTreeMap<Offset, Offset> = stream.jumps.iter().map(|jump| (jump.from, jump.to)).collect();

    let inside = stream.jumps.first().filter(|jump| jump.from <= stream.start);
    let mut expected = inside.map_or(stream.start, |jump| jump.to);
    let mut bytes = 0u64;
    for (index, (base, range)) in stream.ranges.iter().enumerate() {
        while let Some(to) = jumps.get(&expected) {
            expected = *to;
        }
        let straddles = index == 0 && inside.is_none() && *base <= stream.start && range.end > stream.start;
        ensure!(straddles || *base == expected, "range at {base}, expected at {expected}");
        ensure!(*base < range.end, "empty range at {base}");
        expected = range.end;
        bytes = bytes.checked_add(range.bytes).ok_or("bytes overflow")?;
    }
    while let Some(to) = jumps.get(&expected) {
        expected = *to;
    }
    let ahead = stream.ranges.is_empty() && stream.start >= stream.next;
    ensure!(ahead || expected == stream.next, "ends at {expected}, next offset is {}", stream.next);
    ensure!(bytes == stream.bytes, "{bytes} bytes, counted {}", stream.bytes);

    let rising = stream.epochs.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start);
    ensure!(rising, "leader epochs do not rise");
    ensure!(stream.epochs.last().is_none_or(|epoch| epoch.start < stream.next), "an epoch begins beyond the end");
    ensure!(stream.epochs.get(1).is_none_or(|epoch| epoch.start > stream.start), "an epoch wholly below the start");
    Ok(())
}

fn check_objects(state: &State) -> Result<(), String> {
    let mut references: BTreeMap<ObjectId, u32> = BTreeMap::new();
    for range in state.streams.values().flat_map(|stream| stream.ranges.values()) {
        *references.entry(range.object).or_default() += 1;
    }
    for (id, object) in &state.objects {
        ensure!(*id < state.next_object && *id > ObjectId(0), "object {id} was never reserved");
        let used = references.remove(id).unwrap_or(0);
        ensure!(used == object.references, "object {id} is used {used} times, counted {}", object.references);
        ensure!((used == 0) == object.marked_ms.is_some(), "object {id}: marked and used, or neither");
        ensure!(object.marked_ms.is_none_or(|marked| marked <= state.now_ms), "object {id} is marked in the future");
        let refused = object.exceptions.len() as u64;
        ensure!(u64::from(used) + refused <= u64::from(object.ranges), "object {id}: more uses than ranges");
        ensure!(object.ranges as usize <= crate::command::COMMIT_RANGES_MAX, "object {id}: too many ranges");
        ensure!(object.record.is_some() || object.ranges == 0, "object {id} has ranges but was not committed");
        let rising = object.exceptions.is_sorted_by(|a, b| a.0 < b.0);
        let within = object.exceptions.last().is_none_or(|(index, _)| *index < object.ranges);
        ensure!(rising && within, "object {id}: exceptions do not fit its ranges");
    }
    ensure!(references.is_empty(), "objects are used that are not there: {:?}", references.keys().next());

    for (id, reservation) in &state.reservations {
        ensure!(*id < state.next_object && *id > ObjectId(0), "reserved object {id} was never given out");
        ensure!(!state.objects.contains_key(id), "object {id} is reserved and stored");
        ensure!(reservation.expires_ms > state.now_ms, "reservation {id} outlived its time");
        let broker = state.brokers.get(&reservation.by.node);
        let active = broker.is_some_and(|broker| !broker.fenced && broker.epoch == reservation.by.epoch);
        ensure!(active, "reservation {id} of {}, which is not active", reservation.by);
    }
    let expiries = state.reservations.iter().map(|(id, reservation)| (reservation.expires_ms, *id)).collect();
    ensure!(state.expiries == expiries, "expiries differ from reservations");
    let marked = state.objects.iter().filter_map(|(id, object)| Some((object.marked_ms?, *id))).collect();
    ensure!(state.marked == marked, "the marked list differs from the objects");
    ensure!(state.uploaded == state.derive_uploaded().collect(), "the uploaded ranges differ from the streams'");
    for id in &state.rewritten {
        let committed = state.objects.get(id).is_some_and(|object| object.record.is_some());
        ensure!(committed, "object {id} replaced others and was not committed");
    }
    for (id, to) in &state.cleaned {
        let stream = state.streams.get(id);
        let within = *to > Offset(0) && stream.is_some_and(|stream| *to <= stream.next);
        ensure!(within, "stream {id} was compacted by key to {to}, beyond its end");
    }
    Ok(())
}

fn check_wal(state: &State, wal: &WalState) -> Result<(), String> {
    ensure!(state.brokers.contains_key(&wal.node), "unknown broker {}", wal.node);
    ensure!(
        wal.openings.last().map(|last| last.owner_epoch) == Some(wal.owner_epoch),
        "the last opening is not the newest"
    );
    let rising =
        wal.openings.windows(2).all(|pair| pair[0].owner_epoch < pair[1].owner_epoch && pair[0].start < pair[1].start);
    ensure!(rising, "openings do not rise");
    ensure!(wal.openings.get(1).is_none_or(|opening| opening.start > wal.trim), "an opening wholly below the trim");
    match wal.life {
        WalLife::Open { by } => ensure!(by.node == wal.node, "opened by broker {}", by.node),
        WalLife::Sealed { end, .. } => ensure!(end >= wal.trim, "sealed at {end}, trimmed to {}", wal.trim),
        WalLife::Damaged { at } => ensure!(at >= wal.trim, "damaged at {at}, trimmed to {}", wal.trim),
        WalLife::Recovered | WalLife::GivenUp => {}
    }
    Ok(())
}

fn check_wal_legs(state: &State) -> Result<(), String> {
    let mut legs = BTreeSet::new();
    for (id, set) in &state.wal_legs {
        ensure!(state.wals.contains_key(id), "legs of unknown WAL {id}");
        ensure!(set.epoch > 0, "WAL {id}: legs that were never set");
        possible_legs(&set.legs).map_err(|why| format!("WAL {id}: legs: {why}"))?;
        for leg in &set.legs {
            ensure!(legs.insert(leg.leg), "leg {} belongs to two WALs", leg.leg);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::{
        Command, EpochStart, ObjectCommit, ObjectRecord, QuotaEntity, QuotaName, QuotaValue, RangeCommit, WalLeg,
        supported_features,
    };
    use uuid::Uuid;

    /// One topic of two partitions, three objects, a dirty mark, a WAL and a reservation.
    fn sound() -> State {
        let by = Registration { node: NodeId(1), epoch: BrokerEpoch(1) };
        let id = Uuid::from_u128(7);
        let wal = WalId(id);
        let topic = TopicId(id);
        let record = ObjectRecord { bucket: 0, incarnation: Incarnation(id), format_version: 1, bytes: 9 };
        let range = |stream, base, end| RangeCommit {
            stream: StreamId(stream),
            leader_epoch: LeaderEpoch(0),
            base: Offset(base),
            end: Offset(end),
            bytes: 5,
            records: 1,
            max_timestamp: 0,
            epochs: Vec::new(),
        };
        let object = |object, ranges| ObjectCommit { object: ObjectId(object), record, ranges };
        let partition = PartitionId { topic, index: 0 };
        let mut state = State::default();
        let commands = [
            Command::InitCluster { cluster: ClusterId(id), incarnation: Incarnation(id), metadata_level: 1 },
            Command::RegisterBroker {
                node: by.node,
                boot: BootId(id),
                listeners: Vec::new(),
                rack: None,
                wals: vec![wal],
                features: supported_features(),
            },
            Command::CreateTopic {
                name: "orders".into(),
                topic,
                internal: false,
                replication_factor: 1,
                owners: vec![by.node; 2],
                configs: BTreeMap::new(),
            },
            Command::OpenWal { by, wal, owner_epoch: OwnerEpoch(1), start: Lsn(0) },
            Command::SetWalLegs {
                by,
                wal,
                set_epoch: 1,
                legs: vec![WalLeg { leg: LegId(id), device: "nvme-1".into(), bytes: 9 }],
            },
            Command::MarkDirty {
                by,
                partition,
                leader_epoch: LeaderEpoch(0),
                wals: BTreeSet::from([wal]),
                generation: 1,
            },
            Command::ReserveObjects { by, count: 4, ttl_ms: 100 },
            Command::CommitObjects {
                by,
                objects: vec![object(1, vec![range(1, 0, 10), range(2, 0, 10)]), object(2, vec![range(1, 10, 20)])],
                trims: Vec::new(),
            },
            Command::CommitObjects { by, objects: vec![object(3, vec![range(1, 20, 30)])], trims: Vec::new() },
        ];
        for (index, command) in commands.into_iter().enumerate() {
            state.apply(index as u64 + 1, command).unwrap();
        }
        check(&state).unwrap();
        state
    }

    /// A checker that cannot fail checks nothing: each of these faults is found.
    #[test]
    fn every_fault_is_found() {
        type Fault = fn(&mut State);
        let faults: [(&str, Fault); 31] = [
            ("an offset committed twice", |state| {
                let range = state.streams[&StreamId(1)].ranges[&Offset(10)];
                state.streams.get_mut(&StreamId(1)).unwrap().ranges.insert(Offset(9), range);
            }),
            ("a lost range", |state| {
                state.streams.get_mut(&StreamId(1)).unwrap().ranges.remove(&Offset(10));
            }),
            ("a next offset that went back", |state| state.streams.get_mut(&StreamId(1)).unwrap().next = Offset(20)),
            ("a next offset without data", |state| state.streams.get_mut(&StreamId(1)).unwrap().next = Offset(40)),
            ("an object forgotten while referenced", |state| {
                state.objects.remove(&ObjectId(2));
            }),
            ("an object marked while referenced", |state| {
                state.objects.get_mut(&ObjectId(2)).unwrap().marked_ms = Some(0);
                state.marked.insert((0, ObjectId(2)));
            }),
            ("a reference counted twice", |state| state.objects.get_mut(&ObjectId(1)).unwrap().references = 3),
            ("a reference lost", |state| state.objects.get_mut(&ObjectId(1)).unwrap().references = 1),
            ("a rewritten object that was never committed", |state| _ = state.rewritten.insert(ObjectId(4))),
            ("a rewritten range that counts as uploaded", |state| _ = state.rewritten.insert(ObjectId(1))),
            ("a stream compacted beyond its end", |state| _ = state.cleaned.insert(StreamId(1), Offset(31))),
            ("a committed object reserved", |state| {
                let reservation = state.reservations[&ObjectId(4)];
                state.reservations.insert(ObjectId(1), reservation);
                state.expiries.insert((reservation.expires_ms, ObjectId(1)));
            }),
            ("a reservation of an epoch that ended", |state| {
                state.reservations.get_mut(&ObjectId(4)).unwrap().by.epoch = BrokerEpoch(0);
            }),
            ("a reservation out of time", |state| state.now_ms = 100),
            ("an object id given out twice", |state| state.next_object = ObjectId(4)),
            ("a stream id given out twice", |state| state.next_stream = StreamId(2)),
            ("a broker epoch given out twice", |state| state.next_broker_epoch = BrokerEpoch(1)),
            ("two partitions on one stream", |state| {
                state.partitions.values_mut().for_each(|partition| partition.stream = StreamId(1));
            }),
            ("a partition without an owner", |state| {
                state.partitions.values_mut().for_each(|partition| partition.owner = NodeId(9));
            }),
            ("a partition lost", |state| {
                state.partitions.pop_last();
            }),
            ("a name that finds nothing", |state| state.topic_names.clear()),
            ("a mark of an unknown WAL", |state| state.wals.clear()),
            ("a mark of an older generation", |state| {
                state.partitions.values_mut().for_each(|partition| partition.generation = 2);
            }),
            ("data of a leader epoch that has not begun", |state| {
                let stream = state.streams.get_mut(&StreamId(1)).unwrap();
                stream.epochs.push(EpochStart { epoch: LeaderEpoch(3), start: Offset(25) });
            }),
            ("quotas of nobody", |state| {
                state
                    .quotas
                    .insert(QuotaEntity::default(), BTreeMap::from([("k".into(), QuotaValue::new(1.0).unwrap())]));
            }),
            ("an entity without quotas", |state| {
                let entity = QuotaEntity { user: Some(QuotaName::Default), ..Default::default() };
                state.quotas.insert(entity, BTreeMap::new());
            }),
            ("legs of an unknown WAL", |state| {
                let legs = state.wal_legs.pop_first().unwrap().1;
                state.wal_legs.insert(WalId(Uuid::from_u128(8)), legs);
            }),
            ("a leg of two WALs", |state| {
                let other = WalId(Uuid::from_u128(8));
                let wal = WalState { id: other, ..state.wals.values().next().unwrap().clone() };
                let legs = state.wal_legs.values().next().unwrap().clone();
                state.wals.insert(other, wal);
                state.wal_legs.insert(other, legs);
            }),
            ("a WAL without a leg", |state| state.wal_legs.values_mut().for_each(|set| set.legs.clear())),
            ("legs that were never set", |state| state.wal_legs.values_mut().for_each(|set| set.epoch = 0)),
            ("a WAL opened at two epochs", |state| {
                state.wals.values_mut().for_each(|wal| wal.owner_epoch = OwnerEpoch(2));
            }),
        ];
        for (what, fault) in faults {
            let mut state = sound();
            fault(&mut state);
            assert!(check(&state).is_err(), "not found: {what}");
        }
        let steps: [(&str, Fault); 11] = [
            ("a trim that went back", |state| state.wals.values_mut().for_each(|wal| wal.trim = Lsn(4))),
            ("legs changed within one epoch", |state| {
                state.wal_legs.values_mut().for_each(|set| set.legs[0].leg = LegId(Uuid::from_u128(8)));
            }),
            ("legs forgotten", |state| state.wal_legs.clear()),
            ("a leader epoch that went back", |state| {
                state.partitions.values_mut().for_each(|partition| partition.leader_epoch = LeaderEpoch(-1));
            }),
            ("an owner changed within its epoch", |state| {
                state.partitions.values_mut().for_each(|partition| partition.owner = NodeId(2));
            }),
            ("a next offset that went back", |state| state.streams.get_mut(&StreamId(2)).unwrap().next = Offset(0)),
            ("an object exchanged under a range", |state| {
                let stream = state.streams.get_mut(&StreamId(1)).unwrap();
                stream.ranges.values_mut().for_each(|range| range.object = ObjectId(1));
            }),
            ("a range lost", |state| {
                let stream = state.streams.get_mut(&StreamId(1)).unwrap();
                stream.ranges.pop_last();
            }),
            ("a range replaced by less", |state| {
                state.rewritten.insert(ObjectId(4));
                let stream = state.streams.get_mut(&StreamId(1)).unwrap();
                let range = stream.ranges.get_mut(&Offset(10)).unwrap();
                (range.object, range.end) = (ObjectId(4), Offset(19));
            }),
            ("a replacement forgotten", |state| state.rewritten.clear()),
            ("a compaction by key forgotten", |state| state.cleaned.clear()),
        ];
        for (what, fault) in steps {
            let mut before = sound();
            before.wals.values_mut().for_each(|wal| wal.trim = Lsn(8));
            before.rewritten.insert(ObjectId(3));
            before.cleaned.insert(StreamId(2), Offset(5));
            let mut after = before.clone();
            fault(&mut after);
            assert!(check_step(&before, &after).is_err(), "not found: {what}");
        }
    }
}
