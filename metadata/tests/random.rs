//! Random commands, mostly sensible, from a seed: the invariants hold after each, a replay gives the same bytes, and
//! hostile bytes are errors. `SIM_SEEDS=n` runs n seeds, `SIM_SEED=n` only that one.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use seawall_metadata::command::*;
use seawall_metadata::*;
use uuid::Uuid;

#[test]
fn random_commands_keep_every_invariant_and_replay_to_the_same_bytes() {
    let (mut accepted, mut rejected, mut ranges, mut replaced) = (0, 0, 0, 0);
    for seed in seeds(300) {
        let mut world = World { random: Random(seed * 2 + 1), state: State::default() };
        let mut log = Vec::new();
        for step in 0..300 {
            let command = if step == 0 { init() } else { world.command() };
            let command = Command::decode(&command.encode().unwrap()).unwrap();
            let before = world.state.clone();
            let index = world.state.applied() + 1 + world.random.below(2);
            let answer = world.state.apply(index, command.clone());
            let context = || format!("SIM_SEED={seed} step {step}: {command:?} -> {answer:?}");
            invariants::check(&world.state).unwrap_or_else(|why| panic!("{}: {why}", context()));
            invariants::check_step(&before, &world.state).unwrap_or_else(|why| panic!("{}: {why}", context()));
            match &answer {
                Ok(Response::Commit(answer)) => {
                    check_commit(&before, &world.state, &command, answer)
                        .unwrap_or_else(|why| panic!("{}: {why}", context()));
                    ranges += answer.outcomes.iter().flatten().filter(|it| **it == RangeOutcome::Accepted).count();
                    accepted += 1;
                }
                Ok(Response::Replaced(outcomes)) => {
                    replaced += outcomes.iter().filter(|it| **it == RangeOutcome::Accepted).count();
                    accepted += 1;
                }
                Ok(_) => accepted += 1,
                Err(_) => {
                    let mut unchanged = before;
                    unchanged.pass(index);
                    assert!(unchanged == world.state, "{}", context());
                    rejected += 1;
                }
            }
            log.push((index, command));
            if step % 60 == 59 {
                let bytes = snapshot::encode(&world.state);
                assert!(snapshot::decode(&bytes).unwrap() == world.state, "SIM_SEED={seed} step {step}");
                // A node that begins at this snapshot goes on like one that was there from the start.
                world.state = snapshot::decode(&bytes).unwrap();
            }
        }
        let mut replayed = State::default();
        for (index, command) in log {
            let _ = replayed.apply(index, command);
        }
        assert_eq!(snapshot::encode(&replayed), snapshot::encode(&world.state), "SIM_SEED={seed}");
    }
    println!("{accepted} commands, {ranges} ranges and {replaced} replacements accepted, {rejected} commands rejected");
    let sensible = accepted > rejected && ranges * 10 > accepted && replaced * 60 > ranges;
    assert!(sensible, "the commands are not sensible enough");
}

#[test]
fn hostile_bytes_are_errors() {
    for seed in seeds(100) {
        let mut world = World { random: Random(seed * 2 + 1), state: State::default() };
        world.state.apply(1, init()).unwrap();
        for index in 2..80 {
            let command = world.command();
            let mut bytes = command.encode().unwrap();
            world.random.spoil(&mut bytes);
            if let Ok(spoilt) = Command::decode(&bytes) {
                // Whatever still is a command is applied or rejected, and leaves a sound state.
                let mut state = world.state.clone();
                let _ = state.apply(state.applied() + 1, spoilt);
                invariants::check(&state).unwrap_or_else(|why| panic!("SIM_SEED={seed} {index}: {why}"));
            }
            let _ = world.state.apply(index, command);
        }
        let whole = snapshot::encode(&world.state);
        for _ in 0..50 {
            let mut bytes = whole.clone();
            world.random.spoil(&mut bytes);
            if world.random.below(2) == 0 {
                // With a checksum that fits, only the decoder stands between the bytes and the state.
                reseal(&mut bytes);
            }
            if let Ok(mut state) = snapshot::decode(&bytes)
                && state.applied() < u64::MAX - 40
            {
                // Sound, if not what was written: nothing that follows may panic.
                let first = state.applied();
                for index in 1..40 {
                    let _ = state.apply(first + index, world.command());
                }
                invariants::check(&state).unwrap_or_else(|why| panic!("SIM_SEED={seed}: {why}"));
            }
        }
    }
    for length in 0..64 {
        let noise = vec![0xff; length];
        assert!(Command::decode(&noise).is_err() && snapshot::decode(&noise).is_err());
    }
    let too_long = vec![0; COMMAND_BYTES_MAX + 1];
    assert!(matches!(Command::decode(&too_long), Err(CommandError::TooLarge { .. })));
}

