//! The data folder: locked for one process, and marked with the node and cluster that it belongs to.
//!
//! `seawall.toml` in it is written once, when the folder is first used, and says in which format the rest is.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use seawall_backends::BackendConfig;
use seawall_metadata::log_store::LogError;
use seawall_metadata::{ClusterId, Incarnation, NodeId};
use serde::Deserialize;
use uuid::Uuid;

use crate::{control::own_uid, restore::RestoreError};

/// The newest layout of a data folder that this version reads and writes.
pub const FORMAT: u32 = 1;

const META_FILE: &str = "seawall.toml";
const LOCK_FILE: &str = "lock";
/// There from the beginning of a restore to its end.
const RESTORE_FILE: &str = "restore.toml";

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot use data folder {dir}: {error}")]
    Unusable { dir: PathBuf, error: io::Error },
    #[error(
        "data folder {dir} is of the user with id {owner}, as whom the broker runs, and could not open what root makes in it: run this as that \
         user (runuser -u NAME -- seawall restore ...)"
    )]
    OtherOwner { dir: PathBuf, owner: u32 },
    #[error("data folder {dir} is in use by another process")]
    InUse { dir: PathBuf },
    #[error("data folder {dir} belongs to node {found}, not to node {expected}")]
    OtherNode { dir: PathBuf, found: i32, expected: i32 },
    #[error("data folder {dir} has format {found}, and this version reads up to {FORMAT}: use a newer version")]
    NewerFormat { dir: PathBuf, found: u32 },
    #[error("a restore into data folder {dir} has not come to its end: run `seawall restore` again")]
    Unfinished { dir: PathBuf },
    #[error("{file} is damaged: {why}")]
    Damaged { file: PathBuf, why: String },
}

/// An opened data folder; locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    _lock: Lock,
}

#[derive(Debug, Deserialize)]
struct MetaNode {
    node: i32,
    cluster: Uuid,
    incarnation: Uuid,
}

/// What a data folder belongs to, without opening it; `None` if it was never used.
pub fn identity(dir: &Path) -> Result<Option<(ClusterId, Incarnation)>, DataDirError> {
    Ok(read_meta(dir)?.map(|meta| (ClusterId(meta.cluster), Incarnation(meta.incarnation))))
}

impl DataDir {
    /// Opens the folder of `node`, making it if it is not there.
    pub fn open(dir: &Path, node: i32) -> Result<Self, DataDirError> {
        let unusable = |error| DataDirError::Unusable { dir: dir.to_owned(), error };
        fs::create_dir_all(dir).map_err(unusable)?;
        let lock = Lock::take(dir)?;
        if dir.join(RESTORE_FILE).exists() {
            return Err(DataDirError::Unfinished { dir: dir.to_owned() });
        }
        let meta = match read_meta(dir)? {
            Some(meta) => meta,
            None => {
                let meta = MetaNode { node, cluster: Uuid::new_v4(), incarnation: Uuid::new_v4() };
                write_meta(dir, &meta).map_err(unusable)?;
                meta
            }
        };
        if meta.node != node {
            return Err(DataDirError::OtherNode { dir: dir.to_owned(), found: meta.node, expected: node });
        }
        Ok(Self { cluster: ClusterId(meta.cluster), incarnation: Incarnation(meta.incarnation), _lock: lock })
    }
}

/// A data folder that a restore makes. Nothing can be started in it before it is finished.
#[derive(Debug)]
pub struct RestoreDir {
    dir: PathBuf,
    _lock: Option<Lock>,
}

impl RestoreDir {
    /// A folder that is empty, not there yet, or left by a restore that was cut off. Changes nothing unless `take` is set. Objects of
    /// a store in the folder itself may be there.
    pub fn open(dir: &Path, store: &BackendConfig, take: bool) -> Result<Self, RestoreError> {
        let unusable = |error| DataDirError::Unusable { dir: dir.to_owned(), error };
        let mut lock = None;
        if take {
            fs::create_dir_all(dir).map_err(unusable)?;
            let owner = fs::metadata(dir).map_err(unusable)?.uid();
            if own_uid() == 0 && owner != 0 {
                return Err(DataDirError::OtherOwner { dir: dir.to_owned(), owner }.into());
            }
            lock = Some(Lock::take(dir)?);
        }
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { dir: dir.to_owned(), _lock: lock });
            }
            Err(error) => return Err(unusable(error).into()),
        };
        let (begun_new, meta_new) = (format!("{RESTORE_FILE}.new"), format!("{META_FILE}.new"));
        let mut may_be = vec![LOCK_FILE, "lost+found", RESTORE_FILE, &begun_new];
        if dir.join(RESTORE_FILE).exists() {
            may_be.extend(["metadata", META_FILE, &meta_new]);
        }
        let of_store = store.path.as_ref().and_then(|path| path.strip_prefix(dir).ok()?.components().next());
        for entry in entries {
            let name = entry.map_err(unusable)?.file_name();
            let is_store = of_store.is_some_and(|first| first.as_os_str() == name);
            if !is_store && !may_be.iter().any(|known| name == *known) {
                return Err(RestoreError::NotEmpty { dir: dir.to_owned(), found: name.display().to_string() });
            }
        }
        if take {
            write_file(dir, RESTORE_FILE, "# A restore was begun here and has not come to its end.\nformat = 1\n")
                .map_err(unusable)?;
            match fs::remove_file(dir.join(META_FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error).into()),
                _ => {}
            }
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Makes the metadata log anew.
    pub fn write_log(
        &self,
        metadata: &Path,
        write: impl FnOnce(&Path) -> Result<(), LogError>,
    ) -> Result<(), RestoreError> {
        let failed = |error| RestoreError::Log { dir: metadata.to_owned(), error };
        match fs::remove_dir_all(metadata) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error.into())),
            _ => write(metadata).map_err(failed),
        }
    }

    /// From here on the folder can be started from.
    pub fn finish(self, node: NodeId, cluster: ClusterId, incarnation: Incarnation) -> Result<(), DataDirError> {
        let unusable = |error| DataDirError::Unusable { dir: self.dir.clone(), error };
        let meta = MetaNode { node: node.0, cluster: cluster.0, incarnation: incarnation.0 };
        write_meta(&self.dir, &meta).map_err(unusable)?;
        fs::remove_file(self.dir.join(RESTORE_FILE)).map_err(unusable)?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(unusable)
    }
}

