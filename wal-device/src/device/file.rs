//! The opened file or block device and the facts about it: size, direct I/O, write cache, file system.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::facts::DeviceFacts;
use super::mishaps::Mishaps;
use super::stack::Sysfs;
use crate::error::{IoError, OpenError};
use crate::types::WalKind;

/// How long a lock may outlive its process: the time of the last writes.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How a device may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To look only; others may hold it.
    Inspect,
    /// To own it: locked against other processes, a block device also against mounts.
    Own,
    /// As `Own`, for a person who waits: that it is held is told soon.
    OwnSoon,
    /// As `OwnSoon`, but never written: a device that has failed often takes no writes any more.
    ReadAlone,
}

impl Access {
    fn owns(self) -> bool {
        self != Self::Inspect
    }

    fn writes(self) -> bool {
        matches!(self, Self::Own | Self::OwnSoon)
    }

    /// How long a lock of another may be waited for.
    fn lock_wait(self) -> Duration {
        if self == Self::Own { LOCK_WAIT } else { LOCK_WAIT / 10 }
    }
}

pub struct DeviceFile {
    file: File,
    pub path: PathBuf,
    pub kind: WalKind,
    /// Whether I/O passes the page cache by.
    pub direct: bool,
    pub bytes: u64,
    /// Smallest write of the device; 512 for a file.
    pub sector_bytes: u32,
    /// As they were when it was opened.
    pub facts: DeviceFacts,
    pub mishaps: Mishaps,
}

impl DeviceFile {
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound(path.to_owned()),
            _ => io_error(path, "stat", error),
        })?;
        let kind = if metadata.file_type().is_block_device() { WalKind::Device } else { WalKind::File };
        if kind == WalKind::File && !metadata.is_file() {
            return Err(OpenError::NotAWal { path: path.to_owned(), why: "neither a file nor a block device".into() });
        }
        let (file, direct) = open_direct_if_possible(path, kind, access)?;
        if access.owns() {
            lock(&file, path, access)?;
            if !is_still_at(&file, path) {
                // Another file took its name while its lock was waited for: it was formatted anew.
                return Err(OpenError::Locked(path.to_owned()));
            }
        }
        let (bytes, sector_bytes) = match kind {
            WalKind::Device => device_size(&file).map_err(|error| io_error(path, "size of the device", error))?,
            WalKind::File => (metadata.len(), 512),
        };
        let device_number = if kind == WalKind::Device { metadata.rdev() } else { metadata.dev() };
        Ok(Self {
            facts: DeviceFacts {
                direct,
                in_memory: kind == WalKind::File && lies_in_memory(&file),
                ..Sysfs::default().facts(device_number)
            },
            direct,
            bytes,
            sector_bytes,
            path: path.to_owned(),
            kind,
            file,
            mishaps: Mishaps::default(),
        })
    }

    /// What was opened otherwise: a pipe, that hangs.
    #[cfg(test)]
    pub fn over(file: File) -> Self {
        let (path, kind, facts) = (PathBuf::new(), WalKind::Device, DeviceFacts::default());
        Self { file, path, kind, direct: true, bytes: 0, sector_bytes: 512, facts, mishaps: Mishaps::default() }
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the next reads come from the device, not from memory that the kernel believes to be written.
    pub fn drop_cached(&self) -> io::Result<()> {
        self.file.sync_data()?;
        // SAFETY: plain system call on a descriptor that `self.file` keeps open.
        let code = unsafe { libc::posix_fadvise(self.fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
    }
}

fn open_direct_if_possible(path: &Path, kind: WalKind, access: Access) -> Result<(File, bool), OpenError> {
    let open = |flags: i32| {
        let exclusive = if kind == WalKind::Device && access.owns() { libc::O_EXCL } else { 0 };
        OpenOptions::new().read(true).write(access.writes()).custom_flags(flags | exclusive).open(path)
    };
    retry_while_locked(access, || {
        let opened = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && kind == WalKind::File => {
                open(0).map(|file| (file, false))
            }
            opened => opened.map(|file| (file, true)),
        };
        opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => OpenError::Locked(path.to_owned()),
            _ => io_error(path, "open", error),
        })
    })
}

fn is_still_at(file: &File, path: &Path) -> bool {
    let number = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (held, named) = (file.metadata().map(number), std::fs::metadata(path).map(number));
    matches!((held, named), (Ok(held), Ok(named)) if held == named)
}

fn lock(file: &File, path: &Path, access: Access) -> Result<(), OpenError> {
    retry_while_locked(access, || {
        // SAFETY: plain system call on a descriptor that `file` keeps open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => OpenError::Locked(path.to_owned()),
            _ => io_error(path, "lock", error),
        })
    })
}

/// A killed process keeps its lock until the kernel has finished its last writes: that is waited for, so that no late
/// write of a predecessor can land behind recovery's back. A living owner stays.
fn retry_while_locked<T>(access: Access, mut attempt: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let deadline = Instant::now() + access.lock_wait();
    loop {
        match attempt() {
            Err(OpenError::Locked(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

fn device_size(file: &File) -> io::Result<(u64, u32)> {
    nix::ioctl_read!(block_device_bytes, 0x12, 114, u64);
    nix::ioctl_read_bad!(logical_sector_bytes, libc::BLKSSZGET, libc::c_int);
    let (mut bytes, mut sector) = (0u64, 0);
    // SAFETY: BLKGETSIZE64 writes one u64 and BLKSSZGET one int, to variables of those types.
    unsafe {
        block_device_bytes(file.as_raw_fd(), &mut bytes)?;
        logical_sector_bytes(file.as_raw_fd(), &mut sector)?;
    }
    Ok((bytes, sector as u32))
}

fn lies_in_memory(file: &File) -> bool {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    nix::sys::statfs::fstatfs(file)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC || fs.filesystem_type().0 == RAMFS_MAGIC)
}

fn io_error(path: &Path, operation: &'static str, error: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error: IoError::new(operation, error) }
}
