//! The completion side of one WAL: the only place where high watermarks move and acks are released.
//!
//! One task per WAL takes completions in LSN order. Each is applied only while this broker's lease holds; after it has
//! ended nothing moves until it is renewed: no watermark, no wake-up, no ack. A failed WAL ends its partitions: nothing is
//! acked on it any more, what was durable stays readable and is still uploaded, and the broker stops when it was the last.

use std::sync::Arc;

use seawall_wal_device::{Completions, Durable};
use tracing::error;

use crate::partition::{AppendError, Partition};
use crate::partitions::Partitions;
use crate::storage::BrokerWal;
use crate::task::Tasks;

/// Runs until the WAL is closed or has failed and no other is left.
pub async fn run(partitions: Partitions, wal: Arc<BrokerWal>, mut completions: Completions, tasks: Tasks) {
    while let Some(durable) = completions.next().await {
        tokio::select! {
            biased;
            () = partitions.storage().lease_held() => {}
            () = tasks.stopping().cancelled() => {
                // Stopping without a lease: whatever is not acked by now never is.
                if !partitions.storage().lease_valid() {
                    return;
                }
            }
        }
        let failed = durable.failed.clone();
        apply(&partitions, &wal, &durable);
        completions.recycle(durable);
        if let Some(error) = failed {
            fail(&partitions, &wal, error.to_string(), &tasks);
        }
    }
    // A WAL that has failed says so once; the task stays, because its end would mean more than that.
    if wal.has_failed() {
        tasks.stopping().cancelled().await;
    }
}

/// Applies completions in their order, then moves each partition's watermark once.
pub(crate) fn apply(partitions: &Partitions, wal: &BrokerWal, durable: &Durable) {
    let mut touched: Vec<Arc<Partition>> = Vec::new();
    for record in &durable.records {
        // A partition that is not there was deleted: its records are settled.
        let Some(partition) = partitions.by_token(record.token) else { continue };
        partition.placed(record.position);
        touched.push(partition);
    }
    wal.placed_to(durable.durable);
    touched.sort_unstable_by_key(|partition| partition.token());
    touched.dedup_by_key(|partition| partition.token());
    for partition in touched {
        partition.advance();
    }
}

fn fail(partitions: &Partitions, wal: &Arc<BrokerWal>, reason: String, tasks: &Tasks) {
    error!(wal = %wal.id, reason, "the write-ahead log failed: its partitions are not acked any more");
    wal.fail();
    let on_it = |partition: &&Arc<Partition>| partition.wal().is_some_and(|of| Arc::ptr_eq(of, wal));
    for partition in partitions.all().iter().filter(on_it) {
        partition.end(AppendError::WalFailed(reason.clone()));
    }
    if partitions.wals().iter().all(|wal| wal.has_failed()) {
        tasks.fail_broker(format!("no write-ahead log is left: {reason}"));
    }
}
