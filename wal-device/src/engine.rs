//! The WAL engine: packs what is waiting into frames, keeps several in flight, reports the contiguous durable prefix.
//!
//! Group commit has no timer: an idle device gets a frame at once; while one is in flight, whatever arrives shares the
//! next. It has no clock and no thread: `thread.rs` or a simulation calls `turn`, `prepare_wait` and `wait` in a circle,
//! so that a seed replays it. In steady state nothing is allocated here.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::{Fault, WalConfig};
use crate::device::{BlockDevice, Done, LEGS_MAX, Operation, Request, Wait};
use crate::error::{IoError, WalError};
use crate::format::frame::{
    FRAME_BYTES_LIMIT, FRAME_HEADER_BYTES, FrameHeader, FrameKind, RECORD_HEADER_BYTES, encode_record,
    payload_crc_start, record_bytes,
};
use crate::format::superblock::Superblock;
use crate::format::{SUPERBLOCK_OFFSETS, Salt};
use crate::ring::{Ring, reach_bytes};
use crate::shared::{Control, Entry, Phase, ReadRequest, Shared};
use crate::types::{DurableRecord, LegId, Lsn, RecordPosition, WalId};

/// How long the device is idle before an empty frame covers the last records. No record waits for it.
const IDLE_BEFORE_EMPTY_FRAME: Duration = Duration::from_millis(10);

const TAG_SUPERBLOCK: u64 = 1 << 62;
const TAG_READ: u64 = 1 << 63;

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
    frame_buffers: Vec<SharedBuf>,
    /// One block each, for pad and empty frames.
    block_buffers: Vec<SharedBuf>,
    spare_record_lists: Vec<Vec<DurableRecord>>,
    /// No record lies behind the last empty frame.
    covered: bool,
    idle: bool,

    /// As last written durably.
    superblock: Superblock,
    /// Being written.
    next_superblock: Option<Superblock>,
    superblock_buffer: Option<SharedBuf>,

    reads: Vec<Option<oneshot::Sender<io::Result<SharedBuf>>>>,
    free_reads: Vec<usize>,

    done: Vec<Done>,
    failed: bool,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.engine_goes();
    }
}

/// A frame on its way to the device.
struct InFlight {
    end: Lsn,
    records: Vec<DurableRecord>,
    written: bool,
    buffer_from: Pool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    Frames,
    Blocks,
    /// A buffer of its own for a record larger than a frame.
    Own,
}

