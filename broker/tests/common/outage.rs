//! The `fs` store goes away and comes back.

use std::fs;
use std::path::{Path, PathBuf};

use super::TestBroker;

pub fn objects(broker: &TestBroker) -> PathBuf {
    broker.dir.path().join("data").join("objects")
}

/// The store's folder becomes a file, which no put can get past.
pub fn take_store_away(objects: &Path) {
    fs::rename(objects, objects.with_extension("away")).unwrap();
    fs::write(objects, b"").unwrap();
}

pub fn bring_store_back(objects: &Path) {
    fs::remove_file(objects).unwrap();
    fs::rename(objects.with_extension("away"), objects).unwrap();
}
