//! Says in metadata which partitions may have acked data that is only in a WAL.
//!
//! A partition is marked dirty before the WAL gets its first batch (the batch waits inside the partition meanwhile) and
//! becomes clean lazily: when it has been idle for a while and all of it is committed. Each mark has a generation and a
//! clean names the one it ends, so that a clean that is applied late ends no later mark.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::{Command, PartitionId, ProposeError};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::partition::{AppendError, Partition};
use crate::partitions::Partitions;
use crate::storage::{DirtyMarkRequests, Storage};
use crate::task::Tasks;

/// How often idle partitions are looked for. One that did not grow between two looks is idle.
const CLEAN_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Serves requests for dirty marks, many at once, and cleans idle partitions, until the broker stops.
pub async fn run(partitions: Partitions, mut requests: DirtyMarkRequests, tasks: Tasks) {
    let storage = partitions.storage().clone();
    let mut marking = JoinSet::new();
    let mut clean_timer = tokio::time::interval(CLEAN_INTERVAL);
    let mut log_ends = HashMap::new();
    loop {
        tokio::select! {
            biased;
            request = requests.recv() => match request {
                Some(partition) => _ = marking.spawn(mark(storage.clone(), partition)),
                None => return,
            },
            Some(_) = marking.join_next() => {}
            _ = clean_timer.tick() => clean_idle(&partitions, &mut log_ends).await,
            () = tasks.stopping().cancelled() => return,
        }
    }
}

/// Proposes until the answer is known: what waits inside the partition has offsets already.
async fn mark(storage: Arc<Storage>, partition: Arc<Partition>) {
    let wal = partition.wal().expect("only what goes to a WAL is marked").id;
    while let Some((leader_epoch, generation)) = partition.marking() {
        let command = Command::MarkDirty {
            by: storage.registration,
            partition: partition.id(),
            leader_epoch,
            wals: BTreeSet::from([wal]),
            generation,
        };
        match storage.metadata.propose(command).await {
            Ok(_) => return partition.marked_dirty(generation),
            Err(ProposeError::Rejected(rejection)) => {
                warn!(partition = %partition.id(), %rejection, "partition could not be marked dirty: it ends here");
                return partition.end(AppendError::NotLeader);
            }
            Err(ProposeError::Stopped) => return partition.end(AppendError::NotLeader),
            Err(error) => {
                debug!(partition = %partition.id(), %error, "dirty mark will be proposed again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Cleans what is settled and has not grown since the last look, whose log ends `log_ends` holds.
pub(crate) async fn clean_idle(partitions: &Partitions, log_ends: &mut HashMap<PartitionId, i64>) {
    let mut seen = HashMap::new();
    for partition in partitions.all() {
        let log_end = partition.offsets().log_end;
        let idle = log_ends.get(&partition.id()) == Some(&log_end);
        seen.insert(partition.id(), log_end);
        if !idle {
            continue;
        }
        let Some((leader_epoch, generation)) = partition.clean_if_settled() else { continue };
        let by = partitions.storage().registration;
        let command = Command::MarkClean { by, partition: partition.id(), leader_epoch, generation };
        if let Err(error) = partitions.storage().metadata.propose(command).await {
            // The partition stays dirty in metadata, which costs a slower failover and no data.
            debug!(partition = %partition.id(), %error, "partition was not marked clean");
        }
    }
    *log_ends = seen;
}
