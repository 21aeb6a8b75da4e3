//! LZ4 frames. The frame is read here and not by `lz4_flex`, whose reader allocates the block size that the header
//! claims (up to 8 MiB for a frame of 15 bytes). Checksums of the frame are not verified: the batch has its own.

use std::io::Write;

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::{Compression, RecordsError, lz4_levels};

const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
/// Version 1, independent blocks of at most 64 KiB, no checksums; then the checksum of these two bytes.
const DESCRIPTOR: [u8; 3] = [0x60, 0x40, 0x82];
const UNCOMPRESSED: u32 = 1 << 31;
/// A match of n bytes takes at least n / 255 bytes.
const EXPANSION_MAX: usize = 255;
/// How far a match may reach back, across blocks if they are linked.
const WINDOW_BYTES: usize = 64 * 1024;

const CORRUPT: RecordsError = RecordsError::Compressed { codec: Compression::Lz4 };

/// Independent blocks: Kafka's Java client reads no others. With a level, matches are searched for that long.
pub(super) fn compress(data: &[u8], level: Option<i32>) -> Vec<u8> {
    if let Some(level) = level {
        return compress_at(data, level);
    }
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let mut out = FrameEncoder::with_frame_info(info, Vec::with_capacity(data.len() / 2 + 32));
    out.write_all(data).expect("writing to memory does not fail");
    out.finish().expect("writing to memory does not fail")
}

fn compress_at(data: &[u8], level: i32) -> Vec<u8> {
    let mut out = [&MAGIC[..], &DESCRIPTOR].concat();
    for chunk in data.chunks(lz4_levels::BLOCK_BYTES) {
        let block = lz4_levels::compress_block(chunk, level);
        let (size, bytes) = if block.len() < chunk.len() {
            (block.len() as u32, &block[..])
        } else {
            (chunk.len() as u32 | UNCOMPRESSED, chunk)
        };
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0; 4]);
    out
}

pub(super) fn decompress(data: &[u8], max: usize) -> Result<Vec<u8>, RecordsError> {
    let (frame, mut rest) = FrameHeader::parse(data)?;
    let mut out = Vec::new();
    loop {
        let size = u32::from_le_bytes(take(&mut rest)?);
        if size == 0 {
            // A checksum of the content may follow.
            return Ok(out);
        }
        let length = (size & !UNCOMPRESSED) as usize;
        let (block, behind) = rest.split_at_checked(length).ok_or(CORRUPT)?;
        rest = behind;
        if frame.block_checksums {
            take::<4>(&mut rest)?;
        }
        if length > frame.block_bytes_max {
            return Err(CORRUPT);
        }
        if size & UNCOMPRESSED != 0 {
            grow(&mut out, length, max)?;
            let start = out.len() - length;
            out[start..].copy_from_slice(block);
        } else {
            append_block(&frame, block, max, &mut out)?;
        }
    }
}

fn append_block(frame: &FrameHeader, block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), RecordsError> {
    let start = out.len();
    let most = frame.block_bytes_max.min(block.len() * EXPANSION_MAX + EXPANSION_MAX);
    let room = most.min(max - start);
    grow(out, room, max)?;
    let (before, here) = out.split_at_mut(start);
    let written = if frame.linked && start > 0 {
        decompress_into_with_dict(block, here, &before[start.saturating_sub(WINDOW_BYTES)..])
    } else {
        decompress_into(block, here)
    };
    match written {
        Ok(written) => out.truncate(start + written),
        Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => {
            return Err(RecordsError::TooLarge { max });
        }
        Err(_) => return Err(CORRUPT),
    }
    Ok(())
}

/// Appends `length` zeros, doubling the capacity but never past `max`.
fn grow(out: &mut Vec<u8>, length: usize, max: usize) -> Result<(), RecordsError> {
    let start = out.len();
    if length > max - start {
        return Err(RecordsError::TooLarge { max });
    }
    if out.capacity() - start < length {
        out.reserve_exact(length.max(start.min(max - start)));
    }
    out.resize(start + length, 0);
    Ok(())
}

struct FrameHeader {
    linked: bool,
    block_checksums: bool,
    block_bytes_max: usize,
}

impl FrameHeader {
    fn parse(data: &[u8]) -> Result<(Self, &[u8]), RecordsError> {
        let mut rest = data;
        let [flags, block] = match take::<4>(&mut rest)? {
            MAGIC => take::<2>(&mut rest)?,
            _ => return Err(CORRUPT),
        };
        let bit = |at: u8| flags >> at & 1 == 1;
        if flags >> 6 != 1 {
            return Err(CORRUPT);
        }
        let block_bytes_max = match block >> 4 & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(CORRUPT),
        };
        if bit(3) {
            // The size of the content; the blocks tell it too.
            take::<8>(&mut rest)?;
        }
        if bit(0) {
            // A preset dictionary, which nobody here has.
            return Err(CORRUPT);
        }
        take::<1>(&mut rest)?;
        Ok((Self { linked: !bit(5), block_checksums: bit(4), block_bytes_max }, rest))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordsError> {
    let (bytes, behind) = rest.split_first_chunk::<N>().ok_or(CORRUPT)?;
    *rest = behind;
    Ok(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_frame_is_read() {
        let data: Vec<u8> = b"orders payments ".repeat(30_000).into_iter().chain(0..255).collect();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
                for checksums in [false, true] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(checksums)
                        .content_checksum(checksums)
                        .content_size(checksums.then_some(data.len() as u64));
                    let mut frame = FrameEncoder::with_frame_info(info, Vec::new());
                    frame.write_all(&data).unwrap();
                    assert!(decompress(&frame.finish().unwrap(), data.len()).unwrap() == data);
                }
            }
        }
    }

    #[test]
    fn frames_at_a_level_are_read_by_others() {
        use std::io::Read;
        let data: Vec<u8> = (0..40_000u32).flat_map(|n| format!("order-{} ", n % 1_711).into_bytes()).collect();
        for level in [1, 5, 17] {
            let frame = compress(&data, Some(level));
            let mut read = Vec::new();
            lz4_flex::frame::FrameDecoder::new(&frame[..]).read_to_end(&mut read).unwrap();
            assert!(read == data, "level {level}");
        }
    }

    #[test]
    fn a_frame_without_its_end_mark_is_corrupt() {
        let frame = compress(b"orders", None);
        assert_eq!(decompress(&frame[..frame.len() - 4], 100), Err(CORRUPT));
    }
}
