//! What was acked against what was read. Pure.
//!
//! A stream is what one connection sends to one partition, numbered from 0. Promise of a correct broker: each acked
//! record is read, once, at the offset of its ack, and the records of a stream in their order. A record that was never
//! acked may be there or not: its outcome is unknown.

use std::collections::BTreeMap;

/// Which connection, which partition.
pub type Stream = (u32, i32);

/// An acked or read record takes 16 bytes here; this bounds the ledger to about half a gigabyte.
pub const RECORDS_MAX: u64 = 32_000_000;

const NONE: i64 = -1;

#[derive(Debug, Default)]
pub struct Ledger {
    streams: BTreeMap<Stream, StreamLedger>,
    records: u64,
    overflow: u64,
    doubled: u64,
    out_of_order: u64,
    backwards: u64,
    last_offset: BTreeMap<i32, i64>,
}

#[derive(Debug, Default)]
struct StreamLedger {
    /// By sequence: offset of the ack and offset of the first read.
    entries: Vec<(i64, i64)>,
    last_read: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    pub acked: u64,
    pub read: u64,
    /// Acked, and never read.
    pub lost: u64,
    /// Read once more after the first time.
    pub doubled: u64,
    /// Read at another offset than acked, behind a later record of its stream, or at offsets that fall.
    pub moved: u64,
    /// Read and not acked: not an error.
    pub unacked_read: u64,
    /// Beyond what the ledger holds: not checked.
    pub unchecked: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.moved == 0 && self.unchecked == 0
    }
}

impl Ledger {
    pub fn acked(&mut self, stream: Stream, sequence: u64, offset: i64) {
        if let Some(entry) = self.entry(stream, sequence) {
            entry.0 = offset;
        }
    }

    /// Records of a partition in the order in which the consumer got them.
    pub fn read(&mut self, stream: Stream, sequence: u64, offset: i64) {
        let last_offset = self.last_offset.entry(stream.1).or_insert(NONE);
        if offset <= *last_offset {
            self.backwards += 1;
        }
        *last_offset = offset;
        let Some(entry) = self.entry(stream, sequence) else { return };
        if entry.1 != NONE {
            self.doubled += 1;
            return;
        }
        entry.1 = offset;
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        if stream.last_read.is_some_and(|last| sequence < last) {
            self.out_of_order += 1;
        } else {
            stream.last_read = Some(sequence);
        }
    }

    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            doubled: self.doubled,
            moved: self.out_of_order + self.backwards,
            unchecked: self.overflow,
            ..Verdict::default()
        };
        for (acked, read) in self.streams.values().flat_map(|stream| &stream.entries) {
            match (*acked != NONE, *read != NONE) {
                (true, true) => verdict.moved += u64::from(acked != read),
                (true, false) => verdict.lost += 1,
                (false, true) => verdict.unacked_read += 1,
                (false, false) => {}
            }
            verdict.acked += u64::from(*acked != NONE);
            verdict.read += u64::from(*read != NONE);
        }
        verdict
    }

    fn entry(&mut self, stream: Stream, sequence: u64) -> Option<&mut (i64, i64)> {
        let entries = &mut self.streams.entry(stream).or_default().entries;
        let more = (sequence + 1).saturating_sub(entries.len() as u64);
        if self.records + more > RECORDS_MAX {
            self.overflow += 1;
            return None;
        }
        self.records += more;
        let at = usize::try_from(sequence).ok()?;
        if at >= entries.len() {
            entries.resize(at + 1, (NONE, NONE));
        }
        entries.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Stream = (0, 0);

    fn acked(count: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for n in 0..count {
            ledger.acked(S, n, 100 + n as i64);
        }
        ledger
    }

    fn read(ledger: &mut Ledger, records: &[(u64, i64)]) -> Verdict {
        for (sequence, offset) in records {
            ledger.read(S, *sequence, *offset);
        }
        ledger.verdict()
    }

    #[test]
    fn what_was_acked_and_read_once_in_order_is_clean() {
        let verdict = read(&mut acked(3), &[(0, 100), (1, 101), (2, 102)]);
        assert_eq!(verdict, Verdict { acked: 3, read: 3, ..Verdict::default() });
        assert!(verdict.is_clean());
    }

    #[test]
    fn reads_may_be_told_before_their_acks() {
        let mut ledger = Ledger::default();
        ledger.read(S, 0, 100);
        ledger.acked(S, 0, 100);
        assert!(ledger.verdict().is_clean());
    }

    #[test]
    fn a_lost_record_is_told() {
        let verdict = read(&mut acked(3), &[(0, 100), (2, 102)]);
        assert_eq!((verdict.lost, verdict.doubled, verdict.moved), (1, 0, 0));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_doubled_record_is_told() {
        let verdict = read(&mut acked(2), &[(0, 100), (1, 101), (1, 102)]);
        assert_eq!((verdict.lost, verdict.doubled), (0, 1));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_moved_record_is_told_by_offset_by_order_and_by_falling_offsets() {
        let elsewhere = read(&mut acked(2), &[(0, 100), (1, 105)]);
        assert_eq!((elsewhere.lost, elsewhere.moved), (0, 1));
        let mut swapped = Ledger::default();
        assert_eq!(read(&mut swapped, &[(1, 100), (0, 101)]).moved, 1);
        let mut falling = Ledger::default();
        assert_eq!(read(&mut falling, &[(0, 101), (1, 100)]).moved, 1);
        for verdict in [elsewhere, swapped.verdict(), falling.verdict()] {
            assert!(!verdict.is_clean());
        }
    }

    #[test]
    fn a_record_without_an_ack_may_be_there_or_not() {
        let verdict = read(&mut acked(2), &[(0, 100), (1, 101), (5, 102)]);
        assert_eq!(verdict.unacked_read, 1);
        assert!(verdict.is_clean());
    }

    #[test]
    fn records_beyond_the_bound_are_told_as_unchecked() {
        let mut ledger = Ledger::default();
        ledger.acked(S, RECORDS_MAX, 1);
        assert_eq!(ledger.verdict().unchecked, 1);
        assert!(!ledger.verdict().is_clean());
    }
}
