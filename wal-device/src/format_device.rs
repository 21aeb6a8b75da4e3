//! Formatting: a new WAL on a file that is created, or on a block device that holds nothing (or on purpose).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::FormatConfig;
use crate::device::file::{Access, DeviceFile};
use crate::device::pwrite::PwriteDevice;
use crate::device::{BlockDevice, Operation, run};
use crate::edges::{self, Edges, write_zeros};
use crate::error::{FormatError, IoError, OpenError};
use crate::format::superblock::Superblock;
use crate::format::{BLOCK_BYTES_MAX, RING_OFFSET, SUPERBLOCK_OFFSETS, Salt};
use crate::holders::who_holds;
use crate::types::{LegId, Lsn, WalId};

const RING_BYTES_MIN: u64 = 1 << 20;

/// Creates an empty WAL. A file is preallocated and written once (so that later writes change no file-system metadata),
/// and appears under its name only when it is whole. Returns when all is durable. Nothing is written before both legs of a
/// mirror were found fit.
pub fn format(config: &FormatConfig) -> Result<Superblock, FormatError> {
    let paths = [Some(&config.path), config.mirror.as_ref()];
    let targets = paths.into_iter().flatten().map(|path| Target::open(path, config)).collect::<Result<Vec<_>, _>>()?;
    let smallest = targets.iter().filter_map(|target| target.available(config.block_bytes)).min();
    let Some(ring_bytes) = config.ring_bytes.or(smallest) else {
        return Err(FormatError::BadSize { ring_bytes: 0, why: "a file needs a size".into() });
    };
    let superblock = new_superblock(config, ring_bytes);
    let superblocks: Vec<Superblock> =
        targets.iter().map(|_| Superblock { leg: LegId(Uuid::new_v4()), ..superblock.clone() }).collect();
    targets.iter().try_for_each(|target| target.check_room(&superblock))?;
    for (target, superblock) in targets.into_iter().zip(&superblocks) {
        target.write(superblock)?;
    }
    Ok(superblocks[0].clone())
}

/// What a block device holds that somebody may miss; `None`: nothing. `Err`: it is in use.
pub fn what_it_holds(path: &Path) -> Result<Option<String>, FormatError> {
    let file = take(path)?;
    Ok(edges_of(&file)?.hold())
}

/// As [`what_it_holds`], without a WAL of this node that is whole: what lies there beside it, or instead.
pub fn what_else_it_holds(path: &Path, node_id: i32) -> Result<Option<String>, FormatError> {
    let file = take(path)?;
    Ok(edges_of(&file)?.hold_beside_wal_of(node_id))
}

/// Leaves nothing on a block device that anyone would recognise: its first and its last part are zeros, and what else a ring
/// held is behind no superblock.
pub fn blank(path: &Path) -> Result<(), FormatError> {
    blank_file(&take(path)?)
}

/// As [`blank`], unless anything lies there but a WAL of this node that is whole: then nothing is written.
pub fn blank_own(path: &Path, node_id: i32) -> Result<(), FormatError> {
    let file = take(path)?;
    match edges_of(&file)?.hold_beside_wal_of(node_id) {
        None => blank_file(&file),
        Some(what) => Err(FormatError::HoldsOther { path: path.to_owned(), what }),
    }
}

fn edges_of(file: &Arc<DeviceFile>) -> Result<Edges, FormatError> {
    Edges::read(&mut PwriteDevice::inline(file.clone()), file)
        .map_err(|error| FormatError::Io { path: file.path.clone(), error })
}

fn blank_file(file: &Arc<DeviceFile>) -> Result<(), FormatError> {
    edges::blank(&mut PwriteDevice::inline(file.clone()), file)
        .map_err(|error| FormatError::Io { path: file.path.clone(), error })
}

/// Opens what is to be overwritten, unless somebody uses it.
fn take(path: &Path) -> Result<Arc<DeviceFile>, FormatError> {
    if let Some(by) = who_holds(path) {
        return Err(FormatError::Held { path: path.to_owned(), by });
    }
    let file = DeviceFile::open(path, Access::OwnSoon).map_err(|error| match error {
        OpenError::Locked(path) => FormatError::Held { path, by: "is open in another process".into() },
        other => FormatError::Io { path: path.to_owned(), error: open_to_io(other) },
    })?;
    Ok(Arc::new(file))
}

/// Formats a device that is to join the WAL of this superblock: it has its id, its salt and its shape, and holds nothing yet.
pub fn format_leg(path: &Path, like: &Superblock, overwrite: bool) -> Result<Superblock, FormatError> {
    let block_bytes = like.block_bytes;
    let config = FormatConfig { block_bytes, overwrite, ..FormatConfig::new(path, like.ring_bytes, like.node_id) };
    let target = Target::open(path, &config)?;
    let superblock =
        Superblock { leg: LegId(Uuid::new_v4()), mirror: true, joining: true, clean_shutdown: false, ..like.clone() };
    target.check_room(&superblock)?;
    target.write(&superblock)?;
    Ok(superblock)
}

