//! Recovery's reading: what the ring holds from the trim LSN on, where it ends, and whether that end is a tail or damage.
//!
//! Promise: the records returned are a prefix of what was appended and hold all that was acknowledged, or `damage` says
//! what is missing. A frame counts if WAL id, LSN and CRCs match and its epoch is not lower than the frame's before it or
//! than its open's; on a mirror, if it does on any leg: what the others lack is listed, to be copied before anything is
//! served. At the first place where no leg has one, after a second read, everything that may prove that there was one is
//! looked at. Reads are sequential and large; memory is what the reader holds plus the index.

use std::io;

use crate::accept::{Rules, ScannedRecord};
use crate::config::{Faults, ScanFrom, WalConfig};
use crate::device::BlockDevice;
use crate::error::{Damage, ScanError};
use crate::format::POSITION_LIMIT;
use crate::format::frame::{FrameHeader, FrameKind};
use crate::format::superblock::Superblock;
use crate::reader::RingReader;
use crate::resync::Missing;
use crate::ring::{Ring, reach_bytes};
use crate::types::{LegId, Lsn};

/// The search behind the end looks at this much at once.
const SEARCH_BYTES: u64 = 2 << 20;

/// A leg before its ring is read. Its place in a list is its number on the device.
#[derive(Debug, Clone)]
pub struct LegView {
    pub leg: LegId,
    pub superblock: Superblock,
    /// One of its two superblock copies cannot be used: there may have been a newer one.
    pub copy_lost: bool,
}

/// What recovery found.
#[derive(Debug, Clone)]
pub struct Scan {
    pub end: Lsn,
    pub records: Vec<ScannedRecord>,
    /// The first `WalConfig::scan_head_bytes` of each record's payload, one after the other; a shorter one is filled with zeros.
    pub heads: Vec<u8>,
    pub frames: u64,
    /// The longest data frame.
    pub frame_bytes_max: u64,
    /// The newest trim LSN that superblock or frames carry.
    pub newest_trim_hint: Lsn,
    /// The highest owner epoch that superblock or accepted frames carry.
    pub owner_epoch_seen: u64,
    pub damage: Option<Damage>,
    /// The WAL was closed cleanly and its end is where it was then.
    pub clean_shutdown: bool,
    /// What a leg lacks and another one has.
    pub missing: Vec<Missing>,
}

/// What the superblocks of all legs and metadata say together.
pub(crate) struct Known {
    pub rules: Rules,
    /// Written last.
    pub newest: Superblock,
    /// All below was durable.
    pub durable: Lsn,
    pub reach: Lsn,
    pub trim_hint: Lsn,
    pub owner_epoch: u64,
    /// The newest superblock may be lost, and its reach with it.
    pub newest_may_be_lost: bool,
    /// Of the openings that metadata committed: (owner epoch, start LSN).
    pub newest_opening: Option<(u64, Lsn)>,
}

impl Known {
    pub fn of(legs: &[LegView], from: &ScanFrom, faults: Faults) -> Self {
        let superblocks = || legs.iter().map(|leg| &leg.superblock);
        let newest = superblocks().max_by_key(|superblock| superblock.generation).expect("a WAL has a leg").clone();
        let highest = |of: fn(&Superblock) -> Lsn| superblocks().map(of).fold(Lsn(0), Lsn::max);
        let newest_may_be_lost = legs.iter().all(|leg| leg.copy_lost);
        let newest_opening = from.opened_at.iter().copied().max();
        let owner_epoch = superblocks().map(|superblock| superblock.owner_epoch).fold(0, u64::max);
        let in_superblocks = superblocks().map(|superblock| (superblock.owner_epoch, superblock.open_start));
        let mut known = Self {
            rules: Rules {
                ring: Ring::of(&newest),
                wal_id: newest.wal_id,
                salt: newest.salt,
                frame_bytes_max: 0,
                opens: from.opened_at.iter().copied().chain(in_superblocks).collect(),
                faults,
            },
            durable: highest(|superblock| superblock.durable),
            reach: highest(|superblock| superblock.reach),
            trim_hint: highest(|superblock| superblock.trim_hint),
            owner_epoch,
            newest_may_be_lost,
            newest_opening,
            newest,
        };
        let bounds = || superblocks().map(|superblock| superblock.frame_bytes_max);
        if known.is_of_newest_opening() && bounds().all(|bound| bound > 0) {
            known.rules.frame_bytes_max = bounds().fold(0, u64::max);
        }
        known
    }

