//! Groups under the consumer protocol in the shard: requests in, records out.

use super::{AnyGroup, GroupShard, Held, LogRecord, Output};
use crate::assignor::Assignor;
use crate::consumer_group::{
    ClusterView, ConsumerConfig, ConsumerGroup, Heartbeat, HeartbeatAnswer, JOIN_EPOCH, LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH, Member,
};
use crate::group::{GroupError, Now};
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
        config: &ConsumerConfig,
        view: &ClusterView,
        now: Now,
        output: &mut Output,
    ) -> Result<HeartbeatAnswer, GroupError> {
        if matches!(request.member_epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH) {
            return self.consumer_leave(group_id, request, view, output);
        }
        let mut records = Vec::new();
        let joins = request.member_epoch == JOIN_EPOCH;
        match self.groups.get(group_id).map(|held| &held.group) {
            Some(AnyGroup::Consumer(group)) => {
                if joins && self.over_budget() {
                    return Err(GroupError::CoordinatorNotAvailable);
                }
                group.check_heartbeat(request, config)?;
            }
            _ if !joins => return Err(GroupError::GroupIdNotFound),
            held => {
                if self.over_budget() {
                    return Err(GroupError::CoordinatorNotAvailable);
                }
                if held.is_some_and(|group| !group.is_empty()) {
                    return Err(GroupError::GroupIdNotFound);
                }
                // What a classic group leaves behind is its offsets.
                ConsumerGroup::default().check_heartbeat(request, config)?;
                self.drop_classic_record(group_id, output);
                let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
                held.group = AnyGroup::Consumer(Box::default());
                held.stored = true;
            }
        }
        let group = self.consumer_mut(group_id).expect("just looked at or made");
        let answer = group.heartbeat(request, view, config, now, &mut records);
        self.after_consumer(group_id, records, output);
        Ok(answer)
    }

    fn consumer_leave(
        &mut self,
        group_id: &str,
        request: &Heartbeat,
        view: &ClusterView,
        output: &mut Output,
    ) -> Result<HeartbeatAnswer, GroupError> {
        let group = self.consumer_mut(group_id).ok_or(GroupError::GroupIdNotFound)?;
        let mut records = Vec::new();
        let instance = request.instance_id.as_deref();
        group.leave(&request.member_id, instance, request.member_epoch, view, &mut records)?;
        self.after_consumer(group_id, records, output);
        Ok(HeartbeatAnswer {
            member_id: request.member_id.clone(),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
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

    pub(super) fn replay_consumer(&mut self, group_id: &str, record: ConsumerRecord, now: Now) {
        let is_consumer = self.groups.get(group_id).is_some_and(|held| held.group.as_consumer().is_some());
        if !is_consumer {
            if consumer::encode_value(&record).is_none() {
                return;
            }
            let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
            held.group = AnyGroup::Consumer(Box::default());
            held.stored = true;
        }
        let ends = record == ConsumerRecord::Epoch(None);
        self.consumer_mut(group_id).expect("just made").replay(record);
        if ends {
            let held = self.groups.get_mut(group_id).expect("just made");
            held.group = AnyGroup::classic(now);
            held.stored = false;
        }
        self.account(group_id);
    }

    pub(super) fn after_consumer(&mut self, group_id: &str, records: Vec<ConsumerRecord>, output: &mut Output) {
        output.records.extend(records.iter().map(|record| log_record(group_id, record)));
        self.settle(group_id);
    }

    fn consumer_mut(&mut self, group_id: &str) -> Option<&mut ConsumerGroup> {
        self.groups.get_mut(group_id)?.group.as_consumer_mut()
    }

    fn drop_classic_record(&mut self, group_id: &str, output: &mut Output) {
        if let Some(held) = self.groups.get_mut(group_id).filter(|held| held.stored) {
            held.stored = false;
            output.records.push(super::tombstone(group_id));
        }
    }
}

pub(super) fn log_record(group_id: &str, record: &ConsumerRecord) -> LogRecord {
    LogRecord { key: consumer::encode_key(group_id, record), value: consumer::encode_value(record) }
}
