//! Everything that can change metadata, what each change answers, and why one may be refused.
//!
//! A command is encoded as `kind: u16, version: u16, fields` (docs/formats/snapshot.md has the table). A node that meets a
//! kind or version it does not know stops: applying something else than its peers would be worse than not serving.
//! The finalized level of [`METADATA_VERSION`] says which versions may be written: a kind that came later names its level
//! below, `43 (level REPLACEMENTS_LEVEL) => ...`, and is refused where it is proposed until an operator has finalized that level.
//! Applying it is not refused: a node that does not know it has stopped by then, and what a log holds is applied as it was.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::ids::*;
use crate::wire::{Input, Wire, WireError, wire_enum, wire_struct};

/// The largest encoded command.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// The most ranges that one `CommitObjects` may hold, over all its objects.
pub const COMMIT_RANGES_MAX: usize = 4_096;
/// The most ranges that one `ReplaceRanges` may replace; those that it puts in their place are bounded as those of a commit.
pub const REPLACE_INPUTS_MAX: usize = 16_384;
/// The most object ids that one `ReserveObjects` may ask for.
pub const RESERVE_OBJECTS_MAX: u32 = 1_024;
/// An owner stays this close to its stream's next offset; a successor without the tail opens this far beyond it.
pub const OFFSET_JUMP: i64 = 1 << 32;
/// The most legs that a WAL may have.
pub const WAL_LEGS_MAX: usize = 2;
/// The longest name of a leg's device.
pub const DEVICE_NAME_BYTES_MAX: usize = 255;
/// The feature whose finalized level gates the formats of commands and snapshots.
pub const METADATA_VERSION: &str = "metadata.version";
/// The highest level of [`METADATA_VERSION`] that this build reads and writes; a new cluster begins at it.
pub const METADATA_LEVEL: u16 = REPLACEMENTS_LEVEL;
/// From this level of [`METADATA_VERSION`] on there is `ReplaceRanges`, and the snapshot format that holds what it leaves.
pub const REPLACEMENTS_LEVEL: u16 = 2;

