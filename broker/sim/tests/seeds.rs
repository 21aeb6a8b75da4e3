//! Seeds of the storage half in a simulated world. `SIM_SEED=n` replays one, `SIM_SEEDS=n` runs that many.

use seawall_sim::{run, seeds};

#[test]
fn acked_batches_survive_whatever_a_seed_does() {
    let mut sum = seawall_sim::ledger::Stats::default();
    let all = seeds(100);
    let usual = all.end - all.start >= 100;
    for seed in all {
        match run(seed, None) {
            Ok(report) => sum.add(&report.stats),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{sum:#?}");
    if usual {
        assert!(sum.acked > 1_000 && sum.duplicates > 0 && sum.lost_unacked > 0 && sum.batches_read > 1_000, "{sum:?}");
        assert!(sum.power_cuts > 0 && sum.kills > 0 && sum.clean_stops > 0 && sum.crashes_in_start > 0, "{sum:?}");
        assert!(
            sum.lease_losses > 0 && sum.objects > 0 && sum.trims > 0 && sum.damages > 0 && sum.log_rounds > 0,
            "{sum:?}"
        );
        assert!(sum.objects_rewritten > 100 && sum.objects_forgotten > 100, "{sum:?}");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..6 {
        let (first, second) = (run(seed, None), run(seed, None));
        match (first, second) {
            (Ok(first), Ok(second)) => assert_eq!(first, second, "SIM_SEED={seed}"),
            (Err(failure), _) | (_, Err(failure)) => panic!("{failure}"),
        }
    }
}
