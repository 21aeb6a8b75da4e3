//! Incremental fetch sessions (KIP-227), pure: which partitions a fetch is about, and which of its answers are sent.
//!
//! A client names its partitions once; later requests say only what changed, and answers leave out partitions of which
//! nothing is new. The broker keeps the list, so sessions are a cache: a client whose session was evicted learns it by an
//! error and names everything again. Partitions that got records go to the end of the order, so that a small response
//! does not serve the same ones for ever.
//!
//! Time and new session ids come from the caller. Left to others: reading records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

/// The epoch of a request that names all its partitions and wants a session.
pub const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that names all its partitions and wants no session, or ends the one it has.
pub const FINAL_EPOCH: i32 = -1;
/// "No session."
pub const NO_SESSION: i32 = 0;

/// A session unused for this long may be evicted by any other; one younger than this is evicted by none that is used.
pub const EVICTION_MS: i64 = 120_000;

/// Partitions that all sessions together may hold: bounds their memory to some 200 MB, whatever clients ask for.
pub const CACHED_PARTITIONS_MAX: usize = 1_000_000;

/// A topic as the client names it: by id from Fetch v13 on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchTopic {
    Name(Arc<str>),
    Id(Uuid),
}

/// What a client wants of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartition {
    pub topic: FetchTopic,
    pub index: i32,
    pub fetch_offset: i64,
    pub max_bytes: i32,
    /// -1: unknown to the client.
    pub current_leader_epoch: i32,
    /// -1: none.
    pub last_fetched_epoch: i32,
}

/// The session part of a fetch request.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    pub session_id: i32,
    pub epoch: i32,
    pub by_topic_id: bool,
    pub partitions: Vec<FetchPartition>,
    pub forgotten: Vec<(FetchTopic, i32)>,
}

/// What decides whether the answer of a partition is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerSummary {
    pub has_records: bool,
    /// An error, a diverging epoch, or anything else that must reach the client.
    pub must_send: bool,
    pub high_watermark: i64,
    pub log_start: i64,
}

/// What a request asks for once its session is known. Give it back with [`FetchSessions::end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchContext {
    kind: Kind,
    /// In the order in which they are served.
    pub partitions: Vec<FetchPartition>,
}

/// How a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionAnswer {
    /// For the response. [`NO_SESSION`]: none.
    pub session_id: i32,
    /// For each partition of the context: whether its answer is sent.
    pub sent: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("no such fetch session")]
    NotFound,
    #[error("the fetch session is at another epoch")]
    InvalidEpoch,
    #[error("the fetch session names topics in the other way")]
    TopicIds,
}

/// All sessions of a broker.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    sessions: BTreeMap<i32, Session>,
    /// (last used, id)
    by_use: BTreeSet<(i64, i32)>,
    partitions: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sessionless,
    /// A session is made for it if there is room.
    Full {
        by_topic_id: bool,
    },
    Incremental {
        session_id: i32,
        epoch: i32,
    },
}

#[derive(Debug)]
struct Session {
    by_topic_id: bool,
    created_ms: i64,
    used_ms: i64,
    /// The epoch that the next request must have.
    epoch: i32,
    next_place: u64,
    /// Partitions by their place in the order.
    places: BTreeMap<u64, CachedPartition>,
    by_key: BTreeMap<(FetchTopic, i32), u64>,
}

#[derive(Debug)]
struct CachedPartition {
    wanted: FetchPartition,
    /// As last sent.
    high_watermark: i64,
    log_start: i64,
}

impl FetchContext {
    /// The session that goes on; none where this request would have made or ended one.
    pub fn running_session(&self) -> i32 {
        match self.kind {
            Kind::Incremental { session_id, .. } => session_id,
            Kind::Sessionless | Kind::Full { .. } => NO_SESSION,
        }
    }
}

impl FetchSessions {
    /// `slots`: `max.incremental.fetch.session.cache.slots`.
    pub fn new(slots: usize) -> FetchSessions {
        FetchSessions { slots, sessions: BTreeMap::new(), by_use: BTreeSet::new(), partitions: 0 }
    }

