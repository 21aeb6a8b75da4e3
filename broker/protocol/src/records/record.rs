//! Single records inside a batch, decompressed within a bound. Keys and values are slices, nothing is copied.

use bytes::Bytes;

use super::batch::{BATCH_HEADER_BYTES, BatchHeader, TimestampType};
use super::rewrite::RawRecord;
use super::{Compression, RecordsError, decompress_bounded};

/// One record. Its bytes are slices of the batch, or of the decompressed records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: RecordHeaders,
}

/// A header of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub key: String,
    pub value: Option<Bytes>,
}

/// The headers of a record as they lie in the batch, known to be well formed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecordHeaders {
    count: usize,
    bytes: Bytes,
}

impl RecordHeaders {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Header> {
        let mut cursor = Cursor { bytes: self.bytes.clone() };
        (0..self.count).map(move |_| {
            let (key, value) = cursor.header().expect("checked when the record was read");
            Header { key: String::from_utf8_lossy(&key).into_owned(), value }
        })
    }
}

/// The records of one whole batch, in order. Ends after the first error. `max_decompressed` bounds the bytes of all
/// records together; without compression they are slices of `batch` and nothing is allocated.
pub fn records(header: &BatchHeader, batch: &Bytes, max_decompressed: usize) -> Result<RecordIter, RecordsError> {
    let wanted = header.total_bytes();
    if batch.len() < wanted {
        return Err(RecordsError::Truncated { wanted, available: batch.len() });
    }
    let body = batch.slice(BATCH_HEADER_BYTES..wanted);
    let body = match header.compression() {
        Compression::None => body,
        codec => decompress_bounded(codec, &body, max_decompressed)?.into(),
    };
    Ok(records_in(header, body))
}

/// The records that lie in `body`, which is not compressed (any more).
pub(super) fn records_in(header: &BatchHeader, body: Bytes) -> RecordIter {
    RecordIter { header: *header, left: header.record_count, cursor: Cursor { bytes: body } }
}

/// See [`records`].
#[derive(Debug)]
pub struct RecordIter {
    header: BatchHeader,
    left: i32,
    cursor: Cursor,
}

impl RecordIter {
    /// What was not read yet.
    pub(super) fn rest(&self) -> Bytes {
        self.cursor.bytes.clone()
    }

    /// The next record with its encoding.
    pub(super) fn next_raw(&mut self) -> Option<Result<RawRecord, RecordsError>> {
        let before = self.rest();
        let record = match self.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let encoded = before.slice(..before.len() - self.cursor.bytes.len());
        let mut cursor = Cursor { bytes: encoded.clone() };
        let parts = cursor.varint().and_then(|_| cursor.take(1)).and_then(|attributes| {
            cursor.varlong()?;
            Ok(attributes[0])
        });
        Some(parts.map(|attributes| RawRecord { record, encoded, behind_timestamp: cursor.bytes, attributes }))
    }
}

impl Iterator for RecordIter {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = std::mem::take(&mut self.cursor.bytes);
            return (!behind.is_empty()).then_some(Err(RecordsError::Record("bytes behind the last record")));
        }
        self.left -= 1;
        let record = self.cursor.record(&self.header);
        if record.is_err() {
            self.left = 0;
            self.cursor.bytes = Bytes::new();
        }
        Some(record)
    }
}

#[derive(Debug)]
struct Cursor {
    bytes: Bytes,
}

