//! The server: takes a request, checks it, lets it meet its fault, and keeps count.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::answer::{Answer, AnswerBody, Problem};
use crate::faults::Random;
use crate::objects::{Millis, Objects};
use crate::request::{Operation, parse};
use crate::signature::{self, Keys};
use crate::store::{Asked, Store};
use crate::{Fault, Faults, Like};

#[derive(Debug, Clone)]
pub struct Settings {
    pub listen: SocketAddr,
    pub bucket: String,
    pub access: String,
    pub secret: String,
    pub like: Like,
    pub faults: Faults,
    pub seed: u64,
    /// A put that is late lands at the latest after so long; a read or a listing that is behind does not know of changes
    /// that are younger.
    pub late_max: Duration,
    /// By how much the server's clock is ahead of the real one.
    pub clock_ahead_seconds: i64,
    /// How long the bucket is still refused to its owner.
    pub fresh_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            bucket: "testbed".to_owned(),
            access: "hostile".to_owned(),
            secret: "store".to_owned(),
            like: Like::Plain,
            faults: Faults::default(),
            seed: 1,
            late_max: Duration::from_secs(5),
            clock_ahead_seconds: 0,
            fresh_for: Duration::ZERO,
        }
    }
}

/// What was seen and done since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// By operation.
    pub requests: BTreeMap<&'static str, u64>,
    /// By name.
    pub faults: BTreeMap<&'static str, u64>,
    /// By code.
    pub refused: BTreeMap<&'static str, u64>,
    /// Requests with a condition. A broker sends none.
    pub conditional: u64,
    pub objects: usize,
    /// Keys that were given other bytes than before.
    pub overwritten: Vec<String>,
}

const BODY_BYTES_MAX: usize = 256 << 20;
const FROZEN_MAX: Duration = Duration::from_secs(600);

struct State {
    store: Store,
    faults: Faults,
    report: Report,
}

impl State {
    fn told(&self) -> Report {
        let objects = self.store.objects.live().count();
        Report { objects, overwritten: self.store.objects.overwritten().to_vec(), ..self.report.clone() }
    }
}

/// Ends when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    settings: Settings,
    started: Millis,
    state: Mutex<State>,
    /// What is late lands now.
    land: Notify,
}

