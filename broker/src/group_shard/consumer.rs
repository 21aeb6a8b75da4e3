//! Groups under the consumer protocol in the shard: requests in, records out.

use super::{AnyGroup, GroupShard, Held, LogRecord, Output, Surroundings, event_bytes};
use crate::assignor::Assignor;
use crate::consumer_group::{
    ClusterView, ConsumerConfig, ConsumerGroup, ConsumerGroupState, Heartbeat, HeartbeatAnswer, JOIN_EPOCH,
    LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Member,
};
use crate::group::{Group, GroupError, GroupState, JoinRequest, Now, Protocol};
use crate::group_records::consumer::{self, Assignment, ConsumerRecord};

/// What ConsumerGroupDescribe shows of a group; its members with what they are to have.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribedConsumerGroup {
    pub state: &'static str,
    pub epoch: i32,
    pub target_epoch: i32,
    pub assignor: Assignor,
    pub members: Vec<(Member, Assignment)>,
}

impl GroupShard {
    pub fn consumer_heartbeat(
        &mut self,
        group_id: &str,
        request: &Heartbeat,
        cluster: Surroundings,
        now: Now,
        output: &mut Output,
    ) -> Result<HeartbeatAnswer, GroupError> {
        if matches!(request.member_epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH) {
            return self.consumer_leave(group_id, request, cluster.view, now, output);
        }
        let config = &(cluster.config_of)(group_id);
        match self.groups.get(group_id).map(|held| &held.group) {
            Some(AnyGroup::Consumer(group)) => {
                group.check_heartbeat(request, config)?;
                if !self.has_room(group.growth(request)) {
                    return Err(GroupError::MemoryFull);
                }
            }
            _ if request.member_epoch != JOIN_EPOCH => return Err(GroupError::GroupIdNotFound),
            _ => return self.consumer_found(group_id, request, cluster, now, output),
        }
        let mut records = Vec::new();
        let group = self.consumer_mut(group_id).expect("just looked at");
        let answer = group.heartbeat(request, cluster.view, config, now, &mut records);
        self.after_consumer(group_id, records, output);
        Ok(answer)
    }

    /// The first member under this protocol makes the group, or makes a classic one with members change its protocol.
    fn consumer_found(
        &mut self,
        group_id: &str,
        request: &Heartbeat,
        cluster: Surroundings,
        now: Now,
        output: &mut Output,
    ) -> Result<HeartbeatAnswer, GroupError> {
        if !self.has_room(None) {
            return Err(GroupError::MemoryFull);
        }
        let (config, view) = (&(cluster.config_of)(group_id), cluster.view);
        let held = self.groups.get(group_id);
        // What a classic group without members leaves behind is its offsets.
        let classic = held.filter(|held| !held.group.is_empty()).and_then(|held| held.group.as_classic());
        let upgraded = classic.map(|classic| ConsumerGroup::from_classic(classic, view, config, now)).transpose()?;
        let mut records: Vec<ConsumerRecord> = upgraded.iter().flat_map(ConsumerGroup::records).collect();
        let changes_protocol = upgraded.is_some();
        let mut group = upgraded.unwrap_or_default();
        group.check_heartbeat(request, config)?;
        let answer = group.heartbeat(request, view, config, now, &mut records);
        let ended = held.filter(|held| held.classic_record).map(|_| super::tombstone(group_id));
        if changes_protocol {
            let written: Vec<LogRecord> = records.iter().map(|record| log_record(group_id, record)).collect();
            if event_bytes(written.iter().chain(&ended)) > self.event_bytes_max {
                return Err(GroupError::GroupIdNotFound);
            }
        }
        output.records.extend(ended);
        let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
        held.classic_record = false;
        let before = std::mem::replace(&mut held.group, AnyGroup::Consumer(Box::new(group)));
        if let AnyGroup::Classic(classic) = before {
            let released = classic.dissolve();
            output.joins.extend(released.joins);
            output.syncs.extend(released.syncs);
        }
        self.after_consumer(group_id, records, output);
        Ok(answer)
    }

