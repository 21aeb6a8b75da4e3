use bytes::Bytes;
use proptest::prelude::*;
use seawall_metadata::{Incarnation, ObjectId, StreamId};
use uuid::Uuid;

use super::*;
use crate::log_cache::{BatchBytes, BatchEntry, BatchProducer};

const OBJECT: ObjectId = ObjectId(0x0102_0304_0506_0708);
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(0xA0A1_A2A3_A4A5_A6A7_A8A9_AAAB_ACAD_AEAF));
const GOLDEN: &[u8] = include_bytes!("golden_v1.object");

#[test]
fn what_is_encoded_decodes_to_the_same_index_and_the_same_bytes() {
    let object = small_object();
    let bytes = contiguous(&object);
    assert_eq!(bytes.len() as u64, object.bytes);
    let footer = read_footer(&bytes, OBJECT, INCARNATION, object.bytes).unwrap();
    let index = decode_index(&bytes, &footer).unwrap();
    assert_eq!(index, object.index);
    // Stream 7 changes its leader epoch after the second batch, so it has two blocks.
    let blocks: Vec<_> = index.blocks().iter().map(|block| (block.stream.0, block.base, block.end)).collect();
    assert_eq!(blocks, [(7, 100, 120), (7, 120, 130), (9, 0, 3)]);
    for block in index.blocks() {
        block.verify(&bytes[block.span().start as usize..block.span().end as usize]).unwrap();
    }
    assert_eq!(object.ranges[0].epochs, [(1, 100), (2, 120)]);
    assert_eq!((object.ranges[0].base, object.ranges[0].end, object.ranges[0].records), (100, 130, 30));
    let producers = decode_producers(&section(&bytes, &footer, SectionKind::ProducerState)).unwrap();
    assert_eq!(producers.len(), 1);
    assert_eq!(producers[0].end, 130);
    assert_eq!(producers[0].producers[0].batches.len(), 2);
    let aborted = decode_aborted(&section(&bytes, &footer, SectionKind::AbortedTransactions)).unwrap();
    assert_eq!(aborted.len(), 1);
}

/// Set `SEAWALL_WRITE_GOLDEN=1` to write the file anew, which only a new format version may need.
#[test]
fn the_golden_object_of_version_1_is_still_written_and_read() {
    let bytes = contiguous(&small_object());
    if std::env::var_os("SEAWALL_WRITE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/object_format/golden_v1.object"), &bytes).unwrap();
        return;
    }
    assert!(bytes == GOLDEN, "the encoding of version 1 changed");
    let footer = read_footer(GOLDEN, OBJECT, INCARNATION, GOLDEN.len() as u64).unwrap();
    assert_eq!(decode_index(GOLDEN, &footer).unwrap().blocks().len(), 3);
}

#[test]
fn checksums_are_crc_32c() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}

#[test]
fn no_record_byte_is_copied_by_encoding() {
    let batch = Bytes::from(vec![5u8; 300]);
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    builder.add_batch(StreamId(1), &entry(0, 9, 1, 300), &BatchBytes::from(batch.clone()));
    let object = builder.finish();
    assert_eq!(object.segments[0].as_ptr(), batch.as_ptr());
}

#[test]
fn blocks_stay_under_their_target_unless_one_batch_is_larger() {
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    for (base, bytes) in (0i64..).zip([200_000, 200_000, 200_000, 900_000, 100, 100]) {
        let data = Bytes::from(vec![base as u8; bytes]);
        builder.add_batch(StreamId(1), &entry(base, base, 1, bytes as u32), &data.into());
    }
    let lengths: Vec<u32> = builder.finish().index.blocks().iter().map(|block| block.bytes).collect();
    assert_eq!(lengths, [400_000, 200_000, 900_000, 200]);
}

#[test]
fn a_changed_byte_anywhere_is_an_error() {
    let object = small_object();
    let good = contiguous(&object);
    for at in 0..good.len() {
        for bit in [0x01, 0x80] {
            let mut bytes = good.clone();
            bytes[at] ^= bit;
            assert!(read_everything(&bytes, good.len() as u64).is_err(), "byte {at} changed by {bit:#x} unnoticed");
        }
    }
    read_everything(&good, good.len() as u64).unwrap();
}

#[test]
fn a_shortened_object_is_an_error() {
    let good = contiguous(&small_object());
    for length in 0..good.len() {
        assert!(read_everything(&good[..length], length as u64).is_err());
        assert!(read_everything(&good[..length], good.len() as u64).is_err());
    }
}

#[test]
fn another_objects_bytes_are_refused() {
    let bytes = contiguous(&small_object());
    let other = Incarnation(Uuid::from_u128(1));
    assert!(matches!(
        read_footer(&bytes, ObjectId(1), INCARNATION, bytes.len() as u64),
        Err(FormatError::OtherObject(_))
    ));
    assert!(matches!(read_footer(&bytes, OBJECT, other, bytes.len() as u64), Err(FormatError::OtherObject(_))));
}

#[test]
fn an_object_of_a_newer_version_is_named_as_such() {
    let mut bytes = contiguous(&small_object());
    let version_at = bytes.len() - 14;
    bytes[version_at] = 2;
    assert_eq!(
        read_footer(&bytes, OBJECT, INCARNATION, bytes.len() as u64),
        Err(FormatError::NewerFormat { found: 2 })
    );
}

