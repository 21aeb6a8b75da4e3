//! Frames: packed when the rules of group commit say so, written to every leg, reported in order.

use super::{Engine, Turn};
use crate::aligned_buf::SharedBuf;
use crate::config::Fault;
use crate::device::{Done, Operation, Request, Wait};
use crate::error::IoError;
use crate::format::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, RECORD_HEADER_BYTES, encode_record, payload_crc_start, record_bytes,
};
use crate::types::{DurableRecord, Lsn, RecordPosition};

/// While more frames fit beside it a frame is no longer: the device works while the next one is packed. When all are in
/// flight the next one takes all that waits.
const SHORT_FRAME_BYTES: u64 = 256 << 10;
/// No longer, but for a record that needs it: what a device does not take at once goes through a worker of io_uring's.
const LONG_FRAME_BYTES: u64 = 1 << 20;

/// A frame on its way to the device.
pub(super) struct InFlight {
    end: Lsn,
    records: Vec<DurableRecord>,
    submitted_us: u64,
    /// The legs that it was written to, and those of them that still write.
    written_to: u8,
    open: u8,
    /// In a buffer of its own, for a record larger than a frame.
    own_buffer: bool,
}

impl InFlight {
    /// Whether a leg still writes it.
    pub(super) fn is_open_on(&self, leg: u8) -> bool {
        self.open & (1 << leg) != 0
    }
}

impl Engine {
    pub(super) fn room_for_a_frame(&self) -> bool {
        !self.failed && self.in_flight.len() < self.frames_in_flight_max && !self.frame_buffers.is_empty()
    }

    /// Packs and submits as many frames as the rules of group commit say. A frame reaches the device before the next one is
    /// packed, which takes as long as a write.
    pub(super) fn issue_frames(&mut self) -> Turn {
        while self.issue_frame() {
            if self.is_frame_due() {
                if self.wait(Wait::No) == Turn::Finished {
                    return Turn::Finished;
                }
                self.handle_done();
                self.write_due_superblock();
            }
        }
        Turn::Continue
    }

    /// Group commit: at once on an idle device, else when enough has come together.
    fn is_frame_due(&self) -> bool {
        let enough = self.in_flight.is_empty() || self.waiting_record_bytes >= u64::from(self.config.pipeline_bytes);
        enough && !self.waiting.is_empty() && self.room_for_a_frame()
    }

    /// Packs and submits the next frame, if it is due.
    fn issue_frame(&mut self) -> bool {
        let Some(first) = self.waiting.front().filter(|_| self.is_frame_due()) else { return false };
        let alone = self.ring.frame_of_one(u64::from(first.payload_bytes));
        let to_end = self.ring.bytes_to_end(self.next);
        let pad = if alone > to_end { to_end } else { 0 };
        let room = if pad > 0 { self.ring.bytes } else { to_end };
        let own_buffer = alone as usize > self.frame_bytes_max;
        if own_buffer && self.in_flight.iter().any(|frame| frame.own_buffer) {
            return false;
        }
        let buffer_bytes = if own_buffer { alone } else { self.frame_bytes_max as u64 };
        let last_that_fits = self.in_flight.len() + 1 >= self.frames_in_flight_max;
        let wanted = if last_that_fits { LONG_FRAME_BYTES } else { SHORT_FRAME_BYTES };
        let frame_bytes_max = room.min(buffer_bytes).min(wanted.max(alone)).min(u64::from(u32::MAX));
        if self.next.0 + pad + frame_bytes_max > self.superblock.reach.0 {
            // The superblock is on its way: write_due_superblock saw to it.
            return false;
        }
        if pad > 0 {
            self.write_block_frame(FrameKind::Pad, pad);
        }
        self.write_data_frame(frame_bytes_max as usize, own_buffer);
        true
    }

