//! The aborted-transactions section: which records a read_committed consumer must skip.

use seawall_metadata::StreamId;

use super::{Fields, FormatError};

const ABORTED_BYTES: usize = 40;

/// A transaction whose abort marker lies in a range of this object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub stream: StreamId,
    pub producer_id: i64,
    pub first_offset: i64,
    /// Offset of the abort marker.
    pub last_offset: i64,
    /// The last stable offset once the marker was written.
    pub last_stable_offset: i64,
}

/// `aborted` is sorted by stream and first offset.
pub(super) fn encode_aborted(aborted: &[AbortedTransaction]) -> Vec<u8> {
    let mut out = Vec::with_capacity(aborted.len() * ABORTED_BYTES);
    for transaction in aborted {
        out.extend_from_slice(&transaction.stream.0.to_le_bytes());
        out.extend_from_slice(&transaction.producer_id.to_le_bytes());
        out.extend_from_slice(&transaction.first_offset.to_le_bytes());
        out.extend_from_slice(&transaction.last_offset.to_le_bytes());
        out.extend_from_slice(&transaction.last_stable_offset.to_le_bytes());
    }
    out
}

/// Decodes an aborted-transactions section whose checksum has been verified.
pub fn decode_aborted(section: &[u8]) -> Result<Vec<AbortedTransaction>, FormatError> {
    let malformed = |why| FormatError::Malformed { part: "aborted transactions", why };
    if !section.len().is_multiple_of(ABORTED_BYTES) {
        return Err(malformed("not a whole number of entries"));
    }
    let aborted = section.chunks_exact(ABORTED_BYTES).map(decode_entry).collect::<Result<Vec<_>, _>>()?;
    if !aborted.is_sorted_by_key(|transaction| (transaction.stream, transaction.first_offset)) {
        return Err(malformed("not sorted by stream and offset"));
    }
    Ok(aborted)
}

fn decode_entry(entry: &[u8]) -> Result<AbortedTransaction, FormatError> {
    let mut fields = Fields::new("aborted transactions", entry);
    Ok(AbortedTransaction {
        stream: StreamId(fields.u64()?),
        producer_id: fields.i64()?,
        first_offset: fields.i64()?,
        last_offset: fields.i64()?,
        last_stable_offset: fields.i64()?,
    })
}
