//! One member's way to its target assignment.
//!
//! First it gives up what is not its any more, and stays in its epoch until its heartbeats no longer name those
//! partitions. Then it enters the target's epoch, and gets of its target what nobody else holds; the rest comes as
//! others let go.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::member::split_off;
use super::{Member, OwnedPartitions};
use crate::group_records::consumer::{Assignment, MemberState};

pub(super) struct Reconciliation<'a> {
    pub(super) target_epoch: i32,
    pub(super) target: &'a Assignment,
    /// Topics of the member's subscription that exist.
    pub(super) subscribed: &'a BTreeSet<Uuid>,
    pub(super) subscription_changed: bool,
    /// The partitions that the member says it has; None: it did not say.
    pub(super) owned: Option<&'a Assignment>,
}

impl Reconciliation<'_> {
    /// `is_held`: somebody else holds the partition.
    pub(super) fn advance(&self, member: &mut Member, is_held: impl Fn(Uuid, i32) -> bool) {
        match member.current.state {
            MemberState::Stable if member.current.epoch == self.target_epoch => {
                if self.subscription_changed {
                    self.drop_unsubscribed(member);
                }
            }
            MemberState::UnrevokedPartitions if self.owns_any(&member.current.revoking) => {
                if self.subscription_changed {
                    self.drop_unsubscribed(member);
                }
            }
            MemberState::Unknown => {
                member.current.epoch = self.target_epoch;
                self.follow_target(member, is_held);
            }
            MemberState::Stable | MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.follow_target(member, is_held);
            }
        }
    }

    fn follow_target(&self, member: &mut Member, is_held: impl Fn(Uuid, i32) -> bool) {
        let wanted = |topic: Uuid, partition: i32| {
            self.subscribed.contains(&topic)
                && self.target.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
        };
        let surplus = split_off(&mut member.current.assigned, wanted);
        if self.owns_any(&surplus) {
            // It stays in its epoch until it has given these up.
            member.current.state = MemberState::UnrevokedPartitions;
            member.current.revoking = surplus;
            member.enter_epoch(member.current.epoch);
            return;
        }
        member.current.revoking = OwnedPartitions::new();
        let mut is_waiting = false;
        for (topic, partitions) in self.target.iter().filter(|(topic, _)| self.subscribed.contains(*topic)) {
            for partition in partitions {
                if member.current.assigned.get(topic).is_some_and(|held| held.contains_key(partition)) {
                    continue;
                }
                if is_held(*topic, *partition) {
                    is_waiting = true;
                } else {
                    member.current.assigned.entry(*topic).or_default().insert(*partition, self.target_epoch);
                }
            }
        }
        member.current.state = if is_waiting { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        member.enter_epoch(self.target_epoch);
    }

    /// The member no longer reads some topics: it gives them up before there is a new target.
    fn drop_unsubscribed(&self, member: &mut Member) {
        let dropped = split_off(&mut member.current.assigned, |topic, _| self.subscribed.contains(&topic));
        if dropped.is_empty() {
            return;
        }
        let mut revoking = member.current.revoking.clone();
        for (topic, partitions) in dropped {
            revoking.entry(topic).or_default().extend(partitions);
        }
        if self.owns_any(&revoking) {
            member.current.state = MemberState::UnrevokedPartitions;
            member.current.revoking = revoking;
        }
        member.enter_epoch(member.current.epoch);
    }

    /// May the member still be reading any of these? If it does not say, it may.
    fn owns_any(&self, partitions: &OwnedPartitions) -> bool {
        let Some(owned) = self.owned else { return !partitions.is_empty() };
        partitions.iter().any(|(topic, partitions)| {
            owned.get(topic).is_some_and(|owned| partitions.keys().any(|partition| owned.contains(partition)))
        })
    }
}
