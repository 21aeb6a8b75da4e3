//! The only clock of the broker. Everything that needs the time takes a `Clock`, so that a simulation owns time.
//!
//! Two readings: the wall clock in Unix milliseconds, which may jump and is for record timestamps and for people,
//! and the monotonic `Instant` of the runtime, which is for timers, timeouts and latencies (and stands still under
//! a paused runtime). Leases have a clock of their own, in the metadata crate.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::time::Instant;

#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    System,
    /// Wall time is `start_ms` plus the runtime's monotonic time since `origin`, plus a skew that tests move.
    Simulated {
        start_ms: i64,
        origin: Instant,
        skew_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    pub fn system() -> Self {
        Self { source: Source::System }
    }

    /// A clock that starts at `start_ms` and follows the runtime's time, paused runtimes included.
    pub fn simulated(start_ms: i64) -> Self {
        Self { source: Source::Simulated { start_ms, origin: Instant::now(), skew_ms: Arc::default() } }
    }

    /// Unix time in milliseconds.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now_ms(&self) -> i64 {
        match &self.source {
            Source::System => match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
            },
            Source::Simulated { start_ms, origin, skew_ms } => {
                let elapsed_ms = i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX);
                start_ms + elapsed_ms + skew_ms.load(Ordering::Relaxed)
            }
        }
    }

    /// Monotonic time, for timers and latencies.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Moves the wall clock of a simulated clock; a system clock cannot be moved.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        if let Source::Simulated { skew_ms, .. } = &self.source {
            skew_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_the_paused_runtime_and_jumps_when_told() {
        let clock = Clock::simulated(1_000);
        assert_eq!(clock.now_ms(), 1_000);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(clock.now_ms(), 1_250);
        clock.jump_wall_clock(-500);
        assert_eq!(clock.now_ms(), 750);
    }
}
