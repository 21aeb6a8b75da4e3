//! Reads the whole ring, checks every CRC and says what lies where: the live log as an open would find it, holes, stale
//! tails, damage, what cannot be read, and where the legs of a mirror differ. Writes nothing.

use crate::accept::Rules;
use crate::config::{Faults, ScanFrom, WalConfig};
use crate::device::BlockDevice;
use crate::error::{Damage, ScanError};
use crate::reader::RingReader;
use crate::scan::{Known, LegView, scan};
use crate::types::{LegId, Lsn};
use crate::walk::{Laps, Step, Walk};

/// From one LSN up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: Lsn,
    pub to: Lsn,
}

/// How far a long read has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// Whole frames, one behind the other, that are not part of the log: a crash left them behind a hole, or an older owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleRun {
    pub span: Span,
    pub owner_epoch: u64,
    pub frames: u64,
}

/// What a whole ring holds.
#[derive(Debug, Clone)]
pub struct Verification {
    /// The log, from the trim LSN to its end.
    pub live: Span,
    pub frames: u64,
    pub records: u64,
    /// Whole frames below the trim LSN whose place nobody needed yet.
    pub settled_frames: u64,
    /// Acknowledged data that is not there.
    pub damage: Vec<Damage>,
    /// Between the log's end and frames behind it: never acknowledged.
    pub holes: Vec<Span>,
    pub stale: Vec<StaleRun>,
    /// On no leg. LSNs of the lap that begins at the trim LSN.
    pub unreadable: Vec<Span>,
    /// What one leg has and this one lacks: an open copies it.
    pub legs_differ: Vec<(LegId, Span)>,
    pub owner_epoch_seen: u64,
    /// The newest trim LSN that the device carries.
    pub newest_trim_hint: Lsn,
    pub clean_shutdown: bool,
}