/// What a commit may and may not do, told apart from how it is done.
fn check_commit(before: &State, after: &State, command: &Command, answer: &CommitAnswer) -> Result<(), String> {
    let Command::CommitObjects { by, objects, trims } = command else { return Err("not a commit".into()) };
    let refused = answer.outcomes.iter().flatten().any(|outcome| matches!(outcome, RangeOutcome::Refused { .. }));
    if refused == answer.trimmed {
        return Err("trimmed although refused, or the other way round".into());
    }
    for trim in trims {
        let moved = before.wal(trim.wal).map(|wal| wal.trim) != after.wal(trim.wal).map(|wal| wal.trim);
        if moved && refused {
            return Err("a refused commit moved a trim".into());
        }
    }
    let mut next: BTreeMap<StreamId, Offset> = BTreeMap::new();
    for (object, outcomes) in objects.iter().zip(&answer.outcomes) {
        let repeated = before.object(object.object).is_some();
        for (range, outcome) in object.ranges.iter().zip(outcomes) {
            if repeated || *outcome != RangeOutcome::Accepted {
                continue;
            }
            let stream = before.stream(range.stream).ok_or("accepted into no stream")?;
            let expected = next.entry(range.stream).or_insert(stream.next);
            let partition = before.partition(stream.partition).unwrap();
            if *expected != range.base || partition.owner != by.node || partition.leader_epoch != range.leader_epoch {
                return Err(format!("{range:?} should not have been accepted"));
            }
            *expected = range.end;
        }
    }
    for stream in before.streams() {
        let expected = next.get(&stream.id).copied().unwrap_or(stream.next);
        if after.stream(stream.id).map(|stream| stream.next) != Some(expected) {
            return Err(format!("{:?} does not end at {expected}", stream.id));
        }
    }
    Ok(())
}

struct World {
    random: Random,
    state: State,
}

