//! Whether each place of a device holds what was written there: a drive that has less room than it says writes one place
//! over another.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use seawall_wal_device::SharedBuf;
use seawall_wal_device::device::{BlockDevice, Operation};

use super::super::Stop;
use super::curves::{fill, request};

/// Places that are looked at, over the whole of the ring.
const PLACES: u64 = 1024;

/// Writes to places all over the ring, flushes, and reads them back. Answers where it found something else.
pub fn misplaced(
    device: &mut dyn BlockDevice,
    ring: (u64, u64),
    block_bytes: usize,
    stop: &Stop,
) -> Result<Option<u64>> {
    let block = block_bytes as u64;
    let last = ring.1 / block - 1;
    let spread = (0..PLACES).map(|n| last * n / (PLACES - 1));
    // Where a drive that takes no notice of an upper bit of the address hits the first place.
    let powers = (0..u64::BITS).map(|bit| 1u64 << bit).take_while(|place| *place <= last);
    let places: BTreeSet<u64> = spread.chain(powers).map(|place| ring.0 + place * block).collect();
    let mut expected = SharedBuf::new(block_bytes);
    for place in &places {
        stop.check()?;
        let mut buffer = SharedBuf::new(block_bytes);
        fill(&mut buffer, *place);
        request(device, Operation::Write { durable: false }, *place, Some(buffer), block_bytes)?;
    }
    request(device, Operation::Flush, 0, None, 0)?;
    for place in &places {
        stop.check()?;
        let buffer = Some(SharedBuf::new(block_bytes));
        let read = request(device, Operation::Read, *place, buffer, block_bytes)?.context("a read gives its buffer")?;
        fill(&mut expected, *place);
        if read[..] != expected[..] {
            return Ok(Some(*place));
        }
    }
    Ok(None)
}
