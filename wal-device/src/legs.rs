//! Whether what was found on the devices is this WAL, whole and up to date: superblocks, owner, set of legs. Reads only.
//!
//! Promise: a leg outside the set that metadata holds, of another WAL, or changed under a newer owner is refused by name,
//! before its ring is read.

use std::path::Path;

use crate::aligned_buf::SharedBuf;
use crate::config::{Expectation, LegSet, ScanFrom};
use crate::device::{BlockDevice, Operation, run};
use crate::error::{OpenError, ScanError};
use crate::format::superblock::{FORMAT_VERSION, Superblock, SuperblockError};
use crate::format::{BLOCK_BYTES_MAX, SUPERBLOCK_OFFSETS};
use crate::scan::LegView;
use crate::types::LegId;

/// The newest valid superblock of a leg.
pub(crate) fn load_leg(
    device: &mut dyn BlockDevice,
    leg: u8,
    path: &Path,
    device_bytes: u64,
) -> Result<LegView, OpenError> {
    let mut valid = Vec::new();
    let mut lost = None;
    for offset in SUPERBLOCK_OFFSETS {
        match read_copy(device, leg, offset) {
            Ok(superblock) => valid.push(superblock),
            Err(LostCopy::NewerFormat(found)) => {
                return Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT_VERSION });
            }
            Err(LostCopy::Other(why)) => lost = lost.or(Some(why)),
        }
    }
    let copy_lost = lost.is_some();
    let newest = valid.into_iter().max_by_key(|superblock| superblock.generation);
    let Some(superblock) = newest else {
        return Err(OpenError::NotAWal { path: path.to_owned(), why: lost.unwrap_or_default() });
    };
    let needed = superblock.ring_offset + superblock.ring_bytes;
    if needed > device_bytes {
        return Err(OpenError::Shrunk { path: path.to_owned(), bytes: device_bytes, needed_bytes: needed });
    }
    Ok(LegView { leg: superblock.leg, superblock, copy_lost })
}

/// Why a copy of the superblock does not count.
enum LostCopy {
    NewerFormat(u32),
    Other(String),
}

/// One copy. What fails is read once more, and then no more than its first sector: an error that passes, or an unreadable
/// sector behind it, costs nothing.
fn read_copy(device: &mut dyn BlockDevice, leg: u8, offset: u64) -> Result<Superblock, LostCopy> {
    let sector_bytes = device.facts(leg).logical_bytes.clamp(512, BLOCK_BYTES_MAX);
    let mut attempt = |bytes: u32| {
        let bytes = bytes as usize;
        let (buffer, result) = run(device, leg, Operation::Read, offset, Some(SharedBuf::new(bytes)), bytes);
        let read = result.and_then(|()| buffer.ok_or_else(|| std::io::Error::other("no buffer came back")));
        let buffer = read.map_err(|error| LostCopy::Other(error.to_string()))?;
        Superblock::decode(&buffer).map_err(|error| match error {
            SuperblockError::NewerFormat(found) => LostCopy::NewerFormat(found),
            error => LostCopy::Other(error.to_string()),
        })
    };
    attempt(BLOCK_BYTES_MAX).or_else(|why| attempt(BLOCK_BYTES_MAX).or_else(|_| attempt(sector_bytes)).map_err(|_| why))
}

/// Every reason to refuse the legs that were found, worst first.
pub(crate) fn check(
    legs: &[LegView],
    paths: &[&Path],
    expect: &Expectation,
    from: &ScanFrom,
    accept_stale: bool,
) -> Result<(), ScanError> {
    for leg in legs {
        check_owner(&leg.superblock, expect)?;
    }
    check_same_wal(legs, paths)?;
    match &from.legs {
        Some(set) if !accept_stale => check_set(legs, paths, set)?,
        Some(_) => {}
        None => check_without_set(legs, paths)?,
    }
    Ok(())
}

fn check_owner(superblock: &Superblock, expect: &Expectation) -> Result<(), ScanError> {
    if let Some(expected) = expect.wal_id
        && superblock.wal_id != expected
    {
        return Err(ScanError::OtherWal { found: superblock.wal_id, expected });
    }
    if let Some(expected) = expect.cluster_id
        && !superblock.cluster_id.is_nil()
        && superblock.cluster_id != expected
    {
        return Err(ScanError::OtherCluster { found: superblock.cluster_id, expected });
    }
    if let Some(expected) = expect.incarnation
        && !superblock.incarnation.is_nil()
        && superblock.incarnation != expected
    {
        return Err(ScanError::OtherIncarnation { found: superblock.incarnation, expected });
    }
    if let Some(expected) = expect.node_id
        && superblock.node_id != expected
    {
        return Err(ScanError::OtherNode { found: superblock.node_id, expected });
    }
    check_epoch(superblock.owner_epoch, expect)
}

/// An owner epoch is committed in metadata before any device sees it: a higher one means that metadata is older than the
/// WAL, or another's.
pub(crate) fn check_epoch(found: u64, expect: &Expectation) -> Result<(), ScanError> {
    match expect.owner_epoch_max {
        Some(known) if found > known => Err(ScanError::EpochAhead { found, known }),
        _ => Ok(()),
    }
}

pub(crate) fn check_same_wal(legs: &[LegView], paths: &[&Path]) -> Result<(), OpenError> {
    let first = &legs[0];
    for (leg, path) in legs.iter().zip(paths).skip(1) {
        let (a, b) = (&first.superblock, &leg.superblock);
        let differs = [
            ("the WAL id", a.wal_id != b.wal_id),
            ("the ring", (a.ring_offset, a.ring_bytes) != (b.ring_offset, b.ring_bytes)),
            ("the block", a.block_bytes != b.block_bytes),
            ("the salt", a.salt != b.salt),
        ];
        if let Some((what, _)) = differs.into_iter().find(|(_, differs)| *differs) {
            return Err(OpenError::LegMismatch { path: path.to_path_buf(), other: paths[0].to_owned(), what });
        }
        if first.leg == leg.leg {
            return Err(OpenError::LegTwice { path: path.to_path_buf(), leg: leg.leg });
        }
    }
    Ok(())
}

fn check_set(legs: &[LegView], paths: &[&Path], set: &LegSet) -> Result<(), OpenError> {
    for (leg, path) in legs.iter().zip(paths) {
        let path = path.to_path_buf();
        if !set.legs.contains(&leg.leg) {
            return Err(OpenError::StaleLeg { path, leg: leg.leg, set_epoch: set.epoch });
        }
        if leg.superblock.set_epoch > set.epoch {
            return Err(OpenError::SetAhead { path, found: leg.superblock.set_epoch, known: set.epoch });
        }
    }
    let found: Vec<LegId> = legs.iter().map(|leg| leg.leg).collect();
    match set.legs.iter().find(|leg| !found.contains(leg)) {
        Some(absent) => Err(OpenError::LegAbsent { leg: *absent, set_epoch: set.epoch }),
        None => Ok(()),
    }
}

/// Before metadata holds a set, nothing was acknowledged on a mirror: but it takes both to know that.
fn check_without_set(legs: &[LegView], paths: &[&Path]) -> Result<(), OpenError> {
    match legs {
        [one] if one.superblock.mirror => Err(OpenError::OneOfTwo { path: paths[0].to_owned() }),
        _ => Ok(()),
    }
}
