//! Large objects, stored in parts: the words of the five calls of [`crate::Backend`] that do it.
//!
//! Parts may be put in any order and several at once. None of them shows before [`crate::Backend::complete_parts`] says
//! Ok; then the object is there whole and durable, its parts in the order of their numbers. What was begun and neither
//! completed nor aborted takes room in the store until someone sweeps it: see [`crate::large`].

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use crate::{ObjectKey, Segments};

/// An object that was begun; the store's own word for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartsId(pub String);

/// 1 to [`PARTS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(u32);

/// The most parts that an object may have.
pub const PARTS_MAX: u32 = 10_000;

impl PartNumber {
    pub fn new(number: u32) -> Option<Self> {
        (1..=PARTS_MAX).contains(&number).then_some(Self(number))
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a part is made of.
#[derive(Debug, Clone)]
pub enum PartBody {
    Bytes(Segments),
    /// A range of a stored object, copied within the store. Not empty.
    Copy {
        source: ObjectKey,
        range: Range<u64>,
    },
}

impl PartBody {
    /// Bytes that pass through this process.
    pub(crate) fn body_bytes(&self) -> u64 {
        match self {
            Self::Bytes(body) => body.total_bytes(),
            Self::Copy { .. } => 0,
        }
    }

    /// Bytes that the part gets.
    pub fn part_bytes(&self) -> u64 {
        match self {
            Self::Bytes(body) => body.total_bytes(),
            Self::Copy { range, .. } => crate::range_bytes(range),
        }
    }
}

/// A part that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    pub number: PartNumber,
    /// The store's own word for its content.
    pub tag: String,
    pub bytes: u64,
}

/// An object that was begun and is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunObject {
    pub key: ObjectKey,
    pub id: PartsId,
    /// By the store's clock, if it says.
    pub begun_at: Option<SystemTime>,
}
