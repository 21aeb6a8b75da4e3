use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::consumer_group::{Heartbeat, Topic};
use crate::group::{GroupState, Protocol, RequestId};

const DAY_MS: i64 = 24 * 3_600_000;

fn now(ms: u64) -> Now {
    Now { monotonic_ms: ms, wall_ms: 1_700_000_000_000 + ms as i64 }
}

fn shard() -> GroupShard {
    GroupShard::new(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() })
}

fn brokers_config(_: &str) -> ConsumerConfig {
    ConsumerConfig::default()
}

fn among(view: &ClusterView) -> Surroundings<'_> {
    Surroundings { view, config_of: &brokers_config }
}

fn committed(topic: &str, partition: i32, offset: i64) -> CommittedOffset {
    let value = OffsetValue {
        offset,
        leader_epoch: 3,
        metadata: "where I was".into(),
        commit_timestamp_ms: now(0).wall_ms,
        expire_timestamp_ms: None,
        topic_id: Uuid::from_u128(7),
    };
    CommittedOffset { topic: topic.into(), partition, value }
}

fn commit_as(member_id: &str, generation: i32, offsets: Vec<CommittedOffset>) -> CommitRequest {
    CommitRequest {
        speaks_epochs: true,
        member_id: member_id.into(),
        group_instance_id: None,
        generation,
        offsets,
        group_missing: GroupError::IllegalGeneration,
    }
}

fn join_as(member_id: &str) -> JoinRequest {
    JoinRequest {
        request: RequestId(1),
        member_id: String::new(),
        new_member_id: member_id.into(),
        group_instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "connect".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"mine") }],
        requires_known_member_id: false,
        supports_skipping_assignment: true,
    }
}

/// A stable group of one member, `m`, in generation 1.
fn with_member(shard: &mut GroupShard, group: &str) -> Vec<LogRecord> {
    let mut output = Output::default();
    shard.join(group, join_as("m"), among(&ClusterView::default()), now(0), &mut output);
    shard.tick(&ClusterView::default(), now(0), &mut output);
    let sync = SyncRequest {
        request: RequestId(2),
        member_id: "m".into(),
        group_instance_id: None,
        generation: 1,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![("m".into(), Bytes::from_static(b"all of it"))],
    };
    shard.sync(group, sync, among(&ClusterView::default()), now(0), &mut output);
    assert_eq!((output.joins.len(), output.syncs.len()), (1, 1));
    output.records
}

fn reload(records: &[LogRecord], at: Now) -> GroupShard {
    let mut shard = shard();
    for record in records {
        shard.replay(group_records::decode(record.key.clone(), record.value.clone()).unwrap(), at);
    }
    shard.loaded(among(&ClusterView::default()), at, &mut Output::default());
    shard
}

#[test]
fn a_commit_is_read_back_as_it_was_made_and_survives_a_reload() {
    let (mut shard, mut output) = (shard(), Output::default());
    let offsets = vec![committed("a", 0, 5), committed("a", 1, 6), committed("b", 0, 7)];
    let results = shard.commit("g", commit_as("", -1, offsets.clone()), now(0), &mut output).unwrap();
    assert_eq!(results, [Ok(()), Ok(()), Ok(())]);
    shard.commit("g", commit_as("", -1, vec![committed("a", 1, 60)]), now(1), &mut output).unwrap();

    let reloaded = reload(&output.records, now(2));
    for shard in [&shard, &reloaded] {
        let held = shard.offsets("g").unwrap();
        assert_eq!(held.get("a", 0), Some(&offsets[0].value));
        assert_eq!(held.get("a", 1).unwrap().offset, 60);
        assert_eq!(held.iter().count(), 3);
        assert!(held.get("a", 2).is_none());
    }
    assert_eq!(shard.bytes(), reloaded.bytes());
}

