//! What bodies are made of: one segment of noise, again and again. Noise, so that nothing on the way makes it smaller.

use bytes::Bytes;

/// As the broker's objects are made: of batches.
pub const SEGMENT_BYTES: usize = 1 << 20;

pub fn segment() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(SEGMENT_BYTES);
    while bytes.len() < SEGMENT_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.into()
}

/// A body of this length in its segments; all share one piece of memory.
pub fn body(segment: &Bytes, bytes: u64) -> Vec<Bytes> {
    let mut left = bytes as usize;
    let mut body = Vec::new();
    while left > 0 {
        let piece = left.min(segment.len());
        body.push(segment.slice(..piece));
        left -= piece;
    }
    body
}

/// Whether these are the bytes from `offset` on.
pub fn is_right(segment: &Bytes, offset: u64, piece: &[u8]) -> bool {
    let mut at = offset as usize % segment.len();
    let mut left = piece;
    while !left.is_empty() {
        let length = left.len().min(segment.len() - at);
        if left[..length] != segment[at..at + length] {
            return false;
        }
        (left, at) = (&left[length..], 0);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_again_from_any_place_and_another_is_not() {
        let segment = segment();
        let whole = body(&segment, 2_500_000).concat();
        assert_eq!(whole.len(), 2_500_000);
        for (from, to) in [(0, 2_500_000), (1_000_000, 1_100_000), (2_499_999, 2_500_000)] {
            assert!(is_right(&segment, from as u64, &whole[from..to]));
        }
        let mut wrong = whole[1_048_000..1_049_000].to_vec();
        wrong[999] ^= 1;
        assert!(!is_right(&segment, 1_048_000, &wrong));
        assert!(!is_right(&segment, 1_048_001, &whole[1_048_000..1_049_000]));
    }
}
