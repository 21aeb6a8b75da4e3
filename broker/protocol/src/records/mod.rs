//! Record batches, format v2: the unit in which clients write and read, and the only format there is (KIP-896).
//!
//! A batch is handled as one slice of bytes: its header is parsed, its checksum verified, its base offset patched in
//! place. Only what really needs single records (compacted topics, look-ups by time, coordinators) iterates over them,
//! and what it decompresses is bounded by its caller.

mod batch;
mod builder;
mod compression;
mod lz4;
mod lz4_levels;
mod record;
mod rewrite;
mod snappy;

pub use batch::{
    BATCH_HEADER_BYTES, BatchHeader, TimestampType, patch_base_offset_and_epoch, set_log_append_time, split_batches,
    verify_crc,
};
pub use builder::BatchBuilder;
pub use compression::{Compression, compress, compress_at, decompress_bounded};
pub use record::{Header, Record, RecordHeaders, RecordIter, records};
pub use rewrite::{KeptRecords, OpenBatch};

/// What is wrong with a record batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordsError {
    /// The bytes end before the batch does, or its lengths contradict each other.
    #[error("a batch of {wanted} bytes in {available}")]
    Truncated { wanted: usize, available: usize },
    #[error("batch length {length} is too short for a header")]
    Length { length: i32 },
    #[error("record format v{magic}, only v2 is supported")]
    Magic { magic: i8 },
    #[error("compression codec {code} is unknown")]
    UnknownCompression { code: i16 },
    #[error("CRC-32C is {actual:#010x}, the batch says {expected:#010x}")]
    Crc { expected: u32, actual: u32 },
    /// The header's counts and offsets contradict each other, or it is a batch that no client may write.
    #[error("invalid batch header: {0}")]
    Header(&'static str),
    /// A record does not parse.
    #[error("invalid record: {0}")]
    Record(&'static str),
    #[error("compressed data is corrupt ({codec:?})")]
    Compressed { codec: Compression },
    #[error("records decompress to more than {max} bytes")]
    TooLarge { max: usize },
}
