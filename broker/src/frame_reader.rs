//! Request frames out of a socket: a length of four bytes, then that many bytes.
//!
//! The length is checked before anything is allocated, and the memory for a frame grows as its bytes arrive, so a
//! length that is only claimed costs nothing. A frame is one contiguous `Bytes`, of which record batches are slices.
//! A connection that waits for its next frame holds no buffer.

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{net::TcpStream, time::Instant};

use crate::request_memory::{Hold, RequestMemory};

/// What is read at a time while frames are small; frames up to this size need no place in the shared memory.
const SMALL_BYTES: usize = 8 * 1024;
/// The first piece of memory for a large frame from a connection that has not sent one yet.
const FIRST_BYTES: usize = 64 * 1024;
/// The same from a connection that has sent large frames whole.
const FIRST_BYTES_TRUSTED: usize = 1024 * 1024;
const LENGTH_BYTES: usize = 4;
/// An unused buffer is kept this long for the next frame.
const KEEP_BUFFER: Duration = Duration::from_secs(1);
/// When memory is short, a frame that has taken this long, and longer than at `SLOWEST_BYTES_PER_SECOND`, is given up.
const SLOW_FRAME_GRACE: Duration = Duration::from_secs(5);
const SLOWEST_BYTES_PER_SECOND: u64 = 1 << 20;

/// A request as it came, and the memory that it holds.
#[derive(Debug)]
pub struct Frame {
    pub bytes: Bytes,
    pub hold: Hold,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client has closed its side between frames.
    #[error("closed")]
    Closed,
    #[error("closed inside a frame")]
    ClosedInFrame,
    #[error("frame of {length} bytes, the limit is {limit}")]
    BadLength { length: i32, limit: usize },
    #[error("a frame stalled while memory was short")]
    Stalled,
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub struct FrameReader {
    memory: RequestMemory,
    frame_bytes_max: usize,
    inbox: BytesMut,
    /// What the frame that is being received holds, and how many bytes of it.
    hold: Hold,
    held_bytes: usize,
    frame_began: Option<Instant>,
    /// Bytes have come since `take_progress` was last asked.
    progress: bool,
    /// The largest frame that came whole: the next one may start with more memory.
    largest_frame: usize,
}

impl FrameReader {
    pub fn new(memory: RequestMemory, frame_bytes_max: usize) -> Self {
        Self {
            memory,
            frame_bytes_max,
            inbox: BytesMut::new(),
            hold: Hold::default(),
            held_bytes: 0,
            frame_began: None,
            progress: false,
            largest_frame: 0,
        }
    }

    /// The next frame. Safe to drop while it waits: nothing read is lost.
    pub async fn next(&mut self, stream: &TcpStream) -> Result<Frame, ReadError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            let wanted = self.make_room().await?;
            self.readable(stream).await?;
            if self.inbox.capacity() == self.inbox.len() {
                self.inbox.reserve(SMALL_BYTES);
            }
            match stream.try_read_buf(&mut (&mut self.inbox).limit(wanted)) {
                Ok(0) if self.inbox.is_empty() => return Err(ReadError::Closed),
                Ok(0) => return Err(ReadError::ClosedInFrame),
                Ok(_) => {
                    self.progress = true;
                    self.frame_began.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            self.give_up_if_slow()?;
        }
    }

    /// Whether part of a frame has come since this was last asked.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.inbox.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.inbox.advance(LENGTH_BYTES);
        let bytes = self.inbox.split_to(length).freeze();
        self.largest_frame = self.largest_frame.max(length);
        self.held_bytes = 0;
        self.frame_began = (!self.inbox.is_empty()).then(Instant::now);
        Ok(Some(Frame { bytes, hold: std::mem::take(&mut self.hold) }))
    }

