//! The body of an object: slices of known total length, sent in order without being copied together.

use bytes::{Bytes, BytesMut};

/// Cloning shares the bytes.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    segments: Vec<Bytes>,
    total_bytes: u64,
}

impl Segments {
    pub fn new(segments: Vec<Bytes>) -> Self {
        let total_bytes = segments.iter().map(|segment| segment.len() as u64).sum();
        Self { segments, total_bytes }
    }

    pub fn push(&mut self, segment: Bytes) {
        self.total_bytes += segment.len() as u64;
        self.segments.push(segment);
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.segments.iter()
    }

    /// One contiguous buffer; copies unless there is exactly one segment.
    pub fn into_bytes(mut self) -> Bytes {
        if self.segments.len() == 1 {
            return self.segments.remove(0);
        }
        let mut joined = BytesMut::with_capacity(self.total_bytes as usize);
        for segment in &self.segments {
            joined.extend_from_slice(segment);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![bytes])
    }
}

impl From<Vec<Bytes>> for Segments {
    fn from(segments: Vec<Bytes>) -> Self {
        Self::new(segments)
    }
}

impl FromIterator<Bytes> for Segments {
    fn from_iter<I: IntoIterator<Item = Bytes>>(segments: I) -> Self {
        Self::new(segments.into_iter().collect())
    }
}
