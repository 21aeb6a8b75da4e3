//! The WAL engine: packs what is waiting into frames, keeps several in flight, reports the contiguous durable prefix.
//!
//! Group commit has no timer: an idle device gets a frame at once; while one is in flight, whatever arrives shares the
//! next. It has no clock and no thread: `thread.rs` or a simulation calls `turn`, `prepare_wait` and `wait` in a circle,
//! so that a seed replays it. In steady state nothing is allocated here.
//!
//! frames.rs packs, submits and reports frames; legs.rs knows which legs are written and waited for; superblock.rs keeps
//! the superblocks ahead of the frames.

mod frames;
mod legs;
mod superblock;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::WalConfig;
use crate::device::{BlockDevice, Done, Operation, Request, Wait};
use crate::error::{IoError, WalError};
use crate::format::Salt;
use crate::format::frame::FRAME_BYTES_LIMIT;
use crate::format::superblock::Superblock;
use crate::ring::Ring;
use crate::shared::{Entry, Phase, ReadRequest, Reader, Shared};
use crate::types::{DurableRecord, LegId, Lsn, WalId};
use frames::InFlight;
use legs::Legs;

/// How long the device is idle before an empty frame covers the last records. No record waits for it.
const IDLE_BEFORE_EMPTY_FRAME: Duration = Duration::from_millis(10);

/// What a request is for; frames count from 0 on.
const TAG_READ: u64 = 1 << 63;
const TAG_SUPERBLOCK: u64 = 1 << 62;
const TAG_FLUSH: u64 = 1 << 61;
const TAG_COPY: u64 = 1 << 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Continue,
    /// The WAL is closed or abandoned: drop the engine.
    Finished,
}

pub struct Engine {
    device: Box<dyn BlockDevice>,
    shared: Arc<Shared>,
    config: WalConfig,
    ring: Ring,
    wal_id: WalId,
    salt: Salt,
    incarnation: Uuid,
    owner_epoch: u64,
    legs: Legs,

    next: Lsn,
    durable: Lsn,
    /// Taken from the shared queue, not yet in a frame.
    waiting: VecDeque<Entry>,
    waiting_record_bytes: u64,
    /// In LSN order.
    in_flight: VecDeque<InFlight>,
    /// Sequence number of the first of `in_flight`: their tags count on from here.
    first_in_flight: u64,
    frames_in_flight_max: usize,
    /// See [`BlockDevice::writes_in_flight_max`].
    one_write_at_a_time: bool,
    frame_bytes_max: usize,
    frame_buffers: Vec<SharedBuf>,
    /// One block each, for pad and empty frames.
    block_buffers: Vec<SharedBuf>,
    /// For records larger than a frame: the last one's buffer.
    spare_own_buffer: Option<SharedBuf>,
    spare_record_lists: Vec<Vec<DurableRecord>>,
    /// No record lies behind the last empty frame.
    covered: bool,
    idle: bool,

    /// As last written durably, but for what differs from leg to leg.
    superblock: Superblock,
    /// Being written.
    next_superblock: Option<Superblock>,
    /// The legs that still write it.
    superblock_open: u8,
    /// It must be written although the reach is far enough.
    superblock_due: bool,
    /// Of the set of legs, as committed in metadata.
    set_epoch: u64,

    reads: Slots<Reader>,
    copies: Slots<oneshot::Sender<io::Result<()>>>,

    /// Frame writes in flight, of all legs, and since when.
    depth: u64,
    depth_since_us: u64,

    done: Vec<Done>,
    failed: bool,
    /// Only reads.
    sealed: bool,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.engine_goes();
    }
}

impl Engine {
    /// `superblock` is durable on all legs and `shared`'s space starts at its `open_start`. `legs` are the device's legs from
    /// 0 on.
    pub fn new(mut device: Box<dyn BlockDevice>, shared: Arc<Shared>, superblock: Superblock, legs: &[LegId]) -> Self {
        let config = shared.config.clone();
        let sealed = matches!(shared.lock().phase, Phase::Sealed);
        let ring = Ring::of(&superblock);
        let frames = (config.frames_in_flight_max as usize).clamp(1, device.writes_in_flight_max());
        let frame_bytes = config.frame_bytes_max.min(FRAME_BYTES_LIMIT / 2);
        let frame_bytes = ring.round_up(u64::from(frame_bytes).max(2 * ring.block)) as usize;
        let block = ring.block as usize;
        let next = superblock.open_start;
        let mut frame_buffers: Vec<SharedBuf> = SharedBuf::several(frames, frame_bytes).collect();
        device.adopt_frame_buffers(&mut frame_buffers);
        Self {
            legs: Legs::new(legs, &shared, block),
            frame_buffers,
            block_buffers: SharedBuf::several(frames + 2, block).collect(),
            spare_own_buffer: None,
            wal_id: superblock.wal_id,
            salt: superblock.salt,
            set_epoch: superblock.set_epoch,
            incarnation: superblock.incarnation,
            owner_epoch: superblock.owner_epoch,
            next,
            durable: next,
            waiting: VecDeque::new(),
            waiting_record_bytes: 0,
            in_flight: VecDeque::with_capacity(frames + 2),
            first_in_flight: 0,
            frames_in_flight_max: frames,
            one_write_at_a_time: device.writes_in_flight_max() == 1,
            frame_bytes_max: frame_bytes,
            spare_record_lists: Vec::new(),
            covered: true,
            idle: false,
            superblock,
            next_superblock: None,
            superblock_open: 0,
            superblock_due: false,
            reads: Slots::default(),
            copies: Slots::default(),
            depth: 0,
            depth_since_us: 0,
            done: Vec::with_capacity(64),
            failed: false,
            sealed,
            device,
            shared,
            config,
            ring,
        }
    }

