//! The folder `.tmp`: files that are not objects yet.
//!
//! An owner's files are named `<owner>.<number>`, its lock `<owner>.lock`. The lock is taken before the first file is
//! made and held until the process ends, so files without a held lock belong to nobody and are swept.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::dirs::DurableDirs;

const FOLDER: &str = ".tmp";

pub(super) struct TmpFolder {
    folder: PathBuf,
    pub(super) owner: String,
    next: AtomicU64,
    _lock: File,
}

impl TmpFolder {
    pub(super) fn open(dirs: &DurableDirs) -> io::Result<Self> {
        dirs.ensure(FOLDER)?;
        let folder = dirs.root().join(FOLDER);
        sweep(&folder)?;
        loop {
            let owner = uuid::Uuid::new_v4().simple().to_string();
            if let Some(lock) = take_lock(&lock_path(&folder, &owner))? {
                return Ok(Self { folder, owner, next: AtomicU64::new(0), _lock: lock });
            }
        }
    }

    /// A new file, removed again unless it is renamed; `flags` are those of open(2).
    pub(super) fn create(&self, flags: i32) -> io::Result<(File, TmpFile)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}.{number}", self.owner));
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&path)?;
        Ok((file, TmpFile { path: Some(path) }))
    }

    pub(super) fn is_present(&self) -> bool {
        self.folder.is_dir()
    }
}

impl Drop for TmpFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(lock_path(&self.folder, &self.owner));
    }
}

pub(super) struct TmpFile {
    path: Option<PathBuf>,
}

impl TmpFile {
    pub(super) fn rename_to(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            std::fs::rename(path, target)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes the files of owners that are gone.
fn sweep(folder: &Path) -> io::Result<()> {
    let mut swept = 0u64;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(owner) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next())
        else {
            continue;
        };
        let lock = lock_path(folder, owner);
        // Held while removing, so that the owner cannot come to life meanwhile.
        let _held = match File::open(&lock) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Some(file),
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if path != lock {
            remove_if_there(&path)?;
            swept += 1;
        }
        // The lock goes with its owner's last file; without it the rest counts as nobody's, which it is.
        remove_if_there(&lock)?;
    }
    if swept > 0 {
        tracing::info!(files = swept, folder = %folder.display(), "swept temporary files that a stopped process left");
    }
    Ok(())
}

/// None when a sweep took the file between its making and its locking.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(path.exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock_path(folder: &Path, owner: &str) -> PathBuf {
    folder.join(format!("{owner}.lock"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
