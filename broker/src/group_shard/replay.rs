//! The shard as its log says. What is derived from the records, sizes and deadlines above all, is made once, at the end.

use super::{AnyGroup, GroupShard, Held, Output, Surroundings};
use crate::group::{Group, Now};
use crate::group_records::GroupRecord;
use crate::group_records::consumer::{self, ConsumerRecord};

impl GroupShard {
    /// Takes in what the log says, in log order. What is summed up waits for [`GroupShard::loaded`].
    pub fn replay(&mut self, record: GroupRecord, now: Now) {
        match record {
            GroupRecord::Offset { key, value: Some(value) } => {
                let held = self.groups.entry(key.group.clone()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
                held.offsets.put(&key.topic, key.partition, value);
            }
            GroupRecord::Offset { key, value: None } => {
                if let Some(held) = self.groups.get_mut(&key.group) {
                    held.offsets.remove(&key.topic, key.partition);
                }
            }
            GroupRecord::Group { group, value: Some(value) } => {
                let held = self.groups.entry(group.clone()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
                held.group = AnyGroup::Classic(Box::new(Group::from_record(value)));
                held.classic_record = true;
            }
            GroupRecord::Group { group, value: None } => {
                if let Some(held) = self.groups.get_mut(&group).filter(|held| held.group.as_classic().is_some()) {
                    held.group = AnyGroup::classic(now);
                    held.classic_record = false;
                }
            }
            GroupRecord::Consumer { group, record } => self.replay_consumer(&group, record, now),
            GroupRecord::Other(_) => {}
        }
    }

    /// To be called once, after the last `replay`.
    pub fn loaded(&mut self, cluster: Surroundings, now: Now, output: &mut Output) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for group_id in ids {
            match &mut self.groups.get_mut(&group_id).expect("just listed").group {
                AnyGroup::Classic(group) => {
                    let effects = group.loaded(&self.config, now);
                    self.after(&group_id, effects, output);
                }
                AnyGroup::Consumer(group) => {
                    group.loaded(&(cluster.config_of)(&group_id), now);
                    self.settle(&group_id);
                }
            }
        }
    }

    fn replay_consumer(&mut self, group_id: &str, record: ConsumerRecord, now: Now) {
        let is_consumer = self.groups.get(group_id).is_some_and(|held| held.group.as_consumer().is_some());
        if !is_consumer {
            if consumer::encode_value(&record).is_none() {
                return;
            }
            let held = self.groups.entry(group_id.to_owned()).or_insert_with(|| Held::new(AnyGroup::classic(now)));
            held.group = AnyGroup::Consumer(Box::default());
            held.classic_record = false;
        }
        let ends = record == ConsumerRecord::Epoch(None);
        self.consumer_mut(group_id).expect("just made").replay(record);
        if ends {
            let held = self.groups.get_mut(group_id).expect("just made");
            held.group = AnyGroup::classic(now);
        }
    }
}
