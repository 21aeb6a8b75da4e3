//! Frames and records: what one device write holds.
//!
//! A frame is a header, then records, padded to the block. The payload CRC runs over the record headers; each record
//! header holds the CRC of its own header, LSN and bytes. So every byte is covered and is read once, while it is copied.
//! The WAL's salt goes into the CRCs of both headers: see [`Salt`].

use uuid::Uuid;

use super::{POSITION_LIMIT, RunningCrc, Salt, crc32c, get, get_u32, get_u64, put};
use crate::types::{Lsn, RecordHeader, WalId};

pub const FRAME_HEADER_BYTES: usize = 128;
pub const RECORD_HEADER_BYTES: usize = 40;
/// Records start at multiples of this within a frame.
pub const RECORD_ALIGN: usize = 8;
/// Longest frame that is believed when read.
pub const FRAME_BYTES_LIMIT: u32 = 1 << 30;

const MAGIC: [u8; 4] = *b"SWFR";
const VERSION: u16 = 1;
const CRC_AT: usize = FRAME_HEADER_BYTES - 4;
const RECORD_CRC_AT: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Records.
    Data,
    /// Fills the ring to its end; only its header is written.
    Pad,
    /// No records: written when the engine falls idle, so that a later frame covers the last records.
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub wal_id: WalId,
    pub incarnation: Uuid,
    pub owner_epoch: u64,
    pub lsn: Lsn,
    /// All below was durable when this frame was built.
    pub durable: Lsn,
    /// The trim LSN when this frame was built.
    pub trim: Lsn,
    /// Header, payload and padding: the next frame starts this much further.
    pub length: u32,
    /// Records with their headers and alignment.
    pub payload_bytes: u32,
    pub record_count: u32,
    /// Over the record headers in order.
    pub payload_crc: u32,
}

impl FrameHeader {
    pub fn encode_into(&self, salt: Salt, out: &mut [u8]) {
        let out = &mut out[..FRAME_HEADER_BYTES];
        out.fill(0);
        put(out, 0, MAGIC);
        put(out, 4, VERSION.to_le_bytes());
        let kind: u16 = match self.kind {
            FrameKind::Data => 0,
            FrameKind::Pad => 1,
            FrameKind::Empty => 2,
        };
        put(out, 6, kind.to_le_bytes());
        put(out, 8, self.wal_id.0.into_bytes());
        put(out, 24, self.incarnation.into_bytes());
        put(out, 40, self.owner_epoch.to_le_bytes());
        put(out, 48, self.lsn.0.to_le_bytes());
        put(out, 56, self.durable.0.to_le_bytes());
        put(out, 64, self.trim.0.to_le_bytes());
        put(out, 72, self.length.to_le_bytes());
        put(out, 76, self.payload_bytes.to_le_bytes());
        put(out, 80, self.record_count.to_le_bytes());
        put(out, 84, self.payload_crc.to_le_bytes());
        let crc = header_crc(out, salt);
        put(out, CRC_AT, crc.to_le_bytes());
    }

    /// The header at the start of `block`, if there is a whole one.
    pub fn decode(block: &[u8], salt: Salt, check_crc: bool) -> Option<Self> {
        if block.len() < FRAME_HEADER_BYTES || block[..4] != MAGIC || get::<2>(block, 4) != VERSION.to_le_bytes() {
            return None;
        }
        if check_crc && get_u32(block, CRC_AT) != header_crc(block, salt) {
            return None;
        }
        let kind = match u16::from_le_bytes(get(block, 6)) {
            0 => FrameKind::Data,
            1 => FrameKind::Pad,
            2 => FrameKind::Empty,
            _ => return None,
        };
        let header = Self {
            kind,
            wal_id: WalId(Uuid::from_bytes(get(block, 8))),
            incarnation: Uuid::from_bytes(get(block, 24)),
            owner_epoch: get_u64(block, 40),
            lsn: Lsn(get_u64(block, 48)),
            durable: Lsn(get_u64(block, 56)),
            trim: Lsn(get_u64(block, 64)),
            length: get_u32(block, 72),
            payload_bytes: get_u32(block, 76),
            record_count: get_u32(block, 80),
            payload_crc: get_u32(block, 84),
        };
        let content = u64::from(header.payload_bytes) + FRAME_HEADER_BYTES as u64;
        let holds_its_content = content <= u64::from(header.length) && header.length <= FRAME_BYTES_LIMIT;
        let durable_lies_before = header.durable <= header.lsn && header.lsn.0 < POSITION_LIMIT;
        let epoch_is_possible = header.owner_epoch < POSITION_LIMIT;
        (holds_its_content && durable_lies_before && epoch_is_possible).then_some(header)
    }
}