impl Cursor {
    fn record(&mut self, header: &BatchHeader) -> Result<Record, RecordsError> {
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| RecordsError::Record("negative length"))?;
        let mut record = Cursor { bytes: self.take(length)? };
        let _attributes = record.take(1)?;
        let timestamp_delta = record.varlong()?;
        let offset_delta = record.varint()?;
        let key = record.nullable_bytes()?;
        let value = record.nullable_bytes()?;
        let headers = record.headers()?;
        if !record.bytes.is_empty() {
            return Err(RecordsError::Record("bytes behind the headers"));
        }
        if !(0..=header.last_offset_delta).contains(&offset_delta) {
            return Err(RecordsError::Record("offset outside of the batch"));
        }
        let timestamp = match header.timestamp_type() {
            TimestampType::LogAppendTime => header.max_timestamp,
            TimestampType::CreateTime => header
                .base_timestamp
                .checked_add(timestamp_delta)
                .ok_or(RecordsError::Record("timestamp beyond 64 bits"))?,
        };
        Ok(Record { offset: header.base_offset + i64::from(offset_delta), timestamp, key, value, headers })
    }

    fn headers(&mut self) -> Result<RecordHeaders, RecordsError> {
        let count = usize::try_from(self.varint()?).map_err(|_| RecordsError::Record("negative header count"))?;
        let bytes = self.bytes.clone();
        for _ in 0..count {
            self.header()?;
        }
        Ok(RecordHeaders { count, bytes: bytes.slice(..bytes.len() - self.bytes.len()) })
    }

    fn header(&mut self) -> Result<(Bytes, Option<Bytes>), RecordsError> {
        let key = self.nullable_bytes()?.ok_or(RecordsError::Record("header without a key"))?;
        Ok((key, self.nullable_bytes()?))
    }

    fn nullable_bytes(&mut self) -> Result<Option<Bytes>, RecordsError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| RecordsError::Record("negative length"))?;
                self.take(length).map(Some)
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, RecordsError> {
        if length > self.bytes.len() {
            return Err(RecordsError::Record("it ends before its length"));
        }
        Ok(self.bytes.split_to(length))
    }

    /// Zigzag, at most five bytes and 32 bits.
    fn varint(&mut self) -> Result<i32, RecordsError> {
        let value = self.unsigned_varlong(5)?;
        let value = u32::try_from(value).map_err(|_| RecordsError::Record("a varint of more than 32 bits"))?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Zigzag, at most ten bytes and 64 bits.
    fn varlong(&mut self) -> Result<i64, RecordsError> {
        let value = self.unsigned_varlong(10)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn unsigned_varlong(&mut self, bytes_max: usize) -> Result<u64, RecordsError> {
        let mut value = 0u64;
        for at in 0..bytes_max {
            let Some(&byte) = self.bytes.get(at) else {
                return Err(RecordsError::Record("it ends inside a varint"));
            };
            if at == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let _ = self.bytes.split_to(at + 1);
                return Ok(value);
            }
        }
        Err(RecordsError::Record("a varint that is too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, RecordsError, split_batches};

    fn header(key: &str, value: Option<&'static [u8]>) -> Header {
        Header { key: key.into(), value: value.map(Bytes::from_static) }
    }

    #[test]
    fn records_come_back_in_every_codec() {
        for codec in Compression::ALL {
            let mut builder = BatchBuilder::new(codec).base_offset(100).producer(5, 2, 9);
            let headers = [header("a", Some(b"1")), header("b", None), header("", Some(b""))];
            builder.add(Some(b"k"), Some(b"v"), 5_000, &headers);
            builder.add(None, None, 4_000, &[]);
            builder.add(Some(b""), Some(b""), 9_000, &[]);
            let (batch_header, batch) = split_batches(builder.build()).unwrap().remove(0);
            assert_eq!(batch_header.compression(), codec);
            assert_eq!((batch_header.max_timestamp, batch_header.last_offset()), (9_000, 102));
            let read: Vec<Record> = records(&batch_header, &batch, 1 << 20).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(
                read.iter().map(|r| (r.offset, r.timestamp)).collect::<Vec<_>>(),
                [(100, 5_000), (101, 4_000), (102, 9_000)]
            );
            assert_eq!(read[0].key.as_deref(), Some(&b"k"[..]));
            assert_eq!(read[0].headers.iter().collect::<Vec<_>>(), headers);
            assert_eq!((&read[1].key, &read[1].value), (&None, &None));
            assert_eq!(read[2].value.as_deref(), Some(&b""[..]));
        }
    }

    #[test]
    fn every_damage_to_the_records_is_an_error_or_other_records() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.add(Some(b"key"), Some(b"value"), 0, &[header("h", Some(b"x"))]);
        builder.add(Some(b"key"), Some(b"value"), 1, &[]);
        let good = builder.build();
        for at in BATCH_HEADER_BYTES..good.len() {
            for bits in [1, 0x40, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[at] ^= bits;
                let bad = Bytes::from(bad);
                let header = BatchHeader::parse(&bad).unwrap();
                let count = records(&header, &bad, 0).unwrap().count();
                assert!(count <= 3);
            }
        }
    }

    #[test]
    fn a_count_that_is_not_true_is_an_error() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.add(None, Some(b"a"), 0, &[]);
        builder.add(None, Some(b"b"), 0, &[]);
        let batch = builder.build();
        let mut header = BatchHeader::parse(&batch).unwrap();
        for count in [0, 1, 3, i32::MAX] {
            header.record_count = count;
            let last = records(&header, &batch, 0).unwrap().last();
            assert!(matches!(last, Some(Err(RecordsError::Record(_)))), "{count}");
        }
    }
}
