//! Bytes that nobody honest sends: no panic, and no more memory than the decoder's budget.
//!
//! `FUZZ_SECONDS=600 cargo test -p seawall-protocol --test hostile -- --nocapture` is the long form;
//! `FUZZ_SEED=n` starts at another seed, a failure prints the seed that shows it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::env;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::counting::{Counting, measure};
use common::{Definitions, Entry, Shape, Source, entries, entry};
use seawall_protocol::records::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Compression, Header, RecordsError, compress, decompress_bounded,
    records, set_log_append_time, split_batches, verify_crc,
};
use seawall_protocol::{DecodeError, Decoder, RequestHeader};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An error's own bytes and the like.
const SLACK_BYTES: usize = 1024;
/// The state of a decompressor, apart from its output.
const CODEC_BYTES: usize = 256 * 1024;

struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FUZZ_SEED={}", self.0);
        }
    }
}

#[test]
fn hostile_bytes_never_panic() {
    let seconds: u64 = env::var("FUZZ_SECONDS").ok().map_or(3, |it| it.parse().unwrap());
    let first: u64 = env::var("FUZZ_SEED").ok().map_or(1, |it| it.parse().unwrap());
    let definitions = Definitions::load();
    let entries = entries();
    let (start, mut seed, mut most) = (Instant::now(), first, 0.0f64);
    while start.elapsed() < Duration::from_secs(seconds) || seed < first + 20_000 {
        let _seed = OnPanic(seed);
        let mut source = Source::new(seed);
        match seed % 8 {
            0 => headers(&mut source),
            1 => batches(&mut source),
            2 => compressed(&mut source),
            _ => most = most.max(message(&definitions, &entries, &mut source)),
        }
        seed += 1;
    }
    let (cases, took) = (seed - first, start.elapsed().as_secs_f64());
    println!("{cases} cases in {took:.0} s, at most {most:.1} bytes allocated per byte of a frame beyond 4 KiB");
}

/// Returns the bytes allocated per byte of the frame, for frames that are not tiny.
fn message(definitions: &Definitions, entries: &[Entry], source: &mut Source) -> f64 {
    let entry = &entries[source.below(entries.len())];
    let low = *entry.versions.start();
    let version = low + source.below((*entry.versions.end() - low) as usize + 1) as i16;
    let shape = if source.one_in(4) { Shape::Smallest } else { Shape::Random };
    let mut frame = match source.below(4) {
        0 => {
            let length = source.below(600);
            source.bytes(length)
        }
        _ => definitions.write(entry.name, version, shape, source),
    };
    mutate(&mut frame, source);
    check_budget(entry, version, frame.into())
}

fn check_budget(entry: &Entry, version: i16, frame: Bytes) -> f64 {
    let length = frame.len();
    let (_, allocated) = measure(|| (entry.decode)(frame, version));
    let budget = Decoder::BUDGET_FLOOR + Decoder::BUDGET_FACTOR * length + SLACK_BYTES;
    assert!(allocated.peak <= budget, "{} v{version}: {allocated:?} for {length} bytes", entry.name);
    if length > 4096 { allocated.peak as f64 / length as f64 } else { 0.0 }
}

fn headers(source: &mut Source) {
    let length = source.below(60);
    let mut frame = source.bytes(length);
    if let [a, b, ..] = frame.as_mut_slice() {
        (*a, *b) = (0, source.below(100) as u8);
    }
    let (_, allocated) = measure(|| RequestHeader::decode_from(&mut Decoder::new(frame.into())));
    assert!(allocated.peak <= Decoder::BUDGET_FLOOR, "{allocated:?}");
}

/// A batch with a right checksum around wrong bytes: what an attacker would send.
fn batches(source: &mut Source) {
    let codec = Compression::ALL[source.below(5)];
    let mut builder = BatchBuilder::new(codec).base_offset(source.next() as i64 >> 1);
    for _ in 0..source.below(5) + 1 {
        let (key, value) = (source.bytes(5), source.bytes(30));
        let headers = [Header { key: source.text(3), value: Some(source.bytes(4).into()) }];
        let timestamp = source.next() as i64;
        builder.add(
            Some(&key).filter(|_| timestamp % 3 != 0).map(|it| &it[..]),
            Some(&value),
            timestamp,
            &headers[..(timestamp & 1) as usize],
        );
    }
    let mut bytes = builder.build().to_vec();
    let body = BATCH_HEADER_BYTES + source.below(bytes.len() - BATCH_HEADER_BYTES);
    let mut tail = bytes.split_off(if source.one_in(3) { 0 } else { body });
    mutate(&mut tail, source);
    bytes.extend(tail);
    if let (Ok(header), true) = (BatchHeader::parse(&bytes), source.one_in(2)) {
        let wanted = header.total_bytes();
        if wanted < 1 << 20 {
            bytes.resize(wanted, 0);
            set_log_append_time(&mut bytes, 5);
        }
    }
    let _ = verify_crc(&bytes);
    let length = bytes.len();
    let bytes = Bytes::from(bytes);
    let max = source.below(1 << 16);
    let (_, allocated) = measure(|| {
        for (header, batch) in split_batches(bytes).into_iter().flatten() {
            let _ = header.check_from_client();
            let _ = (header.last_offset(), header.last_sequence(), header.compression());
            if let Ok(records) = records(&header, &batch, max) {
                for record in records.flatten() {
                    record.headers.iter().for_each(drop);
                }
            }
        }
    });
    assert!(allocated.peak <= 4 * length + 2 * max + CODEC_BYTES, "{codec:?}: {allocated:?} for {length}, {max}");
}

