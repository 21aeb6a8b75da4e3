//! Start-up: rebuilds this broker's partitions from metadata, from objects (producer state) and from the WALs' records.
//!
//! The WALs have been scanned and opened before; what they hold stays on the device, only the index is rebuilt. Records of
//! deleted streams and below a stream's next offset are settled and skipped. What remains must continue the committed log
//! without a gap or an overlap: anything else is damage, reported and never cut off.
//! The scan has kept the batches' headers, which hold what the index and the producers' sequence numbers need: nothing is
//! read twice.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use seawall_metadata::state::PartitionState;
use seawall_metadata::{
    Command, MetadataHandle, NodeId, PartitionId, ProposeError, Registration, Response, State, StreamId, WalId,
};
use seawall_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, RecordsError};
use seawall_wal_device::{Lsn, RecordHeader, RecordPosition, ScannedRecord};
use tracing::info;

use crate::log_cache::{BatchEntry, BatchProducer, StreamTail};
use crate::partition::{Mark, Partition, PartitionParts, sequence_of};
use crate::partition_log::{EpochStarts, PartitionLog};
use crate::partitions::{Partitions, token_of};
use crate::producer_state::{ProducerSnapshot, ProducerState, Sequence};
use crate::storage::{BrokerWal, Storage};

/// Partitions per `TakePartitions`, so that a command stays far below its size limit.
const PARTITIONS_PER_COMMAND: usize = 10_000;

/// Why the partitions cannot be opened. Nothing was changed on the WAL; leader epochs may have grown.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(
        "damaged log of stream {stream}: offsets from {expected} are missing, the WAL goes on with {found} at LSN {lsn}"
    )]
    Gap { stream: u64, expected: i64, found: i64, lsn: Lsn },
    #[error("damaged log of stream {stream}: offset {found} at LSN {lsn} was expected to be {expected}")]
    Overlap { stream: u64, expected: i64, found: i64, lsn: Lsn },
    #[error("damaged log of stream {stream}: leader epoch {found} at LSN {lsn}, after epoch {before}")]
    EpochOrder { stream: u64, before: i32, found: i32, lsn: Lsn },
    #[error("the WAL holds records of stream {stream} at LSN {lsn}, which this metadata never made")]
    UnknownStream { stream: u64, lsn: Lsn },
    #[error("damaged log of stream {stream}: the log starts at {start}, but ends at {end}")]
    StartBeyondEnd { stream: u64, start: i64, end: i64 },
    #[error("the record at LSN {lsn} is not the batch that its header says: {why}")]
    Batch { lsn: Lsn, why: String },
    #[error(
        "partition {partition} may have acked data in WAL {wal}, which this broker was not given: name its device in a [[wal]], or \
         give it up (`seawall wal give-up`); to do without a WAL, let it be uploaded first"
    )]
    MissingWal { partition: PartitionId, wal: WalId },
    #[error("producer state of stream {stream}: {why}")]
    ProducerState { stream: u64, why: String },
    #[error("metadata: {0}")]
    Metadata(#[from] ProposeError),
}

/// An opened WAL and what its scan found.
pub struct ScannedWal {
    pub wal: Arc<BrokerWal>,
    /// In LSN order.
    pub records: Vec<ScannedRecord>,
    /// The batch header of each record, [`BATCH_HEADER_BYTES`] each.
    pub heads: Vec<u8>,
}

