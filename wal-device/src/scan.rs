//! Recovery's reading: what the ring holds from the trim LSN on, where it ends, and whether that end is a tail or damage.
//!
//! Promise: the records returned are a prefix of what was appended and hold all that was acknowledged, or `damage` says
//! what is missing. A frame counts if WAL id, LSN and CRCs match and its epoch is not lower than the frame's before it or
//! than its open's. At the first one that fails, after a second read, everything that may prove that it was acknowledged
//! is looked at. Reads are sequential and large; memory is one window plus the index.

use std::io;

use crate::aligned_buf::SharedBuf;
use crate::config::{Fault, Faults, ScanFrom, WalConfig};
use crate::device::{BlockDevice, Operation, flush, run};
use crate::error::{Damage, IoError, ScanError};
use crate::format::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, RECORD_HEADER_BYTES, decode_record, payload_crc_start, record_bytes,
};
use crate::format::superblock::Superblock;
use crate::ring::{Ring, reach_bytes};
use crate::types::{Lsn, RecordHeader, RecordPosition, WalId};

/// A short log is read with little more than it holds.
const WINDOW_BYTES_FIRST: u64 = 256 << 10;
const WINDOW_BYTES: u64 = 2 << 20;

/// A record that recovery found; its bytes stay on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedRecord {
    pub header: RecordHeader,
    pub position: RecordPosition,
}

/// What recovery found.
#[derive(Debug, Clone)]
pub struct Scan {
    pub end: Lsn,
    pub records: Vec<ScannedRecord>,
    /// The first `WalConfig::scan_head_bytes` of each record's payload, one after the other; a shorter one is filled with zeros.
    pub heads: Vec<u8>,
    pub frames: u64,
    /// The newest trim LSN that superblock or frames carry.
    pub newest_trim_hint: Lsn,
    /// The highest owner epoch that superblock or accepted frames carry.
    pub owner_epoch_seen: u64,
    pub damage: Option<Damage>,
    /// The WAL was closed cleanly and its end is where it was then.
    pub clean_shutdown: bool,
}

/// Reads the ring and flushes the device, so that what is returned is durable.
/// `search_all`: one superblock copy is unreadable, so its `reach` cannot be trusted to be the newest.
pub fn scan(
    device: &mut dyn BlockDevice,
    superblock: &Superblock,
    search_all: bool,
    from: &ScanFrom,
    config: &WalConfig,
) -> Result<Scan, ScanError> {
    let ring = Ring::of(superblock);
    if !ring.is_aligned(from.trim) {
        return Err(ScanError::BadTrim(from.trim));
    }
    let mut scanner = Scanner {
        ring,
        faults: config.faults,
        head_bytes: config.scan_head_bytes,
        reach_bytes: reach_bytes(&ring, config),
        from,
        superblock,
        limit: Lsn(from.trim.0 + ring.bytes),
        window: Window { device, ring, buffer: None, start: Lsn(0), bytes: 0, next_bytes: WINDOW_BYTES_FIRST },
        epoch: 0,
        found: Scan {
            end: from.trim,
            records: Vec::new(),
            heads: Vec::new(),
            frames: 0,
            newest_trim_hint: superblock.trim_hint,
            owner_epoch_seen: superblock.owner_epoch,
            damage: None,
            clean_shutdown: false,
        },
    };
    let stopped = scanner.read_frames();
    if let Some(why) = stopped {
        scanner.found.damage = scanner.judge_end(why, search_all);
    }
    let mut found = scanner.found;
    flush(device, 0).map_err(|error| ScanError::Io(IoError::new("flush", error)))?;
    found.clean_shutdown = superblock.clean_shutdown && superblock.durable == found.end && found.damage.is_none();
    Ok(found)
}

/// Why no frame is accepted at an LSN.
#[derive(Debug)]
enum Reject {
    Invalid(&'static str),
    Unreadable(io::Error),
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Unreadable(error) => write!(f, "unreadable: {error}"),
        }
    }
}

struct Scanner<'a> {
    ring: Ring,
    faults: Faults,
    head_bytes: usize,
    /// How far a superblock looks ahead.
    reach_bytes: u64,
    from: &'a ScanFrom,
    superblock: &'a Superblock,
    /// One lap after the trim LSN: no frame of this log lies beyond.
    limit: Lsn,
    window: Window<'a>,
    /// Of the last accepted frame.
    epoch: u64,
    found: Scan,
}