    /// Says what the request is about. A full request ends the session that it names.
    pub fn begin(&mut self, request: SessionRequest, now_ms: i64) -> Result<FetchContext, SessionError> {
        let SessionRequest { session_id, epoch, by_topic_id, partitions, forgotten } = request;
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            if session_id != NO_SESSION {
                self.remove(session_id);
            }
            let kind = if epoch == FINAL_EPOCH { Kind::Sessionless } else { Kind::Full { by_topic_id } };
            return Ok(FetchContext { kind, partitions });
        }
        let session = self.sessions.get_mut(&session_id).ok_or(SessionError::NotFound)?;
        if session.epoch != epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.by_topic_id != by_topic_id {
            return Err(SessionError::TopicIds);
        }
        let before = session.places.len();
        session.update(partitions, forgotten);
        self.partitions = self.partitions - before + session.places.len();
        if session.places.is_empty() || self.partitions > CACHED_PARTITIONS_MAX {
            let partitions = session.wanted();
            self.remove(session_id);
            return Ok(FetchContext { kind: Kind::Sessionless, partitions });
        }
        session.epoch = next_epoch(epoch);
        self.by_use.remove(&(session.used_ms, session_id));
        session.used_ms = now_ms;
        self.by_use.insert((now_ms, session_id));
        Ok(FetchContext { kind: Kind::Incremental { session_id, epoch: session.epoch }, partitions: session.wanted() })
    }

    /// Says which answers are sent, and under which session. `answers` are those of `context.partitions`, in that order.
    /// `new_ids` gives random ids for a session that is made.
    pub fn end(
        &mut self,
        context: &FetchContext,
        answers: &[AnswerSummary],
        now_ms: i64,
        new_ids: impl FnMut() -> i32,
    ) -> SessionAnswer {
        assert_eq!(context.partitions.len(), answers.len(), "one answer per partition");
        match context.kind {
            Kind::Sessionless => all_sent(NO_SESSION, answers),
            Kind::Full { by_topic_id } => {
                let session_id = self.make_session(by_topic_id, &context.partitions, answers, now_ms, new_ids);
                all_sent(session_id, answers)
            }
            Kind::Incremental { session_id, epoch } => match self.sessions.get_mut(&session_id) {
                Some(session) if session.epoch == epoch => {
                    let sent = session.send(&context.partitions, answers);
                    SessionAnswer { session_id, sent }
                }
                // Evicted, or already used by another request: the client will learn it with its next one.
                _ => all_sent(session_id, answers),
            },
        }
    }

    /// Sessions, and the partitions that they hold.
    pub fn usage(&self) -> (usize, usize) {
        (self.sessions.len(), self.partitions)
    }

    fn make_session(
        &mut self,
        by_topic_id: bool,
        partitions: &[FetchPartition],
        answers: &[AnswerSummary],
        now_ms: i64,
        mut new_ids: impl FnMut() -> i32,
    ) -> i32 {
        if partitions.is_empty()
            || self.partitions + partitions.len() > CACHED_PARTITIONS_MAX
            || !self.make_room(partitions.len(), now_ms)
        {
            return NO_SESSION;
        }
        let session_id = loop {
            let id = new_ids();
            if id > NO_SESSION && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            by_topic_id,
            created_ms: now_ms,
            used_ms: now_ms,
            epoch: next_epoch(INITIAL_EPOCH),
            next_place: 0,
            places: BTreeMap::new(),
            by_key: BTreeMap::new(),
        };
        session.update(partitions.to_vec(), Vec::new());
        session.send(partitions, answers);
        self.partitions += session.places.len();
        self.by_use.insert((now_ms, session_id));
        self.sessions.insert(session_id, session);
        session_id
    }

    /// Frees a slot if there is none: the session that was unused for too long, or else a smaller one of a certain age.
    fn make_room(&mut self, partitions: usize, now_ms: i64) -> bool {
        if self.sessions.len() < self.slots {
            return true;
        }
        let Some((used_ms, oldest)) = self.by_use.first().copied() else { return false };
        if now_ms - used_ms > EVICTION_MS {
            self.remove(oldest);
            return true;
        }
        let smallest = (self.sessions.iter())
            .filter(|(_, session)| session.used_ms - session.created_ms > EVICTION_MS)
            .map(|(id, session)| (session.places.len(), *id))
            .min();
        match smallest {
            Some((size, id)) if size < partitions => {
                self.remove(id);
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, session_id: i32) {
        if let Some(session) = self.sessions.remove(&session_id) {
            self.by_use.remove(&(session.used_ms, session_id));
            self.partitions -= session.places.len();
        }
    }
}

impl Session {
    fn update(&mut self, partitions: Vec<FetchPartition>, forgotten: Vec<(FetchTopic, i32)>) {
        for wanted in partitions {
            let key = (wanted.topic.clone(), wanted.index);
            if let Some(place) = self.by_key.get(&key) {
                self.places.get_mut(place).expect("every key has its place").wanted = wanted;
            } else {
                self.add(key, CachedPartition { wanted, high_watermark: -1, log_start: -1 });
            }
        }
        for key in forgotten {
            if let Some(place) = self.by_key.remove(&key) {
                self.places.remove(&place);
            }
        }
    }

    fn add(&mut self, key: (FetchTopic, i32), partition: CachedPartition) {
        self.by_key.insert(key, self.next_place);
        self.places.insert(self.next_place, partition);
        self.next_place += 1;
    }

    fn wanted(&self) -> Vec<FetchPartition> {
        self.places.values().map(|cached| cached.wanted.clone()).collect()
    }

    /// Decides which answers are sent, remembers what they say, and moves those with records to the end.
    fn send(&mut self, partitions: &[FetchPartition], answers: &[AnswerSummary]) -> Vec<bool> {
        let send_one = |(wanted, answer): (&FetchPartition, &AnswerSummary)| {
            let key = (wanted.topic.clone(), wanted.index);
            let Some(place) = self.by_key.get(&key).copied() else { return true };
            let cached = self.places.get_mut(&place).expect("every key has its place");
            let changed = cached.high_watermark != answer.high_watermark || cached.log_start != answer.log_start;
            // After an error the next answer is sent even if it says nothing new.
            cached.high_watermark = if answer.must_send { -1 } else { answer.high_watermark };
            cached.log_start = answer.log_start;
            if answer.has_records {
                let cached = self.places.remove(&place).expect("looked up above");
                self.add(key, cached);
            }
            changed || answer.has_records || answer.must_send
        };
        partitions.iter().zip(answers).map(send_one).collect()
    }
}

fn all_sent(session_id: i32, answers: &[AnswerSummary]) -> SessionAnswer {
    SessionAnswer { session_id, sent: vec![true; answers.len()] }
}

/// The epoch after `epoch`: 0 and -1 are not epochs of a running session.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_12_a_session_lives_from_full_through_increments_to_its_end() {
        let mut sessions = FetchSessions::new(10);
        let full = sessions.begin(full(&[("a", 0, 0), ("a", 1, 0), ("b", 0, 0)]), 0).unwrap();
        assert_eq!(names(&full), ["a-0@0", "a-1@0", "b-0@0"]);
        let answer = sessions.end(&full, &[quiet(5), quiet(5), quiet(5)], 0, ids(7));
        assert_eq!(answer, SessionAnswer { session_id: 7, sent: vec![true; 3] });

        // One offset moves, one partition is forgotten, one is new.
        let request = change(7, 1, &[("a", 1, 3), ("c", 0, 0)], &[("b", 0)]);
        let second = sessions.begin(request, 1).unwrap();
        assert_eq!(names(&second), ["a-0@0", "a-1@3", "c-0@0"]);
        let answer = sessions.end(&second, &[quiet(5), quiet(6), quiet(0)], 1, no_ids);
        assert_eq!(answer, SessionAnswer { session_id: 7, sent: vec![false, true, true] });

        // Nothing is named: all partitions are still meant.
        let third = sessions.begin(change(7, 2, &[], &[]), 2).unwrap();
        assert_eq!(names(&third), ["a-0@0", "a-1@3", "c-0@0"]);
        let answer = sessions.end(&third, &[quiet(5), quiet(6), quiet(0)], 2, no_ids);
        assert_eq!(answer.sent, [false; 3]);

        // The final epoch ends it.
        let last = sessions.begin(SessionRequest { session_id: 7, epoch: FINAL_EPOCH, ..full_of(&[]) }, 3).unwrap();
        assert_eq!(sessions.end(&last, &[], 3, no_ids).session_id, NO_SESSION);
        assert_eq!(sessions.begin(change(7, 3, &[], &[]), 3), Err(SessionError::NotFound));
        assert_eq!(sessions.usage(), (0, 0));
    }

    #[test]
    fn partitions_with_records_go_to_the_end_of_the_order() {
        let (mut sessions, id) = with_session(&[("a", 0, 0), ("a", 1, 0), ("a", 2, 0)]);
        let context = sessions.begin(change(id, 1, &[], &[]), 0).unwrap();
        sessions.end(&context, &[records(9), quiet(5), quiet(5)], 0, no_ids);
        let context = sessions.begin(change(id, 2, &[("a", 0, 9)], &[]), 0).unwrap();
        assert_eq!(names(&context), ["a-1@0", "a-2@0", "a-0@9"]);
    }

    #[test]
    fn a_moved_log_start_is_sent_without_records() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        let context = sessions.begin(change(id, 1, &[], &[]), 0).unwrap();
        let moved = AnswerSummary { log_start: 3, ..quiet(5) };
        assert_eq!(sessions.end(&context, &[moved], 0, no_ids).sent, [true]);
        let context = sessions.begin(change(id, 2, &[], &[]), 0).unwrap();
        assert_eq!(sessions.end(&context, &[moved], 0, no_ids).sent, [false]);
    }

    #[test]
    fn an_error_is_always_sent_and_so_is_the_answer_after_it() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        let failed = AnswerSummary { must_send: true, high_watermark: -1, log_start: -1, has_records: false };
        for epoch in 1..3 {
            let context = sessions.begin(change(id, epoch, &[], &[]), 0).unwrap();
            assert_eq!(sessions.end(&context, &[failed], 0, no_ids).sent, [true]);
        }
        let context = sessions.begin(change(id, 3, &[], &[]), 0).unwrap();
        assert_eq!(sessions.end(&context, &[quiet(5)], 0, no_ids).sent, [true]);
        let context = sessions.begin(change(id, 4, &[], &[]), 0).unwrap();
        assert_eq!(sessions.end(&context, &[quiet(5)], 0, no_ids).sent, [false]);
    }

    #[test]
    fn a_wrong_epoch_is_refused_and_changes_nothing() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        assert_eq!(sessions.begin(change(id, 2, &[("b", 0, 0)], &[]), 0), Err(SessionError::InvalidEpoch));
        assert_eq!(names(&sessions.begin(change(id, 1, &[], &[]), 0).unwrap()), ["a-0@0"]);
        assert_eq!(sessions.begin(change(id, 1, &[], &[]), 0), Err(SessionError::InvalidEpoch), "a repeated request");
    }

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!(next_epoch(i32::MAX), 1);
        assert_eq!(next_epoch(INITIAL_EPOCH), 1);
    }

    #[test]
    fn a_session_by_name_is_not_continued_by_id() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        let request = SessionRequest { by_topic_id: true, ..change(id, 1, &[], &[]) };
        assert_eq!(sessions.begin(request, 0), Err(SessionError::TopicIds));
    }

    #[test]
    fn a_session_without_partitions_ends() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        let context = sessions.begin(change(id, 1, &[], &[("a", 0)]), 0).unwrap();
        assert_eq!(sessions.end(&context, &[], 0, no_ids).session_id, NO_SESSION);
        assert_eq!(sessions.usage(), (0, 0));
    }

    #[test]
    fn a_full_request_replaces_the_session_that_it_names() {
        let (mut sessions, id) = with_session(&[("a", 0, 0)]);
        let context = sessions.begin(SessionRequest { session_id: id, ..full(&[("b", 0, 0)]) }, 0).unwrap();
        assert_eq!(sessions.end(&context, &[quiet(5)], 0, ids(8)).session_id, 8);
        assert_eq!(sessions.begin(change(id, 1, &[], &[]), 0), Err(SessionError::NotFound));
        assert_eq!(sessions.usage(), (1, 1));
    }

    #[test]
    fn without_a_free_slot_there_is_no_session_but_an_answer() {
        let mut sessions = FetchSessions::new(1);
        assert_eq!(make(&mut sessions, &[("a", 0, 0)], 1, 0), 1);
        assert_eq!(make(&mut sessions, &[("b", 0, 0), ("b", 1, 0)], 2, 1_000), NO_SESSION);
    }

    #[test]
    fn a_session_that_was_unused_for_long_is_evicted() {
        let mut sessions = FetchSessions::new(1);
        make(&mut sessions, &[("a", 0, 0), ("a", 1, 0)], 1, 0);
        assert_eq!(make(&mut sessions, &[("b", 0, 0)], 2, EVICTION_MS), NO_SESSION);
        assert_eq!(make(&mut sessions, &[("b", 0, 0)], 2, EVICTION_MS + 1), 2);
        assert_eq!(sessions.usage(), (1, 1));
    }

    #[test]
    fn an_old_session_in_use_gives_way_to_a_larger_one_only() {
        let mut sessions = FetchSessions::new(1);
        make(&mut sessions, &[("a", 0, 0)], 1, 0);
        let context = sessions.begin(change(1, 1, &[], &[]), EVICTION_MS + 1).unwrap();
        sessions.end(&context, &[quiet(5)], EVICTION_MS + 1, no_ids);
        assert_eq!(make(&mut sessions, &[("b", 0, 0)], 2, EVICTION_MS + 2), NO_SESSION);
        assert_eq!(make(&mut sessions, &[("b", 0, 0), ("b", 1, 0)], 2, EVICTION_MS + 2), 2);
    }

    #[test]
    fn an_evicted_sessions_running_request_is_still_answered_in_full() {
        let mut sessions = FetchSessions::new(1);
        make(&mut sessions, &[("a", 0, 0)], 1, 0);
        let context = sessions.begin(change(1, 1, &[], &[]), 0).unwrap();
        make(&mut sessions, &[("b", 0, 0)], 2, EVICTION_MS + 1);
        assert_eq!(sessions.end(&context, &[quiet(5)], EVICTION_MS + 1, no_ids).sent, [true]);
    }

    fn with_session(partitions: &[(&str, i32, i64)]) -> (FetchSessions, i32) {
        let mut sessions = FetchSessions::new(10);
        let id = make(&mut sessions, partitions, 42, 0);
        (sessions, id)
    }

    fn make(sessions: &mut FetchSessions, partitions: &[(&str, i32, i64)], id: i32, now_ms: i64) -> i32 {
        let context = sessions.begin(full(partitions), now_ms).unwrap();
        sessions.end(&context, &vec![quiet(5); partitions.len()], now_ms, ids(id)).session_id
    }

    fn full(partitions: &[(&str, i32, i64)]) -> SessionRequest {
        full_of(partitions)
    }

    fn full_of(partitions: &[(&str, i32, i64)]) -> SessionRequest {
        SessionRequest {
            session_id: NO_SESSION,
            epoch: INITIAL_EPOCH,
            by_topic_id: false,
            partitions: partitions.iter().map(|(topic, index, offset)| wanted(topic, *index, *offset)).collect(),
            forgotten: Vec::new(),
        }
    }

    fn change(id: i32, epoch: i32, partitions: &[(&str, i32, i64)], forgotten: &[(&str, i32)]) -> SessionRequest {
        let forgotten = forgotten.iter().map(|(topic, index)| (FetchTopic::Name((*topic).into()), *index)).collect();
        SessionRequest { session_id: id, epoch, forgotten, ..full_of(partitions) }
    }

    fn wanted(topic: &str, index: i32, fetch_offset: i64) -> FetchPartition {
        FetchPartition {
            topic: FetchTopic::Name(topic.into()),
            index,
            fetch_offset,
            max_bytes: 1 << 20,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
        }
    }

    fn names(context: &FetchContext) -> Vec<String> {
        let name = |wanted: &FetchPartition| match &wanted.topic {
            FetchTopic::Name(name) => format!("{name}-{}@{}", wanted.index, wanted.fetch_offset),
            FetchTopic::Id(id) => format!("{id}-{}@{}", wanted.index, wanted.fetch_offset),
        };
        context.partitions.iter().map(name).collect()
    }

    fn quiet(high_watermark: i64) -> AnswerSummary {
        AnswerSummary { high_watermark, ..AnswerSummary::default() }
    }

    fn records(high_watermark: i64) -> AnswerSummary {
        AnswerSummary { has_records: true, ..quiet(high_watermark) }
    }

    fn ids(id: i32) -> impl FnMut() -> i32 {
        move || id
    }

    fn no_ids() -> i32 {
        panic!("no session is made")
    }
}
