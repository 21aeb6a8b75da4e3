//! What a remembered producer costs in memory: the figure of docs/sizing.md.
//! `cargo test -p seawall --test producer_memory -- --nocapture` prints it.
//!
//! Memory is what the process takes more from the system, so this file holds one test and nothing else runs beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use seawall::producer_state::{PRODUCERS_MAX, ProducerState, Sequence};

/// What docs/sizing.md says; this may be 30 % away from it.
const SAID: u64 = 340;
const PARTITIONS: usize = 20;

#[test]
fn a_remembered_producer_costs_what_the_page_on_sizing_says() {
    let before = resident();
    let mut partitions = vec![ProducerState::default(); PARTITIONS];
    for state in &mut partitions {
        for n in 0..PRODUCERS_MAX as i64 {
            state.record(&Sequence::of(n, 0, 0, 0), n, n, 0, n);
        }
    }
    let each = (resident() - before) / (PARTITIONS * PRODUCERS_MAX) as u64;
    println!("{:<26} {each:>6} bytes of memory", "producer of a partition");
    assert!(each * 10 > SAID * 7 && each * 10 < SAID * 13, "{each} bytes, and docs/sizing.md says {SAID}");
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
