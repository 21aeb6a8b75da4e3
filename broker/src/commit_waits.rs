//! The streams whose acks wait for a commit: partitions of ack class `backend` put themselves in, the uploader takes them out.
//!
//! So that a broker with many partitions looks at none that does not wait. A stream may be in it without need; it is never
//! missing while an ack waits for something that no upload has taken.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use seawall_metadata::StreamId;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct CommitWaits {
    waiting: Mutex<Waiting>,
    grew: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    streams: BTreeSet<StreamId>,
    bytes: u64,
    since: Option<Instant>,
    /// Whoever waits for `grew` hears of it when `bytes` gets there.
    enough: u64,
}

/// What waits now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitBacklog {
    pub streams: usize,
    pub bytes: u64,
    pub since: Option<Instant>,
}

impl CommitWaits {
    /// `bytes` more of this stream are durable, or have yet to be uploaded, and not acked.
    pub fn add(&self, stream: StreamId, bytes: u64) {
        let mut waiting = self.lock();
        let before = (waiting.streams.is_empty(), waiting.bytes < waiting.enough);
        waiting.streams.insert(stream);
        waiting.bytes += bytes;
        waiting.since.get_or_insert_with(Instant::now);
        let tell = before.0 || before.1 && waiting.bytes >= waiting.enough;
        drop(waiting);
        if tell {
            self.grew.notify_one();
        }
    }

    /// From now on `grew` resolves at `enough` bytes, too.
    pub fn tell_at(&self, enough: u64) {
        self.lock().enough = enough;
    }

    pub fn backlog(&self) -> CommitBacklog {
        let waiting = self.lock();
        CommitBacklog { streams: waiting.streams.len(), bytes: waiting.bytes, since: waiting.since }
    }

    /// Takes all of them. What is not uploaded then is to be added again.
    pub fn take(&self) -> BTreeSet<StreamId> {
        let mut waiting = self.lock();
        waiting.bytes = 0;
        waiting.since = None;
        std::mem::take(&mut waiting.streams)
    }

    /// Resolves when something waits where nothing did, or when it is enough. May resolve too often. Safe to drop.
    pub async fn grew(&self) {
        self.grew.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Duration, timeout};

    #[tokio::test]
    async fn the_first_and_the_one_that_makes_it_enough_are_told() {
        let waits = CommitWaits::default();
        let told = async || timeout(Duration::from_millis(1), waits.grew()).await.is_ok();
        waits.tell_at(100);
        waits.add(StreamId(1), 10);
        assert!(told().await);
        waits.add(StreamId(2), 10);
        assert!(!told().await);
        waits.add(StreamId(1), 80);
        assert!(told().await);
        assert_eq!((waits.backlog().streams, waits.backlog().bytes), (2, 100));
        assert_eq!(waits.take(), [StreamId(1), StreamId(2)].into());
        assert_eq!(waits.backlog(), CommitBacklog { streams: 0, bytes: 0, since: None });
    }
}
