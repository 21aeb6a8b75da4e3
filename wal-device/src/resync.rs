//! Makes the legs of a mirror hold the same log: what recovery found on one leg only is copied to the others, durably, before
//! anything of it is served. A crash in the middle is harmless: the same bytes are copied again. An error names its leg.

use std::io;

use crate::accept::Rules;
use crate::aligned_buf::SharedBuf;
use crate::device::{BlockDevice, Operation, flush, run};
use crate::error::IoError;
use crate::format::{BLOCK_BYTES_MAX, SCRATCH_OFFSET};
use crate::types::Lsn;

/// A frame that a leg lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    pub leg: u8,
    /// The leg that has it.
    pub from: u8,
    pub lsn: Lsn,
    pub length: u64,
}

/// What went wrong, and on which leg.
#[derive(Debug)]
pub(crate) struct LegError {
    pub leg: u8,
    pub error: IoError,
}

impl LegError {
    pub fn of(leg: u8, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { leg, error: IoError::new(operation, error) }
    }
}

/// Copies each frame, checked once more on its way, and flushes the legs that got some.
pub(crate) fn resync(device: &mut dyn BlockDevice, rules: &Rules, missing: &[Missing]) -> Result<(), LegError> {
    let mut buffer = None;
    for frame in missing {
        let bytes = frame.length as usize;
        let offset = rules.ring.device_offset(frame.lsn);
        let fits = buffer.take().filter(|buffer: &SharedBuf| buffer.len() >= bytes);
        let into = fits.unwrap_or_else(|| SharedBuf::new(bytes));
        let (read, result) = run(device, frame.from, Operation::Read, offset, Some(into), bytes);
        let read = result.and_then(|()| read.ok_or_else(|| io::Error::other("no buffer came back")));
        let read = read.map_err(LegError::of(frame.from, "read what the other one lacks"))?;
        let checked = rules.header(&read).and_then(|header| rules.records(&header, &read[..bytes], |_, _| {}));
        let changed = |why| io::Error::other(format!("the frame at {} has changed: {why}", frame.lsn));
        checked.map_err(changed).map_err(LegError::of(frame.from, "read what the other one lacks"))?;
        let (written, result) = run(device, frame.leg, Operation::Write { durable: false }, offset, Some(read), bytes);
        result.map_err(LegError::of(frame.leg, "write what only the other one has"))?;
        buffer = written;
    }
    let mut legs: Vec<u8> = missing.iter().map(|frame| frame.leg).collect();
    legs.sort_unstable();
    legs.dedup();
    legs.into_iter().try_for_each(|leg| flush(device, leg).map_err(LegError::of(leg, "flush what it lacked")))
}

/// Writes durably to a block of each leg that holds nothing, so that one that cannot be written is known before anything is
/// decided.
pub(crate) fn write_once(device: &mut dyn BlockDevice, legs: u8) -> Result<(), LegError> {
    let bytes = BLOCK_BYTES_MAX as usize;
    let mut buffer = Some(SharedBuf::new(bytes));
    for leg in 0..legs {
        let (back, result) = run(device, leg, Operation::Write { durable: true }, SCRATCH_OFFSET, buffer, bytes);
        result.map_err(LegError::of(leg, "write to it"))?;
        buffer = back;
    }
    Ok(())
}
