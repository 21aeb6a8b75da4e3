//! A cold cache gives the same bytes; a flipped bit gives an error that says so, never wrong data and never a silent cut.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::broker_process::{BrokerSetup, SmallSizes};
use super::ledger::{Acked, Ledger, Random, ReadBack, RecordId};
use super::readback::{ReadFailure, read_partition, read_topic};
use super::rounds::{Rounds, TOPIC, kill_rounds};
use super::{broker_program, seed};

/// Exit code of a broker whose data is damaged.
const EXIT_DAMAGED: i32 = 10;
const FLIPS: u64 = 6;

/// Nothing is uploaded: the WAL alone holds the records.
pub fn wal_only() -> SmallSizes {
    SmallSizes { upload_interval: "1h", upload_bytes: "1GiB", wal: "64MiB", ..SmallSizes::default() }
}

pub fn few_rounds(seed: u64) -> Rounds {
    let life = (Duration::from_millis(200), Duration::from_millis(300));
    Rounds { kills: 1, seed, life, early_kill_every: 0, ..Rounds::default() }
}

#[test]
fn a_cold_cache_gives_the_same_bytes_and_a_flipped_bit_in_an_object_is_an_error() {
    let seed = seed();
    println!("CRASH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let setup = BrokerSetup::create(broker_program(), folder.path(), &SmallSizes::default()).unwrap();
    let rounds = few_rounds(seed);
    let outcome = kill_rounds(&setup, &rounds).unwrap();
    assert!(outcome.findings.is_clean(), "{}", outcome.findings);
    // A stop uploads everything; the next start begins with empty caches.
    let stopped = setup.start().unwrap().stop().unwrap();
    assert!(stopped.success(), "{stopped}\n{}", setup.log_tail());
    let cold = setup.start().unwrap();
    assert!(read_topic(setup.address, TOPIC, rounds.partitions).unwrap() == outcome.read, "seed {seed}: other bytes");
    cold.kill().unwrap();

    let objects = files_below(&setup.data().join("objects"));
    assert!(!objects.is_empty());
    let mut random = Random::new(seed);
    let mut errors = 0;
    for _ in 0..FLIPS {
        let object = &objects[random.below(objects.len() as u64) as usize];
        let at = random.below(fs::metadata(object).unwrap().len());
        flip_bit(object, at);
        let broker = setup.start().unwrap();
        for (partition, written) in &outcome.read {
            match read_partition(setup.address, TOPIC, *partition) {
                Ok(read) => assert!(read == *written, "seed {seed}: wrong data after a flip at {at} of {object:?}"),
                Err(ReadFailure::Refused(_)) => errors += 1,
                Err(other) => panic!("seed {seed}: flip at {at} of {object:?}: {other}"),
            }
        }
        broker.kill().unwrap();
        flip_bit(object, at);
    }
    println!("{errors} partitions could not be read after {FLIPS} flips in {} objects", objects.len());
    assert!(errors > 0, "seed {seed}: no flip was noticed");
}

#[test]
fn a_flipped_bit_in_the_wal_below_the_durable_mark_stops_the_start_and_is_never_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let setup = BrokerSetup::create(broker_program(), folder.path(), &wal_only()).unwrap();
    let written = write_and_kill(&setup);
    let at = offset_in_wal(&setup, &written);
    flip_bit(&wal_path(&setup), at);
    let mut broker = setup.spawn().unwrap();
    let ended = broker.wait_end(Duration::from_secs(30)).unwrap();
    assert_eq!(ended.code(), Some(EXIT_DAMAGED), "{}", setup.log_tail());
    assert!(setup.log_tail().contains("damaged"), "{}", setup.log_tail());
    // Nothing was changed: with the bit as it was, everything is there.
    flip_bit(&wal_path(&setup), at);
    let _broker = setup.start().unwrap();
    assert!(read_topic(setup.address, TOPIC, Rounds::default().partitions).unwrap() == written);
}

/// Some acked records that are only in the WAL, with the broker killed.
pub fn write_and_kill(setup: &BrokerSetup) -> HashMap<i32, Vec<ReadBack>> {
    let outcome = kill_rounds(setup, &few_rounds(seed())).unwrap();
    assert!(outcome.findings.is_clean(), "{}", outcome.findings);
    outcome.read
}

/// Where the bytes of an acked record of the first half lie in the WAL file, as they are in batches without compression.
pub fn offset_in_wal(setup: &BrokerSetup, written: &HashMap<i32, Vec<ReadBack>>) -> u64 {
    let wal = fs::read(wal_path(setup)).unwrap();
    let acked: Vec<Acked> = Ledger::load(&setup.folder.join("ledger")).unwrap();
    assert!(!written.is_empty());
    let first_half = acked[..acked.len() / 2].iter();
    let values = first_half
        .map(|batch| RecordId { producer: batch.producer, partition: batch.partition, number: batch.first }.value());
    let mut long = values.filter(|value| value.len() > 40);
    let at = long.find_map(|value| wal.windows(value.len()).position(|bytes| bytes == value).map(|at| at + 30));
    at.expect("some batches are not compressed") as u64
}

pub fn wal_path(setup: &BrokerSetup) -> PathBuf {
    setup.data().join("wal").join("wal.0")
}

pub fn flip_bit(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << 3;
    file.write_all_at(&byte, at).unwrap();
    file.sync_all().unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    // Objects are named by their ids; what a killed broker was still writing is not.
    let is_id = |file: &PathBuf| file.file_name().is_some_and(|name| name.len() == 16);
    files.retain(is_id);
    files.sort();
    files
}
