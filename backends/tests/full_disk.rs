//! A full disk: the caller can tell it from other failures, nothing half-written shows, and room that comes back is used.
//! Needs root for a small file system of its own; under `CI=true` that is not optional.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use seawall_backends::fs::FsBackend;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, list_all};

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if !root {
            assert!(std::env::var_os("CI").is_none(), "needs root to mount a small file system");
            eprintln!("left out: needs root to mount a small file system");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder.path()).status().unwrap();
        assert!(mounted.success());
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = FsBackend::open(disk.path()).unwrap();
    let key = |name: &str| ObjectKey::new(format!("folder/{name}")).unwrap();
    let body = Bytes::from(vec![1; 1_500_000]);
    store.put(&key("first"), body.clone().into(), Purpose::Upload).await.unwrap();

    let error = store.put(&key("second"), body.clone().into(), Purpose::Upload).await.unwrap_err();
    assert!(matches!(&error, BackendError::Full(text) if text.contains("No space left")), "{error:?}");
    let listed = list_all(&store, "folder", Purpose::Scrub).await.unwrap();
    assert_eq!(listed, [(key("first"), 1_500_000)]);

    store.delete_many(vec![key("first")], Purpose::Compaction).await;
    store.put(&key("second"), body.into(), Purpose::Upload).await.unwrap();
}
