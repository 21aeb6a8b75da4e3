//! A file WAL that somebody uses: it is not formatted over, and what looks at a WAL needs no right to write.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use seawall_wal_device::device::file::{Access, DeviceFile};
use seawall_wal_device::look::{Look, LookAccess};
use seawall_wal_device::{FormatConfig, FormatError, OpenError, format};

fn formatted(path: &Path, overwrite: bool) -> Result<seawall_wal_device::WalId, FormatError> {
    let config = FormatConfig { overwrite, ..FormatConfig::new(path, 4 << 20, 1) };
    format(&config).map(|superblock| superblock.wal_id)
}

#[test]
fn a_file_that_is_in_use_is_not_formatted_whatever_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    let id = formatted(&path, false).unwrap();
    let user = DeviceFile::open(&path, Access::Own).unwrap();
    assert!(matches!(formatted(&path, true), Err(FormatError::Held { .. })));
    assert_eq!(seawall_wal_device::inspect(&path).unwrap().superblock.wal_id, id);
    drop(user);
    assert!(matches!(formatted(&path, false), Err(FormatError::InUse { .. })));
    assert_ne!(formatted(&path, true).unwrap(), id);
}

/// A name that is mistyped, in a folder that lies in memory.
#[test]
fn no_file_is_made_among_devices() {
    let path = Path::new("/dev/seawall-no-such-disk");
    assert!(matches!(formatted(path, true), Err(FormatError::NoDevice(_))));
    assert!(!path.exists() && !path.with_extension("unfinished").exists());
}

#[test]
fn a_wal_file_is_for_its_own_user_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    formatted(&path, false).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A device that has failed often takes no writes any more: what it holds can be saved all the same.
#[test]
fn looking_at_a_wal_keeps_others_out_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal");
    formatted(&path, false).unwrap();
    let file = DeviceFile::open(&path, Access::ReadAlone).unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.fd())).unwrap();
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert!(flags.ends_with('0'), "opened for reading only: {flags}");
    assert!(matches!(Look::open(&[&path], LookAccess::Alone), Err(OpenError::Locked(_))));
    drop(file);
    assert_eq!(Look::open(&[&path], LookAccess::Alone).unwrap().legs().len(), 1);
}
