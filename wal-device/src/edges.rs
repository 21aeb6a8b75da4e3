//! The first and the last part of a device: there a WAL has its superblocks, and others leave what tells of them.
//!
//! Promise: a device counts as empty when every byte of both parts is zero, and as one of ours alone when both copies of the
//! superblock are whole and nothing lies there that a WAL does not leave.

use std::io;

use crate::aligned_buf::SharedBuf;
use crate::device::file::DeviceFile;
use crate::device::{BlockDevice, Operation, flush, run};
use crate::error::IoError;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::format::{BLOCK_BYTES_MAX, SUPERBLOCK_OFFSETS};

/// Signatures of others lie in the first and the last of these.
const EDGE_BYTES: u64 = 1 << 20;

/// What a device holds there.
pub(crate) struct Edges {
    first: Vec<u8>,
    last: Vec<u8>,
    last_at: u64,
    device_bytes: u64,
}

impl Edges {
    pub fn read(device: &mut dyn BlockDevice, file: &DeviceFile) -> Result<Self, IoError> {
        let [(first_at, first_bytes), (last_at, last_bytes)] = places(file);
        let mut part = |at, bytes| read(device, 0, at, bytes).map_err(|error| IoError::new("read", error));
        let (first, last) = (part(first_at, first_bytes)?, part(last_at, last_bytes)?);
        Ok(Self { first, last, last_at, device_bytes: file.bytes })
    }

    /// What somebody may miss: any byte that is not zero counts.
    pub fn hold(&self) -> Option<String> {
        if let Some(what) = signature(&self.first) {
            return Some(what.into());
        }
        if let Some(superblock) = self.copies().into_iter().flatten().next() {
            return Some(format!("WAL {} of cluster {}", superblock.wal_id, superblock.cluster_id));
        }
        let in_use = !is_zero(&self.first) || !is_zero(&self.last);
        in_use.then(|| self.signature_at_the_end().unwrap_or("data").into())
    }

    /// What is there other than the WAL of this node, both copies of its superblock whole. `None`: nothing.
    pub fn hold_beside_wal_of(&self, node_id: i32) -> Option<String> {
        let held = self.hold()?;
        let superblock = match self.copies() {
            [Some(one), Some(other)] if one.wal_id == other.wal_id => one,
            [Some(_), Some(_)] => return Some(format!("{held}, and a superblock of another one")),
            [None, None] => return Some(held),
            _ => return Some(format!("{held}, and one copy of a WAL's superblock alone")),
        };
        let named = format!("WAL {} of node {}", superblock.wal_id, superblock.node_id);
        if superblock.node_id != node_id {
            return Some(named);
        }
        let others = signature(&self.first).or_else(|| self.signature_at_the_end());
        let stray = || self.has_strays(&superblock).then_some("data");
        others.or_else(stray).map(|what| format!("{what} beside {named}"))
    }

    fn copies(&self) -> [Option<Superblock>; 2] {
        SUPERBLOCK_OFFSETS.map(|at| Superblock::decode(self.first.get(at as usize..)?).ok())
    }

    /// Whether anything lies where a WAL has zeros: around the copies of its superblock, and behind its ring.
    fn has_strays(&self, superblock: &Superblock) -> bool {
        let ring = usize::try_from(superblock.ring_offset).unwrap_or(usize::MAX).min(self.first.len());
        let mut head = self.first[..ring].to_vec();
        for at in SUPERBLOCK_OFFSETS {
            if let Some(copy) = head.get_mut(at as usize..at as usize + SUPERBLOCK_BYTES) {
                copy.fill(0);
            }
        }
        let ring_end = superblock.ring_offset + superblock.ring_bytes;
        let behind = usize::try_from(ring_end.saturating_sub(self.last_at)).unwrap_or(usize::MAX);
        !is_zero(&head) || self.last.get(behind..).is_some_and(|behind| !is_zero(behind))
    }

    /// Of what keeps its superblock at the end of a device, where the ring of a WAL may lie, too.
    fn signature_at_the_end(&self) -> Option<&'static str> {
        const MD: &[u8] = &0xa92b_4efc_u32.to_le_bytes();
        let back = |bytes| self.device_bytes.saturating_sub(bytes);
        let signatures: [(&str, u64, &[u8]); 6] = [
            ("a GPT partition table", back(512), b"EFI PART"),
            ("a GPT partition table", back(4096), b"EFI PART"),
            ("a part of a Linux RAID", back(8 << 10) / 4096 * 4096, MD),
            ("a part of a Linux RAID", (self.device_bytes / (64 << 10)).saturating_sub(1) * (64 << 10), MD),
            ("a part of an Intel RAID", back(1024), b"Intel Raid ISM Cfg. Sig. "),
            ("a part of a DDF RAID", back(512), &[0xde, 0x11, 0xde, 0x11]),
        ];
        let is_there = |(_, at, bytes): &&(&str, u64, &[u8])| {
            let within = at.checked_sub(self.last_at).and_then(|within| self.last.get(within as usize..));
            within.is_some_and(|rest| rest.starts_with(bytes))
        };
        signatures.iter().find(is_there).map(|(what, ..)| *what)
    }
}

