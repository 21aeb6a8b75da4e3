//! Many seeds, on every core. `SIM_SEED=n` plays one, `SIM_SEEDS=n` that many, `SIM_MINUTES=n` fresh ones for that long.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::scenario::{Failure, run};
use crate::stats::Stats;

/// Which seeds, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One, as somebody found it.
    Replay(u64),
    /// From 0 on.
    Seeds(u64),
    /// From one on that nobody has chosen, until the time is over.
    Minutes(u64),
}

impl Extent {
    /// As the environment says, else `usual` seeds.
    pub fn asked(usual: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
        match (number("SIM_SEED"), number("SIM_MINUTES"), number("SIM_SEEDS")) {
            (Some(seed), ..) => Self::Replay(seed),
            (_, Some(minutes), _) => Self::Minutes(minutes),
            (.., seeds) => Self::Seeds(seeds.unwrap_or(usual)),
        }
    }
}

/// What came of them.
#[derive(Debug)]
pub struct Campaign {
    pub first_seed: u64,
    pub seeds: u64,
    pub seconds: u64,
    pub stats: Stats,
    /// In the long form the rest is played all the same.
    pub failures: Vec<Failure>,
}

/// Failures that are kept; more say no more.
const FAILURES_MAX: usize = 20;

pub fn campaign(extent: Extent) -> Campaign {
    let began = Instant::now();
    let (first_seed, count, time) = match extent {
        Extent::Replay(seed) => (seed, 1, None),
        Extent::Seeds(seeds) => (0, seeds, None),
        // Half of the numbers are left to count on.
        Extent::Minutes(minutes) => (Uuid::new_v4().as_u64_pair().0 >> 1, u64::MAX, Some(60 * minutes)),
    };
    let time = time.map(Duration::from_secs);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let told = Mutex::new((0, Stats::default(), Vec::new()));
    let play = || {
        while !stop.load(Ordering::Relaxed) && time.is_none_or(|time| began.elapsed() < time) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let played = run(first_seed + at, None);
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.0 += 1;
            if told.0 % 1_000 == 0 {
                println!("{} seeds, {} failed, {} s", told.0, told.2.len(), began.elapsed().as_secs());
            }
            match played {
                Ok(report) => told.1.add(&report.stats),
                Err(failure) => {
                    println!("{failure}");
                    told.2.push(*failure);
                    let enough = time.is_none() || told.2.len() == FAILURES_MAX;
                    stop.fetch_or(enough, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(play);
        }
    });
    let (seeds, stats, failures) = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    Campaign { first_seed, seeds, seconds: began.elapsed().as_secs(), stats, failures }
}

/// `SIM_THREADS=n`, else one for each core.
pub fn threads() -> usize {
    let asked = std::env::var("SIM_THREADS").ok().and_then(|value| value.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
