//! The durable log: what every store does, and what is left of it after a crash at any point.
#![allow(clippy::unwrap_used)]

mod crash_disk;

use std::process::{Command as Process, Stdio};

use raft::eraftpb::{ConfState, Entry, HardState};
use redb::ReadableTable;
use seawall_metadata::log_store::*;
use seawall_metadata::*;
use uuid::Uuid;

use crash_disk::{CrashDisk, Disk};

fn identity() -> LogIdentity {
    LogIdentity { node: NodeId(7), raft_id: 1, store: Uuid::from_u128(5) }
}

fn snapshot_at(index: u64, term: u64, bytes: usize) -> StoredSnapshot {
    let mut conf_state = ConfState::default();
    conf_state.set_voters(vec![1]);
    let data = (0..bytes).map(|position| (position as u64 * 31 + index) as u8).collect();
    StoredSnapshot { index, term, conf_state, data }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    let mut hard_state = HardState::default();
    hard_state.set_term(term);
    hard_state.set_commit(commit);
    hard_state
}

fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    let entry = |index| {
        let mut entry = Entry { index, term, ..Entry::default() };
        entry.data = vec![index as u8; 10 + (index as usize * 7) % 300].into();
        entry.context = vec![1, 2, 3].into();
        entry
    };
    range.map(entry).collect()
}

#[test]
fn both_stores_keep_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    keeps_what_was_written(MemoryLog::default());
    keeps_what_was_written(RedbLog::open(dir.path()).unwrap());
}

fn keeps_what_was_written(mut store: impl RaftStorage) {
    assert_eq!(store.load().unwrap(), None);
    store.create(identity(), &snapshot_at(1, 1, 10), &hard_state(1, 1)).unwrap();
    let written = entries(2..10, 1);
    store.write(LogWrite { entries: &written, hard_state: Some(&hard_state(1, 5)), ..LogWrite::default() }).unwrap();
    let stored = store.load().unwrap().unwrap();
    assert_eq!((stored.identity, stored.hard_state), (identity(), hard_state(1, 5)));
    assert_eq!((stored.snapshot, stored.entries), (snapshot_at(1, 1, 10), written.clone()));

    // A new leader's entries replace what was not committed.
    let replaced = entries(6..8, 2);
    store.write(LogWrite { entries: &replaced, hard_state: Some(&hard_state(2, 5)), ..LogWrite::default() }).unwrap();
    let stored = store.load().unwrap().unwrap();
    assert_eq!(stored.entries, [&written[..4], &replaced[..]].concat());

    // A snapshot stands for the entries up to its own; one longer than a chunk comes back whole.
    let snapshot = snapshot_at(6, 2, (2 << 20) + 100);
    store
        .write(LogWrite { snapshot: Some(&snapshot), hard_state: Some(&hard_state(2, 7)), ..LogWrite::default() })
        .unwrap();
    let stored = store.load().unwrap().unwrap();
    assert_eq!((stored.snapshot, stored.entries), (snapshot, replaced[1..].to_vec()));
    let smaller = snapshot_at(20, 3, 5);
    store
        .write(LogWrite { snapshot: Some(&smaller), hard_state: Some(&hard_state(3, 20)), ..LogWrite::default() })
        .unwrap();
    let stored = store.load().unwrap().unwrap();
    assert_eq!((stored.snapshot, stored.entries), (smaller, vec![]));
    store.write(LogWrite { entries: &entries(21..22, 3), ..LogWrite::default() }).unwrap();
    assert_eq!(store.load().unwrap().unwrap().entries, entries(21..22, 3));

    // A leader's snapshot that contradicts the log leaves nothing of it.
    store.write(LogWrite { entries: &entries(22..30, 3), ..LogWrite::default() }).unwrap();
    let foreign = snapshot_at(25, 4, 5);
    let (entries, hard_state) = (entries(26..27, 4), hard_state(4, 25));
    store
        .write(LogWrite {
            snapshot: Some(&foreign),
            replaces_log: true,
            entries: &entries,
            hard_state: Some(&hard_state),
        })
        .unwrap();
    let stored = store.load().unwrap().unwrap();
    assert_eq!((stored.snapshot, stored.entries, stored.hard_state), (foreign, entries, hard_state));
}

