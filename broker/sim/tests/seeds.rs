//! Seeds of the storage half in a simulated world: `cargo xtask sim`, or `SIM_SEED=n` and the others of `campaign.rs`.

use seawall_sim::campaign::{Extent, campaign};
use seawall_sim::run;

/// What half an hour must reach on two cores.
const SEEDS_PER_MINUTE: u64 = 10_000 / 30;

#[test]
fn acked_batches_survive_whatever_a_seed_does() {
    let extent = Extent::asked(100);
    let played = campaign(extent);
    let (seeds, seconds, sum) = (played.seeds, played.seconds, &played.stats);
    println!("{sum:#?}\n{seeds} seeds from {} on in {seconds} s, {} failed", played.first_seed, played.failures.len());
    let failed: Vec<String> = played.failures.iter().map(|failure| failure.seed.to_string()).collect();
    assert!(failed.is_empty(), "seeds that failed: {}", failed.join(", "));
    if let Extent::Minutes(minutes) = extent {
        assert!(seeds >= minutes * SEEDS_PER_MINUTE, "{seeds} seeds in {minutes} minutes are few");
    }
    if seeds >= 100 {
        assert!(sum.acked > 1_000 && sum.duplicates > 0 && sum.lost_unacked > 0 && sum.batches_read > 1_000, "{sum:?}");
        assert!(sum.power_cuts > 0 && sum.kills > 0 && sum.clean_stops > 0 && sum.crashes_in_start > 0, "{sum:?}");
        assert!(
            sum.lease_losses > 0 && sum.objects > 0 && sum.trims > 0 && sum.damages > 0 && sum.log_rounds > 0,
            "{sum:?}"
        );
        assert!(sum.objects_rewritten > 100 && sum.objects_forgotten > 100 && sum.joins > 10, "{sum:?}");
        assert!(sum.acked_after_commit > 100 && sum.lives_without_wal > 10, "{sum:?}");
        assert!(sum.backups_checked > 50 && sum.restores > 10 && sum.scrubbed > 100, "{sum:?}");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    const SEEDS: std::ops::Range<u64> = 1_000..1_008;
    let told = |seed| run(seed, None).unwrap_or_else(|failure| panic!("{failure}"));
    let first: Vec<_> = SEEDS.map(told).collect();
    // On another thread, behind others, while this one plays them again.
    let elsewhere = std::thread::spawn(move || SEEDS.rev().map(told).collect::<Vec<_>>());
    for (seed, first) in SEEDS.zip(&first) {
        assert_eq!(*first, told(seed), "SIM_SEED={seed}");
    }
    let elsewhere = elsewhere.join().expect("it tells its own failures");
    for (seed, (first, other)) in SEEDS.zip(first.iter().zip(elsewhere.iter().rev())) {
        assert_eq!(first, other, "SIM_SEED={seed} on another thread");
    }
}
