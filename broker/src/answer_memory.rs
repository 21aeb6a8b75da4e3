//! A bound on the bytes of answers from when they are built until they are written, over all connections.
//!
//! There are two, so that neither kind stands in the other's way: one for fetch responses, one for all other answers.
//! Small answers take nothing. Who finds no room waits, in order, and holds no other room meanwhile, so nobody waits in a
//! circle. Room is given back when the answer was written or its connection ended; `frame_writer.rs` ends those that are
//! slow while others wait.

use tokio::sync::OwnedSemaphorePermit;

use crate::budget::Budget;

/// Answers up to this size need no room.
pub const SMALL_BYTES: usize = 8 * 1024;
/// Room is counted in pieces of this size.
const UNIT_BYTES: usize = 4096;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnswerMemory {
    pool: Budget,
    /// As much again, for answers that cannot wait; see [`AnswerMemory::room_now`].
    reserve: Budget,
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
    pub reserve_bytes: usize,
    /// Of each: the reserve is as large again.
    pub budget_bytes: usize,
    /// Requests that wait for room.
    pub waiting: usize,
}

impl AnswerMemory {
    pub fn new(bytes_max: u64) -> Self {
        let units = (bytes_max as usize / UNIT_BYTES).clamp(1, u32::MAX as usize);
        Self { pool: Budget::new(units), reserve: Budget::new(units) }
    }

    /// Room for `bytes`, or all there is if that is less. Waits; hold no other room meanwhile, or bound the wait.
    pub async fn room(&self, bytes: usize) -> AnswerRoom {
        if let Some(room) = self.try_room(bytes) {
            return room;
        }
        AnswerRoom { memory: self.clone(), permit: self.pool.take(self.units_for(bytes)).await }
    }

    /// Room for `bytes` if it is free now and nobody waits for it.
    pub fn try_room(&self, bytes: usize) -> Option<AnswerRoom> {
        self.room_of(&self.pool, bytes)
    }

    /// As `try_room`, and otherwise from the reserve: for an answer to what was done and cannot be done again.
    pub fn room_now(&self, bytes: usize) -> Option<AnswerRoom> {
        self.try_room(bytes).or_else(|| self.room_of(&self.reserve, bytes))
    }

    /// Whether someone waits for room, or would have to.
    pub fn is_short(&self) -> bool {
        self.pool.waiting() > 0 || self.reserve.taken() > 0
    }

    pub fn bytes_free(&self) -> usize {
        self.pool.free() * UNIT_BYTES
    }

    pub fn usage(&self) -> AnswerMemoryUsage {
        AnswerMemoryUsage {
            bytes: (self.pool.taken() + self.reserve.taken()) * UNIT_BYTES,
            reserve_bytes: self.reserve.taken() * UNIT_BYTES,
            budget_bytes: self.pool.total() * UNIT_BYTES,
            waiting: self.pool.waiting(),
        }
    }

    fn room_of(&self, budget: &Budget, bytes: usize) -> Option<AnswerRoom> {
        Some(AnswerRoom { memory: self.clone(), permit: budget.try_take(self.units_for(bytes))? })
    }

    fn units_for(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT_BYTES).min(self.pool.total()) as u32
    }
}

impl AnswerRoom {
    /// Whether `bytes` fit, or it is all the room there is.
    pub fn holds(&self, bytes: usize) -> bool {
        self.permit.num_permits() >= self.memory.units_for(bytes) as usize
    }

    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT_BYTES
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
        assert_eq!(
            memory.usage(),
            AnswerMemoryUsage { bytes: held, reserve_bytes: 0, budget_bytes: 64 * 1024, waiting: 0 }
        );
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
        assert_eq!((memory.usage().bytes, memory.usage().reserve_bytes), (2 * 60 * 1024, 60 * 1024));
        assert!(memory.room_now(60_000).is_none(), "pool and reserve are used up");
        drop(pool);
        assert!(memory.room_now(60_000).is_some());
        drop(reserve);
        assert!(!memory.is_short());
    }
}
