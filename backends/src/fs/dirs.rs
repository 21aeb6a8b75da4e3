//! Folders whose entry in their parent is known to be on the medium.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Beyond this many the set starts over; that costs syncs, not correctness.
const KNOWN_MAX: usize = 8_192;

pub(super) struct DurableDirs {
    root: PathBuf,
    /// Relative folders that this process has synced into their parents.
    known: Mutex<BTreeSet<String>>,
}

impl DurableDirs {
    /// Makes `root` and what is missing above it.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        make_durable(root)?;
        Ok(Self { root: root.to_owned(), known: Mutex::default() })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes `folder` and those above it; all their entries are durable when this returns.
    pub(super) fn ensure(&self, folder: &str) -> io::Result<()> {
        if folder.is_empty() || self.known().contains(folder) {
            return Ok(());
        }
        let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.ensure(parent)?;
        make_dir(&self.root.join(folder))?;
        self.sync(parent)?;
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }

    /// Makes the entries of `folder` durable.
    pub(super) fn sync(&self, folder: &str) -> io::Result<()> {
        sync_dir(&self.root.join(folder))
    }

    /// Someone has changed the folders from outside: look again.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `dir` and its missing ancestors, each synced into its parent.
fn make_durable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = above(dir);
    make_durable(parent)?;
    make_dir(dir)?;
    sync_dir(parent)
}

fn above(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What root makes in a folder of somebody else becomes that one's: `seawall backend check` is run by root, and then the broker by its own user.
fn give_to_owner_above(dir: &Path) -> io::Result<()> {
    let (own, above) = (std::fs::symlink_metadata(dir)?, std::fs::metadata(above(dir))?);
    if own.uid() != 0 || above.uid() == 0 {
        return Ok(());
    }
    std::os::unix::fs::lchown(dir, Some(above.uid()), Some(above.gid()))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) => Err(error),
        Ok(()) => give_to_owner_above(dir),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