/// A list of commands: the enum, its kinds with their versions where there is more than one, and its encoding in one place.
macro_rules! commands {
    ($($(#[$doc:meta])* $kind:literal $((versions 1 to $newest:literal))? $((level $level:ident))? => $name:ident { $($field:ident: $ty:ty),* $(,)? })+) => {
        /// One change of the cluster's metadata.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Command {
            $($(#[$doc])* $name { $($field: $ty),* },)+
        }

        impl Command {
            /// The variant's name, for logs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => stringify!($name),)+ }
            }

            /// Every kind that this build knows, with its name.
            pub const KINDS: &[(u16, &str)] = &[$(($kind, stringify!($name))),+];

            /// The level of [`METADATA_VERSION`] from which on it may be proposed.
            pub fn level(&self) -> u16 {
                match self { $(Self::$name { .. } => 1 $(.max($level))?,)+ }
            }

            fn kind(&self) -> u16 {
                match self { $(Self::$name { .. } => $kind,)+ }
            }

            fn put_fields(&self, out: &mut Vec<u8>) {
                match self { $(Self::$name { $($field),* } => { $(Wire::put($field, out);)* })+ }
            }

            fn take_fields(kind: u16, version: u16, input: &mut Input<'_>) -> Result<Self, CommandError> {
                match (kind, version) {
                    $(($kind, 1 $(..=$newest)?) => Ok(Self::$name { $($field: <$ty as Wire>::take(input)?),* }),)+
                    _ => Err(CommandError::Unknown { kind, version }),
                }
            }
        }
    };
}

commands! {
    /// Makes the cluster. Repeating it with the same ids is allowed; any other is refused.
    1 => InitCluster { cluster: ClusterId, incarnation: Incarnation, metadata_level: u16 }
    /// Moves metadata time forward; an earlier time changes nothing. Expires reservations.
    2 => AdvanceTime { now_ms: u64 }
    /// Raises finalized feature levels. Every active broker must support them. Answers `Done`.
    3 => FinalizeFeatures { features: BTreeMap<String, u16> }

    /// Gives a starting broker its epoch and fences its earlier ones. Answers `BrokerEpoch`.
    10 => RegisterBroker {
        node: NodeId, boot: BootId, listeners: Vec<Listener>, rack: Option<String>, wals: Vec<WalId>,
        features: BTreeMap<String, FeatureRange>,
    }
    /// Ends a broker's epoch. The caller has waited out its lease. Answers `BrokerEpoch` with the epoch that follows.
    11 => FenceBroker { node: NodeId, epoch: BrokerEpoch }

    /// [`Command::CreateDistinctTopic`] without its check of names: what earlier versions wrote.
    20 => CreateTopic {
        name: String, topic: TopicId, internal: bool, replication_factor: i16, owners: Vec<NodeId>,
        configs: BTreeMap<String, String>,
    }
    /// Removes a topic with its streams; objects that only they used are marked. Answers `Done`.
    21 => DeleteTopic { topic: TopicId }
    /// Grows a topic to `total` partitions; `owners` are those of the new ones. Answers `Topic`.
    22 => CreatePartitions { topic: TopicId, total: i32, owners: Vec<NodeId> }
    /// Changes the configs of one resource, all or none; `replace_all` drops what `ops` does not set. Answers `Done`.
    23 (versions 1 to 2) => AlterConfigs { resource: ConfigResource, ops: Vec<ConfigOp>, replace_all: bool }
    /// Answers `ProducerIds`: a block that no other answer overlaps.
    24 => AllocateProducerIds { by: Registration, count: u32 }
    /// Changes the quotas of clients, all or none. Answers `Done`.
    25 => AlterClientQuotas { changes: Vec<QuotaChange> }
    /// Makes a topic with one partition and one stream per owner given, unless its name differs from another's only in
    /// '.' and '_'. Answers `Topic`. Repeating it with the same topic id and name is allowed.
    26 => CreateDistinctTopic {
        name: String, topic: TopicId, internal: bool, replication_factor: i16, owners: Vec<NodeId>,
        configs: BTreeMap<String, String>,
    }

    /// Gives the owner's own partitions their next leader epochs, as a restarted process wants. Answers `LeaderEpochs`.
    30 => TakePartitions { by: Registration, partitions: Vec<PartitionId> }
    /// Hands a clean partition to another owner under the next leader epoch. Answers `LeaderEpochs`.
    31 => MovePartition { partition: PartitionId, leader_epoch: LeaderEpoch, to: NodeId }
    /// Says, before the first append, that these WALs may hold acked data of the partition. Those of an earlier mark must
    /// be open too. Answers `Done`.
    32 => MarkDirty {
        by: Registration, partition: PartitionId, leader_epoch: LeaderEpoch, wals: BTreeSet<WalId>, generation: u64,
    }
    /// Ends the dirty mark of that generation: all acked data is committed. Answers `Done`.
    33 => MarkClean { by: Registration, partition: PartitionId, leader_epoch: LeaderEpoch, generation: u64 }
    /// Moves a stream's start offset up; whole objects below it lose their references. The start may pass the next offset,
    /// by less than [`OFFSET_JUMP`]. Answers `LogStart`.
    34 => TrimStream { by: Registration, stream: StreamId, leader_epoch: LeaderEpoch, start: Offset }

    /// Answers `ObjectIds`: fresh ids that the broker may put and commit within `ttl_ms` of metadata time.
    40 => ReserveObjects { by: Registration, count: u32, ttl_ms: u64 }
    /// Makes stored objects part of their streams, checked per range. Answers `Commit`.
    41 => CommitObjects { by: Registration, objects: Vec<ObjectCommit>, trims: Vec<WalTrim> }
    /// Forgets marked objects that were physically deleted. `marked_before_ms` is the grace that the caller kept: an object
    /// marked later refuses the command. Answers `Done`.
    42 => ForgetObjects { by: Registration, objects: Vec<ObjectId>, marked_before_ms: u64 }
    /// Puts ranges of stored objects in the place of others that hold the same offsets, checked per stream: a compaction's
    /// commit. Answers `Replaced`.
    43 (level REPLACEMENTS_LEVEL) => ReplaceRanges { by: Registration, objects: Vec<NewObject>, streams: Vec<StreamReplacement> }

    /// An operator's word that no broker of an earlier incarnation is left, and that nobody wants to restore one: objects of
    /// those are deleted as others are from here on. Answers `Done`.
    44 => DeclareOnly { incarnation: Incarnation }

    /// Opens a WAL for appending from `start` under a higher owner epoch. Refused once a recovery has begun. Answers `Done`.
    50 => OpenWal { by: Registration, wal: WalId, owner_epoch: OwnerEpoch, start: Lsn }
    /// Begins the recovery of a fenced broker's WAL: its end was found at `end`. Answers `Done`.
    51 => SealWal { by: Registration, wal: WalId, owner_epoch: OwnerEpoch, end: Lsn }
    /// Says that all of a sealed WAL is committed: partitions that were dirty through it are so no longer. Answers `Done`.
    52 => RecoverWal { by: Registration, wal: WalId }
    /// Says that a WAL cannot be read at `at` although it was acked; it waits for an operator. Answers `Done`.
    53 => DamagedWal { by: Registration, wal: WalId, owner_epoch: OwnerEpoch, at: Lsn }
    /// Moves a WAL's trim up, outside of a commit. Answers `Done`.
    54 => TrimWal { by: Registration, trim: WalTrim }
    /// An operator's word that what could not be read is lost. Partitions dirty through this WAL alone continue
    /// [`OFFSET_JUMP`] beyond their next offset; the trim moves to `past`, beyond every frame found. Answers `LeaderEpochs`.
    55 => GiveUpWal { wal: WalId, past: Lsn }
    /// Says which devices make up a WAL from now on; `set_epoch` is one above that of the set before, 1 for the first. Any other
    /// device is refused for good. One of the set before stays. Answers `Done`.
    56 => SetWalLegs { by: Registration, wal: WalId, set_epoch: u64, legs: Vec<WalLeg> }
}

/// Where a broker can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
}

/// The levels of a feature that a broker can work at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FeatureRange {
    pub min: u16,
    pub max: u16,
}