/// Zeros in both parts.
pub(crate) fn blank(device: &mut dyn BlockDevice, file: &DeviceFile) -> Result<(), IoError> {
    places(file).into_iter().try_for_each(|(at, bytes)| write_zeros(device, at, bytes))
}

/// Offset and bytes of the first and of the last part. The last one begins at a whole block and ends with the device.
fn places(file: &DeviceFile) -> [(u64, u64); 2] {
    let (alignment, sector) = (u64::from(BLOCK_BYTES_MAX), u64::from(file.sector_bytes));
    let whole_sectors = |bytes: u64| bytes / sector * sector;
    let last = file.bytes.saturating_sub(EDGE_BYTES) / alignment * alignment;
    [(0, whole_sectors(EDGE_BYTES.min(file.bytes))), (last, whole_sectors(file.bytes - last))]
}

pub(crate) fn write_zeros(device: &mut dyn BlockDevice, from: u64, bytes: u64) -> Result<(), IoError> {
    const STEP: u64 = 4 << 20;
    let mut buffer = Some(SharedBuf::new(bytes.clamp(1, STEP) as usize));
    let mut at = from;
    while at < from + bytes {
        let step = STEP.min(from + bytes - at);
        let (back, result) = run(device, 0, Operation::Write { durable: false }, at, buffer, step as usize);
        result.map_err(|error| IoError::new("write zeros", error))?;
        buffer = back;
        at += step;
    }
    flush(device, 0).map_err(|error| IoError::new("flush", error))
}

/// The file system, partition table or volume that a device holds, by its signature. A WAL has zeros in all these places.
/// What cannot be read says nothing: a WAL whose one superblock copy is unreadable still has the other.
pub(crate) fn what_others_left(device: &mut dyn BlockDevice, leg: u8, device_bytes: u64) -> Option<&'static str> {
    const BYTES: u64 = 128 << 10;
    if device_bytes < BYTES {
        return None;
    }
    if let Ok(first) = read(device, leg, 0, BYTES) {
        return signature(&first);
    }
    let piece = u64::from(device.facts(leg).logical_bytes).clamp(4096, BYTES);
    let mut first = vec![0; BYTES as usize];
    for (into, at) in first.chunks_mut(piece as usize).zip((0..).step_by(piece as usize)) {
        if let Ok(readable) = read(device, leg, at, into.len() as u64) {
            into.copy_from_slice(&readable[..into.len()]);
        }
    }
    signature(&first)
}

fn read(device: &mut dyn BlockDevice, leg: u8, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let bytes = bytes as usize;
    let (buffer, result) = run(device, leg, Operation::Read, at, Some(SharedBuf::new(bytes)), bytes);
    result?;
    buffer.map(|buffer| buffer[..bytes].to_vec()).ok_or_else(|| io::Error::other("no buffer came back"))
}

