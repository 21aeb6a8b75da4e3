//! Formatting: a new WAL on a file that is created, or on a block device that holds nothing (or on purpose).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::aligned_buf::SharedBuf;
use crate::config::FormatConfig;
use crate::device::file::{Access, DeviceFile};
use crate::device::pwrite::PwriteDevice;
use crate::device::{BlockDevice, Operation, flush, run};
use crate::error::{FormatError, IoError, OpenError};
use crate::format::superblock::Superblock;
use crate::format::{BLOCK_BYTES_MAX, RING_OFFSET, SUPERBLOCK_OFFSETS};
use crate::types::{Lsn, WalId, WalKind};

/// Signatures of others lie in the first and the last of these.
const EDGE_BYTES: u64 = 1 << 20;
const RING_BYTES_MIN: u64 = 1 << 20;

/// Creates an empty WAL. A file is preallocated and written once (so that later writes change no file-system metadata),
/// and appears under its name only when it is whole. Returns when all is durable.
pub fn format(config: &FormatConfig) -> Result<Superblock, FormatError> {
    let is_device = std::fs::metadata(&config.path)
        .is_ok_and(|metadata| std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type()));
    if is_device { format_block_device(config) } else { format_file(config) }
}

fn format_file(config: &FormatConfig) -> Result<Superblock, FormatError> {
    let path = &config.path;
    if path.exists() && !config.overwrite {
        return Err(FormatError::InUse { path: path.clone(), what: what_a_file_holds(path) });
    }
    let Some(ring_bytes) = config.ring_bytes else {
        return Err(FormatError::BadSize { ring_bytes: 0, why: "a file needs a size".into() });
    };
    check_ring(ring_bytes, config.block_bytes)?;
    let unfinished = unfinished_path(path);
    let bytes = RING_OFFSET + ring_bytes;
    let superblock = write_file(&unfinished, bytes, ring_bytes, config).map_err(|error| {
        // Half a file is of no use to anyone; that it could not be removed adds nothing to the error.
        let _ = std::fs::remove_file(&unfinished);
        match error.error.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => FormatError::NoSpace { path: path.clone(), bytes },
            _ => FormatError::Io { path: path.clone(), error },
        }
    })?;
    publish(&unfinished, path).map_err(|error| io_error(path, "rename the finished file", error))?;
    Ok(superblock)
}

fn write_file(unfinished: &Path, bytes: u64, ring_bytes: u64, config: &FormatConfig) -> Result<Superblock, IoError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
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
    write_superblocks(&mut device, config, ring_bytes)
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

