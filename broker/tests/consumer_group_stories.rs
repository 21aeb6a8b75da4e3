//! Stories of groups under the consumer protocol (`tests/groups_consumer/*.txt`): heartbeats, the passing of time and
//! changes of topics, and what the coordinator answers and writes. Told to a whole shard, so that the classic
//! protocol, offsets and the log have their parts.
//!
//! `UPDATE_STORIES=1 cargo test -p seawall --test consumer_group_stories` writes what is printed now; read the diff.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use seawall::assignor::Assignor;
use seawall::consumer_group::{ClusterView, ConsumerConfig, Heartbeat, Topic};
use seawall::group::{GroupConfig, GroupError, JoinRequest, LeavingMember, Now, Protocol, RequestId, SyncRequest};
use seawall::group_records::consumer::{Assignment, ConsumerRecord, OwnedPartitions};
use seawall::group_records::{self, GroupRecord, OffsetValue};
use seawall::group_shard::{CommitRequest, CommittedOffset, GroupShard, LogRecord, Output, Surroundings};
use seawall_protocol::messages::ConsumerProtocolAssignment;
use seawall_protocol::{Decoder, Message as _};
use stories::{Args, Command, milliseconds, now, seconds, text, timeout, verdict};
use uuid::Uuid;

const GROUP: &str = "group";

#[test]
fn every_story_of_a_consumer_group_goes_as_written() {
    stories::every_story_goes_as_written("groups_consumer", Teller::new);
}

struct Teller {
    shard: GroupShard,
    config: GroupConfig,
    config_of: Box<dyn Fn(&str) -> ConsumerConfig>,
    view: ClusterView,
    topics: BTreeMap<String, Topic>,
    now_ms: u64,
    log: Vec<LogRecord>,
    /// Names of the parked requests.
    parked: BTreeMap<u64, String>,
    next_request: u64,
    next_topic: u128,
    version: u64,
}

impl stories::Teller for Teller {
    fn command(&mut self, command: &Command) -> Vec<String> {
        let Command { line, verb, first, args } = command;
        match *verb {
            "config" => self.configure(args),
            "topics" => self.change_topics(args),
            "beat" => self.beat(first, args),
            "leave" => self.leave(first, args),
            "commit" => self.commit(args),
            "fetch" => vec![self.fetch(args)],
            "delete" => self.delete(),
            "expire" => self.expire(),
            "join" => self.classic_join(first, args),
            "sync" => self.classic_sync(first, args),
            "heartbeat" => vec![self.classic_heartbeat(first, args)],
            "classic-leave" => self.classic_leave(first),
            "wait" => self.wait(milliseconds(first)),
            "restart" => self.restart(),
            "show" => self.show(),
            _ => panic!("unknown command {line}"),
        }
    }
}

