//! Layout of an object: data blocks, sections, footer. Pure: bytes in, bytes out. docs/formats/object.md has every byte.
//!
//! A data block holds whole record batches of one stream, back to back and under one leader epoch, and is the unit of
//! reading and of verification. Sections follow the blocks: the index of the blocks, the producer state, the aborted
//! transactions. The footer at the very end names the sections. Every part carries a CRC-32C; all offsets are 64 bit.
//!
//! Promises: encoding copies no record byte; whatever the bytes, decoding returns an error or a consistent index and
//! never panics, nor allocates more than a small multiple of what it was given.
//! Left to others: where objects are stored, and which blocks are cached.

mod aborted;
mod builder;
mod footer;
mod index;
mod producers;

pub use aborted::{AbortedTransaction, decode_aborted};
pub use builder::{EncodedObject, ObjectBuilder, StreamRange};
pub use footer::{FOOTER_BYTES_MAX, Footer, Section, SectionKind, TRAILER_BYTES, read_any_footer, read_footer};
pub use index::{BLOCK_ENTRY_BYTES, BlockEntry, ObjectIndex};
pub use producers::{StreamProducers, decode_producers, fold_producers};

/// The version this build writes, and the newest it reads.
pub const FORMAT_VERSION: u16 = 1;

/// A block is closed before it would grow over this, unless one batch alone is larger.
pub const BLOCK_BYTES_TARGET: usize = 512 * 1024;

/// Why bytes are not the object, block or section that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("written in object format {found}; this version reads up to {FORMAT_VERSION}")]
    NewerFormat { found: u16 },
    #[error("not an object: {0}")]
    NotAnObject(&'static str),
    #[error("another object: {0}")]
    OtherObject(&'static str),
    #[error("checksum mismatch in {0}")]
    Checksum(&'static str),
    #[error("malformed {part}: {why}")]
    Malformed { part: &'static str, why: &'static str },
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Takes little-endian fields off the front of a slice.
struct Fields<'a> {
    rest: &'a [u8],
    part: &'static str,
}

impl<'a> Fields<'a> {
    fn new(part: &'static str, rest: &'a [u8]) -> Self {
        Fields { rest, part }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(self.malformed("too short"))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, FormatError> {
        self.take().map(u16::from_le_bytes)
    }

    fn i16(&mut self) -> Result<i16, FormatError> {
        self.take().map(i16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Result<i32, FormatError> {
        self.take().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, FormatError> {
        self.take().map(i64::from_le_bytes)
    }

    fn malformed(&self, why: &'static str) -> FormatError {
        FormatError::Malformed { part: self.part, why }
    }

    fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes left over")) }
    }
}

#[cfg(test)]
mod tests;
