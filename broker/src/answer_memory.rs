//! A bound on the bytes of answers from when they are built until they are written, over all connections.
//!
//! There are two, so that neither kind stands in the other's way: one for fetch responses, one for all other answers.
//! Small answers take nothing. Who finds no room waits, in order, and holds no other room meanwhile, so nobody waits in a
//! circle. Room is given back when the answer was written or its connection ended; `frame_writer.rs` ends those that are
//! slow while others wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Answers up to this size need no room.
pub const SMALL_BYTES: usize = 8 * 1024;
/// Room is counted in pieces of this size.
const UNIT_BYTES: usize = 4096;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnswerMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Arc<Semaphore>,
    /// As much again, for answers that cannot wait; see [`AnswerMemory::room_now`].
    reserve: Arc<Semaphore>,
    units_max: usize,
    waiting: AtomicUsize,
}

/// Room for one answer.
#[derive(Debug)]
pub struct AnswerRoom {
    memory: AnswerMemory,
    permit: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerMemoryUsage {
    /// The reserve included.
    pub bytes: usize,
    pub budget_bytes: usize,
    /// Requests that wait for room.
    pub waiting: usize,
}

impl AnswerMemory {
    pub fn new(bytes_max: u64) -> Self {
        let units_max = (bytes_max as usize / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let semaphore = || Arc::new(Semaphore::new(units_max));
        let shared = Shared { pool: semaphore(), reserve: semaphore(), units_max, waiting: AtomicUsize::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Room for `bytes`, or all there is if that is less. Waits; hold no other room meanwhile, or bound the wait.
    pub async fn room(&self, bytes: usize) -> AnswerRoom {
        if let Some(room) = self.try_room(bytes) {
            return room;
        }
        let _waiting = Waiting::new(&self.shared.waiting);
        let permit = self.shared.pool.clone().acquire_many_owned(self.units_for(bytes)).await;
        AnswerRoom { memory: self.clone(), permit: permit.expect("the semaphore is never closed") }
    }

    /// Room for `bytes` if it is free now and nobody waits for it.
    pub fn try_room(&self, bytes: usize) -> Option<AnswerRoom> {
        self.take(&self.shared.pool, bytes)
    }

    /// As `try_room`, and otherwise from the reserve: for an answer to what was done and cannot be done again.
    pub fn room_now(&self, bytes: usize) -> Option<AnswerRoom> {
        self.try_room(bytes).or_else(|| self.take(&self.shared.reserve, bytes))
    }

    /// Whether someone waits for room, or would have to.
    pub fn is_short(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0 || self.reserved() > 0
    }

    pub fn bytes_free(&self) -> usize {
        self.shared.pool.available_permits() * UNIT_BYTES
    }

    pub fn usage(&self) -> AnswerMemoryUsage {
        let budget_bytes = self.shared.units_max * UNIT_BYTES;
        AnswerMemoryUsage {
            bytes: budget_bytes - self.bytes_free() + self.reserved() * UNIT_BYTES,
            budget_bytes,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
        }
    }

    fn reserved(&self) -> usize {
        self.shared.units_max - self.shared.reserve.available_permits()
    }

    fn take(&self, from: &Arc<Semaphore>, bytes: usize) -> Option<AnswerRoom> {
        let permit = from.clone().try_acquire_many_owned(self.units_for(bytes)).ok()?;
        Some(AnswerRoom { memory: self.clone(), permit })
    }

    fn units_for(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT_BYTES).min(self.shared.units_max) as u32
    }
}

impl AnswerRoom {
    /// Whether `bytes` fit, or it is all the room there is.
    pub fn holds(&self, bytes: usize) -> bool {
        self.permit.num_permits() >= self.memory.units_for(bytes) as usize
    }

    /// Gives back what `bytes` do not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(UNIT_BYTES);
        let held = self.permit.num_permits();
        if needed < held {
            drop(self.permit.split(held - needed));
        }
    }

    /// Both must be of one pool.
    pub fn add(&mut self, other: AnswerRoom) {
        self.permit.merge(other.permit);
    }

    /// Whether others wait for room of the same memory.
    pub fn is_wanted(&self) -> bool {
        self.memory.is_short()
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

    #[tokio::test]
    async fn room_comes_back_when_it_is_dropped() {
        let memory = AnswerMemory::new(64 * 1024);
        let mut room = memory.room(64 * 1024).await;
        assert!(memory.try_room(1).is_none());
        room.shrink_to(40_000);
        let held = 40_000usize.div_ceil(UNIT_BYTES) * UNIT_BYTES;
        assert_eq!(memory.usage(), AnswerMemoryUsage { bytes: held, budget_bytes: 64 * 1024, waiting: 0 });
        room.add(memory.try_room(1).unwrap());
        assert_eq!(memory.bytes_free(), 64 * 1024 - held - UNIT_BYTES);
        drop(room);
        assert_eq!(memory.bytes_free(), 64 * 1024);
    }

    #[tokio::test]
    async fn a_request_for_more_than_there_is_takes_all_of_it() {
        let memory = AnswerMemory::new(64 * 1024);
        let room = memory.room(1 << 30).await;
        assert!(room.holds(1 << 30) && !room.is_wanted());
        assert_eq!(memory.bytes_free(), 0);
        let mut waiting = std::pin::pin!(memory.room(1));
        assert!(tokio::time::timeout(Duration::from_millis(10), waiting.as_mut()).await.is_err());
        assert!(room.is_wanted());
        assert_eq!(memory.usage().waiting, 1);
        drop(room);
        assert!(waiting.await.holds(UNIT_BYTES));
        assert_eq!(memory.bytes_free(), 64 * 1024);
        assert!(!memory.is_short());
    }

    #[test]
    fn an_answer_that_cannot_wait_takes_from_a_reserve_that_ends_too() {
        let memory = AnswerMemory::new(64 * 1024);
        let pool = memory.room_now(60_000).unwrap();
        assert!(!memory.is_short());
        let reserve = memory.room_now(60_000).unwrap();
        assert!(pool.is_wanted() && memory.is_short());
        assert_eq!(memory.usage().bytes, 2 * 60 * 1024);
        assert!(memory.room_now(60_000).is_none(), "pool and reserve are used up");
        drop(pool);
        assert!(memory.room_now(60_000).is_some());
        drop(reserve);
        assert!(!memory.is_short());
    }
}
