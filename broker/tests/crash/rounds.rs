//! Rounds of producing and killing, then the reading back. The way a broker dies is the caller's to choose.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::broker_process::{BrokerProcess, BrokerSetup};
use super::ledger::{Findings, Ledger, Random, ReadBack, check};
use super::producer::Producer;
use super::readback::{ReadFailure, read_topic};
use super::wire::Wire;

pub const TOPIC: &str = "ledger";

#[derive(Debug, Clone)]
pub struct Rounds {
    pub kills: u64,
    pub seed: u64,
    pub producers: u32,
    pub partitions: i32,
    /// A broker lives this long before it is killed, at random between the two.
    pub life: (Duration, Duration),
    /// One in so many kills hits a broker that is still starting. 0: none.
    pub early_kill_every: u64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            kills: 50,
            seed: 1,
            producers: 4,
            partitions: 6,
            life: (Duration::from_millis(20), Duration::from_millis(400)),
            early_kill_every: 5,
        }
    }
}

pub struct Outcome {
    pub findings: Findings,
    pub restarts: u64,
    pub slowest_restart: Duration,
    /// From a kill to the first ack after it.
    pub first_acks: Vec<Duration>,
    pub read: HashMap<i32, Vec<ReadBack>>,
}

/// Kills with SIGKILL.
pub fn kill_rounds(setup: &BrokerSetup, rounds: &Rounds) -> Result<Outcome, String> {
    crash_rounds(setup, rounds, |broker| broker.kill().map_err(|error| error.to_string()))
}

/// Runs the producers while `crash` ends the broker again and again, then reads all back and checks it.
///
/// `crash` gets the running broker; when it returns, the broker may be started again on the same folder.
pub fn crash_rounds(
    setup: &BrokerSetup,
    rounds: &Rounds,
    mut crash: impl FnMut(BrokerProcess) -> Result<(), String>,
) -> Result<Outcome, String> {
    let ledger = Ledger::create(&setup.folder.join("ledger")).map_err(|error| error.to_string())?;
    let stop = AtomicBool::new(false);
    let broker = setup.start().map_err(|error| error.to_string())?;
    create_topic(setup, rounds.partitions)?;
    let mut random = Random::new(rounds.seed);
    let seeds: Vec<u64> = (0..rounds.producers).map(|_| random.next()).collect();

    let (refused, restarts) = thread::scope(|scope| {
        let producers: Vec<_> = (0..rounds.producers)
            .map(|number| {
                let producer = Producer {
                    number,
                    address: setup.address,
                    topic: TOPIC,
                    partitions: rounds.partitions,
                    seed: seeds[number as usize],
                    ledger: &ledger,
                    stop: &stop,
                    drain: Duration::from_secs(30),
                };
                scope.spawn(move || producer.run())
            })
            .collect();
        let mut killing =
            Killing { setup, rounds, ledger: &ledger, random, restarts: 0, slowest_restart: Duration::ZERO };
        let last = killing.run(broker, &mut crash, || producers.iter().any(|producer| producer.is_finished()));
        stop.store(true, Ordering::Relaxed);
        let mut refused: Vec<String> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        if let Err(error) = &last {
            refused.push(error.clone());
        }
        (refused, last.map(|broker| (broker, killing.restarts, killing.slowest_restart)))
    });
    let (broker, restarts, slowest_restart) = match restarts {
        Ok(running) => running,
        // It does not start any more: that is a finding, with nothing to read.
        Err(_) => {
            let findings = Findings { refused, records_acked: ledger.records(), ..Findings::default() };
            return Ok(Outcome {
                findings,
                restarts: 0,
                slowest_restart: Duration::ZERO,
                first_acks: Vec::new(),
                read: HashMap::new(),
            });
        }
    };
    let (mut findings, read) = match read_topic(setup.address, TOPIC, rounds.partitions) {
        Ok(read) => (check(&ledger.acked(), &read), read),
        Err(failure) => (unreadable(&failure, ledger.records()), HashMap::new()),
    };
    findings.refused.extend(refused);
    drop(broker);
    Ok(Outcome { findings, restarts, slowest_restart, first_acks: ledger.first_acks(), read })
}

/// A read that fails is a finding: what was acked must be readable.
pub fn unreadable(failure: &ReadFailure, records_acked: u64) -> Findings {
    let mut findings = Findings { records_acked, ..Findings::default() };
    let text = failure.to_string();
    match failure {
        ReadFailure::Corrupt(_) => findings.corrupt.push(text),
        ReadFailure::Refused(_) | ReadFailure::Other(_) => findings.refused.push(text),
    }
    findings
}

struct Killing<'a> {
    setup: &'a BrokerSetup,
    rounds: &'a Rounds,
    ledger: &'a Ledger,
    random: Random,
    restarts: u64,
    slowest_restart: Duration,
}

impl Killing<'_> {
    /// Answers the last broker, which runs. Ends early when a producer has found something.
    fn run(
        &mut self,
        mut broker: BrokerProcess,
        crash: &mut impl FnMut(BrokerProcess) -> Result<(), String>,
        found: impl Fn() -> bool,
    ) -> Result<BrokerProcess, String> {
        for kill in 0..self.rounds.kills {
            let (shortest, longest) = self.rounds.life;
            let spread = (longest - shortest).as_micros() as u64 + 1;
            thread::sleep(shortest + Duration::from_micros(self.random.below(spread)));
            if found() {
                return Ok(broker);
            }
            crash(broker)?;
            let early = self.rounds.early_kill_every;
            if early > 0 && self.random.below(early) == 0 {
                let starting = self.setup.spawn().map_err(|error| error.to_string())?;
                thread::sleep(Duration::from_millis(self.random.below(150)));
                crash(starting)?;
            }
            self.ledger.killed();
            let began = Instant::now();
            broker = self.setup.start().map_err(|error| format!("after kill {kill}: {error}"))?;
            self.restarts += 1;
            self.slowest_restart = self.slowest_restart.max(began.elapsed());
        }
        Ok(broker)
    }
}

fn create_topic(setup: &BrokerSetup, partitions: i32) -> Result<(), String> {
    let mut wire = Wire::connect(setup.address).map_err(|error| error.to_string())?;
    match wire.create_topic(TOPIC, partitions).map_err(|error| error.to_string())? {
        0 => Ok(()),
        code => Err(format!("CreateTopics: error {code}")),
    }
}
