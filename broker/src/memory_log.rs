//! Where batches wait for their upload on a broker without a WAL: in memory, within a limit.
//!
//! Nothing here survives the process, so nothing is acked before its commit. A batch counts from before its append until its
//! commit; from half of the log cache on producers are told to wait, at three quarters clients are refused, at seven eighths internal
//! topics too. The cache lets go of what is committed first, so that what waits always has its place in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall_wal_device::{Lsn, RecordPosition, SpaceClass};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::fair_share::{ShareMeter, Weight};
use crate::log_cache::{BATCH_OVERHEAD_BYTES, INDEX_ENTRY_BYTES};
use crate::partition::AppendError;
use crate::storage::throttle;

#[derive(Debug)]
pub struct MemoryLog {
    limits: Limits,
    used_bytes: Mutex<u64>,
    /// Numbers batches in the order of their appends, as LSNs do.
    next: AtomicU64,
    freed: Notify,
    shares: ShareMeter,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    soft_bytes: u64,
    normal_bytes: u64,
    internal_bytes: u64,
}

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLogUsage {
    pub used_bytes: u64,
    /// From here on producers are throttled.
    pub soft_bytes: u64,
    /// Here they are refused.
    pub normal_bytes_max: u64,
}

/// Room for one batch, until it is dropped.
#[derive(Debug)]
pub struct MemorySpace {
    log: Arc<MemoryLog>,
    bytes: u64,
}

impl MemoryLog {
    pub fn new(cache_bytes: u64) -> Arc<Self> {
        let limits = Limits {
            soft_bytes: cache_bytes / 2,
            normal_bytes: cache_bytes / 4 * 3,
            internal_bytes: cache_bytes / 8 * 7,
        };
        Arc::new(Self {
            limits,
            used_bytes: Mutex::default(),
            next: AtomicU64::new(0),
            freed: Notify::new(),
            shares: ShareMeter::default(),
        })
    }

    pub fn reserve(self: &Arc<Self>, batch_bytes: usize, class: SpaceClass) -> Result<MemorySpace, AppendError> {
        if batch_bytes as u64 > self.batch_bytes_max() {
            return Err(AppendError::TooLarge { bytes: batch_bytes });
        }
        let bytes = batch_bytes as u64 + BATCH_OVERHEAD_BYTES + INDEX_ENTRY_BYTES;
        let most = match class {
            SpaceClass::Normal => self.limits.normal_bytes,
            SpaceClass::Internal => self.limits.internal_bytes,
        };
        let mut used_bytes = self.lock();
        if *used_bytes + bytes > most {
            return Err(AppendError::WalFull);
        }
        *used_bytes += bytes;
        Ok(MemorySpace { log: self.clone(), bytes })
    }

    /// Where the next batch lies, of `bytes`.
    pub fn position(&self, bytes: u32) -> RecordPosition {
        RecordPosition { lsn: Lsn(self.next.fetch_add(1, Ordering::Relaxed)), bytes, frame_offset: 0 }
    }

    pub fn usage(&self) -> MemoryLogUsage {
        let Limits { soft_bytes, normal_bytes: normal_bytes_max, .. } = self.limits;
        MemoryLogUsage { used_bytes: *self.lock(), soft_bytes, normal_bytes_max }
    }

    /// Who fills it.
    pub fn shares(&self) -> &ShareMeter {
        &self.shares
    }

    /// Whether a producer of this weight may append so much now.
    pub fn has_room_for(&self, weight: Weight, bytes: usize) -> bool {
        let MemoryLogUsage { used_bytes, soft_bytes, normal_bytes_max } = self.usage();
        used_bytes + bytes as u64 <= weight.bytes_max(soft_bytes, normal_bytes_max)
    }

    pub fn throttle(&self) -> Duration {
        let MemoryLogUsage { used_bytes, soft_bytes, normal_bytes_max } = self.usage();
        throttle(used_bytes, soft_bytes, normal_bytes_max)
    }

    /// Resolves when space may have become free. Create it, try `reserve`, then await it: no wake-up is lost then.
    pub fn space_freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Leaves room for several at a time.
    pub fn batch_bytes_max(&self) -> u64 {
        self.limits.normal_bytes / 4
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MemorySpace {
    fn drop(&mut self) {
        *self.log.lock() -= self.bytes;
        self.log.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_throttled_then_refused_and_internal_topics_have_a_little_more() {
        let log = MemoryLog::new(800_000);
        let of = |class| log.reserve(100_000, class);
        let mut held: Vec<MemorySpace> = (0..4).map(|_| of(SpaceClass::Normal).unwrap()).collect();
        assert!(log.throttle() > Duration::ZERO && log.throttle() < Duration::from_millis(100));
        held.push(of(SpaceClass::Normal).unwrap());
        assert_eq!(of(SpaceClass::Normal).err(), Some(AppendError::WalFull));
        held.push(of(SpaceClass::Internal).unwrap());
        assert_eq!(of(SpaceClass::Internal).err(), Some(AppendError::WalFull));
        assert_eq!(log.throttle(), Duration::from_secs(1));
        held.clear();
        assert_eq!((log.usage().used_bytes, log.throttle()), (0, Duration::ZERO));
        assert_eq!(log.reserve(200_000, SpaceClass::Internal).err(), Some(AppendError::TooLarge { bytes: 200_000 }));
    }

    #[tokio::test]
    async fn who_waits_for_space_hears_of_it() {
        let log = MemoryLog::new(1 << 20);
        let space = log.reserve(1_000, SpaceClass::Normal).unwrap();
        let freed = log.space_freed();
        drop(space);
        assert!(tokio::time::timeout(Duration::from_secs(5), freed).await.is_ok());
    }
}
