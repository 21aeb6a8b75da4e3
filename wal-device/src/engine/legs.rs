//! The legs: which are written, which an acknowledgement waits for, and how that changes while the WAL runs.
//!
//! A leg's first error is its last write. From then on nothing is acknowledged until the caller has committed in metadata
//! that the leg is out of the set and says so (`drop_leg`): else a start with that leg alone would lose what was
//! acknowledged without it. The caller hears of the failure when another leg has taken a write since: were that one dead and
//! nobody knew, the set would be left with none. A leg that joins is behind at first: it is copied to, gets no frames and nobody
//! waits for it. When little is missing it gets every new frame, and each acknowledgement waits for it; so when the rest was copied
//! it holds all.

use std::io;

use tokio::sync::oneshot;

use super::{Engine, TAG_COPY, TAG_FLUSH};
use crate::aligned_buf::SharedBuf;
use crate::config::Fault;
use crate::device::{Done, Durable, LEGS_MAX, Operation, Request};
use crate::error::IoError;
use crate::format::superblock::Superblock;
use crate::shared::{Control, Shared};
use crate::status::{Alarm, AlarmKind, Distrust, JoinError, LegState, LegStatus};
use crate::types::LegId;

pub(super) struct Legs {
    slots: [Option<Leg>; LEGS_MAX],
    /// Flushes for distrusted legs so far: their tags.
    flushes: u64,
}

struct Leg {
    id: LegId,
    state: State,
    trust: Trust,
    /// Requests to it that are not done.
    outstanding: u32,
    superblock_buffer: Option<SharedBuf>,
    /// Metadata may not know of it yet; its superblock says so.
    joins: bool,
    /// It has let something wait for too long: nothing more is asked of it before all that it has in hand came back.
    hangs: bool,
    /// A superblock was written to it in this opening.
    knows_reach: bool,
    /// Whoever waits for the end of its join.
    joined: Option<oneshot::Sender<bool>>,
    /// It failed, and the status may say so.
    failure_is_told: bool,
    durability: String,
    device: Option<u64>,
}

enum State {
    InSet,
    Failed(IoError),
    /// It is to join, and is copied to.
    Behind,
    /// It gets all new frames, and lacks some of before.
    Joining,
    /// Waits for its last requests to come back.
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Trusted,
    /// Frames below this tag may lie in a cache: they must be done before the flush is submitted.
    WaitsForFrames(u64),
    Flushing(u64),
}

/// The numbers of the legs in a mask.
pub(super) fn numbers(mask: u8) -> impl Iterator<Item = u8> {
    (0..LEGS_MAX as u8).filter(move |leg| mask & (1 << leg) != 0)
}

impl Legs {
    pub(super) fn new(ids: &[LegId], shared: &Shared, block_bytes: usize) -> Self {
        assert!(!ids.is_empty() && ids.len() < LEGS_MAX, "a WAL has a leg, or two");
        let status = shared.status.borrow();
        let mut slots = [const { None }; LEGS_MAX];
        for ((slot, &id), status) in slots.iter_mut().zip(ids).zip(&status.legs) {
            *slot = Some(Leg::new(id, State::InSet, block_bytes, status.durability.clone(), status.device));
        }
        Self { slots, flushes: 0 }
    }

    fn mask(&self, counts: impl Fn(&Leg) -> bool) -> u8 {
        let legs = self.slots.iter().enumerate();
        legs.filter(|(_, leg)| leg.as_ref().is_some_and(&counts)).fold(0, |mask, (i, _)| mask | 1 << i)
    }

    fn leg(&mut self, leg: u8) -> &mut Leg {
        self.slots[leg as usize].as_mut().expect("a leg stays until its last request is done")
    }

    fn number_of(&self, id: LegId) -> Option<u8> {
        let lives = |leg: &Leg| leg.id == id && !matches!(leg.state, State::Dropped);
        numbers(self.mask(lives)).next()
    }

    /// The legs that frames and superblocks are written to.
    pub(super) fn written(&self) -> u8 {
        self.mask(|leg| matches!(leg.state, State::InSet | State::Joining))
    }

