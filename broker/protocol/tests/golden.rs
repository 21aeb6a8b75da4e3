//! Against bytes that Kafka's own Java classes wrote (`tests/golden`, made anew by `cargo xtask protocol --golden`,
//! which also lets Kafka read what `frames_and_batches_for_java` writes).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{Definitions, Shape, Source, entries, entry};
use seawall_protocol::api_versions::KAFKA_4_3;
use seawall_protocol::records::{
    BatchBuilder, BatchHeader, Compression, Header, Record, TimestampType, records, split_batches, verify_crc,
};
use seawall_protocol::{ApiKey, ErrorCode, request_header_version, response_header_version};

const BASE_OFFSET: i64 = 1000;
const BASE_TIMESTAMP: i64 = 1_700_000_000_000;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_text(name: &str) -> String {
    fs::read_to_string(golden(name)).unwrap()
}

#[test]
fn every_message_written_by_kafka_is_read_and_written_back_byte_for_byte() {
    let mut seen = Vec::new();
    for line in golden_text("messages.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, version, bytes) = (words[0], words[1].parse().unwrap(), unhex(words[2]));
        assert_eq!((entry(name).recode)(bytes.clone(), version), bytes, "{name} v{version}");
        seen.push((name.to_owned(), version));
    }
    for entry in entries() {
        for version in entry.versions.clone() {
            assert!(seen.contains(&(entry.name.to_owned(), version)), "no {} v{version} from Kafka", entry.name);
        }
    }
}

#[test]
fn error_codes_are_those_of_kafka() {
    let ours = |error: &ErrorCode| format!("{} {} {}", error.code(), error.name(), error.is_retriable());
    let mut ours: Vec<String> = ErrorCode::ALL.iter().map(ours).collect();
    let mut kafka: Vec<String> = golden_text("errors.txt").lines().map(str::to_owned).collect();
    ours.sort();
    kafka.sort();
    assert_eq!(ours, kafka);
    for error in ErrorCode::ALL {
        assert_eq!(ErrorCode::try_from(error.code()), Ok(*error));
    }
    assert_eq!(ErrorCode::try_from(9999), Err(9999));
}

#[test]
fn advertised_and_header_versions_are_those_of_kafka() {
    let text = golden_text("api_versions.txt");
    assert_eq!(text.lines().count(), KAFKA_4_3.len());
    assert_eq!(ApiKey::ALL.len(), KAFKA_4_3.len());
    for (line, (api_key, low, high)) in text.lines().zip(KAFKA_4_3) {
        let words: Vec<&str> = line.split(' ').collect();
        // Kafka's classes say 3 here; a running broker advertises 0.
        let low = if *api_key == ApiKey::Produce { &3 } else { low };
        let ours = [(*api_key as i16).to_string(), api_key.name().into(), low.to_string(), high.to_string()];
        assert_eq!(words[..4], ours);
        assert_eq!(words[4..].len(), api_key.defined_versions().count(), "{line}");
        for (version, header) in api_key.defined_versions().zip(&words[4..]) {
            let (request, response) =
                (request_header_version(*api_key, version), response_header_version(*api_key, version));
            assert_eq!(*header, format!("{request}/{response}"), "{} v{version}", api_key.name());
        }
    }
}

#[test]
fn batches_written_by_kafka_are_read_in_every_codec() {
    for codec in Compression::ALL {
        let bytes = Bytes::from(fs::read(golden(&format!("{}.batch", codec.name()))).unwrap());
        let count = if codec == Compression::None { 50 } else { 3000 };
        check_batch(bytes, codec, count);
    }
}

#[test]
fn log_append_time_and_markers_written_by_kafka_are_read() {
    let batch = Bytes::from(fs::read(golden("log_append_time.batch")).unwrap());
    verify_crc(&batch).unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, BASE_TIMESTAMP + 77));
    for record in records(&header, &batch, 0).unwrap() {
        assert_eq!(record.unwrap().timestamp, BASE_TIMESTAMP + 77);
    }
    let batch = Bytes::from(fs::read(golden("commit_marker.batch")).unwrap());
    verify_crc(&batch).unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert!(header.is_control() && header.is_transactional());
    let marker: Vec<Record> = records(&header, &batch, 0).unwrap().map(Result::unwrap).collect();
    // Key: version 0, type 1 (commit). Value: version 0, coordinator epoch 9.
    assert_eq!(marker[0].key.as_deref(), Some(&[0, 0, 0, 1][..]));
    assert_eq!(marker[0].value.as_deref(), Some(&[0, 0, 0, 0, 0, 9][..]));
}

