//! LZ4 blocks at a level: a longer search for matches than `lz4_flex` makes, for topics that ask for it.
//!
//! As in lz4-java the level sets how many earlier places are tried for each position: 2 to the power of `level - 1`; here
//! not more than 512.

/// Blocks are independent and have this size at most, so that every offset fits its two bytes.
pub(super) const BLOCK_BYTES: usize = 64 << 10;

const MATCH_BYTES_MIN: usize = 4;
/// A block ends with literals, and no match begins close to its end.
const LITERALS_AT_END: usize = 5;
const MATCH_DISTANCE_FROM_END: usize = 12;
const HASH_BITS: u32 = 15;
const NONE: u32 = u32::MAX;
/// Bounds what a hostile batch may cost at the highest levels.
const ATTEMPTS_MAX: usize = 512;

/// Compresses one block; the result may be longer than `data`.
pub(super) fn compress_block(data: &[u8], level: i32) -> Vec<u8> {
    assert!(data.len() <= BLOCK_BYTES, "a block of {} bytes", data.len());
    let attempts = 1usize.checked_shl(level.clamp(1, 17) as u32 - 1).unwrap_or(ATTEMPTS_MAX).min(ATTEMPTS_MAX);
    let mut out = Vec::with_capacity(data.len() / 2 + 16);
    let mut chains = Chains::new(data);
    let (mut at, mut literals_from) = (0, 0);
    while at + MATCH_DISTANCE_FROM_END <= data.len() {
        match chains.longest_match(at, attempts) {
            Some((from, length)) => {
                put_sequence(&mut out, &data[literals_from..at], Some((at - from, length)));
                (at..at + length).for_each(|at| chains.insert(at));
                at += length;
                literals_from = at;
            }
            None => {
                chains.insert(at);
                at += 1;
            }
        }
    }
    put_sequence(&mut out, &data[literals_from..], None);
    out
}

/// Places with the same four bytes, newest first.
struct Chains<'a> {
    data: &'a [u8],
    newest: Vec<u32>,
    before: Vec<u32>,
}

impl<'a> Chains<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, newest: vec![NONE; 1 << HASH_BITS], before: vec![NONE; data.len()] }
    }

    fn hash(&self, at: usize) -> Option<usize> {
        let four = u32::from_le_bytes(*self.data.get(at..)?.first_chunk()?);
        Some((four.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS)) as usize)
    }

    fn insert(&mut self, at: usize) {
        if let Some(hash) = self.hash(at) {
            self.before[at] = self.newest[hash];
            self.newest[hash] = at as u32;
        }
    }

    fn longest_match(&self, at: usize, attempts: usize) -> Option<(usize, usize)> {
        let end = self.data.len() - LITERALS_AT_END;
        let mut best: Option<(usize, usize)> = None;
        let mut place = self.newest[self.hash(at)?];
        for _ in 0..attempts {
            if place == NONE {
                break;
            }
            let from = place as usize;
            let same = self.data[from..].iter().zip(&self.data[at..end]).take_while(|(a, b)| a == b).count();
            if same >= MATCH_BYTES_MIN && best.is_none_or(|(_, length)| same > length) {
                best = Some((from, same));
            }
            place = self.before[from];
        }
        best
    }
}

/// Literals, then a match of (distance, length).
fn put_sequence(out: &mut Vec<u8>, literals: &[u8], found: Option<(usize, usize)>) {
    let more = found.map_or(0, |(_, length)| length - MATCH_BYTES_MIN);
    out.push((literals.len().min(15) << 4 | more.min(15)) as u8);
    put_length(out, literals.len());
    out.extend_from_slice(literals);
    if let Some((distance, _)) = found {
        out.extend_from_slice(&(distance as u16).to_le_bytes());
        put_length(out, more);
    }
}

/// What does not fit into the four bits of the token.
fn put_length(out: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(15) else { return };
    while rest >= 255 {
        out.push(255);
        rest -= 255;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_reads_back_at_every_level() {
        let noise: Vec<u8> = (0..BLOCK_BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let text: Vec<u8> = b"orders-0 payments-17 ".iter().copied().cycle().take(BLOCK_BYTES).collect();
        let mixed: Vec<u8> =
            (0..9_000u32).flat_map(|n| format!("key-{} ", n * n % 977).into_bytes()).take(BLOCK_BYTES).collect();
        for whole in [noise, text, mixed] {
            for length in [0, 1, 4, 5, 12, 13, 17, 300, 4_000, BLOCK_BYTES] {
                let data = &whole[..length.min(whole.len())];
                for level in [1, 3, 10, 17] {
                    let block = compress_block(data, level);
                    let read = lz4_flex::block::decompress(&block, data.len()).unwrap();
                    assert!(read == data, "{length} bytes at level {level}");
                }
            }
        }
    }

    #[test]
    fn a_higher_level_finds_more() {
        let data: Vec<u8> =
            (0..9_000u32).flat_map(|n| format!("key-{} ", n * n % 977).into_bytes()).take(BLOCK_BYTES).collect();
        assert!(compress_block(&data, 12).len() < compress_block(&data, 1).len());
    }
}
