//! Answers into a socket: the segments of their frames by vectored writes, so that records go from cache to socket
//! without a copy.
//!
//! A client may read slowly. What it does not take soon is copied out of the buffers that it is a slice of, so that it
//! holds on to no more than it was charged for. While others wait for that memory, one that is too slow is given up.

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use bytes::Bytes;
use seawall_protocol::Segments;
use tokio::{net::TcpStream, time::Instant};

use crate::answer_memory::AnswerRoom;

/// Segments handed to the kernel at a time.
const SLICES: usize = 64;
/// As many bytes; then other connections of this thread have their turn, however fast this client takes them.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// What is not taken after this long is copied.
const COPY_AFTER: Duration = Duration::from_secs(1);
/// While others wait for memory, what has taken this long, and longer than at `SLOWEST_BYTES_PER_SECOND`, is given up.
const SLOW_GRACE: Duration = Duration::from_secs(5);
const SLOWEST_BYTES_PER_SECOND: f64 = (1 << 20) as f64;
/// How often a client that takes nothing is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the client took no byte for {0:?}")]
    Stalled(Duration),
    #[error("memory for answers is short, and the client took {taken} of {bytes} bytes in {age:?}")]
    Slow { taken: usize, bytes: usize, age: Duration },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes all of `segments`, which have `rooms`. An error when the client takes no byte for `stall`, or is slow while others
/// wait for room.
pub async fn write_frames(
    stream: &TcpStream,
    segments: Segments,
    rooms: &[AnswerRoom],
    stall: Duration,
) -> Result<(), WriteError> {
    let bytes = segments.total_len();
    let mut rest = Rest { segments: segments.into_vec(), first: 0, skip: 0 };
    let mut taken = 0;
    let mut wait: Option<Wait> = None;
    while !rest.is_empty() {
        match rest.write(stream) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => {
                taken += written;
                if let Some(wait) = &mut wait {
                    wait.last_taken = Instant::now();
                }
                if !rest.is_empty() {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let wait = wait.get_or_insert_with(|| Wait::begin(taken));
                if wait.began.elapsed() >= COPY_AFTER && !std::mem::replace(&mut wait.copied, true) {
                    rest.copy();
                }
                wait.give_up_if_slow(taken, bytes, rooms)?;
                wait.writable(stream, stall).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is not written yet.
struct Rest {
    segments: Vec<Bytes>,
    first: usize,
    /// Bytes of the first segment that are written.
    skip: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.first == self.segments.len()
    }

    fn write(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut room) = (0, WRITE_BYTES_MAX);
        for (slice, segment) in slices.iter_mut().zip(&self.segments[self.first..]) {
            let segment = if count == 0 { &segment[self.skip..] } else { segment };
            *slice = IoSlice::new(&segment[..segment.len().min(room)]);
            count += 1;
            room = room.saturating_sub(segment.len());
            if room == 0 {
                break;
            }
        }
        let written = stream.try_write_vectored(&slices[..count])?;
        let mut left = written;
        while !self.is_empty() && left >= self.segments[self.first].len() - self.skip {
            left -= self.segments[self.first].len() - self.skip;
            (self.first, self.skip) = (self.first + 1, 0);
        }
        self.skip += left;
        Ok(written)
    }

    /// Lets go of the shared buffers.
    fn copy(&mut self) {
        self.segments.drain(..self.first);
        self.first = 0;
        for segment in &mut self.segments {
            *segment = Bytes::copy_from_slice(&segment[std::mem::take(&mut self.skip)..]);
        }
    }
}

/// A socket that is full.
struct Wait {
    began: Instant,
    /// Before it was full.
    taken_at_once: usize,
    last_taken: Instant,
    copied: bool,
}

impl Wait {
    fn begin(taken_at_once: usize) -> Self {
        let now = Instant::now();
        Self { began: now, taken_at_once, last_taken: now, copied: false }
    }

    fn give_up_if_slow(&self, taken: usize, bytes: usize, rooms: &[AnswerRoom]) -> Result<(), WriteError> {
        let age = self.began.elapsed();
        let taken_since = (taken - self.taken_at_once) as f64;
        let slow = age >= SLOW_GRACE && taken_since < age.as_secs_f64() * SLOWEST_BYTES_PER_SECOND;
        if slow && rooms.iter().any(AnswerRoom::is_wanted) {
            return Err(WriteError::Slow { taken, bytes, age });
        }
        Ok(())
    }

    /// Waits until the socket takes more, or it is time for another look.
    async fn writable(&self, stream: &TcpStream, stall: Duration) -> Result<(), WriteError> {
        let left = stall.saturating_sub(self.last_taken.elapsed());
        match tokio::time::timeout(left.min(LOOK_EVERY), stream.writable()).await {
            Ok(ready) => Ok(ready?),
            Err(_) if left <= LOOK_EVERY => Err(WriteError::Stalled(stall)),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer_memory::AnswerMemory;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    /// More than sockets buffer.
    const HUGE: usize = 64 << 20;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn many_segments_arrive_whole_and_a_client_that_takes_nothing_is_an_error() {
        let (mut client, server) = pair().await;
        let frame = Segments::new((0..300u32).map(|n| Bytes::from(vec![n as u8; (n * 37) as usize % 9000])).collect());
        let expected = frame.clone().into_bytes();
        let reader = tokio::spawn(async move {
            let mut received = vec![0; expected.len()];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected);
            client
        });
        write_frames(&server, frame, &[], Duration::from_secs(5)).await.unwrap();
        let _client = reader.await.unwrap();
        let huge = Segments::new(vec![Bytes::from(vec![0; HUGE])]);
        let error = write_frames(&server, huge, &[], Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, WriteError::Stalled(_)));
    }

    #[tokio::test]
    async fn what_a_client_does_not_take_soon_pins_no_other_bytes_and_arrives_whole() {
        let (mut client, server) = pair().await;
        let mut bytes = vec![0; HUGE];
        bytes.chunks_mut(4099).enumerate().for_each(|(n, chunk)| chunk.fill(n as u8));
        let expected = bytes.clone();
        let pinned = Bytes::from(bytes);
        // All but the first byte, in three segments.
        let slices = [1..HUGE / 3, HUGE / 3..HUGE / 2, HUGE / 2..HUGE].map(|range| pinned.slice(range));
        let writing = tokio::spawn(async move {
            write_frames(&server, Segments::new(slices.into()), &[], Duration::from_secs(20)).await.unwrap();
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pinned.is_unique() {
            assert!(Instant::now() < deadline, "the buffer is pinned");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut received = vec![0; HUGE - 1];
        client.read_exact(&mut received).await.unwrap();
        assert!(received == expected[1..], "other bytes arrived");
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_when_others_wait_for_its_memory_and_not_before() {
        let (_client, server) = pair().await;
        let memory = AnswerMemory::new(HUGE as u64);
        let room = memory.room(HUGE).await;
        let writing = tokio::spawn(async move {
            let huge = Segments::new(vec![Bytes::from(vec![0; HUGE])]);
            write_frames(&server, huge, &[room], Duration::from_secs(60)).await.unwrap_err()
        });
        tokio::time::sleep(SLOW_GRACE + 2 * LOOK_EVERY).await;
        assert!(!writing.is_finished(), "nobody waits");
        memory.room(1).await;
        assert!(matches!(writing.await.unwrap(), WriteError::Slow { bytes: HUGE, .. }));
    }
}
