//! From configuration to a store: one line per kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fs::FsBackend;
use crate::limit::{Limit, LimitConfig};
use crate::memory::MemoryBackend;
use crate::observed::{Counters, Observed};
use crate::retry::{Retry, RetryConfig};
use crate::timeout::{Timeout, TimeoutConfig};
use crate::{Backend, BackendError};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// A folder of a local or shared file system: the embedded default.
    #[default]
    Fs,
    /// Lost at exit: tests only.
    Memory,
    Minio,
    CephRgw,
    Cubefs,
    S3,
}

impl BackendKind {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fs => "fs",
            Self::Memory => "memory",
            Self::Minio => "minio",
            Self::CephRgw => "ceph-rgw",
            Self::Cubefs => "cubefs",
            Self::S3 => "s3",
        }
    }
}

/// The `[backend]` table. Credentials of S3 stores come from the environment or from files, never from here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    pub kind: BackendKind,
    /// Folder of the `fs` store; made if missing.
    pub path: Option<PathBuf>,
    /// URL of an S3 store.
    pub endpoint: Option<String>,
    pub bucket: Option<String>,
    pub region: Option<String>,
    /// First part of every key, for a bucket that is shared with others. May hold slashes, not at its ends.
    pub prefix: String,
    /// File that holds the access key, when `AWS_ACCESS_KEY_ID` is not set.
    pub access_key_file: Option<PathBuf>,
    /// File that holds the secret key, when `AWS_SECRET_ACCESS_KEY` is not set.
    pub secret_key_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("backend.kind = \"{kind}\" comes in a later version; this one has \"fs\" (and \"memory\" for tests)")]
    NotYet { kind: &'static str },
    #[error("backend.kind = \"{kind}\" needs backend.{key}")]
    MissingKey { kind: &'static str, key: &'static str },
    #[error("backend.{key} has no meaning for backend.kind = \"{kind}\"")]
    UnusedKey { kind: &'static str, key: &'static str },
    #[error("backend.prefix: {0}")]
    Prefix(#[from] crate::InvalidKey),
    #[error("cannot open the store in {path}")]
    Store { path: PathBuf, source: BackendError },
}

impl BackendConfig {
    pub fn fs(path: impl AsRef<Path>) -> Self {
        Self { kind: BackendKind::Fs, path: Some(path.as_ref().to_owned()), ..Self::default() }
    }

    /// What can be said without touching the store.
    pub fn validate(&self) -> Result<(), OpenError> {
        let kind = self.kind.name();
        crate::check_folder(&self.prefix)?;
        match self.kind {
            BackendKind::Fs => {
                self.path.as_ref().ok_or(OpenError::MissingKey { kind, key: "path" })?;
                self.refuse_s3_keys()
            }
            BackendKind::Memory => {
                refuse(self.path.is_some(), kind, "path")?;
                self.refuse_s3_keys()
            }
            BackendKind::Minio | BackendKind::CephRgw | BackendKind::Cubefs | BackendKind::S3 => {
                Err(OpenError::NotYet { kind })
            }
        }
    }

    fn refuse_s3_keys(&self) -> Result<(), OpenError> {
        let kind = self.kind.name();
        refuse(self.endpoint.is_some(), kind, "endpoint")?;
        refuse(self.bucket.is_some(), kind, "bucket")?;
        refuse(self.region.is_some(), kind, "region")?;
        refuse(self.access_key_file.is_some(), kind, "access_key_file")?;
        refuse(self.secret_key_file.is_some(), kind, "secret_key_file")
    }
}

fn refuse(is_set: bool, kind: &'static str, key: &'static str) -> Result<(), OpenError> {
    if is_set { Err(OpenError::UnusedKey { kind, key }) } else { Ok(()) }
}

/// Opens the bare store, without layers. Keys are used as given: the caller puts `prefix` in front.
/// Does blocking I/O for a moment (`fs` makes and cleans its folder).
pub fn open(config: &BackendConfig) -> Result<Arc<dyn Backend>, OpenError> {
    config.validate()?;
    let kind = config.kind.name();
    match config.kind {
        BackendKind::Fs => {
            let path = config.path.clone().ok_or(OpenError::MissingKey { kind, key: "path" })?;
            let store = FsBackend::open(&path).map_err(|source| OpenError::Store { path, source })?;
            Ok(Arc::new(store))
        }
        BackendKind::Memory => Ok(Arc::new(MemoryBackend::new())),
        BackendKind::Minio | BackendKind::CephRgw | BackendKind::Cubefs | BackendKind::S3 => {
            Err(OpenError::NotYet { kind })
        }
    }
}

/// What stands between the broker and the bare store.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    pub retry: RetryConfig,
    pub limit: LimitConfig,
    pub timeout: TimeoutConfig,
}

pub struct Layered {
    pub backend: Arc<dyn Backend>,
    /// Counts every attempt that reached the store.
    pub counters: Arc<Counters>,
    /// Knows what waits for the store.
    pub limit: Arc<Limit>,
}

/// Opens the store as the broker uses it. Outside in: retries, which pause without holding a place; limits;
/// the time limit of an attempt; counters.
/// `seed` drives the jitter of retries.
pub fn open_layered(config: &BackendConfig, layers: Layers, seed: u64) -> Result<Layered, OpenError> {
    Ok(layer(open(config)?, layers, seed))
}

/// The same layers over any store: for tests that put a faulty one below.
pub fn layer(store: Arc<dyn Backend>, layers: Layers, seed: u64) -> Layered {
    let counters = Arc::new(Counters::default());
    let observed = Arc::new(Observed::new(store, Arc::clone(&counters)));
    let limit = Arc::new(Limit::new(Arc::new(Timeout::new(observed, layers.timeout)), layers.limit));
    Layered { backend: Arc::new(Retry::new(limit.clone(), layers.retry, seed)), counters, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_there_yet_names_those_that_are() {
        for kind in [BackendKind::Minio, BackendKind::CephRgw, BackendKind::Cubefs, BackendKind::S3] {
            let text = open(&BackendConfig { kind, ..Default::default() }).err().unwrap().to_string();
            assert!(text.contains(kind.name()) && text.contains("\"fs\""), "{text}");
        }
    }

    #[test]
    fn keys_that_do_not_belong_to_the_kind_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let good = BackendConfig::fs(folder.path());
        assert_eq!(open(&good).unwrap().name(), "fs");
        let with_bucket = BackendConfig { bucket: Some("b".into()), ..good.clone() };
        assert!(matches!(open(&with_bucket), Err(OpenError::UnusedKey { key: "bucket", .. })));
        assert!(matches!(open(&BackendConfig::default()), Err(OpenError::MissingKey { key: "path", .. })));
        let bad_prefix = BackendConfig { prefix: "/a".into(), ..good };
        assert!(matches!(open(&bad_prefix), Err(OpenError::Prefix(_))));
    }
}
