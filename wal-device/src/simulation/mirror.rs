//! A mirror's part of a world: which legs a start finds, what the broker does when one fails or is to be replaced, and
//! what must be true of them.

use std::pin::Pin as Pinned;
use std::task::{Context, Poll, Waker};

use super::world::{Appended, Life, Mode, World};
use crate::config::LegSet;
use crate::device::Medium;
use crate::device::simulated::SimDisk;
use crate::format::frame::RECORD_HEADER_BYTES;
use crate::format::superblock::Superblock;
use crate::shared::Control;
use crate::status::{JoinError, LegState, LegStatus};
use crate::types::{LegId, Lsn};

/// What a life remembers of its legs.
#[derive(Default)]
pub struct LegsOfLife {
    /// A leg that failed, what was durable then, and after how many looks metadata has committed its end.
    failed: Option<(LegId, Lsn, u64)>,
    join: Option<Joining>,
    stuck: Option<Hanging>,
    /// The WAL was told that this leg hangs, and it has something in hand still: nobody need ask it.
    pub hangs: Option<LegId>,
}

/// A leg with a request that does not come back.
struct Hanging {
    leg: LegId,
    /// After so many looks the watchdog notices, or it comes back by itself; after as many more it comes back at last.
    looks: u64,
    noticed: bool,
}

struct Joining {
    leg: LegId,
    future: Pinned<Box<dyn Future<Output = Result<(), JoinError>>>>,
}

impl World {
    /// The leg that does wrong while the other one is there.
    pub fn faulty_leg(&self) -> Option<SimDisk> {
        (self.in_use.len() == 2).then(|| self.disks[self.in_use[1]].1.clone())
    }

    pub fn disk_of(&self, leg: LegId) -> usize {
        self.disks.iter().position(|(id, _)| *id == leg).expect("a leg lies on a disk")
    }

    fn commit_legs(&mut self, legs: Vec<LegId>) -> u64 {
        let epoch = self.metadata_legs.as_ref().map_or(0, |set| set.epoch) + 1;
        self.metadata_legs = Some(LegSet { epoch, legs });
        epoch
    }

    /// Which disks this start finds and opens. One that is not there is dropped in metadata first; one that was dropped
    /// is refused. False when none is left: two failures are one too many.
    pub fn choose_legs(&mut self) -> Result<bool, String> {
        let Some(set) = self.metadata_legs.clone().filter(|_| self.mode.is_mirror()) else { return Ok(true) };
        let mut found: Vec<usize> = set.legs.iter().map(|leg| self.disk_of(*leg)).collect();
        found.retain(|&disk| !self.disks[disk].1.is_dead());
        if found.len() == 2 && self.random.chance(1, 6) {
            // The faulty one of a pair goes; of two honest ones any.
            let absent = if self.mode == Mode::MirrorRot { 1 } else { self.random.below(2) as usize };
            found.remove(absent);
        }
        if found.is_empty() {
            return Ok(false);
        }
        if found.len() < set.legs.len() {
            let legs = found.iter().map(|&disk| self.disks[disk].0).collect();
            self.commit_legs(legs);
        }
        self.check_that_stale_legs_are_refused()?;
        self.in_use = found;
        Ok(true)
    }

    /// Nothing has changed about the legs since the last start.
    pub fn uses_all_legs(&self) -> bool {
        let used: Vec<LegId> = self.in_use.iter().map(|&disk| self.disks[disk].0).collect();
        let alive = self.in_use.iter().all(|&disk| !self.disks[disk].1.is_dead());
        alive && self.metadata_legs.as_ref().is_none_or(|set| set.legs == used)
    }

    fn check_that_stale_legs_are_refused(&mut self) -> Result<(), String> {
        let set = self.metadata_legs.clone().expect("recorded");
        for disk in 0..self.disks.len() {
            let (leg, stale) = &self.disks[disk];
            if set.legs.contains(leg) || stale.is_dead() || !self.random.chance(1, 3) {
                continue;
            }
            let leg = *leg;
            if let Ok(scanned) = self.scan_disks(&[disk]) {
                return Err(format!("stale leg {leg} was opened: {} records", scanned.records.len()));
            }
        }
        Ok(())
    }

    /// Lets a write or a flush of a leg fail while the WAL is being opened.
    pub fn plan_a_failure_at_start(&mut self) -> bool {
        // Of an unequal pair only the faulty one may be spared.
        let disk = if self.mode == Mode::MirrorRot { self.faulty_leg() } else { Some(self.some_disk()) };
        let Some(disk) = disk.filter(|_| self.random.chance(1, 20)) else { return false };
        match self.random.below(6) {
            flush @ 0..=2 => disk.fail_flush_in(flush),
            write => disk.fail_write_in(write - 3),
        }
        true
    }

