use seawall_backends::faulty::{Faults, Faulty};
use seawall_backends::memory::MemoryBackend;
use seawall_backends::{Backend, ObjectKey};
use seawall_metadata::backup::{Replay, decode_log};
use seawall_metadata::{ClusterId, Command, Incarnation, MetadataConfig, NodeId, State, TopicId};
use uuid::Uuid;

use super::*;
use crate::object_key::ObjectKeys;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const INCARNATION: Incarnation = Incarnation(Uuid::from_u128(2));

struct Rig {
    metadata: MetadataHandle,
    memory: Arc<MemoryBackend>,
    store: BackupStore,
    window: Arc<RestoreWindow>,
    view: Arc<BackupView>,
    topics: u128,
}

impl Rig {
    async fn new() -> Rig {
        let config =
            MetadataConfig { cluster: Some((CLUSTER, INCARNATION)), ..MetadataConfig::new("memory", NodeId(1)) };
        let metadata = MetadataHandle::in_memory(config).await.unwrap();
        let memory = Arc::new(MemoryBackend::new());
        let store = store(memory.clone());
        let view = BackupView::new(metadata.clone(), true);
        Rig { metadata, memory, store, window: RestoreWindow::unknown(), view, topics: 0 }
    }

    fn backup(&self, snapshot_interval: Duration) -> Backup {
        self.backup_to(self.store.clone(), snapshot_interval)
    }

    fn backup_to(&self, store: BackupStore, snapshot_interval: Duration) -> Backup {
        let settings = BackupSettings { interval: Duration::from_millis(5), snapshot_interval, snapshots_kept: 2 };
        let (window, view) = (self.window.clone(), self.view.clone());
        Backup::new(self.metadata.clone(), store, Clock::system(), settings, window, view)
    }

    async fn change(&mut self) {
        self.topics += 1;
        let command = Command::CreateDistinctTopic {
            name: format!("t{}", self.topics),
            topic: TopicId(Uuid::from_u128(self.topics)),
            internal: false,
            replication_factor: 1,
            owners: vec![NodeId(1)],
            configs: Default::default(),
        };
        // Refused, as that broker is not registered: an entry of the log all the same.
        let _ = self.metadata.propose(command).await;
        let now_ms = self.metadata.read(State::now_ms) + 10;
        self.metadata.propose(Command::AdvanceTime { now_ms }).await.unwrap();
    }

    async fn covered(&self) {
        let covered = async {
            while self.view.status().generation == 0 || self.view.status().lag_entries > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), covered).await.expect("the backup follows");
    }

    /// What the store alone gives.
    async fn read_back(&self, generation: u64) -> State {
        let snapshot = self.store.snapshot(generation).await.unwrap();
        let mut replay = Replay::from_snapshot(&snapshot.data, snapshot.head.last).unwrap();
        let mut number = snapshot.parts;
        while let Ok(piece) = self.store.piece(generation, number).await {
            replay.apply(&decode_log(&piece.head, piece.payload()).unwrap()).unwrap();
            number += 1;
        }
        replay.state
    }
}

