//! The members of a group and those about to be: by id, with what is asked for at every request kept beside.
//!
//! Every change of a member goes through here, so that sizes, deadlines and counts are right without a walk over all
//! members: a group of thousands would otherwise cost the square of its size.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::{Member, Now};

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Members {
    by_id: BTreeMap<String, Member>,
    derived: Derived,
}

/// What follows from the members.
#[derive(Debug, Clone, Default, PartialEq)]
struct Derived {
    bytes: usize,
    /// Members whose JoinGroup is parked.
    joined: usize,
    /// Name of a protocol -> members that offer it.
    offers: BTreeMap<String, usize>,
    sessions: Deadlines,
}

impl Deref for Members {
    type Target = BTreeMap<String, Member>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

impl Members {
    pub(super) fn insert(&mut self, member: Member) {
        self.remove(&member.member_id);
        self.derived.count(&member);
        self.by_id.insert(member.member_id.clone(), member);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.by_id.remove(id)?;
        self.derived.uncount(&member);
        Some(member)
    }

    /// None: there is no such member.
    pub(super) fn change<R>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let member = self.by_id.get_mut(id)?;
        self.derived.uncount(member);
        let result = change(member);
        self.derived.count(member);
        Some(result)
    }

    pub(super) fn change_all(&mut self, mut change: impl FnMut(&mut Member)) {
        self.by_id.values_mut().for_each(&mut change);
        self.derived = Derived::of(self.by_id.values());
    }

    /// As `change` would, but heartbeats are many.
    pub(super) fn extend_session(&mut self, id: &str, now: Now) {
        if let Some(member) = self.by_id.get_mut(id) {
            self.derived.sessions.remove(member.session_deadline_ms, id);
            member.extend_session(now);
            self.derived.sessions.insert(member.session_deadline_ms, id);
        }
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = Member> {
        self.by_id.into_values()
    }

    pub(super) fn bytes(&self) -> usize {
        debug_assert_eq!(
            self.derived,
            Derived::of(self.by_id.values()),
            "a member was changed behind the group's back"
        );
        self.derived.bytes
    }

    pub(super) fn joined(&self) -> usize {
        self.derived.joined
    }

    pub(super) fn all_offer(&self, protocol: &str) -> bool {
        self.derived.offers.get(protocol).copied().unwrap_or(0) == self.by_id.len()
    }

    pub(super) fn sessions(&self) -> &Deadlines {
        &self.derived.sessions
    }
}

impl Derived {
    fn of<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let mut derived = Self::default();
        members.for_each(|member| derived.count(member));
        derived
    }

    fn count(&mut self, member: &Member) {
        self.bytes += member.bytes();
        self.joined += usize::from(member.awaiting_join.is_some());
        for name in offered(member) {
            match self.offers.get_mut(name) {
                Some(count) => *count += 1,
                None => {
                    self.offers.insert(name.to_owned(), 1);
                }
            }
        }
        self.sessions.insert(member.session_deadline_ms, &member.member_id);
    }

    fn uncount(&mut self, member: &Member) {
        self.bytes -= member.bytes();
        self.joined -= usize::from(member.awaiting_join.is_some());
        for name in offered(member) {
            let count = self.offers.get_mut(name).expect("what was counted");
            *count -= 1;
            if *count == 0 {
                self.offers.remove(name);
            }
        }
        self.sessions.remove(member.session_deadline_ms, &member.member_id);
    }
}

/// A name listed twice is one offer.
fn offered(member: &Member) -> BTreeSet<&str> {
    member.protocols.iter().map(|offer| offer.name.as_str()).collect()
}

/// Ids given out with MEMBER_ID_REQUIRED that have not joined yet, and when they lapse.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PendingJoins {
    by_id: BTreeMap<String, u64>,
    bytes: usize,
    deadlines: Deadlines,
}

impl Deref for PendingJoins {
    type Target = BTreeMap<String, u64>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

impl PendingJoins {
    pub(super) fn insert(&mut self, id: &str, lapses_ms: u64) {
        self.remove(id);
        self.bytes += pending_bytes(id);
        self.deadlines.insert(Some(lapses_ms), id);
        self.by_id.insert(id.to_owned(), lapses_ms);
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(lapses_ms) = self.by_id.remove(id) {
            self.bytes -= pending_bytes(id);
            self.deadlines.remove(Some(lapses_ms), id);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }
}

fn pending_bytes(id: &str) -> usize {
    2 * id.len() + 128
}

/// Ids by the time at which something is due.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Deadlines(BTreeSet<(u64, String)>);

impl Deadlines {
    fn insert(&mut self, at_ms: Option<u64>, id: &str) {
        self.0.extend(at_ms.map(|at_ms| (at_ms, id.to_owned())));
    }

    fn remove(&mut self, at_ms: Option<u64>, id: &str) {
        if let Some(at_ms) = at_ms {
            self.0.remove(&(at_ms, id.to_owned()));
        }
    }

    pub(super) fn first_ms(&self) -> Option<u64> {
        self.0.first().map(|(at_ms, _)| *at_ms)
    }

    pub(super) fn due(&self, now: Now) -> impl Iterator<Item = (u64, String)> {
        self.0.iter().take_while(move |(at_ms, _)| *at_ms <= now.monotonic_ms).cloned()
    }
}
