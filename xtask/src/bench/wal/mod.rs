//! `cargo xtask bench --wal`: the WAL against fio on the same device, in the durability mode that the WAL chose there.
//!
//! One cell is a number of appenders and a record size. In each round the WAL runs first; fio then writes blocks of the size
//! and depth that resulted, twice: the second run against the first is the control. Device bytes are compared, padding and
//! headers included. Media: a loop device (needs root) and a file, both written once before.

pub mod end_to_end;
mod fio;
mod media;
mod ours;
mod recovery;
mod table;
mod two;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::machine;
use crate::tools::{self, Tool};
use media::Medium;
use ours::Ours;

pub struct Settings {
    pub pairs: usize,
    pub seconds: f64,
    /// The example `wal_append`, in place of a fresh build.
    pub binary: Option<PathBuf>,
    pub tiny: bool,
}

const APPENDERS: [u32; 4] = [1, 4, 16, 64];
const RECORD_BYTES: [u32; 3] = [1 << 10, 16 << 10, 256 << 10];

#[derive(Debug, Clone, Copy)]
struct Cell {
    appenders: u32,
    bytes: u32,
}

/// One round of a cell.
struct Round {
    ours: ours::Measured,
    fio: fio::Measured,
    again: fio::Measured,
}

/// True when every run gave its result. A cell that fails does not cost the others.
pub fn run(settings: &Settings) -> Result<bool> {
    let Some(fio) = Tool::Fio.find() else {
        anyhow::ensure!(settings.tiny && !tools::is_ci(), "fio is missing: {}", Tool::Fio.hint());
        println!("left out: fio is missing, {}", Tool::Fio.hint());
        return Ok(true);
    };
    let ours = Ours::build(settings.binary.clone(), !settings.tiny)?;
    let fio = fio::Fio::new(fio)?;
    println!("{}, {}", machine::conditions()?, fio.version);
    println!(
        "{} round(s) of {} s each: ours, fio with the block size and depth that resulted, fio again as control;\n\
         a ratio is the median over the rounds; p99 is that of one device write; in [] the control's range",
        settings.pairs, settings.seconds
    );
    let mut failures = Vec::new();
    let mut first = None;
    for medium in Medium::all(settings.tiny)? {
        let medium = medium?;
        let begun = Instant::now();
        println!("\n{}", medium.describe());
        let (mut marks, mut failed) = (table::Marks::default(), 0);
        for (number, cell) in cells(settings.tiny).into_iter().enumerate() {
            match rounds(settings, cell, &medium, &ours, &fio) {
                Ok(rounds) => {
                    if number == 0 {
                        println!("{}", table::mode(&rounds));
                        println!("{}", table::head());
                    }
                    println!("{}", table::row(cell, &rounds));
                    marks.add(cell, &rounds);
                }
                Err(error) => {
                    println!("{cell}: FAILED: {error:#}");
                    failures.push(anyhow!("{}, {cell}: {error:#}", medium.name()));
                    failed += 1;
                }
            }
        }
        if failed == 0 && !settings.tiny {
            print!("{}", marks.text());
        }
        match recovery::run(settings, &medium, &ours, &fio) {
            Ok(text) => print!("{text}"),
            Err(error) => failures.push(error.context(format!("{}, recovery", medium.name()))),
        }
        println!("  ({}: {:.0} s)", medium.name(), begun.elapsed().as_secs_f64());
        if medium.is_device() {
            first = Some(medium);
        }
    }
    if let Some(first) = first {
        match two::run(settings, &first, &ours, &fio) {
            Ok(text) => print!("{text}"),
            Err(error) => failures.push(error.context("two WALs")),
        }
    }
    println!("\nsynced 4 KiB write p50 now {:.0} us", machine::synced_write_p50_us()?);
    for failure in &failures {
        println!("FAILED: {failure:#}");
    }
    Ok(failures.is_empty())
}

fn cells(tiny: bool) -> Vec<Cell> {
    if tiny {
        return vec![Cell { appenders: 4, bytes: 1 << 10 }];
    }
    RECORD_BYTES.into_iter().flat_map(|bytes| APPENDERS.map(|appenders| Cell { appenders, bytes })).collect()
}

fn rounds(settings: &Settings, cell: Cell, medium: &Medium, ours: &Ours, fio: &fio::Fio) -> Result<Vec<Round>> {
    let mut rounds: Vec<Round> = Vec::new();
    for _ in 0..settings.pairs {
        let ours = ours.run(cell, medium, settings.seconds)?;
        // The shape of the first run stays, so that the rounds are of one thing.
        let shape = rounds.first().map_or_else(|| fio::Shape::of(&ours), |first| first.fio.shape);
        let run = || fio.write(medium, shape, settings.seconds);
        rounds.push(Round { fio: run()?, again: run()?, ours });
    }
    Ok(rounds)
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = format!("{} KiB", self.bytes >> 10);
        write!(f, "{size:>7} x {:<2}", self.appenders)
    }
}
