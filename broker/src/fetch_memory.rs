//! A bound on the record bytes that fetch responses hold, over all connections.
//!
//! Room is taken before records are read and given back when the response's bytes are dropped, that is, when they
//! were written to the socket or the connection ended. A fetch waits only while it holds nothing, so fetches never wait
//! for each other in a circle; one that holds something sends what it has.

use std::sync::Arc;

use bytes::Bytes;
use seawall_protocol::Records;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is counted in pieces of this size.
const UNIT_BYTES: usize = 4096;
/// Smaller pieces of records are copied into the response's own buffer when it is encoded.
const COPIED_BELOW_BYTES: usize = 1024;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct FetchMemory {
    units: Arc<Semaphore>,
    units_max: usize,
}

/// Room for the records of one response.
#[derive(Debug)]
pub struct FetchRoom {
    permit: OwnedSemaphorePermit,
}

impl FetchMemory {
    pub fn new(bytes_max: u64) -> FetchMemory {
        let units_max = (bytes_max as usize / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        FetchMemory { units: Arc::new(Semaphore::new(units_max)), units_max }
    }

    /// Room for `bytes`, or all there is if that is less. Waits; hold no other room meanwhile.
    pub async fn room(&self, bytes: usize) -> FetchRoom {
        let permit = self.units.clone().acquire_many_owned(self.units_for(bytes)).await;
        FetchRoom { permit: permit.expect("the semaphore is never closed") }
    }

    /// Room for `bytes` if it is free now.
    pub fn try_room(&self, bytes: usize) -> Option<FetchRoom> {
        let permit = self.units.clone().try_acquire_many_owned(self.units_for(bytes)).ok()?;
        Some(FetchRoom { permit })
    }

    pub fn bytes_free(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }

    fn units_for(&self, bytes: usize) -> u32 {
        bytes.div_ceil(UNIT_BYTES).min(self.units_max) as u32
    }
}

impl FetchRoom {
    /// Gives back what `bytes` do not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(UNIT_BYTES);
        let held = self.permit.num_permits();
        if needed < held {
            drop(self.permit.split(held - needed));
        }
    }

    pub fn add(&mut self, other: FetchRoom) {
        self.permit.merge(other.permit);
    }

    /// Ties the room to the records: it is given back when the last of them is dropped after the encoding.
    pub fn hold_by<'a>(self, records: impl Iterator<Item = &'a mut Records>) {
        let largest = records.flat_map(|records| records.0.iter_mut()).max_by_key(|segment| segment.len());
        if let Some(segment) = largest
            && segment.len() >= COPIED_BELOW_BYTES
        {
            *segment = Bytes::from_owner(Held { bytes: segment.clone(), _room: self });
        }
    }
}

/// The same bytes, with the room that they take.
struct Held {
    bytes: Bytes,
    _room: FetchRoom,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn room_comes_back_when_the_records_are_dropped() {
        let memory = FetchMemory::new(64 * 1024);
        let mut room = memory.room(64 * 1024).await;
        assert!(memory.try_room(1).is_none());
        room.shrink_to(40_000);
        let held = 40_000usize.div_ceil(UNIT_BYTES) * UNIT_BYTES;
        assert_eq!(memory.bytes_free(), 64 * 1024 - held);
        let data = Bytes::from(vec![7; 30_000]);
        let mut records = Records(vec![Bytes::from_static(b"head"), data.clone()]);
        room.hold_by(std::iter::once(&mut records));
        assert_eq!(records.0[1].as_ptr(), data.as_ptr(), "no record byte is copied");
        let clone = records.clone();
        drop(records);
        assert_eq!(memory.bytes_free(), 64 * 1024 - held);
        drop(clone);
        assert_eq!(memory.bytes_free(), 64 * 1024);
    }

    #[tokio::test]
    async fn a_request_for_more_than_there_is_takes_all_of_it() {
        let memory = FetchMemory::new(64 * 1024);
        let room = memory.room(1 << 30).await;
        assert_eq!(memory.bytes_free(), 0);
        let waiting = tokio::time::timeout(Duration::from_millis(10), memory.room(1));
        assert!(waiting.await.is_err());
        drop(room);
        assert_eq!(memory.bytes_free(), 64 * 1024);
    }
}