    /// The legs that must have a frame before it is durable.
    pub(super) fn awaited(&self) -> u8 {
        self.mask(|leg| !matches!(leg.state, State::Dropped | State::Behind))
    }

    /// Nothing may be acknowledged now, whatever is written.
    pub(super) fn is_held(&self) -> bool {
        self.slots.iter().flatten().any(|leg| match leg.state {
            State::Failed(_) => true,
            State::InSet | State::Joining => leg.trust != Trust::Trusted,
            State::Behind | State::Dropped => false,
        })
    }

    /// Why acknowledgements are held, if a leg failed and was not dropped.
    pub(super) fn failure(&self) -> Option<IoError> {
        self.slots.iter().flatten().find_map(|leg| match &leg.state {
            State::Failed(error) => Some(error.clone()),
            _ => None,
        })
    }

    /// The leg that answers a read at this attempt: those in the set first, one that failed at last.
    pub(super) fn to_read(&self, attempt: u8) -> Option<u8> {
        let good = self.mask(|leg| matches!(leg.state, State::InSet));
        let failed = self.mask(|leg| matches!(leg.state, State::Failed(_)) && !leg.hangs);
        numbers(good).chain(numbers(failed)).nth(attempt.into())
    }

    /// True if it is the only one in flight there.
    pub(super) fn one_more(&mut self, leg: u8) -> bool {
        let leg = self.leg(leg);
        leg.outstanding += 1;
        leg.outstanding == 1
    }

    pub(super) fn one_less(&mut self, leg: u8) -> u32 {
        let leg = self.leg(leg);
        leg.outstanding -= 1;
        leg.hangs &= leg.outstanding > 0;
        leg.outstanding
    }

    /// Frees the number of a leg that was dropped.
    pub(super) fn forget_dropped(&mut self, leg: u8) -> bool {
        let slot = &mut self.slots[leg as usize];
        let dropped = slot.as_ref().is_some_and(|leg| matches!(leg.state, State::Dropped) && leg.outstanding == 0);
        if dropped {
            *slot = None;
        }
        dropped
    }

    pub(super) fn take_superblock_buffer(&mut self, leg: u8) -> SharedBuf {
        self.leg(leg).superblock_buffer.take().expect("one superblock write at a time")
    }

    pub(super) fn give_superblock_buffer(&mut self, leg: u8, buffer: Option<SharedBuf>) {
        self.leg(leg).superblock_buffer = buffer;
    }

    /// What a superblock says of this leg: its id, and whether it joins.
    pub(super) fn in_superblock(&self, leg: u8) -> (LegId, bool) {
        let leg = self.slots[leg as usize].as_ref().expect("written to");
        (leg.id, leg.joins)
    }

    /// Whether the WAL has two legs. One that metadata may not know of does not make a mirror of the others: they must be
    /// opened without it if it never comes to that.
    pub(super) fn are_a_mirror(&self) -> bool {
        self.mask(|leg| !matches!(leg.state, State::Dropped) && !leg.joins).count_ones() > 1
    }

    fn status(&self) -> Vec<LegStatus> {
        let legs = self.slots.iter().enumerate();
        let status = legs.filter_map(|(number, leg)| {
            let leg = leg.as_ref()?;
            let state = match &leg.state {
                State::Failed(error) if leg.failure_is_told => LegState::Failed(error.clone()),
                State::InSet | State::Failed(_) => LegState::InSet,
                State::Behind | State::Joining => LegState::Joining,
                State::Dropped => return None,
            };
            let (durability, device) = (leg.durability.clone(), leg.device);
            Some(LegStatus { id: leg.id, number: number as u8, state, durability, device })
        });
        status.collect()
    }
}

impl Leg {
    fn new(id: LegId, state: State, block_bytes: usize, durability: String, device: Option<u64>) -> Self {
        Self {
            id,
            joins: matches!(state, State::Behind),
            hangs: false,
            knows_reach: matches!(state, State::InSet),
            joined: None,
            failure_is_told: false,
            state,
            trust: Trust::Trusted,
            outstanding: 0,
            superblock_buffer: Some(SharedBuf::new(block_bytes)),
            durability,
            device,
        }
    }
}

