//! The checker proves that it can fail: each fault, injected by a test-only switch, must be caught.
//!
//! `skip-flush` needs a disk that loses what was not flushed and is checked by the power-cut rounds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::broker_process::{BrokerSetup, SmallSizes};
use super::corruption::{flip_bit, offset_in_wal, wal_only, wal_path, write_and_kill};
use super::ledger::{Acked, Ledger, check};
use super::no_wal::without_wal;
use super::producer::Producer;
use super::readback::read_topic;
use super::rounds::{Rounds, TOPIC, kill_rounds, unreadable};
use super::{broker_program, seed};

/// A fault that was not caught in so many runs never is.
const RUNS_MAX: u64 = 40;

fn caught(fault: &str, kills: u64) {
    // No upload in between: what the WAL alone holds is what these faults hit.
    caught_with(fault, kills, wal_only);
}

fn caught_with(fault: &str, kills: u64, sizes: fn() -> SmallSizes) {
    let first_seed = seed();
    for seed in first_seed..first_seed + RUNS_MAX {
        let folder = tempfile::tempdir().unwrap();
        let mut setup = BrokerSetup::create(broker_program(), folder.path(), &sizes()).unwrap();
        setup.fault = Some(fault.into());
        let life = (Duration::from_millis(100), Duration::from_millis(400));
        let rounds = Rounds { kills, seed, life, early_kill_every: 0, ..Rounds::default() };
        let outcome = kill_rounds(&setup, &rounds).unwrap();
        if !outcome.findings.is_clean() {
            println!("{fault} caught with seed {seed}: {}", outcome.findings);
            return;
        }
    }
    panic!("{fault} was not caught in {RUNS_MAX} runs of {kills} kills from seed {first_seed} on");
}

#[test]
fn an_ack_before_the_wal_has_it_is_caught() {
    caught("ack-early", 4);
}

#[test]
fn an_ack_before_the_commit_is_caught() {
    caught_with("ack-before-commit", 4, without_wal);
}

#[test]
fn an_offset_that_is_given_out_twice_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = BrokerSetup::create(broker_program(), folder.path(), &wal_only()).unwrap();
    // The last record of each partition is acked before the kill, so that what is forgotten was promised.
    write_and_kill(&setup);
    let mut acked = Ledger::load(&setup.folder.join("ledger")).unwrap();
    setup.fault = Some("reuse-offset".into());
    let _broker = setup.start().unwrap();
    acked.extend(written_by_another(&setup));
    let read = read_topic(setup.address, TOPIC, Rounds::default().partitions).unwrap();
    let findings = check(&acked, &read);
    println!("reuse-offset caught: {findings}");
    assert!(!findings.lost.is_empty(), "{findings}");
}

/// What a producer that no round knows writes in a moment.
fn written_by_another(setup: &BrokerSetup) -> Vec<Acked> {
    let ledger = Ledger::create(&setup.folder.join("another-ledger")).unwrap();
    let rounds = Rounds::default();
    let stop = AtomicBool::new(false);
    let producer = Producer {
        number: rounds.producers,
        address: setup.address,
        topic: TOPIC,
        partitions: rounds.partitions,
        seed: seed(),
        ledger: &ledger,
        stop: &stop,
        drain: Duration::from_secs(30),
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| producer.run());
        while ledger.records() == 0 && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(running.join().unwrap(), Vec::<String>::new());
    });
    ledger.acked()
}

#[test]
fn a_dropped_record_is_caught() {
    caught("drop-record", 1);
}

#[test]
fn a_checksum_that_is_not_checked_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = BrokerSetup::create(broker_program(), folder.path(), &wal_only()).unwrap();
    let written = write_and_kill(&setup);
    flip_bit(&wal_path(&setup), offset_in_wal(&setup, &written));
    // Without the fault this broker does not start: see `corruption.rs`.
    setup.fault = Some("skip-crc".into());
    let _broker = setup.start().unwrap();
    let acked = Ledger::load(&setup.folder.join("ledger")).unwrap();
    let findings = match read_topic(setup.address, TOPIC, Rounds::default().partitions) {
        Ok(read) => check(&acked, &read),
        Err(failure) => unreadable(&failure, 0),
    };
    println!("skip-crc caught: {findings}");
    assert!(!findings.corrupt.is_empty(), "{findings}");
}
