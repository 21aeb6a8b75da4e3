//! Records of groups under the consumer protocol (KIP-848): keys 3 and 5 to 8, and 16, as Kafka 4.3 has them.
//!
//! A group is several records: its epoch, what each member wants, the target assignment and its epoch, what each
//! member has, and the topics of each regular expression. The log after compaction holds the last of each key, so
//! replay takes them in any order that the log has. Key 4 (the metadata that brokers before 4.1 kept) is left alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{GroupRecordError, Reader, put_string, put_varint};

const EPOCH_KEY: i16 = 3;
const MEMBER_KEY: i16 = 5;
const TARGET_EPOCH_KEY: i16 = 6;
const TARGET_KEY: i16 = 7;
const CURRENT_KEY: i16 = 8;
const REGEX_KEY: i16 = 16;

/// Every value of these types has this version; what came later came as tagged fields.
const VALUE_VERSION: i16 = 0;
/// The first tagged field of each value that has one.
const FIRST_TAG: u32 = 0;

/// Topic id -> partitions.
pub type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;
/// Topic id -> partition -> the member epoch at which the member got it.
pub type OwnedPartitions = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// One record of a consumer group; no value is a tombstone.
#[derive(Debug, Clone, PartialEq)]
pub enum ConsumerRecord {
    Epoch(Option<EpochValue>),
    Member(String, Option<MemberMetadata>),
    TargetEpoch(Option<TargetEpochValue>),
    Target(String, Option<Assignment>),
    Current(String, Option<CurrentAssignment>),
    Regex(String, Option<ResolvedRegex>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochValue {
    pub epoch: i32,
    /// Of the subscribed topics, their ids and partition counts; 0 for none.
    pub metadata_hash: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEpochValue {
    pub epoch: i32,
    /// Wall clock of the computation; 0 is unknown.
    pub timestamp_ms: i64,
}

/// What a member said about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberMetadata {
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topic_names: BTreeSet<String>,
    pub topic_regex: Option<String>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<String>,
    /// Set while the member speaks the classic protocol.
    pub classic: Option<ClassicMetadata>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassicMetadata {
    pub session_timeout_ms: i32,
    /// Name and metadata of each protocol, in the member's order of preference.
    pub protocols: Vec<(String, Bytes)>,
}

/// Where a member stands on its way to its target assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    Stable,
    /// It has to give partitions up before it can go on.
    UnrevokedPartitions,
    /// It waits for partitions that others have not given up yet.
    UnreleasedPartitions,
    /// A state that a newer broker wrote.
    Unknown,
}

impl MemberState {
    fn number(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    fn of(number: i8) -> Self {
        match number {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentAssignment {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: OwnedPartitions,
    pub revoking: OwnedPartitions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedRegex {
    pub topics: BTreeSet<String>,
    /// Of the metadata that it was resolved against.
    pub version: i64,
    pub timestamp_ms: i64,
}

/// The group and record of a key that starts with `kind`; None for a kind that is none of these.
pub(super) fn decode(
    kind: i16,
    key: &mut Reader,
    value: Option<Bytes>,
) -> Result<Option<(String, ConsumerRecord)>, GroupRecordError> {
    if !matches!(kind, EPOCH_KEY | MEMBER_KEY | TARGET_EPOCH_KEY | TARGET_KEY | CURRENT_KEY | REGEX_KEY) {
        return Ok(None);
    }
    let group = key.string("group")?;
    let record = match kind {
        EPOCH_KEY => ConsumerRecord::Epoch(read(value, "the group epoch", epoch)?),
        MEMBER_KEY => ConsumerRecord::Member(key.string("member id")?, read(value, "the member metadata", member)?),
        TARGET_EPOCH_KEY => ConsumerRecord::TargetEpoch(read(value, "the target assignment epoch", target_epoch)?),
        TARGET_KEY => ConsumerRecord::Target(key.string("member id")?, read(value, "the target assignment", target)?),
        CURRENT_KEY => {
            ConsumerRecord::Current(key.string("member id")?, read(value, "the current assignment", current)?)
        }
        _ => ConsumerRecord::Regex(key.string("regular expression")?, read(value, "the regular expression", regex)?),
    };
    key.finish()?;
    Ok(Some((group, record)))
}

pub fn encode_key(group: &str, record: &ConsumerRecord) -> Bytes {
    let (kind, second) = match record {
        ConsumerRecord::Epoch(_) => (EPOCH_KEY, None),
        ConsumerRecord::Member(member, _) => (MEMBER_KEY, Some(member)),
        ConsumerRecord::TargetEpoch(_) => (TARGET_EPOCH_KEY, None),
        ConsumerRecord::Target(member, _) => (TARGET_KEY, Some(member)),
        ConsumerRecord::Current(member, _) => (CURRENT_KEY, Some(member)),
        ConsumerRecord::Regex(regex, _) => (REGEX_KEY, Some(regex)),
    };
    let mut out = BytesMut::with_capacity(8 + group.len() + second.map_or(0, String::len));
    out.put_i16(kind);
    put_string(&mut out, group);
    if let Some(second) = second {
        put_string(&mut out, second);
    }
    out.freeze()
}

/// None is a tombstone.
pub fn encode_value(record: &ConsumerRecord) -> Option<Bytes> {
    let mut out = BytesMut::new();
    out.put_i16(VALUE_VERSION);
    match record {
        ConsumerRecord::Epoch(value) => {
            let value = value.as_ref()?;
            out.put_i32(value.epoch);
            put_tagged_i64(&mut out, value.metadata_hash);
        }
        ConsumerRecord::Member(_, value) => put_member(&mut out, value.as_ref()?),
        ConsumerRecord::TargetEpoch(value) => {
            let value = value.as_ref()?;
            out.put_i32(value.epoch);
            put_tagged_i64(&mut out, value.timestamp_ms);
        }
        ConsumerRecord::Target(_, value) => put_target(&mut out, value.as_ref()?),
        ConsumerRecord::Current(_, value) => put_current(&mut out, value.as_ref()?),
        ConsumerRecord::Regex(_, value) => {
            let value = value.as_ref()?;
            put_count(&mut out, value.topics.len());
            value.topics.iter().for_each(|topic| put_compact(&mut out, topic.as_bytes()));
            out.put_i64(value.version);
            out.put_i64(value.timestamp_ms);
            put_varint(&mut out, 0);
        }
    }
    Some(out.freeze())
}

fn put_member(out: &mut BytesMut, value: &MemberMetadata) {
    put_nullable_compact(out, value.instance_id.as_deref());
    put_nullable_compact(out, value.rack_id.as_deref());
    put_compact(out, value.client_id.as_bytes());
    put_compact(out, value.client_host.as_bytes());
    put_count(out, value.topic_names.len());
    value.topic_names.iter().for_each(|name| put_compact(out, name.as_bytes()));
    put_nullable_compact(out, value.topic_regex.as_deref());
    out.put_i32(value.rebalance_timeout_ms);
    put_nullable_compact(out, value.server_assignor.as_deref());
    let Some(classic) = &value.classic else { return put_varint(out, 0) };
    let mut field = BytesMut::new();
    // A nullable struct says whether it is there.
    field.put_i8(1);
    field.put_i32(classic.session_timeout_ms);
    put_count(&mut field, classic.protocols.len());
    for (name, metadata) in &classic.protocols {
        put_compact(&mut field, name.as_bytes());
        put_compact(&mut field, metadata);
        put_varint(&mut field, 0);
    }
    put_varint(&mut field, 0);
    put_tagged(out, &field);
}

fn put_target(out: &mut BytesMut, value: &Assignment) {
    put_count(out, value.len());
    for (topic, partitions) in value {
        out.put_slice(topic.as_bytes());
        put_count(out, partitions.len());
        partitions.iter().for_each(|partition| out.put_i32(*partition));
        put_varint(out, 0);
    }
    put_varint(out, 0);
}

fn put_current(out: &mut BytesMut, value: &CurrentAssignment) {
    out.put_i32(value.epoch);
    out.put_i32(value.previous_epoch);
    out.put_i8(value.state.number());
    for owned in [&value.assigned, &value.revoking] {
        put_count(out, owned.len());
        for (topic, partitions) in owned {
            out.put_slice(topic.as_bytes());
            put_count(out, partitions.len());
            partitions.keys().for_each(|partition| out.put_i32(*partition));
            let mut epochs = BytesMut::new();
            put_count(&mut epochs, partitions.len());
            partitions.values().for_each(|epoch| epochs.put_i32(*epoch));
            put_tagged(out, &epochs);
        }
    }
    put_varint(out, 0);
}

fn put_count(out: &mut BytesMut, count: usize) {
    put_varint(out, u32::try_from(count).expect("a list in memory is shorter") + 1);
}

fn put_compact(out: &mut BytesMut, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

fn put_nullable_compact(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_compact(out, text.as_bytes()),
        None => put_varint(out, 0),
    }
}

/// The tagged fields of a value that has one.
fn put_tagged(out: &mut BytesMut, field: &[u8]) {
    put_varint(out, 1);
    put_varint(out, FIRST_TAG);
    put_varint(out, u32::try_from(field.len()).expect("smaller than a record"));
    out.put_slice(field);
}

/// Zero is the default, which is not written.
fn put_tagged_i64(out: &mut BytesMut, value: i64) {
    if value == 0 { put_varint(out, 0) } else { put_tagged(out, &value.to_be_bytes()) }
}

fn read<T>(
    value: Option<Bytes>,
    what: &'static str,
    fields: impl FnOnce(&mut Reader) -> Result<T, GroupRecordError>,
) -> Result<Option<T>, GroupRecordError> {
    let Some(value) = value else { return Ok(None) };
    let mut value = Reader(value);
    let version = value.i16(what)?;
    if version != VALUE_VERSION {
        return Err(GroupRecordError::UnknownVersion { what, version });
    }
    let read = fields(&mut value)?;
    value.finish()?;
    Ok(Some(read))
}

fn epoch(value: &mut Reader) -> Result<EpochValue, GroupRecordError> {
    let epoch = value.i32("epoch")?;
    Ok(EpochValue { epoch, metadata_hash: tagged_i64(value, "metadata hash")? })
}

fn target_epoch(value: &mut Reader) -> Result<TargetEpochValue, GroupRecordError> {
    let epoch = value.i32("assignment epoch")?;
    Ok(TargetEpochValue { epoch, timestamp_ms: tagged_i64(value, "assignment timestamp")? })
}

fn member(value: &mut Reader) -> Result<MemberMetadata, GroupRecordError> {
    let mut read = MemberMetadata {
        instance_id: value.nullable_string_of(true, "instance id")?,
        rack_id: value.nullable_string_of(true, "rack id")?,
        client_id: value.compact_string("client id")?,
        client_host: value.compact_string("client host")?,
        topic_names: list(value, "topic names", |value| value.compact_string("topic name"))?.into_iter().collect(),
        topic_regex: value.nullable_string_of(true, "topic regex")?,
        rebalance_timeout_ms: value.i32("rebalance timeout")?,
        server_assignor: value.nullable_string_of(true, "server assignor")?,
        classic: None,
    };
    value.tagged_fields(|tag, mut field| {
        if tag == FIRST_TAG && field.i8("classic metadata")? > 0 {
            read.classic = Some(ClassicMetadata {
                session_timeout_ms: field.i32("session timeout")?,
                protocols: list(&mut field, "protocols", |field| {
                    let protocol = (field.compact_string("protocol")?, field.bytes_of(true, "protocol metadata")?);
                    field.tagged_fields(|_, _| Ok(()))?;
                    Ok(protocol)
                })?,
            });
            field.tagged_fields(|_, _| Ok(()))?;
            field.finish()?;
        }
        Ok(())
    })?;
    Ok(read)
}

fn target(value: &mut Reader) -> Result<Assignment, GroupRecordError> {
    let topics = list(value, "topics", |value| {
        let topic = value.uuid("topic id")?;
        let partitions = list(value, "partitions", |value| value.i32("partition"))?;
        value.tagged_fields(|_, _| Ok(()))?;
        Ok((topic, partitions.into_iter().collect()))
    })?;
    value.tagged_fields(|_, _| Ok(()))?;
    Ok(topics.into_iter().collect())
}

fn current(value: &mut Reader) -> Result<CurrentAssignment, GroupRecordError> {
    let (epoch, previous_epoch) = (value.i32("member epoch")?, value.i32("previous member epoch")?);
    let state = MemberState::of(value.i8("member state")?);
    let assigned = owned(value, epoch)?;
    let revoking = owned(value, epoch)?;
    value.tagged_fields(|_, _| Ok(()))?;
    Ok(CurrentAssignment { epoch, previous_epoch, state, assigned, revoking })
}

/// Records of brokers before 4.3 have no epochs: the member's own is the latest that it can be.
fn owned(value: &mut Reader, member_epoch: i32) -> Result<OwnedPartitions, GroupRecordError> {
    let topics = list(value, "topics", |value| {
        let topic = value.uuid("topic id")?;
        let partitions = list(value, "partitions", |value| value.i32("partition"))?;
        let mut epochs = None;
        value.tagged_fields(|tag, mut field| {
            // A single zero is a list that is not there.
            if tag == FIRST_TAG && field.0[..] != [0] {
                epochs = Some(list(&mut field, "assignment epochs", |field| field.i32("assignment epoch"))?);
                field.finish()?;
            }
            Ok(())
        })?;
        let epochs = epochs.filter(|epochs| epochs.len() == partitions.len());
        let epochs = epochs.unwrap_or_else(|| vec![member_epoch; partitions.len()]);
        Ok((topic, partitions.into_iter().zip(epochs).collect()))
    })?;
    Ok(topics.into_iter().collect())
}

fn regex(value: &mut Reader) -> Result<ResolvedRegex, GroupRecordError> {
    let topics = list(value, "topics", |value| value.compact_string("topic"))?.into_iter().collect();
    let read = ResolvedRegex { topics, version: value.i64("version")?, timestamp_ms: value.i64("timestamp")? };
    value.tagged_fields(|_, _| Ok(()))?;
    Ok(read)
}

fn tagged_i64(value: &mut Reader, what: &'static str) -> Result<i64, GroupRecordError> {
    let mut read = 0;
    value.tagged_fields(|tag, mut field| {
        if tag == FIRST_TAG {
            read = field.i64(what)?;
            field.finish()?;
        }
        Ok(())
    })?;
    Ok(read)
}

fn list<T>(
    value: &mut Reader,
    what: &'static str,
    mut element: impl FnMut(&mut Reader) -> Result<T, GroupRecordError>,
) -> Result<Vec<T>, GroupRecordError> {
    let length = value.compact_length(what)?;
    // An element takes a byte at least, so a count beyond the bytes left is a lie.
    let count = usize::try_from(length)
        .ok()
        .filter(|count| *count <= value.0.len())
        .ok_or(GroupRecordError::BadLength { what, length })?;
    let mut read = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        read.push(element(value)?);
    }
    Ok(read)
}

/// What was just written, read again.
#[cfg(test)]
pub fn decode_record(key: Bytes, value: Option<Bytes>) -> ConsumerRecord {
    match super::decode(key, value) {
        Ok(super::GroupRecord::Consumer { record, .. }) => record,
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests;
