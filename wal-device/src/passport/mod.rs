//! What a qualification found of a WAL device, signed by its site: `seawall-qualify device` writes it, a broker reads it at its
//! start.
//!
//! Promise: a passport that [`Passports::judge`] answers with was signed with the site's key, says that the device is
//! qualified, and was made of the very drives that lie there now, with the firmware and the write cache that they have now. How
//! the figures in it were measured, and by which thresholds, is for people: nothing here reads them.

mod date;
mod signature;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::file::{Access, DeviceFile};
use crate::device::health::SysFacts;
use crate::device::{DeviceFacts, Drive, WriteCache};
use crate::error::OpenError;
use crate::watchdog::{FactSource, LegFacts};
pub use date::utc;
pub use signature::{KeyError, PublicKey, SiteKey};

/// What [`Passport::format`] says.
pub const FORMAT: u32 = 1;
/// How far the clocks of two hosts may be apart.
const CLOCKS_APART_MAX_S: u64 = 86_400;
/// A larger file is none.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passport {
    pub format: u32,
    /// As it was named when it was qualified.
    pub device: String,
    pub drives: Vec<PassportDrive>,
    /// "write back" or "write through"; `None`: the kernel did not tell.
    pub write_cache: Option<String>,
    /// UTC: "2026-11-21T23:00:00Z".
    pub date: String,
    pub host: String,
    /// The program and its version.
    pub made_by: String,
    pub qualified: bool,
    /// For people: "qualified for 350 MiB/s at p99 0.4 ms".
    pub verdict: String,
    pub thresholds: Value,
    /// Curves and all else that was measured.
    pub measured: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassportDrive {
    pub model: String,
    pub serial: String,
    pub firmware: String,
    pub bytes: u64,
}

impl From<&Drive> for PassportDrive {
    fn from(drive: &Drive) -> Self {
        let Drive { model, serial, firmware, bytes } = drive.clone();
        Self { model, serial, firmware, bytes }
    }
}

impl fmt::Display for PassportDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, serial, .. } = self;
        match (model.is_empty(), serial.is_empty()) {
            (true, true) => f.write_str("without a serial number"),
            (true, false) => f.write_str(serial),
            (false, true) => write!(f, "{model} without a serial number"),
            (false, false) => write!(f, "{model} {serial}"),
        }
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// What is signed: see `signature.rs`. As it was read, so that what this version does not know counts, too.
    passport: Value,
    /// Which key it was, for people.
    public_key: String,
    signature: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PassportError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} is no passport: {why}")]
    NotAPassport { path: PathBuf, why: String },
    #[error("{path} was not signed with the site's key, or was changed since")]
    WrongSignature { path: PathBuf },
    #[error("{path} has passport format {found}, this build knows {FORMAT}")]
    NewerFormat { path: PathBuf, found: u64 },
}

impl Passport {
    /// The text of the file.
    pub fn sign(&self, key: &SiteKey) -> String {
        let passport = settled(serde_json::to_value(self).expect("plain fields become JSON"));
        let signature = key.sign(&passport);
        let signed = Signed { passport, public_key: key.public_key().to_string(), signature };
        let text = serde_json::to_string(&signed).expect("plain fields become JSON");
        text + "\n"
    }

    /// `Err` unless this key signed it.
    pub fn read(path: &Path, key: &PublicKey) -> Result<Self, PassportError> {
        let failed = |error| PassportError::Io { path: path.to_owned(), error };
        let not_one = |why: String| PassportError::NotAPassport { path: path.to_owned(), why };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(not_one(format!("it has {bytes} bytes")));
        }
        let text = std::fs::read(path).map_err(failed)?;
        let signed: Signed = serde_json::from_slice(&text).map_err(|error| not_one(error.to_string()))?;
        if !key.has_signed(&signed.passport, &signed.signature) {
            return Err(PassportError::WrongSignature { path: path.to_owned() });
        }
        match signed.passport.get("format").and_then(Value::as_u64) {
            Some(found) if found > u64::from(FORMAT) => {
                return Err(PassportError::NewerFormat { path: path.to_owned(), found });
            }
            _ => {}
        }
        serde_json::from_value(signed.passport).map_err(|error| not_one(error.to_string()))
    }

    /// Whether the device that lies there now is still the one that was qualified.
    fn check(&self, now: &Sighting) -> Result<(), Objection> {
        for (then, now) in self.drives.iter().zip(&now.drives) {
            if (&then.model, then.bytes) != (&now.model, now.bytes) {
                return Err(Objection::OtherDrive { then: Box::new(then.clone()), now: Box::new(now.clone()) });
            }
            if then.firmware != now.firmware {
                let (then, firmware) = (then.firmware.clone(), now.firmware.clone());
                return Err(Objection::OtherFirmware { drive: Box::new(now.clone()), then, now: firmware });
            }
        }
        let cache = now.write_cache_text();
        if self.write_cache != cache {
            let text = |cache: Option<String>| cache.unwrap_or_else(|| "not known".into());
            return Err(Objection::WriteCacheChanged { then: text(self.write_cache.clone()), now: text(cache) });
        }
        if !self.qualified {
            return Err(Objection::NotQualified { date: self.date.clone(), verdict: self.verdict.clone() });
        }
        Ok(())
    }

    fn is_of(&self, now: &Sighting) -> bool {
        let serials = |drives: &[PassportDrive]| drives.iter().map(|drive| drive.serial.clone()).collect::<Vec<_>>();
        serials(&self.drives) == serials(&now.drives)
    }
}

