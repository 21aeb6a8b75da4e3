//! Faults for tests, off in normal builds: each breaks one promise, so that a checker can prove that it would see it.
//!
//! With the cargo feature `fault-injection`, `SEAWALL_FAULT` names one of [`Fault`], with dashes: `ack-early`. `skip-flush` and
//! `skip-crc` are in the WAL, see [`wal_faults`]; `skip-crc` here too. Without the feature all of this compiles to nothing.

use std::sync::Arc;

use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, Segments};
use seawall_metadata::{MetadataHandle, ObjectId, State};
use tokio::sync::oneshot;

use crate::log_cache::BatchBytes;
#[cfg(feature = "fault-injection")]
use crate::log_cache::{TailLookup, TailSource};
use crate::log_compaction::OffsetMap;
use crate::object_deletion::DueObject;
use crate::object_reader::CachedIndex;
use crate::partition::Partition;
use crate::partition_log::Answer;
use crate::recovery::PlannedRecord;

/// A fault of the broker's own.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An append is answered before the WAL has it.
    AckEarly,
    /// An append of ack class `backend` is answered before it is committed.
    AckBeforeCommit,
    /// Recovery forgets the last record of each stream: its offsets are given out again.
    ReuseOffset,
    /// Now and then a batch loses its records, but not its offsets.
    DropRecord,
    /// Compaction drops the newest record of a key.
    DropLiveKey,
    /// Compaction drops tombstones before their horizon.
    IgnoreHorizon,
    /// Compaction takes records for superseded by what is not durable yet.
    IndexUncommitted,
    /// Now and then an upload is committed while its object is still on its way.
    CommitBeforePut,
    /// A commit trims the WAL past what is in no object yet.
    TrimEarly,
    /// Now and then the index of another object is taken for the right one.
    StaleIndex,
    /// What the store has joined is not looked at.
    JoinUnseen,
    /// Now and then a piece of the backup's log is left out.
    BackupGap,
    /// Objects that nothing refers to are forgotten without being deleted.
    KeepOrphans,
    /// An object that a stream is made of is deleted with those that nothing refers to.
    DeleteReferenced,
    /// A scrub judges what a store lists by metadata as it was before the listing, and takes what that does not know for nobody's.
    ScrubEarlyIndex,
    SkipFlush,
    SkipCrc,
}

#[cfg(feature = "fault-injection")]
thread_local! {
    static HERE: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
    /// Opportunities that a fault of this thread has had.
    static CHANCES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    static STALE: std::cell::RefCell<Option<(ObjectId, Arc<CachedIndex>)>> = const { std::cell::RefCell::new(None) };
}

/// Injects a fault into what runs on this thread, for simulations, which run many brokers in one process.
#[cfg(feature = "fault-injection")]
pub fn inject_here(fault: Option<Fault>) {
    HERE.set(fault);
    CHANCES.set(0);
    STALE.set(None);
}

/// Once in `of` times.
#[cfg(feature = "fault-injection")]
fn once_in(of: u64) -> bool {
    CHANCES.set(CHANCES.get() + 1);
    CHANCES.get().is_multiple_of(of)
}

/// The fault of this thread, or the one that the environment names.
#[cfg(feature = "fault-injection")]
fn injected() -> Option<Fault> {
    if let Some(fault) = HERE.get() {
        return Some(fault);
    }
    static INJECTED: std::sync::OnceLock<Option<Fault>> = std::sync::OnceLock::new();
    *INJECTED.get_or_init(|| {
        let name = std::env::var("SEAWALL_FAULT").ok().filter(|name| !name.is_empty())?;
        tracing::error!(fault = name, "a fault is injected on purpose: data will be lost");
        Some(match name.as_str() {
            "ack-early" => Fault::AckEarly,
            "ack-before-commit" => Fault::AckBeforeCommit,
            "reuse-offset" => Fault::ReuseOffset,
            "drop-record" => Fault::DropRecord,
            "drop-live-key" => Fault::DropLiveKey,
            "ignore-horizon" => Fault::IgnoreHorizon,
            "index-uncommitted" => Fault::IndexUncommitted,
            "commit-before-put" => Fault::CommitBeforePut,
            "trim-early" => Fault::TrimEarly,
            "stale-index" => Fault::StaleIndex,
            "join-unseen" => Fault::JoinUnseen,
            "delete-referenced" => Fault::DeleteReferenced,
            "backup-gap" => Fault::BackupGap,
            "keep-orphans" => Fault::KeepOrphans,
            "scrub-early-index" => Fault::ScrubEarlyIndex,
            "skip-flush" => Fault::SkipFlush,
            "skip-crc" => Fault::SkipCrc,
            _ => panic!("SEAWALL_FAULT={name} is not a known fault"),
        })
    })
}

/// The faults that the WAL is to be opened with.
pub fn wal_faults() -> seawall_wal_device::Faults {
    #[cfg(feature = "fault-injection")]
    match injected() {
        Some(Fault::SkipFlush) => {
            return seawall_wal_device::Faults::default().with(seawall_wal_device::Fault::SkipFlush);
        }
        Some(Fault::SkipCrc) => return seawall_wal_device::Faults::default().with(seawall_wal_device::Fault::SkipCrc),
        _ => {}
    }
    seawall_wal_device::Faults::default()
}

/// `ack-early`: the answer is there at once.
pub(crate) fn ack_early(answer: oneshot::Receiver<Answer>) -> oneshot::Receiver<Answer> {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::AckEarly) {
        let (sender, early) = oneshot::channel();
        _ = sender.send(Ok(()));
        return early;
    }
    answer
}

