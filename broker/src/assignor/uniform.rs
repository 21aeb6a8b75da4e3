//! Even numbers of partitions, and as few moves as that takes.
//!
//! When all members read the same topics, two passes are enough. Otherwise partitions go where they may and there are
//! the fewest, and then from the fullest to the emptiest reader of each topic, until no move makes two members more
//! equal (or the rounds are used up).

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{MemberSpec, count, same_subscription};
use crate::group_records::consumer::Assignment;

/// Overlapping subscriptions may take many rounds to level out; each roughly halves what is left.
const BALANCE_ROUNDS_MAX: usize = 16;

pub(super) fn assign(members: &[MemberSpec], partitions: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
    let mut spread = Spread::keep_current(members, partitions);
    if same_subscription(members) {
        spread.level_all();
    } else {
        spread.place_unowned();
        spread.balance();
    }
    spread.into_assignments()
}

struct Spread<'a> {
    members: &'a [MemberSpec<'a>],
    /// Topic -> partition -> index of its member.
    owners: BTreeMap<Uuid, Vec<Option<usize>>>,
    /// Partitions of each member.
    loads: Vec<usize>,
}

impl<'a> Spread<'a> {
    /// Everybody keeps what it has and may have.
    fn keep_current(members: &'a [MemberSpec<'a>], partitions: &BTreeMap<Uuid, i32>) -> Self {
        let topics: BTreeSet<Uuid> = match members.first() {
            Some(first) if same_subscription(members) => (*first.topics).clone(),
            _ => members.iter().flat_map(|member| member.topics.iter().copied()).collect(),
        };
        let owners = topics.into_iter().map(|topic| (topic, vec![None; count(partitions, &topic) as usize])).collect();
        let mut spread = Self { members, owners, loads: vec![0; members.len()] };
        for (at, member) in members.iter().enumerate() {
            for (topic, kept) in member.current.iter().filter(|(topic, _)| member.topics.contains(*topic)) {
                let owners = spread.owners.get_mut(topic).expect("topics of all members are there");
                for partition in kept {
                    let slot = usize::try_from(*partition).ok().and_then(|partition| owners.get_mut(partition));
                    if let Some(slot @ None) = slot {
                        *slot = Some(at);
                        spread.loads[at] += 1;
                    }
                }
            }
        }
        spread
    }

    /// All members read the same: each gets the same number, some one more, first those who have it already.
    fn level_all(&mut self) {
        let total: usize = self.owners.values().map(Vec::len).sum();
        let Some(fair) = total.checked_div(self.members.len()) else { return };
        let mut extras = total % self.members.len();
        let quotas: Vec<usize> = (self.loads.iter())
            .map(|load| {
                let keeps_extra = *load > fair && extras > 0;
                extras -= usize::from(keeps_extra);
                fair + usize::from(keeps_extra)
            })
            .collect();
        // Those who had no more than their share take what is over.
        let quotas: Vec<usize> = (quotas.into_iter())
            .map(|quota| {
                let takes_extra = quota == fair && extras > 0;
                extras -= usize::from(takes_extra);
                quota + usize::from(takes_extra)
            })
            .collect();
        let mut kept = vec![0; self.members.len()];
        for slot in self.owners.values_mut().flatten() {
            if let Some(at) = *slot {
                if kept[at] < quotas[at] { kept[at] += 1 } else { *slot = None }
            }
        }
        self.loads = kept;
        let mut taker = 0;
        for slot in self.owners.values_mut().flatten().filter(|slot| slot.is_none()) {
            while self.loads[taker] >= quotas[taker] {
                taker += 1;
            }
            *slot = Some(taker);
            self.loads[taker] += 1;
        }
    }

    /// Each partition without a member goes to the reader of its topic that has the fewest. Topics with the most
    /// partitions per reader come first: the others level them out.
    fn place_unowned(&mut self) {
        let readers = self.readers();
        let mut topics: Vec<Uuid> = readers.keys().copied().collect();
        topics.sort_by(|one, other| {
            // a/b > c/d without division.
            let per_reader = |topic: &Uuid, other: &Uuid| self.owners[topic].len() * readers[other].len();
            per_reader(other, one)
                .cmp(&per_reader(one, other))
                .then(readers[one].len().cmp(&readers[other].len()))
                .then(one.cmp(other))
        });
        for topic in topics {
            let mut by_load: BTreeSet<(usize, usize)> =
                readers[&topic].iter().map(|at| (self.loads[*at], *at)).collect();
            let owners = self.owners.get_mut(&topic).expect("a topic that is read");
            for slot in owners.iter_mut().filter(|slot| slot.is_none()) {
                let (load, at) = by_load.pop_first().expect("a topic that is read has readers");
                *slot = Some(at);
                self.loads[at] = load + 1;
                by_load.insert((load + 1, at));
            }
        }
    }

    fn balance(&mut self) {
        let readers = self.readers();
        for _ in 0..BALANCE_ROUNDS_MAX {
            let mut moved = false;
            for (topic, readers) in &readers {
                moved |= self.balance_topic(topic, readers);
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves partitions of one topic between its readers while two of them differ by more than one.
    fn balance_topic(&mut self, topic: &Uuid, readers: &[usize]) -> bool {
        let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let owners = self.owners.get_mut(topic).expect("a topic that is read");
        for (partition, owner) in owners.iter().enumerate() {
            owned.entry(owner.expect("all are placed")).or_default().push(partition);
        }
        let mut by_load: BTreeSet<(usize, usize)> = readers.iter().map(|at| (self.loads[*at], *at)).collect();
        let mut givers: BTreeSet<(usize, usize)> = owned.keys().map(|at| (self.loads[*at], *at)).collect();
        let mut moved = false;
        while let (Some(&(most, from)), Some(&(least, to))) = (givers.last(), by_load.first()) {
            if most <= least + 1 {
                break;
            }
            let partition = owned.get_mut(&from).and_then(Vec::pop).expect("a giver has partitions of the topic");
            owners[partition] = Some(to);
            owned.entry(to).or_default().push(partition);
            for (at, load) in [(from, most), (to, least)] {
                by_load.remove(&(load, at));
                givers.remove(&(load, at));
            }
            (self.loads[from], self.loads[to]) = (most - 1, least + 1);
            for at in [from, to] {
                by_load.insert((self.loads[at], at));
                if !owned[&at].is_empty() {
                    givers.insert((self.loads[at], at));
                }
            }
            moved = true;
        }
        moved
    }

    /// Topic -> the members that read it. Topics without partitions do not matter.
    fn readers(&self) -> BTreeMap<Uuid, Vec<usize>> {
        let mut readers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (at, member) in self.members.iter().enumerate() {
            for topic in member.topics.iter().filter(|topic| !self.owners[*topic].is_empty()) {
                readers.entry(*topic).or_default().push(at);
            }
        }
        readers
    }

    fn into_assignments(self) -> Vec<Assignment> {
        let mut assignments = vec![Assignment::new(); self.members.len()];
        for (topic, owners) in self.owners {
            for (partition, owner) in owners.into_iter().enumerate() {
                if let Some(at) = owner {
                    assignments[at].entry(topic).or_default().insert(partition as i32);
                }
            }
        }
        assignments
    }
}
