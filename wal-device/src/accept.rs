//! Which bytes are a frame of this log, pure: the rules that recovery, verification and salvage share.

use crate::config::{Fault, Faults};
use crate::format::Salt;
use crate::format::frame::{
    FRAME_HEADER_BYTES, FrameHeader, FrameKind, RECORD_HEADER_BYTES, decode_record, payload_crc_start, record_bytes,
};
use crate::ring::Ring;
use crate::types::{Lsn, RecordHeader, RecordPosition, WalId};

/// A record that recovery found; its bytes stay on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedRecord {
    pub header: RecordHeader,
    pub position: RecordPosition,
}

/// What is known of a log before its frames are read.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub ring: Ring,
    pub wal_id: WalId,
    pub salt: Salt,
    /// No data frame is longer. 0: not known.
    pub frame_bytes_max: u64,
    /// (owner epoch, start LSN) of every opening that is known: frames from a start on need that epoch or a higher one.
    pub opens: Vec<(u64, Lsn)>,
    pub faults: Faults,
}

impl Rules {
    fn check_crc(&self) -> bool {
        !self.faults.has(Fault::SkipCrc)
    }

    /// The header of a frame of this WAL, if one starts here.
    pub fn header(&self, block: &[u8]) -> Result<FrameHeader, &'static str> {
        let header = FrameHeader::decode(block, self.salt, self.check_crc()).ok_or("no frame header")?;
        if header.wal_id == self.wal_id { Ok(header) } else { Err("frame of another WAL") }
    }

    /// Whether a frame may lie at `lsn`, behind one of epoch `before`, and below `limit`.
    pub fn judge(&self, header: &FrameHeader, lsn: Lsn, before: u64, limit: Lsn) -> Result<(), &'static str> {
        if header.lsn != lsn {
            return Err("frame of another lap");
        }
        if header.owner_epoch < self.epoch_floor(lsn, before) && !self.faults.has(Fault::IgnoreEpoch) {
            return Err("frame of an older owner");
        }
        if !self.length_is_possible(header) || lsn.0 + u64::from(header.length) > limit.0 {
            return Err("frame with an impossible length");
        }
        Ok(())
    }

    pub fn length_is_possible(&self, header: &FrameHeader) -> bool {
        let length = u64::from(header.length);
        let bounded = header.kind != FrameKind::Data || self.frame_bytes_max == 0 || length <= self.frame_bytes_max;
        length > 0 && length.is_multiple_of(self.ring.block) && length <= self.ring.bytes_to_end(header.lsn) && bounded
    }

    /// The lowest epoch that a frame at `lsn` may have, behind one of epoch `before`.
    pub fn epoch_floor(&self, lsn: Lsn, before: u64) -> u64 {
        self.opens.iter().filter(|(_, start)| *start <= lsn).map(|(epoch, _)| *epoch).fold(before, u64::max)
    }

    /// How much of a frame is on the device: of a pad only its first block.
    pub fn written_bytes(&self, header: &FrameHeader) -> u64 {
        if header.kind == FrameKind::Data { u64::from(header.length) } else { self.ring.block }
    }

    /// Checks every CRC of a frame and shows its records with their payloads. After an error those seen do not count.
    pub fn records(
        &self,
        header: &FrameHeader,
        frame: &[u8],
        mut see: impl FnMut(ScannedRecord, &[u8]),
    ) -> Result<(), &'static str> {
        if header.kind != FrameKind::Data {
            return Ok(());
        }
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let mut at = FRAME_HEADER_BYTES;
        let mut payload_crc = payload_crc_start();
        for _ in 0..header.record_count {
            let lsn = Lsn(header.lsn.0 + at as u64);
            let record = decode_record(&frame[at.min(end)..end], lsn, self.salt, self.check_crc())?;
            payload_crc.update(&frame[at..at + RECORD_HEADER_BYTES]);
            let position = RecordPosition { lsn, bytes: record.payload_bytes, frame_offset: at as u32 };
            let payload = &frame[at + RECORD_HEADER_BYTES..][..record.payload_bytes as usize];
            see(ScannedRecord { header: record.header, position }, payload);
            at += record_bytes(record.payload_bytes as usize);
        }
        if self.check_crc() && (at != end || payload_crc.finish() != header.payload_crc) {
            return Err("frame payload CRC does not match");
        }
        Ok(())
    }
}
