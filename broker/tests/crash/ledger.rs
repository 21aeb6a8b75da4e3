//! What producers were promised, kept outside of the broker, and the checker that holds the broker to it.
//!
//! A record's value says who wrote it and as which of his records to that partition, and the rest of it follows from that:
//! the checker needs nothing but the ledger's lines to know every acked byte.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One acked batch: records `first..first + count` of a producer to a partition, from `base_offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    pub producer: u32,
    pub partition: i32,
    pub first: u64,
    pub count: u32,
    pub base_offset: i64,
}

/// Acked batches, in memory and as lines of a file.
pub struct Ledger {
    state: Mutex<(File, Vec<Acked>)>,
    first_acks: Mutex<FirstAcks>,
}

/// How long after each kill the first record was acked again.
#[derive(Default)]
struct FirstAcks {
    /// The last kill, while no ack has followed.
    killed: Option<Instant>,
    waits: Vec<Duration>,
}

impl Ledger {
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { state: Mutex::new((File::create(path)?, Vec::new())), first_acks: Mutex::default() })
    }

    /// The lines of a ledger that another process wrote.
    pub fn load(path: &Path) -> std::io::Result<Vec<Acked>> {
        let parse = |line: String| -> Option<Acked> {
            let mut words = line.split(' ');
            Some(Acked {
                producer: words.next()?.parse().ok()?,
                partition: words.next()?.parse().ok()?,
                first: words.next()?.parse().ok()?,
                count: words.next()?.parse().ok()?,
                base_offset: words.next()?.parse().ok()?,
            })
        };
        let lines = BufReader::new(File::open(path)?).lines();
        lines.map(|line| parse(line?).ok_or_else(|| std::io::Error::other("not a line of a ledger"))).collect()
    }

    /// The broker is dead now.
    pub fn killed(&self) {
        self.first_acks.lock().unwrap().killed = Some(Instant::now());
    }

    /// From each kill to the first ack after it; kills that another one followed before any ack are left out.
    pub fn first_acks(&self) -> Vec<Duration> {
        self.first_acks.lock().unwrap().waits.clone()
    }

    /// `connected`: when the connection was made on which the ack came.
    pub fn ack(&self, connected: Instant, acked: Acked) {
        let mut first = self.first_acks.lock().unwrap();
        if let Some(killed) = first.killed.take_if(|killed| *killed < connected) {
            first.waits.push(killed.elapsed());
        }
        drop(first);
        let mut state = self.state.lock().unwrap();
        let Acked { producer, partition, first, count, base_offset } = acked;
        writeln!(state.0, "{producer} {partition} {first} {count} {base_offset}").expect("the ledger's disk has room");
        state.1.push(acked);
    }

    pub fn acked(&self) -> Vec<Acked> {
        self.state.lock().unwrap().1.clone()
    }

    pub fn records(&self) -> u64 {
        self.state.lock().unwrap().1.iter().map(|acked| u64::from(acked.count)).sum()
    }
}

/// Producers from this number on write values of `LARGE_BYTES`.
pub const LARGE_FROM: u32 = 1_000;
pub const LARGE_BYTES: usize = 4 << 10;

/// Who wrote a record, to which partition, as which of his records there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordId {
    pub producer: u32,
    pub partition: i32,
    pub number: u64,
}

impl RecordId {
    /// The whole value: the id in words, then up to 300 bytes that follow from it, or as many as a large one has.
    pub fn value(self) -> Vec<u8> {
        let Self { producer, partition, number } = self;
        let mut value = format!("{producer}/{partition}/{number}:");
        let seed = (u64::from(producer) << 48) ^ ((partition as u64) << 40) ^ number;
        let mut random = Random::new(seed);
        if producer >= LARGE_FROM {
            let mut value = value.into_bytes();
            while value.len() < LARGE_BYTES {
                let letters = (random.next() & 0x0f0f_0f0f_0f0f_0f0f) + 0x6161_6161_6161_6161;
                value.extend(letters.to_le_bytes());
            }
            value.truncate(LARGE_BYTES);
            return value;
        }
        for _ in 0..random.below(300) {
            value.push(char::from(b'a' + random.below(26) as u8));
        }
        value.into_bytes()
    }

    /// The id that a value names, if the value is whole and exactly what that id wrote.
    pub fn of_value(value: &[u8]) -> Option<Self> {
        let words = std::str::from_utf8(value).ok()?.split_once(':')?.0;
        let mut words = words.split('/');
        let producer = words.next()?.parse().ok()?;
        let partition = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        let id = Self { producer, partition, number };
        (id.value() == value).then_some(id)
    }
}

/// A record as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    pub offset: i64,
    pub value: Vec<u8>,
}

