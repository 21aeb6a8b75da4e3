//! `cargo xtask bench --wal --peer kafka`: what the WAL is for. Produce latency of Seawall with its WAL on a raw loop device against
//! Apache Kafka with `flush.messages=1` on ext4 on an equal one.
//!
//! Both devices lie on one disk. In the second half of the rounds the brokers have changed places, each on a device made
//! anew. Seawall's metadata and objects lie on the machine's own file system, as Kafka's do not: they are not on the way of
//! an ack, but share the disk below.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::media::LoopDevice;
use crate::bench::contest::{Contender, Contest, Round};
use crate::bench::load::{Generator, Load};
use crate::bench::machine::{self, Scratch};
use crate::bench::parts::{Case, Part};
use crate::bench::table;
use crate::clients::broker::Broker;
use crate::clients::install::{self, Installed};
use crate::process;
use crate::tools;

pub struct Settings {
    pub binary: PathBuf,
    pub pairs: usize,
    pub seconds: Option<f64>,
    pub kafka_warmup: f64,
    pub tiny: bool,
}

/// Room for the topics of one round: Kafka deletes their files when it is over.
const DEVICE_BYTES: u64 = 6 << 30;
const DEVICE_BYTES_TINY: u64 = 1_536 << 20;
/// The maximum is looked for so long.
const MAX_SECONDS: f64 = 4.0;
const TIME_MAX: Duration = Duration::from_secs(120);

pub fn run(settings: &Settings, installed: &Installed, generator: Generator) -> Result<bool> {
    ensure!(tools::is_root(), "loop devices need root");
    println!("{}", machine::conditions()?);
    println!(
        "Apache Kafka {}, {}",
        install::KAFKA_VERSION,
        tools::first_line(Command::new(&installed.java).arg("-version"))?
    );
    println!(
        "Seawall: WAL on a raw loop device; Kafka: log on ext4 on an equal one; {} round(s), in the second half the other \
         way round",
        settings.pairs
    );
    let bytes = if settings.tiny { DEVICE_BYTES_TINY } else { DEVICE_BYTES };
    let mut devices = [LoopDevice::new("end-to-end-1", bytes)?, LoopDevice::new("end-to-end-2", bytes)?];
    let (mut durable_rate, mut failures) = (None, Vec::new());
    let mut tables: Vec<(Case, Vec<Round>)> = Vec::new();
    // A single round has one half.
    let halves = [settings.pairs.div_ceil(2), settings.pairs / 2];
    for rounds in halves.into_iter().filter(|rounds| *rounds > 0) {
        let mounted = Mounted::new(&devices[1].path)?;
        let seawall = Broker::seawall_on_device(&settings.binary, &devices[0].path)?;
        let kafka = Broker::kafka_in(installed, mounted.path().join("kafka"))?;
        let rest_max = Duration::from_secs(if settings.tiny { 0 } else { 12 });
        let mut contest = Contest::new(generator.clone(), seawall, kafka, rest_max);
        warm_up(&mut contest, settings, &mut failures);
        if durable_rate.is_none() {
            for case in cases(settings, Part::Max, 0.0) {
                durable_rate = table::durable_rate(&contest.rounds(&case, 1, &mut failures)?);
            }
        }
        let rate = durable_rate.context("the maximum is not known")?;
        for (at, case) in cases(settings, Part::Latency, rate).into_iter().enumerate() {
            let more = contest.rounds(&case, rounds, &mut failures)?;
            match tables.get_mut(at) {
                Some((_, all)) => all.extend(more),
                None => tables.push((case, more)),
            }
        }
        // Nothing of it is kept.
        contest.seawall.kill()?;
        contest.kafka.kill()?;
        drop(contest);
        drop(mounted);
        devices.swap(0, 1);
    }
    for (case, rounds) in &tables {
        print!("{}", table::of(case, rounds));
    }
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    Ok(failures.is_empty())
}

fn cases(settings: &Settings, part: Part, durable_rate: f64) -> Vec<Case> {
    let mut cases = part.cases(durable_rate);
    if settings.tiny {
        cases = cases.into_iter().map(Case::tiny).collect();
    }
    for case in &mut cases {
        case.load.seconds = settings.seconds.unwrap_or(case.load.seconds);
        if part == Part::Max {
            case.load.seconds = case.load.seconds.min(MAX_SECONDS);
        }
    }
    cases
}

/// Loads that do not count: the JVM compiles, pools and caches fill.
fn warm_up(contest: &mut Contest, settings: &Settings, failures: &mut Vec<String>) {
    let kafka = settings.kafka_warmup;
    for (contender, seconds) in [(Contender::KafkaDurable, kafka), (Contender::Seawall, kafka.min(5.0))] {
        let load = Load { seconds, rate: 10_000, ..Load::MAX };
        if let Err(error) = contest.one(contender, &load) {
            failures.push(format!("warm-up of {}: {error:#}", contender.name()));
        }
    }
}

/// An ext4 file system on a device; unmounted when dropped.
struct Mounted(Scratch);

impl Mounted {
    fn new(device: &Path) -> Result<Self> {
        let mounted = Self(Scratch::new("mounted")?);
        let mut make = Command::new(tools::Tool::MakeExt4.find().context("mkfs.ext4 is missing")?);
        make.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]).arg(device);
        process::capture(&mut make, Vec::new(), TIME_MAX)?.stdout_if_success("mkfs.ext4")?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4"]).arg(device).arg(mounted.path());
        process::capture(&mut mount, Vec::new(), TIME_MAX)?.stdout_if_success("mount")?;
        Ok(mounted)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that was just killed keeps its files for a moment.
        for _ in 0..50 {
            if Command::new("umount").arg(self.path()).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