/// Fractions may change in their last digit when they are read: until reading what was written gives the same.
fn settled(mut passport: Value) -> Value {
    for _ in 0..16 {
        let read: Value = serde_json::from_str(&passport.to_string()).expect("what was written can be read");
        if read == passport {
            break;
        }
        passport = read;
    }
    passport
}

/// A device as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// In the order of their serial numbers.
    pub drives: Vec<PassportDrive>,
    /// What the kernel tells, to a broker without rights as to root: this is what a passport says and what it is compared with.
    pub write_cache: Option<WriteCache>,
    /// `WriteBack`: so says a drive itself, which only root may ask, or the kernel.
    pub volatile_cache: Option<WriteCache>,
}

impl Sighting {
    /// Looks at a block device, or at a file and what lies under it. Beside whoever uses it.
    pub fn of(path: &Path) -> Result<Self, OpenError> {
        let facts = DeviceFile::open(path, Access::Inspect)?.facts;
        let caches = facts.device.map(|device| SysFacts::default().read(device)).unwrap_or_default();
        Ok(Self::from_facts(&facts, &caches))
    }

    fn from_facts(facts: &DeviceFacts, caches: &LegFacts) -> Self {
        let mut drives: Vec<PassportDrive> = facts.drives.iter().map(PassportDrive::from).collect();
        drives.sort_by(|one, other| one.serial.cmp(&other.serial));
        let all = [facts.write_cache, caches.drive_cache, caches.kernel_cache];
        let volatile = all.contains(&Some(WriteCache::WriteBack)).then_some(WriteCache::WriteBack);
        let volatile_cache = volatile.or_else(|| all.into_iter().flatten().next());
        Self { drives, write_cache: facts.write_cache, volatile_cache }
    }

    pub fn write_cache_text(&self) -> Option<String> {
        self.write_cache.map(|cache| cache.to_string())
    }

    /// Without a serial number a passport says nothing.
    pub fn is_identified(&self) -> bool {
        !self.drives.is_empty() && self.drives.iter().all(|drive| !drive.serial.is_empty())
    }
}

/// Why a device is not taken for a qualified one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error("its drive has no serial number, so that no passport can be its own")]
    NoSerial,
    #[error("no passport names {}{}", names(drives), but(rejected))]
    Missing { drives: Vec<PassportDrive>, rejected: Vec<String> },
    #[error("the passport is of {then} of {} bytes, the drive is {now} of {} bytes", then.bytes, now.bytes)]
    OtherDrive { then: Box<PassportDrive>, now: Box<PassportDrive> },
    #[error("{drive} was qualified with firmware {then}, it has {now} now: qualify it again")]
    OtherFirmware { drive: Box<PassportDrive>, then: String, now: String },
    #[error("its write cache was \"{then}\" when it was qualified and is \"{now}\" now")]
    WriteCacheChanged { then: String, now: String },
    /// It would count before every later one.
    #[error(
        "its newest passport is of {date}, and here it is {now}: one of the two clocks is wrong. If it is not this host's, qualify the \
         device again and take that passport away"
    )]
    FromTheFuture { date: String, now: String },
    #[error("it did not pass on {date}: {verdict}")]
    NotQualified { date: String, verdict: String },
}

fn names(drives: &[PassportDrive]) -> String {
    drives.iter().map(PassportDrive::to_string).collect::<Vec<_>>().join(", ")
}

fn but(rejected: &[String]) -> String {
    if rejected.is_empty() { String::new() } else { format!(" (not counted: {})", rejected.join("; ")) }
}

/// The passports of a folder.
#[derive(Debug, Default)]
pub struct Passports {
    valid: Vec<Passport>,
    /// Files that are no passport, or not of this site: why.
    rejected: Vec<String>,
}

impl Passports {
    /// Every `*.json` file. One that cannot be used is told when a device lacks a passport.
    pub fn read(folder: &Path, key: &PublicKey) -> io::Result<Self> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut passports = Self::default();
        for path in paths {
            match Passport::read(&path, key) {
                Ok(passport) => passports.valid.push(passport),
                Err(error) => passports.rejected.push(error.to_string()),
            }
        }
        Ok(passports)
    }

    /// The newest passport of these drives decides. `unix_s`: the time of day here.
    pub fn judge(&self, now: &Sighting, unix_s: u64) -> Result<&Passport, Objection> {
        if !now.is_identified() {
            return Err(Objection::NoSerial);
        }
        let own = self.valid.iter().filter(|passport| passport.is_of(now));
        let Some(newest) = own.max_by(|one, other| one.date.cmp(&other.date)) else {
            return Err(Objection::Missing { drives: now.drives.clone(), rejected: self.rejected.clone() });
        };
        if newest.date > utc(unix_s.saturating_add(CLOCKS_APART_MAX_S)) {
            return Err(Objection::FromTheFuture { date: newest.date.clone(), now: utc(unix_s) });
        }
        newest.check(now).map(|()| newest)
    }
}

#[cfg(test)]
mod tests;
