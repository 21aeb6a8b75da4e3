//! Who may use how much of the ring, pure.
//!
//! Promise: whatever was reserved fits, so that nothing can fail after offsets are assigned. A reservation counts a frame
//! of its own and the empty frame behind it; grouping only makes that less. One pad frame (shorter than the largest frame)
//! can lie between the next LSN and the end of the free space, so that much is always held back.

use std::collections::BTreeMap;

use crate::ring::Ring;
use crate::types::{Lsn, SpaceClass};

#[derive(Debug)]
pub struct Space {
    ring: Ring,
    /// Held back for a pad frame.
    margin: u64,
    next: Lsn,
    durable: Lsn,
    trim: Lsn,
    reserved: u64,
    /// Pinned LSNs with their counts.
    pins: BTreeMap<u64, u32>,
    ignore_pins: bool,
    ignore_trim: bool,
}

impl Space {
    pub fn new(ring: Ring, record_bytes_max: u32, trim: Lsn, next: Lsn) -> Self {
        assert!(trim <= next, "trim {trim} beyond next {next}");
        let margin = ring.frame_of_one(u64::from(record_bytes_max));
        let pins = BTreeMap::new();
        Self { ring, margin, next, durable: next, trim, reserved: 0, pins, ignore_pins: false, ignore_trim: false }
    }

    /// Test-only: break the rule of slot reuse.
    pub fn with_faults(mut self, ignore_pins: bool, ignore_trim: bool) -> Self {
        (self.ignore_pins, self.ignore_trim) = (ignore_pins, ignore_trim);
        self
    }

    /// The smallest ring that works: four of the largest frames.
    pub fn ring_bytes_min(ring: &Ring, record_bytes_max: u32) -> u64 {
        4 * ring.frame_of_one(u64::from(record_bytes_max))
    }

    /// What a record of this size is charged until it lies in a frame.
    pub fn cost(&self, payload_bytes: u64) -> u64 {
        self.ring.frame_of_one(payload_bytes) + self.ring.block
    }

    pub fn try_reserve(&mut self, cost: u64, class: SpaceClass) -> bool {
        let fits = self.used() + self.reserved + cost <= self.bytes_max(class);
        if fits {
            self.reserved += cost;
        }
        fits
    }

    /// How much may be used and reserved after a reservation of this class.
    pub fn bytes_max(&self, class: SpaceClass) -> u64 {
        let kept = match class {
            SpaceClass::Normal => self.ring.bytes / 20,
            SpaceClass::Internal => 0,
        };
        self.ring.bytes.saturating_sub(self.margin + kept)
    }

    pub fn give_back(&mut self, cost: u64) {
        self.reserved = self.reserved.checked_sub(cost).expect("more given back than was reserved");
    }

    /// The next LSN moves over a frame that is about to be written.
    pub fn advance(&mut self, frame_bytes: u64) {
        self.next.0 += frame_bytes;
        assert!(self.used() <= self.ring.bytes, "a frame up to {} overwrites {}", self.next, self.lowest());
    }

    pub fn made_durable(&mut self, to: Lsn) {
        assert!(self.durable <= to && to <= self.next, "durable {} to {to}, next {}", self.durable, self.next);
        self.durable = to;
    }

    /// Monotonic: a lower LSN changes nothing.
    pub fn trim(&mut self, to: Lsn) -> bool {
        assert!(self.ring.is_aligned(to), "trim LSN {to} is no frame's start: use RecordPosition::frame");
        assert!(to <= self.durable, "trim LSN {to} beyond the durable LSN {}", self.durable);
        let moves = to > self.trim;
        self.trim = self.trim.max(to);
        moves
    }

    /// Keeps all from `lsn` on. False when it is given up already: trimmed, and no lower pin holds it.
    pub fn pin(&mut self, lsn: Lsn) -> bool {
        if lsn < self.pinned_or_trimmed() {
            return false;
        }
        *self.pins.entry(lsn.0).or_insert(0) += 1;
        true
    }

    pub fn unpin(&mut self, lsn: Lsn) {
        let count = self.pins.get_mut(&lsn.0).expect("unpinned what was not pinned");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&lsn.0);
        }
    }

    /// No slot from here on is reused. Never moves back: a pin starts here or above.
    fn lowest(&self) -> Lsn {
        match (self.ignore_trim, self.ignore_pins) {
            (true, _) => self.durable,
            (_, true) => self.trim,
            _ => self.pinned_or_trimmed(),
        }
    }

    /// All from here on can be read.
    pub fn pinned_or_trimmed(&self) -> Lsn {
        self.pins.keys().next().map_or(self.trim, |&pinned| self.trim.min(Lsn(pinned)))
    }

    pub fn used(&self) -> u64 {
        self.next.0 - self.lowest().0
    }

    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    pub fn next(&self) -> Lsn {
        self.next
    }

    pub fn durable(&self) -> Lsn {
        self.durable
    }

    pub fn trimmed(&self) -> Lsn {
        self.trim
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::device::simulated::SimRandom;
    use crate::format::frame::{FRAME_HEADER_BYTES, record_bytes};

    /// Frames as unlucky as the engine's can be: any grouping, a pad whenever the next record does not fit before the ring's
    /// end, an empty frame behind each. `advance` asserts that none overwrites what is kept.
    #[test]
    fn whatever_was_reserved_fits_however_it_is_packed() {
        let mut pads = 0;
        for seed in 0..3_000 {
            let mut random = SimRandom::new(seed);
            let block = [512, 4096][random.below(2) as usize];
            let record_bytes_max = random.below(5 * block) as u32;
            let mut ring = Ring { offset: 65536, bytes: u64::MAX / 2, block };
            ring.bytes = Space::ring_bytes_min(&ring, record_bytes_max) + random.below(20) * block;
            let mut space = Space::new(ring, record_bytes_max, Lsn(0), Lsn(0));
            let mut queue = VecDeque::new();
            for _ in 0..200 {
                // Until nothing more is taken: the tightest that it gets.
                while random.chance(9, 10) {
                    let bytes = random.below(u64::from(record_bytes_max) + 1);
                    let class = [SpaceClass::Normal, SpaceClass::Internal][random.below(2) as usize];
                    if !space.try_reserve(space.cost(bytes), class) {
                        break;
                    }
                    queue.push_back(bytes);
                }
                while random.chance(3, 4)
                    && let Some(&first) = queue.front()
                {
                    let to_end = ring.bytes_to_end(space.next());
                    if ring.frame_of_one(first) > to_end {
                        space.advance(to_end);
                        pads += 1;
                    }
                    let room = ring.bytes_to_end(space.next()).min(ring.frame_of_one(first) + random.below(3) * block);
                    let mut at = FRAME_HEADER_BYTES as u64;
                    while let Some(&bytes) = queue.front()
                        && at + record_bytes(bytes as usize) as u64 <= room
                    {
                        at += record_bytes(bytes as usize) as u64;
                        space.give_back(space.cost(bytes));
                        queue.pop_front();
                    }
                    space.advance(ring.round_up(at));
                    if random.chance(4, 5) {
                        space.advance(block);
                    }
                }
                space.made_durable(space.next());
                let kept = space.next().0 - space.trimmed().0;
                space.trim(Lsn(space.trimmed().0 + random.below(kept / block + 1) * block));
            }
        }
        assert!(pads > 1_000, "the ring's end was met often");
    }
}
