//! WALs: who may append where, up to where they are settled, and what became of them.

use serde::Serialize;

use super::State;
use crate::command::{Rejection, Response, WalTrim};
use crate::ids::*;

/// A WAL that was opened at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalState {
    pub id: WalId,
    pub node: NodeId,
    /// That of the newest opening.
    pub owner_epoch: OwnerEpoch,
    /// Everything below is settled: committed, deleted or given up.
    pub trim: Lsn,
    /// The openings that still matter to a scan from `trim`, oldest first: frames from `start` on carry that owner epoch or
    /// a higher one, and everything from `trim` to the newest start must be valid.
    pub openings: Vec<Opening>,
    pub life: WalLife,
}

/// One opening of a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Opening {
    pub owner_epoch: OwnerEpoch,
    pub start: Lsn,
}

/// Where a WAL stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum WalLife {
    /// Its broker appends, or may come back to.
    Open { by: Registration },
    /// Another broker recovers what lies between the trim and `end`.
    Sealed { by: Registration, end: Lsn },
    /// All of it is committed. It is not opened again under this id.
    Recovered,
    /// Acked data at `at` cannot be read; an operator decides. Its broker may open it only beyond `at`, when it could be read
    /// after all.
    Damaged { at: Lsn },
    /// What could not be read was given up. Its broker may open it again, beyond the trim.
    GivenUp,
}

crate::wire::wire_struct!(WalState { id, node, owner_epoch, trim, openings, life });
crate::wire::wire_struct!(Opening { owner_epoch, start });
crate::wire::wire_enum!(WalLife ("WAL life") {
    0 => Open { by }, 1 => Sealed { by, end }, 2 => Recovered, 3 => Damaged { at }, 4 => GivenUp,
});

impl WalLife {
    /// The state's name, as operators read it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Sealed { .. } => "sealed",
            Self::Recovered => "recovered",
            Self::Damaged { .. } => "damaged",
            Self::GivenUp => "given up",
        }
    }
}

impl State {
    /// Passes if `by` is active and the WAL is its own and open.
    pub(super) fn open_by(&self, by: Registration, id: WalId) -> Result<&WalState, Rejection> {
        self.active(by)?;
        let wal = self.wals.get(&id).ok_or(Rejection::UnknownWal(id))?;
        if wal.node != by.node {
            return Err(Rejection::OtherWalOwner { wal: id, node: wal.node });
        }
        // Opened by an earlier epoch of this broker is not opened by this one.
        match wal.life {
            WalLife::Open { by: opened_by } if opened_by == by => Ok(wal),
            life => Err(Rejection::WalState { wal: id, state: life.name() }),
        }
    }

    pub(super) fn open_wal(
        &mut self,
        by: Registration,
        id: WalId,
        owner_epoch: OwnerEpoch,
        start: Lsn,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        let opening = Opening { owner_epoch, start };
        let life = WalLife::Open { by };
        let Some(wal) = self.wals.get_mut(&id) else {
            let wal = WalState { id, node: by.node, owner_epoch, trim: start, openings: vec![opening], life };
            self.wals.insert(id, wal);
            return Ok(Response::Done);
        };
        if wal.node != by.node {
            return Err(Rejection::OtherWalOwner { wal: id, node: wal.node });
        }
        match wal.life {
            WalLife::Open { .. } | WalLife::GivenUp => {}
            // A scan has read past the place: it was the cable and not the medium.
            WalLife::Damaged { at } if start > at => {}
            WalLife::Damaged { .. } | WalLife::Sealed { .. } | WalLife::Recovered => {
                return Err(Rejection::WalState { wal: id, state: wal.life.name() });
            }
        }
        if wal.life == life && wal.openings.last() == Some(&opening) {
            return Ok(Response::Done);
        }
        if owner_epoch <= wal.owner_epoch {
            return Err(Rejection::StaleOwnerEpoch { wal: id, current: wal.owner_epoch });
        }
        let floor = wal.openings.last().map_or(wal.trim, |last| last.start.max(wal.trim));
        if start < floor {
            return Err(Rejection::LsnTooLow { wal: id, lsn: start, floor });
        }
        // Nothing was written between two openings at one place: the newer one says all.
        wal.openings.pop_if(|last| last.start == start);
        wal.openings.push(opening);
        wal.owner_epoch = owner_epoch;
        wal.life = life;
        wal.forget_openings();
        Ok(Response::Done)
    }

