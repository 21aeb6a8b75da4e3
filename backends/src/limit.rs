//! A layer that bounds how many operations and bytes are in flight, and says who is next: by purpose, then in order of
//! arrival. The last places and bytes are for urgent purposes, so that long reads of cold data never make an ack wait
//! for one of them to end. Waiters are bounded too: beyond that the answer is `Throttled`.
//!
//! Reads of consumers that are behind have a budget of their own inside that, and when it is used up only they wait.
//!
//! A store that throttles is asked for less: half the places at once, nothing at all until the time that it names, and
//! one place more for as many successes as there are places.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::layer::{Answer, Call, Deleted, Layer};
use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitConfig {
    /// Operations in flight.
    pub operations_max: usize,
    /// Of these, how many only urgent purposes may take.
    pub operations_reserved: usize,
    /// Bytes of bodies in flight, both ways. One larger body runs alone.
    pub bytes_max: u64,
    /// Of these, how many only urgent purposes may take.
    pub bytes_reserved: u64,
    /// Of these, how many [`Purpose::CatchUpRead`] may take, and how many of the bytes. One larger body of it runs alone.
    pub catch_up_operations_max: usize,
    pub catch_up_bytes_max: u64,
    /// Operations waiting.
    pub waiting_max: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            operations_max: 32,
            operations_reserved: 8,
            bytes_max: 256 << 20,
            bytes_reserved: 128 << 20,
            catch_up_operations_max: 16,
            catch_up_bytes_max: 64 << 20,
            waiting_max: 8_192,
        }
    }
}

pub struct Limit {
    inner: Arc<dyn Backend>,
    gate: Arc<Gate>,
}

impl Limit {
    pub fn new(inner: Arc<dyn Backend>, config: LimitConfig) -> Self {
        assert!(config.operations_reserved < config.operations_max, "every place is reserved: {config:?}");
        assert!(config.bytes_reserved < config.bytes_max, "every byte is reserved: {config:?}");
        let state = Mutex::new(State { places: config.operations_max, ..State::default() });
        Self { inner, gate: Arc::new(Gate { config, state }) }
    }

    pub fn config(&self) -> &LimitConfig {
        &self.gate.config
    }

    pub fn usage(&self) -> LimitUsage {
        let state = self.gate.state();
        LimitUsage {
            operations: state.operations,
            bytes: state.bytes,
            catch_up: state.catch_up,
            waiting: state.waiting.iter().flatten().filter(|waiter| !waiter.admitted.is_closed()).count(),
            places: state.places,
        }
    }
}

/// What is in flight now, and what may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitUsage {
    pub operations: usize,
    pub bytes: u64,
    pub catch_up: InFlight,
    pub waiting: usize,
    /// Operations that may be in flight: fewer than configured after the store has throttled.
    pub places: usize,
}

/// What consumers that are behind have in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InFlight {
    pub operations: usize,
    pub bytes: u64,
}

struct Gate {
    config: LimitConfig,
    state: Mutex<State>,
}

/// The places shrink at most this often: one wave of refusals counts once.
const SHRINK_EVERY: Duration = Duration::from_secs(1);
/// The longest that a store is not asked at all because it said so.
const HOLD_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    operations: usize,
    bytes: u64,
    /// Of these, those of purposes that are not urgent.
    other_bytes: u64,
    catch_up: InFlight,
    /// Operations that may be in flight now.
    places: usize,
    /// Successes since the places last changed.
    successes: usize,
    shrunk_at: Option<Instant>,
    /// Nothing is admitted before.
    hold_until: Option<Instant>,
    /// By purpose, first in first out.
    waiting: [VecDeque<Waiter>; Purpose::ALL.len()],
}

struct Waiter {
    bytes: u64,
    admitted: oneshot::Sender<Place>,
}

/// A place in flight; leaving it lets the next one in.
struct Place {
    gate: Arc<Gate>,
    purpose: Purpose,
    bytes: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.operations -= 1;
        state.bytes -= self.bytes;
        if !self.purpose.is_urgent() {
            state.other_bytes -= self.bytes;
        }
        if self.purpose == Purpose::CatchUpRead {
            state.catch_up.operations -= 1;
            state.catch_up.bytes -= self.bytes;
        }
        self.gate.admit(state);
    }
}

