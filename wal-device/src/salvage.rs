//! What can be saved of a damaged WAL before an operator gives it up: every whole frame of the log, what lies between them,
//! and the LSN past which nothing of it lies.

use crate::accept::ScannedRecord;
use crate::config::{Faults, ScanFrom};
use crate::device::BlockDevice;
use crate::error::ScanError;
use crate::format::POSITION_LIMIT;
use crate::reader::RingReader;
use crate::scan::{Known, LegView};
use crate::types::Lsn;
use crate::verify::{PROGRESS_STEP, Progress, Span, coalesce};
use crate::walk::{Laps, Step, Walk};

#[derive(Debug, Clone)]
pub struct Salvage {
    /// In LSN order: what recovery would return, then what lies behind the damage and was proven to be part of the log, with
    /// what follows that without a hole.
    pub records: Vec<ScannedRecord>,
    /// Parts of the log that are lost. What records they held is not known: neighbours of a stream tell its offsets.
    pub lost: Vec<Span>,
    /// Blocks that cannot be read, on no leg, up to `past`: whether they held something nobody can tell.
    pub unreadable: Vec<Span>,
    /// All below was durable once.
    pub proven: Lsn,
    /// Past every frame that was ever written: where the log may begin anew.
    pub past: Lsn,
}

pub fn salvage(
    device: &mut dyn BlockDevice,
    legs: &[LegView],
    from: &ScanFrom,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Salvage, ScanError> {
    let mut known = Known::of(legs, from, Faults::default());
    known.rules.frame_bytes_max = 0;
    let (rules, ring) = (&known.rules, known.rules.ring);
    if !ring.is_aligned(from.trim) || from.trim.0 >= POSITION_LIMIT {
        return Err(ScanError::BadTrim(from.trim));
    }
    let limit = Lsn(from.trim.0 + ring.bytes);
    let newest_start = from.opened_at.iter().map(|(_, start)| *start).fold(Lsn(0), Lsn::max);
    let mut proven = known.durable.max(newest_start);
    let mut past = from.trim.max(known.reach).max(newest_start).max(known.durable);
    let mut records = Vec::new();
    // Whole frames of the log, one behind the other.
    let mut kept: Vec<Span> = Vec::new();
    let mut unreadable = Vec::new();
    let (mut epoch, mut told) = (0, from.trim);
    let mut walk = Walk::new(RingReader::new(device, ring, legs.len(), limit), rules, Laps::This, from.trim, limit);
    while let Some(step) = walk.next() {
        if let Step::Unreadable { at } = step {
            unreadable.push(at);
        }
        if let Step::Frame { header, leg, .. } = step {
            let end = Lsn(header.lsn.0 + u64::from(header.length));
            past = past.max(end);
            if header.owner_epoch >= rules.epoch_floor(header.lsn, epoch) {
                epoch = header.owner_epoch;
                proven = proven.max(header.durable);
                let before = records.len();
                if walk.see(&header, leg, |record, _| records.push(record)).is_err() {
                    records.truncate(before);
                } else {
                    match kept.last_mut() {
                        Some(span) if span.to == header.lsn => span.to = end,
                        _ => kept.push(Span { from: header.lsn, to: end }),
                    }
                }
            }
        }
        if walk.at().0 - told.0 >= PROGRESS_STEP || walk.at() >= limit {
            told = walk.at();
            on_progress(Progress { done_bytes: told.0 - from.trim.0, total_bytes: ring.bytes });
        }
    }
    // Behind a hole a frame is data only if it was proven, or follows such a one: else it was never acknowledged.
    let data: Vec<Span> = kept.iter().filter(|span| span.from == from.trim || span.from <= proven).copied().collect();
    let end_of_data = data.last().map_or(from.trim, |span| span.to);
    records.retain(|record: &ScannedRecord| record.position.frame() < end_of_data);
    let (mut lost, mut at) = (Vec::new(), from.trim);
    for span in data {
        if span.from > at {
            lost.push(Span { from: at, to: span.from });
        }
        at = at.max(span.to);
    }
    if at < proven {
        lost.push(Span { from: at, to: proven });
    }
    let past = Lsn(ring.round_up(past.0));
    unreadable.retain(|at| *at < past);
    Ok(Salvage { records, lost, unreadable: coalesce(unreadable, ring.block), proven, past })
}
