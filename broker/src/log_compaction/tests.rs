//! The cleaner against a plain model: rounds over random logs, and stories about tombstones, producers and transactions.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use seawall_metadata::StreamId;
use seawall_protocol::records::{BatchBuilder, BatchHeader, Compression, Header, records, split_batches};

use super::*;
use crate::object_format::AbortedTransaction;

const RETENTION_MS: i64 = 100;
const DECOMPRESSED_BYTES_MAX: usize = 1 << 20;

type Log = Vec<(BatchHeader, Bytes)>;
/// Offset, key, value, timestamp.
type Left = Vec<(i64, Option<Vec<u8>>, Option<Vec<u8>>, i64)>;

fn left(log: &Log) -> Left {
    let mut left = Vec::new();
    for (header, batch) in log {
        for record in records(header, batch, DECOMPRESSED_BYTES_MAX).unwrap() {
            let record = record.unwrap();
            let bytes = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.to_vec());
            left.push((record.offset, bytes(record.key), bytes(record.value), record.timestamp));
        }
    }
    left
}

/// What a log is cleaned with.
struct Round {
    map_keys: usize,
    first_dirty: i64,
    dirty_end: i64,
    now_ms: i64,
    aborted: Vec<AbortedTransaction>,
    producers: BTreeMap<i64, LastOfProducer>,
}

impl Round {
    fn of(log: &Log) -> Round {
        Round {
            map_keys: 1_000,
            first_dirty: 0,
            dirty_end: log.last().map_or(0, |(header, _)| header.last_offset() + 1),
            now_ms: 0,
            aborted: Vec::new(),
            producers: BTreeMap::new(),
        }
    }

    /// The cleaned log, and up to where it is clean.
    fn run(&self, log: &Log) -> (Log, i64) {
        let mut map = OffsetMap::new((self.map_keys + 1) * 24, 1.0);
        map.read_up_to(self.first_dirty - 1);
        let dirty: Vec<AbortedTransaction> =
            self.aborted.iter().copied().filter(|transaction| transaction.last_offset >= self.first_dirty).collect();
        let mut indexer = Indexer {
            map: &mut map,
            first_dirty: self.first_dirty,
            transactions: TransactionIndex::new(dirty),
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            records: 0,
        };
        for (header, batch) in log {
            if header.last_offset() < self.first_dirty {
                continue;
            }
            if header.base_offset >= self.dirty_end || indexer.add(header, batch).unwrap() == Indexing::Full {
                break;
            }
        }
        let round_end = map.latest() + 1;
        let mut cleaner = Cleaner {
            rules: CleanRules {
                map: &map,
                now_ms: self.now_ms,
                delete_retention_ms: RETENTION_MS,
                last_of_producers: &self.producers,
                decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            },
            transactions: TransactionIndex::new(self.aborted.clone()),
            statistics: CleanStatistics::default(),
        };
        let mut cleaned = Vec::new();
        for (header, batch) in log {
            if header.base_offset >= round_end {
                cleaned.push((*header, batch.clone()));
                continue;
            }
            let held = header.last_offset() + 1 == round_end;
            if let Some(batch) = cleaner.clean(header, batch, held).unwrap() {
                assert_eq!(BatchHeader::parse(&batch.bytes).unwrap(), batch.header);
                assert_eq!(batch.header.last_offset(), header.last_offset(), "the last offset stays");
                cleaned.push((batch.header, batch.bytes));
            }
        }
        (cleaned, round_end)
    }
}

// ---- the model ----

#[derive(Debug, Clone)]
struct ModelBatch {
    codec: Compression,
    base: i64,
    producer: Option<(i64, i32)>,
    horizon_ms: Option<i64>,
    /// Offset, key, value, timestamp.
    records: Left,
}

/// What was appended, as plain lists.
#[derive(Debug, Clone, Default)]
struct Model {
    batches: Vec<ModelBatch>,
}

impl Model {
    fn encoded(&self) -> Log {
        let mut bytes = Vec::new();
        for batch in &self.batches {
            let mut builder = BatchBuilder::new(batch.codec).base_offset(batch.base).leader_epoch(1);
            if let Some((id, sequence)) = batch.producer {
                builder = builder.producer(id, 0, sequence);
            }
            for (offset, key, value, timestamp) in &batch.records {
                let header = Header { key: "h".into(), value: None };
                builder.add_at(*offset, key.as_deref(), value.as_deref(), *timestamp, &[header]);
            }
            bytes.extend_from_slice(&builder.build());
        }
        split_batches(bytes.into()).unwrap()
    }

