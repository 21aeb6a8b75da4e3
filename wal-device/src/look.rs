//! A WAL opened to be looked at, whatever its state: for `verify`, `dump` and the saving part of a give-up. Never writes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::accept::ScannedRecord;
use crate::config::{Faults, ScanFrom};
use crate::device::BlockDevice;
use crate::device::file::{Access, DeviceFile};
use crate::device::pwrite::PwriteDevice;
use crate::error::{IoError, OpenError, ScanError};
use crate::format::frame::{FrameHeader, FrameKind};
use crate::legs::{check_same_wal, load_leg};
use crate::open::{open_own, reading_device};
use crate::reader::RingReader;
use crate::salvage::{Salvage, salvage};
use crate::scan::{Known, LegView};
use crate::types::Lsn;
use crate::verify::{Progress, Span, Verification, coalesce, verify};
use crate::walk::{Laps, Step, Walk};

pub struct Look {
    device: PwriteDevice,
    legs: Vec<LegView>,
}

/// Whether others may hold the WAL meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookAccess {
    /// A WAL in use is refused.
    Alone,
    /// While a broker writes, what is read may be half of something: its end looks torn.
    WhileOpen,
}

/// What a dump meets, in LSN order.
pub enum Dumped<'a> {
    Frame {
        header: &'a FrameHeader,
        records: u64,
    },
    Record {
        record: ScannedRecord,
        payload: &'a [u8],
    },
    /// No whole frame of this lap begins here.
    Nothing(Span),
    Unreadable(Span),
}

impl Look {
    /// One device, or both legs of a mirror.
    pub fn open(paths: &[&Path], access: LookAccess) -> Result<Self, OpenError> {
        let open = |path: &&Path| match access {
            LookAccess::Alone => open_own(path, Access::ReadAlone),
            LookAccess::WhileOpen => DeviceFile::open(path, Access::Inspect).map(Arc::new),
        };
        let files = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let failed =
            |error| OpenError::Io { path: files[0].path.clone(), error: IoError::new("start I/O threads", error) };
        let mut device = reading_device(&files).map_err(failed)?;
        let mut legs = Vec::new();
        for (leg, file) in (0..).zip(&files) {
            legs.push(load_leg(&mut device, leg, &file.path, file.bytes)?);
        }
        check_same_wal(&legs, paths)?;
        Ok(Self { device, legs })
    }

    pub fn legs(&self) -> &[LegView] {
        &self.legs
    }

    /// See [`Verification`].
    pub fn verify(
        &mut self,
        from: Option<&ScanFrom>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Verification, ScanError> {
        verify(&mut self.device, &self.legs, from, on_progress)
    }

    /// See [`Salvage`].
    pub fn salvage(&mut self, from: &ScanFrom, on_progress: &mut dyn FnMut(Progress)) -> Result<Salvage, ScanError> {
        salvage(&mut self.device, &self.legs, from, on_progress)
    }

    /// Shows frames and records from `from` on for up to one lap, or until `see` breaks off.
    pub fn dump(&mut self, from: Lsn, see: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>) -> Result<(), ScanError> {
        dump(&mut self.device, &self.legs, from, see)
    }
}

/// As [`Look::dump`], on a device that the caller made.
pub fn dump(
    device: &mut dyn BlockDevice,
    legs: &[LegView],
    from: Lsn,
    see: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
) -> Result<(), ScanError> {
    let mut known = Known::of(legs, &ScanFrom::default(), Faults::default());
    known.rules.frame_bytes_max = 0;
    let ring = known.rules.ring;
    if !ring.is_aligned(from) || from.0 >= crate::format::POSITION_LIMIT {
        return Err(ScanError::BadTrim(from));
    }
    let limit = Lsn(from.0 + ring.bytes);
    let mut walk = Walk::new(RingReader::new(device, ring, legs.len(), limit), &known.rules, Laps::This, from, limit);
    // Blocks without a frame are told as one.
    let (mut nothing, mut unreadable) = (Vec::new(), Vec::new());
    let tell = |blocks: &mut Vec<Lsn>,
                see: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
                kind: fn(Span) -> Dumped<'static>| {
        coalesce(std::mem::take(blocks), ring.block).into_iter().try_for_each(|span| see(kind(span)))
    };
    while let Some(step) = walk.next() {
        let flow = match step {
            Step::Nothing { at } => {
                nothing.push(at);
                tell(&mut unreadable, see, Dumped::Unreadable)
            }
            Step::Unreadable { at } => {
                unreadable.push(at);
                tell(&mut nothing, see, Dumped::Nothing)
            }
            Step::Frame { header, leg, records } => (|| {
                tell(&mut nothing, see, Dumped::Nothing)?;
                tell(&mut unreadable, see, Dumped::Unreadable)?;
                see(Dumped::Frame { header: &header, records })?;
                let mut flow = ControlFlow::Continue(());
                if header.kind == FrameKind::Data {
                    let again = walk.see(&header, leg, |record, payload| {
                        if flow.is_continue() {
                            flow = see(Dumped::Record { record, payload });
                        }
                    });
                    if again.is_err() {
                        unreadable.push(header.lsn);
                    }
                }
                flow
            })(),
        };
        if flow.is_break() {
            return Ok(());
        }
    }
    let _ = tell(&mut nothing, see, Dumped::Nothing);
    let _ = tell(&mut unreadable, see, Dumped::Unreadable);
    Ok(())
}
