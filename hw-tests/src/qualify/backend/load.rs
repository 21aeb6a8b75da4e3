//! Puts for a while, gets for as long, deletes; each byte that comes back is compared.
//!
//! What lies in the store at a time is bounded: behind the last [`OBJECTS_MAX`] objects older ones are deleted as the puts go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use seawall_backends::conformance::LOAD_FOLDER;
use seawall_backends::{Backend, BackendError, ObjectKey, Purpose, Segments};
use tokio::task::JoinSet;

use super::super::findings::Findings;
use super::super::progress::Progress;
use super::super::slices::Slices;
use super::Load;

const OBJECT_BYTES: usize = 8 << 20;
const RANGE_BYTES: usize = 1 << 20;
const OBJECTS_MAX: u64 = 64;
/// The source of all bodies: each is another window of it.
const SOURCE_BYTES: usize = OBJECT_BYTES + WINDOW_STEP * WINDOWS as usize;
const WINDOW_STEP: usize = 64;
const WINDOWS: u64 = 4_096;
/// Failures that a note describes.
const NOTES_MAX: usize = 5;

struct Run<'a> {
    store: &'a Arc<dyn Backend>,
    scratch: &'a str,
    source: Bytes,
    errors: u64,
    changed: u64,
    notes: Vec<String>,
}

/// How one call went: with the time that it took, and the bytes that it moved.
struct Done {
    object: u64,
    outcome: Result<bool, BackendError>,
    latency: Duration,
}

pub async fn run(
    store: &Arc<dyn Backend>,
    scratch: &str,
    load: Load,
    progress: &Progress,
    findings: &mut Findings,
) -> Result<()> {
    let mut run = Run { store, scratch, source: source(), errors: 0, changed: 0, notes: Vec::new() };
    progress.doing("puts");
    let objects = run.put(load, progress, findings).await?;
    progress.doing("gets");
    run.get(load, &objects, progress, findings).await?;
    progress.doing("deletes");
    run.delete(&objects, findings).await?;
    findings.measure("errors", run.errors as f64);
    findings.measure("changed_objects", run.changed as f64);
    findings.fact("in_flight", load.in_flight as i64);
    findings.notes.extend(run.notes);
    Ok(())
}

