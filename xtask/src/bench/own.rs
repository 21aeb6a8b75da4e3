//! The figures of this broker alone: start, memory, throughput with its CPU, restart after SIGKILL, allocations.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::load::{Generator, Load, Measured};
use super::machine::{self, median};
use crate::builds;
use crate::clients::broker::Broker;

const TOPIC: &str = "bench";

pub struct Settings {
    pub binary: PathBuf,
    pub runs: usize,
    pub seconds: Option<f64>,
    pub tiny: bool,
}

pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    let runs = if settings.tiny { 1 } else { settings.runs.max(1) };
    let seconds = settings.seconds.unwrap_or(if settings.tiny { 1.0 } else { Load::MAX.seconds });
    let produce = Load { seconds, consumers: 0, ..Load::MAX };
    let consume = Load { producers: 0, consumers: 1, ..produce.clone() };
    let both = Load { seconds, ..Load::MAX };
    println!("{}", machine::conditions()?);
    println!("{}, {runs} run(s)", both.describe());

    let mut broker = Broker::seawall_as_shipped(&settings.binary)?;
    println!("start, empty folder          {:>10.0} ms to the first answer", millis(broker.started_in()));
    let pid = broker.process()?.id();
    println!("RSS at rest                  {:>10.0} MiB", machine::rss_mib(pid)?);
    let bootstrap = broker.bootstrap().to_owned();
    generator.create_topic(&bootstrap, "warm-up", both.partitions, &[])?;
    generator.run(&bootstrap, "warm-up", &Load { seconds: seconds.min(3.0), ..Load::MAX })?;
    let rest_max = Duration::from_secs(if settings.tiny { 0 } else { 12 });
    let mut measured: [Vec<Measured>; 3] = Default::default();
    for run in 0..runs {
        let topic = format!("{TOPIC}-{run}");
        generator.create_topic(&bootstrap, &topic, both.partitions, &[])?;
        for (load, measured) in [&produce, &consume, &both].into_iter().zip(&mut measured) {
            measured.push(generator.measure(&bootstrap, &topic, load, &[], rest_max)?);
        }
        generator.delete_topic(&bootstrap, &topic)?;
    }
    report("produce", &measured[0]);
    report("consume", &measured[1]);
    report("produce and consume", &measured[2]);
    println!("RSS after the load           {:>10.0} MiB", machine::rss_mib(pid)?);
    restarts(&mut broker, generator, runs)?;
    // Nothing of it is kept, so it need not upload what it holds.
    broker.kill()?;
    drop(broker);
    allocations(generator, seconds.min(3.0), !settings.tiny)?;
    Ok(true)
}

/// From SIGKILL to the first answer and to the first ack, with what the loads left behind.
fn restarts(broker: &mut Broker, generator: &Generator, runs: usize) -> Result<()> {
    let bootstrap = broker.bootstrap().to_owned();
    generator.create_topic(&bootstrap, "first-ack", 1, &[])?;
    let (mut answers, mut acks) = (Vec::new(), Vec::new());
    for _ in 0..runs.min(3) {
        // Something is left to recover each time.
        generator.run(&bootstrap, "warm-up", &Load { seconds: 1.0, ..Load::MAX })?;
        let killed = Instant::now();
        broker.kill()?;
        let acked = thread::scope(|scope| {
            let first_ack = scope.spawn(|| generator.first_ack(&bootstrap, "first-ack").map(|()| killed.elapsed()));
            broker.kill_and_restart()?;
            answers.push(millis(killed.elapsed()));
            first_ack.join().map_err(|_| anyhow!("the wait for the first ack panicked"))?
        })?;
        acks.push(millis(acked));
    }
    println!("SIGKILL to the first answer  {:>10.0} ms", median(answers));
    println!("SIGKILL to the first ack     {:>10.0} ms", median(acks));
    Ok(())
}

fn report(name: &str, runs: &[Measured]) {
    let rate = |run: &Measured| run.report.produced.mib_per_s.max(run.report.consumed.mib_per_s);
    let rates: Vec<String> = runs.iter().map(|run| format!("{:.0}", rate(run))).collect();
    println!(
        "{name:<28} {:>10.1} MiB/s, {:.2} broker CPU s per GiB, {:.0} % idle  (runs: {})",
        median(runs.iter().map(rate)),
        median(runs.iter().map(Measured::cpu_per_gib)),
        median(runs.iter().map(|run| run.idle_share)) * 100.0,
        rates.join(" ")
    );
}

/// By the example `counted`, the broker with an allocator that counts.
fn allocations(generator: &Generator, seconds: f64, as_released: bool) -> Result<()> {
    let mut broker = Broker::seawall_as_shipped(&builds::example("seawall", "counted", as_released)?)?;
    let bootstrap = broker.bootstrap().to_owned();
    let produce = Load { seconds, consumers: 0, ..Load::MAX };
    let consume = Load { producers: 0, consumers: 1, ..produce.clone() };
    generator.create_topic(&bootstrap, "warm-up", produce.partitions, &[])?;
    generator.run(&bootstrap, "warm-up", &Load { seconds: seconds.min(2.0), ..Load::MAX })?;
    generator.create_topic(&bootstrap, TOPIC, produce.partitions, &[])?;
    let mut seen = 0;
    for (name, load) in [("produce", &produce), ("consume", &consume)] {
        let before = count(&mut broker, &mut seen)?;
        let report = generator.run(&bootstrap, TOPIC, load)?;
        let after = count(&mut broker, &mut seen)?;
        let bytes = report.produced.bytes.max(report.consumed.bytes) as f64;
        println!(
            "allocations, {name}         {:>10.1} per MiB, {:.2} bytes allocated per record byte",
            (after.0 - before.0) / (bytes / (1 << 20) as f64),
            (after.1 - before.1) / bytes
        );
    }
    Ok(())
}

/// Allocations so far, and their bytes: the example `counted` prints them for each line on its standard input.
fn count(broker: &mut Broker, seen: &mut usize) -> Result<(f64, f64)> {
    let log = broker.log_path().context("no log")?;
    let stdin = broker.process()?.stdin.as_mut().context("no standard input")?;
    writeln!(stdin)?;
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(10));
        let log = fs::read_to_string(&log)?;
        let lines: Vec<&str> = log.lines().filter(|line| line.starts_with("allocations ")).collect();
        if lines.len() > *seen {
            *seen = lines.len();
            let words: Vec<&str> = lines[lines.len() - 1].split(' ').collect();
            let [_, count, _, bytes] = words[..] else { bail!("{words:?}") };
            return Ok((count.parse()?, bytes.parse()?));
        }
    }
    bail!("the example `counted` printed no count")
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
