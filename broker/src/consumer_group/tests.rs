//! Whatever happens in whatever order, these hold.

use proptest::prelude::*;

use super::*;
use crate::group::Now;
use crate::group_records::consumer::{decode_record, encode_key, encode_value};

/// One thing that may happen. Clients are small numbers; what they believe is kept by the model.
#[derive(Debug, Clone)]
enum Event {
    Beat {
        client: usize,
        silent_about_owned: bool,
    },
    /// The answer to the last heartbeat never came.
    LoseAnswer {
        client: usize,
    },
    Rejoin {
        client: usize,
    },
    Leave {
        client: usize,
        for_a_while: bool,
    },
    Subscribe {
        client: usize,
        topics: u8,
    },
    Topics {
        topic: usize,
        partitions: i32,
    },
    Wait {
        ms: u64,
    },
    Restart,
}

const CLIENTS: usize = 5;
const TOPICS: [&str; 3] = ["a-1", "a-2", "b-1"];

fn event() -> impl Strategy<Value = Event> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => (client.clone(), prop::bool::weighted(0.2))
            .prop_map(|(client, silent_about_owned)| Event::Beat { client, silent_about_owned }),
        2 => client.clone().prop_map(|client| Event::LoseAnswer { client }),
        2 => client.clone().prop_map(|client| Event::Rejoin { client }),
        2 => (client.clone(), any::<bool>()).prop_map(|(client, for_a_while)| Event::Leave { client, for_a_while }),
        2 => (client, 0..6u8).prop_map(|(client, topics)| Event::Subscribe { client, topics }),
        1 => (0..TOPICS.len(), 0..6i32).prop_map(|(topic, partitions)| Event::Topics { topic, partitions }),
        2 => prop_oneof![0..2_000u64, 2_000..30_000u64].prop_map(|ms| Event::Wait { ms }),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_consumer_group_keeps_its_promises_under_any_sequence_of_events(events in prop::collection::vec(event(), 1..100)) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
            model.check();
        }
        model.come_to_rest();
    }

    #[test]
    fn the_same_events_give_the_same_consumer_group(events in prop::collection::vec(event(), 1..60)) {
        let (mut one, mut other) = (Model::new(), Model::new());
        for event in &events {
            one.happen(event);
            other.happen(event);
        }
        prop_assert_eq!(one.group, other.group);
    }
}

#[test]
fn heartbeats_are_quiet_again_after_the_last_regular_expression_has_gone_and_topics_have_changed() {
    let mut model = Model::new();
    model.happen(&Event::Subscribe { client: 0, topics: 3 });
    model.happen(&Event::Beat { client: 0, silent_about_owned: false });
    assert!(model.group.resolved_version.is_some());
    model.happen(&Event::Subscribe { client: 0, topics: 0 });
    model.happen(&Event::Beat { client: 0, silent_about_owned: false });
    model.happen(&Event::Topics { topic: 2, partitions: 5 });
    model.happen(&Event::Wait { ms: 2_000 });
    for _ in 0..2 {
        model.happen(&Event::Beat { client: 0, silent_about_owned: false });
    }
    let (member_id, member_epoch) = (model.id(0), model.clients[0].epoch);
    let beat = Heartbeat { member_id, member_epoch, client_id: "client".into(), ..Heartbeat::default() };
    assert!(model.group.is_quiet(&beat, &model.view));
}

