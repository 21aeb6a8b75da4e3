//! Gives a running WAL another device: in the place of one, or beside the only one.
//!
//! The order is the promise: the new device gets a copy while appends go on, and from the end of the copy on every ack waits for
//! it too; then metadata commits the set with it; only then may another one leave. A change of devices and the dropping of
//! a failed one (`wal_watch.rs`) exclude each other, so that no set names a device that is behind.

use std::path::PathBuf;
use std::time::Duration;

use seawall_metadata::command::{WAL_LEGS_MAX, WalLeg};
use seawall_metadata::state::WalLegs;
use seawall_metadata::{Command, LegId, MetadataHandle, ProposeError, Registration};
use seawall_wal_device as device;
use seawall_wal_device::{JoinError, LegState};
use tracing::{info, warn};

use crate::storage::BrokerWal;
use crate::wal_legs::device_name;

/// Between two attempts to have a set committed.
const RETRY: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// The device that comes.
    pub device: PathBuf,
    /// The one that goes. It need not work any more; one that was dropped has gone already.
    pub leg: Option<LegId>,
    /// Use the device although something is on it.
    pub overwrite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    pub leg: LegId,
    pub set_epoch: u64,
}

/// Why the devices stay as they are. What the new one held is lost, unless it was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("the WAL has two devices: say which of them is replaced ({0} or {1})")]
    WhichLeg(LegId, LegId),
    #[error("{0} is no device of this WAL")]
    NotALeg(LegId),
    #[error("the new device failed")]
    NewLegFailed,
    #[error("metadata: {0}")]
    Metadata(#[from] ProposeError),
}

/// Calls `progress` with the bytes copied and to copy. Dropped before its end it leaves the WAL as it was, as long as it copies.
pub async fn replace(
    wal: &BrokerWal,
    metadata: &MetadataHandle,
    by: Registration,
    asked: &Replace,
    progress: impl FnMut(u64, u64),
) -> Result<Replaced, ReplaceError> {
    // What cannot end well is not begun.
    let known = metadata.read(|state| state.wal_legs(wal.id).cloned());
    next_sets(&set_now(known, wal), placeholder(asked), asked.leg)?;

    let joined = wal.handle().join_leg(&asked.device, asked.overwrite, progress).await?;
    let new =
        WalLeg { leg: LegId(joined.0), device: device_name(&asked.device), bytes: wal.handle().usage().ring_bytes };
    let _no_other_change = wal.leg_changes.lock().await;
    let replaced = commit(wal, metadata, by, new, asked.leg).await;
    if replaced.is_err() {
        let known = metadata.read(|state| state.wal_legs(wal.id).cloned());
        if let Some(epoch) = epoch_without(known.as_ref(), LegId(joined.0)) {
            wal.handle().drop_leg(joined, epoch);
        }
    }
    replaced
}

/// The epoch of the set, if the leg may be let go. One that metadata holds gets every ack until metadata has dropped it, however
/// the change went on: a start may have to do with it alone.
fn epoch_without(known: Option<&WalLegs>, leg: LegId) -> Option<u64> {
    match known {
        Some(known) if known.holds(leg) => None,
        known => Some(known.map_or(0, |known| known.epoch)),
    }
}

/// Every ack waits for the new leg already.
async fn commit(
    wal: &BrokerWal,
    metadata: &MetadataHandle,
    by: Registration,
    new: WalLeg,
    gone: Option<LegId>,
) -> Result<Replaced, ReplaceError> {
    let leg = new.leg;
    let holds = |leg: LegId| {
        let status = wal.handle().status();
        status.legs.iter().any(|known| known.id.0 == leg.0 && matches!(known.state, LegState::InSet))
    };
    if !holds(leg) {
        return Err(ReplaceError::NewLegFailed);
    }
    let known = metadata.read(|state| state.wal_legs(wal.id).cloned());
    let mut now = set_now(known, wal);
    for legs in next_sets(&now, new, gone)? {
        let set_epoch = now.epoch + 1;
        now = propose(wal, metadata, by, WalLegs { epoch: set_epoch, legs }).await?;
        wal.handle().finish_join(device::LegId(leg.0), set_epoch);
        info!(wal = %wal.id, %leg, set_epoch, devices = now.legs.len(), "a device belongs to the write-ahead log");
        if let Some(gone) = gone.filter(|gone| !now.holds(*gone)) {
            wal.handle().drop_leg(device::LegId(gone.0), set_epoch);
            info!(wal = %wal.id, leg = %gone, set_epoch, "a device belongs to the write-ahead log no longer");
        }
    }
    Ok(Replaced { leg, set_epoch: now.epoch })
}

