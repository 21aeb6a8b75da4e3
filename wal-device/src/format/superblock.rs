//! The superblock: who owns this WAL and how its ring lies. Two copies are written in turn; the newest valid one counts.

use uuid::Uuid;

use super::frame::FRAME_BYTES_LIMIT;
use super::{BLOCK_BYTES_MAX, POSITION_LIMIT, RING_OFFSET_MIN, Salt, crc32c, get, get_u32, get_u64, put};
use crate::types::{LegId, Lsn, WalId};

/// What this build writes. It reads version 1 too: no salt, no legs, and no bound for frames.
pub const FORMAT_VERSION: u32 = 2;
/// Encoded length; the rest of its block is zero.
pub const SUPERBLOCK_BYTES: usize = 256;

const MAGIC: [u8; 8] = *b"SEAWALLW";
const FLAG_CLEAN: u32 = 1;
const FLAG_MIRROR: u32 = 2;
const FLAG_JOINING: u32 = 4;
const CRC_AT: usize = SUPERBLOCK_BYTES - 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Grows with every write; the copy with the higher one counts.
    pub generation: u64,
    pub wal_id: WalId,
    /// Nil until first opened.
    pub cluster_id: Uuid,
    /// Nil until first opened.
    pub incarnation: Uuid,
    pub node_id: i32,
    /// The owner epoch of the last open; 0 before the first.
    pub owner_epoch: u64,
    /// The start LSN of the last open: frames from there on carry `owner_epoch` or a higher one.
    pub open_start: Lsn,
    pub block_bytes: u32,
    pub ring_offset: u64,
    pub ring_bytes: u64,
    /// A hint: metadata's trim LSN counts.
    pub trim_hint: Lsn,
    /// All below was durable when this was written.
    pub durable: Lsn,
    /// No frame ends beyond. Raised, durably, before a frame may: it bounds the search behind the log's end.
    pub reach: Lsn,
    /// The WAL was closed; `durable` is its end.
    pub clean_shutdown: bool,
    /// The same on all legs.
    pub salt: Salt,
    /// Which of the WAL's devices this is.
    pub leg: LegId,
    /// The newest set of legs that was known when this was written.
    pub set_epoch: u64,
    /// No data frame from the trim LSN on is longer. 0: not known.
    pub frame_bytes_max: u64,
    /// Formatted as one of two.
    pub mirror: bool,
    /// It does not hold all of the log yet.
    pub joining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    #[error("no superblock")]
    NoMagic,
    #[error("superblock with a wrong CRC")]
    BadCrc,
    #[error("format version {0}, this build knows {FORMAT_VERSION}")]
    NewerFormat(u32),
    #[error("superblock with impossible values")]
    BadValues,
}