/// What the checker found. Empty lists mean that every promise was kept.
#[derive(Debug, Default)]
pub struct Findings {
    pub records_acked: u64,
    pub records_read: u64,
    /// Acked, but not at their offset nor anywhere else.
    pub lost: Vec<String>,
    /// Acked at another offset than they are at.
    pub moved: Vec<String>,
    /// There more than once.
    pub doubled: Vec<String>,
    /// A producer's records out of the order in which it wrote them.
    pub reordered: Vec<String>,
    /// Offsets that are missing, or there twice.
    pub not_dense: Vec<String>,
    /// Bytes that nobody wrote.
    pub corrupt: Vec<String>,
    /// What a client saw that a correct broker never answers.
    pub refused: Vec<String>,
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        self.kinds().iter().all(|(_, found)| found.is_empty())
    }

    fn kinds(&self) -> [(&'static str, &Vec<String>); 7] {
        [
            ("lost", &self.lost),
            ("moved", &self.moved),
            ("doubled", &self.doubled),
            ("reordered", &self.reordered),
            ("not dense", &self.not_dense),
            ("corrupt", &self.corrupt),
            ("refused", &self.refused),
        ]
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records acked, {} read", self.records_acked, self.records_read)?;
        for (kind, found) in self.kinds() {
            write!(f, ", {} {kind}", found.len())?;
        }
        for (kind, found) in self.kinds() {
            for example in found.iter().take(3) {
                write!(f, "\n  {kind}: {example}")?;
            }
        }
        Ok(())
    }
}

/// Holds what was read of each partition, from offset 0 to its end, against what was acked.
pub fn check(acked: &[Acked], read: &HashMap<i32, Vec<ReadBack>>) -> Findings {
    let mut findings = Findings::default();
    let mut at: HashMap<(i32, i64), RecordId> = HashMap::new();
    let mut found: HashMap<RecordId, i64> = HashMap::new();
    for (partition, records) in read {
        let mut newest: HashMap<u32, u64> = HashMap::new();
        for (expected, record) in records.iter().enumerate() {
            findings.records_read += 1;
            let offset = record.offset;
            if offset != expected as i64 {
                findings.not_dense.push(format!("partition {partition}: offset {offset} where {expected} was due"));
            }
            let Some(id) = RecordId::of_value(&record.value).filter(|id| id.partition == *partition) else {
                let start = String::from_utf8_lossy(&record.value[..record.value.len().min(40)]).into_owned();
                findings.corrupt.push(format!("partition {partition} offset {offset}: {start:?}"));
                continue;
            };
            at.insert((*partition, offset), id);
            if let Some(first) = found.insert(id, offset) {
                findings.doubled.push(format!("{id:?} at {first} and {offset}"));
            }
            if newest.insert(id.producer, id.number).is_some_and(|before| before >= id.number) {
                findings.reordered.push(format!("{id:?} at {offset} after a later one"));
            }
        }
    }
    for batch in acked {
        for i in 0..u64::from(batch.count) {
            findings.records_acked += 1;
            let id = RecordId { producer: batch.producer, partition: batch.partition, number: batch.first + i };
            let offset = batch.base_offset + i as i64;
            if at.get(&(batch.partition, offset)) == Some(&id) {
                continue;
            }
            match found.get(&id) {
                Some(elsewhere) => findings.moved.push(format!("{id:?} acked at {offset}, is at {elsewhere}")),
                None => findings.lost.push(format!("{id:?} acked at {offset}")),
            }
        }
    }
    findings
}

/// SplitMix64: a seed replays a run as far as the broker lets it.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and `bound`, without it.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A short text of figures for a log.
pub fn summary(findings: &Findings, kills: u64, seed: u64) -> String {
    let mut text = String::new();
    _ = write!(text, "seed {seed}: {kills} kills, {findings}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RecordId {
        RecordId { producer: 1, partition: 0, number }
    }

    fn log(numbers: &[u64]) -> HashMap<i32, Vec<ReadBack>> {
        let read = |(offset, number): (usize, &u64)| ReadBack { offset: offset as i64, value: id(*number).value() };
        HashMap::from([(0, numbers.iter().enumerate().map(read).collect())])
    }

    fn acked(first: u64, count: u32, base_offset: i64) -> Acked {
        Acked { producer: 1, partition: 0, first, count, base_offset }
    }

    #[test]
    fn a_kept_promise_is_clean() {
        assert!(check(&[acked(0, 2, 0), acked(2, 1, 2)], &log(&[0, 1, 2, 3])).is_clean());
    }

    #[test]
    fn each_kind_of_broken_promise_is_found() {
        assert_eq!(check(&[acked(0, 3, 0)], &log(&[0, 1])).lost.len(), 1);
        assert_eq!(check(&[acked(0, 1, 0), acked(1, 1, 1)], &log(&[0, 5, 1])).moved.len(), 1);
        assert_eq!(check(&[], &log(&[0, 1, 1])).doubled.len(), 1);
        assert_eq!(check(&[], &log(&[1, 0])).reordered.len(), 1);
        let mut gap = log(&[0, 1]);
        gap.get_mut(&0).unwrap()[1].offset = 2;
        assert_eq!(check(&[], &gap).not_dense.len(), 1);
        let mut flipped = log(&[0]);
        *flipped.get_mut(&0).unwrap()[0].value.last_mut().unwrap() ^= 1;
        assert_eq!(check(&[], &flipped).corrupt.len(), 1);
    }
}