impl Engine {
    /// `superblock` is durable on the device and `shared`'s space starts at its `open_start`.
    pub fn new(mut device: Box<dyn BlockDevice>, shared: Arc<Shared>, superblock: Superblock, legs: &[LegId]) -> Self {
        assert!(!legs.is_empty() && legs.len() <= LEGS_MAX, "a WAL has a leg, or two");
        let config = shared.config.clone();
        let ring = Ring::of(&superblock);
        let frames = (config.frames_in_flight_max as usize).clamp(1, device.writes_in_flight_max());
        let frame_bytes = config.frame_bytes_max.min(FRAME_BYTES_LIMIT / 2);
        let frame_bytes = ring.round_up(u64::from(frame_bytes).max(2 * ring.block)) as usize;
        let block = ring.block as usize;
        let next = superblock.open_start;
        let mut frame_buffers: Vec<SharedBuf> = (0..frames).map(|_| SharedBuf::new(frame_bytes)).collect();
        device.adopt_frame_buffers(&mut frame_buffers);
        Self {
            frame_buffers,
            block_buffers: (0..frames + 2).map(|_| SharedBuf::new(block)).collect(),
            superblock_buffer: Some(SharedBuf::new(block)),
            wal_id: superblock.wal_id,
            salt: superblock.salt,
            incarnation: superblock.incarnation,
            owner_epoch: superblock.owner_epoch,
            next,
            durable: next,
            waiting: VecDeque::new(),
            waiting_record_bytes: 0,
            in_flight: VecDeque::with_capacity(frames + 2),
            first_in_flight: 0,
            frames_in_flight_max: frames,
            spare_record_lists: Vec::new(),
            covered: true,
            idle: false,
            superblock,
            next_superblock: None,
            reads: Vec::new(),
            free_reads: Vec::new(),
            done: Vec::with_capacity(64),
            failed: false,
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
        if !self.failed {
            self.extend_reach();
            while self.issue_frame() {}
            self.cover_if_idle(matches!(phase, Phase::Closing));
            if let Phase::Closing = phase {
                return self.close_step();
            }
        }
        Turn::Continue
    }

    /// What to wait for now. Appenders wake the thread only if it could then do something.
    pub fn prepare_wait(&mut self) -> Wait {
        let wake_at = match self.room_for_a_frame() {
            true if self.in_flight.is_empty() => 1,
            true => u64::from(self.config.pipeline_bytes).saturating_sub(self.waiting_record_bytes).max(1),
            false => u64::MAX,
        };
        let to_close_or_cover = self.in_flight.is_empty() && self.waiting.is_empty() && !self.failed;
        let mut inner = self.shared.lock();
        let work = inner.queue_record_bytes >= wake_at || !inner.reads.is_empty() || !inner.controls.is_empty();
        let ending = match inner.phase {
            Phase::Abandoned => true,
            // While something is in flight its completion takes closing further.
            Phase::Closing => to_close_or_cover && self.next_superblock.is_none(),
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
        let mut done = std::mem::take(&mut self.done);
        for done in done.drain(..) {
            if done.tag & TAG_READ != 0 {
                self.read_done(done);
            } else if done.tag & TAG_SUPERBLOCK != 0 {
                self.superblock_done(done);
            } else {
                self.frame_done(done);
            }
        }
        self.done = done;
        self.report_durable();
    }

    fn frame_done(&mut self, done: Done) {
        let index = (done.tag - self.first_in_flight) as usize;
        let frame = &mut self.in_flight[index];
        assert!(!frame.written, "a frame is done once");
        if let Some(buffer) = done.buffer {
            match frame.buffer_from {
                Pool::Frames => self.frame_buffers.push(buffer),
                Pool::Blocks => self.block_buffers.push(buffer),
                Pool::Own => {}
            }
        }
        match done.result {
            Ok(()) => frame.written = true,
            Err(error) => self.fail(IoError::new("write a frame", error)),
        }
    }

    fn superblock_done(&mut self, done: Done) {
        self.superblock_buffer = done.buffer;
        let written = self.next_superblock.take().expect("a superblock write was in flight");
        match done.result {
            Ok(()) => self.superblock = written,
            Err(error) => self.fail(IoError::new("write the superblock", error)),
        }
    }

    fn read_done(&mut self, done: Done) {
        let slot = (done.tag & !TAG_READ) as usize;
        let reply = self.reads[slot].take().expect("a read was in flight");
        self.free_reads.push(slot);
        let buffer = done.buffer.expect("a read carries a buffer");
        // The reader may have gone; its pin went with it and nobody needs the bytes.
        let _ = reply.send(done.result.map(|()| buffer));
    }

    /// Moves the durable LSN over the frames whose write is done and that no unfinished frame precedes.
    fn report_durable(&mut self) {
        if self.failed || !self.in_flight.front().is_some_and(|frame| frame.written) {
            return;
        }
        let mut completions = self.shared.completions();
        let before = completions.records.len();
        while self.in_flight.front().is_some_and(|frame| frame.written) {
            let mut frame = self.in_flight.pop_front().expect("there is a front");
            self.first_in_flight += 1;
            self.durable = frame.end;
            completions.records.append(&mut frame.records);
            self.spare_record_lists.push(frame.records);
        }
        completions.durable = completions.durable.max(self.durable);
        let news = completions.records.len() > before;
        drop(completions);
        self.shared.lock().space.made_durable(self.durable);
        if self.shared.durable.receiver_count() > 0 {
            self.shared.durable.send_replace(self.durable);
        }
        if news {
            self.shared.completed.notify_one();
        }
    }

    // ---- what is queued ----

    fn take_work(&mut self) -> Phase {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        inner.sleeping = false;
        inner.wake_at = u64::MAX;
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, &mut inner.queue);
        } else {
            self.waiting.append(&mut inner.queue);
        }
        self.waiting_record_bytes += std::mem::take(&mut inner.queue_record_bytes);
        while let Some(read) = inner.reads.pop_front() {
            self.submit_read(read);
        }
        for control in std::mem::take(&mut inner.controls) {
            self.obey(control);
        }
        inner.phase.clone()
    }

    /// A WAL of one leg has nothing to drop, and trusts it.
    fn obey(&mut self, control: Control) {
        match control {
            Control::Drop { leg, set_epoch } => tracing::warn!(%leg, set_epoch, "a WAL keeps its last leg"),
            Control::Distrust { leg, why } => tracing::warn!(%leg, ?why, "the device's word is not trusted"),
        }
    }

