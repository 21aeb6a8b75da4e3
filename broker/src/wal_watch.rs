//! Watches one WAL: takes a failed leg out of its set in metadata, and says alarms aloud.
//!
//! The order is the promise: a WAL with a failed leg acks nothing until metadata has committed the set without it, because
//! from then on every start refuses that leg. As long as metadata does not answer, acks wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use seawall_metadata::{Command, MetadataHandle, Registration};
use seawall_wal_device::{LegId, LegState, WalStatus};
use tracing::{error, info, warn};

use crate::storage::BrokerWal;
use crate::task::Tasks;
use crate::wal_alarms::{WalAlarmKind, alarms};

/// Between two attempts to have a leg dropped.
const RETRY: Duration = Duration::from_millis(200);

/// Runs until the broker stops.
pub async fn run(wal: Arc<BrokerWal>, metadata: MetadataHandle, by: Registration, tasks: Tasks) {
    let mut changes = wal.handle().watch();
    let mut told = Told::default();
    let watch = async {
        loop {
            let status = changes.borrow_and_update().clone();
            told.tell(&wal, &status);
            drop_failed_legs(&wal, &metadata, by, &status).await;
            if changes.changed().await.is_err() {
                // The WAL's thread has gone; that is told by its completions.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = watch => {}
        () = tasks.stopping().cancelled() => {}
    }
}

/// Has metadata drop each failed leg, then lets the WAL ack without it. Repeats until metadata answers or nothing can be acked.
async fn drop_failed_legs(wal: &BrokerWal, metadata: &MetadataHandle, by: Registration, status: &WalStatus) {
    let failed = status.legs.iter().filter(|leg| matches!(leg.state, LegState::Failed(_)));
    for leg in failed.map(|leg| leg.id) {
        let mut complained = false;
        while wal.handle().failed().is_none() {
            // Not held between two attempts: a replacement that comes to its end may be what lets the leg go.
            let no_other_change = wal.leg_changes.lock().await;
            match drop_leg(wal, metadata, by, leg).await {
                Ok(set_epoch) => {
                    warn!(wal = %wal.id, %leg, set_epoch, "a failed leg was dropped: the WAL goes on without it");
                    wal.handle().drop_leg(leg, set_epoch);
                    break;
                }
                Err(error) if !complained => {
                    complained = true;
                    error!(wal = %wal.id, %leg, error, "metadata does not drop a failed leg: nothing is acked on this WAL until it does");
                }
                Err(_) => {}
            }
            drop(no_other_change);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Answers the epoch of a set that does not hold the leg.
async fn drop_leg(wal: &BrokerWal, metadata: &MetadataHandle, by: Registration, leg: LegId) -> Result<u64, String> {
    let known = metadata.read(|state| state.wal_legs(wal.id).cloned());
    let Some(known) = known else {
        // Metadata knows of no device that was only about to join.
        let was_opened_with = wal.legs.iter().any(|known| known.leg.0 == leg.0);
        return if was_opened_with { Err("it is the only leg that metadata knows of".into()) } else { Ok(0) };
    };
    // An attempt whose answer was lost may have been applied.
    if !known.holds(seawall_metadata::LegId(leg.0)) {
        return Ok(known.epoch);
    }
    let set_epoch = known.epoch + 1;
    let legs = known.legs.into_iter().filter(|other| other.leg.0 != leg.0).collect();
    let command = Command::SetWalLegs { by, wal: wal.id, set_epoch, legs };
    metadata.propose(command).await.map(|_| set_epoch).map_err(|error| error.to_string())
}

/// The alarms that were logged and are still on.
#[derive(Default)]
struct Told {
    on: BTreeSet<(WalAlarmKind, Option<LegId>)>,
}

impl Told {
    /// Each alarm is logged when it begins and when it ends.
    fn tell(&mut self, wal: &BrokerWal, status: &WalStatus) {
        let alarms = alarms(status, wal.devices);
        for alarm in &alarms {
            if self.on.insert((alarm.kind, alarm.leg)) {
                let (kind, leg) = (alarm.kind.name(), alarm.leg.map(|leg| leg.to_string()));
                error!(wal = %wal.id, kind, leg, what = alarm.text, "write-ahead log: alarm");
            }
        }
        self.on.retain(|(kind, leg)| {
            let still = alarms.iter().any(|alarm| (alarm.kind, alarm.leg) == (*kind, *leg));
            if !still {
                info!(wal = %wal.id, kind = kind.name(), leg = leg.map(|leg| leg.to_string()), "write-ahead log: alarm is over");
            }
            still
        });
    }
}
