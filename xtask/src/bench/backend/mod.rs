//! `cargo xtask bench --backend`: what the S3 client costs, against `opendal` and `aws-sdk-s3` used plainly.
//!
//! Each run is one client in a process of its own, whose CPU time is what is compared: nobody else is in it. In each round
//! all take their turn, ours twice, and every second round goes the other way round. Stores: a sink on loopback, which has
//! no disk and does not slow anybody down, MinIO, and Ceph's gateway.

mod client;
mod store;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::machine;
use client::{Cell, Contender, Measured, Operation, Program};
use store::Started;
pub use store::Store;

pub struct Settings {
    pub stores: Vec<Store>,
    pub pairs: usize,
    pub seconds: f64,
    pub binary: Option<PathBuf>,
    pub tiny: bool,
}

/// What a round measured, by contender; none for those that did not run or failed.
pub type Round = [Option<Measured>; Contender::ALL.len()];

/// True when every run gave its result. A run that fails is told and left out; the others go on.
pub fn run(settings: &Settings) -> Result<bool> {
    let program = Program::build(settings.binary.clone(), settings.tiny)?;
    println!("{}", machine::conditions()?);
    println!("{}", program.versions()?);
    println!(
        "{} round(s) of {} s each; a ratio is the median over the rounds; in [] the control: ours again to ours",
        settings.pairs, settings.seconds
    );
    let mut failures = Vec::new();
    for store in &settings.stores {
        if let Err(error) = one(*store, settings, &program, &mut failures) {
            println!("{}: {error:#}", store.name());
            failures.push(format!("{}: {error:#}", store.name()));
        }
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    Ok(failures.is_empty())
}

fn one(store: Store, settings: &Settings, program: &Program, failures: &mut Vec<String>) -> Result<()> {
    let begun = std::time::Instant::now();
    let started = Started::start(store, program).with_context(|| format!("start {}", store.name()))?;
    println!("\n{}", started.describe());
    println!("{}", table::head());
    let mut marks = table::Marks::default();
    for cell in cells(store, settings.tiny) {
        let rounds = rounds(&cell, settings, program, &started, failures);
        println!("{}", table::row(&cell, &rounds));
        marks.add(&cell, &rounds);
    }
    if !settings.tiny {
        print!("{}", marks.text());
    }
    println!("  ({}: {:.0} s)", store.name(), begun.elapsed().as_secs_f64());
    Ok(())
}

fn rounds(
    cell: &Cell,
    settings: &Settings,
    program: &Program,
    store: &Started,
    failures: &mut Vec<String>,
) -> Vec<Round> {
    let mut rounds = Vec::new();
    for number in 0..settings.pairs {
        let mut round = Round::default();
        let mut order: Vec<Contender> = program.contenders().filter(|contender| contender.can(cell)).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            match program.measure(contender, cell, store, settings.seconds) {
                Ok(measured) => round[contender as usize] = Some(measured),
                Err(error) => failures.push(format!("{}, {cell}, {}: {error:#}", store.name(), contender.name())),
            }
        }
        rounds.push(round);
    }
    rounds
}

/// What is got was put by the cells before. The checksum is the one that the profile of the store has.
fn cells(store: Store, tiny: bool) -> Vec<Cell> {
    const SMALL: u64 = 8;
    const LARGE: u64 = 64;
    let both = [Operation::Put, Operation::Get];
    let cell = |operation, mib, in_flight| Cell {
        operation,
        object_mib: mib,
        in_flight,
        crc32c: store.wants_crc32c() && operation == Operation::Put,
        signed: false,
    };
    if tiny {
        return both.map(|operation| cell(operation, SMALL, 2)).to_vec();
    }
    let mut cells = Vec::new();
    for operation in both {
        cells.extend([1, 8, 32].map(|in_flight| cell(operation, SMALL, in_flight)));
        let large: &[u32] = match store {
            Store::Sink => &[1, 8, 32],
            Store::Minio => &[8],
            // It writes slowly here, and clears what was replaced later.
            Store::Rgw => &[4],
        };
        cells.extend(large.iter().map(|in_flight| cell(operation, LARGE, *in_flight)));
        if store == Store::Sink && operation == Operation::Put {
            cells.extend([SMALL, LARGE].map(|mib| Cell { crc32c: true, ..cell(operation, mib, 8) }));
            cells.push(Cell { signed: true, ..cell(operation, SMALL, 8) });
        }
    }
    cells
}