    fn consumer_leave(
        &mut self,
        group_id: &str,
        request: &Heartbeat,
        view: &ClusterView,
        now: Now,
        output: &mut Output,
    ) -> Result<HeartbeatAnswer, GroupError> {
        let group = self.consumer_mut(group_id).ok_or(GroupError::GroupIdNotFound)?;
        let mut records = Vec::new();
        let instance = request.instance_id.as_deref();
        group.leave(&request.member_id, instance, request.member_epoch, view, &mut records)?;
        self.after_consumer(group_id, records, output);
        self.downgrade(group_id, true, view, now, output);
        Ok(HeartbeatAnswer {
            member_id: request.member_id.clone(),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }

    /// JoinGroup of a classic member to a consumer group with members.
    pub(super) fn join_consumer(
        &mut self,
        group_id: &str,
        request: &JoinRequest,
        cluster: Surroundings,
        now: Now,
        output: &mut Output,
    ) {
        let view = cluster.view;
        let mut records = Vec::new();
        let group = self.consumer_mut(group_id).expect("checked by the caller");
        let answer = group.classic_join(request, view, &(cluster.config_of)(group_id), now, &mut records);
        let is_settled = group.state() == ConsumerGroupState::Stable;
        output.joins.push((request.request, answer));
        self.after_consumer(group_id, records, output);
        // A static member may have taken the place of the last one of the consumer protocol.
        self.downgrade(group_id, !is_settled, view, now, output);
    }

    /// Makes a group whose members are all classic a classic group, if it may.
    pub(super) fn downgrade(
        &mut self,
        group_id: &str,
        rebalance: bool,
        view: &ClusterView,
        now: Now,
        output: &mut Output,
    ) {
        let Some(group) = self.groups.get(group_id).and_then(|held| held.group.as_consumer()) else { return };
        if !group.should_downgrade(&self.config) {
            return;
        }
        let Some(value) = group.to_classic(view, now) else { return };
        let mut records: Vec<LogRecord> =
            group.tombstones().iter().map(|record| log_record(group_id, record)).collect();
        let mut classic = Group::from_record(value);
        for member in group.members() {
            let offers = member.metadata.classic.iter().flat_map(|classic| &classic.protocols);
            let offers = offers.map(|(name, metadata)| Protocol { name: name.clone(), metadata: metadata.clone() });
            classic.set_protocols(&member.member_id, offers.collect());
        }
        records.push(super::classic_record(group_id, &classic));
        let event = &output.records[output.ends.last().copied().unwrap_or(0)..];
        if event_bytes(event.iter().chain(&records)) > self.event_bytes_max || !classic.fits_in_a_record(&self.config) {
            return;
        }
        output.records.extend(records);
        let mut effects = classic.loaded(&self.config, now);
        if rebalance && classic.state() == GroupState::Stable {
            let more = classic.rebalance(&self.config, now);
            effects.joins.extend(more.joins);
            effects.syncs.extend(more.syncs);
        }
        let held = self.groups.get_mut(group_id).expect("just looked at");
        held.group = AnyGroup::Classic(Box::new(classic));
        held.classic_record = true;
        self.after(group_id, effects, output);
    }

    /// None: there is no such group under this protocol.
    pub fn describe_consumer(&self, group_id: &str, config: &ConsumerConfig) -> Option<DescribedConsumerGroup> {
        let group = self.groups.get(group_id)?.group.as_consumer()?;
        let target = |member: &Member| group.target(&member.member_id).cloned().unwrap_or_default();
        Some(DescribedConsumerGroup {
            state: group.state().name(),
            epoch: group.epoch(),
            target_epoch: group.target_epoch(),
            assignor: group.assignor(config),
            members: group.members().map(|member| (member.clone(), target(member))).collect(),
        })
    }

    /// Whether `member_id` may read the offsets of the group; of a group that is not there, everybody may.
    pub fn check_fetch(&self, group_id: &str, member_id: Option<&str>, epoch: i32) -> Result<(), GroupError> {
        match self.groups.get(group_id).and_then(|held| held.group.as_consumer()) {
            Some(group) => group.check_fetch(member_id, epoch),
            None => Ok(()),
        }
    }

    pub(super) fn after_consumer(&mut self, group_id: &str, records: Vec<ConsumerRecord>, output: &mut Output) {
        let is_target = |record: &&ConsumerRecord| matches!(record, ConsumerRecord::TargetEpoch(Some(_)));
        output.assignments += records.iter().filter(is_target).count() as u64;
        output.records.extend(records.iter().map(|record| log_record(group_id, record)));
        self.settle(group_id);
    }

    pub(super) fn consumer_mut(&mut self, group_id: &str) -> Option<&mut ConsumerGroup> {
        self.groups.get_mut(group_id)?.group.as_consumer_mut()
    }
}

pub(super) fn log_record(group_id: &str, record: &ConsumerRecord) -> LogRecord {
    LogRecord { key: consumer::encode_key(group_id, record), value: consumer::encode_value(record) }
}
