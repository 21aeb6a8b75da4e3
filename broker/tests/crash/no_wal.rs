//! A broker without a WAL is killed: what it acked was in the object store, so nothing is lost; what it had not acked may be.

use std::path::PathBuf;
use std::time::Duration;

use super::broker_process::{BrokerSetup, SmallSizes};
use super::ledger;
use super::rounds::{Rounds, kill_rounds};
use super::{broker_program, number, seed};

const KILLS: u64 = 10;

pub fn without_wal() -> SmallSizes {
    SmallSizes {
        wal: "none",
        log_cache: "16MiB",
        store: std::env::var_os("CRASH_STORE").map(PathBuf::from),
        ..SmallSizes::default()
    }
}

#[test]
fn without_a_wal_every_acked_record_survives_sigkill_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let setup = BrokerSetup::create(broker_program(), folder.path(), &without_wal()).unwrap();
    let rounds = Rounds {
        kills: number("CRASH_KILLS").map_or(KILLS, |kills| kills.div_ceil(5)),
        seed: seed(),
        life: (Duration::from_millis(100), Duration::from_millis(900)),
        ..Rounds::default()
    };
    println!("CRASH_SEED={} CRASH_KILLS={}", rounds.seed, rounds.kills);
    let result = kill_rounds(&setup, &rounds).unwrap_or_else(|error| panic!("seed {}: {error}", rounds.seed));
    println!("{}", ledger::summary(&result.findings, rounds.kills, rounds.seed));
    assert!(result.findings.is_clean(), "seed {}: {}\n{}", rounds.seed, result.findings, setup.log_tail());
    assert!(result.findings.records_acked > rounds.kills, "the producers got somewhere");
    assert!(!setup.data().join("wal").exists());
}