    /// A leg could be read, and now it fails: the broker goes on with the other one as if it were absent, or starts again.
    pub fn leg_failed_at_start(&mut self, leg: LegId) {
        let spared = match self.mode {
            Mode::Mirror => self.in_use.len() == 2,
            Mode::MirrorRot => self.in_use.get(1) == Some(&self.disk_of(leg)),
            _ => false,
        };
        let Some(set) = self.metadata_legs.clone().filter(|_| spared) else { return };
        if self.random.chance(3, 4) {
            self.stats.legs_failed += 1;
            self.commit_legs(set.legs.into_iter().filter(|other| *other != leg).collect());
        }
    }

    /// A leg has lost both superblocks.
    pub fn lost_superblocks(&self) -> bool {
        self.in_use.iter().any(|&disk| self.newest_superblock_of(&self.disks[disk].1).is_none())
            && (self.mode == Mode::MirrorRot || self.mode.disk_is_faulty())
    }

    /// The broker drops a leg that is no WAL any more and starts with the other one. False when there is no other.
    pub fn drop_leg_without_superblocks(&mut self) -> bool {
        let whole = |disk: &usize| self.newest_superblock_of(&self.disks[*disk].1).is_some();
        let legs: Vec<LegId> = self.in_use.iter().filter(|disk| whole(disk)).map(|&disk| self.disks[disk].0).collect();
        let another = !legs.is_empty() && self.mode.is_mirror();
        if another {
            self.commit_legs(legs);
        }
        another
    }

    /// Before anything is served, every leg holds what was recovered.
    pub fn check_that_legs_agree(&self) -> Result<(), String> {
        if !self.mode.is_mirror() {
            return Ok(());
        }
        for appended in &self.ledger[self.first_untrimmed()..self.acknowledged] {
            let Some(position) = appended.position else { continue };
            let at = self.ring.device_offset(position.lsn) + RECORD_HEADER_BYTES as u64;
            let payload = appended.payload();
            for &disk in &self.in_use {
                let (leg, disk) = &self.disks[disk];
                let harmed = disk.is_harmed(at, payload.len() as u64);
                if disk.peek(at, payload.len()) != payload && !harmed {
                    return Err(format!("leg {leg} lacks {appended:?} after the open"));
                }
            }
        }
        Ok(())
    }

    /// What is acknowledged has left the caches of all legs in the set, but for what a faulty one did.
    pub fn check_that_legs_hold(&self, acknowledged: &Appended) -> Result<(), String> {
        let Some(position) = acknowledged.position.filter(|_| self.mode.is_mirror()) else { return Ok(()) };
        let at = self.ring.device_offset(position.lsn) + RECORD_HEADER_BYTES as u64;
        let payload = acknowledged.payload();
        for leg in &self.metadata_legs.as_ref().expect("recorded").legs {
            let disk = &self.disks[self.disk_of(*leg)].1;
            let harmed = disk.is_harmed(at, payload.len() as u64);
            if disk.peek_stable(at, payload.len()) != payload && !harmed {
                return Err(format!("leg {leg} may lose {acknowledged:?}"));
            }
        }
        Ok(())
    }

    /// What the broker does about legs: it commits the end of a failed one, and lets new ones join.
    pub fn tend_legs(&mut self, life: &mut Life) -> Result<(), String> {
        self.tend_stuck(life);
        self.tend_failed(life)?;
        if life.failed {
            return Ok(());
        }
        match &mut life.legs.join {
            None => self.start_join(life),
            Some(joining) => {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(joined) = joining.future.as_mut().poll(&mut context) {
                    let leg = joining.leg;
                    life.legs.join = None;
                    self.joined(life, leg, joined)?;
                }
            }
        }
        Ok(())
    }

    /// A leg stops to answer; some time later the watchdog says so, as it is configured to.
    fn tend_stuck(&mut self, life: &mut Life) {
        life.legs.hangs.take_if(|leg| self.disks[self.disk_of(*leg)].1.is_idle());
        if let Some(hanging) = &mut life.legs.stuck {
            if hanging.looks > 0 {
                hanging.looks -= 1;
                return;
            }
            let leg = hanging.leg;
            if !hanging.noticed && self.random.chance(3, 4) {
                // Before metadata has dropped it, or later.
                let back_in = [8, 300][self.random.below(2) as usize];
                (hanging.noticed, hanging.looks) = (true, self.random.below(back_in));
                life.wal.shared().control(Control::Hangs { leg, for_us: 1_000 });
                // The last good one is waited for.
                let others_good = |one: &LegStatus| one.id != leg && matches!(one.state, LegState::InSet);
                life.legs.hangs = life.wal.status().legs.iter().any(others_good).then_some(leg);
            } else {
                self.disks[self.disk_of(leg)].1.release_stuck();
                life.legs.stuck = None;
            }
            return;
        }
        if let Some(joining) = &life.legs.join
            && self.random.chance(1, 60)
        {
            let leg = joining.leg;
            self.stick(life, leg);
            return;
        }
        let status = life.wal.status();
        let all_in_set = status.legs.len() == 2 && status.legs.iter().all(|leg| matches!(leg.state, LegState::InSet));
        let known = self.metadata_legs.as_ref().is_some_and(|set| set.legs.len() == 2);
        if !all_in_set || !known || !self.random.chance(1, 300) {
            return;
        }
        // Of an unequal pair only the faulty one may be spared.
        let faulty = self.in_use.get(1).map(|&disk| self.disks[disk].0).filter(|_| self.mode == Mode::MirrorRot);
        let leg = faulty.unwrap_or(status.legs[self.random.below(2) as usize].id);
        if status.legs.iter().any(|one| one.id == leg) {
            self.stick(life, leg);
        }
    }

