//! A static member that comes back under another member id.

use super::{ConsumerGroup, JOIN_EPOCH};
use crate::group_records::consumer::ConsumerRecord;

impl ConsumerGroup {
    /// If somebody else holds the instance id: the new holder takes over what the old one had.
    pub(super) fn replace_static_member(
        &mut self,
        instance: Option<&str>,
        new_id: &str,
        records: &mut Vec<ConsumerRecord>,
    ) {
        let holder = instance.and_then(|instance| self.static_members.get(instance)).cloned();
        let Some(old_id) = holder.filter(|holder| holder != new_id) else { return };
        // A member that has been somebody else's before cannot hold two assignments.
        if self.members.contains_key(new_id) {
            self.remove_member(new_id, records);
        }
        let target = self.targets.get(&old_id).cloned().unwrap_or_default();
        let mut member = self.remove_member(&old_id, records);
        member.member_id = new_id.to_owned();
        member.current.epoch = JOIN_EPOCH;
        member.current.previous_epoch = JOIN_EPOCH;
        member.rebalance_deadline_ms = None;
        member.join_deadline_ms = None;
        member.sync_deadline_ms = None;
        records.push(ConsumerRecord::Member(new_id.to_owned(), Some(member.metadata.clone())));
        records.push(ConsumerRecord::Target(new_id.to_owned(), Some(target.clone())));
        records.push(ConsumerRecord::Current(new_id.to_owned(), Some(member.current.clone())));
        self.set_target(new_id, Some(target));
        self.put_member(member);
    }
}
