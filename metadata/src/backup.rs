//! What a backup of metadata is made of: pieces of snapshots and of the log, each of which says what it is. Pure: bytes in,
//! bytes out; docs/formats/backup.md has the layout.
//!
//! A *generation* is a snapshot in pieces, followed by pieces of the log that continue it. Where they lie, and when they are
//! written and dropped, is left to others.
//! Promise: a piece that is torn, altered, another cluster's, or in another's place is an error, and so is a gap in the log.

use crate::command::{Command, CommandError, METADATA_LEVEL};
use crate::ids::*;
use crate::snapshot::{self, SnapshotError, crc32c};
use crate::state::State;
use crate::wire::{Input, Wire, WireError, wire_enum, wire_struct};

/// The newest format of pieces, and the one written.
pub const BACKUP_FORMAT: u16 = 1;
/// The payload of a piece is no longer, but for a log entry that alone is longer.
pub const PIECE_BYTES_MAX: usize = 8 << 20;

const MAGIC: &[u8; 8] = b"SEAWBKUP";

/// A point of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct LogPoint {
    pub index: u64,
    pub term: u64,
}

/// What a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// One of `parts` of a snapshot that was taken at metadata time `now_ms`.
    Snapshot { part: u32, parts: u32, now_ms: u64 },
    /// Consecutive log entries.
    Log,
}

/// What a piece says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceHead {
    pub cluster: ClusterId,
    pub incarnation: Incarnation,
    pub generation: u64,
    /// From 0, within the generation.
    pub number: u32,
    pub kind: PieceKind,
    /// The first entry that it holds; for a snapshot, the last that it stands for.
    pub first: LogPoint,
    /// The last entry.
    pub last: LogPoint,
    /// By the writer's wall clock, for people.
    pub written_ms: u64,
}

/// An applied entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    /// Empty for an entry that holds no command.
    pub command: Vec<u8>,
}

/// Why bytes are not the piece that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    #[error("not a backup of metadata")]
    Magic,
    #[error("backup format {found} is newer than {BACKUP_FORMAT}: use a newer version")]
    NewerFormat { found: u16 },
    #[error("checksum {found:08x} is not {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("broken piece: {0}")]
    Broken(#[from] WireError),
    #[error("another piece: {0}")]
    OtherPiece(&'static str),
}

/// Why a log does not continue a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("entry {found} does not follow {applied}")]
    Gap { applied: u64, found: u64 },
    #[error("entry {index}: {source}")]
    Command { index: u64, source: CommandError },
    #[error("entry {index} finalizes metadata level {found}; this version knows {METADATA_LEVEL}")]
    NewerLevel { index: u64, found: u16 },
}

impl LogEntry {
    pub fn point(&self) -> LogPoint {
        LogPoint { index: self.index, term: self.term }
    }
}

/// The bytes of a piece.
pub fn encode_piece(head: &PieceHead, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 128);
    out.extend_from_slice(MAGIC);
    BACKUP_FORMAT.put(&mut out);
    head.put(&mut out);
    (payload.len() as u64).put(&mut out);
    out.extend_from_slice(payload);
    crc32c(&out).put(&mut out);
    out
}

/// A piece's head and payload; whose it is and where it belongs is for the caller to compare, by [`PieceHead::check`].
pub fn decode_piece(bytes: &[u8]) -> Result<(PieceHead, &[u8]), PieceError> {
    let mut input = Input::new(bytes);
    if input.bytes(MAGIC.len()) != Ok(MAGIC) {
        return Err(PieceError::Magic);
    }
    let format = u16::take(&mut input)?;
    if format > BACKUP_FORMAT {
        return Err(PieceError::NewerFormat { found: format });
    }
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(WireError::Short)?;
    let (found, expected) = (crc32c(body), u32::from_le_bytes(*crc));
    if found != expected {
        return Err(PieceError::Checksum { found, expected });
    }
    let mut input = Input::new(body.get(MAGIC.len() + 2..).ok_or(WireError::Short)?);
    let head = PieceHead::take(&mut input)?;
    let length = usize::try_from(u64::take(&mut input)?).map_err(|_| WireError::Short)?;
    let payload = input.bytes(length)?;
    input.finish()?;
    Ok((head, payload))
}

impl PieceHead {
    /// Whether it is that piece of that backup.
    pub fn check(
        &self,
        cluster: ClusterId,
        incarnation: Incarnation,
        generation: u64,
        number: u32,
    ) -> Result<(), PieceError> {
        if self.cluster != cluster {
            return Err(PieceError::OtherPiece("of another cluster"));
        }
        if self.incarnation != incarnation {
            return Err(PieceError::OtherPiece("of another incarnation"));
        }
        if (self.generation, self.number) != (generation, number) {
            return Err(PieceError::OtherPiece("of another place"));
        }
        Ok(())
    }
}

/// Log entries as the payload of a piece.
pub fn encode_log(entries: &[LogEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    (entries.len() as u32).put(&mut out);
    for LogEntry { index, term, command } in entries {
        index.put(&mut out);
        term.put(&mut out);
        (command.len() as u32).put(&mut out);
        out.extend_from_slice(command);
    }
    out
}

/// The entries of a piece of the log, which must be those that its head names.
pub fn decode_log(head: &PieceHead, payload: &[u8]) -> Result<Vec<LogEntry>, PieceError> {
    let mut input = Input::new(payload);
    let count = u32::take(&mut input)?;
    let mut entries: Vec<LogEntry> = Vec::new();
    for _ in 0..count {
        let (index, term) = (u64::take(&mut input)?, u64::take(&mut input)?);
        let length = u32::take(&mut input)? as usize;
        let command = input.bytes(length)?.to_vec();
        if entries.last().is_some_and(|last| last.index + 1 != index) {
            return Err(WireError::Invalid("order of entries").into());
        }
        entries.push(LogEntry { index, term, command });
    }
    input.finish()?;
    match (entries.first(), entries.last()) {
        (Some(first), Some(last)) if first.point() == head.first && last.point() == head.last => Ok(entries),
        _ => Err(WireError::Invalid("range of entries").into()),
    }
}

/// A state that grows from a snapshot by the log behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub state: State,
    pub term: u64,
}

