//! Memory for requests that are being received or handled, over all connections.
//!
//! A frame's memory grows as its bytes arrive, and each growth is taken from a pool first; a connection that gets
//! nothing does not read. So that frames which each hold a part cannot wait for each other forever, there is one
//! express lane besides the pool: it holds the largest frame, and whoever has it may finish its frame whatever the
//! pool says. Pool and lane together are `queued.max.request.bytes`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug, Clone)]
pub struct RequestMemory {
    pool: Arc<Semaphore>,
    lane: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    held: Gauge,
}

/// What one frame holds; given back when dropped.
#[derive(Debug, Default)]
pub struct Hold {
    pool: Option<OwnedSemaphorePermit>,
    lane: Option<OwnedSemaphorePermit>,
    counted: Option<(Gauge, i64)>,
}

impl RequestMemory {
    /// `bytes` over all frames, of which the largest frame has `frame_bytes_max`.
    pub fn new(bytes: usize, frame_bytes_max: usize, held: Gauge) -> Self {
        let pool = bytes.saturating_sub(frame_bytes_max).min(Semaphore::MAX_PERMITS);
        Self { pool: Arc::new(Semaphore::new(pool)), lane: Arc::new(Semaphore::new(1)), waiting: Arc::default(), held }
    }

    /// Adds `bytes` to `hold`, waiting until there is room. Safe to drop while it waits.
    pub async fn grow(&self, hold: &mut Hold, bytes: usize) {
        if !self.try_grow(hold, bytes) {
            let _waiting = Waiting::new(&self.waiting);
            let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
            tokio::select! {
                more = self.pool.clone().acquire_many_owned(permits) => {
                    hold.add(more.unwrap_or_else(|_| panic!("the pool is never closed")));
                }
                lane = self.lane.clone().acquire_owned() => {
                    hold.lane = Some(lane.unwrap_or_else(|_| panic!("the lane is never closed")));
                }
            }
            self.count(hold, bytes);
        }
    }

    fn try_grow(&self, hold: &mut Hold, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        if hold.lane.is_none() {
            match self.pool.clone().try_acquire_many_owned(permits) {
                Ok(more) => hold.add(more),
                Err(_) => return false,
            }
        }
        self.count(hold, bytes);
        true
    }

    fn count(&self, hold: &mut Hold, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.held.inc_by(bytes);
        hold.counted.get_or_insert_with(|| (self.held.clone(), 0)).1 += bytes;
    }

    /// Whether some connection waits for memory.
    pub fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Hold {
    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.pool {
            Some(pool) => pool.merge(more),
            None => self.pool = Some(more),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((gauge, bytes)) = self.counted.take() {
            gauge.dec_by(bytes);
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn frames_that_each_hold_a_part_do_not_wait_forever() {
        let memory = RequestMemory::new(300, 100, Gauge::default());
        let mut holds: Vec<Hold> = (0..4).map(|_| Hold::default()).collect();
        for hold in &mut holds {
            memory.grow(hold, 50).await;
        }
        // The pool is empty; the first to ask gets the lane and may finish, the second waits.
        let (first, rest) = holds.split_at_mut(1);
        memory.grow(&mut first[0], 50).await;
        memory.grow(&mut first[0], 50).await;
        let second = tokio::time::timeout(Duration::from_secs(1), memory.grow(&mut rest[0], 50)).await;
        assert!(second.is_err(), "the lane is for one");
        drop(holds.remove(0));
        memory.grow(&mut holds[0], 50).await;
        assert_eq!(memory.held.get(), 200);
        drop(holds);
        assert_eq!(memory.held.get(), 0);
        assert!(!memory.is_short());
    }
}