#[test]
fn an_uncompressed_batch_is_written_as_kafka_writes_it() {
    let kafka = fs::read(golden("none.batch")).unwrap();
    assert!(our_batch(Compression::None, 50) == kafka);
}

/// Not only for Java: what is written is also read back here.
#[test]
fn frames_and_batches_for_java() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("protocol");
    fs::create_dir_all(&folder).unwrap();
    let definitions = Definitions::load();
    let mut frames = String::new();
    for entry in entries() {
        for version in entry.versions.clone() {
            for shape in [Shape::Smallest, Shape::Random] {
                let bytes = definitions.write(entry.name, version, shape, &mut Source::new(version as u64));
                writeln!(frames, "{} {version} {}", entry.name, hex(&bytes)).unwrap();
            }
        }
    }
    fs::write(folder.join("frames.txt"), frames).unwrap();
    for codec in Compression::ALL {
        let batch = our_batch(codec, 3000);
        fs::write(folder.join(format!("{}.batch", codec.name())), &batch).unwrap();
        check_batch(batch, codec, 3000);
    }
}

fn our_batch(codec: Compression, count: usize) -> Bytes {
    let mut builder =
        BatchBuilder::new(codec).base_offset(BASE_OFFSET).leader_epoch(5).producer(42, 3, 7).transactional();
    for i in 0..count {
        builder.add(key(i).as_deref(), value(i).as_deref(), timestamp(i), &headers(i));
    }
    builder.build()
}

fn check_batch(bytes: Bytes, codec: Compression, count: usize) {
    let mut batches = split_batches(bytes).unwrap();
    assert_eq!(batches.len(), 1);
    let (header, batch) = batches.remove(0);
    verify_crc(&batch).unwrap();
    header.check_from_client().unwrap();
    assert_eq!((header.compression(), header.record_count as usize), (codec, count));
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (42, 3, 7));
    assert_eq!((header.partition_leader_epoch, header.is_transactional()), (5, true));
    assert_eq!(header.max_timestamp, (0..count).map(timestamp).max().unwrap());
    let mut read = 0;
    for (i, record) in records(&header, &batch, 4 << 20).unwrap().enumerate() {
        let record = record.unwrap();
        assert_eq!((record.offset, record.timestamp), (BASE_OFFSET + i as i64, timestamp(i)));
        assert_eq!(record.key.as_deref(), key(i).as_deref());
        assert_eq!(record.value.as_deref(), value(i).as_deref());
        assert_eq!(record.headers.iter().collect::<Vec<_>>(), headers(i));
        read += 1;
    }
    assert_eq!(read, count);
}

// The contents of every batch, the same in tests/java/Golden.java.

fn timestamp(i: usize) -> i64 {
    BASE_TIMESTAMP + (i * 7919 % 10007) as i64
}

fn key(i: usize) -> Option<Vec<u8>> {
    (!i.is_multiple_of(3)).then(|| format!("key-{i}").into_bytes())
}

fn value(i: usize) -> Option<Vec<u8>> {
    (!i.is_multiple_of(5)).then(|| format!("value-{i} ").repeat(i % 7).into_bytes())
}

fn headers(i: usize) -> Vec<Header> {
    if !i.is_multiple_of(4) {
        return Vec::new();
    }
    vec![
        Header { key: format!("h{i}"), value: Some("x".repeat(i % 3).into_bytes().into()) },
        Header { key: "n".into(), value: None },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let digit = |at: usize| (text.as_bytes()[at] as char).to_digit(16).unwrap() as u8;
    (0..text.len()).step_by(2).map(|at| digit(at) << 4 | digit(at + 1)).collect()
}
