//! Makes the legs of a mirror hold the same log: what recovery found on one leg only is copied to the others, durably, before
//! anything of it is served. A crash in the middle is harmless: the same bytes are copied again.

use std::io;

use crate::accept::Rules;
use crate::aligned_buf::SharedBuf;
use crate::device::{BlockDevice, Operation, flush, run};
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

/// Copies each frame, checked once more on its way, and flushes the legs that got some.
pub(crate) fn resync(device: &mut dyn BlockDevice, rules: &Rules, missing: &[Missing]) -> io::Result<()> {
    let mut buffer = None;
    for frame in missing {
        let bytes = frame.length as usize;
        let offset = rules.ring.device_offset(frame.lsn);
        let fits = buffer.take().filter(|buffer: &SharedBuf| buffer.len() >= bytes);
        let into = fits.unwrap_or_else(|| SharedBuf::new(bytes));
        let (read, result) = run(device, frame.from, Operation::Read, offset, Some(into), bytes);
        result?;
        let read = read.ok_or_else(|| io::Error::other("no buffer came back"))?;
        let checked = rules.header(&read).and_then(|header| rules.records(&header, &read[..bytes], |_, _| {}));
        checked.map_err(|why| io::Error::other(format!("the frame at {} has changed: {why}", frame.lsn)))?;
        let (written, result) = run(device, frame.leg, Operation::Write { durable: false }, offset, Some(read), bytes);
        result?;
        buffer = written;
    }
    let mut legs: Vec<u8> = missing.iter().map(|frame| frame.leg).collect();
    legs.sort_unstable();
    legs.dedup();
    legs.into_iter().try_for_each(|leg| flush(device, leg))
}
