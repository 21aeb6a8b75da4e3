//! Encodings as they were released: every later version reads these files, and as long as the finalized level is 1 writes
//! the same bytes. The files are never rewritten; `WRITE_GOLDEN=1` makes one that is not there yet.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use seawall_metadata::command::*;
use seawall_metadata::*;
use uuid::Uuid;

#[test]
fn every_command_is_encoded_as_it_was() {
    let samples = one_of_each()
        .into_iter()
        .chain(one_of_each_later())
        .chain(one_of_each_with_conditions())
        .chain(later_configs())
        .chain(one_of_each_latest())
        .chain(replacements())
        .chain(declarations());
    let kinds: BTreeSet<&str> = samples.map(|command| command.name()).collect();
    let known: BTreeSet<&str> = Command::KINDS.iter().map(|(_, name)| *name).collect();
    assert_eq!(kinds, known, "one sample of each command");
    for (file, commands) in [
        ("commands-1.txt", one_of_each()),
        ("commands-2.txt", one_of_each_later()),
        ("commands-3.txt", one_of_each_with_conditions()),
        ("commands-4.txt", later_configs()),
        ("commands-5.txt", one_of_each_latest()),
        ("commands-6.txt", replacements()),
        ("commands-7.txt", declarations()),
    ] {
        let lines = commands.iter().map(|command| format!("{} {}\n", command.name(), hex(&command.encode().unwrap())));
        let golden = golden(file, lines.collect());
        assert_eq!(golden.lines().count(), commands.len());
        for (line, command) in golden.lines().zip(commands) {
            let (name, bytes) = line.split_once(' ').unwrap();
            assert_eq!(name, command.name());
            assert_eq!(Command::decode(&unhex(bytes)).unwrap(), command, "{name} is read");
            assert_eq!(hex(&command.encode().unwrap()), bytes, "{name} is written");
        }
    }
}

#[test]
fn a_snapshot_is_encoded_as_it_was() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().enumerate() {
        let answer = state.apply(index as u64 + 1, command.clone());
        // The samples are in the order of their kinds, so some cannot apply; what they would make is made below.
        let _ = answer;
    }
    for (index, command) in a_history().into_iter().enumerate() {
        state.apply(index as u64 + 101, command).unwrap();
    }
    let read = as_it_was("snapshot-1.txt", &state);
    let empty = |what: &str, count: usize| assert!(count > 0, "the golden snapshot holds no {what}");
    empty("topics", read.topics().count());
    empty("reservations", read.reservations().count());
    empty("objects", read.objects().filter(|(_, object)| object.record.is_some()).count());
    empty("exceptions", read.objects().filter(|(_, object)| !object.exceptions.is_empty()).count());
    empty("marked objects", read.marked_before(u64::MAX).count());
    empty("WALs", read.wals().count());
    empty("dirty marks", read.partitions().filter(|partition| partition.dirty.is_some()).count());
    empty("closed epochs", read.partitions().filter(|partition| !partition.closed.is_empty()).count());
    empty("jumps", read.streams().filter(|stream| !stream.jumps.is_empty()).count());
    empty("configs", read.configs(&ConfigResource::BrokerDefault).into_iter().count());
}

#[test]
fn a_snapshot_with_what_came_later_is_encoded_as_it_was() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().take(1).chain(one_of_each_later()).enumerate() {
        state.apply(index as u64 + 1, command).unwrap();
    }
    let read = as_it_was("snapshot-2.txt", &state);
    assert_eq!(read.quotas().len(), 1, "the golden snapshot holds no quotas");
}

#[test]
fn a_snapshot_with_configs_of_groups_is_encoded_as_it_was() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().take(1).chain(later_configs()).enumerate() {
        state.apply(index as u64 + 1, command).unwrap();
    }
    let read = as_it_was("snapshot-3.txt", &state);
    assert_eq!(read.client_metrics().count(), 1);
}

/// Version 1 and formats 1 and 2 held these for a while.
#[test]
fn what_was_written_before_its_version_was_raised_is_read() {
    for command in later_configs() {
        let mut bytes = command.encode().unwrap();
        assert_eq!(bytes[2..4], [2, 0], "older nodes are told that it is newer");
        bytes[2] = 1;
        assert_eq!(Command::decode(&bytes).unwrap(), command);
    }
    let plain = Command::AlterConfigs { resource: ConfigResource::BrokerDefault, ops: Vec::new(), replace_all: false };
    let mut bytes = plain.encode().unwrap();
    assert_eq!(bytes[2..4], [1, 0]);
    bytes[2] = 2;
    assert!(Command::decode(&bytes).is_err(), "one value has one encoding");
    bytes[2] = 3;
    assert_eq!(Command::decode(&bytes), Err(CommandError::Unknown { kind: 23, version: 3 }));
}

