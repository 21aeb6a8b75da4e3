//! What a WAL tells about itself while it runs: its legs, its alarms, its figures.

use crate::error::{FormatError, IoError, OpenError, WalError};
use crate::types::LegId;

/// Told to watchers at each change.
#[derive(Debug, Clone, Default)]
pub struct WalStatus {
    pub legs: Vec<LegStatus>,
    /// Newest last, each once.
    pub alarms: Vec<Alarm>,
    /// An I/O hangs now.
    pub stuck: Option<Stuck>,
    pub failed: Option<WalError>,
}

#[derive(Debug, Clone)]
pub struct LegStatus {
    pub id: LegId,
    /// Its number in the device; a later leg may get it again.
    pub number: u8,
    pub state: LegState,
    /// How writes become durable here, for people.
    pub durability: String,
    /// Device number of the block device, or of the one under the file.
    pub device: Option<u64>,
}

impl WalStatus {
    /// Alarms stay: a person looks at them.
    pub(crate) fn raise(&mut self, alarm: Alarm) {
        if !self.alarms.contains(&alarm) {
            self.alarms.push(alarm);
        }
    }
}

#[derive(Debug, Clone)]
pub enum LegState {
    /// Each acknowledgement waits for it.
    InSet,
    /// Nothing is written to it any more, and nothing is acknowledged until it is dropped: see [`crate::Wal::drop_leg`]. Told
    /// once another leg has taken a write since, or the WAL has failed.
    Failed(IoError),
    /// It gets all new frames and is given the old ones.
    Joining,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    pub leg: LegId,
    pub kind: AlarmKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmKind {
    Distrusted(Distrust),
    /// What the device says of its health: drain this broker.
    Health(String),
    /// It did not answer for longer than [`crate::WalConfig::stuck_drop_after`], and counts as failed.
    Hung {
        for_ms: u64,
    },
}

/// Why a device's word that a write is durable does not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// Its cache was write-through, or unknown, and is volatile now: from here on writes are flushed.
    CacheTurnedVolatile,
    /// As before, and the kernel sends it no flushes: the leg counts as failed.
    FlushesAreStripped,
}

/// The oldest I/O in flight has waited for longer than [`crate::WalConfig::stuck_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    pub leg: LegId,
    pub for_us: u64,
}

/// Figures since the WAL was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalStats {
    pub frames: u64,
    /// Written to all legs, superblocks included.
    pub device_bytes: u64,
    pub payload_bytes: u64,
    /// The integral of writes in flight over time: divided by the time it is the depth.
    pub depth_us: u64,
    /// Of frame writes, by powers of the square root of two: bucket `i` counts those below `8 * 2^((i+1)/2)` microseconds.
    pub write_latency_us: [u64; 32],
    /// Writes that took longer than [`crate::WalConfig::spike_threshold`].
    pub spikes: u64,
    /// Age of the oldest write in flight.
    pub oldest_in_flight_us: u64,
    /// Reads that another leg had to answer.
    pub reads_from_other_leg: u64,
}

/// Why a device did not become a leg. The WAL goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the WAL has no room for another leg, or one joins already")]
    NoFreeLeg,
    #[error("the new leg: {0}")]
    Io(IoError),
    #[error("reading what is to be copied: {0}")]
    Wal(#[from] WalError),
    #[error("the new leg failed while it joined")]
    Gone,
}
