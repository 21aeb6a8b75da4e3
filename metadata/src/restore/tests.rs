use super::*;
use crate::command::{Command, OFFSET_JUMP, ObjectCommit, RangeCommit, Response, supported_features};
use crate::invariants;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const OLD: Incarnation = Incarnation(Uuid::from_u128(2));
const NEW: Incarnation = Incarnation(Uuid::from_u128(3));
const STREAM: StreamId = StreamId(1);

/// A broker with one topic of one partition.
struct Cluster {
    state: State,
    by: Registration,
}

impl Cluster {
    fn new() -> Cluster {
        let by = Registration { node: NodeId(1), epoch: BrokerEpoch(1) };
        let mut cluster = Cluster { state: State::default(), by };
        cluster.apply(Command::InitCluster { cluster: CLUSTER, incarnation: OLD, metadata_level: 1 });
        cluster.register();
        cluster.apply(Command::CreateDistinctTopic {
            name: "t".into(),
            topic: TopicId(Uuid::from_u128(5)),
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1)],
            configs: BTreeMap::new(),
        });
        cluster
    }

    fn apply(&mut self, command: Command) -> Response {
        self.state.apply(self.state.applied() + 1, command).unwrap()
    }

    fn register(&mut self) {
        let register = Command::RegisterBroker {
            node: NodeId(1),
            boot: BootId(Uuid::nil()),
            listeners: Vec::new(),
            rack: None,
            wals: Vec::new(),
            features: supported_features(),
        };
        let Response::BrokerEpoch(epoch) = self.apply(register) else { panic!() };
        self.by.epoch = epoch;
    }

    /// What a restarted process does first.
    fn restart(&mut self) {
        self.register();
        let partitions = self.state.partitions().map(|partition| partition.id).collect();
        self.apply(Command::TakePartitions { by: self.by, partitions });
    }

    fn epoch(&self) -> LeaderEpoch {
        self.state.partitions().next().unwrap().leader_epoch
    }

    fn next(&self) -> Offset {
        self.state.stream(STREAM).unwrap().next
    }

    /// Puts what an upload would, without its commit.
    fn put(&mut self, records: i64) -> FoundObject {
        let Response::ObjectIds { first, .. } =
            self.apply(Command::ReserveObjects { by: self.by, count: 1, ttl_ms: 1_000 })
        else {
            panic!()
        };
        found(first, self.epoch(), self.next().0, records)
    }

    fn commit(&mut self, object: &FoundObject) {
        let FoundObject { object, record, ranges } = object.clone();
        let leader_epoch = self.epoch();
        let ranges = ranges.into_iter().map(|range| RangeCommit {
            stream: range.stream,
            leader_epoch,
            base: range.base,
            end: range.end,
            bytes: range.bytes,
            records: range.records,
            max_timestamp: range.max_timestamp,
            epochs: range.epochs,
        });
        let objects = vec![ObjectCommit { object, record, ranges: ranges.collect() }];
        let Response::Commit(answer) = self.apply(Command::CommitObjects { by: self.by, objects, trims: Vec::new() })
        else {
            panic!()
        };
        assert!(answer.trimmed, "{answer:?}");
    }
}

fn found(object: ObjectId, epoch: LeaderEpoch, base: i64, records: i64) -> FoundObject {
    let range = FoundRange {
        stream: STREAM,
        base: Offset(base),
        end: Offset(base + records),
        bytes: records as u64 * 10,
        records: records as u64,
        max_timestamp: 0,
        epochs: vec![EpochStart { epoch, start: Offset(base) }],
        dense: true,
    };
    let record = ObjectRecord { bucket: 0, incarnation: OLD, format_version: 1, bytes: 1_000 };
    FoundObject { object, record, ranges: vec![range] }
}

fn restored(state: &State, plan: &RollForward) -> State {
    state.clone().restored(plan, NEW, NodeId(1), OFFSET_JUMP).unwrap()
}

#[test]
fn what_was_committed_after_the_backup_is_found_and_everything_goes_on_beyond_a_jump() {
    let mut cluster = Cluster::new();
    let first = cluster.put(10);
    cluster.commit(&first);
    let backup = cluster.state.clone();
    let (second, third) = {
        let second = cluster.put(5);
        cluster.commit(&second);
        let third = cluster.put(7);
        cluster.commit(&third);
        (second, third)
    };
    let plan = roll_forward(&backup, &[third.clone(), second.clone()]);
    let state = restored(&backup, &plan);
    let stream = state.stream(STREAM).unwrap();
    let ranges: Vec<_> = stream.ranges_from(Offset(0)).map(|range| (range.base.0, range.end.0, range.object)).collect();
    assert_eq!(ranges, [(0, 10, first.object), (10, 15, second.object), (15, 22, third.object)]);
    assert_eq!(stream.next, Offset(22 + OFFSET_JUMP));
    assert_eq!(state.cluster(), Some((CLUSTER, NEW)));
    assert!(state.next_object > third.object && state.next_producer_id > cluster.state.next_producer_id);
    assert!(state.next_stream > cluster.state.next_stream && state.next_broker_epoch > cluster.state.next_broker_epoch);
    assert!(state.partitions().next().unwrap().leader_epoch > cluster.epoch());
    assert!(state.keeps_objects_of(OLD) && !state.keeps_objects_of(NEW));
    assert_eq!(snapshot::decode(&snapshot::encode(&state)).unwrap(), state);

    // The new incarnation takes commands, and may be declared the only one.
    let mut after = Cluster { state, by: cluster.by };
    after.restart();
    let fourth = after.put(3);
    after.commit(&fourth);
    assert_eq!(after.next(), Offset(22 + OFFSET_JUMP + 3));
    assert!(after.state.apply(after.state.applied() + 1, Command::DeclareOnly { incarnation: OLD }).is_err());
    after.apply(Command::DeclareOnly { incarnation: NEW });
    assert!(!after.state.keeps_objects_of(OLD));
    assert_eq!(invariants::check(&after.state), Ok(()));

    // And once more.
    let again = after.state.clone().restored(&RollForward::default(), OLD, NodeId(1), OFFSET_JUMP).unwrap();
    assert_eq!(again.stream(STREAM).unwrap().next, Offset(22 + 2 * OFFSET_JUMP + 3));
}