/// Over the header's bytes and the salt.
fn header_crc(header: &[u8], salt: Salt) -> u32 {
    let mut covered = [0; CRC_AT + 8];
    covered[..CRC_AT].copy_from_slice(&header[..CRC_AT]);
    let (bytes, length) = salt.bytes();
    put(&mut covered, CRC_AT, bytes);
    crc32c(&covered[..CRC_AT + length])
}

/// Bytes of a record in a frame: header, payload, alignment.
pub fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGN)
}

/// Writes a record at the start of `out` (zeroing its alignment) and returns its length there. The one copy of the payload.
pub fn encode_record<'a>(
    out: &mut [u8],
    header: &RecordHeader,
    lsn: Lsn,
    salt: Salt,
    payload_bytes: usize,
    payload: impl Iterator<Item = &'a [u8]>,
) -> usize {
    let total = record_bytes(payload_bytes);
    let (head, body) = out[..total].split_at_mut(RECORD_HEADER_BYTES);
    encode_header(head, header, payload_bytes as u32);
    let mut crc = record_crc_start(head, lsn, salt);
    let mut at = 0;
    for segment in payload {
        // Small steps, so that the CRC reads what the copy has just brought into the cache.
        for piece in segment.chunks(16 << 10) {
            body[at..at + piece.len()].copy_from_slice(piece);
            crc.update(&body[at..at + piece.len()]);
            at += piece.len();
        }
    }
    assert_eq!(at, payload_bytes, "a record's segments must be as long as was said");
    body[at..].fill(0);
    put(head, RECORD_CRC_AT, crc.finish().to_le_bytes());
    total
}

/// A record as it lies in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodedRecord {
    pub header: RecordHeader,
    pub payload_bytes: u32,
}

/// The record at the start of `bytes`, which lies at `lsn`. `Err` says what is wrong with it.
pub fn decode_record(bytes: &[u8], lsn: Lsn, salt: Salt, check_crc: bool) -> Result<DecodedRecord, &'static str> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err("record header is cut off");
    }
    let (head, body) = bytes.split_at(RECORD_HEADER_BYTES);
    let header = RecordHeader {
        stream: get_u64(head, 0),
        base_offset: i64::from_le_bytes(get(head, 8)),
        last_offset: i64::from_le_bytes(get(head, 16)),
        leader_epoch: i32::from_le_bytes(get(head, 24)),
    };
    let payload_bytes = get_u32(head, 28);
    let Some(payload) = body.get(..payload_bytes as usize) else {
        return Err("record is longer than its frame");
    };
    if check_crc {
        let mut crc = record_crc_start(head, lsn, salt);
        crc.update(payload);
        if crc.finish() != get_u32(head, RECORD_CRC_AT) {
            return Err("record CRC does not match");
        }
    }
    Ok(DecodedRecord { header, payload_bytes })
}

/// CRC over the record headers of a payload, continued one by one.
pub fn payload_crc_start() -> RunningCrc {
    RunningCrc::after(0)
}

fn encode_header(head: &mut [u8], header: &RecordHeader, payload_bytes: u32) {
    put(head, 0, header.stream.to_le_bytes());
    put(head, 8, header.base_offset.to_le_bytes());
    put(head, 16, header.last_offset.to_le_bytes());
    put(head, 24, header.leader_epoch.to_le_bytes());
    put(head, 28, payload_bytes.to_le_bytes());
    put(head, RECORD_CRC_AT, [0; 8]);
}

