//! Contenders that take the same load in turn, round by round.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::load::{Generator, Load, Measured};
use super::machine;
use super::parts::Case;
use crate::clients::broker::Broker;

/// Topics of loads go after each round; what the object store keeps of them stays until the end.
const FREE_GIB_MIN: f64 = 8.0;
/// How long a topic that was deleted may stay on the disk.
const CLEAR_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Seawall,
    KafkaAsShipped,
    KafkaDurable,
    /// The same broker once more: the difference to its first run is noise.
    SeawallAgain,
}

pub const CONTENDERS: [Contender; 4] =
    [Contender::Seawall, Contender::KafkaAsShipped, Contender::KafkaDurable, Contender::SeawallAgain];

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Self::Seawall => "Seawall",
            Self::KafkaAsShipped => "Kafka as shipped",
            Self::KafkaDurable => "Kafka flush=1",
            Self::SeawallAgain => "Seawall again",
        }
    }

    fn is_seawall(self) -> bool {
        matches!(self, Self::Seawall | Self::SeawallAgain)
    }

    fn topic_configs(self) -> &'static [&'static str] {
        match self {
            Self::Seawall | Self::SeawallAgain => &[],
            Self::KafkaAsShipped => &[],
            Self::KafkaDurable => &["flush.messages=1"],
        }
    }
}

/// What a round measured, by contender; none for those that did not run or failed.
pub type Round = [Option<Measured>; 4];

pub struct Contest {
    generator: Generator,
    pub seawall: Broker,
    pub kafka: Broker,
    topics: u32,
    /// Largest share of the machine that the brokers without work took.
    pub others_share_max: f64,
    /// How long to wait for a machine at rest before and after each load.
    rest_max: Duration,
}

impl Contest {
    pub fn new(generator: Generator, seawall: Broker, kafka: Broker, rest_max: Duration) -> Self {
        Self { generator, seawall, kafka, topics: 0, others_share_max: 0.0, rest_max }
    }

    pub fn pids(&mut self) -> Result<(u32, u32)> {
        Ok((self.seawall.process()?.id(), self.kafka.process()?.id()))
    }

    /// Rounds of A B C A. A run that fails is told and left out; the others go on.
    pub fn rounds(&mut self, case: &Case, rounds: usize, failures: &mut Vec<String>) -> Result<Vec<Round>> {
        let folder = self.seawall.folder().context("no folder")?.to_owned();
        let mut results = Vec::new();
        for number in 1..=rounds {
            let free = machine::free_gib(&folder)?;
            ensure!(free > FREE_GIB_MIN, "only {free:.1} GiB are free on the disk");
            let mut round = Round::default();
            for (at, contender) in CONTENDERS.into_iter().enumerate() {
                if contender == Contender::SeawallAgain && !case.control {
                    continue;
                }
                match self.one(contender, &case.load) {
                    Ok(measured) => round[at] = Some(measured),
                    Err(error) => {
                        let failure = format!("{}, {}, round {number}: {error:#}", case.name, contender.name());
                        eprintln!("{failure}");
                        failures.push(failure);
                        self.revive(contender)?;
                    }
                }
            }
            eprintln!("{}: round {number} of {rounds}", case.name);
            results.push(round);
        }
        Ok(results)
    }

    /// One load, on a topic of its own, which is gone from the disk before the next load begins.
    pub fn one(&mut self, contender: Contender, load: &Load) -> Result<Measured> {
        self.topics += 1;
        let topic = format!("race-{}", self.topics);
        let (seawall, kafka) = self.pids()?;
        let other = if contender.is_seawall() { kafka } else { seawall };
        let bootstrap = self.bootstrap(contender).to_owned();
        self.generator.create_topic(&bootstrap, &topic, load.partitions, contender.topic_configs())?;
        let measured = self.generator.measure(&bootstrap, &topic, load, &[other], self.rest_max);
        if let Err(error) = self.clear(contender, &topic) {
            eprintln!("{}: {error:#}", contender.name());
        }
        let measured = measured?;
        let all = measured.broker_cpu + measured.generator_cpu + measured.others_cpu;
        let share = measured.others_cpu / (all / (1.0 - measured.idle_share).max(0.01)).max(0.01);
        self.others_share_max = self.others_share_max.max(share);
        Ok(measured)
    }

    /// Kafka takes the files of a deleted topic from the disk in the background.
    fn clear(&self, contender: Contender, topic: &str) -> Result<()> {
        self.generator.delete_topic(self.bootstrap(contender), topic)?;
        if contender.is_seawall() {
            return Ok(());
        }
        let data = self.kafka.folder().context("no folder")?.join("data");
        let end = Instant::now() + CLEAR_MAX;
        let is_there = |name: &str| name.starts_with(topic) && name[topic.len()..].starts_with(['-', '.']);
        while fs::read_dir(&data)?.flatten().any(|entry| is_there(&entry.file_name().to_string_lossy())) {
            ensure!(Instant::now() < end, "the files of {topic} stay");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn bootstrap(&self, contender: Contender) -> &str {
        if contender.is_seawall() { self.seawall.bootstrap() } else { self.kafka.bootstrap() }
    }

    /// A broker that died is started again, so that the parts behind can run.
    fn revive(&mut self, contender: Contender) -> Result<()> {
        let broker = if contender.is_seawall() { &mut self.seawall } else { &mut self.kafka };
        if broker.process().is_ok_and(|process| process.try_wait().is_ok_and(|ended| ended.is_none())) {
            return Ok(());
        }
        eprintln!("{} has ended and is started again; its last lines:\n{}", contender.name(), broker.log_tail());
        broker.kill_and_restart()
    }
}