#[test]
fn what_nothing_leads_up_to_is_counted_and_its_offsets_are_not_used_again() {
    let mut cluster = Cluster::new();
    let backup = cluster.state.clone();
    let lost = cluster.put(10);
    cluster.commit(&lost);
    let behind = cluster.put(4);
    let mut other = found(ObjectId(77), LeaderEpoch(0), 0, 9);
    other.ranges[0].stream = StreamId(9);
    let plan = roll_forward(&backup, &[behind, other]);
    assert!(plan.extensions.is_empty());
    assert_eq!(plan.unreached, BTreeMap::from([(STREAM, 4)]));
    assert_eq!(plan.unknown, BTreeMap::from([(StreamId(9), 9)]));
    let state = restored(&backup, &plan);
    assert_eq!(state.stream(STREAM).unwrap().next, Offset(14 + OFFSET_JUMP));
    assert!(state.next_object > ObjectId(77) && state.next_stream > StreamId(9));
}

#[test]
fn a_put_that_a_later_epoch_has_overtaken_is_not_taken() {
    let mut cluster = Cluster::new();
    let backup = cluster.state.clone();
    let orphan = cluster.put(10);
    cluster.restart();
    let committed = cluster.put(3);
    cluster.commit(&committed);
    let plan = roll_forward(&backup, &[orphan.clone(), committed.clone()]);
    let taken: Vec<_> = plan.extensions[&STREAM].iter().map(|(object, _)| *object).collect();
    assert_eq!(taken, [committed.object]);
    let alone = roll_forward(&backup, &[orphan]);
    assert_eq!(alone.extensions[&STREAM].len(), 1, "alone it may have been acked");
}

#[test]
fn an_object_with_gaps_or_epochs_that_go_back_is_not_taken() {
    let mut cluster = Cluster::new();
    cluster.restart();
    let first = cluster.put(1);
    cluster.commit(&first);
    let mut gaps = found(ObjectId(50), cluster.epoch(), 1, 5);
    gaps.ranges[0].dense = false;
    let older = found(ObjectId(51), LeaderEpoch(0), 1, 5);
    let plan = roll_forward(&cluster.state, &[gaps, older]);
    assert!(plan.extensions.is_empty(), "{plan:?}");
}

/// Random lives of a log: commits, puts that came to nothing, restarts; a backup somewhere on the way.
#[test]
fn a_roll_forward_gives_what_was_committed_and_nothing_else_at_those_offsets() {
    for seed in 1..=3_000u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut cluster = Cluster::new();
        let mut stored: Vec<FoundObject> = Vec::new();
        // The epoch that wrote each committed offset.
        let mut truth: Vec<LeaderEpoch> = Vec::new();
        let mut backup = cluster.state.clone();
        for _ in 0..3 + draw(15) {
            match draw(6) {
                0..3 => {
                    let object = cluster.put(1 + draw(5) as i64);
                    cluster.commit(&object);
                    truth.resize(object.ranges[0].end.0 as usize, cluster.epoch());
                    stored.push(object);
                }
                3 => {
                    stored.push(cluster.put(1 + draw(9) as i64));
                    cluster.restart();
                }
                4 => cluster.restart(),
                _ => backup = cluster.state.clone(),
            }
        }
        let at = draw(stored.len().max(1) as u64) as usize;
        let mut shuffled = stored.split_off(at.min(stored.len()));
        shuffled.extend(stored);
        shuffled.retain(|object| backup.object(object.object).is_none());
        let plan = roll_forward(&backup, &shuffled);
        let state = restored(&backup, &plan);
        let stream = state.stream(STREAM).unwrap();
        let last = stream.jumps.last().unwrap().from;
        assert!(last >= cluster.next(), "seed {seed}: {last} of {} committed", truth.len());
        for (_, range) in plan.extensions.values().flatten() {
            for offset in range.base.0..range.end.0.min(truth.len() as i64) {
                assert_eq!(range.epochs[0].epoch, truth[offset as usize], "seed {seed}: offset {offset}");
            }
        }
        assert!(stream.next.0 >= truth.len() as i64 + OFFSET_JUMP, "seed {seed}");
    }
}

#[test]
fn a_written_log_opens_as_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = restored(&Cluster::new().state, &RollForward::default());
    let (at, data) = first_snapshot(&state, 7);
    write_log(folder.path(), NodeId(1), at, data.clone()).unwrap();
    assert!(write_log(folder.path(), NodeId(1), at, data.clone()).is_err(), "not over another");
    let stored = RedbLog::open(folder.path()).unwrap().load().unwrap().unwrap();
    assert_eq!((stored.snapshot.data, stored.snapshot.index, stored.snapshot.term), (data, state.applied(), 7));
}
