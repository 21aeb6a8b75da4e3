//! Building of a batch from single records: coordinators, compaction, clients and tests.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{self, BATCH_HEADER_BYTES, BatchHeader, TimestampType};
use super::{Compression, Header, compress_at};

/// Collects records and makes one batch of them.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Compression,
    level: Option<i32>,
    header: BatchHeader,
    transactional: bool,
    control: bool,
    /// The records so far, not compressed.
    records: BytesMut,
}

impl BatchBuilder {
    pub fn new(codec: Compression) -> Self {
        let header = BatchHeader {
            base_offset: 0,
            batch_length: 0,
            partition_leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 0,
        };
        Self { codec, level: None, header, transactional: false, control: false, records: BytesMut::new() }
    }

    /// The codec's level in Kafka's numbers; `None` is the codec's default.
    pub fn level(mut self, level: Option<i32>) -> Self {
        self.level = level;
        self
    }

    pub fn base_offset(mut self, base_offset: i64) -> Self {
        assert!(self.header.record_count == 0, "the base offset is set before the first record");
        self.header.base_offset = base_offset;
        self
    }

    pub fn leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.header.partition_leader_epoch = leader_epoch;
        self
    }

    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    pub fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// A batch of control records, such as transaction markers.
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// Appends a record at the next offset. `timestamp` in milliseconds since 1970.
    pub fn add(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, timestamp: i64, headers: &[Header]) -> &mut Self {
        let offset = match self.header.record_count {
            0 => self.header.base_offset,
            _ => self.header.last_offset() + 1,
        };
        self.add_at(offset, key, value, timestamp, headers)
    }

    /// Appends a record at an offset of its own, above that of the record before, as compaction leaves them.
    pub fn add_at(
        &mut self,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &[Header],
    ) -> &mut Self {
        let header = &mut self.header;
        let delta = offset - header.base_offset;
        assert!(
            delta >= i64::from(header.last_offset_delta) + i64::from(header.record_count.min(1)),
            "offset {offset} is not above the one before"
        );
        if header.record_count == 0 {
            header.base_timestamp = timestamp;
        }
        header.last_offset_delta = i32::try_from(delta).expect("a batch spans less than 2^31 offsets");
        header.max_timestamp = header.max_timestamp.max(timestamp);
        header.record_count += 1;
        let timestamp_delta = timestamp.wrapping_sub(header.base_timestamp);
        let offset_delta = i64::from(header.last_offset_delta);

        let headers_bytes: usize =
            headers.iter().map(|it| bytes_len(Some(it.key.as_bytes())) + bytes_len(it.value.as_deref())).sum();
        let length = 1
            + varint_len(timestamp_delta)
            + varint_len(offset_delta)
            + bytes_len(key)
            + bytes_len(value)
            + varint_len(headers.len() as i64)
            + headers_bytes;
        put_varint(&mut self.records, length as i64);
        self.records.put_u8(0);
        put_varint(&mut self.records, timestamp_delta);
        put_varint(&mut self.records, offset_delta);
        put_bytes(&mut self.records, key);
        put_bytes(&mut self.records, value);
        put_varint(&mut self.records, headers.len() as i64);
        for it in headers {
            put_bytes(&mut self.records, Some(it.key.as_bytes()));
            put_bytes(&mut self.records, it.value.as_deref());
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// Bytes of the batch if it is built now, before compression.
    pub fn uncompressed_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// The whole batch, checksum included. The builder has been given at least one record.
    pub fn build(&mut self) -> Bytes {
        assert!(!self.is_empty(), "a batch without records");
        let records = self.records.split();
        let compressed = match self.codec {
            Compression::None => records.freeze(),
            codec => compress_at(codec, self.level, &records).into(),
        };
        let mut bytes = vec![0; BATCH_HEADER_BYTES];
        bytes.reserve_exact(compressed.len());
        bytes.extend_from_slice(&compressed);
        let length = i32::try_from(bytes.len() - 12).expect("a batch is smaller than 2 GiB");
        let header = BatchHeader {
            batch_length: length,
            attributes: batch::attributes(self.codec, TimestampType::CreateTime, self.transactional, self.control),
            ..self.header
        };
        header.write(bytes.first_chunk_mut().expect("it starts with room for the header"));
        batch::write_crc(&mut bytes);
        Bytes::from(bytes)
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

pub(super) fn varint_len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

pub(super) fn put_varint(out: &mut impl BufMut, value: i64) {
    let mut value = zigzag(value);
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint_len(bytes.len() as i64) + bytes.len(),
        None => 1,
    }
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}