/// Gives what committed objects remember of a stream's producers, in offset order.
pub trait ProducerSource: Send + Sync {
    fn producer_state(
        &self,
        stream: StreamId,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<ProducerSnapshot>, String>> + Send + '_>>;
}

/// Nothing is remembered beyond the WAL.
pub struct NoProducerState;

impl ProducerSource for NoProducerState {
    fn producer_state(
        &self,
        _stream: StreamId,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<ProducerSnapshot>, String>> + Send + '_>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Opens every partition that metadata gives this broker, under a new leader epoch.
pub async fn recover(
    storage: Arc<Storage>,
    wals: Vec<ScannedWal>,
    producers: &dyn ProducerSource,
) -> Result<Partitions, RecoveryError> {
    let partitions = Partitions::new(storage.clone(), wals.iter().map(|scanned| scanned.wal.clone()).collect());
    check_wals(&partitions)?;
    take_partitions(&storage.metadata, storage.registration).await?;
    let mut opening = storage.metadata.read(|state| opening_partitions(state, &storage));
    let mut batches = 0;
    for ScannedWal { wal, records, heads } in wals {
        let plan = storage.metadata.read(|state| plan(&facts(state, &storage), &records))?;
        if let Some(lsn) = plan.hold_from {
            wal.hold_from(lsn);
        }
        batches += plan.records.len();
        replay(&plan.records, &heads, &mut opening)?;
    }
    let count = opening.len();
    let mut opened = Vec::with_capacity(count);
    for (_, partition) in opening {
        opened.push(partition.open(&partitions, producers).await?);
    }
    partitions.adopt(opened);
    info!(partitions = count, batches, "partitions recovered");
    Ok(partitions)
}

/// A WAL that is left out would be acked data that is left out.
fn check_wals(partitions: &Partitions) -> Result<(), RecoveryError> {
    let storage = partitions.storage();
    let given: BTreeSet<WalId> = partitions.wals().iter().map(|wal| wal.id).collect();
    storage.metadata.read(|state| {
        for partition in state.partitions().filter(|partition| partition.owner == storage.registration.node) {
            let named = partition.dirty.iter().flat_map(|dirty| &dirty.wals);
            if let Some(wal) = named.copied().find(|wal| !given.contains(wal)) {
                return Err(RecoveryError::MissingWal { partition: partition.id, wal });
            }
        }
        Ok(())
    })
}

/// A restarted process leads its partitions under higher epochs than the one before.
pub(crate) async fn take_partitions(metadata: &MetadataHandle, by: Registration) -> Result<(), ProposeError> {
    let owned: Vec<PartitionId> = metadata
        .read(|state| state.partitions().filter(|partition| partition.owner == by.node).map(|p| p.id).collect());
    for partitions in owned.chunks(PARTITIONS_PER_COMMAND) {
        let command = Command::TakePartitions { by, partitions: partitions.to_vec() };
        match metadata.propose(command).await? {
            (_, Response::LeaderEpochs(_)) => {}
            (_, other) => unreachable!("TakePartitions answers with leader epochs, not {other:?}"),
        }
    }
    Ok(())
}

/// What recovery knows of a stream before it looks at the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFact {
    /// Ours: the committed log ends at `next`, the partition is at `leader_epoch`.
    Led {
        next: i64,
        leader_epoch: i32,
    },
    /// Another broker leads it: its records stay where they are.
    LedElsewhere {
        next: i64,
    },
    Deleted,
    /// Metadata never made it.
    Unknown,
}

/// What is to be done with one WAL's records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Records to index, in LSN order.
    pub records: Vec<PlannedRecord>,
    /// The WAL must be kept from here on for streams of others.
    pub hold_from: Option<Lsn>,
}

/// A record that is to be indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRecord {
    pub header: RecordHeader,
    pub position: RecordPosition,
    /// Which record of the scan it is.
    pub index: usize,
}

/// Picks the records that are not settled and checks that they continue their streams.
pub fn plan(fact: &dyn Fn(u64) -> StreamFact, records: &[ScannedRecord]) -> Result<RecoveryPlan, RecoveryError> {
    let mut plan = RecoveryPlan::default();
    // Stream -> next offset, leader epoch of the record before.
    let mut ends: BTreeMap<u64, (i64, i32)> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let RecordHeader { stream, leader_epoch, base_offset: found, last_offset } = record.header;
        let lsn = record.position.lsn;
        let (next, current_epoch) = match fact(stream) {
            StreamFact::Led { next, leader_epoch } => (next, leader_epoch),
            StreamFact::Deleted => continue,
            StreamFact::LedElsewhere { next } => {
                if last_offset >= next {
                    plan.hold_from = plan.hold_from.or(Some(record.position.frame()));
                }
                continue;
            }
            StreamFact::Unknown => return Err(RecoveryError::UnknownStream { stream, lsn }),
        };
        if last_offset < next {
            continue;
        }
        let (expected, before) = ends.get(&stream).copied().unwrap_or((next, i32::MIN));
        if found > expected {
            return Err(RecoveryError::Gap { stream, expected, found, lsn });
        }
        if found < expected || last_offset < found {
            return Err(RecoveryError::Overlap { stream, expected, found, lsn });
        }
        if leader_epoch < before || leader_epoch > current_epoch {
            return Err(RecoveryError::EpochOrder { stream, before, found: leader_epoch, lsn });
        }
        ends.insert(stream, (last_offset + 1, leader_epoch));
        plan.records.push(PlannedRecord { header: record.header, position: record.position, index });
    }
    crate::faults::forget_last_record(&mut plan.records);
    Ok(plan)
}

