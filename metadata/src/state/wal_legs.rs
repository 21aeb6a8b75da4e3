//! Which devices make up a WAL: what a mirror's acks rest on.
//!
//! Each change has an epoch of its own. A leg that is not in the set may be behind, so whoever opens a WAL refuses it; the
//! set without a failed leg is committed before the first ack that this leg has not seen.

use serde::Serialize;

use super::{State, WalLife};
use crate::command::{DEVICE_NAME_BYTES_MAX, Rejection, Response, WAL_LEGS_MAX, WalLeg};
use crate::ids::*;

/// The devices of a WAL since one change of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalLegs {
    /// How many times they were set.
    pub epoch: u64,
    pub legs: Vec<WalLeg>,
}

crate::wire::wire_struct!(WalLegs { epoch, legs });

impl WalLegs {
    pub fn holds(&self, leg: LegId) -> bool {
        self.legs.iter().any(|known| known.leg == leg)
    }
}

impl State {
    pub(super) fn set_wal_legs(
        &mut self,
        by: Registration,
        id: WalId,
        set_epoch: u64,
        legs: Vec<WalLeg>,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        let wal = self.wals.get(&id).ok_or(Rejection::UnknownWal(id))?;
        if wal.node != by.node {
            return Err(Rejection::OtherWalOwner { wal: id, node: wal.node });
        }
        // Of any of the broker's epochs: a leg is set before the WAL is opened again, too.
        if !matches!(wal.life, WalLife::Open { .. } | WalLife::GivenUp) {
            return Err(Rejection::WalState { wal: id, state: wal.life.name() });
        }
        possible_legs(&legs).map_err(|why| Rejection::Legs { wal: id, why })?;
        let known = self.wal_legs.get(&id);
        let current = known.map_or(0, |known| known.epoch);
        if let Some(known) = known {
            if set_epoch == current && known.legs == legs {
                return Ok(Response::Done);
            }
            if !legs.iter().any(|leg| known.holds(leg.leg)) {
                return Err(Rejection::Legs { wal: id, why: "none of the set before is left" });
            }
        }
        if current.checked_add(1) != Some(set_epoch) {
            return Err(Rejection::LegSetEpoch { wal: id, current });
        }
        let elsewhere = self.wal_legs.iter().filter(|(other, _)| **other != id);
        if legs.iter().any(|leg| elsewhere.clone().any(|(_, others)| others.holds(leg.leg))) {
            return Err(Rejection::Legs { wal: id, why: "one belongs to another WAL" });
        }
        self.wal_legs.insert(id, WalLegs { epoch: set_epoch, legs });
        Ok(Response::Done)
    }
}

/// Whether these can be the legs of one WAL.
pub(crate) fn possible_legs(legs: &[WalLeg]) -> Result<(), &'static str> {
    if legs.is_empty() || legs.len() > WAL_LEGS_MAX {
        return Err("a WAL has one or two");
    }
    if legs.iter().enumerate().any(|(at, leg)| legs[..at].iter().any(|before| before.leg == leg.leg)) {
        return Err("one is named twice");
    }
    if legs.iter().any(|leg| leg.device.is_empty() || leg.device.len() > DEVICE_NAME_BYTES_MAX) {
        return Err("a device's name has 1 to 255 bytes");
    }
    Ok(())
}