fn store(backend: Arc<dyn Backend>) -> BackupStore {
    BackupStore::new(backend, &ObjectKeys::new("p", CLUSTER).unwrap(), CLUSTER, INCARNATION)
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_store_alone_gives_the_state_and_each_start_begins_a_generation() {
    let mut rig = Rig::new().await;
    for start in 1..=3 {
        let stop = CancellationToken::new();
        let running = tokio::spawn(rig.backup(HOUR).run(stop.clone()));
        for _ in 0..5 {
            rig.change().await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        rig.covered().await;
        running.abort();
        let _ = running.await;
        assert_eq!(rig.store.newest_generation().await, Ok(start));
        assert_eq!(rig.read_back(start).await, rig.metadata.read(State::clone));
    }
}

#[tokio::test]
async fn a_stop_writes_what_is_left() {
    let mut rig = Rig::new().await;
    let stop = CancellationToken::new();
    let mut backup = rig.backup(HOUR);
    backup.settings.interval = HOUR;
    let running = tokio::spawn(backup.run(stop.clone()));
    rig.covered().await;
    rig.change().await;
    stop.cancel();
    running.await.unwrap();
    let newest = rig.store.newest_generation().await.unwrap();
    assert_eq!(rig.read_back(newest).await, rig.metadata.read(State::clone));
}

#[tokio::test]
async fn a_stop_before_the_first_generation_is_whole_writes_one() {
    let mut rig = Rig::new().await;
    rig.change().await;
    let stop = CancellationToken::new();
    stop.cancel();
    rig.backup(HOUR).run(stop).await;
    let newest = rig.store.newest_generation().await.unwrap();
    assert_eq!(rig.read_back(newest).await, rig.metadata.read(State::clone));
}

#[tokio::test]
async fn a_generation_that_was_cut_off_before_its_mark_leaves_no_gap_and_is_not_written_again() {
    let rig = Rig::new().await;
    let mut backup = rig.backup(HOUR);
    // What a begin that was dropped leaves: nobody knows what of it is there, or comes later.
    backup.newest = 3;
    assert_eq!(backup.begin().await.unwrap().generation, 4);
    assert_eq!(rig.store.newest_generation().await, Ok(4));
    assert!(matches!(rig.store.snapshot(3).await, Err(BackupReadError::Missing { .. })));
}

#[tokio::test]
async fn generations_that_another_leader_has_begun_meanwhile_are_left_to_it() {
    let mut rig = Rig::new().await;
    let mut backup = rig.backup(HOUR);
    assert_eq!(backup.begin().await.unwrap().generation, 1);
    rig.change().await;
    let mut other = rig.backup(HOUR);
    for generation in 2..=4 {
        assert_eq!(other.begin().await.unwrap().generation, generation);
    }
    let theirs = rig.metadata.read(State::clone);
    rig.change().await;
    assert_eq!(backup.begin().await.unwrap().generation, 5);
    assert_eq!(rig.read_back(2).await, theirs);
}

#[tokio::test]
async fn whole_generations_stay_behind_many_that_came_to_nothing_until_enough_new_ones_are_whole() {
    let mut rig = Rig::new().await;
    rig.change().await;
    rig.backup(HOUR).begin().await.unwrap();
    for generation in 2..=LOOK_BACK + 1 {
        rig.store.put_mark(generation).await.unwrap();
    }
    let mut backup = rig.backup(HOUR);
    backup.find().await;
    assert_eq!(backup.kept, []);
    backup.begin().await.unwrap();
    backup.drop_old().await;
    assert!(rig.store.snapshot(1).await.is_ok(), "one new generation may be damaged");
    assert_eq!(rig.window.begins_ms(), 0, "and what the old one names is needed then");
    let second = backup.begin().await.unwrap().generation;
    backup.drop_old().await;
    assert!(matches!(rig.store.snapshot(1).await, Err(BackupReadError::Missing { .. })));
    let oldest = rig.store.snapshot(second - 1).await.unwrap();
    assert!(oldest.now_ms > 0 && rig.window.begins_ms() == oldest.now_ms);
}

#[tokio::test]
async fn old_generations_go_and_the_window_begins_at_the_oldest_that_is_kept() {
    let mut rig = Rig::new().await;
    let running = tokio::spawn(rig.backup(Duration::from_millis(5)).run(CancellationToken::new()));
    let later = async {
        while rig.view.status().generation < 6 {
            rig.change().await;
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), later).await.expect("generations follow each other");
    rig.covered().await;
    running.abort();
    let _ = running.await;
    let newest = rig.store.newest_generation().await.unwrap();
    let mut kept = Vec::new();
    for generation in 1..=newest {
        kept.extend(rig.store.snapshot(generation).await.ok().map(|snapshot| (generation, snapshot.now_ms)));
    }
    assert!(kept.len() == 2 || kept.len() == 3, "two, and maybe one that was just begun: {kept:?}");
    assert!(rig.window.begins_ms() >= kept[0].1 && rig.window.begins_ms() > 0);
    let marks = rig.memory.contents().iter().filter(|(key, _)| key.as_str().contains("backup-marks")).count();
    assert_eq!(marks as u64, newest, "marks have no gap");
    assert!(rig.store.sweep_below(newest + 1).await.unwrap() > 0);
}

#[tokio::test]
async fn a_crash_at_any_put_leaves_what_was_there_before() {
    let mut rig = Rig::new().await;
    let running = tokio::spawn(rig.backup(HOUR).run(CancellationToken::new()));
    rig.change().await;
    rig.covered().await;
    running.abort();
    let _ = running.await;
    let before = rig.metadata.read(State::clone);
    // As a crash after the mark, before the snapshot.
    rig.store.put_mark(2).await.unwrap();
    assert_eq!(rig.store.newest_generation().await, Ok(2));
    assert!(matches!(rig.store.snapshot(2).await, Err(BackupReadError::Missing { .. })));
    assert_eq!(rig.read_back(1).await, before);
    let mut next = rig.backup(HOUR);
    next.find().await;
    assert_eq!(next.newest, 2);
    assert_eq!(next.kept.iter().map(|kept| kept.generation).collect::<Vec<_>>(), [1]);
    assert_eq!(next.begin().await.unwrap().generation, 3);
}

#[tokio::test]
async fn a_store_that_fails_many_calls_is_asked_again_and_nothing_ends() {
    let mut rig = Rig::new().await;
    let faults = Faults { error_before: 200, error_after: 200, ..Faults::default() };
    let faulty = Arc::new(Faulty::new(rig.memory.clone(), faults, 7));
    let running = tokio::spawn(rig.backup_to(store(faulty), HOUR).run(CancellationToken::new()));
    rig.change().await;
    rig.covered().await;
    running.abort();
    assert!(rig.view.status().failures > 0);
    let newest = rig.store.newest_generation().await.unwrap();
    assert_eq!(rig.read_back(newest).await, rig.metadata.read(State::clone));
}

#[tokio::test]
async fn a_flipped_bit_is_damage_and_names_the_piece() {
    let rig = Rig::new().await;
    rig.backup(HOUR).begin().await.unwrap();
    let key: ObjectKey = rig.store.piece_key(1, 0);
    let mut bytes = rig.memory.contents().into_iter().find(|(found, _)| *found == key).unwrap().1.to_vec();
    bytes[200] ^= 1;
    rig.memory.overwrite(&key, Bytes::from(bytes));
    let error = rig.store.snapshot(1).await.unwrap_err();
    assert!(matches!(&error, BackupReadError::Damaged { key: named, .. } if *named == key), "{error}");
}
