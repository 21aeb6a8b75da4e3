//! The data folder: locked for one process, and marked with the node and cluster that it belongs to.
//!
//! `seawall.toml` in it is written once, when the folder is first used, and says in which format the rest is.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use seawall_metadata::{ClusterId, Incarnation};
use serde::Deserialize;
use uuid::Uuid;

/// The newest layout of a data folder that this version reads and writes.
pub const FORMAT: u32 = 1;

const META_FILE: &str = "seawall.toml";
const LOCK_FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot use data folder {dir}: {error}")]
    Unusable { dir: PathBuf, error: io::Error },
    #[error("data folder {dir} is in use by another process")]
    InUse { dir: PathBuf },
    #[error("data folder {dir} belongs to node {found}, not to node {expected}")]
    OtherNode { dir: PathBuf, found: i32, expected: i32 },
    #[error("data folder {dir} has format {found}, and this version reads up to {FORMAT}: use a newer version")]
    NewerFormat { dir: PathBuf, found: u32 },
    #[error("{file} is damaged: {why}")]
    Damaged { file: PathBuf, why: String },
}

/// An opened data folder; locked as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    _lock: File,
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
        let lock = File::create(dir.join(LOCK_FILE)).map_err(unusable)?;
        if !try_lock(&lock).map_err(unusable)? {
            return Err(DataDirError::InUse { dir: dir.to_owned() });
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

fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open as long as `file` lives, and flock touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
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
}
