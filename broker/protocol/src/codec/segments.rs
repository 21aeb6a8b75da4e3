//! Bytes in several pieces, so that record batches go from cache to socket without a copy.

use bytes::{Bytes, BytesMut};

/// An encoded frame or message: its pieces in order, ready for a vectored write.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    total_len: usize,
    segments: Vec<Bytes>,
}

impl Segments {
    /// Empty pieces are left out.
    pub fn new(mut segments: Vec<Bytes>) -> Self {
        segments.retain(|segment| !segment.is_empty());
        Self { total_len: segments.iter().map(Bytes::len).sum(), segments }
    }

    /// Bytes in all pieces together.
    pub fn total_len(&self) -> usize {
        self.total_len
    }

    pub fn as_slice(&self) -> &[Bytes] {
        &self.segments
    }

    pub fn into_vec(self) -> Vec<Bytes> {
        self.segments
    }

    /// One contiguous piece; copies when there are several.
    pub fn into_bytes(self) -> Bytes {
        concatenate(&self.segments)
    }
}

/// The record batches of one partition in a response, in offset order, as pieces of caches and objects.
/// A piece need not end where a batch ends. Equal when the bytes are, however they are cut.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Bytes>);

impl Records {
    /// Bytes in all pieces together.
    pub fn total_len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// One contiguous piece; copies when there are several.
    pub fn to_bytes(&self) -> Bytes {
        concatenate(&self.0)
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(segments: Vec<Bytes>) -> Self {
        Self(segments)
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().flatten().eq(other.0.iter().flatten())
    }
}

impl Eq for Records {}

fn concatenate(segments: &[Bytes]) -> Bytes {
    if let [only] = segments {
        return only.clone();
    }
    let mut bytes = BytesMut::with_capacity(segments.iter().map(Bytes::len).sum());
    for segment in segments {
        bytes.extend_from_slice(segment);
    }
    bytes.freeze()
}
