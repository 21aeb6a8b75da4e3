//! The server, and our S3 client over it.

#![allow(clippy::unwrap_used, dead_code, reason = "a helper of tests; not each uses all of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seawall_backends::registry::Layers;
use seawall_backends::retry::RetryConfig;
use seawall_backends::timeout::TimeoutConfig;
use seawall_backends::{Backend, BackendConfig, BackendKind, open};
use seawall_hostile_store::{Faults, Like, Server, Settings};
use tempfile::TempDir;

/// What is late or stale is so by 50 ms at most.
pub async fn start(like: Like, faults: Faults, seed: u64) -> Server {
    let late_max = Duration::from_millis(50);
    Server::start(Settings { like, faults, seed, late_max, ..Settings::default() }).await.unwrap()
}

pub fn config(server: &Server, kind: BackendKind, folder: &Path) -> BackendConfig {
    let defaults = Settings::default();
    let (access, secret) = (folder.join("access"), folder.join("secret"));
    std::fs::write(&access, defaults.access).unwrap();
    std::fs::write(&secret, defaults.secret).unwrap();
    BackendConfig {
        kind,
        endpoint: Some(format!("http://{}", server.address())),
        bucket: Some(defaults.bucket),
        access_key_file: Some(access),
        secret_key_file: Some(secret),
        ..BackendConfig::default()
    }
}

/// The second is the folder of its keys, which it may read again.
pub async fn client(server: &Server, kind: BackendKind) -> (Arc<dyn Backend>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(&config(server, kind, folder.path())).await.unwrap(), folder)
}

/// Layers that repeat soon and for long.
pub fn patient() -> Layers {
    let retry = RetryConfig {
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(20),
        budget_retries: 100_000,
        ..RetryConfig::default()
    };
    let timeout = TimeoutConfig { attempt_max: Duration::from_secs(1), ..TimeoutConfig::default() };
    Layers { retry, timeout, ..Layers::default() }
}
