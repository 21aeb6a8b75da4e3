//! A batch of millions of records is taken apart and put together again in a few times the bytes that it decompresses to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "common/counting.rs"]
mod counting;

use bytes::Bytes;
use counting::{Counting, measure};
use seawall_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Compression, KeptRecords, OpenBatch, compress, records,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: usize = 2_000_000;
/// Length, attributes, timestamp, offset, key of one byte, no value, no headers.
const RECORD: [u8; 8] = [14, 0, 0, 0, 2, b'k', 1, 0];

/// What no client of ours writes and everybody can send: all records alike, a few hundred bytes in all.
fn of_many_records(codec: Compression) -> Bytes {
    let one = BatchBuilder::new(codec).base_offset(100).add(Some(b"k"), None, 5, &[]).build();
    let body = compress(codec, &RECORD.repeat(RECORDS));
    let mut batch = one[..BATCH_HEADER_BYTES].to_vec();
    batch[8..12].copy_from_slice(&(BATCH_HEADER_BYTES as i32 - 12 + body.len() as i32).to_be_bytes());
    batch[23..27].copy_from_slice(&(RECORDS as i32 - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&(RECORDS as i32).to_be_bytes());
    batch.extend_from_slice(&body);
    batch.into()
}

#[test]
fn records_are_dropped_from_a_batch_of_millions_in_a_few_times_its_bytes() {
    const MAX: usize = 64 << 20;
    let batch = of_many_records(Compression::Zstd);
    assert!(batch.len() < 10_000, "{}", batch.len());
    let header = BatchHeader::parse(&batch).unwrap();
    let (rewritten, allocated) = measure(|| {
        let open = OpenBatch::of(&header, &batch, MAX).unwrap();
        let mut kept = KeptRecords::default();
        for (at, record) in open.records().enumerate() {
            assert!(record.unwrap().value.is_none());
            kept.push(at % 3 > 0);
        }
        let rewritten = open.with_only(&kept, Some(7)).unwrap();
        let after = BatchHeader::parse(&rewritten).unwrap();
        assert!(records(&after, &rewritten, MAX).unwrap().eq(open.kept(&kept)));
        rewritten
    });
    let records_bytes = RECORDS * RECORD.len();
    println!("{records_bytes} bytes in {} compressed: peak {}", batch.len(), allocated.peak);
    assert!(allocated.peak < 3 * records_bytes, "{} for {records_bytes}", allocated.peak);
    let after = BatchHeader::parse(&rewritten).unwrap();
    assert_eq!(
        (after.record_count, after.last_offset()),
        ((RECORDS - RECORDS.div_ceil(3)) as i32, header.last_offset())
    );
}