impl Scanner<'_> {
    /// Accepts frames until one fails twice. `None`: the ring is full to the last block.
    fn read_frames(&mut self) -> Option<Reject> {
        while self.found.end < self.limit {
            if self.accept_frame().is_err() {
                self.window.forget();
                if let Err(why) = self.accept_frame() {
                    return Some(why);
                }
            }
        }
        None
    }

    /// Accepts the frame at the end found so far.
    fn accept_frame(&mut self) -> Result<(), Reject> {
        let lsn = self.found.end;
        let check_crc = !self.faults.has(Fault::SkipCrc);
        let block = self.window.read(lsn, self.ring.block).map_err(Reject::Unreadable)?;
        let header = FrameHeader::decode(block, check_crc).ok_or(Reject::Invalid("no frame header"))?;
        self.judge_header(&header, lsn)?;
        let records_before = self.found.records.len();
        if header.kind == FrameKind::Data
            && let Err(why) = self.accept_records(&header, check_crc)
        {
            self.found.records.truncate(records_before);
            self.found.heads.truncate(records_before * self.head_bytes);
            return Err(why);
        }
        self.epoch = header.owner_epoch;
        self.found.end = Lsn(lsn.0 + u64::from(header.length));
        self.found.frames += 1;
        self.found.newest_trim_hint = self.found.newest_trim_hint.max(header.trim);
        self.found.owner_epoch_seen = self.found.owner_epoch_seen.max(header.owner_epoch);
        Ok(())
    }

    fn judge_header(&self, header: &FrameHeader, lsn: Lsn) -> Result<(), Reject> {
        let length = u64::from(header.length);
        if header.wal_id != self.superblock.wal_id {
            return Err(Reject::Invalid("frame of another WAL"));
        }
        if header.lsn != lsn {
            return Err(Reject::Invalid("frame of another lap"));
        }
        if header.owner_epoch < self.epoch_floor(lsn) && !self.faults.has(Fault::IgnoreEpoch) {
            return Err(Reject::Invalid("frame of an older owner"));
        }
        let aligned = length > 0 && length.is_multiple_of(self.ring.block);
        if !aligned || length > self.ring.bytes_to_end(lsn) || lsn.0 + length > self.limit.0 {
            return Err(Reject::Invalid("frame with an impossible length"));
        }
        Ok(())
    }

    /// The lowest epoch that a frame at `lsn` may have.
    fn epoch_floor(&self, lsn: Lsn) -> u64 {
        let superblock_open = (self.superblock.owner_epoch, self.superblock.open_start);
        let opens = self.from.opened_at.iter().chain([&superblock_open]);
        opens.filter(|(_, start)| *start <= lsn).map(|(epoch, _)| *epoch).fold(self.epoch, u64::max)
    }

    fn accept_records(&mut self, frame: &FrameHeader, check_crc: bool) -> Result<(), Reject> {
        let bytes = self.window.read(frame.lsn, u64::from(frame.length)).map_err(Reject::Unreadable)?;
        let end = FRAME_HEADER_BYTES + frame.payload_bytes as usize;
        let mut at = FRAME_HEADER_BYTES;
        let mut payload_crc = payload_crc_start();
        for _ in 0..frame.record_count {
            let lsn = Lsn(frame.lsn.0 + at as u64);
            let record = decode_record(&bytes[at.min(end)..end], lsn, check_crc).map_err(Reject::Invalid)?;
            payload_crc.update(&bytes[at..at + RECORD_HEADER_BYTES]);
            let position = RecordPosition { lsn, bytes: record.payload_bytes, frame_offset: at as u32 };
            self.found.records.push(ScannedRecord { header: record.header, position });
            let payload = &bytes[at + RECORD_HEADER_BYTES..][..record.payload_bytes as usize];
            self.found.heads.extend_from_slice(&payload[..payload.len().min(self.head_bytes)]);
            self.found.heads.resize(self.found.records.len() * self.head_bytes, 0);
            at += record_bytes(record.payload_bytes as usize);
        }
        if check_crc && (at != end || payload_crc.finish() != frame.payload_crc) {
            return Err(Reject::Invalid("frame payload CRC does not match"));
        }
        Ok(())
    }

    /// The log stops here: is it the tail, which was never acknowledged, or damage?
    fn judge_end(&mut self, why: Reject, search_all: bool) -> Option<Damage> {
        let end = self.found.end;
        let damage =
            |durable, proof: &str| Some(Damage { at: end, durable, found: why.to_string(), proof: proof.to_owned() });
        if let Some((_, start)) = self.from.opened_at.iter().filter(|(_, start)| *start > end).max_by_key(|o| o.1) {
            return damage(*start, "the WAL was opened from there on");
        }
        if self.superblock.durable > end {
            return damage(self.superblock.durable, "the superblock says so");
        }
        match self.search_behind(end, search_all) {
            Behind::Proof { durable, frame } => damage(durable, &format!("the frame at {frame} says so")),
            // A block that a power cut left unreadable and a lost acknowledged frame look the same: an operator decides.
            Behind::Unreadable => damage(end, "what lies behind cannot be read"),
            Behind::Nothing if matches!(why, Reject::Unreadable(_)) => damage(end, "it cannot be read"),
            Behind::Nothing => None,
        }
    }

    /// Looks for a later frame whose durable LSN lies beyond `end`. A stale frame of an older owner never has one: the
    /// owner that cut it off found no proof either.
    ///
    /// No frame ends beyond the superblock's reach. A device that lost a superblock write may have an older reach: so the
    /// search goes one more reach on, from there and from every frame that it meets.
    fn search_behind(&mut self, end: Lsn, search_all: bool) -> Behind {
        let block = self.ring.block;
        let mut search = Search {
            end,
            wal_id: self.superblock.wal_id,
            check_crc: !self.faults.has(Fault::SkipCrc),
            block,
            last_seen: self.superblock.reach,
            proof: None,
        };
        let mut unreadable = false;
        let mut at = Lsn(end.0 + block);
        while search.proof.is_none() {
            let until =
                if search_all { self.limit } else { Lsn(search.last_seen.0 + self.reach_bytes).min(self.limit) };
            if at >= until {
                break;
            }
            let length = self.ring.bytes_to_end(at).min(until.0 - at.0).min(WINDOW_BYTES);
            match self.window.read(at, length) {
                Ok(bytes) => search.look_at(bytes, at),
                // Block by block, to see around the unreadable ones.
                Err(_) => {
                    for lsn in (at.0..at.0 + length).step_by(block as usize).map(Lsn) {
                        match self.window.read(lsn, block) {
                            Ok(bytes) => search.look_at(bytes, lsn),
                            Err(_) => unreadable = true,
                        }
                    }
                }
            }
            at.0 += length;
        }
        match search.proof {
            Some(header) => Behind::Proof { durable: header.durable, frame: header.lsn },
            None if unreadable => Behind::Unreadable,
            None => Behind::Nothing,
        }
    }
}

