//! The object store of this broker, with retries, limits and counters around it.

use std::sync::Arc;

use seawall_backends::{Backend, Layers, OpenError, limit::Limit, observed::Counters, open_layered};

use crate::config::Config;

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub backend: Arc<dyn Backend>,
    /// Every attempt that reached the store.
    pub counters: Arc<Counters>,
    /// Its layer that knows what waits.
    pub limit: Arc<Limit>,
}

impl Store {
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let layered = open_layered(&config.store(), Layers::default(), seed).await?;
        Ok(Self { backend: layered.backend, counters: layered.counters, limit: layered.limit })
    }
}
