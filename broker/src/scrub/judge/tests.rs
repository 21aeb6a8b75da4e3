use bytes::Bytes;
use seawall_metadata::command::{Command, METADATA_LEVEL, ObjectCommit, ObjectRecord, RangeCommit, Response};
use seawall_metadata::{BootId, ClusterId, LeaderEpoch, NodeId, Registration, TopicId};
use uuid::Uuid;

use super::*;
use crate::log_cache::BatchEntry;
use crate::object_format::ObjectBuilder;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const OWN: Incarnation = Incarnation(Uuid::from_u128(2));
const OLDER: Incarnation = Incarnation(Uuid::from_u128(3));
const TOPIC: TopicId = TopicId(Uuid::from_u128(4));

/// Metadata of one topic of so many partitions, by commands.
struct Story {
    state: State,
    index: u64,
    by: Registration,
}

impl Story {
    fn of(partitions: usize) -> Story {
        let by = Registration { node: NodeId(1), epoch: seawall_metadata::BrokerEpoch(0) };
        let mut story = Story { state: State::default(), index: 0, by };
        story.apply(Command::InitCluster { cluster: CLUSTER, incarnation: OWN, metadata_level: METADATA_LEVEL });
        let register = Command::RegisterBroker {
            node: NodeId(1),
            boot: BootId(Uuid::from_u128(1)),
            listeners: Vec::new(),
            rack: None,
            wals: Vec::new(),
            features: seawall_metadata::command::supported_features(),
        };
        let Response::BrokerEpoch(epoch) = story.apply(register) else { panic!() };
        story.by.epoch = epoch;
        story.apply(Command::CreateDistinctTopic {
            name: "t".into(),
            topic: TOPIC,
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1); partitions],
            configs: Default::default(),
        });
        story
    }

    fn apply(&mut self, command: Command) -> Response {
        self.index += 1;
        self.state.apply(self.index, command).unwrap()
    }

    fn reserve(&mut self, count: u32) -> ObjectId {
        let reserve = Command::ReserveObjects { by: self.by, count, ttl_ms: 1_000 };
        let Response::ObjectIds { first, .. } = self.apply(reserve) else { panic!() };
        first
    }

    /// One record of each stream.
    fn commit(&mut self, object: ObjectId, incarnation: Incarnation, streams: std::ops::RangeInclusive<u64>) {
        let ranges = streams.map(|stream| {
            let stream = StreamId(stream);
            let base = self.state.stream(stream).unwrap().next;
            RangeCommit {
                stream,
                leader_epoch: LeaderEpoch(0),
                base,
                end: Offset(base.0 + 1),
                bytes: 10,
                records: 1,
                max_timestamp: 5,
                epochs: Vec::new(),
            }
        });
        let record = ObjectRecord { bucket: 0, incarnation, format_version: 1, bytes: 100 };
        let objects = vec![ObjectCommit { object, record, ranges: ranges.collect() }];
        self.apply(Command::CommitObjects { by: self.by, objects, trims: Vec::new() });
    }

    fn trim(&mut self, stream: u64, start: i64) {
        let (stream, start) = (StreamId(stream), Offset(start));
        self.apply(Command::TrimStream { by: self.by, stream, leader_epoch: LeaderEpoch(0), start });
    }

    fn judge(&self, incarnation: Incarnation, object: ObjectId) -> Listed {
        judge_listed(&self.state, &keys(), OWN, &keys().key(incarnation, object))
    }
}

fn keys() -> ObjectKeys {
    ObjectKeys::new("p", CLUSTER).unwrap()
}

#[test]
fn a_listed_object_is_an_orphan_only_once_it_is_forgotten() {
    let mut story = Story::of(1);
    assert_eq!(story.judge(OWN, ObjectId(1)), Listed::Unissued(ObjectId(1)), "as metadata that is too old says");
    let object = story.reserve(2);
    assert_eq!(story.judge(OWN, object), Listed::Reserved);
    story.commit(object, OWN, 1..=1);
    assert_eq!(story.judge(OWN, object), Listed::Used);
    story.trim(1, 1);
    assert_eq!(story.judge(OWN, object), Listed::Waiting);
    story.apply(Command::AdvanceTime { now_ms: 5_000 });
    let dead = ObjectId(object.0 + 1);
    assert_eq!(story.judge(OWN, dead), Listed::Waiting, "its reservation ended");
    story.apply(Command::ForgetObjects { by: story.by, objects: vec![object, dead], marked_before_ms: 5_000 });
    for object in [object, dead] {
        assert_eq!(story.judge(OWN, object), Listed::Orphan(object));
    }
    assert_eq!(story.judge(OWN, ObjectId(dead.0 + 1)), Listed::Unissued(ObjectId(dead.0 + 1)));
}

#[test]
fn what_is_of_another_incarnation_is_used_or_told_and_never_an_orphan() {
    let mut story = Story::of(1);
    let object = story.reserve(3);
    story.commit(object, OLDER, 1..=1);
    assert_eq!(story.judge(OLDER, object), Listed::Used);
    assert_eq!(story.judge(OWN, object), Listed::Foreign, "the same id under our folder is nobody's");
    for unknown in [ObjectId(object.0 + 1), ObjectId(object.0 + 100)] {
        assert_eq!(story.judge(OLDER, unknown), Listed::OtherIncarnation);
    }
}

#[test]
fn what_is_no_key_of_ours_is_foreign() {
    let story = Story::of(1);
    let folder = keys().folder(OWN, 7);
    for key in [format!("{folder}/readme"), format!("{folder}/0000000000000abc.tmp"), "q/x".to_owned()] {
        let judged = judge_listed(&story.state, &keys(), OWN, &ObjectKey::new(key.as_str()).unwrap());
        assert_eq!(judged, Listed::Foreign, "{key}");
    }
}