/// `ack-before-commit`: up to where answers go out, when the high watermark stands there.
pub(crate) fn acked_to(high_watermark: i64, durable_end: i64) -> i64 {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::AckBeforeCommit) {
        return durable_end;
    }
    _ = durable_end;
    high_watermark
}

/// `drop-record`: one batch in a hundred keeps its header and loses its records.
pub(crate) fn drop_record(batch: BatchBytes) -> BatchBytes {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::DropRecord) && once_in(100) {
        return emptied(&batch.to_contiguous());
    }
    batch
}

/// As compaction would leave a batch all of whose records are superseded.
#[cfg(feature = "fault-injection")]
fn emptied(batch: &[u8]) -> BatchBytes {
    const LENGTH: std::ops::Range<usize> = 8..12;
    const CRC: std::ops::Range<usize> = 17..21;
    const COUNT: std::ops::Range<usize> = 57..61;
    let mut header = batch[..COUNT.end].to_vec();
    header[LENGTH].copy_from_slice(&49i32.to_be_bytes());
    header[COUNT].copy_from_slice(&0i32.to_be_bytes());
    header[22] &= !0b111; // no codec
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &header[CRC.end..]) as u32;
    header[CRC].copy_from_slice(&crc.to_be_bytes());
    BatchBytes::from(bytes::Bytes::from(header))
}

/// `drop-live-key`: compaction takes the newest record of a key for an older one, now and then.
pub(crate) fn drops_live_key(offset: i64) -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::DropLiveKey) && offset % 7 == 3;
    #[cfg(not(feature = "fault-injection"))]
    {
        _ = offset;
        false
    }
}

/// `ignore-horizon`: a tombstone goes as soon as it is seen.
pub(crate) fn ignores_horizon() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::IgnoreHorizon);
    #[cfg(not(feature = "fault-injection"))]
    false
}

/// `index-uncommitted`: what is only in memory supersedes what is stored.
pub(crate) fn index_uncommitted(partition: &Partition, map: &mut OffsetMap) {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::IndexUncommitted)
        && let TailLookup::Hits(hits) =
            partition.tail_lookup(partition.offsets().high_watermark, usize::MAX, true, i64::MAX)
    {
        use seawall_protocol::records::{BatchHeader, records};
        for hit in hits {
            let TailSource::Memory(bytes) = hit.source else { continue };
            let batch = bytes.to_contiguous();
            let Ok(header) = BatchHeader::parse(&batch) else { continue };
            let keys =
                records(&header, &batch, 1 << 20).into_iter().flatten().flatten().filter_map(|record| record.key);
            keys.for_each(|key| map.supersede(&key));
        }
    }
    _ = (partition, map);
}

/// `commit-before-put`: the put is said to be done, and comes later.
pub(crate) async fn put(backend: &Arc<dyn Backend>, key: &ObjectKey, body: Segments) -> Result<(), BackendError> {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::CommitBeforePut) && once_in(4) {
        let (backend, key) = (backend.clone(), key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            backend.put(&key, body, Purpose::Upload).await
        });
        return Ok(());
    }
    backend.put(key, body, Purpose::Upload).await
}

/// `trim-early`: nothing in the WAL is needed any more.
pub(crate) fn trims_early() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::TrimEarly);
    #[cfg(not(feature = "fault-injection"))]
    false
}

/// `stale-index`: the index that was asked for before, now and then.
pub(crate) fn stale_index(object: ObjectId, index: Arc<CachedIndex>) -> Arc<CachedIndex> {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::StaleIndex) {
        let before = STALE.replace(Some((object, index.clone())));
        if let Some((other, stale)) = before
            && other != object
            && once_in(8)
        {
            return stale;
        }
    }
    _ = object;
    index
}

/// `reuse-offset`: recovery forgets the last record of each stream.
pub(crate) fn forget_last_record(records: &mut Vec<PlannedRecord>) {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::ReuseOffset) {
        let mut last = std::collections::HashMap::new();
        records.iter().for_each(|record| _ = last.insert(record.header.stream, record.index));
        records.retain(|record| last[&record.header.stream] != record.index);
    }
    _ = records;
}

/// `keep-orphans`: nothing is deleted.
pub(crate) fn keeps_orphans() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::KeepOrphans);
    #[cfg(not(feature = "fault-injection"))]
    false
}

/// `join-unseen`: a joined object is believed.
pub(crate) fn joins_unseen() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::JoinUnseen);
    #[cfg(not(feature = "fault-injection"))]
    false
}

/// `backup-gap`: the next piece of the log is said to be in the store.
pub(crate) fn leaves_out_piece() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::BackupGap) && once_in(5);
    #[cfg(not(feature = "fault-injection"))]
    false
}

/// `delete-referenced`: what is due, or else something else.
pub(crate) fn delete_referenced(state: &State, due: Vec<DueObject>) -> Vec<DueObject> {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::DeleteReferenced) {
        let referenced = state.objects().find(|(_, object)| object.references > 0);
        let wrong = referenced.map(|(object, known)| DueObject {
            object,
            marked_ms: 0,
            incarnation: known.record.map(|record| record.incarnation),
        });
        return due.into_iter().chain(wrong).collect();
    }
    _ = state;
    due
}

/// `scrub-early-index`: the state to judge by, instead of the one after the listing.
pub(crate) fn early_index(metadata: &MetadataHandle) -> Option<State> {
    #[cfg(feature = "fault-injection")]
    if injected() == Some(Fault::ScrubEarlyIndex) {
        return Some(metadata.read(State::clone));
    }
    _ = metadata;
    None
}

/// `skip-crc`: a batch from the network is believed.
pub(crate) fn skips_crc() -> bool {
    #[cfg(feature = "fault-injection")]
    return injected() == Some(Fault::SkipCrc);
    #[cfg(not(feature = "fault-injection"))]
    false
}
