//! The object store of this broker, with retries, limits and counters around it.
//!
//! A store over a network has threads of its own, which give way to those that serve clients: hashing, copying and encrypting bodies then
//! delays no ack, however little CPU there is.

use std::io;
use std::sync::Arc;

use seawall_backends::{
    Backend, BackendKind, Layered, Layers, OpenError,
    bandwidth::BandwidthConfig,
    gate::Gate,
    limit::{Limit, LimitConfig},
    observed::Counters,
    open,
    own_threads::OnOwnThreads,
    registry,
};
use tokio::runtime::{Builder, Runtime};
use tracing::warn;

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

/// How much less than others these threads get of a CPU that is short: a tenth, as the kernel weighs it.
const NICENESS: i32 = 10;

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
        let (store, layers) = (open(&config.store()).await?, Layers { bandwidth, limit, ..Layers::default() });
        if matches!(config.backend.kind, BackendKind::Fs | BackendKind::Memory) {
            return Ok(Self::layered(store, layers));
        }
        let runtime = match own_runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                warn!(%error, "no threads for the store alone: it shares those that serve clients");
                return Ok(Self::layered(store, layers));
            }
        };
        Ok(Self::layered(Arc::new(OnOwnThreads::new(store, runtime)), layers))
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

fn own_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().thread_name("store").on_thread_start(give_way).enable_all().build()
}

/// Lowers the priority of this thread alone.
fn give_way() {
    // SAFETY: takes no pointers; on Linux 0 is the calling thread and not its process.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0;
    if refused {
        warn!(error = %io::Error::last_os_error(), "a thread of the store has the priority of all others");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the thread that asks.
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        behind_name.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn threads_of_the_store_give_way_and_no_others_do() {
        let own = niceness();
        let runtime = own_runtime().unwrap();
        let of_task = runtime.block_on(async { tokio::spawn(async { niceness() }).await.unwrap() });
        let of_blocking = runtime.block_on(async { tokio::task::spawn_blocking(niceness).await.unwrap() });
        assert_eq!((of_task, of_blocking, niceness()), (NICENESS, NICENESS, own));
    }
}
