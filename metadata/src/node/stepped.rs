//! A node without a thread, for simulations: whoever holds it turns it, and time is what the config's clock says.

use super::driver::Driver;
use super::{Made, MetadataConfig, MetadataHandle, OpenError, StopGuard, make, open_error};
use crate::log_store::RaftStorage;
use crate::raft_core::{CoreError, RaftCore};
use std::sync::{Arc, Mutex};

/// The sole voter of a cluster, to be turned by its holder. Dropped, it is a process that died.
pub struct SteppedNode<S> {
    driver: Driver<S>,
    _guard: StopGuard,
}

impl<S: RaftStorage> SteppedNode<S> {
    /// Takes the proposals that wait, persists, applies and answers; ticks and renews the lease when it is time.
    /// False once the node was told to stop. After an error it is not to be used.
    pub fn step(&mut self) -> Result<bool, CoreError> {
        self.driver.step()
    }
}

impl MetadataHandle {
    /// As [`MetadataHandle::with_store`], without a thread. The cluster is initialised by the caller.
    pub fn stepped<S: RaftStorage>(config: MetadataConfig, store: S) -> Result<(Self, SteppedNode<S>), OpenError> {
        let Made { shared, state, applied, requests, incoming, core_config } = make(&config);
        let guard = StopGuard { shared: shared.clone(), _applied: applied.clone() };
        let core = RaftCore::open(store, &core_config, state).map_err(|error| open_error(&config, error))?;
        let mut driver = Driver::new(core, shared.clone(), applied, incoming);
        driver.start().map_err(|error| open_error(&config, error))?;
        let handle = Self { shared, requests, thread: Arc::new(Mutex::new(None)) };
        Ok((handle, SteppedNode { driver, _guard: guard }))
    }
}