impl Run<'_> {
    /// Objects that are there at the end.
    async fn put(&mut self, load: Load, progress: &Progress, findings: &mut Findings) -> Result<Vec<u64>> {
        let mut slices = Slices::new(slice(load.length));
        let (mut running, mut next) = (JoinSet::new(), 0u64);
        let (mut there, mut old) = (std::collections::VecDeque::new(), Vec::new());
        let started = Instant::now();
        loop {
            while running.len() < load.in_flight && (started.elapsed() < load.length || next == 0) {
                let (store, key, body) = (Arc::clone(self.store), key(self.scratch, next)?, self.body(next));
                let object = next;
                running.spawn(async move {
                    let begun = Instant::now();
                    let outcome = store.put(&key, body.into(), Purpose::Upload).await.map(|()| true);
                    Done { object, outcome, latency: begun.elapsed() }
                });
                next += 1;
            }
            let Some(done) = running.join_next().await else { break };
            let Done { object, outcome, latency } = done?;
            // Also after an error: it may be there.
            there.push_back(object);
            if self.note("put", outcome) {
                slices.record(started.elapsed(), latency, OBJECT_BYTES as u64);
            }
            progress.at(started.elapsed().min(load.length));
            while there.len() as u64 > OBJECTS_MAX {
                old.extend(there.pop_front());
            }
            if old.len() >= 16 {
                self.remove(&std::mem::take(&mut old)).await?;
            }
        }
        slices.finish(started.elapsed(), "put", findings);
        self.remove(&old).await?;
        Ok(there.into())
    }

    async fn get(&mut self, load: Load, objects: &[u64], progress: &Progress, findings: &mut Findings) -> Result<()> {
        let mut slices = Slices::new(slice(load.length));
        let (mut running, mut next) = (JoinSet::new(), 0u64);
        let started = Instant::now();
        loop {
            while running.len() < load.in_flight && (started.elapsed() < load.length || next == 0) {
                // All over the objects, so that no reading ahead helps.
                let mixed = next.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
                let object = objects[(mixed % objects.len() as u64) as usize];
                let range = (mixed >> 16) as usize % (OBJECT_BYTES / RANGE_BYTES);
                let from = range * RANGE_BYTES;
                let expected = self.body(object).slice(from..from + RANGE_BYTES);
                let (store, key) = (Arc::clone(self.store), key(self.scratch, object)?);
                running.spawn(async move {
                    let begun = Instant::now();
                    let read = store.get_range(&key, from as u64..(from + RANGE_BYTES) as u64, Purpose::TailRead).await;
                    let latency = begun.elapsed();
                    Done { object, outcome: read.map(|read| same(&read, &expected)), latency }
                });
                next += 1;
            }
            let Some(done) = running.join_next().await else { break };
            let Done { outcome, latency, .. } = done?;
            if self.note("get", outcome) {
                slices.record(started.elapsed(), latency, RANGE_BYTES as u64);
            }
            progress.at(load.length + started.elapsed().min(load.length));
        }
        slices.finish(started.elapsed(), "get", findings);
        Ok(())
    }

    /// Deletes what is left, and looks whether it is gone.
    async fn delete(&mut self, objects: &[u64], findings: &mut Findings) -> Result<()> {
        let begun = Instant::now();
        self.remove(objects).await?;
        findings.measure("delete_many_ms", begun.elapsed().as_secs_f64() * 1e3);
        let mut kept = 0;
        for object in objects {
            match self.store.head(&key(self.scratch, *object)?, Purpose::Probe).await {
                Err(BackendError::NotFound) => {}
                Ok(_) => kept += 1,
                Err(error) => {
                    self.note("head", Err(error));
                }
            }
        }
        findings.measure("kept_after_delete", f64::from(kept));
        Ok(())
    }

    async fn remove(&mut self, objects: &[u64]) -> Result<()> {
        let keys = objects.iter().map(|object| key(self.scratch, *object)).collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Ok(());
        }
        for (_, outcome) in self.store.delete_many(keys, Purpose::Probe).await {
            self.note("delete", outcome.map(|()| true));
        }
        Ok(())
    }

    /// Whether it went well.
    fn note(&mut self, operation: &str, outcome: Result<bool, BackendError>) -> bool {
        let text = match outcome {
            Ok(true) => return true,
            Ok(false) => {
                self.changed += 1;
                format!("{operation}: other bytes came back than went in")
            }
            Err(error) => {
                self.errors += 1;
                format!("{operation}: {error}")
            }
        };
        if self.notes.len() < NOTES_MAX && !self.notes.contains(&text) {
            self.notes.push(text);
        }
        false
    }

    fn body(&self, object: u64) -> Bytes {
        let from = (object % WINDOWS) as usize * WINDOW_STEP;
        self.source.slice(from..from + OBJECT_BYTES)
    }
}

fn key(scratch: &str, object: u64) -> Result<ObjectKey> {
    Ok(ObjectKey::new(format!("{scratch}/{LOAD_FOLDER}/{object:08}"))?)
}

/// Nothing that a store could make little of.
fn source() -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let words = (0..SOURCE_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect::<Vec<u8>>().into()
}

fn same(read: &Segments, body: &[u8]) -> bool {
    let mut rest = body;
    read.iter().all(|piece| match rest.split_at_checked(piece.len()) {
        Some((front, back)) => {
            rest = back;
            front == piece
        }
        None => false,
    }) && rest.is_empty()
}

fn slice(length: Duration) -> Duration {
    (length / 10).clamp(Duration::from_millis(200), Duration::from_secs(60))
}
