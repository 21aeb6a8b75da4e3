//! Whatever happens in whatever order, these hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One thing that may happen. Clients are small numbers; what they know of their membership is kept by the model.
#[derive(Debug, Clone)]
enum Event {
    Join { client: usize, fresh: bool, version: u8, protocols: u8, patient: bool },
    Sync { client: usize, stale: bool },
    Heartbeat { client: usize },
    Leave { client: usize },
    Commit { client: usize },
    Wait { ms: u64 },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let client = 0..5usize;
    prop_oneof![
        6 => (client.clone(), prop::bool::weighted(0.3), 0..10u8, 0..4u8, prop::bool::weighted(0.7)).prop_map(
            |(client, fresh, version, protocols, patient)| Event::Join { client, fresh, version, protocols, patient }
        ),
        6 => (client.clone(), prop::bool::weighted(0.1)).prop_map(|(client, stale)| Event::Sync { client, stale }),
        2 => client.clone().prop_map(|client| Event::Heartbeat { client }),
        1 => client.clone().prop_map(|client| Event::Leave { client }),
        1 => client.prop_map(|client| Event::Commit { client }),
        4 => prop_oneof![0..500u64, 500..20_000u64].prop_map(|ms| Event::Wait { ms }),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_keeps_its_promises_under_any_sequence_of_events(events in prop::collection::vec(event(), 1..120)) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
            model.check();
        }
        model.come_to_rest();
    }

    #[test]
    fn the_same_events_give_the_same_group(events in prop::collection::vec(event(), 1..60)) {
        let (mut one, mut other) = (Model::new(), Model::new());
        for event in &events {
            one.happen(event);
            other.happen(event);
        }
        prop_assert_eq!(one.group, other.group);
    }
}

