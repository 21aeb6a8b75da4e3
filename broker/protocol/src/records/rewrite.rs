//! A batch with some of its records taken out, as log compaction leaves it: offsets, producer fields and codec stay.
//!
//! Records that are kept are copied as they were encoded. The delete horizon (KIP-534), from which on tombstones and
//! transaction markers may go, takes the place of the base timestamp and sets a bit of the attributes; timestamps are then
//! encoded against it.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use super::builder::{put_varint, varint_len};
use super::record::{Record, raw_records};
use super::{Compression, RecordsError, TimestampType, compress};

const NO_TIMESTAMP: i64 = -1;

/// A record together with its encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRecord {
    pub record: Record,
    /// As in the batch, its length included.
    pub(super) encoded: Bytes,
    /// What follows the timestamp.
    pub(super) behind_timestamp: Bytes,
    pub(super) attributes: u8,
}

/// All records of one whole batch with their encodings. `max_decompressed` as in [`super::records`].
pub fn records_to_keep_or_drop(
    header: &BatchHeader,
    batch: &Bytes,
    max_decompressed: usize,
) -> Result<Vec<RawRecord>, RecordsError> {
    raw_records(header, batch, max_decompressed)
}

/// The batch of `header` with only `kept` of its records, in their order; none at all leaves a header that still says
/// which offsets and sequence numbers the batch had. With `delete_horizon_ms` the batch gets that horizon.
pub fn batch_of_kept(header: &BatchHeader, kept: &[RawRecord], delete_horizon_ms: Option<i64>) -> Bytes {
    let mut records = BytesMut::new();
    for raw in kept {
        match delete_horizon_ms {
            None => records.put_slice(&raw.encoded),
            Some(horizon_ms) => put_against(&mut records, raw, horizon_ms),
        }
    }
    let codec = if kept.is_empty() { Compression::None } else { header.compression() };
    let compressed = match codec {
        Compression::None => records.freeze(),
        codec => compress(codec, &records).into(),
    };
    let newest_ms = kept.iter().map(|raw| raw.record.timestamp).max();
    let header = BatchHeader {
        batch_length: i32::try_from(BATCH_HEADER_BYTES - batch::LENGTH_END + compressed.len())
            .expect("a batch is smaller than 2 GiB"),
        attributes: batch::rewritten_attributes(header, codec, delete_horizon_ms.is_some(), kept.is_empty()),
        base_timestamp: match delete_horizon_ms {
            _ if kept.is_empty() => NO_TIMESTAMP,
            Some(horizon_ms) => horizon_ms,
            None => header.base_timestamp,
        },
        max_timestamp: match (header.timestamp_type(), newest_ms) {
            (TimestampType::CreateTime, Some(newest_ms)) => newest_ms,
            _ => header.max_timestamp,
        },
        record_count: i32::try_from(kept.len()).expect("no more than the batch had"),
        ..*header
    };
    let mut bytes = vec![0; BATCH_HEADER_BYTES];
    bytes.reserve_exact(compressed.len());
    bytes.extend_from_slice(&compressed);
    header.write(bytes.first_chunk_mut().expect("it starts with room for the header"));
    batch::write_crc(&mut bytes);
    bytes.into()
}

fn put_against(out: &mut BytesMut, raw: &RawRecord, base_timestamp: i64) {
    let delta = raw.record.timestamp.wrapping_sub(base_timestamp);
    put_varint(out, (1 + varint_len(delta) + raw.behind_timestamp.len()) as i64);
    out.put_u8(raw.attributes);
    put_varint(out, delta);
    out.put_slice(&raw.behind_timestamp);
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

    #[test]
    fn what_is_kept_says_what_it_said_in_every_codec() {
        for codec in Compression::ALL {
            for horizon in [None, Some(86_400_000)] {
                let batch = sample(codec);
                let (before, all) = read(&batch);
                let mut kept = records_to_keep_or_drop(&before, &batch, 1 << 20).unwrap();
                kept.remove(2);
                let (after, left) = read(&batch_of_kept(&before, &kept, horizon));
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
        let header = BatchHeader::parse(&batch).unwrap();
        let all = records_to_keep_or_drop(&header, &batch, 1 << 20).unwrap();
        let batch = batch_of_kept(&header, &all, Some(77));
        let header = BatchHeader::parse(&batch).unwrap();
        let again = records_to_keep_or_drop(&header, &batch, 1 << 20).unwrap();
        let (after, left) = read(&batch_of_kept(&header, &again[1..], None));
        assert_eq!(after.delete_horizon_ms(), Some(77));
        assert_eq!(left.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [900, 5_000]);
    }

    #[test]
    fn without_records_the_header_keeps_offsets_and_sequence_numbers() {
        let (before, _) = read(&sample(Compression::Gzip));
        let empty = batch_of_kept(&before, &[], None);
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
        let header = BatchHeader::parse(&stamped).unwrap();
        let kept = records_to_keep_or_drop(&header, &stamped, 1 << 20).unwrap();
        for horizon in [None, Some(90_000)] {
            let (after, left) = read(&batch_of_kept(&header, &kept[..1], horizon));
            assert_eq!((after.max_timestamp, after.timestamp_type()), (70_000, TimestampType::LogAppendTime));
            assert_eq!(left[0].timestamp, 70_000);
        }
    }
}
