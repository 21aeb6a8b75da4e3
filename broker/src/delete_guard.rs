//! Whether this broker may take something out of the store now: an object, or what was begun in parts.
//!
//! Whoever deletes or aborts asks here first, each time, with nothing that waits in between: a broker without the lease may have a
//! successor, and a store whose marker names another incarnation was restored to it.

use seawall_backends::{Backend, BackendError, Purpose};

use crate::storage::Storage;
use crate::store_marker::{Standing, StoreMarker};

/// Why nothing may be deleted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MayNotDelete {
    #[error("the store's marker is not this cluster's alone: {0:?}")]
    NotOurs(Standing),
    #[error("the store's marker cannot be read: {0}")]
    Unknown(BackendError),
    #[error("this broker's lease has run out")]
    NoLease,
}

pub async fn may_delete(storage: &Storage, backend: &dyn Backend, marker: &StoreMarker) -> Result<(), MayNotDelete> {
    match marker.standing(backend, Purpose::Scrub).await {
        Ok(Standing::Ours) => {}
        Ok(standing) => return Err(MayNotDelete::NotOurs(standing)),
        Err(error) => return Err(MayNotDelete::Unknown(error)),
    }
    // Last: reading the marker may have taken as long as a store that hesitates.
    if storage.lease_valid() { Ok(()) } else { Err(MayNotDelete::NoLease) }
}
