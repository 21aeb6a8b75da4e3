//! A batch with some of its records taken out, as log compaction leaves it: offsets, producer fields and codec stay.
//!
//! Records that are kept are copied as they were encoded. The delete horizon (KIP-534), from which on tombstones and
//! transaction markers may go, takes the place of the base timestamp and sets a bit of the attributes; timestamps are then
//! encoded against it.

use bytes::{BufMut, Bytes};

use super::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use super::builder::{put_varint, varint_len};
use super::record::{Record, RecordIter, records, records_in};
use super::{Compression, RecordsError, TimestampType, compress};

const NO_TIMESTAMP: i64 = -1;

/// The records of one batch, decompressed once, to be gone over several times. One record is taken out at a time: memory is
/// what they decompress to, however many they are.
#[derive(Debug)]
pub struct OpenBatch {
    header: BatchHeader,
    records: Bytes,
}

/// Which records of a batch are kept: a bit for each, in their order.
#[derive(Debug, Default)]
pub struct KeptRecords {
    bits: Vec<u64>,
    seen: usize,
    kept: usize,
}

/// A record together with its encoding.
pub(super) struct RawRecord {
    pub(super) record: Record,
    /// As in the batch, its length included.
    pub(super) encoded: Bytes,
    /// What follows the timestamp.
    pub(super) behind_timestamp: Bytes,
    pub(super) attributes: u8,
}

impl KeptRecords {
    /// Says whether the next record is kept.
    pub fn push(&mut self, keep: bool) {
        let bit = self.seen % 64;
        if bit == 0 {
            self.bits.push(0);
        }
        if let Some(last) = self.bits.last_mut() {
            *last |= u64::from(keep) << bit;
        }
        self.seen += 1;
        self.kept += usize::from(keep);
    }

    /// How many are kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Whether every record is kept.
    pub fn is_all(&self) -> bool {
        self.kept == self.seen
    }

    fn contains(&self, at: usize) -> bool {
        self.bits.get(at / 64).is_some_and(|bits| bits >> (at % 64) & 1 == 1)
    }
}

impl OpenBatch {
    /// Opens one whole batch. `max_decompressed` as in [`super::records`].
    pub fn of(header: &BatchHeader, batch: &Bytes, max_decompressed: usize) -> Result<OpenBatch, RecordsError> {
        Ok(OpenBatch { header: *header, records: records(header, batch, max_decompressed)?.rest() })
    }

    pub fn records(&self) -> RecordIter {
        records_in(&self.header, self.records.clone())
    }

    /// The records that are kept.
    pub fn kept<'a>(&self, kept: &'a KeptRecords) -> impl Iterator<Item = Result<Record, RecordsError>> + use<'a> {
        let numbered = self.records().enumerate();
        numbered.filter(|(at, record)| record.is_err() || kept.contains(*at)).map(|(_, record)| record)
    }

    /// The batch with only the records that are kept; none at all leaves a header that still says which offsets and sequence
    /// numbers the batch had. With `delete_horizon_ms` the batch gets that horizon.
    pub fn with_only(&self, kept: &KeptRecords, delete_horizon_ms: Option<i64>) -> Result<Bytes, RecordsError> {
        let (mut wanted, mut newest_ms) = (0, None);
        self.each_kept(kept, |raw| {
            wanted += raw.len_against(delete_horizon_ms);
            newest_ms = newest_ms.max(Some(raw.record.timestamp));
        })?;
        let codec = if kept.kept() == 0 { Compression::None } else { self.header.compression() };
        let mut bytes = Vec::new();
        match codec {
            Compression::None => {
                bytes.reserve_exact(BATCH_HEADER_BYTES + wanted);
                bytes.resize(BATCH_HEADER_BYTES, 0);
                self.each_kept(kept, |raw| raw.put_against(&mut bytes, delete_horizon_ms))?;
            }
            codec => {
                let mut records = Vec::with_capacity(wanted);
                self.each_kept(kept, |raw| raw.put_against(&mut records, delete_horizon_ms))?;
                let compressed = compress(codec, &records);
                drop(records);
                bytes.reserve_exact(BATCH_HEADER_BYTES + compressed.len());
                bytes.resize(BATCH_HEADER_BYTES, 0);
                bytes.extend_from_slice(&compressed);
            }
        }
        let none = kept.kept() == 0;
        let header = BatchHeader {
            batch_length: i32::try_from(bytes.len() - batch::LENGTH_END).expect("a batch is smaller than 2 GiB"),
            attributes: batch::rewritten_attributes(&self.header, codec, delete_horizon_ms.is_some(), none),
            base_timestamp: match delete_horizon_ms {
                _ if none => NO_TIMESTAMP,
                Some(horizon_ms) => horizon_ms,
                None => self.header.base_timestamp,
            },
            max_timestamp: match (self.header.timestamp_type(), newest_ms) {
                (TimestampType::CreateTime, Some(newest_ms)) => newest_ms,
                _ => self.header.max_timestamp,
            },
            record_count: i32::try_from(kept.kept()).expect("no more than the batch had"),
            ..self.header
        };
        header.write(bytes.first_chunk_mut().expect("it starts with room for the header"));
        batch::write_crc(&mut bytes);
        Ok(bytes.into())
    }

    fn each_kept(&self, kept: &KeptRecords, mut each: impl FnMut(&RawRecord)) -> Result<(), RecordsError> {
        let mut records = self.records();
        let mut at = 0;
        while let Some(raw) = records.next_raw() {
            let raw = raw?;
            if kept.contains(at) {
                each(&raw);
            }
            at += 1;
        }
        Ok(())
    }
}

