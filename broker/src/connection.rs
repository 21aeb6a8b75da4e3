//! One TCP connection: frames in, responses out in request order.
//!
//! Requests take effect in the order in which they came. Produce requests are pipelined: the next one is appended
//! while earlier ones wait for durability, up to a bounded number and size. Any other request waits for those before
//! it. Whatever a client sends, it costs this connection at most: the task ends, its memory is given back, and a
//! panic in a handler ends with it (`task.rs` counts and logs it).

use std::{
    collections::VecDeque,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use seawall_protocol::Segments;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    answer_memory::AnswerRoom,
    broker::Broker,
    dispatch::{self, Answer, Begun},
    frame_reader::{Frame, FrameReader, ReadError},
    frame_writer::{WriteError, write_frames},
    metrics::ReasonLabel,
    request_memory::Hold,
};

/// How often a connection whose request takes long is checked for having been closed by the client.
const CLOSED_CHECK: Duration = Duration::from_secs(10);

/// A request that waits is given up this long after the broker was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Who is asking. Until security lands everybody is `User:ANONYMOUS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

impl Principal {
    pub fn anonymous() -> Self {
        Self { kind: "User".into(), name: "ANONYMOUS".into() }
    }
}

/// What stays the same over a connection's life.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub principal: Principal,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{0}")]
    Refused(String),
    #[error("idle")]
    Idle,
    #[error("the broker stops")]
    Stopping,
}

/// Serves the connection until either side ends it.
pub async fn serve(broker: Arc<Broker>, stream: TcpStream, address: SocketAddr, stopping: CancellationToken) {
    let reader = FrameReader::new(broker.request_memory.clone(), broker.config.kafka.size("socket.request.max.bytes"));
    let mut connection = Connection {
        peer: Peer { address, principal: Principal::anonymous() },
        idle: broker.config.kafka.millis_limit("connections.max.idle.ms"),
        stall: broker.config.limits.write_stall.duration(),
        pending_max: broker.config.limits.pending_requests_per_connection,
        pending_bytes_max: broker.config.limits.pending_bytes_per_connection.as_usize(),
        pending: VecDeque::new(),
        pending_bytes: 0,
        muted_until: None,
        broker,
        stream,
        reader,
    };
    let Err(end) = connection.run(&stopping).await;
    connection.report(&end);
}

struct Connection {
    broker: Arc<Broker>,
    stream: TcpStream,
    peer: Peer,
    reader: FrameReader,
    /// `None` is without limit.
    idle: Option<Duration>,
    stall: Duration,
    /// Produce requests that were begun, in order.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    pending_max: usize,
    pending_bytes_max: usize,
    /// Nothing is read before: the client was told to wait so long.
    muted_until: Option<Instant>,
}

struct Pending {
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
    bytes: usize,
    _hold: Hold,
}

impl Connection {
    async fn run(&mut self, stopping: &CancellationToken) -> Result<std::convert::Infallible, End> {
        loop {
            let waiting = !self.pending.is_empty();
            let muted = self.muted_until.is_some();
            let may_read = !muted
                && self.pending.len() < self.pending_max
                && (!waiting || self.pending_bytes < self.pending_bytes_max);
            tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    self.answer_pending().await?;
                    return Err(End::Stopping);
                }
                answer = first(&mut self.pending), if waiting => self.finish_ready(answer).await?,
                done = unmuted(&self.stream, self.muted_until), if muted => {
                    done?;
                    self.muted_until = None;
                }
                frame = next_frame(&mut self.reader, &self.stream, self.idle, !waiting), if may_read => {
                    // Boxed: what a request needs while it is handled is not carried by idle connections.
                    Box::pin(self.handle(frame?, stopping)).await?;
                }
            }
        }
    }

    async fn handle(&mut self, frame: Frame, stopping: &CancellationToken) -> Result<(), End> {
        let bytes = frame.bytes.len();
        self.broker.metrics.network.request_bytes.inc_by(bytes as u64 + 4);
        let request = dispatch::parse(&self.broker, &self.peer, frame.bytes).map_err(End::Refused)?;
        if !request.is_pipelined() {
            self.answer_pending().await?;
        }
        let begun = {
            // Pinned here: a future that is handed over takes its room twice.
            let begin = std::pin::pin!(request.begin(&self.broker));
            while_open(&self.stream, stopping, begin).await?
        };
        match begun {
            Begun::Answered(answer) => {
                // A client that does not read its answer holds that, and not the memory for requests.
                drop(frame.hold);
                self.answer_pending().await?;
                self.send(vec![answer]).await?;
            }
            Begun::Waiting(answer) => {
                self.pending_bytes += bytes;
                self.pending.push_back(Pending { answer, bytes, _hold: frame.hold });
            }
        }
        if stopping.is_cancelled() { Err(End::Stopping) } else { Ok(()) }
    }

    async fn answer_pending(&mut self) -> Result<(), End> {
        while !self.pending.is_empty() {
            let answer = first(&mut self.pending).await;
            self.finish_ready(answer).await?;
        }
        Ok(())
    }

    /// Sends the first pending answer, and in the same write those behind it that are ready too: one commit of the WAL
    /// often ends several requests.
    async fn finish_ready(&mut self, first_answer: Answer) -> Result<(), End> {
        let mut answers = Vec::new();
        let mut next = Some(first_answer);
        while let Some(answer) = next {
            answers.push(answer);
            let done = self.pending.pop_front();
            self.pending_bytes -= done.map_or(0, |pending| pending.bytes);
            next = first_if_ready(&mut self.pending);
        }
        self.send(answers).await
    }

    /// Those before one that closes the connection are still sent.
    async fn send(&mut self, answers: Vec<Answer>) -> Result<(), End> {
        let (mut segments, mut rooms, mut longest_mute, mut refused) = (Vec::new(), Vec::new(), Duration::ZERO, None);
        for answer in answers {
            match answer {
                Answer::Respond { frame, room, mute } => {
                    segments.extend(frame.into_vec());
                    rooms.extend(room);
                    longest_mute = longest_mute.max(mute);
                }
                Answer::Nothing { mute } => longest_mute = longest_mute.max(mute),
                Answer::Close(why) => {
                    refused = Some(why);
                    break;
                }
            }
        }
        self.write(Segments::new(segments), &rooms).await?;
        self.mute(longest_mute);
        refused.map_or(Ok(()), |why| Err(End::Refused(why)))
    }

    fn mute(&mut self, time: Duration) {
        if !time.is_zero() {
            self.muted_until = self.muted_until.max(Some(self.broker.clock.instant() + time));
        }
    }

    async fn write(&mut self, frames: Segments, rooms: &[AnswerRoom]) -> Result<(), End> {
        let bytes = frames.total_len();
        write_frames(&self.stream, frames, rooms, self.stall).await?;
        self.broker.metrics.network.response_bytes.inc_by(bytes as u64);
        Ok(())
    }

    fn report(&self, end: &End) {
        let reason = match end {
            End::Read(ReadError::Closed | ReadError::Io(_)) | End::Write(WriteError::Io(_)) => "client",
            End::Read(ReadError::ClosedInFrame) => "cut_frame",
            End::Read(ReadError::BadLength { .. }) => "frame_length",
            End::Read(ReadError::Stalled) => "slow_frame",
            End::Write(WriteError::Stalled(_)) => "slow_reader",
            End::Write(WriteError::Slow { .. }) => "answer_memory",
            End::Refused(_) => "bad_request",
            End::Idle => "idle",
            End::Stopping => "stopping",
        };
        self.broker.metrics.network.connections_closed.get_or_create(&ReasonLabel { reason }).inc();
        match reason {
            "client" | "stopping" | "idle" | "cut_frame" => debug!(peer = %self.peer.address, %end, "connection ended"),
            _ => warn!(peer = %self.peer.address, %end, "connection closed"),
        }
    }
}

