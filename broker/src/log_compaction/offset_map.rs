//! The newest offset of each key, in a fixed number of bytes: a key counts as its 16-byte MD5, as in Apache Kafka.
//!
//! Open addressing with linear steps; nothing is ever taken out. Two keys with one hash would be taken for one key: by
//! chance that does not happen, and who makes such keys on purpose loses records of his own.

use md5::{Digest, Md5};

/// What one key takes.
pub const SLOT_BYTES: usize = 24;
const HASH_BYTES: usize = 16;

pub struct OffsetMap {
    /// A hash, then the offset plus one, big-endian; all zero is free.
    slots: Vec<[u8; SLOT_BYTES]>,
    keys: usize,
    keys_max: usize,
    latest: i64,
}

impl OffsetMap {
    /// A map of at most `bytes` that is full at `load_factor` (0 to 1) of its slots. It always has room for one key.
    pub fn new(bytes: usize, load_factor: f64) -> OffsetMap {
        let slots = (bytes / SLOT_BYTES).max(2);
        let keys_max = ((slots as f64 * load_factor) as usize).clamp(1, slots - 1);
        OffsetMap { slots: vec![[0; SLOT_BYTES]; slots], keys: 0, keys_max, latest: -1 }
    }

    /// The bytes of a map with room for `keys`, if it is to be no larger than that.
    pub fn bytes_for(keys: u64, load_factor: f64) -> usize {
        let slots = (keys as f64 / load_factor.clamp(0.01, 1.0)).ceil() as usize;
        slots.saturating_add(2).saturating_mul(SLOT_BYTES)
    }

    /// Notes a key's offset, which is above all noted before. False: there is no room for another key.
    #[must_use]
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        assert!(offset > self.latest, "offset {offset} after {}", self.latest);
        let hash = hash(key);
        let at = self.find(&hash);
        if is_free(&self.slots[at]) {
            if self.keys == self.keys_max {
                return false;
            }
            self.keys += 1;
        }
        self.slots[at][..HASH_BYTES].copy_from_slice(&hash);
        self.slots[at][HASH_BYTES..].copy_from_slice(&(offset as u64 + 1).to_be_bytes());
        self.latest = offset;
        true
    }

    /// A fault of tests: a key that is there is taken for superseded.
    #[cfg(feature = "fault-injection")]
    pub fn supersede(&mut self, key: &[u8]) {
        let at = self.find(&hash(key));
        if !is_free(&self.slots[at]) {
            self.slots[at][HASH_BYTES..].copy_from_slice(&i64::MAX.to_be_bytes());
        }
    }

    /// Everything up to this offset was looked at.
    pub fn read_up_to(&mut self, offset: i64) {
        self.latest = self.latest.max(offset);
    }

    /// The newest offset of a key, if it was noted.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = &self.slots[self.find(&hash(key))];
        let stored = u64::from_be_bytes(*slot.last_chunk().expect("a slot is longer than an offset"));
        stored.checked_sub(1).map(|offset| offset as i64)
    }

    /// The offset up to which the map knows the log; -1 while it is empty.
    pub fn latest(&self) -> i64 {
        self.latest
    }

    pub fn keys(&self) -> usize {
        self.keys
    }

    pub fn bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES
    }

    /// The slot of a key, or the free one where it belongs. One is always free.
    fn find(&self, hash: &[u8; HASH_BYTES]) -> usize {
        let start = u64::from_be_bytes(*hash.first_chunk().expect("a hash is longer than a number"));
        let mut at = (start % self.slots.len() as u64) as usize;
        while !is_free(&self.slots[at]) && self.slots[at][..HASH_BYTES] != hash[..] {
            at = (at + 1) % self.slots.len();
        }
        at
    }
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (bytes, keys, latest) = (self.bytes(), self.keys, self.latest);
        f.debug_struct("OffsetMap").field("bytes", &bytes).field("keys", &keys).field("latest", &latest).finish()
    }
}

fn is_free(slot: &[u8; SLOT_BYTES]) -> bool {
    slot[HASH_BYTES..] == [0; SLOT_BYTES - HASH_BYTES]
}

fn hash(key: &[u8]) -> [u8; HASH_BYTES] {
    Md5::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_as_many_keys_as_fit_and_their_newest_offsets() {
        let mut map = OffsetMap::new(1000 * SLOT_BYTES, 0.9);
        assert_eq!((map.bytes(), map.latest(), map.get(b"")), (24_000, -1, None));
        let key = |n: i64| (n % 900).to_be_bytes();
        for offset in 0..2_700 {
            assert!(map.put(&key(offset), offset));
        }
        assert_eq!((map.keys(), map.latest()), (900, 2_699));
        assert!(!map.put(b"one more", 2_700), "full");
        assert!(map.put(&key(0), 2_700), "a key that is there has room");
        for n in 1..900 {
            assert_eq!(map.get(&key(n)), Some(1_800 + n));
        }
        assert_eq!((map.get(&key(0)), map.get(b"one more")), (Some(2_700), None));
    }

    #[test]
    fn the_smallest_map_holds_one_key() {
        let mut map = OffsetMap::new(0, 0.0);
        assert!(map.put(b"", 0));
        assert!(!map.put(b"b", 1));
        assert_eq!((map.get(b""), map.get(b"b")), (Some(0), None));
        map.read_up_to(7);
        assert_eq!(map.latest(), 7);
    }

    #[test]
    fn a_map_made_for_a_number_of_keys_holds_them() {
        for keys in [0, 1, 2, 9, 1_000] {
            let mut map = OffsetMap::new(OffsetMap::bytes_for(keys, 0.9), 0.9);
            assert!((0..keys).all(|n| map.put(&n.to_be_bytes(), n as i64)), "{keys}");
        }
    }
}