    /// Whether the newest superblock is of the newest opening.
    fn is_of_newest_opening(&self) -> bool {
        !self.newest_may_be_lost && self.newest_opening.is_none_or(|(epoch, _)| self.owner_epoch >= epoch)
    }
}

/// Reads the ring. What is returned is durable where it was found once the legs are flushed.
pub fn scan(
    device: &mut dyn BlockDevice,
    legs: &[LegView],
    from: &ScanFrom,
    config: &WalConfig,
) -> Result<Scan, ScanError> {
    let known = Known::of(legs, from, config.faults);
    let ring = known.rules.ring;
    if !ring.is_aligned(from.trim) || from.trim.0 >= POSITION_LIMIT {
        return Err(ScanError::BadTrim(from.trim));
    }
    let limit = Lsn(from.trim.0 + ring.bytes);
    let mut found = Scanner {
        head_bytes: config.scan_head_bytes,
        reach_bytes: reach_bytes(&ring, config),
        from,
        limit,
        reader: RingReader::new(device, ring, legs.len(), limit),
        epoch: 0,
        found: Scan {
            end: from.trim,
            records: Vec::new(),
            heads: Vec::new(),
            frames: 0,
            frame_bytes_max: 0,
            newest_trim_hint: known.trim_hint,
            owner_epoch_seen: known.owner_epoch,
            damage: None,
            clean_shutdown: false,
            missing: Vec::new(),
        },
        known: &known,
    }
    .run();
    let newest = &known.newest;
    found.clean_shutdown = newest.clean_shutdown && newest.durable == found.end && found.damage.is_none();
    Ok(found)
}

/// Why no frame is accepted at an LSN.
#[derive(Debug)]
enum Reject {
    Invalid(&'static str),
    Unreadable(io::Error),
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Unreadable(error) => write!(f, "unreadable: {error}"),
        }
    }
}

struct Scanner<'a> {
    known: &'a Known,
    head_bytes: usize,
    /// How far a superblock looks ahead.
    reach_bytes: u64,
    from: &'a ScanFrom,
    /// One lap after the trim LSN: no frame of this log lies beyond.
    limit: Lsn,
    reader: RingReader<'a>,
    /// Of the last accepted frame.
    epoch: u64,
    found: Scan,
}

impl<'a> Scanner<'a> {
    fn run(mut self) -> Scan {
        if let Some(why) = self.read_frames() {
            self.found.damage = self.judge_end(why);
        }
        self.found
    }

    /// Accepts frames until one fails twice. `None`: the ring is full to the last block.
    fn read_frames(&mut self) -> Option<Reject> {
        while self.found.end < self.limit {
            if self.accept_frame().is_err() {
                self.reader.forget();
                if let Err(why) = self.accept_frame() {
                    return Some(why);
                }
            }
        }
        None
    }

    /// Accepts the frame at the end found so far, from the first leg that has it.
    fn accept_frame(&mut self) -> Result<(), Reject> {
        let mut rejected = None;
        for leg in 0..self.reader.legs() {
            match self.accept_from(leg) {
                Ok(header) => {
                    self.note_who_lacks(&header, leg);
                    self.go_past(&header);
                    return Ok(());
                }
                // A leg that can be read and holds nothing here says more than one that cannot: acknowledged frames are on all.
                Err(why) if !matches!(rejected, Some(Reject::Invalid(_))) => rejected = Some(why),
                Err(_) => {}
            }
        }
        Err(rejected.expect("a WAL has a leg"))
    }

