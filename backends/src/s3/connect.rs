//! Connections to the store: one pool, our own TLS. Nothing here repeats a request, and a connection whose answer was
//! not awaited is closed.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use http::Method;
use http::header::{CONTENT_LENGTH, DATE, HeaderValue};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::clock::StoreClock;

/// Shorter than what stores grant an idle connection (65 s for RGW), so that we are the ones who close it.
const IDLE_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Idle connections that are kept. At most as many as the limiter has places are ever in use.
const IDLE_CONNECTIONS_MAX: usize = 64;

#[derive(Debug, Clone)]
struct Connections {
    client: Arc<Client<HttpsConnector<TcpConnector>, SdkBody>>,
    clock: Arc<StoreClock>,
}

/// `clock` learns of each answer.
pub(super) fn http_client(tls: rustls::ClientConfig, clock: Arc<StoreClock>) -> SharedHttpClient {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_MAX));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .retry_canceled_requests(false)
        .build(https);
    SharedHttpClient::new(Connections { client: Arc::new(client), clock })
}

impl HttpClient for Connections {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connections {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { client, clock } = self.clone();
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
