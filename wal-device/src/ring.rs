//! Ring arithmetic, pure: where an LSN lies on the device, and how long frames are.

use crate::config::WalConfig;
use crate::format::frame::{FRAME_BYTES_LIMIT, FRAME_HEADER_BYTES, record_bytes};
use crate::format::superblock::Superblock;
use crate::types::Lsn;

/// The shape of a ring. LSN `n` lies at `offset + n % ring_bytes`; no frame wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    pub offset: u64,
    pub bytes: u64,
    pub block: u64,
}

impl Ring {
    pub fn of(superblock: &Superblock) -> Self {
        Self { offset: superblock.ring_offset, bytes: superblock.ring_bytes, block: u64::from(superblock.block_bytes) }
    }

    pub fn device_offset(&self, lsn: Lsn) -> u64 {
        self.offset + lsn.0 % self.bytes
    }

    /// Bytes from `lsn` to the ring's end; at the very end a whole ring.
    pub fn bytes_to_end(&self, lsn: Lsn) -> u64 {
        self.bytes - lsn.0 % self.bytes
    }

    pub fn round_up(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.block)
    }

    /// Length of a frame that holds one record.
    pub fn frame_of_one(&self, payload_bytes: u64) -> u64 {
        self.round_up((FRAME_HEADER_BYTES + record_bytes(payload_bytes as usize)) as u64)
    }

    pub fn is_aligned(&self, lsn: Lsn) -> bool {
        lsn.0.is_multiple_of(self.block)
    }
}

/// The longest data frame that a WAL of this configuration writes.
pub fn frame_bytes_max(ring: &Ring, config: &WalConfig) -> u64 {
    let grouped = u64::from(config.frame_bytes_max.min(FRAME_BYTES_LIMIT / 2)).max(2 * ring.block);
    ring.frame_of_one(u64::from(config.record_bytes_max)).max(ring.round_up(grouped))
}

/// How far ahead the superblock allows frames: enough for several of the longest.
pub fn reach_bytes(ring: &Ring, config: &WalConfig) -> u64 {
    ring.round_up(config.reach_bytes.max(4 * frame_bytes_max(ring, config)))
}
