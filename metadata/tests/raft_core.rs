//! The Raft core in groups of three on a seeded network: messages are lost, doubled and reordered, nodes are cut off and
//! restarted. Whatever was answered stays, and all nodes hold the same bytes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use raft::eraftpb::{Message, MessageType};
use seawall_metadata::command::{CommandError, METADATA_LEVEL, supported_features};
use seawall_metadata::log_store::*;
use seawall_metadata::raft_core::*;
use seawall_metadata::*;
use uuid::Uuid;

#[test]
fn three_nodes_agree_whatever_the_network_does() {
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|value| value.parse().ok()).unwrap_or(10);
    let (mut answers, mut restarts, mut snapshots) = (0, 0, 0);
    for seed in 0..seeds {
        let mut group = Group::new(seed, 3);
        group.run(600, true);
        // The network heals: everyone catches up.
        group.cut_off = None;
        group.quiet = true;
        group.run(400, false);
        let images: Vec<Vec<u8>> =
            group.nodes.iter().map(|node| snapshot::encode(&node.state.read().unwrap())).collect();
        assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "SIM_SEED={seed}: the nodes differ");
        let state = snapshot::decode(&images[0]).unwrap();
        for (topic, index) in &group.answered {
            let found = state.topic(*topic);
            assert!(found.is_some(), "SIM_SEED={seed}: topic {topic}, answered at {index}, is lost");
        }
        assert!(group.answered.len() > 10, "SIM_SEED={seed}: only {} answers", group.answered.len());
        answers += group.answered.len();
        restarts += group.restarts;
        snapshots += group.snapshots;
    }
    println!("{answers} answers kept through {restarts} restarts and {snapshots} snapshots sent");
    assert!(snapshots > 0, "nobody fell behind far enough");
}

#[test]
fn a_cut_off_leader_confirms_no_read_and_grants_no_lease() {
    let mut group = Group::new(1, 3);
    group.run(200, false);
    let leader = group.leader().unwrap();
    group.nodes[leader].core.read_index(b"before".to_vec());
    group.run(5, false);
    assert!(group.nodes[leader].reads.iter().any(|read| read == b"before"));

    group.cut_off = Some(leader);
    group.nodes[leader].core.read_index(b"during".to_vec());
    group.run(200, false);
    assert!(!group.nodes[leader].reads.iter().any(|read| read == b"during"), "nobody could have confirmed it");
    let other = (0..3).find(|node| *node != leader && group.nodes[*node].core.is_leader());
    assert!(other.is_some(), "the others have a leader of their own");
    assert!(!group.nodes[leader].core.is_leader(), "it has noticed that no quorum hears it");
}

#[test]
fn an_unknown_command_stops_the_node_and_keeps_it_from_starting_again() {
    let mut group = Group::new(1, 1);
    group.run(50, false);
    let node = &mut group.nodes[0];
    node.core.propose(Vec::new(), vec![0xff, 0x7f, 1, 0]).unwrap();
    let error = node.core.process().unwrap_err();
    let unknown = CommandError::Unknown { kind: 0x7fff, version: 1 };
    assert!(matches!(&error, CoreError::Command { source, .. } if *source == unknown), "{error}");
    let store = node.store.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error =
        runtime.block_on(MetadataHandle::with_store(MetadataConfig::new("log", NodeId(1)), store)).err().unwrap();
    assert!(matches!(error, OpenError::NewerFormat { .. }), "{error}");
}

struct Group {
    random: Random,
    nodes: Vec<Node>,
    network: Vec<(u64, Message)>,
    now: u64,
    cut_off: Option<usize>,
    /// Nobody proposes.
    quiet: bool,
    proposed: u128,
    pending: BTreeMap<Vec<u8>, TopicId>,
    answered: Vec<(TopicId, u64)>,
    restarts: usize,
    snapshots: usize,
}

struct Node {
    core: RaftCore<SharedLog>,
    store: SharedLog,
    state: Arc<RwLock<State>>,
    reads: Vec<Vec<u8>>,
}

/// A disk that outlives the core that writes to it.
#[derive(Clone, Default)]
struct SharedLog(Arc<std::sync::Mutex<MemoryLog>>);

impl RaftStorage for SharedLog {
    fn load(&mut self) -> Result<Option<StoredLog>, LogError> {
        self.0.lock().unwrap().load()
    }

    fn create(
        &mut self,
        identity: LogIdentity,
        snapshot: &StoredSnapshot,
        hard_state: &raft::eraftpb::HardState,
    ) -> Result<(), LogError> {
        self.0.lock().unwrap().create(identity, snapshot, hard_state)
    }

    fn write(&mut self, write: LogWrite<'_>) -> Result<(), LogError> {
        self.0.lock().unwrap().write(write)
    }
}

