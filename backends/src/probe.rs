//! What the store really does, asked of the real store at start: the base cases of the conformance suite, run in a
//! scratch folder that is new each time. The broker logs and shows the report and does not start without the base set.

use std::fmt;

use crate::conformance::{self, Outcome};
use crate::{Backend, Capabilities, InvalidKey, check_folder};

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

/// Probes in a new folder below `prefix` ("" or a folder) and removes what it wrote.
pub async fn probe(backend: &dyn Backend, prefix: &str) -> Result<ProbeReport, InvalidKey> {
    check_folder(prefix)?;
    let slash = if prefix.is_empty() { "" } else { "/" };
    let scratch = format!("{prefix}{slash}seawall-probe/{}", uuid::Uuid::new_v4().simple());
    let checks = conformance::run_base(backend, &scratch).await;
    Ok(ProbeReport { store: backend.name().to_owned(), capabilities: backend.capabilities(), checks })
}
