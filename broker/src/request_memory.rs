//! Memory for requests that are being received or handled, over all connections.
//!
//! A frame's memory grows as its bytes arrive, and each growth is taken from a pool first; a connection that gets
//! nothing does not read. So that frames which each hold a part cannot wait for each other forever, there is an
//! express lane besides the pool, as large as the largest frame: a frame takes all that it still needs there at once, and
//! may then finish whatever the pool says. Pool and lane together are `queued.max.request.bytes`.

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;

use crate::budget::Budget;

/// A length field is received together with the frame before it.
pub const LENGTH_BYTES: usize = 4;

#[derive(Debug, Clone)]
pub struct RequestMemory {
    pool: Budget,
    lane: Budget,
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
        let lane = frame_bytes_max + LENGTH_BYTES;
        Self { pool: Budget::new(bytes.saturating_sub(lane)), lane: Budget::new(lane), held }
    }

    /// Adds `bytes` to `hold`, or all of the `rest` that its frame still needs, waiting until there is room for either;
    /// answers which. Safe to drop while it waits.
    pub async fn grow(&self, hold: &mut Hold, bytes: usize, rest: usize) -> usize {
        assert!(bytes <= rest, "{bytes} bytes of a frame that needs {rest} more");
        let permits = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let granted = if let Some(more) = self.pool.try_take(permits(bytes)) {
            hold.add(more);
            bytes
        } else {
            tokio::select! {
                more = self.pool.take(permits(bytes)) => {
                    hold.add(more);
                    bytes
                }
                lane = self.lane.take(permits(rest)) => {
                    hold.lane = Some(lane);
                    rest
                }
            }
        };
        self.count(hold, granted);
        granted
    }

    fn count(&self, hold: &mut Hold, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.held.inc_by(bytes);
        hold.counted.get_or_insert_with(|| (self.held.clone(), 0)).1 += bytes;
    }

    /// Whether some connection waits for memory.
    pub fn is_short(&self) -> bool {
        self.pool.waiting() > 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn frames_that_each_hold_a_part_do_not_wait_forever() {
        let memory = RequestMemory::new(304, 100, Gauge::default());
        let mut holds: Vec<Hold> = (0..4).map(|_| Hold::default()).collect();
        for hold in &mut holds {
            assert_eq!(memory.grow(hold, 50, 100).await, 50);
        }
        // The pool is empty. Two get all they need from the lane and may finish, the third waits.
        let (first, rest) = holds.split_at_mut(2);
        for hold in first {
            assert_eq!(memory.grow(hold, 25, 50).await, 50);
        }
        let third = tokio::time::timeout(Duration::from_secs(1), memory.grow(&mut rest[0], 25, 50)).await;
        assert!(third.is_err(), "the lane is full");
        drop(holds.remove(0));
        assert!(memory.grow(&mut holds[1], 25, 50).await >= 25);
        drop(holds);
        assert_eq!(memory.held.get(), 0);
        assert!(!memory.is_short());
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_frame_fits_the_lane() {
        let memory = RequestMemory::new(154, 100, Gauge::default());
        let (mut large, mut other) = (Hold::default(), Hold::default());
        assert_eq!(memory.grow(&mut other, 50, 50).await, 50);
        assert_eq!(memory.grow(&mut large, 10, 104).await, 104);
    }
}
