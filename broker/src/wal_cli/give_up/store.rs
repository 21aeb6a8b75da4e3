//! Puts batches into the object store and commits them, without a running broker.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use seawall_backends::{Backend, Purpose, Segments};
use seawall_metadata::command::{EpochStart, ObjectCommit, ObjectRecord, RangeCommit, RangeOutcome};
use seawall_metadata::{
    Command, Incarnation, LeaderEpoch, MetadataHandle, NodeId, ObjectId, Offset, Registration, Response, StreamId,
};

use super::GiveUpError;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::log_cache::BatchEntry;
use crate::node::NodeError;
use crate::object_format::{FORMAT_VERSION, ObjectBuilder, StreamRange};
use crate::object_key::ObjectKeys;
use crate::store::Store;
use crate::store_probe::StoreProbe;
use crate::wal_cli::WalCliError;

/// Of batches that wait for their object.
const OBJECT_BYTES: usize = 32 << 20;
/// How long an object id may wait for its commit.
const RESERVED_FOR_MS: u64 = 3_600_000;

pub struct ObjectWriter {
    backend: Arc<dyn Backend>,
    keys: ObjectKeys,
    incarnation: Incarnation,
    metadata: MetadataHandle,
    registration: Registration,
    /// By stream, in offset order; with the leader epoch to commit under.
    waiting: BTreeMap<StreamId, (i32, Vec<(BatchEntry, Bytes)>)>,
    waiting_bytes: usize,
}

impl ObjectWriter {
    pub async fn open(
        config: &Config,
        data_dir: &DataDir,
        metadata: MetadataHandle,
        registration: Registration,
    ) -> Result<Self, WalCliError> {
        let store = Store::open(config).await.map_err(NodeError::from)?;
        let has_objects = metadata.read(|state| state.objects().next().is_some());
        let (clock, folder) = (Clock::system(), &config.node.data_dir);
        let mut probe = StoreProbe::new(&store, config.store(), clock, data_dir, folder, has_objects);
        probe.wait_until_fit().await.map_err(NodeError::from)?;
        let keys = ObjectKeys::new(&config.backend.prefix, data_dir.cluster).map_err(NodeError::from)?;
        let incarnation = data_dir.incarnation;
        let (waiting, waiting_bytes) = Default::default();
        Ok(Self { backend: store.backend, keys, incarnation, metadata, registration, waiting, waiting_bytes })
    }

    pub fn node(&self) -> NodeId {
        self.registration.node
    }

    pub async fn add(
        &mut self,
        stream: StreamId,
        leader_epoch: i32,
        entry: BatchEntry,
        batch: Bytes,
    ) -> Result<(), WalCliError> {
        self.waiting_bytes += batch.len();
        self.waiting.entry(stream).or_insert_with(|| (leader_epoch, Vec::new())).1.push((entry, batch));
        if self.waiting_bytes >= OBJECT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Puts and commits what waits. An object that is put and not committed is garbage, as after any crash.
    pub async fn flush(&mut self) -> Result<(), WalCliError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let object = self.reserve().await?;
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let mut builder = ObjectBuilder::new(object, self.incarnation);
        for (stream, (_, batches)) in &waiting {
            for (entry, batch) in batches {
                builder.add_batch(*stream, entry, &batch.clone().into());
            }
        }
        let encoded = builder.finish();
        let key = self.keys.key(self.incarnation, object);
        let put = self.backend.put(&key, Segments::new(encoded.segments), Purpose::Upload).await;
        put.map_err(GiveUpError::Store)?;
        let record = ObjectRecord {
            bucket: 0,
            incarnation: self.incarnation,
            format_version: FORMAT_VERSION,
            bytes: encoded.bytes,
        };
        let ranges = encoded.ranges.iter().map(|range| commit_of(range, LeaderEpoch(waiting[&range.stream].0)));
        let commit = ObjectCommit { object, record, ranges: ranges.collect() };
        let command = Command::CommitObjects { by: self.registration, objects: vec![commit], trims: Vec::new() };
        match self.metadata.propose(command).await.map_err(NodeError::from)? {
            (_, Response::Commit(answer)) => {
                let mut outcomes = answer.outcomes.iter().flatten();
                match outcomes.find(|outcome| matches!(outcome, RangeOutcome::Refused { .. })) {
                    Some(refused) => Err(GiveUpError::Refused(format!("object {object}: {refused:?}")).into()),
                    None => Ok(()),
                }
            }
            (_, other) => unreachable!("a commit is not answered with {other:?}"),
        }
    }

    async fn reserve(&self) -> Result<ObjectId, WalCliError> {
        let command = Command::ReserveObjects { by: self.registration, count: 1, ttl_ms: RESERVED_FOR_MS };
        match self.metadata.propose(command).await.map_err(NodeError::from)? {
            (_, Response::ObjectIds { first, .. }) => Ok(first),
            (_, other) => unreachable!("a reservation is not answered with {other:?}"),
        }
    }
}

fn commit_of(range: &StreamRange, leader_epoch: LeaderEpoch) -> RangeCommit {
    let epochs =
        range.epochs.iter().map(|(epoch, start)| EpochStart { epoch: LeaderEpoch(*epoch), start: Offset(*start) });
    RangeCommit {
        stream: range.stream,
        leader_epoch,
        base: Offset(range.base),
        end: Offset(range.end),
        bytes: range.bytes,
        records: range.records,
        max_timestamp: range.max_timestamp,
        epochs: epochs.collect(),
    }
}

/// The file and its name survive a power cut.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), WalCliError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error| WalCliError::Io { operation: format!("write {}", path.display()), error })
}
