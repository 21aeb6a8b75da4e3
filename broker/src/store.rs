//! The object store of this broker, with retries, limits and counters around it.

use std::sync::Arc;

use seawall_backends::{
    Backend, Layered, Layers, OpenError,
    bandwidth::BandwidthConfig,
    gate::Gate,
    limit::{Limit, LimitConfig},
    observed::Counters,
    open, registry,
};

use crate::{config::Config, units::ByteSize};

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub backend: Arc<dyn Backend>,
    /// Every attempt that reached the store.
    pub counters: Arc<Counters>,
    /// Its layer that knows what waits.
    pub limit: Arc<Limit>,
    /// Shut while it is not known whether this is the right store.
    pub gate: Arc<Gate>,
}

/// Every word that [`Store::state`] may say.
pub const STATES: [&str; 3] = ["ok", "failing", "unprobed"];

impl Store {
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        let rate = |rate: Option<ByteSize>| rate.map(ByteSize::bytes);
        let bandwidth = BandwidthConfig {
            put_bytes_per_second: rate(config.limits.store_upload_rate),
            get_bytes_per_second: rate(config.limits.store_read_rate),
            catch_up_bytes_per_second: rate(config.limits.catch_up_rate),
        };
        let limit = LimitConfig { catch_up_bytes_max: config.limits.catch_up_bytes.bytes(), ..LimitConfig::default() };
        Ok(Self::layered(open(&config.store()).await?, Layers { bandwidth, limit, ..Layers::default() }))
    }

    /// In a word: as in metric labels.
    pub fn state(&self) -> &'static str {
        match (self.gate.is_shut(), self.counters.is_failing()) {
            (true, _) => "unprobed",
            (false, true) => "failing",
            (false, false) => "ok",
        }
    }

    /// The same over any store: for tests that put a faulty one below.
    pub fn over(store: Arc<dyn Backend>) -> Self {
        Self::layered(store, Layers::default())
    }

    fn layered(store: Arc<dyn Backend>, layers: Layers) -> Self {
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let Layered { backend, counters, limit, gate } = registry::layer(store, layers, seed);
        Self { backend, counters, limit, gate }
    }
}
