//! What the tests of the codec share: every message, and frames that do not come from the code under test.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

pub mod counting;
mod source;
mod table;
mod wire;

pub use source::Source;
pub use table::{Entry, entries, entry};
pub use wire::{Definitions, Shape};
