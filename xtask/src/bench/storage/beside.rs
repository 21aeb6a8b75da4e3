//! `cargo xtask bench --beside`: what producers feel of uploads and of compaction. Three brokers over one store each take the same load in
//! turn: one that uploads nothing meanwhile, one that uploads in bursts, one that also rewrites what it uploads.

use anyhow::Result;

use super::site::{self, Site};
use super::{Settings, Value};
use crate::bench::load::{Generator, Load, Report};
use crate::bench::machine::{self, median};

const TOPIC: &str = "beside";
const PARTITIONS: u32 = 12;
/// MiB/s.
const RATE: u64 = 12;

/// What the brokers differ in.
const NONE: &str = "[upload]\nbytes = \"4GiB\"\ninterval = \"1h\"\n";
const BURSTS: &str = "[upload]\nbytes = \"64MiB\"\ninterval = \"1h\"\n[compaction]\nobjects_min = 10000\n";
const BOTH: &str =
    "[upload]\nbytes = \"12MiB\"\ninterval = \"1s\"\nstream_object_bytes = \"64MiB\"\n[compaction]\nobjects_min = 4\n";

pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    println!("{}", machine::conditions()?);
    let wal = "[[wal]]\nkind = \"file\"\nsize = \"1GiB\"\n";
    let seconds = settings.seconds.unwrap_or(if settings.tiny { 2.0 } else { 15.0 });
    let load = Load {
        partitions: PARTITIONS,
        rate: RATE << 10,
        seconds,
        warmup_seconds: 1.0,
        consumers: 0,
        linger_ms: 1.0,
        ..Load::MAX
    };
    for over in &settings.over {
        let bed = site::bed(*over)?;
        let mut sites = Vec::new();
        for (prefix, tables) in [("none", NONE), ("bursts", BURSTS), ("both", BOTH)] {
            sites.push(Site::start(&bed, prefix, &settings.binary, &(wal.to_owned() + tables))?);
        }
        println!("\nover {} {}: {}", bed.kind, bed.version, load.describe());
        let mut rounds: Vec<Vec<Report>> = Vec::new();
        for number in 0..settings.pairs {
            let mut round = Vec::new();
            // The first again at the end: the control.
            for at in [0, 1, 2, 0] {
                let bootstrap = sites[at].broker.bootstrap().to_owned();
                let topic = format!("{TOPIC}-{number}-{}", round.len());
                generator.create_topic(&bootstrap, &topic, PARTITIONS, &[])?;
                round.push(generator.run(&bootstrap, &topic, &load)?);
                if at > 0 {
                    sites[at].wait_until_settled()?;
                } else {
                    // What it may not upload would fill its WAL.
                    generator.delete_topic(&bootstrap, &topic)?;
                }
            }
            eprintln!("round {} of {}", number + 1, settings.pairs);
            rounds.push(round);
        }
        let objects = |at: usize, name: &str| sites[at].metric(name);
        println!(
            "objects uploaded meanwhile: {:.0}, {:.0} and {:.0}; made by compaction: {:.0}",
            objects(0, "seawall_upload_objects_total")?,
            objects(1, "seawall_upload_objects_total")?,
            objects(2, "seawall_upload_objects_total")?,
            objects(2, "seawall_compaction_objects_total")?
        );
        table(&rounds);
        sites.iter_mut().try_for_each(|site| site.broker.kill())?;
    }
    Ok(true)
}

fn table(rounds: &[Vec<Report>]) {
    println!("{:<20}{:>9}{:>18}{:>26}   control: none again", "", "none", "upload bursts", "uploads and compaction");
    let rows: [(&str, Value); 4] = [
        ("produce p50 ms", |report| report.produce_ms.p50),
        ("produce p99 ms", |report| report.produce_ms.p99),
        ("produce p99.9 ms", |report| report.produce_ms.p999),
        ("produce max ms", |report| report.produce_ms.max),
    ];
    for (name, value) in rows {
        let of = |at: usize| median(rounds.iter().map(|round| value(&round[at])));
        let ratio = |at: usize| median(rounds.iter().map(|round| value(&round[at]) / value(&round[0])));
        let cell = |at: usize| format!("{:.2} {:.2}x", of(at), ratio(at));
        println!("{name:<20}{:>9.2}{:>18}{:>26}   {:.2}x", of(0), cell(1), cell(2), ratio(3));
    }
}
