//! `cargo xtask bench --many`: thousands of partitions and connections on one node. Is memory bounded, does each
//! connection get the same, and what do bad neighbours cost the others?

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::answers::{Answers, Watch};
use super::load::{Crowd, CrowdReport, Generator};
use super::machine::{self, median};
use crate::clients::broker::Broker;

const TOPIC: &str = "many";
/// Those who never read are to use up the memory of answers, and be closed for it: as much as is shipped would take hundreds.
const SETTINGS: &str = "limits.answer_bytes = \"1MiB\"\n[kafka]\n\"socket.send.buffer.bytes\" = 102400\n";
const NEVER_READ: u32 = 40;

pub struct Settings {
    pub binary: PathBuf,
    pub rounds: usize,
    pub seconds: Option<f64>,
    pub tiny: bool,
}

/// True when every ack was right, and answers stayed within their memory. How fair and how fast is printed, and is no verdict.
pub fn run(settings: &Settings, generator: &Generator) -> Result<bool> {
    let (partitions, connections, members, seconds) =
        if settings.tiny { (1_500, 150, 20, 7.0) } else { (5_000, 2_000, 200, 20.0) };
    let seconds = settings.seconds.unwrap_or(seconds);
    let calm = Crowd { partitions, connections, seconds, ..Crowd::default() };
    println!("{}", machine::conditions()?);
    println!("{partitions} partitions, {connections} producing connections, records of 100 bytes, {seconds} s each");

    let mut broker = Broker::seawall_with(&settings.binary, SETTINGS)?;
    let pid = broker.process()?.id();
    let bootstrap = broker.bootstrap().to_owned();
    let rss = |what: &str| -> Result<()> {
        println!("RSS {what:<30} {:>10.0} MiB", machine::rss_mib(pid)?);
        Ok(())
    };
    rss("at rest")?;
    generator.create_topic(&bootstrap, TOPIC, partitions, &[])?;
    rss("with the partitions")?;

    let full = generator.crowd(&bootstrap, TOPIC, &calm)?;
    let (fairness, latencies) = (full.fairness, full.produce_ms);
    println!("each as fast as its acks       {:>10.0} acks/s", full.acks_per_s);
    println!("  p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", latencies.p50, latencies.p99, latencies.max);
    println!("  acked each: least {}, most {}, Jain {:.4}", fairness.least, fairness.most, fairness.jain);
    rss("after it")?;

    let calm = Crowd { rate: ((full.acks_per_s * 0.25) as u64).max(1), ..calm };
    let beset =
        Crowd { never_read: NEVER_READ, byte_a_second: 20.min(members), crashing_members: members, ..calm.clone() };
    println!("at {} requests/s, open loop, {} round(s) of calm, beset, calm:", calm.rate, settings.rounds);
    println!(
        "  beset: {} connections that never read, {} with a byte a second, a group of {members} that crashes together",
        beset.never_read, beset.byte_a_second
    );
    let mut rounds = Vec::new();
    let watch = Watch::begin(broker.admin_address()?);
    for number in 1..=settings.rounds {
        let mut round = Vec::new();
        for crowd in [&calm, &beset, &calm] {
            round.push(generator.crowd(&bootstrap, TOPIC, crowd)?);
        }
        eprintln!("round {number} of {}", settings.rounds);
        rounds.push(round);
    }
    let answers = watch.end()?;
    print_rounds(&rounds);
    print_answers(&answers);
    rss("after all")?;
    broker.kill()?;
    // The reserve is as large as the budget.
    ensure!(answers.bytes_most <= 2.0 * answers.budget_bytes, "answers took more than they may: {answers:?}");
    Ok(true)
}

fn print_answers(answers: &Answers) {
    let kib = |bytes: f64| bytes / 1024.0;
    println!(
        "answers took at most {:.0} KiB of {:.0} KiB, up to {} requests waited for them, {} connections were closed for that",
        kib(answers.bytes_most),
        kib(answers.budget_bytes),
        answers.waiting_most,
        answers.closed
    );
}

type Value = fn(&CrowdReport) -> f64;

fn print_rounds(rounds: &[Vec<CrowdReport>]) {
    println!("{:<24}{:>10}{:>10}{:>12}   control: calm to calm", "", "calm", "beset", "ratio");
    let values: [(&str, Value, usize); 5] = [
        ("produce p50 ms", |report| report.produce_ms.p50, 2),
        ("produce p99 ms", |report| report.produce_ms.p99, 2),
        ("produce p99.9 ms", |report| report.produce_ms.p999, 2),
        ("produce max ms", |report| report.produce_ms.max, 1),
        ("Jain of acks", |report| report.fairness.jain, 4),
    ];
    for (name, value, decimals) in values {
        let of = |at: usize| median(rounds.iter().map(|round| value(&round[at])));
        let ratios =
            |at: usize| -> Vec<f64> { rounds.iter().map(|round| value(&round[at]) / value(&round[0])).collect() };
        let control = ratios(2);
        let least = control.iter().copied().fold(f64::INFINITY, f64::min);
        let most = control.iter().copied().fold(0.0, f64::max);
        println!(
            "{name:<24}{:>10.decimals$}{:>10.decimals$}{:>11.2}x   {:.2}x ({least:.2}-{most:.2})",
            of(0),
            of(1),
            median(ratios(1)),
            median(control)
        );
    }
    let done = |value: fn(&CrowdReport) -> u64| rounds.iter().map(|round| value(&round[1])).sum::<u64>();
    println!(
        "the bad neighbours sent {} bytes without reading, {} single bytes, and {} members crashed",
        done(|report| report.neighbours.sent_without_reading),
        done(|report| report.neighbours.single_bytes),
        done(|report| report.neighbours.crashed_members)
    );
}
