//! The clocks of one simulated life. They follow the paused runtime's time and go on where the life before ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_metadata::{BootInstant, MetadataClock};
use tokio::time::Instant;

pub struct SimClock {
    /// Time that passed in earlier lives.
    before: Duration,
    origin: Instant,
    /// Time for which the host slept: seen by the boot clock only.
    slept_ns: AtomicU64,
}

impl SimClock {
    /// Within a runtime.
    pub fn new(before: Duration) -> Self {
        Self { before, origin: Instant::now(), slept_ns: AtomicU64::new(0) }
    }

    pub fn elapsed(&self) -> Duration {
        self.before + self.origin.elapsed()
    }

    /// The host sleeps: leases run on, timers do not.
    pub fn host_sleeps(&self, span: Duration) {
        self.slept_ns.fetch_add(span.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl MetadataClock for SimClock {
    fn boot(&self) -> BootInstant {
        BootInstant(self.elapsed().as_nanos() as u64 + self.slept_ns.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}