    fn submit_read(&mut self, read: ReadRequest) {
        let slot = self.free_reads.pop().unwrap_or_else(|| {
            self.reads.push(None);
            self.reads.len() - 1
        });
        self.reads[slot] = Some(read.reply);
        let bytes = read.buffer.len();
        let (tag, offset) = (TAG_READ | slot as u64, read.device_offset);
        self.device.submit(Request {
            tag,
            leg: 0,
            operation: Operation::Read,
            offset,
            buffer: Some(read.buffer),
            bytes,
        });
    }

    // ---- frames ----

    fn room_for_a_frame(&self) -> bool {
        !self.failed && self.in_flight.len() < self.frames_in_flight_max && !self.frame_buffers.is_empty()
    }

    /// Packs and submits the next frame, if the rules of group commit say so.
    fn issue_frame(&mut self) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        let enough = self.in_flight.is_empty() || self.waiting_record_bytes >= u64::from(self.config.pipeline_bytes);
        if !self.room_for_a_frame() || !enough {
            return false;
        }
        let alone = self.ring.frame_of_one(u64::from(first.payload_bytes));
        let to_end = self.ring.bytes_to_end(self.next);
        let pad = if alone > to_end { to_end } else { 0 };
        let room = if pad > 0 { self.ring.bytes } else { to_end };
        let own_buffer = alone as usize > self.frame_buffers[0].len();
        if own_buffer && self.in_flight.iter().any(|frame| frame.buffer_from == Pool::Own) {
            return false;
        }
        let frame_bytes_max =
            room.min(if own_buffer { alone } else { self.frame_buffers[0].len() as u64 }).min(u64::from(u32::MAX));
        if self.next.0 + pad + frame_bytes_max > self.superblock.reach.0 {
            // The superblock is on its way: extend_reach saw to it.
            return false;
        }
        if pad > 0 {
            self.write_block_frame(FrameKind::Pad, pad);
        }
        self.write_data_frame(frame_bytes_max as usize, own_buffer);
        true
    }

    fn write_data_frame(&mut self, frame_bytes_max: usize, own_buffer: bool) {
        let (mut buffer, buffer_from) = match own_buffer {
            true => (SharedBuf::new(frame_bytes_max), Pool::Own),
            false => (self.frame_buffers.pop().expect("there is room for a frame"), Pool::Frames),
        };
        let bytes = buffer.exclusive();
        let mut records = self.spare_record_lists.pop().unwrap_or_default();
        let (mut at, mut cost, mut payload_sum) = (FRAME_HEADER_BYTES, 0, 0);
        let mut payload_crc = payload_crc_start();
        while let Some(entry) = self.waiting.front() {
            let payload_bytes = entry.payload_bytes as usize;
            if at + record_bytes(payload_bytes) > frame_bytes_max {
                break;
            }
            let entry = self.waiting.pop_front().expect("there is a front");
            let lsn = Lsn(self.next.0 + at as u64);
            let segments = entry.payload.iter().map(|segment| &segment[..]);
            let length = encode_record(&mut bytes[at..], &entry.header, lsn, self.salt, payload_bytes, segments);
            payload_crc.update(&bytes[at..at + RECORD_HEADER_BYTES]);
            let position = RecordPosition { lsn, bytes: entry.payload_bytes, frame_offset: at as u32 };
            records.push(DurableRecord { token: entry.token, position });
            at += length;
            cost += entry.cost;
            payload_sum += u64::from(entry.payload_bytes);
        }
        assert!(!records.is_empty(), "a frame holds at least one record");
        let frame_bytes = self.ring.round_up(at as u64);
        bytes[at..frame_bytes as usize].fill(0);
        self.waiting_record_bytes -= (at - FRAME_HEADER_BYTES) as u64;

        let trim = {
            let mut inner = self.shared.lock();
            inner.space.give_back(cost);
            inner.space.advance(frame_bytes);
            inner.queued_bytes -= payload_sum;
            inner.space.trimmed()
        };
        self.shared.space_freed.notify_waiters();
        let (record_count, payload_bytes) = (records.len() as u32, (at - FRAME_HEADER_BYTES) as u32);
        let header = self.frame_header(FrameKind::Data, trim, frame_bytes as u32);
        FrameHeader { payload_bytes, record_count, payload_crc: payload_crc.finish(), ..header }
            .encode_into(self.salt, buffer.exclusive());
        if self.config.faults.has(Fault::AckEarly) {
            self.ack_early(&mut records, Lsn(self.next.0 + frame_bytes));
        }
        self.covered = false;
        self.submit_frame(buffer, frame_bytes as usize, frame_bytes, records, buffer_from);
    }

    /// A frame without records: one block is written, whatever its length.
    fn write_block_frame(&mut self, kind: FrameKind, length: u64) {
        let mut buffer = self.block_buffers.pop().unwrap_or_else(|| SharedBuf::new(self.ring.block as usize));
        let trim = {
            let mut inner = self.shared.lock();
            inner.space.advance(length);
            inner.space.trimmed()
        };
        self.frame_header(kind, trim, length as u32).encode_into(self.salt, buffer.exclusive());
        let records = self.spare_record_lists.pop().unwrap_or_default();
        self.submit_frame(buffer, self.ring.block as usize, length, records, Pool::Blocks);
    }

    fn frame_header(&self, kind: FrameKind, trim: Lsn, length: u32) -> FrameHeader {
        FrameHeader {
            kind,
            wal_id: self.wal_id,
            incarnation: self.incarnation,
            owner_epoch: self.owner_epoch,
            lsn: self.next,
            durable: self.durable,
            trim,
            length,
            payload_bytes: 0,
            record_count: 0,
            payload_crc: payload_crc_start().finish(),
        }
    }

    fn submit_frame(
        &mut self,
        buffer: SharedBuf,
        write_bytes: usize,
        frame_bytes: u64,
        records: Vec<DurableRecord>,
        buffer_from: Pool,
    ) {
        let tag = self.first_in_flight + self.in_flight.len() as u64;
        let offset = self.ring.device_offset(self.next);
        assert!(frame_bytes <= self.ring.bytes_to_end(self.next), "no frame wraps");
        self.next.0 += frame_bytes;
        self.in_flight.push_back(InFlight { end: self.next, records, written: false, buffer_from });
        let operation = Operation::Write { durable: !self.config.faults.has(Fault::SkipFlush) };
        self.device.submit(Request { tag, leg: 0, operation, offset, buffer: Some(buffer), bytes: write_bytes });
    }

    /// When the device fell idle: an empty frame, so that the last records are covered by a later durable LSN.
    fn cover_if_idle(&mut self, closing: bool) {
        let idle = std::mem::take(&mut self.idle) || closing;
        let due = idle && !self.covered && self.in_flight.is_empty() && self.waiting.is_empty();
        if due && self.next.0 + self.ring.block <= self.superblock.reach.0 {
            self.covered = true;
            self.write_block_frame(FrameKind::Empty, self.ring.block);
        }
    }

    fn ack_early(&mut self, records: &mut Vec<DurableRecord>, durable: Lsn) {
        let mut completions = self.shared.completions();
        completions.records.append(records);
        completions.durable = durable;
        drop(completions);
        self.shared.completed.notify_one();
    }

    // ---- superblock ----

    /// Allows frames further ahead, long before they need it.
    fn extend_reach(&mut self) {
        let wanted = reach_bytes(&self.ring, &self.config);
        if self.next.0 + wanted / 2 > self.superblock.reach.0 && self.next_superblock.is_none() {
            let reach = Lsn(self.next.0 + wanted);
            self.write_superblock(Superblock { reach, ..self.superblock.clone() });
        }
    }

    fn write_superblock(&mut self, mut superblock: Superblock) {
        superblock.generation += 1;
        superblock.durable = self.durable;
        superblock.trim_hint = self.shared.lock().space.trimmed();
        let mut buffer = self.superblock_buffer.take().expect("one superblock write at a time");
        let bytes = superblock.encode();
        buffer.exclusive()[..bytes.len()].copy_from_slice(&bytes);
        let (bytes, offset) = (buffer.len(), SUPERBLOCK_OFFSETS[(superblock.generation % 2) as usize]);
        self.next_superblock = Some(superblock);
        let operation = Operation::Write { durable: true };
        self.device.submit(Request { tag: TAG_SUPERBLOCK, leg: 0, operation, offset, buffer: Some(buffer), bytes });
    }

    // ---- the end ----

    /// Closing goes on when nothing is in flight: cover the last records, mark the superblock, end.
    fn close_step(&mut self) -> Turn {
        let busy = !self.waiting.is_empty() || !self.in_flight.is_empty() || self.next_superblock.is_some();
        if busy || !self.covered {
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
        // Frames that were done before the one that failed are durable; tell that first.
        self.report_durable();
        self.failed = true;
        tracing::error!(%error, durable = self.durable.0, "the WAL failed, nothing is acknowledged any more");
        let error = WalError::Failed(error);
        self.waiting.clear();
        let queued = {
            let mut inner = self.shared.lock();
            if !matches!(inner.phase, Phase::Abandoned) {
                inner.phase = Phase::Failed(error.clone());
            }
            std::mem::take(&mut inner.queue)
        };
        drop(queued);
        self.shared.status.send_modify(|status| status.failed = Some(error.clone()));
        self.shared.end_completions(Some(error));
    }
}