/// The answer of the first pending request. Safe to drop while it waits.
async fn first(pending: &mut VecDeque<Pending>) -> Answer {
    match pending.front_mut() {
        Some(pending) => pending.answer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The answer of the first pending request, if it need not be waited for.
fn first_if_ready(pending: &mut VecDeque<Pending>) -> Option<Answer> {
    // Nobody is woken by this: before the connection sleeps, `first` asks again.
    let mut context = Context::from_waker(Waker::noop());
    match pending.front_mut()?.answer.as_mut().poll(&mut context) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// The next frame; with nothing pending and nothing read, it must begin within the idle time.
async fn next_frame(
    reader: &mut FrameReader,
    stream: &TcpStream,
    idle: Option<Duration>,
    nothing_pending: bool,
) -> Result<Frame, End> {
    let Some(idle) = idle.filter(|_| nothing_pending) else { return Ok(reader.next(stream).await?) };
    loop {
        match tokio::time::timeout(idle, reader.next(stream)).await {
            Ok(frame) => return Ok(frame?),
            // A frame that is being received is slow, not idle, as long as the client keeps sending.
            Err(_) if reader.take_progress() => {}
            Err(_) => return Err(End::Idle),
        }
    }
}

/// Waits until a throttle is over; not for a client that has closed the connection meanwhile. Safe to drop while it waits.
async fn unmuted(stream: &TcpStream, until: Option<Instant>) -> Result<(), End> {
    let Some(until) = until else { return Ok(()) };
    loop {
        let check = Instant::now() + CLOSED_CHECK;
        tokio::time::sleep_until(until.min(check)).await;
        if until <= check {
            return Ok(());
        }
        if is_closed(stream).await {
            return Err(ReadError::Closed.into());
        }
    }
}

/// Runs a request, which may wait long (a fetch, a join), but gives it up once the client has closed the connection, or
/// a moment after the broker was told to stop.
async fn while_open<T>(
    stream: &TcpStream,
    stopping: &CancellationToken,
    request: impl Future<Output = T>,
) -> Result<T, End> {
    let mut request = std::pin::pin!(request);
    loop {
        tokio::select! {
            biased;
            done = request.as_mut() => return Ok(done),
            () = tokio::time::sleep(CLOSED_CHECK) => if is_closed(stream).await {
                return Err(ReadError::Closed.into());
            },
            () = async { stopping.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => {
                return Err(End::Stopping);
            }
        }
    }
}

/// Whether the client will send nothing more, also where requests that it sent before are not read yet.
async fn is_closed(stream: &TcpStream) -> bool {
    match tokio::time::timeout(Duration::ZERO, stream.ready(Interest::READABLE)).await {
        Ok(Ok(ready)) => ready.is_read_closed(),
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    #[tokio::test]
    async fn a_closed_connection_is_noticed_behind_a_request_that_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(!is_closed(&stream).await);
        client.write_all(b"a request").await.unwrap();
        stream.readable().await.unwrap();
        assert!(!is_closed(&stream).await);
        drop(client);
        let noticed = async {
            while !is_closed(&stream).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("closed");
    }
}
