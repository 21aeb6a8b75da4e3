//! Stories of consumer groups (`tests/groups/*.txt`): requests and the passing of time, and what the group answers.
//!
//! `UPDATE_STORIES=1 cargo test -p seawall --test group_stories` writes what is printed now; read the diff.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod stories;

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use seawall::group::{
    Effects, Group, GroupConfig, GroupState, JoinAnswer, JoinRequest, LeavingMember, Protocol, RequestId, SyncRequest,
};
use seawall::group_records::{self, GroupRecord};
use stories::{Args, Command, milliseconds, now, seconds, text, timeout, verdict};

#[test]
fn every_story_of_a_group_goes_as_written() {
    stories::every_story_goes_as_written("groups", Teller::new);
}

struct Teller {
    group: Group,
    config: GroupConfig,
    now_ms: u64,
    /// Names of the parked requests.
    names: BTreeMap<u64, String>,
    next_request: u64,
    stored: Bytes,
}

impl stories::Teller for Teller {
    fn command(&mut self, command: &Command) -> Vec<String> {
        let Command { line, verb, first, args } = command;
        let before = self.group.state();
        let mut printed = match *verb {
            "config" => self.configure(args),
            "join" => self.join(first, args),
            "sync" => self.sync(first, args),
            "heartbeat" => vec![self.heartbeat(args)],
            "leave" => self.leave(first),
            "commit" => vec![self.commit(args)],
            "wait" => return self.wait(milliseconds(first)),
            "restart" => return self.restart(),
            "show" => return vec![self.show()],
            _ => panic!("unknown command {line}"),
        };
        self.print_state(before, &mut printed);
        printed
    }
}

impl Teller {
    fn new() -> Self {
        let group = Group::new(now(0));
        let stored = group_records::encode_group_value(&group.to_record());
        Self { group, config: GroupConfig::default(), now_ms: 0, names: BTreeMap::new(), next_request: 0, stored }
    }

    fn configure(&mut self, args: &Args) -> Vec<String> {
        for (key, value) in args {
            match *key {
                "delay" => self.config.initial_rebalance_delay_ms = milliseconds(value),
                "members_max" => self.config.members_max = value.parse().unwrap(),
                "record_max" => self.config.group_record_bytes_max = value.parse().unwrap(),
                _ => panic!("unknown config {key}"),
            }
        }
        Vec::new()
    }