enum Behind {
    Proof { durable: Lsn, frame: Lsn },
    Unreadable,
    Nothing,
}

/// What a look behind the end has seen so far.
struct Search {
    end: Lsn,
    wal_id: WalId,
    check_crc: bool,
    block: u64,
    /// No frame of this lap seen so far lies beyond.
    last_seen: Lsn,
    proof: Option<FrameHeader>,
}

impl Search {
    fn look_at(&mut self, bytes: &[u8], at: Lsn) {
        for (chunk, i) in bytes.chunks_exact(self.block as usize).zip(0..) {
            let Some(header) = FrameHeader::decode(chunk, self.check_crc) else { continue };
            if header.wal_id != self.wal_id || header.lsn.0 != at.0 + i * self.block {
                continue;
            }
            self.last_seen = self.last_seen.max(header.lsn);
            if header.durable > self.end {
                self.proof.get_or_insert(header);
            }
        }
    }
}

/// A part of the ring in memory, read ahead.
struct Window<'a> {
    device: &'a mut dyn BlockDevice,
    ring: Ring,
    buffer: Option<SharedBuf>,
    start: Lsn,
    bytes: u64,
    /// How much the next read takes.
    next_bytes: u64,
}

impl Window<'_> {
    /// `length` bytes at `lsn`, both multiples of the block, not beyond the ring's end.
    fn read(&mut self, lsn: Lsn, length: u64) -> io::Result<&[u8]> {
        let held = self.start <= lsn && lsn.0 + length <= self.start.0 + self.bytes;
        if !held {
            let ahead = self.ring.bytes_to_end(lsn).min(length.max(self.next_bytes));
            if let Err(error) = self.fill(lsn, ahead) {
                if ahead == length {
                    return Err(error);
                }
                self.fill(lsn, length)?;
            }
            self.next_bytes = WINDOW_BYTES;
        }
        let at = (lsn.0 - self.start.0) as usize;
        let buffer = self.buffer.as_ref().expect("filled above");
        Ok(&buffer[at..at + length as usize])
    }

    fn fill(&mut self, lsn: Lsn, length: u64) -> io::Result<()> {
        self.forget();
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.len() as u64 >= length => buffer,
            _ => SharedBuf::new(length as usize),
        };
        let offset = self.ring.device_offset(lsn);
        let (buffer, result) = run(self.device, 0, Operation::Read, offset, Some(buffer), length as usize);
        self.buffer = buffer;
        result?;
        (self.start, self.bytes) = (lsn, length);
        Ok(())
    }

    /// The next read goes to the device.
    fn forget(&mut self) {
        self.bytes = 0;
    }
}
