//! The state as bytes, and back. docs/formats/snapshot.md has the layout.
//!
//! Promise: one state has one encoding, so that nodes can be compared by bytes; what decodes satisfies the invariants.
//! Bytes that a newer version wrote are refused by name, broken ones as damaged.

use std::collections::BTreeMap;

use crate::command::{ConfigResource, METADATA_LEVEL, METADATA_VERSION};
use crate::ids::*;
use crate::invariants;
use crate::state::{BrokerState, PartitionState, State, StreamState, TopicState, WalState};
use crate::wire::{Input, Wire, WireError};

const MAGIC: &[u8; 8] = b"SEAWMETA";
/// The newest snapshot format.
pub const SNAPSHOT_FORMAT: u16 = 6;
/// The format that knows quotas, which may be none in later ones.
const WITH_QUOTAS: u16 = 2;
/// The format that knows configs of groups and of client metrics. For a while they were written in older ones.
const WITH_LATER_CONFIGS: u16 = 3;
/// The format that knows the legs of WALs.
const WITH_WAL_LEGS: u16 = 4;
/// The format that knows which objects replaced others, and how far streams were compacted by key.
const WITH_REPLACEMENTS: u16 = 5;
/// The format that knows earlier incarnations.
const WITH_EARLIER: u16 = 6;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("not a metadata snapshot")]
    Magic,
    #[error("snapshot format {found} is newer than {SNAPSHOT_FORMAT}")]
    NewerFormat { found: u16 },
    #[error("metadata level {found} is newer than {METADATA_LEVEL}")]
    NewerLevel { found: u16 },
    #[error("snapshot checksum {found:08x} is not {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    #[error("broken snapshot")]
    Broken(#[from] WireError),
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

/// The oldest format that holds the state: a state without what came later is read by older versions.
fn format_of(state: &State) -> u16 {
    if !state.earlier.is_empty() {
        WITH_EARLIER
    } else if !state.rewritten.is_empty() || !state.cleaned.is_empty() {
        WITH_REPLACEMENTS
    } else if !state.wal_legs.is_empty() {
        WITH_WAL_LEGS
    } else if state.configs.keys().any(ConfigResource::came_later) {
        WITH_LATER_CONFIGS
    } else if !state.quotas.is_empty() {
        WITH_QUOTAS
    } else {
        1
    }
}

/// The snapshot of a state.
pub fn encode(state: &State) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(MAGIC);
    let format = format_of(state);
    format.put(&mut out);
    section(1, &mut out, |out| {
        state.applied.put(out);
        state.topology_index.put(out);
        state.cluster.put(out);
        state.now_ms.put(out);
        state.features.put(out);
        state.next_broker_epoch.put(out);
        state.next_stream.put(out);
        state.next_object.put(out);
        state.next_producer_id.put(out);
    });
    section(2, &mut out, |out| put_values(&state.brokers, out));
    section(3, &mut out, |out| put_values(&state.topics, out));
    section(4, &mut out, |out| put_values(&state.partitions, out));
    section(5, &mut out, |out| put_values(&state.streams, out));
    section(6, &mut out, |out| state.configs.put(out));
    section(7, &mut out, |out| state.reservations.put(out));
    section(8, &mut out, |out| state.objects.put(out));
    section(9, &mut out, |out| put_values(&state.wals, out));
    if format >= WITH_QUOTAS {
        section(10, &mut out, |out| state.quotas.put(out));
    }
    if format >= WITH_WAL_LEGS {
        section(11, &mut out, |out| state.wal_legs.put(out));
    }
    if format >= WITH_REPLACEMENTS {
        section(12, &mut out, |out| {
            state.rewritten.put(out);
            state.cleaned.put(out);
        });
    }
    if format >= WITH_EARLIER {
        section(13, &mut out, |out| state.earlier.put(out));
    }
    crc32c(&out).put(&mut out);
    out
}

