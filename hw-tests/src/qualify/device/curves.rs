//! Latency of single writes at a depth, durable or not: as the WAL writes, one block behind the other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use seawall_wal_device::SharedBuf;
use seawall_wal_device::device::{BlockDevice, Done, Operation, Request, Wait};

use super::super::{Stop, histogram_us};

/// What a wait for a device may take at most before a stop is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A device that answers nothing for so long does not work.
const HANGS_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Where it may write: offset, bytes.
    pub ring: (u64, u64),
    pub block_bytes: usize,
    pub depth: usize,
    pub durable: bool,
    pub time: Duration,
}

/// From submission to completion, in microseconds.
pub fn curve(device: &mut dyn BlockDevice, shape: Shape, stop: &Stop) -> Result<Histogram<u64>> {
    let mut histogram = histogram_us();
    let blocks = shape.ring.1 / shape.block_bytes as u64;
    let mut buffers: Vec<_> = SharedBuf::several(shape.depth, shape.block_bytes).map(Some).collect();
    for (n, buffer) in buffers.iter_mut().flatten().enumerate() {
        fill(buffer, n as u64);
    }
    let mut starts = vec![Instant::now(); shape.depth];
    let (mut next, mut in_flight, mut done) = (0u64, 0, Vec::new());
    let end = Instant::now() + shape.time;
    let mut last_done = Instant::now();
    loop {
        let over = Instant::now() >= end || stop.is_asked();
        if over && in_flight == 0 {
            break;
        }
        for (tag, buffer) in buffers.iter_mut().enumerate().filter(|_| !over) {
            let Some(buffer) = buffer.take() else { continue };
            let offset = shape.ring.0 + next % blocks * shape.block_bytes as u64;
            next += 1;
            starts[tag] = Instant::now();
            in_flight += 1;
            device.submit(Request {
                tag: tag as u64,
                leg: 0,
                operation: Operation::Write { durable: shape.durable },
                offset,
                buffer: Some(buffer),
                bytes: shape.block_bytes,
            });
        }
        device.wait(Wait::For(LOOK_EVERY), &mut done)?;
        for Done { tag, buffer, result, .. } in done.drain(..) {
            result.context("write")?;
            let tag = tag as usize;
            histogram.saturating_record((starts[tag].elapsed().as_micros() as u64).max(1));
            buffers[tag] = buffer;
            in_flight -= 1;
            last_done = Instant::now();
        }
        if last_done.elapsed() > HANGS_AFTER {
            bail!("a write has not come back for {} s", HANGS_AFTER.as_secs());
        }
    }
    stop.check()?;
    Ok(histogram)
}

/// One request, waited for.
pub fn request(
    device: &mut dyn BlockDevice,
    operation: Operation,
    offset: u64,
    buffer: Option<SharedBuf>,
    bytes: usize,
) -> Result<Option<SharedBuf>> {
    device.submit(Request { tag: 0, leg: 0, operation, offset, buffer, bytes });
    let begun = Instant::now();
    let mut done = Vec::new();
    while done.is_empty() {
        device.wait(Wait::For(LOOK_EVERY), &mut done)?;
        if begun.elapsed() > HANGS_AFTER {
            bail!("a request has not come back for {} s", HANGS_AFTER.as_secs());
        }
    }
    let done = done.remove(0);
    done.result.with_context(|| format!("{operation:?} at {offset}"))?;
    Ok(done.buffer)
}

/// Bytes that no drive can compress, and that say which they are.
pub fn fill(buffer: &mut SharedBuf, seed: u64) {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    for eight in buffer.exclusive().chunks_exact_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        eight.copy_from_slice(&word.to_le_bytes());
    }
}