/// Where a WAL is to be.
enum Target {
    /// A file that is made. The one that has its name until then stays locked, so that nobody begins to use it.
    File(PathBuf, Option<Arc<DeviceFile>>),
    Device(Arc<DeviceFile>),
}

impl Target {
    /// Refuses what holds something, unless it is to be overwritten, and always what is in use.
    fn open(path: &Path, config: &FormatConfig) -> Result<Self, FormatError> {
        let path = path.to_owned();
        let is_device = std::fs::metadata(&path)
            .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()));
        if !is_device && path.starts_with("/dev") && !path.starts_with("/dev/shm") {
            return Err(FormatError::NoDevice(path));
        }
        if !is_device && !path.exists() {
            return Ok(Self::File(path, None));
        }
        if !is_device && !config.overwrite {
            return Err(FormatError::InUse { what: what_a_file_holds(&path), path });
        }
        let file = take(&path)?;
        if !is_device {
            return Ok(Self::File(path, Some(file)));
        }
        if !config.overwrite
            && let Some(what) = edges_of(&file)?.hold()
        {
            return Err(FormatError::InUse { path, what });
        }
        Ok(Self::Device(file))
    }

    /// The largest ring that a device has room for.
    fn available(&self, block_bytes: u32) -> Option<u64> {
        let Self::Device(file) = self else { return None };
        let block = u64::from(block_bytes.max(1));
        Some(file.bytes.saturating_sub(RING_OFFSET) / block * block)
    }

    fn check_room(&self, superblock: &Superblock) -> Result<(), FormatError> {
        let (ring_bytes, block_bytes) = (superblock.ring_bytes, superblock.block_bytes);
        check_ring(ring_bytes, block_bytes)?;
        let Self::Device(file) = self else { return Ok(()) };
        if self.available(block_bytes).is_some_and(|available| ring_bytes > available) {
            return Err(FormatError::NoSpace { path: file.path.clone(), bytes: RING_OFFSET + ring_bytes });
        }
        if block_bytes < file.sector_bytes {
            let why = format!("the device writes no less than {} bytes, the block is smaller", file.sector_bytes);
            return Err(FormatError::BadSize { ring_bytes, why });
        }
        Ok(())
    }

    fn write(self, superblock: &Superblock) -> Result<(), FormatError> {
        match self {
            Self::File(path, _locked) => format_file(&path, superblock),
            Self::Device(file) => {
                let mut device = PwriteDevice::inline(file.clone());
                overwrite_device(&mut device, &file, superblock)
                    .map_err(|error| FormatError::Io { path: file.path.clone(), error })
            }
        }
    }
}

fn format_file(path: &Path, superblock: &Superblock) -> Result<(), FormatError> {
    let unfinished = unfinished_path(path);
    let bytes = RING_OFFSET + superblock.ring_bytes;
    write_file(&unfinished, bytes, superblock).map_err(|error| {
        // Half a file is of no use to anyone; that it could not be removed adds nothing to the error.
        let _ = std::fs::remove_file(&unfinished);
        match error.error.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => FormatError::NoSpace { path: path.to_owned(), bytes },
            _ => FormatError::Io { path: path.to_owned(), error },
        }
    })?;
    publish(&unfinished, path).map_err(|error| io_error(path, "rename the finished file", error))
}

fn write_file(unfinished: &Path, bytes: u64, superblock: &Superblock) -> Result<(), IoError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        // What clients sent is for the broker alone, and so is the salt.
        .mode(0o600)
        .open(unfinished)
        .map_err(|error| IoError::new("create", error))?;
    // SAFETY: plain system call on a descriptor that `file` keeps open.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
    if code != 0 {
        return Err(IoError::new("preallocate", io::Error::from_raw_os_error(code)));
    }
    drop(file);
    let file = DeviceFile::open(unfinished, Access::Own).map_err(open_to_io)?;
    let mut device = PwriteDevice::inline(Arc::new(file));
    write_zeros(&mut device, 0, bytes)?;
    write_superblocks(&mut device, 0, superblock).map_err(|error| IoError::new("write the superblock", error))
}

/// A file is known by its name only when it is whole and the name is durable.
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

fn unfinished_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// So that nothing is left that others would recognise.
fn overwrite_device(device: &mut PwriteDevice, file: &DeviceFile, superblock: &Superblock) -> Result<(), IoError> {
    edges::blank(device, file)?;
    write_superblocks(device, 0, superblock).map_err(|error| IoError::new("write the superblock", error))
}