impl Server {
    pub async fn start(settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let state = State {
            store: Store { objects: Objects::default(), random: Random::new(settings.seed) },
            faults: settings.faults,
            report: Report::default(),
        };
        let shared = Arc::new(Shared { settings, started: now(), state: Mutex::new(state), land: Notify::new() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next request on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Puts that are late land now, whatever their time.
    pub fn land(&self) {
        self.shared.land.notify_waiters();
    }

    pub fn report(&self) -> Report {
        self.shared.lock().told()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&shared), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            // A service that fails closes the connection without a reply, as it should.
            let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The connection is closed without a reply.
#[derive(Debug)]
struct NoReply;

impl std::fmt::Display for NoReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no reply")
    }
}

impl std::error::Error for NoReply {}

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<AnswerBody>, NoReply> {
    let mut response = answer(Arc::clone(&shared), request).await?;
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(shared.now());
    if let Ok(date) = httpdate::fmt_http_date(date).parse() {
        response.headers_mut().insert("date", date);
    }
    Ok(response)
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<AnswerBody>, NoReply> {
    let (parts, body) = request.into_parts();
    let body = match http_body_util::Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        // The client went away.
        Err(_) => return Err(NoReply),
    };
    if parts.uri.path().starts_with("/-/") {
        return Ok(shared.administer(&parts, &body).into_response());
    }
    let operation = match shared.admit(&parts, &body) {
        Ok(operation) => operation,
        Err(problem) => return Ok(shared.refuse(problem).into_response()),
    };
    let fault = shared.draw(&operation);
    match fault {
        Some(Fault::Frozen) => {
            // What it had taken it stores when it thaws, whoever still waits.
            if shared.settings.like == Like::CephRgw && matches!(operation, Operation::Put { .. }) {
                tokio::spawn(do_late(Arc::clone(&shared), operation, parts, body));
            }
            tokio::time::sleep(FROZEN_MAX).await;
            return Err(NoReply);
        }
        Some(Fault::Late) => {
            tokio::spawn(do_late(Arc::clone(&shared), operation, parts, body));
            return Err(NoReply);
        }
        Some(Fault::Refused) => return Ok(Answer::problem(Problem::INTERNAL).into_response()),
        Some(Fault::SlowDown) => {
            return Ok(Answer::problem(Problem::SLOW_DOWN).with("retry-after", "1").into_response());
        }
        _ => {}
    }
    let answer = shared.apply(&operation, &parts, &body, fault).unwrap_or_else(|problem| shared.refuse(problem));
    if fault == Some(Fault::Lost) { Err(NoReply) } else { Ok(answer.into_response()) }
}

/// After a while, or when told to.
async fn do_late(shared: Arc<Shared>, operation: Operation, parts: Parts, body: Bytes) {
    tokio::select! {
        () = tokio::time::sleep(shared.late()) => {}
        () = shared.land.notified() => {}
    }
    let _ = shared.apply(&operation, &parts, &body, None);
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this client may, and what it wants.
    fn admit(&self, parts: &Parts, body: &Bytes) -> Result<Operation, Problem> {
        let keys = Keys { access: self.settings.access.clone(), secret: self.settings.secret.clone() };
        let chunked = parts.headers.contains_key("transfer-encoding") || parts.headers.contains_key("x-amz-trailer");
        let is_cubefs = self.settings.like == Like::Cubefs;
        if chunked {
            return Err(if is_cubefs { Problem::INTERNAL } else { Problem::NO_LENGTH });
        }
        match signature::check(parts, body, &keys, self.now()) {
            Err(Problem::WRONG_SHA256) if is_cubefs => {}
            checked => checked?,
        }
        if now() < self.started + self.settings.fresh_for.as_millis() as u64 {
            return Err(Problem::ACCESS_DENIED);
        }
        let operation = parse(parts, &self.settings.bucket, is_cubefs)?;
        let report = &mut self.lock().report;
        *report.requests.entry(operation.name()).or_default() += 1;
        report.conditional +=
            u64::from(["if-match", "if-none-match"].iter().any(|name| parts.headers.contains_key(*name)));
        Ok(operation)
    }

    fn draw(&self, operation: &Operation) -> Option<Fault> {
        let mut state = self.lock();
        let faults = state.faults;
        let fault = faults.draw(operation, &mut state.store.random);
        if let Some(fault) = fault {
            *state.report.faults.entry(fault.name()).or_default() += 1;
        }
        fault
    }

    fn late(&self) -> Duration {
        let most = self.settings.late_max.as_millis() as u64;
        Duration::from_millis(self.lock().store.random.below(most + 1))
    }

    fn refuse(&self, problem: Problem) -> Answer {
        *self.lock().report.refused.entry(problem.code).or_default() += 1;
        problem.into()
    }

    fn apply(
        &self,
        operation: &Operation,
        parts: &Parts,
        body: &Bytes,
        fault: Option<Fault>,
    ) -> Result<Answer, Problem> {
        let behind = self.settings.late_max.as_millis() as Millis;
        let asked = Asked { operation, parts, body, like: self.settings.like, now: self.now(), behind };
        self.lock().store.apply(&asked, fault)
    }

    /// By the clock that the store shows.
    fn now(&self) -> Millis {
        now().saturating_add_signed(self.settings.clock_ahead_seconds * 1_000)
    }

    /// `GET /-/report`, `PUT /-/faults`, `PUT /-/land`.
    fn administer(&self, parts: &Parts, body: &Bytes) -> Answer {
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/-/report") => Answer::json(serde_json::to_string(&self.lock().told()).unwrap_or_default()),
            (&Method::PUT, "/-/faults") => match String::from_utf8_lossy(body).parse() {
                Ok(faults) => {
                    self.lock().faults = faults;
                    Answer::empty(200)
                }
                Err(_) => Problem::BAD_REQUEST.into(),
            },
            (&Method::PUT, "/-/land") => {
                self.land.notify_waiters();
                Answer::empty(200)
            }
            _ => Problem::NOT_IMPLEMENTED.into(),
        }
    }
}

/// Signatures and listings tell the time of day.
#[allow(clippy::disallowed_methods, reason = "a server of its own, never simulated")]
fn now() -> Millis {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}
