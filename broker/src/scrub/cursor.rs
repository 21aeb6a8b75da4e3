//! Where a scrub stands, as text and in a file of the data folder, with what it has counted so far: one that was stopped, by its
//! operator or by the broker's end, goes on there and counts nothing twice.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use seawall_metadata::{Incarnation, ObjectId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::judge::Kind;
use crate::data_dir::write_file;
use crate::object_key::FOLDERS;

const FILE: &str = "scrub.json";
const FORMAT: u32 = 1;

/// What comes next. Written `{incarnation}/{folder}/{step}/{what}`, as in `.../3f/objects/0000000000000abc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub incarnation: Incarnation,
    pub folder: u16,
    pub step: Step,
}

/// A folder is gone through twice: what metadata says is there, and what the store says is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Used objects from this id on.
    Objects { from: ObjectId },
    /// Listed keys whose last part comes after this.
    Listing { after: Option<String> },
}

impl Cursor {
    pub fn start(incarnation: Incarnation) -> Cursor {
        Cursor { incarnation, folder: 0, step: Step::Objects { from: ObjectId(0) } }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cursor { incarnation, folder, step } = self;
        match step {
            Step::Objects { from } => write!(f, "{incarnation}/{folder:02x}/objects/{:016x}", from.0),
            Step::Listing { after } => {
                write!(f, "{incarnation}/{folder:02x}/listing/{}", after.as_deref().unwrap_or_default())
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of a scrub: it is \"start\", or what a scrub has printed")]
pub struct NoCursor(String);

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Cursor, NoCursor> {
        let no = || NoCursor(text.to_owned());
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let [incarnation, folder, step, what] = parts[..] else { return Err(no()) };
        let incarnation = Incarnation(incarnation.parse::<Uuid>().map_err(|_| no())?);
        let folder = u16::from_str_radix(folder, 16).ok().filter(|folder| *folder < FOLDERS).ok_or_else(no)?;
        let step = match step {
            "objects" => Step::Objects { from: ObjectId(u64::from_str_radix(what, 16).map_err(|_| no())?) },
            "listing" => Step::Listing { after: Some(what.to_owned()).filter(|what| !what.is_empty()) },
            _ => return Err(no()),
        };
        Ok(Cursor { incarnation, folder, step })
    }
}

/// What a scrub has done and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Used objects that were looked at.
    pub objects: u64,
    /// Keys that the store listed.
    pub listed: u64,
    pub read_bytes: u64,
    /// Listed, and waiting for their deletion.
    pub waiting: u64,
    /// Listed, and not there when asked for.
    pub ghosts: u64,
    /// Listings that ended in disorder.
    pub cut_listings: u64,
    pub findings: BTreeMap<Kind, u64>,
    /// Findings of which the cause was removed.
    pub repaired: u64,
}

impl Totals {
    pub fn of(&self, kind: Kind) -> u64 {
        self.findings.get(&kind).copied().unwrap_or_default()
    }
}

/// The last scrub that came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub at_ms: i64,
    pub deep: bool,
    pub totals: Totals,
}

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    format: u32,
    /// A scrub that has not come to its end.
    pub unfinished: Option<Unfinished>,
    pub finished: Option<Finished>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    pub cursor: String,
    pub deep: bool,
    pub totals: Totals,
}

impl Saved {
    /// Nothing if there is no file, or none that this version reads: a scrub then begins anew.
    pub fn load(dir: &Path) -> Saved {
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        serde_json::from_str(&text).ok().filter(|saved: &Saved| saved.format == FORMAT).unwrap_or_default()
    }

    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_string(&Saved { format: FORMAT, ..self.clone() })?;
        write_file(dir, FILE, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_prints() {
        let start = Cursor::start(Incarnation(Uuid::from_u128(1)));
        let listing = |after: Option<&str>| Step::Listing { after: after.map(str::to_owned) };
        for step in [Step::Objects { from: ObjectId(2748) }, listing(None), listing(Some("0000000000000abc"))] {
            let cursor = Cursor { folder: 255, step, ..start.clone() };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for nonsense in ["", "start", "x/00/objects/0", &start.to_string().replace("/00/", "/100/")] {
            assert!(nonsense.parse::<Cursor>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_is_saved_is_found_again_and_a_damaged_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(dir.path()), Saved::default());
        let mut totals = Totals { objects: 3, ..Totals::default() };
        totals.findings.insert(Kind::Orphan, 2);
        let unfinished = Unfinished { cursor: "c".into(), deep: true, totals };
        let saved = Saved { format: FORMAT, unfinished: Some(unfinished), finished: None };
        saved.store(dir.path()).unwrap();
        assert_eq!(Saved::load(dir.path()), saved);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Saved::load(dir.path()), Saved::default());
    }
}
