//! Counts what a broker does to what outlives it, and ends it at one of these steps: before the effect, or after it with the
//! answer lost. A step is a call to the store (each key of a deletion is one) or a write of the metadata log; steps of the disk are
//! counted by the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// When a process ends, at the step that it ends at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Before,
    After,
}

/// What a step is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// Nothing: the process has ended.
    NotDone,
    /// It is done, and nobody hears of it.
    DoneUnheard,
}

/// A step as it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    /// Something changes by it.
    pub has_effect: bool,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Steps {
    counted: Arc<Mutex<Counted>>,
    ended: Arc<Notify>,
}

#[derive(Default)]
struct Counted {
    taken: Vec<Step>,
    end: Option<(usize, Moment)>,
    counts: bool,
    dead: bool,
}

impl Steps {
    /// From here on steps are counted. At number `end`, from 0, the process ends.
    pub fn begin(&self, end: Option<(usize, Moment)>) {
        *self.lock() = Counted { end, counts: true, ..Counted::default() };
    }

    /// Nothing is counted any more, and the next process lives. Answers the steps that were.
    pub fn finish(&self) -> Vec<Step> {
        std::mem::take(&mut *self.lock()).taken
    }

    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Resolves when the process has ended.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    pub fn take(&self, name: impl FnOnce() -> String, has_effect: bool) -> Fate {
        let mut counted = self.lock();
        if counted.dead {
            return Fate::NotDone;
        }
        if !counted.counts {
            return Fate::Done;
        }
        let number = counted.taken.len();
        counted.taken.push(Step { name: name(), has_effect });
        let Some((_, moment)) = counted.end.filter(|(at, _)| *at == number) else { return Fate::Done };
        counted.dead = true;
        self.ended.notify_one();
        match moment {
            Moment::Before => Fate::NotDone,
            Moment::After => Fate::DoneUnheard,
        }
    }

    /// A step whose effect is `call`.
    pub async fn of<T>(&self, name: impl FnOnce() -> String, has_effect: bool, call: impl Future<Output = T>) -> T {
        match self.take(name, has_effect) {
            Fate::Done => call.await,
            Fate::NotDone => std::future::pending().await,
            Fate::DoneUnheard => {
                call.await;
                std::future::pending().await
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