/// The verdict by every older state is the same, or none.
#[test]
fn an_orphan_of_any_state_is_one_for_ever() {
    let mut story = Story::of(1);
    let mut orphans: Vec<ObjectId> = Vec::new();
    for round in 0..30u64 {
        let object = story.reserve(3);
        story.commit(object, OWN, 1..=1);
        if round % 3 == 0 {
            story.trim(1, round as i64);
        }
        let now_ms = story.state.now_ms() + 400;
        story.apply(Command::AdvanceTime { now_ms });
        if round % 4 == 1 {
            let objects: Vec<ObjectId> = story.state.marked_before(now_ms).collect();
            story.apply(Command::ForgetObjects { by: story.by, objects, marked_before_ms: now_ms });
        }
        for orphan in &orphans {
            assert_eq!(story.judge(OWN, *orphan), Listed::Orphan(*orphan));
        }
        let issued = (1..=object.0 + 3).map(ObjectId);
        orphans = issued.filter(|object| matches!(story.judge(OWN, *object), Listed::Orphan(_))).collect();
    }
    assert!(orphans.len() > 20, "{} orphans", orphans.len());
}

#[test]
fn every_used_object_comes_once_with_all_its_ranges_however_little_is_held() {
    let mut story = Story::of(5);
    let mut used: BTreeMap<ObjectId, usize> = BTreeMap::new();
    for round in 0..60u64 {
        let object = story.reserve(1);
        let last = 1 + round % 5;
        story.commit(object, OWN, 1..=last);
        used.insert(object, last as usize);
    }
    for (ranges_max, steps) in [(1, 1), (2, 7), (1_000, 1_000)] {
        let mut seen: BTreeMap<ObjectId, usize> = BTreeMap::new();
        for folder in 0..256 {
            let mut from = Some(ObjectId(0));
            while let Some(first) = from {
                let mut pass = UsedObjects::of(&keys(), folder, first, ranges_max);
                while pass.step(&story.state, steps) {}
                let (found, left_out) = pass.finish();
                for (object, ranges) in found {
                    assert_eq!(keys().folder_number(object), folder);
                    assert_eq!(seen.insert(object, ranges.len()), None, "{object} came twice");
                }
                from = left_out;
            }
        }
        assert_eq!(seen, used, "{ranges_max} {steps}");
    }
}

/// Blocks of one batch each: base, end, records, leader epoch.
fn index(blocks: &[(i64, i64, u32, i32)]) -> ObjectIndex {
    let mut builder = ObjectBuilder::new(ObjectId(1), OWN);
    for (base, end, record_count, leader_epoch) in blocks {
        let bytes = Bytes::from(vec![0; 400_000]);
        let entry = BatchEntry {
            base: *base,
            last: end - 1,
            leader_epoch: *leader_epoch,
            max_timestamp: *base,
            record_count: *record_count,
            bytes: bytes.len() as u32,
            producer: None,
        };
        builder.add_batch_after_gap(StreamId(1), &entry, &bytes.into());
    }
    builder.finish().index
}

#[test]
fn an_index_that_differs_from_metadata_is_told_with_where() {
    let range = |base: i64, end: i64, records: u64, max_timestamp: i64| RangeRef {
        object: ObjectId(1),
        base: Offset(base),
        end: Offset(end),
        bytes: 800_000,
        records,
        max_timestamp,
        leader_epoch: LeaderEpoch(2),
    };
    let good = [(10, 20, 10, 1), (20, 30, 10, 2)];
    let gap = [(10, 20, 10, 1), (25, 30, 5, 2)];
    let cases: [(&[_], RangeRef, bool, Option<&str>); 13] = [
        (&good, range(10, 30, 20, 20), true, None),
        (&gap, range(10, 30, 15, 25), false, None),
        (&gap, range(10, 30, 15, 25), true, Some("nothing from 20 to 25")),
        (&good, range(5, 30, 20, 20), false, None),
        (&good, range(5, 30, 20, 20), true, Some("hold 10 to 30")),
        (&good, range(10, 31, 20, 20), false, Some("hold 10 to 30")),
        (&good, range(10, 29, 20, 20), true, Some("hold 10 to 30")),
        (&good, range(12, 30, 20, 20), true, Some("hold 10 to 30")),
        (&good, range(10, 30, 21, 20), true, Some("20 records, metadata says 21")),
        (&good, range(10, 30, 20, 21), true, Some("newest timestamp 20")),
        (&good, RangeRef { bytes: 1, ..range(10, 30, 20, 20) }, true, Some("800000 bytes")),
        (&good, RangeRef { leader_epoch: LeaderEpoch(1), ..range(10, 30, 20, 20) }, true, Some("epochs up to 2")),
        (&good, range(40, 50, 1, 1), true, Some("holds none")),
    ];
    for (blocks, range, dense, word) in cases {
        let found = mismatch(&index(blocks), StreamId(1), &range, dense);
        match word {
            None => assert_eq!(found, None, "{range:?}"),
            Some(word) => assert!(found.as_ref().is_some_and(|found| found.contains(word)), "{word}: {found:?}"),
        }
    }
    let empty = RangeRef { bytes: 0, ..range(40, 50, 0, -1) };
    assert_eq!(mismatch(&index(&good), StreamId(1), &empty, false), None, "all of it was compacted away");
    assert!(mismatch(&index(&good), StreamId(2), &range(10, 30, 20, 20), true).is_some(), "another stream");
}
