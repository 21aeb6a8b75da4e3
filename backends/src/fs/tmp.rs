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
        // Before it is opened: with flags that the file system refuses it may be made all the same.
        let temporary = TmpFile { path: Some(path.clone()) };
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)?;
        Ok((file, temporary))
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
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().expect("taken only when it is renamed")
    }

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_made_and_could_not_be_opened_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = TmpFolder::open(&DurableDirs::open(root.path()).unwrap()).unwrap();
        let names = || std::fs::read_dir(root.path().join(FOLDER)).unwrap().count();
        assert_eq!(names(), 1, "the lock");
        let (_, temporary) = folder.create(0).unwrap();
        assert_eq!(names(), 2);
        drop(temporary);
        assert_eq!(names(), 1);
        // A file that is there cannot be made anew: an error of open(2) that leaves a file under that name.
        let next = folder.next.load(Ordering::Relaxed);
        std::fs::write(root.path().join(FOLDER).join(format!("{}.{next}", folder.owner)), b"").unwrap();
        assert!(folder.create(0).is_err());
        assert_eq!(names(), 1, "nothing of the failed attempt is left");
    }
}
