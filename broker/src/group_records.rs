//! Records of `__consumer_offsets`, byte for byte as Kafka 4.3 writes and reads them.
//!
//! A key starts with its type (i16), a value with its version (i16); a null value is a tombstone.
//! Types 0 and 1 are committed offsets, type 2 is a classic group, and `consumer.rs` has those of groups under the
//! consumer protocol. Records of other types (share and streams groups) are recognised and left alone. A value version
//! that we do not know is an error: guessing would lose offsets.
//! Pure; where the records lie and when they are written is `group_coordinator.rs`.

pub mod consumer;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

const LEGACY_OFFSET_KEY: i16 = 0;
const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
/// Kafka writes version 1 only for commits with their own expiry, which no client since 2.1 sends.
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
const OFFSET_VALUE: i16 = 4;
const GROUP_VALUE: i16 = 3;
const TOPIC_ID_TAG: u32 = 0;

/// The longest text that a record can hold.
pub const RECORD_TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// Flexible requests can carry longer texts than the records, which are not flexible, can keep.
pub fn fits_in_a_record(text: &str) -> bool {
    text.len() <= RECORD_TEXT_BYTES_MAX
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupRecordError {
    #[error("record ends inside {0}")]
    Short(&'static str),
    #[error("{what} has an impossible length {length}")]
    BadLength { what: &'static str, length: i64 },
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{0} must not be null")]
    Null(&'static str),
    #[error("version {version} of {what} is not known to this broker")]
    UnknownVersion { what: &'static str, version: i16 },
    #[error("{0} bytes after the end of the record")]
    Trailing(usize),
}

/// What one record of the log says.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupRecord {
    /// `value` None: the offset was deleted or has expired.
    Offset {
        key: OffsetKey,
        value: Option<OffsetValue>,
    },
    /// `value` None: the group was deleted.
    Group {
        group: String,
        value: Option<GroupValue>,
    },
    Consumer {
        group: String,
        record: consumer::ConsumerRecord,
    },
    /// A record type of a protocol this broker does not speak.
    Other(i16),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetKey {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetValue {
    pub offset: i64,
    /// -1: the client did not say.
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp_ms: i64,
    /// Set by clients older than Kafka 2.1 that ask for their own retention.
    pub expire_timestamp_ms: Option<i64>,
    /// Nil: the commit was made before topic ids.
    pub topic_id: Uuid,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GroupValue {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    /// Wall clock; None in records older than Kafka 2.1.
    pub state_timestamp_ms: Option<i64>,
    pub members: Vec<MemberValue>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MemberValue {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

pub fn decode(key: Bytes, value: Option<Bytes>) -> Result<GroupRecord, GroupRecordError> {
    let mut key = Reader(key);
    match key.i16("key type")? {
        LEGACY_OFFSET_KEY | OFFSET_KEY => {
            let offset_key = OffsetKey {
                group: key.string("group")?,
                topic: key.string("topic")?,
                partition: key.i32("partition")?,
            };
            key.finish()?;
            Ok(GroupRecord::Offset { key: offset_key, value: value.map(decode_offset_value).transpose()? })
        }
        GROUP_KEY => {
            let group = key.string("group")?;
            key.finish()?;
            Ok(GroupRecord::Group { group, value: value.map(decode_group_value).transpose()? })
        }
        other => Ok(match consumer::decode(other, &mut key, value)? {
            Some((group, record)) => GroupRecord::Consumer { group, record },
            None => GroupRecord::Other(other),
        }),
    }
}

pub fn encode_offset_key(key: &OffsetKey) -> Bytes {
    let mut out = BytesMut::with_capacity(10 + key.group.len() + key.topic.len());
    out.put_i16(OFFSET_KEY);
    put_string(&mut out, &key.group);
    put_string(&mut out, &key.topic);
    out.put_i32(key.partition);
    out.freeze()
}

pub fn encode_offset_value(value: &OffsetValue) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + value.metadata.len());
    match value.expire_timestamp_ms {
        Some(expire) => {
            out.put_i16(OFFSET_VALUE_WITH_EXPIRY);
            out.put_i64(value.offset);
            put_string(&mut out, &value.metadata);
            out.put_i64(value.commit_timestamp_ms);
            out.put_i64(expire);
        }
        None => {
            out.put_i16(OFFSET_VALUE);
            out.put_i64(value.offset);
            out.put_i32(value.leader_epoch);
            put_varint(&mut out, value.metadata.len() as u32 + 1);
            out.put_slice(value.metadata.as_bytes());
            out.put_i64(value.commit_timestamp_ms);
            if value.topic_id.is_nil() {
                put_varint(&mut out, 0);
            } else {
                put_varint(&mut out, 1);
                put_varint(&mut out, TOPIC_ID_TAG);
                put_varint(&mut out, 16);
                out.put_slice(value.topic_id.as_bytes());
            }
        }
    }
    out.freeze()
}

pub fn encode_group_key(group: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + group.len());
    out.put_i16(GROUP_KEY);
    put_string(&mut out, group);
    out.freeze()
}

pub fn encode_group_value(value: &GroupValue) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + value.members.iter().map(member_bytes).sum::<usize>());
    out.put_i16(GROUP_VALUE);
    put_string(&mut out, &value.protocol_type);
    out.put_i32(value.generation);
    put_nullable_string(&mut out, value.protocol.as_deref());
    put_nullable_string(&mut out, value.leader.as_deref());
    out.put_i64(value.state_timestamp_ms.unwrap_or(-1));
    out.put_i32(value.members.len() as i32);
    for member in &value.members {
        put_string(&mut out, &member.member_id);
        put_nullable_string(&mut out, member.group_instance_id.as_deref());
        put_string(&mut out, &member.client_id);
        put_string(&mut out, &member.client_host);
        out.put_i32(member.rebalance_timeout_ms);
        out.put_i32(member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out.freeze()
}

fn decode_offset_value(value: Bytes) -> Result<OffsetValue, GroupRecordError> {
    let mut value = Reader(value);
    let version = value.i16("offset value version")?;
    if !(0..=4).contains(&version) {
        return Err(GroupRecordError::UnknownVersion { what: "the offset value", version });
    }
    let flexible = version >= 4;
    let offset = value.i64("offset")?;
    let leader_epoch = if version >= 3 { value.i32("leader epoch")? } else { -1 };
    let metadata = if flexible { value.compact_string("metadata")? } else { value.string("metadata")? };
    let commit_timestamp_ms = value.i64("commit timestamp")?;
    let expire = if version == 1 { value.i64("expire timestamp")? } else { -1 };
    let mut topic_id = Uuid::nil();
    if flexible {
        value.tagged_fields(|tag, mut field| {
            if tag == TOPIC_ID_TAG {
                topic_id = field.uuid("topic id")?;
                field.finish()?;
            }
            Ok(())
        })?;
    }
    value.finish()?;
    let expire_timestamp_ms = (expire != -1).then_some(expire);
    Ok(OffsetValue { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id })
}

fn decode_group_value(value: Bytes) -> Result<GroupValue, GroupRecordError> {
    let mut value = Reader(value);
    let version = value.i16("group value version")?;
    if !(0..=4).contains(&version) {
        return Err(GroupRecordError::UnknownVersion { what: "the group value", version });
    }
    let flexible = version >= 4;
    let protocol_type = value.string_of(flexible, "protocol type")?;
    let generation = value.i32("generation")?;
    let protocol = value.nullable_string_of(flexible, "protocol")?;
    let leader = value.nullable_string_of(flexible, "leader")?;
    let timestamp = if version >= 2 { value.i64("state timestamp")? } else { -1 };
    let count = if flexible { value.compact_length("members")? } else { i64::from(value.i32("members")?) };
    // A member takes more than a byte, so a count beyond the bytes left is a lie.
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= value.0.remaining())
        .ok_or(GroupRecordError::BadLength { what: "members", length: count })?;
    let mut members = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        members.push(decode_member(&mut value, version, flexible)?);
    }
    if flexible {
        value.tagged_fields(|_, _| Ok(()))?;
    }
    value.finish()?;
    let state_timestamp_ms = (timestamp != -1).then_some(timestamp);
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
}

fn decode_member(value: &mut Reader, version: i16, flexible: bool) -> Result<MemberValue, GroupRecordError> {
    let member_id = value.string_of(flexible, "member id")?;
    let group_instance_id = match version >= 3 {
        true => value.nullable_string_of(flexible, "group instance id")?,
        false => None,
    };
    let client_id = value.string_of(flexible, "client id")?;
    let client_host = value.string_of(flexible, "client host")?;
    let rebalance_timeout_ms = if version >= 1 { value.i32("rebalance timeout")? } else { -1 };
    let session_timeout_ms = value.i32("session timeout")?;
    let subscription = value.bytes_of(flexible, "subscription")?;
    let assignment = value.bytes_of(flexible, "assignment")?;
    if flexible {
        value.tagged_fields(|_, _| Ok(()))?;
    }
    Ok(MemberValue {
        member_id,
        group_instance_id,
        client_id,
        client_host,
        // As Kafka reads records from before the rebalance timeout existed.
        rebalance_timeout_ms: if rebalance_timeout_ms == -1 { session_timeout_ms } else { rebalance_timeout_ms },
        session_timeout_ms,
        subscription,
        assignment,
    })
}

fn member_bytes(member: &MemberValue) -> usize {
    let instance = member.group_instance_id.as_ref().map_or(0, String::len);
    let text = member.member_id.len() + instance + member.client_id.len() + member.client_host.len();
    32 + text + member.subscription.len() + member.assignment.len()
}

/// Handlers refuse longer texts, see [`fits_in_a_record`].
fn put_string(out: &mut BytesMut, text: &str) {
    let length = i16::try_from(text.len()).expect("record string longer than a Kafka string");
    out.put_i16(length);
    out.put_slice(text.as_bytes());
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(i32::try_from(bytes.len()).expect("record field longer than a Kafka frame"));
    out.put_slice(bytes);
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads Kafka's primitive types; every length is checked against the bytes that are there.
struct Reader(Bytes);

impl Reader {
    fn i8(&mut self, what: &'static str) -> Result<i8, GroupRecordError> {
        self.0.try_get_i8().map_err(|_| GroupRecordError::Short(what))
    }

    fn i16(&mut self, what: &'static str) -> Result<i16, GroupRecordError> {
        self.0.try_get_i16().map_err(|_| GroupRecordError::Short(what))
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, GroupRecordError> {
        self.0.try_get_i32().map_err(|_| GroupRecordError::Short(what))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, GroupRecordError> {
        self.0.try_get_i64().map_err(|_| GroupRecordError::Short(what))
    }

    fn uuid(&mut self, what: &'static str) -> Result<Uuid, GroupRecordError> {
        self.0.try_get_u128().map(Uuid::from_u128).map_err(|_| GroupRecordError::Short(what))
    }

    fn varint(&mut self, what: &'static str) -> Result<u32, GroupRecordError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.0.try_get_u8().map_err(|_| GroupRecordError::Short(what))?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let length = value as i64;
                return u32::try_from(value).map_err(|_| GroupRecordError::BadLength { what, length });
            }
        }
        Err(GroupRecordError::BadLength { what, length: value as i64 })
    }

    /// Length of a compact type; -1 is null.
    fn compact_length(&mut self, what: &'static str) -> Result<i64, GroupRecordError> {
        Ok(i64::from(self.varint(what)?) - 1)
    }

    fn take(&mut self, length: i64, what: &'static str) -> Result<Option<Bytes>, GroupRecordError> {
        if length == -1 {
            return Ok(None);
        }
        let bytes = usize::try_from(length).map_err(|_| GroupRecordError::BadLength { what, length })?;
        if bytes > self.0.len() {
            return Err(GroupRecordError::Short(what));
        }
        Ok(Some(self.0.split_to(bytes)))
    }

    fn string(&mut self, what: &'static str) -> Result<String, GroupRecordError> {
        self.string_of(false, what)
    }

    fn compact_string(&mut self, what: &'static str) -> Result<String, GroupRecordError> {
        self.string_of(true, what)
    }

    fn string_of(&mut self, flexible: bool, what: &'static str) -> Result<String, GroupRecordError> {
        self.nullable_string_of(flexible, what)?.ok_or(GroupRecordError::Null(what))
    }

    fn nullable_string_of(&mut self, flexible: bool, what: &'static str) -> Result<Option<String>, GroupRecordError> {
        let length = if flexible { self.compact_length(what)? } else { i64::from(self.i16(what)?) };
        let Some(bytes) = self.take(length, what)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).map_err(|_| GroupRecordError::NotUtf8(what))?;
        Ok(Some(text.to_owned()))
    }

    /// Copied out, so that a small field does not pin the whole fetched batch.
    fn bytes_of(&mut self, flexible: bool, what: &'static str) -> Result<Bytes, GroupRecordError> {
        let length = if flexible { self.compact_length(what)? } else { i64::from(self.i32(what)?) };
        let bytes = self.take(length, what)?.ok_or(GroupRecordError::Null(what))?;
        Ok(Bytes::copy_from_slice(&bytes))
    }

    fn tagged_fields(
        &mut self,
        mut on_field: impl FnMut(u32, Reader) -> Result<(), GroupRecordError>,
    ) -> Result<(), GroupRecordError> {
        for _ in 0..self.varint("tagged fields")? {
            let tag = self.varint("tag")?;
            let length = self.varint("tagged field")?;
            let field = self.take(i64::from(length), "tagged field")?.unwrap_or_default();
            on_field(tag, Reader(field))?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), GroupRecordError> {
        match self.0.remaining() {
            0 => Ok(()),
            left => Err(GroupRecordError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests;
