//! `cargo xtask bench --peer kafka`: Seawall and Apache Kafka on the same disk, loaded by the same generator in turn.
//!
//! Kafka runs with the heap and settings of its start script, on topics as shipped (an ack waits for no flush) and on
//! topics with `flush.messages=1` (an ack waits for the disk, as with Seawall). Both brokers live the whole time; the
//! one without work is to be idle, and the CPU it takes all the same is told and charged to nobody.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contest::{Contender, Contest};
use super::load::{Generator, Load};
use super::machine::{self, median};
use super::parts::{Case, Part};
use super::table;
use crate::clients::broker::Broker;
use crate::clients::install::{self, Installed};
use crate::tools;

pub struct Settings {
    pub binary: PathBuf,
    pub parts: Vec<Part>,
    pub pairs: usize,
    pub seconds: Option<f64>,
    pub kafka_warmup: f64,
    pub tiny: bool,
}

struct Race<'a> {
    settings: &'a Settings,
    contest: Contest,
    at_rest: (f64, f64),
    durable_rate: Option<f64>,
    failures: Vec<String>,
}

/// True when every part ran and every result was right. A part that fails does not cost the others.
pub fn run(settings: &Settings, installed: &Installed, generator: Generator) -> Result<bool> {
    println!("{}", machine::conditions()?);
    println!(
        "Apache Kafka {}, {}",
        install::KAFKA_VERSION,
        tools::first_line(Command::new(&installed.java).arg("-version"))?
    );
    println!("{} round(s); a ratio is the median of Seawall divided by Kafka within each round", settings.pairs);
    let seawall = Broker::seawall_as_shipped(&settings.binary)?;
    let kafka = Broker::kafka(installed)?;
    println!(
        "start on an empty folder: Seawall {:.0} ms, Kafka {:.0} ms to the first answer",
        seawall.started_in().as_secs_f64() * 1e3,
        kafka.started_in().as_secs_f64() * 1e3
    );
    let mut contest = Contest::new(generator, seawall, kafka, Duration::from_secs(if settings.tiny { 0 } else { 12 }));
    let (seawall, kafka) = contest.pids()?;
    let at_rest = (machine::rss_mib(seawall)?, machine::rss_mib(kafka)?);
    let mut race = Race { settings, contest, at_rest, durable_rate: None, failures: Vec::new() };

    // Restarts come first: a JVM that was warmed up stays.
    let mut parts = settings.parts.clone();
    parts.sort_by_key(|part| *part != Part::Start);
    let mut warm = false;
    for part in parts {
        if part != Part::Start && !warm {
            race.warm_up();
            warm = true;
        }
        let begun = Instant::now();
        match race.part(part) {
            Ok(text) => print!("{text}"),
            Err(error) => {
                println!("\n{part:?} failed: {error:#}");
                race.failures.push(format!("{part:?}: {error:#}"));
            }
        }
        println!("  ({part:?}: {:.0} s)", begun.elapsed().as_secs_f64());
    }
    println!(
        "\nthe broker without work took at most {:.1} % of the machine; synced 4 KiB write p50 now {:.0} us",
        race.contest.others_share_max * 100.0,
        machine::synced_write_p50_us()?
    );
    for failure in &race.failures {
        println!("FAILED: {failure}");
    }
    // Nothing of it is kept, so neither need end in order.
    race.contest.seawall.kill()?;
    race.contest.kafka.kill()?;
    Ok(race.failures.is_empty())
}

impl Race<'_> {
    fn part(&mut self, part: Part) -> Result<String> {
        match part {
            Part::Start => self.starts(),
            Part::Memory => self.memory(),
            _ => self.loads(part),
        }
    }

    fn loads(&mut self, part: Part) -> Result<String> {
        if part.needs_durable_rate() && self.durable_rate.is_none() {
            // The maximum was not asked for: one round finds it.
            for case in self.cases(Part::Max, 0.0) {
                let rounds = self.contest.rounds(&case, 1, &mut self.failures)?;
                self.durable_rate = table::durable_rate(&rounds);
            }
        }
        let durable_rate = match self.durable_rate {
            None if part.needs_durable_rate() => anyhow::bail!("the maximum is not known"),
            rate => rate.unwrap_or(0.0),
        };
        let mut text = String::new();
        for case in self.cases(part, durable_rate) {
            let rounds = self.contest.rounds(&case, self.settings.pairs, &mut self.failures)?;
            text += &table::of(&case, &rounds);
            if part == Part::Max {
                self.durable_rate = table::durable_rate(&rounds);
            }
        }
        Ok(text)
    }

    fn cases(&self, part: Part, durable_rate: f64) -> Vec<Case> {
        let mut cases = part.cases(durable_rate);
        if self.settings.tiny {
            cases = cases.into_iter().map(Case::tiny).collect();
        }
        for case in &mut cases {
            case.load.seconds = self.settings.seconds.unwrap_or(case.load.seconds);
        }
        cases
    }

    /// Loads that do not count: the JVM compiles, pools and caches fill.
    fn warm_up(&mut self) {
        let load = |seconds: f64| Load { seconds, rate: 20_000, ..Load::MAX };
        let kafka = self.settings.kafka_warmup / 2.0;
        for (contender, seconds) in
            [(Contender::KafkaAsShipped, kafka), (Contender::KafkaDurable, kafka), (Contender::Seawall, kafka.min(5.0))]
        {
            if let Err(error) = self.contest.one(contender, &load(seconds)) {
                self.failures.push(format!("warm-up of {}: {error:#}", contender.name()));
            }
        }
    }

    fn starts(&mut self) -> Result<String> {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..self.settings.pairs.min(3) {
            for (broker, times) in [&mut self.contest.seawall, &mut self.contest.kafka].into_iter().zip(&mut times) {
                broker.restart().context("restart")?;
                times.push(broker.started_in().as_secs_f64() * 1e3);
            }
        }
        let [seawall, kafka] = times.map(median);
        Ok(format!(
            "\nrestart after SIGTERM, to the first answer: Seawall {seawall:.0} ms, Kafka {kafka:.0} ms, {:.2}x\n",
            seawall / kafka
        ))
    }

    fn memory(&mut self) -> Result<String> {
        let (seawall, kafka) = self.contest.pids()?;
        let mut out = format!("\n{:<34}{:>10}{:>10}{:>10}\n", "memory, MiB", "Seawall", "Kafka", "ratio");
        let mut row = |name: &str, seawall: f64, kafka: f64| {
            out += &format!("{name:<34}{seawall:>10.0}{kafka:>10.0}{:>9.2}x\n", seawall / kafka);
        };
        let rss = (machine::rss_mib(seawall)?, machine::rss_mib(kafka)?);
        let cache = |broker: &Broker| machine::page_cache_mib(broker.folder().context("no folder")?);
        let cached = (cache(&self.contest.seawall)?, cache(&self.contest.kafka)?);
        row("RSS after the start", self.at_rest.0, self.at_rest.1);
        row("RSS after the loads", rss.0, rss.1);
        row("RSS and page cache of its files", rss.0 + cached.0, rss.1 + cached.1);
        out += &table::verdict("RSS <= 0.25x Kafka", rss.0 / rss.1, rss.0 / rss.1 <= 0.25);
        Ok(out)
    }
}