#[test]
fn members_commit_in_their_generation_and_strangers_do_not() {
    let (mut shard, mut output) = (shard(), Output::default());
    let strangers = commit_as("x", 4, vec![committed("a", 0, 1)]);
    assert_eq!(shard.commit("g", strangers, now(0), &mut output), Err(GroupError::IllegalGeneration));
    with_member(&mut shard, "g");
    let at_generation = |generation| commit_as("m", generation, vec![committed("a", 0, 1)]);
    assert_eq!(shard.commit("g", at_generation(2), now(0), &mut output), Err(GroupError::IllegalGeneration));
    assert_eq!(shard.commit("g", commit_as("", -1, vec![]), now(0), &mut output), Err(GroupError::UnknownMemberId));
    assert!(output.records.is_empty());
    assert_eq!(shard.commit("g", at_generation(1), now(0), &mut output), Ok(vec![Ok(())]));
    assert_eq!(output.records.len(), 1);
}

#[test]
fn metadata_that_is_too_long_costs_that_partition_only() {
    let (mut shard, mut output) = (shard(), Output::default());
    let mut long = committed("a", 0, 1);
    long.value.metadata = "x".repeat(4_097);
    let results = shard.commit("g", commit_as("", -1, vec![long, committed("a", 1, 2)]), now(0), &mut output).unwrap();
    assert_eq!(results, [Err(GroupError::OffsetMetadataTooLarge), Ok(())]);
    assert_eq!(output.records.len(), 1);

    // A limit in UTF-16 units may allow more bytes than the record of an offset with its own expiry can hold.
    let mut shard = GroupShard::new(GroupConfig { offset_metadata_bytes_max: 20_000, ..GroupConfig::default() });
    let mut long = committed("a", 0, 1);
    long.value.metadata = "\u{fffd}".repeat(11_000);
    long.value.expire_timestamp_ms = Some(now(1).wall_ms);
    let results = shard.commit("g", commit_as("", -1, vec![long]), now(0), &mut output).unwrap();
    assert_eq!(results, [Err(GroupError::OffsetMetadataTooLarge)]);
}

#[test]
fn a_stable_group_is_described_with_the_very_bytes_and_reloaded_whole() {
    let mut shard = shard();
    let records = with_member(&mut shard, "g");
    let described = shard.describe("g").unwrap();
    assert_eq!((described.state, described.protocol_type.as_str()), (GroupState::Stable, "connect"));
    assert_eq!(described.members[0].metadata, "mine");
    assert_eq!(described.members[0].assignment, "all of it");
    assert_eq!(reload(&records, now(5)).describe("g").unwrap(), described);
    assert_eq!(shard.describe("h"), None);
    let listed =
        ListedGroup { group: "g".into(), protocol_type: "connect".into(), state: "Stable", kind: GroupKind::Classic };
    assert_eq!(shard.list(), [listed]);
}

#[test]
fn a_group_that_nobody_entered_is_forgotten() {
    let (mut shard, mut output) = (shard(), Output::default());
    let mut request = join_as("m");
    request.protocols.clear();
    shard.join("g", request, among(&ClusterView::default()), now(0), &mut output);
    assert_eq!(output.joins[0].1.result, Err(GroupError::InconsistentGroupProtocol));
    let mut request = join_as("m");
    request.requires_known_member_id = true;
    shard.join("g", request, among(&ClusterView::default()), now(0), &mut output);
    assert_eq!(shard.group_count(), 1);
    shard.tick(&ClusterView::default(), now(10_000), &mut output);
    assert_eq!((shard.group_count(), shard.bytes(), shard.next_deadline_ms()), (0, 0, None));
    assert!(output.records.is_empty());
}

#[test]
fn a_known_member_of_an_unknown_group_starts_over() {
    let (mut shard, mut output) = (shard(), Output::default());
    let request = JoinRequest { member_id: "m".into(), ..join_as("n") };
    shard.join("g", request, among(&ClusterView::default()), now(0), &mut output);
    assert_eq!(output.joins[0].1, JoinAnswer { member_id: "m".into(), result: Err(GroupError::UnknownMemberId) });
    assert_eq!(
        shard.heartbeat("g", "m", None, 1, among(&ClusterView::default()), now(0)),
        Err(GroupError::UnknownMemberId)
    );
    let leaving = LeavingMember { member_id: "m".into(), group_instance_id: None };
    assert_eq!(
        shard.leave("g", &[leaving], &ClusterView::default(), now(0), &mut output),
        [Err(GroupError::UnknownMemberId)]
    );
}

