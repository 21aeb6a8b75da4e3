//! Snappy as it occurs in batches: in the frame of xerial's snappy-java (written by Java, and by us) or raw.

use super::{Compression, RecordsError};

const MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Magic, version, and the oldest version that can read it.
const HEADER_BYTES: usize = 16;
const BLOCK_BYTES: usize = 32 * 1024;
/// No element of the format gives more: a copy makes at most 64 bytes out of two.
const EXPANSION_MAX: usize = 32;

pub(super) fn compress(data: &[u8]) -> Vec<u8> {
    let mut encoder = snap::raw::Encoder::new();
    let mut out = Vec::with_capacity(HEADER_BYTES + data.len() / 2);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    for block in data.chunks(BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).expect("a block is far below snappy's limit");
        out.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    out
}

pub(super) fn decompress(data: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    let mut out = Vec::new();
    if !data.starts_with(MAGIC) {
        append_raw(data, max, &mut out)?;
        return Ok(out);
    }
    let mut rest = data;
    while !rest.is_empty() {
        // Streams may be joined, each with its own header.
        if rest.starts_with(MAGIC) {
            rest = rest.get(HEADER_BYTES..).ok_or(CORRUPT)?;
            continue;
        }
        let (length, behind) = rest.split_first_chunk::<4>().ok_or(CORRUPT)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| CORRUPT)?;
        let (block, behind) = behind.split_at_checked(length).ok_or(CORRUPT)?;
        append_raw(block, max, &mut out)?;
        rest = behind;
    }
    Ok(out)
}

const CORRUPT: RecordsError = RecordsError::Compressed { codec: Compression::Snappy };

fn append_raw(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordsError> {
    let length = snap::raw::decompress_len(block).map_err(|_| CORRUPT)?;
    if length > max - out.len() {
        return Err(RecordsError::TooLarge { max });
    }
    if length > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(CORRUPT);
    }
    let start = out.len();
    if out.capacity() - start < length {
        out.reserve_exact(length.max(start.min(max - start)));
    }
    out.resize(start + length, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(|_| CORRUPT)?;
    if written == length { Ok(()) } else { Err(CORRUPT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_framed_and_joined_streams_are_read() {
        let data = b"seawall ".repeat(10_000);
        let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert!(decompress(&raw, data.len()).unwrap() == data);
        let framed = compress(&data);
        assert!(framed.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
        assert!(decompress(&framed, data.len()).unwrap() == data);
        let joined = [framed.clone(), framed].concat();
        assert!(decompress(&joined, 2 * data.len()).unwrap() == data.repeat(2));
    }

    #[test]
    fn a_length_that_the_block_cannot_hold_allocates_nothing() {
        let claim = [0xff, 0xff, 0xff, 0x7f, 0, 0, 0];
        assert_eq!(decompress(&claim, 1 << 30), Err(CORRUPT));
    }
}
