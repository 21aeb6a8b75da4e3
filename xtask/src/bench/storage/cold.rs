//! `cargo xtask bench --cold`: a producer at a fixed rate with a consumer at the tail, alone and beside a consumer that replays a backlog
//! larger than all caches from the store. The bandwidth of GETs is capped so that 30 % of the CPU stays idle: what is compared is how
//! well the cap is used, and what the others feel of it.

use std::thread;

use anyhow::{Context, Result, anyhow};

use super::site::{self, Site};
use super::{Over, Settings, Value};
use crate::bench::load::{Generator, Load, Report};
use crate::bench::machine::{self, CpuTimes, median};
use crate::clients::broker::Broker;
use crate::clients::install::{self, Installed};

const HOT: &str = "hot";
const COLD: &str = "cold";
const PARTITIONS: u32 = 6;
const RATE: u64 = 4_000;
const IDLE_MIN: f64 = 0.30;
const CAPS: [f64; 7] = [64.0, 48.0, 36.0, 27.0, 20.0, 15.0, 11.0];
const CATCH_UP_MARK: f64 = 0.8;
const LATENCY_MARK: f64 = 1.2;

/// One run of the producer, with or without a replay beside it.
struct Run {
    hot: Report,
    /// MiB/s, of a replay.
    catch_up: f64,
    /// Bytes that the store gave for each byte that a replay read.
    got: f64,
    idle: f64,
}

struct Round {
    alone: Run,
    beside: Run,
    /// The control.
    again: Run,
}

pub fn run(settings: &Settings, against: Option<&Installed>, generator: &Generator) -> Result<bool> {
    println!("{}", machine::conditions()?);
    for over in &settings.over {
        seawall(settings, *over, generator)?;
    }
    if let Some(installed) = against {
        kafka(settings, installed, generator)?;
    }
    println!("synced 4 KiB write p50 now {:.0} us", machine::synced_write_p50_us()?);
    Ok(true)
}

fn backlog_mib(settings: &Settings) -> u64 {
    if settings.tiny { 24 } else { 512 }
}

fn seawall(settings: &Settings, over: Over, generator: &Generator) -> Result<()> {
    let mib = backlog_mib(settings);
    // A tenth of the backlog.
    let cache = (mib / 20).max(2);
    let tables =
        format!("[cache]\nlog_bytes = \"{}MiB\"\nblock_bytes = \"{cache}MiB\"\nindex_bytes = \"4MiB\"\n", cache.max(8));
    let bed = site::bed(over)?;
    let mut site = Site::start(&bed, "cold", &settings.binary, &tables)?;
    println!("\nSeawall over {} {}, backlog {mib} MiB, caches {} MiB", bed.kind, bed.version, cache + cache.max(8));
    site.fill(generator, COLD, PARTITIONS, mib)?;
    let bootstrap = site.broker.bootstrap().to_owned();
    generator.create_topic(&bootstrap, HOT, PARTITIONS, &[])?;
    site.cool()?;
    let caps = if settings.tiny { &CAPS[..1] } else { &CAPS[..] };
    let mut chosen = caps[0];
    let given = site.cap.counter();
    for cap in caps {
        chosen = *cap;
        site.cap.set(chosen);
        let tried = one(settings, generator, &bootstrap, Some(&given))?;
        let (idle, catch_up, got) = (tried.idle * 100.0, tried.catch_up, tried.got);
        eprintln!("cap {chosen} MiB/s: {idle:.0} % idle, catch-up {catch_up:.1} MiB/s, {got:.2} bytes got for each");
        if tried.idle >= IDLE_MIN {
            break;
        }
    }
    site::drop_page_cache()?;
    let raw = site.raw_get(mib)?;
    let rounds = rounds(settings, generator, &bootstrap, &given, || site.cool())?;
    let idle = median(rounds.iter().map(|round| round.beside.idle));
    println!("GETs capped at {chosen} MiB/s, so that {:.0} % of the CPU is idle beside the replay", idle * 100.0);
    let catch_up = median(rounds.iter().map(|round| round.beside.catch_up));
    println!("raw GET under the cap, 4 connections   {raw:>8.1} MiB/s");
    let ratio = catch_up / raw;
    println!(
        "catch-up                               {catch_up:>8.1} MiB/s, {ratio:.2}x, mark >= {CATCH_UP_MARK}: {}",
        met(ratio >= CATCH_UP_MARK)
    );
    println!("bytes got for each byte read           {:>8.2}", median(rounds.iter().map(|round| round.beside.got)));
    latencies(&rounds, true);
    site.broker.kill()
}

