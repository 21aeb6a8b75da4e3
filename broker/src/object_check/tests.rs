use std::sync::Mutex;

use seawall_backends::Segments;
use seawall_backends::memory::MemoryBackend;
use seawall_metadata::StreamId;
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression};
use uuid::Uuid;

use super::*;
use crate::log_cache::{BatchBytes, BatchEntry, BatchProducer};
use crate::object_format::ObjectBuilder;

const OBJECT: ObjectId = ObjectId(7);
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(9));

struct Unpaced;

impl Pacing for Unpaced {
    async fn before_read(&mut self, _: u64) {}
}

/// Two streams of real batches; the second one's has a producer.
pub(crate) fn object_of(batches: i64) -> Vec<u8> {
    let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
    for stream in [StreamId(1), StreamId(2)] {
        for base in 0..batches {
            let mut batch = BatchBuilder::new(Compression::None).base_offset(base).leader_epoch(3);
            batch.add(None, Some(&vec![base as u8; 2_000]), 1_000 + base, &[]);
            add(&mut builder, stream, batch.build());
        }
    }
    builder.add_aborted(AbortedTransaction {
        stream: StreamId(1),
        producer_id: 4,
        first_offset: 0,
        last_offset: 1,
        last_stable_offset: 2,
    });
    bytes_of(builder)
}

fn add(builder: &mut ObjectBuilder, stream: StreamId, batch: Bytes) {
    let header = BatchHeader::parse(&batch).unwrap();
    let entry = BatchEntry {
        base: header.base_offset,
        last: header.last_offset(),
        leader_epoch: 3,
        max_timestamp: header.max_timestamp,
        record_count: header.record_count as u32,
        bytes: batch.len() as u32,
        producer: Some(BatchProducer { producer_id: 5, producer_epoch: 0, base_sequence: 0, last_sequence: 0 }),
    };
    builder.add_batch(stream, &entry, &BatchBytes::from(batch));
}

fn bytes_of(builder: ObjectBuilder) -> Vec<u8> {
    Segments::new(builder.finish().segments).into_bytes().to_vec()
}

async fn looked_at(bytes: Vec<u8>, depth: Depth) -> Result<Look, LookError> {
    let (backend, key) = (MemoryBackend::new(), ObjectKey::new("x").unwrap());
    let length = bytes.len() as u64;
    backend.put(&key, Segments::new(vec![bytes.into()]), Purpose::Upload).await.unwrap();
    let source = Source::Store { backend: &backend, key: &key, purpose: Purpose::Scrub };
    look(&source, length, Some((OBJECT, INCARNATION)), depth, &mut Unpaced).await
}

#[tokio::test]
async fn a_whole_object_is_whole() {
    let look = looked_at(object_of(600), Depth::Everything).await.unwrap();
    assert_eq!((look.damaged_parts, look.batches, look.records), (0, 1_200, 1_200), "{:?}", look.damage);
    assert!(look.blocks >= 6, "{} blocks", look.blocks);
    assert_eq!((look.producers.unwrap().len(), look.aborted.unwrap().len()), (2, 1));
    let shallow = looked_at(object_of(600), Depth::Sections).await.unwrap();
    assert!(shallow.damaged_parts == 0 && shallow.blocks == 0 && shallow.read_bytes <= 64 << 10);
}