impl Node {
    fn start(number: usize, voters: usize, store: SharedLog) -> Self {
        let raft_id = number as u64 + 1;
        let config = CoreConfig {
            identity: LogIdentity { node: NodeId(raft_id as i32), raft_id, store: Uuid::nil() },
            voters: (1..=voters as u64).collect(),
            // Pinned, and different: the seed decides who campaigns, not raft's own random numbers.
            election_ticks: 10 + 3 * number,
            log_bytes_max: 3_000,
        };
        let state = Arc::new(RwLock::new(State::default()));
        let core = RaftCore::open(store.clone(), &config, state.clone()).unwrap();
        Self { core, store, state, reads: Vec::new() }
    }
}

impl Group {
    fn new(seed: u64, voters: usize) -> Self {
        Self {
            random: Random(seed * 2 + 1),
            nodes: (0..voters).map(|number| Node::start(number, voters, SharedLog::default())).collect(),
            network: Vec::new(),
            now: 0,
            cut_off: None,
            quiet: false,
            proposed: 0,
            pending: BTreeMap::new(),
            answered: Vec::new(),
            restarts: 0,
            snapshots: 0,
        }
    }

    fn leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|node| self.nodes[*node].core.is_leader())
    }

    fn run(&mut self, steps: u64, faults: bool) {
        for _ in 0..steps {
            self.now += 1;
            if faults {
                self.fault();
            }
            for number in 0..self.nodes.len() {
                self.nodes[number].core.tick();
            }
            self.propose();
            self.deliver();
            for number in 0..self.nodes.len() {
                self.process(number, faults);
            }
        }
    }

    fn fault(&mut self) {
        if self.random.below(60) == 0 {
            let node = self.random.below(self.nodes.len() as u64) as usize;
            self.cut_off = if self.cut_off.is_some() { None } else { Some(node) };
        }
        if self.random.below(80) == 0 {
            let number = self.random.below(self.nodes.len() as u64) as usize;
            let store = self.nodes[number].store.clone();
            self.nodes[number] = Node::start(number, self.nodes.len(), store);
            self.restarts += 1;
        }
    }

    fn propose(&mut self) {
        let Some(leader) = self.leader().filter(|_| !self.quiet) else { return };
        self.proposed += 1;
        let id = Uuid::from_u128(self.proposed);
        let topic = TopicId(id);
        let state = self.nodes[leader].state.clone();
        let command = if state.read().unwrap().cluster().is_none() {
            Command::InitCluster {
                cluster: ClusterId(Uuid::from_u128(1)),
                incarnation: Incarnation(Uuid::from_u128(1)),
                metadata_level: METADATA_LEVEL,
            }
        } else if state.read().unwrap().broker(NodeId(1)).is_none() {
            Command::RegisterBroker {
                node: NodeId(1),
                boot: BootId(id),
                listeners: Vec::new(),
                rack: None,
                wals: Vec::new(),
                features: supported_features(),
            }
        } else {
            Command::CreateTopic {
                name: format!("topic-{}", self.proposed),
                topic,
                internal: false,
                replication_factor: 1,
                owners: vec![NodeId(1)],
                configs: BTreeMap::new(),
            }
        };
        if self.nodes[leader].core.propose(id.as_bytes().to_vec(), command.encode().unwrap()).is_ok() {
            self.pending.insert(id.as_bytes().to_vec(), topic);
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.network).into_iter().partition(|(at, _)| *at <= now);
        self.network = later;
        let due: Vec<(u64, Message)> = due;
        for (_, message) in due {
            let (from, to) = (message.from as usize - 1, message.to as usize - 1);
            let reachable = self.cut_off != Some(from) && self.cut_off != Some(to);
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            if is_snapshot {
                self.nodes[from].core.report_snapshot(message.to, reachable);
            }
            if reachable {
                self.snapshots += usize::from(is_snapshot);
                self.nodes[to].core.step(message);
            }
        }
    }

    fn process(&mut self, number: usize, faults: bool) {
        let outcome = self.nodes[number].core.process().unwrap();
        for message in outcome.messages {
            if faults && self.random.below(10) == 0 {
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.nodes[number].core.report_snapshot(message.to, false);
                }
                continue;
            }
            if faults && self.random.below(20) == 0 {
                self.network.push((self.now + 1 + self.random.below(6), message.clone()));
            }
            self.network.push((self.now + if faults { self.random.below(4) } else { 0 }, message));
        }
        self.nodes[number].reads.extend(outcome.reads);
        for applied in outcome.applied {
            // An answer counts once the node that applied it has told its client.
            if let (Some(topic), Ok(Response::Topic { .. })) = (self.pending.remove(&applied.context), &applied.answer)
            {
                self.answered.push((topic, applied.index));
            }
        }
        if self.now.is_multiple_of(20) {
            invariants::check(&self.nodes[number].state.read().unwrap()).unwrap();
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