/// The steps of the crash test. After `n` of them the log is what `MemoryLog` holds after `n`.
fn script() -> Vec<(Option<StoredSnapshot>, Vec<Entry>, HardState)> {
    let mut steps: Vec<_> =
        (0..6).map(|step| (None, entries(2 + step * 3..5 + step * 3, 1), hard_state(1, 1 + step * 3))).collect();
    steps.push((None, entries(18..22, 2), hard_state(2, 17)));
    steps.push((Some(snapshot_at(17, 1, 70_000)), vec![], hard_state(2, 20)));
    steps.extend((0..4).map(|step| (None, entries(22 + step..23 + step, 2), hard_state(2, 21 + step))));
    steps.push((Some(snapshot_at(24, 2, 9_000)), vec![], hard_state(2, 25)));
    steps.push((None, entries(26..40, 3), hard_state(3, 25)));
    steps
}

fn play(store: &mut impl RaftStorage, mut done: impl FnMut()) -> Result<(), LogError> {
    store.create(identity(), &snapshot_at(1, 1, 10), &hard_state(1, 1))?;
    done();
    for (snapshot, entries, hard_state) in &script() {
        let write =
            LogWrite { snapshot: snapshot.as_ref(), entries, hard_state: Some(hard_state), replaces_log: false };
        store.write(write)?;
        done();
    }
    Ok(())
}

/// What the log may be after each number of steps.
fn histories() -> Vec<Option<StoredLog>> {
    let mut histories = vec![None];
    let mut store = MemoryLog::default();
    store.create(identity(), &snapshot_at(1, 1, 10), &hard_state(1, 1)).unwrap();
    histories.push(store.load().unwrap());
    for (snapshot, entries, hard_state) in &script() {
        let write =
            LogWrite { snapshot: snapshot.as_ref(), entries, hard_state: Some(hard_state), replaces_log: false };
        store.write(write).unwrap();
        histories.push(store.load().unwrap());
    }
    histories
}

#[test]
fn after_a_power_cut_at_any_write_the_log_holds_every_step_that_returned_and_no_half_one() {
    let histories = histories();
    let disk = Disk::new(u64::MAX, 0);
    play(&mut RedbLog::with_backend(CrashDisk(disk.clone())).unwrap(), || {}).unwrap();
    let operations = disk.operations();
    let rounds = std::env::var("SIM_SEEDS").ok().and_then(|value| value.parse().ok()).unwrap_or(2);
    let mut cuts = 0;
    for seed in 0..rounds {
        for cut in 1..operations {
            let disk = Disk::new(cut, seed);
            let mut done = 0;
            let result = match RedbLog::with_backend(CrashDisk(disk.clone())) {
                Ok(mut store) => play(&mut store, || done += 1),
                Err(error) => Err(error),
            };
            // The last operations are those of closing.
            assert!(result.is_err() || done == histories.len() - 1, "the disk was cut at {cut} of {operations}");
            let after = Disk::with(disk.after_power_cut());
            let mut store = match RedbLog::with_backend(CrashDisk(after)) {
                Ok(store) => store,
                // A file in the making: it has no name yet that counts, and is made again.
                Err(LogError::Damaged(_)) if done == 0 => continue,
                Err(error) => panic!("cut {cut} seed {seed} after {done} steps: {error}"),
            };
            let found = store.load().unwrap_or_else(|error| panic!("cut {cut} seed {seed}: {error}"));
            let as_told = found == histories[done];
            let as_next = histories.get(done + 1).is_some_and(|next| found == *next);
            assert!(as_told || as_next, "cut {cut} seed {seed}: not the log after {done} steps, nor after the next");
            cuts += 1;
        }
    }
    println!("{cuts} power cuts");
}

#[test]
fn a_store_that_skips_its_flush_is_caught_by_the_power_cut_test() {
    let histories = histories();
    let disk = Disk::new(u64::MAX, 3).lying();
    let mut done = 0;
    let mut store = RedbLog::with_backend(CrashDisk(disk.clone())).unwrap();
    play(&mut store, || done += 1).unwrap();
    // Taken while the store is open: nothing was ever flushed.
    let after = Disk::with(disk.after_power_cut());
    let found = RedbLog::with_backend(CrashDisk(after)).and_then(|mut store| store.load());
    assert!(found.ok() != Some(histories[done].clone()), "the disk lied and nobody saw it");
}