impl Gate {
    async fn enter(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<Place, BackendError> {
        let admitted = self.queue(purpose, bytes.min(self.bytes_for(purpose)))?;
        admitted.await.map_err(|_| BackendError::Transient("the limiter was dropped".to_owned()))
    }

    fn queue(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<oneshot::Receiver<Place>, BackendError> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.waiting() >= self.config.waiting_max {
            state.forget_the_gone();
            if state.waiting() >= self.config.waiting_max {
                return Err(BackendError::Throttled { retry_after: None });
            }
        }
        state.waiting[purpose as usize].push_back(Waiter { bytes, admitted: sender });
        self.admit(state);
        Ok(receiver)
    }

    /// The most bytes that its purpose, and those like it, may have in flight. What is urgent may have all; but an upload that takes its
    /// time leaves the others what is theirs, while there is room at all.
    fn bytes_for(&self, purpose: Purpose) -> u64 {
        if purpose.is_urgent() { self.config.bytes_max } else { self.config.bytes_max - self.config.bytes_reserved }
    }

    /// As many operations. When a store that throttles has fewer places, fewer of them are reserved.
    fn places_for(&self, purpose: Purpose, places: usize) -> usize {
        if purpose.is_urgent() {
            return places;
        }
        (places - self.config.operations_reserved * places / self.config.operations_max).max(1)
    }

    /// Takes what the store answered as a measure of what it can do.
    fn learn(self: &Arc<Self>, error: Option<&BackendError>) {
        let mut state = self.state();
        match error {
            // What is not there was looked for all the same.
            None | Some(BackendError::NotFound) if state.places < self.config.operations_max => {
                state.successes += 1;
                if state.successes >= state.places {
                    state.places += 1;
                    state.successes = 0;
                }
            }
            Some(BackendError::Throttled { retry_after }) => {
                let now = Instant::now();
                if state.shrunk_at.is_none_or(|at| now - at >= SHRINK_EVERY) {
                    state.places = (state.places / 2).max(1);
                    state.successes = 0;
                    state.shrunk_at = Some(now);
                    tracing::warn!(places = state.places, "the store throttles: fewer operations are in flight");
                }
                if let Some(asked) = retry_after {
                    self.hold(&mut state, now + (*asked).min(HOLD_MAX));
                }
            }
            _ => {}
        }
    }

    /// Admits nothing before `until`, and then whoever waits.
    fn hold(self: &Arc<Self>, state: &mut State, until: Instant) {
        if state.hold_until.is_some_and(|held| held >= until) {
            return;
        }
        state.hold_until = Some(until);
        let gate = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            if let Some(gate) = gate.upgrade() {
                gate.admit(gate.state());
            }
        });
    }

    /// Whether consumers that are behind have all that they may have.
    fn catch_up_is_full(&self, state: &State, bytes: u64) -> bool {
        let InFlight { operations, bytes: in_flight } = state.catch_up;
        operations > 0
            && (operations >= self.config.catch_up_operations_max || in_flight + bytes > self.config.catch_up_bytes_max)
    }

    /// Lets in whoever is next and fits. Who does not fit holds up those behind, whatever their size: else large
    /// operations would starve. Only the budget of those that are behind holds up nobody else.
    fn admit(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.hold_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        state.hold_until = None;
        let mut admitted = Vec::new();
        let mut catch_up_full = false;
        loop {
            let waits = |purpose: &Purpose| {
                let passed_over = catch_up_full && *purpose == Purpose::CatchUpRead;
                !passed_over && !state.waiting[*purpose as usize].is_empty()
            };
            let Some(purpose) = Purpose::ALL.into_iter().find(waits) else { break };
            let queue = &mut state.waiting[purpose as usize];
            if queue.front().is_some_and(|waiter| waiter.admitted.is_closed()) {
                queue.pop_front();
                continue;
            }
            let bytes = queue.front().map_or(0, |waiter| waiter.bytes);
            if purpose == Purpose::CatchUpRead && self.catch_up_is_full(&state, bytes) {
                catch_up_full = true;
                continue;
            }
            let places = self.places_for(purpose, state.places);
            let is_over = state.bytes + bytes > self.config.bytes_max
                || !purpose.is_urgent() && state.other_bytes + bytes > self.bytes_for(purpose);
            if state.operations >= places || is_over {
                break;
            }
            let Some(waiter) = state.waiting[purpose as usize].pop_front() else { break };
            state.operations += 1;
            state.bytes += bytes;
            if !purpose.is_urgent() {
                state.other_bytes += bytes;
            }
            if purpose == Purpose::CatchUpRead {
                state.catch_up.operations += 1;
                state.catch_up.bytes += bytes;
            }
            admitted.push((waiter.admitted, Place { gate: Arc::clone(self), purpose, bytes }));
        }
        drop(state);
        // Without the lock: a place whose waiter has gone comes back here through its drop.
        for (waiter, place) in admitted {
            let _ = waiter.send(place);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn forget_the_gone(&mut self) {
        for queue in &mut self.waiting {
            queue.retain(|waiter| !waiter.admitted.is_closed());
        }
    }
}

impl Layer for Limit {
    fn inner(&self) -> &dyn Backend {
        &*self.inner
    }

    fn around<'a, T: Answer + 'a>(
        &'a self,
        call: Call<'a>,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a,
    ) -> BoxFuture<'a, Result<T, BackendError>> {
        Box::pin(async move {
            let _place = self.gate.enter(call.purpose, call.bytes).await?;
            let outcome = attempt().await;
            self.gate.learn(outcome.as_ref().err());
            outcome
        })
    }

    fn around_delete(&self, keys: Vec<ObjectKey>, purpose: Purpose) -> BoxFuture<'_, Deleted> {
        Box::pin(async move {
            match self.gate.enter(purpose, 0).await {
                Ok(_place) => {
                    let outcomes = self.inner.delete_many(keys, purpose).await;
                    let errors = || outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err());
                    let throttled = errors().find(|error| matches!(error, BackendError::Throttled { .. }));
                    self.gate.learn(throttled.or_else(|| errors().next()));
                    outcomes
                }
                Err(error) => keys.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            }
        })
    }
}
