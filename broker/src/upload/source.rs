//! The broker's partitions and WALs as the uploader sees them.

use std::sync::Arc;

use seawall_metadata::{StreamId, WalId};
use seawall_wal_device::Lsn;

use super::{BATCHES_PER_CUT_MAX, UploadSource, UploadStream, UploadWal};
use crate::commit_waits::CommitWaits;
use crate::log_cache::PendingBatch;
use crate::partition::Partition;
use crate::partitions::{Partitions, token_of};
use crate::producer_state::ProducerSnapshot;

impl UploadStream for Partition {
    fn stream(&self) -> StreamId {
        self.stream()
    }

    fn leader_epoch(&self) -> i32 {
        self.leader_epoch()
    }

    fn wal(&self) -> Option<WalId> {
        self.wal().map(|wal| wal.id)
    }

    fn committed_end(&self) -> i64 {
        self.with_tail(|tail, _| tail.committed_end())
    }

    fn durable_end(&self) -> i64 {
        self.with_tail(|_, durable_end| durable_end)
    }

    fn waits_for_commit(&self) -> bool {
        self.waits_for_commit()
    }

    fn first_record(&self, from: i64) -> Option<Lsn> {
        self.with_tail(|tail, _| tail.first_record(from))
    }

    fn first_needed(&self, from: i64) -> Option<Lsn> {
        self.with_tail(|tail, _| tail.first_needed(from))
    }

    fn pending(&self, from: i64, below: Lsn, bytes_max: u64) -> Vec<PendingBatch> {
        self.with_tail(|tail, durable_end| {
            let mut bytes = 0;
            let fits = |batch: &PendingBatch| {
                let is_first = bytes == 0;
                bytes += u64::from(batch.entry.bytes);
                batch.position.lsn < below && (is_first || bytes <= bytes_max)
            };
            tail.pending(from, durable_end).take_while(fits).take(BATCHES_PER_CUT_MAX).collect()
        })
    }

    fn producers(&self, below: i64) -> Vec<ProducerSnapshot> {
        self.producers_below(below)
    }

    fn committed(&self, to: i64) {
        self.committed(to);
    }
}

impl UploadSource for Partitions {
    fn wals(&self) -> Vec<UploadWal> {
        let open = |wal: &Arc<crate::storage::BrokerWal>| UploadWal {
            id: wal.id,
            owner_epoch: wal.owner_epoch,
            wal: wal.handle().clone(),
        };
        self.wals().iter().map(open).collect()
    }

    fn streams(&self) -> Vec<Arc<dyn UploadStream>> {
        self.all().into_iter().map(|partition| partition as Arc<dyn UploadStream>).collect()
    }

    fn stream(&self, id: StreamId) -> Option<Arc<dyn UploadStream>> {
        self.by_token(token_of(id)).map(|partition| partition as Arc<dyn UploadStream>)
    }

    fn commit_waits(&self) -> Arc<CommitWaits> {
        self.storage().commit_waits.clone()
    }

    fn known_to(&self, wal: WalId) -> Lsn {
        // Without partitions: up to where completions were applied, or from where the WAL must be kept for others.
        let wal = self.wals().iter().find(|known| known.id == wal);
        wal.map_or(Lsn(0), |wal| wal.first_unsettled(std::iter::empty()))
    }

    fn memory_pressure(&self) -> bool {
        self.storage().cache.index_is_half_full()
    }
}
