//! The header of a batch, and the few changes a broker makes to a batch in place.

use bytes::Bytes;

use super::{Compression, RecordsError};

/// Header of a batch, before its first record.
pub const BATCH_HEADER_BYTES: usize = 61;

/// Base offset and batch length: what stands before the bytes that the length counts.
pub(super) const LENGTH_END: usize = 12;
const LEADER_EPOCH: usize = 12;
const CRC: usize = 17;
/// The checksum covers everything from here on. Base offset and leader epoch lie before: the broker sets them.
const ATTRIBUTES: usize = 21;
const MAX_TIMESTAMP: usize = 35;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// The first 61 bytes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes behind this field.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// Milliseconds since 1970.
    pub base_timestamp: i64,
    /// Milliseconds since 1970.
    pub max_timestamp: i64,
    /// -1 without idempotence.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end before the batch does. What is returned has magic 2,
    /// a known codec, a length that holds the header, and no negative counts.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordsError> {
        let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(RecordsError::Truncated { wanted: BATCH_HEADER_BYTES, available: bytes.len() });
        };
        let header = Self {
            base_offset: i64::from_be_bytes(field(header, 0)),
            batch_length: i32::from_be_bytes(field(header, 8)),
            partition_leader_epoch: i32::from_be_bytes(field(header, LEADER_EPOCH)),
            magic: i8::from_be_bytes(field(header, 16)),
            crc: u32::from_be_bytes(field(header, CRC)),
            attributes: i16::from_be_bytes(field(header, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: i64::from_be_bytes(field(header, 27)),
            max_timestamp: i64::from_be_bytes(field(header, MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(field(header, 43)),
            producer_epoch: i16::from_be_bytes(field(header, 51)),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            record_count: i32::from_be_bytes(field(header, 57)),
        };
        if header.magic != 2 {
            return Err(RecordsError::Magic { magic: header.magic });
        }
        if header.batch_length < (BATCH_HEADER_BYTES - LENGTH_END) as i32 {
            return Err(RecordsError::Length { length: header.batch_length });
        }
        Compression::try_from(header.attributes & COMPRESSION_MASK)?;
        if header.record_count < 0 {
            return Err(RecordsError::Header("negative record count"));
        }
        if header.last_offset_delta < 0 {
            return Err(RecordsError::Header("negative last offset delta"));
        }
        if header.base_offset.checked_add(i64::from(header.last_offset_delta)).is_none() {
            return Err(RecordsError::Header("last offset beyond 64 bits"));
        }
        Ok(header)
    }

    /// What must hold of a batch that a client produces, besides its checksum: as many records as offsets, at least
    /// one, and no control batch.
    pub fn check_from_client(&self) -> Result<(), RecordsError> {
        if self.record_count < 1 {
            return Err(RecordsError::Header("no records"));
        }
        if i64::from(self.last_offset_delta) + 1 != i64::from(self.record_count) {
            return Err(RecordsError::Header("record count and last offset delta differ"));
        }
        if self.is_control() {
            return Err(RecordsError::Header("control batch from a client"));
        }
        Ok(())
    }

    /// The whole batch, header included.
    pub fn total_bytes(&self) -> usize {
        LENGTH_END + self.batch_length as usize
    }

    pub fn compression(&self) -> Compression {
        Compression::try_from(self.attributes & COMPRESSION_MASK).expect("parse refuses other codecs")
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Transaction markers and the like, which clients skip.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// From when on log compaction may take the batch's tombstones or its transaction marker, if it was decided (KIP-534).
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Offset of the last record that the batch had when it was written; compaction keeps it.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Sequence number of the last record; after `i32::MAX` comes 0. -1 without idempotence.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    pub(super) fn write(&self, bytes: &mut [u8; BATCH_HEADER_BYTES]) {
        bytes[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.partition_leader_epoch.to_be_bytes());
        bytes[16..17].copy_from_slice(&self.magic.to_be_bytes());
        bytes[17..21].copy_from_slice(&self.crc.to_be_bytes());
        bytes[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        bytes[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        bytes[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        bytes[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        bytes[57..61].copy_from_slice(&self.record_count.to_be_bytes());
    }
}

/// The bits of `attributes`.
pub(super) fn attributes(
    compression: Compression,
    timestamp_type: TimestampType,
    transactional: bool,
    control: bool,
) -> i16 {
    compression as i16
        | if timestamp_type == TimestampType::LogAppendTime { LOG_APPEND_TIME } else { 0 }
        | if transactional { TRANSACTIONAL } else { 0 }
        | if control { CONTROL } else { 0 }
}

/// The bits of a batch that compaction writes anew.
pub(super) fn rewritten_attributes(header: &BatchHeader, codec: Compression, horizon: bool, empty: bool) -> i16 {
    let others = header.attributes & !(COMPRESSION_MASK | DELETE_HORIZON);
    let had = header.attributes & DELETE_HORIZON;
    others | codec as i16 | if empty { 0 } else { had | if horizon { DELETE_HORIZON } else { 0 } }
}

/// Cuts `bytes` into its batches, which are slices of it. Bytes left over that are no whole batch are an error.
pub fn split_batches(mut bytes: Bytes) -> Result<Vec<(BatchHeader, Bytes)>, RecordsError> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(&bytes)?;
        let wanted = header.total_bytes();
        if wanted > bytes.len() {
            return Err(RecordsError::Truncated { wanted, available: bytes.len() });
        }
        batches.push((header, bytes.split_to(wanted)));
    }
    Ok(batches)
}

/// Compares the checksum of one whole batch with the one in its header.
pub fn verify_crc(batch: &[u8]) -> Result<(), RecordsError> {
    let header = BatchHeader::parse(batch)?;
    let wanted = header.total_bytes();
    let covered = batch.get(ATTRIBUTES..wanted).ok_or(RecordsError::Truncated { wanted, available: batch.len() })?;
    let actual = crc_fast::crc32_iscsi(covered);
    if actual == header.crc { Ok(()) } else { Err(RecordsError::Crc { expected: header.crc, actual }) }
}

/// Sets what the broker decides and the checksum does not cover. `batch` starts with a header that was parsed.
pub fn patch_base_offset_and_epoch(batch: &mut [u8], base_offset: i64, leader_epoch: i32) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch of {} bytes", batch.len());
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH..LEADER_EPOCH + 4].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// Makes `time_ms` the timestamp of every record of one whole batch (`message.timestamp.type=LogAppendTime`) and
/// computes the checksum anew. `batch` was parsed and ends where the batch does.
pub fn set_log_append_time(batch: &mut [u8], time_ms: i64) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch of {} bytes", batch.len());
    let attributes = i16::from_be_bytes([batch[ATTRIBUTES], batch[ATTRIBUTES + 1]]) | LOG_APPEND_TIME;
    batch[ATTRIBUTES..ATTRIBUTES + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP..MAX_TIMESTAMP + 8].copy_from_slice(&time_ms.to_be_bytes());
    write_crc(batch);
}

pub(super) fn write_crc(batch: &mut [u8]) {
    let crc = crc_fast::crc32_iscsi(&batch[ATTRIBUTES..]);
    batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
}

fn field<const N: usize>(header: &[u8; BATCH_HEADER_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, records};

    fn batch(base_offset: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None).base_offset(base_offset);
        for value in values {
            builder.add(None, Some(value.as_bytes()), 1_000, &[]);
        }
        builder.build()
    }

    #[test]
    fn batches_are_cut_apart_as_slices() {
        let (first, second) = (batch(0, &["a", "b"]), batch(2, &["c"]));
        let both = Bytes::from([&first[..], &second[..]].concat());
        let split = split_batches(both.clone()).unwrap();
        assert_eq!(split.len(), 2);
        assert_eq!((split[0].0.base_offset, split[0].0.last_offset()), (0, 1));
        assert_eq!((split[1].0.base_offset, split[1].0.last_offset()), (2, 2));
        assert_eq!(split[0].1.as_ptr(), both.as_ptr());
        assert_eq!(split[1].1, second);
        assert_eq!(split_batches(Bytes::new()).unwrap(), vec![]);
        for cut in 1..second.len() {
            assert!(split_batches(both.slice(..first.len() + cut)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn trap_33_record_formats_v0_and_v1_are_refused_by_name() {
        for magic in [0, 1, 3] {
            let mut old = batch(0, &["a"]).to_vec();
            old[16] = magic;
            assert_eq!(split_batches(old.into()), Err(RecordsError::Magic { magic: magic as i8 }));
        }
    }

    #[test]
    fn trap_19_counts_and_checksum_are_checked() {
        let good = batch(0, &["a", "b"]);
        verify_crc(&good).unwrap();
        BatchHeader::parse(&good).unwrap().check_from_client().unwrap();
        for at in 21..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(verify_crc(&bad).is_err(), "bit flipped at {at}");
        }
        let mut bad = good.to_vec();
        bad[60] = 3;
        write_crc(&mut bad);
        assert!(BatchHeader::parse(&bad).unwrap().check_from_client().is_err());
    }

    #[test]
    fn base_offset_and_epoch_change_without_the_checksum() {
        let mut bytes = batch(0, &["a"]).to_vec();
        patch_base_offset_and_epoch(&mut bytes, 77, 5);
        verify_crc(&bytes).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.base_offset, header.partition_leader_epoch), (77, 5));
    }

    #[test]
    fn trap_18_log_append_time_sets_attribute_timestamp_and_checksum() {
        let mut bytes = batch(0, &["a", "b"]).to_vec();
        set_log_append_time(&mut bytes, 123_456);
        verify_crc(&bytes).unwrap();
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, 123_456));
        for record in records(&header, &bytes.into(), 1 << 20).unwrap() {
            assert_eq!(record.unwrap().timestamp, 123_456);
        }
    }

    #[test]
    fn sequence_numbers_wrap_to_zero() {
        let mut builder = BatchBuilder::new(Compression::None).producer(7, 0, i32::MAX - 1);
        for _ in 0..4 {
            builder.add(None, None, 0, &[]);
        }
        let header = BatchHeader::parse(&builder.build()).unwrap();
        assert_eq!(header.last_sequence(), 1);
    }
}
