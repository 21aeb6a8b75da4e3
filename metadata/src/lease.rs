//! The lease: the span in which a broker may act as leader without asking again.
//!
//! A heartbeat renews it from the time it was *sent*, and only after a quorum round that began after the heartbeat
//! arrived. Time is CLOCK_BOOTTIME: it runs on while the host sleeps, so that a host that wakes up finds its lease ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A point on the clock that runs since boot, suspended time included. Nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(pub u64);

impl std::ops::Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The clocks of the metadata node.
pub trait MetadataClock: Send + Sync + 'static {
    /// CLOCK_BOOTTIME, for leases.
    fn boot(&self) -> BootInstant;
    /// Milliseconds on a clock that neither jumps nor counts suspended time, for metadata time.
    fn monotonic_ms(&self) -> u64;
}

/// The clocks of this host.
#[derive(Debug)]
pub struct HostClock {
    started: Instant,
}

impl Default for HostClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl MetadataClock for HostClock {
    fn boot(&self) -> BootInstant {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec for the kernel to fill, and lives across the call.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
        assert!(result == 0, "CLOCK_BOOTTIME is there since Linux 2.6.39");
        BootInstant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    fn monotonic_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// A look at this broker's lease; cheap enough for every append and every completion.
#[derive(Debug, Clone)]
pub struct LeaseView {
    /// Nanoseconds since boot at which the lease ends; 0 without one.
    ends: Arc<AtomicU64>,
}

impl LeaseView {
    pub(crate) fn none() -> Self {
        Self { ends: Arc::new(AtomicU64::new(0)) }
    }

    /// Whether the lease held at `now`. Take `now` before what the lease covers becomes visible to others.
    pub fn valid(&self, now: BootInstant) -> bool {
        now.0 < self.ends.load(Ordering::Acquire)
    }

    /// When the lease ends, unless it is renewed. `BootInstant(0)` without one.
    pub fn ends(&self) -> BootInstant {
        BootInstant(self.ends.load(Ordering::Acquire))
    }

    pub(crate) fn renew(&self, until: BootInstant) {
        self.ends.fetch_max(until.0, Ordering::Release);
    }

    pub(crate) fn revoke(&self) {
        self.ends.store(0, Ordering::Release);
    }
}
