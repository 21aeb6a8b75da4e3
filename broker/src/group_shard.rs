//! All groups of one partition of `__consumer_offsets`, as one pure state machine.
//!
//! A request and the time go in; what must be written to the log and which parked requests are answered come out, in
//! [`Output`]. The state moves at once: the caller appends the records in the order they come out, and lets no answer
//! of this or a later event leave before they are durable. If an append fails, the state may be ahead of the log: the
//! caller throws the shard away and reads the log again ([`GroupShard::replay`], then [`GroupShard::loaded`]).

mod any_group;
mod consumer;
mod output;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::consumer_group::{ClusterView, ConsumerConfig};
use crate::group::{Effects, Group, GroupConfig, GroupError, JoinAnswer, JoinRequest, LeavingMember, Now, SyncRequest};
use crate::group_records::{self, OffsetKey, OffsetValue};
use crate::offsets::GroupOffsets;
use any_group::AnyGroup;
pub use any_group::{DescribedGroup, DescribedMember, GroupKind};
pub use consumer::DescribedConsumerGroup;
pub use output::{LogRecord, Output, event_bytes};

/// This part of the memory of all groups is not for newcomers and new offsets: members that are there may use it, so
/// that nobody who fills the rest keeps groups from rebalancing.
const RESERVE_PART: usize = 8;
/// What groups see of the cluster at the moment of an event.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub view: &'a ClusterView,
    /// What holds for a group under the consumer protocol: its own configs, and the broker's for the rest.
    pub config_of: &'a dyn Fn(&str) -> ConsumerConfig,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CommitRequest {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    /// Or member epoch. Negative: a client without group management.
    pub generation: i32,
    /// The version of the request knows member epochs.
    pub speaks_epochs: bool,
    pub offsets: Vec<CommittedOffset>,
    /// What a member of a group that does not exist is told; it depends on the version.
    pub group_missing: GroupError,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CommittedOffset {
    pub topic: String,
    pub partition: i32,
    pub value: OffsetValue,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListedGroup {
    pub group: String,
    pub protocol_type: String,
    pub state: &'static str,
    pub kind: GroupKind,
}

#[derive(Debug)]
pub struct GroupShard {
    config: GroupConfig,
    groups: BTreeMap<String, Held>,
    /// When each group wants to be looked at. A heartbeat or a commit may move the group's own deadline without this.
    timers: BTreeSet<(u64, String)>,
    bytes: usize,
    /// What these groups may hold; more is not let in.
    bytes_max: usize,
    /// What the log takes whole of one event.
    event_bytes_max: usize,
}

#[derive(Debug)]
struct Held {
    group: AnyGroup,
    offsets: GroupOffsets,
    /// The log holds the record of a classic group, which a tombstone has to end. One of a consumer group ends with its own.
    classic_record: bool,
    timer_ms: Option<u64>,
    bytes: usize,
}

impl GroupShard {
    pub fn new(config: GroupConfig) -> Self {
        let bytes_max = config.bytes_max;
        let (groups, timers) = (BTreeMap::new(), BTreeSet::new());
        Self { config, groups, timers, bytes: 0, bytes_max, event_bytes_max: usize::MAX }
    }

    pub fn join(&mut self, group_id: &str, request: JoinRequest, cluster: Surroundings, now: Now, output: &mut Output) {
        let group = self.groups.get(group_id).map(|held| &held.group);
        let refusal = match group {
            _ if !self.has_room(group.and_then(|group| group.growth(&request, cluster.view))) => {
                Some(GroupError::MemoryFull)
            }
            None if !request.member_id.is_empty() => Some(GroupError::UnknownMemberId),
            _ => None,
        };
        if let Some(error) = refusal {
            let answer = JoinAnswer { member_id: request.member_id, result: Err(error) };
            return output.joins.push((request.request, answer));
        }
        let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
        if let AnyGroup::Consumer(group) = &held.group {
            if !group.is_empty() {
                return self.join_consumer(group_id, &request, cluster, now, output);
            }
            // What a group under the consumer protocol leaves behind is its offsets.
            output.records.extend(group.tombstones().iter().map(|record| consumer::log_record(group_id, record)));
            *held = Held {
                offsets: std::mem::take(&mut held.offsets),
                bytes: held.bytes,
                ..Held::new(AnyGroup::classic(now))
            };
        }
        let group = held.group.as_classic_mut().expect("just made so");
        let effects = group.join(request, &self.config, now);
        self.after(group_id, effects, output);
    }

    pub fn sync(&mut self, group_id: &str, request: SyncRequest, cluster: Surroundings, now: Now, output: &mut Output) {
        match self.groups.get_mut(group_id).map(|held| &mut held.group) {
            None => output.syncs.push((request.request, Err(GroupError::UnknownMemberId))),
            Some(AnyGroup::Classic(group)) => {
                let effects = group.sync(request, &self.config, now);
                self.after(group_id, effects, output);
            }
            Some(AnyGroup::Consumer(group)) => {
                let answer = group.classic_sync(&request, cluster.view, &(cluster.config_of)(group_id), now);
                output.syncs.push((request.request, answer));
                self.settle(group_id);
            }
        }
    }

    pub fn heartbeat(
        &mut self,
        group_id: &str,
        member_id: &str,
        group_instance_id: Option<&str>,
        generation: i32,
        cluster: Surroundings,
        now: Now,
    ) -> Result<(), GroupError> {
        match self.groups.get_mut(group_id).map(|held| &mut held.group) {
            None => Err(GroupError::UnknownMemberId),
            // The timer stays: a heartbeat moves deadlines back only.
            Some(AnyGroup::Classic(group)) => group.heartbeat(member_id, group_instance_id, generation, now),
            Some(AnyGroup::Consumer(group)) => {
                let config = (cluster.config_of)(group_id);
                let answer = group.classic_heartbeat(member_id, group_instance_id, generation, &config, now);
                self.settle(group_id);
                answer
            }
        }
    }

    /// One result per entry, in order.
    pub fn leave(
        &mut self,
        group_id: &str,
        leaving: &[LeavingMember],
        view: &ClusterView,
        now: Now,
        output: &mut Output,
    ) -> Vec<Result<(), GroupError>> {
        match self.groups.get_mut(group_id).map(|held| &mut held.group) {
            None => vec![Err(GroupError::UnknownMemberId); leaving.len()],
            Some(AnyGroup::Classic(group)) => {
                let (results, effects) = group.leave(leaving, &self.config, now);
                self.after(group_id, effects, output);
                results
            }
            Some(AnyGroup::Consumer(group)) => {
                let mut records = Vec::new();
                let results = group.classic_leave(leaving, view, &mut records);
                self.after_consumer(group_id, records, output);
                self.downgrade(group_id, true, view, now, output);
                results
            }
        }
    }

    /// One result per offset, in order; or one error for all.
    pub fn commit(
        &mut self,
        group_id: &str,
        request: CommitRequest,
        now: Now,
        output: &mut Output,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        // Of a group under the consumer protocol each partition is checked for itself.
        let mut checked = vec![Ok(()); request.offsets.len()];
        match self.groups.get_mut(group_id) {
            None if request.generation >= 0 => return Err(request.group_missing),
            None => {}
            Some(Held { group: AnyGroup::Classic(group), .. }) => {
                let instance = request.group_instance_id.as_deref();
                group.check_offset_commit(&request.member_id, instance, request.generation)?;
                group.offset_committed(&request.member_id, now);
            }
            Some(Held { group: AnyGroup::Consumer(group), .. }) => {
                let check = group.check_commit(&request.member_id, request.generation, request.speaks_epochs)?;
                checked = request.offsets.iter().map(|one| check.allows(one.value.topic_id, one.partition)).collect();
            }
        }
        let held = self.groups.get(group_id);
        let growth = |one: &CommittedOffset| {
            let before = held?.offsets.get(&one.topic, one.partition)?;
            Some(one.value.metadata.len().saturating_sub(before.metadata.len()))
        };
        if !self.has_room(request.offsets.iter().map(growth).sum()) {
            return Err(GroupError::MemoryFull);
        }
        let mut results = Vec::with_capacity(request.offsets.len());
        for (CommittedOffset { topic, partition, value }, checked) in request.offsets.into_iter().zip(checked) {
            if checked.is_err() {
                results.push(checked);
                continue;
            }
            // Kafka measures the text in UTF-16 units, whatever the name of the limit says.
            let units = value.metadata.encode_utf16().count();
            if units > self.config.offset_metadata_bytes_max || !group_records::fits_in_a_record(&value.metadata) {
                results.push(Err(GroupError::OffsetMetadataTooLarge));
                continue;
            }
            let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
            let record_value = group_records::encode_offset_value(&value);
            held.offsets.put(&topic, partition, value);
            let key = OffsetKey { group: group_id.to_owned(), topic, partition };
            output.records.push(LogRecord { key: group_records::encode_offset_key(&key), value: Some(record_value) });
            results.push(Ok(()));
        }
        self.account(group_id);
        Ok(results)
    }

    /// The offsets of a group that exists; None otherwise.
    pub fn offsets(&self, group_id: &str) -> Option<&GroupOffsets> {
        self.groups.get(group_id).map(|held| &held.offsets)
    }

    pub fn delete_group(&mut self, group_id: &str, output: &mut Output) -> Result<(), GroupError> {
        let held = self.groups.get(group_id).ok_or(GroupError::GroupIdNotFound)?;
        if !held.group.is_empty() {
            return Err(GroupError::NonEmptyGroup);
        }
        let offsets: Vec<(String, i32)> =
            held.offsets.iter().map(|(topic, partition, _)| (topic.to_owned(), partition)).collect();
        for (topic, partition) in offsets {
            self.remove_offset(group_id, &topic, partition, output);
        }
        self.remove_group(group_id, output);
        Ok(())
    }

    /// One result per offset, in order; or one error for all. Deleting what is not there succeeds.
    pub fn delete_offsets(
        &mut self,
        group_id: &str,
        offsets: &[(String, i32)],
        output: &mut Output,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let held = self.groups.get(group_id).ok_or(GroupError::GroupIdNotFound)?;
        if held.group.as_classic().is_some_and(|group| !held.group.is_empty() && !group.is_consumer_group()) {
            return Err(GroupError::NonEmptyGroup);
        }
        let subscribed: Vec<bool> = offsets.iter().map(|(topic, _)| held.group.is_subscribed_to(topic)).collect();
        let results = (offsets.iter().zip(subscribed))
            .map(|((topic, partition), subscribed)| match subscribed {
                true => Err(GroupError::GroupSubscribedToTopic),
                false => {
                    self.remove_offset(group_id, topic, *partition, output);
                    Ok(())
                }
            })
            .collect();
        self.account(group_id);
        Ok(results)
    }

    /// None: there is no such group under the classic protocol.
    pub fn describe(&self, group_id: &str) -> Option<DescribedGroup> {
        Some(DescribedGroup::of(self.groups.get(group_id)?.group.as_classic()?))
    }

    pub fn list(&self) -> Vec<ListedGroup> {
        let listed = |(group, held): (&String, &Held)| ListedGroup {
            group: group.clone(),
            protocol_type: held.group.protocol_type().to_owned(),
            state: held.group.state_name(),
            kind: held.group.kind(),
        };
        self.groups.iter().map(listed).collect()
    }

    /// Deletes offsets that were kept long enough, offsets of topics that are gone (`topic_is`: is this name still the
    /// topic of this id, nil for any), and groups that have nothing left.
    pub fn expire(&mut self, now_ms: i64, topic_is: impl Fn(&str, Uuid) -> bool, output: &mut Output) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for group_id in ids {
            let held = &self.groups[&group_id];
            let is_subscribed_to = |topic: &str| held.group.is_subscribed_to(topic);
            let retention_ms = self.config.offsets_retention_ms;
            let mut gone = held.offsets.expired(held.group.retention(), is_subscribed_to, now_ms, retention_ms);
            let of_deleted_topics = held.offsets.iter().filter(|(topic, _, value)| !topic_is(topic, value.topic_id));
            gone.extend(of_deleted_topics.map(|(topic, partition, _)| (topic.to_owned(), partition)));
            for (topic, partition) in gone {
                self.remove_offset(&group_id, &topic, partition, output);
            }
            let held = &self.groups[&group_id];
            if held.group.is_vacant() && held.offsets.is_empty() {
                self.remove_group(&group_id, output);
            } else {
                self.account(&group_id);
            }
            output.end_event();
        }
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Lets everything happen whose time has come.
    pub fn tick(&mut self, view: &ClusterView, now: Now, output: &mut Output) {
        while let Some((at, group_id)) = self.timers.first().filter(|(at, _)| *at <= now.monotonic_ms).cloned() {
            let held = self.groups.get_mut(&group_id).expect("timers are of groups held");
            self.timers.remove(&(at, group_id.clone()));
            held.timer_ms = None;
            match &mut held.group {
                AnyGroup::Classic(group) => {
                    let effects = group.tick(&self.config, now);
                    self.after(&group_id, effects, output);
                }
                AnyGroup::Consumer(group) => {
                    let mut records = Vec::new();
                    group.tick(view, now, &mut records);
                    self.after_consumer(&group_id, records, output);
                    self.downgrade(&group_id, true, view, now, output);
                }
            }
            output.end_event();
        }
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Memory that the groups and offsets hold, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// May something grow that is there, or (None) be taken in that is not? What does not grow always may.
    fn has_room(&self, growth: Option<usize>) -> bool {
        match growth {
            None => self.bytes.saturating_add(self.config.bytes_max / RESERVE_PART) < self.bytes_max,
            Some(0) => true,
            Some(growth) => self.bytes.saturating_add(growth) < self.bytes_max,
        }
    }

    /// Other shards leave this much.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// A group whose change of protocol would take more of the log in one piece stays what it is.
    pub fn set_event_bytes_max(&mut self, event_bytes_max: usize) {
        self.event_bytes_max = event_bytes_max;
    }

    /// Turns a classic group's effects into output, and looks after its timer and its size.
    fn after(&mut self, group_id: &str, effects: Effects, output: &mut Output) {
        if effects.store {
            let held = self.groups.get_mut(group_id).expect("the caller had it");
            held.classic_record = true;
            let group = held.group.as_classic().expect("effects are of classic groups");
            output.records.push(classic_record(group_id, group));
        }
        output.joins.extend(effects.joins);
        output.syncs.extend(effects.syncs);
        self.settle(group_id);
    }

    /// Looks after the timer and the size of a group that may have changed.
    fn settle(&mut self, group_id: &str) {
        let held = self.groups.get_mut(group_id).expect("the caller had it");
        if held.group.is_vacant() && held.offsets.is_empty() && !held.has_records() {
            // Nobody came in, nothing is remembered: as if it had never been asked for.
            return self.forget(group_id);
        }
        let next = held.group.next_deadline_ms();
        if held.timer_ms != next {
            if let Some(at) = held.timer_ms.take() {
                self.timers.remove(&(at, group_id.to_owned()));
            }
            held.timer_ms = next;
            self.timers.extend(next.map(|at| (at, group_id.to_owned())));
        }
        self.account(group_id);
    }

    fn account(&mut self, group_id: &str) {
        let Some(held) = self.groups.get_mut(group_id) else { return };
        let bytes = held.group.bytes() + held.offsets.bytes() + 2 * group_id.len();
        self.bytes = self.bytes - held.bytes + bytes;
        held.bytes = bytes;
    }

    fn remove_offset(&mut self, group_id: &str, topic: &str, partition: i32, output: &mut Output) {
        let Some(held) = self.groups.get_mut(group_id) else { return };
        if held.offsets.remove(topic, partition).is_some() {
            let key = OffsetKey { group: group_id.to_owned(), topic: topic.to_owned(), partition };
            output.records.push(LogRecord { key: group_records::encode_offset_key(&key), value: None });
        }
    }

    fn remove_group(&mut self, group_id: &str, output: &mut Output) {
        match self.groups.get(group_id) {
            Some(Held { group: AnyGroup::Consumer(group), .. }) => {
                output.records.extend(group.tombstones().iter().map(|record| consumer::log_record(group_id, record)));
            }
            Some(held) if held.classic_record => output.records.push(tombstone(group_id)),
            _ => {}
        }
        self.forget(group_id);
    }

    fn forget(&mut self, group_id: &str) {
        let Some(held) = self.groups.remove(group_id) else { return };
        self.bytes -= held.bytes;
        if let Some(at) = held.timer_ms {
            self.timers.remove(&(at, group_id.to_owned()));
        }
    }
}

fn classic_record(group_id: &str, group: &Group) -> LogRecord {
    LogRecord {
        key: group_records::encode_group_key(group_id),
        value: Some(group_records::encode_group_value(&group.to_record())),
    }
}

/// The end of a classic group.
fn tombstone(group_id: &str) -> LogRecord {
    LogRecord { key: group_records::encode_group_key(group_id), value: None }
}

impl Held {
    fn new(group: AnyGroup) -> Self {
        Self { group, offsets: GroupOffsets::default(), classic_record: false, timer_ms: None, bytes: 0 }
    }

    /// Whether the log holds anything of the group, its offsets apart.
    fn has_records(&self) -> bool {
        self.classic_record || self.group.as_consumer().is_some()
    }
}

#[cfg(test)]
mod tests;