#[test]
fn only_an_empty_group_is_deleted_and_its_tombstones_end_it_after_a_reload_too() {
    let mut shard = shard();
    let mut output = Output { records: with_member(&mut shard, "g"), ..Output::default() };
    shard.commit("g", commit_as("m", 1, vec![committed("a", 0, 1)]), now(0), &mut output).unwrap();
    assert_eq!(shard.delete_group("g", &mut output), Err(GroupError::NonEmptyGroup));
    let leaving = LeavingMember { member_id: "m".into(), group_instance_id: None };
    shard.leave("g", &[leaving], &ClusterView::default(), now(0), &mut output);
    assert_eq!(shard.delete_group("g", &mut output), Ok(()));
    assert_eq!(shard.delete_group("g", &mut output), Err(GroupError::GroupIdNotFound));
    assert_eq!((shard.group_count(), shard.bytes()), (0, 0));
    let reloaded = reload(&output.records, now(1));
    assert_eq!((reloaded.group_count(), reloaded.bytes()), (0, 0));
}

#[test]
fn offsets_are_deleted_one_by_one_unless_the_group_reads_the_topic() {
    let (mut shard, mut output) = (shard(), Output::default());
    let offsets = vec![committed("a", 0, 1), committed("a", 1, 1)];
    shard.commit("g", commit_as("", -1, offsets), now(0), &mut output).unwrap();
    output.records.clear();
    let asked = [("a".to_owned(), 0), ("a".to_owned(), 9)];
    assert_eq!(shard.delete_offsets("g", &asked, &mut output), Ok(vec![Ok(()), Ok(())]));
    assert_eq!(output.records.len(), 1);
    assert_eq!(shard.offsets("g").unwrap().iter().count(), 1);
    assert_eq!(shard.delete_offsets("h", &asked, &mut output), Err(GroupError::GroupIdNotFound));
    with_member(&mut shard, "busy");
    assert_eq!(shard.delete_offsets("busy", &asked, &mut output), Err(GroupError::NonEmptyGroup));
}

#[test]
fn expiry_deletes_what_was_kept_long_enough_and_what_has_no_topic_any_more() {
    let mut shard = shard();
    let mut output = Output { records: with_member(&mut shard, "live"), ..Output::default() };
    shard.commit("live", commit_as("m", 1, vec![committed("a", 0, 1)]), now(0), &mut output).unwrap();
    shard.commit("idle", commit_as("", -1, vec![committed("a", 0, 1)]), now(0), &mut output).unwrap();
    shard.commit("other", commit_as("", -1, vec![committed("deleted", 0, 1)]), now(0), &mut output).unwrap();
    let exists = |topic: &str, id: Uuid| topic == "a" && id == Uuid::from_u128(7);

    shard.expire(now(0).wall_ms + 7 * DAY_MS - 1, exists, &mut output);
    assert!(shard.offsets("other").is_none());
    assert_eq!(shard.group_count(), 2);
    shard.expire(now(0).wall_ms + 7 * DAY_MS, exists, &mut output);
    assert_eq!(shard.group_count(), 1);
    assert_eq!(shard.offsets("live").unwrap().iter().count(), 1);

    let reloaded = reload(&output.records, now(1));
    assert_eq!(reloaded.group_count(), 1);
    assert_eq!(reloaded.offsets("live"), shard.offsets("live"));
}

