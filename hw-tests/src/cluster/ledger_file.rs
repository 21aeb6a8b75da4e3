//! The ledger as a text file: a line for each run of acks, written as they come, so that a check after a crash of the
//! generator, or on another machine, knows what was acked.
//!
//! `connection partition sequence offset count`: that many records from that sequence on were acked from that offset on.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::ledger::{Ledger, Stream};

const HEAD: &str = "seawall-qualify ledger 1";

pub struct LedgerFile {
    out: BufWriter<File>,
    /// The run of acks that may still grow.
    open: Option<Run>,
}

struct Run {
    stream: Stream,
    sequence: u64,
    offset: i64,
    count: u64,
}

impl LedgerFile {
    pub fn create(path: &Path, run: u64, topic: &str) -> Result<Self> {
        let mut out = BufWriter::new(File::create(path).with_context(|| format!("create {}", path.display()))?);
        writeln!(out, "{HEAD}\n{run} {topic}")?;
        Ok(Self { out, open: None })
    }

    pub fn acked(&mut self, stream: Stream, sequence: u64, offset: i64) -> Result<()> {
        if let Some(run) = &mut self.open {
            let next = (run.stream, run.sequence + run.count, run.offset + run.count as i64);
            if next == (stream, sequence, offset) {
                run.count += 1;
                return Ok(());
            }
        }
        self.close_run()?;
        self.open = Some(Run { stream, sequence, offset, count: 1 });
        Ok(())
    }

    pub fn finish(&mut self) -> Result<()> {
        self.close_run()?;
        self.out.flush()?;
        Ok(())
    }

    fn close_run(&mut self) -> Result<()> {
        if let Some(Run { stream: (connection, partition), sequence, offset, count }) = self.open.take() {
            writeln!(self.out, "{connection} {partition} {sequence} {offset} {count}")?;
        }
        Ok(())
    }
}

/// A ledger with the acks of a file; also its run and topic. A last line cut off by a crash is left out.
pub fn read(path: &Path) -> Result<(Ledger, u64, String)> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut file = BufReader::new(file);
    let mut line = String::new();
    let mut next = move || -> Result<Option<String>> {
        line.clear();
        file.read_line(&mut line)?;
        Ok(line.strip_suffix('\n').map(str::to_owned))
    };
    ensure!(next()?.as_deref() == Some(HEAD), "{} is no ledger", path.display());
    let head = next()?.context("no run")?;
    let (run, topic) = head.split_once(' ').context("no topic")?;
    let run = run.parse()?;
    let mut ledger = Ledger::default();
    while let Some(line) = next()? {
        let acks = parse(&line).with_context(|| format!("not a line of a ledger: {line:?}"))?;
        for n in 0..acks.count {
            ledger.acked(acks.stream, acks.sequence + n, acks.offset + n as i64);
        }
    }
    Ok((ledger, run, topic.to_owned()))
}

fn parse(line: &str) -> Option<Run> {
    let words: Vec<&str> = line.split(' ').collect();
    let [connection, partition, sequence, offset, count] = words[..] else { return None };
    Some(Run {
        stream: (connection.parse().ok()?, partition.parse().ok()?),
        sequence: sequence.parse().ok()?,
        offset: offset.parse().ok()?,
        count: count.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_come_back_from_the_file_in_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut file = LedgerFile::create(&path, 9, "orders").unwrap();
        for n in 0..1000u64 {
            file.acked((0, 1), n, 50 + n as i64).unwrap();
        }
        file.acked((2, 1), 0, 1050).unwrap();
        file.acked((2, 1), 2, 1051).unwrap();
        file.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 5);

        let (mut ledger, run, topic) = read(&path).unwrap();
        assert_eq!((run, topic.as_str()), (9, "orders"));
        for n in 0..1000u64 {
            ledger.read((0, 1), n, 50 + n as i64);
        }
        ledger.read((2, 1), 0, 1050);
        let verdict = ledger.verdict();
        assert_eq!((verdict.acked, verdict.read, verdict.lost), (1002, 1001, 1));
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        for text in
            ["", "something\n", "seawall-qualify ledger 1\n", "seawall-qualify ledger 1\n1 t\n0 0 x 0 1\n0 0 0 0 1\n"]
        {
            std::fs::write(&path, text).unwrap();
            assert!(read(&path).is_err(), "{text:?}");
        }
    }
}
