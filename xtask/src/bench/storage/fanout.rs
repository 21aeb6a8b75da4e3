//! `cargo xtask bench --fanout`: ten consumers of one cold range against one. What they ask of the store, how fast they are together, and
//! what it costs.

use std::thread;

use anyhow::{Result, anyhow};

use super::site::{self, Site};
use super::{Over, Settings};
use crate::bench::load::{Generator, Load};
use crate::bench::machine::{self, CpuTimes};

const TOPIC: &str = "fanout";
const PARTITIONS: u32 = 6;
const CONSUMERS: usize = 10;

pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    println!("{}", machine::conditions()?);
    let mib = if settings.tiny { 16 } else { 256 };
    for over in &settings.over {
        one_store(settings, *over, generator, mib)?;
    }
    Ok(true)
}

fn one_store(settings: &Settings, over: Over, generator: &Generator, mib: u64) -> Result<()> {
    let tables =
        format!("[cache]\nlog_bytes = \"8MiB\"\nblock_bytes = \"{}MiB\"\nindex_bytes = \"4MiB\"\n", (mib / 4).max(4));
    let bed = site::bed(over)?;
    let mut site = Site::start(&bed, "fanout", &settings.binary, &tables)?;
    println!("\nover {} {}: one cold range of {mib} MiB, block cache {} MiB", bed.kind, bed.version, (mib / 4).max(4));
    site.fill(generator, TOPIC, PARTITIONS, mib)?;
    println!(
        "{:<14}{:>8}{:>14}{:>16}{:>14}{:>8}",
        "consumers", "GETs", "MiB got", "MiB/s together", "broker CPU s", "idle"
    );
    let one = readers(&mut site, generator, 1)?;
    let ten = readers(&mut site, generator, CONSUMERS)?;
    println!("{:<14}{:>7.2}x{:>13.2}x{:>15.2}x", "ratio", ten.gets / one.gets, ten.mib / one.mib, ten.rate / one.rate);
    site.broker.kill()
}

struct Read {
    gets: f64,
    mib: f64,
    rate: f64,
}

fn readers(site: &mut Site, generator: &Generator, consumers: usize) -> Result<Read> {
    site.cool()?;
    let bootstrap = site.broker.bootstrap().to_owned();
    let gets = |site: &Site| -> Result<[f64; 2]> {
        let of = |name: &str, purpose: &str| site.labelled(name, &format!("operation=\"get\",purpose=\"{purpose}\""));
        let names = ["seawall_store_calls_total", "seawall_store_body_bytes_total"];
        let mut sums = [0.0; 2];
        for (sum, name) in sums.iter_mut().zip(names) {
            *sum = of(name, "tail_read")? + of(name, "catch_up_read")?;
        }
        Ok(sums)
    };
    let load = Load { partitions: PARTITIONS, producers: 0, consumers: 1, ..Load::MAX };
    let pid = site.broker.process()?.id();
    let (before, cpu, times) = (gets(site)?, machine::process_cpu(pid)?, CpuTimes::read()?);
    let reports: Vec<_> = thread::scope(|scope| {
        let reading: Vec<_> = (0..consumers).map(|_| scope.spawn(|| generator.run(&bootstrap, TOPIC, &load))).collect();
        reading.into_iter().map(|one| one.join().map_err(|_| anyhow!("a reader panicked"))?).collect()
    });
    let (cpu, idle) = (machine::process_cpu(pid)? - cpu, CpuTimes::read()?.since(&times).idle_share());
    let after = gets(site)?;
    let (mut mib, mut seconds) = (0.0, 0.0_f64);
    for report in reports {
        let consumed = report?.consumed;
        let of_one = consumed.bytes as f64 / f64::from(1 << 20);
        mib += of_one;
        seconds = seconds.max(of_one / consumed.mib_per_s);
    }
    let read =
        Read { gets: after[0] - before[0], mib: (after[1] - before[1]) / f64::from(1 << 20), rate: mib / seconds };
    println!("{consumers:<14}{:>8.0}{:>14.1}{:>16.1}{cpu:>14.2}{:>7.0}%", read.gets, read.mib, read.rate, idle * 100.0);
    Ok(read)
}
