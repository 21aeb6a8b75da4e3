//! Contiguous ranges of each topic, in the same order of members for all topics.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{MemberSpec, count};
use crate::group_records::consumer::Assignment;

/// How far a topic is given out.
struct Progress {
    members_left: i32,
    next: i32,
    end: i32,
}

pub(super) fn assign(members: &[MemberSpec], partitions: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
    let mut progress: BTreeMap<Uuid, Progress> = BTreeMap::new();
    for topic in members.iter().flat_map(|member| member.topics.iter()) {
        let fresh = || Progress { members_left: 0, next: 0, end: count(partitions, topic) };
        progress.entry(*topic).or_insert_with(fresh).members_left += 1;
    }
    let mut assignments = vec![Assignment::new(); members.len()];
    for at in order(members) {
        for topic in members[at].topics.iter() {
            let topic_progress = progress.get_mut(topic).expect("counted above");
            let left = topic_progress.end - topic_progress.next;
            // The first members get one more where it does not come out even.
            let share = (left + topic_progress.members_left - 1) / topic_progress.members_left;
            if share > 0 {
                let range = topic_progress.next..topic_progress.next + share;
                assignments[at].insert(*topic, range.collect());
            }
            topic_progress.next += share;
            topic_progress.members_left -= 1;
        }
    }
    assignments
}

/// Static members first, by their instance ids, so that a restart under a new member id changes nothing.
fn order(members: &[MemberSpec]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|at| (members[*at].instance_id.is_none(), members[*at].instance_id, members[*at].id));
    order
}