impl RawRecord {
    /// The bytes that it takes as it is, or against another base timestamp.
    fn len_against(&self, base_timestamp: Option<i64>) -> usize {
        match base_timestamp {
            None => self.encoded.len(),
            Some(base_ms) => {
                let length = self.behind_length(base_ms);
                varint_len(length as i64) + length
            }
        }
    }

    fn put_against(&self, out: &mut Vec<u8>, base_timestamp: Option<i64>) {
        match base_timestamp {
            None => out.put_slice(&self.encoded),
            Some(base_ms) => {
                put_varint(out, self.behind_length(base_ms) as i64);
                out.put_u8(self.attributes);
                put_varint(out, self.record.timestamp.wrapping_sub(base_ms));
                out.put_slice(&self.behind_timestamp);
            }
        }
    }

    /// What its length says: all that follows it.
    fn behind_length(&self, base_ms: i64) -> usize {
        1 + varint_len(self.record.timestamp.wrapping_sub(base_ms)) + self.behind_timestamp.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BatchBuilder, Header, records, set_log_append_time, verify_crc};

    fn sample(codec: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(codec).base_offset(100).leader_epoch(4).producer(7, 2, 50);
        let header = Header { key: "h".into(), value: Some(Bytes::from_static(b"x")) };
        builder.add(Some(b"a"), Some(b"1"), 1_000, &[header]);
        builder.add(Some(b"b"), None, 900, &[]);
        builder.add(Some(b"c"), Some(&vec![9; 300]), 5_000, &[]);
        builder.build()
    }

    fn read(batch: &Bytes) -> (BatchHeader, Vec<Record>) {
        verify_crc(batch).unwrap();
        let header = BatchHeader::parse(batch).unwrap();
        (header, records(&header, batch, 1 << 20).unwrap().collect::<Result<_, _>>().unwrap())
    }

    fn keeping(batch: &Bytes, keep: impl Fn(usize) -> bool, horizon: Option<i64>) -> Bytes {
        let header = BatchHeader::parse(batch).unwrap();
        let open = OpenBatch::of(&header, batch, 1 << 20).unwrap();
        let mut kept = KeptRecords::default();
        (0..open.records().count()).for_each(|at| kept.push(keep(at)));
        let rewritten = open.with_only(&kept, horizon).unwrap();
        let left: Vec<Record> = open.kept(&kept).collect::<Result<_, _>>().unwrap();
        assert_eq!(read(&rewritten).1, left);
        rewritten
    }

    #[test]
    fn what_is_kept_says_what_it_said_in_every_codec() {
        for codec in Compression::ALL {
            for horizon in [None, Some(86_400_000)] {
                let batch = sample(codec);
                let (_, all) = read(&batch);
                let (after, left) = read(&keeping(&batch, |at| at != 2, horizon));
                assert_eq!(left, all[..2], "{codec:?}");
                assert_eq!(after.delete_horizon_ms(), horizon);
                assert_eq!((after.base_offset, after.last_offset(), after.max_timestamp), (100, 102, 1_000));
                assert_eq!((after.producer_id, after.producer_epoch), (7, 2));
                assert_eq!((after.base_sequence, after.last_sequence()), (50, 52));
                assert_eq!((after.compression(), after.partition_leader_epoch), (codec, 4));
            }
        }
    }

    #[test]
    fn a_horizon_once_set_stays_when_more_records_go() {
        let batch = sample(Compression::Zstd);
        let batch = keeping(&batch, |_| true, Some(77));
        let (after, left) = read(&keeping(&batch, |at| at > 0, None));
        assert_eq!(after.delete_horizon_ms(), Some(77));
        assert_eq!(left.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [900, 5_000]);
    }

    #[test]
    fn without_records_the_header_keeps_offsets_and_sequence_numbers() {
        let empty = keeping(&sample(Compression::Gzip), |_| false, None);
        assert_eq!(empty.len(), BATCH_HEADER_BYTES);
        let (after, left) = read(&empty);
        assert!(left.is_empty());
        assert_eq!((after.base_offset, after.last_offset(), after.last_sequence()), (100, 102, 52));
        assert_eq!((after.compression(), after.record_count), (Compression::None, 0));
        assert_eq!((after.base_timestamp, after.max_timestamp, after.delete_horizon_ms()), (-1, 5_000, None));
    }

    #[test]
    fn under_log_append_time_records_keep_the_time_of_the_batch() {
        let mut stamped = sample(Compression::Lz4).to_vec();
        set_log_append_time(&mut stamped, 70_000);
        let stamped = Bytes::from(stamped);
        for horizon in [None, Some(90_000)] {
            let (after, left) = read(&keeping(&stamped, |at| at == 0, horizon));
            assert_eq!((after.max_timestamp, after.timestamp_type()), (70_000, TimestampType::LogAppendTime));
            assert_eq!(left[0].timestamp, 70_000);
        }
    }
}