    fn length(&self) -> Result<Option<usize>, ReadError> {
        let Some(prefix) = self.inbox.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*prefix);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= self.frame_bytes_max => Ok(Some(bytes)),
            _ => Err(ReadError::BadLength { length, limit: self.frame_bytes_max }),
        }
    }

    /// Room for more of the current frame, and how much may be read now.
    async fn make_room(&mut self) -> Result<usize, ReadError> {
        let Some(length) = self.length()? else { return Ok(SMALL_BYTES - self.inbox.len().min(SMALL_BYTES - 1)) };
        let whole = LENGTH_BYTES + length;
        if whole <= SMALL_BYTES {
            self.inbox.reserve(whole - self.inbox.len());
            return Ok(SMALL_BYTES);
        }
        if self.inbox.len() >= self.held_bytes {
            let first = (2 * self.largest_frame).clamp(FIRST_BYTES, FIRST_BYTES_TRUSTED);
            let target = whole.min(first.max(2 * self.held_bytes));
            self.memory.grow(&mut self.hold, target - self.held_bytes).await;
            self.held_bytes = target;
            self.inbox.reserve(target - self.inbox.len());
        }
        Ok(self.held_bytes - self.inbox.len())
    }

    async fn readable(&mut self, stream: &TcpStream) -> Result<(), ReadError> {
        if self.inbox.is_empty() {
            if self.inbox.capacity() > 0 && tokio::time::timeout(KEEP_BUFFER, stream.readable()).await.is_err() {
                self.inbox = BytesMut::new();
            }
            return Ok(stream.readable().await?);
        }
        while tokio::time::timeout(Duration::from_secs(1), stream.readable()).await.is_err() {
            self.give_up_if_slow()?;
        }
        Ok(())
    }

    fn give_up_if_slow(&self) -> Result<(), ReadError> {
        let Some(began) = self.frame_began.filter(|_| self.held_bytes > 0 && self.memory.is_short()) else {
            return Ok(());
        };
        let fair = Duration::from_secs(self.inbox.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        if began.elapsed() > SLOW_FRAME_GRACE + fair { Err(ReadError::Stalled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn reader(held: &Gauge) -> FrameReader {
        FrameReader::new(RequestMemory::new(4 << 20, 1 << 20, held.clone()), 1 << 20)
    }

    fn framed(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat()
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_back_in_order_however_they_are_cut() {
        let (mut client, server) = pair().await;
        let frames: Vec<Vec<u8>> =
            [0, 1, 7, 8_188, 8_189, 8_193, 70_000, 3, 1 << 20, 5].iter().map(|n| vec![*n as u8; *n]).collect();
        let sent = frames.clone();
        let writer = tokio::spawn(async move {
            let stream: Vec<u8> = sent.iter().flat_map(|frame| framed(frame)).collect();
            for (n, piece) in stream.chunks(60_001).enumerate() {
                client.write_all(piece).await.unwrap();
                if n % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            client
        });
        let held = Gauge::default();
        let mut reader = reader(&held);
        for frame in &frames {
            assert_eq!(reader.next(&server).await.unwrap().bytes, frame);
        }
        drop(writer.await.unwrap());
        assert!(matches!(reader.next(&server).await, Err(ReadError::Closed)));
        assert_eq!(held.get(), 0);
    }

    #[tokio::test]
    async fn a_claimed_length_costs_nothing_until_bytes_come() {
        let (mut client, server) = pair().await;
        client.write_all(&(1i32 << 20).to_be_bytes()).await.unwrap();
        client.write_all(&[0; 100]).await.unwrap();
        let held = Gauge::default();
        let mut reader = reader(&held);
        let waited = tokio::time::timeout(Duration::from_millis(200), reader.next(&server)).await;
        assert!(waited.is_err());
        assert!(reader.inbox.capacity() <= 2 * FIRST_BYTES, "{}", reader.inbox.capacity());
        assert!(held.get() <= FIRST_BYTES as i64);
    }

    #[tokio::test]
    async fn impossible_lengths_and_cut_frames_are_errors() {
        for (bytes, expected) in [
            (i32::MAX.to_be_bytes().to_vec(), "frame of 2147483647 bytes, the limit is 1048576"),
            ((-1i32).to_be_bytes().to_vec(), "frame of -1 bytes, the limit is 1048576"),
            (vec![0, 0], "closed inside a frame"),
            (vec![0, 0, 0, 9, 1], "closed inside a frame"),
        ] {
            let (mut client, server) = pair().await;
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let error = reader(&Gauge::default()).next(&server).await.unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