impl Engine {
    pub(super) fn obey(&mut self, control: Control) {
        match control {
            Control::Drop { leg, set_epoch } => self.drop_leg(leg, set_epoch),
            Control::Distrust { leg, why } => self.distrust(leg, why),
            Control::Hangs { leg, for_us } => self.leg_hangs(leg, for_us),
            Control::Template { reply } => {
                let superblock = Superblock { set_epoch: self.set_epoch, ..self.superblock.clone() };
                // Whoever asked may have gone.
                let _ = reply.send(superblock);
            }
            Control::Join { leg, medium, reply } => {
                let added = self.add_leg(leg, medium);
                let number = added.as_ref().ok().copied();
                // Whoever asked has gone: nobody would copy.
                if let (Err(_), Some(number)) = (reply.send(added.map(|_| ())), number) {
                    self.let_go(number);
                }
            }
            Control::CatchUp { leg, reply } => {
                let behind = self.legs.number_of(leg).filter(|_| !self.failed);
                if let Some(number) = behind {
                    self.legs.leg(number).state = State::Joining;
                    // Its reach must follow the others'.
                    self.superblock_due = true;
                }
                // As below.
                let _ = reply.send(behind.map(|_| self.next));
            }
            Control::Copy { leg, offset, buffer, bytes, reply } => {
                let Some(leg) = self.legs.number_of(leg) else {
                    // As below: who asked and went needs no answer.
                    let _ = reply.send(Err(io::ErrorKind::NotFound.into()));
                    return;
                };
                let operation = if buffer.is_some() { Operation::Write { durable: false } } else { Operation::Flush };
                let tag = TAG_COPY | self.copies.put(leg, reply);
                self.submit(Request { tag, leg, operation, offset, buffer, bytes });
            }
            Control::Joined { leg, reply } => {
                match self.legs.number_of(leg).filter(|_| !self.failed) {
                    Some(number) => {
                        self.legs.leg(number).joined = Some(reply);
                        self.settle_joined(number);
                    }
                    // As below.
                    None => drop(reply.send(false)),
                }
            }
            Control::FinishJoin { leg, set_epoch } => {
                if let Some(number) = self.legs.number_of(leg) {
                    self.legs.leg(number).joins = false;
                }
                self.set_epoch = set_epoch;
                self.superblock_due = true;
            }
            Control::AbortJoin { leg } => {
                // It may hold everything by now, and nobody will commit it.
                let joining = self.legs.number_of(leg);
                if let Some(number) = joining.filter(|&number| self.legs.leg(number).joins) {
                    self.let_go(number);
                }
            }
        }
        self.settle_superblock();
        self.report_durable();
    }

    /// The first error on a leg. The last leg's ends the WAL; one that joins does not count yet.
    pub(super) fn leg_failed(&mut self, number: u8, error: IoError) {
        let Some(leg) = self.legs.slots[number as usize].as_mut() else { return };
        let id = leg.id;
        match leg.state {
            State::Failed(_) | State::Dropped => return,
            State::Behind | State::Joining => {
                tracing::warn!(leg = %id, %error, "a device that was to join the WAL failed");
                self.let_go(number);
                return;
            }
            State::InSet => {
                leg.state = State::Failed(error.clone());
                // Metadata need not drop what it may not know of.
                leg.failure_is_told = leg.joins;
            }
        }
        self.superblock_open &= !(1 << number);
        if self.legs.mask(|leg| matches!(leg.state, State::InSet)) == 0 {
            self.fail(error.clone());
        }
        if self.failed {
            self.tell_failures();
            return;
        }
        tracing::error!(leg = %id, %error, "a leg of the WAL failed, nothing is acknowledged until it is dropped");
        self.superblock_due = true;
        if self.config.faults.has(Fault::DropWithoutCommit) {
            self.let_go(number);
        }
        self.publish_legs();
    }

    /// Legs that failed may be dropped now: another one was just written to, or nothing is acknowledged any more.
    pub(super) fn tell_failures(&mut self) {
        let mut news = false;
        for leg in self.legs.slots.iter_mut().flatten().filter(|leg| matches!(leg.state, State::Failed(_))) {
            news |= !std::mem::replace(&mut leg.failure_is_told, true);
        }
        if news {
            self.publish_legs();
        }
    }

