//! `cargo xtask bench --partitions COUNT`: that many partitions with a trickle each on one node. Starts, memory, CPU, objects per hour.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::answers;
use super::load::{Crowd, Generator};
use super::machine;
use crate::clients::broker::Broker;

/// A topic may not have more.
const OF_TOPIC: u32 = 5_000;
/// Records of one partition, per second.
const TRICKLE: f64 = 0.03;
const START_MARK_S: f64 = 5.0;
const RSS_MARK_MIB: f64 = 400.0;
const REST_MARK: f64 = 0.05;

pub struct Settings {
    pub binary: PathBuf,
    pub count: u32,
    pub tiny: bool,
}

/// True when every ack was right. Marks are printed, and are no verdict.
pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    let (trickle_s, settle_s, rest_s) = if settings.tiny { (4.0, 1, 1) } else { (60.0, 45, 60) };
    println!("{}", machine::conditions()?);
    let mut broker = Broker::seawall_as_shipped(&settings.binary)?;
    let bootstrap = broker.bootstrap().to_owned();
    let topics: Vec<(String, u32)> = (0..settings.count.div_ceil(OF_TOPIC))
        .map(|number| (format!("many-{number}"), OF_TOPIC.min(settings.count - number * OF_TOPIC)))
        .collect();
    for (topic, partitions) in &topics {
        generator.create_topic(&bootstrap, topic, *partitions, &[])?;
    }
    let pid = broker.process()?.id();
    let said = |name: &str| -> Result<f64> { Ok(answers::sum(&answers::metrics(broker.admin_address()?)?, name)) };
    println!("{} partitions, a record of 100 bytes each every {:.0} s", settings.count, 1.0 / TRICKLE);
    println!("RSS with the partitions          {:>8.0} MiB", machine::rss_mib(pid)?);

    let (began, cpu) = (Instant::now(), machine::process_cpu(pid)?);
    thread::scope(|scope| {
        let crowds: Vec<_> = topics
            .iter()
            .map(|(topic, partitions)| {
                let rate = ((f64::from(*partitions) * TRICKLE) as u64).max(1);
                let (partitions, bootstrap) = (*partitions, &bootstrap);
                let crowd = Crowd { partitions, connections: 10, rate, seconds: trickle_s, ..Crowd::default() };
                scope.spawn(move || generator.crowd(bootstrap, topic, &crowd))
            })
            .collect();
        crowds.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a crowd panicked"))?.map(drop))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let per_hour = |count: f64| count / seconds * 3_600.0;
    println!(
        "CPU with the trickle             {:>8.1} % of a core",
        (machine::process_cpu(pid)? - cpu) / seconds * 100.0
    );
    println!("RSS after it                     {:>8.0} MiB", machine::rss_mib(pid)?);
    println!("objects uploaded per hour        {:>8.0}", per_hour(said("seawall_upload_objects_total")?));
    println!("objects of compaction per hour   {:>8.0}", per_hour(said("seawall_compaction_objects_total")?));

    // What the trickle has left to upload and to rewrite is not rest.
    thread::sleep(Duration::from_secs(settle_s));
    let cpu = machine::process_cpu(pid)?;
    thread::sleep(Duration::from_secs(rest_s));
    let rest = (machine::process_cpu(pid)? - cpu) / rest_s as f64;
    mark("CPU at rest, of a core", rest * 100.0, "%", REST_MARK * 100.0);

    for clean in [false, true] {
        if clean {
            broker.stop()?;
        } else {
            broker.kill()?;
        }
        let begun = Instant::now();
        let acked = thread::scope(|scope| {
            let acked = scope.spawn(|| generator.first_ack(&bootstrap, &topics[0].0).map(|()| begun.elapsed()));
            broker.kill_and_restart()?;
            acked.join().map_err(|_| anyhow!("the wait for the first ack panicked"))?
        })?;
        let what = if clean { "start after SIGTERM, first ack" } else { "start after SIGKILL, first ack" };
        mark(what, acked.as_secs_f64(), "s", START_MARK_S);
        mark("RSS after it", machine::rss_mib(broker.process()?.id())?, "MiB", RSS_MARK_MIB);
    }
    broker.kill()?;
    Ok(true)
}

fn mark(name: &str, value: f64, unit: &str, most: f64) {
    let met = if value <= most { "met" } else { "NOT met" };
    println!("{name:<32} {value:>8.2} {unit}, mark <= {most}: {met}");
}