#[test]
fn a_snapshot_that_held_configs_of_groups_before_its_format_was_raised_is_read() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().take(1).chain(later_configs()).enumerate() {
        state.apply(index as u64 + 1, command).unwrap();
    }
    let now = snapshot::encode(&state);
    // Without the section of quotas (id, length, an empty map) and the checksum, as format 1.
    let mut before = now[..now.len() - 4 - 14].to_vec();
    before[8] = 1;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &before) as u32;
    before.extend(crc.to_le_bytes());
    assert_eq!(snapshot::decode(&before).unwrap(), state);
}

/// A state may have legs of WALs and nothing else that came later.
#[test]
fn a_snapshot_with_legs_of_wals_is_encoded_as_it_was() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().take(1).chain(a_mirror()).enumerate() {
        state.apply(index as u64 + 1, command).unwrap();
    }
    let read = as_it_was("snapshot-4.txt", &state);
    assert!(read.quotas().is_empty());
    assert_eq!(read.wal_legs(WalId(id(5))).unwrap().legs.len(), 2, "the golden snapshot holds no legs");
}

#[test]
fn a_snapshot_with_replaced_ranges_is_encoded_as_it_was() {
    let mut state = State::default();
    for (index, command) in one_of_each().into_iter().take(1).chain(a_compaction()).enumerate() {
        state.apply(index as u64 + 1, command).unwrap();
    }
    let read = as_it_was("snapshot-5.txt", &state);
    assert!(read.wal_legs(WalId(id(5))).is_none());
    assert!(read.is_rewritten(ObjectId(2)) && !read.is_rewritten(ObjectId(1)));
    assert_eq!(read.cleaned_to(StreamId(1)), Offset(8));
}

#[test]
fn a_snapshot_of_a_restored_cluster_is_encoded_as_it_was() {
    let mut state = State::default();
    state.apply(1, one_of_each().remove(0)).unwrap();
    let (_, before) = state.cluster().unwrap();
    let found = restore::RollForward::default();
    let state = state.restored(&found, Incarnation(id(9)), NodeId(1), OFFSET_JUMP).unwrap();
    let read = as_it_was("snapshot-6.txt", &state);
    assert!(read.keeps_objects_of(before));
}

/// The state in a golden snapshot, which must be that one.
fn as_it_was(file: &str, state: &State) -> State {
    let bytes = snapshot::encode(state);
    let lines: String = bytes.chunks(64).map(|chunk| hex(chunk) + "\n").collect();
    let golden = unhex(&golden(file, lines).replace('\n', ""));
    let read = snapshot::decode(&golden).unwrap();
    assert!(read == *state, "{file} is read");
    assert!(golden == bytes, "{file} is written");
    read
}

/// What a broker of level 1 says of itself.
fn supported_features_then() -> BTreeMap<String, FeatureRange> {
    BTreeMap::from([(METADATA_VERSION.to_owned(), FeatureRange { min: 1, max: 1 })])
}

fn by() -> Registration {
    Registration { node: NodeId(1), epoch: BrokerEpoch(1) }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f00 + number)
}

fn partition(index: i32) -> PartitionId {
    PartitionId { topic: TopicId(id(4)), index }
}

fn object(object: u64, stream: u64, base: i64, end: i64) -> ObjectCommit {
    let record = ObjectRecord { bucket: 2, incarnation: Incarnation(id(2)), format_version: 1, bytes: 123_456 };
    let range = RangeCommit {
        stream: StreamId(stream),
        leader_epoch: LeaderEpoch(1),
        base: Offset(base),
        end: Offset(end),
        bytes: 1_000,
        records: 10,
        max_timestamp: 1_700_000_000_000,
        epochs: vec![
            EpochStart { epoch: LeaderEpoch(0), start: Offset(base) },
            EpochStart { epoch: LeaderEpoch(1), start: Offset(base + 1) },
        ],
    };
    ObjectCommit { object: ObjectId(object), record, ranges: vec![range] }
}

