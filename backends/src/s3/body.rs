//! A request body made of segments: each goes to the socket from where it lies.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::Segments;

/// Pieces below this are joined with their neighbours: a write takes a few pieces at a time, whatever their length.
const SMALL_BYTES: usize = 8 << 10;
/// Up to which small pieces are joined.
const JOINED_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct SegmentsBody {
    pieces: VecDeque<Bytes>,
    left_bytes: u64,
}

impl SegmentsBody {
    pub(super) fn new(body: &Segments) -> Self {
        Self {
            pieces: body.iter().filter(|piece| !piece.is_empty()).cloned().collect(),
            left_bytes: body.total_bytes(),
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let first = self.pieces.pop_front()?;
        let is_small = |next: Option<&Bytes>| next.is_some_and(|piece| piece.len() < SMALL_BYTES);
        if first.len() >= SMALL_BYTES || !is_small(self.pieces.front()) {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity(JOINED_BYTES);
        joined.extend_from_slice(&first);
        while joined.len() < JOINED_BYTES - SMALL_BYTES && is_small(self.pieces.front()) {
            joined.extend_from_slice(&self.pieces.pop_front()?);
        }
        Some(joined.freeze())
    }
}

impl Body for SegmentsBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let next = self.next();
        self.left_bytes -= next.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_go_as_they_are_and_small_ones_together() {
        let large = Bytes::from(vec![1u8; SMALL_BYTES]);
        let small = Bytes::from(vec![2u8; 1_000]);
        let segments: Segments =
            [vec![small.clone()], vec![large.clone(), large.clone()], vec![small.clone(); 100]].concat().into();
        let mut body = SegmentsBody::new(&segments);
        assert_eq!(body.size_hint().exact(), Some(segments.total_bytes()));
        let frames: Vec<Bytes> = std::iter::from_fn(|| body.next()).collect();
        assert_eq!(frames[1].as_ptr(), large.as_ptr(), "not copied");
        assert_eq!(frames.len(), 3 + 2);
        assert_eq!(frames.concat(), segments.into_bytes());
    }
}