#[test]
fn memory_is_bounded() {
    let config = GroupConfig { bytes_max: 10_000, ..GroupConfig::default() };
    let (mut shard, mut output) = (GroupShard::new(config), Output::default());
    let mut refused = None;
    for group in 0..1_000 {
        let request = commit_as("", -1, vec![committed("a", 0, 1)]);
        if let Err(error) = shard.commit(&format!("g{group}"), request, now(0), &mut output) {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused, Some(GroupError::MemoryFull));
    assert!(shard.bytes() < 12_000);
    shard.join("g", join_as("m"), among(&ClusterView::default()), now(0), &mut output);
    assert_eq!(output.joins[0].1.result, Err(GroupError::MemoryFull));
}

#[test]
fn members_that_are_there_rejoin_when_memory_is_full_and_newcomers_do_not() {
    let config = GroupConfig { bytes_max: 40_000, initial_rebalance_delay_ms: 0, ..GroupConfig::default() };
    let (mut shard, mut output) = (GroupShard::new(config.clone()), Output::default());
    let view = ClusterView::default();
    with_member(&mut shard, "classic");
    let beat = |member: &str, topics: usize| Heartbeat {
        member_id: member.into(),
        rebalance_timeout_ms: Some(10_000),
        topic_names: Some((0..topics).map(|topic| format!("topic-{topic}")).collect()),
        owned: Some([].into()),
        ..Heartbeat::default()
    };
    shard.consumer_heartbeat("consumer", &beat("m", 2), among(&view), now(0), &mut output).unwrap();
    let mut filler = 0;
    let mut fill = |shard: &mut GroupShard| {
        filler += 1;
        let request = commit_as("", -1, vec![committed("a", 0, 1)]);
        shard.commit(&format!("filler-{filler}"), request, now(0), &mut Output::default()).is_ok()
    };
    while fill(&mut shard) {}

    let rejoin = |metadata: usize| JoinRequest {
        member_id: "m".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: vec![1; metadata].into() }],
        ..join_as("unused")
    };
    let answer = |shard: &mut GroupShard, request: JoinRequest| {
        let mut output = Output::default();
        shard.join("classic", request, among(&view), now(0), &mut output);
        output.joins.remove(0).1.result.map(|joined| joined.generation)
    };
    let refused = Err(GroupError::MemoryFull);
    assert_eq!(answer(&mut shard, join_as("n")), refused);
    assert_eq!(answer(&mut shard, rejoin(4)), Ok(2));
    // There is a reserve for those who have more to say than before; it is not without end.
    assert_eq!(answer(&mut shard, rejoin(1_000)), Ok(3));
    assert_eq!(answer(&mut shard, rejoin(10_000)), refused);
    assert_eq!(answer(&mut shard, rejoin(1_000)), Ok(3));

    let beaten = |shard: &mut GroupShard, request: Heartbeat| {
        let answer = shard.consumer_heartbeat("consumer", &request, among(&view), now(0), &mut Output::default());
        answer.map(|_| ())
    };
    assert_eq!(beaten(&mut shard, beat("n", 1)), refused.map(|_| ()));
    assert_eq!(beaten(&mut shard, beat("m", 2)), Ok(()));
    assert_eq!(beaten(&mut shard, beat("m", 5)), Ok(()));
    assert_eq!(beaten(&mut shard, beat("m", 100)), refused.map(|_| ()));
    assert!(shard.bytes() < config.bytes_max);

    // So may offsets that are there.
    let longer = |by: usize| {
        let mut offset = committed("a", 0, 2);
        offset.value.metadata.push_str(&"x".repeat(by));
        commit_as("", -1, vec![offset])
    };
    let commit = |shard: &mut GroupShard, by: usize| {
        shard.commit("filler-1", longer(by), now(0), &mut Output::default()).map(|results| results[0])
    };
    assert_eq!(commit(&mut shard, 0), Ok(Ok(())));
    assert_eq!(commit(&mut shard, 100), Ok(Ok(())));
    shard.set_bytes_max(0);
    assert_eq!(commit(&mut shard, 101), Err(GroupError::MemoryFull));
    assert_eq!(commit(&mut shard, 100), Ok(Ok(())));
}

/// ConsumerProtocolSubscription version 0 for a topic, with 1 000 bytes for the assignor.
fn subscription() -> Bytes {
    let parts: [&[u8]; 6] = [&[0, 0], &[0, 0, 0, 1], &[0, 1], b"t", &[0, 0, 3, 232], &[7; 1_000]];
    parts.concat().into()
}