fn compressed(source: &mut Source) {
    let codec = Compression::ALL[source.below(5)];
    let plain = if source.one_in(3) { vec![7; source.below(200_000)] } else { source.bytes(300).repeat(20) };
    let mut data = compress(codec, &plain);
    if source.one_in(10) {
        data = source.bytes(100);
    }
    mutate(&mut data, source);
    let max = source.below(1 << 18);
    let length = data.len();
    let (result, allocated) = measure(|| decompress_bounded(codec, &data, max));
    assert!(result.is_err() || result.is_ok_and(|out| out.len() <= max));
    assert!(allocated.peak <= 2 * max + CODEC_BYTES, "{codec:?}: {allocated:?} for {length} bytes, at most {max}");
}

/// Flips bits, writes lengths that lie, cuts, inserts, doubles. Sometimes does nothing.
fn mutate(frame: &mut Vec<u8>, source: &mut Source) {
    for _ in 0..source.below(4) {
        if frame.is_empty() {
            return;
        }
        let at = source.below(frame.len());
        match source.below(8) {
            0 => frame[at] ^= 1 << source.below(8),
            1 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][source.below(5)],
            2 => {
                let lie =
                    [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0, 1, 0, 0], &[0x7f, 0xff]];
                for (to, from) in frame[at..].iter_mut().zip(lie[source.below(4)]) {
                    *to = *from;
                }
            }
            3 => frame.truncate(at),
            4 => {
                let length = source.below(20);
                let bytes = source.bytes(length);
                frame.splice(at..at, bytes);
            }
            5 => {
                let length = source.below(20_000);
                frame.extend(std::iter::repeat_n(source.below(4) as u8, length));
            }
            6 => {
                let copy = frame[at..].to_vec();
                frame.extend(copy);
            }
            _ => {
                frame.remove(at);
            }
        }
    }
}

#[test]
fn a_count_that_the_frame_cannot_hold_allocates_nothing() {
    // Metadata v9: 2^31 - 2 topics in six bytes. Then the same in the old form.
    for (version, frame) in [(9, &[0xff, 0xff, 0xff, 0xff, 0x07, 0][..]), (1, &[0x7f, 0xff, 0xff, 0xff, 0, 0])] {
        let decode = entry("MetadataRequest").decode;
        let frame = Bytes::copy_from_slice(frame);
        let (result, allocated) = measure(|| decode(frame, version));
        assert!(matches!(result, Err(DecodeError::Length { .. })), "{result:?}");
        assert_eq!(allocated.total, 0);
    }
}

#[test]
fn the_densest_frames_stay_within_the_budget() {
    // Nothing but zeros and ones: the most elements and empty strings that bytes can make.
    for entry in entries() {
        for version in entry.versions.clone() {
            for fill in [0u8, 1, 2, 0x7f, 0xff] {
                for length in [100, 5_000, 300_000] {
                    let mut frame = vec![fill; length];
                    frame[0] = 0x7f;
                    check_budget(&entry, version, frame.clone().into());
                    frame[..4].copy_from_slice(&(length as i32 / 16).to_be_bytes());
                    check_budget(&entry, version, frame.into());
                }
            }
        }
    }
}

#[test]
fn a_varint_of_more_than_32_bits_is_an_error_and_a_padded_one_is_not() {
    let read = |bytes: &'static [u8]| Decoder::new(Bytes::from_static(bytes)).uvarint();
    assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x00]), Ok(0));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(DecodeError::Varint));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x8f]), Err(DecodeError::Varint));
    assert_eq!(read(&[0x80]), Err(DecodeError::Truncated { wanted: 1, remaining: 0 }));
}

#[test]
fn names_that_are_not_utf8_are_repaired_within_the_budget() {
    let mut frame = vec![0, 0, 0, 1, 0x70, 0x00];
    frame.extend(vec![0xff; 0x7000]);
    let decode = entry("MetadataRequest").decode;
    let length = frame.len();
    let (result, allocated) = measure(|| decode(frame.into(), 1));
    result.unwrap();
    assert!(allocated.peak <= 3 * length + SLACK_BYTES, "{allocated:?}");
}

#[test]
fn zstd_and_lz4_headers_that_claim_gigabytes_allocate_nothing_of_it() {
    let zstd_claims_1_gib = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0x40, 0, 0, 0, 0, 1, 0, 0];
    let (result, allocated) = measure(|| decompress_bounded(Compression::Zstd, &zstd_claims_1_gib, 1 << 20));
    assert_eq!(result, Err(RecordsError::TooLarge { max: 1 << 20 }));
    assert_eq!(allocated.total, 0);
    let mut lz4_claims_4_mib = compress(Compression::Lz4, b"x");
    lz4_claims_4_mib[5] = 0x70;
    let (result, allocated) = measure(|| decompress_bounded(Compression::Lz4, &lz4_claims_4_mib, 1 << 30));
    assert_eq!(result.unwrap(), b"x");
    assert!(allocated.total < 4096, "{allocated:?}");
}
