//! Connections to the store: one pool, our own TLS. Nothing here repeats a request, and a connection whose answer was
//! not awaited is closed. Certificates that are replaced in their files are used without a restart: by a new pool.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use http::Method;
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::clock::StoreClock;
use super::tls::{self, Tls, TlsError};

/// Shorter than what stores grant an idle connection (65 s for RGW), so that we are the ones who close it.
const IDLE_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Idle connections that are kept. At most as many as the limiter has places are ever in use.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// How old may be what is known of the certificates' files.
const FRESH_FOR: Duration = Duration::from_secs(5);

type Pool = Client<HttpsConnector<TcpConnector>, SdkBody>;

#[derive(Debug, Clone)]
struct Connections {
    pools: Arc<Pools>,
    clock: Arc<StoreClock>,
}

/// `clock` learns of each answer.
pub(super) fn http_client(tls: Tls, clock: Arc<StoreClock>) -> Result<SharedHttpClient, TlsError> {
    Ok(SharedHttpClient::new(Connections { pools: Arc::new(Pools::open(tls)?), clock }))
}

/// The pool in use, and whether it still has the certificates that are in the files.
#[derive(Debug)]
struct Pools {
    tls: Tls,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    stamp: Vec<Option<(SystemTime, u64, u64)>>,
    looked_at: Instant,
}

impl Pools {
    fn open(tls: Tls) -> Result<Self, TlsError> {
        let stamp = tls.stamp();
        let state = State { pool: pool(&tls)?, stamp, looked_at: Instant::now() };
        Ok(Self { tls, state: Mutex::new(state) })
    }

    /// What is under way ends over the connections that it has.
    fn current(&self) -> Pool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= FRESH_FOR {
            state.looked_at = Instant::now();
            let stamp = self.tls.stamp();
            if stamp != state.stamp {
                state.stamp = stamp;
                match pool(&self.tls) {
                    Ok(pool) => {
                        state.pool = pool;
                        tracing::info!("certificates for the store have changed");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "certificates for the store cannot be read; those from before stay in use");
                    }
                }
            }
        }
        state.pool.clone()
    }
}

fn pool(tls: &Tls) -> Result<Pool, TlsError> {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_MAX));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls::client_config(tls)?).https_or_http();
    let https = match &tls.server_name {
        Some(name) => https.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
        None => https,
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .retry_canceled_requests(false)
        .build(https.enable_http1().wrap_connector(tcp)))
}

impl HttpClient for Connections {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connections {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, clock) = (self.pools.current(), Arc::clone(&self.clock));
        HttpConnectorFuture::new(async move {
            let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            // RGW refuses a PUT without a body that does not say so.
            if matches!(*request.method(), Method::PUT | Method::POST) && request.body().content_length() == Some(0) {
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            let response = client.request(request).await.map_err(|error| ConnectorError::io(error.into()))?;
            if let Some(date) = response.headers().get(DATE).and_then(|date| date.to_str().ok()) {
                clock.note(date);
            }
            HttpResponse::try_from(response.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