/// What a config belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ConfigResource {
    /// The default of all brokers.
    BrokerDefault,
    Broker {
        node: NodeId,
    },
    Topic {
        name: String,
    },
    /// A consumer group; it need not exist.
    Group {
        name: String,
    },
    /// A subscription to metrics of clients.
    ClientMetrics {
        name: String,
    },
}

/// One change of one config key, or a condition on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    Set {
        key: String,
        value: String,
    },
    Delete {
        key: String,
    },
    /// Refuses the whole command unless the key was at that value before it, so that what was derived from the value
    /// still holds.
    Expect {
        key: String,
        value: Option<String>,
    },
}

/// Whose quotas these are: a user, a client id, both, or an IP address, each by name or for all that have none of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct QuotaEntity {
    pub user: Option<QuotaName>,
    pub client_id: Option<QuotaName>,
    pub ip: Option<QuotaName>,
}

/// One part of a quota entity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum QuotaName {
    /// All without an entity of their own.
    Default,
    Named {
        name: String,
    },
}

/// A quota: finite and above zero.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuotaValue(u64);

/// What changes in the quotas of one entity: a value sets the key, none removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaChange {
    pub entity: QuotaEntity,
    pub values: BTreeMap<String, Option<QuotaValue>>,
}

/// An object of a commit: what was put, and which parts of which streams it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCommit {
    pub object: ObjectId,
    pub record: ObjectRecord,
    pub ranges: Vec<RangeCommit>,
}

/// What must be known to find and read an object, now and after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ObjectRecord {
    pub bucket: u32,
    pub incarnation: Incarnation,
    pub format_version: u16,
    pub bytes: u64,
}

