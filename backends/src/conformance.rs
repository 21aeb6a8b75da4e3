//! The behaviour that every store and every layer shows. Tests run it against each of them, an operator against his own
//! bucket; its base cases are the probe at start.
//!
//! A case works in a scratch folder of its own and leaves nothing behind when it passes.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{Backend, BackendError, BoxFuture, ObjectKey, Purpose, Segments, list_all};

mod cases;

/// One case and how it went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// A sentence that is true of the store when `error` is none.
    pub case: &'static str,
    /// Whether the broker cannot do without it.
    pub base: bool,
    pub elapsed: Duration,
    pub error: Option<String>,
}

/// Runs every case in `scratch`, a folder that nobody else uses.
pub async fn run(backend: &dyn Backend, scratch: &str) -> Vec<Outcome> {
    run_and_tell(backend, scratch, |_| ()).await
}

/// As `run`; tells each outcome as soon as it is known.
pub async fn run_and_tell(backend: &dyn Backend, scratch: &str, tell: impl FnMut(&Outcome)) -> Vec<Outcome> {
    let parts = backend.capabilities().parts;
    run_cases(backend, scratch, |case| case.need != Need::Parts || parts, tell).await
}

/// Removes what a run in `scratch` that did not end has left, a load in [`LOAD_FOLDER`] included.
pub async fn clean(backend: &dyn Backend, scratch: &str) -> Result<(), BackendError> {
    let folders = (0..cases::ALL.len()).map(|number| case_folder(scratch, number));
    for folder in folders.chain([format!("{scratch}/{LOAD_FOLDER}")]) {
        let folder = Scratch { backend, folder };
        folder.clean().await.map_err(BackendError::Transient)?;
    }
    Ok(())
}

/// Where whoever measures below a scratch folder puts objects.
pub const LOAD_FOLDER: &str = "load";

fn case_folder(scratch: &str, number: usize) -> String {
    format!("{scratch}/case-{number:02}")
}

/// The base cases, all at once: a broker waits for them at its start.
pub(crate) async fn run_base(backend: &dyn Backend, scratch: &str) -> Vec<Outcome> {
    let base = cases::ALL.iter().enumerate().filter(|(_, case)| case.need == Need::Base);
    let running =
        base.map(|(number, case)| -> BoxFuture<'_, Outcome> { Box::pin(run_case(backend, scratch, number, case)) });
    together(running.collect()).await
}

pub(crate) struct Case {
    name: &'static str,
    need: Need,
    run: for<'a> fn(&'a Scratch<'a>) -> BoxFuture<'a, Verdict>,
}

/// Which stores must show a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// All, and the broker cannot do without it.
    Base,
    /// All.
    Always,
    /// Those that take objects in parts.
    Parts,
}

/// The text says what was seen and what was expected.
type Verdict = Result<(), String>;

async fn run_cases(
    backend: &dyn Backend,
    scratch: &str,
    wanted: impl Fn(&Case) -> bool,
    mut tell: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for (number, case) in cases::ALL.iter().enumerate().filter(|(_, case)| wanted(case)) {
        let outcome = run_case(backend, scratch, number, case).await;
        tell(&outcome);
        outcomes.push(outcome);
    }
    outcomes
}

async fn run_case(backend: &dyn Backend, scratch: &str, number: usize, case: &Case) -> Outcome {
    let started = Instant::now();
    let folder = Scratch { backend, folder: case_folder(scratch, number) };
    let mut verdict = (case.run)(&folder).await;
    let cleaned = folder.clean().await;
    if verdict.is_ok() {
        verdict = cleaned.map_err(|error| format!("cleaning up: {error}"));
    }
    let base = case.need == Need::Base;
    Outcome { case: case.name, base, elapsed: started.elapsed(), error: verdict.err() }
}

/// A folder of the store, with short forms of the calls.
pub(crate) struct Scratch<'a> {
    backend: &'a dyn Backend,
    folder: String,
}

/// The one folder below a scratch folder that cases may use.
const SUBFOLDER: &str = "sub";

impl Scratch<'_> {
    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(format!("{}/{name}", self.folder)).expect("names of cases are keys")
    }

    async fn put(&self, name: &str, body: impl Into<Segments>) -> Verdict {
        self.backend.put(&self.key(name), body.into(), Purpose::Probe).await.map_err(|error| format!("put: {error}"))
    }

    async fn get(&self, name: &str, start: u64, end: u64) -> Result<Bytes, BackendError> {
        let read = self.backend.get_range(&self.key(name), start..end, Purpose::Probe).await?;
        Ok(read.into_bytes())
    }

    async fn expect(&self, name: &str, start: u64, expected: &[u8]) -> Verdict {
        let end = start + expected.len() as u64;
        match self.get(name, start, end).await {
            Ok(bytes) if bytes == expected => Ok(()),
            Ok(bytes) => Err(format!("{name} {start}..{end}: {} bytes that differ from those stored", bytes.len())),
            Err(error) => Err(format!("{name} {start}..{end}: {error}")),
        }
    }

    async fn bytes_of(&self, name: &str) -> Result<u64, BackendError> {
        Ok(self.backend.head(&self.key(name), Purpose::Probe).await?.bytes)
    }

    /// Names in the folder, in the order listed.
    async fn names(&self) -> Result<Vec<String>, String> {
        let objects = list_all(self.backend, &self.folder, Purpose::Probe).await;
        let objects = objects.map_err(|error| format!("list: {error}"))?;
        Ok(objects.into_iter().map(|(key, _)| key.file_name().to_owned()).collect())
    }

    async fn delete(&self, names: &[&str]) -> Verdict {
        self.delete_keys(names.iter().map(|name| self.key(name)).collect()).await
    }

    async fn delete_keys(&self, keys: Vec<ObjectKey>) -> Verdict {
        let outcomes = self.backend.delete_many(keys.clone(), Purpose::Probe).await;
        let answered: Vec<_> = outcomes.iter().map(|(key, _)| key.clone()).collect();
        check(answered == keys, || format!("delete answered for {answered:?}, asked for {keys:?}"))?;
        match outcomes.into_iter().find_map(|(key, outcome)| outcome.err().map(|error| (key, error))) {
            Some((key, error)) => Err(format!("delete {key}: {error}")),
            None => Ok(()),
        }
    }

    async fn clean(&self) -> Verdict {
        for folder in [self.folder.clone(), format!("{}/{SUBFOLDER}", self.folder)] {
            let left = list_all(self.backend, &folder, Purpose::Probe).await.map_err(|error| error.to_string())?;
            for batch in left.chunks(500) {
                self.delete_keys(batch.iter().map(|(key, _)| key.clone()).collect()).await?;
            }
        }
        if self.backend.capabilities().lists_begun {
            let begun =
                self.backend.list_begun(&self.folder, Purpose::Probe).await.map_err(|error| error.to_string())?;
            for left in begun {
                let aborted = self.backend.abort_parts(&left.key, &left.id, Purpose::Probe).await;
                aborted.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Drives a few futures at once. They are polled together, which is right for tens, not for thousands.
async fn together<T>(mut running: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (slot, future) in done.iter_mut().zip(&mut running).filter(|(slot, _)| slot.is_none()) {
            if let Poll::Ready(output) = Pin::as_mut(future).poll(context) {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
