//! Reading of a frame that may hold anything.
//!
//! No length is believed that the rest of the frame cannot hold, and what is allocated is charged to a budget made
//! from the frame's length before it is allocated.

use bytes::Bytes;
use uuid::Uuid;

/// Why a frame is not the message it claims to be. The connection that sent it cannot be read any further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{wanted} bytes wanted, {remaining} remain in the frame")]
    Truncated { wanted: usize, remaining: usize },
    #[error("length {length} is negative or more than the frame can hold")]
    Length { length: i64 },
    #[error("a varint of more than 32 bits")]
    Varint,
    #[error("null where `{field}` must have a value")]
    Null { field: &'static str },
    #[error("tagged field {tag} does not fill its {size} bytes")]
    TaggedField { tag: u32, size: usize },
    #[error("the frame would decode into more than {budget} bytes of memory")]
    Budget { budget: usize },
    #[error("{bytes} bytes behind the end of the message")]
    Trailing { bytes: usize },
    #[error("no version {version} of {message}")]
    UnsupportedVersion { message: &'static str, version: i16 },
    #[error("no API has the key {key}")]
    UnknownApiKey { key: i16 },
}

/// The longest string on the wire; Kafka's own limit at every version.
const STRING_BYTES_MAX: usize = i16::MAX as usize;
/// A tag and a size.
const TAGGED_FIELD_BYTES_MIN: usize = 2;

/// A frame and how far it has been read.
#[derive(Clone, Debug)]
pub struct Decoder {
    frame: Bytes,
    position: usize,
    /// Bytes of memory that may still be allocated for what the frame holds.
    budget: usize,
    budget_whole: usize,
}

impl Decoder {
    /// Memory that a decoded message may take, as a multiple of its frame. The densest honest requests stay below 10.
    pub const BUDGET_FACTOR: usize = 16;
    /// Added to the budget, so that a short frame of empty strings is no error.
    pub const BUDGET_FLOOR: usize = 64 * 1024;

    /// Reads `frame` from its start. Everything allocated while reading (vectors and strings; byte fields and records
    /// are slices of the frame) stays within `BUDGET_FLOOR + BUDGET_FACTOR * frame.len()`.
    pub fn new(frame: Bytes) -> Self {
        let budget = frame.len().saturating_mul(Self::BUDGET_FACTOR).saturating_add(Self::BUDGET_FLOOR);
        Self { frame, position: 0, budget, budget_whole: budget }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.frame.len() - self.position
    }

    /// Ends the reading; bytes that nobody has read are an error.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.u8()? != 0)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.fixed().map(u8::from_be_bytes)
    }

    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.fixed().map(f64::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.fixed().map(Uuid::from_bytes)
    }

    /// At most five bytes. A number written longer than needed is accepted, as Kafka does; more than 32 bits are not.
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    pub fn string(&mut self, compact: bool) -> Result<String, DecodeError> {
        self.nullable_string(compact)?.ok_or(DecodeError::Null { field: "string" })
    }

    /// Bytes that are not UTF-8 become U+FFFD, as in Kafka: a bad name is answered in its own slot, it does not end
    /// the connection.
    pub fn nullable_string(&mut self, compact: bool) -> Result<Option<String>, DecodeError> {
        let length = if compact { self.compact_length()? } else { nullable(i64::from(self.i16()?))? };
        let Some(length) = length else { return Ok(None) };
        if length > STRING_BYTES_MAX {
            return Err(DecodeError::Length { length: length as i64 });
        }
        let bytes = self.take(length)?;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => {
                self.charge(length)?;
                text.to_owned()
            }
            Err(_) => self.repaired(&bytes)?,
        };
        Ok(Some(text))
    }

    /// Every sequence that is not UTF-8 becomes a U+FFFD, which may be longer.
    fn repaired(&mut self, bytes: &[u8]) -> Result<String, DecodeError> {
        const REPLACEMENT: &str = "\u{fffd}";
        let replacement = |invalid: &[u8]| if invalid.is_empty() { "" } else { REPLACEMENT };
        let length = bytes.utf8_chunks().map(|it| it.valid().len() + replacement(it.invalid()).len()).sum();
        self.charge(length)?;
        let mut text = String::with_capacity(length);
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.push_str(replacement(chunk.invalid()));
        }
        Ok(text)
    }

    pub fn bytes(&mut self, compact: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(compact)?.ok_or(DecodeError::Null { field: "bytes" })
    }

    /// A slice of the frame.
    pub fn nullable_bytes(&mut self, compact: bool) -> Result<Option<Bytes>, DecodeError> {
        match self.length(compact)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// The next `length` bytes, as a slice of the frame.
    pub fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.has(length)?;
        let start = self.position;
        self.position += length;
        Ok(self.frame.slice(start..self.position))
    }

    /// `least` is the fewest bytes that an element takes on the wire, at least one.
    pub(crate) fn array<T>(
        &mut self,
        compact: bool,
        least: usize,
        read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        self.nullable_array(compact, least, read)?.ok_or(DecodeError::Null { field: "array" })
    }

    pub(crate) fn nullable_array<T>(
        &mut self,
        compact: bool,
        least: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.length(compact)? else { return Ok(None) };
        if count > self.remaining() / least {
            return Err(DecodeError::Length { length: count as i64 });
        }
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(Some(elements))
    }

    pub(crate) fn nullable_struct<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.i8()? < 0 { Ok(None) } else { read(self).map(Some) }
    }

    pub(crate) fn unknown_tagged_fields(&mut self) -> Result<Vec<(u32, Bytes)>, DecodeError> {
        self.tagged_fields(|_, _| Ok(false))
    }

    /// `known` reads the field and says true, or leaves it alone and says false. The unknown ones are returned.
    pub(crate) fn tagged_fields(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<Vec<(u32, Bytes)>, DecodeError> {
        let mut unknown: Vec<(u32, Bytes)> = Vec::new();
        for left in (1..=self.uvarint()? as usize).rev() {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            self.has(size)?;
            let end = self.position + size;
            if !known(self, tag)? {
                if unknown.capacity() == 0 {
                    if left - 1 > self.remaining() / TAGGED_FIELD_BYTES_MIN {
                        return Err(DecodeError::Length { length: left as i64 });
                    }
                    self.charge(left.saturating_mul(size_of::<(u32, Bytes)>()))?;
                    unknown.reserve_exact(left);
                }
                unknown.push((tag, self.take(size)?));
            }
            if self.position != end {
                return Err(DecodeError::TaggedField { tag, size });
            }
        }
        Ok(unknown)
    }

    /// The length of bytes or the count of an array.
    fn length(&mut self, compact: bool) -> Result<Option<usize>, DecodeError> {
        let length = if compact { self.compact_length()? } else { nullable(i64::from(self.i32()?))? };
        match length {
            Some(length) if length > self.remaining() => Err(DecodeError::Length { length: length as i64 }),
            length => Ok(length),
        }
    }

    /// Zero is null, everything else is one more than the length.
    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.budget.checked_sub(bytes) {
            Some(budget) => self.budget = budget,
            None => return Err(DecodeError::Budget { budget: self.budget_whole }),
        }
        Ok(())
    }

    fn has(&self, wanted: usize) -> Result<(), DecodeError> {
        match self.remaining() {
            remaining if remaining >= wanted => Ok(()),
            remaining => Err(DecodeError::Truncated { wanted, remaining }),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.frame[self.position..].first_chunk::<N>() {
            Some(bytes) => {
                self.position += N;
                Ok(*bytes)
            }
            None => Err(DecodeError::Truncated { wanted: N, remaining: self.remaining() }),
        }
    }
}

/// -1 is null, less is an error.
fn nullable(length: i64) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| DecodeError::Length { length }),
    }
}

/// For fields that may be null at some versions only.
pub(crate) fn check_null<T>(value: Option<T>, allowed: bool, field: &'static str) -> Result<Option<T>, DecodeError> {
    if value.is_none() && !allowed { Err(DecodeError::Null { field }) } else { Ok(value) }
}
