//! The on-device format, pure: bytes in, values out. docs/formats/wal.md describes it; the two change together.

pub mod frame;
pub mod superblock;

use crc_fast::{CrcAlgorithm, Digest};

/// Where the ring starts on a device that this build formats. The superblock says it, so that it may change.
pub const RING_OFFSET: u64 = 64 << 10;
/// The two superblock copies, far enough apart to lie in different erase units of common devices.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 32 << 10];
/// A block that holds nothing: the start-up probe writes to it.
pub const SCRATCH_OFFSET: u64 = 16 << 10;
pub const BLOCK_BYTES_MAX: u32 = 16 << 10;
/// No ring starts before: the superblocks lie there.
pub const RING_OFFSET_MIN: u64 = 48 << 10;
/// No LSN, epoch or generation reaches this, so that sums of a few cannot overflow.
pub const POSITION_LIMIT: u64 = 1 << 62;

/// A secret of one WAL that goes into the CRCs of its frames and records, so that no payload can be taken for a frame,
/// whatever its author knows of LSNs and ids. It lies in the superblock and is shown nowhere. Zero: a WAL of format
/// version 1, which had none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub(crate) u64);

impl Salt {
    pub const NONE: Self = Self(0);

    pub fn random() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        // Six bits of an id of version 4 are fixed, in other places of the two halves.
        Self((high ^ low.rotate_left(32)).max(1))
    }

    /// What goes into a CRC: nothing for version 1.
    fn bytes(self) -> ([u8; 8], usize) {
        (self.0.to_le_bytes(), if self == Self::NONE { 0 } else { 8 })
    }
}

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::NONE { "Salt(none)" } else { "Salt(secret)" })
    }
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of a first part, continued over what follows it.
pub struct RunningCrc(Digest);

impl RunningCrc {
    pub fn after(first_crc: u32) -> Self {
        Self(Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(first_crc ^ u32::MAX)))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Little-endian fields at fixed places. Callers index within arrays whose length is fixed by the format.
pub(crate) fn put<const N: usize>(block: &mut [u8], at: usize, value: [u8; N]) {
    block[at..at + N].copy_from_slice(&value);
}

pub(crate) fn get<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&block[at..at + N]);
    value
}

pub(crate) fn get_u32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(block, at))
}

pub(crate) fn get_u64(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(block, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_shown_nowhere() {
        assert_eq!(format!("{:?} {:?}", Salt(0x1234_5678), Salt::NONE), "Salt(secret) Salt(none)");
        assert_ne!(Salt::random(), Salt::random());
    }

    #[test]
    fn a_running_crc_equals_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 40, 4096, 9_999, 10_000] {
            let mut crc = RunningCrc::after(crc32c(&bytes[..cut]));
            crc.update(&bytes[cut..]);
            assert_eq!(crc.finish(), crc32c(&bytes), "cut at {cut}");
        }
    }
}
