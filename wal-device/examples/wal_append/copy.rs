//! What no append can do without: one copy and one CRC32C of its bytes, in one pass as the WAL does it, one thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

/// As large as the pool of frame buffers.
const TARGET_BYTES: usize = 4 << 20;
const STEP_BYTES: usize = 16 << 10;

/// Microseconds for each piece of `bytes`, out of a source that no cache holds.
pub fn us_per_piece(source: &Bytes, bytes: usize, time: Duration) -> f64 {
    let mut target = vec![0u8; TARGET_BYTES];
    let (mut from, mut to, mut pieces) = (0, 0, 0u64);
    let begun = Instant::now();
    while begun.elapsed() < time {
        for _ in 0..(64 << 10) / bytes.min(64 << 10) {
            from = if from + bytes > source.len() { 0 } else { from };
            to = if to + bytes > target.len() { 0 } else { to };
            let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
            for at in (0..bytes).step_by(STEP_BYTES) {
                let step = STEP_BYTES.min(bytes - at);
                target[to + at..][..step].copy_from_slice(&source[from + at..][..step]);
                crc.update(&target[to + at..][..step]);
            }
            black_box(crc.finalize());
            (from, to, pieces) = (from + bytes, to + bytes, pieces + 1);
        }
    }
    begun.elapsed().as_secs_f64() * 1e6 / pieces as f64
}