/// Header fields, LSN and salt; the payload follows.
fn record_crc_start(head: &[u8], lsn: Lsn, salt: Salt) -> RunningCrc {
    let mut first = [0; RECORD_CRC_AT + 16];
    first[..RECORD_CRC_AT].copy_from_slice(&head[..RECORD_CRC_AT]);
    put(&mut first, RECORD_CRC_AT, lsn.0.to_le_bytes());
    let (bytes, length) = salt.bytes();
    put(&mut first, RECORD_CRC_AT + 8, bytes);
    RunningCrc::after(crc32c(&first[..RECORD_CRC_AT + 8 + length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(0x5a17);

    const HEADER: RecordHeader = RecordHeader { stream: 9, leader_epoch: 3, base_offset: 100, last_offset: 104 };

    fn frame_header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Data,
            wal_id: WalId(Uuid::from_u128(5)),
            incarnation: Uuid::from_u128(6),
            owner_epoch: 7,
            lsn: Lsn(1 << 20),
            durable: Lsn(1 << 19),
            trim: Lsn(1 << 18),
            length: 8192,
            payload_bytes: 5000,
            record_count: 2,
            payload_crc: 77,
        }
    }

    #[test]
    fn a_frame_header_survives_its_encoding_and_no_flipped_bit_does() {
        let mut bytes = [0xff; FRAME_HEADER_BYTES];
        frame_header().encode_into(SALT, &mut bytes);
        assert_eq!(FrameHeader::decode(&bytes, SALT, true), Some(frame_header()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&bad, SALT, true), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_found_at_its_own_lsn_only() {
        let payload: Vec<u8> = (0..40_001u32).map(|i| i as u8).collect();
        let mut out = vec![0xaa; record_bytes(payload.len()) + 16];
        let length = encode_record(&mut out, &HEADER, Lsn(4224), SALT, payload.len(), payload.chunks(17_000));
        assert_eq!(length, record_bytes(payload.len()));
        assert_eq!(&out[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload.len()], &payload[..]);
        assert_eq!(&out[length..], &[0xaa; 16], "nothing is written behind the record");
        let decoded = decode_record(&out, Lsn(4224), SALT, true);
        assert_eq!(decoded, Ok(DecodedRecord { header: HEADER, payload_bytes: payload.len() as u32 }));
        assert_eq!(decode_record(&out, Lsn(4232), SALT, true), Err("record CRC does not match"));
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let mut out = vec![0; record_bytes(5)];
        encode_record(&mut out, &HEADER, Lsn(128), SALT, 5, [&b"hello"[..]].into_iter());
        // The alignment behind the payload and the reserved bytes of the header are not covered: they hold nothing.
        for bit in (0..36 * 8).chain(40 * 8..45 * 8) {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_record(&bad, Lsn(128), SALT, true).is_err(), "bit {bit}");
        }
    }

    /// Who knows all but the salt cannot make a frame or a record.
    #[test]
    fn another_salt_makes_another_crc_and_none_is_as_version_1_was() {
        let (mut salted, mut plain) = ([0; FRAME_HEADER_BYTES], [0; FRAME_HEADER_BYTES]);
        frame_header().encode_into(SALT, &mut salted);
        frame_header().encode_into(Salt::NONE, &mut plain);
        assert_eq!(FrameHeader::decode(&salted, Salt(0x5a18), true), None);
        assert_eq!(FrameHeader::decode(&plain, SALT, true), None);
        assert_eq!(get_u32(&plain, CRC_AT), crc32c(&plain[..CRC_AT]));
        let mut out = vec![0; record_bytes(5)];
        encode_record(&mut out, &HEADER, Lsn(128), Salt::NONE, 5, [&b"hello"[..]].into_iter());
        assert!(decode_record(&out, Lsn(128), Salt::NONE, true).is_ok());
        assert!(decode_record(&out, Lsn(128), SALT, true).is_err());
        let covered = [&out[..RECORD_CRC_AT], &128u64.to_le_bytes(), b"hello"].concat();
        assert_eq!(get_u32(&out, RECORD_CRC_AT), crc32c(&covered));
    }
}