/// Without `from`, metadata's knowledge, the newest trim LSN that the ring carries is taken: nothing below is needed.
pub fn verify(
    device: &mut dyn BlockDevice,
    legs: &[LegView],
    from: Option<&ScanFrom>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Verification, ScanError> {
    let guess = ScanFrom::default();
    let mut known = Known::of(legs, from.unwrap_or(&guess), Faults::default());
    // Old frames may be longer than what is written today.
    known.rules.frame_bytes_max = 0;
    let all = read_all(device, legs.len(), &known.rules, on_progress);
    let trim = all.runs.iter().map(|run| run.trim).fold(known.trim_hint, Lsn::max);
    let from = from.cloned().unwrap_or(ScanFrom { trim, ..guess });

    let found = scan(device, legs, &from, &WalConfig::new(""))?;
    let ring = known.rules.ring;
    let live = Span { from: from.trim, to: found.end };
    let mut behind: Vec<&Run> = all.runs.iter().filter(|run| run.span.from >= found.end).collect();
    behind.sort_by_key(|run| run.span.from);
    let before: u64 = all.runs.iter().filter(|run| run.span.from < found.end).map(|run| run.frames).sum();
    let (damage, holes) = gaps(found.damage, found.end, &behind, &known.rules);
    let damaged = !damage.is_empty();
    let in_this_lap = |offset: u64| {
        let lap = (from.trim.0 - from.trim.0 % ring.bytes) + offset;
        if lap < from.trim.0 { lap + ring.bytes } else { lap }
    };
    let unreadable = all.unreadable.iter().map(|&at| Lsn(in_this_lap(at))).collect();
    Ok(Verification {
        live,
        frames: found.frames,
        records: found.records.len() as u64,
        settled_frames: before.saturating_sub(found.frames),
        damage,
        holes,
        stale: behind
            .iter()
            // Behind damage they may be part of the log.
            .filter(|run| !damaged || run.owner_epoch < known.rules.epoch_floor(run.span.from, 0))
            .map(|run| StaleRun { span: run.span, owner_epoch: run.owner_epoch, frames: run.frames })
            .collect(),
        unreadable: coalesce(unreadable, ring.block),
        legs_differ: found
            .missing
            .iter()
            .map(|frame| (legs[frame.leg as usize].leg, Span { from: frame.lsn, to: Lsn(frame.lsn.0 + frame.length) }))
            .collect(),
        owner_epoch_seen: found.owner_epoch_seen,
        newest_trim_hint: trim.max(found.newest_trim_hint),
        clean_shutdown: found.clean_shutdown,
    })
}

/// Whole frames of one owner, one behind the other.
struct Run {
    span: Span,
    owner_epoch: u64,
    frames: u64,
    /// The newest that one of its frames carries.
    durable: Lsn,
    trim: Lsn,
}

struct All {
    runs: Vec<Run>,
    /// Offsets in the ring of blocks that can be read from no leg.
    unreadable: Vec<u64>,
}

fn read_all(device: &mut dyn BlockDevice, legs: usize, rules: &Rules, on_progress: &mut dyn FnMut(Progress)) -> All {
    let end = Lsn(rules.ring.bytes);
    let mut walk = Walk::new(RingReader::new(device, rules.ring, legs, end), rules, Laps::Any, Lsn(0), end);
    let mut all = All { runs: Vec::new(), unreadable: Vec::new() };
    let mut told = 0;
    while let Some(step) = walk.next() {
        match step {
            Step::Frame { header, .. } => {
                let frame_end = Lsn(header.lsn.0 + u64::from(header.length));
                match all.runs.last_mut() {
                    Some(run) if run.span.to == header.lsn && run.owner_epoch == header.owner_epoch => {
                        run.span.to = frame_end;
                        run.frames += 1;
                        run.durable = run.durable.max(header.durable);
                        run.trim = run.trim.max(header.trim);
                    }
                    _ => all.runs.push(Run {
                        span: Span { from: header.lsn, to: frame_end },
                        owner_epoch: header.owner_epoch,
                        frames: 1,
                        durable: header.durable,
                        trim: header.trim,
                    }),
                }
            }
            Step::Nothing { .. } => {}
            Step::Unreadable { at } => all.unreadable.push(at.0),
        }
        if walk.at().0 - told >= PROGRESS_STEP || walk.at() == end {
            told = walk.at().0;
            on_progress(Progress { done_bytes: told, total_bytes: end.0 });
        }
    }
    all
}

pub(crate) const PROGRESS_STEP: u64 = 16 << 20;

/// What lies between the end and the runs behind it: damage where a later frame proves that it was durable, else holes.
fn gaps(first: Option<Damage>, end: Lsn, behind: &[&Run], rules: &Rules) -> (Vec<Damage>, Vec<Span>) {
    let of_the_log = |run: &&&Run| run.owner_epoch >= rules.epoch_floor(run.span.from, 0);
    let proven = behind.iter().filter(of_the_log).map(|run| run.durable).fold(Lsn(0), Lsn::max);
    let proven = first.as_ref().map_or(Lsn(0), |damage| damage.durable.max(proven));
    let (mut damage, mut holes, mut at) = (Vec::from_iter(first), Vec::new(), end);
    for run in behind {
        if run.span.from > at {
            if damage.is_empty() {
                holes.push(Span { from: at, to: run.span.from });
            } else if at > end && at < proven {
                let (found, proof) = ("no whole frame".into(), "a frame behind it says so".into());
                damage.push(Damage { at, durable: proven, found, proof });
            }
        }
        at = at.max(run.span.to);
    }
    (damage, holes)
}

/// Blocks side by side become one span.
pub(crate) fn coalesce(mut blocks: Vec<Lsn>, block: u64) -> Vec<Span> {
    blocks.sort_unstable();
    let mut spans: Vec<Span> = Vec::new();
    for at in blocks {
        match spans.last_mut() {
            Some(span) if span.to == at => span.to.0 += block,
            _ => spans.push(Span { from: at, to: Lsn(at.0 + block) }),
        }
    }
    spans
}
