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
        // A store that does not answer says nothing. One that is busy is asked all the same: acks of the log must end.
        if let Ok(Some(by)) = marker.ended_by(&*backend, Purpose::Metadata).await {
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

#[cfg(test)]
mod tests {
    use seawall_backends::layer::{Answer, Call, Layer};
    use seawall_backends::memory::MemoryBackend;
    use seawall_backends::{BackendError, BoxFuture, Segments};
    use seawall_metadata::{ClusterId, Incarnation};
    use uuid::Uuid;

    use super::*;
    use crate::metrics::Metrics;
    use crate::task::Task;

    /// A store of which others take all: who gives way gets no turn.
    struct Saturated(MemoryBackend);

    impl Layer for Saturated {
        fn inner(&self) -> &dyn Backend {
            &self.0
        }

        fn around<'a, T: Answer + 'a>(
            &'a self,
            call: Call<'a>,
            attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
        ) -> BoxFuture<'a, Result<T, BackendError>> {
            if call.purpose.is_urgent() { attempt() } else { Box::pin(std::future::pending()) }
        }
    }

    #[tokio::test]
    async fn a_broker_learns_that_it_is_ended_from_a_store_that_is_busy() {
        let store = Arc::new(Saturated(MemoryBackend::new()));
        let marker = StoreMarker::new("p", ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
        let text = Segments::from(marker.ended_text(Incarnation(Uuid::from_u128(3))));
        store.put(&marker.ended_key(), text, Purpose::Metadata).await.unwrap();
        let tasks = Tasks::new(Metrics::new());
        tasks.spawn(Task::IncarnationWatch, run(store, marker, tasks.clone()));
        let why = tokio::time::timeout(Duration::from_secs(20), tasks.failed()).await.expect("it stops");
        assert!(why.contains("restored"), "{why}");
    }
}
