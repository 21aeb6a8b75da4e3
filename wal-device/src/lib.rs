//! The write-ahead log on a device: a ring of checksummed frames with group commit, recovery and read-back.
//!
//! Promise: after any crash [`scan`] returns a prefix of what was appended, which holds all that was reported durable; or
//! it says what is damaged. It knows bytes, positions and devices, and leaves to its caller what the records mean, when
//! they may be acknowledged, and what may be trimmed.
//!
//! Life of a WAL: [`format`] once; then at each start [`scan`] (locks, reads, flushes) gives a [`Scanned`]; the caller
//! commits in metadata that it opens the WAL from `Scanned::end` on with a new owner epoch; [`Scanned::open`] gives the
//! [`Wal`] handle and its [`Completions`]; [`Wal::close`] ends it.
//!
//! Note on trim LSNs: they are starts of frames ([`RecordPosition::frame`]) or the durable LSN, never a record's LSN.

mod config;
mod error;
mod status;
mod types;

mod edges;
mod format_device;
mod handle;
mod open;

mod accept;
pub mod engine;
mod holders;
mod join;
mod legs;
pub mod look;
#[cfg(feature = "passport")]
pub mod passport;
mod reader;
mod resync;
mod ring;
mod salvage;
mod scan;
mod shared;
mod space;
mod stats;
mod thread;
pub mod verify;
mod walk;
pub mod watchdog;

mod aligned_buf;

pub mod device;
pub mod format;
#[cfg(test)]
mod simulation;

pub use accept::ScannedRecord;
pub use aligned_buf::SharedBuf;
pub use config::{
    EngineChoice, Expectation, Fault, Faults, FormatConfig, LegSet, RECORD_BYTES_LIMIT, ScanFrom, WalConfig,
};
pub use error::{Damage, FormatError, IoError, OpenError, ScanError, WalError, WalFull};
pub use format::Salt;
pub use format::superblock::Superblock;
pub use format_device::{
    blank, blank_own, format, format_leg, format_legs_on, format_on, what_else_it_holds, what_it_holds,
};
pub use handle::{Completions, Durable, Pin, Reservation, Wal};
pub use open::{Inspection, Scanned, inspect, scan, scan_legs_on, scan_on};
pub use resync::Missing;
pub use salvage::{Salvage, salvage};
pub use scan::LegView;
pub use status::{Alarm, AlarmKind, Distrust, JoinError, LegState, LegStatus, Stuck, WalStats, WalStatus};
pub use types::{
    DurableRecord, LegId, Lsn, RecordHeader, RecordPosition, Segments, SpaceClass, WalId, WalKind, WalUsage,
};