/// The whole node on the disk that is cut: an answer is given only when its command survives.
#[test]
fn every_answer_given_before_a_power_cut_is_there_afterwards() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let rounds = std::env::var("SIM_SEEDS").ok().and_then(|value| value.parse().ok()).unwrap_or(40);
    let mut answers = 0;
    for seed in 0..rounds {
        let disk = Disk::new(60 + seed * 7 % 400, seed);
        let mut config = MetadataConfig::new("unused", NodeId(1));
        config.cluster = Some((ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2))));
        config.log_bytes_max = 2 << 10;
        let store = RedbLog::with_backend(CrashDisk(disk.clone())).unwrap();
        let answered = runtime.block_on(async {
            let handle = MetadataHandle::with_store(config.clone(), store).await.unwrap();
            let mut answered = 0;
            let command = |by| Command::AllocateProducerIds { by, count: 5 };
            if let Ok(by) = try_register(&handle).await {
                while let Ok((_, Response::ProducerIds { first, .. })) = handle.propose(command(by)).await {
                    answered = first.0 + 5;
                }
            }
            assert!(matches!(handle.stopped().await, StopReason::Failed(_)), "seed {seed}");
            answered
        });
        answers += answered / 5;
        let store = RedbLog::with_backend(CrashDisk(Disk::with(disk.after_power_cut()))).unwrap();
        let next = runtime.block_on(async {
            let handle = MetadataHandle::with_store(config, store).await.unwrap();
            let by = register(&handle).await;
            match handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap().1 {
                Response::ProducerIds { first, .. } => first.0,
                other => panic!("{other:?}"),
            }
        });
        assert!(next == answered || next == answered + 5, "seed {seed}: answered up to {answered}, found {next}");
    }
    println!("{rounds} power cuts, {answers} answers");
}

#[tokio::test]
async fn a_full_disk_stops_the_node_and_says_so() {
    let disk = Disk::new(u64::MAX, 0);
    let store = RedbLog::with_backend(CrashDisk(disk.clone())).unwrap();
    let mut config = MetadataConfig::new("unused", NodeId(1));
    config.cluster = Some((ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2))));
    let handle = MetadataHandle::with_store(config, store).await.unwrap();
    disk.fill();
    let broker = Command::FenceBroker { node: NodeId(1), epoch: BrokerEpoch(1) };
    let error = handle.propose(broker.clone()).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown), "{error}");
    let StopReason::Failed(error) = handle.stopped().await else { panic!("not failed") };
    let raft_core::CoreError::Log(LogError::Io(error)) = &*error else { panic!("{error}") };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(matches!(handle.propose(broker).await.unwrap_err(), ProposeError::Stopped));
    assert!(!handle.is_leader() && !handle.lease().valid(BootInstant(1)));
}

type Change<'a> = &'a dyn Fn(&mut redb::Table<'_, u64, &[u8]>, &mut redb::Table<'_, &str, &[u8]>);