fn facts<'a>(state: &'a State, storage: &Storage) -> impl Fn(u64) -> StreamFact + 'a {
    let node = storage.registration.node;
    move |stream| fact_of(state, node, stream)
}

/// What metadata says of a stream, to this node.
pub(crate) fn fact_of(state: &State, node: NodeId, stream: u64) -> StreamFact {
    match state.stream(StreamId(stream)) {
        Some(stream) => match state.partition(stream.partition) {
            Some(partition) if partition.owner == node => {
                StreamFact::Led { next: stream.next.0, leader_epoch: partition.leader_epoch.0 }
            }
            _ => StreamFact::LedElsewhere { next: stream.next.0 },
        },
        None if state.was_made(StreamId(stream)) => StreamFact::Deleted,
        None => StreamFact::Unknown,
    }
}

/// A partition on its way from metadata to service.
struct Opening {
    partition: PartitionState,
    topic: Arc<str>,
    internal: bool,
    log_start: i64,
    epochs: EpochStarts,
    tail: StreamTail,
    /// Batches of the tail with producers, in offset order.
    entries: Vec<BatchEntry>,
}

fn opening_partitions(state: &State, storage: &Storage) -> BTreeMap<u64, Opening> {
    let node = storage.registration.node;
    let owned = state.partitions().filter(|partition| partition.owner == node);
    owned
        .filter_map(|partition| {
            let (stream, topic) = (state.stream(partition.stream)?, state.topic(partition.id.topic)?);
            let opening = Opening {
                partition: partition.clone(),
                topic: topic.name.as_str().into(),
                internal: topic.internal,
                log_start: stream.start.0,
                epochs: EpochStarts::new(stream.epochs.iter().map(|begun| (begun.epoch.0, begun.start.0))),
                tail: storage.cache.new_tail(stream.next.0),
                entries: Vec::new(),
            };
            Some((partition.stream.0, opening))
        })
        .collect()
}

/// Indexes the records, by their batches' headers.
fn replay(records: &[PlannedRecord], heads: &[u8], opening: &mut BTreeMap<u64, Opening>) -> Result<(), RecoveryError> {
    for PlannedRecord { header, position, index } in records {
        let head = &heads[index * BATCH_HEADER_BYTES..][..BATCH_HEADER_BYTES];
        let entry = entry_of(header, position.bytes, head);
        let entry = entry.map_err(|why| RecoveryError::Batch { lsn: position.lsn, why })?;
        let partition = opening.get_mut(&header.stream).expect("the plan holds streams that this broker leads");
        partition.epochs.begin(entry.leader_epoch, entry.base);
        partition.tail.recovered(entry, *position);
        if entry.producer.is_some() {
            partition.entries.push(entry);
        }
    }
    Ok(())
}

/// The index entry of a batch by its header, checked against the record that holds it.
pub(crate) fn entry_of(record: &RecordHeader, bytes: u32, head: &[u8]) -> Result<BatchEntry, String> {
    let header = BatchHeader::parse(head).map_err(|error: RecordsError| error.to_string())?;
    let agrees = header.base_offset == record.base_offset
        && header.last_offset() == record.last_offset
        && header.partition_leader_epoch == record.leader_epoch
        && header.total_bytes() == bytes as usize;
    if !agrees {
        return Err(format!("{header:?} in a record of {record:?}"));
    }
    Ok(BatchEntry {
        base: record.base_offset,
        last: record.last_offset,
        leader_epoch: record.leader_epoch,
        max_timestamp: header.max_timestamp,
        record_count: header.record_count.unsigned_abs(),
        bytes,
        producer: sequence_of(&header).as_ref().map(BatchProducer::from),
    })
}

