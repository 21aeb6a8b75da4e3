//! Request frames out of a socket: a length of four bytes, then that many bytes.
//!
//! The length is checked before anything is allocated. Nothing is read beyond the frame but the next one's length, so a
//! frame is received into a buffer of its own size, is one contiguous `Bytes` of which record batches are slices, and is
//! not moved. The buffer is address space until bytes arrive; they are charged to the shared memory as they come, so a
//! length that is only claimed costs nothing. A connection that waits for its next frame holds no buffer.

use std::{io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{net::TcpStream, time::Instant};

use crate::request_memory::{Hold, LENGTH_BYTES, RequestMemory};

/// Frames up to this size need no place in the shared memory.
const SMALL_BYTES: usize = 8 * 1024;
/// What a large frame may hold before its first byte came, from a connection that has not sent one yet.
const FIRST_BYTES: usize = 64 * 1024;
/// The same from a connection that has sent large frames whole.
const FIRST_BYTES_TRUSTED: usize = 1024 * 1024;
/// A buffer gets its frame's size at once up to this, and up to twice the largest frame that came whole.
const ADDRESS_SPACE_FIRST: usize = 1024 * 1024;
/// Beyond, it grows by this factor, which moves an eighth of the frame at most.
const ADDRESS_SPACE_GROWTH: usize = 8;
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
    /// The length field of the frame that is being received, as far as it came.
    prefix: [u8; LENGTH_BYTES],
    prefix_len: usize,
    /// What came behind it; never more than the frame and the next one's length field.
    body: BytesMut,
    /// What the frame that is being received holds, and how many bytes of it.
    hold: Hold,
    held_bytes: usize,
    frame_began: Option<Instant>,
    /// How much of the time since then went into waiting for memory.
    waited: Duration,
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
            prefix: [0; LENGTH_BYTES],
            prefix_len: 0,
            body: BytesMut::new(),
            hold: Hold::default(),
            held_bytes: 0,
            frame_began: None,
            waited: Duration::ZERO,
            progress: false,
            largest_frame: 0,
        }
    }

    /// The next frame. Safe to drop while it waits: nothing read is lost.
    pub async fn next(&mut self, stream: &TcpStream) -> Result<Frame, ReadError> {
        loop {
            let length = self.length()?;
            if let Some(length) = length.filter(|length| self.body.len() >= *length) {
                return Ok(self.take_frame(length));
            }
            let room = match length {
                Some(length) => self.make_room(length).await,
                None => 0,
            };
            self.readable(stream).await?;
            let read = match length {
                Some(length) => {
                    self.reserve(length);
                    stream.try_read_buf(&mut (&mut self.body).limit(room))
                }
                None => stream.try_read(&mut self.prefix[self.prefix_len..]),
            };
            match read {
                Ok(0) if self.prefix_len == 0 => return Err(ReadError::Closed),
                Ok(0) => return Err(ReadError::ClosedInFrame),
                Ok(bytes) => {
                    self.prefix_len += if length.is_none() { bytes } else { 0 };
                    self.progress = true;
                    self.frame_began.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            self.give_up_if_slow(self.waited)?;
        }
    }

    /// Whether part of a frame has come since this was last asked.
    pub fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    fn length(&self) -> Result<Option<usize>, ReadError> {
        if self.prefix_len < LENGTH_BYTES {
            return Ok(None);
        }
        let length = i32::from_be_bytes(self.prefix);
        match usize::try_from(length) {
            Ok(bytes) if bytes <= self.frame_bytes_max => Ok(Some(bytes)),
            _ => Err(ReadError::BadLength { length, limit: self.frame_bytes_max }),
        }
    }

    fn take_frame(&mut self, length: usize) -> Frame {
        let mut body = std::mem::take(&mut self.body);
        self.prefix_len = body.len() - length;
        assert!(self.prefix_len <= LENGTH_BYTES, "{} bytes read behind a frame", self.prefix_len);
        self.prefix[..self.prefix_len].copy_from_slice(&body[length..]);
        body.truncate(length);
        self.largest_frame = self.largest_frame.max(length);
        self.held_bytes = 0;
        self.waited = Duration::ZERO;
        self.frame_began = (self.prefix_len > 0).then(Instant::now);
        Frame { bytes: body.freeze(), hold: std::mem::take(&mut self.hold) }
    }

    /// Memory for more of a frame of `length` bytes; answers how many may be read now.
    async fn make_room(&mut self, length: usize) -> usize {
        let whole = length + LENGTH_BYTES;
        if whole <= SMALL_BYTES {
            return whole - self.body.len();
        }
        if self.body.len() >= self.held_bytes {
            let first = (2 * self.largest_frame).clamp(FIRST_BYTES, FIRST_BYTES_TRUSTED);
            let target = whole.min(first.max(2 * self.held_bytes));
            let (more, rest) = (target - self.held_bytes, whole - self.held_bytes);
            let began = Instant::now();
            self.held_bytes += self.memory.grow(&mut self.hold, more, rest).await;
            self.waited += began.elapsed();
        }
        self.held_bytes - self.body.len()
    }

    /// Address space for more of a frame of `length` bytes, once some of them are there to be read.
    fn reserve(&mut self, length: usize) {
        if self.body.capacity() == self.body.len() {
            let whole = length + LENGTH_BYTES;
            let proven = (2 * self.largest_frame).max(ADDRESS_SPACE_GROWTH * self.body.len());
            let wanted = whole.min(proven.max(ADDRESS_SPACE_FIRST));
            if self.body.is_empty() {
                self.body = BytesMut::with_capacity(wanted);
            } else {
                self.body.reserve(wanted - self.body.len());
            }
        }
    }

    async fn readable(&mut self, stream: &TcpStream) -> Result<(), ReadError> {
        if self.prefix_len == 0 {
            return Ok(stream.readable().await?);
        }
        while tokio::time::timeout(Duration::from_secs(1), stream.readable()).await.is_err() {
            // It has memory and sends nothing: what it waited before is no excuse.
            self.give_up_if_slow(Duration::ZERO)?;
        }
        Ok(())
    }

    /// `excused`: time that does not count against the client.
    fn give_up_if_slow(&self, excused: Duration) -> Result<(), ReadError> {
        let Some(began) = self.frame_began.filter(|_| self.held_bytes > 0 && self.memory.is_short()) else {
            return Ok(());
        };
        let fair = Duration::from_secs(self.body.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        if began.elapsed() > SLOW_FRAME_GRACE + fair + excused { Err(ReadError::Stalled) } else { Ok(()) }
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
        client.write_all(&(100i32 << 20).to_be_bytes()).await.unwrap();
        client.write_all(&[0; 100]).await.unwrap();
        let held = Gauge::default();
        let mut reader = FrameReader::new(RequestMemory::new(400 << 20, 100 << 20, held.clone()), 100 << 20);
        let waited = tokio::time::timeout(Duration::from_millis(200), reader.next(&server)).await;
        assert!(waited.is_err());
        assert!(held.get() <= FIRST_BYTES as i64);
        assert!(reader.body.capacity() <= ADDRESS_SPACE_FIRST);
    }

    #[tokio::test]
    async fn a_frame_is_received_where_it_stays() {
        let (mut client, server) = pair().await;
        let mut reader = reader(&Gauge::default());
        for length in [100, 20_000, 1 << 20] {
            let frame = framed(&vec![7; length]);
            let (first, rest) = frame.split_at(frame.len() / 2);
            client.write_all(first).await.unwrap();
            let waited = tokio::time::timeout(Duration::from_millis(50), reader.next(&server)).await;
            assert!(waited.is_err());
            let place = reader.body.as_ptr();
            let (written, frame) = tokio::join!(client.write_all(rest), reader.next(&server));
            written.unwrap();
            assert_eq!(frame.unwrap().bytes.as_ptr(), place, "a frame of {length} bytes was moved");
        }
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