    fn left(&self) -> Left {
        self.batches.iter().flat_map(|batch| batch.records.clone()).collect()
    }

    /// The records that a round up to `end` leaves: the newest of each key below it, without tombstones past their horizon.
    fn clean(&mut self, end: i64, now_ms: i64) {
        let mut newest = BTreeMap::new();
        for (offset, key, ..) in self.left().iter().filter(|record| record.0 < end) {
            newest.insert(key.clone(), *offset);
        }
        for batch in &mut self.batches {
            let may_drop_tombstones = batch.horizon_ms.is_some_and(|horizon| horizon <= now_ms);
            let touched = batch.base < end;
            batch.records.retain(|(offset, key, value, _)| {
                *offset >= end || (key.is_some() && newest[key] == *offset && !(value.is_none() && may_drop_tombstones))
            });
            if touched && batch.horizon_ms.is_none() && batch.records.iter().any(|record| record.2.is_none()) {
                batch.horizon_ms = Some(now_ms + RETENTION_MS);
            }
        }
    }
}

fn model() -> impl Strategy<Value = Model> {
    let record = (prop::option::weighted(0.95, 0u8..12), prop::option::weighted(0.8, any::<u8>()), 0i64..50);
    let batch = (0usize..5, prop::option::of(0i64..3), prop::collection::vec(record, 1..6));
    prop::collection::vec(batch, 1..25).prop_map(|batches| {
        let mut next = 0;
        let mut sequences = BTreeMap::new();
        let batches = batches.into_iter().map(|(codec, producer, records)| {
            let producer = producer.map(|id| {
                let sequence = sequences.entry(id).or_insert(0);
                *sequence += records.len() as i32;
                (id, *sequence - records.len() as i32)
            });
            let base = next;
            let records = records
                .into_iter()
                .map(|(key, value, timestamp)| {
                    next += 1;
                    (next - 1, key.map(|key| vec![key]), value.map(|value| vec![value; 9]), timestamp)
                })
                .collect();
            ModelBatch { codec: Compression::ALL[codec], base, producer, horizon_ms: None, records }
        });
        Model { batches: batches.collect() }
    })
}