    fn write_data_frame(&mut self, frame_bytes_max: usize, own_buffer: bool) {
        let mut buffer = match own_buffer {
            true => self.own_buffer(frame_bytes_max),
            false => self.frame_buffers.pop().expect("there is room for a frame"),
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
        assert!(frame_bytes <= self.superblock.frame_bytes_max, "recovery believes no longer frame");
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
        self.shared.stats.frame(payload_sum);
        let (record_count, payload_bytes) = (records.len() as u32, (at - FRAME_HEADER_BYTES) as u32);
        let header = self.frame_header(FrameKind::Data, trim, frame_bytes as u32);
        FrameHeader { payload_bytes, record_count, payload_crc: payload_crc.finish(), ..header }
            .encode_into(self.salt, buffer.exclusive());
        if self.config.faults.has(Fault::AckEarly) {
            self.ack_early(&mut records, Lsn(self.next.0 + frame_bytes));
        }
        self.covered = false;
        self.submit_frame(buffer, frame_bytes as usize, frame_bytes, records, own_buffer);
    }

    fn own_buffer(&mut self, bytes: usize) -> SharedBuf {
        let spare = self.spare_own_buffer.take().filter(|spare| spare.len() >= bytes);
        // As large as any: the next one need not be allocated.
        let largest = self.ring.frame_of_one(u64::from(self.config.record_bytes_max)) as usize;
        spare.unwrap_or_else(|| SharedBuf::new(bytes.max(largest)))
    }

    /// A frame without records: one block is written, whatever its length.
    fn write_block_frame(&mut self, kind: FrameKind, length: u64) {
        let mut buffer = self.block_buffers.pop().unwrap_or_else(|| SharedBuf::new(self.ring.block as usize));
        let trim = {
            let mut inner = self.shared.lock();
            inner.space.advance(length);
            inner.space.trimmed()
        };
        self.shared.stats.frame(0);
        self.frame_header(kind, trim, length as u32).encode_into(self.salt, buffer.exclusive());
        let records = self.spare_record_lists.pop().unwrap_or_default();
        self.submit_frame(buffer, self.ring.block as usize, length, records, false);
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
        own_buffer: bool,
    ) {
        let tag = self.first_in_flight + self.in_flight.len() as u64;
        let offset = self.ring.device_offset(self.next);
        assert!(frame_bytes <= self.ring.bytes_to_end(self.next), "no frame wraps");
        self.next.0 += frame_bytes;
        let written_to = self.legs.written();
        let submitted_us = (self.shared.clock)();
        let frame = InFlight { end: self.next, records, submitted_us, written_to, open: written_to, own_buffer };
        self.in_flight.push_back(frame);
        let operation = Operation::Write { durable: !self.config.faults.has(Fault::SkipFlush) };
        self.depth_changes(submitted_us, u64::from(written_to.count_ones()), 0);
        for leg in super::legs::numbers(written_to) {
            let buffer = Some(buffer.clone());
            self.submit(Request { tag, leg, operation, offset, buffer, bytes: write_bytes });
            self.shared.stats.device_write(write_bytes as u64);
        }
    }

    /// One leg has written a frame, or could not.
    pub(super) fn frame_done(&mut self, done: Done, now_us: u64) {
        if let Some(buffer) = done.buffer {
            self.give_back(buffer);
        }
        self.depth_changes(now_us, 0, 1);
        // A leg that was dropped may come late: the frame was reported without it.
        if let Some(index) = done.tag.checked_sub(self.first_in_flight) {
            let frame = &mut self.in_flight[index as usize];
            assert!(frame.is_open_on(done.leg), "a frame is done once on each leg");
            frame.open &= !(1 << done.leg);
            let took_us = now_us.saturating_sub(frame.submitted_us);
            self.shared.stats.write_took(took_us, self.config.spike_threshold.as_micros() as u64);
        }
        if let Err(error) = done.result {
            self.leg_failed(done.leg, IoError::new("write a frame", error));
        }
    }

    /// The last leg that gives a buffer back makes it free.
    fn give_back(&mut self, mut buffer: SharedBuf) {
        if !buffer.is_exclusive() {
            return;
        }
        let bytes = buffer.len();
        if bytes > self.frame_bytes_max {
            self.spare_own_buffer = Some(buffer);
        } else if bytes < self.frame_bytes_max {
            self.block_buffers.push(buffer);
        } else if self.frame_buffers.len() < self.frames_in_flight_max {
            self.frame_buffers.push(buffer);
        }
    }

    fn depth_changes(&mut self, now_us: u64, more: u64, fewer: u64) {
        self.shared.stats.depth(self.depth, now_us.saturating_sub(self.depth_since_us));
        self.depth_since_us = now_us;
        self.depth = self.depth + more - fewer;
    }

    pub(super) fn note_oldest_write(&self) {
        let awaited = self.legs.awaited();
        let oldest = self.in_flight.iter().find(|frame| frame.open & awaited != 0);
        let oldest = oldest.map(|frame| (frame.submitted_us, (frame.open & awaited).trailing_zeros() as u8));
        self.shared.stats.oldest_write(oldest);
    }

    /// Whether each leg that counts has this frame.
    fn is_durable(&self, frame: &InFlight) -> bool {
        let open = frame.open & self.legs.awaited();
        open == 0 || (self.config.faults.has(Fault::AckOneLeg) && open != frame.written_to & self.legs.awaited())
    }

    /// Moves the durable LSN over the frames that every leg has and that no unfinished frame precedes. While a leg has
    /// failed and is not dropped, or is not trusted, nothing moves; nor while a superblock's flush may take a frame's error.
    pub(super) fn report_durable(&mut self) {
        let flush_errors_mix = self.one_write_at_a_time && self.next_superblock.is_some();
        if self.failed || flush_errors_mix || self.legs.is_held() {
            return;
        }
        let done = self.in_flight.iter().take_while(|frame| self.is_durable(frame)).last();
        let Some(durable) = done.map(|frame| frame.end) else { return };
        let shared = self.shared.clone();
        // First: who hears of a record may read it, or trim to its end, at once.
        shared.lock().space.made_durable(durable);
        let mut completions = shared.completions();
        let before = completions.records.len();
        while self.in_flight.front().is_some_and(|frame| frame.end <= durable) {
            let mut frame = self.in_flight.pop_front().expect("there is a front");
            self.first_in_flight += 1;
            completions.records.append(&mut frame.records);
            self.spare_record_lists.push(frame.records);
        }
        self.durable = durable;
        completions.durable = completions.durable.max(durable);
        let news = completions.records.len() > before;
        drop(completions);
        if shared.durable.receiver_count() > 0 {
            shared.durable.send_replace(self.durable);
        }
        if news {
            shared.completed.notify_one();
        }
    }

    /// When the device fell idle: an empty frame, so that the last records are covered by a later durable LSN.
    pub(super) fn cover_if_idle(&mut self, closing: bool) {
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
}