/// A contiguous part of one stream in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeCommit {
    pub stream: StreamId,
    /// The leader epoch under which the owner commits: the partition's current one.
    pub leader_epoch: LeaderEpoch,
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    pub bytes: u64,
    pub records: u64,
    pub max_timestamp: i64,
    /// The leader epochs that the batches carry, each with its first offset here; the first one's is `base`. Empty means
    /// that all carry `leader_epoch`. A recovered tail carries older ones.
    pub epochs: Vec<EpochStart>,
}

/// An object that a replacement brings, reserved and stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewObject {
    pub object: ObjectId,
    pub record: ObjectRecord,
}

/// A contiguous part of one stream, as it is and as it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReplacement {
    pub stream: StreamId,
    /// The partition's current one; its owner replaces.
    pub leader_epoch: LeaderEpoch,
    /// Ranges that follow each other without a gap. Those that the stream's start passes meanwhile may be gone.
    pub inputs: Vec<RangeInput>,
    /// They begin where the first input does, follow each other without a gap, and end where the last input does.
    pub outputs: Vec<RangeOutput>,
    /// Below it no record is left that a later one below it supersedes: how far the log was compacted by key.
    pub cleaned_to: Option<Offset>,
}

/// A range that was read. It ends where the next input begins, or where the outputs end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeInput {
    pub base: Offset,
    pub object: ObjectId,
}

/// A range to be. It may hold fewer records than offsets, none included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeOutput {
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    /// One of the new objects.
    pub object: ObjectId,
    pub bytes: u64,
    pub records: u64,
    pub max_timestamp: i64,
}

/// The first offset of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

/// Up to where a WAL may be forgotten. Everything below is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WalTrim {
    pub wal: WalId,
    pub owner_epoch: OwnerEpoch,
    pub lsn: Lsn,
}

/// A device of a WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalLeg {
    pub leg: LegId,
    /// Its name when it was recorded, for operators; at most [`DEVICE_NAME_BYTES_MAX`].
    pub device: String,
    /// Of its ring.
    pub bytes: u64,
}

/// What an applied command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Done,
    BrokerEpoch(BrokerEpoch),
    /// The streams of the partitions just made, in index order.
    Topic {
        topic: TopicId,
        streams: Vec<StreamId>,
    },
    ProducerIds {
        first: ProducerId,
        count: u32,
    },
    LeaderEpochs(Vec<(PartitionId, LeaderEpoch)>),
    LogStart(Offset),
    ObjectIds {
        first: ObjectId,
        count: u32,
    },
    Commit(CommitAnswer),
    /// Per stream, in the order of the command.
    Replaced(Vec<RangeOutcome>),
}

/// The answer to `CommitObjects`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitAnswer {
    /// Per object and range, in the order of the command.
    pub outcomes: Vec<Vec<RangeOutcome>>,
    /// Whether the WAL trims were applied: not if any range was refused.
    pub trimmed: bool,
}

/// What became of one range of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RangeOutcome {
    /// The range is part of the stream now.
    Accepted,
    /// The range is not taken, and need not be: the WAL may forget it.
    Settled { why: Settled },
    /// The range is not taken and must be kept. No trim was applied.
    Refused { why: Refused },
}

/// Why a range need not be committed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Settled {
    /// These offsets were committed before.
    AlreadyCommitted,
    /// Some of these offsets were given up on purpose.
    GivenUp,
    /// The stream was deleted.
    StreamDeleted,
    /// The leader epoch was closed at or below the range's base; nothing in it was acked.
    EpochClosed,
}