fn one_of_each() -> Vec<Command> {
    let wal = WalId(id(5));
    let trim = WalTrim { wal, owner_epoch: OwnerEpoch(6), lsn: Lsn(4096) };
    let feature = FeatureRange { min: 0, max: 3 };
    vec![
        Command::InitCluster { cluster: ClusterId(id(1)), incarnation: Incarnation(id(2)), metadata_level: 1 },
        Command::AdvanceTime { now_ms: 12_345 },
        Command::FinalizeFeatures { features: BTreeMap::from([("wal.format".into(), 0)]) },
        Command::RegisterBroker {
            node: NodeId(1),
            boot: BootId(id(3)),
            listeners: vec![Listener { name: "PLAINTEXT".into(), host: "broker-1.example".into(), port: 9092 }],
            rack: Some("row-7".into()),
            wals: vec![wal],
            features: supported_features_then().into_iter().chain([("wal.format".into(), feature)]).collect(),
        },
        Command::FenceBroker { node: NodeId(9), epoch: BrokerEpoch(77) },
        Command::CreateTopic {
            name: "orders".into(),
            topic: TopicId(id(4)),
            internal: true,
            replication_factor: 3,
            owners: vec![NodeId(1), NodeId(1)],
            configs: BTreeMap::from([("cleanup.policy".into(), "compact".into())]),
        },
        Command::DeleteTopic { topic: TopicId(id(9)) },
        Command::CreatePartitions { topic: TopicId(id(4)), total: 3, owners: vec![NodeId(1)] },
        Command::AlterConfigs {
            resource: ConfigResource::BrokerDefault,
            ops: vec![
                ConfigOp::Set { key: "log.retention.ms".into(), value: "604800000".into() },
                ConfigOp::Delete { key: "log.retention.bytes".into() },
            ],
            replace_all: true,
        },
        Command::AllocateProducerIds { by: by(), count: 1_000 },
        Command::TakePartitions { by: by(), partitions: vec![partition(0), partition(1)] },
        Command::MovePartition { partition: partition(1), leader_epoch: LeaderEpoch(1), to: NodeId(1) },
        Command::MarkDirty {
            by: by(),
            partition: partition(0),
            leader_epoch: LeaderEpoch(1),
            wals: BTreeSet::from([wal, WalId(id(8))]),
            generation: 3,
        },
        Command::MarkClean { by: by(), partition: partition(0), leader_epoch: LeaderEpoch(1), generation: 3 },
        Command::TrimStream { by: by(), stream: StreamId(1), leader_epoch: LeaderEpoch(1), start: Offset(7) },
        Command::ReserveObjects { by: by(), count: 8, ttl_ms: 600_000 },
        Command::CommitObjects { by: by(), objects: vec![object(1, 1, 0, 10)], trims: vec![trim] },
        Command::ForgetObjects { by: by(), objects: vec![ObjectId(99), ObjectId(100)], marked_before_ms: 5 },
        Command::OpenWal { by: by(), wal, owner_epoch: OwnerEpoch(6), start: Lsn(512) },
        Command::SealWal { by: by(), wal, owner_epoch: OwnerEpoch(99), end: Lsn(8192) },
        Command::RecoverWal { by: by(), wal: WalId(id(8)) },
        Command::DamagedWal { by: by(), wal, owner_epoch: OwnerEpoch(99), at: Lsn(8192) },
        Command::TrimWal { by: by(), trim },
        Command::GiveUpWal { wal: WalId(id(8)), past: Lsn(65_536) },
    ]
}

/// Commands that came after the first files were written.
fn one_of_each_later() -> Vec<Command> {
    vec![Command::AlterClientQuotas {
        changes: vec![QuotaChange {
            entity: QuotaEntity {
                user: Some(QuotaName::Named { name: "ann".into() }),
                client_id: Some(QuotaName::Default),
                ip: None,
            },
            values: BTreeMap::from([
                ("consumer_byte_rate".into(), None),
                ("producer_byte_rate".into(), QuotaValue::new(1_048_576.5)),
            ]),
        }],
    }]
}

fn one_of_each_with_conditions() -> Vec<Command> {
    vec![Command::CreateDistinctTopic {
        name: "order.lines".into(),
        topic: TopicId(id(10)),
        internal: false,
        replication_factor: 3,
        owners: vec![NodeId(1)],
        configs: BTreeMap::from([("cleanup.policy".into(), "compact".into())]),
    }]
}

