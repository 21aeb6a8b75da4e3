//! The node as its users see it: proposals, answers, restarts, the lease, and what it says when it cannot start.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use seawall_metadata::command::{METADATA_LEVEL, METADATA_VERSION, REPLACEMENTS_LEVEL, supported_features};
use seawall_metadata::*;
use uuid::Uuid;

fn cluster(number: u128) -> (ClusterId, Incarnation) {
    (ClusterId(Uuid::from_u128(number)), Incarnation(Uuid::from_u128(number + 1)))
}

fn config(dir: &Path) -> MetadataConfig {
    let mut config = MetadataConfig::new(dir, NodeId(1));
    config.cluster = Some(cluster(1));
    config
}

async fn register(handle: &MetadataHandle) -> Registration {
    let command = Command::RegisterBroker {
        node: NodeId(1),
        boot: BootId(Uuid::from_u128(3)),
        listeners: Vec::new(),
        rack: None,
        wals: Vec::new(),
        features: supported_features(),
    };
    match handle.propose(command).await.unwrap().1 {
        Response::BrokerEpoch(epoch) => Registration { node: NodeId(1), epoch },
        other => panic!("{other:?}"),
    }
}

fn create_topic(name: &str, number: u128, owners: Vec<NodeId>) -> Command {
    Command::CreateTopic {
        name: name.into(),
        topic: TopicId(Uuid::from_u128(number)),
        internal: false,
        replication_factor: 3,
        owners,
        configs: BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_command_that_came_later_is_refused_until_its_level_is_finalized() {
    let (cluster, incarnation) = cluster(1);
    let handle = MetadataHandle::in_memory(MetadataConfig::new("unused", NodeId(1))).await.unwrap();
    handle.propose(Command::InitCluster { cluster, incarnation, metadata_level: 1 }).await.unwrap();
    let by = register(&handle).await;
    let applied = handle.applied();
    let replace = Command::ReplaceRanges { by, objects: Vec::new(), streams: Vec::new() };
    let refused = handle.propose(replace.clone()).await.unwrap_err();
    let level = REPLACEMENTS_LEVEL;
    assert!(
        matches!(&refused, ProposeError::Rejected(Rejection::Feature { name, level: needed, .. })
            if name == METADATA_VERSION && *needed == level),
        "{refused:?}"
    );
    assert_eq!(handle.applied(), applied, "it is in no log");
    let features = BTreeMap::from([(METADATA_VERSION.to_owned(), level)]);
    handle.propose(Command::FinalizeFeatures { features }).await.unwrap();
    let answer = handle.propose(replace).await;
    assert!(!matches!(answer, Err(ProposeError::Rejected(Rejection::Feature { .. }))), "{answer:?}");
}

#[tokio::test]
async fn a_proposed_topic_is_readable_when_the_answer_is_there() {
    let handle = MetadataHandle::in_memory(config(Path::new("unused"))).await.unwrap();
    let by = register(&handle).await;
    let (index, response) = handle.propose(create_topic("orders", 4, vec![by.node; 3])).await.unwrap();
    let topic = TopicId(Uuid::from_u128(4));
    assert_eq!(response, Response::Topic { topic, streams: vec![StreamId(1), StreamId(2), StreamId(3)] });
    assert!(handle.applied() >= index);
    handle.wait_applied(index).await.unwrap();
    assert_eq!(handle.read(|state| state.topic_by_name("orders").unwrap().partitions), 3);
    assert_eq!(handle.read(|state| state.metadata_level()), METADATA_LEVEL);
    assert!(handle.is_leader());
    handle.shutdown().await;
}

#[tokio::test]
async fn a_rejected_command_says_why_and_changes_nothing() {
    let handle = MetadataHandle::in_memory(config(Path::new("unused"))).await.unwrap();
    let before = handle.read(|state| state.topology_index());
    let error = handle.propose(create_topic("orders", 4, vec![NodeId(1)])).await.unwrap_err();
    assert!(matches!(error, ProposeError::Rejected(Rejection::UnknownBroker(NodeId(1)))), "{error}");
    assert_eq!(handle.read(|state| state.topology_index()), before);
}

#[tokio::test]
async fn everything_answered_is_there_after_a_restart_and_the_start_is_fast() {
    let dir = tempfile::tempdir().unwrap();
    let handle = MetadataHandle::open(config(dir.path())).await.unwrap();
    let by = register(&handle).await;
    for number in 0..50 {
        handle.propose(create_topic(&format!("topic-{number}"), 100 + number, vec![by.node])).await.unwrap();
    }
    let before = handle.read(snapshot::encode);
    let index = handle.applied();
    handle.shutdown().await;

    let started = Instant::now();
    let handle = MetadataHandle::open(config(dir.path())).await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("restart: {took:?}");
    assert!(handle.applied() > index, "its own election is in the log");
    let after = handle.read(|state| state.clone());
    let before = snapshot::decode(&before).unwrap();
    assert!(after.topics().eq(before.topics()) && after.brokers().eq(before.brokers()));
    assert!(register(&handle).await.epoch > by.epoch);
    handle.shutdown().await;
}

#[tokio::test]
async fn the_log_is_cut_by_size_and_the_snapshot_brings_the_same_state_back() {
    let dir = tempfile::tempdir().unwrap();
    let small = || MetadataConfig { log_bytes_max: 4 << 10, ..config(dir.path()) };
    let handle = MetadataHandle::open(small()).await.unwrap();
    let by = register(&handle).await;
    for number in 0..200 {
        handle.propose(create_topic(&format!("topic-{number}"), 100 + number, vec![by.node])).await.unwrap();
    }
    let topics = handle.read(|state| state.topics().cloned().collect::<Vec<_>>());
    handle.shutdown().await;
    let stored = log_store::RaftStorage::load(&mut log_store::RedbLog::open(dir.path()).unwrap()).unwrap().unwrap();
    assert!(stored.snapshot.index > 20 && stored.entries.len() < 400, "{}", stored.snapshot.index);
    let handle = MetadataHandle::open(small()).await.unwrap();
    assert_eq!(handle.read(|state| state.topics().cloned().collect::<Vec<_>>()), topics);
    handle.shutdown().await;
}

/// Clocks that a test moves.
#[derive(Default)]
struct ManualClock {
    boot_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    fn sleep(&self, ms: u64) {
        self.boot_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn run(&self, ms: u64) {
        self.sleep(ms);
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl MetadataClock for ManualClock {
    fn boot(&self) -> BootInstant {
        BootInstant((1_000 + self.boot_ms.load(Ordering::SeqCst)) * 1_000_000)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

async fn on_manual_clock() -> (MetadataHandle, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let config = MetadataConfig { clock: clock.clone(), ..config(Path::new("unused")) };
    (MetadataHandle::in_memory(config).await.unwrap(), clock)
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn the_lease_begins_with_the_registration_and_is_renewed() {
    let (handle, clock) = on_manual_clock().await;
    let lease = handle.lease();
    assert!(!lease.valid(clock.boot()));
    let by = register(&handle).await;
    assert!(lease.valid(clock.boot()), "the registration's answer comes with the lease");
    assert_eq!(lease.ends(), clock.boot() + Duration::from_secs(9), "counted from when the heartbeat was sent");

    clock.run(1_000);
    eventually("a renewal", || lease.ends() == clock.boot() + Duration::from_secs(9)).await;
    handle.propose(Command::FenceBroker { node: by.node, epoch: by.epoch }).await.unwrap();
    assert!(!lease.valid(clock.boot()), "a fenced broker has none");
    clock.run(1_000);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!lease.valid(clock.boot()), "and gets none by heartbeats");
    register(&handle).await;
    assert!(lease.valid(clock.boot()));
    handle.shutdown().await;
    assert!(!lease.valid(clock.boot()), "a stopped node grants none");
}

#[tokio::test]
async fn a_host_that_slept_finds_its_lease_ended() {
    let (handle, clock) = on_manual_clock().await;
    register(&handle).await;
    let before = handle.lease();
    let woken = clock.boot() + Duration::from_secs(3_600);
    assert!(!before.valid(woken));
    clock.sleep(3_600_000);
    eventually("a new lease", || before.valid(clock.boot())).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn a_second_process_another_cluster_and_another_node_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let handle = MetadataHandle::open(config(dir.path())).await.unwrap();
    let error = MetadataHandle::open(config(dir.path())).await.err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    handle.shutdown().await;

    let other = MetadataConfig { cluster: Some(cluster(7)), ..config(dir.path()) };
    let error = MetadataHandle::open(other).await.err().unwrap();
    assert!(matches!(error, OpenError::OtherCluster { .. }), "{error}");

    let other = MetadataConfig { node: NodeId(2), ..config(dir.path()) };
    let error = MetadataHandle::open(other).await.err().unwrap();
    assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");

    MetadataHandle::open(config(dir.path())).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_file_that_is_no_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("raft.redb"), [7u8; 8192]).unwrap();
    let error = MetadataHandle::open(config(dir.path())).await.err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn after_a_shutdown_proposals_say_stopped_and_reads_go_on() {
    let handle = MetadataHandle::in_memory(config(Path::new("unused"))).await.unwrap();
    register(&handle).await;
    handle.clone().shutdown().await;
    let error = handle.propose(create_topic("late", 9, vec![NodeId(1)])).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped), "{error}");
    assert!(matches!(handle.stopped().await, StopReason::Shutdown));
    assert!(handle.wait_applied(u64::MAX).await.is_err());
    assert_eq!(handle.read(|state| state.brokers().count()), 1);
}

#[tokio::test]
async fn reservations_end_with_metadata_time() {
    let (handle, clock) = on_manual_clock().await;
    let by = register(&handle).await;
    let (_, response) = handle.propose(Command::ReserveObjects { by, count: 2, ttl_ms: 60_000 }).await.unwrap();
    assert_eq!(response, Response::ObjectIds { first: ObjectId(1), count: 2 });
    let reserved = || handle.read(|state| state.reservation(ObjectId(1)).is_some());

    // Neither the time that the host slept nor 59 seconds end it.
    clock.sleep(3_600_000);
    clock.run(59_000);
    handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap();
    assert!(reserved());
    clock.run(2_000);
    handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap();
    assert!(!reserved(), "time goes in front of the command");
    assert_eq!(handle.read(|state| state.marked_before(u64::MAX).collect::<Vec<_>>()), [ObjectId(1), ObjectId(2)]);

    // Without commands time moves as well, while something waits for it.
    handle.propose(Command::ReserveObjects { by, count: 1, ttl_ms: 5_000 }).await.unwrap();
    clock.run(11_000);
    eventually("the reservation's end", || handle.read(|state| state.reservation(ObjectId(3)).is_none())).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn a_reservation_made_after_a_long_quiet_time_lives_its_whole_time() {
    let (handle, clock) = on_manual_clock().await;
    let by = register(&handle).await;
    clock.run(3_600_000);
    handle.propose(Command::ReserveObjects { by, count: 1, ttl_ms: 60_000 }).await.unwrap();
    clock.run(30_000);
    handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap();
    assert!(handle.read(|state| state.reservation(ObjectId(1)).is_some()));
    handle.shutdown().await;
}

/// Group commit: how many proposals does one node answer per second on this disk, and how long does each take?
#[tokio::test]
async fn many_concurrent_proposals_share_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let handle = MetadataHandle::open(config(dir.path())).await.unwrap();
    let by = register(&handle).await;
    let started = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    handle.propose(Command::AllocateProducerIds { by, count: 10 }).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let took = started.elapsed();
    println!("3200 proposals by 64 in {took:?}: {:.0}/s", 3200.0 / took.as_secs_f64());
    let next = handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap().1;
    assert_eq!(next, Response::ProducerIds { first: ProducerId(32_000), count: 1 });
    let one = Instant::now();
    for _ in 0..20 {
        handle.propose(Command::AllocateProducerIds { by, count: 1 }).await.unwrap();
    }
    println!("one after the other: {:?} each", one.elapsed() / 20);
    handle.shutdown().await;
}