fn check_ring(ring_bytes: u64, block_bytes: u32) -> Result<(), FormatError> {
    let block = u64::from(block_bytes);
    let why = if !block_bytes.is_power_of_two() || !(512..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        format!("a block of {block_bytes} bytes is not a power of two from 512 to {BLOCK_BYTES_MAX}")
    } else if !ring_bytes.is_multiple_of(block) {
        format!("it is not a multiple of the block, {block_bytes} bytes")
    } else if ring_bytes < RING_BYTES_MIN {
        format!("it must be at least {RING_BYTES_MIN}")
    } else {
        return Ok(());
    };
    Err(FormatError::BadSize { ring_bytes, why })
}

/// Both copies, after everything else: with them the WAL exists.
fn write_superblocks(device: &mut dyn BlockDevice, leg: u8, superblock: &Superblock) -> io::Result<()> {
    let first = superblock.generation;
    (first..first + 2)
        .try_for_each(|generation| write_superblock_to(device, leg, &Superblock { generation, ..superblock.clone() }))
}

/// As [`format`], on a device that the caller made and that is all zeros: a simulated disk of `device_bytes`.
pub fn format_on(device: &mut dyn BlockDevice, device_bytes: u64, config: &FormatConfig) -> io::Result<Superblock> {
    let mut formatted = format_legs_on(device, &[device_bytes], config)?;
    Ok(formatted.remove(0))
}

/// As [`format_on`], with the size of each leg: two make a mirror. Answers what each leg holds.
pub fn format_legs_on(
    device: &mut dyn BlockDevice,
    device_bytes: &[u64],
    config: &FormatConfig,
) -> io::Result<Vec<Superblock>> {
    let block = u64::from(config.block_bytes);
    let smallest = device_bytes.iter().min().copied().unwrap_or_default();
    let ring_bytes = config.ring_bytes.unwrap_or(smallest.saturating_sub(RING_OFFSET) / block * block);
    let superblock = Superblock { mirror: device_bytes.len() > 1, ..new_superblock(config, ring_bytes) };
    let mut formatted = Vec::new();
    for leg in 0..device_bytes.len() {
        let superblock = Superblock { leg: LegId(Uuid::new_v4()), ..superblock.clone() };
        write_superblocks(device, leg as u8, &superblock)?;
        formatted.push(superblock);
    }
    Ok(formatted)
}

pub(crate) fn new_superblock(config: &FormatConfig, ring_bytes: u64) -> Superblock {
    Superblock {
        generation: 0,
        wal_id: WalId(Uuid::new_v4()),
        cluster_id: Uuid::nil(),
        incarnation: Uuid::nil(),
        node_id: config.node_id,
        owner_epoch: 0,
        open_start: Lsn(0),
        block_bytes: config.block_bytes,
        ring_offset: RING_OFFSET,
        ring_bytes,
        trim_hint: Lsn(0),
        durable: Lsn(0),
        reach: Lsn(0),
        clean_shutdown: true,
        salt: Salt::random(),
        leg: LegId(Uuid::new_v4()),
        set_epoch: 0,
        frame_bytes_max: 0,
        mirror: config.mirror.is_some(),
        joining: false,
    }
}

/// As [`write_superblock_to`], on the only leg.
#[cfg(test)]
pub(crate) fn write_superblock(device: &mut dyn BlockDevice, superblock: &Superblock) -> io::Result<()> {
    write_superblock_to(device, 0, superblock)
}

/// Writes the copy that this generation belongs to, durably.
pub(crate) fn write_superblock_to(device: &mut dyn BlockDevice, leg: u8, superblock: &Superblock) -> io::Result<()> {
    let mut buffer = SharedBuf::new(superblock.block_bytes as usize);
    let encoded = superblock.encode();
    buffer.exclusive()[..encoded.len()].copy_from_slice(&encoded);
    let offset = SUPERBLOCK_OFFSETS[(superblock.generation % 2) as usize];
    let bytes = buffer.len();
    run(device, leg, Operation::Write { durable: true }, offset, Some(buffer), bytes).1
}

fn what_a_file_holds(path: &Path) -> String {
    match crate::open::inspect(path) {
        Ok(inspection) => format!("WAL {}", inspection.superblock.wal_id),
        Err(_) => "a file".into(),
    }
}

fn open_to_io(error: OpenError) -> IoError {
    match error {
        OpenError::Io { error, .. } => error,
        other => IoError::new("open", io::Error::other(other.to_string())),
    }
}

fn io_error(path: &Path, operation: &'static str, error: io::Error) -> FormatError {
    FormatError::Io { path: path.to_owned(), error: IoError::new(operation, error) }
}
