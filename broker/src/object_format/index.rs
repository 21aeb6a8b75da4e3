//! The index section: one entry per data block, sorted by stream and offset. It answers look-ups by offset and by time.

use std::ops::Range;

use seawall_metadata::StreamId;

use super::{Fields, FormatError, crc32c};

/// Encoded length of a [`BlockEntry`].
pub const BLOCK_ENTRY_BYTES: usize = 64;

/// A data block: whole batches of one stream, under one leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEntry {
    pub stream: StreamId,
    /// Offset of the first record.
    pub base: i64,
    /// One past the offset of the last record.
    pub end: i64,
    pub max_timestamp: i64,
    pub leader_epoch: i32,
    pub record_count: u32,
    /// Where the block begins in the object, and its length.
    pub position: u64,
    pub bytes: u32,
    /// CRC-32C of the block's bytes.
    pub crc: u32,
}

impl BlockEntry {
    /// The bytes of the block in its object.
    pub fn span(&self) -> Range<u64> {
        self.position..self.position + u64::from(self.bytes)
    }

    /// Whether `block`, which was read from [`span`](Self::span), is what was written.
    pub fn verify(&self, block: &[u8]) -> Result<(), FormatError> {
        if block.len() == self.bytes as usize && crc32c(block) == self.crc {
            Ok(())
        } else {
            Err(FormatError::Checksum("data block"))
        }
    }
}

/// All blocks of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectIndex {
    /// Sorted by stream, then base.
    blocks: Vec<BlockEntry>,
    /// Per block, the highest max timestamp of its stream up to and including it.
    timestamps_so_far: Vec<i64>,
}

impl ObjectIndex {
    pub(super) fn new(blocks: Vec<BlockEntry>) -> ObjectIndex {
        let mut timestamps_so_far: Vec<i64> = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            let same_stream = at > 0 && blocks[at - 1].stream == block.stream;
            let before = if same_stream { timestamps_so_far[at - 1] } else { i64::MIN };
            timestamps_so_far.push(before.max(block.max_timestamp));
        }
        ObjectIndex { blocks, timestamps_so_far }
    }

    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// The blocks of one stream, in offset order, as positions in [`blocks`](Self::blocks).
    pub fn stream(&self, stream: StreamId) -> Range<usize> {
        let start = self.blocks.partition_point(|block| block.stream < stream);
        let end = self.blocks.partition_point(|block| block.stream <= stream);
        start..end
    }

    /// The first block of the stream that ends beyond `offset`.
    pub fn find_offset(&self, stream: StreamId, offset: i64) -> Option<usize> {
        let range = self.stream(stream);
        let at = range.start + self.blocks[range.clone()].partition_point(|block| block.end <= offset);
        (at < range.end).then_some(at)
    }

    /// The first block of the stream whose batches reach `timestamp`, at or after the block that holds `from`.
    pub fn find_timestamp(&self, stream: StreamId, timestamp: i64, from: i64) -> Option<usize> {
        let range = self.stream(stream);
        let start = self.find_offset(stream, from)?;
        if start == range.start {
            let so_far = &self.timestamps_so_far[range.clone()];
            let at = start + so_far.partition_point(|max| *max < timestamp);
            return (at < range.end).then_some(at);
        }
        // The prefix maximum counts blocks below `from`, which do not matter: look at each block instead.
        (start..range.end).find(|at| self.blocks[*at].max_timestamp >= timestamp)
    }

    /// Bytes that the index takes in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.blocks.len() * (size_of::<BlockEntry>() + size_of::<i64>())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.blocks.len() * BLOCK_ENTRY_BYTES);
        for block in &self.blocks {
            out.extend_from_slice(&block.stream.0.to_le_bytes());
            out.extend_from_slice(&block.base.to_le_bytes());
            out.extend_from_slice(&block.end.to_le_bytes());
            out.extend_from_slice(&block.max_timestamp.to_le_bytes());
            out.extend_from_slice(&block.position.to_le_bytes());
            out.extend_from_slice(&block.bytes.to_le_bytes());
            out.extend_from_slice(&block.crc.to_le_bytes());
            out.extend_from_slice(&block.record_count.to_le_bytes());
            out.extend_from_slice(&block.leader_epoch.to_le_bytes());
            out.extend_from_slice(&[0; 8]);
        }
        out
    }

    /// Decodes the index of an object whose blocks fill `data_bytes`. The section's checksum has been verified.
    pub fn decode(section: &[u8], data_bytes: u64) -> Result<ObjectIndex, FormatError> {
        let malformed = |why| FormatError::Malformed { part: "index", why };
        if !section.len().is_multiple_of(BLOCK_ENTRY_BYTES) {
            return Err(malformed("not a whole number of entries"));
        }
        let mut blocks: Vec<BlockEntry> = Vec::with_capacity(section.len() / BLOCK_ENTRY_BYTES);
        let mut position = 0u64;
        for entry in section.chunks_exact(BLOCK_ENTRY_BYTES) {
            let block = decode_entry(entry)?;
            if block.base < 0 || block.end <= block.base || block.bytes == 0 {
                return Err(malformed("an empty or backward block"));
            }
            if block.position != position {
                return Err(malformed("a block does not begin where the one before it ends"));
            }
            if let Some(previous) = blocks.last() {
                let sorted =
                    previous.stream < block.stream || previous.stream == block.stream && previous.end <= block.base;
                if !sorted {
                    return Err(malformed("blocks are not sorted by stream and offset"));
                }
            }
            position = position.checked_add(u64::from(block.bytes)).ok_or(malformed("blocks are too long"))?;
            blocks.push(block);
        }
        if position != data_bytes {
            return Err(malformed("blocks do not fill the data"));
        }
        Ok(ObjectIndex::new(blocks))
    }
}

fn decode_entry(entry: &[u8]) -> Result<BlockEntry, FormatError> {
    let mut fields = Fields::new("index", entry);
    let (stream, base, end) = (StreamId(fields.u64()?), fields.i64()?, fields.i64()?);
    let (max_timestamp, position) = (fields.i64()?, fields.u64()?);
    let (bytes, crc, record_count, leader_epoch) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.i32()?);
    if fields.u64()? != 0 {
        return Err(fields.malformed("reserved fields are set"));
    }
    Ok(BlockEntry { stream, base, end, max_timestamp, leader_epoch, record_count, position, bytes, crc })
}