fn cases() -> u32 {
    std::env::var("GROUP_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

#[derive(Debug, Clone, Default)]
struct Client {
    epoch: i32,
    owned: Assignment,
    names: BTreeSet<String>,
    regex: String,
    /// It has to say what it subscribes to.
    unsaid: bool,
    /// Its member id changes with each life.
    life: usize,
    instance: Option<String>,
}

struct Model {
    group: ConsumerGroup,
    config: ConsumerConfig,
    view: ClusterView,
    topics: BTreeMap<String, Topic>,
    version: u64,
    now: Now,
    clients: Vec<Client>,
    log: Vec<ConsumerRecord>,
    epoch_seen: i32,
}

impl Model {
    fn new() -> Self {
        let topics: BTreeMap<String, Topic> = (TOPICS.iter().enumerate())
            .map(|(at, name)| ((*name).to_owned(), Topic { id: Uuid::from_u128(at as u128 + 1), partitions: 3 }))
            .collect();
        let client = |at: usize| Client {
            names: ["a-1".to_owned()].into(),
            unsaid: true,
            instance: (at >= 3).then(|| format!("i{at}")),
            ..Client::default()
        };
        Self {
            group: ConsumerGroup::default(),
            config: ConsumerConfig { session_timeout_ms: 10_000, members_max: 4, ..ConsumerConfig::default() },
            view: ClusterView::new(1, topics.clone()),
            topics,
            version: 1,
            now: Now { monotonic_ms: 0, wall_ms: 1_700_000_000_000 },
            clients: (0..CLIENTS).map(client).collect(),
            log: Vec::new(),
            epoch_seen: 0,
        }
    }

    fn id(&self, client: usize) -> String {
        format!("m{client}-{}", self.clients[client].life)
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Beat { client, silent_about_owned } => self.beat(*client, *silent_about_owned, false),
            Event::LoseAnswer { client } => self.beat(*client, false, true),
            Event::Rejoin { client } => {
                let client = &mut self.clients[*client];
                client.epoch = JOIN_EPOCH;
                client.owned.clear();
                client.life += usize::from(client.instance.is_some());
            }
            Event::Leave { client, for_a_while } => self.leave(*client, *for_a_while),
            Event::Subscribe { client, topics } => {
                let client = &mut self.clients[*client];
                client.names = TOPICS.iter().take(usize::from(topics % 3) + 1).map(|name| (*name).to_owned()).collect();
                client.regex = if *topics >= 3 { "a-.*".to_owned() } else { String::new() };
                client.unsaid = true;
            }
            Event::Topics { topic, partitions } => {
                let name = TOPICS[*topic];
                let before = self.topics.get(name).copied();
                match (before, *partitions) {
                    (_, 0) => drop(self.topics.remove(name)),
                    (Some(topic), more) => {
                        let partitions = topic.partitions.max(more);
                        self.topics.insert(name.to_owned(), Topic { partitions, ..topic });
                    }
                    (None, partitions) => {
                        let id = Uuid::from_u128(u128::from(self.version) + 100);
                        self.topics.insert(name.to_owned(), Topic { id, partitions });
                    }
                }
                self.version += 1;
                self.view = ClusterView::new(self.version, self.topics.clone());
            }
            Event::Wait { ms } => self.wait(*ms),
            Event::Restart => self.restart(),
        }
    }

    fn beat(&mut self, at: usize, silent_about_owned: bool, lose_answer: bool) {
        let id = self.id(at);
        let client = &self.clients[at];
        let joins = client.epoch == JOIN_EPOCH;
        let says = joins || client.unsaid;
        let request = Heartbeat {
            member_id: id,
            member_epoch: client.epoch,
            instance_id: client.instance.clone(),
            rebalance_timeout_ms: says.then_some(20_000),
            topic_names: says.then(|| client.names.clone()),
            topic_regex: says.then(|| client.regex.clone()),
            owned: (says || !silent_about_owned).then(|| client.owned.clone()),
            client_id: "client".into(),
            ..Heartbeat::default()
        };
        let before = self.group.clone();
        if let Err(error) = self.group.check_heartbeat(&request, &self.config) {
            assert_eq!(self.group, before);
            let client = &mut self.clients[at];
            match error {
                GroupError::GroupMaxSizeReached | GroupError::UnreleasedInstanceId => {}
                GroupError::FencedInstanceId | GroupError::FencedMemberEpoch | GroupError::UnknownMemberId => {
                    client.epoch = JOIN_EPOCH;
                    client.owned.clear();
                    client.unsaid = true;
                    client.life += usize::from(client.instance.is_some());
                }
                other => panic!("{other:?}"),
            }
            return;
        }
        let mut records = Vec::new();
        let answer = self.group.heartbeat(&request, &self.view, &self.config, self.now, &mut records);
        self.log.extend(records);
        assert!(answer.member_epoch > 0);
        if lose_answer {
            // A client without an answer says everything next time, and so is told everything.
            self.clients[at].unsaid = true;
            return;
        }
        let client = &mut self.clients[at];
        client.epoch = answer.member_epoch;
        client.unsaid = false;
        if let Some(assignment) = answer.assignment {
            client.owned = assignment;
        }
    }

    fn leave(&mut self, at: usize, for_a_while: bool) {
        let id = self.id(at);
        let client = &mut self.clients[at];
        let epoch = if for_a_while && client.instance.is_some() { LEAVE_STATIC_EPOCH } else { LEAVE_EPOCH };
        let mut records = Vec::new();
        let _ = self.group.leave(&id, client.instance.as_deref(), epoch, &self.view, &mut records);
        self.log.extend(records);
        client.epoch = JOIN_EPOCH;
        client.owned.clear();
        client.unsaid = true;
        client.life += 1;
    }

    fn wait(&mut self, ms: u64) {
        let until = self.now.monotonic_ms + ms;
        while let Some(at) = self.group.next_deadline_ms().filter(|at| *at <= until) {
            self.advance(at);
            let mut records = Vec::new();
            self.group.tick(&self.view, self.now, &mut records);
            self.log.extend(records);
            assert!(self.group.next_deadline_ms().is_none_or(|next| next > self.now.monotonic_ms), "a tick left work");
        }
        self.advance(until);
    }

    fn advance(&mut self, to: u64) {
        let by = to.saturating_sub(self.now.monotonic_ms);
        self.now.monotonic_ms += by;
        self.now.wall_ms += by as i64;
    }

    /// Through the bytes of the records; what the log describes is what there was.
    fn restart(&mut self) {
        let mut loaded = ConsumerGroup::default();
        for record in &self.log {
            let read = decode_record(encode_key("g", record), encode_value(record));
            assert_eq!(&read, record);
            loaded.replay(read);
        }
        loaded.loaded(&self.config, self.now);
        let described = |group: &ConsumerGroup| {
            let members: Vec<_> =
                group.members.values().map(|one| (one.metadata.clone(), one.current.clone())).collect();
            let targets: Vec<_> = group.targets.iter().map(|(id, one)| (id.clone(), one.clone())).collect();
            (group.epoch, group.target_epoch, members, targets, group.regexes.clone(), group.owners.clone())
        };
        assert_eq!(described(&loaded), described(&self.group));
        assert_eq!(loaded.bytes, self.group.bytes);
        self.group = loaded;
    }

    fn check(&mut self) {
        let group = &self.group;
        assert!(group.epoch >= self.epoch_seen && group.target_epoch <= group.epoch, "an epoch went back");
        self.epoch_seen = group.epoch;
        assert!(group.members.len() <= self.config.members_max);
        assert!(group.owners.values().all(|count| *count == 1), "a partition has two owners");
        for member in group.members.values() {
            assert!(member.current.epoch <= group.target_epoch, "{member:?} is ahead of its group");
            assert!(member.session_deadline_ms.is_some());
            assert!(member.timer_ms == member.next_deadline_ms());
            let revokes = member.current.state == MemberState::UnrevokedPartitions;
            assert_eq!(revokes, !member.current.revoking.is_empty() || revokes && member.current.epoch < 0);
            if let Some(instance) = &member.metadata.instance_id {
                assert_eq!(group.static_members.get(instance), Some(&member.member_id));
            }
        }
        assert_eq!(group.deadlines.len(), group.members.len());
        assert!(group.targets.keys().all(|id| group.members.contains_key(id)));
        assert!(group.regexes.keys().all(|regex| group.regex_counts.contains_key(regex)));
        assert!(group.resolved_version.is_none() || !group.regex_counts.is_empty(), "resolved for nobody");
        // What two live members believe to own never overlaps.
        let mut owners = BTreeSet::new();
        for (at, client) in self.clients.iter().enumerate() {
            let member = group.members.get(&self.id(at));
            let lives = member.is_some_and(|member| member.current.epoch == client.epoch);
            for (topic, partitions) in client.owned.iter().filter(|_| lives) {
                for partition in partitions {
                    assert!(owners.insert((*topic, *partition)), "two members read {topic}-{partition}");
                }
            }
        }
    }

    /// When all heartbeat and nothing else happens, everything that is read has an owner, and nothing moves any more.
    fn come_to_rest(&mut self) {
        for _ in 0..30 {
            self.wait(2_000);
            for client in 0..CLIENTS {
                self.beat(client, false, false);
                self.check();
            }
        }
        let live: Vec<usize> = (0..CLIENTS).filter(|at| self.group.members.contains_key(&self.id(*at))).collect();
        if live.len() < self.group.members.len() {
            return;
        }
        assert_eq!(self.group.state(), ConsumerGroupState::Stable, "{:?}", self.group);
        let read = self.group.subscribed_topics();
        let expected: i32 =
            read.into_iter().filter_map(|name| self.view.topic(name)).map(|topic| topic.partitions).sum();
        assert_eq!(self.group.owners.len() as i32, expected);
        let writes = self.log.len();
        for client in 0..CLIENTS {
            self.beat(client, false, false);
        }
        assert_eq!(self.log.len(), writes, "a group at rest writes nothing");
    }
}

#[test]
fn two_hundred_members_that_fall_silent_together_cost_one_epoch_and_one_assignment() {
    let mut model = Model::new();
    model.config = ConsumerConfig { session_timeout_ms: 10_000, ..ConsumerConfig::default() };
    model.topics.insert("a-1".into(), Topic { id: Uuid::from_u128(1), partitions: 1_000 });
    model.view = ClusterView::new(2, model.topics.clone());
    model.clients = vec![Client { names: ["a-1".to_owned()].into(), unsaid: true, ..Client::default() }; 201];
    for _ in 0..4 {
        model.wait(1_000);
        (0..201).for_each(|client| model.beat(client, false, false));
    }
    assert_eq!(model.group.state(), ConsumerGroupState::Stable);
    let (epoch, writes) = (model.group.epoch, model.log.len());
    model.wait(5_000);
    model.beat(200, false, false);
    model.wait(6_000);
    assert_eq!(model.group.members.len(), 1, "200 are gone");
    assert_eq!(model.group.epoch, epoch + 1);
    assert_eq!(model.log.len(), writes + 3 * 200 + 1);
    model.beat(200, false, false);
    assert_eq!(model.group.owners.len(), 1_000, "the one that stayed has all");
}

#[test]
fn groups_set_their_own_timeouts_within_the_brokers_bounds() {
    let config = ConsumerConfig::default();
    let set = |name: &str, value: &str| config.with_overrides(&[(name.to_owned(), value.to_owned())].into());
    assert_eq!(set("consumer.session.timeout.ms", "50000").session_timeout_ms, 50_000);
    assert_eq!(set("consumer.session.timeout.ms", "1").session_timeout_ms, 45_000);
    assert_eq!(set("consumer.heartbeat.interval.ms", "99999").heartbeat_interval_ms, 15_000);
    assert_eq!(set("consumer.assignment.interval.ms", "0").assignment_interval_ms, 0);
    assert_eq!(set("share.session.timeout.ms", "50000"), config);
}