    fn stick(&mut self, life: &mut Life, leg: LegId) {
        let disk = self.disk_of(leg);
        let disk = &self.disks[disk].1;
        if self.random.chance(1, 2) {
            disk.stick_all()
        } else {
            disk.stick_next()
        }
        self.stats.legs_stuck += 1;
        life.legs.stuck = Some(Hanging { leg, looks: self.random.below(200), noticed: false });
    }

    fn tend_failed(&mut self, life: &mut Life) -> Result<(), String> {
        let status = life.wal.status();
        let failed = status.legs.iter().find(|leg| matches!(leg.state, LegState::Failed(_))).map(|leg| leg.id);
        let durable = life.wal.usage().durable;
        let Some(leg) = failed.filter(|_| status.failed.is_none()) else {
            life.legs.failed = None;
            return Ok(());
        };
        let Some((_, held_at, looks)) = &mut life.legs.failed else {
            self.stats.legs_failed += 1;
            life.legs.failed = Some((leg, durable, self.random.below(20)));
            return Ok(());
        };
        if durable > *held_at {
            return Err(format!("acknowledged up to {durable} while leg {leg} had failed, held at {held_at}"));
        }
        if *looks > 0 {
            *looks -= 1;
            return Ok(());
        }
        let set = self.metadata_legs.clone().expect("recorded");
        let left: Vec<LegId> = set.legs.iter().copied().filter(|other| *other != leg).collect();
        if !set.legs.contains(&leg) {
            // It was joining: metadata never knew it.
            life.wal.drop_leg(leg, set.epoch);
            life.legs.failed = None;
            return Ok(());
        }
        if left.is_empty() {
            return Ok(());
        }
        let epoch = self.commit_legs(left);
        if self.random.chance(1, 4) {
            // Committed, and the WAL never hears of it.
            self.some_disk().cut_power_in(0);
            return Ok(());
        }
        life.wal.drop_leg(leg, epoch);
        life.legs.failed = None;
        Ok(())
    }

    fn start_join(&mut self, life: &mut Life) {
        let alone = self.metadata_legs.as_ref().is_some_and(|set| set.legs.len() == 1);
        let runs_alone = life.wal.status().legs.len() == 1;
        if !alone || !runs_alone || life.wal.failed().is_some() || !self.random.chance(1, 30) {
            return;
        }
        let like = Superblock {
            mirror: true,
            joining: true,
            clean_shutdown: false,
            set_epoch: self.metadata_legs.as_ref().map_or(0, |set| set.epoch),
            ..self.superblock.clone()
        };
        let leg = self.add_disk(&like);
        let medium = Medium::Simulated(self.disks[self.disk_of(leg)].1.clone());
        let wal = life.wal.clone();
        let future = Box::pin(async move { wal.join_medium(leg, medium, |_, _| ()).await });
        life.legs.join = Some(Joining { leg, future });
    }

    fn joined(&mut self, life: &mut Life, leg: LegId, joined: Result<(), JoinError>) -> Result<(), String> {
        if joined.is_err() {
            return Ok(());
        }
        self.stats.legs_joined += 1;
        if self.random.chance(1, 6) {
            self.some_disk().cut_power_in(0);
            return Ok(());
        }
        let mut legs = self.metadata_legs.clone().expect("recorded").legs;
        let failed = life.wal.status().legs.iter().any(|l| matches!(l.state, LegState::Failed(_)));
        if failed || legs.len() != 1 {
            return Ok(());
        }
        legs.push(leg);
        let epoch = self.commit_legs(legs);
        for acknowledged in &self.ledger[self.first_untrimmed()..self.acknowledged] {
            self.check_that_legs_hold(acknowledged)?;
        }
        if self.random.chance(1, 6) {
            self.some_disk().cut_power_in(0);
            return Ok(());
        }
        life.wal.finish_join(leg, epoch);
        Ok(())
    }
}