impl Teller {
    fn new() -> Self {
        let mut config = GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() };
        config.consumer.assignment_interval_ms = 0;
        let consumer = config.consumer.clone();
        Self {
            shard: GroupShard::new(config.clone()),
            config,
            config_of: Box::new(move |_| consumer.clone()),
            view: ClusterView::default(),
            topics: BTreeMap::new(),
            now_ms: 0,
            log: Vec::new(),
            parked: BTreeMap::new(),
            next_request: 0,
            next_topic: 1,
            version: 0,
        }
    }

    fn configure(&mut self, args: &Args) -> Vec<String> {
        for (key, value) in args {
            match *key {
                "session" => self.config.consumer.session_timeout_ms = milliseconds(value),
                "interval" => self.config.consumer.assignment_interval_ms = milliseconds(value) as i64,
                "members_max" => self.config.consumer.members_max = value.parse().unwrap(),
                "assignors" => {
                    let named = value.split(',').map(|name| Assignor::named(name).unwrap());
                    self.config.consumer.assignors = named.collect();
                }
                "retention" => self.config.offsets_retention_ms = milliseconds(value) as i64,
                "migration" => self.config.consumer.migration = seawall::consumer_group::Migration::named(value),
                _ => panic!("unknown config {key}"),
            }
        }
        let consumer = self.config.consumer.clone();
        self.config_of = Box::new(move |_| consumer.clone());
        self.restart_quietly();
        Vec::new()
    }

    /// `name=partitions`, or `name=0` for a topic that is deleted.
    fn change_topics(&mut self, args: &Args) -> Vec<String> {
        for (name, partitions) in args {
            let partitions = partitions.parse().unwrap();
            if partitions == 0 {
                self.topics.remove(*name);
            } else if let Some(topic) = self.topics.get_mut(*name) {
                topic.partitions = partitions;
            } else {
                self.topics.insert((*name).to_owned(), Topic { id: Uuid::from_u128(self.next_topic), partitions });
                self.next_topic += 1;
            }
        }
        self.version += 1;
        self.view = ClusterView::new(self.version, self.topics.clone());
        Vec::new()
    }

    fn beat(&mut self, member: &str, args: &Args) -> Vec<String> {
        let epoch: i32 = args.get("epoch").map_or(0, |epoch| epoch.parse().unwrap());
        let joins = epoch == 0;
        let default = |name: &str, value: &str| text(args, name).or(joins.then(|| value.to_owned()));
        let request = Heartbeat {
            member_id: member.to_owned(),
            member_epoch: epoch,
            instance_id: text(args, "instance"),
            rack_id: None,
            rebalance_timeout_ms: default("rebalance", "60s").map(|value| milliseconds(&value) as i32),
            topic_names: match args.contains_key("regex") {
                true => text(args, "names").map(|names| set(&names)),
                false => default("names", "orders").map(|names| set(&names)),
            },
            topic_regex: text(args, "regex").map(|regex| if regex == "none" { String::new() } else { regex }),
            server_assignor: text(args, "assignor"),
            owned: default("owned", "none").map(|owned| self.parse_partitions(&owned)),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
        };
        self.event(move |teller, output| {
            let (shard, cluster, now) = teller.parts();
            let answer = shard.consumer_heartbeat(GROUP, &request, cluster, now, output);
            vec![match answer {
                Err(error) => format!("{error:?}"),
                Ok(answer) => {
                    let mut told = format!("epoch {}", answer.member_epoch);
                    if let Some(assignment) = &answer.assignment {
                        write!(told, " assignment {}", teller.name_partitions(assignment)).unwrap();
                    }
                    told
                }
            }]
        })
    }

    fn leave(&mut self, member: &str, args: &Args) -> Vec<String> {
        let epoch = args.get("epoch").map_or(-1, |epoch| epoch.parse().unwrap());
        let request = Heartbeat {
            member_id: member.to_owned(),
            member_epoch: epoch,
            instance_id: text(args, "instance"),
            ..Heartbeat::default()
        };
        self.event(move |teller, output| {
            let (shard, cluster, now) = teller.parts();
            let left = shard.consumer_heartbeat(GROUP, &request, cluster, now, output);
            vec![verdict(left.map(|_| ()))]
        })
    }

    /// `commit member=a epoch=3 v=9 orders:0,1`
    fn commit(&mut self, args: &Args) -> Vec<String> {
        let partitions = self.parse_partitions(args.get("of").copied().unwrap_or("orders:0"));
        let offset = |topic: Uuid, partition: i32, name: &str, now_ms: i64| CommittedOffset {
            topic: name.to_owned(),
            partition,
            value: OffsetValue {
                offset: 7,
                leader_epoch: -1,
                metadata: String::new(),
                commit_timestamp_ms: now_ms,
                expire_timestamp_ms: None,
                topic_id: topic,
            },
        };
        let mut offsets = Vec::new();
        for (topic, partitions) in &partitions {
            let name = self.view.name_of(*topic).unwrap().to_owned();
            offsets.extend(partitions.iter().map(|at| offset(*topic, *at, &name, now(self.now_ms).wall_ms)));
        }
        let version: i32 = args.get("v").map_or(9, |version| version.parse().unwrap());
        let request = CommitRequest {
            member_id: text(args, "member").unwrap_or_default(),
            group_instance_id: None,
            generation: args.get("epoch").map_or(-1, |epoch| epoch.parse().unwrap()),
            speaks_epochs: version >= 9,
            offsets,
            group_missing: GroupError::GroupIdNotFound,
        };
        self.event(move |teller, output| match teller.shard.commit(GROUP, request, now(teller.now_ms), output) {
            Err(error) => vec![format!("{error:?}")],
            Ok(results) => vec![results.into_iter().map(verdict).collect::<Vec<_>>().join(" ")],
        })
    }

    fn fetch(&mut self, args: &Args) -> String {
        let epoch = args.get("epoch").map_or(-1, |epoch| epoch.parse().unwrap());
        match self.shard.check_fetch(GROUP, args.get("member").copied(), epoch) {
            Err(error) => format!("{error:?}"),
            Ok(()) => {
                let offsets = self.shard.offsets(GROUP);
                let offsets = offsets.into_iter().flat_map(|offsets| offsets.iter());
                let told: Vec<String> =
                    offsets.map(|(topic, at, value)| format!("{topic}-{at}={}", value.offset)).collect();
                format!("offsets [{}]", told.join(" "))
            }
        }
    }

    fn delete(&mut self) -> Vec<String> {
        self.event(|teller, output| vec![verdict(teller.shard.delete_group(GROUP, output))])
    }

    fn expire(&mut self) -> Vec<String> {
        self.event(|teller, output| {
            let view = teller.view.clone();
            let is_there = |name: &str, id: Uuid| view.topic(name).is_some_and(|topic| id.is_nil() || topic.id == id);
            teller.shard.expire(now(teller.now_ms).wall_ms, is_there, output);
            Vec::new()
        })
    }

    fn classic_join(&mut self, name: &str, args: &Args) -> Vec<String> {
        let names = args.get("names").copied().unwrap_or("orders");
        let owned = args.get("owned").copied().unwrap_or("none");
        let metadata = subscription(names, &self.parse_partitions(owned), &self.view);
        let protocols = args.get("protocols").copied().unwrap_or("range").split(',');
        let request = JoinRequest {
            request: self.request(name),
            member_id: text(args, "member").unwrap_or_default(),
            new_member_id: text(args, "new").unwrap_or_default(),
            group_instance_id: text(args, "instance"),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: timeout(args, "session", 10_000),
            rebalance_timeout_ms: timeout(args, "rebalance", 60_000),
            protocol_type: text(args, "type").unwrap_or_else(|| "consumer".into()),
            protocols: protocols.map(|name| Protocol { name: name.to_owned(), metadata: metadata.clone() }).collect(),
            requires_known_member_id: args.contains_key("v4"),
            supports_skipping_assignment: true,
        };
        self.event(move |teller, output| {
            let (shard, cluster, now) = teller.parts();
            shard.join(GROUP, request, cluster, now, output);
            Vec::new()
        })
    }

    /// `sync s1 member=a gen=1 assign=a/orders:0,1;b/orders:2`
    fn classic_sync(&mut self, name: &str, args: &Args) -> Vec<String> {
        let pairs = args.get("assign").map_or(Vec::new(), |pairs| pairs.split(';').collect());
        let pair = |pair: &str| {
            let (id, partitions) = pair.split_once('/').unwrap();
            (id.to_owned(), self.classic_assignment(&self.parse_partitions(partitions)))
        };
        let assignments = pairs.into_iter().map(pair).collect();
        let request = SyncRequest {
            request: self.request(name),
            member_id: text(args, "member").unwrap(),
            group_instance_id: text(args, "instance"),
            generation: args["gen"].parse().unwrap(),
            protocol_type: None,
            protocol_name: None,
            assignments,
        };
        self.event(move |teller, output| {
            let (shard, cluster, now) = teller.parts();
            shard.sync(GROUP, request, cluster, now, output);
            Vec::new()
        })
    }

    fn classic_heartbeat(&mut self, member: &str, args: &Args) -> String {
        let generation = args["gen"].parse().unwrap();
        let instance = args.get("instance").copied();
        let (shard, cluster, now) = self.parts();
        verdict(shard.heartbeat(GROUP, member, instance, generation, cluster, now))
    }

    fn classic_leave(&mut self, who: &str) -> Vec<String> {
        let one = |one: &str| {
            let (id, instance) = one.split_once('/').map_or((one, None), |(id, instance)| (id, Some(instance)));
            LeavingMember { member_id: id.into(), group_instance_id: instance.map(Into::into) }
        };
        let leaving: Vec<LeavingMember> = who.split(',').map(one).collect();
        self.event(move |teller, output| {
            let left = teller.shard.leave(GROUP, &leaving, &teller.view, now(teller.now_ms), output);
            vec![left.into_iter().map(verdict).collect::<Vec<_>>().join(" ")]
        })
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        let until = self.now_ms + ms;
        let mut printed = Vec::new();
        while let Some(at) = self.shard.next_deadline_ms().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            let happened = self.event(|teller, output| {
                teller.shard.tick(&teller.view, now(teller.now_ms), output);
                Vec::new()
            });
            printed.extend(happened.into_iter().map(|what| format!("at {}: {what}", seconds(self.now_ms))));
        }
        self.now_ms = until;
        printed
    }

    /// The coordinator moved or restarted: only the log is left.
    fn restart(&mut self) -> Vec<String> {
        self.restart_quietly();
        self.show()
    }

    fn restart_quietly(&mut self) {
        self.parked.clear();
        self.shard = GroupShard::new(self.config.clone());
        for record in &self.log {
            let record = group_records::decode(record.key.clone(), record.value.clone()).unwrap();
            self.shard.replay(record, now(self.now_ms));
        }
        let mut output = Output::default();
        let (shard, cluster, now) = self.parts();
        shard.loaded(cluster, now, &mut output);
        self.log.extend(output.records);
    }

    fn show(&self) -> Vec<String> {
        let listed = self.shard.list();
        let Some(listed) = listed.first() else { return vec!["no group".into()] };
        let mut shown = vec![format!("{} {}", listed.kind.name(), listed.state)];
        if let Some(group) = self.shard.describe_consumer(GROUP, &self.config.consumer) {
            write!(shown[0], " epoch {} target {} {}", group.epoch, group.target_epoch, group.assignor.name()).unwrap();
            for (member, target) in group.members {
                let mut told = format!("{} epoch {}", member.member_id, member.current.epoch);
                if let Some(instance) = &member.metadata.instance_id {
                    write!(told, " instance {instance}").unwrap();
                }
                if member.is_classic() {
                    told.push_str(" classic");
                }
                write!(told, " {:?}", member.current.state).unwrap();
                write!(told, " has {}", self.name_owned(&member.current.assigned)).unwrap();
                if !member.current.revoking.is_empty() {
                    write!(told, " gives up {}", self.name_owned(&member.current.revoking)).unwrap();
                }
                write!(told, " target {}", self.name_partitions(&target)).unwrap();
                shown.push(told);
            }
        }
        if let Some(group) = self.shard.describe(GROUP) {
            for member in group.members {
                shown.push(format!("{} assignment {}", member.member_id, self.read_classic(&member.assignment)));
            }
        }
        shown
    }

    fn parts(&mut self) -> (&mut GroupShard, Surroundings<'_>, Now) {
        let cluster = Surroundings { view: &self.view, config_of: &*self.config_of };
        (&mut self.shard, cluster, now(self.now_ms))
    }

    /// Runs one event, and tells its answer, the answers to parked requests, and what was written.
    fn event(&mut self, run: impl FnOnce(&mut Self, &mut Output) -> Vec<String>) -> Vec<String> {
        let mut output = Output::default();
        let mut told = run(self, &mut output);
        for (request, answer) in output.joins {
            let name = self.parked.remove(&request.0).expect("answered twice");
            told.push(match answer.result {
                Err(error) => format!("{name}: {error:?} member={}", answer.member_id),
                Ok(joined) => {
                    let protocol = joined.protocol_name.unwrap_or_default();
                    let leads = if joined.members.is_empty() { "" } else { " leads" };
                    format!("{name}: joined as {} generation {} {protocol}{leads}", answer.member_id, joined.generation)
                }
            });
        }
        for (request, answer) in output.syncs {
            let name = self.parked.remove(&request.0).expect("answered twice");
            told.push(match answer {
                Err(error) => format!("{name}: {error:?}"),
                Ok(synced) => format!("{name}: synced {}", self.read_classic(&synced.assignment)),
            });
        }
        if !output.records.is_empty() {
            let written: Vec<String> = output.records.iter().map(|record| self.name_record(record)).collect();
            told.push(format!("writes {}", written.join(" ")));
        }
        self.log.extend(output.records);
        told
    }

    fn request(&mut self, name: &str) -> RequestId {
        self.next_request += 1;
        self.parked.insert(self.next_request, name.to_owned());
        RequestId(self.next_request)
    }

    fn name_record(&self, record: &LogRecord) -> String {
        let decoded = group_records::decode(record.key.clone(), record.value.clone()).unwrap();
        let gone = if record.value.is_none() { "-" } else { "" };
        match decoded {
            GroupRecord::Offset { key, .. } => format!("{gone}offset:{}-{}", key.topic, key.partition),
            GroupRecord::Group { .. } => format!("{gone}classic-group"),
            GroupRecord::Consumer { record, .. } => match record {
                ConsumerRecord::Epoch(value) => value.map_or("-epoch".into(), |value| format!("epoch:{}", value.epoch)),
                ConsumerRecord::TargetEpoch(value) => {
                    value.map_or("-target-epoch".into(), |value| format!("target-epoch:{}", value.epoch))
                }
                ConsumerRecord::Member(id, _) => format!("{gone}member:{id}"),
                ConsumerRecord::Target(id, _) => format!("{gone}target:{id}"),
                ConsumerRecord::Current(id, _) => format!("{gone}current:{id}"),
                ConsumerRecord::Regex(regex, value) => {
                    let topics = value.map(|value| value.topics.into_iter().collect::<Vec<_>>().join(","));
                    format!("{gone}regex:{regex}=[{}]", topics.unwrap_or_default())
                }
            },
            GroupRecord::Other(kind) => format!("{gone}type-{kind}"),
        }
    }

    /// `orders:0,1+payments:2`, or `none`
    fn parse_partitions(&self, text: &str) -> Assignment {
        let topic = |text: &str| {
            let (name, partitions) = text.split_once(':').unwrap();
            let partitions: BTreeSet<i32> = partitions.split(',').map(|at| at.parse().unwrap()).collect();
            (self.view.topic(name).unwrap_or_else(|| panic!("no topic {name}")).id, partitions)
        };
        if text == "none" { Assignment::new() } else { text.split('+').map(topic).collect() }
    }

    fn name_partitions(&self, assignment: &Assignment) -> String {
        let topic = |(id, partitions): (&Uuid, &BTreeSet<i32>)| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            format!("{}:{}", self.view.name_of(*id).unwrap_or("deleted"), partitions.join(","))
        };
        format!("[{}]", assignment.iter().map(topic).collect::<Vec<_>>().join("+"))
    }

    fn name_owned(&self, owned: &OwnedPartitions) -> String {
        let assignment = owned.iter().map(|(id, partitions)| (*id, partitions.keys().copied().collect())).collect();
        self.name_partitions(&assignment)
    }

    fn classic_assignment(&self, partitions: &Assignment) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(0);
        put_partitions(&mut out, partitions, &self.view);
        out.put_i32(-1);
        out.freeze()
    }

    fn read_classic(&self, assignment: &Bytes) -> String {
        let mut rest = assignment.clone();
        if rest.len() < 2 {
            return "[]".into();
        }
        let version = bytes::Buf::get_i16(&mut rest);
        let read = ConsumerProtocolAssignment::decode(&mut Decoder::new(rest), version).unwrap();
        let topics = read.assigned_partitions.into_iter().map(|topic| {
            let partitions: Vec<String> = topic.partitions.iter().map(i32::to_string).collect();
            format!("{}:{}", topic.topic, partitions.join(","))
        });
        format!("[{}]", topics.collect::<Vec<_>>().join("+"))
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &Assignment, view: &ClusterView) {
    out.put_i32(partitions.len() as i32);
    for (topic, partitions) in partitions {
        let name = view.name_of(*topic).unwrap();
        out.put_i16(name.len() as i16);
        out.put_slice(name.as_bytes());
        out.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|partition| out.put_i32(*partition));
    }
}

/// ConsumerProtocolSubscription version 1: with the partitions that the member has.
fn subscription(names: &str, owned: &Assignment, view: &ClusterView) -> Bytes {
    let names: Vec<&str> = names.split(',').collect();
    let mut out = BytesMut::new();
    out.put_i16(1);
    out.put_i32(names.len() as i32);
    for name in names {
        out.put_i16(name.len() as i16);
        out.put_slice(name.as_bytes());
    }
    out.put_i32(-1);
    put_partitions(&mut out, owned, view);
    out.freeze()
}

fn set(names: &str) -> BTreeSet<String> {
    if names == "none" { BTreeSet::new() } else { names.split(',').map(str::to_owned).collect() }
}
