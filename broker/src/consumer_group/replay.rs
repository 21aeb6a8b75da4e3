//! A group as its log says.

use super::{ConsumerGroup, Member};
use crate::group_records::consumer::ConsumerRecord;

impl ConsumerGroup {
    /// Takes in one record, in log order. What is derived from it waits for [`ConsumerGroup::loaded`].
    pub fn replay(&mut self, record: ConsumerRecord) {
        match record {
            ConsumerRecord::Epoch(value) => {
                (self.epoch, self.metadata_hash) = value.map_or((0, 0), |value| (value.epoch, value.metadata_hash));
            }
            ConsumerRecord::Member(id, Some(metadata)) => self.replayed_member(id).metadata = metadata,
            ConsumerRecord::Member(id, None) => {
                self.members.remove(&id);
            }
            ConsumerRecord::TargetEpoch(value) => {
                (self.target_epoch, self.target_timestamp_ms) =
                    value.map_or((0, 0), |value| (value.epoch, value.timestamp_ms));
            }
            ConsumerRecord::Target(id, Some(target)) => {
                self.targets.insert(id, target);
            }
            ConsumerRecord::Target(id, None) => {
                self.targets.remove(&id);
            }
            ConsumerRecord::Current(id, Some(current)) => self.replayed_member(id).current = current,
            ConsumerRecord::Current(id, None) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.current = Member::new(id).current;
                }
            }
            ConsumerRecord::Regex(regex, Some(resolved)) => {
                self.regexes.insert(regex, resolved);
            }
            ConsumerRecord::Regex(regex, None) => {
                self.regexes.remove(&regex);
            }
        }
    }

    fn replayed_member(&mut self, id: String) -> &mut Member {
        self.members.entry(id).or_insert_with_key(|id| Member::new(id.clone()))
    }
}
