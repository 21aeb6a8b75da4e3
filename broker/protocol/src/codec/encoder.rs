//! Writing of a message as a list of segments: small fields into a buffer, records and long byte fields as they are.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{Records, Segments};

/// Why a value cannot be written at a version: a bug or a limit of the caller, not of the peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("no version {version} of {message}")]
    UnsupportedVersion { message: &'static str, version: i16 },
    #[error("`{field}` is set, but version {version} cannot carry it")]
    NotInVersion { field: &'static str, version: i16 },
    #[error("null where `{field}` must have a value")]
    Null { field: &'static str },
    #[error("{what} of {length} does not fit its length field")]
    TooLong { what: &'static str, length: usize },
    #[error("tag {tag} is both a known and an unknown field")]
    DuplicateTag { tag: u32 },
}

/// Byte fields from this length on become segments of their own instead of being copied.
const SPLICE_BYTES_MIN: usize = 1024;

/// A buffer from this length on is cut to its length when it is done: it grew by doubling.
const CUT_BYTES_MIN: usize = 8 * 1024;

/// Where messages are written to.
#[derive(Debug, Default)]
pub struct Encoder {
    done: Vec<Bytes>,
    done_len: usize,
    tail: BytesMut,
}

impl Encoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// `bytes` is a guess of what is written outside of spliced segments.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { tail: BytesMut::with_capacity(bytes), ..Self::default() }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.done_len + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn into_segments(mut self) -> Segments {
        if self.tail.len() < CUT_BYTES_MIN {
            self.close_tail();
        } else {
            let mut tail = Vec::from(self.tail);
            tail.shrink_to_fit();
            self.done.push(Bytes::from(tail));
        }
        Segments::new(self.done)
    }

    /// What was written, behind its length in four bytes: a frame of the Kafka protocol.
    pub fn into_frame(self) -> Result<Segments, EncodeError> {
        let length = self.len();
        let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong { what: "frame", length })?;
        let mut segments = vec![Bytes::copy_from_slice(&prefix.to_be_bytes())];
        segments.extend(self.into_segments().into_vec());
        Ok(Segments::new(segments))
    }

    /// One contiguous piece; copies when there are several segments.
    pub fn into_bytes(self) -> Bytes {
        self.into_segments().into_bytes()
    }

    pub fn bool(&mut self, value: bool) {
        self.tail.put_u8(u8::from(value));
    }

    pub fn i8(&mut self, value: i8) {
        self.tail.put_i8(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.tail.put_i16(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.tail.put_u16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.tail.put_i32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.tail.put_i64(value);
    }

    pub fn f64(&mut self, value: f64) {
        self.tail.put_f64(value);
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.tail.put_slice(value.as_bytes());
    }

    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.tail.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.tail.put_u8(value as u8);
    }

    pub fn string(&mut self, value: &str, compact: bool) -> Result<(), EncodeError> {
        let length =
            i16::try_from(value.len()).map_err(|_| EncodeError::TooLong { what: "string", length: value.len() })?;
        if compact {
            self.uvarint(length as u32 + 1)
        } else {
            self.i16(length)
        }
        self.tail.put_slice(value.as_bytes());
        Ok(())
    }

    pub fn nullable_string(&mut self, value: Option<&str>, compact: bool) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.string(value, compact)?,
            None if compact => self.uvarint(0),
            None => self.i16(-1),
        }
        Ok(())
    }

    /// Not copied from 1 KiB on.
    pub fn bytes(&mut self, value: &Bytes, compact: bool) -> Result<(), EncodeError> {
        self.count(value.len(), compact, "bytes")?;
        self.splice(value);
        Ok(())
    }

    pub fn nullable_bytes(&mut self, value: Option<&Bytes>, compact: bool) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, compact),
            None => self.null(compact),
        }
    }

    pub(crate) fn nullable_records(&mut self, value: Option<&Records>, compact: bool) -> Result<(), EncodeError> {
        let Some(Records(segments)) = value else { return self.null(compact) };
        self.count(segments.iter().map(Bytes::len).sum(), compact, "records")?;
        for segment in segments {
            self.splice(segment);
        }
        Ok(())
    }

    pub(crate) fn array<T>(
        &mut self,
        elements: &[T],
        compact: bool,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.count(elements.len(), compact, "array")?;
        for element in elements {
            write(self, element)?;
        }
        Ok(())
    }

    pub(crate) fn nullable_array<T>(
        &mut self,
        elements: Option<&[T]>,
        compact: bool,
        write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match elements {
            Some(elements) => self.array(elements, compact, write),
            None => self.null(compact),
        }
    }

    pub(crate) fn nullable_struct<T>(
        &mut self,
        value: Option<&T>,
        write: impl FnOnce(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.i8(if value.is_some() { 1 } else { -1 });
        match value {
            Some(value) => write(self, value),
            None => Ok(()),
        }
    }

    pub(crate) fn unknown_tagged_fields(&mut self, fields: &[(u32, Bytes)]) -> Result<(), EncodeError> {
        self.length(fields.len(), "tagged fields")?;
        for (tag, bytes) in fields {
            self.tagged_field(*tag, bytes)?;
        }
        Ok(())
    }

    pub(super) fn tagged_field(&mut self, tag: u32, bytes: &Bytes) -> Result<(), EncodeError> {
        self.uvarint(tag);
        self.length(bytes.len(), "tagged field")?;
        self.splice(bytes);
        Ok(())
    }

    /// A length as an unsigned varint.
    pub(super) fn length(&mut self, length: usize, what: &'static str) -> Result<(), EncodeError> {
        let value = u32::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
        self.uvarint(value);
        Ok(())
    }

    /// What another encoder has written.
    pub(super) fn append(&mut self, other: Self) {
        for segment in other.into_segments().into_vec() {
            self.splice(&segment);
        }
    }

    fn count(&mut self, length: usize, compact: bool, what: &'static str) -> Result<(), EncodeError> {
        let value = i32::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
        if compact {
            self.uvarint(value as u32 + 1)
        } else {
            self.i32(value)
        }
        Ok(())
    }

    fn null(&mut self, compact: bool) -> Result<(), EncodeError> {
        if compact {
            self.uvarint(0)
        } else {
            self.i32(-1)
        }
        Ok(())
    }

    fn splice(&mut self, bytes: &Bytes) {
        if bytes.len() < SPLICE_BYTES_MIN {
            self.tail.put_slice(bytes);
        } else {
            self.close_tail();
            self.done_len += bytes.len();
            self.done.push(bytes.clone());
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.done_len += self.tail.len();
            self.done.push(self.tail.split().freeze());
        }
    }
}