    /// Handles what is done, takes what was queued and submits what can be submitted.
    pub fn turn(&mut self) -> Turn {
        self.handle_done();
        let phase = self.take_work();
        if let Phase::Abandoned = phase {
            return self.end(Phase::Abandoned);
        }
        let closing = matches!(phase, Phase::Closing);
        if self.sealed {
            return if closing { self.end(Phase::Closed) } else { Turn::Continue };
        }
        if !self.failed {
            self.settle_legs();
            self.write_due_superblock();
            if self.issue_frames() == Turn::Finished {
                return Turn::Finished;
            }
            self.cover_if_idle(closing);
            self.note_oldest_write();
        }
        if closing && !self.failed { self.close_step() } else { Turn::Continue }
    }

    /// What to wait for now. Appenders wake the thread only if it could then do something.
    pub fn prepare_wait(&mut self) -> Wait {
        let wake_at = self.wake_at();
        let to_close_or_cover = self.in_flight.is_empty() && self.waiting.is_empty() && !self.failed;
        let mut inner = self.shared.lock();
        let work = inner.queue_record_bytes >= wake_at || !inner.reads.is_empty() || !inner.controls.is_empty();
        let ending = match inner.phase {
            Phase::Abandoned => true,
            // While something is in flight its completion takes closing further.
            Phase::Closing => to_close_or_cover && self.next_superblock.is_none() && !self.legs.is_held(),
            _ => false,
        };
        if work || ending {
            return Wait::No;
        }
        inner.wake_at = wake_at;
        inner.sleeping = true;
        drop(inner);
        if to_close_or_cover && !self.covered { Wait::For(IDLE_BEFORE_EMPTY_FRAME) } else { Wait::Forever }
    }

    /// Record bytes that must be queued before a frame can be made of them.
    fn wake_at(&self) -> u64 {
        match self.room_for_a_frame() {
            true if self.in_flight.is_empty() => 1,
            true => u64::from(self.config.pipeline_bytes).saturating_sub(self.waiting_record_bytes).max(1),
            false => u64::MAX,
        }
    }

    /// Whether a turn would find something: cheap, without the lock. What it misses, `prepare_wait` sees.
    pub fn has_work(&mut self) -> bool {
        !self.done.is_empty() || self.device.is_ready() || self.shared.glance(self.wake_at())
    }

    pub fn is_writing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Lets the device work; `turn` handles what is done.
    pub fn wait(&mut self, wait: Wait) -> Turn {
        let waited = self.device.wait(wait, &mut self.done);
        self.idle = matches!(wait, Wait::For(_)) && self.done.is_empty();
        match waited {
            Ok(()) => Turn::Continue,
            Err(error) => {
                self.fail(IoError::new("drive the device", error));
                Turn::Finished
            }
        }
    }

    /// For a simulation: the device has been idle for long enough.
    pub fn fell_idle(&mut self) {
        self.idle = true;
    }

    // ---- what is done ----

    fn handle_done(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let mut done = std::mem::take(&mut self.done);
        // Errors come first: a flush that failed may have taken others' bytes with it, so what was done together with it is
        // not believed.
        if done.iter().any(|done| done.result.is_err()) {
            done.sort_unstable_by_key(|done| done.result.is_ok());
        }
        let now_us = (self.shared.clock)();
        for done in done.drain(..) {
            let leg = done.leg;
            match done.tag {
                tag if tag & TAG_READ != 0 => self.read_done(done),
                tag if tag & TAG_SUPERBLOCK != 0 => self.superblock_done(done),
                tag if tag & TAG_FLUSH != 0 => self.flush_done(done),
                tag if tag & TAG_COPY != 0 => self.copy_done(done),
                _ => self.frame_done(done, now_us),
            }
            self.request_is_done(leg, now_us);
        }
        self.done = done;
        self.settle_superblock();
        self.report_durable();
    }