impl Replay {
    pub fn from_snapshot(data: &[u8], at: LogPoint) -> Result<Self, SnapshotError> {
        let state = snapshot::decode(data)?;
        if state.applied() != at.index {
            return Err(WireError::Invalid("index of the snapshot").into());
        }
        Ok(Self { state, term: at.term })
    }

    /// Applies what follows; entries that are applied already are passed over. After an error the state is as of the entry
    /// before.
    pub fn apply(&mut self, entries: &[LogEntry]) -> Result<(), ReplayError> {
        for LogEntry { index, term, command } in entries {
            let (index, applied) = (*index, self.state.applied());
            if index <= applied {
                continue;
            }
            if index != applied + 1 {
                return Err(ReplayError::Gap { applied, found: index });
            }
            if command.is_empty() {
                self.state.pass(index);
            } else {
                let command = Command::decode(command).map_err(|source| ReplayError::Command { index, source })?;
                if let Command::FinalizeFeatures { .. } | Command::InitCluster { .. } = command {
                    let mut next = self.state.clone();
                    let _ = next.apply(index, command);
                    if next.metadata_level() > METADATA_LEVEL {
                        return Err(ReplayError::NewerLevel { index, found: next.metadata_level() });
                    }
                    self.state = next;
                } else {
                    // What was refused then is refused now.
                    let _ = self.state.apply(index, command);
                }
            }
            self.term = *term;
        }
        Ok(())
    }
}

wire_struct!(LogPoint { index, term });
wire_enum!(PieceKind ("kind of piece") { 1 => Snapshot { part, parts, now_ms }, 2 => Log });
wire_struct!(PieceHead { cluster, incarnation, generation, number, kind, first, last, written_ms });

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
    const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(2));

    fn entry(index: u64, command: Option<Command>) -> LogEntry {
        LogEntry { index, term: 3, command: command.map_or_else(Vec::new, |command| command.encode().unwrap()) }
    }

    fn log() -> Vec<LogEntry> {
        let init = Command::InitCluster { cluster: CLUSTER, incarnation: INCARNATION, metadata_level: 1 };
        let time = |now_ms| Some(Command::AdvanceTime { now_ms });
        vec![entry(2, Some(init)), entry(3, None), entry(4, time(10)), entry(5, time(5))]
    }

    fn head(entries: &[LogEntry]) -> PieceHead {
        let (first, last) = (entries[0].point(), entries[entries.len() - 1].point());
        let kind = PieceKind::Log;
        PieceHead {
            cluster: CLUSTER,
            incarnation: INCARNATION,
            generation: 7,
            number: 2,
            kind,
            first,
            last,
            written_ms: 9,
        }
    }

    fn begun() -> Replay {
        let mut state = State::default();
        state.pass(1);
        Replay::from_snapshot(&snapshot::encode(&state), LogPoint { index: 1, term: 1 }).unwrap()
    }

    #[test]
    fn a_snapshot_and_the_log_behind_it_give_the_state() {
        let entries = log();
        let bytes = encode_piece(&head(&entries), &encode_log(&entries));
        let (found, payload) = decode_piece(&bytes).unwrap();
        assert_eq!(found, head(&entries));
        let mut replay = begun();
        replay.apply(&decode_log(&found, payload).unwrap()).unwrap();
        assert_eq!((replay.state.applied(), replay.state.now_ms(), replay.term), (5, 10, 3));
        replay.apply(&log()[1..]).unwrap();
        assert_eq!(replay.state.applied(), 5, "what overlaps is passed over");
        let gap = replay.apply(&[entry(7, None)]);
        assert_eq!(gap, Err(ReplayError::Gap { applied: 5, found: 7 }));
        let unknown = LogEntry { index: 6, term: 3, command: vec![0xff, 0xff, 1, 0] };
        assert!(matches!(replay.apply(&[unknown]), Err(ReplayError::Command { index: 6, .. })));
    }

    #[test]
    fn a_piece_with_any_bit_flipped_is_an_error() {
        let entries = log();
        let bytes = encode_piece(&head(&entries), &encode_log(&entries));
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode_piece(&flipped).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(decode_piece(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage_and_another_place_from_both() {
        let entries = log();
        let mut bytes = encode_piece(&head(&entries), &encode_log(&entries));
        let (found, _) = decode_piece(&bytes).unwrap();
        assert_eq!(found.check(CLUSTER, INCARNATION, 7, 2), Ok(()));
        assert!(found.check(CLUSTER, INCARNATION, 7, 3).is_err());
        assert!(found.check(CLUSTER, Incarnation(Uuid::nil()), 7, 2).is_err());
        assert!(found.check(ClusterId(Uuid::nil()), INCARNATION, 7, 2).is_err());
        bytes[8] = 2;
        assert_eq!(decode_piece(&bytes), Err(PieceError::NewerFormat { found: 2 }));
    }
}
