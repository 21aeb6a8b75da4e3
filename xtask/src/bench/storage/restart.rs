//! `cargo xtask bench --restart`: SIGKILL with gigabytes in the WAL that no store has, because it was away. From the start of the next
//! process: the first ack, all read, all uploaded.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::site::{self, Site};
use super::{Over, Settings};
use crate::bench::load::{Generator, Load};
use crate::bench::machine;

const TOPIC: &str = "restart";
const PARTITIONS: u32 = 6;

pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    println!("{}", machine::conditions()?);
    let mib: u64 = if settings.tiny { 32 } else { 2_048 };
    for over in &settings.over {
        one_store(settings, *over, generator, mib)?;
    }
    Ok(true)
}

fn one_store(settings: &Settings, over: Over, generator: &Generator, mib: u64) -> Result<()> {
    // Below the soft limit with frames and padding.
    let tables = format!("[[wal]]\nkind = \"file\"\nsize = \"{}MiB\"\n", (mib * 2).max(128));
    let mut bed = site::bed(over)?;
    let mut site = Site::start(&bed, "restart", &settings.binary, &tables)?;
    let bootstrap = site.broker.bootstrap().to_owned();
    generator.create_topic(&bootstrap, "first-ack", 1, &[])?;
    bed.serving(|daemon| daemon.signal("STOP"))?;
    let filled = site::fill(generator, &bootstrap, TOPIC, PARTITIONS, mib);
    let waiting = site.metric("seawall_uncommitted_bytes");
    site.broker.kill()?;
    bed.serving(|daemon| daemon.signal("CONT"))?;
    filled?;
    let waiting = waiting? / f64::from(1 << 20);
    // Batches have heads, and what was under way when the store went may be there.
    ensure!(waiting >= 0.9 * mib as f64, "only {waiting:.0} MiB were not uploaded");
    site.wait_until_store_serves()?;
    site::drop_page_cache()?;
    let began = Instant::now();
    let (acked, read) = thread::scope(|scope| -> Result<_> {
        let acked = scope.spawn(|| generator.first_ack(&bootstrap, "first-ack").map(|()| began.elapsed()));
        site.broker.kill_and_restart()?;
        let acked = acked.join().map_err(|_| anyhow!("the wait for the first ack panicked"))??;
        let load = Load { partitions: PARTITIONS, producers: 0, consumers: 1, ..Load::MAX };
        let report = generator.run(&bootstrap, TOPIC, &load)?;
        ensure!(report.consumed.bytes >= mib << 20, "{} bytes of {} were read", report.consumed.bytes, mib << 20);
        Ok((acked, began.elapsed()))
    })?;
    let answered = site.broker.started_in();
    site.wait_until_uploaded()?;
    let uploaded = began.elapsed();
    println!(
        "\nover {} {}: {waiting:.0} MiB in the WAL that are not uploaded, SIGKILL, cold page cache; from the next start",
        bed.kind, bed.version
    );
    let row = |name: &str, time: Duration| println!("{name:<28}{:>10.2} s", time.as_secs_f64());
    row("to the first answer", answered);
    row("to the first ack", acked);
    row("to the last record read", read);
    row("to all uploaded", uploaded);
    site.broker.kill()
}