impl World {
    /// A command that often is one that could really come next.
    fn command(&mut self) -> Command {
        let by = self.by();
        match self.random.below(100) {
            0..4 => Command::AdvanceTime { now_ms: self.state.now_ms() + self.random.below(400) },
            4..8 => self.register(),
            8..9 => Command::FenceBroker { node: by.node, epoch: by.epoch },
            9..13 => self.create_topic(),
            13..14 => Command::DeleteTopic { topic: self.topic() },
            14..16 => {
                let topic = self.topic();
                let total = self.state.topic(topic).map_or(1, |topic| topic.partitions) + self.random.below(3) as i32;
                let new = total - self.state.topic(topic).map_or(0, |topic| topic.partitions);
                Command::CreatePartitions { topic, total, owners: vec![by.node; new.max(0) as usize] }
            }
            16..17 => Command::AlterClientQuotas {
                changes: vec![QuotaChange {
                    entity: QuotaEntity {
                        user: (self.random.below(2) == 0).then_some(QuotaName::Default),
                        client_id: Some(QuotaName::Named { name: format!("c{}", self.random.below(3)) }),
                        ip: (self.random.below(5) == 0).then_some(QuotaName::Default),
                    },
                    values: (0..2)
                        .map(|_| {
                            let value = QuotaValue::new(self.random.below(3) as f64);
                            (format!("k{}", self.random.below(3)), value)
                        })
                        .collect(),
                }],
            },
            17..18 => Command::AlterConfigs {
                resource: match self.random.below(3) {
                    0 => ConfigResource::BrokerDefault,
                    1 => ConfigResource::Broker { node: by.node },
                    _ => ConfigResource::Topic { name: format!("t{}", self.random.below(5)) },
                },
                ops: vec![
                    ConfigOp::Set { key: format!("k{}", self.random.below(3)), value: "v".into() },
                    ConfigOp::Delete { key: format!("k{}", self.random.below(3)) },
                ],
                replace_all: self.random.below(3) == 0,
            },
            18..19 => Command::AllocateProducerIds { by, count: self.random.below(1000) as u32 },
            19..21 => {
                let mine = self.state.partitions().filter(|partition| partition.owner == by.node);
                let partitions = mine.map(|partition| partition.id).collect();
                Command::TakePartitions { by, partitions }
            }
            21..25 => {
                let (partition, leader_epoch, _) = self.partition(by);
                Command::MovePartition { partition, leader_epoch, to: NodeId(1 + self.random.below(3) as i32) }
            }
            25..31 => {
                let (partition, leader_epoch, generation) = self.partition(by);
                let wals = BTreeSet::from([self.own_wal(by)]);
                let generation = generation + self.random.below(3);
                Command::MarkDirty { by, partition, leader_epoch, wals, generation }
            }
            31..36 => {
                let (partition, leader_epoch, generation) = self.partition(by);
                Command::MarkClean { by, partition, leader_epoch, generation }
            }
            36..42 => {
                let (partition, leader_epoch, _) = self.partition(by);
                let Some(partition) = self.state.partition(partition) else { return self.create_topic() };
                let stream = self.state.stream(partition.stream).unwrap();
                let start = match self.random.below(4) {
                    0 => stream.next.0 + self.random.below(50) as i64,
                    1 => stream.next.0,
                    _ => stream.start.0 + self.random.below(60) as i64,
                };
                Command::TrimStream { by, stream: stream.id, leader_epoch, start: Offset(start) }
            }
            42..50 => {
                Command::ReserveObjects { by, count: self.random.below(4) as u32, ttl_ms: self.random.below(2_000) }
            }
            50..76 => self.commit(by),
            76..82 => self.replace(by),
            82..84 => Command::ForgetObjects {
                by,
                objects: self.state.marked_before(u64::MAX).take(3).collect(),
                marked_before_ms: self.state.now_ms().saturating_sub(self.random.below(500)),
            },
            84..92 => {
                let wal = self.own_wal(by);
                let (epoch, start) = self.state.wal(wal).map_or((0, 0), |wal| (wal.owner_epoch.0, end_of(wal)));
                let start = Lsn(start + self.random.below(100));
                Command::OpenWal { by, wal, owner_epoch: OwnerEpoch(epoch + self.random.below(4)), start }
            }
            92..99 => self.recovery(by),
            _ => Command::FinalizeFeatures { features: BTreeMap::from([(METADATA_VERSION.into(), METADATA_LEVEL)]) },
        }
    }

    fn recovery(&mut self, by: Registration) -> Command {
        let wal = wal_id(self.random.below(6));
        let (owner_epoch, end) = self.state.wal(wal).map_or((OwnerEpoch(1), 0), |wal| (wal.owner_epoch, end_of(wal)));
        let lsn = Lsn(end + self.random.below(100));
        match self.random.below(7) {
            5..7 => self.set_legs(by),
            0 => Command::SealWal { by, wal, owner_epoch, end: lsn },
            1 => Command::RecoverWal { by, wal },
            2 => Command::DamagedWal { by, wal, owner_epoch, at: lsn },
            3 => Command::TrimWal { by, trim: WalTrim { wal, owner_epoch, lsn } },
            _ => Command::GiveUpWal { wal, past: lsn },
        }
    }

    fn set_legs(&mut self, by: Registration) -> Command {
        let wal = self.own_wal(by);
        let set_epoch = self.state.wal_legs(wal).map_or(0, |legs| legs.epoch) + self.random.below(3).min(1);
        let first = wal.0.as_u128() as u64;
        let legs = (0..=self.random.below(2)).map(|_| {
            let leg = LegId(Uuid::from_u128(u128::from(10 * first + self.random.below(11))));
            WalLeg { leg, device: "d".into(), bytes: 1 }
        });
        Command::SetWalLegs { by, wal, set_epoch, legs: legs.collect() }
    }

