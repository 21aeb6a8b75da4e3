//! An S3 server without a store: it drops what is put, and makes up what is got. Whoever asks may. The length of an object
//! is the number that its name begins with.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::pattern;

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
}

pub async fn run(args: &Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{}", listener.local_addr()?)?;
    out.flush()?;
    drop(out);
    let segment = Arc::new(pattern::segment());
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let segment = Arc::clone(&segment);
        let service = service_fn(move |request| answer(request, Arc::clone(&segment)));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

async fn answer(request: Request<Incoming>, segment: Arc<Bytes>) -> Result<Response<MadeUp>, Infallible> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let length: Option<u64> = name.split('-').next().and_then(|bytes| bytes.parse().ok());
    let (method, range) = (request.method().clone(), asked_range(&request));
    let mut received = 0;
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let made = |status: StatusCode, from: u64, bytes: u64| {
        let mut response = Response::new(MadeUp { segment: Arc::clone(&segment), at: from, left: bytes });
        *response.status_mut() = status;
        response
    };
    Ok(match (method, length) {
        (Method::PUT, Some(bytes)) if bytes == received => made(StatusCode::OK, 0, 0),
        (Method::GET, Some(bytes)) => match range {
            Some((from, end)) if from < end && end <= bytes => {
                let mut response = made(StatusCode::PARTIAL_CONTENT, from, end - from);
                if let Ok(given) = format!("bytes {from}-{}/{bytes}", end - 1).parse() {
                    response.headers_mut().insert("content-range", given);
                }
                response
            }
            Some(_) => made(StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
            None => made(StatusCode::OK, 0, bytes),
        },
        _ => made(StatusCode::BAD_REQUEST, 0, 0),
    })
}

/// `bytes=0-9` as 0 and 10.
fn asked_range(request: &Request<Incoming>) -> Option<(u64, u64)> {
    let (first, last) = request.headers().get("range")?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?))
}

/// Bytes of an object, from its pattern.
struct MadeUp {
    segment: Arc<Bytes>,
    at: u64,
    left: u64,
}

impl Body for MadeUp {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let from = self.at as usize % self.segment.len();
        let to = self.segment.len().min(from + self.left.min(self.segment.len() as u64) as usize);
        let piece = self.segment.slice(from..to);
        self.at += piece.len() as u64;
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
