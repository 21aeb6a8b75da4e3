//! A walk over a part of the ring that stops at nothing: whole frames, blocks in which none starts, blocks that cannot be
//! read. For looking at a WAL whatever its state; recovery does not use it.

use crate::accept::{Rules, ScannedRecord};
use crate::format::frame::FrameHeader;
use crate::reader::RingReader;
use crate::types::Lsn;

/// Which frames count as lying at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Laps {
    /// Those of this LSN.
    This,
    /// Those that were written to this place in any lap.
    Any,
}

pub(crate) struct Walk<'a> {
    pub reader: RingReader<'a>,
    rules: &'a Rules,
    laps: Laps,
    at: Lsn,
    end: Lsn,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// All its CRCs are right, on this leg.
    Frame {
        header: FrameHeader,
        leg: usize,
        records: u64,
    },
    /// No whole frame starts in this block.
    Nothing {
        at: Lsn,
    },
    Unreadable {
        at: Lsn,
    },
}

enum NoFrame {
    None,
    Unreadable,
}

impl<'a> Walk<'a> {
    /// From `at` up to `end`, both at a block and no more than a ring apart.
    pub fn new(reader: RingReader<'a>, rules: &'a Rules, laps: Laps, at: Lsn, end: Lsn) -> Self {
        Self { reader, rules, laps, at, end }
    }

    pub fn at(&self) -> Lsn {
        self.at
    }

    pub fn next(&mut self) -> Option<Step> {
        if self.at >= self.end {
            return None;
        }
        let (at, block) = (self.at, self.rules.ring.block);
        let mut readable = false;
        let mut newest: Option<(FrameHeader, usize, u64)> = None;
        for leg in 0..self.reader.legs() {
            match self.frame_on(leg) {
                // A leg that lost a write holds what lay there before: the frame of an older owner, or of an earlier lap.
                Ok((header, records)) => {
                    let is_newer = |(before, ..): &(FrameHeader, _, _)| {
                        (before.owner_epoch, before.lsn) < (header.owner_epoch, header.lsn)
                    };
                    if newest.as_ref().is_none_or(is_newer) {
                        newest = Some((header, leg, records));
                    }
                }
                Err(NoFrame::None) => readable = true,
                Err(NoFrame::Unreadable) => {}
            }
        }
        if let Some((header, leg, records)) = newest {
            self.at.0 += u64::from(header.length);
            return Some(Step::Frame { header, leg, records });
        }
        self.at.0 += block;
        Some(if readable { Step::Nothing { at } } else { Step::Unreadable { at } })
    }

    fn frame_on(&mut self, leg: usize) -> Result<(FrameHeader, u64), NoFrame> {
        let (at, rules) = (self.at, self.rules);
        let block = self.reader.read(leg, at, rules.ring.block).map_err(|_| NoFrame::Unreadable)?;
        let header = rules.header(block).map_err(|_| NoFrame::None)?;
        let lies_here = match self.laps {
            Laps::This => header.lsn == at,
            Laps::Any => rules.ring.device_offset(header.lsn) == rules.ring.device_offset(at),
        };
        if !lies_here || !rules.length_is_possible(&header) || at.0 + u64::from(header.length) > self.end.0 {
            return Err(NoFrame::None);
        }
        // This block can be read; the walk comes to the one that cannot.
        let frame = self.reader.read(leg, at, rules.written_bytes(&header)).map_err(|_| NoFrame::None)?;
        let mut records = 0;
        rules.records(&header, frame, |_, _| records += 1).map_err(|_| NoFrame::None)?;
        Ok((header, records))
    }

    /// The records of the frame that was just met, with their payloads.
    pub fn see(
        &mut self,
        header: &FrameHeader,
        leg: usize,
        see: impl FnMut(ScannedRecord, &[u8]),
    ) -> Result<(), &'static str> {
        let at = Lsn(self.at.0 - u64::from(header.length));
        let frame =
            self.reader.read(leg, at, self.rules.written_bytes(header)).map_err(|_| "it cannot be read again")?;
        self.rules.records(header, frame, see)
    }
}
