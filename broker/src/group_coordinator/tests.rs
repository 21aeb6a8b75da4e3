//! The coordinator over a log in memory whose durability the test holds in its hand.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use seawall_protocol::records::{BATCH_HEADER_BYTES, BatchHeader, patch_base_offset_and_epoch};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::*;
use crate::consumer_group::{ClusterView, Topic};
use crate::group::Protocol;
use crate::group_records::OffsetValue;
use crate::group_shard::CommittedOffset;

#[derive(Default)]
struct MemoryLog {
    state: Mutex<LogState>,
    /// Batches below this offset are durable.
    durable: watch::Sender<i64>,
}

#[derive(Default)]
struct LogState {
    batches: Vec<(i64, Bytes)>,
    end: i64,
    /// New batches are durable at once.
    fast: bool,
    full: bool,
    failed: bool,
}

impl MemoryLog {
    fn fast() -> Arc<Self> {
        let log = Self::default();
        log.state.lock().unwrap().fast = true;
        Arc::new(log)
    }

    fn set(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state.lock().unwrap());
        self.durable.send_modify(|_| ());
    }

    fn make_durable(&self) {
        let end = self.state.lock().unwrap().end;
        self.durable.send_replace(end);
    }
}

/// One leader epoch's view of the shared log.
struct View(Arc<MemoryLog>);

impl GroupLog for View {
    fn append(&self, batch: Bytes) -> Result<BoxFuture<'static, Result<(), LogError>>, LogError> {
        let log = self.0.clone();
        let end = {
            let mut state = log.state.lock().unwrap();
            if state.failed {
                return Err(LogError::Failed("broken".into()));
            }
            if state.full {
                return Err(LogError::Full);
            }
            let mut bytes = batch.to_vec();
            let base = state.end;
            patch_base_offset_and_epoch(&mut bytes, base, 1);
            let header = BatchHeader::parse(&bytes[..BATCH_HEADER_BYTES]).unwrap();
            state.end = header.last_offset() + 1;
            state.batches.push((base, bytes.into()));
            state.end
        };
        if log.state.lock().unwrap().fast {
            log.durable.send_replace(end);
        }
        Ok(Box::pin(async move {
            let mut durable = log.durable.subscribe();
            loop {
                if log.state.lock().unwrap().failed {
                    return Err(LogError::Failed("broken".into()));
                }
                if *durable.borrow_and_update() >= end {
                    return Ok(());
                }
                durable.changed().await.unwrap();
            }
        }))
    }

    fn read(&self, from: i64, _: usize) -> BoxFuture<'_, Result<(Vec<Bytes>, i64), LogError>> {
        let durable = *self.0.durable.borrow();
        let state = self.0.state.lock().unwrap();
        let batches = state.batches.iter().filter(|(base, _)| *base >= from && *base < durable);
        let batches = batches.take(2).map(|(_, batch)| batch.clone()).collect();
        Box::pin(async move { Ok((batches, from)) })
    }

    fn batch_bytes_max(&self) -> usize {
        2 << 20
    }

    fn log_start(&self) -> i64 {
        0
    }

    fn log_end(&self) -> i64 {
        self.0.state.lock().unwrap().end
    }
}

struct TestPlacement {
    led: Mutex<Vec<(i32, i32)>>,
    log: Arc<MemoryLog>,
    open: AtomicBool,
    lease: AtomicBool,
    changed: Notify,
    view: Mutex<Arc<ClusterView>>,
}

impl TestPlacement {
    fn lead(&self, led: &[(i32, i32)]) {
        *self.led.lock().unwrap() = led.to_vec();
        self.changed.notify_one();
    }

    fn set_topic(&self, version: u64, name: &str, partitions: i32) {
        let topic = Topic { id: Uuid::from_u128(1), partitions };
        *self.view.lock().unwrap() = Arc::new(ClusterView::new(version, [(name.to_owned(), topic)]));
    }
}

impl Placement for TestPlacement {
    fn partitions(&self) -> Option<i32> {
        Some(1)
    }