    fn commit(&mut self, by: Registration) -> Command {
        let mut objects = Vec::new();
        let mut next: BTreeMap<StreamId, i64> = BTreeMap::new();
        let reserved = self.state.reservations().filter(|(_, reservation)| reservation.by == by);
        let mut ids: Vec<ObjectId> = reserved.map(|(id, _)| id).take(3).collect();
        if self.random.below(6) == 0 {
            ids.push(ObjectId(self.random.below(40)));
        }
        for object in ids {
            let mut ranges = Vec::new();
            for _ in 0..=self.random.below(3) {
                let (partition, leader_epoch, _) = self.partition(by);
                let stream = match self.state.partition(partition) {
                    Some(partition) => partition.stream,
                    None => StreamId(self.random.below(20)),
                };
                let known = self.state.stream(stream).map_or(0, |stream| stream.next.0);
                let base = next.entry(stream).or_insert(known);
                let wrong = if self.random.below(10) == 0 { self.random.below(20) as i64 - 10 } else { 0 };
                let (base, end) = (Offset(*base + wrong), Offset(*base + wrong + 1 + self.random.below(30) as i64));
                next.insert(stream, end.0);
                let stale = if self.random.below(12) == 0 { 1 } else { 0 };
                let leader_epoch = LeaderEpoch(leader_epoch.0 - stale);
                let mut epochs = Vec::new();
                if self.random.below(5) == 0 {
                    let start = LeaderEpoch(leader_epoch.0 - self.random.below(2) as i32);
                    epochs.push(EpochStart { epoch: start, start: base });
                    if start < leader_epoch && end.0 - base.0 > 1 {
                        epochs.push(EpochStart { epoch: leader_epoch, start: Offset(base.0 + 1) });
                    }
                }
                let (bytes, records) = (self.random.below(1 << 20) + 1, end.0.abs_diff(base.0));
                ranges.push(RangeCommit { stream, leader_epoch, base, end, bytes, records, max_timestamp: 5, epochs });
            }
            let incarnation = Incarnation(Uuid::from_u128(2));
            let record = ObjectRecord { bucket: 0, incarnation, format_version: 1, bytes: 1 };
            objects.push(ObjectCommit { object, record, ranges });
        }
        let own = self.state.wals().find(|wal| wal.node == by.node);
        let lsn = Lsn(self.random.below(1_000));
        let trims = own.map(|wal| WalTrim { wal: wal.id, owner_epoch: wal.owner_epoch, lsn }).into_iter();
        let trims = trims.filter(|trim| end_of(self.state.wal(trim.wal).unwrap()) >= trim.lsn.0).collect();
        Command::CommitObjects { by, objects, trims }
    }

    /// Some ranges of some streams by others, now and then of what is not there.
    fn replace(&mut self, by: Registration) -> Command {
        let reserved = self.state.reservations().filter(|(_, reservation)| reservation.by == by);
        let mut ids: Vec<ObjectId> = reserved.map(|(id, _)| id).take(2).collect();
        if ids.is_empty() || self.random.below(8) == 0 {
            let known: Vec<ObjectId> = self.state.objects().map(|(id, _)| id).collect();
            ids = self.random.one_of(&known).into_iter().collect();
        }
        let mut streams: BTreeMap<StreamId, StreamReplacement> = BTreeMap::new();
        for _ in 0..=self.random.below(3) {
            let any = self.random.below(10) == 0;
            let led = self.state.partitions().filter(|partition| any || partition.owner == by.node);
            let filled = led.filter(|led| self.state.ranges(led.stream, Offset(0)).next().is_some());
            let filled: Vec<_> = filled.map(|led| (led.stream, led.leader_epoch)).collect();
            let Some((id, leader_epoch)) = self.random.one_of(&filled) else { continue };
            let stream = self.state.stream(id).unwrap();
            let ranges: Vec<_> = stream.ranges_from(Offset(0)).collect();
            let first = self.random.below(ranges.len().max(1) as u64) as usize;
            let until = ranges.len().min(first + 1 + self.random.below(3) as usize);
            let inputs = ranges.get(first..until).unwrap_or_default();
            let (Some(from), Some(to)) = (inputs.first(), inputs.last()) else { continue };
            let (base, mut end) = (from.base, to.end);
            if self.random.below(10) == 0 {
                end.0 += self.random.below(5) as i64 - 2;
            }
            let mut splits = vec![base, Offset(base.0 + 1 + self.random.below(10) as i64), end];
            splits.retain(|at| *at <= end);
            splits.dedup();
            let outputs = splits.windows(2).map(|pair| RangeOutput {
                base: pair[0],
                end: pair[1],
                object: self.random.one_of(&ids).unwrap_or_default(),
                bytes: self.random.below(1000),
                records: self.random.below(10),
                max_timestamp: 5,
            });
            let outputs = outputs.collect();
            let inputs = inputs.iter().map(|range| RangeInput { base: range.base, object: range.object }).collect();
            let cleaned_to = (self.random.below(4) == 0).then_some(end);
            let replacement = StreamReplacement { stream: stream.id, leader_epoch, inputs, outputs, cleaned_to };
            streams.insert(stream.id, replacement);
        }
        let streams: Vec<StreamReplacement> = streams.into_values().collect();
        let used: BTreeSet<ObjectId> =
            streams.iter().flat_map(|stream| &stream.outputs).map(|output| output.object).collect();
        let incarnation = Incarnation(Uuid::from_u128(2));
        let record = ObjectRecord { bucket: 0, incarnation, format_version: 1, bytes: 1 };
        let objects = used.into_iter().map(|object| NewObject { object, record }).collect();
        Command::ReplaceRanges { by, objects, streams }
    }

