//! Whole lives of a WAL on the simulated disk, from a seed: append, acknowledge, trim, pin, read back, crash at any step,
//! recover (and crash while recovering), and compare with what was appended and acknowledged.
//!
//! `SIM_SEED=n` replays one seed, `SIM_SEEDS=n` runs that many. Every failure prints its seed.

mod stories;
mod world;

use crate::config::{Fault, Faults};
use world::{Mode, Stats, run, run_cut_at};

/// Seven crashes each, more or less.
const SEEDS: u64 = 320;

#[test]
fn what_was_acknowledged_survives_every_crash() {
    let stats = run_seeds(Mode::Honest, SEEDS);
    println!("{stats:?}");
    if !chosen_seeds() {
        assert!(stats.crashes >= 2_000, "the seeds must reach enough crash points: {stats:?}");
        assert!(stats.pads > 0 && stats.laps > 0 && stats.ring_full > 0 && stats.torn > 0, "{stats:?}");
        assert!(stats.crashes_in_recovery > 0 && stats.clean_closes > 0 && stats.write_failures > 0, "{stats:?}");
    }
}

#[test]
fn rot_below_the_durable_mark_is_reported_and_never_cut_off() {
    let stats = run_seeds(Mode::Rotting, SEEDS / 3);
    println!("{stats:?}");
    assert!(chosen_seeds() || stats.damages > 50, "{stats:?}");
}

#[test]
fn a_lying_device_loses_at_most_what_no_surviving_later_frame_covers() {
    let stats = run_seeds(Mode::Lying, SEEDS / 3);
    println!("{stats:?}");
    assert!(chosen_seeds() || stats.damages > 10, "{stats:?}");
}

#[test]
fn old_frames_behind_a_new_end_are_never_taken_for_new_ones() {
    let stats = run_seeds(Mode::ShortLives, 2 * SEEDS);
    println!("{stats:?}");
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
    for seed in 0..5 {
        let first = run(seed, Mode::Honest, Faults::default()).unwrap();
        let second = run(seed, Mode::Honest, Faults::default()).unwrap();
        assert_eq!((first.disk_crc, first.records), (second.disk_crc, second.records), "SIM_SEED={seed}");
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
    ];
    for (fault, mode) in faults {
        let caught = (0..1_000).find_map(|seed| {
            let outcome = run(seed, mode, Faults::default().with(fault));
            outcome.err().map(|found| (seed, found))
        });
        let Some((seed, found)) = caught else { panic!("{fault:?} was never caught") };
        println!("{fault:?} caught with seed {seed}: {found}");
    }
}

/// Someone looks at certain seeds: what all of them must reach does not count.
fn chosen_seeds() -> bool {
    std::env::var("SIM_SEED").is_ok() || std::env::var("SIM_SEEDS").is_ok()
}

fn run_seeds(mode: Mode, seeds: u64) -> Stats {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(seeds),
    };
    let mut sum = Stats::default();
    for seed in seeds {
        match run(seed, mode, Faults::default()) {
            Ok(stats) => sum.add(&stats),
            Err(found) => panic!("SIM_SEED={seed} {mode:?}: {found}"),
        }
    }
    sum
}
