//! Whole lives of a WAL on the simulated disk, from a seed: append, acknowledge, trim, pin, read back, crash at any step,
//! recover (and crash while recovering), and compare with what was appended and acknowledged.
//!
//! The campaign runs all modes on all cores: `WAL_CRASH_POINTS=n` or `WAL_SIM_MINUTES=n` (with fresh seeds) say how long,
//! `SIM_SEED=n` replays one seed (`SIM_MODE=name`: in one mode only). `cargo xtask wal sim` sets these. `SIM_SEEDS=n` runs
//! that many in the tests of single modes. Every failure prints the command that replays it.

mod campaign;
mod hang_stories;
mod life;
mod mirror;
mod mirror_stories;
mod stats;
mod stories;
mod watch_stories;
mod world;

use std::time::Duration;

use crate::config::{Fault, Faults};
use campaign::{Until, campaign, fresh_seed, replay, run_caught};
use stats::Stats;
use world::{Mode, run_cut_at, run_traced};

/// Seven crashes each, more or less.
const SEEDS: u64 = 320;

/// What the plain test run asks of the campaign.
const CRASH_POINTS: u64 = 4_000;

/// What half an hour must reach.
const CRASH_POINTS_PER_MINUTE: u64 = 500_000 / 30;

#[test]
fn a_campaign_in_all_modes_finds_every_acknowledged_record_or_rightly_reported_damage() {
    if let Some(seed) = number("SIM_SEED") {
        return replay_one(seed);
    }
    let minutes = number("WAL_SIM_MINUTES");
    let (first_seed, until) = match (minutes, number("WAL_CRASH_POINTS")) {
        (Some(minutes), _) => (fresh_seed(), Until::Time(Duration::from_secs(60 * minutes))),
        (None, points) => (0, Until::CrashPoints(points.unwrap_or(CRASH_POINTS))),
    };
    println!("seeds from {first_seed} on");
    let report = campaign(&Mode::ALL, first_seed, until);
    report.print();
    if let Some(found) = report.failure {
        panic!("{found}");
    }
    let least = minutes.map_or(0, |minutes| minutes * CRASH_POINTS_PER_MINUTE);
    assert!(report.total.crashes >= least, "{} crash points, expected {least}", report.total.crashes);
}

#[test]
fn what_was_acknowledged_survives_every_crash() {
    let stats = run_seeds(Mode::Honest, SEEDS);
    if !chosen_seeds() {
        assert!(stats.crashes >= 2_000, "the seeds must reach enough crash points: {stats:?}");
        assert!(stats.pads > 0 && stats.laps > 0 && stats.ring_full > 0 && stats.torn > 0, "{stats:?}");
        assert!(stats.crashes_in_recovery > 0 && stats.clean_closes > 0 && stats.write_failures > 0, "{stats:?}");
    }
}

#[test]
fn rot_is_reported_where_anything_covers_it_and_never_cut_off_there() {
    let stats = run_seeds(Mode::Rotting, SEEDS / 3);
    assert!(chosen_seeds() || (stats.damages > 50 && stats.silent_tails > 0), "{stats:?}");
}

#[test]
fn a_lying_device_loses_at_most_what_no_surviving_later_frame_covers() {
    let stats = run_seeds(Mode::Lying, SEEDS / 3);
    assert!(chosen_seeds() || stats.damages > 10, "{stats:?}");
}

#[test]
fn old_frames_behind_a_new_end_are_never_taken_for_new_ones() {
    run_seeds(Mode::ShortLives, 2 * SEEDS);
}

#[test]
fn every_step_of_a_short_story_can_be_the_last() {
    for seed in 0..20 {
        let mut steps = 0;
        while run_cut_at(seed, steps).unwrap_or_else(|found| panic!("seed {seed}, cut at step {steps}: {found}")) {
            steps += 1;
        }
        assert!(steps > 30, "the story of seed {seed} has only {steps} steps");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for mode in Mode::ALL {
        for seed in 0..5 {
            let twice = [(), ()].map(|()| run_traced(seed, mode).unwrap_or_else(|e| panic!("{mode:?} {seed}: {e}")));
            assert_eq!(twice[0], twice[1], "SIM_SEED={seed} {mode:?}");
        }
    }
}

/// The checker can fail: each broken promise is seen.
#[test]
fn every_fault_is_caught() {
    let faults = [
        (Fault::SkipFlush, Mode::Honest),
        (Fault::AckEarly, Mode::ShortLives),
        (Fault::SkipCrc, Mode::Honest),
        (Fault::IgnoreEpoch, Mode::ShortLives),
        (Fault::ReuseSlotWhilePinned, Mode::Honest),
        (Fault::TrimEarly, Mode::Honest),
        (Fault::AckOneLeg, Mode::Mirror),
        (Fault::AcceptStaleLeg, Mode::Mirror),
        (Fault::DropWithoutCommit, Mode::Mirror),
        (Fault::JoinWithoutCopy, Mode::Mirror),
        (Fault::IgnoreDistrust, Mode::Volatile),
    ];
    for (fault, mode) in faults {
        let caught = (0..1_000).find_map(|seed| {
            let outcome = run_caught(seed, mode, Faults::default().with(fault));
            outcome.err().map(|found| (seed, found))
        });
        let Some((seed, found)) = caught else { panic!("{fault:?} was never caught") };
        println!("{fault:?} caught with seed {seed}: {found}");
    }
}

/// Another number of seeds was asked for: what the usual ones must reach does not count.
fn chosen_seeds() -> bool {
    std::env::var("SIM_SEEDS").is_ok()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn replay_one(seed: u64) {
    let only = std::env::var("SIM_MODE").ok();
    let modes: Vec<Mode> = Mode::ALL.into_iter().filter(|m| only.as_ref().is_none_or(|o| o == m.name())).collect();
    assert!(!modes.is_empty(), "no mode is called {only:?}");
    println!("{}", Stats::table_head());
    for mode in modes {
        match run_caught(seed, mode, Faults::default()) {
            Ok(stats) => println!("{}", stats.table_line(mode.name())),
            Err(found) => panic!("{found}\nreplay: {}", replay(seed, mode)),
        }
    }
}

fn run_seeds(mode: Mode, seeds: u64) -> Stats {
    let report = campaign(&[mode], 0, Until::SeedsPerMode(number("SIM_SEEDS").unwrap_or(seeds)));
    report.print();
    match report.failure {
        Some(found) => panic!("{found}"),
        None => report.total,
    }
}
