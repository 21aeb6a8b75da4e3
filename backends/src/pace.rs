//! How fast a body goes to a store over a network: a rate that whoever puts it may change while it is under way.
//!
//! Bodies that share a pace share its rate. It is the sender that waits, between pieces: what lies in memory stays there, and the store
//! sees a connection that is a little slow. Stores that are no network service take bodies as they are.
//! Left to others: which rate is right, and that it is fast enough for the time limit of an attempt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pieces of a paced body are no larger.
pub const PIECE_BYTES_MAX: usize = 256 << 10;
/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Pace {
    /// 0 for no bound.
    bytes_per_second: AtomicU64,
    /// When all that was sent will have taken its time.
    paid_at: Mutex<Option<Instant>>,
    bytes: AtomicU64,
    pauses: AtomicU64,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Paced {
    /// What went out while there was a rate.
    pub bytes: u64,
    /// How often a body waited.
    pub pauses: u64,
}

impl Pace {
    /// `None`: as fast as the store takes it. Goes for bodies under way too.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(bytes_per_second.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    pub fn bytes_per_second(&self) -> Option<u64> {
        Some(self.bytes_per_second.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    pub fn paced(&self) -> Paced {
        Paced { bytes: self.bytes.load(Ordering::Relaxed), pauses: self.pauses.load(Ordering::Relaxed) }
    }

    /// Until when the next piece is to wait.
    pub fn pause(&self, now: Instant) -> Option<Instant> {
        self.bytes_per_second()?;
        let until = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner).filter(|paid_at| *paid_at > now)?;
        self.pauses.fetch_add(1, Ordering::Relaxed);
        Some(until)
    }

    /// A piece goes out now.
    pub fn spend(&self, bytes: usize, now: Instant) {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = self.bytes_per_second() else {
            *paid_at = None;
            return;
        };
        let from = paid_at.map_or(now, |paid_at| paid_at.max(now.checked_sub(BURST).unwrap_or(now)));
        *paid_at = Some(from + Duration::from_secs_f64(bytes as f64 / rate as f64));
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 100;

    /// How long so many pieces take, sent as soon as they may.
    fn time_for(pace: &Pace, pieces: usize, start: Instant) -> Duration {
        let mut now = start;
        for _ in 0..pieces {
            while let Some(until) = pace.pause(now) {
                now = until;
            }
            pace.spend(PIECE, now);
        }
        now - start
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_go_at_the_rate_and_no_time_is_saved_up_while_nothing_goes() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.set(Some(1_000));
        assert_eq!(time_for(&pace, 11, start), Duration::from_secs(1));
        let later = start + Duration::from_secs(100);
        assert_eq!(time_for(&pace, 11, later), Duration::from_secs(1) - BURST);
        assert_eq!(pace.paced().bytes, 2_200);
        assert!(pace.paced().pauses >= 18);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_rises_or_is_taken_away_goes_for_what_is_under_way() {
        let (pace, start) = (Pace::default(), Instant::now());
        assert_eq!(time_for(&pace, 1_000, start), Duration::ZERO);
        assert_eq!(pace.paced(), Paced::default());
        pace.set(Some(100));
        pace.spend(PIECE, start);
        assert_eq!(pace.pause(start), Some(start + Duration::from_secs(1)));
        pace.set(None);
        assert_eq!(pace.pause(start), None);
    }
}
