//! Ends a broker whose cluster was restored elsewhere: looks in the store for the word that its incarnation is ended.
//!
//! Uploads look for themselves, between each put and its commit (`upload/put.rs`), and so do deletes. This stops what needs no store: acks
//! from the write-ahead log alone. A broker that does not reach the store does not learn of it.

use std::sync::Arc;
use std::time::Duration;

use seawall_backends::{Backend, Purpose};
use tokio::time::MissedTickBehavior;

use crate::store_marker::StoreMarker;
use crate::task::Tasks;

const LOOK_EVERY: Duration = Duration::from_secs(5);

pub async fn run(backend: Arc<dyn Backend>, marker: StoreMarker, tasks: Tasks) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // A store that does not answer says nothing.
        if let Ok(Some(by)) = marker.ended_by(&*backend, Purpose::Probe).await {
            tasks.fail_broker(restored_elsewhere(&by));
            return;
        }
    }
}

/// What a broker of an incarnation that is ended says.
pub fn restored_elsewhere(by: &str) -> String {
    format!(
        "the cluster was restored from its store as incarnation {by}: this data folder is from before, and nothing of it counts any more"
    )
}