#[tokio::test]
async fn a_flipped_bit_is_found_in_every_part() {
    let good = object_of(300);
    let footer = looked_at(good.clone(), Depth::Sections).await.unwrap().footer.unwrap();
    let place = |kind| footer.section(kind).unwrap().position as usize + 3;
    for (at, part) in [
        (5, "data block"),
        (footer.data_bytes as usize - 1, "data block"),
        (place(SectionKind::Index), "index"),
        (place(SectionKind::ProducerState), "producer state"),
        (place(SectionKind::AbortedTransactions), "aborted transactions"),
        (good.len() - 100, "footer"),
        (good.len() - 3, "footer"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 16;
        let look = looked_at(bytes, Depth::Everything).await.unwrap();
        assert_eq!((look.damaged_parts, look.damage[0].part), (1, part), "{at}: {:?}", look.damage);
    }
}

/// One byte short, half of it, nothing, and something else.
#[tokio::test]
async fn what_is_cut_short_or_foreign_is_no_object() {
    let good = object_of(30);
    let half = good.len() / 2;
    for bytes in [good[..good.len() - 1].to_vec(), good[1..].to_vec(), good[..half].to_vec(), vec![], vec![7; 70_000]] {
        let length = bytes.len();
        let look = looked_at(bytes, Depth::Everything).await.unwrap();
        assert_eq!((look.damaged_parts, look.damage[0].part), (1, "footer"), "{length} bytes: {:?}", look.damage);
    }
}

#[tokio::test]
async fn another_object_under_its_key_is_damage_and_a_newer_format_is_not() {
    let (backend, key) = (MemoryBackend::new(), ObjectKey::new("x").unwrap());
    let mut bytes = object_of(3);
    let length = bytes.len() as u64;
    backend.put(&key, Segments::new(vec![bytes.clone().into()]), Purpose::Upload).await.unwrap();
    let source = Source::Store { backend: &backend, key: &key, purpose: Purpose::Scrub };
    let other = Some((ObjectId(8), INCARNATION));
    let seen = look(&source, length, other, Depth::Sections, &mut Unpaced).await.unwrap();
    assert!(seen.damage[0].why.contains("another id"), "{:?}", seen.damage);
    let any = look(&source, length, None, Depth::Everything, &mut Unpaced).await.unwrap();
    assert_eq!((any.damaged_parts, any.footer.unwrap().object), (0, OBJECT));
    let version = bytes.len() - 14;
    bytes[version] = 2;
    assert!(matches!(looked_at(bytes, Depth::Sections).await, Err(LookError::NewerFormat { found: 2 })));
}

/// The CRC of the block is right: what is wrong is what it was told to hold.
#[tokio::test]
async fn an_index_that_tells_of_other_batches_than_there_are_is_found() {
    let batch = |base: i64| {
        let mut batch = BatchBuilder::new(Compression::None).base_offset(base).leader_epoch(3);
        batch.add(None, Some(b"v"), 1_000, &[]);
        batch.build()
    };
    let entry = |base, last, max_timestamp, record_count| BatchEntry {
        base,
        last,
        leader_epoch: 3,
        max_timestamp,
        record_count,
        bytes: batch(0).len() as u32,
        producer: None,
    };
    for (told, word) in [
        (entry(10, 10, 1_000, 1), "whole"),
        (entry(11, 11, 1_000, 1), "comes where 11"),
        (entry(9, 10, 1_000, 1), "hold offsets 10 to 11"),
        (entry(10, 12, 1_000, 1), "hold offsets 10 to 11"),
        (entry(10, 10, 1_001, 1), "up to timestamp 1000"),
        (entry(10, 10, 1_000, 2), "hold 1 records"),
        (BatchEntry { leader_epoch: 2, ..entry(10, 10, 1_000, 1) }, "of leader epoch 3"),
    ] {
        let mut builder = ObjectBuilder::new(OBJECT, INCARNATION);
        builder.add_batch(StreamId(1), &told, &BatchBytes::from(batch(10)));
        let look = looked_at(bytes_of(builder), Depth::Everything).await.unwrap();
        match look.damage.first() {
            None => assert_eq!(word, "whole"),
            Some(damage) => assert!(damage.why.contains(word), "{word}: {damage:?}"),
        }
    }
}

/// Reads go wrong once.
struct WrongOnce<'a>(&'a MemoryBackend, &'a ObjectKey, Mutex<Option<Vec<u8>>>);

impl Pacing for &WrongOnce<'_> {
    async fn before_read(&mut self, _: u64) {
        let good = self.2.lock().unwrap().take();
        if let Some(good) = good {
            let mut bad = good.clone();
            *bad.last_mut().unwrap() ^= 1;
            self.0.put(self.1, Segments::new(vec![bad.into()]), Purpose::Upload).await.unwrap();
        } else {
            self.0.put(self.1, Segments::new(vec![object_of(3).into()]), Purpose::Upload).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_arrived_wrong_once_is_no_damage() {
    let (backend, key) = (MemoryBackend::new(), ObjectKey::new("x").unwrap());
    let bytes = object_of(3);
    let length = bytes.len() as u64;
    let wrong = WrongOnce(&backend, &key, Mutex::new(Some(bytes)));
    let source = Source::Store { backend: &backend, key: &key, purpose: Purpose::Scrub };
    let expected = Some((OBJECT, INCARNATION));
    let seen = look_twice(&source, length, expected, Depth::Everything, &mut &wrong).await.unwrap();
    assert_eq!(seen.damaged_parts, 0, "{:?}", seen.damage);
}