#[test]
fn a_change_of_protocol_that_the_log_would_not_take_whole_does_not_happen() {
    let (mut shard, mut output) = (shard(), Output::default());
    let view = ClusterView::default();
    for member in 0..20 {
        let request = JoinRequest {
            request: RequestId(member),
            protocol_type: "consumer".into(),
            protocols: vec![Protocol { name: "range".into(), metadata: subscription() }],
            ..join_as(&format!("m{member}"))
        };
        shard.join("g", request, among(&view), now(0), &mut output);
    }
    shard.tick(&view, now(0), &mut output);
    let leader = output.joins[0].1.result.as_ref().unwrap().leader.clone();
    let sync = SyncRequest {
        request: RequestId(100),
        member_id: leader,
        group_instance_id: None,
        generation: 1,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![],
    };
    shard.sync("g", sync, among(&view), now(0), &mut output);
    assert_eq!(shard.describe("g").unwrap().state, GroupState::Stable);

    let beat = |epoch: i32| Heartbeat {
        member_id: "new".into(),
        member_epoch: epoch,
        rebalance_timeout_ms: Some(10_000),
        topic_names: Some(["t".to_owned()].into()),
        owned: Some([].into()),
        ..Heartbeat::default()
    };
    let event = |shard: &mut GroupShard, epoch: i32| {
        let mut output = Output::default();
        let answer = shard.consumer_heartbeat("g", &beat(epoch), among(&view), now(0), &mut output);
        (answer.map(|_| ()), shard.list()[0].kind, event_bytes(&output.records))
    };
    shard.set_event_bytes_max(20_000);
    let nothing = event_bytes([]);
    assert_eq!(event(&mut shard, 0), (Err(GroupError::GroupIdNotFound), GroupKind::Classic, nothing));
    assert_eq!(shard.describe("g").unwrap().state, GroupState::Stable);
    shard.set_event_bytes_max(100_000);
    let (answer, kind, bytes) = event(&mut shard, 0);
    assert_eq!((answer, kind), (Ok(()), GroupKind::Consumer));
    assert!((20_000..100_000).contains(&bytes), "{bytes}");

    // Back again it is the same.
    shard.set_event_bytes_max(20_000);
    let (answer, kind, bytes) = event(&mut shard, -1);
    assert_eq!((answer, kind), (Ok(()), GroupKind::Consumer));
    assert!(bytes < 20_000, "{bytes}");
    shard.set_event_bytes_max(100_000);
    assert_eq!(event(&mut shard, 0).1, GroupKind::Consumer);
    let (answer, kind, bytes) = event(&mut shard, -1);
    assert_eq!((answer, kind), (Ok(()), GroupKind::Classic));
    assert!((20_000..100_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_a_group_sets_for_itself_holds_after_a_load_and_for_its_classic_members() {
    let view = ClusterView::new(1, [("t".to_owned(), Topic { id: Uuid::from_u128(7), partitions: 2 })]);
    let own = |_: &str| {
        let (session, interval) = ("consumer.session.timeout.ms", "consumer.assignment.interval.ms");
        let set = [(session.to_owned(), "60000".to_owned()), (interval.to_owned(), "15000".to_owned())];
        ConsumerConfig::default().with_overrides(&set.into())
    };
    let cluster = Surroundings { view: &view, config_of: &own };
    let (mut shard, mut output) = (shard(), Output::default());
    let beat = Heartbeat {
        member_id: "m".into(),
        rebalance_timeout_ms: Some(10_000),
        topic_names: Some(["t".to_owned()].into()),
        owned: Some([].into()),
        ..Heartbeat::default()
    };
    shard.consumer_heartbeat("g", &beat, cluster, now(0), &mut output).unwrap();
    assert_eq!((shard.next_deadline_ms(), output.assignments), (Some(60_000), 1));
    let log: Vec<LogRecord> = output.records.clone();

    let join = JoinRequest {
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: subscription() }],
        ..join_as("classic")
    };
    shard.join("g", join, cluster, now(2_000), &mut output);
    assert!(output.joins[0].1.result.is_ok());
    assert_eq!(output.assignments, 1, "the next one is due 15 s after the first");

    let mut reloaded = GroupShard::new(GroupConfig::default());
    for record in log {
        reloaded.replay(group_records::decode(record.key, record.value).unwrap(), now(5_000));
    }
    reloaded.loaded(cluster, now(5_000), &mut output);
    assert_eq!(reloaded.next_deadline_ms(), Some(65_000));
}

/// What may happen to one of three groups.
#[derive(Debug, Clone)]
enum Event {
    Commit { partition: i32 },
    CommitAsMember { partition: i32 },
    DeleteOffset { partition: i32 },
    Form,
    Leave,
    DeleteGroup,
    Expire { days: i64 },
}

fn event() -> impl Strategy<Value = (usize, Event)> {
    let partition = 0..3i32;
    let event = prop_oneof![
        3 => partition.clone().prop_map(|partition| Event::Commit { partition }),
        2 => partition.clone().prop_map(|partition| Event::CommitAsMember { partition }),
        1 => partition.prop_map(|partition| Event::DeleteOffset { partition }),
        2 => Just(Event::Form),
        1 => Just(Event::Leave),
        1 => Just(Event::DeleteGroup),
        1 => (0..10i64).prop_map(|days| Event::Expire { days }),
    ];
    (0..3usize, event)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_alone_gives_the_offsets_and_the_settled_groups(events in prop::collection::vec(event(), 1..40)) {
        let (mut shard, mut records, mut clock_ms) = (shard(), Vec::new(), 0);
        for (at, (group, event)) in events.into_iter().enumerate() {
            let (mut output, group) = (Output::default(), ["a", "b", "c"][group]);
            clock_ms += 1;
            let offsets = |partition| vec![committed("t", partition, at as i64)];
            match event {
                Event::Commit { partition } => {
                    let _ = shard.commit(group, commit_as("", -1, offsets(partition)), now(clock_ms), &mut output);
                }
                Event::CommitAsMember { partition } => {
                    let generation = 1 + i32::try_from(at).unwrap() % 3;
                    let request = commit_as("m", generation, offsets(partition));
                    let _ = shard.commit(group, request, now(clock_ms), &mut output);
                }
                Event::DeleteOffset { partition } => {
                    let _ = shard.delete_offsets(group, &[("t".to_owned(), partition)], &mut output);
                }
                Event::Form => form(&mut shard, group, clock_ms, &mut output),
                Event::Leave => {
                    let leaving = LeavingMember { member_id: "m".into(), group_instance_id: None };
                    shard.leave(group, &[leaving], &ClusterView::default(), now(clock_ms), &mut output);
                }
                Event::DeleteGroup => drop(shard.delete_group(group, &mut output)),
                Event::Expire { days } => shard.expire(now(0).wall_ms + days * DAY_MS, |_, _| true, &mut output),
            }
            records.extend(output.records);
            let reloaded = reload(&records, now(clock_ms));
            for group in ["a", "b", "c"] {
                let none = GroupOffsets::default();
                let offsets = |shard: &GroupShard| shard.offsets(group).unwrap_or(&none).clone();
                prop_assert_eq!(offsets(&reloaded), offsets(&shard));
                let settled = |shard: &GroupShard| {
                    shard.describe(group).filter(|described| described.state == GroupState::Stable)
                };
                prop_assert_eq!(settled(&reloaded), settled(&shard));
            }
        }
    }
}

/// A group of one member, if nobody is in it yet.
fn form(shard: &mut GroupShard, group: &str, ms: u64, output: &mut Output) {
    if shard.describe(group).is_some_and(|described| !described.members.is_empty()) {
        return;
    }
    shard.join(
        group,
        JoinRequest { session_timeout_ms: 1_000_000, ..join_as("m") },
        among(&ClusterView::default()),
        now(ms),
        output,
    );
    shard.tick(&ClusterView::default(), now(ms), output);
    let Ok(joined) = &output.joins.last().expect("the delay is over").1.result else { panic!("refused") };
    let sync = SyncRequest {
        request: RequestId(2),
        member_id: "m".into(),
        group_instance_id: None,
        generation: joined.generation,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![("m".into(), Bytes::from(format!("generation {}", joined.generation)))],
    };
    shard.sync(group, sync, among(&ClusterView::default()), now(ms), output);
}
