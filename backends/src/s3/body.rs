//! A request body made of segments: each goes to the socket from where it lies, when its pace lets it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::Segments;
use crate::pace::{PIECE_BYTES_MAX, Pace};

/// Pieces below this are joined with their neighbours: a write takes a few pieces at a time, whatever their length.
const SMALL_BYTES: usize = 8 << 10;
/// Up to which small pieces are joined.
const JOINED_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct SegmentsBody {
    pieces: VecDeque<Bytes>,
    left_bytes: u64,
    pace: Option<Arc<Pace>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl SegmentsBody {
    pub(super) fn new(body: &Segments) -> Self {
        Self {
            pieces: body.iter().filter(|piece| !piece.is_empty()).cloned().collect(),
            left_bytes: body.total_bytes(),
            pace: body.pace().cloned(),
            pause: None,
        }
    }

    /// Until the next piece may go.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(pace) = self.pace.as_ref().filter(|_| !self.pieces.is_empty()) else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match pace.pause(Instant::now()) {
                Some(until) => self.pause = Some(Box::pin(tokio::time::sleep_until(until))),
                None => return Poll::Ready(()),
            }
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let mut first = self.pieces.pop_front()?;
        if self.pace.is_some() && first.len() > PIECE_BYTES_MAX {
            let piece = first.split_to(PIECE_BYTES_MAX);
            self.pieces.push_front(first);
            return Some(piece);
        }
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
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        ready!(self.poll_pause(context));
        let next = self.next();
        if let (Some(pace), Some(piece)) = (&self.pace, &next) {
            pace.spend(piece.len(), Instant::now());
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_paced_body_goes_in_small_pieces_at_its_rate_and_whole() {
        let pace = Arc::new(Pace::default());
        pace.set(Some(1 << 20));
        let large: Bytes = (0..2u32 << 20).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let segments = Segments::new(vec![large.clone()]).paced(pace.clone());
        let (mut body, start) = (SegmentsBody::new(&segments), Instant::now());
        let mut sent = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES_MAX);
            sent.extend_from_slice(&piece);
        }
        assert_eq!(sent, large);
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.7..=2.0).contains(&seconds), "{seconds}");
        pace.set(None);
        let (mut body, start) = (SegmentsBody::new(&segments), Instant::now());
        while std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_some() {}
        assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    }
}
