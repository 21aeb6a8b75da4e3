//! From configuration to a store: one line per kind.

use std::sync::Arc;

use crate::bandwidth::{Bandwidth, BandwidthConfig};
use crate::config::{BackendConfig, BackendKind, ConfigError};
use crate::fs::FsBackend;
use crate::gate::Gate;
use crate::limit::{Limit, LimitConfig};
use crate::memory::MemoryBackend;
use crate::observed::{Counters, Observed};
use crate::retry::{Retry, RetryConfig};
use crate::timeout::{Timeout, TimeoutConfig};
use crate::traced::Traced;
use crate::{Backend, BackendError};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[cfg(feature = "s3")]
    #[error("backend.kind = \"{kind}\": {source}")]
    S3 { kind: &'static str, source: crate::s3::S3OpenError },
    #[cfg(not(feature = "s3"))]
    #[error("backend.kind = \"{kind}\" needs the S3 client, and this build was made without (cargo feature \"s3\")")]
    WithoutS3 { kind: &'static str },
    #[error("cannot open the store in {place}: {source}")]
    Store { place: String, source: BackendError },
}

/// Opens the bare store, without layers. Keys are used as given: the caller puts `prefix` in front.
pub async fn open(config: &BackendConfig) -> Result<Arc<dyn Backend>, OpenError> {
    config.validate()?;
    match config.kind {
        BackendKind::Fs => {
            let path = config.path.clone().ok_or(ConfigError::MissingKey { kind: "fs", key: "path" })?;
            let opened = blocking(move || FsBackend::open(&path)).await;
            Ok(Arc::new(opened.map_err(|source| OpenError::Store { place: config.place(), source })?))
        }
        BackendKind::Memory => Ok(Arc::new(MemoryBackend::new())),
        BackendKind::Minio | BackendKind::CephRgw | BackendKind::Cubefs | BackendKind::S3 => open_s3(config).await,
    }
}

#[cfg(feature = "s3")]
async fn open_s3(config: &BackendConfig) -> Result<Arc<dyn Backend>, OpenError> {
    let kind = config.kind.name();
    let own = config.clone();
    match blocking(move || crate::s3::S3Backend::open(&own)).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(source) => Err(OpenError::S3 { kind, source }),
    }
}

#[cfg(not(feature = "s3"))]
async fn open_s3(config: &BackendConfig) -> Result<Arc<dyn Backend>, OpenError> {
    Err(OpenError::WithoutS3 { kind: config.kind.name() })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What stands between the broker and the bare store.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    pub retry: RetryConfig,
    pub limit: LimitConfig,
    pub bandwidth: BandwidthConfig,
    pub timeout: TimeoutConfig,
}

pub struct Layered {
    pub backend: Arc<dyn Backend>,
    /// Counts every attempt that reached the store.
    pub counters: Arc<Counters>,
    /// Knows what waits for the store. As a backend it is the store without retries, and past the gate.
    pub limit: Arc<Limit>,
    /// Open.
    pub gate: Arc<Gate>,
}

/// Opens the store as the broker uses it. Outside in: spans; retries, which pause without holding a place; the gate;
/// limits; bandwidth; the time limit of an attempt; counters.
/// `seed` drives the jitter of retries.
pub async fn open_layered(config: &BackendConfig, layers: Layers, seed: u64) -> Result<Layered, OpenError> {
    Ok(layer(open(config).await?, layers, seed))
}

/// The same layers over any store: for tests that put a faulty one below.
pub fn layer(store: Arc<dyn Backend>, layers: Layers, seed: u64) -> Layered {
    let counters = Arc::new(Counters::default());
    let observed = Arc::new(Observed::new(store, Arc::clone(&counters)));
    let timeout = Arc::new(Timeout::new(observed, layers.timeout));
    let limit = Arc::new(Limit::new(Arc::new(Bandwidth::new(timeout, layers.bandwidth)), layers.limit));
    let gate = Arc::new(Gate::new(limit.clone()));
    let retry = Arc::new(Retry::new(gate.clone(), layers.retry, seed));
    Layered { backend: Arc::new(Traced::new(retry)), counters, limit, gate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "s3"))]
    #[tokio::test]
    async fn a_build_without_the_client_says_so() {
        let config = BackendConfig {
            kind: BackendKind::S3,
            endpoint: Some("http://localhost:9000".into()),
            bucket: Some("b".into()),
            ..Default::default()
        };
        let text = open(&config).await.err().unwrap().to_string();
        assert!(text.contains("\"s3\" needs the S3 client"), "{text}");
    }

    #[tokio::test]
    async fn what_the_configuration_names_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(&BackendConfig::fs(folder.path())).await.unwrap().name(), "fs");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let text = open(&BackendConfig::fs(&file)).await.err().unwrap().to_string();
        assert!(text.contains("cannot open the store in folder") && text.contains("file"), "{text}");
        assert!(matches!(open(&BackendConfig::default()).await, Err(OpenError::Config(_))));
    }
}
