//! Whether a signed passport shows that a WAL device is fit, as it lies there now ([ADR 31](../../docs/adr/0031-passports.md)). Asked at a
//! start, of every device that was found, and of a device that is to join a running WAL.
//!
//! Promise: with `passport.required` no ack waits for a device that was not found to be the one that was qualified. Without it such a
//! device is used, and the log, `/state` and a metric say what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use seawall_metadata::LegId;
use seawall_wal_device::passport::{Passports, PublicKey, Sighting};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::{PassportConfig, WalKind};
use crate::wal_registration::PreparedWal;

/// What was found of one device. Nothing where the configuration names no passports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub device: PathBuf,
    /// Why no passport counts for it.
    pub objection: Option<String>,
}

/// A device that the configuration does not let this broker use.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {objection}. With passport.required the broker does not use it. Qualify the device (seawall-qualify device --passport, \
     docs/qualification-device.md) and put its passport into {}; or set passport.required = false, and this is a warning",
    device.display(), dir.display()
)]
pub struct NotQualified {
    pub device: PathBuf,
    pub objection: String,
    pub dir: PathBuf,
}

/// The judgements of a broker's devices.
pub struct WalPassports {
    config: PassportConfig,
    clock: Clock,
    legs: Mutex<BTreeMap<LegId, Judged>>,
}

impl WalPassports {
    pub fn new(config: PassportConfig, clock: Clock) -> Self {
        Self { config, clock, legs: Mutex::default() }
    }

    /// Judges every device of these WALs. Files have no passport: `Config::validate` refuses them where one is required. Blocks.
    pub fn judge_all(&self, wals: &[PreparedWal]) -> Result<(), NotQualified> {
        for wal in wals.iter().filter(|wal| matches!(wal.config.kind, WalKind::Device | WalKind::Mirror)) {
            for leg in &wal.found.legs {
                let judged = self.judge(&leg.path)?;
                self.remember(leg.leg, judged);
            }
        }
        Ok(())
    }

    /// The passports are read anew each time: that of a device that comes may have come after the start. Blocks.
    pub fn judge(&self, device: &Path) -> Result<Option<Judged>, NotQualified> {
        let named = device.display();
        let (Some(dir), Some(key)) = (&self.config.dir, &self.config.public_key_file) else {
            warn!(device = %named, "no passport of this WAL device is looked for, as [passport] names none: nobody has shown that it keeps what it confirms, or how fast it is");
            return Ok(None);
        };
        let unix_s = u64::try_from(self.clock.now_ms() / 1000).unwrap_or(0);
        let objection = match judge(dir, key, device, unix_s) {
            Ok((date, verdict)) => {
                info!(device = %named, date, verdict, "a passport shows that this WAL device is qualified");
                None
            }
            Err(objection) if self.config.required => {
                return Err(NotQualified { device: device.to_owned(), objection, dir: dir.clone() });
            }
            Err(objection) => {
                warn!(device = %named, objection, "no passport shows that this WAL device is fit as it is now: it is used all the same");
                Some(objection)
            }
        };
        Ok(Some(Judged { device: device.to_owned(), objection }))
    }

    /// The device is a leg of a WAL now.
    pub fn remember(&self, leg: LegId, judged: Option<Judged>) {
        if let Some(judged) = judged {
            self.lock().insert(leg, judged);
        }
    }

    pub fn of(&self, leg: LegId) -> Option<Judged> {
        self.lock().get(&leg).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LegId, Judged>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Date and verdict of the passport that counts.
fn judge(dir: &Path, key_file: &Path, device: &Path, unix_s: u64) -> Result<(String, String), String> {
    let in_file = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pem = std::fs::read(key_file).map_err(|error| in_file(key_file, &error))?;
    let key = PublicKey::from_pem(&pem).map_err(|error| in_file(key_file, &error))?;
    let passports = Passports::read(dir, &key).map_err(|error| in_file(dir, &error))?;
    let now = Sighting::of(device).map_err(|error| error.to_string())?;
    let passport = passports.judge(&now, unix_s).map_err(|objection| objection.to_string())?;
    Ok((passport.date.clone(), passport.verdict.clone()))
}