fn read_meta(dir: &Path) -> Result<Option<MetaNode>, DataDirError> {
    let file = dir.join(META_FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(DataDirError::Damaged { file, why: error.to_string() });
        }
        Err(error) => return Err(DataDirError::Unusable { dir: dir.to_owned(), error }),
    };
    let damaged = |why: String| DataDirError::Damaged { file: file.clone(), why };
    // The format is read first: a newer one may hold anything else.
    let table: toml::Table = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    let format = table.get("format").and_then(toml::Value::as_integer).and_then(|format| u32::try_from(format).ok());
    match format {
        Some(found) if found > FORMAT => Err(DataDirError::NewerFormat { dir: dir.to_owned(), found }),
        Some(1..) => table.try_into().map(Some).map_err(|error: toml::de::Error| damaged(error.message().to_owned())),
        _ => Err(damaged("no format number".to_owned())),
    }
}

fn write_meta(dir: &Path, meta: &MetaNode) -> io::Result<()> {
    let text = format!(
        "# Written once by seawall; says what this folder belongs to. Do not edit.\nformat = {FORMAT}\nnode = {}\n\
         cluster = \"{}\"\nincarnation = \"{}\"\n",
        meta.node, meta.cluster, meta.incarnation
    );
    write_file(dir, META_FILE, &text)
}

/// Writes a small file of the data folder, whole or not at all, so that it survives a power cut.
pub(crate) fn write_file(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut new = File::create(&temporary)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// A folder is one process's.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn take(dir: &Path) -> Result<Self, DataDirError> {
        let unusable = |error| DataDirError::Unusable { dir: dir.to_owned(), error };
        let file = File::create(dir.join(LOCK_FILE)).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file would leave the lock to a child that was forked and has not come to its exec.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity_and_is_for_one_process_and_node() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        let first = DataDir::open(&dir, 1).unwrap();
        assert!(matches!(DataDir::open(&dir, 1), Err(DataDirError::InUse { .. })));
        let cluster = first.cluster;
        drop(first);
        assert_eq!(DataDir::open(&dir, 1).unwrap().cluster, cluster);
        assert!(matches!(DataDir::open(&dir, 2), Err(DataDirError::OtherNode { found: 1, expected: 2, .. })));
    }

    #[test]
    fn a_folder_that_is_let_go_is_free_although_a_forked_child_has_its_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), 1).unwrap();
        let _of_a_child = first._lock.0.try_clone().unwrap();
        assert!(matches!(DataDir::open(dir.path(), 1), Err(DataDirError::InUse { .. })));
        drop(first);
        DataDir::open(dir.path(), 1).unwrap();
    }

    #[test]
    fn a_newer_or_damaged_folder_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &[u8]| fs::write(dir.path().join(META_FILE), text).unwrap();
        write(b"format = 2\nsomething = \"new\"\n");
        assert!(matches!(DataDir::open(dir.path(), 1), Err(DataDirError::NewerFormat { found: 2, .. })));
        for damaged in [&b""[..], b"format = 0", b"format = 1", b"\xff\xfe", b"format = "] {
            write(damaged);
            assert!(matches!(DataDir::open(dir.path(), 1), Err(DataDirError::Damaged { .. })), "{damaged:?}");
        }
    }

    #[test]
    fn root_makes_no_folder_that_the_broker_cannot_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = BackendConfig::default();
        if own_uid() == 0 {
            std::os::unix::fs::chown(dir.path(), Some(1234), None).unwrap();
            let refused = RestoreDir::open(dir.path(), &store, true).unwrap_err();
            assert!(refused.to_string().contains("runuser"), "{refused}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            RestoreDir::open(dir.path(), &store, false).unwrap();
            std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
        }
        RestoreDir::open(dir.path(), &store, true).unwrap();
    }
}
