//! The words of this crate: positions, ids, record headers, payload segments.

use bytes::Bytes;
use uuid::Uuid;

/// A position in one WAL: bytes since it was formatted. Only ever grows, never wraps, unlike the ring slot it maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one formatted WAL. A device that is formatted again gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalId(pub Uuid);

impl std::fmt::Display for WalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one device of a WAL: a mirror has two, and each is told apart by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub Uuid);

impl std::fmt::Display for LegId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What lies under the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalKind {
    /// A raw block device or partition, opened `O_DIRECT|O_EXCL`.
    Device,
    /// A preallocated, pre-written file in a file system.
    File,
}

impl std::fmt::Display for WalKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::File => "file",
        })
    }
}

/// Says what a record is; stored before its bytes and covered by its CRC. The WAL does not interpret it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    pub stream: u64,
    pub leader_epoch: i32,
    pub base_offset: i64,
    pub last_offset: i64,
}

/// Where a durable record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    /// Where the record (its header) starts.
    pub lsn: Lsn,
    /// Length of its payload.
    pub bytes: u32,
    /// How far behind the start of its frame it starts: see [`RecordPosition::frame`].
    pub frame_offset: u32,
}

impl RecordPosition {
    /// The start of the frame that holds the record. **A trim LSN is a frame's start** (or the durable LSN), never a
    /// record's: to keep this record, trim to `frame()`.
    pub fn frame(&self) -> Lsn {
        Lsn(self.lsn.0 - u64::from(self.frame_offset))
    }
}

/// The payload of one record, as up to two slices without an allocation (a patched batch header and the rest), or more.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    first: Bytes,
    second: Bytes,
    rest: Vec<Bytes>,
}

impl Segments {
    pub fn total_bytes(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        [&self.first, &self.second].into_iter().chain(self.rest.iter())
    }
}

impl From<Bytes> for Segments {
    fn from(first: Bytes) -> Self {
        Self { first, ..Self::default() }
    }
}

impl From<[Bytes; 2]> for Segments {
    fn from([first, second]: [Bytes; 2]) -> Self {
        Self { first, second, rest: Vec::new() }
    }
}

impl From<Vec<Bytes>> for Segments {
    fn from(rest: Vec<Bytes>) -> Self {
        Self { rest, ..Self::default() }
    }
}

/// Who may use the last part of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceClass {
    /// Client data: may fill 95 % of the ring.
    Normal,
    /// Internal topics and markers: may use all of it.
    Internal,
}

/// How full a WAL is. All figures in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalUsage {
    pub ring_bytes: u64,
    /// From the lowest LSN that is untrimmed or pinned to the next LSN.
    pub used_bytes: u64,
    /// Promised to reservations and queued records, headers and padding counted at their worst.
    pub reserved_bytes: u64,
    /// Payload reserved or queued that is not yet copied into a frame: this much memory the queue may hold.
    pub queued_bytes: u64,
    /// From so many used and reserved bytes on `Wal::soft_limit_reached` says true.
    pub soft_bytes: u64,
    /// Beyond so many used and reserved bytes `SpaceClass::Normal` is refused.
    pub normal_bytes_max: u64,
    pub trim: Lsn,
    /// Everything below is durable.
    pub durable: Lsn,
    pub next: Lsn,
}

impl WalUsage {
    /// What counts against the limits.
    pub fn taken_bytes(&self) -> u64 {
        self.used_bytes + self.reserved_bytes
    }
}

/// A record that became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableRecord {
    /// As given to `append`.
    pub token: u64,
    pub position: RecordPosition,
}