fn signature(first: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&str, usize, &[u8]); 14] = [
        ("a GPT partition table", 512, b"EFI PART"),
        ("a GPT partition table", 4096, b"EFI PART"),
        ("an ext file system", 1080, &[0x53, 0xef]),
        ("an XFS file system", 0, b"XFSB"),
        ("a btrfs file system", 65536 + 64, b"_BHRfS_M"),
        ("an LVM volume", 0, b"LABELONE"),
        ("an LVM volume", 512, b"LABELONE"),
        ("an LVM volume", 1024, b"LABELONE"),
        ("an LVM volume", 1536, b"LABELONE"),
        ("a LUKS volume", 0, b"LUKS\xba\xbe"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("a part of a Linux RAID", 0, &0xa92b_4efc_u32.to_le_bytes()),
        ("a part of a Linux RAID", 4096, &0xa92b_4efc_u32.to_le_bytes()),
        ("an MBR partition table or boot sector", 510, &[0x55, 0xaa]),
    ];
    let is_there =
        |(_, at, bytes): &&(&str, usize, &[u8])| first.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
    SIGNATURES.iter().find(is_there).map(|(what, ..)| *what)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use crate::{FormatConfig, FormatError, WalConfig, blank_own, format, scan, what_else_it_holds, what_it_holds};

    const NODE: i32 = 7;
    /// As 480 GB and 960 GB drives have it: no whole number of 16 KiB.
    const BYTES: u64 = (4 << 20) + (8 << 10);

    /// A file for a device: without a name in /dev nobody asks the kernel who holds it.
    struct Disk {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Disk {
        fn empty() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            std::fs::File::create(&path).unwrap().set_len(BYTES).unwrap();
            Self { _folder: folder, path }
        }

        /// With a WAL that was opened once, so that each copy of its superblock was written for itself.
        fn with_wal() -> Self {
            let disk = Self::empty();
            let config = FormatConfig { overwrite: true, ..FormatConfig::new(&disk.path, 2 << 20, NODE) };
            format(&config).unwrap();
            disk.set_len();
            let config = WalConfig { record_bytes_max: 4096, frame_bytes_max: 64 << 10, ..WalConfig::new(&disk.path) };
            let scanned = scan(&config, &Default::default(), Default::default()).unwrap();
            drop(scanned.open(1, (uuid::Uuid::nil(), uuid::Uuid::nil())).unwrap());
            disk
        }

        fn set_len(&self) {
            OpenOptions::new().write(true).open(&self.path).unwrap().set_len(BYTES).unwrap();
        }

        fn put(&self, at: u64, bytes: &[u8]) {
            OpenOptions::new().write(true).open(&self.path).unwrap().write_all_at(bytes, at).unwrap();
        }
    }

    #[test]
    fn a_device_is_read_to_its_very_end_before_it_counts_as_empty() {
        let disk = Disk::empty();
        assert_eq!(what_it_holds(&disk.path).unwrap(), None);
        disk.put(BYTES - 1, &[1]);
        assert_eq!(what_it_holds(&disk.path).unwrap().as_deref(), Some("data"));
        disk.put(BYTES - 1, &[0]);
        disk.put(BYTES - (8 << 10), &0xa92b_4efc_u32.to_le_bytes());
        assert_eq!(what_it_holds(&disk.path).unwrap().as_deref(), Some("a part of a Linux RAID"));
    }

    #[test]
    fn a_wal_that_was_used_lies_alone() {
        let disk = Disk::with_wal();
        assert_eq!(what_else_it_holds(&disk.path, NODE).unwrap(), None);
        assert!(what_it_holds(&disk.path).unwrap().unwrap().starts_with("WAL "));
        blank_own(&disk.path, NODE).unwrap();
        assert_eq!(what_it_holds(&disk.path).unwrap(), None);
    }

    #[test]
    fn what_others_put_over_a_wal_is_seen_and_never_blanked_for_one_of_ours() {
        let zeros = [0; 4096];
        let md = 0xa92b_4efc_u32.to_le_bytes();
        let cases: [(&str, u64, &[u8]); 10] = [
            ("a GPT partition table beside WAL ", 512, b"EFI PART"),
            ("an MBR partition table or boot sector beside WAL ", 510, &[0x55, 0xaa]),
            ("an LVM volume beside WAL ", 512, b"LABELONE"),
            ("swap beside WAL ", 4086, b"SWAPSPACE2"),
            ("a part of a Linux RAID beside WAL ", BYTES - (8 << 10), &md),
            ("a part of an Intel RAID beside WAL ", BYTES - 1024, b"Intel Raid ISM Cfg. Sig. "),
            ("a GPT partition table beside WAL ", BYTES - 512, b"EFI PART"),
            ("data beside WAL ", 20 << 10, b"x"),
            ("data beside WAL ", BYTES - 1, b"x"),
            ("WAL ", 0, &zeros),
        ];
        for (what, at, bytes) in cases {
            let disk = Disk::with_wal();
            disk.put(at, bytes);
            let before = std::fs::read(&disk.path).unwrap();
            let held = what_else_it_holds(&disk.path, NODE).unwrap().unwrap();
            assert!(held.starts_with(what), "{at}: {held}");
            let refused = blank_own(&disk.path, NODE).unwrap_err();
            assert!(matches!(refused, FormatError::HoldsOther { .. }), "{refused}");
            assert!(std::fs::read(&disk.path).unwrap() == before, "{what}: something was written");
        }
        let disk = Disk::with_wal();
        let held = what_else_it_holds(&disk.path, NODE + 1).unwrap().unwrap();
        assert!(held.ends_with(" of node 7"), "{held}");
        assert!(blank_own(&disk.path, NODE + 1).is_err());
    }
}