fn cases() -> u32 {
    std::env::var("GROUP_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

struct Model {
    group: Group,
    config: GroupConfig,
    now: Now,
    clients: Vec<Client>,
    next_request: u64,
    next_member: u64,
    /// Requests without an answer: the client of each, and the generation and member id it named.
    parked: BTreeMap<RequestId, (usize, i32, String)>,
    /// Who was told to lead each generation, and by which id.
    leaders: BTreeMap<i32, String>,
    /// The bytes that the leader of a generation assigned to each member.
    assigned: BTreeMap<(i32, String), Bytes>,
    generation_seen: i32,
    stored: GroupValue,
}

#[derive(Debug, Default, Clone)]
struct Client {
    member_id: String,
    generation: i32,
    leads: bool,
    members: Vec<String>,
    /// Clients 3 and 4 are static.
    instance: Option<String>,
}

impl Model {
    fn new() -> Self {
        let now = Now { monotonic_ms: 0, wall_ms: 1_700_000_000_000 };
        let group = Group::new(now);
        let instance = |at: usize| (at >= 3).then(|| format!("i{at}"));
        Self {
            stored: group.to_record(),
            group,
            config: GroupConfig { members_max: 4, ..GroupConfig::default() },
            now,
            clients: (0..5).map(|at| Client { instance: instance(at), ..Client::default() }).collect(),
            next_request: 0,
            next_member: 0,
            parked: BTreeMap::new(),
            leaders: BTreeMap::new(),
            assigned: BTreeMap::new(),
            generation_seen: 0,
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Join { client, fresh, version, protocols, patient } => {
                self.join(*client, *fresh, *version, *protocols, *patient);
            }
            Event::Sync { client, stale } => self.sync(*client, *stale),
            Event::Heartbeat { client } => {
                let client = &self.clients[*client];
                let instance = client.instance.as_deref();
                let _ = self.group.heartbeat(&client.member_id, instance, client.generation, self.now);
            }
            Event::Leave { client } => {
                let client = &self.clients[*client];
                let leaving =
                    LeavingMember { member_id: client.member_id.clone(), group_instance_id: client.instance.clone() };
                let (_, effects) = self.group.leave(&[leaving], &self.config, self.now);
                self.receive(effects);
            }
            Event::Commit { client } => {
                let client = &self.clients[*client];
                let allowed =
                    self.group.check_offset_commit(&client.member_id, client.instance.as_deref(), client.generation);
                if allowed.is_ok() {
                    assert!(client.generation == self.group.generation || self.group.state == GroupState::Empty);
                    self.group.offset_committed(&client.member_id, self.now);
                }
            }
            Event::Wait { ms } => self.wait(*ms),
            Event::Restart => self.restart(),
        }
    }

    fn join(&mut self, client: usize, fresh: bool, version: u8, protocols: u8, patient: bool) {
        if fresh {
            self.clients[client].member_id.clear();
        }
        self.next_member += 1;
        let names: &[&str] = match protocols {
            0 => &["range"],
            1 => &["range", "sticky"],
            2 => &["sticky", "range"],
            _ => &["sticky"],
        };
        let request = JoinRequest {
            request: self.request(client, -1),
            member_id: self.clients[client].member_id.clone(),
            new_member_id: format!("m{}", self.next_member),
            group_instance_id: self.clients[client].instance.clone(),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if patient { 30_000 } else { 0 },
            protocol_type: "consumer".into(),
            protocols: names.iter().map(|name| Protocol { name: (*name).into(), metadata: Bytes::new() }).collect(),
            requires_known_member_id: version >= 4,
            supports_skipping_assignment: version >= 9,
        };
        let effects = self.group.join(request, &self.config, self.now);
        self.receive(effects);
    }

    fn sync(&mut self, client: usize, stale: bool) {
        let generation = self.clients[client].generation - i32::from(stale);
        let request = self.request(client, generation);
        let client = self.clients[client].clone();
        let assign = |id: &String| (id.clone(), Bytes::from(format!("{id} in {generation}: {}", request.0)));
        let assignments: Vec<_> = if client.leads { client.members.iter().map(assign).collect() } else { Vec::new() };
        let stable_before = self.group.state == GroupState::Stable;
        let assigned = assignments.clone();
        let effects = self.group.sync(
            SyncRequest {
                request,
                member_id: client.member_id,
                group_instance_id: client.instance,
                generation,
                protocol_type: None,
                protocol_name: None,
                assignments,
            },
            &self.config,
            self.now,
        );
        if !stable_before && self.group.state == GroupState::Stable {
            self.assigned.clear();
            self.assigned.extend(assigned.into_iter().map(|(id, bytes)| ((generation, id), bytes)));
        }
        self.receive(effects);
    }

    fn wait(&mut self, ms: u64) {
        let until = self.now.monotonic_ms + ms;
        while let Some(at) = self.group.next_deadline_ms().filter(|at| *at <= until) {
            self.advance(at);
            let effects = self.group.tick(&self.config, self.now);
            self.receive(effects);
            assert!(self.group.next_deadline_ms().is_none_or(|next| next > self.now.monotonic_ms), "a tick left work");
        }
        self.advance(until);
    }

    fn advance(&mut self, to: u64) {
        let by = to.saturating_sub(self.now.monotonic_ms);
        self.now.monotonic_ms += by;
        self.now.wall_ms += by as i64;
    }

    fn restart(&mut self) {
        let key = crate::group_records::encode_group_key("g");
        let value = crate::group_records::encode_group_value(&self.stored);
        let decoded = crate::group_records::decode(key, Some(value)).unwrap();
        let crate::group_records::GroupRecord::Group { value: Some(value), .. } = decoded else { unreachable!() };
        assert_eq!(value, self.stored);
        self.group = Group::from_record(value);
        self.parked.clear();
        // Generations after the stored one were told to members but never assigned: they may be told again.
        self.leaders.retain(|generation, _| *generation <= self.group.generation);
        self.generation_seen = self.group.generation;
        let effects = self.group.loaded(&self.config, self.now);
        self.receive(effects);
    }

    fn request(&mut self, client: usize, generation: i32) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.parked.insert(id, (client, generation, self.clients[client].member_id.clone()));
        id
    }

    /// Every answer goes to a request that waits, and says what is true.
    fn receive(&mut self, effects: Effects) {
        if effects.store {
            self.stored = self.group.to_record();
        }
        for (request, answer) in effects.joins {
            let (client, ..) = self.parked.remove(&request).expect("one answer for each request");
            let client = &mut self.clients[client];
            match answer.result {
                Ok(joined) => {
                    assert_eq!(joined.generation, self.group.generation);
                    client.leads = joined.leader == answer.member_id && !joined.members.is_empty();
                    client.members = joined.members.into_iter().map(|member| member.member_id).collect();
                    client.generation = joined.generation;
                    if client.leads {
                        assert_eq!(Some(&joined.leader), self.group.leader.as_ref());
                        if !joined.skip_assignment {
                            let told = self.leaders.entry(joined.generation).or_insert(joined.leader.clone());
                            assert_eq!(*told, joined.leader, "two leaders of generation {}", joined.generation);
                        }
                    }
                    client.member_id = answer.member_id;
                }
                Err(GroupError::MemberIdRequired) => client.member_id = answer.member_id,
                Err(_) => {}
            }
        }
        for (request, answer) in effects.syncs {
            let (client, generation, member_id) = self.parked.remove(&request).expect("one answer for each request");
            let client = &self.clients[client];
            if let Ok(synced) = answer {
                let static_newcomer = client.instance.is_some();
                if let Some(bytes) = self.assigned.get(&(generation, member_id)) {
                    assert_eq!(*bytes, synced.assignment, "not the bytes that the leader sent");
                } else {
                    assert!(synced.assignment.is_empty() || static_newcomer, "an assignment from nowhere");
                }
            }
        }
    }

    fn check(&mut self) {
        let group = &self.group;
        assert!(group.generation >= self.generation_seen, "the generation went back");
        self.generation_seen = group.generation;
        assert_eq!(group.leader.is_some(), !group.members.is_empty());
        assert!(group.leader.as_ref().is_none_or(|leader| group.members.contains_key(leader)));
        let joined = group.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert!(joined <= self.config.members_max, "the group grew over its limit");
        assert!(group.state != GroupState::Empty || group.members.is_empty());
        assert!(
            !matches!(group.state, GroupState::Stable | GroupState::CompletingRebalance) || !group.members.is_empty()
        );

        let joins = group.members.values().filter_map(|member| member.awaiting_join);
        let syncs = group.members.values().filter_map(|member| member.awaiting_sync);
        let held: BTreeSet<RequestId> = joins.chain(syncs).collect();
        let waiting: BTreeSet<RequestId> = self.parked.keys().copied().collect();
        assert_eq!(held, waiting, "a parked request was lost or kept after its answer");

        for member in group.members.values() {
            assert!(member.awaiting_join.is_none() || group.state == GroupState::PreparingRebalance);
            assert!(member.awaiting_sync.is_none() || group.state == GroupState::CompletingRebalance);
            assert_eq!(group.protocol_type.as_deref(), Some(member.protocol_type.as_str()));
            if let Some(instance) = &member.group_instance_id {
                assert_eq!(group.static_members.get(instance), Some(&member.member_id));
            }
        }
        let static_members = group.members.values().filter(|member| member.group_instance_id.is_some()).count();
        assert_eq!(group.static_members.len(), static_members);
        assert!(group.pending_joins.keys().all(|id| !group.members.contains_key(id)));
        if !group.members.is_empty() {
            assert!(!group.select_protocol().is_empty());
        }
        // Whoever waits is waited for by some timer.
        let members = group.members.values().filter_map(|member| member.session_deadline_ms);
        let phases = [group.join_timer.map(JoinTimer::at_ms), group.sync_deadline_ms].into_iter().flatten();
        let next = members.chain(group.pending_joins.values().copied()).chain(phases).min();
        assert_eq!(group.next_deadline_ms(), next, "the index of deadlines differs from the deadlines");
        let pending: usize = group.pending_joins.keys().map(|id| 2 * id.len() + 128).sum();
        let members: usize = group.members.values().map(Member::bytes).sum();
        assert_eq!(group.bytes(), 512 + members + pending, "the sum of sizes differs from the sizes");
        let idle = group.state == GroupState::Empty && group.pending_joins.is_empty();
        assert!(idle || group.next_deadline_ms().is_some(), "nothing will ever happen to this group again");
    }

    /// Left alone, a group answers everybody and empties.
    fn come_to_rest(&mut self) {
        self.wait(3_600_000);
        assert!(self.parked.is_empty(), "never answered: {:?}", self.parked);
        assert!(self.group.is_vacant(), "left over: {:?}", self.group);
    }
}

#[test]
fn a_group_gives_out_ids_to_so_many_newcomers_and_then_waits_for_them() {
    let mut model = Model::new();
    for _ in 0..join::PENDING_JOINS_MAX {
        model.join(0, true, 4, 0, true);
        assert_ne!(model.clients[0].member_id, "");
    }
    model.join(0, true, 4, 0, true);
    assert_eq!(model.clients[0].member_id, "", "one too many");
    assert_eq!(model.group.pending_joins.len(), join::PENDING_JOINS_MAX);
    model.check();
    // Their ids lapse with the session timeout that they named.
    model.wait(10_000);
    assert!(model.group.is_vacant());
    assert_eq!(model.group.bytes(), Group::new(model.now).bytes());
}