impl Superblock {
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut b = [0; SUPERBLOCK_BYTES];
        put(&mut b, 0, MAGIC);
        put(&mut b, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut b, 12, self.block_bytes.to_le_bytes());
        put(&mut b, 16, self.generation.to_le_bytes());
        put(&mut b, 24, self.wal_id.0.into_bytes());
        put(&mut b, 40, self.cluster_id.into_bytes());
        put(&mut b, 56, self.incarnation.into_bytes());
        put(&mut b, 72, self.node_id.to_le_bytes());
        let flag = |on, flag| if on { flag } else { 0 };
        let flags =
            flag(self.clean_shutdown, FLAG_CLEAN) | flag(self.mirror, FLAG_MIRROR) | flag(self.joining, FLAG_JOINING);
        put(&mut b, 76, flags.to_le_bytes());
        put(&mut b, 80, self.owner_epoch.to_le_bytes());
        put(&mut b, 88, self.open_start.0.to_le_bytes());
        put(&mut b, 96, self.ring_offset.to_le_bytes());
        put(&mut b, 104, self.ring_bytes.to_le_bytes());
        put(&mut b, 112, self.trim_hint.0.to_le_bytes());
        put(&mut b, 120, self.durable.0.to_le_bytes());
        put(&mut b, 128, self.reach.0.to_le_bytes());
        put(&mut b, 136, self.salt.0.to_le_bytes());
        put(&mut b, 144, self.leg.0.into_bytes());
        put(&mut b, 160, self.set_epoch.to_le_bytes());
        put(&mut b, 168, self.frame_bytes_max.to_le_bytes());
        let crc = crc32c(&b[..CRC_AT]);
        put(&mut b, CRC_AT, crc.to_le_bytes());
        b
    }

    pub fn decode(block: &[u8]) -> Result<Self, SuperblockError> {
        if block.len() < SUPERBLOCK_BYTES || block[..8] != MAGIC {
            return Err(SuperblockError::NoMagic);
        }
        if get_u32(block, CRC_AT) != crc32c(&block[..CRC_AT]) {
            return Err(SuperblockError::BadCrc);
        }
        let version = get_u32(block, 8);
        if version > FORMAT_VERSION {
            return Err(SuperblockError::NewerFormat(version));
        }
        if version == 0 {
            return Err(SuperblockError::BadValues);
        }
        let (flags, wal_id) = (get_u32(block, 76), Uuid::from_bytes(get(block, 24)));
        let leg = if version == 1 { wal_id } else { Uuid::from_bytes(get(block, 144)) };
        // Version 1 left these bytes zero.
        let superblock = Self {
            generation: get_u64(block, 16),
            wal_id: WalId(wal_id),
            cluster_id: Uuid::from_bytes(get(block, 40)),
            incarnation: Uuid::from_bytes(get(block, 56)),
            node_id: i32::from_le_bytes(get(block, 72)),
            owner_epoch: get_u64(block, 80),
            open_start: Lsn(get_u64(block, 88)),
            block_bytes: get_u32(block, 12),
            ring_offset: get_u64(block, 96),
            ring_bytes: get_u64(block, 104),
            trim_hint: Lsn(get_u64(block, 112)),
            durable: Lsn(get_u64(block, 120)),
            reach: Lsn(get_u64(block, 128)),
            clean_shutdown: flags & FLAG_CLEAN != 0,
            salt: Salt(get_u64(block, 136)),
            leg: LegId(leg),
            set_epoch: get_u64(block, 160),
            frame_bytes_max: get_u64(block, 168),
            mirror: flags & FLAG_MIRROR != 0,
            joining: flags & FLAG_JOINING != 0,
        };
        if superblock.values_are_possible() { Ok(superblock) } else { Err(SuperblockError::BadValues) }
    }

    /// Only a bug or an attack writes others; later sums and divisions rely on these bounds.
    fn values_are_possible(&self) -> bool {
        let block = u64::from(self.block_bytes);
        let block_is_possible =
            self.block_bytes.is_power_of_two() && (512..=BLOCK_BYTES_MAX).contains(&self.block_bytes);
        let lengths = [self.ring_offset, self.ring_bytes, self.frame_bytes_max];
        let positions = [self.open_start.0, self.trim_hint.0, self.durable.0, self.reach.0];
        block_is_possible
            && lengths.into_iter().chain(positions).all(|at| at < POSITION_LIMIT && at.is_multiple_of(block))
            && [self.generation, self.owner_epoch, self.set_epoch].into_iter().all(|number| number < POSITION_LIMIT)
            && self.ring_bytes > 0
            && self.ring_offset >= RING_OFFSET_MIN
            && self.frame_bytes_max <= u64::from(FRAME_BYTES_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            generation: 7,
            wal_id: WalId(Uuid::from_u128(1)),
            cluster_id: Uuid::from_u128(2),
            incarnation: Uuid::from_u128(3),
            node_id: -4,
            owner_epoch: 5,
            open_start: Lsn(6 << 12),
            block_bytes: 4096,
            ring_offset: 65536,
            ring_bytes: 1 << 20,
            trim_hint: Lsn(1 << 12),
            durable: Lsn(8 << 12),
            reach: Lsn(64 << 20),
            clean_shutdown: true,
            salt: Salt(0x5a17),
            leg: LegId(Uuid::from_u128(9)),
            set_epoch: 3,
            frame_bytes_max: 1 << 20,
            mirror: true,
            joining: true,
        }
    }

    fn with_crc(mut block: [u8; SUPERBLOCK_BYTES]) -> [u8; SUPERBLOCK_BYTES] {
        let crc = crc32c(&block[..CRC_AT]);
        put(&mut block, CRC_AT, crc.to_le_bytes());
        block
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Superblock::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut newer = sample().encode();
        put(&mut newer, 8, 9u32.to_le_bytes());
        assert_eq!(Superblock::decode(&with_crc(newer)), Err(SuperblockError::NewerFormat(9)));
    }

    #[test]
    fn version_1_has_no_salt_and_one_leg_named_as_the_wal() {
        let mut old = sample().encode();
        put(&mut old, 8, 1u32.to_le_bytes());
        put(&mut old, 76, FLAG_CLEAN.to_le_bytes());
        old[136..CRC_AT].fill(0);
        let read = Superblock::decode(&with_crc(old)).unwrap();
        let expected = Superblock {
            salt: Salt::NONE,
            leg: LegId(Uuid::from_u128(1)),
            set_epoch: 0,
            frame_bytes_max: 0,
            mirror: false,
            joining: false,
            ..sample()
        };
        assert_eq!(read, expected);
        assert_eq!(Superblock::decode(&expected.encode()), Ok(expected), "as version 2 it says the same");
    }

    #[test]
    fn values_that_would_overflow_or_overlap_are_refused() {
        let spoil: [fn(&mut Superblock); 9] = [
            |s| s.ring_offset = 0,
            |s| s.ring_bytes = 0,
            |s| s.block_bytes = 1000,
            |s| s.reach = Lsn(u64::MAX),
            |s| s.durable = Lsn(100),
            |s| s.open_start = Lsn(1 << 63),
            |s| s.generation = u64::MAX,
            |s| s.owner_epoch = u64::MAX,
            |s| s.frame_bytes_max = 2 << 30,
        ];
        for (i, spoil) in spoil.into_iter().enumerate() {
            let mut bad = sample();
            spoil(&mut bad);
            assert_eq!(Superblock::decode(&bad.encode()), Err(SuperblockError::BadValues), "{i}");
        }
    }
}
