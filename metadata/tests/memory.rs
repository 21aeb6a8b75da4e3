//! What metadata costs in memory and in a snapshot, per partition, object and range: the figures of docs/sizing.md.
//! `cargo test -p seawall-metadata --test memory -- --nocapture` prints them.
//!
//! Memory is what the process takes more from the system, so this file holds one test and nothing else runs beside it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use seawall_metadata::command::*;
use seawall_metadata::*;
use uuid::Uuid;

const TOPICS: u64 = 40;
const PARTITIONS: u64 = 500;
/// Of one partition each, as compaction leaves them.
const OWN_OBJECTS: u64 = 100_000;
/// Of many partitions, as uploads make them.
const SHARED_OBJECTS: u64 = 200;
const RANGES_IN_SHARED: u64 = 1_000;

/// What docs/sizing.md says, and what this may be away from it: 30 % either way.
const SAID: [(&str, u64, u64); 3] =
    [("partition", 1_500, 200), ("object of one range", 230, 105), ("range in a shared object", 190, 51)];

#[test]
fn a_partition_an_object_and_a_range_cost_what_the_page_on_sizing_says() {
    // One after the other: a snapshot takes memory while it is made.
    let memory = costs(|_| resident());
    let stored = costs(|site| snapshot::encode(&site.state).len() as u64);
    for ((what, ..), (memory, stored)) in SAID.iter().zip(memory.iter().zip(stored)) {
        println!("{what:<26} {memory:>6} bytes of memory {stored:>6} bytes in a snapshot");
    }
    for ((what, said, said_stored), (memory, stored)) in SAID.into_iter().zip(memory.into_iter().zip(stored)) {
        for (is, said) in [(memory, said), (stored, said_stored)] {
            assert!(is * 10 > said * 7 && is * 10 < said * 13, "{what}: {is} bytes, and docs/sizing.md says {said}");
        }
    }
}

/// Of a partition, an object of one range, and a range in a shared object.
fn costs(of: impl Fn(&Site) -> u64) -> [u64; 3] {
    let mut site = Site::new();
    let empty = of(&site);
    site.topics();
    let partitions = of(&site);
    for _ in 0..OWN_OBJECTS {
        site.commit(1);
    }
    let own = of(&site);
    for _ in 0..SHARED_OBJECTS {
        site.commit(RANGES_IN_SHARED);
    }
    let object = (own - partitions) / OWN_OBJECTS;
    let ranges = of(&site) - own - object * SHARED_OBJECTS;
    [(partitions - empty) / (TOPICS * PARTITIONS), object, ranges / (SHARED_OBJECTS * RANGES_IN_SHARED)]
}

/// Metadata of a cluster of one broker that has taken something in every partition.
struct Site {
    state: State,
    by: Registration,
    streams: Vec<StreamId>,
    /// Whose turn it is, and what each stream has reached.
    turn: usize,
    next: Vec<i64>,
}

impl Site {
    fn new() -> Self {
        let (cluster, incarnation) = (ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
        let (node, wal) = (NodeId(1), WalId(Uuid::from_u128(3)));
        let mut state = State::default();
        let init = Command::InitCluster { cluster, incarnation, metadata_level: METADATA_LEVEL };
        state.apply(1, init).unwrap();
        let register = Command::RegisterBroker {
            node,
            boot: BootId(Uuid::from_u128(4)),
            listeners: Vec::new(),
            rack: None,
            wals: vec![wal],
            features: supported_features(),
        };
        let Ok(Response::BrokerEpoch(epoch)) = state.apply(2, register) else { panic!("the broker registers") };
        let by = Registration { node, epoch };
        let mut site = Self { state, by, streams: Vec::new(), turn: 0, next: Vec::new() };
        site.apply(Command::OpenWal { by, wal, owner_epoch: OwnerEpoch(1), start: Lsn(0) });
        site
    }

    fn apply(&mut self, command: Command) -> Response {
        let name = command.name();
        let answer = self.state.apply(self.state.applied() + 1, command);
        answer.unwrap_or_else(|error| panic!("{name}: {error:?}"))
    }

    /// Topics whose partitions are led and may hold acked records.
    fn topics(&mut self) {
        for n in 0..TOPICS {
            let topic = TopicId(Uuid::from_u128(u128::from(1_000 + n)));
            let create = Command::CreateDistinctTopic {
                name: format!("orders-of-region-{n}"),
                topic,
                internal: false,
                replication_factor: 3,
                owners: vec![self.by.node; PARTITIONS as usize],
                configs: BTreeMap::from([("retention.ms".to_owned(), "604800000".to_owned())]),
            };
            let Response::Topic { streams, .. } = self.apply(create) else { panic!("a topic") };
            self.streams.extend(streams);
            for index in 0..PARTITIONS as i32 {
                let wals = BTreeSet::from([WalId(Uuid::from_u128(3))]);
                let (by, partition) = (self.by, PartitionId { topic, index });
                let leader_epoch = LeaderEpoch(0);
                self.apply(Command::MarkDirty { by, partition, leader_epoch, wals, generation: 1 });
            }
        }
        self.next = vec![0; self.streams.len()];
        // Their first ranges, which later ones share their node of a tree with.
        for _ in 0..self.streams.len() as u64 / RANGES_IN_SHARED {
            self.commit(RANGES_IN_SHARED);
        }
    }

    /// An object with the next range of as many streams.
    fn commit(&mut self, ranges: u64) {
        let by = self.by;
        let Response::ObjectIds { first, .. } = self.apply(Command::ReserveObjects { by, count: 1, ttl_ms: 600_000 })
        else {
            panic!("an id")
        };
        let ranges = (0..ranges).map(|_| {
            let at = self.turn;
            self.turn = (at + 1) % self.streams.len();
            let base = self.next[at];
            self.next[at] += 1_000;
            let (base, end) = (Offset(base), Offset(base + 1_000));
            let (stream, leader_epoch) = (self.streams[at], LeaderEpoch(0));
            let max_timestamp = 1_700_000_000_000;
            RangeCommit {
                stream,
                leader_epoch,
                base,
                end,
                bytes: 1 << 20,
                records: 1_000,
                max_timestamp,
                epochs: Vec::new(),
            }
        });
        let incarnation = Incarnation(Uuid::from_u128(2));
        let record = ObjectRecord { bucket: 0, incarnation, format_version: 1, bytes: 64 << 20 };
        let object = ObjectCommit { object: first, record, ranges: ranges.collect() };
        self.apply(Command::CommitObjects { by, objects: vec![object], trims: Vec::new() });
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