/// Rounds of random size over the log, each compared with the model. The error says where they part.
fn compare(model: &Model, rounds: &[(usize, i64)]) -> Result<(), String> {
    let mut model = model.clone();
    let mut log = model.encoded();
    let original = log.clone();
    let (mut cleaned_to, mut now_ms) = (0, 1_000);
    let end = original.last().unwrap().0.last_offset() + 1;
    let mut producers = BTreeMap::new();
    for (header, _) in original.iter().filter(|(header, _)| header.has_producer_id()) {
        let last = LastOfProducer { last_data_offset: Some(header.last_offset()), producer_epoch: 0 };
        producers.insert(header.producer_id, last);
    }
    for (map_keys, pause_ms) in rounds {
        now_ms += pause_ms;
        let round = Round {
            map_keys: *map_keys,
            first_dirty: cleaned_to,
            now_ms,
            producers: producers.clone(),
            ..Round::of(&original)
        };
        (log, cleaned_to) = round.run(&log);
        model.clean(cleaned_to, now_ms);
        if left(&log) != model.left() {
            return Err(format!("cleaned to {cleaned_to}: {:?} is left and not {:?}", left(&log), model.left()));
        }
        for (id, last) in &producers {
            let kept = log
                .iter()
                .any(|(header, _)| header.producer_id == *id && Some(header.last_offset()) == last.last_data_offset);
            if !kept {
                return Err(format!("the last batch of producer {id} is gone"));
            }
        }
        if log.last().unwrap().0.last_offset() + 1 != end {
            return Err("the last offset is gone".to_owned());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_round_leaves_what_the_model_leaves(
        model in model(),
        rounds in prop::collection::vec((1usize..20, 0i64..80), 1..8),
    ) {
        prop_assert_eq!(compare(&model, &rounds), Ok(()));
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_cleaner_that_drops_a_live_key_is_caught() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let models: Vec<Model> = (0..20).map(|_| model().new_tree(&mut runner).unwrap().current()).collect();
    let rounds = [(20, 10), (20, 200)];
    assert!(models.iter().all(|model| compare(model, &rounds).is_ok()));
    crate::faults::inject_here(Some(crate::faults::Fault::DropLiveKey));
    let caught = models.iter().filter(|model| compare(model, &rounds).is_err()).count();
    crate::faults::inject_here(None);
    assert!(caught > 10, "{caught} of 20");
}

// ---- stories ----

fn batch(base: i64, records: &[(&str, Option<&str>)]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::None).base_offset(base);
    for (key, value) in records {
        builder.add(Some(key.as_bytes()), value.map(str::as_bytes), 5, &[]);
    }
    builder
}

fn marker(base: i64, producer: i64, commit: bool) -> BatchBuilder {
    let mut builder =
        BatchBuilder::new(Compression::None).base_offset(base).producer(producer, 0, -1).transactional().control();
    builder.add(Some(&[0, 0, 0, u8::from(commit)]), Some(&[0; 6]), 5, &[]);
    builder
}

fn log(batches: impl IntoIterator<Item = BatchBuilder>) -> Log {
    let bytes: Vec<u8> = batches.into_iter().flat_map(|mut batch| batch.build()).collect();
    split_batches(bytes.into()).unwrap()
}

fn offsets(log: &Log) -> Vec<i64> {
    left(log).iter().map(|record| record.0).collect()
}

#[test]
fn a_tombstone_stays_for_its_retention_and_goes_with_the_first_round_after_it() {
    let log =
        log([batch(0, &[("a", Some("1")), ("b", Some("1"))]), batch(2, &[("a", None)]), batch(3, &[("z", Some("1"))])]);
    let round = |now_ms| Round { now_ms, ..Round::of(&log) };
    let (first, end) = round(1_000).run(&log);
    assert_eq!((offsets(&first), end), (vec![1, 2, 3], 4));
    assert_eq!(first[1].0.delete_horizon_ms(), Some(1_100));
    let (again, _) = Round { first_dirty: 4, ..round(1_099) }.run(&first);
    assert_eq!(offsets(&again), [1, 2, 3]);
    assert_eq!(again, first, "the horizon is set once");
    let dirty = Round { first_dirty: 3, ..round(1_100) };
    assert_eq!(offsets(&dirty.run(&again).0), [1, 3]);
}

#[test]
fn records_without_a_key_go() {
    let mut keyless = BatchBuilder::new(Compression::Gzip);
    keyless.add(None, Some(b"v"), 0, &[]).add(Some(b""), Some(b"v"), 0, &[]);
    let log = log([keyless, batch(2, &[("k", Some("1"))])]);
    assert_eq!(offsets(&Round::of(&log).run(&log).0), [1, 2], "an empty key is a key");
}

#[test]
fn the_last_batch_of_a_producer_stays_without_records_and_so_does_the_last_of_the_round() {
    let of = |base, producer, sequence| batch(base, &[("k", Some("1"))]).producer(producer, 0, sequence);
    let log = log([of(0, 1, 10), of(1, 1, 11), of(2, 2, 20), batch(3, &[("k", Some("2"))]), of(4, 3, 0)]);
    let last = |offset| LastOfProducer { last_data_offset: Some(offset), producer_epoch: 0 };
    // Producer 2 is forgotten.
    let round = Round { producers: [(1, last(1)), (3, last(4))].into(), dirty_end: 5, ..Round::of(&log) };
    let (cleaned, _) = round.run(&log);
    let headers: Vec<_> = cleaned.iter().map(|(h, _)| (h.base_offset, h.record_count, h.base_sequence)).collect();
    assert_eq!(headers, [(1, 0, 11), (4, 1, 0)]);
    let (short, end) = Round { dirty_end: 3, ..Round::of(&log) }.run(&log);
    assert_eq!((offsets(&short), end), (vec![2, 3, 4], 3));
}

#[test]
fn a_map_without_room_ends_the_round_at_a_key() {
    let log =
        log([batch(0, &[("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("c", Some("1")), ("b", Some("2"))])]);
    let (first, end) = Round { map_keys: 2, ..Round::of(&log) }.run(&log);
    assert_eq!((offsets(&first), end), (vec![1, 2, 3, 4], 3));
    let (second, end) = Round { map_keys: 2, first_dirty: end, ..Round::of(&log) }.run(&first);
    assert_eq!((offsets(&second), end), (vec![2, 3, 4], 5));
}

#[test]
fn aborted_records_go_at_once_and_the_marker_a_horizon_after_them() {
    let sent = |base, key| batch(base, &[(key, Some("1"))]).producer(7, 0, 0).transactional();
    let log = log([
        batch(0, &[("a", Some("old"))]),
        sent(1, "a"),
        sent(2, "b"),
        marker(3, 7, false),
        batch(4, &[("z", Some("1"))]),
    ]);
    let aborted = AbortedTransaction {
        stream: StreamId(1),
        producer_id: 7,
        first_offset: 1,
        last_offset: 3,
        last_stable_offset: 4,
    };
    let round = |now_ms| Round { now_ms, aborted: vec![aborted], ..Round::of(&log) };
    let (first, _) = round(0).run(&log);
    assert_eq!(offsets(&first), [0, 3, 4], "what was aborted supersedes nothing");
    assert_eq!(first[1].0.delete_horizon_ms(), None, "its records were still met");
    let (second, _) = round(10).run(&first);
    assert_eq!((offsets(&second), second[1].0.delete_horizon_ms()), (vec![0, 3, 4], Some(110)));
    assert_eq!(offsets(&round(109).run(&second).0), [0, 3, 4]);
    assert_eq!(offsets(&round(110).run(&second).0), [0, 4]);
}

#[test]
fn a_commit_marker_stays_as_long_as_records_of_its_transaction_do() {
    let sent = |base, key| batch(base, &[(key, Some("1"))]).producer(7, 0, 0).transactional();
    let log = log([sent(0, "a"), marker(1, 7, true), batch(2, &[("z", Some("1"))])]);
    let round = |now_ms| Round { now_ms, ..Round::of(&log) };
    let (first, _) = round(0).run(&log);
    let (second, _) = round(500).run(&first);
    assert_eq!((offsets(&second), second[1].0.delete_horizon_ms()), (vec![0, 1, 2], None));
    // A newer value takes the record away; the marker goes a round and a horizon later.
    let mut superseded = second;
    superseded.extend(split_batches(batch(3, &[("a", Some("2"))]).build()).unwrap());
    let later = |now_ms| Round { now_ms, ..Round::of(&superseded) };
    let (third, _) = later(600).run(&superseded);
    let (fourth, _) = later(700).run(&third);
    assert_eq!((offsets(&third), offsets(&fourth)), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!(offsets(&later(800).run(&fourth).0), [2, 3]);
}

#[test]
fn a_damaged_batch_is_an_error_and_not_a_batch_less() {
    let log = log([batch(0, &[("a", Some("1"))])]);
    let mut bytes = log[0].1.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let (map, producers) = (OffsetMap::new(100, 0.9), BTreeMap::new());
    let rules = CleanRules {
        map: &map,
        now_ms: 0,
        delete_retention_ms: 0,
        last_of_producers: &producers,
        decompressed_bytes_max: 100,
    };
    let mut cleaner =
        Cleaner { rules, transactions: TransactionIndex::default(), statistics: CleanStatistics::default() };
    assert!(matches!(cleaner.clean(&log[0].0, &bytes.into(), false), Err(CleanError::Batch { offset: 0, .. })));
}

#[test]
fn a_batch_whose_offsets_do_not_rise_makes_its_log_uncleanable_and_no_panic() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.add(Some(b"k1"), Some(b"v1"), 0, &[]).add(Some(b"k2"), Some(b"v2"), 0, &[]);
    let mut bytes = builder.build().to_vec();
    // The second record's offset delta.
    assert_eq!(bytes[75], 2);
    bytes[75] = 0;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let batch = Bytes::from(bytes);
    let header = BatchHeader::parse(&batch).unwrap();
    let mut map = OffsetMap::new(1024, 0.9);
    let mut indexer = Indexer {
        map: &mut map,
        first_dirty: 0,
        transactions: TransactionIndex::new(Vec::new()),
        decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
        records: 0,
    };
    assert!(matches!(indexer.add(&header, &batch), Err(CleanError::Batch { offset: 0, .. })));
}
