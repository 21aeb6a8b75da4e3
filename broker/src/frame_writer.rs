//! Responses into a socket: the segments of a frame by vectored writes, so that records go from cache to socket
//! without a copy.

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use seawall_protocol::Segments;
use tokio::net::TcpStream;

/// Segments handed to the kernel at a time.
const SLICES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the client took no byte for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the whole frame. An error when the client takes no byte for `stall`.
pub async fn write_frame(stream: &TcpStream, frame: &Segments, stall: Duration) -> Result<(), WriteError> {
    let segments = frame.as_slice();
    let (mut first, mut skip) = (0, 0);
    while first < segments.len() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&segments[first..]) {
            *slice = IoSlice::new(if count == 0 { &segment[skip..] } else { segment });
            count += 1;
        }
        match stream.try_write_vectored(&slices[..count]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(mut written) => {
                while first < segments.len() && written >= segments[first].len() - skip {
                    written -= segments[first].len() - skip;
                    (first, skip) = (first + 1, 0);
                }
                skip += written;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(stall, stream.writable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Err(WriteError::Stalled(stall)),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    #[tokio::test]
    async fn many_segments_arrive_whole_and_a_client_that_takes_nothing_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = listener.accept().await.unwrap().0;
        let frame = Segments::new((0..300u32).map(|n| Bytes::from(vec![n as u8; (n * 37) as usize % 9000])).collect());
        let expected = frame.clone().into_bytes();
        let reader = tokio::spawn(async move {
            let mut received = vec![0; expected.len()];
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected);
            client
        });
        write_frame(&server, &frame, Duration::from_secs(5)).await.unwrap();
        let _client = reader.await.unwrap();
        let huge = Segments::new(vec![Bytes::from(vec![0; 64 << 20])]);
        let error = write_frame(&server, &huge, Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(error, WriteError::Stalled(_)));
    }
}
