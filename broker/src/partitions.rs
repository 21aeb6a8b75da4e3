//! The partitions that this broker leads, by id, name and WAL token, kept in step with metadata.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use seawall_metadata::state::PartitionState;
use seawall_metadata::{LeaderEpoch, NodeId, Offset, PartitionId, State, StreamId, TopicId};
use seawall_wal_device::Lsn;
use tracing::{info, warn};

use crate::append_log::AppendLog;
use crate::memory_log::MemoryLog;
use crate::partition::{AppendError, Mark, Partition, PartitionParts};
use crate::partition_log::{EpochStarts, PartitionLog};
use crate::producer_state::ProducerState;
use crate::storage::{BrokerWal, Storage};
use crate::task::Tasks;

/// Why a partition is not to be had here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    #[error("unknown topic or partition")]
    UnknownTopicOrPartition,
    /// Asked for by id, which no topic has.
    #[error("unknown topic id")]
    UnknownTopicId,
    #[error("the partition is led by broker {leader} at epoch {leader_epoch}")]
    NotLeader { leader: NodeId, leader_epoch: LeaderEpoch },
    /// This broker leads the partition but has not opened it yet.
    #[error("the partition is being opened")]
    Opening,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Arc<Storage>,
    wals: Vec<Arc<BrokerWal>>,
    /// On a broker without a WAL.
    memory: Option<Arc<MemoryLog>>,
    open: RwLock<Open>,
    /// One synchronisation at a time.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct Open {
    by_id: BTreeMap<PartitionId, Arc<Partition>>,
    by_token: HashMap<u64, Arc<Partition>>,
    /// Metadata's topology index that this map was made from.
    topology: u64,
}

/// A partition of this broker that is not open yet.
struct Fresh {
    topic: Arc<str>,
    internal: bool,
    partition: PartitionState,
}

/// An open partition that metadata gives this broker no longer, and why.
type Lost = (Arc<Partition>, AppendError);

/// Who leads a partition, and where clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeId,
    pub leader_epoch: LeaderEpoch,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
}