    fn register(&mut self) -> Command {
        let node = NodeId(1 + self.random.below(3) as i32);
        let boot = BootId(Uuid::from_u128(u128::from(self.random.next())));
        let wals = vec![wal_id(node.0 as u64)];
        Command::RegisterBroker { node, boot, listeners: Vec::new(), rack: None, wals, features: supported_features() }
    }

    fn create_topic(&mut self) -> Command {
        let owners = (0..=self.random.below(3)).map(|_| self.by().node).collect();
        let separator = if self.random.below(4) == 0 { '.' } else { '_' };
        Command::CreateDistinctTopic {
            name: format!("t{separator}{}", self.random.below(5)),
            topic: TopicId(Uuid::from_u128(u128::from(self.random.below(12)))),
            internal: false,
            replication_factor: 3,
            owners,
            configs: BTreeMap::new(),
        }
    }

    /// A broker that registered, mostly at its epoch.
    fn by(&mut self) -> Registration {
        let brokers: Vec<_> = self.state.brokers().map(|broker| (broker.node, broker.epoch)).collect();
        let Some((node, epoch)) = self.random.one_of(&brokers) else {
            return Registration { node: NodeId(1), epoch: BrokerEpoch(0) };
        };
        let stale = u64::from(self.random.below(30) == 0);
        Registration { node, epoch: BrokerEpoch(epoch.0 - stale) }
    }

    fn topic(&mut self) -> TopicId {
        let topics: Vec<_> = self.state.topics().map(|topic| topic.id).collect();
        self.random.one_of(&topics).unwrap_or(TopicId(Uuid::nil()))
    }

    /// A partition, mostly of this broker, with its leader epoch and newest dirty generation.
    fn partition(&mut self, by: Registration) -> (PartitionId, LeaderEpoch, u64) {
        let any = self.random.below(10) == 0;
        let partitions = self.state.partitions().filter(|partition| any || partition.owner == by.node);
        let partitions: Vec<_> = partitions.map(|it| (it.id, it.leader_epoch, it.generation)).collect();
        let nothing = PartitionId { topic: TopicId(Uuid::nil()), index: 0 };
        self.random.one_of(&partitions).unwrap_or((nothing, LeaderEpoch(0), 0))
    }

    fn own_wal(&mut self, by: Registration) -> WalId {
        wal_id(by.node.0 as u64 + 3 * self.random.below(2))
    }
}

fn init() -> Command {
    let (cluster, incarnation) = (ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
    Command::InitCluster { cluster, incarnation, metadata_level: METADATA_LEVEL }
}

fn wal_id(number: u64) -> WalId {
    WalId(Uuid::from_u128(u128::from(number)))
}

fn end_of(wal: &state::WalState) -> u64 {
    wal.openings.last().map_or(wal.trim.0, |opening| opening.start.0.max(wal.trim.0))
}

/// Puts a checksum that fits behind spoilt bytes.
fn reseal(bytes: &mut Vec<u8>) {
    if bytes.len() > 14 {
        let body = bytes.len() - 4;
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..body]) as u32;
        bytes.truncate(body);
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
}

fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIM_SEEDS").unwrap_or(count)).collect(),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len() as u64) as usize]) }
    }

    /// Flips, cuts, grows or overwrites.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1) as u64) as usize;
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.push(self.next() as u8),
                2 | 3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ if at < bytes.len() => {
                    let value = [0x00, 0xff, 0x7f, 0x80][self.below(4) as usize];
                    let until = (at + 1 + self.below(8) as usize).min(bytes.len());
                    bytes[at..until].fill(value);
                }
                _ => {}
            }
        }
    }
}