    fn accept_from(&mut self, leg: usize) -> Result<FrameHeader, Reject> {
        let (lsn, rules) = (self.found.end, &self.known.rules);
        let block = self.reader.read(leg, lsn, rules.ring.block).map_err(Reject::Unreadable)?;
        let header = rules.header(block).map_err(Reject::Invalid)?;
        rules.judge(&header, lsn, self.epoch, self.limit).map_err(Reject::Invalid)?;
        if header.kind != FrameKind::Data {
            return Ok(header);
        }
        let frame = self.reader.read(leg, lsn, u64::from(header.length)).map_err(Reject::Unreadable)?;
        let (found, head_bytes) = (&mut self.found, self.head_bytes);
        let records_before = found.records.len();
        let whole = rules.records(&header, frame, |record, payload| {
            found.records.push(record);
            found.heads.extend_from_slice(&payload[..payload.len().min(head_bytes)]);
            found.heads.resize(found.records.len() * head_bytes, 0);
        });
        if let Err(why) = whole {
            found.records.truncate(records_before);
            found.heads.truncate(records_before * head_bytes);
            return Err(Reject::Invalid(why));
        }
        Ok(header)
    }

    fn go_past(&mut self, header: &FrameHeader) {
        let found = &mut self.found;
        self.epoch = header.owner_epoch;
        found.end.0 += u64::from(header.length);
        found.frames += 1;
        found.frame_bytes_max = found.frame_bytes_max.max(self.known.rules.written_bytes(header));
        found.newest_trim_hint = found.newest_trim_hint.max(header.trim);
        found.owner_epoch_seen = found.owner_epoch_seen.max(header.owner_epoch);
    }

    /// Legs get the same bytes: whichever holds others lacks this frame.
    fn note_who_lacks(&mut self, header: &FrameHeader, from: usize) {
        let length = self.known.rules.written_bytes(header);
        for leg in (0..self.reader.legs()).filter(|leg| *leg != from) {
            let here = self.reader.load(from, header.lsn, length);
            let there = self.reader.load(leg, header.lsn, length);
            let same = match (here, there) {
                (Ok(here), Ok(there)) => self.reader.bytes(from, here) == self.reader.bytes(leg, there),
                _ => false,
            };
            if !same {
                let (leg, from) = (leg as u8, from as u8);
                self.found.missing.push(Missing { leg, from, lsn: header.lsn, length });
            }
        }
    }

    /// The log stops here: is it the tail, which was never acknowledged, or damage?
    fn judge_end(&mut self, why: Reject) -> Option<Damage> {
        let (end, known) = (self.found.end, self.known);
        let damage = |durable, proof: String| Some(Damage { at: end, durable, found: why.to_string(), proof });
        if let Some((_, start)) = self.from.opened_at.iter().filter(|(_, start)| *start > end).max_by_key(|o| o.1) {
            return damage(*start, "the WAL was opened from there on".into());
        }
        if known.durable > end {
            return damage(known.durable, "the superblock says so".into());
        }
        let never_seen = self.opening_maybe_never_seen();
        let reach_never_seen = self.reach_maybe_never_seen();
        if known.newest.clean_shutdown && known.durable == end && known.is_of_newest_opening() {
            // Nothing was written after that mark: what lies behind is of earlier laps.
            return None;
        }
        // No frame ends beyond the reach: if one does, later superblocks were lost, and who knows how many.
        let reach_is_old = end > known.reach;
        let behind = self.search_behind(end, known.newest_may_be_lost || never_seen.is_some() || reach_is_old);
        if let Some(header) = behind.proof {
            return damage(header.durable, format!("the frame at {} says so", header.lsn));
        }
        if let Some((epoch, start)) = never_seen
            && behind.epoch_seen < epoch
        {
            let opening = format!("owner epoch {epoch} from {start} on");
            let proof = format!("metadata has trimmed past an opening that this device never saw ({opening})");
            return damage(end, proof);
        }
        if reach_never_seen && behind.newest_end <= known.reach && !behind.unreadable {
            let proof =
                format!("metadata has trimmed past {}, beyond which this device was never written", known.reach);
            return damage(end, proof);
        }
        if self.from.given_up && end == self.from.trim {
            // Past all that was ever written, whatever cannot be read there.
            return None;
        }
        // A block that a power cut left unreadable and a lost acknowledged frame look the same: an operator decides.
        if let Reject::Unreadable(_) = why {
            return damage(end, "it cannot be read".into());
        }
        if behind.unreadable {
            return damage(end, "what lies behind cannot be read".into());
        }
        None
    }