/// The state in a snapshot, which must hold nothing else.
pub fn decode(bytes: &[u8]) -> Result<State, SnapshotError> {
    let mut input = Input::new(bytes);
    if input.bytes(MAGIC.len()) != Ok(MAGIC) {
        return Err(SnapshotError::Magic);
    }
    let format = u16::take(&mut input)?;
    if format > SNAPSHOT_FORMAT {
        return Err(SnapshotError::NewerFormat { found: format });
    }
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(WireError::Short)?;
    let (found, expected) = (crc32c(body), u32::from_le_bytes(*crc));
    if found != expected {
        return Err(SnapshotError::Checksum { found, expected });
    }
    let mut input = Input::new(body.get(MAGIC.len() + 2..).ok_or(WireError::Short)?);

    let mut state = State::default();
    take_section(1, &mut input, |input| {
        state.applied = Wire::take(input)?;
        state.topology_index = Wire::take(input)?;
        state.cluster = Wire::take(input)?;
        state.now_ms = Wire::take(input)?;
        state.features = Wire::take(input)?;
        state.next_broker_epoch = Wire::take(input)?;
        state.next_stream = Wire::take(input)?;
        state.next_object = Wire::take(input)?;
        state.next_producer_id = Wire::take(input)?;
        Ok(())
    })?;
    if state.metadata_level() > METADATA_LEVEL {
        return Err(SnapshotError::NewerLevel { found: state.features[METADATA_VERSION] });
    }
    state.brokers = take_section(2, &mut input, take_values)?;
    state.topics = take_section(3, &mut input, take_values)?;
    state.partitions = take_section(4, &mut input, take_values)?;
    state.streams = take_section(5, &mut input, take_values)?;
    state.configs = take_section(6, &mut input, Wire::take)?;
    state.reservations = take_section(7, &mut input, Wire::take)?;
    state.objects = take_section(8, &mut input, Wire::take)?;
    state.wals = take_section(9, &mut input, take_values)?;
    if format >= WITH_QUOTAS {
        state.quotas = take_section(10, &mut input, Wire::take)?;
    }
    if format >= WITH_WAL_LEGS {
        state.wal_legs = take_section(11, &mut input, Wire::take)?;
    }
    if format >= WITH_REPLACEMENTS {
        (state.rewritten, state.cleaned) = take_section(12, &mut input, Wire::take)?;
    }
    if format >= WITH_EARLIER {
        state.earlier = take_section(13, &mut input, Wire::take)?;
    }
    input.finish()?;
    if format > format_of(&state) {
        return Err(WireError::Invalid("format newer than its state").into());
    }

    state.derive();
    invariants::check(&state).map_err(SnapshotError::Inconsistent)?;
    Ok(state)
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// `id: u16, length: u64, payload`.
fn section(id: u16, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    id.put(out);
    let length_at = out.len();
    0u64.put(out);
    fill(out);
    let length = (out.len() - length_at - 8) as u64;
    out[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
}

fn take_section<T>(
    id: u16,
    input: &mut Input<'_>,
    read: impl FnOnce(&mut Input<'_>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    if u16::take(input)? != id {
        return Err(WireError::Invalid("section id"));
    }
    let length = usize::try_from(u64::take(input)?).map_err(|_| WireError::Short)?;
    let mut payload = Input::new(input.bytes(length)?);
    let value = read(&mut payload)?;
    payload.finish()?;
    Ok(value)
}

/// A value that holds its own key.
trait Keyed: Wire {
    type Key: Ord + Copy;
    fn key(&self) -> Self::Key;
}

macro_rules! keyed {
    ($($value:ident by $key:ident: $ty:ty),+) => {$(
        impl Keyed for $value {
            type Key = $ty;
            fn key(&self) -> $ty {
                self.$key
            }
        }
    )+};
}

keyed!(BrokerState by node: NodeId, TopicState by id: TopicId, PartitionState by id: PartitionId);
keyed!(StreamState by id: StreamId, WalState by id: WalId);

fn put_values<V: Keyed>(values: &BTreeMap<V::Key, V>, out: &mut Vec<u8>) {
    (u32::try_from(values.len()).expect("fewer than 2^32 of each kind")).put(out);
    values.values().for_each(|value| value.put(out));
}

fn take_values<V: Keyed>(input: &mut Input<'_>) -> Result<BTreeMap<V::Key, V>, WireError> {
    let values = Vec::<V>::take(input)?;
    if !values.is_sorted_by(|a, b| a.key() < b.key()) {
        return Err(WireError::Invalid("order of keys"));
    }
    Ok(values.into_iter().map(|value| (value.key(), value)).collect())
}
