//! Many seeds on all cores: a number of seeds, of crash points, or a time. A failing seed prints the command that
//! replays it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::stats::Stats;
use super::world::{Mode, run};
use crate::config::Faults;

/// How often the long form says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);

/// When a campaign has done enough.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    SeedsPerMode(u64),
    CrashPoints(u64),
    Time(Duration),
}

#[derive(Debug)]
pub struct Report {
    pub per_mode: Vec<(Mode, Stats)>,
    pub total: Stats,
    pub elapsed: Duration,
    /// The first that was found, with how to see it again.
    pub failure: Option<String>,
}

impl Report {
    pub fn print(&self) {
        println!("{}", Stats::table_head());
        for (mode, stats) in &self.per_mode {
            println!("{}", stats.table_line(mode.name()));
        }
        println!("{}", self.total.table_line("all"));
        println!(
            "{} crash points, {} seeds, {:.1} s",
            self.total.crashes,
            self.total.seeds,
            self.elapsed.as_secs_f64()
        );
    }
}

/// The seeds from `first_seed` on, each in every mode, until it is enough or one fails.
pub fn campaign(modes: &[Mode], first_seed: u64, until: Until) -> Report {
    let began = Instant::now();
    let (next, crashes, stopping) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let per_mode = Mutex::new(modes.iter().map(|&mode| (mode, Stats::default())).collect::<Vec<_>>());
    let failure = Mutex::new(None::<(u64, String)>);
    let last_word = Mutex::new(began);
    let enough = |story: u64| match until {
        Until::SeedsPerMode(seeds) => story >= seeds * modes.len() as u64,
        Until::CrashPoints(points) => crashes.load(Ordering::Relaxed) >= points,
        Until::Time(time) => began.elapsed() >= time,
    };
    let work = || {
        while !stopping.load(Ordering::Relaxed) {
            let story = next.fetch_add(1, Ordering::Relaxed);
            if enough(story) {
                return;
            }
            let at = (story % modes.len() as u64) as usize;
            let (mode, seed) = (modes[at], first_seed.wrapping_add(story / modes.len() as u64));
            match run_caught(seed, mode, Faults::default()) {
                Ok(stats) => {
                    let sum = crashes.fetch_add(stats.crashes, Ordering::Relaxed) + stats.crashes;
                    lock(&per_mode)[at].1 += &stats;
                    let mut said = lock(&last_word);
                    if said.elapsed() >= PROGRESS {
                        *said = Instant::now();
                        println!("{:.0} s: {sum} crash points", began.elapsed().as_secs_f64());
                    }
                }
                Err(found) => {
                    stopping.store(true, Ordering::Relaxed);
                    let mut first = lock(&failure);
                    if first.as_ref().is_none_or(|(before, _)| story < *before) {
                        *first = Some((story, format!("{found}\nreplay: {}", replay(seed, mode))));
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let per_mode = per_mode.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut total = Stats::default();
    per_mode.iter().for_each(|(_, stats)| total += stats);
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner).map(|(_, found)| found);
    Report { per_mode, total, elapsed: began.elapsed(), failure }
}

/// One seed; an assertion that fails in it is a finding like any other.
pub fn run_caught(seed: u64, mode: Mode, faults: Faults) -> Result<Stats, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, mode, faults))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Err(format!("an assertion failed: {text}"))
    })
}

pub fn replay(seed: u64, mode: Mode) -> String {
    format!("cargo xtask wal sim --seed {seed} --mode {}", mode.name())
}

/// Seeds that nobody ran before.
pub fn fresh_seed() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