    /// A leg that does not answer counts as failed, if there is another one. What it has in hand stays its own. It may have
    /// answered since it was looked at.
    fn leg_hangs(&mut self, id: LegId, for_us: u64) {
        let Some(number) = self.legs.number_of(id) else { return };
        let others = self.legs.mask(|leg| leg.id != id && matches!(leg.state, State::InSet));
        let leg = self.legs.leg(number);
        if others == 0 || leg.outstanding == 0 || std::mem::replace(&mut leg.hangs, true) {
            return;
        }
        let for_ms = for_us / 1000;
        let hung = || io::Error::new(io::ErrorKind::TimedOut, format!("it has not answered for {for_ms} ms"));
        if matches!(self.legs.leg(number).state, State::InSet) {
            let alarm = Alarm { leg: id, kind: AlarmKind::Hung { for_ms } };
            self.shared.status.send_modify(|status| status.raise(alarm));
        }
        // Whoever has it joined hears why it does not. As in `read_done`, any of them may have gone.
        for reply in self.copies.release(number) {
            let _ = reply.send(Err(hung()));
        }
        self.leg_failed(number, IoError::new("wait for it", hung()));
        // Readers ask another leg before metadata has dropped this one. As in `read_done`, any of them may have gone.
        for reader in self.reads.release(number) {
            let _ = reader.reply.send(Some(Err(hung())));
        }
    }

    fn drop_leg(&mut self, id: LegId, set_epoch: u64) {
        let Some(number) = self.legs.number_of(id) else { return };
        let others = self.legs.mask(|leg| leg.id != id && matches!(leg.state, State::InSet));
        if others == 0 && !self.legs.leg(number).joins {
            tracing::error!(leg = %id, "the last good leg of a WAL cannot be dropped");
            return;
        }
        tracing::info!(leg = %id, set_epoch, "a leg of the WAL is dropped");
        self.set_epoch = set_epoch;
        self.superblock_due = true;
        self.let_go(number);
    }

    /// Nothing waits for the leg any more. What is in flight there keeps its number until it comes back. The WAL has failed
    /// if the leg came to join and the others have failed before metadata took it into the set.
    fn let_go(&mut self, number: u8) {
        let leg = self.legs.leg(number);
        leg.state = State::Dropped;
        let holds_buffers = leg.outstanding > 0;
        // As below.
        let _ = leg.joined.take().map(|joined| joined.send(false));
        self.superblock_open &= !(1 << number);
        if self.legs.forget_dropped(number) {
            self.device.remove_leg(number);
        }
        let missing = self.frames_in_flight_max.saturating_sub(self.frame_buffers.len());
        if holds_buffers && missing > 0 {
            // They may hang for ever: frames go on in new ones.
            self.frame_buffers.extend(SharedBuf::several(missing, self.frame_bytes_max));
        }
        self.shared.stats.leg_waits(number, None);
        // Readers ask another leg. As in `read_done`, any of them may have gone.
        let gone = || io::Error::other("the leg was dropped");
        for reader in self.reads.release(number) {
            let _ = reader.reply.send(Some(Err(gone())));
        }
        for reply in self.copies.release(number) {
            let _ = reply.send(Err(gone()));
        }
        self.publish_legs();
        let no_leg_is_good = self.legs.mask(|leg| matches!(leg.state, State::InSet)) == 0;
        if let Some(error) = self.legs.failure().filter(|_| no_leg_is_good) {
            self.fail(error);
        }
    }

    /// Answers its number.
    fn add_leg(&mut self, id: LegId, medium: crate::device::Medium) -> Result<u8, JoinError> {
        let joins_already = self.legs.mask(|leg| matches!(leg.state, State::Behind | State::Joining)) != 0;
        let free = self.legs.slots.iter().position(Option::is_none);
        let takes_legs = !joins_already && !self.failed && !self.sealed;
        let Some(number) = free.filter(|_| takes_legs) else { return Err(JoinError::NoFreeLeg) };
        let number = number as u8;
        let added = self.device.add_leg(number, medium);
        added.map_err(|error| JoinError::Io(IoError::new("add it", error)))?;
        if let Some(durable) = self.config.durable {
            self.device.set_flush(number, durable);
        }
        let (durability, device) = (self.device.durability(number), self.device.facts(number).device);
        let leg = Leg::new(id, State::Behind, self.ring.block as usize, durability, device);
        self.legs.slots[number as usize] = Some(leg);
        self.frames_in_flight_max = self.frames_in_flight_max.min(self.device.writes_in_flight_max());
        self.one_write_at_a_time |= self.device.writes_in_flight_max() == 1;
        self.publish_legs();
        Ok(number)
    }