/// Repeats while metadata does not answer: what was asked may have been applied.
async fn propose(
    wal: &BrokerWal,
    metadata: &MetadataHandle,
    by: Registration,
    set: WalLegs,
) -> Result<WalLegs, ReplaceError> {
    loop {
        let command = Command::SetWalLegs { by, wal: wal.id, set_epoch: set.epoch, legs: set.legs.clone() };
        match metadata.propose(command).await {
            Ok(_) => return Ok(set),
            Err(error @ (ProposeError::NotLeader | ProposeError::Unknown)) => {
                warn!(wal = %wal.id, %error, "metadata does not answer a change of devices, will ask again");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Metadata's set, or the only device of a WAL that was never mirrored.
fn set_now(known: Option<WalLegs>, wal: &BrokerWal) -> WalLegs {
    known.unwrap_or_else(|| WalLegs { epoch: 0, legs: wal.legs.clone() })
}

fn placeholder(asked: &Replace) -> WalLeg {
    WalLeg { leg: LegId::default(), device: device_name(&asked.device), bytes: 0 }
}

/// The sets to be committed, one after the other: each keeps a device of the one before.
fn next_sets(now: &WalLegs, new: WalLeg, gone: Option<LegId>) -> Result<Vec<Vec<WalLeg>>, ReplaceError> {
    if let Some(gone) = gone.filter(|gone| !now.holds(*gone)) {
        return Err(ReplaceError::NotALeg(gone));
    }
    let kept: Vec<WalLeg> = now.legs.iter().filter(|leg| Some(leg.leg) != gone).cloned().collect();
    match (&kept[..], &now.legs[..]) {
        ([first, second], _) if kept.len() >= WAL_LEGS_MAX => Err(ReplaceError::WhichLeg(first.leg, second.leg)),
        ([], all) => Ok(vec![all.iter().cloned().chain([new.clone()]).collect(), vec![new]]),
        (kept, _) => Ok(vec![kept.iter().cloned().chain([new]).collect()]),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn leg(name: char) -> WalLeg {
        WalLeg { leg: LegId(Uuid::from_u128(name as u128)), device: name.to_string(), bytes: 1 }
    }

    fn sets(now: &str, gone: Option<char>) -> String {
        let now = WalLegs { epoch: 1, legs: now.chars().map(leg).collect() };
        match next_sets(&now, leg('n'), gone.map(|name| leg(name).leg)) {
            Ok(sets) => {
                let text = |set: Vec<WalLeg>| set.into_iter().map(|leg| leg.device).collect::<String>();
                sets.into_iter().map(text).collect::<Vec<_>>().join(" then ")
            }
            Err(ReplaceError::WhichLeg(..)) => "which?".into(),
            Err(ReplaceError::NotALeg(_)) => "not a leg".into(),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn a_change_that_ends_half_way_leaves_what_metadata_holds() {
        let set = WalLegs { epoch: 3, legs: vec![leg('a'), leg('n')] };
        assert_eq!(epoch_without(Some(&set), leg('n').leg), None, "acks wait for it");
        assert_eq!(epoch_without(Some(&set), leg('x').leg), Some(3));
        assert_eq!(epoch_without(None, leg('n').leg), Some(0));
    }

    #[test]
    fn every_set_on_the_way_keeps_a_device_of_the_one_before() {
        for (now, gone, expected) in [
            ("ab", Some('b'), "an"),
            ("ab", Some('a'), "bn"),
            ("ab", None, "which?"),
            ("ab", Some('x'), "not a leg"),
            ("a", None, "an"),
            ("a", Some('a'), "an then n"),
            ("a", Some('b'), "not a leg"),
        ] {
            assert_eq!(sets(now, gone), expected, "{now} without {gone:?}");
        }
    }
}