fn later_configs() -> Vec<Command> {
    let set = |key: &str, value: &str| ConfigOp::Set { key: key.into(), value: value.into() };
    let alter = |resource, ops| Command::AlterConfigs { resource, ops, replace_all: false };
    let expect = |value: Option<&str>| ConfigOp::Expect { key: "a".into(), value: value.map(str::to_owned) };
    vec![
        alter(ConfigResource::Group { name: "g".into() }, vec![set("consumer.session.timeout.ms", "50000")]),
        alter(ConfigResource::ClientMetrics { name: "m".into() }, vec![set("interval.ms", "1000")]),
        alter(ConfigResource::BrokerDefault, vec![set("a", "1"), expect(None)]),
        alter(ConfigResource::BrokerDefault, vec![set("a", "2"), expect(Some("1"))]),
    ]
}

fn one_of_each_latest() -> Vec<Command> {
    let leg = |number, device: &str| WalLeg { leg: LegId(id(number)), device: device.into(), bytes: 1 << 30 };
    let legs = vec![leg(10, "/dev/disk/by-id/nvme-a"), leg(11, "/dev/disk/by-id/nvme-b")];
    vec![Command::SetWalLegs { by: by(), wal: WalId(id(5)), set_epoch: 1, legs }]
}

fn declarations() -> Vec<Command> {
    vec![Command::DeclareOnly { incarnation: Incarnation(id(2)) }]
}

fn replacements() -> Vec<Command> {
    let record = ObjectRecord { bucket: 2, incarnation: Incarnation(id(2)), format_version: 1, bytes: 5_000 };
    let (base, object) = (Offset(0), ObjectId(2));
    let inputs = vec![RangeInput { base, object: ObjectId(1) }];
    let outputs =
        vec![RangeOutput { base, end: Offset(10), object, bytes: 900, records: 9, max_timestamp: 1_700_000_000_000 }];
    let replacement = |stream, leader_epoch, cleaned_to| StreamReplacement {
        stream: StreamId(stream),
        leader_epoch: LeaderEpoch(leader_epoch),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        cleaned_to,
    };
    let streams = vec![replacement(1, 1, Some(Offset(8))), replacement(2, 1, None)];
    vec![Command::ReplaceRanges { by: by(), objects: vec![NewObject { object, record }], streams }]
}

fn a_compaction() -> Vec<Command> {
    let partitions = vec![partition(0), partition(1)];
    let [register, _] = a_mirror().into_iter().take(2).collect::<Vec<_>>().try_into().unwrap();
    let mut commands = vec![register];
    commands.extend(one_of_each().into_iter().filter(|command| matches!(command, Command::CreateTopic { .. })));
    commands.extend([
        Command::TakePartitions { by: by(), partitions },
        Command::ReserveObjects { by: by(), count: 4, ttl_ms: 600_000 },
        Command::CommitObjects { by: by(), objects: vec![object(1, 1, 0, 10)], trims: Vec::new() },
    ]);
    commands.extend(replacements());
    commands
}

fn a_mirror() -> Vec<Command> {
    let register = Command::RegisterBroker {
        node: NodeId(1),
        boot: BootId(id(3)),
        listeners: Vec::new(),
        rack: None,
        wals: vec![WalId(id(5))],
        features: supported_features_then(),
    };
    let open = Command::OpenWal { by: by(), wal: WalId(id(5)), owner_epoch: OwnerEpoch(1), start: Lsn(4096) };
    [register, open].into_iter().chain(one_of_each_latest()).collect()
}

/// Goes on where the samples end: fills what they leave empty.
fn a_history() -> Vec<Command> {
    let wal = WalId(id(5));
    let dirty = |index, leader_epoch| Command::MarkDirty {
        by: by(),
        partition: partition(index),
        leader_epoch: LeaderEpoch(leader_epoch),
        wals: BTreeSet::from([wal]),
        generation: 4,
    };
    vec![
        dirty(0, 1),
        Command::CommitObjects {
            by: by(),
            objects: vec![object(2, 1, 0, 10), object(3, 1, 50, 60)],
            trims: Vec::new(),
        },
        Command::DamagedWal { by: by(), wal, owner_epoch: OwnerEpoch(6), at: Lsn(8192) },
        Command::GiveUpWal { wal, past: Lsn(9000) },
        Command::OpenWal { by: by(), wal, owner_epoch: OwnerEpoch(7), start: Lsn(9000) },
        Command::OpenWal { by: by(), wal, owner_epoch: OwnerEpoch(8), start: Lsn(9900) },
        dirty(1, 2),
        Command::AlterConfigs {
            resource: ConfigResource::Broker { node: NodeId(1) },
            ops: vec![ConfigOp::Set { key: "num.io.threads".into(), value: "3".into() }],
            replace_all: false,
        },
    ]
}

/// The golden file, which must hold `now` if it is made today.
fn golden(name: &str, now: String) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    std::fs::read_to_string(&path).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