    fn join(&mut self, name: &str, args: &Args) -> Vec<String> {
        let version: u32 = args.get("v").map_or(9, |v| v.parse().unwrap());
        let topics = args.get("topics").copied().unwrap_or("orders");
        let protocols = args.get("protocols").copied().unwrap_or("range");
        let protocol = |name: &str| Protocol { name: name.into(), metadata: subscription(topics) };
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
            protocols: protocols.split(',').map(protocol).collect(),
            requires_known_member_id: version >= 4,
            supports_skipping_assignment: version >= 9,
        };
        let effects = self.group.join(request, &self.config, now(self.now_ms));
        self.print(effects)
    }

    fn sync(&mut self, name: &str, args: &Args) -> Vec<String> {
        let pairs = args.get("assign").map_or(Vec::new(), |pairs| pairs.split(',').collect());
        let pairs = pairs.into_iter().map(|pair| pair.split_once(':').unwrap());
        let request = SyncRequest {
            request: self.request(name),
            member_id: text(args, "member").unwrap(),
            group_instance_id: text(args, "instance"),
            generation: args["gen"].parse().unwrap(),
            protocol_type: text(args, "type"),
            protocol_name: text(args, "protocol"),
            assignments: pairs.map(|(id, bytes)| (id.into(), Bytes::copy_from_slice(bytes.as_bytes()))).collect(),
        };
        let effects = self.group.sync(request, &self.config, now(self.now_ms));
        self.print(effects)
    }

    fn heartbeat(&mut self, args: &Args) -> String {
        let generation = args["gen"].parse().unwrap();
        verdict(self.group.heartbeat(args["member"], args.get("instance").copied(), generation, now(self.now_ms)))
    }

    /// `leave id,id/instance,/instance`
    fn leave(&mut self, who: &str) -> Vec<String> {
        let one = |one: &str| {
            let (id, instance) = one.split_once('/').map_or((one, None), |(id, instance)| (id, Some(instance)));
            LeavingMember { member_id: id.into(), group_instance_id: instance.map(Into::into) }
        };
        let leaving: Vec<LeavingMember> = who.split(',').map(one).collect();
        let (results, effects) = self.group.leave(&leaving, &self.config, now(self.now_ms));
        let mut printed: Vec<String> = results.into_iter().map(verdict).collect();
        printed.extend(self.print(effects));
        printed
    }

    fn commit(&mut self, args: &Args) -> String {
        let member = args.get("member").copied().unwrap_or_default();
        let generation = args.get("gen").map_or(-1, |value| value.parse().unwrap());
        let checked = self.group.check_offset_commit(member, args.get("instance").copied(), generation);
        if checked.is_ok() {
            self.group.offset_committed(member, now(self.now_ms));
        }
        verdict(checked)
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        let until = self.now_ms + ms;
        let mut printed = Vec::new();
        while let Some(at) = self.group.next_deadline_ms().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            let before = self.group.state();
            let effects = self.group.tick(&self.config, now(self.now_ms));
            let mut happened = self.print(effects);
            self.print_state(before, &mut happened);
            printed.extend(happened.into_iter().map(|what| format!("at {}: {what}", seconds(self.now_ms))));
        }
        self.now_ms = until;
        printed
    }

    /// The coordinator moved or restarted: only what was stored is left, and whoever was parked hears nothing from here.
    fn restart(&mut self) -> Vec<String> {
        let key = group_records::encode_group_key("group");
        let record = group_records::decode(key, Some(self.stored.clone())).unwrap();
        let GroupRecord::Group { value: Some(value), .. } = record else { panic!("stored {record:?}") };
        self.group = Group::from_record(value);
        self.names.clear();
        let effects = self.group.loaded(&self.config, now(self.now_ms));
        let mut printed = self.print(effects);
        printed.push(self.show());
        printed
    }

    fn show(&self) -> String {
        let members: Vec<&str> = self.group.members().map(|member| member.member_id.as_str()).collect();
        let mut shown = format!("{} generation {}", self.group.state().name(), self.group.generation());
        if let Some(leader) = self.group.leader() {
            write!(shown, " leader {leader}").unwrap();
        }
        if let Some(protocol) = self.group.protocol_name() {
            write!(shown, " protocol {protocol}").unwrap();
        }
        write!(shown, " members [{}]", members.join(" ")).unwrap();
        if let Some(topics) = self.group.subscribed_topics() {
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            write!(shown, " topics [{}]", topics.join(" ")).unwrap();
        }
        shown
    }

    fn request(&mut self, name: &str) -> RequestId {
        self.next_request += 1;
        self.names.insert(self.next_request, name.to_owned());
        RequestId(self.next_request)
    }

    fn print(&mut self, effects: Effects) -> Vec<String> {
        let mut printed = Vec::new();
        if effects.store {
            assert!(matches!(self.group.state(), GroupState::Empty | GroupState::Stable), "stored while rebalancing");
            self.stored = group_records::encode_group_value(&self.group.to_record());
            printed.push("store".to_owned());
        }
        for (request, answer) in effects.joins {
            let name = self.names.remove(&request.0).expect("answered twice");
            printed.push(format!("{name}: {}", join_answer(answer)));
        }
        for (request, answer) in effects.syncs {
            let name = self.names.remove(&request.0).expect("answered twice");
            printed.push(match answer {
                Err(error) => format!("{name}: {error:?}"),
                Ok(synced) => {
                    let protocol = synced.protocol_name.unwrap_or_default();
                    format!("{name}: synced {protocol} assignment={}", String::from_utf8_lossy(&synced.assignment))
                }
            });
        }
        printed
    }

    fn print_state(&self, before: GroupState, printed: &mut Vec<String>) {
        if self.group.state() != before {
            printed.push(format!("-> {}", self.group.state().name()));
        }
    }
}

fn join_answer(answer: JoinAnswer) -> String {
    let member = answer.member_id;
    let joined = match answer.result {
        Err(error) => return format!("{error:?} member={member}"),
        Ok(joined) => joined,
    };
    let protocol = joined.protocol_name.unwrap_or_default();
    let mut text = format!("joined as {member} generation {} {protocol} leader {}", joined.generation, joined.leader);
    if !joined.members.is_empty() {
        let instance = |instance: &Option<String>| instance.as_ref().map_or(String::new(), |name| format!("/{name}"));
        let names: Vec<String> =
            joined.members.iter().map(|one| one.member_id.clone() + &instance(&one.group_instance_id)).collect();
        write!(text, " [{}]", names.join(" ")).unwrap();
    }
    if joined.skip_assignment {
        text.push_str(" skip-assignment");
    }
    text
}

/// ConsumerProtocolSubscription version 0.
fn subscription(topics: &str) -> Bytes {
    let topics: Vec<&str> = topics.split(',').collect();
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for topic in topics {
        out.put_i16(topic.len() as i16);
        out.put_slice(topic.as_bytes());
    }
    out.put_i32(-1);
    out.freeze()
}