#[test]
fn offsets_and_times_are_found_in_the_index() {
    let index = small_object().index;
    assert_eq!(index.find_offset(StreamId(7), 0), Some(0));
    assert_eq!(index.find_offset(StreamId(7), 119), Some(0));
    assert_eq!(index.find_offset(StreamId(7), 120), Some(1));
    assert_eq!(index.find_offset(StreamId(7), 130), None);
    assert_eq!(index.find_offset(StreamId(8), 0), None);
    // Block 0 reaches time 2110, block 1 only 1120.
    assert_eq!(index.find_timestamp(StreamId(7), 1, 0), Some(0));
    assert_eq!(index.find_timestamp(StreamId(7), 2110, 0), Some(0));
    assert_eq!(index.find_timestamp(StreamId(7), 1000, 120), Some(1));
    assert_eq!(index.find_timestamp(StreamId(7), 2000, 120), None);
    assert_eq!(index.find_timestamp(StreamId(7), 2111, 0), None);
}

#[test]
fn a_full_producer_state_replaces_the_delta() {
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    builder.add_batch(StreamId(1), &entry(0, 9, 1, 10), &Bytes::from_static(&[0; 10]).into());
    let full = crate::producer_state::ProducerSnapshot { producer_id: 77, producer_epoch: 1, batches: vec![] };
    builder.full_producers(StreamId(1), vec![full.clone()]);
    let object = builder.finish();
    let bytes = contiguous(&object);
    let footer = read_footer(&bytes, OBJECT, INCARNATION, object.bytes).unwrap();
    let streams = decode_producers(&section(&bytes, &footer, SectionKind::ProducerState)).unwrap();
    assert_eq!(streams, [StreamProducers { stream: StreamId(1), end: 10, full: true, producers: vec![full] }]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), data_bytes in any::<u64>()) {
        let _ = read_footer(&bytes, OBJECT, INCARNATION, bytes.len() as u64);
        let _ = ObjectIndex::decode(&bytes, data_bytes);
        let _ = decode_producers(&bytes);
        let _ = decode_aborted(&bytes);
    }

    #[test]
    fn sections_with_changed_bytes_never_panic(at in 0usize..600, value in any::<u8>(), length in 0usize..600) {
        let mut bytes = contiguous(&small_object());
        let footer = read_footer(&bytes, OBJECT, INCARNATION, bytes.len() as u64).unwrap();
        let start = footer.sections_start() as usize;
        let at = start + at % (bytes.len() - start);
        bytes[at] = value;
        for part in &footer.sections {
            let mut part = section(&bytes, &footer, part.kind).to_vec();
            part.truncate(length);
            let _ = ObjectIndex::decode(&part, footer.data_bytes);
            let _ = decode_producers(&part);
            let _ = decode_aborted(&part);
        }
        let _ = read_everything(&bytes, bytes.len() as u64);
    }
}

fn read_everything(bytes: &[u8], object_bytes: u64) -> Result<(), FormatError> {
    let footer = read_footer(bytes, OBJECT, INCARNATION, object_bytes)?;
    for part in &footer.sections {
        let section = section(bytes, &footer, part.kind);
        if crc32c(&section) != part.crc {
            return Err(FormatError::Checksum("section"));
        }
    }
    let index = decode_index(bytes, &footer)?;
    for block in index.blocks() {
        block.verify(&bytes[block.span().start as usize..block.span().end as usize])?;
    }
    decode_producers(&section(bytes, &footer, SectionKind::ProducerState))?;
    decode_aborted(&section(bytes, &footer, SectionKind::AbortedTransactions))?;
    Ok(())
}

fn decode_index(bytes: &[u8], footer: &Footer) -> Result<ObjectIndex, FormatError> {
    ObjectIndex::decode(&section(bytes, footer, SectionKind::Index), footer.data_bytes)
}

fn section(bytes: &[u8], footer: &Footer, kind: SectionKind) -> Vec<u8> {
    let section = footer.section(kind).unwrap();
    bytes[section.position as usize..(section.position + section.bytes) as usize].to_vec()
}

fn small_object() -> EncodedObject {
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    let producer = |base_sequence, last_sequence| {
        Some(BatchProducer { producer_id: 4000, producer_epoch: 3, base_sequence, last_sequence })
    };
    let first = BatchEntry { producer: producer(0, 9), ..entry(100, 109, 1, 40) };
    let second = BatchEntry { producer: producer(10, 19), max_timestamp: 2110, ..entry(110, 119, 1, 50) };
    builder.add_batch(StreamId(7), &first, &Bytes::from(vec![1; 40]).into());
    builder.add_batch(StreamId(7), &second, &BatchBytes::two(Bytes::from(vec![2; 20]), Bytes::from(vec![3; 30])));
    builder.add_batch(StreamId(7), &entry(120, 129, 2, 60), &Bytes::from(vec![4; 60]).into());
    builder.add_batch(StreamId(9), &entry(0, 2, 1, 70), &Bytes::from(vec![5; 70]).into());
    builder.add_aborted(AbortedTransaction {
        stream: StreamId(7),
        producer_id: 4000,
        first_offset: 100,
        last_offset: 119,
        last_stable_offset: 120,
    });
    builder.finish()
}

fn entry(base: i64, last: i64, leader_epoch: i32, bytes: u32) -> BatchEntry {
    let record_count = (last - base + 1) as u32;
    BatchEntry { base, last, leader_epoch, max_timestamp: 1000 + base, record_count, bytes, producer: None }
}

fn contiguous(object: &EncodedObject) -> Vec<u8> {
    object.segments.iter().flat_map(|segment| segment.iter().copied()).collect()
}
