//! The body of an object: slices of known total length, sent in order without being copied together.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::pace::Pace;

/// Cloning shares the bytes and the list of them.
#[derive(Debug, Clone, Default)]
pub struct Segments {
    segments: Arc<Vec<Bytes>>,
    total_bytes: u64,
    pace: Option<Arc<Pace>>,
}

impl Segments {
    pub fn new(segments: Vec<Bytes>) -> Self {
        let total_bytes = segments.iter().map(|segment| segment.len() as u64).sum();
        Self { segments: Arc::new(segments), total_bytes, pace: None }
    }

    /// As a body it goes out at this pace.
    #[must_use]
    pub fn paced(self, pace: Arc<Pace>) -> Self {
        Self { pace: Some(pace), ..self }
    }

    pub fn pace(&self) -> Option<&Arc<Pace>> {
        self.pace.as_ref()
    }

    pub fn push(&mut self, segment: Bytes) {
        self.total_bytes += segment.len() as u64;
        Arc::make_mut(&mut self.segments).push(segment);
    }

    pub fn append(&mut self, other: Segments) {
        self.total_bytes += other.total_bytes;
        Arc::make_mut(&mut self.segments).extend(Arc::unwrap_or_clone(other.segments));
    }

    /// Takes the first `bytes` out, or all if there are fewer; shares them.
    pub fn split_to(&mut self, bytes: u64) -> Segments {
        let mut front = Segments::default();
        let mut rest = Arc::unwrap_or_clone(std::mem::take(self).segments).into_iter();
        for mut segment in rest.by_ref() {
            let wanted = bytes - front.total_bytes;
            if segment.len() as u64 > wanted {
                front.push(segment.split_to(wanted as usize));
                self.push(segment);
                break;
            }
            front.push(segment);
        }
        rest.for_each(|segment| self.push(segment));
        front
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Bytes> {
        self.segments.iter()
    }

    /// The bytes of `range` in a buffer of their own.
    ///
    /// # Panics
    /// When the range ends behind the last byte.
    pub fn copy_of(&self, range: Range<u64>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.total_bytes, "{range:?} of {} bytes", self.total_bytes);
        let mut copy = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut position = 0;
        for segment in self.segments.iter() {
            let end = position + segment.len() as u64;
            let (from, to) = (range.start.clamp(position, end), range.end.clamp(position, end));
            copy.extend_from_slice(&segment[(from - position) as usize..(to - position) as usize]);
            position = end;
        }
        copy.freeze()
    }

    /// One contiguous buffer; copies unless there is exactly one segment.
    pub fn into_bytes(self) -> Bytes {
        if let [only] = self.segments.as_slice() {
            return only.clone();
        }
        let mut joined = BytesMut::with_capacity(self.total_bytes as usize);
        for segment in self.segments.iter() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_copied_across_the_pieces() {
        let all = b"0123456789";
        let pieces = [&all[..0], &all[..3], &all[3..4], &all[4..4], &all[4..9], &all[9..]];
        let segments: Segments = pieces.into_iter().map(Bytes::from_static).collect();
        for start in 0..=10 {
            for end in start..=10 {
                assert_eq!(segments.copy_of(start as u64..end as u64), all[start..end]);
            }
        }
        for at in 0..=12 {
            let mut back = segments.clone();
            let front = back.split_to(at);
            let at = all.len().min(at as usize);
            assert_eq!((front.total_bytes(), back.total_bytes()), (at as u64, (all.len() - at) as u64));
            assert_eq!((&front.into_bytes()[..], &back.into_bytes()[..]), all.split_at(at));
        }
        assert_eq!(segments.into_bytes(), all[..]);
    }
}