    fn read_done(&mut self, done: Done) {
        // A leg that was let go has told its readers already.
        let Some(reader) = self.reads.take(done.tag & !TAG_READ) else { return };
        let buffer = done.buffer.expect("a read carries a buffer");
        // The reader may have gone; its pin went with it and nobody needs the bytes.
        let _ = reader.reply.send(Some(done.result.map(|()| buffer)));
    }

    // ---- what is queued ----

    fn take_work(&mut self) -> Phase {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        inner.sleeping = false;
        inner.wake_at = u64::MAX;
        shared.taken();
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, &mut inner.queue);
        } else {
            self.waiting.append(&mut inner.queue);
        }
        self.waiting_record_bytes += std::mem::take(&mut inner.queue_record_bytes);
        while let Some(read) = inner.reads.pop_front() {
            self.submit_read(read);
        }
        let phase = inner.phase.clone();
        if inner.controls.is_empty() {
            return phase;
        }
        let controls = std::mem::take(&mut inner.controls);
        drop(inner);
        for control in controls {
            self.obey(control);
        }
        phase
    }

    fn submit_read(&mut self, read: ReadRequest) {
        let Some(leg) = self.legs.to_read(read.attempt) else {
            // As in `read_done`.
            let _ = read.reader.reply.send(None);
            return;
        };
        let bytes = read.buffer.len();
        let (tag, offset) = (TAG_READ | self.reads.put(leg, read.reader), read.device_offset);
        self.submit(Request { tag, leg, operation: Operation::Read, offset, buffer: Some(read.buffer), bytes });
    }

    fn submit(&mut self, request: Request) {
        let leg = request.leg;
        self.device.submit(request);
        if self.legs.one_more(leg) {
            self.shared.stats.leg_waits(leg, Some((self.shared.clock)()));
        }
    }

    fn request_is_done(&mut self, leg: u8, now_us: u64) {
        let left = self.legs.one_less(leg);
        let waits = left > 0 && self.legs.awaited() & (1 << leg) != 0;
        self.shared.stats.leg_waits(leg, waits.then_some(now_us));
        if left == 0 && self.legs.forget_dropped(leg) {
            self.device.remove_leg(leg);
        }
    }

    // ---- the end ----

    /// Closing goes on when nothing is in flight: cover the last records, mark the superblock, end.
    fn close_step(&mut self) -> Turn {
        if let Some(error) = self.legs.failure() {
            // Nobody dropped the leg: what is in flight is never acknowledged.
            self.fail(error);
            return Turn::Continue;
        }
        let busy = !self.waiting.is_empty() || !self.in_flight.is_empty() || self.next_superblock.is_some();
        if busy || !self.covered || self.legs.is_held() {
            return Turn::Continue;
        }
        if !self.superblock.clean_shutdown {
            self.write_superblock(Superblock { clean_shutdown: true, ..self.superblock.clone() });
            return Turn::Continue;
        }
        self.end(Phase::Closed)
    }

    fn end(&mut self, phase: Phase) -> Turn {
        let failed = self.failed;
        self.shared.lock().phase = phase;
        if !failed {
            self.shared.end_completions(None);
        }
        Turn::Finished
    }

    /// Final: nothing is reported durable any more and no write is tried again. Reads go on.
    fn fail(&mut self, error: IoError) {
        if self.failed {
            return;
        }
        self.failed = true;
        tracing::error!(%error, durable = self.durable.0, "the WAL failed, nothing is acknowledged any more");
        let error = WalError::Failed(error);
        self.waiting.clear();
        self.refuse_joins();
        self.shared.stats.oldest_write(None);
        let queued = {
            let mut inner = self.shared.lock();
            if !matches!(inner.phase, Phase::Abandoned) {
                inner.phase = Phase::Failed(error.clone());
            }
            std::mem::take(&mut inner.queue)
        };
        drop(queued);
        self.shared.status.send_modify(|status| status.failed = Some(error.clone()));
        self.tell_failures();
        // Who waits for the durable LSN looks whether it can still come.
        self.shared.durable.send_modify(|_| ());
        self.shared.end_completions(Some(error));
    }
}

/// Who waits for requests in flight, under a number each.
struct Slots<T> {
    slots: Vec<Option<Waiter<T>>>,
    free: Vec<usize>,
}

struct Waiter<T> {
    leg: u8,
    /// `None`: it waits no longer, the request is still in flight.
    who: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    fn put(&mut self, leg: u8, who: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(Waiter { leg, who: Some(who) });
        slot as u64
    }

    /// The request is done.
    fn take(&mut self, slot: u64) -> Option<T> {
        self.free.push(slot as usize);
        self.slots[slot as usize].take().expect("what is done was in flight").who
    }

    /// Those who wait for a leg, which need not wait any longer.
    fn release(&mut self, leg: u8) -> impl Iterator<Item = T> {
        let of_leg = self.slots.iter_mut().flatten().filter(move |waiter| waiter.leg == leg);
        of_leg.filter_map(|waiter| waiter.who.take())
    }
}
