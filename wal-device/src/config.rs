//! What a caller chooses: where the WAL lies, how large its frames and queues are, and (in test builds) which faults it has.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::device::Durable;
use crate::format::frame::FRAME_BYTES_LIMIT;
use crate::types::{LegId, Lsn, WalId};

/// No WAL takes larger records: their frames would not be believed when read.
pub const RECORD_BYTES_LIMIT: u32 = FRAME_BYTES_LIMIT / 2;

/// Sizes and limits of an open WAL. `WalConfig::new(path)` gives the defaults.
#[derive(Debug, Clone)]
pub struct WalConfig {
    pub path: PathBuf,
    /// The second device of a mirror, if it has one and it is in its set of legs.
    pub mirror: Option<PathBuf>,
    /// Largest payload of one record, at most [`RECORD_BYTES_LIMIT`]. A larger one is refused at `reserve`. The ring must
    /// hold four of them.
    pub record_bytes_max: u32,
    /// Largest frame that group commit builds; a single larger record gets a frame of its own.
    pub frame_bytes_max: u32,
    /// Frames in flight at once. With `frame_bytes_max` it bounds the buffer pool (by default 4.25 MiB, 6 MiB of huge
    /// pages, so that it can be registered under 8 MiB of memlock).
    pub frames_in_flight_max: u32,
    /// While a frame is in flight the next one waits until this much is queued, or the device is idle again.
    pub pipeline_bytes: u32,
    /// How far ahead of the log's end the superblock allows frames: recovery searches at most this much behind the end.
    /// At least four of the largest frames are used.
    pub reach_bytes: u64,
    /// Payload bytes that may be reserved or queued and not yet copied into a frame.
    pub queue_bytes_max: u64,
    /// Records reserved, queued, in flight, or durable but not yet taken from `Completions`.
    pub records_outstanding_max: u64,
    /// So many first bytes of each payload are kept by a scan, for callers whose payloads begin with a header that they need
    /// at start. 0: none.
    pub scan_head_bytes: usize,
    /// Bytes of read-back buffers in flight.
    pub read_bytes_max: u32,
    /// `soft_limit_reached` says true from this fill on.
    pub soft_limit_percent: u8,
    /// Writes that take longer are counted.
    pub spike_threshold: Duration,
    /// An I/O that takes longer is reported while it hangs.
    pub stuck_after: Duration,
    /// A leg of a mirror that does not answer for longer counts as failed while the other one answers. `None`: it is waited
    /// for.
    pub stuck_drop_after: Option<Duration>,
    /// Count the latencies of writes exactly, for benches: see [`crate::Wal::exact_write_latencies`].
    pub exact_latencies: bool,
    pub engine: EngineChoice,
    /// How writes become durable. `None`: as is right for the device, or the other way where a probe finds that much faster.
    pub durable: Option<Durable>,
    pub faults: Faults,
}

impl WalConfig {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mirror: None,
            record_bytes_max: 2 << 20,
            frame_bytes_max: (1 << 20) + (64 << 10),
            frames_in_flight_max: 4,
            pipeline_bytes: 64 << 10,
            reach_bytes: 32 << 20,
            queue_bytes_max: 64 << 20,
            records_outstanding_max: 1 << 18,
            scan_head_bytes: 0,
            read_bytes_max: 64 << 20,
            soft_limit_percent: 75,
            spike_threshold: Duration::from_millis(100),
            stuck_after: Duration::from_secs(5),
            stuck_drop_after: None,
            exact_latencies: false,
            engine: EngineChoice::Auto,
            durable: None,
            faults: Faults::default(),
        }
    }
}

/// Which engine drives the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// io_uring, or pwritev2 where io_uring is refused.
    #[default]
    Auto,
    /// pwritev2 from a small pool of threads.
    Pwrite,
}

/// How to format a WAL.
#[derive(Debug, Clone)]
pub struct FormatConfig {
    /// A block device, or a file that is created.
    pub path: PathBuf,
    /// The second device of a mirror.
    pub mirror: Option<PathBuf>,
    /// Ring size, a multiple of the block. `None`: all of the block device, of a mirror's smaller one.
    pub ring_bytes: Option<u64>,
    /// 4096 unless the device asks for more.
    pub block_bytes: u32,
    pub node_id: i32,
    /// Format although something is there.
    pub overwrite: bool,
}

impl FormatConfig {
    pub fn new(path: impl Into<PathBuf>, ring_bytes: u64, node_id: i32) -> Self {
        let (path, ring_bytes) = (path.into(), Some(ring_bytes));
        Self { path, mirror: None, ring_bytes, block_bytes: 4096, node_id, overwrite: false }
    }
}

/// Whose WAL this must be. A WAL that was never opened belongs to no cluster yet and passes.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    pub cluster_id: Option<Uuid>,
    pub incarnation: Option<Uuid>,
    pub node_id: Option<i32>,
    pub wal_id: Option<WalId>,
    /// The owner epoch that metadata holds (0 if it does not know the WAL). A device that has seen a higher one is refused.
    pub owner_epoch_max: Option<u64>,
}

/// What metadata knows of this WAL: where recovery starts and what must be there.
#[derive(Debug, Clone, Default)]
pub struct ScanFrom {
    /// The trim LSN that metadata holds: a frame's start, or the end. 0 for a new WAL.
    pub trim: Lsn,
    /// Committed opens, oldest first: (owner epoch, start LSN). The newest at least.
    /// All between `trim` and the newest start must be valid; from a start on frames need that epoch or a higher one.
    pub opened_at: Vec<(u64, Lsn)>,
    /// The devices that make up the WAL. `None`: not recorded yet.
    pub legs: Option<LegSet>,
    /// An operator gave the log up and moved the trim LSN by hand.
    pub given_up: bool,
}

/// Which devices make up a WAL, as metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegSet {
    pub epoch: u64,
    pub legs: Vec<LegId>,
}

/// Test-only faults. Each breaks one promise, so that checkers can prove that they would see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Frames are written but never flushed.
    SkipFlush,
    /// Records are reported durable when their frame is submitted.
    AckEarly,
    /// Neither recovery nor read-back checks a CRC.
    SkipCrc,
    /// Recovery accepts frames of an older owner.
    IgnoreEpoch,
    /// A slot is reused while a reader pins it.
    ReuseSlotWhilePinned,
    /// A slot is reused although it is not trimmed.
    TrimEarly,
    /// A leg is opened whatever metadata says of the set.
    AcceptStaleLeg,
    /// A frame is reported durable when the first leg has it.
    AckOneLeg,
    /// A leg that fails is dropped at once, without metadata.
    DropWithoutCommit,
    /// A leg joins without the frames of before.
    JoinWithoutCopy,
    /// A device whose cache turned volatile is believed as before.
    IgnoreDistrust,
    /// The kernel interrupts every fifth I/O, has no room for it or cuts it short. This one breaks no promise.
    Mishaps,
}

/// The faults that are on: none, but in tests and with the cargo feature `fault-injection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    #[cfg(any(test, feature = "fault-injection"))]
    bits: u16,
}

impl Faults {
    #[cfg(any(test, feature = "fault-injection"))]
    pub fn with(mut self, fault: Fault) -> Self {
        self.bits |= 1 << fault as u8;
        self
    }

    #[cfg(any(test, feature = "fault-injection"))]
    pub(crate) fn has(self, fault: Fault) -> bool {
        self.bits & (1 << fault as u8) != 0
    }

    #[cfg(not(any(test, feature = "fault-injection")))]
    pub(crate) const fn has(self, _fault: Fault) -> bool {
        false
    }
}
