//! What a record holds, from its partition and its number alone. Pure.

const MAGIC: u32 = u32::from_be_bytes(*b"SWK1");
const STAMP_BYTES: usize = 16;
const TEXT_BYTES: usize = 1 << 20;

/// Where a record belongs: `partition` is that of the topic, or `COMPACTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordId {
    pub partition: u32,
    pub number: u64,
}

/// The one partition of the compacted topic.
pub const COMPACTED: u32 = u32::MAX;

pub struct Content {
    text: Vec<u8>,
    record_bytes: usize,
    keys: u64,
}

impl Content {
    pub fn new(record_bytes: usize, keys: u64) -> Self {
        let record_bytes = record_bytes.max(4 * STAMP_BYTES);
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let words = (TEXT_BYTES + 2 * record_bytes) / 8 + 1;
        let text = (0..words).flat_map(|_| {
            state = mix(state);
            state.to_le_bytes()
        });
        Self { text: text.collect(), record_bytes, keys: keys.max(1) }
    }

    /// The value of this record.
    pub fn write(&self, id: RecordId, value: &mut Vec<u8>) {
        value.clear();
        value.extend_from_slice(&stamp(id));
        value.extend_from_slice(self.body(id));
    }

    /// Whether each byte is as it was written.
    pub fn is(&self, id: RecordId, value: &[u8]) -> bool {
        value.split_at_checked(STAMP_BYTES).is_some_and(|(head, body)| head == stamp(id) && body == self.body(id))
    }

    /// Whose value this seems to be.
    pub fn id_of(value: &[u8]) -> Option<RecordId> {
        let at = |from: usize, to: usize| value.get(from..to);
        (at(0, 4)? == MAGIC.to_be_bytes()).then_some(())?;
        let partition = u32::from_be_bytes(at(4, 8)?.try_into().ok()?);
        Some(RecordId { partition, number: u64::from_be_bytes(at(8, 16)?.try_into().ok()?) })
    }

    /// The key of a record in the compacted topic.
    pub fn key(&self, number: u64) -> u64 {
        mix(number) % self.keys
    }

    fn body(&self, id: RecordId) -> &[u8] {
        let seed = mix(id.number ^ (u64::from(id.partition) << 40));
        let from = seed as usize % TEXT_BYTES;
        let bytes = self.record_bytes / 2 + (seed >> 32) as usize % self.record_bytes;
        &self.text[from..from + bytes - STAMP_BYTES]
    }
}

fn stamp(id: RecordId) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..4].copy_from_slice(&MAGIC.to_be_bytes());
    stamp[4..8].copy_from_slice(&id.partition.to_be_bytes());
    stamp[8..].copy_from_slice(&id.number.to_be_bytes());
    stamp
}

/// The finalizer of splitmix64.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_a_foreign_record_are_seen() {
        let content = Content::new(4_096, 10);
        let (id, mut value) = (RecordId { partition: 3, number: 7 }, Vec::new());
        let mut bytes = 0;
        for number in 0..1_000 {
            content.write(RecordId { number, ..id }, &mut value);
            bytes += value.len();
            assert!((2_048..6_144).contains(&value.len()) && content.is(RecordId { number, ..id }, &value));
        }
        assert!((3_900_000..4_300_000).contains(&bytes), "{bytes}");
        content.write(id, &mut value);
        assert_eq!(Content::id_of(&value), Some(id));
        assert!(!content.is(RecordId { number: 8, ..id }, &value) && !content.is(id, &value[..value.len() - 1]));
        for at in [0, 15, 16, value.len() - 1] {
            value[at] ^= 1;
            assert!(!content.is(id, &value), "byte {at}");
            value[at] ^= 1;
        }
        assert!(content.is(id, &value) && !content.is(id, b""));
    }
}