    fn led(&self) -> Vec<(i32, i32)> {
        self.led.lock().unwrap().clone()
    }

    fn log(&self, _: i32, _: i32) -> Option<Arc<dyn GroupLog>> {
        let view: Arc<dyn GroupLog> = Arc::new(View(self.log.clone()));
        self.open.load(Ordering::Relaxed).then_some(view)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn topic_is(&self, _: &str, _: Uuid) -> bool {
        true
    }

    fn view(&self) -> Arc<ClusterView> {
        self.view.lock().unwrap().clone()
    }

    fn group_configs(&self, _: &str) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn retention_time_ms(&self) -> i64 {
        0
    }

    fn may_answer(&self) -> bool {
        self.lease.load(Ordering::Relaxed)
    }
}

struct Fixture {
    coordinator: GroupCoordinator,
    placement: Arc<TestPlacement>,
    log: Arc<MemoryLog>,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl Fixture {
    fn over(log: Arc<MemoryLog>) -> Self {
        let placement = Arc::new(TestPlacement {
            led: Mutex::new(vec![(0, 1)]),
            log: log.clone(),
            open: AtomicBool::new(true),
            lease: AtomicBool::new(true),
            changed: Notify::new(),
            view: Mutex::default(),
        });
        let config = GroupConfig { initial_rebalance_delay_ms: 100, ..GroupConfig::default() };
        let clock = Clock::simulated(1_700_000_000_000);
        let coordinator = GroupCoordinator::new(config, clock, placement.clone(), GroupMetrics::default());
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let (following, drain, stop) = (coordinator.clone(), draining.clone(), stopping.clone());
        tokio::spawn(async move { following.follow(drain, stop).await });
        Self { coordinator, placement, log, draining, stopping }
    }

    async fn commit(&self, offset: i64) -> Result<(), GroupError> {
        self.coordinator.commit("g", commit(offset)).await.map(|results| results[0].unwrap())
    }

    /// As a client does: again, while it is told to.
    async fn commit_at_last(&self, offset: i64) {
        loop {
            match self.commit(offset).await {
                Ok(()) => return,
                Err(GroupError::CoordinatorLoadInProgress | GroupError::NotCoordinator) => pause(50).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn committed(&self) -> Result<Option<i64>, GroupError> {
        self.coordinator.offsets("g", None, -1, |offsets| offsets.get("a", 0).map(|value| value.offset)).await
    }

    async fn joined(&self) -> String {
        loop {
            let answer = self.coordinator.join("g", join("")).await;
            match answer.result {
                Ok(joined) => {
                    assert_eq!(joined.leader, answer.member_id);
                    return answer.member_id;
                }
                Err(GroupError::CoordinatorLoadInProgress | GroupError::NotCoordinator) => pause(50).await,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn commit(offset: i64) -> CommitRequest {
    let value = OffsetValue {
        offset,
        leader_epoch: -1,
        metadata: String::new(),
        commit_timestamp_ms: 1,
        expire_timestamp_ms: None,
        topic_id: Uuid::nil(),
    };
    CommitRequest {
        speaks_epochs: true,
        member_id: String::new(),
        group_instance_id: None,
        generation: -1,
        offsets: vec![CommittedOffset { topic: "a".into(), partition: 0, value }],
        group_missing: GroupError::GroupIdNotFound,
    }
}

fn join(member_id: &str) -> JoinRequest {
    JoinRequest {
        request: RequestId(0),
        member_id: member_id.into(),
        new_member_id: Uuid::new_v4().to_string(),
        group_instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::new() }],
        requires_known_member_id: false,
        supports_skipping_assignment: true,
    }
}

fn sync(member_id: &str) -> SyncRequest {
    SyncRequest {
        request: RequestId(0),
        member_id: member_id.into(),
        group_instance_id: None,
        generation: 1,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![(member_id.into(), Bytes::from_static(b"all"))],
    }
}

#[test]
fn groups_lie_where_kafka_puts_them() {
    // Values by Java's String.hashCode.
    assert_eq!(java_hash(""), 0);
    assert_eq!(java_hash("orders-app"), 772_757_305);
    assert_eq!(java_hash("console-consumer"), -648_006_740);
    assert_eq!(java_hash("gr\u{fc}n\u{1f600}"), -1_231_497_408);
    assert_eq!(java_hash("polygenelubricants"), i32::MIN);
    assert_eq!(partition_for("orders-app", 50), 5);
    assert_eq!(partition_for("console-consumer", 50), 40);
    assert_eq!(partition_for("polygenelubricants", 50), 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_when_it_is_durable_and_not_before() {
    let fixture = Fixture::over(Arc::default());
    pause(100).await;
    let mut committing = std::pin::pin!(fixture.commit(7));
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut committing).await.is_err());
    // What is not durable is not shown either.
    let mut reading = std::pin::pin!(fixture.committed());
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut reading).await.is_err());
    fixture.log.make_durable();
    assert_eq!(committing.await, Ok(()));
    assert_eq!(reading.await, Ok(Some(7)));
}

#[tokio::test(start_paused = true)]
async fn another_coordinator_over_the_same_log_knows_what_was_answered() {
    let log = MemoryLog::fast();
    let member = {
        let fixture = Fixture::over(log.clone());
        for offset in 0..10 {
            fixture.commit_at_last(offset).await;
        }
        let member = fixture.joined().await;
        let synced = fixture.coordinator.sync("g", sync(&member)).await.unwrap();
        assert_eq!(synced.assignment, "all");
        member
    };
    let fixture = Fixture::over(log);
    while fixture.committed().await.is_err() {
        pause(10).await;
    }
    assert_eq!(fixture.committed().await, Ok(Some(9)));
    assert_eq!(fixture.coordinator.heartbeat("g", member.clone(), None, 1).await, Ok(()));
    let described = fixture.coordinator.describe("g").await.unwrap().unwrap();
    assert_eq!(described.members[0].assignment, "all");
    // Its session ends by the coordinator's own timer.
    pause(11_000).await;
    assert_eq!(fixture.coordinator.heartbeat("g", member, None, 1).await, Err(GroupError::UnknownMemberId));
}

#[tokio::test(start_paused = true)]
async fn while_loading_clients_are_told_to_come_again_and_members_are_taken_for_alive() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.placement.open.store(false, Ordering::Relaxed);
    pause(1).await;
    assert_eq!(fixture.commit(1).await, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(fixture.coordinator.join("g", join("m")).await.result, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(fixture.coordinator.sync("g", sync("m")).await, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(fixture.coordinator.heartbeat("g", "m".into(), None, 1).await, Ok(()));
    fixture.placement.open.store(true, Ordering::Relaxed);
    pause(100).await;
    assert_eq!(fixture.commit(1).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_moves_away_drops_its_parked_members_with_not_coordinator() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    let coordinator = fixture.coordinator.clone();
    let parked = tokio::spawn(async move { coordinator.join("g", join("")).await });
    pause(10).await;
    fixture.placement.lead(&[]);
    assert_eq!(parked.await.unwrap().result, Err(GroupError::NotCoordinator));
    pause(1_000).await;
    assert_eq!(fixture.commit(2).await, Err(GroupError::NotCoordinator));
    assert_eq!(fixture.coordinator.list().await, Ok(vec![]));
    // It comes back in another epoch, with what was committed.
    fixture.placement.lead(&[(0, 2)]);
    pause(1_000).await;
    assert_eq!(fixture.committed().await, Ok(Some(1)));
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_append_the_state_is_that_of_the_log() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    fixture.log.set(|state| state.fast = false);
    let coordinator = fixture.coordinator.clone();
    let committing = tokio::spawn(async move { coordinator.commit("g", commit(2)).await });
    pause(10).await;
    fixture.log.set(|state| state.failed = true);
    assert_eq!(committing.await.unwrap(), Err(GroupError::NotCoordinator));
    // The batch never made it; the log works again.
    fixture.log.set(|state| {
        state.batches.pop();
        state.end -= 1;
        (state.failed, state.fast) = (false, true);
    });
    pause(2_000).await;
    assert_eq!(fixture.committed().await, Ok(Some(1)));
    assert_eq!(fixture.commit(3).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_full_log_delays_a_commit_and_in_the_end_refuses_it() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    fixture.log.set(|state| state.full = true);
    let coordinator = fixture.coordinator.clone();
    let committing = tokio::spawn(async move { coordinator.commit("g", commit(2)).await });
    pause(1_000).await;
    fixture.log.set(|state| state.full = false);
    assert_eq!(committing.await.unwrap(), Ok(vec![Ok(())]));
    fixture.log.set(|state| state.full = true);
    assert_eq!(fixture.commit(3).await, Err(GroupError::NotCoordinator));
    fixture.log.set(|state| state.full = false);
    pause(2_000).await;
    assert_eq!(fixture.committed().await, Ok(Some(2)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_after_the_lease_has_ended() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    fixture.placement.lease.store(false, Ordering::Relaxed);
    assert_eq!(fixture.committed().await, Err(GroupError::NotCoordinator));
    fixture.placement.lease.store(true, Ordering::Relaxed);
    pause(2_000).await;
    assert_eq!(fixture.committed().await, Ok(Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_rebalance_but_commits_go_on() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    let coordinator = fixture.coordinator.clone();
    let parked = tokio::spawn(async move { coordinator.join("g", join("")).await });
    pause(10).await;
    fixture.draining.cancel();
    assert_eq!(parked.await.unwrap().result, Err(GroupError::NotCoordinator));
    assert_eq!(fixture.coordinator.join("h", join("")).await.result, Err(GroupError::NotCoordinator));
    assert_eq!(fixture.coordinator.commit("i", commit(2)).await, Ok(vec![Ok(())]));
}

#[tokio::test(start_paused = true)]
async fn many_commits_share_an_append() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(0).await;
    let before = fixture.log.state.lock().unwrap().batches.len();
    let commits: Vec<_> = (0..500)
        .map(|offset| {
            let coordinator = fixture.coordinator.clone();
            tokio::spawn(async move { coordinator.commit(&format!("g{offset}"), commit(offset)).await })
        })
        .collect();
    for commit in commits {
        assert_eq!(commit.await.unwrap(), Ok(vec![Ok(())]));
    }
    let appends = fixture.log.state.lock().unwrap().batches.len() - before;
    assert!(appends <= 20, "{appends} appends for 500 commits");
}

fn beat(member_id: &str, member_epoch: i32) -> Heartbeat {
    let joins = member_epoch == 0;
    Heartbeat {
        member_id: member_id.into(),
        member_epoch,
        rebalance_timeout_ms: joins.then_some(10_000),
        topic_names: joins.then(|| ["a".to_owned()].into()),
        owned: joins.then(|| [].into()),
        ..Heartbeat::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_in_the_queue_sees_the_topics_of_the_moment_it_runs() {
    let fixture = Fixture::over(MemoryLog::fast());
    fixture.commit_at_last(1).await;
    fixture.placement.set_topic(1, "a", 1);
    // The task waits for room in the log with the first request; the second one waits behind it.
    fixture.log.set(|state| state.full = true);
    let coordinator = fixture.coordinator.clone();
    let committing = tokio::spawn(async move { coordinator.commit("g", commit(2)).await });
    pause(10).await;
    let coordinator = fixture.coordinator.clone();
    let joining = tokio::spawn(async move { coordinator.consumer_heartbeat("c", beat("m", 0)).await });
    pause(10).await;
    fixture.placement.set_topic(2, "a", 3);
    fixture.log.set(|state| state.full = false);
    assert_eq!(committing.await.unwrap(), Ok(vec![Ok(())]));
    let answer = joining.await.unwrap().unwrap();
    assert_eq!(answer.assignment, Some([(Uuid::from_u128(1), [0, 1, 2].into())].into()));
    // Nothing is left to change.
    let again = fixture.coordinator.consumer_heartbeat("c", beat("m", answer.member_epoch)).await.unwrap();
    assert_eq!((again.member_epoch, again.assignment), (answer.member_epoch, None));
}
