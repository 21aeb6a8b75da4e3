//! Admin HTTP: `/metrics` (Prometheus text), `/healthz`, `/readyz`, `/state` (JSON).
//!
//! It has no authentication and listens on loopback unless configured otherwise. Requests have no bodies that are
//! read, and their number under way is bounded.

use std::{
    future::IntoFuture,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{broker::Broker, metrics::Metrics, state_report};

/// Requests answered at a time; more are told to come back.
const CONCURRENT_REQUESTS: usize = 16;

/// What the endpoints show. The broker comes once it is built, readiness once it serves clients.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Metrics,
    broker: OnceLock<Arc<Broker>>,
    ready: AtomicBool,
    slots: Semaphore,
}

impl Admin {
    pub fn new(metrics: Metrics) -> Self {
        let shared = Shared {
            metrics,
            broker: OnceLock::new(),
            ready: AtomicBool::new(false),
            slots: Semaphore::new(CONCURRENT_REQUESTS),
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn show(&self, broker: Arc<Broker>) {
        // The broker is built once.
        let _ = self.shared.broker.set(broker);
    }

    pub fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/state", get(state))
            .with_state(self)
    }
}

/// Serves until `stopping`.
pub async fn serve(admin: Admin, listener: TcpListener, stopping: CancellationToken) {
    let stop = stopping.clone();
    let server = axum::serve(LimitedListener::new(listener), admin.router())
        .with_graceful_shutdown(async move { stop.cancelled().await });
    // A client that keeps its connection open must not keep the broker from stopping.
    tokio::select! {
        result = server.into_future() => if let Err(error) = result {
            tracing::error!(%error, "admin HTTP");
        },
        () = async { stopping.cancelled().await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let Ok(_slot) = admin.shared.slots.try_acquire() else { return busy() };
    if let Some(broker) = admin.shared.broker.get() {
        broker.metrics.upload.refresh(&broker.uploads.status());
    }
    let text = admin.shared.metrics.encode();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

async fn state(State(admin): State<Admin>) -> axum::response::Response {
    let Ok(_slot) = admin.shared.slots.try_acquire() else { return busy() };
    match admin.shared.broker.get() {
        Some(broker) => Json(state_report::report(broker, admin.is_ready())).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

fn busy() -> axum::response::Response {
    (StatusCode::SERVICE_UNAVAILABLE, "too many requests\n").into_response()
}

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// A connection is cut after this long, whatever it does.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);

/// Accepts no more than `CONNECTIONS`, each for no longer than `CONNECTION_LIFE`.
struct LimitedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl LimitedListener {
    fn new(listener: TcpListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Listener for LimitedListener {
    type Io = LimitedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (LimitedStream, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.unwrap_or_else(|_| panic!("the places are never closed"));
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let end = Box::pin(tokio::time::sleep(CONNECTION_LIFE));
        (LimitedStream { stream, end, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct LimitedStream {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl LimitedStream {
    fn check_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
