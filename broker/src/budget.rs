//! A budget that many share, in units that its owner chooses, and how many wait for a part of it.
//!
//! Who finds no room waits, in order: nobody is overtaken by those who want less. What was taken comes back when its permit
//! is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    waiting: Arc<AtomicUsize>,
}

impl Budget {
    /// Of so many units, as far as they can be counted.
    pub fn new(units: usize) -> Self {
        let total = units.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(total)), total, waiting: Arc::default() }
    }

    /// What is free now and nobody waits for.
    pub fn try_take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(units).ok()
    }

    /// Waits until there is so much; for more than the whole budget that is never. Safe to drop while it waits.
    pub async fn take(&self, units: u32) -> OwnedSemaphorePermit {
        let _waiting = Waiting::new(&self.waiting);
        self.free.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    pub fn taken(&self) -> usize {
        self.total - self.free()
    }

    /// How many wait in [`Budget::take`].
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
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
    async fn those_who_wait_are_counted_and_served_in_order() {
        let budget = Budget::new(10);
        let most = budget.try_take(8).unwrap();
        let (first, second) = (budget.clone(), budget.clone());
        let large = tokio::spawn(async move { first.take(5).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let small = tokio::spawn(async move { second.take(1).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(budget.waiting(), 2);
        assert!(!small.is_finished() && budget.try_take(1).is_none(), "what is free is kept for the first");
        drop(most);
        let (_large, _small) = (large.await.unwrap(), small.await.unwrap());
        assert_eq!((budget.waiting(), budget.taken(), budget.free(), budget.total()), (0, 6, 4, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let budget = Budget::new(1);
        let all = budget.try_take(1).unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.take(1)).await.is_err());
        assert_eq!(budget.waiting(), 0);
        drop(all);
        assert_eq!(budget.taken(), 0);
    }
}
