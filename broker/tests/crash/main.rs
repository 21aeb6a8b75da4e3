//! The crash test: producers with `acks=all` and idempotence keep a ledger outside of the broker, the broker is killed at
//! random moments and started again, and in the end every acked record is there once, in order, at its acked offset.
//!
//! `CRASH_KILLS` (50) says how often, `CRASH_SEED` replays a run's random choices as far as timing allows, `CRASH_BROKER`
//! names another binary than the one of this build, `CRASH_STORE` a configuration whose `[backend]` is the store, under a prefix
//! of its own, where the objects stay. The same runs without a WAL, a fifth as often (`no_wal.rs`). With the cargo feature `fault-injection` the checker also proves that
//! it can fail: see `faults.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broker_process;
mod corruption;
#[cfg(feature = "fault-injection")]
mod faults;
mod ledger;
mod no_wal;
mod power;
mod producer;
mod readback;
mod rounds;
mod wire;

use std::path::PathBuf;

use broker_process::{BrokerSetup, SmallSizes};
use rounds::{Rounds, kill_rounds};

const KILLS: u64 = 50;

pub fn broker_program() -> PathBuf {
    std::env::var_os("CRASH_BROKER").map_or_else(|| env!("CARGO_BIN_EXE_seawall").into(), PathBuf::from)
}

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// A seed of its own for each run, unless `CRASH_SEED` names one.
pub fn seed() -> u64 {
    number("CRASH_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000_000)
}

#[test]
fn every_acked_record_survives_sigkill_once_in_order_at_its_acked_offset() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = SmallSizes { store: std::env::var_os("CRASH_STORE").map(PathBuf::from), ..SmallSizes::default() };
    let setup = BrokerSetup::create(broker_program(), folder.path(), &sizes).unwrap();
    let rounds = Rounds { kills: number("CRASH_KILLS").unwrap_or(KILLS), seed: seed(), ..Rounds::default() };
    println!("CRASH_SEED={} CRASH_KILLS={}", rounds.seed, rounds.kills);
    let result = kill_rounds(&setup, &rounds).unwrap_or_else(|error| panic!("seed {}: {error}", rounds.seed));
    println!("{}", ledger::summary(&result.findings, rounds.kills, rounds.seed));
    println!("{} restarts, slowest {:?}", result.restarts, result.slowest_restart);
    let mut waits = result.first_acks.clone();
    waits.sort();
    if let (Some(median), Some(longest)) = (waits.get(waits.len() / 2), waits.last()) {
        println!("SIGKILL to first ack: median {median:.0?}, longest {longest:.0?}, of {} kills", waits.len());
    }
    assert!(result.findings.is_clean(), "seed {}: {}\n{}", rounds.seed, result.findings, setup.log_tail());
    assert!(result.findings.records_acked > rounds.kills, "the producers got somewhere");
}