    pub(super) fn seal_wal(
        &mut self,
        by: Registration,
        id: WalId,
        owner_epoch: OwnerEpoch,
        end: Lsn,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        let wal = self.wals.get(&id).ok_or(Rejection::UnknownWal(id))?;
        if wal.owner_epoch != owner_epoch {
            return Err(Rejection::StaleOwnerEpoch { wal: id, current: wal.owner_epoch });
        }
        let sealed = WalLife::Sealed { by, end };
        if wal.life == sealed {
            return Ok(Response::Done);
        }
        let WalLife::Open { by: opened_by } = wal.life else {
            return Err(Rejection::WalState { wal: id, state: wal.life.name() });
        };
        if self.active(opened_by).is_ok() {
            return Err(Rejection::WalState { wal: id, state: "open by an active broker" });
        }
        let floor = wal.openings.last().map_or(wal.trim, |last| last.start.max(wal.trim));
        if end < floor {
            return Err(Rejection::LsnTooLow { wal: id, lsn: end, floor });
        }
        self.wal_mut(id).life = sealed;
        Ok(Response::Done)
    }

    pub(super) fn recover_wal(&mut self, by: Registration, id: WalId) -> Result<Response, Rejection> {
        self.active(by)?;
        let wal = self.wals.get_mut(&id).ok_or(Rejection::UnknownWal(id))?;
        match wal.life {
            WalLife::Sealed { by: sealed_by, end } if sealed_by == by => {
                wal.trim = end;
                wal.life = WalLife::Recovered;
                wal.forget_openings();
            }
            WalLife::Recovered => return Ok(Response::Done),
            life => return Err(Rejection::WalState { wal: id, state: life.name() }),
        }
        self.clear_dirty(id, false);
        Ok(Response::Done)
    }

    pub(super) fn damaged_wal(
        &mut self,
        by: Registration,
        id: WalId,
        owner_epoch: OwnerEpoch,
        at: Lsn,
    ) -> Result<Response, Rejection> {
        self.active(by)?;
        let wal = self.wals.get_mut(&id).ok_or(Rejection::UnknownWal(id))?;
        if wal.owner_epoch != owner_epoch {
            return Err(Rejection::StaleOwnerEpoch { wal: id, current: wal.owner_epoch });
        }
        match wal.life {
            WalLife::Open { .. } if wal.node != by.node => {
                return Err(Rejection::OtherWalOwner { wal: id, node: wal.node });
            }
            WalLife::Sealed { by: sealed_by, .. } if sealed_by != by => {
                return Err(Rejection::OtherWalOwner { wal: id, node: sealed_by.node });
            }
            WalLife::Open { .. } | WalLife::Sealed { .. } | WalLife::Damaged { .. } => {}
            life => return Err(Rejection::WalState { wal: id, state: life.name() }),
        }
        if at < wal.trim {
            return Err(Rejection::LsnTooLow { wal: id, lsn: at, floor: wal.trim });
        }
        wal.life = WalLife::Damaged { at };
        Ok(Response::Done)
    }

    pub(super) fn trim_wal(&mut self, by: Registration, trim: WalTrim) -> Result<Response, Rejection> {
        self.check_trim(by, &trim)?;
        self.apply_trim(&trim);
        Ok(Response::Done)
    }

    pub(super) fn check_trim(&self, by: Registration, trim: &WalTrim) -> Result<(), Rejection> {
        let wal = self.open_by(by, trim.wal)?;
        if wal.owner_epoch != trim.owner_epoch {
            return Err(Rejection::StaleOwnerEpoch { wal: trim.wal, current: wal.owner_epoch });
        }
        Ok(())
    }

    /// Moves a checked trim up; a lower one changes nothing.
    pub(super) fn apply_trim(&mut self, trim: &WalTrim) {
        let wal = self.wal_mut(trim.wal);
        wal.trim = wal.trim.max(trim.lsn);
        wal.forget_openings();
    }

    pub(super) fn give_up_wal(&mut self, id: WalId, past: Lsn) -> Result<Response, Rejection> {
        let wal = self.wals.get(&id).ok_or(Rejection::UnknownWal(id))?;
        let possible = match wal.life {
            WalLife::Damaged { .. } | WalLife::Sealed { .. } => true,
            WalLife::Open { by } => self.active(by).is_err(),
            WalLife::GivenUp if wal.trim == past => return Ok(Response::LeaderEpochs(Vec::new())),
            WalLife::GivenUp | WalLife::Recovered => false,
        };
        if !possible {
            return Err(Rejection::WalState { wal: id, state: wal.life.name() });
        }
        let floor = wal.openings.last().map_or(wal.trim, |last| last.start.max(wal.trim));
        if past < floor {
            return Err(Rejection::LsnTooLow { wal: id, lsn: past, floor });
        }
        self.check_clear_dirty(id)?;
        let wal = self.wal_mut(id);
        wal.trim = past;
        wal.life = WalLife::GivenUp;
        wal.forget_openings();
        Ok(Response::LeaderEpochs(self.clear_dirty(id, true)))
    }

    fn wal_mut(&mut self, id: WalId) -> &mut WalState {
        self.wals.get_mut(&id).expect("looked up by the caller")
    }
}

impl WalState {
    /// Drops openings that a scan from the trim cannot meet: of those at or below it only the newest counts.
    fn forget_openings(&mut self) {
        let below = self.openings.partition_point(|opening| opening.start <= self.trim);
        self.openings.drain(..below.saturating_sub(1));
    }
}