fn format_block_device(config: &FormatConfig) -> Result<Superblock, FormatError> {
    let path = &config.path;
    let file = DeviceFile::open(path, Access::Own).map_err(|error| match error {
        OpenError::Locked(path) => FormatError::InUse { path, what: "something in use (mounted, or open)".into() },
        other => FormatError::Io { path: path.clone(), error: open_to_io(other) },
    })?;
    let block = u64::from(config.block_bytes);
    let available = file.bytes.saturating_sub(RING_OFFSET) / block * block;
    let ring_bytes = config.ring_bytes.unwrap_or(available);
    check_ring(ring_bytes, config.block_bytes.max(1))?;
    if ring_bytes > available {
        return Err(FormatError::NoSpace { path: path.clone(), bytes: RING_OFFSET + ring_bytes });
    }
    if config.block_bytes < file.sector_bytes {
        let why = format!("the device writes no less than {} bytes, the block is smaller", file.sector_bytes);
        return Err(FormatError::BadSize { ring_bytes, why });
    }
    let (device_bytes, kind) = (file.bytes, file.kind);
    assert_eq!(kind, WalKind::Device, "checked by the caller");
    let mut device = PwriteDevice::inline(Arc::new(file));
    let failed = |error| FormatError::Io { path: path.clone(), error };
    let last = device_bytes.saturating_sub(EDGE_BYTES) / block * block;
    if !config.overwrite
        && let Some(what) = what_a_device_holds(&mut device, last).map_err(failed)?
    {
        return Err(FormatError::InUse { path: path.clone(), what });
    }
    // So that nothing is left that others would recognise.
    write_zeros(&mut device, 0, EDGE_BYTES.min(device_bytes)).map_err(failed)?;
    write_zeros(&mut device, last, (device_bytes - last) / block * block).map_err(failed)?;
    write_superblocks(&mut device, config, ring_bytes).map_err(failed)
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

fn write_zeros(device: &mut dyn BlockDevice, from: u64, bytes: u64) -> Result<(), IoError> {
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

/// Both copies, after everything else: with them the WAL exists.
fn write_superblocks(
    device: &mut dyn BlockDevice,
    config: &FormatConfig,
    ring_bytes: u64,
) -> Result<Superblock, IoError> {
    let mut superblock = new_superblock(config, ring_bytes);
    for generation in [0, 1] {
        superblock.generation = generation;
        write_superblock(device, &superblock).map_err(|error| IoError::new("write the superblock", error))?;
    }
    Ok(superblock)
}

/// As [`format`], on a device that the caller made and that is all zeros: a simulated disk of `device_bytes`.
pub fn format_on(device: &mut dyn BlockDevice, device_bytes: u64, config: &FormatConfig) -> io::Result<Superblock> {
    let block = u64::from(config.block_bytes);
    let ring_bytes = config.ring_bytes.unwrap_or(device_bytes.saturating_sub(RING_OFFSET) / block * block);
    let mut superblock = new_superblock(config, ring_bytes);
    for generation in [0, 1] {
        superblock.generation = generation;
        write_superblock(device, &superblock)?;
    }
    Ok(superblock)
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
    }
}

/// Writes the copy that this generation belongs to, durably.
pub(crate) fn write_superblock(device: &mut dyn BlockDevice, superblock: &Superblock) -> io::Result<()> {
    let mut buffer = SharedBuf::new(superblock.block_bytes as usize);
    let encoded = superblock.encode();
    buffer.exclusive()[..encoded.len()].copy_from_slice(&encoded);
    let offset = SUPERBLOCK_OFFSETS[(superblock.generation % 2) as usize];
    let bytes = buffer.len();
    run(device, 0, Operation::Write { durable: true }, offset, Some(buffer), bytes).1
}

fn what_a_file_holds(path: &Path) -> String {
    match crate::open::inspect(path) {
        Ok(inspection) => format!("WAL {}", inspection.superblock.wal_id),
        Err(_) => "a file".into(),
    }
}

/// What was there before, if anything: any byte that is not zero counts.
fn what_a_device_holds(device: &mut dyn BlockDevice, last: u64) -> Result<Option<String>, IoError> {
    let read = |device: &mut dyn BlockDevice, at| {
        let (buffer, result) =
            run(device, 0, Operation::Read, at, Some(SharedBuf::new(EDGE_BYTES as usize)), EDGE_BYTES as usize);
        result.map_err(|error| IoError::new("read", error))?;
        buffer.ok_or_else(|| IoError::new("read", io::ErrorKind::Other.into()))
    };
    let first = read(device, 0)?;
    if let Ok(superblock) = Superblock::decode(&first) {
        return Ok(Some(format!("WAL {} of cluster {}", superblock.wal_id, superblock.cluster_id)));
    }
    let signatures: [(&str, usize, &[u8]); 8] = [
        ("a GPT partition table", 512, b"EFI PART"),
        ("a GPT partition table", 4096, b"EFI PART"),
        ("an ext file system", 1080, &[0x53, 0xef]),
        ("an XFS file system", 0, b"XFSB"),
        ("a btrfs file system", 65536 + 64, b"_BHRfS_M"),
        ("an LVM volume", 512, b"LABELONE"),
        ("a LUKS volume", 0, b"LUKS\xba\xbe"),
        ("an MBR partition table or boot sector", 510, &[0x55, 0xaa]),
    ];
    for (what, at, signature) in signatures {
        if first[at..at + signature.len()] == *signature {
            return Ok(Some(what.into()));
        }
    }
    let in_use = first.iter().any(|&byte| byte != 0) || read(device, last)?.iter().any(|&byte| byte != 0);
    Ok(in_use.then(|| "data".into()))
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
