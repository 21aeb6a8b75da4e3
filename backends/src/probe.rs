//! What the store really does, asked of the real store at start. [`probe`] runs the base cases of the conformance suite, side by
//! side, in a scratch folder that is new each time; [`probe_again`] is the few calls that a store is asked which has shown all that
//! before. The broker does not start on a store that answers wrongly.

use std::fmt;
use std::time::Instant;

use crate::conformance::{self, Outcome};
use crate::scratch::{self, Scratch};
use crate::{Backend, BackendError, Capabilities};

#[derive(Debug, Clone)]
pub struct ProbeReport {
    pub store: String,
    pub capabilities: Capabilities,
    pub checks: Vec<Outcome>,
}

impl ProbeReport {
    /// Whether everything holds that the broker cannot do without.
    pub fn base_set(&self) -> bool {
        self.failures().next().is_none()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.checks.iter().filter(|check| check.base && check.error.is_some())
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "store {}", self.store)?;
        for check in &self.checks {
            let sentence = check.case.replace('_', " ");
            match &check.error {
                None => writeln!(f, "  ok      {sentence} ({} ms)", check.elapsed.as_millis())?,
                Some(error) => writeln!(f, "  FAILED  {sentence}: {error}")?,
            }
        }
        Ok(())
    }
}

/// Every base case. `prefix` is "" or a folder that was checked; what is written below it is removed again, and so is what probes
/// and checks have left there that died more than a day ago. `now_ms` is the wall clock.
pub async fn probe(backend: &dyn Backend, prefix: &str, now_ms: u64) -> Result<ProbeReport, BackendError> {
    let scratch = Scratch::begin(backend, prefix, now_ms).await?;
    let checks = conformance::run_base(backend, scratch.folder()).await;
    scratch.end(backend).await?;
    scratch::sweep(backend, prefix, now_ms).await?;
    Ok(ProbeReport { store: backend.name().to_owned(), capabilities: backend.capabilities(), checks })
}

/// One object is put, read, listed and deleted.
pub async fn probe_again(backend: &dyn Backend, prefix: &str, now_ms: u64) -> Result<ProbeReport, BackendError> {
    let started = Instant::now();
    let scratch = Scratch::begin(backend, prefix, now_ms).await?;
    let seen = scratch.note_is_there(backend).await;
    scratch.end(backend).await?;
    let case = "an_object_is_put_read_listed_and_deleted";
    let check = Outcome { case, base: true, elapsed: started.elapsed(), error: seen?.err() };
    Ok(ProbeReport { store: backend.name().to_owned(), capabilities: backend.capabilities(), checks: vec![check] })
}