    /// Metadata trims only what a device acknowledged: so one that was opened at a start below the trim LSN has frames of
    /// that opening, if only old ones. A copy that was made before has none. (A trim that an operator moved proves nothing.)
    fn opening_maybe_never_seen(&self) -> Option<(u64, Lsn)> {
        let (epoch, start) = self.known.newest_opening?;
        let unseen = self.found.owner_epoch_seen < epoch && self.from.trim > start && !self.from.given_up;
        unseen.then_some((epoch, start))
    }

    /// No frame ends beyond the reach, and metadata trims only what a device acknowledged: so if both superblock copies are good
    /// and the trim LSN lies beyond, either they are older than the ring, or all of the device is.
    fn reach_maybe_never_seen(&self) -> bool {
        let (from, known) = (self.from, self.known);
        let trimmed_since_opened = known.newest_opening.is_some_and(|(_, start)| from.trim > start);
        let beyond = self.found.end == from.trim && from.trim > known.reach;
        beyond && trimmed_since_opened && !known.newest_may_be_lost && !from.given_up
    }

    /// Looks for a later frame whose durable LSN lies beyond `end`. One that a later opening has cut off proves nothing: it may
    /// have lain further behind the end of then than a search goes.
    ///
    /// No frame ends beyond the superblock's reach. A device that lost a superblock write may have an older reach: so the
    /// search goes one more reach on, from there and from every frame that it meets.
    fn search_behind(&mut self, end: Lsn, to_the_limit: bool) -> Search<'a> {
        let known = self.known;
        let ring = known.rules.ring;
        let mut search = Search {
            end,
            epoch: self.epoch,
            rules: &known.rules,
            last_seen: known.reach,
            proof: None,
            epoch_seen: 0,
            newest_end: Lsn(0),
            unreadable: false,
        };
        // The frame at the end itself proves nothing, but that it was written.
        let mut at = end;
        while search.proof.is_none() {
            let until =
                if to_the_limit { self.limit } else { Lsn(search.last_seen.0 + self.reach_bytes).min(self.limit) };
            if at >= until {
                break;
            }
            let length = ring.bytes_to_end(at).min(until.0 - at.0).min(SEARCH_BYTES);
            if !search.look_at(&mut self.reader, at, length) {
                // Block by block, to see around the unreadable ones.
                for lsn in (at.0..at.0 + length).step_by(ring.block as usize).map(Lsn) {
                    search.unreadable |= !search.look_at(&mut self.reader, lsn, ring.block);
                }
            }
            at.0 += length;
        }
        search
    }
}

/// What a look behind the end has seen so far.
struct Search<'a> {
    end: Lsn,
    /// Of the last frame before the end.
    epoch: u64,
    rules: &'a Rules,
    /// No frame of this lap seen so far lies beyond.
    last_seen: Lsn,
    proof: Option<FrameHeader>,
    /// The highest of any frame, of earlier laps too.
    epoch_seen: u64,
    /// Where the newest of them ends.
    newest_end: Lsn,
    /// Some block could be read from no leg.
    unreadable: bool,
}

impl Search<'_> {
    /// False if no leg can read all of it.
    fn look_at(&mut self, reader: &mut RingReader<'_>, at: Lsn, length: u64) -> bool {
        let mut readable = false;
        for leg in 0..reader.legs() {
            if let Ok(bytes) = reader.read(leg, at, length) {
                readable = true;
                self.look_at_bytes(bytes, at);
            }
        }
        readable
    }

    fn look_at_bytes(&mut self, bytes: &[u8], at: Lsn) {
        let ring = self.rules.ring;
        for (block, i) in bytes.chunks_exact(ring.block as usize).zip(0..) {
            let Ok(header) = self.rules.header(block) else { continue };
            let lsn = Lsn(at.0 + i * ring.block);
            if ring.device_offset(header.lsn) == ring.device_offset(lsn) {
                self.epoch_seen = self.epoch_seen.max(header.owner_epoch);
                self.newest_end = self.newest_end.max(Lsn(header.lsn.0 + u64::from(header.length)));
            }
            if header.lsn != lsn {
                continue;
            }
            self.last_seen = self.last_seen.max(header.lsn);
            let cut_off = header.owner_epoch < self.rules.epoch_floor(lsn, self.epoch);
            if header.durable > self.end && !cut_off {
                self.proof.get_or_insert(header);
            }
        }
    }
}