impl Opening {
    async fn open(self, partitions: &Partitions, source: &dyn ProducerSource) -> Result<Partition, RecoveryError> {
        let storage = partitions.storage();
        let stream = self.partition.stream;
        let mut producers = ProducerState::default();
        let now_ms = storage.clock.now_ms();
        let stored = source.producer_state(stream).await;
        for snapshot in stored.map_err(|why| RecoveryError::ProducerState { stream: stream.0, why })? {
            producers.restore(&snapshot, now_ms);
        }
        for entry in &self.entries {
            if let Some(producer) = &entry.producer {
                producers.replay(&Sequence::from(producer), entry.base, entry.last, entry.max_timestamp, now_ms);
            }
        }
        let (start, end) = (self.log_start, self.tail.log_end());
        if start > end {
            return Err(RecoveryError::StartBeyondEnd { stream: stream.0, start, end });
        }
        let generation = self.partition.generation;
        let config = (storage.topic_configs)(self.partition.id.topic, &self.topic);
        let epoch = self.partition.leader_epoch.0;
        let append_log = partitions.append_log_for(&self.partition);
        let class = append_log.ack_class(config.get().ack);
        let parts = PartitionParts {
            id: self.partition.id,
            topic: self.topic,
            internal: self.internal,
            stream,
            token: token_of(stream),
            log: PartitionLog::new(class, self.tail, producers, self.epochs, epoch, start),
            append_log,
            config,
            mark: match self.partition.dirty {
                Some(_) => Mark::Dirty { generation },
                None => Mark::Clean { generation },
            },
        };
        Ok(Partition::new(storage.clone(), parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stream: u64, leader_epoch: i32, offsets: std::ops::RangeInclusive<i64>, lsn: u64) -> ScannedRecord {
        let header = RecordHeader { stream, leader_epoch, base_offset: *offsets.start(), last_offset: *offsets.end() };
        ScannedRecord { header, position: RecordPosition { lsn: Lsn(lsn), bytes: 100, frame_offset: 0 } }
    }

    /// Stream 1: ours, committed to 10, epoch 5. Stream 2: elsewhere, committed to 10. Stream 3: deleted.
    fn fact(stream: u64) -> StreamFact {
        match stream {
            1 => StreamFact::Led { next: 10, leader_epoch: 5 },
            2 => StreamFact::LedElsewhere { next: 10 },
            3 => StreamFact::Deleted,
            _ => StreamFact::Unknown,
        }
    }

    fn planned(records: &[ScannedRecord]) -> Result<Vec<u64>, RecoveryError> {
        plan(&fact, records).map(|plan| plan.records.iter().map(|record| record.position.lsn.0).collect())
    }

    #[test]
    fn settled_records_are_skipped_and_the_rest_is_kept_in_order() {
        let records = [
            record(1, 4, 5..=9, 100),
            record(3, 1, 0..=7, 200),
            record(1, 4, 10..=11, 300),
            record(3, 1, 90..=91, 400),
            record(1, 5, 12..=12, 500),
        ];
        assert_eq!(planned(&records).unwrap(), [300, 500]);
    }

    #[test]
    fn a_gap_or_an_overlap_is_damage_and_never_cut_off() {
        assert!(matches!(
            planned(&[record(1, 5, 11..=12, 100)]),
            Err(RecoveryError::Gap { expected: 10, found: 11, .. })
        ));
        let hole = [record(1, 5, 10..=10, 100), record(1, 5, 12..=12, 200)];
        assert!(matches!(planned(&hole), Err(RecoveryError::Gap { expected: 11, found: 12, .. })));
        assert!(matches!(
            planned(&[record(1, 5, 9..=10, 100)]),
            Err(RecoveryError::Overlap { expected: 10, found: 9, .. })
        ));
        let twice = [record(1, 5, 10..=12, 100), record(1, 5, 12..=13, 200)];
        assert!(matches!(planned(&twice), Err(RecoveryError::Overlap { expected: 13, found: 12, .. })));
    }

    #[test]
    fn leader_epochs_that_go_back_or_come_from_the_future_are_damage() {
        let back = [record(1, 5, 10..=10, 100), record(1, 4, 11..=11, 200)];
        assert!(matches!(planned(&back), Err(RecoveryError::EpochOrder { before: 5, found: 4, .. })));
        assert!(matches!(planned(&[record(1, 6, 10..=10, 100)]), Err(RecoveryError::EpochOrder { found: 6, .. })));
    }

    #[test]
    fn records_of_a_stream_that_metadata_never_made_are_damage() {
        assert!(matches!(planned(&[record(9, 0, 0..=0, 100)]), Err(RecoveryError::UnknownStream { stream: 9, .. })));
    }

    #[test]
    fn what_another_broker_leads_is_kept_in_the_wal() {
        let records = [record(2, 3, 8..=9, 100), record(2, 3, 10..=10, 200), record(2, 3, 11..=11, 300)];
        let plan = plan(&fact, &records).unwrap();
        assert_eq!((plan.records.len(), plan.hold_from), (0, Some(Lsn(200))));
    }
}