    /// A leg to which all was copied holds everything once its superblock tells how far the frames go.
    pub(super) fn settle_joined(&mut self, number: u8) {
        let leg = self.legs.leg(number);
        if leg.knows_reach
            && let Some(joined) = leg.joined.take()
        {
            leg.state = State::InSet;
            // First: who hears of it looks at once.
            self.publish_legs();
            // Whoever asked may have gone, and with it the join.
            let _ = joined.send(true);
        }
    }

    /// Those who wait for the end of a join of a WAL that has failed.
    pub(super) fn refuse_joins(&mut self) {
        for leg in self.legs.slots.iter_mut().flatten() {
            // As above.
            let _ = leg.joined.take().map(|joined| joined.send(false));
        }
    }

    pub(super) fn knows_reach(&mut self, number: u8) {
        self.legs.leg(number).knows_reach = true;
        self.settle_joined(number);
    }

    pub(super) fn copy_done(&mut self, done: Done) {
        let reply = self.copies.take(done.tag & !TAG_COPY);
        if let Err(error) = &done.result {
            let error = io::Error::new(error.kind(), error.to_string());
            self.leg_failed(done.leg, IoError::new("copy to it", error));
        }
        // Who asked may have gone, and with it the join.
        let _ = reply.map(|reply| reply.send(done.result));
    }

    // ---- distrust ----

    fn distrust(&mut self, id: LegId, why: Distrust) {
        let Some(number) = self.legs.number_of(id) else { return };
        tracing::error!(leg = %id, ?why, "a device's word that a write is durable does not count any more");
        let alarm = Alarm { leg: id, kind: AlarmKind::Distrusted(why) };
        self.shared.status.send_modify(|status| status.raise(alarm));
        match why {
            Distrust::CacheTurnedVolatile => {
                self.device.set_flush(number, Durable::LinkedSync);
                let next_tag = self.first_in_flight + self.in_flight.len() as u64;
                let durability = self.device.durability(number);
                let leg = self.legs.leg(number);
                leg.durability = durability;
                if !self.config.faults.has(Fault::IgnoreDistrust) {
                    leg.trust = Trust::WaitsForFrames(next_tag);
                }
                self.publish_legs();
            }
            Distrust::FlushesAreStripped => {
                let error = io::Error::other("its cache is volatile and the kernel sends it no flushes");
                self.leg_failed(number, IoError::new("trust it", error));
            }
        }
    }

    /// Flushes a distrusted leg once all is written that it may have answered too early.
    pub(super) fn settle_legs(&mut self) {
        for number in numbers(self.legs.written()) {
            let Trust::WaitsForFrames(below) = self.legs.leg(number).trust else { continue };
            let frames = below.saturating_sub(self.first_in_flight) as usize;
            let writes = self.in_flight.iter().take(frames).any(|frame| frame.is_open_on(number));
            if writes || self.superblock_open & (1 << number) != 0 {
                continue;
            }
            self.legs.flushes += 1;
            let tag = TAG_FLUSH | self.legs.flushes;
            self.legs.leg(number).trust = Trust::Flushing(tag);
            self.submit(Request { tag, leg: number, operation: Operation::Flush, offset: 0, buffer: None, bytes: 0 });
        }
    }

    pub(super) fn flush_done(&mut self, done: Done) {
        match done.result {
            Ok(()) => {
                let leg = self.legs.leg(done.leg);
                if leg.trust == Trust::Flushing(done.tag) {
                    leg.trust = Trust::Trusted;
                }
            }
            Err(error) => self.leg_failed(done.leg, IoError::new("flush", error)),
        }
    }

    fn publish_legs(&self) {
        let legs = self.legs.status();
        self.shared.status.send_modify(|status| status.legs = legs);
    }
}