/// Why a range was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Refused {
    /// No such stream was ever made.
    UnknownStream,
    /// Another broker owns the partition.
    NotOwner { owner: NodeId },
    /// The partition is at another leader epoch.
    StaleLeaderEpoch { current: LeaderEpoch },
    /// The range does not begin at the stream's next offset.
    NotNext { next: Offset },
    /// The batches' leader epochs go backwards or beyond the partition's.
    EpochOrder,
    /// The stream is not made of the ranges any more that were to be replaced.
    NotCurrent,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the cluster is not initialised")]
    NotInitialised,
    #[error("the metadata belongs to cluster {cluster}, incarnation {incarnation}")]
    OtherCluster { cluster: ClusterId, incarnation: Incarnation },
    #[error("feature {name}: level {level} is not possible: {why}")]
    Feature { name: String, level: u16, why: &'static str },
    #[error("broker {0} is not registered")]
    UnknownBroker(NodeId),
    #[error("broker {node} is at epoch {current}")]
    StaleBrokerEpoch { node: NodeId, current: BrokerEpoch },
    #[error("broker {0} is fenced")]
    BrokerFenced(NodeId),
    #[error("topic {name} exists with id {topic}")]
    TopicExists { name: String, topic: TopicId },
    #[error("topic {name} collides with topic {with}")]
    TopicCollides { name: String, with: String },
    #[error("topic id {0} is in use")]
    TopicIdInUse(TopicId),
    #[error("unknown topic id {0}")]
    UnknownTopic(TopicId),
    #[error("unknown topic {0}")]
    UnknownTopicName(String),
    #[error("config {key} is not what it was when its change was asked for")]
    ConfigChanged { key: String },
    #[error("unknown partition {0}")]
    UnknownPartition(PartitionId),
    #[error("unknown stream {0}")]
    UnknownStream(StreamId),
    #[error("topic has {current} partitions: {why}")]
    Partitions { current: i32, why: &'static str },
    #[error("partition {partition} is owned by broker {owner}")]
    NotOwner { partition: PartitionId, owner: NodeId },
    #[error("partition {partition} is at leader epoch {current}")]
    StaleLeaderEpoch { partition: PartitionId, current: LeaderEpoch },
    #[error("partition {0} is dirty")]
    PartitionDirty(PartitionId),
    #[error("partition {partition} has seen dirty generation {current}")]
    StaleGeneration { partition: PartitionId, current: u64 },
    #[error("offset {offset} is outside of {low}..={high}")]
    OffsetOutOfRange { offset: Offset, low: Offset, high: Offset },
    #[error("object {0} has no live reservation of this broker")]
    NotReserved(ObjectId),
    #[error("object {0} was committed with other ranges")]
    OtherObject(ObjectId),
    #[error("object {0} may not be forgotten")]
    NotDeletable(ObjectId),
    #[error("unknown WAL {0}")]
    UnknownWal(WalId),
    #[error("WAL {wal} belongs to broker {node}")]
    OtherWalOwner { wal: WalId, node: NodeId },
    #[error("WAL {wal} is at owner epoch {current}")]
    StaleOwnerEpoch { wal: WalId, current: OwnerEpoch },
    #[error("WAL {wal} is {state}")]
    WalState { wal: WalId, state: &'static str },
    #[error("WAL {wal}: LSN {lsn} is below {floor}")]
    LsnTooLow { wal: WalId, lsn: Lsn, floor: Lsn },
    #[error("WAL {wal} is at leg set {current}")]
    LegSetEpoch { wal: WalId, current: u64 },
    #[error("WAL {wal} cannot have these legs: {why}")]
    Legs { wal: WalId, why: &'static str },
    #[error("malformed command: {0}")]
    Malformed(&'static str),
    #[error("exhausted: {0}")]
    Exhausted(&'static str),
}

/// Why bytes are not a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("unknown command kind {kind} version {version}: written by a newer version")]
    Unknown { kind: u16, version: u16 },
    #[error("a command of {bytes} bytes exceeds {COMMAND_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("broken command")]
    Broken(#[from] WireError),
}

impl ConfigResource {
    /// Whether the first versions of commands and snapshots did not know this kind.
    pub(crate) fn came_later(&self) -> bool {
        matches!(self, Self::Group { .. } | Self::ClientMetrics { .. })
    }
}

impl QuotaEntity {
    /// Whether quotas can belong to it: an IP address stands alone.
    pub fn is_possible(&self) -> bool {
        let client = self.user.is_some() || self.client_id.is_some();
        let unnamed = |part: &Option<QuotaName>| matches!(part, Some(QuotaName::Named { name }) if name.is_empty());
        client != self.ip.is_some() && ![&self.user, &self.client_id, &self.ip].into_iter().any(unnamed)
    }
}

impl QuotaValue {
    pub fn new(value: f64) -> Option<Self> {
        (value.is_finite() && value > 0.0).then(|| Self(value.to_bits()))
    }

    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl std::fmt::Debug for QuotaValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// The bits of the float.
impl Wire for QuotaValue {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        Self::new(f64::from_bits(u64::take(input)?)).ok_or(WireError::Invalid("quota"))
    }
}

impl Command {
    /// Changes of configs that hold what was added to version 1 are version 2, so that an older node says that a newer
    /// one wrote them: conditions, and configs of groups and of client metrics. For a while they were written as version 1.
    fn version(&self) -> u16 {
        match self {
            Self::AlterConfigs { resource, ops, .. } => {
                let has_conditions = ops.iter().any(|op| matches!(op, ConfigOp::Expect { .. }));
                if resource.came_later() || has_conditions { 2 } else { 1 }
            }
            _ => 1,
        }
    }

    /// The command's bytes, at most [`COMMAND_BYTES_MAX`] of them.
    pub fn encode(&self) -> Result<Vec<u8>, CommandError> {
        let mut out = Vec::with_capacity(64);
        self.kind().put(&mut out);
        self.version().put(&mut out);
        self.put_fields(&mut out);
        if out.len() > COMMAND_BYTES_MAX { Err(CommandError::TooLarge { bytes: out.len() }) } else { Ok(out) }
    }

    /// The command in `bytes`, which must hold nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLarge { bytes: bytes.len() });
        }
        let mut input = Input::new(bytes);
        let (kind, version) = (u16::take(&mut input)?, u16::take(&mut input)?);
        let command = Self::take_fields(kind, version, &mut input)?;
        input.finish()?;
        if version > command.version() { Err(WireError::Invalid("version").into()) } else { Ok(command) }
    }
}

wire_struct!(Listener { name, host, port });
wire_struct!(FeatureRange { min, max });
wire_enum!(ConfigResource ("config resource") { 0 => BrokerDefault, 1 => Broker { node }, 2 => Topic { name }, 3 => Group { name }, 4 => ClientMetrics { name } });
wire_enum!(ConfigOp ("config op") { 0 => Set { key, value }, 1 => Delete { key }, 2 => Expect { key, value } });
wire_struct!(QuotaEntity { user, client_id, ip });
wire_enum!(QuotaName ("quota name") { 0 => Default, 1 => Named { name } });
wire_struct!(QuotaChange { entity, values });
wire_struct!(ObjectCommit { object, record, ranges });
wire_struct!(ObjectRecord { bucket, incarnation, format_version, bytes });
wire_struct!(RangeCommit { stream, leader_epoch, base, end, bytes, records, max_timestamp, epochs });
wire_struct!(EpochStart { epoch, start });
wire_struct!(NewObject { object, record });
wire_struct!(StreamReplacement { stream, leader_epoch, inputs, outputs, cleaned_to });
wire_struct!(RangeInput { base, object });
wire_struct!(RangeOutput { base, end, object, bytes, records, max_timestamp });
wire_struct!(WalTrim { wal, owner_epoch, lsn });
wire_struct!(WalLeg { leg, device, bytes });
wire_enum!(RangeOutcome ("range outcome") { 0 => Accepted, 1 => Settled { why }, 2 => Refused { why } });
wire_enum!(Settled ("settled") { 0 => AlreadyCommitted, 1 => GivenUp, 2 => StreamDeleted, 3 => EpochClosed });
wire_enum!(Refused ("refused") {
    0 => UnknownStream, 1 => NotOwner { owner }, 2 => StaleLeaderEpoch { current }, 3 => NotNext { next }, 4 => EpochOrder,
    5 => NotCurrent,
});

/// The features that this crate itself supports; a broker adds its own and registers with all of them.
pub fn supported_features() -> BTreeMap<String, FeatureRange> {
    BTreeMap::from([(METADATA_VERSION.to_owned(), FeatureRange { min: 1, max: METADATA_LEVEL })])
}
