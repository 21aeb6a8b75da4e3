//! What can go wrong, one enum per operation; each variant asks for another reaction.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::types::{LegId, Lsn, WalId};

/// An I/O error that can be cloned: it is told to many.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation}: {error}")]
pub struct IoError {
    pub operation: &'static str,
    pub error: Arc<std::io::Error>,
}

impl IoError {
    pub(crate) fn new(operation: &'static str, error: std::io::Error) -> Self {
        Self { operation, error: Arc::new(error) }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// A write or flush failed. Final for this WAL: nothing more becomes durable; what was in flight is unknown until
    /// recovery reads it back. Records below the durable LSN can still be read.
    #[error("the WAL failed: {0}")]
    Failed(IoError),
    #[error("the WAL is closed")]
    Closed,
    #[error("the WAL is open for reading only")]
    Sealed,
    #[error("record at {lsn} is below the trim LSN {trim}")]
    Trimmed { lsn: Lsn, trim: Lsn },
    #[error("record at {lsn} is not durable, only what is below {durable} can be read")]
    NotDurable { lsn: Lsn, durable: Lsn },
    /// The bytes on the device are not those that were written, at the second read too. Never served.
    #[error("record at {lsn} is corrupt: {why}")]
    Corrupt { lsn: Lsn, why: &'static str },
    #[error("reading the WAL: {0}")]
    Read(IoError),
}

/// Why space cannot be reserved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalFull {
    /// Wait for [`crate::Wal::space_freed`], then answer with a retriable error.
    #[error("the ring is full: {used_bytes} of {ring_bytes} bytes in use, {reserved_bytes} reserved")]
    Ring { ring_bytes: u64, used_bytes: u64, reserved_bytes: u64 },
    /// The device is slower than the producers, or completions are not consumed. Wait for [`crate::Wal::space_freed`].
    #[error("the queue is full: {queued_bytes} bytes, {records} records outstanding")]
    Queue { queued_bytes: u64, records: u64 },
    #[error("a record of {bytes} bytes exceeds the limit of {bytes_max}")]
    RecordTooLarge { bytes: u64, bytes_max: u64 },
    /// Failed or closed: waiting does not help.
    #[error(transparent)]
    Unusable(WalError),
}

#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("{path} already holds {what}; formatting it must be asked for on purpose")]
    InUse { path: PathBuf, what: String },
    #[error("{path} holds {what}: nothing was written")]
    HoldsOther { path: PathBuf, what: String },
    /// `by` completes the sentence. Overwriting does not help: whoever uses it must let it go.
    #[error("{path} {by}")]
    Held { path: PathBuf, by: String },
    /// A file that was made there would lie in memory.
    #[error("{0} does not exist, and no file is made among devices")]
    NoDevice(PathBuf),
    #[error("no space for a WAL of {bytes} bytes at {path}")]
    NoSpace { path: PathBuf, bytes: u64 },
    #[error("a ring of {ring_bytes} bytes does not work: {why}")]
    BadSize { ring_bytes: u64, why: String },
    #[error("formatting {path}: {error}")]
    Io { path: PathBuf, error: IoError },
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0} does not exist")]
    NotFound(PathBuf),
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// `by` completes the sentence: "is mounted at /data".
    #[error("{path} {by}")]
    InUse { path: PathBuf, by: String },
    #[error("{path} holds {what}, it is not opened as a WAL")]
    HoldsOther { path: PathBuf, what: String },
    #[error("{path} holds no WAL: {why}")]
    NotAWal { path: PathBuf, why: String },
    #[error("{path} is smaller than when it was formatted: it has {bytes} bytes, its WAL needs {needed_bytes}")]
    Shrunk { path: PathBuf, bytes: u64, needed_bytes: u64 },
    #[error("{path} is formatted with blocks of {block_bytes} bytes, but writes no less than {sector_bytes}")]
    BlockBelowSector { path: PathBuf, block_bytes: u32, sector_bytes: u32 },
    /// It was dropped from the mirror and may lack acknowledged data: `replace` makes it a leg again.
    #[error("{path} (leg {leg}) is not in the set of legs of epoch {set_epoch}")]
    StaleLeg { path: PathBuf, leg: LegId, set_epoch: u64 },
    #[error("{path} has seen set {found} of its legs, metadata only knows {known}: metadata is older than the WAL")]
    SetAhead { path: PathBuf, found: u64, known: u64 },
    /// Open without it only when metadata has dropped it.
    #[error("leg {leg} of the set of epoch {set_epoch} is not there: its device must be named, too")]
    LegAbsent { leg: LegId, set_epoch: u64 },
    #[error("{path} is one of the two legs of a mirror whose set is not known: the other one is needed too")]
    OneOfTwo { path: PathBuf },
    #[error("{path} and {other} are not legs of one WAL: {what} differs")]
    LegMismatch { path: PathBuf, other: PathBuf, what: &'static str },
    #[error("{path} is leg {leg} again: one device by two names, or a copy of the other")]
    LegTwice { path: PathBuf, leg: LegId },
    #[error("{path} has format version {found}, this build knows {known}")]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error(
        "a ring of {ring_bytes} bytes is too small for records of {record_bytes_max} bytes: it needs {needed_bytes}"
    )]
    RingTooSmall { ring_bytes: u64, record_bytes_max: u32, needed_bytes: u64 },
    #[error("records of {record_bytes_max} bytes are larger than any WAL takes, {limit}")]
    RecordLimit { record_bytes_max: u32, limit: u32 },
    /// The WAL is damaged: an operator decides. Nothing was written.
    #[error("the WAL is damaged: {0}")]
    Damaged(Damage),
    #[error("owner epoch {asked} is not above {seen}, which the device has seen")]
    StaleEpoch { asked: u64, seen: u64 },
    #[error("opening {path}: {error}")]
    Io { path: PathBuf, error: IoError },
    /// This device failed after its superblock was read. The other leg of a mirror, if it has one, holds everything that was
    /// acknowledged: scan that one alone, drop this one in metadata, open.
    #[error("{path} (leg {leg}) fails: {error}")]
    LegFailed { path: PathBuf, leg: LegId, error: IoError },
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("this WAL belongs to cluster {found}, not to {expected}")]
    OtherCluster { found: Uuid, expected: Uuid },
    #[error("this WAL belongs to incarnation {found} of the cluster, not to {expected}")]
    OtherIncarnation { found: Uuid, expected: Uuid },
    #[error("this WAL belongs to node {found}, not to {expected}")]
    OtherNode { found: i32, expected: i32 },
    #[error("this is WAL {found}, not {expected}")]
    OtherWal { found: WalId, expected: WalId },
    /// Metadata is older than the WAL, or another's.
    #[error("this WAL was opened with owner epoch {found}, metadata only knows {known}")]
    EpochAhead { found: u64, known: u64 },
    #[error("trim LSN {0} is not a frame's start")]
    BadTrim(Lsn),
    /// Nothing is known, nothing was changed.
    #[error("reading the WAL: {0}")]
    Io(IoError),
}

/// Acknowledged data that cannot be read back. It is never cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The first byte that cannot be accepted.
    pub at: Lsn,
    /// Everything below this LSN is proven to have been durable.
    pub durable: Lsn,
    /// What is wrong at `at`.
    pub found: String,
    /// What proves that `at` was acknowledged.
    pub proof: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}, but all below {} was durable: {}", self.found, self.at, self.durable, self.proof)
    }
}