fn kafka(settings: &Settings, installed: &Installed, generator: &Generator) -> Result<()> {
    let mib = backlog_mib(settings);
    let mut broker = Broker::kafka(installed)?;
    println!(
        "\nApache Kafka {}, one node, backlog {mib} MiB on its disk, page cache dropped before each replay",
        install::KAFKA_VERSION
    );
    let bootstrap = broker.bootstrap().to_owned();
    site::fill(generator, &bootstrap, COLD, PARTITIONS, mib)?;
    generator.create_topic(&bootstrap, HOT, PARTITIONS, &["flush.messages=1"])?;
    // No store gives it anything.
    let given = || 0;
    // The JVM compiles first.
    one(settings, generator, &bootstrap, Some(&given))?;
    let rounds = rounds(settings, generator, &bootstrap, &given, site::drop_page_cache)?;
    let idle = median(rounds.iter().map(|round| round.beside.idle));
    println!(
        "nothing capped; {:.0} % of the CPU is idle beside the replay; the producer's topic has flush.messages=1",
        idle * 100.0
    );
    println!(
        "catch-up                               {:>8.1} MiB/s",
        median(rounds.iter().map(|round| round.beside.catch_up))
    );
    latencies(&rounds, false);
    broker.kill()
}

/// Alone, beside a replay, alone again.
fn rounds(
    settings: &Settings,
    generator: &Generator,
    bootstrap: &str,
    given: &(impl Fn() -> u64 + Sync),
    mut cool: impl FnMut() -> Result<()>,
) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 1..=settings.pairs {
        cool()?;
        let alone = one(settings, generator, bootstrap, None::<&fn() -> u64>)?;
        cool()?;
        let beside = one(settings, generator, bootstrap, Some(given))?;
        cool()?;
        let again = one(settings, generator, bootstrap, None::<&fn() -> u64>)?;
        eprintln!("round {number} of {}", settings.pairs);
        rounds.push(Round { alone, beside, again });
    }
    Ok(rounds)
}

/// Replays beside the producer if it is known what the store has `given`.
fn one(
    settings: &Settings,
    generator: &Generator,
    bootstrap: &str,
    given: Option<&(impl Fn() -> u64 + Sync)>,
) -> Result<Run> {
    let seconds = settings.seconds.unwrap_or(if settings.tiny { 2.0 } else { 18.0 });
    let hot = Load { partitions: PARTITIONS, rate: RATE, seconds, warmup_seconds: 1.0, linger_ms: 0.0, ..Load::MAX };
    let cold = Load { partitions: PARTITIONS, producers: 0, consumers: 1, seconds, ..Load::MAX };
    let before = CpuTimes::read()?;
    let (hot, cold) = thread::scope(|scope| {
        let replay = given.map(|given| {
            scope.spawn(|| {
                let before = given();
                generator.run(bootstrap, COLD, &cold).map(|report| (report, given() - before))
            })
        });
        let hot = generator.run(bootstrap, HOT, &hot);
        let idle = CpuTimes::read().map(|now| now.since(&before).idle_share());
        let replay = replay.map(|replay| replay.join().map_err(|_| anyhow!("the replay panicked")));
        (hot.and_then(|hot| Ok((hot, idle?))), replay)
    });
    let (hot, idle) = hot.context("the producer")?;
    let (catch_up, got) = match cold {
        Some(replayed) => {
            let (Report { consumed, .. }, given) = replayed?.context("the replay")?;
            (consumed.mib_per_s, given as f64 / consumed.bytes as f64)
        }
        None => (f64::NAN, f64::NAN),
    };
    Ok(Run { hot, catch_up, got, idle })
}

fn latencies(rounds: &[Round], marked: bool) {
    println!("{:<24}{:>10}{:>14}{:>10}   control: alone again to alone", "", "alone", "with replay", "ratio");
    let rows: [(&str, Value, bool); 4] = [
        ("produce p50 ms", |report| report.produce_ms.p50, false),
        ("produce p99 ms", |report| report.produce_ms.p99, true),
        ("tail p50 ms", |report| report.end_to_end_ms.p50, false),
        ("tail p99 ms", |report| report.end_to_end_ms.p99, true),
    ];
    for (name, value, has_mark) in rows {
        let of = |which: fn(&Round) -> &Run| median(rounds.iter().map(|round| value(&which(round).hot)));
        let ratios = |which: fn(&Round) -> &Run| -> Vec<f64> {
            rounds.iter().map(|round| value(&which(round).hot) / value(&round.alone.hot)).collect()
        };
        let (ratio, control) = (median(ratios(|round| &round.beside)), ratios(|round| &round.again));
        let least = control.iter().copied().fold(f64::INFINITY, f64::min);
        let most = control.iter().copied().fold(0.0, f64::max);
        let mark = match marked && has_mark {
            true => format!("; mark <= {LATENCY_MARK}: {}", met(ratio <= LATENCY_MARK)),
            false => String::new(),
        };
        println!(
            "{name:<24}{:>10.2}{:>14.2}{ratio:>9.2}x   {:.2}x ({least:.2}-{most:.2}){mark}",
            of(|round| &round.alone),
            of(|round| &round.beside),
            median(control)
        );
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "NOT met" }
}