#[test]
fn a_value_that_changed_on_disk_is_damage() {
    const LOG: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("log");
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let dir = tempfile::tempdir().unwrap();
    let refill = || {
        let _ = std::fs::remove_file(dir.path().join("raft.redb"));
        play(&mut RedbLog::open(dir.path()).unwrap(), || {}).unwrap();
    };
    let change = |change: Change<'_>| {
        let database = redb::Database::create(dir.path().join("raft.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        change(&mut transaction.open_table(LOG).unwrap(), &mut transaction.open_table(META).unwrap());
        transaction.commit().unwrap();
    };
    let flipped = |value: &[u8], at: usize| {
        let mut value = value.to_vec();
        value[at] ^= 4;
        value
    };
    let changes: [(&str, Change<'_>); 5] = [
        ("a bit of an entry", &|log, _| {
            let value = flipped(log.get(30).unwrap().unwrap().value(), 9);
            log.insert(30, value.as_slice()).unwrap();
        }),
        ("an entry in another's place", &|log, _| {
            let value = log.get(30).unwrap().unwrap().value().to_vec();
            log.insert(31, value.as_slice()).unwrap();
        }),
        ("a missing entry", &|log, _| drop(log.remove(30).unwrap())),
        ("a bit of the hard state", &|_, meta| {
            let value = flipped(meta.get("hard state").unwrap().unwrap().value(), 5);
            meta.insert("hard state", value.as_slice()).unwrap();
        }),
        ("a commit beyond the log", &|log, _| log.retain_in(25.., |_, _| false).unwrap()),
    ];
    for (what, to) in changes {
        refill();
        change(to);
        let result = RedbLog::open(dir.path()).unwrap().load();
        assert!(matches!(&result, Err(LogError::Damaged(_))), "{what}: {result:?}");
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    const META: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let dir = tempfile::tempdir().unwrap();
    play(&mut RedbLog::open(dir.path()).unwrap(), || {}).unwrap();
    let database = redb::Database::create(dir.path().join("raft.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    let key = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, b"format") as u32;
    digest.update(&key.to_le_bytes());
    digest.update(&2u16.to_le_bytes());
    let sealed = [&(digest.finalize() as u32).to_le_bytes()[..], &2u16.to_le_bytes()].concat();
    transaction.open_table(META).unwrap().insert("format", sealed.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbLog::open(dir.path()).unwrap().load().unwrap_err();
    assert!(matches!(error, LogError::NewerFormat { found: 2 }), "{error}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(MetadataHandle::open(MetadataConfig::new(dir.path(), NodeId(7)))).err().unwrap();
    assert!(matches!(error, OpenError::NewerFormat { .. }), "{error}");
}

#[test]
fn a_file_that_a_power_cut_caught_in_its_making_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("raft.redb.new"), vec![0; 4096]).unwrap();
    let mut store = RedbLog::open(dir.path()).unwrap();
    assert!(matches!(RedbLog::open(dir.path()), Err(LogError::InUse)));
    store.create(identity(), &snapshot_at(1, 1, 10), &hard_state(1, 1)).unwrap();
    assert!(matches!(RedbLog::open(dir.path()), Err(LogError::InUse)));
    drop(store);
    assert!(RedbLog::open(dir.path()).unwrap().load().unwrap().is_some());
    assert!(!dir.path().join("raft.redb.new").exists());
}

/// Kills a process that proposes as fast as it can, and looks for everything it was told.
#[test]
fn a_killed_process_finds_every_answered_proposal_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = 0;
    let kills = std::env::var("CRASH_KILLS").ok().and_then(|value| value.parse().ok()).unwrap_or(6);
    for round in 0..kills {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--ignored", "--nocapture"])
            .env("SEAWALL_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let reader = std::io::BufReader::new(child.stdout.take().unwrap());
        let wanted = 40 + round * 23;
        let mut seen = 0;
        for line in std::io::BufRead::lines(reader) {
            let line = line.unwrap();
            if let Some(next) = line.split("answered ").nth(1) {
                let next: i64 = next.trim().parse().unwrap();
                assert!(next >= answered, "producer ids from {next} were given out before");
                answered = next;
                seen += 1;
            }
            if seen == wanted {
                child.kill().unwrap();
                seen += 1;
            }
        }
        child.wait().unwrap();
        assert!(seen > wanted, "the child ended by itself");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let handle = MetadataHandle::open(MetadataConfig::new(dir.path(), NodeId(1))).await.unwrap();
        let by = register(&handle).await;
        let (_, response) = handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap();
        let Response::ProducerIds { first, .. } = response else { panic!("{response:?}") };
        assert!(first.0 >= answered, "{first} was answered before: {answered}");
        println!("{kills} kills, producer ids up to {answered}");
        handle.shutdown().await;
    });
}

async fn register(handle: &MetadataHandle) -> Registration {
    try_register(handle).await.unwrap()
}

async fn try_register(handle: &MetadataHandle) -> Result<Registration, ProposeError> {
    let command = Command::RegisterBroker {
        node: NodeId(1),
        boot: BootId(Uuid::from_u128(3)),
        listeners: Vec::new(),
        rack: None,
        wals: Vec::new(),
        features: command::supported_features(),
    };
    match handle.propose(command).await?.1 {
        Response::BrokerEpoch(epoch) => Ok(Registration { node: NodeId(1), epoch }),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "the child process of the kill test"]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os("SEAWALL_TEST_DIR") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut config = MetadataConfig::new(dir, NodeId(1));
        config.cluster = Some((ClusterId(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2))));
        config.log_bytes_max = 8 << 10;
        let handle = MetadataHandle::open(config).await.unwrap();
        let by = register(&handle).await;
        for _ in 0..100_000 {
            let (_, response) = handle.propose(Command::AllocateProducerIds { by, count: 7 }).await.unwrap();
            let Response::ProducerIds { first, .. } = response else { panic!("{response:?}") };
            println!("answered {}", first.0 + 7);
        }
    });
}