impl Partitions {
    pub fn new(storage: Arc<Storage>, wals: Vec<Arc<BrokerWal>>) -> Self {
        let memory = wals.is_empty().then(|| MemoryLog::new(storage.cache.usage().budget_bytes));
        let shared = Shared { storage, wals, memory, open: RwLock::default(), syncing: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The partition, if this broker leads it.
    pub fn get(&self, topic: TopicId, index: i32) -> Result<Arc<Partition>, PartitionError> {
        let id = PartitionId { topic, index };
        if let Some(partition) = self.read().by_id.get(&id) {
            return Ok(partition.clone());
        }
        self.locate(id)?;
        self.sync();
        self.read().by_id.get(&id).cloned().ok_or(PartitionError::Opening)
    }

    pub fn by_name(&self, topic: &str, index: i32) -> Result<Arc<Partition>, PartitionError> {
        let topic = self.shared.storage.metadata.read(|state| state.topic_by_name(topic).map(|topic| topic.id));
        self.get(topic.ok_or(PartitionError::UnknownTopicOrPartition)?, index)
    }

    /// Who leads the partition of a topic, by id or, where that is nil, by name: what KIP-951 tells clients.
    pub fn leader_of(&self, name: &str, topic: TopicId, index: i32) -> Option<Leader> {
        self.shared.storage.metadata.read(|state| {
            let topic = state.topic(topic).or_else(|| state.topic_by_name(name))?;
            let partition = state.partition(PartitionId { topic: topic.id, index })?;
            let broker = state.broker(partition.owner)?;
            let listener = broker.listeners.first()?;
            Some(Leader {
                node: partition.owner,
                leader_epoch: partition.leader_epoch,
                host: listener.host.clone(),
                port: listener.port,
                rack: broker.rack.clone(),
            })
        })
    }

    pub(crate) fn by_token(&self, token: u64) -> Option<Arc<Partition>> {
        self.read().by_token.get(&token).cloned()
    }

    /// Every open partition, in the order of ids.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.read().by_id.values().cloned().collect()
    }

    pub fn wals(&self) -> &[Arc<BrokerWal>] {
        &self.shared.wals
    }

    /// What takes the place of WALs where there is none.
    pub fn memory_log(&self) -> Option<&Arc<MemoryLog>> {
        self.shared.memory.as_ref()
    }

    pub fn storage(&self) -> &Arc<Storage> {
        &self.shared.storage
    }

    /// See [`BrokerWal::first_unsettled`].
    pub fn first_unsettled(&self, wal: &Arc<BrokerWal>) -> Lsn {
        let open = self.read();
        let on_it = |partition: &&Arc<Partition>| partition.wal().is_some_and(|of| Arc::ptr_eq(of, wal));
        wal.first_unsettled(open.by_id.values().filter(on_it))
    }

    /// Passes if metadata says that this broker leads the partition.
    fn locate(&self, id: PartitionId) -> Result<(), PartitionError> {
        self.shared.storage.metadata.read(|state| match state.partition(id) {
            Some(partition) if partition.owner == self.shared.storage.registration.node => Ok(()),
            Some(partition) => {
                Err(PartitionError::NotLeader { leader: partition.owner, leader_epoch: partition.leader_epoch })
            }
            None if state.topic(id.topic).is_some() => Err(PartitionError::UnknownTopicOrPartition),
            None => Err(PartitionError::UnknownTopicId),
        })
    }

    /// Where a partition appends: the WAL that may hold its tail, or else one of those that work, the same for the same stream.
    pub(crate) fn append_log_for(&self, partition: &PartitionState) -> AppendLog {
        if let Some(memory) = &self.shared.memory {
            assert!(partition.dirty.is_none(), "acked data in a WAL that this broker does not have");
            return AppendLog::Memory(memory.clone());
        }
        AppendLog::Wal(self.wal_for(partition))
    }

    fn wal_for(&self, partition: &PartitionState) -> Arc<BrokerWal> {
        let wals = &self.shared.wals;
        let dirty_on = partition.dirty.as_ref().and_then(|dirty| wals.iter().find(|wal| dirty.wals.contains(&wal.id)));
        if let Some(wal) = dirty_on {
            return wal.clone();
        }
        let working: Vec<_> = wals.iter().filter(|wal| !wal.has_failed()).collect();
        let nth = |count: usize| (partition.stream.0 % count as u64) as usize;
        if working.is_empty() { wals[nth(wals.len())].clone() } else { working[nth(working.len())].clone() }
    }

    /// Puts recovered partitions in. Before any request is served.
    pub(crate) fn adopt(&self, partitions: Vec<Partition>) {
        let mut open = self.write();
        for partition in partitions {
            open.insert(Arc::new(partition));
        }
    }

    /// Opens what metadata gives this broker, ends what it takes away.
    pub(crate) fn sync(&self) {
        let _one_at_a_time = self.shared.syncing.lock().expect("synchronisation does not panic");
        let storage = &self.shared.storage;
        let topology = storage.metadata.read(State::topology_index);
        if self.read().topology == topology {
            return;
        }
        let (topology, gained, lost) = storage.metadata.read(|state| self.difference(state));
        for (partition, error) in lost {
            info!(partition = %partition.id(), topic = %partition.topic(), %error, "partition ended");
            partition.end(error.clone());
            if error == AppendError::NotLeader
                && !partition.is_settled()
                && let Some(wal) = partition.wal()
            {
                // Its tail is not ours to upload any more, nor to forget.
                wal.hold_from(self.first_unsettled(wal));
            }
            self.write().remove(&partition);
        }
        // Outside of `read`: resolving a topic's configs reads metadata again.
        let gained: Vec<Partition> = gained.into_iter().map(|fresh| self.open_fresh(fresh)).collect();
        let mut open = self.write();
        gained.into_iter().for_each(|partition| open.insert(Arc::new(partition)));
        open.topology = topology;
    }

    fn difference(&self, state: &State) -> (u64, Vec<Fresh>, Vec<Lost>) {
        let open = self.read();
        let node = self.shared.storage.registration.node;
        let led = |id: PartitionId| state.partition(id).filter(|partition| partition.owner == node);
        let lost = (open.by_id.values())
            .filter_map(|partition| match (led(partition.id()), state.topic(partition.id().topic)) {
                (Some(led), _) if led.leader_epoch.0 == partition.leader_epoch() => None,
                (_, None) => Some((partition.clone(), AppendError::Deleted)),
                _ => Some((partition.clone(), AppendError::NotLeader)),
            })
            .collect();
        let gained = (state.partitions())
            .filter(|partition| partition.owner == node && !open.by_id.contains_key(&partition.id))
            .filter_map(|partition| self.fresh(state, partition))
            .collect();
        (state.topology_index(), gained, lost)
    }

    /// A partition that has never held a record. One that has is opened by recovery, which knows its producers.
    fn fresh(&self, state: &State, partition: &PartitionState) -> Option<Fresh> {
        let (stream, topic) = (state.stream(partition.stream)?, state.topic(partition.id.topic)?);
        if stream.next > Offset(0) || partition.dirty.is_some() {
            warn!(partition = %partition.id, topic = topic.name, "a partition with records is opened at start only");
            return None;
        }
        Some(Fresh { topic: topic.name.as_str().into(), internal: topic.internal, partition: partition.clone() })
    }

    fn open_fresh(&self, fresh: Fresh) -> Partition {
        let storage = &self.shared.storage;
        let Fresh { topic, internal, partition } = fresh;
        let epoch = partition.leader_epoch.0;
        let tail = storage.cache.new_tail(0);
        let append_log = self.append_log_for(&partition);
        let config = (storage.topic_configs)(partition.id.topic, &topic);
        let parts = PartitionParts {
            id: partition.id,
            topic,
            internal,
            stream: partition.stream,
            token: token_of(partition.stream),
            log: PartitionLog::new(
                append_log.ack_class(config.get().ack),
                tail,
                ProducerState::default(),
                EpochStarts::default(),
                epoch,
                0,
            ),
            mark: Mark::Clean { generation: partition.generation },
            append_log,
            config,
        };
        Partition::new(storage.clone(), parts)
    }

    fn read(&self) -> RwLockReadGuard<'_, Open> {
        self.shared.open.read().expect("changes of the map do not panic")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Open> {
        self.shared.open.write().expect("changes of the map do not panic")
    }
}

impl Open {
    fn insert(&mut self, partition: Arc<Partition>) {
        self.by_token.insert(partition.token(), partition.clone());
        let before = self.by_id.insert(partition.id(), partition);
        assert!(before.is_none(), "a partition was opened twice");
    }

    fn remove(&mut self, partition: &Partition) {
        self.by_token.remove(&partition.token());
        self.by_id.remove(&partition.id());
    }
}

/// Streams are never reused, so a completion that comes late can never be taken for another partition's.
pub(crate) fn token_of(stream: StreamId) -> u64 {
    stream.0
}

/// Follows metadata until the broker stops.
pub async fn follow_metadata(partitions: Partitions, tasks: Tasks) {
    let mut applied = partitions.storage().metadata.watch();
    loop {
        partitions.sync();
        tokio::select! {
            biased;
            changed = applied.changed() => if changed.is_err() { return },
            () = tasks.stopping().cancelled() => return,
        }
    }
}
